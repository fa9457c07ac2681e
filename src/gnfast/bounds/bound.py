"""The result of every function of `gnfast.bounds`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from gnfast._results import Shown

FloatArray = npt.NDArray[np.float64]
Parts = dict[str, float | npt.NDArray[Any]]

UNRESOLVED = "the lower end of the spectrum is zero within rounding: not resolved in float64"


@dataclass(frozen=True, repr=False)
class Bound(Shown):
    """An upper bound on kappa(G), the condition number of the Gauss-Newton matrix over its non-zero spectrum.

    Args:
        name: Which bound, for instance "linear.joint".
        value: kappa(G) <= value; inf where the bound says nothing.
        statement: The inequality, in plain text.
        reason: Why the value is inf; empty otherwise.
        parts: The parts of the value. "lambda_max_upper" and "lambda_min_lower" bound the ends of the spectrum of G,
            the mean over the samples; arrays have one entry per dense layer, in the order of the layers.
    """

    name: str
    value: float
    statement: str
    reason: str = ""
    parts: Mapping[str, float | npt.NDArray[Any]] = field(default_factory=dict, compare=False)

    @property
    def applies(self) -> bool:
        """Whether the bound says anything."""
        return math.isfinite(self.value)

    def __str__(self) -> str:
        if self.applies:
            return f"{self.name}: kappa(G) <= {self.value:.6g}"
        return f"{self.name}: no bound, because {self.reason}"

    def __repr__(self) -> str:
        return f"<Bound {self}>"


class NoBoundWarning(UserWarning):
    """A warning that no bound says anything about a network at its samples."""

    __module__ = "gnfast.bounds"


class Bounds(list[Bound]):
    """A list of bounds, and why there are no others.

    Attributes:
        left_out: Name -> why that bound, or all of its family, is not in the list.
    """

    def __init__(self, found: Iterable[Bound] = (), left_out: Mapping[str, str] | None = None) -> None:
        super().__init__(found)
        self.left_out = dict(left_out or {})

    @property
    def reason(self) -> str:
        """The reason of each bound where the list is empty; nothing where it is not."""
        return "" if self else ", ".join(f"{name} ({why.partition(';')[0]})" for name, why in self.left_out.items())


def silent(name: str, statement: str, reason: str, parts: Parts | None = None) -> Bound:
    """The bound that says nothing, and why."""
    return Bound(name, math.inf, statement, reason, parts or {})


def quotient(name: str, statement: str, upper: float, lower: float, parts: Parts, reason: str = "") -> Bound:
    """upper / lower; inf where the lower end is zero, for the reason given or else because it is lost in rounding."""
    value = upper / lower if lower > 0 else math.inf
    if not math.isfinite(value):
        return silent(name, statement, reason or UNRESOLVED, parts)
    return Bound(name, float(value), statement, parts=parts)


def product(
    name: str, statement: str, sigma: tuple[float, float], ghat: tuple[float, float], parts: Parts, reason: str
) -> Bound:
    """kappa(Sigma) times the bound on kappa(Ghat), from the largest and smallest eigenvalue of each."""
    upper, lower = sigma[0] * ghat[0], sigma[1] * ghat[1]
    kappa_ghat = ghat[0] / ghat[1] if ghat[1] > 0 else math.inf
    ends: Parts = {"kappa_ghat": kappa_ghat, "lambda_max_upper": upper, "lambda_min_lower": lower}
    return quotient(name, statement, upper, lower, parts | ends, reason)
