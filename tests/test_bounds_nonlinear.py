"""Bounds of networks with activations and of all losses against explicit Jacobians."""

from __future__ import annotations

import importlib

import numpy as np
import oracles
import pytest
from bounding import assert_bounds, data, linear_network, with_activation
from hypothesis import given, settings
from hypothesis import strategies as st

import gnfast as gn
from gnfast import losses

deep_module = importlib.import_module("gnfast.bounds.deep")  # gn.bounds.deep is the function


# -------------------------------------------------------------------------------------------------------------- relu
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("skip", [0.0, 0.7])
@pytest.mark.parametrize(
    ("n", "d", "m", "k", "slope"),
    [
        (5, 8, 40, 2, 0.1),
        (5, 8, 40, 1, 0.5),
        (10, 4, 60, 2, 0.0),
        (10, 4, 60, 2, 0.2),
        (5, 8, 40, 2, 1.7),
        (6, 9, 4, 3, 0.3),
    ],
)
def test_relu_bound(n, d, m, k, slope, skip, bias):
    net = linear_network([d, m, k], skip=skip, bias=bias, gain=2.0)
    net = with_activation(net, gn.Activation("leaky_relu", slope) if slope else gn.Activation("relu"))
    X = data(n, d)
    bound = gn.bounds.relu(net, X)
    assert bound.name == "relu.paper"
    assert bound.applies
    assert_bounds(bound, net, X)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("slope", [0.0, 0.4, 1.7])
def test_relu_value_is_the_formula(slope, bias):
    net, X = with_activation(linear_network([8, 40, 2], bias=bias), gn.Activation("leaky_relu", slope)), data(5, 8)
    inputs, _ = oracles.linearize(net, X)
    x, g = (np.linalg.svd(np.hstack([A, np.ones((5, int(bias)))]), compute_uv=False) ** 2 for A in inputs)
    w = np.linalg.svd(net.dense[1].weight, compute_uv=False) ** 2
    upper, lower = max(1, slope**2) * x[0] * w[0] + g[0], min(1, slope**2) * x[-1] * w[-1] + g[-1]
    bound = gn.bounds.relu(net, X)
    assert bound.value == pytest.approx(upper / lower, rel=1e-9)
    assert bound.parts["lambda_max_upper"] == pytest.approx(upper / 5, rel=1e-9)
    assert bound.parts["lambda_min_lower"] == pytest.approx(lower / 5, rel=1e-9)


def test_relu_reasons():
    relu = gn.Activation("relu")
    X = data(20, 6)
    narrow = gn.bounds.relu(with_activation(linear_network([6, 9, 3]), relu), X)
    assert narrow.reason == "the hidden layer gives 9 features, fewer than the 20 samples"
    assert "bounds.linear" in gn.bounds.relu(linear_network([6, 9, 3]), X).reason
    assert "bounds.deep" in gn.bounds.relu(with_activation(linear_network([6, 9, 9, 3]), relu), X).reason
    assert "gelu" in gn.bounds.relu(with_activation(linear_network([6, 9, 3]), gn.Activation("gelu")), X).reason
    twins = np.vstack([X[:3], X[:1]])
    assert "not resolved" in gn.bounds.relu(with_activation(linear_network([6, 90, 3]), relu), twins).reason


# -------------------------------------------------------------------------------------------------------------- deep
@pytest.mark.parametrize(
    ("widths", "n", "slope"),
    [([10, 60, 60, 2], 8, 0.2), ([4, 80, 80, 80, 3], 8, 0.1), ([4, 400, 400, 1], 8, 0.0), ([5, 7, 3], 12, 0.1)],
)
def test_deep_bound(widths, n, slope):
    net = with_activation(linear_network(widths, gain=2.0), gn.Activation("leaky_relu", slope))
    X = data(n, widths[0])
    bound = gn.bounds.deep(net, X)
    assert_bounds(bound, net, X)
    assert bound.applies == (max(widths) > n)


