"""Results as tables: seeds summarised, for the terminal and as Markdown."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, TextIO

from gnfast import _checks, _files
from gnfast.study.jobs import Record
from gnfast.study.quantities import DEFAULT, QUANTITIES

if TYPE_CHECKING:
    from rich.console import Console

HEADERS = ("width", "depth", "kappa(G)", "least", "largest", "rank", "tightest", "paper", "failed")
# Values that have a place of their own in a table, or none.
USUAL = {"seconds", *(column for name in DEFAULT for column in QUANTITIES[name].columns)}


@dataclass(frozen=True)
class Cell:
    """What the seeds of one network have in common: medians, and the range of kappa(G).

    ``kappa`` is (least, median, largest), nan where every seed failed or the study has none; bounds are medians,
    infinite where most seeds have none; ``limit`` is what kappa(G) tends to as the width grows, nan if that is not
    known (it is that of the data for linear networks without biases, which add eigenvalues of order 1/m, and the mean
    squared error); ``others`` are the medians of all other numbers that the study asked for, series left out.
    """

    family: str
    width: int
    depth: int
    kappa: tuple[float, float, float]
    paper: float
    tightest: float
    limit: float
    rank: int
    dimension: int
    failed: int
    others: Mapping[str, float] = field(default_factory=dict)


def summarise(records: Iterable[Record]) -> list[Cell]:
    """Return one cell for each network of the records, families in their order, then by depth and width."""
    groups: dict[tuple[str, int, int], list[Record]] = {}
    for record in records:
        groups.setdefault((record.point.family, record.point.depth, record.point.width), []).append(record)
    families = list(dict.fromkeys(family for family, _, _ in groups))
    return [_cell(groups[key]) for key in sorted(groups, key=lambda key: (families.index(key[0]), *key[1:]))]


def _cell(records: list[Record]) -> Cell:
    point = records[0].point
    found: list[Mapping[str, Any]] = [record.values for record in records if record.values is not None]
    failed = len(records) - len(found)

    def all_of(name: str, missing: float) -> list[Any]:
        return [values.get(name, missing) for values in found] or [missing]

    kappas = all_of("kappa", math.nan)
    numbers = [name for name, value in found[0].items() if isinstance(value, int | float)] if found else []
    return Cell(
        point.family,
        point.width,
        point.depth,
        (min(kappas), median(kappas), max(kappas)),
        median(all_of("paper", math.inf)),
        median(all_of("tightest", math.inf)),
        all_of("kappa_data", math.nan)[0] if _tends_to_data(point) else math.nan,
        min(all_of("rank", 0)),
        all_of("dimension", 0)[0],
        failed,
        {name: median(all_of(name, math.nan)) for name in numbers if name not in USUAL},
    )


def _tends_to_data(point: Any) -> bool:
    return bool(point.activation == "identity" and point.loss == "mse" and not point.bias)


def number(value: float) -> str:
    """Return a number to three digits, a dash for what is infinite or unknown."""
    if not math.isfinite(value):
        return "-"
    mantissa, _, exponent = f"{value:.3g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def _row(cell: Cell, others: list[str]) -> tuple[str, ...]:
    least, middle, largest = cell.kappa
    return (
        f"{cell.width:,}",
        str(cell.depth),
        number(middle),
        number(least),
        number(largest),
        f"{cell.rank}/{cell.dimension}" if cell.dimension else "-",
        number(cell.tightest),
        number(cell.paper),
        *(number(cell.others.get(name, math.nan)) for name in others),
        str(cell.failed or "-"),
    )


def _layout(cells: list[Cell]) -> tuple[tuple[str, ...], list[tuple[str, list[tuple[str, ...]]]]]:
    """Return the headers, and the rows of each family; no column where there is nothing but dashes."""
    others = list(dict.fromkeys(name for cell in cells for name in cell.others))
    headers = (*HEADERS[:-1], *others, HEADERS[-1])
    rows = [(cell.family, _row(cell, others)) for cell in cells]
    shown = [i for i in range(len(headers)) if any(row[i] != "-" for _, row in rows)]
    parts = [
        (name, [tuple(row[i] for i in shown) for _, row in part]) for name, part in groupby(rows, lambda pair: pair[0])
    ]
    return tuple(headers[i] for i in shown), parts


def print_study(console: Console, cells: list[Cell], wide: bool = False) -> None:
    """Print a table for each family, headed by width and depth."""
    headers, parts = _layout(cells)
    for name, body in parts:
        print_table(console, name, headers, body, heads=2, wide=wide)


def print_table(
    console: Console,
    title: str,
    headers: Sequence[str],
    body: Sequence[Sequence[str]],
    heads: int = 1,
    wide: bool = False,
) -> None:
    """Print a table of numbers as text in which none is ever cut.

    On a terminal that is too narrow for all columns it comes in parts, one below the other, each with the first columns
    again.

    Args:
        console: where to.
        title: of the table.
        headers: of the columns.
        body: the rows.
        heads: how many first columns tell the rows apart.
        wide: whether lines may be longer than the terminal is wide, as they may wherever there is no terminal.
    """
    # Not rich's own tables, which cut what does not fit.
    lines: dict[str, Any] = dict(markup=False, highlight=False, soft_wrap=True)
    console.print(title, style="bold", **lines)
    room = math.inf if wide or not console.is_terminal else console.width
    sizes = [max(map(len, column)) for column in zip(headers, *body, strict=True)]
    for shown in _columns(sizes, heads, room):
        for row in (headers, ["-" * size for size in sizes], *body):
            console.print("  ".join(row[i].rjust(sizes[i]) for i in shown), **lines)
        console.print()


def _columns(sizes: Sequence[int], heads: int, room: float) -> Iterator[list[int]]:
    """Yield the columns of each part of a table, the first ones in all of them, at least one more in each."""
    first = list(range(heads))
    shown = list(first)
    for i in range(heads, len(sizes)):
        if len(shown) > heads and sum(sizes[j] + 2 for j in shown) + sizes[i] > room:
            yield shown
            shown = list(first)
        shown.append(i)
    yield shown


def markdown(cells: list[Cell]) -> str:
    """Return one Markdown table, a column naming the family."""
    headers, parts = _layout(cells)
    return markdown_table(("network", *headers), [(name, *row) for name, rows in parts for row in rows])


def markdown_table(headers: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table, the first column left, the others right."""
    rule = ["---"] + ["---:"] * (len(headers) - 1)
    return "".join("| " + " | ".join(line) + " |\n" for line in (headers, rule, *body))


def failures(records: Iterable[Record]) -> list[str]:
    """Return one line for each reason that points failed for, the most frequent first."""
    found: dict[str, list[Record]] = {}
    for record in records:
        if record.values is None:
            found.setdefault(pattern(record.error), []).append(record)
    return [
        f"{_checks.counted(len(some), 'point')} failed: {some[0].error} (first: {some[0].point.key})"
        for some in sorted(found.values(), key=len, reverse=True)
    ]


def pattern(error: str) -> str:
    """An error without its numbers, in which points that fail alike differ."""
    return re.sub(r"\d[\d,.]*(e[+-]?\d+)?", "#", error)


def write_csv(records: Iterable[Record], where: Path | TextIO) -> None:
    """Write all rows of the records under one header; what a row has not is empty; a file whole or not at all."""
    if isinstance(where, Path):
        with _files.replacing(where) as beside, beside.open("w", encoding="utf-8", newline="") as stream:
            write_csv(records, stream)
        return
    rows = [row for record in records for row in record.rows()]
    writer = csv.DictWriter(where, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
