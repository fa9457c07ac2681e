"""Networks of any width in law, without their weights: condition numbers of random networks that nobody could store."""

from gnfast.ensemble.network import Drawn, NetworkLaw, network
from gnfast.ensemble.results import Ensemble

__all__ = ["Drawn", "Ensemble", "NetworkLaw", "network"]
