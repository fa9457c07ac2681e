"""Numbers about a whole spectrum, each with its error: traces, diagonals, densities, determinants, linear systems."""

from gnfast.estimators.densities import Density, density
from gnfast.estimators.functions import effective_dimension, logdet
from gnfast.estimators.results import Diagonal, EffectiveDimension, Estimate, LogDet, Trace
from gnfast.estimators.systems import NystromPreconditioner, SolveInfo, solve
from gnfast.estimators.traces import diagonal, trace

__all__ = [
    "Density",
    "Diagonal",
    "EffectiveDimension",
    "Estimate",
    "LogDet",
    "NystromPreconditioner",
    "SolveInfo",
    "Trace",
    "density",
    "diagonal",
    "effective_dimension",
    "logdet",
    "solve",
    "trace",
]
