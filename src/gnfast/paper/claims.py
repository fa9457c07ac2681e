"""Claims of the paper, and whether a table shows them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtrit

from gnfast.paper.table import Curve, Row, Seeds, Table

ROUNDING = 1e-6  # relative: how far above its bound an exact value may lie
SURE = 0.95  # of the intervals that +- says
LISTED = 8  # slopes, above which only their range is told
SHOWN = 4  # places that a claim names


@dataclass(frozen=True)
class Claim:
    """A statement, the numbers of the table that speak for or against it, and whether it holds there.

    Seeds are what is independent: networks of one seed share numbers over widths and depths. Each seed has its own
    slope, or quotient; +- is half the width of the 95 % interval of their mean, by Student's distribution.
    """

    statement: str
    numbers: str
    holds: bool

    @property
    def status(self) -> str:
        """The word for it on a page: "reproduced" or "not reproduced"."""
        return "reproduced" if self.holds else "not reproduced"

    def __str__(self) -> str:
        return f"{self.status}: {self.statement} ({self.numbers})"


class Mean(NamedTuple):
    """A mean over seeds with half the width of its 95 % interval, infinite for fewer than two."""

    value: float
    error: float

    @classmethod
    def of(cls, values: Collection[float]) -> Mean:
        """The mean of some values, with half of its 95 % interval."""
        n = len(values)
        with np.errstate(invalid="ignore"):  # infinite ones have no deviation
            value = float(np.mean(list(values))) if n else math.nan
            deviation = float(np.std(list(values), ddof=1)) if n > 1 else math.inf
        return cls(value, float(stdtrit(n - 1, (1 + SURE) / 2)) * deviation / math.sqrt(n) if n > 1 else math.inf)

    def __str__(self) -> str:
        return f"{self.value:.3g} +- {self.error:.1g}"

    @property
    def sign(self) -> int:
        """-1 or 1 where zero is outside of the interval, else 0."""
        return int(math.copysign(1, self.value)) if abs(self.value) > self.error else 0


def quotient(first: Seeds, second: Seeds) -> Mean:
    """Return the mean of log(first / second), seed by seed."""
    common = [seed for seed in first if seed in second]
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log([first[seed] for seed in common]) - np.log([second[seed] for seed in common])
    return Mean.of([float(log) for log in logs])


def above(first: Seeds, second: Seeds) -> bool:
    """Whether the first is larger beyond what seeds explain."""
    return quotient(first, second).sign == 1


def geometric(values: Seeds) -> str:
    """Return the mean of logarithms in words."""
    mean = quotient(values, dict.fromkeys(values, 1.0))
    percent = 100 * mean.error
    return f"{math.exp(mean.value):.3g} (+- {percent:{'.0f' if percent >= 100 else '.2g'}} %)"


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Return the least-squares slope of a line through (x, y) pairs, nan if there is none."""
    x, y = np.array(points, np.float64).T
    x = x - x.mean()
    spread = float(x @ x)
    return float(x @ y) / spread if spread and np.isfinite(y).all() else math.nan


def slopes(curve: Curve, x: Callable[[float], float] = float) -> dict[Any, float]:
    """Return the slope of log y in x for each seed."""
    return {
        seed: slope([(x(at), math.log(y) if y > 0 else math.nan) for at, y in line])
        for seed, line in curve.lines.items()
    }


def trend(
    curves: Sequence[Curve],
    sign: int,
    statement: str,
    label: Callable[[Any], str] = str,
    unit: str = "d log kappa / d L",
    x: Callable[[float], float] = float,
) -> Claim:
    """The logarithms of all curves rise (sign 1) or fall (-1): no interval of a slope has zero in it."""
    found = [(label(curve.by), Mean.of(slopes(curve, x).values())) for curve in curves]
    failed = [name for name, mean in found if mean.sign != sign]
    words = ", ".join(f"{mean} for {name}" for name, mean in found)
    if len(found) > LISTED:
        values = [mean.value for _, mean in found]
        words = f"{len(found) - len(failed)} of {len(found)}, {min(values):.3g} to {max(values):.3g}{_not_at(failed)}"
    return Claim(statement, f"{unit}: {words}", bool(found) and not failed)


def falls_with_width(curves: Sequence[Curve], statement: str, label: Callable[[Any], str], of: str = "kappa") -> Claim:
    """All curves over the width fall, as powers of it."""
    return trend(curves, -1, statement, label, f"d log {of} / d log m", math.log)


def steeper(
    first: Curve,
    others: Sequence[Curve],
    statement: str,
    label: Callable[[Any], str] = str,
    unit: str = "d log kappa / d L",
) -> Claim:
    """The logarithm of the first curve has a larger slope than that of each other one, beyond what seeds explain."""
    steep, *rest = (slopes(curve) for curve in (first, *others))
    words = ", ".join(
        f"{Mean.of(s.values())} for {label(c.by)}" for c, s in zip((first, *others), (steep, *rest), strict=True)
    )
    differences = [Mean.of([steep[seed] - s[seed] for seed in steep if seed in s]) for s in rest]
    return Claim(statement, f"{unit}: {words}", bool(rest) and all(mean.sign == 1 for mean in differences))


