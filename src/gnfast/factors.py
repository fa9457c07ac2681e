"""Factors of full rank of a positive semi-definite matrix, and of the data's second moment."""

from __future__ import annotations

import math

import numpy as np
from scipy.linalg import lapack

from gnfast import _arrays
from gnfast._arrays import Array
from gnfast._runtime import blas_threads


def range_factor(X: Array, scale: float, affine: bool) -> Array:
    """C^T (r, d) with C C^T = scale X^T X, or that of (X, 1) when affine (r, d + 1), r the numerical rank.

    With fewer samples than features and all of them independent, the samples themselves; else a pivoted Cholesky
    factorisation, cut at size * eps * the largest diagonal entry, in float64 whatever X has.
    """
    n = len(X)
    full = np.hstack([X, np.ones((n, 1), X.dtype)]) if affine else X
    full = full.astype(np.float64, copy=False)
    d = full.shape[1]
    if n < d:
        rank = pivoted_cholesky(full @ full.T)[2]
        if rank == n:
            return _arrays.as_c_contiguous((math.sqrt(scale) * full).astype(X.dtype))
    factor = factor_of_moment(full.T @ full)
    return _arrays.as_c_contiguous((math.sqrt(scale) * factor).astype(X.dtype))


def factor_of_moment(second_moment: Array) -> Array:
    """C^T (r, d) with C C^T = the second moment (d, d) of some data, which is overwritten, in float64."""
    d = len(second_moment)
    with blas_threads(d):
        factor, pivots, rank = pivoted_cholesky(second_moment)
    if rank == 0:
        raise ValueError(
            "X is zero at all samples, so that the Gauss-Newton matrix of a linear network without biases is zero"
        )
    out = np.zeros((rank, d))
    out[:, pivots] = np.triu(factor)[:rank]
    return out


def pivoted_cholesky(M: Array, cut: float | None = None) -> tuple[Array, Array, int]:
    """(U, pivots, rank) with M[pivots][:, pivots] = U[:rank]^T U[:rank], U in the upper triangle.

    M (N, N), in C order, is given by its lower triangle and overwritten. Pivots up to `cut` count as zero; None means
    N * eps * the largest diagonal entry.
    """
    tolerance = len(M) * np.finfo(M.dtype).eps * float(M.diagonal().max()) if cut is None else cut
    (pstrf,) = lapack.get_lapack_funcs(("pstrf",), (M,))
    factor, pivots, rank, _ = pstrf(M.T, tol=tolerance, lower=0, overwrite_a=1)
    return factor, pivots - 1, int(rank)
