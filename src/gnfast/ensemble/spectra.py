"""Both ends of sum_l P_l (x) S Q_l S from one sample of P_l and Q_l, with kappa - 1 to its own digits."""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg

from gnfast import thresholds
from gnfast.ensemble.grams import Grams
from gnfast.ensemble.results import FloatArray
from gnfast.operators.kronecker_sum import KroneckerSum
from gnfast.spectrum import matrices
from gnfast.spectrum.eigen import ConvergenceWarning, eigsh
from gnfast.spectrum.routes import Search

TOL = 1e-9  # of the ends where the dual is too large for its whole spectrum
NO_SPECTRUM = (
    "the Gauss-Newton matrix of a draw is zero or leaves the range of float64, and has no condition number: its "
    "weights cancel its skips, or variances, skip or Sigma are too small or too large; pass others, near 1 / fan_in, "
    "or another seed where few draws are zero"
)
FLAT = 2.0  # kappa(Sigma) up to which kappa(G) may be so near to 1 that deviations are worth their while


class Ends(NamedTuple):
    """Ends of a non-zero spectrum; `values` is all of it, zeros included, where that was computed."""

    largest: float
    smallest: float
    kappa_minus_one: float
    trace: float
    rank: int
    values: FloatArray | None = None


class Sum(NamedTuple):
    """scale (shift I + sum_j P_j (x) R_j), symmetric P_j (k, k) and R_j (r, r)."""

    P: FloatArray
    R: FloatArray
    scale: float
    shift: float


def dual_of(grams: Grams, data: FloatArray | None = None) -> Sum:
    """sum_l P_l (x) D Q_l D, D = diag(data) with data (r,), None for the identity.

    Where all Grams and D are near a multiple of the identity, what is summed are the deviations: with P = I + p and
    R = I + q, P (x) R - I = p (x) R + I (x) q.
    """
    weights = grams.left * grams.right
    total = float(weights.sum())
    scaled_P = (weights / total)[:, None, None] * grams.P
    flat = data is None or data.max() ** 2 <= FLAT * data.min() ** 2
    if not (grams.shift and flat):
        P, Q = scaled_P, grams.Q
        if grams.shift:
            P = P + (weights / total)[:, None, None] * np.eye(P.shape[1])
            Q = Q + np.eye(Q.shape[1])
        return Sum(P, Q if data is None else data[:, None] * Q * data, total, 0.0)
    identity, q = np.eye(grams.Q.shape[1]), grams.Q
    if data is not None:
        mean = float(np.mean(data**2))
        q = data[:, None] * q * (data / mean) + np.diag(data**2 / mean - 1)
        total *= mean
    q_mean = np.tensordot(weights / weights.sum(), q, 1)
    k = len(grams.P[0])
    return Sum(np.concatenate([scaled_P, np.eye(k)[None]]), np.concatenate([identity + q, q_mean[None]]), total, 1.0)


def ends(dual: Sum, seed: int) -> Ends:
    """Both ends: of the whole spectrum where it is small, else by products.

    Args:
        dual: Positive semi-definite.
        seed: The seed of starting vectors.

    Raises:
        ValueError: A matrix that is zero or leaves the range of float64.
    """
    finite = np.isfinite(dual.P).all() and np.isfinite(dual.R).all()
    if not (finite and np.finfo(np.float64).tiny <= dual.scale < math.inf):
        raise ValueError(NO_SPECTRUM)
    op = KroneckerSum(dual.P, dual.R)
    size, s, shift = op.shape[0], dual.scale, dual.shift
    values, rank = None, size
    if size <= matrices.DENSE_SIZE:
        values = scipy.linalg.eigvalsh(op.to_dense(), overwrite_a=True, check_finite=False)
        top, low = float(values[-1]), float(values[0])
        if not shift:
            rank = int(np.count_nonzero(values > thresholds.zero_threshold(top, size, values.dtype)))
            if rank == 0 or not math.isfinite(top):
                raise ValueError(NO_SPECTRUM)
            low = float(values[size - rank])
    elif shift:
        low, top = map(float, eigsh(op, 2, "BE", tol=TOL, seed=seed, return_eigenvectors=False))
    else:
        low, top, rank = _by_products(op, seed)
    trace = float(np.einsum("laa,lii->", dual.P, dual.R, optimize=True)) + shift * size
    spectrum = None if values is None else s * (shift + values)
    return Ends(s * (shift + top), s * (shift + low), (top - low) / (shift + low), s * trace, rank, spectrum)


def _by_products(op: KroneckerSum, seed: int) -> tuple[float, float, int]:
    """Smallest and largest non-zero eigenvalue, and the rank, by Lanczos and preconditioned Davidson.

    In the wide limit the outputs decouple, every eigenvalue comes k times, and the k copies of an eigenvector of the
    mean over outputs span its space: what is best in them is next to the end however near the copies are to each other,
    which a random start would have to tell apart (792 products with the sum at d = 784, k = 10, m = 10^9, now 15).
    """
    P, R = op.factors()
    mean = np.tensordot(np.trace(P, axis1=1, axis2=2) / P.shape[1], R, 1)
    values, U = scipy.linalg.eigh(mean, check_finite=False)
    cut = thresholds.zero_threshold(float(values[-1]), len(mean), mean.dtype)

    def end(which: str, u: FloatArray, method: str) -> tuple[float, bool]:
        _, best = np.linalg.eigh(np.tensordot(np.einsum("lij,i,j->l", R, u, u, optimize=True), P, 1))
        chosen = best[:, :2] if which == "SA" else best[:, -2:]  # two, should second order exchange them
        v0 = np.kron(chosen, u[:, None])
        more: dict[str, Any] = {"v0": v0, "block_size": 2, "return_info": True, "return_eigenvectors": False}
        found, info = eigsh(op, 1, which, method, TOL, seed, **more)
        return float(found[0]), info.converged

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a singular sum, or one for the search below to tell of
        top, reached = end("LA", U[:, -1], "lanczos")
        if reached and values[0] > cut:
            low, reached = end("SA", U[:, 0], "davidson")
            if reached and low > thresholds.zero_threshold(top, op.shape[0], op.dtype):
                return low, top, op.shape[0]
    found = Search(op, False, TOL, seed, None).run()
    return found.smallest.value, found.largest.value, found.rank
