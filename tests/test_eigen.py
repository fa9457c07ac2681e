"""Every way to a few eigenpairs on prescribed spectra: values against LAPACK, certificates, both ends, warm starts."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import oracles
import pytest
import scipy.sparse.linalg as sla
from places import CPU
from problems import data, network
from spectra import SPECTRA, N, as_operator, few_digits, with_spectrum

import gnfast as gn
from gnfast.spectrum import matrices

ITERATIVE = ("lanczos", "krylov", "nystrom", "davidson", "lobpcg")
SEMIDEFINITE = [name for name in SPECTRA if name != "indefinite"]


def check(M, k, which, method, seed, device=CPU, **options):
    """Values within the tolerance of LAPACK's, pairs that are pairs, intervals that hold an eigenvalue each."""
    dtype = M.dtype
    options |= {"seed": seed, "return_info": True, "max_products": 20_000}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", gn.ConvergenceWarning)
        values, vectors, info = device.dressed(gn.eigsh)(M, k, which, method, **options)
    exact = np.linalg.eigvalsh(M.astype(float))
    norm, eps = np.abs(exact).max(), np.finfo(dtype).eps
    low = {"LA": 0, "SA": k, "BE": k // 2}[which]
    expected = np.concatenate([exact[:low], exact[len(exact) - (k - low) :]])
    # what was asked for, or rounding of products with and sums over vectors of length 97; a cluster tighter than the
    # residuals is known to these only
    tol = 1e-9 if dtype == np.float64 else 1e-4
    lost = few_digits(expected, norm, eps)
    assert info.converged == (not lost), info.reason
    assert len(told) == lost
    assert values.shape == (k,)
    np.testing.assert_allclose(values, expected, rtol=tol, atol=50 * eps * norm + 2 * info.residuals.max())
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(k), atol=500 * eps)
    true = np.linalg.norm(M.astype(float) @ vectors - vectors * values.astype(float), axis=0)
    np.testing.assert_allclose(info.residuals, true, rtol=0.5, atol=100 * eps * norm)
    assert info.intervals.shape == (k, 2)
    distance = np.abs(exact[None, :] - np.mean(info.intervals, axis=1)[:, None]).min(axis=1)
    lapack = 10 * np.finfo(float).eps * norm  # what LAPACK's own values are off by
    assert np.all(distance <= np.ptp(info.intervals, axis=1) / 2 * (1 + 1e-12) + lapack)
    assert np.ptp(info.intervals, axis=1).min() >= 2 * eps * norm  # never more than the dtype resolves
    assert info.products >= info.passes >= 1
    return info


ON_GPU = ("repeated", "rank deficient", "one")


def several(M, device, name):
    """(seed, k): one, some and nearly all pairs; some alone and of few spectra on a GPU, whose emulation is slow."""
    cases = [(1, 1), (2, min(5, len(M))), (3, max(len(M) - 1, 1))]
    if device == "cpu":
        return cases
    if name not in ON_GPU or M.dtype == np.float32:
        pytest.skip("the other spectra and float32 say no more of a GPU")
    return cases[1:2]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("method", ITERATIVE)
@pytest.mark.parametrize("name", SPECTRA)
def test_the_top_is_lapack_s(device, name, method, dtype):
    M = with_spectrum(SPECTRA[name], dtype)
    if method == "nystrom" and name == "indefinite":
        with pytest.raises(ValueError, match="not positive semi-definite, which method 'nystrom' needs"):
            device.dressed(gn.eigsh)(M, 3, method=method)
        return
    if method == "lobpcg" and name == "clustered":
        pytest.skip("a block inside a wider cluster is beyond the shortest basis")
    for seed, k in several(M, device, name):
        assert check(M, k, "LA", method, seed, device).method == method


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("method", ["lanczos", "davidson", "lobpcg", "inverse", "inverse-cg"])
@pytest.mark.parametrize("name", [name for name in SEMIDEFINITE if name not in ("geometric", "fourteen decades")])
def test_the_bottom_is_lapack_s(device, name, method, dtype):
    M = with_spectrum(SPECTRA[name], dtype)
    if method == "lobpcg" and name in ("gaps", "clustered"):
        pytest.skip("seven decades, or a block inside a wider cluster, are beyond the shortest basis by itself")
    for seed, k in several(M, device, name):
        if method == "inverse":
            inverse_check(M, k, seed, device)
        else:
            check(M, k, "SA", method, seed, device)


