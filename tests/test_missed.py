"""Answers that once were wrong without a word: what a start leaves out, inverses too near to singular, residuals."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import oracles
import pytest
from problems import data
from spectra import as_operator, with_spectrum

import gnfast as gn
from gnfast.spectrum import checkpoints, matrices


def diagonal(d):
    return gn.operator(lambda V: d[:, None] * V, len(d), d.dtype)


# ------------------------------------------------------------------------------------------------ copies in all spaces
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize("outputs", [3, 10])
def test_networks_whose_eigenvalues_are_repeated(outputs, loss, monkeypatch):
    """One layer with mean squares, or a last layer of zeros with the softmax: k and k - 1 copies of each."""
    monkeypatch.setattr(matrices, "DENSE_SIZE", 5)
    rng, X = np.random.default_rng(outputs), data(40, 12) * np.logspace(0, -1, 12)
    layers = [gn.Dense(rng.standard_normal((outputs, 12)))]
    if loss == "cross_entropy":
        layers = [gn.Dense(rng.standard_normal((15, 12))), gn.Activation("relu"), gn.Dense(np.zeros((outputs, 15)))]
    G = gn.GaussNewton(gn.Network(layers), X, loss)
    exact = oracles.spectrum(oracles.gauss_newton(G.net, X, loss))
    for k, seed in itertools.product((3, 6, 10, 20), (0, 1)):
        for op in (G, G.gram(reduced=True)):
            values, _, info = gn.eigsh(op, k, seed=seed, return_info=True)
            assert info.converged
            np.testing.assert_allclose(values, exact[-k:], rtol=1e-9)
    tracker = gn.Tracker(top=4)
    np.testing.assert_allclose(tracker.update(G), exact[-4:], rtol=1e-6)
    np.testing.assert_allclose(tracker.update(G), exact[-4:], rtol=1e-6)


# ------------------------------------------------------------------------------------------------------- given starts
@pytest.mark.parametrize("method", ["auto", "lanczos", "krylov", "davidson", "lobpcg"])
@pytest.mark.parametrize("factor", [0.5, 0.999, 1.0, 1.001, 1.5, 20.0])
def test_a_start_in_one_of_two_decoupled_parts(factor, method):
    n = 120
    d = np.concatenate([np.linspace(0.1, 1, n), factor * np.linspace(0.2, 1, n)])
    v0 = np.zeros((2 * n, 2))
    v0[n - 1, 0] = v0[n - 2, 1] = 1
    values, _, info = gn.eigsh(diagonal(d), 2, method=method, v0=v0, return_info=True)
    assert info.converged
    assert info.look > 0 or factor > 0.5
    np.testing.assert_allclose(values, np.sort(d)[-2:], rtol=1e-9)
    if method != "krylov":
        low, _, info = gn.eigsh(diagonal(2 - d), 2, "SA", method, v0=v0, return_info=True, max_products=20_000)
        assert info.converged
        np.testing.assert_allclose(low, np.sort(2 - d)[:2], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_a_tracker_sees_who_overtakes(seed):
    rng = np.random.default_rng(seed)
    X, W = rng.standard_normal((60, 8)), 0.1 * rng.standard_normal((3, 8))
    tracker = gn.Tracker(top=1 + seed % 2)
    for bias in np.linspace(-1, 2, 9):
        G = gn.GaussNewton(gn.Network([gn.Dense(W, np.array([0.0, bias, -1.0]))]), X, "poisson")
        exact = oracles.spectrum(oracles.gauss_newton(G.net, X, "poisson"))
        np.testing.assert_allclose(tracker.update(G), exact[-tracker.top :], rtol=1e-5)
        assert tracker.history[-1].converged


def test_a_tracker_lets_an_interrupt_through():
    M, calls = with_spectrum(np.linspace(1, 2, 300)), itertools.count()

    def product(V):
        if next(calls) == 6:
            raise KeyboardInterrupt
        return M @ V

    tracker = gn.Tracker(top=2)
    with pytest.raises(KeyboardInterrupt):
        tracker.update(gn.operator(product, 300))
    assert tracker.history == []
    np.testing.assert_allclose(tracker.update(M), np.linalg.eigvalsh(M)[-2:], rtol=1e-6)


# ------------------------------------------------------------------------------------------------------------ outliers
@pytest.mark.parametrize("dtype, outlier", [("float64", 1e8), ("float64", 1e12), ("float32", 1e4), ("float32", 1e3)])
@pytest.mark.parametrize("which, method", [("LA", "lanczos"), ("SA", "lanczos"), ("SA", "davidson"), ("LA", "krylov")])
def test_an_outlier_leaves_the_rest_to_rounding_of_it(which, method, dtype, outlier):
    d = np.concatenate([[outlier], np.linspace(2, 1, 299)]).astype(dtype)
    values, info = gn.eigsh(diagonal(d), 3, which, method, return_info=True, return_eigenvectors=False)
    exact = np.sort(d.astype(float))[-3:] if which == "LA" else np.sort(d.astype(float))[:3]
    assert info.converged
    np.testing.assert_allclose(values, exact, rtol=1e-5, atol=4 * np.finfo(dtype).eps * outlier)


@pytest.mark.parametrize("method", ["lanczos", "krylov", "davidson", "dense", "nystrom"])
@pytest.mark.parametrize("dtype, outlier", [("float64", 1e14), ("float32", 1e6), ("float32", 1e5)])
def test_values_that_an_outlier_takes_the_digits_of_are_not_called_converged(method, dtype, outlier):
    d = np.concatenate([[outlier], np.linspace(2, 1, 299)]).astype(dtype)
    with pytest.warns(gn.ConvergenceWarning, match=f"known to .* only, what rounding in {dtype} leaves beside"):
        info = gn.eigsh(diagonal(d), 3, "LA", method, return_info=True)[2]
    assert not info.converged
    exact = np.sort(d.astype(float))[-3:]
    assert ((info.intervals[:, 0] <= exact) & (exact <= info.intervals[:, 1])).all()
    assert gn.eigsh(diagonal(d), 1, "LA", method, return_info=True)[2].converged


# ------------------------------------------------------------------------------------------------------------ inverses
@pytest.mark.parametrize("n", [20, 120, 401])
def test_the_inverse_of_a_singular_matrix_that_factors_by_rounding(n):
    A, i = np.eye(n), np.arange(n)
    A[i, (i + 1) % n] = A[(i + 1) % n, i] = -0.5  # a cycle's Laplacian, halved
    exact = np.sort(1 - np.cos(2 * np.pi * i / n))
    for k in (1, 2, 5, 8):
        values, _, info = gn.eigsh(A, k, "SA", "inverse", return_info=True)
        assert info.converged
        np.testing.assert_allclose(values, exact[:k], rtol=1e-9, atol=1e-14)
        assert info.residuals.max() < 1e-6


@pytest.mark.parametrize("small", [0.0, 1e-16, 1e-15, 1e-13, 1e-11, 1e-8, 1e-4])
def test_one_tiny_eigenvalue_does_not_hide_the_others_from_the_inverse(small):
    M = with_spectrum(np.concatenate([[small, small], np.linspace(1, 2, 248)]))
    for k in (2, 3, 6):
        if small == 1e-13:  # of which three digits are left, and less where |A| is estimated from above
            with pytest.warns(gn.ConvergenceWarning, match="eigenvalues, 1e-13 at most, are known to .*e-15 only"):
                values, _, info = gn.eigsh(M, k, "SA", "inverse", return_info=True)
        else:
            values, _, info = gn.eigsh(M, k, "SA", "inverse", return_info=True)
        assert info.converged == (small != 1e-13)
        np.testing.assert_allclose(values, np.linalg.eigvalsh(M)[:k], rtol=1e-9, atol=1e-14)


# ------------------------------------------------------------------------------------------------------------ routes
def test_the_low_end_of_what_may_be_stored_goes_by_cost(monkeypatch):
    monkeypatch.setattr(matrices, "DENSE_SIZE", 5)
    slow, quick = with_spectrum(1 / np.arange(1, 301.0)), with_spectrum(np.r_[0.1, 0.2, np.linspace(1, 2, 298)])
    for M, method in ((slow, "inverse"), (quick, "lanczos")):
        for op in (as_operator(M), gn.operator(lambda V, M=M: M @ V, 300)):
            values, _, info = gn.eigsh(op, 2, "SA", return_info=True)
            assert (info.method, info.converged) == (method, True)
            assert info.products < 3 * 300
            np.testing.assert_allclose(values, np.linalg.eigvalsh(M)[:2], rtol=1e-9)


def test_a_stored_gram_s_low_end_goes_by_its_matrix(monkeypatch):
    monkeypatch.setattr(matrices, "DENSE_SIZE", 5)
    X = data(60, 8)
    G = gn.GaussNewton(gn.mlp([8, 30, 3], seed=0), np.concatenate([X, X[:5]]))  # five samples twice: singular
    gram = G.gram()
    matrix = gram.to_dense()
    values, _, info = gn.eigsh(gram, 18, "SA", return_info=True)
    assert (info.method, info.converged) == ("inverse", True)
    assert info.products < 1_000
    exact = np.linalg.eigvalsh(matrix)
    np.testing.assert_allclose(values, exact[:18], rtol=1e-8, atol=1e-13 * exact[-1])


# ----------------------------------------------------------------------------------------------------- true residuals
def stated(op, M, *args, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", gn.ConvergenceWarning)
        values, vectors, info = gn.eigsh(op, *args, return_info=True, **options)
    return info, np.linalg.norm(M.astype(float) @ vectors - vectors.astype(float) * values, axis=0)


@pytest.mark.parametrize("method", ["dense", "lanczos", "krylov", "nystrom", "davidson", "lobpcg"])
def test_a_matrix_that_is_not_quite_symmetric_shows_in_its_residuals(method):
    N = 200
    M = with_spectrum(np.linspace(1, 2, N)).astype("float32")
    E = np.random.default_rng(1).standard_normal((N, N))
    B = M + (1.2e-4 * np.linalg.norm(M) / np.linalg.norm(E - E.T) * (E - E.T)).astype("float32")
    info, true = stated(gn.operator(lambda V: B @ V, N, "float32"), B, 4, "LA", method)
    # Davidson's residuals are those of the matrix as it is, and so small that the values are within tolerance
    assert not info.converged or method in ("davidson", "lobpcg")
    assert np.all(true <= 2.5 * info.residuals + 1e-5)


@pytest.mark.parametrize("method", ["lanczos", "krylov", "davidson", "lobpcg", "inverse-cg"])
@pytest.mark.parametrize("size", [1e-2, 1e-3, 1e-5])
def test_an_operator_that_changes_between_products_is_not_called_converged(size, method):
    N, M, calls = 200, with_spectrum(np.logspace(0, -3, 200)), itertools.count()
    op = gn.operator(lambda V: (1 + size * np.sin(next(calls))) * (M @ V), N)
    info, true = stated(op, M, 4, "SA" if method == "inverse-cg" else "LA", method, max_products=3_000)
    assert not info.converged
    if method != "inverse-cg":
        assert info.residuals.max() > size / 10
    assert np.all(true <= 2.5 * info.residuals + 3 * size * np.abs(info.intervals).max())


def test_a_checkpoint_of_an_operator_that_differs_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "EVERY", 0.0)
    M, path, calls = with_spectrum(np.logspace(0, -3, 300), "float32"), tmp_path / "state.npz", itertools.count()

    def stop(stage, done, total):
        if next(calls) >= 8:
            raise KeyboardInterrupt

    with pytest.warns(gn.ConvergenceWarning):
        gn.eigsh(M, 4, method="lanczos", checkpoint=path, progress=stop)
    for other in (M * np.float32(1.001), M + np.float32(1e-2) * np.eye(300, dtype="float32")):
        with pytest.raises(ValueError, match="its operator gives another product with a fixed vector"):
            gn.eigsh(other, 4, method="lanczos", checkpoint=path)
    values = gn.eigsh(M, 4, method="lanczos", checkpoint=path)[0]
    np.testing.assert_allclose(values, np.linalg.eigvalsh(M.astype(float))[-4:], rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_lapack_is_judged_by_the_norm_of_the_matrix(dtype):
    eps = np.finfo(dtype).eps
    info = gn.eigsh(np.diag([1.0, 1e-16]).astype(dtype), 1, "SA", "dense", return_info=True)[2]
    np.testing.assert_allclose(info.norm, 1, rtol=1e-6)
    for seed, size in itertools.product(range(3), (2, 5, 16, 60)):
        M = with_spectrum(np.logspace(0, -4, size), dtype, seed)
        for which in ("SA", "LA"):
            info = gn.eigsh(M, 1, which, "dense", return_info=True)[2]
            np.testing.assert_allclose(info.norm, 1, rtol=0.11)
            assert np.ptp(info.intervals) >= 14 * eps


def test_a_tolerance_below_the_dtype_s_is_not_called_met():
    M = with_spectrum(np.logspace(0, -3, 100), "float32")
    for method in ("dense", "lanczos", "davidson"):
        with pytest.warns(gn.ConvergenceWarning, match=r"tol 1\.0e-09 is below what float32 resolves, 1\.2e-07"):
            assert not gn.eigsh(M, 2, method=method, tol=1e-9, return_info=True)[2].converged


def test_what_scipy_calls_otherwise_is_refused_with_our_name_for_it():
    M = with_spectrum(np.linspace(1, 2, 50))
    for options, message in (
        ({"which": "LM"}, "which is 'LM' but must be one of 'LA', 'SA', 'BE': the largest in magnitude are 'LA'"),
        ({"which": "SM"}, "which is 'SM' but must be one of 'LA', 'SA', 'BE': the smallest in magnitude are 'SA'"),
        ({"sigma": 0}, "sigma is 0 but must be None: the eigenvalues nearest to 0 .* which='SA', method='inverse'"),
    ):
        with pytest.raises(ValueError, match=message):
            gn.eigsh(M, 3, **options)
