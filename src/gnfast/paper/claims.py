"""What the paper found, and whether a table shows it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from gnfast.paper.table import Curve, Table

ROUNDING = 1e-6  # relative: how far above its bound an exact value may lie


@dataclass(frozen=True)
class Claim:
    """A statement, the numbers of the table that speak for or against it, and whether it holds there."""

    statement: str
    numbers: str
    holds: bool

    def __str__(self) -> str:
        return f"{'reproduced' if self.holds else 'not reproduced'}: {self.statement} ({self.numbers})"


class Slope(NamedTuple):
    """A least-squares slope with its standard error, from the scatter of all points around the line."""

    value: float
    error: float

    def __str__(self) -> str:
        return f"{self.value:.3g} +- {self.error:.1g}"

    @property
    def sign(self) -> int:
        """-1 or 1 where zero is two errors away, else 0."""
        return int(math.copysign(1, self.value)) if abs(self.value) > 2 * self.error else 0


def slope(points: Sequence[tuple[float, float]]) -> Slope:
    """Return the slope of a line through (x, y) pairs; the error is infinite for fewer than three."""
    x, y = np.array(points, np.float64).T
    x = x - x.mean()
    spread = float(x @ x)
    value = float(x @ y) / spread if spread else 0.0
    rest = y - y.mean() - value * x
    return Slope(value, math.sqrt(float(rest @ rest) / (len(x) - 2) / spread) if len(x) > 2 and spread else math.inf)


def trend(
    curves: Sequence[Curve],
    sign: int,
    statement: str,
    label: Callable[[Any], str] = str,
    unit: str = "d log kappa / d L",
) -> Claim:
    """The logarithms of all curves rise (sign 1) or fall (-1): their slopes are two standard errors away from zero."""
    slopes = [slope([(x, math.log(y)) for x, y in curve.points()]) for curve in curves]
    words = ", ".join(f"{s} for {label(curve.by)}" for curve, s in zip(curves, slopes, strict=True))
    return Claim(statement, f"{unit}: {words}", bool(slopes) and all(s.sign == sign for s in slopes))


class Mean(NamedTuple):
    """The mean of logarithms over seeds, with its standard error."""

    value: float
    error: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean:
        logs = np.log(values)
        return cls(float(logs.mean()), float(logs.std(ddof=1)) / math.sqrt(len(logs)) if len(logs) > 1 else 0.0)

    def above(self, other: Mean) -> bool:
        """Whether it is larger by more than two standard errors of the difference."""
        return self.value - other.value > 2 * math.hypot(self.error, other.error)

    def __str__(self) -> str:
        percent = 100 * self.error
        return f"{math.exp(self.value):.3g} (+- {percent:{'.0f' if percent >= 100 else '.2g'}} %)"


def ordered(values: Sequence[tuple[str, Sequence[float]]], statement: str, unit: str = "kappa") -> Claim:
    """Each one is above the next, beyond what seeds explain."""
    means = [Mean.of(found) for _, found in values]
    words = ", ".join(f"{mean} for {name}" for (name, _), mean in zip(values, means, strict=True))
    holds = all(first.above(second) for first, second in itertools.pairwise(means))
    return Claim(statement, f"{unit}: {words}", holds)


def steeper(
    first: Curve,
    others: Sequence[Curve],
    statement: str,
    label: Callable[[Any], str] = str,
    unit: str = "d log kappa / d L",
) -> Claim:
    """The logarithm of the first curve has a larger slope than that of each other one, by two standard errors."""
    steep, *rest = (slope([(x, math.log(y)) for x, y in curve.points()]) for curve in (first, *others))
    words = ", ".join(f"{s} for {label(c.by)}" for c, s in zip((first, *others), (steep, *rest), strict=True))
    holds = all(steep.value - s.value > 2 * math.hypot(steep.error, s.error) for s in rest)
    return Claim(statement, f"{unit}: {words}", bool(rest) and holds)


def changes(
    curves: Sequence[Curve], sign: int, statement: str, label: Callable[[Any], str] = str, unit: str = "kappa"
) -> Claim:
    """Each curve ends above (sign 1) or below (-1) where it begins, beyond what seeds explain."""
    ends = [(Mean.of(curve.y[0]), Mean.of(curve.y[-1])) for curve in curves]
    words = [f"{first} to {last} for {label(curve.by)}" for curve, (first, last) in zip(curves, ends, strict=True)]
    holds = bool(ends) and all((last.above(first) if sign > 0 else first.above(last)) for first, last in ends)
    return Claim(statement, f"{unit} from {', '.join(words)}", holds)


def bounded(table: Table, columns: Sequence[str], exact: str = "kappa") -> Claim:
    """No exact value lies above a bound, at any point; says how far the bounds are."""
    parts, holds, count = [], True, 0
    for column in columns:
        ratios = [b / a for a, b in zip(table.column(exact), table.column(column), strict=True) if math.isfinite(b)]
        holds = holds and all(ratio >= 1 - ROUNDING for ratio in ratios)
        count += len(ratios)
        if ratios:
            parts.append(
                f"{column} / exact from {min(ratios):.3g} to {max(ratios):.3g}, median {np.median(ratios):.3g}"
            )
        else:
            parts.append(f"{column} applies nowhere")
    return Claim("every bound lies above the exact value at every point", "; ".join(parts), holds and count > 0)


def equal(table: Table, column: str, statement: str, exact: str = "kappa", within: float = 1e-6) -> Claim:
    """A bound is the exact value."""
    worst = max(abs(b / a - 1) for a, b in zip(table.column(exact), table.column(column), strict=True))
    return Claim(statement, f"largest relative difference {worst:.1e} over {len(table.rows)} points", worst <= within)
