"""Factors of full rank of positive semi-definite matrices, and of the data's second moment."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
import scipy.linalg
from scipy.linalg import lapack

from gnfast import _arrays, thresholds
from gnfast._arrays import Array
from gnfast._runtime import blas_threads

NO_DATA = "X is zero at all samples that count, and so is the Gauss-Newton matrix of a linear network without biases"
BLOCK_NUMBERS = 1 << 20  # of blocks that are factorised at once: 8 MB a temporary


def range_factor(X: Array, scale: float, affine: bool, weights: Array | None = None) -> Array:
    """C^T (r, d) with C C^T = scale X^T X, or that of (X, 1) when affine (r, d + 1), r the numerical rank.

    Weights (n,) multiply the samples' second moments: scale X^T diag(weights) X.

    With fewer samples than features and all of them independent, the samples themselves; else `factor_of_rows`, in
    float64 whatever X has. The moment is made where X is, all else in the machine's memory; the factor is where X is.
    """
    n, home = len(X), _arrays.device_of(X)
    full = np.hstack([X, np.ones_like(X, shape=(n, 1))]) if affine else X
    full = full.astype(np.float64, copy=False)
    if weights is not None:
        full = home.upload(np.sqrt(weights.astype(np.float64))[:, None]) * full
    unit = unit_of(float(abs(full).max()))
    full = full if unit == 1 else full / unit
    factor = unit * math.sqrt(scale)
    if n < full.shape[1] and pivoted_cholesky(_arrays.to_host(full @ full.T))[2] == n:
        return _arrays.as_c_contiguous((factor * full).astype(X.dtype))
    found = factor_of_rows(_arrays.to_host(full.T @ full), lambda: [_arrays.to_host(full)], n)
    return home.upload((factor * found).astype(X.dtype))


def unit_of(size: float) -> float:
    """The power of two by which numbers of this size are divided, so that their squares are neither 0 nor infinite.

    1 for zero, and for what is in no danger.
    """
    return 1.0 if size == 0 or 1e-100 < size < 1e100 else math.ldexp(1.0, math.frexp(size)[1] - 1)


def factor_of_rows(moment: Array, rows: Callable[[], Iterable[Array]], count: int) -> Array:
    """C^T (r, d) with C C^T = the second moment (d, d), overwritten, of `count` rows of data.

    A pivoted Cholesky factorisation where its rank is full. Else the moment does not tell small singular values of the
    data from none: it has the squares of these. Then the data themselves are made triangular,
    the columns in the order of the pivots, and what lies outside of the span of the clear ones is made so with pivots,
    cut at `thresholds.column_threshold`: rounding of the data, if they were computed.

    Args:
        moment: (d, d), float64.
        rows: The data in blocks (any, d), float64; asked for where the rank is in doubt.
        count: How many rows the data have.
    """
    if not moment.diagonal().max() > 0:
        raise ValueError(NO_DATA)
    used = np.flatnonzero(moment.diagonal())
    if len(used) < len(moment):
        inner = factor_of_rows(moment[np.ix_(used, used)], lambda: (block[:, used] for block in rows()), count)
        return scattered(inner, used, len(moment))
    d = len(moment)
    with blas_threads(d):
        factor, pivots, rank = pivoted_cholesky(moment)
        if rank == d:
            return scattered(np.triu(factor), pivots, d)
        lengths = np.abs(factor.diagonal()[:rank])
        clear = int(np.count_nonzero(lengths > thresholds.known_from_moment(lengths[0])))
        R = np.empty((0, d))
        for block in rows():
            R = np.asarray(np.linalg.qr(np.vstack([R, block[:, pivots]]), mode="r"))
        cut = thresholds.column_threshold(float(np.linalg.norm(R, axis=0).max()), (count, d))
        if len(R) == clear:
            return scattered(R, pivots, d)
        corner, order = scipy.linalg.qr(R[clear:, clear:], mode="r", pivoting=True, check_finite=False)
    below = np.zeros((int(np.count_nonzero(np.abs(corner.diagonal()) > cut)), d))
    below[:, clear + order] = corner[: len(below)]
    return scattered(np.vstack([R[:clear], below]), pivots, d)


def scattered(rows: Array, columns: Array, count: int) -> Array:
    """Rows whose entries belong into these of `count` columns."""
    out = np.zeros((len(rows), count))
    out[:, columns] = rows
    return out


def factor_of_moment(second_moment: Array, cut: float) -> Array:
    """C^T (r, d) with C C^T = the second moment (d, d) of data that nobody has, which is overwritten, in float64.

    Pivots up to `cut` count as zero.
    """
    d = len(second_moment)
    with blas_threads(d):
        factor, pivots, rank = pivoted_cholesky(second_moment, cut)
    if rank == 0:
        raise ValueError(NO_DATA)
    return scattered(np.triu(factor)[:rank], pivots, d)


def block_factors(blocks: Array, name: str, weights: Array) -> Array:
    """Rows R_i^T (n, q, k), float64, with R_i R_i^T = weights_i blocks_i, q the largest rank of them.

    Rows are eigenvectors times the roots of their eigenvalues, the largest first; beyond a block's own rank they are
    zero. Eigenvalues, and differences from symmetry, up to `thresholds.hessian_threshold` count as rounding.

    Args:
        blocks: (n, k, k), symmetric positive semi-definite.
        name: The argument's name, for messages.
        weights: (n,), not negative.

    Raises:
        ValueError: A block that is not symmetric or has a negative eigenvalue.
    """
    n, k = blocks.shape[:2]
    rows, q = np.zeros((n, k, k)), 0
    step = max(1, BLOCK_NUMBERS // k**2)
    for start in range(0, n, step):
        H = blocks[start : start + step].astype(np.float64)
        largest = np.abs(H).max(axis=(1, 2))
        skew = np.abs(H - H.transpose(0, 2, 1))
        if (odd := np.flatnonzero(skew.max(axis=(1, 2)) > thresholds.hessian_threshold(largest, k, blocks.dtype))).size:
            i, (a, b) = odd[0], np.unravel_index(skew[odd[0]].argmax(), (k, k))
            raise ValueError(
                f"{name}[{start + i}] is not symmetric, its entries [{a}, {b}] and [{b}, {a}] are {H[i, a, b]:g} and "
                f"{H[i, b, a]:g}; pass the mean of {name} and {name}.transpose(0, 2, 1) if that is what you mean"
            )
        with blas_threads(k):
            values, vectors = np.linalg.eigh((H + H.transpose(0, 2, 1)) / 2)
        cut = thresholds.hessian_threshold(np.abs(values).max(axis=1), k, blocks.dtype)
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
    `thresholds.pivot_threshold`.
    """
    tolerance = thresholds.pivot_threshold(float(M.diagonal().max()), len(M), M.dtype) if cut is None else cut
    (pstrf,) = lapack.get_lapack_funcs(("pstrf",), (M,))
    factor, pivots, rank, _ = pstrf(M.T, tol=tolerance, lower=0, overwrite_a=1)
    return factor, pivots - 1, int(rank)
