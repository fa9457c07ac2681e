"""An empirical risk of PyTorch, (module, loss, parameters, batches), as a sum of operators of the core."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

import gnfast as gn
from gnfast._arrays import Array
from gnfast._memory import megabytes
from gnfast.interop._layers import UnsupportedError as UnsupportedError  # for those above, who find it here
from gnfast.interop._layers import altered
from gnfast.interop._targets import CrossEntropyOf
from gnfast.losses import loss_at
from gnfast.networks import Network

Tensor: TypeAlias = Any  # torch.Tensor, which a type checker sees only where PyTorch is installed
_Module: Any = torch.nn.Module  # of which a type checker knows nothing where PyTorch is not installed
WRAPPERS = (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)
# Of the forward passes that stay between products; beyond, each product makes them again, as other libraries do.
KEPT_BYTES = 2e9


@dataclass(frozen=True)
class _Batch:
    """Samples whose share of the matrix is factor * sum_i w_i J_i^T H_i J_i."""

    X: Array
    weights: Array | None
    factor: float


class Risk:
    """The matrix as a sum over batches, each an operator of the core.

    Args:
        read: The network, and for each of its parameters the place in `params`: see `network_of`.
        loss: A loss module of PyTorch.
        params: The caller's.
        data: Batches (X, y).
        share: What the batch's own loss is multiplied by in the risk.

    Raises:
        UnsupportedError: Whatever batch the core does not take; products then raise it no more.
    """

    def __init__(
        self,
        read: tuple[Network, list[int]],
        loss: Any,
        params: list[Tensor],
        data: Iterable[tuple[Any, Tensor]],
        share: Callable[[Any, Tensor], float],
    ) -> None:
        self.net, self.order = read
        self.loss, self.batches = "", []
        for X, y in data:
            with _refusals():
                samples = self.net.check_samples(samples_of(X, params[0]))
                n, k = len(samples), self.net.place(samples.shape[1:]).outputs
                self.loss, weights, factor = _hessians(loss, X, y, (n, k))
                loss_at(self.loss, weights, n, k, self.net.dtype)
            self.batches.append(_Batch(samples, weights, factor * share(X, y)))
        self._kept: list[gn.GaussNewton] = []
        self._rows = params[0].new_empty(0)  # (s, p), room for vectors: new pages cost more than a copy
        self._lock = threading.Lock()  # of that room
        total = sum(len(batch.X) for batch in self.batches)
        for self._method in ("auto", "usual"):  # the latter without rows that only many products are worth
            first = self._operator(self.batches[0])
            self.bytes = first.plan().memory * total / len(self.batches[0].X)
            if self.bytes <= KEPT_BYTES:
                self._kept = [first, *(self._operator(batch) for batch in self.batches[1:])]
                break

    def _operator(self, batch: _Batch) -> gn.GaussNewton:
        return operator_at(self.net, batch.X, self.loss, batch.weights, self._method)

    def terms(self) -> Iterator[tuple[float, gn.GaussNewton]]:
        """Factors and operators whose sum the matrix is, in the order of the module's parameters."""
        for i, batch in enumerate(self.batches):
            yield batch.factor, self._kept[i] if self._kept else self._operator(batch)

    def product(self, M: list[Tensor]) -> list[Tensor]:
        """G times a block of s vectors, each given as one tensor (*shape, s) a parameter in the caller's order."""
        columns = M[0].shape[-1]
        sizes = [M[i].numel() // columns for i in self.order]
        with self._lock:
            if self._rows.shape != (columns, sum(sizes)):
                self._rows = M[0].new_empty((columns, sum(sizes)))
            for i, room in zip(self.order, torch.split(self._rows, sizes, dim=1), strict=True):
                room.copy_(M[i].detach().reshape(-1, columns).T)
            parts = torch.split(self.multiplied(self._rows.T).T, sizes, dim=1)
        found = dict(zip(self.order, parts, strict=True))
        return [found[i].T.reshape(M[i].shape) for i in range(len(M))]

    @property
    def is_in_order(self) -> bool:
        """Whether the caller's parameters are in the module's order."""
        return self.order == list(range(len(self.order)))

    def multiplied(self, V: Tensor) -> Tensor:
        """G V, V (p, s) in the module's order, each column contiguous."""
        total: Tensor = None
        for factor, operator in self.terms():
            part: Tensor = operator.matmat(V)
            total = part.mul_(factor) if total is None else total.add_(part, alpha=factor)
        return total

    def describe(self) -> str:
        """One line for `repr`: the engine, the loss, the samples, and what is made again for each product."""
        samples = sum(len(batch.X) for batch in self.batches)
        forward = "" if self._kept else f", forward passes of {megabytes(self.bytes)} made again for each product"
        return f"gnfast's engine, {self.loss}, {samples} samples in {len(self.batches)} batches{forward}"


def network_of(module: Any, params: list[Tensor], loss: Any = None) -> tuple[Network, list[int]]:
    """The module as a network, and for each of its parameters the place in `params`.

    Who asks for it watches the module himself: the network does not. A last LogSoftmax is left out where the loss is
    cross-entropy, which is the same of log-probabilities as of logits.
    """
    module = unwrapped(module)
    if not isinstance(module, torch.nn.Module):
        raise UnsupportedError(f"the model is a {type(module).__name__}, not a torch.nn.Module")
    order = _order(list(module.parameters()), params)
    kinds = (torch.nn.CrossEntropyLoss, CrossEntropyOf)
    if type(loss) in kinds and type(module) is torch.nn.Sequential and len(module) and not altered(module):
        last = module[-1]
        if type(last) is torch.nn.LogSoftmax and last.dim in (1, -1) and not altered(last):
            module = module[:-1]
    with _refusals():
        net = gn.from_torch(module)
    net.watched = False
    return net, order


def unwrapped(module: Any) -> Any:
    """The module inside of wrappers that compute the same on the CPU; neither torch.func nor torch.fx takes these."""
    while type(module) in WRAPPERS and all(tensor.device.type == "cpu" for tensor in module.parameters()):
        if altered(module):
            return _Hooked(module)
        module = module.module
    return module


class _Hooked(_Module):  # type: ignore[misc]  # see _Module
    """In the place of a wrapper with hooks, which are called as it calls them."""

    def __init__(self, wrapper: Any) -> None:
        super().__init__()
        self.module = wrapper.module
        self.training = wrapper.training
        for key, value in vars(wrapper).items():
            if "_hooks" in key:
                setattr(self, key, value)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)


