"""The figure of `gnfast width`: kappa against width, and how far it is from that of the infinitely wide network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gnfast import _files
from gnfast.study.figures import LOOKS, canvas
from gnfast.study.width import Existing, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, RED, GREEN = (colour for colour, _ in LOOKS[:3])
GREY = "0.45"
TERABYTE = math.sqrt(1e12 / 4)  # the width at which the float32 weights of one layer take a terabyte


def draw(title: str, rows: Sequence[Row], limit: float, networks: Sequence[Existing], paths: Sequence[Path]) -> None:
    """Draw a table of `gnfast width` in the formats that the paths end in.

    Blue: the median over draws and, shaded, nine draws in ten. Red, dashed: the bound of Zhao, Singh & Lucchi. Grey:
    the infinitely wide network. Green: networks that exist. Curves are labelled where they are, and told apart by
    dashes and markers as well as by colour.

    Raises:
        ValueError: no width has a finite condition number.
        ImportError: matplotlib is not installed.
        OSError: a file cannot be written.
    """
    rows = [row for row in rows if math.isfinite(row.kappa[1])]
    if not rows:
        raise ValueError("there is nothing to draw: no width has a finite condition number")
    with canvas((7.6, 3.5)) as figure:
        # A logarithmic axis has no zero: of one sample and one output kappa is 1, as in the limit.
        known = any(math.isfinite(row.deviation[2]) and row.deviation[2] > 0 for row in rows)
        panels = figure.subplots(1, 1 + known, squeeze=False, width_ratios=[1.45, 1][: 1 + known])[0]
        _kappas(panels[0], rows, limit, networks)
        if known:
            _deviations(panels[1], rows)
        figure.suptitle(title, fontsize=8.5)
        for path in paths:
            with _files.replacing(path) as beside:
                figure.savefig(beside, dpi=200)


def _kappas(axes: Axes, rows: Sequence[Row], limit: float, networks: Sequence[Existing]) -> None:
    from matplotlib.ticker import LogLocator

    x = np.array([row.width for row in rows], float)
    low, middle, high = np.array([row.kappa for row in rows]).T
    paper = np.array([row.paper for row in rows])
    axes.set(xscale="log", yscale="log", xlabel="width m of the hidden layers", ylabel=r"condition number $\kappa(G)$")
    axes.fill_between(x, low, high, color=BLUE, alpha=0.25, linewidth=0)
    axes.plot(x, middle, "o-", color=BLUE, markersize=3)
    bounded = np.isfinite(paper)
    draws = f"median of {min(row.draws for row in rows)} draws,\nshaded: 5 % to 95 %"
    if bounded.any():
        axes.plot(x[bounded], paper[bounded], "--", color=RED)
        at = min(np.flatnonzero(bounded)[0] + 2, len(x) - 1)
        _label(axes, "bound of Zhao, Singh\n& Lucchi (2024), median", x[at], paper[at], RED, (8, 8))
        axes.annotate(
            draws, (x[at], middle[at]), (0.02, 0.03), textcoords="axes fraction", color=BLUE, fontsize=7.5,
            linespacing=1.1, arrowprops={"arrowstyle": "-", "color": BLUE, "linewidth": 0.6},
        )  # fmt: skip
    else:
        at = min(2, len(x) - 1)
        _label(axes, draws, x[at], high[at], BLUE, (8, 8))
    if math.isfinite(limit):
        axes.axhline(limit, color=GREY, linewidth=1, linestyle=(0, (1, 1)))
        text = rf"infinite width: $\kappa$ = {_digits(limit)}"
        _label(axes, text, x[-1], limit, "0.3", (0, -5), ha="right", va="top")
    for network in networks:
        axes.plot(network.width, network.kappa, "D", color=GREEN, markersize=5, markeredgecolor="black", zorder=3)
        name = network.name + f"\n({network.differs})" * bool(network.differs)
        _label(axes, name, network.width, network.kappa, GREEN, (6, 6))
    if x[0] < TERABYTE < x[-1]:
        axes.axvspan(TERABYTE, x[-1], color="0.94", zorder=0)
        axes.text(
            TERABYTE * 1.3, 0.98, "weights of one layer\ntake over 1 TB", color=GREY, fontsize=7, va="top",
            transform=axes.get_xaxis_transform(),
        )  # fmt: skip
    axes.minorticks_off()
    shown = np.concatenate([low, high, paper, [limit], [network.kappa for network in networks]])
    shown = shown[np.isfinite(shown)]
    span = shown.max() / shown.min()
    axes.set_ylim(bottom=shown.min() * span**-0.15)  # room for the labels below
    if span < 100:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")


def _deviations(axes: Axes, rows: Sequence[Row]) -> None:
    x = np.array([row.width for row in rows], float)
    _, middle, high = np.array([row.deviation for row in rows]).T
    axes.set(xscale="log", yscale="log", xlabel="width m of the hidden layers")
    axes.set_title(r"distance from infinite width, $|\kappa / \kappa_\infty - 1|$")
    # A draw may fall on the limit, so that the lower end of a band says nothing here.
    axes.fill_between(x, middle, high, color=BLUE, alpha=0.25, linewidth=0)
    axes.plot(x, middle, "o-", color=BLUE, markersize=3)
    axes.minorticks_off()
    drawn = np.flatnonzero(np.isfinite(high) & (high > 0))
    guide = 2.5 * high[drawn[-1]] * np.sqrt(x[drawn[-1]] / x)
    shown = guide < 3 * high[drawn].max()
    axes.plot(x[shown], guide[shown], color=GREY, linewidth=1, linestyle=(0, (4, 2)))
    at = np.flatnonzero(shown)[shown.sum() // 2]
    _label(axes, r"$1/\sqrt{m}$", x[at], guide[at], GREY, (4, 4))


def _label(axes: Axes, text: str, x: float, y: float, colour: str, offset: tuple[int, int], **alignment: Any) -> None:
    axes.annotate(
        text,
        (x, y),
        xytext=offset,
        textcoords="offset points",
        color=colour,
        fontsize=7.5,
        linespacing=1.1,
        **alignment,
    )


def _digits(value: float) -> str:
    if 1e-3 < value < 1e6:
        return f"{float(f'{value:.3g}'):,g}"
    mantissa, _, exponent = f"{value:.3g}".partition("e")
    return rf"{mantissa} $\cdot 10^{{{int(exponent)}}}$" if exponent else mantissa
