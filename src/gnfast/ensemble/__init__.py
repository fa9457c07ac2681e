"""Condition numbers of random networks of any width, sampled without storing weights."""

from gnfast.ensemble.grams import Grams
from gnfast.ensemble.law import LinearLaw
from gnfast.ensemble.linear import linear
from gnfast.ensemble.network import Drawn, NetworkLaw, network
from gnfast.ensemble.results import Ensemble, LawWarning

__all__ = ["Drawn", "Ensemble", "Grams", "LawWarning", "LinearLaw", "NetworkLaw", "linear", "network"]


def __dir__() -> list[str]:
    return __all__
