"""A network that was read compared with its source: outputs, and one random product with J^T, tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

import gnfast as gn
from gnfast._arrays import Array

# Cotangent of given outputs -> outputs (n, k) and J^T u, one array a parameter, None where there is no derivative.
Source: TypeAlias = Callable[[Callable[[Array], Array]], tuple[Array, Sequence[Array | None]]]

SAMPLES = 16  # at which they are compared
# Outputs may be off by so many times what our own are, or what the last sum is rounded by. Measured in float32 for 7
# activations, 2 to 30 layers of 16 to 1,500 units and weights from a tenth to five times the usual: 5 times at most
# where the network is the same, 55 times at least with the other GELU (17 and less with a tenth of the weights, where
# both are the same up to rounding from the third layer on).
ROUNDING = 10
SURE = 100  # times eps: what is nearer needs no second look
NEVER = 1e-11  # of the largest derivative, root mean square: below lies what cancels, as of a bias before batch norm
# A unit that rounding puts on the other side of a kink changes a derivative by one part in (16 samples, m units), in
# the root of squares: in float32 one such unit in wide layers is likely, 0.8 % of 1,000 units. Where the source can be
# asked again in float64, nearly nothing is left to rounding.
KINK = 0.02
SQUARES_FIT = (1e-15, 1e15)  # a norm whose squares neither overflow in float32 nor underflow where they count
CLOSE = {np.dtype(np.float32): 1e-4, np.dtype(np.float64): 1e-7}


@dataclass(frozen=True)
class Difference:
    """Words on what differs beyond rounding; false where nothing does."""

    words: str = ""
    in_derivative: bool = False

    def __bool__(self) -> bool:
        return bool(self.words)

    def __str__(self) -> str:
        return self.words


def spaced(count: int) -> Array:
    """Which samples: from all of the data, in order."""
    return np.unique(np.linspace(0, count - 1, min(count, SAMPLES)).astype(int))


def difference(
    net: gn.Network, samples: Array, names: Sequence[str], source: Source, double: Source | None = None
) -> Difference | None:
    """The difference beyond rounding between a network's function at samples and its source's.

    None where that cannot be told, since the outputs are not finite.

    Args:
        names: Of the parameters, in the network's order.
        double: The source in float64 with the same values, which raises where it cannot: asked where one in float32
            differs, since rounding of an ill-conditioned network looks the same there.
    """
    pair = _Pair(net, samples, names, double is not None)
    with np.errstate(all="ignore"):
        found = pair.judged(source)
        if not found or double is None or net.dtype == np.float64:
            return found
        try:
            return _Pair(pair.double, samples.astype(np.float64), names, True).judged(double)
        except ValueError:  # there is no such source
            return found


class _Pair:
    def __init__(self, net: gn.Network, samples: Array, names: Sequence[str], sharp: bool) -> None:
        self.net, self.samples, self.names = gn.Network(net.layers), samples, names
        self.eps = float(np.finfo(net.dtype).eps)
        self.close, self.least = (CLOSE[net.dtype], NEVER) if sharp else (KINK, SURE * self.eps)
        self.u: Array = np.empty(0)

    def judged(self, source: Source) -> Difference | None:
        found = self.net(self.samples)
        if not np.isfinite(found).all():
            return None

        def cotangent(outputs: Array) -> Array:
            if outputs.shape == found.shape:
                self.u = np.random.default_rng(0).standard_normal(found.shape).astype(self.net.dtype)
                return self.u
            return np.zeros_like(outputs)

        wanted, parts = source(cotangent)
        if wanted.shape != found.shape:
            return Difference(f"outputs of shape {wanted.shape} and not {found.shape}")
        # In float64 nobody knows what rounding does to our own, and its root is no more than rounding in float32.
        unit = max(ROUNDING * self.eps, float(np.sqrt(np.finfo(np.float64).eps)))
        if self._off(wanted, found, lambda: self.exact[0], _largest, unit, 0.0):
            off, scale = _largest(wanted - found), _largest(found)
            return Difference(f"outputs that are off by {off:.2g} where they are up to {scale:.2g}")
        return self._derivatives(parts)

    def _derivatives(self, parts: Sequence[Array | None]) -> Difference:
        own = _pulled(self.net, self.samples, self.u)
        # Root of the mean square of each, so that a small array is not hidden beside a large one.
        floor = self.least * max(_norm(part) / np.sqrt(part.size) for part in own)
        for i, (name, theirs, ours) in enumerate(zip(self.names, parts, own, strict=True)):
            wanted = np.zeros_like(ours) if theirs is None else theirs.reshape(ours.shape)
            least = floor * float(np.sqrt(ours.size))
            if self._off(wanted, ours, lambda i=i: self.exact[1][i], _norm, self.close, least):  # type: ignore[misc]
                if not wanted.any():
                    return Difference(f"no derivative in {name!r}", in_derivative=True)
                off = _norm(wanted - ours) / max(_norm(wanted), _norm(ours))
                return Difference(f"another derivative in {name!r}, off by {off:.2g} of its norm", in_derivative=True)
        return Difference()

    def _off(
        self,
        wanted: Array,
        found: Array,
        exact: Callable[[], Array],
        size: Callable[[Array], float],
        unit: float,
        least: float,
    ) -> bool:
        if size(wanted - found) <= SURE * self.eps * size(found) + least:
            return False
        own, off = size(found - exact()), size(wanted - exact())
        return not off <= ROUNDING * own + unit * size(exact()) + least

    @cached_property
    def exact(self) -> tuple[Array, list[Array]]:
        """Outputs and derivatives in float64, which tell how far rounding has taken our own."""
        samples = self.samples.astype(np.float64)
        return self.double(samples), _pulled(self.double, samples, self.u.astype(np.float64))

    @cached_property
    def double(self) -> gn.Network:
        return self.net.with_parameters([array.astype(np.float64) for array in self.net.parameters()])


def _pulled(net: gn.Network, samples: Array, u: Array) -> list[Array]:
    """J^T u, one array a parameter."""
    flat = gn.GaussNewton(net, samples).jacobian().T @ u.ravel()
    shapes = [array.shape for array in net.parameters()]
    ends = np.cumsum([array.size for array in net.parameters()])[:-1]
    return [part.reshape(shape) for part, shape in zip(np.split(flat, ends), shapes, strict=True)]


def _largest(values: Any) -> float:
    return float(np.abs(values).max())


def _norm(values: Any) -> float:
    flat = values.ravel()
    quick = float(np.linalg.norm(flat))
    if SQUARES_FIT[0] < quick < SQUARES_FIT[1]:
        return quick
    return float(np.linalg.norm(flat.astype(np.float64)))