def inverse_check(M, k, seed, device=CPU):
    """As `check`, with what a Cholesky factorisation leaves: a relative error of eps times the condition number."""
    eps = np.finfo(M.dtype).eps
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", gn.ConvergenceWarning)
        values, vectors, info = device.dressed(gn.eigsh)(M, k, "SA", "inverse", seed=seed, return_info=True)
    exact = np.linalg.eigvalsh(M.astype(float))
    norm = exact[-1]
    slack = 100 * eps * norm if exact[0] > 100 * eps * norm else 4 * np.sqrt(eps) * norm  # shifted
    assert info.converged == (not few_digits(exact[:k], norm, eps)), info.reason
    np.testing.assert_allclose(
        values, exact[:k], rtol=1e-8 if M.dtype == float else 1e-3, atol=slack + info.residuals.max()
    )
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(k), atol=500 * eps)
    nearest = np.clip(exact[:, None], info.intervals[:, 0], info.intervals[:, 1])
    assert np.all(np.abs(nearest - exact[:, None]).min(axis=0) <= 10 * eps * norm)


def test_the_inverse_finds_the_low_end_of_ten_decades_in_few_products():
    M = with_spectrum(np.logspace(0, -10, 301))
    values, _, info = gn.eigsh(M, 4, "SA", "inverse", return_info=True)
    # eps * kappa = 2e-6 is what the matrix itself has lost
    np.testing.assert_allclose(values, np.sort(np.logspace(0, -10, 301))[:4], rtol=1e-4)
    assert info.products < 150
    with pytest.raises(ValueError, match="'inverse' but the matrix has negative eigenvalues"):
        gn.eigsh(with_spectrum(SPECTRA["indefinite"]), 2, "SA", "inverse")


def test_auto_takes_the_inverse_for_stored_matrices_and_lanczos_where_there_is_none(monkeypatch):
    monkeypatch.setattr(matrices, "DENSE_SIZE", 5)
    stored, indefinite = with_spectrum(SPECTRA["geometric"]), with_spectrum(SPECTRA["indefinite"])
    values, _, info = gn.eigsh(stored, 3, "SA", return_info=True)
    assert info.method == "inverse"
    np.testing.assert_allclose(values, np.linalg.eigvalsh(stored)[:3], rtol=1e-8)
    values, _, info = gn.eigsh(indefinite, 3, "SA", return_info=True)
    assert info.method == "lanczos"
    np.testing.assert_allclose(values, np.linalg.eigvalsh(indefinite)[:3], rtol=1e-9)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("method", ["dense", "lanczos", "krylov"])
@pytest.mark.parametrize("k", [1, 2, 5, N - 1])
def test_both_ends_as_scipy_counts_them(k, method, dtype):
    for seed, name in enumerate(("indefinite", "repeated"), 1):
        check(with_spectrum(SPECTRA[name], dtype), k, "BE", method, seed)
    if k == 1:
        return  # ARPACK knows no single end of two
    M = with_spectrum(SPECTRA["indefinite"], dtype)
    theirs = np.sort(sla.eigsh(M.astype(float), k, which="BE", return_eigenvectors=False))
    np.testing.assert_allclose(gn.eigsh(M, k, "BE", method)[0], theirs, atol=100 * np.finfo(dtype).eps * 3)


# ------------------------------------------------------------------------------------------ known failures of others
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("method", ITERATIVE)
def test_low_rank_has_no_huge_negative_and_no_repeated_values(method, dtype):
    """Rank 3, six values asked for: three zeros follow, at the level of rounding, each eigenvector another."""
    spectrum = np.concatenate([[5.0, 3.0, 1.0], np.zeros(200)])
    for seed in (1, 2, 3):
        M = with_spectrum(spectrum, dtype, seed)
        values, vectors = gn.eigsh(M, 6, method=method, seed=seed)
        np.testing.assert_allclose(values, [0, 0, 0, 1, 3, 5], atol=100 * np.finfo(dtype).eps * 5)
        np.testing.assert_allclose(vectors.T @ vectors, np.eye(6), atol=500 * np.finfo(dtype).eps)


@pytest.mark.parametrize("method", ["dense", *ITERATIVE])
def test_zero_and_identity_do_not_break_down(method):
    if method == "nystrom":
        with pytest.raises(ValueError, match="zero up to rounding"):
            gn.eigsh(np.zeros((60, 60)), 4, method=method, max_products=20)
    else:
        np.testing.assert_allclose(gn.eigsh(np.zeros((60, 60)), 4, method=method)[0], 0, atol=1e-300)
    np.testing.assert_allclose(gn.eigsh(np.eye(60), 4, method=method)[0], 1, rtol=1e-14)
    np.testing.assert_allclose(gn.eigsh(np.full((1, 1), 0.25), 1, method=method)[0], 0.25, rtol=1e-14)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize("method", ITERATIVE)
