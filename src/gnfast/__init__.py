"""Gauss-Newton curvature of wide neural networks: products, eigenvalues, condition numbers and their bounds."""

import importlib
from typing import Any

from gnfast._checks import CopyWarning
from gnfast._runtime import build_info, get_num_threads, set_num_threads  # first: it prepares the core for the rest

from gnfast.networks import Activation, Dense, Linearization, Network, load, mlp  # isort: skip
from gnfast import bounds, datasets
from gnfast.estimators import (
    Density,
    Diagonal,
    EffectiveDimension,
    Estimate,
    LogDet,
    NystromPreconditioner,
    SolveInfo,
    Trace,
    density,
    diagonal,
    effective_dimension,
    logdet,
    solve,
    trace,
)
from gnfast.operators import GaussNewton, Gram, Jacobian, LinearDual
from gnfast.plan import Plan
from gnfast.spectrum import (
    Condition,
    ConvergenceWarning,
    EigenInfo,
    Rank,
    RankProfile,
    Tracked,
    Tracker,
    cond,
    eigsh,
    rank,
    rank_profile,
)


def __getattr__(name: str) -> Any:
    """Bridges to other libraries are imported when somebody asks for them."""
    if name == "interop":
        return importlib.import_module("gnfast.interop")
    if name == "from_torch":
        return importlib.import_module("gnfast.interop.torch").from_torch
    raise AttributeError(f"module 'gnfast' has no attribute {name!r}")


__version__ = build_info()["version"]

__all__ = [
    "Activation",
    "Condition",
    "ConvergenceWarning",
    "CopyWarning",
    "Dense",
    "Density",
    "Diagonal",
    "EffectiveDimension",
    "EigenInfo",
    "Estimate",
    "GaussNewton",
    "Gram",
    "Jacobian",
    "LinearDual",
    "Linearization",
    "LogDet",
    "Network",
    "NystromPreconditioner",
    "Plan",
    "Rank",
    "RankProfile",
    "SolveInfo",
    "Trace",
    "Tracked",
    "Tracker",
    "bounds",
    "build_info",
    "cond",
    "datasets",
    "density",
    "diagonal",
    "effective_dimension",
    "eigsh",
    "get_num_threads",
    "load",
    "logdet",
    "mlp",
    "rank",
    "rank_profile",
    "set_num_threads",
    "solve",
    "trace",
]
