"""The figure of a study: the condition number against width and against depth, with the bounds around it."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gnfast import _extras, _files
from gnfast.study.tables import Cell

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito's palette, safe for colour-blind readers; the markers tell the curves apart in black and white.
LOOKS = tuple(
    zip(("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"), "osD^vPX", strict=True)
)
TITLE = 34  # characters that fit above a panel
STYLE: Any = {  # matplotlib's types want its keys as literals
    "font.size": 8,
    "axes.titlesize": 8.5,
    "legend.fontsize": 7.5,
    "legend.title_fontsize": 7.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.3,
    "lines.markersize": 4,
}


@contextmanager
def canvas(size: tuple[float, float]) -> Iterator[Figure]:
    """Return a matplotlib figure of this size in inches, in our style while the block lasts.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(f"the figure needs matplotlib; install it with: {_extras.install('study')}") from error
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure


def draw(cells: list[Cell], path: str | Path) -> None:
    """Draw a study: a column for each family, against width above and against depth below; many columns wrap.

    Solid: exact values, the median and range over seeds. Dashed: the bound of Zhao, Singh & Lucchi (NeurIPS 2024).
    Dotted: the tightest bound. Grey: what linear networks tend to as they grow wide. A bound that says nothing is left
    out.

    Raises:
        ValueError: no cell has a condition number.
        ImportError: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    cells = [cell for cell in cells if math.isfinite(cell.kappa[1])]
    if not cells:
        raise ValueError("there is nothing to draw: no point of the study has a condition number")
    families = [(name, list(part)) for name, part in groupby(cells, lambda cell: cell.family)]
    columns = columns_of(len(families))
    bands = math.ceil(len(families) / columns)
    with canvas((2.4 * columns + 1.2, 5.0 * bands + 0.4)) as figure:
        from matplotlib.lines import Line2D

        grid = figure.subplots(2 * bands, columns, squeeze=False)
        for axes in grid[-2:, (len(families) - 1) % columns + 1 :].flat:
            axes.remove()
        panels = [grid[2 * (i // columns) : 2 * (i // columns) + 2, i % columns] for i in range(len(families))]
        for i, (_, part) in enumerate(families):
            # Families with one wide limit are compared on one scale; the panels of one family are, always.
            same = next(j for j, (_, other) in enumerate(families) if j == i or _limit(other) == _limit(part))
            for panel in panels[i]:
                if panel is not panels[same][0]:
                    panel.sharey(panels[same][0])
        for row, (along, by) in enumerate((("width", "depth"), ("depth", "width"))):
            values = sorted({getattr(cell, by) for cell in cells})
            looks = {value: LOOKS[i % len(LOOKS)] for i, value in enumerate(values)}
            for i, (name, part) in enumerate(families):
                _panel(panels[i][row], part, along, by, looks)
                panels[i][row].set_xlabel(along)
                if along == "width":
                    panels[i][row].set_title(
                        textwrap.fill(name.replace(" = ", "\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}"), TITLE)
                    )
                if i % columns == 0:
                    panels[i][row].set_ylabel(r"condition number $\kappa(G)$")
            keys = [Line2D([], [], color=colour, marker=m, label=f"{value}") for value, (colour, m) in looks.items()]
            panels[columns - 1][row].legend(
                handles=keys, title=by, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False
            )
        keys = [
            Line2D([], [], color="0.2", label="exact (median, range over seeds)"),
            Line2D([], [], color="0.2", linestyle="--", label="bound of Zhao, Singh & Lucchi (2024)"),
            Line2D([], [], color="0.2", linestyle=":", label="tightest bound"),
        ]
        if math.isfinite(_limit(cells)):
            keys.append(Line2D([], [], color="0.6", linewidth=0.8, label=r"wide limit, $\kappa(\Sigma)$"))
        across = 4 if columns > 2 else 2 if columns == 2 else 1
        figure.legend(handles=keys, loc="outside lower center", ncols=across, frameon=False)
        with _files.replacing(Path(path)) as beside:
            figure.savefig(beside, dpi=200)


def columns_of(families: int) -> int:
    """Return how many columns a figure of so many families has: up to four in one band, then as a page has them."""
    most = max(4, math.ceil(math.sqrt(2 * families)))
    return math.ceil(families / math.ceil(families / most))  # bands as full as each other


def _panel(axes: Axes, cells: list[Cell], along: str, by: str, looks: dict[int, tuple[str, str]]) -> None:
    """Draw one family: a curve for each value of ``by``, its bounds in the same colour."""
    for value, (colour, marker) in looks.items():
        curve = sorted((cell for cell in cells if getattr(cell, by) == value), key=lambda cell: getattr(cell, along))
        x = [getattr(cell, along) for cell in curve]
        least, middle, largest = ([cell.kappa[i] for cell in curve] for i in range(3))
        axes.fill_between(x, least, largest, color=colour, alpha=0.25, linewidth=0)
        axes.plot(x, middle, color=colour, marker=marker)
        axes.plot(x, [_shown(cell.paper) for cell in curve], "--", color=colour, linewidth=0.9)
        axes.plot(x, [_shown(cell.tightest) for cell in curve], ":", color=colour, linewidth=1.1)
    axes.axhline(_limit(cells), color="0.6", linewidth=0.8, zorder=0)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    ticks = sorted({getattr(cell, along) for cell in cells})
    axes.set_xticks(ticks, [f"{tick}" for tick in ticks])
    axes.minorticks_off()


def _limit(cells: list[Cell]) -> float:
    """Return the family's wide limit, nan if it is not known: nan equals nothing."""
    return max((cell.limit for cell in cells if math.isfinite(cell.limit)), default=math.nan)


def _shown(bound: float) -> float:
    """Leave a gap where a bound says nothing."""
    return bound if math.isfinite(bound) else math.nan
