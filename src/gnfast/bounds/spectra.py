"""Ends of spectra, moved outwards by what rounding may have done, so that a bound made of them stays a bound.

An upper end is raised and a lower end lowered by `thresholds.decomposition_error` times the largest value; a lower end
that does not survive this is not resolved and counts as zero.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gnfast.bounds.bound import FloatArray
from gnfast.thresholds import EPS, decomposition_error


class Ends(NamedTuple):
    """An upper bound of the largest and a lower bound of the smallest of some values."""

    largest: float
    smallest: float


def eigen_ends(M: FloatArray, terms: int = 0, eps: float = EPS) -> Ends:
    """Ends of the spectrum of M, symmetric positive semi-definite (size, size)."""
    w = np.linalg.eigvalsh(M)
    margin = decomposition_error(len(M), terms, eps) * w[-1]
    return Ends(float(w[-1] + margin), float(max(w[0] - margin, 0.0)))


def scaled_ends(M: FloatArray, scale: FloatArray, terms: int = 0) -> Ends:
    """Ends of the spectrum of D M D, D = diag(scale): M is well conditioned where D M D may not be.

    With M = U diag(w) U^T they are squared singular values of diag(sqrt w) U^T D, so the condition number of D costs
    half its digits only.
    """
    w, U = np.linalg.eigh(M)
    relative = decomposition_error(len(M), terms)
    margin = relative * w[-1]
    s = np.linalg.svd(np.sqrt(np.maximum(w - margin, 0.0))[:, None] * U.T * scale, compute_uv=False)
    top = scale.max()
    absolute = 2 * relative * top * np.sqrt(max(w[-1], 0.0))  # of the singular values, and of the data's behind scale
    largest = (s[0] + absolute) ** 2 + 2 * margin * top**2
    return Ends(float(largest), float(max(s[-1] - absolute, 0.0) ** 2))


def gram_ends(A: FloatArray) -> Ends:
    """Ends of the spectrum of A A^T over all its len(A) values, from the smaller of the two Grams."""
    rows, columns = A.shape
    if rows <= columns:
        return eigen_ends(A @ A.T, terms=columns)
    return Ends(eigen_ends(A.T @ A, terms=rows).largest, 0.0)


class Singular(NamedTuple):
    """Squared singular values of a matrix: the largest, and the smallest over its columns and over its rows."""

    largest: float
    over_columns: float
    over_rows: float


def singular_ends(M: FloatArray) -> Singular:
    """The largest squared singular value of M; the smallest if M has full column rank, and full row rank, else 0."""
    s = np.linalg.svd(M, compute_uv=False)
    margin = decomposition_error(max(M.shape)) * s[0]
    smallest = float(max(s[-1] - margin, 0.0) ** 2)
    rows, columns = M.shape
    return Singular(
        float((s[0] + margin) ** 2), smallest if rows >= columns else 0.0, smallest if columns >= rows else 0.0
    )
