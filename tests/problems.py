"""What the tests of operators and spectra share: networks, data, blocks, and how near results must be."""

from __future__ import annotations

import itertools
import math

import numpy as np

import gnfast as gn


def network(widths, activation="identity", seed=0, bias=False, dtype="float64", skip=0.0):
    rng = np.random.default_rng(seed)
    layers = []
    for d, m in itertools.pairwise(widths):
        weight = (rng.standard_normal((m, d)) / math.sqrt(d)).astype(dtype)
        layers += [gn.Dense(weight, rng.standard_normal(m).astype(dtype) if bias else None, skip)]
        layers += [gn.Activation(activation, 0.1) if activation == "leaky_relu" else gn.Activation(activation)]
    return gn.Network(layers[:-1])


def data(n, d, decades=1.0, seed=1, dtype="float64"):
    """Features whose scales fall over so many decades."""
    return (np.random.default_rng(seed).standard_normal((n, d)) * np.logspace(0, -decades, d)).astype(dtype)


def problem(widths=(7, 12, 9, 4), n=6, loss="mse", activation="relu", bias=True, seed=0, dtype="float64"):
    """A network on data, n and the widths odd enough to leave remainders in every block."""
    return gn.GaussNewton(network(widths, activation, seed, bias, dtype), data(n, widths[0], 0, dtype=dtype), loss)


def close(found, expected, net, size=0.0):
    """Equal up to rounding: eps, times the length of the sums, times the size of what is summed.

    `size` is given where the result is a difference of larger terms; factor 20 for what cancels inside a layer.
    """
    assert found.dtype == net.dtype
    scale = max(float(np.abs(expected).max(initial=0)), size)
    slack = 20 * np.finfo(net.dtype).eps * (8 + sum(net.widths)) * scale
    np.testing.assert_allclose(found, expected, rtol=0, atol=slack)


def block(rng, rows, s, dtype):
    return np.asfortranarray(rng.standard_normal((rows, s)).astype(dtype))
