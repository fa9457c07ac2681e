"""The table of a figure: rows from a study's records, and the curves in it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from gnfast.study import Record

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Curve:
    """y over x for one value of what tells curves apart; at each x all seeds that have a finite y.

    Args:
        by: that value.
        x: (c,) ascending.
        y: c lists, none of them empty.
    """

    by: Any
    x: list[float]
    y: list[list[float]]

    @property
    def middle(self) -> list[float]:
        """The median over seeds."""
        return [median(values) for values in self.y]

    def points(self) -> Iterator[tuple[float, float]]:
        """Every (x, y), one for each seed."""
        return ((x, y) for x, values in zip(self.x, self.y, strict=True) for y in values)


class Table:
    """Rows of a figure's study: columns of its points and values by name; points that failed are left out."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.rows = [row for row in rows if "error" not in row]

    @classmethod
    def of(cls, records: Iterable[Record]) -> Table:
        return cls(row for record in records for row in record.rows())

    def where(self, **values: Any) -> Table:
        """Only the rows that have these values."""
        return Table(row for row in self.rows if all(row[name] == value for name, value in values.items()))

    def column(self, name: str) -> list[Any]:
        return [row[name] for row in self.rows]

    def curves(self, x: str, y: str, by: str | Callable[[Row], Any]) -> list[Curve]:
        """Return a curve for each value of ``by``, in the order in which they come."""
        found: dict[Any, dict[float, list[float]]] = {}
        for row in self.rows:
            value = row[by] if isinstance(by, str) else by(row)
            at = found.setdefault(value, {}).setdefault(row[x], [])
            if math.isfinite(row[y]):
                at.append(row[y])
        curves = []
        for value, ys in found.items():
            kept = sorted((at, values) for at, values in ys.items() if values)
            curves.append(Curve(value, [at for at, _ in kept], [values for _, values in kept]))
        return [curve for curve in curves if curve.x]
