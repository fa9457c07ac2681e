"""The figures of Zhao, Singh & Lucchi (NeurIPS 2024) and some of our own, each a study, a drawing and its claims."""

from gnfast.paper import dense
from gnfast.paper.claims import Claim
from gnfast.paper.figure import Figure, Options
from gnfast.paper.table import Table

FIGURES: dict[str, Figure] = {figure.name: figure for figure in dense.FIGURES}

__all__ = ["FIGURES", "Claim", "Figure", "Options", "Table"]
