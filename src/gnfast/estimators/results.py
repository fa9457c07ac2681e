"""Results of estimators: a value, how far it may be off, and how it was found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gnfast import _arrays
from gnfast._arrays import Array
from gnfast._results import Brief, Number


@dataclass(frozen=True, eq=False, repr=False)
class Estimate(Number):
    """A number with its error; it converts, compares and formats (`f"{found:.3g}"`) as the number.

    Attributes:
        value: The number.
        error: Of a random estimate: two errors hold the truth in about 95 of 100 draws, a standard error that few
            probes widen by Student's quantile; or what rounding may have done to an exact value.
        method: How it was found; an exact value says what it is made of.
        exact: Whether nothing but rounding stands between it and the truth.
        products: Vectors multiplied by the operator.
        converged: Whether the tolerance, where one was asked for, was met.
    """

    value: float
    error: float
    method: str
    exact: bool = False
    products: int = 0
    converged: bool = True

    def __str__(self) -> str:
        how = "exact" if self.exact else f"{self.products:,} products"
        return f"{self.value:.6g} +- {self.error:.2g} ({self.method}; {how})"


class Trace(Estimate):
    """The trace of an operator: see `Estimate` for its attributes."""


class LogDet(Estimate):
    """The logarithm of a determinant: see `Estimate` for its attributes."""


class EffectiveDimension(Estimate):
    """tr A (A + damping I)^-1: see `Estimate` for its attributes."""


@dataclass(frozen=True, repr=False)
class Diagonal(Brief):
    """The diagonal of an operator; `numpy.asarray(...)` gives the values.

    Attributes:
        values: (N,), of the operator's dtype and where the operator is.
        error: (N,), of each entry as in `Estimate`.
        method, exact, products, converged: As in `Estimate`.
    """

    values: Array
    error: Array
    method: str
    exact: bool = False
    products: int = 0
    converged: bool = True

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        values = _arrays.to_host(self.values)
        return np.array(values, dtype) if copy else np.asarray(values, dtype)

    def __len__(self) -> int:
        return len(self.values)
