"""Ends of the spectrum of a large matrix, each proven by one Cholesky factorisation in place of a whole spectrum.

An end is estimated by Lanczos, which errs inwards, and moved outwards until the matrix minus that much of the
identity has a Cholesky factorisation: then no eigenvalue lies beyond (Sylvester's law of inertia; with rounding, Rump,
"Verification of positive definiteness", BIT 2006). A reduction to tridiagonal form would take four times the flops of
a factorisation and be bound by memory in half of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.linalg import eigh_tridiagonal, lapack

from gnfast.bounds.bound import FloatArray
from gnfast.bounds.spectra import eigen_ends
from gnfast.thresholds import EPS, cholesky_error, decomposition_error

SIZE = 400  # below it a whole spectrum takes some milliseconds
WIDTHS = (1e-6, 1e-4, 1e-2)  # relative distances from the estimate that are tried for the proof
NEAR = 1e-3  # a margin for rounding beyond this share of the end leaves it to a whole spectrum, which needs less
STEPS = 120


Apply = Callable[[FloatArray], FloatArray]


class End(NamedTuple):
    """A proven end and a vector whose Rayleigh quotient is near to it; None where there is none of use."""

    value: float
    vector: FloatArray | None


def largest_end(M: FloatArray, eps: float = EPS) -> End:
    """An upper bound of the largest eigenvalue of M, symmetric positive semi-definite (size, size)."""
    if len(M) >= SIZE:
        estimate, vector = _lanczos(lambda v: M @ v, len(M))
        for width in WIDTHS:
            shift = estimate * (1 + width)
            margin = _margin(len(M), shift, len(M) * shift, eps)
            if margin < NEAR * shift and _cholesky(-M, shift) is not None:
                return End(shift + margin, vector)
    return End(eigen_ends(M, eps=eps).largest, None)


def smallest_end(M: FloatArray, eps: float = EPS) -> tuple[End, Apply | None]:
    """A lower bound of the smallest eigenvalue of M, and M^-1 as a function where M was factored."""
    if len(M) < SIZE:
        return End(eigen_ends(M, eps=eps).smallest, None), None
    factor = _cholesky(M, 0.0)
    if factor is None:
        return End(0.0, None), None

    def solve(v: FloatArray) -> FloatArray:
        solution: FloatArray = lapack.dpotrs(factor, v, lower=1)[0]
        return solution

    inverse, vector = _lanczos(solve, len(M))
    trace = float(np.trace(M))  # no less than the largest eigenvalue
    for width in WIDTHS:
        shift = (1 - width) / inverse
        margin = _margin(len(M), trace, trace, eps)
        if margin < NEAR * shift and _cholesky(M, -shift) is not None:
            return End(shift - margin, vector), solve
    return End(eigen_ends(M, eps=eps).smallest, None), None


def inner_values(M: FloatArray, start: FloatArray, step: Apply, steps: int = 3) -> FloatArray:
    """Ritz values of M, ascending, in the span of start, step(start), step(step(start)), ...: inside its spectrum."""
    vectors = [start]
    for _ in range(steps):
        following = step(vectors[-1])
        vectors.append(following / np.linalg.norm(following))
    basis, _ = np.linalg.qr(np.stack(vectors, 1))
    values: FloatArray = np.linalg.eigvalsh(basis.T @ M @ basis)
    return values


def _margin(size: int, top: float, trace: float, eps: float) -> float:
    """The margin for errors in the entries, and for rounding in the Cholesky factorisation of the proof."""
    return decomposition_error(size, eps=eps) * top + cholesky_error(size, trace)


def _cholesky(M: FloatArray, shift: float) -> FloatArray | None:
    """The factor of M + shift I, in the lower triangle, or None where that is not positive definite."""
    shifted = np.array(M, order="F")
    shifted[np.diag_indices_from(shifted)] += shift
    factor, failed = lapack.dpotrf(shifted, lower=1, clean=0, overwrite_a=1)
    return None if failed else factor


def _lanczos(apply: Apply, size: int) -> tuple[float, FloatArray]:
    """The largest Ritz value and its vector, full reorthogonalisation, to an error well within the first width."""
    basis = np.empty((STEPS + 1, size))
    basis[0] = np.random.default_rng(0).standard_normal(size)
    basis[0] /= np.linalg.norm(basis[0])
    alpha, beta = np.zeros(STEPS), np.zeros(STEPS)
    for j in range(STEPS):
        w = apply(basis[j])
        alpha[j] = w @ basis[j]
        for _ in range(2):
            w -= (basis[: j + 1] @ w) @ basis[: j + 1]
        beta[j] = np.linalg.norm(w)
        done = j + 1 == STEPS or beta[j] <= EPS * abs(alpha[0])
        if done or j % 4 == 3:
            values, vectors = eigh_tridiagonal(alpha[: j + 1], beta[:j])
            residual = beta[j] * abs(vectors[-1, -1])
            gap = values[-1] - values[-2] if j else 0.0
            # An error in the value is the residual's square over the gap, which is halved since it is an estimate.
            if done or (gap > residual and residual**2 <= WIDTHS[0] / 10 * values[-1] * gap / 2):
                break
        basis[j + 1] = w / beta[j]
    return float(values[-1]), vectors[:, -1] @ basis[: j + 1]
