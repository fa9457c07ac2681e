"""A figure of the paper: a study, the panels that show it, and the claims that are checked on its table."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from gnfast.paper.claims import Claim
from gnfast.paper.table import Row, Table
from gnfast.study.jobs import REAL, Job, Keyed, Values

SETTINGS = ("quick", "usual", "full")


@dataclass(frozen=True)
class Options:
    """How large a figure is made, and whose images it uses.

    Args:
        setting: "quick" takes seconds and is for tests, "usual" minutes, "full" is the paper's own size.
        images: data of colour images of 32 x 32 pixels; a folder of CIFAR-10, or photographs.
    """

    setting: str = "usual"
    images: str = "photographs"

    def of(self, quick: Any, usual: Any, full: Any) -> Any:
        """Return the value for the setting."""
        return dict(zip(SETTINGS, (quick, usual, full), strict=True))[self.setting]


@dataclass(frozen=True)
class Line:
    """A column that is drawn beside y in the colour of its curve, and what it is."""

    column: str
    label: str
    style: Literal["--", ":"]


PAPER = Line("paper", "bound of Zhao, Singh & Lucchi (2024)", "--")
TIGHTEST = Line("tightest", "our tightest bound", ":")
BOUNDS = (PAPER, TIGHTEST)
BOUND_COLUMNS = tuple(line.column for line in BOUNDS)


def named(symbol: str) -> Callable[[Any], str]:
    """Return the label of a curve for a value: "m = 1,000"."""
    return lambda value: f"{symbol} = {value:,}" if isinstance(value, int) else f"{symbol} = {value:g}"


@dataclass(frozen=True)
class Panel:
    """Curves of y over x, one for each value of ``by``; medians, with a band from the least to the largest seed.

    Args:
        x, y: columns.
        by: column, or function of a row, that tells curves apart; ``label`` says its value in words.
        lines: further columns to draw for each curve.
        where: rows that are drawn.
        scales: of the two axes, "log" or "linear".
    """

    x: str
    y: str
    by: str | Callable[[Row], Any]
    xlabel: str
    ylabel: str = r"condition number $\kappa(G)$"
    label: Callable[[Any], str] = str
    title: str = ""
    lines: tuple[Line, ...] = ()
    where: Mapping[str, Any] = field(default_factory=dict)
    scales: tuple[str, str] = ("linear", "log")


@dataclass(frozen=True)
class Figure:
    """A figure of the paper, or one of ours.

    Args:
        name: that of the command.
        title: one line.
        finding: what the paper says of it, in our words; of our figures, what is asked.
        study: the study of a setting.
        panels: side by side, three in a row at most.
        claims: what the table is asked.
        derive: makes the rows that are drawn from the table, where these are others.
    """

    name: str
    title: str
    finding: str
    study: Callable[[Options], Job]
    panels: Sequence[Panel]
    claims: Callable[[Table], list[Claim]]
    derive: Callable[[Table], Table] | None = None

    def uses_images(self, options: Options) -> bool:
        """Whether any of its points has colour images."""
        return options.images in self.study(options).sources


@dataclass(frozen=True)
class Experiment:
    """A job of a figure whose points are no grid of dense networks.

    Args:
        name: the figure's.
        grid: its points.
        function: computes one; a function of a module, so that workers find it.
        types: columns of its values.
    """

    name: str
    grid: tuple[Keyed, ...]
    function: Callable[[Any], Values]
    types: Mapping[str, str]

    @property
    def sources(self) -> Mapping[str, str]:
        """The data that its points name, and where each lies."""
        return {str(point.data): str(point.data) for point in self.grid if hasattr(point, "data")}

    @property
    def definition(self) -> str:
        """All that decides its points and values, as JSON."""
        told = {"figure": self.name, "points": [point.key for point in self.grid], "columns": list(self.types)}
        return json.dumps(told)

    @property
    def columns(self) -> Mapping[str, str]:
        """Names of its values, with their types."""
        return {**self.types, "seconds": REAL}

    def points(self) -> list[Keyed]:
        """Its grid."""
        return list(self.grid)

    def compute(self, point: Any) -> Values:
        """The values at one point."""
        return self.function(point)
