"""Operators of pruned networks: the core's on all parameters, seen through those that are kept.

With E (p, kept) the columns of the identity that are kept, G becomes E^T G E, J becomes J E and the Gram
R^T J E E^T J^T R.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from gnfast import _arrays, _core
from gnfast._arrays import Array, Device

BLOCK = 64  # vectors that rows of a Jacobian are made of at once


def operator_of(
    product: Callable[[Array, Array], object], size: int, dtype: np.dtype[Any], device: Device
) -> _core.Operator:
    """A symmetric product (rows in, rows out) of Python's as an operator of the core.

    `product` had better not refer to what keeps the operator: their memory would wait for Python's search for cycles.
    """

    def block(rows: Array) -> Array:
        out = np.empty_like(rows)
        product(rows, out)
        return out

    made: _core.Operator = device.core.callback(block, size, dtype.name)
    return made


class _Kept:
    def __init__(self, kept: Array, parameters: int) -> None:
        self._kept, self._parameters = kept, parameters

    def _scattered(self, rows: Array) -> Array:
        """E v for each row."""
        full = np.zeros_like(rows, shape=(len(rows), self._parameters))
        full[:, self._kept] = rows
        return full

    def _gathered(self, full: Array, out: Array) -> None:
        """E^T w for each row."""
        np.take(full, self._kept, axis=1, out=out)


class KeptGaussNewton(_Kept):
    """The products of the core's GaussNewton."""

    def __init__(self, core: _core.GaussNewton, kept: Array) -> None:
        super().__init__(kept, core.size)
        self._core = core

    def plan(self, vectors: int) -> _core.ProductPlan:
        """The core's plan for so many vectors."""
        return self._core.plan(vectors)

    def apply(self, v: Array, out: Array) -> None:
        """Write G v for each row v (s, kept) into `out` (s, kept)."""
        full = self._scattered(v)
        product = np.empty_like(full)
        self._core.apply(full, product)
        self._gathered(product, out)

    def jvp(self, v: Array, u: Array) -> None:
        """Write J v for each row v (s, kept) into `u` (s, n k)."""
        self._core.jvp(self._scattered(v), u)

    def vjp(self, u: Array, v: Array) -> None:
        """Write J^T u for each row u (s, n k) into `v` (s, kept)."""
        full = np.empty_like(u, shape=(len(u), self._parameters))
        self._core.vjp(u, full)
        self._gathered(full, v)

    def diagonal(self, out: Array) -> None:
        """Write the diagonal of the kept entries into `out` (1, kept)."""
        full = np.empty_like(out, shape=(1, self._parameters))
        self._core.diagonal(full)
        self._gathered(full, out)


class KeptGram(_Kept):
    """The products of the core's Gram, by J^T and J: the Hadamard form of dense layers has no place for E."""

    def __init__(self, core: _core.Gram, kept: Array, parameters: int, dtype: np.dtype[Any], device: Device) -> None:
        super().__init__(kept, parameters)
        self._core, self._dtype, self._device = core, dtype, device

    def apply(self, v: Array, out: Array) -> None:
        """Write K v for each row v (s, N) into `out` (s, N), J without the entries that are not kept."""
        full = np.empty_like(v, shape=(len(v), self._parameters))
        self._core.lift(v, full, self._parameters)
        masked = np.zeros_like(full)
        masked[:, self._kept] = full[:, self._kept]
        self._core.restrict(masked, out, self._parameters)

    def lift(self, v: Array, out: Array, parameters: int) -> None:
        """Write J^T R v for each row v (s, N) into `out` (s, kept)."""
        full = np.empty_like(v, shape=(len(v), self._parameters))
        self._core.lift(v, full, self._parameters)
        self._gathered(full, out)

    def restrict(self, v: Array, out: Array, parameters: int) -> None:
        """Write R^T J v for each row v (s, kept) into `out` (s, N)."""
        self._core.restrict(self._scattered(v), out, self._parameters)

    def mean_over_outputs(self, out: Array) -> None:
        """The mean over outputs of the network before it was pruned: a preconditioner need not be exact."""
        self._core.mean_over_outputs(out)

    def form(self, out: Array, progress: _core.Progress) -> None:
        """Write the matrix into `out` (N, N), by products with unit vectors."""
        for first, units in self._units():
            self.apply(units, out[first : first + len(units)])
            if progress:
                progress("forming the Gram matrix", first + len(units), len(out))

    def diagonal(self) -> Array:
        """The squared norms of the Jacobian's rows, in float64."""
        found = np.empty(self._core.size)
        for first, units in self._units():
            rows = np.empty_like(units, shape=(len(units), len(self._kept)))
            self.lift(units, rows, len(self._kept))
            squares = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
            found[first : first + len(units)] = _arrays.to_host(squares)
        return found

    def _units(self) -> Iterator[tuple[int, Array]]:
        """All unit vectors, a block of them at a time, and the first one's number."""
        size = self._core.size
        for first in range(0, size, BLOCK):
            yield first, self._device.unit_rows(first, min(BLOCK, size - first), size, self._dtype)
