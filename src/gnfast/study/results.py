"""Results of a study as its folder has them, for those who go on with them in Python."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gnfast import _checks
from gnfast.study.jobs import Record

RESULTS = "results.sqlite"  # in the folder of any command that computes point by point
# What tells the results of other commands from those of a study: a key of their definitions.
OTHERS = (
    ("figure", "gnfast paper", "table.csv, claims.txt and figure.png"),
    ("activation", "gnfast width", "table.csv, table.md and figure.png"),
)


@dataclass(frozen=True)
class Results:
    """What a study has found so far.

    Attributes:
        records: Points with their values, or with the error that they ended in, in the order of the study.
        total: How many points the study has.
    """

    records: Sequence[Record]
    total: int

    def __repr__(self) -> str:
        failed = sum(record.values is None for record in self.records)
        told = f", {failed:,} of them failed" * bool(failed)
        return f"<Results {len(self.records):,} of {self.total:,} points{told}; to_pandas() gives the table>"

    def to_pandas(self) -> Any:
        """Return a pandas DataFrame with a row for each point, or for each entry of its series.

        Columns are the fields of the point, its values, ``position`` where there are series, and ``error``, empty where
        the point succeeded. Numbers are float64, or int64; integers are pandas' Int64 where some are missing.

        Raises:
            ImportError: pandas is not installed.
        """
        pandas = _checks.optional_import("pandas", "to_pandas", "pandas")
        rows = [row | {"error": record.error} for record in self.records for row in record.rows()]
        names = [name for name in dict.fromkeys(name for row in rows for name in row) if name != "error"]
        columns = {name: [row.get(name) for row in rows] for name in [*names, "error"]}
        return pandas.DataFrame({name: _column(pandas, values) for name, values in columns.items()})


def _column(pandas: Any, values: list[Any]) -> Any:
    """Make a column; integers with gaps stay integers, for pandas would take them through float64 and round them."""
    there = [value for value in values if not (value is None or (isinstance(value, float) and math.isnan(value)))]
    if there and len(there) < len(values) and all(type(value) is int for value in there):
        return pandas.array([value if type(value) is int else None for value in values], dtype="Int64")
    return values


def check_study(definition: str, folder: str) -> None:
    """Refuse a definition that is of another command than a study.

    Raises:
        ValueError: It is; the files that show those results are told.
    """
    for key, command, files in OTHERS:
        if key in json.loads(definition):
            raise ValueError(
                f"folder {folder!r} holds results of {command}, not of a study; {files} there show them, which "
                "the same command writes again from what is there"
            )
