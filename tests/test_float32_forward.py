"""float32 networks: the forward pass is made in float64 and rounded, so that eigenvalues are those of float64.

Pre-activations of some hundred, as pixels of 0 to 255 make them, have float32 rounding errors that saturated
activations pass on to their derivatives.
"""

from __future__ import annotations

import layer_oracles
import numpy as np
import oracles
import pytest

import gnfast as gn

EPS = 2.0**-23


def dense(rng, out, into, bias=False):
    W = (rng.standard_normal((out, into)) / np.sqrt(into)).astype("float32")
    return gn.Dense(W, rng.standard_normal(out).astype("float32") if bias else None)


def conv(rng, out, into, k, **options):
    W = (rng.standard_normal((out, into, k, k)) / np.sqrt(into * k * k)).astype("float32")
    return gn.Conv2d(W, rng.standard_normal(out).astype("float32"), **options)


def two_layers(act):
    return lambda r: [dense(r, 32, 64), gn.Activation(act), dense(r, 10, 32)]


def batch_norm(m):
    return gn.BatchNorm(np.ones(m, "float32"), training=True)


def given_norm(rng, m):
    mean, var = rng.uniform(50, 200, m).astype("float32"), rng.uniform(0.5, 2, m).astype("float32")
    return gn.BatchNorm(mean=mean, var=var)


# Layers by a generator of random numbers, and the shape of a sample.
NETS = {
    "tanh": (two_layers("tanh"), (64,)),
    "sigmoid": (two_layers("sigmoid"), (64,)),
    "gelu": (two_layers("gelu"), (64,)),
    "gelu_tanh": (two_layers("gelu_tanh"), (64,)),
    "silu": (two_layers("silu"), (64,)),
    "elu": (two_layers("elu"), (64,)),
    "softplus": (two_layers("softplus"), (64,)),
    "biases": (lambda r: [dense(r, 32, 64, True), gn.Activation("tanh"), dense(r, 5, 32, True)], (64,)),
    "three layers": (
        lambda r: [
            dense(r, 24, 64),
            gn.Activation("sigmoid"),
            dense(r, 16, 24),
            gn.Activation("tanh"),
            dense(r, 5, 16),
        ],
        (64,),
    ),
    "statistics": (
        lambda r: [given_norm(r, 64), dense(r, 16, 64), gn.Activation("tanh"), dense(r, 5, 16)],
        (64,),
    ),
    "layer norm": (
        lambda r: [dense(r, 16, 64), gn.LayerNorm(np.ones(16, "float32")), gn.Activation("tanh"), dense(r, 5, 16)],
        (64,),
    ),
    "batch norm": (
        lambda r: [dense(r, 16, 64), batch_norm(16), gn.Activation("tanh"), dense(r, 5, 16)],
        (64,),
    ),
    "residual": (
        lambda r: [
            dense(r, 16, 64),
            gn.Residual([gn.Activation("tanh"), dense(r, 16, 16)]),
            gn.Scale(0.5),
            dense(r, 5, 16),
        ],
        (64,),
    ),
    "shortcut": (
        lambda r: [gn.Residual([dense(r, 16, 64), gn.Activation("tanh")], [dense(r, 16, 64)], 0.3), dense(r, 5, 16)],
        (64,),
    ),
    "convolutions": (
        lambda r: [conv(r, 4, 1, 3), gn.Activation("tanh"), conv(r, 3, 4, 3, stride=2), gn.Flatten(), dense(r, 5, 12)],
        (1, 8, 8),
    ),
    "pools": (
        lambda r: [
            conv(r, 4, 1, 3),
            gn.Pool("max", 2),
            gn.Activation("tanh"),
            gn.Pool("average", 3),
            gn.Flatten(),
            dense(r, 3, 4),
        ],
        (1, 8, 8),
    ),
}


def pixels(n, shape, seed=0):
    """Digits-like: whole numbers from 0 to 255, many of them 0."""
    X = np.random.default_rng(seed).integers(-128, 256, (n, *shape))
    return np.maximum(X, 0).astype("float32")


def both(name, n=30, seed=0):
    """The network in float32, and the same numbers in float64."""
    make, shape = NETS[name]
    layers = make(np.random.default_rng([seed, 7]))
    net = gn.Network(layers)
    return net, net.with_parameters([a.astype("float64") for a in net.parameters()]), pixels(n, shape, seed)


