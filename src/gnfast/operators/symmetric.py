"""Symmetric operators that the core can apply: what all solvers and estimators work on."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from gnfast import _arrays, _core
from gnfast._arrays import Array, Device
from gnfast.operators.linear_operator import BlockOperator
from gnfast.operators.plan import check_memory


class SymmetricOperator(BlockOperator):
    """A symmetric BlockOperator that the core can apply on its own."""

    core: _core.Operator
    space = "given"  # where its vectors live
    memory_limit: float | None = None  # bytes that one operation may use
    _beside_bytes = 0.0  # that there must be beside the whole matrix while it is formed
    # Of T T^T or T^T T: by how much rounding in T may move the roots of the eigenvalues, besides that of the product.
    root_rounding = 0.0
    owner: SymmetricOperator | None = None  # whose dual or block it is
    exponent = 0  # it is 2^exponent times what it stands for: see `enlarged`

    def __init__(self, core: _core.Operator, dtype: np.dtype[Any], device: Device) -> None:
        super().__init__((core.size, core.size), dtype, device)
        self.core = core

    def _apply(self, rows: Array, out: Array) -> None:
        self.core.apply(rows, out)

    def _adjoint(self) -> Self:
        return self

    def _transpose(self) -> Self:
        return self

    def dual(self) -> SymmetricOperator:
        """The operator with the same non-zero spectrum that costs least: of one that knows none, itself."""
        return self

    def enlarged(self) -> Self | None:
        """The same times a power of two, made anew where products underflow in the dtype; None where it cannot be."""
        return None

    def why_zero(self) -> str:
        """Why it may have no eigenvalue but zero, for a message; empty where nobody knows."""
        return (
            "" if self.space == "given" else self.saturation() or "no output depends on any parameter at these samples"
        )

    def relative_rounding(self) -> float:
        """By how much of itself rounding may move any eigenvalue, besides that of the products: see `losses`."""
        return 0.0 if self.owner is None else self.owner.relative_rounding()

    def saturation(self) -> str:
        """Why it underflows in its dtype, if the loss's Hessians do at all samples; else nothing."""
        return "" if self.owner is None else self.owner.saturation()

    def form(self, out: Array, progress: _core.Progress = None) -> int:
        """Write the lower triangle, with the diagonal, into `out` (N, N) in C order; the rest may hold anything.

        Returns:
            The number of vectors that were multiplied for it.
        """
        size, block = int(self.shape[0]), 256
        for i in range(0, size, block):
            rows = self.device.unit_rows(i, min(block, size - i), size, self.dtype)
            self.core.apply(rows, out[i : i + len(rows)])
            if progress:
                progress("forming the matrix", i + len(rows), size)
        return size

    def to_dense(self) -> Array:
        """The whole matrix as an array (N, N), symmetric to the last bit.

        Raises:
            MemoryError: The matrix exceeds `memory_limit`.
        """
        self.check_unchanged()
        dense = self.new_square()
        self.form(dense)
        _arrays.mirror_lower(dense)
        return dense

    @property
    def fits_in_memory(self) -> bool:
        """Whether the whole matrix is within `memory_limit`."""
        return self.memory_limit is None or self._square_bytes + self._beside_bytes <= self.memory_limit

    def new_square(self) -> Array:
        """Room for the whole matrix, or a MemoryError."""
        what = f"the {self.shape[0]} x {self.shape[0]} matrix"
        what += " with what it is formed of" if self._beside_bytes else ""
        needed = self._square_bytes + self._beside_bytes
        check_memory(needed, self.memory_limit, what, "use products, which do not store it")
        return self.device.empty(self.shape, self.dtype)

    @property
    def _square_bytes(self) -> int:
        return int(self.shape[0]) ** 2 * int(self.dtype.itemsize)
