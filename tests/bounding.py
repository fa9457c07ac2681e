"""What the tests of the bounds share: networks, data, and the comparison with an explicit spectrum."""

from __future__ import annotations

import numpy as np
import oracles

import gnfast as gn

EPS = np.finfo(np.float64).eps


def linear_network(widths, seed=0, skip=0.0, bias=False, gain=1.0):
    """A linear network with biases that are not zero."""
    rng = np.random.default_rng(seed)
    layers = []
    for m, n in zip(widths[1:], widths[:-1], strict=True):
        weight = rng.standard_normal((m, n)) * np.sqrt(gain / n)
        layers.append(gn.Dense(weight, rng.standard_normal(m) if bias else None, skip))
    return gn.Network(layers)


def with_activation(net, activation):
    layers = [part for layer in net.dense for part in (layer, activation)]
    return gn.Network(layers[:-1])


def data(n, d, seed=1):
    return np.random.default_rng(seed).standard_normal((n, d)) * np.linspace(0.5, 2, d)


def exact(net, X, loss="mse"):
    """Condition number over the non-zero spectrum and the slack of its own rounding."""
    K = oracles.gram(net, X, loss)
    kappa = oracles.kappa(K)
    return kappa, 1e-9 + len(K) * EPS * kappa


def assert_bounds(bound, net, X, loss="mse"):
    """The value and, where they are given, the ends of the spectrum."""
    kappa, slack = exact(net, X, loss)
    assert bound.value >= kappa * (1 - slack), bound
    values = oracles.nonzero(oracles.gram(net, X, loss))
    if "lambda_max_upper" in bound.parts:
        assert bound.parts["lambda_max_upper"] >= values[-1] * (1 - 1e-9), bound
        assert bound.parts["lambda_min_lower"] <= values[0] * (1 + slack), bound
    if not bound.applies:
        assert bound.reason
