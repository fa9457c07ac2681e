"""Networks of convolutions, pools and residual blocks by loops in NumPy float64: outputs, and Jacobians by columns.

Nothing here imports gnfast or composes kernels: every layer pads and slides for itself. A layer is affine in its
parameters, and all but activations are affine in their inputs, so that derivatives are differences, exact but for
rounding. Parameters are flat in layer order, weight before bias, a block's body before its shortcut.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import oracles


def forward(layers, X):
    """Outputs (n, channels, positions...) or (n, k)."""
    out = np.asarray(X, np.float64)
    for layer in layers:
        out = apply(layer, parameters(layer), out)
    return out


def jacobian(layers, X):
    """J (n k, p), k all numbers of an output."""
    tangents = walk(layers, np.asarray(X, np.float64))[1]
    return tangents.reshape(len(tangents), -1).T


def gauss_newton(layers, X):
    J = jacobian(layers, X)
    return J.T @ J / len(X)


def gram(layers, X, loss="mse"):
    """K (n k, n k) = R^T J J^T R / n."""
    outputs, J = forward(layers, X), jacobian(layers, X)
    R = oracles.hessian_root(loss, outputs.reshape(len(X), -1))
    RJ = np.einsum("iab,iap->ibp", R, J.reshape(*R.shape[:2], -1)).reshape(J.shape)
    return RJ @ RJ.T / len(X)


def walk(layers, x):
    """The output (n, ...), and its derivative (p, n, ...) in every parameter."""
    tangents = np.zeros((0, *x.shape))
    for layer in layers:
        tangents = np.concatenate([push(layer, x, tangents), own(layer, x)])
        x = apply(layer, parameters(layer), x)
    return x, tangents


def push(layer, x, tangents):
    """The derivative of a layer's output along directions (s, n, ...) of its input (n, ...)."""
    if hasattr(layer, "slope"):
        return oracles.derivative(oracles.Activation(layer.name, layer.slope), x) * tangents
    if hasattr(layer, "shortcut"):
        return along(layer.shortcut or (), x, tangents) + layer.scale * along(layer.layers, x, tangents)
    given = parameters(layer)[:1]  # the bias drops out
    out = apply(layer, given, tangents.reshape(-1, *x.shape[1:]))
    return out.reshape(len(tangents), len(x), *out.shape[1:])


def along(layers, x, tangents):
    for layer in layers:
        tangents = push(layer, x, tangents)
        x = apply(layer, parameters(layer), x)
    return tangents


def own(layer, x):
    """The derivative (p, n, ...) of a layer's output in each of its own parameters."""
    if hasattr(layer, "shortcut"):
        return np.concatenate([layer.scale * walk(layer.layers, x)[1], walk(layer.shortcut or (), x)[1]])
    zero = [np.zeros_like(array) for array in parameters(layer)]
    base = apply(layer, zero, x)
    found = np.zeros((sum(array.size for array in zero), *base.shape))
    entries = ((array, entry) for array in zero for entry in np.ndindex(array.shape))
    for row, (array, entry) in zip(found, entries, strict=True):
        array[entry] = 1
        row[:] = apply(layer, zero, x) - base
        array[entry] = 0
    return found


def parameters(layer):
    arrays = getattr(layer, "weight", None), getattr(layer, "bias", None)
    return [np.asarray(array, np.float64) for array in arrays if array is not None]


def apply(layer, given, x):
    """A layer with these parameters."""
    if hasattr(layer, "shortcut"):
        around = forward(layer.shortcut, x) if layer.shortcut else x
        return around + layer.scale * forward(layer.layers, x)
    if hasattr(layer, "slope"):
        return oracles.activate(oracles.Activation(layer.name, layer.slope), x)
    if hasattr(layer, "factor"):
        return layer.factor * x
    if hasattr(layer, "mode"):
        axes, c = x.ndim - 2, x.shape[1]
        size = x.shape[2:] if layer.kernel_size is None else spread(layer.kernel_size, axes)
        stride = size if layer.stride is None else spread(layer.stride, axes)
        x = np.pad(x, [(0, 0), (0, 0), *((p, p) for p in spread(layer.padding, axes))])
        return convolve(x, np.full((c, 1, *size), 1 / np.prod(size)), stride, (1,) * axes, c)
    if not given:
        return x.reshape(len(x), math.prod(x.shape[1:]))  # Flatten
    weight, bias = given[0], given[1] if len(given) > 1 else None
    if weight.ndim == 2:
        return x @ (weight + layer.skip * np.eye(*weight.shape)).T + (0 if bias is None else bias)
    axes = weight.ndim - 2
    dilation = spread(layer.dilation, axes)
    if layer.padding == "same":  # the odd one of an even kernel comes after
        both = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        pads = [(b // 2, b - b // 2) for b in both]
    else:
        given_pads = spread(0 if layer.padding == "valid" else layer.padding, axes)
        pads = [(p, p) if np.isscalar(p) else tuple(p) for p in given_pads]
    x = np.pad(x, [(0, 0), (0, 0), *pads], mode="wrap" if layer.padding_mode == "circular" else "constant")
    out = convolve(x, weight, spread(layer.stride, axes), dilation, layer.groups)
    return out if bias is None else out + bias.reshape(-1, *(1,) * axes)


def spread(value, axes):
    return (value,) * axes if np.isscalar(value) else tuple(value)


def convolve(x, kernel, stride, dilation, groups):
    """Channel o at position u: the sum of K[o, c, t] x[c, stride u + dilation t] over its group's c, and taps t."""
    out_channels, share, *taps = kernel.shape
    counts = [(m - d * (k - 1) - 1) // q + 1 for m, k, q, d in zip(x.shape[2:], taps, stride, dilation, strict=True)]
    out = np.zeros((len(x), out_channels, *counts))
    for u in itertools.product(*map(range, counts)):
        steps = zip(stride, u, dilation, taps, strict=True)
        window = x[:, :, *(slice(q * i, q * i + d * (k - 1) + 1, d) for q, i, d, k in steps)]
        for group in range(groups):
            part = window[:, group * share : (group + 1) * share].reshape(len(x), share * math.prod(taps))
            rows = slice(group * out_channels // groups, (group + 1) * out_channels // groups)
            out[:, rows, *u] = part @ kernel[rows].reshape(-1, share * math.prod(taps)).T
    return out