def test_scales_far_from_one(method, scale):
    M = with_spectrum(SPECTRA["geometric"]) * scale
    np.testing.assert_allclose(gn.eigsh(M, 4, method=method)[0], np.linalg.eigvalsh(M)[-4:], rtol=1e-9)


@pytest.mark.parametrize("method", ITERATIVE)
def test_nan_from_a_product_is_told_by_every_method(method):
    M, calls = with_spectrum(np.linspace(1, 2, 60)), itertools.count()

    def product(V):
        out = M @ V
        if next(calls) >= 2:
            out[3] = np.nan
        return out

    with pytest.raises(ValueError, match="NaN or infinite"):
        gn.eigsh(sla.LinearOperator(M.shape, matvec=product, matmat=product, dtype=M.dtype), 2, method=method)


class StopError(Exception):
    pass


@pytest.mark.parametrize("method", ITERATIVE)
def test_what_a_product_raises_comes_out_of_every_method(method):
    M, calls = with_spectrum(np.linspace(1, 2, 400)), itertools.count()

    def product(V):
        if next(calls) >= 2:
            raise StopError("enough")
        return M @ V

    with pytest.raises(StopError, match="enough"):
        gn.eigsh(sla.LinearOperator(M.shape, matvec=product, matmat=product, dtype=M.dtype), 2, method=method)


# --------------------------------------------------------------------------------------------------------- sketches
def test_a_sketch_by_itself_has_no_certificate():
    M = with_spectrum(np.logspace(0, -12, 200))
    with pytest.warns(gn.ConvergenceWarning, match="one pass: the residuals are not known"):
        values, vectors, info = gn.eigsh(M, 4, method="nystrom", max_products=14, return_info=True)
    assert (info.passes, info.products, info.converged) == (1, 14, False)
    assert np.all(np.isinf(info.residuals))
    assert np.all(np.isinf(info.intervals))
    # a Nystrom approximation lies below A; with 14 vectors for a spectrum that falls by 13 % from one to the next, near
    exact = np.linalg.eigvalsh(M)[-4:]
    assert np.all(values <= exact * (1 + 1e-12))
    np.testing.assert_allclose(values[1:], exact[1:], rtol=0.2)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(4), atol=1e-12)


def test_a_fast_decay_takes_few_passes():
    M = as_operator(with_spectrum(np.logspace(0, -20, 300)))
    for method in ("krylov", "nystrom"):
        info = gn.eigsh(M, 5, method=method, return_info=True)[2]
        assert info.passes <= 6  # one of them the check of the residuals


# ------------------------------------------------------------------------------------------------------ warm starts
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("which", ["LA", "SA", "BE"])
def test_a_start_near_the_answer_saves_products(which, dtype):
    rng = np.random.default_rng(1)
    M = with_spectrum(np.concatenate([[-4, -3.5], np.linspace(-1, 1, 396), [5, 6.5]]), dtype)
    E = rng.standard_normal(M.shape)
    near = (M + 1e-5 * (E + E.T) / 2).astype(dtype)
    tol = 1e-6 if dtype == "float64" else 1e-4
    _, vectors = gn.eigsh(M, 2, which, "lanczos", tol)
    values, _, cold = gn.eigsh(near, 2, which, "lanczos", tol, return_info=True, block_size=2)
    again, _, warm = gn.eigsh(near, 2, which, "lanczos", tol, return_info=True, block_size=2, v0=vectors)
    np.testing.assert_allclose(again, values, rtol=10 * tol)
    assert warm.products < cold.products
    assert warm.steps == 0  # nothing is known from a start that was not random
    assert cold.steps > 0


def test_starts_of_any_number_and_quality():
    M = with_spectrum(SPECTRA["geometric"])
    exact = np.linalg.eigvalsh(M)[-3:]
    rng = np.random.default_rng(0)
    for v0 in (
        rng.standard_normal(N),
        rng.standard_normal((N, 9)),
        np.zeros((N, 2)),
        np.ones((N, 3)),
        np.eye(N)[:, :1],
    ):
        for method in ("lanczos", "davidson", "krylov", "lobpcg"):
            np.testing.assert_allclose(gn.eigsh(M, 3, method=method, v0=v0)[0], exact, rtol=1e-9)
    for v0, error, message in (
        (np.ones(5), ValueError, r"v0 has shape \(5,\) but must be \(97,\) or \(97, b\)"),
        (np.ones((N, 2, 2)), ValueError, "v0 has shape"),
        (np.ones((N, 5)), ValueError, "v0 has 5 vectors but block_size is 4"),
        (np.full(N, np.nan), ValueError, "v0 has 97 NaN or infinite values"),
        (np.ones(N, "float32"), TypeError, "v0 has dtype float32"),
        (np.ones(N, complex), TypeError, "v0 has dtype complex128 but must be real"),
    ):
        with pytest.raises(error, match=message):
            gn.eigsh(M, 3, v0=v0, block_size=4)


