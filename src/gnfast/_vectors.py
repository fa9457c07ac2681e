"""Vectors of other dtypes than an operator's: what is multiplied instead of them, and the way back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gnfast import _arrays
from gnfast._arrays import Array


@dataclass(frozen=True)
class Rows:
    """Vectors that an operator multiplies, one a row in C order, and the form of the products.

    Attributes:
        rows: (s, columns) of the operator's dtype; of complex vectors (2 s, columns), real parts before imaginary ones.
        dtype: Of the result.
        exponents: (2 s or s, 1), a row was divided by two to this power; None where none was.
    """

    rows: Array
    dtype: np.dtype[Any]
    exponents: Array | None = None

    @property
    def count(self) -> int:
        """s."""
        return len(self.rows) // (1 + (self.dtype.kind == "c"))

    def back(self, products: Array) -> Array:
        """The products (s, ...) with the vectors as they were given, from those with `rows`."""
        real = np.zeros(1, self.dtype).real.dtype
        found = products.astype(real, copy=False)
        if self.exponents is not None:
            found = np.ldexp(found, self.exponents)
        if self.dtype.kind != "c":
            return found
        out = np.empty_like(found, self.dtype, shape=(self.count, found.shape[1]))
        out.real, out.imag = found[: self.count], found[self.count :]
        return out


def converted(rows: Array, dtype: np.dtype[Any]) -> Rows:
    """Rows (s, columns) of any dtype of numbers as those of an operator in `dtype`, float32 or float64.

    Floating-point vectors are scaled by powers of two where they have a greater range than the operator's dtype: the
    product is linear, so that nothing overflows or is lost to zero on the way.
    """
    wide = np.result_type(rows.dtype, dtype)
    parts = np.concatenate([rows.real, rows.imag]) if rows.dtype.kind == "c" else rows
    if parts.dtype.kind != "f" or parts.dtype.itemsize <= dtype.itemsize:
        return Rows(_arrays.as_c_contiguous(parts.astype(dtype)), wide)
    largest = np.abs(parts).max(axis=1, keepdims=True)
    exponents = np.where(np.isfinite(largest), np.frexp(largest)[1], 0)
    return Rows(_arrays.as_c_contiguous(np.ldexp(parts, -exponents).astype(dtype)), wide, exponents)