@pytest.mark.parametrize("loss", ["mse", "cross_entropy", "binary_cross_entropy", "poisson", "gaussian_nll"])
@pytest.mark.parametrize("backward_gram", [False, True])
@pytest.mark.parametrize("name", ["identity", "relu", "leaky_relu", "tanh", "gelu", "sigmoid"])
def test_deep_bound_of_any_activation_and_loss(name, loss, backward_gram):
    net = with_activation(linear_network([9, 30, 41, 4], skip=0.5, bias=True, gain=2.0), gn.Activation(name))
    X = data(7, 9)
    bound = gn.bounds.deep(net, X, loss, backward_gram)
    assert bound.applies
    assert_bounds(bound, net, X, loss)
    assert np.isfinite(bound.parts["backward_max"]).all() == backward_gram
    assert len(bound.parts["inputs_max"]) == 3


@pytest.mark.parametrize("loss", ["mse", "cross_entropy", "binary_cross_entropy", "poisson", "gaussian_nll"])
@pytest.mark.parametrize("backward_gram", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_deep_value_is_the_formula(loss, backward_gram, bias):
    net = with_activation(
        linear_network([9, 30, 41, 4], skip=0.5, bias=bias, gain=2.0), gn.Activation("leaky_relu", 0.2)
    )
    X = data(7, 9)
    R = deep_module.hessian_factor(losses.loss_at(loss, None, 7, 4, net.dtype), oracles.forward(net, X))
    lower = upper = 0
    for A, B in zip(oracles.linearize(net, X)[0], oracles.backward(net, X), strict=True):
        A, B = A @ A.T + bias, np.einsum("iaq,iam->iqm", R, B)
        a, b = oracles.spectrum(A), oracles.spectrum(np.einsum("iqm,jrm->iqjr", B, B).reshape(2 * (7 * R.shape[2],)))
        blocks, scalars = B @ B.transpose(0, 2, 1), np.diag(A)[:, None, None] * np.eye(R.shape[2])
        lows, highs = [a[0] * blocks], [a[-1] * blocks]
        if backward_gram:
            lows, highs = [*lows, max(b[0], 0) * scalars], [*highs, b[-1] * scalars]
        lower = lower + max(lows, key=lambda block: np.linalg.eigvalsh(block).min())
        upper = upper + min(highs, key=lambda block: np.linalg.eigvalsh(block).max())
    bound = gn.bounds.deep(net, X, loss, backward_gram)
    assert bound.parts["lambda_max_upper"] == pytest.approx(np.linalg.eigvalsh(upper).max() / 7, rel=1e-10)
    # the ends of Poisson's blocks are decades apart: the low one has the digits that the high one leaves
    slack = 1e-14 * bound.parts["lambda_max_upper"]
    assert bound.parts["lambda_min_lower"] == pytest.approx(np.linalg.eigvalsh(lower).min() / 7, rel=1e-8, abs=slack)
    assert bound.value == pytest.approx(bound.parts["lambda_max_upper"] / bound.parts["lambda_min_lower"])


def test_deep_bound_with_an_activation_before_and_after():
    net = gn.Network([gn.Activation("tanh"), *linear_network([9, 30, 4]).layers, gn.Activation("sigmoid")])
    X = data(7, 9)
    bound = gn.bounds.deep(net, X, "cross_entropy")
    assert bound.applies
    assert_bounds(bound, net, X, "cross_entropy")


def test_deep_bound_takes_either_side():
    """Two samples that are nearly the same input are told apart by their backward rows alone."""
    rng = np.random.default_rng(0)
    X = data(2, 3)
    narrow = gn.Network(
        [gn.Dense(rng.standard_normal((50, 3))), gn.Activation("relu"), gn.Dense(rng.standard_normal((1, 50)))]
    )
    X[1] = X[0] * -1.0  # the first layer's inputs are dependent, its backward rows are not
    bound = gn.bounds.deep(narrow, X)
    assert bound.applies
    assert bound.parts["lower_side"][0] == "backward"
    assert bound.parts["inputs_min"][0] == 0
    assert_bounds(bound, narrow, X)


def test_deep_bound_does_not_depend_on_the_block_of_samples(monkeypatch):
    net = with_activation(linear_network([9, 30, 41, 3], bias=True, gain=2.0), gn.Activation("tanh"))
    X = data(11, 9)
    whole = gn.bounds.deep(net, X, backward_gram=False)
    monkeypatch.setattr(deep_module, "BLOCK_NUMBERS", 3 * 41 * 4)
    blocked = gn.bounds.deep(net, X, backward_gram=False)
    assert blocked.value == pytest.approx(whole.value, rel=1e-12)


def test_softmax_factor_has_full_column_rank():
    outputs = np.random.default_rng(0).standard_normal((5, 4)) * 3
    R = deep_module.hessian_factor(losses.loss_at("cross_entropy", None, *outputs.shape, outputs.dtype), outputs)
    assert R.shape == (5, 4, 3)
    np.testing.assert_allclose(R @ R.transpose(0, 2, 1), oracles.hessian("cross_entropy", outputs), atol=1e-15)


@pytest.mark.parametrize("likeliest", [0, 2])
def test_softmax_factor_keeps_its_digits_when_saturated(likeliest):
    """p = (1 - 2e, e, e) gives H the eigenvalues e and 3 e (1 - 2e), where forming 1 - p would lose half the digits."""
    outputs = np.zeros((1, 3))
    outputs[0, likeliest] = 40.0
    e = 1 / (2 + np.exp(40.0))
    R = deep_module.hessian_factor(losses.loss_at("cross_entropy", None, *outputs.shape, outputs.dtype), outputs)[0]
    np.testing.assert_allclose(np.linalg.svd(R, compute_uv=False) ** 2, [3 * e * (1 - 2 * e), e], rtol=1e-13)


def test_deep_reasons():
    X = data(20, 6)
    relu = gn.Activation("relu")
    narrow = gn.bounds.deep(with_activation(linear_network([6, 9, 9, 3]), relu), X, backward_gram=False)
    assert narrow.reason == "no layer has as many independent inputs, 9 at most, as there are samples, 20"
    wide_but_linear = gn.bounds.deep(linear_network([6, 90, 90, 3]), X)
    assert "6 at most" in wide_but_linear.reason
    twins = np.vstack([X[:3], X[:1]])
    same = gn.bounds.deep(with_activation(linear_network([6, 90, 3]), relu), twins, backward_gram=False)
    assert "independent to float64's precision" in same.reason
    same = gn.bounds.deep(with_activation(linear_network([6, 90, 3]), relu), twins, backward_gram=True)
    assert "not resolved" in same.reason


@given(
    widths=st.lists(st.integers(1, 20), min_size=2, max_size=4),
    n=st.integers(1, 6),
    name=st.sampled_from(["identity", "relu", "leaky_relu", "tanh", "gelu", "sigmoid"]),
    loss=st.sampled_from(["mse", "cross_entropy", "binary_cross_entropy", "poisson"]),
    skip=st.sampled_from([0.0, 0.7]),
    bias=st.booleans(),
    backward_gram=st.sampled_from([None, False]),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=150, deadline=None)
def test_deep_bounds_on_awkward_shapes(widths, n, name, loss, skip, bias, backward_gram, seed):
    widths = [*widths, 3]
    net = with_activation(linear_network(widths, seed, skip, bias, 2.0), gn.Activation(name))
    X = data(n, widths[0], seed)
    K = oracles.gram(net, X, loss)
    bound = gn.bounds.deep(net, X, loss, backward_gram)
    if oracles.spectrum(K)[-1] > 0:  # else every path is dead, and G is zero
        assert_bounds(bound, net, X, loss)
    else:
        assert not bound.applies
    if loss == "mse" and len(widths) == 3 and name in ("relu", "leaky_relu") and oracles.spectrum(K)[-1] > 0:
        assert_bounds(gn.bounds.relu(net, X), net, X)
