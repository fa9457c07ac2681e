"""Eigenvalues, condition numbers and ranks: which solver, in which space, with what certainty."""

from gnfast.spectrum import by_layer
from gnfast.spectrum.condition import Condition, cond
from gnfast.spectrum.eigen import ConvergenceWarning, EigenInfo, eigsh
from gnfast.spectrum.matrices import operator
from gnfast.spectrum.ranks import Rank, RankProfile, rank, rank_profile
from gnfast.spectrum.tracker import Tracked, Tracker

__all__ = [
    "Condition",
    "ConvergenceWarning",
    "EigenInfo",
    "Rank",
    "RankProfile",
    "Tracked",
    "Tracker",
    "by_layer",
    "cond",
    "eigsh",
    "operator",
    "rank",
    "rank_profile",
]
