"""Linear convolutional networks by loops in NumPy float64: outputs, and Jacobians column by column.

Nothing here imports gnfast or composes kernels: every layer pads and slides for itself. Outputs are affine in every
parameter, so that the difference of two outputs is a column of the Jacobian, exactly.
"""

from __future__ import annotations

import itertools

import numpy as np


def forward(layers, X, values=None):
    """Outputs (n, channels, positions...) or (n, k), the layers' parameters replaced by `values`, one list per layer."""
    out = np.asarray(X, np.float64)
    for layer, given in zip(layers, values or [parameters(layer) for layer in layers], strict=True):
        out = apply(layer, given, out)
    return out


def parameters(layer):
    return [
        np.asarray(array, np.float64)
        for array in (getattr(layer, "weight", None), getattr(layer, "bias", None))
        if array is not None
    ]


def apply(layer, given, x):
    if hasattr(layer, "factor"):
        return layer.factor * x
    if type(layer).__name__ == "Flatten":
        return x.reshape(len(x), -1)
    if hasattr(layer, "kernel_size"):
        axes = x.ndim - 2
        size = x.shape[2:] if layer.kind == "global_average" else spread(layer.kernel_size, axes)
        stride = (1,) * axes if layer.kind == "global_average" else spread(layer.stride or layer.kernel_size, axes)
        c = x.shape[1]
        kernel = np.full((c, 1, *size), 1 / np.prod(size))
        return convolve(x, kernel, stride, (1,) * axes, c)
    if not hasattr(layer, "weight"):
        return x
    weight, bias = given[0], given[1] if len(given) > 1 else None
    if weight.ndim == 2:
        return x @ (weight + layer.skip * np.eye(*weight.shape)).T + (0 if bias is None else bias)
    axes = weight.ndim - 2
    pads = [(0, 0), (0, 0), *((p, p) for p in spread(layer.padding, axes))]
    x = np.pad(x, pads, mode="wrap" if layer.padding_mode == "circular" else "constant")
    out = convolve(x, weight, spread(layer.stride, axes), spread(layer.dilation, axes), layer.groups)
    return out if bias is None else out + bias.reshape(-1, *(1,) * axes)


def spread(value, axes):
    return (value,) * axes if np.isscalar(value) else tuple(value)


def convolve(x, kernel, stride, dilation, groups):
    """Output channel o at position u: the sum over its group's channels and taps t of K[o, c, t] x[c, stride u + dilation t]."""
    out_channels, share, *taps = kernel.shape
    counts = [(m - d * (k - 1) - 1) // q + 1 for m, k, q, d in zip(x.shape[2:], taps, stride, dilation, strict=True)]
    out = np.zeros((len(x), out_channels, *counts))
    for o in range(out_channels):
        first = o // (out_channels // groups) * share
        for u in itertools.product(*map(range, counts)):
            at = tuple(
                slice(q * i, q * i + d * (k - 1) + 1, d) for q, i, d, k in zip(stride, u, dilation, taps, strict=True)
            )
            window = x[(slice(None), slice(first, first + share), *at)]
            out[(slice(None), o, *u)] = (window * kernel[o]).reshape(len(x), -1).sum(1)
    return out


def jacobian(layers, X):
    """J (n k, p), k all channels and positions of the output, parameters in layer order, weight before bias."""
    values = [parameters(layer) for layer in layers]
    columns = []
    for given in values:
        for index, array in enumerate(given):
            given[index] = np.zeros_like(array)
            base = forward(layers, X, values)
            for entry in np.ndindex(array.shape):
                given[index][entry] = 1
                columns.append((forward(layers, X, values) - base).ravel())
                given[index][entry] = 0
            given[index] = array
    return np.array(columns).T


def gauss_newton(layers, X):
    J = jacobian(layers, X)
    return J.T @ J / len(X)
