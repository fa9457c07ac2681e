"""Thresholds of zero, and the changes that rounding may make: each once, with its reason.

`eps` is the rounding of the dtype in which the numbers at hand were computed. A value up to its threshold counts as
zero. A threshold that is too low takes rounding errors for directions, and one that is too high takes directions away;
where the two cannot be told apart, `has_gap` says so. docs/mathematics.md#thresholds lists them all.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gnfast import _arrays

EPS = float(np.finfo(np.float64).eps)
GAP = 100  # see `has_gap`


def zero_threshold(largest: float, size: int, dtype: Any) -> float:
    """The threshold of eigenvalues or singular values of a computed matrix: max(16, sqrt(N)) eps times the largest.

    Errors of eps in the N^2 entries of a matrix have a norm like sqrt(N) eps. Small matrices, whose entries are long
    sums, have 16. The matrix is a Gram matrix, a dual, or rows of a Jacobian, of `size` rows.
    """
    return float(max(16.0, math.sqrt(size)) * _arrays.eps(dtype) * largest)


def rounding_error(largest: float, dtype: Any) -> float:
    """The largest change of any one eigenvalue by rounding: 8 eps times the largest one.

    tests/test_condition.py holds intervals of this width to exact spectra, tests/test_float32_forward.py in float32.
    """
    return float(8 * _arrays.eps(dtype) * largest)


def data_threshold(largest: float, shape: tuple[int, ...], dtype: Any = np.float64) -> float:
    """The threshold of singular values of data (n, d): max(n, d) eps times the largest, as in `matrix_rank` of NumPy.

    Data are somebody's numbers, rounded or computed in an unknown way; the customary threshold is what others take.
    """
    return float(max(shape) * float(np.finfo(dtype).eps) * largest)


def column_threshold(longest: float, shape: tuple[int, ...]) -> float:
    """The threshold of the diagonal of a triangular factor of data (n, d): max(16, n, d) eps times the longest column.

    The factor is that of `data_threshold`, and 16 for few samples of few features, as for other small matrices.
    """
    return max(16, *shape) * EPS * longest


def pivot_threshold(largest: float, size: int, dtype: Any = np.float64) -> float:
    """The threshold of pivots of a second moment or a Gram matrix (N, N): 10 N eps times its largest entry.

    The rest of a column that depends on others is a sum of differences, which reaches several N eps: a threshold of
    N eps would take dependent columns for new directions. The frames of random networks stop at the same share
    (csrc/algo/frame.hpp), so that eigenvalues of what is made in them are known no better.
    """
    return 10 * size * float(np.finfo(dtype).eps) * largest


def moment_threshold(largest: float, size: int, dtype: Any) -> float:
    """The threshold of eigenvalues of a second moment in float64 of vectors that were computed in `dtype`.

    A zero among singular values of the vectors is `zero_threshold` of their dtype, and its square in the moment; the
    moment itself is rounded in float64.
    """
    unit = zero_threshold(1.0, size, dtype)
    return max(zero_threshold(1.0, size, np.dtype(np.float64)), unit**2) * largest


def hessian_threshold(largest: Any, outputs: int, dtype: Any) -> Any:
    """The threshold of eigenvalues, and of asymmetry, of a loss's Hessian (k, k) that was given: 8 k eps.

    Args:
        largest: The largest eigenvalue or entry, of each Hessian or of one.
        outputs: k.
        dtype: The dtype in which it was given.
    """
    return 8 * outputs * float(np.finfo(dtype).eps) * largest


def node_threshold(largest: float, size: int, dtype: Any) -> float:
    """The distance below which nodes of a quadrature, or values of a sketch, are not told apart: 100 `zero_threshold`.

    Lanczos without its whole basis brings an eigenvalue up again, off by some rounding errors of all steps.
    """
    return GAP * zero_threshold(largest, size, dtype)


def customary_threshold(largest: float, size: int, dtype: Any) -> float:
    """The threshold of `numpy.linalg.matrix_rank` for (N, N), N eps times the largest: shown beside ours, not used."""
    return size * float(np.finfo(dtype).eps) * largest


def asymmetry(scale: float, eps: float) -> float:
    """The asymmetry up to which a given matrix, or its product with two vectors, counts as symmetric: 100 eps.

    Args:
        scale: The size of the matrix or of the product.
        eps: The rounding of the matrix's entries, or of the products with it.
    """
    return 100 * eps * scale


def known_from_moment(largest: float) -> float:
    """The length of a column outside the span so far up to which a moment does not tell it: 1e-5 of the largest.

    The moment has their squares, 1e-10 of its largest entry, to an accuracy of some N eps, so that longer ones keep two
    digits or more for N up to thousands. For shorter ones the data themselves are asked.
    """
    return 1e-5 * largest


def has_gap(kept: float, dropped: float) -> bool:
    """Whether a gap tells two kinds of values apart: the smallest that is kept, and the largest that is dropped.

    A factor of 100: next to each other they may be of the same kind, and rank and condition number depend on the cut.
    """
    return kept > GAP * dropped


def decomposition_error(size: int, terms: int = 0, eps: float = EPS) -> float:
    """The error of a computed eigenvalue or singular value, relative to the largest one, as proofs take it.

    A symmetric or bidiagonal solver of this size is backward stable within about size eps; sums of `terms` products
    that made the matrix add errors of random sign, about sqrt(terms) eps.
    """
    return eps * (size + math.sqrt(terms))


def cholesky_error(size: int, trace: float) -> float:
    """The negative part that rounding may hide from a Cholesky factorisation in float64, in its norm.

    Reference: Rump, "Verification of positive definiteness", BIT 2006.
    """
    return EPS / 2 * (size + 2) * trace