def samples_of(X: Any, like: Tensor) -> Array:
    """A batch of inputs as an array, where they are a tensor of the parameters' dtype."""
    if not isinstance(X, torch.Tensor) or X.dtype != like.dtype:
        raise UnsupportedError(f"the inputs are a {getattr(X, 'dtype', type(X).__name__)}")
    samples: Array = X.detach().numpy()
    return samples


def operator_at(
    net: Network, X: Array, loss: str = "mse", weights: Array | None = None, method: str = "auto"
) -> gn.GaussNewton:
    """sum_i w_i J_i^T H_i J_i at some samples."""
    with _refusals():
        return gn.GaussNewton(net, X, loss, reduction="sum", weights=weights, method=method)


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Checks of what the core refuses: a module, samples, outputs that are not (n, k), weights that are zero."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise UnsupportedError(str(error)) from None


def _order(own: list[Tensor], params: list[Tensor]) -> list[int]:
    """For each parameter of the module its place in the caller's list."""
    places = {id(tensor): i for i, tensor in enumerate(params)}
    if len(places) != len(params) or sorted(places) != sorted(id(tensor) for tensor in own):
        raise UnsupportedError("params are not all parameters of the module")
    return [places[id(tensor)] for tensor in own]


def _hessians(loss: Any, X: Tensor, y: Tensor, outputs: tuple[int, int]) -> tuple[str, Array | None, float]:
    """A mini-batch loss of PyTorch at outputs of some shape as (a loss of ours, weights of the samples, factor)."""
    if isinstance(loss, CrossEntropyOf):
        loss = loss.as_module()
    kind, reduction, shape = type(loss), getattr(loss, "reduction", None), tuple(y.shape)
    if reduction not in ("mean", "sum"):
        raise UnsupportedError(f"the loss {loss} with reduction={reduction!r}")
    mean = reduction == "mean"
    if kind is torch.nn.MSELoss and shape == outputs:  # sum of squares, without a half; the mean is over entries
        return "mse", None, 2.0 / (y.numel() if mean else 1)
    plain = kind is torch.nn.BCEWithLogitsLoss and loss.weight is None and loss.pos_weight is None
    if plain and shape == outputs:
        return "binary_cross_entropy", None, 1.0 / (y.numel() if mean else 1)
    if kind is torch.nn.CrossEntropyLoss and not y.is_floating_point() and shape == outputs[:1]:
        if bool((y == loss.ignore_index).any()):
            raise UnsupportedError("some targets are ignored")
        if loss.weight is None:
            return "cross_entropy", None, 1.0 / (len(X) if mean else 1)
        if loss.label_smoothing == 0:
            weights = loss.weight.detach()[y].to(X.dtype)
            if not bool(weights.any()):
                raise UnsupportedError("all samples of a batch have the weight 0")
            return "cross_entropy", weights.numpy(), 1.0 / (float(weights.sum()) if mean else 1)
    raise UnsupportedError(f"the loss {loss} or its targets")
