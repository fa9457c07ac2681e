"""Bounds of networks with residual blocks, linear and with activations, against explicit Jacobians."""

from __future__ import annotations

import layer_oracles
import numpy as np
import oracles
import pytest
from bounding import EPS, data

import gnfast as gn

PARTIAL = ("joint", "matrix", "convex", "loose")


def weight(rng, out, into):
    return rng.standard_normal((out, into)) / np.sqrt(into)


def dense(rng, out, into, bias=False):
    return gn.Dense(weight(rng, out, into), rng.standard_normal(out) if bias else None)


def blocks(rng, widths, activation="identity", bias=False, scale=0.7):
    """Dense, two blocks (one with two layers, one with layers in its shortcut and a block in its body), dense."""
    d, m, h, k = widths
    act = gn.Activation(activation, 0.3) if activation == "leaky_relu" else gn.Activation(activation)
    return gn.Network(
        [
            dense(rng, m, d, bias),
            act,
            gn.Residual([dense(rng, h, m, bias), act, dense(rng, m, h)], scale=scale),
            gn.Scale(1.3),
            gn.Residual(
                [act, dense(rng, m, m, bias), gn.Residual([dense(rng, m, m), act], scale=-0.4)],
                shortcut=[dense(rng, m, m, bias)],
            ),
            act,
            dense(rng, k, m),
        ]
    )


def spectrum(net, X, loss="mse"):
    return oracles.nonzero(layer_oracles.gram(net.layers, X, loss), 1e-12)


def assert_bounds(bound, values):
    kappa = values[-1] / values[0]
    slack = 1e-8 + 1e3 * EPS * kappa
    assert bound.value >= kappa * (1 - slack), (bound, kappa)
    if bound.applies and "lambda_max_upper" in bound.parts:
        assert bound.parts["lambda_max_upper"] >= values[-1] * (1 - 1e-9), bound
        assert bound.parts["lambda_min_lower"] <= values[0] * (1 + slack), bound
    assert bound.applies or bound.reason


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("widths", "n"), [((4, 7, 9, 3), 30), ((4, 7, 2, 3), 30), ((5, 8, 6, 2), 3), ((2, 6, 3, 4), 9)]
)
def test_linear_forms_with_blocks(widths, n, bias):
    net, X = blocks(np.random.default_rng(0), widths, bias=bias), data(n, widths[0])
    bounds = {form: gn.bounds.residual(net, X, form) for form in PARTIAL}
    for bound in bounds.values():
        assert_bounds(bound, spectrum(net, X))
    assert bounds["joint"].applies
    values = [bounds[form].value for form in PARTIAL]
    assert np.all(np.diff(values) >= -1e-9 * values[0])
    same = gn.bounds.linear(net, X, "joint")
    assert same.value == bounds["joint"].value


def test_partial_products_are_those_of_the_docstring():
    """F = (I + s2 D C) (I + s1 B A) x, layer by layer."""
    rng = np.random.default_rng(1)
    A, B, C, D = weight(rng, 7, 4), weight(rng, 4, 7), weight(rng, 9, 4), weight(rng, 4, 9)
    s1, s2 = 0.6, -1.1
    net = gn.Network(
        [gn.Residual([gn.Dense(A), gn.Dense(B)], scale=s1), gn.Residual([gn.Dense(C), gn.Dense(D)], scale=s2)]
    )
    X = data(25, 4)
    first, second, eye = np.eye(4) + s1 * B @ A, np.eye(4) + s2 * D @ C, np.eye(4)
    left = [second @ B * s1, second * s1, D * s2, eye * s2]
    right = [eye, A, first, C @ first]
    found = gn.bounds.residual(net, X, "convex")
    for name, matrices in (("left", left), ("right", right)):
        s = [np.linalg.svd(M, compute_uv=False)[:4] ** 2 for M in matrices]
        np.testing.assert_allclose(found.parts[f"{name}_max"], [v[0] for v in s], rtol=1e-9)
        np.testing.assert_allclose(found.parts[f"{name}_min"], [v[-1] for v in s], rtol=1e-7)
    sigma = X.T @ X / 25
    S = np.linalg.cholesky(sigma)
    dual = sum(np.kron(L @ L.T, S.T @ R.T @ R @ S) for L, R in zip(left, right, strict=True))
    assert oracles.kappa(dual) == pytest.approx(oracles.kappa(layer_oracles.gauss_newton(net.layers, X)), rel=1e-8)


def test_a_block_over_one_layer_is_a_dense_layer_with_a_skip():
    """x + s W x has the derivative s dW x: the block's scale is in its own layer's term."""
    rng = np.random.default_rng(2)
    V, W, U = weight(rng, 6, 4), weight(rng, 6, 6), weight(rng, 3, 6)
    X = data(20, 4)
    block = gn.Network([gn.Dense(V), gn.Residual([gn.Dense(W)]), gn.Dense(U)])
    skip = gn.Network([gn.Dense(V), gn.Dense(W, skip=1.0), gn.Dense(U)])
    for form in PARTIAL:
        assert gn.bounds.residual(block, X, form).value == pytest.approx(gn.bounds.residual(skip, X, form).value)


