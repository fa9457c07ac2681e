"""Certificates: for an eigenvalue from its residual, and for the whole spectrum from a random start.

The formulas: docs/mathematics.md#certified-intervals.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gnfast import thresholds
from gnfast._arrays import Array

FAILURE = 1e-6  # probability with which a randomized end may be wrong


def intervals(values: Array, residuals: Array, norm: float, dtype: np.dtype[Any]) -> Array:
    """(k, 2): an eigenvalue of A lies in [theta - r, theta + r], widened by what rounding changes of any eigenvalue.

    Args:
        values, residuals: Ritz values theta and r = |A y - theta y|, y of norm one.
        norm: |A|, or the largest |Ritz value|.
        dtype: What the products were computed in: no interval is narrower than its rounding.
    """
    centre, radius = np.asarray(values, float), np.asarray(residuals, float)
    radius = radius + thresholds.rounding_error(norm, dtype)
    return np.stack([centre - radius, centre + radius], axis=-1)


def inverse_intervals(inverse: Array, residuals: Array, shift: float, norm: float, dtype: np.dtype[Any]) -> Array:
    """The same from Ritz values of (A + shift)^-1: an eigenvalue of the inverse lies in [mu - r, mu + r]."""
    mu, r = np.asarray(inverse, float), np.asarray(residuals, float)
    doubt = thresholds.rounding_error(norm, dtype)
    low = 1 / (mu + r)
    high = np.divide(1, mu - r, out=np.full_like(mu, np.inf), where=mu > r)
    return np.stack([low - shift - doubt, high - shift + doubt], axis=-1)


def randomized_error(size: int, steps: int, block: int = 1, failure: float = FAILURE) -> float:
    """The relative error of the largest Ritz value of Lanczos from a random start, but for a small probability.

    Theorem (Kuczynski & Wozniakowski): for a symmetric positive semi-definite A (N, N) and a start that is uniform on
    the unit sphere, the largest Ritz value theta after m products has theta < (1 - e) lambda_max with a probability of
    at most 1.648 sqrt(N) exp(-sqrt(e) (2 m - 1)), whatever the spectrum. A block of b independent starts fails only
    where each of them would, so that the probability is the b-th power of that.

    Args:
        size: N.
        steps: m, block steps without a restart; at N / b steps and beyond the Krylov space is everything, with error 0.
        block: b.
        failure: The probability that is accepted, in (0, 1).

    Returns:
        e in [0, 1]: lambda_max <= theta / (1 - e) with a probability of at least 1 - `failure`; 1 says nothing.

    References:
        Kuczynski & Wozniakowski, "Estimating the largest eigenvalue by the power and Lanczos algorithms with a random
        start", SIAM J. Matrix Anal. Appl. 13 (1992), 1094-1122.
    """
    if not 0 < failure < 1:
        raise ValueError(f"failure is {failure} but must be a probability between 0 and 1")
    if steps < 1:
        return 1.0
    if steps * block >= size:
        return 0.0
    root = (math.log(1.648 * math.sqrt(size)) - math.log(failure) / block) / (2 * steps - 1)
    return min(1.0, root**2)


def randomized_upper(
    value: float, size: int, steps: int, block: int, dtype: np.dtype[Any], failure: float = FAILURE
) -> float:
    """lambda_max of a positive semi-definite matrix is at most this with a probability of at least 1 - `failure`.

    See `randomized_error`; what rounding may have taken from the Ritz value `value` is added.
    """
    error = randomized_error(size, steps, block, failure)
    return math.inf if error >= 1 else (value + thresholds.rounding_error(value, dtype)) / (1 - error)
