"""The figures of Zhao, Singh & Lucchi (NeurIPS 2024) and some of our own, each a study, a drawing and its claims."""

from gnfast.paper import dense, layers, ours, training
from gnfast.paper.claims import Claim
from gnfast.paper.figure import Figure, Options
from gnfast.paper.table import Table

FIGURES: dict[str, Figure] = {
    figure.name: figure for figure in (*dense.FIGURES, *layers.FIGURES, *training.FIGURES, *ours.FIGURES)
}

__all__ = ["FIGURES", "Claim", "Figure", "Options", "Table"]
