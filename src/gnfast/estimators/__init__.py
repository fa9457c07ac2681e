"""Numbers about a whole spectrum, each with its error: traces, diagonals, densities, determinants, linear systems."""

from gnfast.estimators.results import Diagonal, EffectiveDimension, Estimate, LogDet, Trace
from gnfast.estimators.traces import diagonal, trace

__all__ = ["Diagonal", "EffectiveDimension", "Estimate", "LogDet", "Trace", "diagonal", "trace"]
