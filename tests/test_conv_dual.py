"""The dual of linear convolutional networks against explicit Jacobians."""

from __future__ import annotations

import layer_oracles
import numpy as np
import oracles
import pytest
from convolving import CASES, REFUSED, draw, images, layers_of, random_network

import gnfast as gn
from gnfast.networks import patches
from gnfast.networks.patches import composed_convolution


def dual_of(name, dtype="float64", **options):
    net = layers_of(name)
    net = net.with_parameters([array.astype(dtype) for array in net.parameters()])
    return gn.GaussNewton(net, images(name, dtype=dtype), **options).linear_dual()


def same_spectrum(found, expected):
    """Non-zero eigenvalues: as many and the same, up to rounding of the largest."""
    np.testing.assert_allclose(oracles.nonzero(found), oracles.nonzero(expected), rtol=1e-8, atol=1e-12 * found.max())


@pytest.fixture(params=["from pairs of positions", "from columns"])
def way(request, monkeypatch):
    """Both ways to a Gram of the Jacobian, whichever is cheaper."""
    if request.param == "from columns":
        monkeypatch.setattr(patches, "_costs", lambda *sizes: (np.inf, 1.0))
        monkeypatch.setattr(patches, "BLOCK_NUMBERS", 64)
    else:
        monkeypatch.setattr(patches, "_costs", lambda *sizes: (0.0, 1.0))


@pytest.mark.parametrize("name", CASES)
def test_spectrum_and_lift(name, way):
    dual = dual_of(name)
    G = layer_oracles.gauss_newton(layers_of(name).layers, images(name))
    M = dual.to_dense()
    same_spectrum(M, G)
    np.testing.assert_allclose(M, M.T, atol=1e-12 * np.abs(M).max())
    V = np.asfortranarray(draw(len(M), 3))
    np.testing.assert_allclose(dual @ V, M @ V, atol=1e-11 * np.abs(M).max())
    lifted = dual.lift(V)
    np.testing.assert_allclose(G @ lifted, dual.lift(dual @ V), atol=1e-9 * np.abs(G).max() * np.abs(lifted).max())
    back = dual.restrict(np.ascontiguousarray(lifted.T))
    np.testing.assert_allclose(back.T, M @ V, rtol=1e-9, atol=1e-11 * np.abs(M).max())
    np.testing.assert_allclose(lifted.T @ lifted, V.T @ M @ V, rtol=1e-8, atol=1e-10 * np.abs(M).max())


@pytest.mark.parametrize("name", ["1d", "biases", "then dense", "circular", "2d"])
def test_condition_number_and_eigenpairs(name):
    net, X = layers_of(name), images(name)
    G = gn.GaussNewton(net, X)
    values = oracles.nonzero(layer_oracles.gauss_newton(net.layers, X))
    found = gn.cond(G.linear_dual())
    assert found.value == pytest.approx(values[-1] / values[0], rel=1e-7)
    assert found.rank == len(values)
    assert found.space == "linear map"
    top, vectors = gn.eigsh(G.linear_dual(), 2)
    np.testing.assert_allclose(np.sort(top), values[-2:], rtol=1e-8)
    y = G.linear_dual().lift(np.asfortranarray(vectors))
    np.testing.assert_allclose(G @ y, y * top, atol=1e-7 * values[-1] * np.abs(y).max())
    assert gn.trace(G.linear_dual()).value == pytest.approx(values.sum(), rel=1e-9)