@pytest.mark.parametrize("name", NETS)
def test_outputs_and_eigenvalues_are_those_of_float64(name, device):
    """Outputs to half a unit of their last digit; eigenvalues, made with float32 sums, to some eps of the largest."""
    single, double, X = both(name)
    F = double(X.astype("float64"))
    np.testing.assert_allclose(device.dressed(single)(X), F, rtol=1.01 * EPS / 2, atol=1e-12)
    exact = np.linalg.eigvalsh(gn.GaussNewton(double, X.astype("float64")).gram().to_dense())
    K = device.on(gn.GaussNewton(single, X)).gram().to_dense().astype("float64")
    np.testing.assert_allclose(np.linalg.eigvalsh(K), exact, rtol=0, atol=8 * EPS * exact[-1])


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "three layers", "convolutions"])
def test_intervals_hold(name):
    for seed in range(3):
        single, double, X = both(name, 40, seed)
        exact = np.linalg.eigvalsh(gn.GaussNewton(double, X.astype("float64")).gram().to_dense())
        _, info = gn.eigsh(gn.GaussNewton(single, X), 5, return_info=True, return_eigenvectors=False)
        for low, high in info.intervals:
            assert ((exact >= low) & (exact <= high)).any(), (name, seed, low, high)


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy", "poisson"])
def test_losses_see_outputs_in_float64(loss):
    """Outputs of some hundred: in float32 their rounding alone would change probabilities by 1e-5."""
    rng = np.random.default_rng(5)
    W = (rng.standard_normal((6, 8)) * 8).astype("float32")
    X = rng.uniform(0.5, 2, (12, 8)).astype("float32") * (0.1 if loss == "poisson" else 1)
    single, double = gn.Network([gn.Dense(W)]), gn.Network([gn.Dense(W.astype("float64"))])
    X = X.astype("float32")
    exact = np.linalg.eigvalsh(gn.GaussNewton(double, X.astype("float64"), loss).gram().to_dense())
    K = gn.GaussNewton(single, X, loss).gram().to_dense().astype("float64")
    np.testing.assert_allclose(np.linalg.eigvalsh(K), exact, rtol=0, atol=8 * EPS * exact[-1])


@pytest.mark.parametrize("name", ["tanh", "residual", "convolutions", "pools", "statistics"])
def test_blocks_of_samples_change_nothing(name):
    """A memory limit makes the pass in smaller blocks: the same rounded numbers but for a last digit here and there."""
    single, _, X = both(name, 61)
    free = gn.GaussNewton(single, X, method="usual")
    V = np.asfortranarray(np.random.default_rng(3).standard_normal((free.shape[0], 2)).astype("float32"))
    expected = free @ V
    least = next(limit for limit in np.geomspace(1e4, 1e8, 60) if fits(single, X, limit))
    for limit in (least, 1.5 * least, 4 * least):
        found = gn.GaussNewton(single, X, method="usual", memory_limit=limit) @ V
        np.testing.assert_allclose(found, expected, rtol=0, atol=16 * EPS * np.abs(expected).max())


def fits(net, X, limit):
    try:
        gn.GaussNewton(net, X, method="usual", memory_limit=limit)
    except MemoryError:
        return False
    return True


def test_against_loops():
    """Not against the same library in float64, but NumPy's loops."""
    single, _, X = both("three layers", 12)
    J = oracles.jacobian(single.layers, X.astype("float64"))
    exact = np.linalg.eigvalsh(J @ J.T / 12)
    found = np.linalg.eigvalsh(gn.GaussNewton(single, X).gram().to_dense().astype("float64"))
    np.testing.assert_allclose(found, exact, rtol=0, atol=8 * EPS * exact[-1])
    single, _, X = both("convolutions", 6)
    J = layer_oracles.jacobian(single.layers, X.astype("float64"))
    exact = np.linalg.eigvalsh(J @ J.T / 6)
    found = np.linalg.eigvalsh(gn.GaussNewton(single, X).gram().to_dense().astype("float64"))
    np.testing.assert_allclose(found, exact, rtol=0, atol=8 * EPS * exact[-1])


# ------------------------------------------------------------------------------------------------- nothing to divide by
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("value", [1.0, 0.1, 1e8 / 3, -7.7, 0.0])
def test_equal_values_without_eps(value, dtype, device):
    ones = np.ones(2, dtype)
    X = np.array([[value, 1.0], [value, 2.0], [value, 4.0]], dtype)
    net = gn.Network([gn.BatchNorm(ones, ones.copy(), eps=0.0, training=True)])
    V = np.ones((4, 1), dtype)
    with pytest.raises(ValueError, match="batch normalisation divides by the standard deviation of a channel"):
        device.on(gn.GaussNewton(net, X)) @ V
    with pytest.raises(ValueError, match="batch normalisation divides"):
        device.dressed(net)(X)
    net = gn.Network([gn.LayerNorm(ones, ones.copy(), eps=0.0)])
    X[1] = value
    with pytest.raises(ValueError, match="layer normalisation divides by the standard deviation of a sample"):
        device.on(gn.GaussNewton(net, X)) @ V
    X[:, 1] = X[:, 0] + max(1.0, abs(value))
    assert np.isfinite(device.on(gn.GaussNewton(net, X)) @ V).all()
