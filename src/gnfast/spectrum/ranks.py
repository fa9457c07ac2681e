"""The numerical rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gnfast import _checks
from gnfast.operators import GaussNewton, pivoted_cholesky
from gnfast.spectrum import matrices
from gnfast.spectrum.eigen import largest


@dataclass(frozen=True)
class Rank:
    """The numerical rank of a symmetric positive semi-definite matrix; `int(...)` gives the value.

    Attributes:
        value: How many eigenvalues lie above the cut.
        dimension: Size of the matrix: of a GaussNewton that of its dual.
        cut: Eigenvalues up to it count as zero.
        method: "whole spectrum by LAPACK", or "pivoted Cholesky", which counts pivots in place of eigenvalues.
    """

    value: int
    dimension: int
    cut: float
    method: str

    def __int__(self) -> int:
        return self.value

    def __index__(self) -> int:
        return self.value


def rank(op: Any, cut: float | None = None) -> Rank:
    """The numerical rank of a symmetric positive semi-definite operator: its eigenvalues above `cut`.

    Args:
        op: A GaussNewton, whose dual is taken, or what `eigsh` takes; up to 20,000 x 20,000, since it is stored.
        cut: None means max(16, sqrt(N)) * eps * lambda_max, what rounding leaves of a zero.

    Returns:
        A `Rank`.

    Raises:
        ValueError: Too large, or a negative cut.
        MemoryError: The matrix exceeds the operator's `memory_limit`.
    """
    A = matrices.as_symmetric(op.dual() if isinstance(op, GaussNewton) else op)
    if cut is not None and _checks.real(cut, "cut") < 0:
        raise ValueError(f"cut is {cut} but must be at least 0")
    size = A.shape[0]
    if size > matrices.STORED_SIZE:
        raise ValueError(
            f"op is {size} x {size} but its matrix has to be stored, which is done up to {matrices.STORED_SIZE}; "
            "use fewer samples"
        )
    K = A.new_square()
    A.form(K)
    if size <= matrices.SPECTRUM_SIZE:
        values = matrices.semidefinite_eigenvalues(K)
        cut = matrices.zero_cut(float(values[-1]), size, A.dtype) if cut is None else float(cut)
        return Rank(int(np.count_nonzero(values > cut)), size, cut, "whole spectrum by LAPACK")
    if cut is None:
        cut = matrices.zero_cut(largest(matrices.Stored(K), 8, 1e-3, 0, None).value, size, A.dtype)
    return Rank(pivoted_cholesky(K, float(cut))[2], size, float(cut), "pivoted Cholesky")
