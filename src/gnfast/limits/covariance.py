"""The covariance of Gaussian pre-activations at n samples, held as scales and angles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Covariance:
    """The matrix scale_i scale_j cos(angle_ij), angles from 0 to pi, for samples of scale zero of no meaning.

    Angles and not cosines: kernels of relu have a kink where two samples are parallel, and 1 - cos(angle) has lost half
    of an angle's digits there, all of them below 1e-8.

    Attributes:
        scale: (n,), standard deviations.
        angle: (n, n), symmetric, zeros on the diagonal.
    """

    scale: FloatArray
    angle: FloatArray

    @property
    def cosine(self) -> FloatArray:
        """(n, n)."""
        return np.cos(self.angle)

    @property
    def matrix(self) -> FloatArray:
        """(n, n)."""
        return self.cosine * np.outer(self.scale, self.scale)

    def times(self, factor: float) -> Covariance:
        """This covariance multiplied by a number that is not negative."""
        return Covariance(np.sqrt(factor) * self.scale, self.angle)


def of_rows(X: FloatArray) -> Covariance:
    """X X^T for X (n, d)."""
    scale = np.linalg.norm(X, axis=1)
    unit = X / np.where(scale > 0, scale, 1.0)[:, None]
    # Kahan: the angle from |u - v| and |u + v|, one of which is accurate wherever the other is not.
    return Covariance(scale, 2 * np.arctan2(cdist(unit, unit), cdist(unit, -unit)))


def of_matrix(M: FloatArray) -> Covariance:
    """M (n, n), positive semi-definite up to rounding."""
    scale = np.sqrt(np.maximum(np.diag(M), 0.0))
    pairs = np.outer(scale, scale)
    angle = np.arccos(np.clip(np.divide(M, pairs, out=np.zeros_like(M), where=pairs > 0), -1.0, 1.0))
    np.fill_diagonal(angle, 0.0)
    return Covariance(scale, angle)