# ------------------------------------------------------------------------------------------------- the cheapest space
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize("activation", ["identity", "relu"])
@pytest.mark.parametrize("dense", [800, 5])
def test_the_top_of_a_gauss_newton_matrix_comes_from_a_dual(dense, activation, loss, dtype, monkeypatch):
    monkeypatch.setattr(matrices, "DENSE_SIZE", dense)
    net, X = network([9, 40, 30, 4], activation, dtype=dtype), data(21, 9, dtype=dtype)
    G = gn.GaussNewton(net, X, loss)
    values, vectors, info = gn.eigsh(G, 5, return_info=True)
    exact = oracles.spectrum(oracles.gauss_newton(net, X, loss))
    eps = np.finfo(dtype).eps
    assert info.space in ("samples", "linear map")
    np.testing.assert_allclose(values, exact[-5:], rtol=1e-9 if dtype == "float64" else 1e-4)
    assert vectors.shape == (G.shape[0], 5)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(5), atol=500 * eps)
    residuals = np.linalg.norm(G @ np.asfortranarray(vectors) - vectors * values, axis=0)
    assert np.all(residuals <= 1.01 * info.residuals + 200 * eps * exact[-1])
    slack = 100 * np.finfo(float).eps * exact[-1]  # of the oracle itself
    held = (info.intervals[:, 0] - slack <= exact[-5:]) & (exact[-5:] <= info.intervals[:, 1] + slack)
    assert held.all()


def test_zero_eigenvalues_are_sought_in_parameters():
    """Rank 6 in 91 parameters: the seventh largest eigenvalue is zero and belongs to no sample."""
    G = gn.GaussNewton(network([5, 7, 8], "relu"), data(2, 5))
    values, vectors, info = gn.eigsh(G, 18, return_info=True)
    exact = oracles.spectrum(oracles.gauss_newton(G.net, G.X))
    np.testing.assert_allclose(values, exact[-18:], atol=1e-12 * exact[-1])
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(18), atol=1e-12)
    assert info.space == "parameters"
    bottleneck = gn.GaussNewton(network([5, 1, 8], "relu"), data(9, 5))
    exact = oracles.spectrum(oracles.gauss_newton(bottleneck.net, bottleneck.X))
    np.testing.assert_allclose(gn.eigsh(bottleneck, 13)[0], exact[-13:], atol=1e-12 * exact[-1])


def test_a_memory_limit_keeps_the_search_in_parameters():
    net, X = network([6, 7, 5, 9], "relu"), data(200, 6)
    free = gn.GaussNewton(net, X, memory_limit=1e9)
    tight = gn.GaussNewton(net, X, memory_limit=2e5)
    values, _, info = gn.eigsh(tight, 3, return_info=True)
    assert info.space == "parameters"
    np.testing.assert_allclose(values, gn.eigsh(free, 3)[0], rtol=1e-9)


def test_methods_say_which_ends_they_find():
    M = with_spectrum(SPECTRA["geometric"])
    for method, which, ends in (
        ("krylov", "SA", "which='LA' or which='BE'"),
        ("nystrom", "BE", "which='LA'"),
        ("inverse", "LA", "which='SA'"),
        ("inverse-cg", "BE", "which='SA'"),
        ("davidson", "BE", "which='LA' or which='SA'"),
        ("lobpcg", "BE", "which='LA' or which='SA'"),
    ):
        with pytest.raises(ValueError, match=f"method is '{method}', which needs {ends}, not '{which}'"):
            gn.eigsh(M, 2, which, method)


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_in_either_order_and_nearly_symmetric(order):
    M = np.asarray(with_spectrum(np.linspace(1, 2, 300)), order=order)
    exact = np.linalg.eigvalsh(M)[-3:]
    np.testing.assert_allclose(gn.eigsh(M, 3, method="lanczos")[0], exact, rtol=1e-9)
    nearly = M.copy(order)
    nearly[7, 280] *= 1 + 1e-15
    np.testing.assert_allclose(gn.eigsh(nearly, 3, method="lanczos")[0], exact, rtol=1e-9)
    for i, j, value, message in ((299, 3, 0.5, "op is not symmetric"), (280, 280, np.inf, "op has 1 NaN or infinite")):
        broken = M.copy(order)
        broken[i, j] = value
        with pytest.raises(ValueError, match=message):
            gn.eigsh(broken, 3)
