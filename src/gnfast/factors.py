"""Factors of full rank of positive semi-definite matrices, and of the data's second moment."""

from __future__ import annotations

import math

import numpy as np
from scipy.linalg import lapack

from gnfast import _arrays
from gnfast._arrays import Array
from gnfast._runtime import blas_threads

BLOCK_NUMBERS = 1 << 20  # of blocks that are factorised at once: 8 MB a temporary


def range_factor(X: Array, scale: float, affine: bool, weights: Array | None = None) -> Array:
    """C^T (r, d) with C C^T = scale X^T X, or that of (X, 1) when affine (r, d + 1), r the numerical rank.

    Weights (n,) multiply the samples' second moments: scale X^T diag(weights) X.

    With fewer samples than features and all of them independent, the samples themselves; else a pivoted Cholesky
    factorisation, cut at size * eps * the largest diagonal entry, in float64 whatever X has. The moment is made where X
    is and factorised in the machine's memory; the factor is where X is.
    """
    n, home = len(X), _arrays.device_of(X)
    full = np.hstack([X, np.ones_like(X, shape=(n, 1))]) if affine else X
    full = full.astype(np.float64, copy=False)
    if weights is not None:
        full = home.upload(np.sqrt(weights.astype(np.float64))[:, None]) * full
    d = full.shape[1]
    if n < d:
        rank = pivoted_cholesky(_arrays.to_host(full @ full.T))[2]
        if rank == n:
            return _arrays.as_c_contiguous((math.sqrt(scale) * full).astype(X.dtype))
    factor = factor_of_moment(_arrays.to_host(full.T @ full))
    return home.upload((math.sqrt(scale) * factor).astype(X.dtype))


def factor_of_moment(second_moment: Array, cut: float | None = None) -> Array:
    """C^T (r, d) with C C^T = the second moment (d, d) of some data, which is overwritten, in float64.

    Pivots up to `cut` count as zero; None means the rounding of float64.
    """
    d = len(second_moment)
    with blas_threads(d):
        factor, pivots, rank = pivoted_cholesky(second_moment, cut)
    if rank == 0:
        raise ValueError(
            "X is zero at all samples that count, and so is the Gauss-Newton matrix of a linear network without biases"
        )
    out = np.zeros((rank, d))
    out[:, pivots] = np.triu(factor)[:rank]
    return out


def block_factors(blocks: Array, name: str, weights: Array) -> Array:
    """Rows R_i^T (n, q, k), float64, with R_i R_i^T = weights_i blocks_i, q the largest rank of them.

    Rows are eigenvectors times the roots of their eigenvalues, the largest first; beyond a block's own rank they are
    zero. Eigenvalues, and differences from symmetry, up to 8 k eps times the block's largest count as rounding.

    Args:
        blocks: (n, k, k), symmetric positive semi-definite.
        name: Of that argument, for the messages.
        weights: (n,), not negative.

    Raises:
        ValueError: A block that is not symmetric or has a negative eigenvalue.
    """
    n, k = blocks.shape[:2]
    rounding = 8 * k * float(np.finfo(blocks.dtype).eps)
    rows, q = np.zeros((n, k, k)), 0
    step = max(1, BLOCK_NUMBERS // k**2)
    for start in range(0, n, step):
        H = blocks[start : start + step].astype(np.float64)
        largest = np.abs(H).max(axis=(1, 2))
        skew = np.abs(H - H.transpose(0, 2, 1))
        if (odd := np.flatnonzero(skew.max(axis=(1, 2)) > rounding * largest)).size:
            i, (a, b) = odd[0], np.unravel_index(skew[odd[0]].argmax(), (k, k))
            raise ValueError(
                f"{name}[{start + i}] is not symmetric, its entries [{a}, {b}] and [{b}, {a}] are {H[i, a, b]:g} and "
                f"{H[i, b, a]:g}; pass the mean of {name} and {name}.transpose(0, 2, 1) if that is what you mean"
            )
        with blas_threads(k):
            values, vectors = np.linalg.eigh((H + H.transpose(0, 2, 1)) / 2)
        cut = rounding * np.abs(values).max(axis=1)
        if (odd := np.flatnonzero(values[:, 0] < -cut)).size:
            i = odd[0]
            raise ValueError(
                f"{name}[{start + i}] is not positive semi-definite, its eigenvalues go from {values[i, 0]:g} to "
                f"{values[i, -1]:g}; pass the Hessians of a loss that is convex in the outputs"
            )
        values = np.where(values > cut[:, None], values, 0.0) * weights[start : start + step, None]
        q = max(q, int(np.count_nonzero(values, axis=1).max()))
        rows[start : start + step] = np.sqrt(values[:, ::-1, None]) * vectors.transpose(0, 2, 1)[:, ::-1]
    return rows[:, :q]


def pivoted_cholesky(M: Array, cut: float | None = None) -> tuple[Array, Array, int]:
    """(U, pivots, rank) with M[pivots][:, pivots] = U[:rank]^T U[:rank], U in the upper triangle.

    M (N, N), in C order, is given by its lower triangle and overwritten. Pivots up to `cut` count as zero; None means
    N * eps * the largest diagonal entry.
    """
    tolerance = len(M) * np.finfo(M.dtype).eps * float(M.diagonal().max()) if cut is None else cut
    (pstrf,) = lapack.get_lapack_funcs(("pstrf",), (M,))
    factor, pivots, rank, _ = pstrf(M.T, tol=tolerance, lower=0, overwrite_a=1)
    return factor, pivots - 1, int(rank)
