"""The network and the data as the bounds read them: checked, and in float64 whatever their dtype."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gnfast.bounds.bound import FloatArray
from gnfast.networks import Network
from gnfast.networks.layers import Activation, Dense, Flatten, Scale
from gnfast.networks.traversal import flat_layers


def as_data(net: Network, X: npt.ArrayLike) -> FloatArray:
    """X in float64, checked as the network itself would: (n, d), or (n, c, l) or (n, c, h, w) for images."""
    if net.kept is not None:
        raise ValueError("this bound is for networks whose weights are all parameters, not for a pruned one")
    data = net.check_samples(X)
    net.output_shape(data.shape[1:])
    return np.asarray(data, np.float64)


def is_dense(net: Network) -> bool:
    """Whether there are dense layers, activations, factors and residual blocks of these only."""
    return all(isinstance(layer, Dense | Activation | Scale | Flatten) for layer in flat_layers(net.layers))


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
    """Why a bound for linear networks of dense layers does not apply; empty if it does."""
    for layer in flat_layers(net.layers):
        if isinstance(layer, Activation) and not layer.is_linear:
            return f"activation {layer.name} is not linear; use bounds.relu or bounds.deep"
        if not isinstance(layer, Dense | Activation | Scale | Flatten):
            return f"{layer!r} is no dense layer" + ("; use bounds.conv" if net.is_linear else "")
    return ""