def test_forms_that_read_single_layers_say_so():
    net, X = blocks(np.random.default_rng(0), (4, 7, 9, 3)), data(30, 4)
    assert "residual blocks" in gn.bounds.linear(net, X, "equality").reason
    assert "residual blocks" in gn.bounds.linear(net, X, "layers").reason
    assert "skips over one" in gn.bounds.residual(net, X, "apriori").reason
    relu = blocks(np.random.default_rng(0), (4, 7, 9, 3), "relu")
    assert "activation relu" in gn.bounds.residual(relu, X).reason
    assert "bounds.deep" in gn.bounds.relu(relu, X).reason
    plain = gn.Network([gn.Dense(np.eye(4))])
    assert "no layer has a skip" in gn.bounds.residual(plain, X).reason


@pytest.mark.parametrize("loss", ["mse", "cross_entropy", "binary_cross_entropy"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", ["relu", "leaky_relu", "tanh", "identity"])
def test_deep_with_blocks(name, bias, loss):
    net, X = blocks(np.random.default_rng(3), (7, 10, 12, 3), name, bias), data(5, 7)
    values = spectrum(net, X, loss)
    for backward_gram in (False, True):
        bound = gn.bounds.deep(net, X, loss, backward_gram)
        assert bound.applies
        assert len(bound.parts["inputs_max"]) == 7
        assert_bounds(bound, values)


def test_deep_with_blocks_is_the_formula():
    """Inputs and rows of a block's layers from the explicit Jacobian of a twin with biases of zero."""
    rng = np.random.default_rng(4)
    A, B, C = weight(rng, 20, 5), weight(rng, 13, 20), weight(rng, 20, 13)
    act = gn.Activation("leaky_relu", 0.3)
    X = data(4, 5)

    def layers(bias):
        b = [np.zeros(m) if bias else None for m in (20, 13, 20)]
        return [gn.Dense(A, b[0]), act, gn.Residual([gn.Dense(B, b[1]), act, gn.Dense(C, b[2])], scale=0.5), act]

    J = layer_oracles.jacobian(layers(True), X).reshape(4, 20, -1)
    sizes = np.cumsum([0, A.size, 20, B.size, 13, C.size, 20])
    rows = [J[:, :, sizes[i] : sizes[i + 1]] for i in (1, 3, 5)]
    hidden = layer_oracles.forward(layers(False)[:2], X)
    inner = np.where(hidden @ B.T > 0, hidden @ B.T, 0.3 * hidden @ B.T)
    upper = lower = 0
    for values, back in zip((X, hidden, inner), rows, strict=True):
        w = oracles.spectrum(values @ values.T)
        upper, lower = (
            upper + w[-1] * back @ back.transpose(0, 2, 1),
            lower + max(w[0], 0) * back @ back.transpose(0, 2, 1),
        )
    bound = gn.bounds.deep(gn.Network(layers(False)), X, backward_gram=False)
    assert bound.parts["lambda_max_upper"] == pytest.approx(np.linalg.eigvalsh(upper).max() / 4, rel=1e-9)
    assert bound.parts["lambda_min_lower"] == pytest.approx(np.linalg.eigvalsh(lower).min() / 4, rel=1e-6)


def test_deep_refuses_convolutions():
    rng = np.random.default_rng(0)
    net = gn.Network([gn.Conv1d(rng.standard_normal((2, 1, 3))), gn.Activation("relu"), gn.Flatten()])
    bound = gn.bounds.deep(net, rng.standard_normal((3, 1, 5)))
    assert not bound.applies
    assert "other layers" in bound.reason


def test_all_with_blocks():
    X = data(6, 9)
    linear = gn.bounds.all(blocks(np.random.default_rng(3), (9, 24, 31, 3)), X)
    assert {"linear.joint", "linear.matrix", "linear.convex"} <= {bound.name for bound in linear}
    relu = gn.bounds.all(blocks(np.random.default_rng(3), (9, 24, 31, 3), "relu"), X)
    assert [bound.name for bound in relu] == ["deep.schur"]


def test_random_blocks():
    applied = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        widths = tuple(int(w) for w in rng.integers(1, 6, 4))
        net = blocks(rng, widths, bias=bool(seed % 2), scale=float(rng.normal()))
        X = data(int(rng.integers(1, 8)), widths[0], seed)
        values = spectrum(net, X)
        for form in PARTIAL:
            bound = gn.bounds.residual(net, X, form)
            assert_bounds(bound, values)
            applied += bound.applies
        relu = blocks(rng, widths, "leaky_relu")
        assert_bounds(gn.bounds.deep(relu, X), spectrum(relu, X))
    assert applied > 100
