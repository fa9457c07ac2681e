"""The table of a figure: rows from a study's records, and the curves in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gnfast.study import Record

Row = Mapping[str, Any]
Seeds = Mapping[Any, float]  # a number of each seed


@dataclass(frozen=True)
class Curve:
    """y over x for one value of what tells curves apart; at each x the y of all seeds, infinite and nan ones too.

    Args:
        by: that value.
        x: (c,) ascending.
        y: c mappings, none of them empty.
    """

    by: Any
    x: list[float]
    y: list[Seeds]

    @property
    def middle(self) -> list[float]:
        """The median over seeds: infinite where most of them are, nan where one is."""
        return [float(np.median(list(values.values()))) for values in self.y]

    @property
    def lines(self) -> dict[Any, list[tuple[float, float]]]:
        """The (x, y) of each seed."""
        found: dict[Any, list[tuple[float, float]]] = {}
        for x, values in zip(self.x, self.y, strict=True):
            for seed, y in values.items():
                found.setdefault(seed, []).append((x, y))
        return found


class Table:
    """Rows of a figure's study: columns of its points and values by name; points that failed are left out."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.rows = [row for row in rows if "error" not in row]

    @classmethod
    def of(cls, records: Iterable[Record]) -> Table:
        """The table of some records."""
        return cls(row for record in records for row in record.rows())

    def where(self, **values: Any) -> Table:
        """Only the rows that have these values."""
        return Table(row for row in self.rows if all(row[name] == value for name, value in values.items()))

    def column(self, name: str) -> list[Any]:
        """A column as a list."""
        return [row[name] for row in self.rows]

    def curves(self, x: str, y: str, by: str | Callable[[Row], Any]) -> list[Curve]:
        """Return a curve for each value of ``by``, in the order in which they come."""
        found: dict[Any, dict[float, dict[Any, float]]] = {}
        for row in self.rows:
            value = row[by] if isinstance(by, str) else by(row)
            found.setdefault(value, {}).setdefault(row[x], {})[row.get("seed")] = row[y]
        return [Curve(value, sorted(ys), [ys[at] for at in sorted(ys)]) for value, ys in found.items()]
