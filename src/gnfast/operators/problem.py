"""The problem whose curvature is asked for: what every operator of this room is made of."""

from __future__ import annotations

import math
from functools import cached_property
from operator import methodcaller
from typing import Any, Literal, TypeAlias, get_args

from gnfast import _arrays, _checks, _core
from gnfast._arrays import Array, FreeMemory
from gnfast._memory import check_memory
from gnfast.losses import LossAt, loss_at, relative_rounding, saturation
from gnfast.networks.network import Network, check_network
from gnfast.networks.patches import ComposedConvolution, composed_convolution
from gnfast.operators.masked import KeptGaussNewton

# Samples from which on a sum over all of a network's arrays is less than 3 % of one product of one vector: 3 to 5 % at
# 128 samples and 0.6 to 1.2 % at 512 were measured, of widths 256 and 1024. With fewer, so much less is summed.
WHOLE = 256
Reduction: TypeAlias = Literal["mean", "sum"]
ProductMethod: TypeAlias = Literal["auto", "usual", "factored", "stored"]
METHODS: tuple[str, ...] = get_args(ProductMethod)


class Problem:
    """A network, samples and a loss at them, on a device, with the compiled core of its Gauss-Newton matrix.

    It keeps no operator, so that those made of it refer to it without a cycle.

    Args:
        net, X, loss, reduction, device, memory_limit, method, weights: As in `GaussNewton`.

    Attributes:
        outputs: k of the network.
        loss_at: The loss at these samples, with their weights.
        exponent: Products are 2^exponent times what they stand for: see `enlarged`.
        parameters: p, without those that are pruned.
        core: The compiled core, on all entries of the parameter arrays.
        products: The same on those that are not pruned.
    """

    def __init__(
        self,
        net: Network,
        X: Any,
        loss: Any = "mse",
        reduction: str = "mean",
        device: str = "cpu",
        memory_limit: float | None = None,
        method: str = "auto",
        weights: Any = None,
    ) -> None:
        self.device = home = _arrays.device(device)
        self.net, self.dtype = check_network(net), net.dtype
        self.X = home.upload(net.check_samples(X, home if _arrays.is_on_gpu(X) else _arrays.CPU))
        self.outputs = net.place(self.X.shape[1:], home).outputs
        self.reduction = _checks.choice(reduction, "reduction", get_args(Reduction))
        self.method = _check_method(method, net)
        self.memory_limit = home.free_memory if memory_limit is None else _checks.real(memory_limit, "memory_limit")
        if self.memory_limit is not None and self.memory_limit <= 0:
            raise ValueError(
                f"memory_limit is {memory_limit} but must be a positive number of bytes, or None for no limit"
            )
        n, k = len(self.X), self.outputs
        named = isinstance(loss, str) or (isinstance(loss, LossAt) and loss.blocks is None)
        if not named:
            check_memory(n * k**2 * 8, self.memory_limit, f"a factorisation of {n} blocks", "pass fewer samples")
        self.loss_at = loss_at(loss, weights, n, k, net.dtype)
        self._watched = _in_place(net, self.X, self.loss_at.weights) if home is _arrays.CPU else []
        self._sums = _core.checksums(self._watched)
        self._make(0)

    def _make(self, exponent: int) -> None:
        self.exponent, net, home = exponent, self.net, self.device
        flat = self.X.reshape(len(self.X), -1)
        given = self.loss_at.for_core(self.scale, self.outputs, self.dtype, home)
        placed, limit = net.place(self.X.shape[1:], home), self.memory_limit or 0.0
        self.core = home.core.GaussNewton(placed.core, flat, self.loss_at.name, given, self.scale, self.method, limit)
        self.products = self.core if net.kept is None else KeptGaussNewton(self.core, home.upload(net.kept))
        self.parameters = self.core.size if net.kept is None else len(net.kept)

    def enlarged(self) -> Problem:
        """The same times a power of two, for entries too small for the dtype."""
        return self._twin(_arrays.ENLARGEMENT[str(self.dtype)])

    def _twin(self, exponent: int) -> Problem:
        twin = Problem.__new__(Problem)
        twin.__dict__.update(self.__dict__)
        twin._make(exponent)
        return twin

    def __reduce__(self) -> tuple[Any, ...]:
        if self.exponent:
            return methodcaller("enlarged"), (self._twin(0),)
        limit = None if isinstance(self.memory_limit, FreeMemory) else self.memory_limit
        return Problem, (self.net, self.X, self.loss_at, self.reduction, str(self.device), limit, self.method)

    def check_unchanged(self) -> None:
        """Raise a RuntimeError if what it was made of has been changed in place: see `_in_place`."""
        self.net.check_unchanged()
        if _core.checksums(self._watched) != self._sums:
            raise RuntimeError(
                "X, weights or the network's arrays were changed in place since the operator was made, which keeps "
                "what it computed from them; make another, or pass copies of what is to change"
            )

    @property
    def scale(self) -> float:
        """The factor of the sum over samples: 1/n for the mean."""
        return math.ldexp(1 / len(self.X) if self.reduction == "mean" else 1.0, self.exponent)

    def saturation(self) -> str:
        """Why it underflows in its dtype, if the loss's Hessians do at all samples; else nothing."""
        return saturation(self.loss_at, self._host_outputs, self.dtype, self.exponent)

    def relative_rounding(self) -> float:
        """By how much of itself rounding may move any eigenvalue, besides that of the products."""
        return relative_rounding(self.loss_at, lambda: self._host_outputs, self.dtype)

    @cached_property
    def _host_outputs(self) -> Array:
        found: Array = _arrays.to_host(self.net(self.X))
        return found

    @cached_property
    def convolution(self) -> ComposedConvolution | str:  # or why the layers are none
        """The network as one convolution, on made-up patches."""
        return composed_convolution(self.net.layers, self.X.shape[1:])


def _in_place(net: Network, X: Array, weights: Array | None) -> list[Array]:
    """Arrays that are summed at each product, at less than 3 % of it: see WHOLE. Some networks look at all of them."""
    own = [] if net.watches else [array for layer in net.layers for array in layer.arrays().values()]
    share = min(1.0, len(X) / WHOLE)
    parts = [part for array in own if array.flags.c_contiguous for part in _ends(array.reshape(-1), share)]
    return [X, *(() if weights is None else (weights,)), *parts]


def _ends(flat: Array, share: float) -> list[Array]:
    """The first and last numbers, as many as are wanted."""
    if share == 1 or len(flat) < 2:
        return [flat]
    count = max(1, int(len(flat) * share / 2))
    return [flat[:count], flat[-count:]]


def _check_method(method: object, net: Network) -> str:
    """One of METHODS that the network has."""
    found = _checks.choice(method, "method", METHODS)
    if found == "factored" and not net.is_feedforward_dense:
        raise ValueError("method is 'factored', which is for plain dense networks; use 'stored', 'usual' or 'auto'")
    if found == "stored" and net.is_feedforward_dense:
        raise ValueError("method is 'stored' but plain dense networks have 'factored', which keeps less; use that")
    return found
