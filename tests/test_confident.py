"""Products, Grams, traces, K-FAC and condition numbers at samples of which a classifier is sure."""

from __future__ import annotations

import functools
import itertools
import math

import confident
import numpy as np
import oracles
import pytest
import scipy.optimize
from hypothesis import example, given, settings
from hypothesis import strategies as st
from problems import block
from scipy.special import expit, log_softmax, softmax

import gnfast as gn

EPS = {"float64": 2.3e-16, "float32": 1.2e-7}
LOSSES = ["cross_entropy", "binary_cross_entropy", "poisson"]


def at_outputs(outputs, dtype="float64"):
    """A network of one sample, 1, whose outputs are these and whose Jacobian is the identity: G = H."""
    return gn.Network([gn.Dense(np.asarray(outputs, dtype)[:, None])]), np.ones((1, 1), dtype)


def sure(margin, k=3, n=12, dtype="float64", seed=0):
    """One layer with biases that make the first class likelier by `margin`, X of two features."""
    X = np.random.default_rng(seed).standard_normal((n, 2))
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    bias = np.concatenate([[float(margin)], -np.arange(k - 1.0)])
    return gn.Network([gn.Dense(np.zeros((k, 2), dtype), bias.astype(dtype))]), X.astype(dtype)


def separable(scale, dtype="float64", n=200, d=4, k=3, seed=0):
    """Logistic regression whose weights have grown by `scale` on classes far apart."""
    rng = np.random.default_rng(seed)
    X = (np.eye(k, d) * 3)[rng.integers(0, k, n)] + 0.3 * rng.standard_normal((n, d))
    return gn.Network([gn.Dense((scale * np.eye(k, d)).astype(dtype))]), X.astype(dtype)


def deep(scale, dtype="float64", widths=(5, 9, 8, 4), n=7, seed=0, activation="tanh"):
    """A network whose last layer has grown."""
    rng = np.random.default_rng(seed)
    layers = []
    for d, m in itertools.pairwise(widths):
        layers += [gn.Dense((rng.standard_normal((m, d)) / math.sqrt(d)).astype(dtype), np.zeros(m, dtype))]
        layers += [gn.Activation(activation)]
    last = layers[-2]
    layers[-2:] = [gn.Dense((scale * last.weight).astype(dtype), last.bias)]
    return gn.Network(layers), rng.standard_normal((n, widths[0])).astype(dtype)


def near(found, expected, dtype, digits=200.0):
    """In norm, relative to the matrix itself: digits of what is tiny count."""
    found, expected = np.asarray(found, float), np.asarray(expected, float)
    assert np.linalg.norm(found - expected) <= digits * EPS[dtype] * np.linalg.norm(expected)


