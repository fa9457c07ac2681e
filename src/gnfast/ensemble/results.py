"""Results of ensembles of networks: one number per sample for each quantity, and how the samples were drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

BAND = (0.05, 0.5, 0.95)  # nine samples in ten, and the middle


class LawWarning(UserWarning):
    """Samples come from another law than the one that was asked for."""

    __module__ = "gnfast.ensemble"


@dataclass(frozen=True, repr=False, kw_only=True)
class Ensemble:
    """The ends of the Gauss-Newton spectrum of independent random networks, one entry per sample in every array.

    Attributes:
        widths: The widths of the depth - 1 hidden layers.
        depth: Layers with weights.
        samples, seed: How many networks, and what they are drawn from: sample i depends on (seed, i) alone.
        law: One sentence: how the samples were drawn, and what about them is exact.
        kappa: (samples,) float64, lambda_max / lambda_min over the non-zero spectrum of G.
        kappa_minus_one: (samples,) float64, kappa - 1. Of wide linear networks with Gaussian weights and no skips to
            its own digits, however small; elsewhere from the ends of the spectrum, to some eps of kappa.
        lambda_max, lambda_min: (samples,) float64, the largest and the smallest non-zero eigenvalue of G.
        trace: (samples,) float64, of G.
        rank: (samples,) int64, non-zero eigenvalues of G.
        spectrum: (samples, N) float64, all eigenvalues of the dual, ascending (zeros of a singular one included), or
            None where only the ends were computed.
        kappa_hat, kappa_hat_minus_one, lambda_max_hat, lambda_min_hat, trace_hat: The same for Ghat, G with the data's
            second moment replaced by the identity on its range, or None where there is no such matrix.
        bounds: Upper bounds on kappa by name, (samples,) float64 each, inf where a bound says nothing.
    """

    widths: tuple[int, ...]
    depth: int
    samples: int
    seed: int
    law: str
    kappa: FloatArray
    kappa_minus_one: FloatArray
    lambda_max: FloatArray
    lambda_min: FloatArray
    trace: FloatArray
    rank: IntArray
    spectrum: FloatArray | None = None
    kappa_hat: FloatArray | None = None
    kappa_hat_minus_one: FloatArray | None = None
    lambda_max_hat: FloatArray | None = None
    lambda_min_hat: FloatArray | None = None
    trace_hat: FloatArray | None = None
    bounds: Mapping[str, FloatArray] = field(default_factory=dict)

    @property
    def quantities(self) -> dict[str, npt.NDArray[Any]]:
        """Every array (samples,) by its name, the bounds by theirs."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: a for name, a in own.items() if isinstance(a, np.ndarray) and a.ndim == 1} | dict(self.bounds)

    def quantiles(self, q: float | Sequence[float] = BAND) -> dict[str, FloatArray]:
        """Quantiles over the samples of every quantity, by its name: arrays of the shape of q."""
        return {name: quantiles(a, q) for name, a in self.quantities.items()}

    def to_dict(self, q: Sequence[float] = BAND) -> dict[str, int | float | str]:
        """One row of a table: what was drawn, and the quantiles of every quantity as "kappa_q5", "kappa_q50", ..."""
        row: dict[str, int | float | str] = {
            "widths": " ".join(map(str, self.widths)),
            "depth": self.depth,
            "samples": self.samples,
            "seed": self.seed,
        }
        for name, values in self.quantiles(q).items():
            row |= {f"{name}_q{100 * level:g}": float(value) for level, value in zip(q, values, strict=True)}
        return row | {"law": self.law}

    def __repr__(self) -> str:
        equal = len(set(self.widths)) == 1
        widths = f"width {self.widths[0]:,}" if equal else f"widths {list(self.widths)}"
        low, middle, high = self.quantiles()["kappa"]
        return (
            f"Ensemble({self.samples} samples, depth {self.depth}, {widths}, "
            f"kappa {middle:.6g}, nine in ten from {low:.6g} to {high:.6g})"
        )

    def __str__(self) -> str:
        return f"{self!r}\n  {self.law}"


def quantiles(samples: npt.ArrayLike, q: float | Sequence[float] = BAND) -> FloatArray:
    """Quantiles of some samples, of the shape of q.

    Each is a sample itself, the smallest that a share of q of them does not exceed: infinite ones meet no NaN.
    """
    ordered = np.sort(np.asarray(samples, np.float64))
    at = np.ceil(np.asarray(q, np.float64) * len(ordered)).astype(int) - 1
    return np.asarray(ordered[np.clip(at, 0, len(ordered) - 1)])
