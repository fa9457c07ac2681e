"""Gauss-Newton curvature of wide neural networks: products, eigenvalues, condition numbers and their bounds."""

import importlib
from typing import Any

from gnfast._checks import CopyWarning
from gnfast._runtime import (  # first: it prepares the core for the rest
    build_info,
    get_float32_matmul_precision,
    get_num_threads,
    set_float32_matmul_precision,
    set_num_threads,
)

from gnfast.networks.convolutions import Conv1d, Conv2d, Pool  # isort: skip
from gnfast.networks.layers import Activation, Dense, Flatten, Residual, Scale  # isort: skip
from gnfast.networks.norms import BatchNorm, LayerNorm  # isort: skip
from gnfast.networks import Linearization, Network, load, mlp  # isort: skip
from gnfast import bounds, datasets, ensemble, limits, protocol
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
from gnfast.networks.architectures import resnet20
from gnfast.networks.pruning import PrunedNetwork, prune
from gnfast.operators import GaussNewton, Gram, LinearDual
from gnfast.operators.conv_dual import ConvDual
from gnfast.operators.jacobian import Jacobian
from gnfast.operators.layer_blocks import Block
from gnfast.operators.layer_slices import Layers
from gnfast.operators.plan import Plan
from gnfast.operators.preconditioners import Kfac, Preconditioned
from gnfast.operators.sharded import ShardedGaussNewton
from gnfast.spectrum import (
    Condition,
    ConvergenceWarning,
    EigenInfo,
    Rank,
    RankProfile,
    Tracked,
    Tracker,
    by_layer,
    cond,
    eigsh,
    operator,
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


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__", "from_torch", "interop"])


__version__ = build_info()["version"]

__all__ = [
    "Activation",
    "BatchNorm",
    "Block",
    "Condition",
    "Conv1d",
    "Conv2d",
    "ConvDual",
    "ConvergenceWarning",
    "CopyWarning",
    "Dense",
    "Density",
    "Diagonal",
    "EffectiveDimension",
    "EigenInfo",
    "Estimate",
    "Flatten",
    "GaussNewton",
    "Gram",
    "Jacobian",
    "Kfac",
    "LayerNorm",
    "Layers",
    "LinearDual",
    "Linearization",
    "LogDet",
    "Network",
    "NystromPreconditioner",
    "Plan",
    "Pool",
    "Preconditioned",
    "PrunedNetwork",
    "Rank",
    "RankProfile",
    "Residual",
    "Scale",
    "ShardedGaussNewton",
    "SolveInfo",
    "Trace",
    "Tracked",
    "Tracker",
    "bounds",
    "build_info",
    "by_layer",
    "cond",
    "datasets",
    "density",
    "diagonal",
    "effective_dimension",
    "eigsh",
    "ensemble",
    "get_float32_matmul_precision",
    "get_num_threads",
    "limits",
    "load",
    "logdet",
    "mlp",
    "operator",
    "protocol",
    "prune",
    "rank",
    "rank_profile",
    "resnet20",
    "set_float32_matmul_precision",
    "set_num_threads",
    "solve",
    "trace",
]