# ------------------------------------------------------------------------------------------------------- the Hessian
@pytest.mark.filterwarnings("ignore:the product underflows")
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.sampled_from([*LOSSES, "gaussian_nll"]), st.lists(st.floats(-300, 300), min_size=2, max_size=7), st.booleans()
)
@example("cross_entropy", [0.0, -20.72, -69.1], False)  # p = 1, 1e-9, 1e-30
@example("cross_entropy", [300.0, -300.0], False)
@example("cross_entropy", [5.0, 5.0, 5.0], False)
@example("cross_entropy", [40.0, 40.0, -7.0], True)
def test_every_entry_of_the_hessian_has_its_digits(loss, outputs, single):
    dtype = "float32" if single else "float64"
    outputs = np.asarray(outputs, dtype) * (
        0.13 if single and loss != "binary_cross_entropy" else 0.27 if single else 1
    )
    outputs = outputs[: len(outputs) // 2 * 2] if loss == "gaussian_nll" else outputs
    net, X = at_outputs(outputs, dtype)
    exact = confident.hessian(loss, outputs[None])[0]
    slack = EPS[dtype] * (40 + 40 * np.abs(outputs).max())  # exp(F) is rounded by eps F
    tiny = float(np.finfo(dtype).tiny) / EPS[dtype]
    for method in ("usual", "factored"):
        G = gn.GaussNewton(net, X, loss, method=method)
        if method == "usual":
            np.testing.assert_allclose(G @ np.eye(len(outputs), dtype=dtype), exact, rtol=slack, atol=tiny)
        size = np.outer(*[np.sqrt(exact.diagonal())] * 2)
        assert (np.abs(G @ np.eye(len(outputs), dtype=dtype) - exact) <= slack * size + tiny).all()
        for reduced in (False, True):
            R = G.gram(reduced).lift(np.eye(G.gram(reduced).shape[0], dtype=dtype)).astype(float)
            assert (np.abs(R @ R.T - exact) <= slack * size + tiny).all()
        np.testing.assert_allclose(G.diagonal(), exact.diagonal(), rtol=slack, atol=tiny)


def test_the_oracle_is_that_of_many_digits():
    mp = pytest.importorskip("mpmath")
    with mp.workdps(300):
        for outputs in ([0.0, -20.72, -69.1], [37.0, 0, -1, 36.5], [-3.0, 250, 2]):
            f = [mp.mpf(value) for value in outputs]
            total = mp.fsum(mp.exp(value) for value in f)
            p = [mp.exp(value) / total for value in f]
            exact = [[float((p[a] if a == b else 0) - p[a] * p[b]) for b in range(len(f))] for a in range(len(f))]
            found = confident.hessian("cross_entropy", np.array([outputs]))[0]
            np.testing.assert_allclose(found, exact, rtol=1e-13)


# --------------------------------------------------------------------------------------------------------- operators
def networks(dtype):
    single = dtype == "float32"
    yield from ((*sure(margin, k, n, dtype), None) for margin, k, n in ((5, 3, 12), (34, 2, 3), (70, 5, 1)))
    yield from ((*separable(scale, dtype, n=20), None) for scale in (1, 6 if single else 30))
    for scale in (20,) if single else (20, 100):
        yield *deep(scale, dtype), None
        yield *deep(scale, dtype), np.array([0.5, 2, 1, 1e-3, 3, 0.7, 0], dtype)
    yield *deep(15, dtype, (5, 12, 12, 10), activation="relu"), None


@pytest.mark.filterwarnings("ignore:the product underflows")  # of sample by sample, in float32
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("loss", LOSSES[:2])
def test_products_grams_traces_and_diagonals(loss, dtype):
    for net, X, weights in networks(dtype):
        exact = confident.gauss_newton(net, X, loss, weights)
        V = block(np.random.default_rng(0), len(exact), 3, dtype)
        digits = 200 if dtype == "float64" else 1000  # an output of 50 is rounded by 50 eps
        for method in ("usual", "factored"):
            G = gn.GaussNewton(net, X, loss, weights=weights, method=method)
            near(G @ V, exact @ V, dtype, digits * 10)
            near(G.to_dense(), exact, dtype, digits)
            assert gn.trace(G).exact
            assert gn.trace(G).value == pytest.approx(np.trace(exact), rel=digits * EPS[dtype])
            near(G.diagonal(), exact.diagonal(), dtype, digits)
            for reduced in (False, True):
                values = np.linalg.eigvalsh(G.gram(reduced).to_dense().astype(float))[::-1]
                wanted = confident.spectrum(net, X, loss, weights)
                wanted = wanted[0] * np.exp(wanted[1])
                size = min(len(values), len(wanted))
                np.testing.assert_allclose(values[:size], wanted[:size], rtol=0, atol=digits * EPS[dtype] * wanted[0])


@pytest.mark.parametrize("method", ["usual", "stored"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_networks_of_other_layers(dtype, method):
    net, X = separable(6, dtype, n=15)
    dense = net.layers[0]
    images = X.reshape(15, 1, 2, 2)
    other = gn.Network([gn.Flatten(), gn.Residual([gn.Dense(np.zeros((4, 4), dtype))]), dense])
    exact = confident.gauss_newton([np.eye(4), np.asarray(dense.weight, float)], X, "cross_entropy")
    G = gn.GaussNewton(other, images, "cross_entropy", method=method)
    near(G.to_dense(), exact, dtype, 1000)
    near(G.diagonal(), exact.diagonal(), dtype, 1000)


@pytest.mark.parametrize("loss", LOSSES)
def test_kfac_of_one_sample_is_exact(loss):
    for outputs in ([40.0, 0, -3], [-35.0, -30, -45], [0.0, -20, -36]):
        net, X = at_outputs(outputs)
        near(gn.GaussNewton(net, X, loss).kfac().to_dense(), confident.hessian(loss, np.array([outputs]))[0], "float64")


# ------------------------------------------------------------------------------------------------- condition numbers
def check_condition(net, X, loss="cross_entropy", weights=None, rel=None):
    """Value, interval and rank against the singular values of the terms' roots, where the spectrum is resolved."""
    dtype = str(net.dtype)
    exact, log = confident.spectrum(net, X, loss, weights)
    found = gn.cond(gn.GaussNewton(net, X, loss, weights=weights))
    kept = exact[exact > 1e-22 * exact[0]]
    assert found.rank == len(kept), (found, exact)
    kappa = kept[0] / kept[-1]
    slack = 1e-3 if dtype == "float32" else 1e-8
    assert found.lower <= kappa * (1 + slack)
    assert kappa * (1 - slack) <= found.upper
    assert found.value == pytest.approx(kappa, rel=slack)
    if log > -700:
        assert found.lambda_max == pytest.approx(kept[0] * math.exp(log), rel=slack)
        assert found.lambda_min == pytest.approx(kept[-1] * math.exp(log), rel=slack)
    return found


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("margin", [0.5, 5, 20, 30, 34, 37, 45, 60, 80])
def test_condition_numbers_do_not_depend_on_the_margin(margin, dtype):
    found = check_condition(*sure(margin, dtype=dtype))
    assert found.value < 20
    check_condition(*sure(margin, k=2, n=4, dtype=dtype))


BEYOND = [("float32", margin) for margin in (88, 100, 130, 160)] + [("float64", m) for m in (690, 720, 900, 1300)]


@pytest.mark.filterwarnings("ignore:the product underflows")  # in check_condition
@pytest.mark.parametrize(("dtype", "margin"), BEYOND)
def test_beyond_what_the_dtype_holds_roots_serve(dtype, margin):
    """Probabilities that underflow: the condition number stays right, and products say so."""
    net, X = sure(margin, dtype=dtype)
    assert check_condition(net, X).value < 20
    binary = gn.Network([gn.Dense(np.zeros((2, 2), dtype), np.array([margin, -margin - 1], dtype))])
    check_condition(binary, X, "binary_cross_entropy")
    check_condition(gn.Network([gn.Dense(np.zeros((1, 2), dtype), np.array([-margin], dtype))]), X, "poisson")
    G = gn.GaussNewton(net, X, "cross_entropy")
    assert int(gn.rank(G)) == gn.cond(G).rank
    with pytest.warns(UserWarning, match="the product underflows: the softmax is saturated at all 12 samples"):
        G @ np.ones(G.shape[0], dtype)
    with pytest.warns(UserWarning, match="the eigenvalues underflow: the softmax is saturated"):
        gn.eigsh(gn.GaussNewton(net, X, "cross_entropy"), 2)
    G @ np.ones(G.shape[0], dtype)  # said once


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("scale", [1, 2, 4, 6, 8])
def test_condition_numbers_of_separable_classes(scale, dtype):
    net, X = separable(scale, dtype)
    double = [np.asarray(layer.weight, float) for layer in net.layers]
    exact, _ = confident.spectrum(double, X.astype(float), "cross_entropy")
    kappa = exact[0] / exact[7]
    found = gn.cond(gn.GaussNewton(net, X, "cross_entropy"))
    if kappa < (1e7 if dtype == "float64" else 1e3):
        assert found.rank == 8
        assert found.value == pytest.approx(kappa, rel=1e-8 if dtype == "float64" else 1e-3)
    assert found.lower <= kappa <= found.upper


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("loss", LOSSES[:2])
def test_intervals_hold_where_outputs_are_large(loss, dtype):
    """exp(F) is rounded by eps |F|: of float64 it takes the oracle's own rounding as well, which is no more."""
    for seed in range(6):
        scale, activation = (1, 10, 40)[seed % 3], ("tanh", "relu")[seed % 2]
        net, X = deep(scale, dtype, (8, 20, 20, 4), n=14, seed=seed, activation=activation)
        exact, log = confident.spectrum(net, X, loss)
        exact = exact * np.exp(log)
        G = gn.GaussNewton(net, X, loss)
        _, info = gn.eigsh(G, 5, return_info=True, return_eigenvectors=False)
        inside = (info.intervals[::-1, 0] <= exact[:5]) & (exact[:5] <= info.intervals[::-1, 1])
        assert inside.all(), (info.intervals[::-1], exact[:5])
        found = gn.cond(G)
        assert found.lower <= exact[0] / exact[found.rank - 1] <= found.upper


@pytest.mark.parametrize("dtype, lead", [("float32", 300), ("float64", 2000)])
@pytest.mark.parametrize(
    "quantity", [gn.trace, gn.diagonal, gn.density, gn.rank, gn.eigsh, gn.GaussNewton.kfac, lambda G: G @ np.ones(15)]
)
@pytest.mark.parametrize("library", ["core", "torch"])
def test_no_quantity_underflows_without_a_word(quantity, dtype, lead, library):
    net = gn.Network([gn.Dense(np.full((3, 4), 0.1, dtype), np.array([lead, 0, 0], dtype))])
    X = np.random.default_rng(0).standard_normal((9, 4)).astype(dtype)
    G = gn.GaussNewton(net, X, "cross_entropy")
    if library == "torch":
        torch = pytest.importorskip("torch")
        if quantity is gn.GaussNewton.kfac:
            pytest.skip("there is none of PyTorch's models")
        module = torch.nn.Linear(4, 3)
        module.weight.data, module.bias.data = (torch.tensor(array) for array in net.parameters())
        G = gn.interop.torch.GaussNewton(module, X=torch.tensor(X), loss="cross_entropy")
    with pytest.warns(UserWarning, match="underflows?: the softmax is saturated at all 9 samples"):
        quantity(G)


# ---------------------------------------------------------------------------------------------- trained classifiers
@functools.cache
def trained(loss, hidden):
    """Weights of a network that is right at all of some of scikit-learn's digits, 4 x 4, and these: float64."""
    datasets = pytest.importorskip("sklearn.datasets")
    images, digits = datasets.load_digits(return_X_y=True)
    X, y = images[:80].reshape(-1, 4, 2, 4, 2).mean(axis=(2, 4)).reshape(-1, 16) / 16, digits[:80]
    k = 10 if loss != "binary_cross_entropy" else 1
    Y = np.eye(10)[y] if k == 10 else (y[:, None] > 4).astype(float)
    rng = np.random.default_rng(0)
    shapes = [(hidden, 16), (hidden,), (k, hidden), (k,)]
    sizes = np.cumsum([math.prod(shape) for shape in shapes])
    start = np.concatenate([rng.standard_normal(shape).ravel() / np.sqrt(shape[-1]) for shape in shapes])

    def split(flat):
        return [part.reshape(shape) for part, shape in zip(np.split(flat, sizes[:-1]), shapes, strict=True)]

    def risk(flat):
        W, b, V, c = split(flat)
        A = np.tanh(X @ W.T + b)
        F = A @ V.T + c
        if loss == "cross_entropy":
            value, dF = -(Y * log_softmax(F, axis=1)).sum(), softmax(F, axis=1) - Y
        elif loss == "mse":
            value, dF = 0.5 * ((F - Y) ** 2).sum(), F - Y
        else:
            value, dF = (np.logaddexp(0, F) - Y * F).sum(), expit(F) - Y
        dZ = (dF @ V) * (1 - A**2)
        return value, np.concatenate([part.ravel() for part in (dZ.T @ X, dZ.sum(0), dF.T @ A, dF.sum(0))])

    found = scipy.optimize.minimize(risk, start, jac=True, method="L-BFGS-B", options={"maxiter": 400, "gtol": 1e-12})
    W, b, V, c = split(found.x)
    F = np.tanh(X @ W.T + b) @ V.T + c
    right = (F.argmax(1) == y) if k == 10 else ((F[:, 0] > 0) == (y > 4))
    assert right.all()
    return (W, b, V, c), X


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy", "mse"])
def test_trained_classifiers(loss, dtype):
    """Digits to 100 %: products, trace, diagonal, K-FAC's factors and the condition number."""
    (W, b, V, c), X = trained(loss, 14)
    W, b, V, c, X = (np.ascontiguousarray(array, dtype) for array in (W, b, V, c, X))
    layers = [gn.Dense(W, b), gn.Activation("tanh"), gn.Dense(V, c)]
    for n in (12, 80):
        net, x = gn.Network(layers), X[:n]
        exact = confident.gauss_newton(net, x, loss)
        v = np.random.default_rng(0).standard_normal((len(exact), 2)).astype(dtype)
        digits = 1000 if dtype == "float64" else 4000
        for method in ("usual", "factored"):
            G = gn.GaussNewton(net, x, loss, method=method)
            near(G @ np.asfortranarray(v), exact @ v, dtype, digits)
            assert gn.trace(G).value == pytest.approx(np.trace(exact), rel=digits * EPS[dtype])
            near(G.diagonal(), exact.diagonal(), dtype, digits)
        kfac_is_exact_in_its_factors(G, net, x, loss, dtype, digits)
    exact, _ = confident.spectrum(gn.Network(layers), X[:12], loss)
    found = gn.cond(gn.GaussNewton(gn.Network(layers), X[:12], loss))
    kept = exact[: found.rank]
    kappa = kept[0] / kept[-1]
    assert found.lower <= kappa * (1 + 1e-9) and kappa * (1 - 1e-9) <= found.upper


def kfac_is_exact_in_its_factors(G, net, x, loss, dtype, digits):
    """A (x) B of each layer, A the inputs' second moment with their ones, B that of the rows R^T dF/dz."""
    H = confident.hessian(loss, oracles.forward(net, x))
    kfac = G.kfac().to_dense().astype(float)
    first = 0
    for layer, A, B in zip(net.dense, oracles.linearize(net, x)[0], oracles.backward(net, x), strict=True):
        A = np.hstack([A, np.ones((len(x), 1))])
        moment = np.einsum("iao,iab,ibp->op", B, H, B) / len(x)
        m, d = layer.weight.shape
        order = np.concatenate([np.arange(m * (d + 1)).reshape(m, d + 1)[:, :d].ravel(), np.arange(m) * (d + 1) + d])
        expected = np.kron(moment, A.T @ A / len(x))[np.ix_(order, order)]
        size = m * (d + 1)
        near(kfac[first : first + size, first : first + size], expected, dtype, digits)
        first += size


# ---------------------------------------------------------------------------------------------------------- messages
@pytest.mark.parametrize("loss", LOSSES)
def test_what_is_saturated_is_told(loss):
    words = {"cross_entropy": "the softmax is saturated", "binary_cross_entropy": "the sigmoid is saturated"}
    for dtype, far, cure in (("float32", 600, "use float64"), ("float64", 3000, "scale the network's last layer down")):
        net = gn.Network(
            [gn.Dense(np.zeros((2, 3), dtype), np.array([-far, far if loss[0] == "b" else -2 * far], dtype))]
        )
        G = gn.GaussNewton(net, np.ones((4, 3), dtype), loss)
        for op in (G, G.gram(True), G.block(0)):
            with pytest.raises(
                ValueError, match=words.get(loss, "rates exp\\(F\\) vanish") + " at all 4 samples"
            ) as error:
                gn.cond(op)
            assert cure in str(error.value)
            assert "depends on any parameter" not in str(error.value)
        if cure == "use float64":
            double = gn.Network([gn.Dense(np.zeros((2, 3)), np.asarray(net.layers[0].bias, float))])
            check_condition(double, np.random.default_rng(0).standard_normal((9, 3)), loss)
    dead = gn.Network([gn.Dense(np.zeros((5, 4))), gn.Activation("relu"), gn.Dense(np.zeros((3, 5)))])
    with pytest.raises(ValueError, match="no output depends on any parameter at these samples"):
        gn.cond(gn.GaussNewton(dead, np.ones((4, 4)), loss, weights=np.array([0, 1.0, 2, 0])))
