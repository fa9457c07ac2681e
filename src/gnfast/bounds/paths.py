"""The linear maps before and after every dense layer of a linear network with residual blocks nested at will.

A block is x -> shortcut(x) + scale body(x), the shortcut the identity unless it has layers of its own. The derivative
of F in a dense layer W of its body is A dW B: B is what leads from the input to W, that is everything before the block
and the body before W; A what leads on, the body after W times `scale` and everything after the block. Both include the
shortcuts of all other blocks, and none of this one's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gnfast.bounds.bound import FloatArray
from gnfast.networks.layers import Dense, Layer, Residual, Scale
from gnfast.networks.traversal import flat_layers


def dense_layers(layers: Sequence[Layer]) -> list[Dense]:
    """All dense layers, those in residual blocks included, in the order of the forward pass."""
    return [layer for layer in flat_layers(layers) if isinstance(layer, Dense)]


def has_blocks(layers: Sequence[Layer]) -> bool:
    """Whether any of the layers is a residual block."""
    return any(isinstance(layer, Residual) for layer in layers)


def before(layers: Sequence[Layer], value: FloatArray, one: FloatArray) -> list[FloatArray]:
    """B of every dense layer, (in, r): its input as a linear map of r directions, `value` (d, r) that of the first.

    one (r,) is what the constant 1 is in these directions, which biases add to.
    """
    found: list[FloatArray] = []
    _forward(layers, value, one, found)
    return found


def after(layers: Sequence[Layer], outputs: int) -> list[FloatArray]:
    """A of every dense layer, (k, out)."""
    found: list[FloatArray] = []
    _backward(layers, np.eye(outputs), found)
    return found[::-1]


def effective(layer: Dense) -> FloatArray:
    """weight + skip * I, rectangular identity, (out, in) in float64."""
    weight = np.asarray(layer.weight, np.float64)
    if layer.skip:
        weight = weight.copy()
        diagonal = np.arange(min(weight.shape))
        weight[diagonal, diagonal] += layer.skip
    return weight


def _forward(layers: Sequence[Layer], value: FloatArray, one: FloatArray, found: list[FloatArray]) -> FloatArray:
    for layer in layers:
        if isinstance(layer, Dense):
            found.append(value)
            value = effective(layer) @ value
            if layer.bias is not None:
                value += np.outer(layer.bias, one)
        elif isinstance(layer, Residual):
            body = _forward(layer.layers, value, one, found)
            value = _forward(layer.shortcut or (), value, one, found) + layer.scale * body
        elif isinstance(layer, Scale):
            value = layer.factor * value
    return value


def _backward(layers: Sequence[Layer], left: FloatArray, found: list[FloatArray]) -> FloatArray:
    """In reverse, so that a block's shortcut comes before its body."""
    for layer in reversed(layers):
        if isinstance(layer, Dense):
            found.append(left)
            left = left @ effective(layer)
        elif isinstance(layer, Residual):
            around = _backward(layer.shortcut or (), left, found)
            left = around + _backward(layer.layers, layer.scale * left, found)
        elif isinstance(layer, Scale):
            left = layer.factor * left
    return left
