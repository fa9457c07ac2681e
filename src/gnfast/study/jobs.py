"""What a study is to those who run it, keep it and read it: points, columns, and a function from one to the other."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, Protocol, Self, runtime_checkable

Value = float | int | str | list[float]
Values = Mapping[str, Value]
Compute = Callable[[Any], Values]

# What a column of a results file may hold, as SQLite's type. A series is a list of numbers, kept as JSON.
REAL, INTEGER, TEXT, SERIES = "REAL", "INTEGER", "TEXT", "SERIES"


@dataclass(frozen=True)
class Keyed:
    """A point of a study: a dataclass of numbers and names, all that its values depend on."""

    @property
    def key(self) -> str:
        """A name that stays the same from run to run; what has its default value is left out of it."""
        told = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        return json.dumps(told, sort_keys=True)

    @classmethod
    def defaults(cls) -> dict[str, str]:
        """Return what keys leave out: the default value of each field that has one, as JSON."""
        return {f.name: json.dumps(f.default) for f in fields(cls) if f.default is not MISSING}

    @property
    def work(self) -> float:
        """Rough cost in any unit, to tell the time left."""
        return 1.0


@dataclass(frozen=True)
class Record:
    """A point with its values, or with the error that it ended in."""

    point: Any  # a Keyed
    values: Values | None
    error: str = ""

    def rows(self) -> list[dict[str, Any]]:
        """Return the point and its values as rows of a table: one, or one for each entry of its series.

        The series of a record have one length; ``position`` counts their entries from 0.
        """
        row = {f.name: getattr(self.point, f.name) for f in fields(self.point)}
        if self.values is None:
            return [row | {"error": self.error}]
        series = {name: value for name, value in self.values.items() if isinstance(value, list)}
        row |= {name: value for name, value in self.values.items() if name not in series}
        if not series:
            return [row]
        return [
            row | {"position": i} | dict(zip(series, entries, strict=True))
            for i, entries in enumerate(zip(*series.values(), strict=True))
        ]


class Job(Protocol):
    """A named set of points, and what is computed at each.

    ``definition`` is all that decides the points and their values, as JSON: two jobs with the same definition are one,
    as long as the defaults of their points are the same, and the files behind ``sources``: the data that they name, and
    where it lies. ``columns`` are the names of the values that ``compute`` returns, with their types. ``compute`` is
    called in other processes too, so that a job can be pickled.
    """

    @property
    def name(self) -> str:
        """The job's name."""

    @property
    def definition(self) -> str:
        """All that decides the points and their values, as JSON."""

    @property
    def sources(self) -> Mapping[str, str]:
        """The data that the points name, and where each lies."""

    @property
    def columns(self) -> Mapping[str, str]:
        """Names of the values of `compute`, with their types."""

    def points(self) -> list[Any]:
        """All points."""

    def compute(self, point: Any) -> Values:
        """The values at one point."""


Part = tuple[str, ...]


@runtime_checkable
class Growing(Protocol):
    """A job whose results file keeps what it has when the job asks for more: a point's key says all that decides it.

    ``accepts`` tells whether a file of that definition may become one of this job. ``parts`` are the columns that are
    found together, one of which at least is not null once they are; ``only`` is the job that finds some parts alone.
    """

    def accepts(self, definition: str) -> bool:
        """Whether a file of that definition may become one of this job."""

    @property
    def parts(self) -> tuple[Part, ...]:
        """The columns that are found together."""

    def only(self, parts: Collection[Part]) -> Self:
        """The job that finds these parts alone."""


def attempt(compute: Compute, point: Any) -> Record:
    """Return the values of a point with the seconds that they took, or the error that it ended in."""
    start = time.perf_counter()
    try:
        values = dict(compute(point))
    except Exception as error:  # whatever one point raises must not cost the others
        return Record(point, None, f"{type(error).__name__}: {error}")
    return Record(point, values | {"seconds": time.perf_counter() - start})
