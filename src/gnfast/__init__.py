"""Gauss-Newton curvature of wide neural networks: products, eigenvalues, condition numbers and their bounds."""

from gnfast._checks import CopyWarning
from gnfast._runtime import build_info, get_num_threads, set_num_threads  # first: it prepares the core for the rest

from gnfast.networks import Activation, Dense, Linearization, Network, load, mlp  # isort: skip
from gnfast import bounds, datasets
from gnfast.operators import GaussNewton, Gram, Jacobian, LinearDual
from gnfast.plan import Plan
from gnfast.spectrum import Condition, ConvergenceWarning, EigenInfo, Rank, Tracker, cond, eigsh, rank

__version__ = build_info()["version"]

__all__ = [
    "Activation",
    "Condition",
    "ConvergenceWarning",
    "CopyWarning",
    "Dense",
    "EigenInfo",
    "GaussNewton",
    "Gram",
    "Jacobian",
    "LinearDual",
    "Linearization",
    "Network",
    "Plan",
    "Rank",
    "Tracker",
    "bounds",
    "build_info",
    "cond",
    "datasets",
    "eigsh",
    "get_num_threads",
    "load",
    "mlp",
    "rank",
    "set_num_threads",
]
