"""The network and the data as the bounds read them: checked, and in float64 whatever their dtype."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gnfast.bounds.bound import FloatArray
from gnfast.layers import Activation, Dense
from gnfast.networks import Network


def as_data(net: Network, X: npt.ArrayLike) -> FloatArray:
    """X (n, d) in float64, checked as the network itself would."""
    if not net.is_chain:
        raise ValueError(f"this bound is for networks of dense layers and activations, not {net!r}")
    if net.kept is not None:
        raise ValueError("this bound is for networks whose weights are all parameters, not for a pruned one")
    return np.asarray(net.check_samples(X), np.float64)


def in_float64(net: Network) -> Network:
    """The same network computing in float64: the rounding of a float32 pass would hide small eigenvalues."""
    if net.dtype == np.float64:
        return net
    return net.with_parameters([parameter.astype(np.float64) for parameter in net.parameters()])


def with_ones(A: FloatArray, layer: Dense) -> FloatArray:
    """The layer's input (n, m), with the column of ones that its bias sees."""
    return A if layer.bias is None else np.hstack([A, np.ones((len(A), 1))])


def activations(net: Network) -> list[Activation]:
    """The activations that do something."""
    return [layer for layer in net.layers if isinstance(layer, Activation) and layer.name != "identity"]


def nonlinearity(net: Network) -> str:
    """Why a bound for linear networks does not apply; empty if it does."""
    if net.is_linear:
        return ""
    return f"activation {activations(net)[0].name} is not linear; use bounds.relu or bounds.deep"
