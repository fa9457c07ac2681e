"""Types of other people's operators and preconditioners that gnfast takes: see docs/protocol.md."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Operator(Protocol):
    """A square real symmetric matrix that is known by its products with blocks of vectors.

    All solvers and estimators take such an object; a `scipy.sparse.linalg.LinearOperator` is one, and every operator of
    gnfast.
    """

    @property
    def shape(self) -> tuple[int, int]:
        """(N, N)."""

    @property
    def dtype(self) -> Any:
        """The dtype of the vectors, as NumPy spells it: float32, or float64, as which other real dtypes are taken."""

    def matmat(self, V: Any, /) -> Any:
        """The product with V (N, s), an array of `dtype` with contiguous columns, one vector each: an array (N, s)."""


@runtime_checkable
class Preconditioner(Protocol):
    """A positive semi-definite matrix M (p, p) that makes a Gauss-Newton matrix better conditioned."""

    def inverse_root(self, damping: float, /) -> Operator:
        """(M + damping I)^(-1/2) (p, p), of the network's dtype: symmetric, and without damping on the range of M."""
