"""Results as tables: seeds summarised, for the terminal and as Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from statistics import median
from typing import TYPE_CHECKING

from gnfast.study.store import Record

if TYPE_CHECKING:
    from rich.table import Table

HEADERS = ("width", "depth", "kappa(G)", "least", "largest", "rank", "tightest", "paper", "failed")


@dataclass(frozen=True)
class Cell:
    """What the seeds of one network have in common: medians, and the range of kappa(G).

    ``kappa`` is (least, median, largest), nan where every seed failed; bounds are medians, infinite where most seeds
    have none; ``limit`` is what kappa(G) tends to as the width grows, nan if that is not known.
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


def summarise(records: Iterable[Record]) -> list[Cell]:
    """Return one cell for each network of the records, families in their order, then by depth and width."""
    groups: dict[tuple[str, int, int], list[Record]] = {}
    for record in records:
        groups.setdefault((record.point.family, record.point.depth, record.point.width), []).append(record)
    families = list(dict.fromkeys(family for family, _, _ in groups))
    return [_cell(groups[key]) for key in sorted(groups, key=lambda key: (families.index(key[0]), *key[1:]))]


def _cell(records: list[Record]) -> Cell:
    point = records[0].point
    found = [record.outcome for record in records if record.outcome]
    failed = len(records) - len(found)
    if not found:
        return Cell(point.family, point.width, point.depth, (math.nan,) * 3, math.inf, math.inf, math.nan, 0, 0, failed)
    kappas = [outcome.kappa for outcome in found]
    return Cell(
        point.family,
        point.width,
        point.depth,
        (min(kappas), median(kappas), max(kappas)),
        median(outcome.paper for outcome in found),
        median(outcome.tightest for outcome in found),
        found[0].kappa_data if point.activation == "identity" else math.nan,
        min(outcome.rank for outcome in found),
        found[0].dimension,
        failed,
    )


def number(value: float) -> str:
    """Return a number to three digits, a dash for what is infinite or unknown."""
    if not math.isfinite(value):
        return "-"
    mantissa, _, exponent = f"{value:.3g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def _row(cell: Cell) -> tuple[str, ...]:
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
        str(cell.failed or "-"),
    )


def _layout(cells: list[Cell]) -> tuple[tuple[str, ...], list[tuple[str, list[tuple[str, ...]]]]]:
    """Return the headers, and the rows of each family; no column for failures where there are none."""
    stop = len(HEADERS) if any(cell.failed for cell in cells) else -1
    parts = [(name, [_row(cell)[:stop] for cell in part]) for name, part in groupby(cells, lambda cell: cell.family)]
    return HEADERS[:stop], parts


def terminal(cells: list[Cell]) -> list[Table]:
    """Return a table for each family."""
    from rich import box
    from rich.table import Table

    headers, parts = _layout(cells)
    tables = []
    for name, body in parts:
        table = Table(
            title=name,
            title_justify="left",
            title_style="bold",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            collapse_padding=True,
        )
        for header in headers:
            table.add_column(header, justify="right", no_wrap=True)
        for row in body:
            table.add_row(*row)
        tables.append(table)
    return tables


def markdown(cells: list[Cell]) -> str:
    """Return one Markdown table, a column naming the family."""
    headers, parts = _layout(cells)
    body = [(name, *row) for name, rows in parts for row in rows]
    rule = ["---"] + ["---:"] * len(headers)
    return "".join("| " + " | ".join(line) + " |\n" for line in (("network", *headers), rule, *body))
