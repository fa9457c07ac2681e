"""Activations and their derivatives against mpmath, from 0 to the largest arguments: a tail has all its digits."""

from __future__ import annotations

import mpmath as mp
import numpy as np
import pytest

import gnfast as gn

mp.mp.dps = 40


def logistic(z):
    return 1 / (1 + mp.exp(-z))


def tanh(z):
    return mp.tanh(z), mp.sech(z) ** 2


def sigmoid(z):
    return logistic(z), logistic(z) * logistic(-z)


def gelu(z):
    cdf = mp.erfc(-z / mp.sqrt(2)) / 2
    return z * cdf, cdf + z * mp.exp(-z * z / 2) / mp.sqrt(2 * mp.pi)


def gelu_tanh(z):
    c, a = mp.sqrt(2 / mp.pi), mp.mpf("0.044715")
    u, slope = c * (z + a * z**3), c * (1 + 3 * a * z**2)
    return z * logistic(2 * u), logistic(2 * u) + 2 * z * slope * logistic(2 * u) * logistic(-2 * u)


def silu(z):
    return z * logistic(z), logistic(z) + z * logistic(z) * logistic(-z)


def elu(z):
    return (z, mp.mpf(1)) if z > 0 else (mp.expm1(z), mp.exp(z))


def softplus(z):
    return (z, mp.mpf(1)) if z > 20 else (mp.log1p(mp.exp(z)), logistic(z))  # PyTorch's threshold


def relu(z):
    return (z, mp.mpf(1)) if z > 0 else (mp.mpf(0), mp.mpf(0))


EXACT = {f.__name__: f for f in (tanh, sigmoid, gelu, gelu_tanh, silu, elu, softplus, relu)}
# The zeros of derivatives away from the tails, where a derivative is a difference: absolute accuracy there.
ROOTS = {"gelu": (-1.0, -0.5), "gelu_tanh": (-1.0, -0.5), "silu": (-1.6, -1.0)}
# Behind this every tail is below the smallest number, and mpmath takes its time.
FAR = 1e4


def arguments(dtype):
    """Both signs of: 0, small ones, a grid over all tails, and up to the largest that a float32 has."""
    ends = {"float32": (14.0, 110.0), "float64": (40.0, 760.0)}[dtype]
    found = [np.zeros(1), np.geomspace(1e-37, 0.1, 12), np.linspace(0.1, ends[0], 120), np.linspace(*ends, 60)]
    found.append(np.array([1e3, 1e5, 1e10, 1e20, 1e38]))
    z = np.concatenate(found).astype(dtype)
    return np.concatenate([z, -z[1:]])


def computed(name, z):
    """Values and derivatives (m,) at z (m,)."""
    net = gn.Network([gn.Dense(np.ones((1, 1), z.dtype)), gn.Activation(name)])
    return net(z[:, None])[:, 0], net.linearize(z[:, None]).derivatives[0][:, 0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", EXACT)
def test_all_digits(name, dtype):
    """32 eps relative to numbers that are normal: below, 1/n of an eps is lost where n of them are."""
    z = arguments(dtype)
    info = np.finfo(dtype)
    far = {"elu": (mp.mpf(-1), mp.mpf(0)), "sigmoid": (mp.mpf(0), mp.mpf(0)), "tanh": (mp.mpf(-1), mp.mpf(0))}
    for at, *found in zip(z, *computed(name, z), strict=True):
        x = mp.mpf(float(at))
        if abs(x) < FAR:
            expected = EXACT[name](x)
        elif x < 0:
            expected = far.get(name, (mp.mpf(0), mp.mpf(0)))
        else:
            expected = (mp.mpf(1), mp.mpf(name == "elu")) if name in ("sigmoid", "tanh") else (x, mp.mpf(1))
        low, high = ROOTS.get(name, (0, 0))
        for value, true, floor in zip(found, expected, (0, 0.1 * (low < x < high)), strict=True):
            error = abs(mp.mpf(float(value)) - true)
            assert error <= 32 * float(info.eps) * max(abs(true), float(info.tiny), floor), (at, value, true)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("slope", [0.1, -0.5, 0.0, 2.0])
def test_leaky_relu(slope, dtype):
    z = arguments(dtype)
    net = gn.Network([gn.Dense(np.ones((1, 1), dtype)), gn.Activation("leaky_relu", slope)])
    eps = np.finfo(dtype).eps
    with np.errstate(under="ignore"):
        np.testing.assert_allclose(net(z[:, None])[:, 0], np.where(z > 0, z, slope * z), rtol=eps, atol=1e-44)
    found = net.linearize(z[:, None]).derivatives[0][:, 0]
    np.testing.assert_array_equal(found, np.where(z > 0, 1, slope).astype(dtype))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", [name for name in gn.networks.layers.ACTIVATIONS if name != "identity"])
def test_products_are_finite_far_out(name, dtype):
    """Whole operators at pre-activations of 1e20: 0 or 1 where something saturates, never NaN."""
    X = np.array([[1.0, 0.0], [-1.0, 0.5], [1e-3, -1.0]], dtype)
    net = gn.Network(
        [gn.Dense(np.array([[1e20, 1.0], [1.0, 2.0]], dtype)), gn.Activation(name), gn.Dense(X[:2].copy())]
    )
    G = gn.GaussNewton(net, X)
    scale = np.diag(1 / np.concatenate([np.ones(4), np.full(4, 1e20)])).astype(dtype)
    assert np.isfinite(G @ scale).all()
