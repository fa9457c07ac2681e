"""Eigenvalues, condition numbers and ranks: which solver, in which space, with what certainty."""

from gnfast.spectrum.condition import Condition, cond
from gnfast.spectrum.eigen import ConvergenceWarning, EigenInfo, eigsh
from gnfast.spectrum.ranks import Rank, RankProfile, rank, rank_profile

__all__ = [
    "Condition",
    "ConvergenceWarning",
    "EigenInfo",
    "Rank",
    "RankProfile",
    "cond",
    "eigsh",
    "rank",
    "rank_profile",
]
