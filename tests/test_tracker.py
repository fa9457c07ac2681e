"""The ends of a spectrum through training: values against LAPACK, and what warm starts save."""

from __future__ import annotations

import numpy as np
import oracles
import pytest
from problems import data, network
from spectra import limits, with_spectrum

import gnfast as gn


def training(net, X, steps, rate):
    """Weights that move as in training: a little at every step, in one direction each."""
    rng = np.random.default_rng(5)
    directions = [rng.standard_normal(w.shape) * rate / np.sqrt(w.size) * np.linalg.norm(w) for w in net.parameters()]
    for step in range(steps):
        moved = [w + step * d for w, d in zip(net.parameters(), directions, strict=True)]
        yield gn.GaussNewton(net.with_parameters([m.astype(net.dtype) for m in moved]), X)


@pytest.mark.parametrize("dtype, precision", [("float64", None), ("float32", None), ("float32", "float64")])
@pytest.mark.parametrize("activation", ["identity", "relu"])
def test_both_ends_are_followed_with_fewer_products(activation, dtype, precision, monkeypatch):
    limits(monkeypatch)
    net, X = network([30, 90, 4], activation, dtype=dtype), data(25, 30, dtype=dtype)  # duals of full rank
    tracker = gn.Tracker(top=3, low=2, precision=precision)
    cold = 0
    for G in training(net, X, 4, 1e-4):
        values = tracker.update(G)
        assert values.dtype == (precision or dtype)
        fresh = gn.Tracker(top=3, low=2, precision=precision)
        fresh.update(G)
        cold += fresh.products
        linear = net.is_linear
        dual = oracles.linear_dual_matrix(G.net, X) if linear else oracles.gram(G.net, X)
        exact = oracles.nonzero(dual, 1e-10)
        rtol = 1e-6 if dtype == "float64" else 1e-3
        np.testing.assert_allclose(
            values, [*exact[:2], *exact[-3:]], rtol=rtol, atol=10 * np.finfo(dtype).eps * exact[-1]
        )
        held = (tracker.history[-1].intervals[:, 0] <= values) & (values <= tracker.history[-1].intervals[:, 1])
        assert held.all()
    assert [step.warm for step in tracker.history] == [False, True, True, True]
    assert all(step.converged for step in tracker.history)
    assert tracker.products == sum(step.products for step in tracker.history)
    assert all(step.products >= step.passes for step in tracker.history)
    first, *later = [step.products for step in tracker.history]
    assert max(later) < first
    assert tracker.products < 0.8 * cold
    assert repr(tracker) == f"Tracker(top=3, low=2, 4 updates, {tracker.products} products)"


def test_another_size_starts_anew_and_one_end_will_do():
    tracker = gn.Tracker(top=2)
    for size, warm in ((300, False), (300, True), (280, False)):
        M = with_spectrum(np.logspace(0, -6, size))
        np.testing.assert_allclose(tracker.update(M), np.linalg.eigvalsh(M)[-2:], rtol=1e-6)
        assert tracker.history[-1].warm is warm
    below = gn.Tracker(top=0, low=2)
    M = with_spectrum(np.linspace(1, 3, 50))
    np.testing.assert_allclose(below.update(M), np.linalg.eigvalsh(M)[:2], rtol=1e-6)


def test_the_top_is_followed_onto_other_samples():
    """Vectors in parameters keep their meaning where the samples change, and their number."""
    net, X = network([30, 90, 4], "relu"), data(60, 30)
    tracker = gn.Tracker(top=3)
    for count, warm in ((40, False), (60, True), (50, True)):
        G = gn.GaussNewton(net, X[:count])
        values = tracker.update(G)
        np.testing.assert_allclose(values, oracles.nonzero(oracles.gram(net, X[:count]), 1e-10)[-3:], rtol=1e-5)
        assert tracker.history[-1].warm is warm
    tracker.update(gn.GaussNewton(network([30, 80, 4], "relu"), X))  # other parameters: anew
    assert not tracker.history[-1].warm


@pytest.mark.parametrize("activation", ["identity", "relu"])
@pytest.mark.parametrize("bias", [False, True])
def test_starts_in_parameters_are_taken_to_the_dual(bias, activation, monkeypatch):
    limits(monkeypatch)
    net, X = network([30, 120, 4], activation, bias=bias), data(40, 30)
    first, second = training(net, X, 2, 1e-4)
    start = gn.eigsh(first, 3)[1]
    cold = gn.eigsh(second, 3, return_info=True)
    warm = gn.eigsh(second, 3, v0=start, return_info=True)
    assert warm[2].space == cold[2].space != "parameters"
    assert warm[2].products < cold[2].products
    np.testing.assert_allclose(warm[0], cold[0], rtol=1e-9)
    assert warm[1].shape == start.shape
    # restrict is the adjoint of lift, and takes an eigenvector to one of the dual
    dual = first.dual()
    rng = np.random.default_rng(0)
    Y, V = rng.standard_normal((dual.shape[0], 2)), rng.standard_normal((2, first.shape[0]))
    np.testing.assert_allclose(dual.restrict(V) @ Y, V @ dual.lift(np.asfortranarray(Y)), rtol=1e-10)
    np.testing.assert_allclose(dual.restrict(dual.lift(np.asfortranarray(Y)).T).T, dual @ Y, rtol=1e-8, atol=1e-12)


def test_what_a_tracker_refuses():
    for options, error, message in (
        ({"top": 0}, ValueError, "top and low are both 0"),
        ({"top": -1}, ValueError, "top is -1 but must be at least 0"),
        ({"low": 1.5}, TypeError, "low is 1.5 but must be an integer"),
        ({"seed": -1}, ValueError, "seed is -1"),
    ):
        with pytest.raises(error, match=message):
            gn.Tracker(**options)
    with pytest.raises(ValueError, match="top \\+ low is 5 but the matrix has 4 eigenvalues only"):
        gn.Tracker(top=3, low=2).update(np.eye(4))
    with pytest.raises(ValueError, match="tol is -1 but must be positive"):
        gn.Tracker(tol=-1).update(np.eye(4))