def ordered(values: Sequence[tuple[str, Seeds]], statement: str, unit: str = "kappa") -> Claim:
    """Each one is above the next, beyond what seeds explain."""
    words = ", ".join(f"{geometric(found)} for {name}" for name, found in values)
    pairs = list(itertools.pairwise(found for _, found in values))
    return Claim(statement, f"{unit}: {words}", bool(pairs) and all(above(*pair) for pair in pairs))


def changes(
    curves: Sequence[Curve], sign: int, statement: str, label: Callable[[Any], str] = str, unit: str = "kappa"
) -> Claim:
    """Each curve ends above (sign 1) or below (-1) where it begins, beyond what seeds explain."""
    words = [f"{geometric(curve.y[0])} to {geometric(curve.y[-1])} for {label(curve.by)}" for curve in curves]
    holds = bool(curves) and all(quotient(curve.y[-1], curve.y[0]).sign == sign for curve in curves)
    return Claim(statement, f"{unit} from {', '.join(words)}", holds)


def everywhere(places: Iterable[tuple[str, Seeds, Seeds]], statement: str, unit: str = "kappa") -> Claim:
    """At every place, (name, first, second), the first is above the second, beyond what seeds explain."""
    found = [(name, quotient(first, second)) for name, first, second in places]
    failed = [name for name, mean in found if mean.sign != 1]
    factors = np.exp([mean.value for _, mean in found] or [math.nan])
    words = f"{unit}: {len(found) - len(failed)} of {len(found)}, factors {factors.min():.3g} to {factors.max():.3g}"
    return Claim(statement, words + _not_at(failed), bool(found) and not failed)


def _not_at(failed: Sequence[str]) -> str:
    """Name the first places where a claim does not hold."""
    if not failed:
        return ""
    more = f" and {len(failed) - SHOWN} more" if len(failed) > SHOWN else ""
    return f"; not at {'; '.join(failed[:SHOWN])}{more}"


def steps(curves: Iterable[Curve], sign: int, name: Callable[[Any, float], str]) -> Iterable[tuple[str, Seeds, Seeds]]:
    """Return, for `everywhere`, each x of each curve and the one before, the one that must be larger first."""
    for curve in curves:
        for (_, before), (x, after) in itertools.pairwise(zip(curve.x, curve.y, strict=True)):
            yield (name(curve.by, x), after, before) if sign > 0 else (name(curve.by, x), before, after)


def each_step(curves: Iterable[Curve], label: Callable[[Any], str]) -> Claim:
    """All curves over the width fall from each width to the next."""
    places = steps(curves, -1, lambda by, width: f"{label(by)}, m = {width:,}")
    return everywhere(places, "kappa falls from each width to the next")


def across(curves: Sequence[Curve], name: Callable[[Any, float], str]) -> Iterable[tuple[str, Seeds, Seeds]]:
    """Return, for `everywhere`, at each x each curve and the next one, which must be below it."""
    for upper, lower in itertools.pairwise(curves):
        for x, first, second in zip(upper.x, upper.y, lower.y, strict=True):
            yield name(lower.by, x), first, second


def tighter(rows: Sequence[Row], first: str, second: str, statement: str) -> Claim:
    """The first bound speaks wherever the second does and is smaller at the same networks, beyond what seeds explain.

    The quotient of a seed is the geometric mean over its networks of which both bounds say something.
    """
    both = [row for row in rows if math.isfinite(row[first]) and math.isfinite(row[second])]
    alone = [
        sum(math.isfinite(row[a]) and row[b] == math.inf for row in rows) for a, b in ((first, second), (second, first))
    ]
    found: dict[Any, list[float]] = {}
    for row in both:
        found.setdefault(row["seed"], []).append(math.log(row[second] / row[first]))
    seeds = {seed: math.exp(float(np.mean(logs))) for seed, logs in found.items()}
    numbers = (
        f"{second} / {first}: {geometric(seeds)} over {len(both)} networks; {alone[0]} more have {first} alone, "
        f"{alone[1]} {second} alone"
    )
    holds = bool(seeds) and not alone[1] and above(seeds, dict.fromkeys(seeds, 1.0))
    return Claim(statement, numbers, holds)


def bounded(table: Table, columns: Sequence[str], exact: str = "kappa") -> Claim:
    """No exact value lies above a bound, at any point; says how far the bounds are."""
    parts, holds, count = [], True, 0
    for column in columns:
        pairs = zip(table.column(exact), table.column(column), strict=True)
        ratios = np.array([b / a for a, b in pairs if b != math.inf])  # an infinite bound says nothing; nan is wrong
        holds = holds and bool((ratios >= 1 - ROUNDING).all())
        count += len(ratios)
        if len(ratios):
            middle = float(np.median(ratios))
            parts.append(f"{column} / exact from {ratios.min():.3g} to {ratios.max():.3g}, median {middle:.3g}")
        else:
            parts.append(f"{column} applies nowhere")
    return Claim("every bound lies above the exact value at every point", "; ".join(parts), holds and count > 0)


def equal(table: Table, column: str, statement: str, exact: str = "kappa", within: float = 1e-6) -> Claim:
    """A bound is the exact value."""
    worst = float(np.max(np.abs(np.divide(table.column(column), table.column(exact)) - 1)))
    return Claim(statement, f"largest relative difference {worst:.1e} over {len(table.rows)} points", worst <= within)