def test_products_alone_have_a_preconditioner():
    dual = dual_of("2d")
    M, k = dual.to_dense(), 2
    N = np.kron(np.eye(k), sum(M.reshape(k, -1, k, len(M) // k)[a, :, a] for a in range(k)) / k)
    V = np.asfortranarray(draw(len(M), 2))
    np.testing.assert_allclose(dual.preconditioner() @ V, np.linalg.solve(N, V), rtol=1e-6)
    smallest = gn.eigsh(dual, 1, which="SA", method="lobpcg")[0]
    assert smallest[0] == pytest.approx(oracles.spectrum(M)[0], rel=1e-6)


def test_dtype_reduction_and_memory():
    single, double = dual_of("2d", "float32"), dual_of("2d")
    assert single.dtype == np.float32
    np.testing.assert_allclose(single.to_dense(), double.to_dense(), atol=1e-5 * double.to_dense().max())
    sums = dual_of("2d", reduction="sum")
    np.testing.assert_allclose(sums.to_dense(), 6 * double.to_dense(), rtol=1e-9, atol=1e-9 * sums.to_dense().max())
    with pytest.raises(MemoryError, match="the linear dual, stored"):
        net = gn.Network([gn.Conv2d(draw(2, 1, 12, 12)), gn.Flatten()])
        gn.GaussNewton(net, draw(2, 1, 13, 13), memory_limit=1e6).linear_dual()


def test_dual_takes_it_where_it_is_cheapest():
    net, X = layers_of("2d"), images("2d", n=40)
    G = gn.GaussNewton(net, X)
    plan = G.plan()
    assert plan.space == "linear map"
    assert G.dual() is G.linear_dual()
    size = {space.name: space.size for space in plan.spaces}["linear map"]
    assert size == G.dual().shape[0]
    assert "linear map" in str(plan)
    G = gn.GaussNewton(net, X, loss="cross_entropy")
    assert {space.name: space.excluded for space in G.plan().spaces}["linear map"] == "the loss is cross_entropy"
    with pytest.raises(ValueError, match="loss='mse'"):
        G.linear_dual()


@pytest.mark.parametrize("name", REFUSED)
def test_reasons(name):
    layers, shape, reason = REFUSED[name]
    G = gn.GaussNewton(gn.Network([*layers, gn.Flatten()]), draw(3, *shape))
    with pytest.raises(ValueError) as error:
        G.linear_dual()
    assert reason in str(error.value)
    assert G.dual() is not None
    excluded = {space.name: space.excluded for space in G.plan().spaces}["linear map"]
    assert excluded


def test_data_of_any_rank():
    """Fewer patches than entries, constant pixels: the dual has the rank of the patches."""
    net = layers_of("2d")
    X = images("2d", n=1)
    X[:, :, :, :2] = 0
    dual = gn.GaussNewton(net, X).linear_dual()
    same_spectrum(dual.to_dense(), layer_oracles.gauss_newton(net.layers, X))
    with pytest.raises(ValueError, match="X is zero"):
        gn.GaussNewton(gn.Network([gn.Conv1d(draw(2, 1, 3)), gn.Flatten()]), np.zeros((3, 1, 5))).linear_dual()


def test_weights_of_samples():
    net, X, w = layers_of("biases"), images("biases"), np.array([0.5, 2.0, 1.0, 0.1, 3.0, 0.0])
    dual = gn.GaussNewton(net, X, weights=w).linear_dual()
    J = layer_oracles.jacobian(net.layers, X).reshape(6, -1, net.num_parameters)
    same_spectrum(dual.to_dense(), np.einsum("nap,n,naq->pq", J, w, J) / 6)
    with pytest.raises(ValueError, match=r"with weights \(n, k\)"):
        gn.GaussNewton(net, X, weights=np.ones(J.shape[:2])).linear_dual()


def test_second_moment_both_ways(monkeypatch):
    """From that of whole images, and patch by patch, in blocks of positions."""
    linear = composed_convolution(layers_of("biases").layers, (2, 7))
    X = images("biases", n=5)
    windows = [X[:, :, t : t + 4].reshape(5, -1) for t in range(4)]
    rows = np.concatenate([np.hstack([window, np.ones((5, 1))]) for window in windows])
    monkeypatch.setattr(patches, "BLOCK_NUMBERS", 2 * 5 * linear.columns)
    for costs in ((0.0, 1.0), (1.0, 0.0)):
        monkeypatch.setattr(patches.ComposedConvolution, "_moment_costs", lambda convolution, n, costs=costs: costs)
        factor = linear.range_factor(X, 0.2)
        np.testing.assert_allclose(factor.T @ factor, rows.T @ rows / 5, rtol=1e-12)


def test_random_networks():
    for seed in range(100):
        net, X = random_network(1000 + seed)
        linear = composed_convolution(net.layers, X.shape[1:])
        Z = patches_of(linear, X)
        M = sum(linear.grams(Z))
        same_spectrum(M, layer_oracles.gauss_newton(net.layers, X))


def patches_of(linear, X):
    return linear.range_factor(X, 1 / len(X))
