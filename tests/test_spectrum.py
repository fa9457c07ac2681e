"""Eigenvalues and ranks against LAPACK: prescribed spectra, our operators, bad operators, progress."""

from __future__ import annotations

import contextlib
import itertools
import math

import numpy as np
import oracles
import pytest
import scipy.sparse
import scipy.sparse.linalg as sla
from problems import data, network
from spectra import SPECTRA, N, as_operator, few_digits, limits, with_spectrum

import gnfast as gn


# ----------------------------------------------------------------------------------------------------------- eigsh
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("method", ["dense", "lanczos"])
@pytest.mark.parametrize("which", ["LA", "SA"])
@pytest.mark.parametrize("name", SPECTRA)
def test_eigenpairs_are_lapack_s(name, which, method, dtype):
    if name in ("geometric", "fourteen decades") and (which, method) == ("SA", "lanczos"):
        pytest.skip("the low end of six decades needs more products than the default")
    M = with_spectrum(SPECTRA[name], dtype)
    size, eps = len(M), np.finfo(dtype).eps
    exact = np.linalg.eigvalsh(M.astype(float))
    norm = np.abs(exact).max()
    for k in sorted({1, min(5, size), max(size - 1, 1)}):
        expected = exact[size - k :] if which == "LA" else exact[:k]
        lost = few_digits(expected, norm, eps)
        with pytest.warns(gn.ConvergenceWarning, match="are known to") if lost else contextlib.nullcontext():
            values, vectors, info = gn.eigsh(M, k, which, method, return_info=True)
        assert values.dtype == vectors.dtype == np.dtype(dtype)
        # what was asked for, or what rounding leaves; 50 eps: of products with and sums over vectors of length 97; a
        # cluster of 20 is not resolved by a block of 4 before the residuals are smaller than its gaps
        tol = 1e-9 if dtype == "float64" else 1e-4
        cluster = info.residuals.max() if name == "clustered" else 0
        np.testing.assert_allclose(values, expected, rtol=tol, atol=50 * eps * norm + cluster)
        np.testing.assert_allclose(vectors.T @ vectors, np.eye(k), atol=500 * eps)  # LAPACK's MRRR has N eps
        residuals = np.linalg.norm(M @ vectors - vectors * values, axis=0)
        np.testing.assert_allclose(residuals, info.residuals, rtol=0.5, atol=50 * eps * norm)
        assert info.converged == (not lost)
        assert info.method == method
        assert info.products >= k


@pytest.mark.parametrize("block", [1, 2, 7, 97])
@pytest.mark.parametrize("which", ["LA", "SA"])
def test_blocks_and_seeds_find_the_same(which, block):
    M = with_spectrum(np.sqrt(SPECTRA["geometric"]))
    exact = np.linalg.eigvalsh(M)
    for seed in (0, 1):
        values = gn.eigsh(M, 4, which, "lanczos", block_size=block, seed=seed, max_products=20_000)[0]
        np.testing.assert_allclose(values, exact[-4:] if which == "LA" else exact[:4], rtol=1e-9, atol=1e-14)
    again = gn.eigsh(M, 4, which, "lanczos", block_size=block, seed=1, max_products=20_000)[0]
    np.testing.assert_array_equal(values, again)


def test_all_kinds_of_operators():
    M = with_spectrum(SPECTRA["geometric"])
    exact = np.linalg.eigvalsh(M)[-3:]
    for op in (M, M.tolist(), as_operator(M), scipy.sparse.csr_array(M), sla.aslinearoperator(M), np.asfortranarray(M)):
        for method in ("dense", "lanczos", "auto"):
            np.testing.assert_allclose(gn.eigsh(op, 3, method=method)[0], exact, rtol=1e-9)
    integer = sla.LinearOperator((3, 3), matvec=lambda v: np.array([1, 2, 3]) * np.ravel(v), dtype=int)
    np.testing.assert_allclose(gn.eigsh(integer, 3)[0], [1, 2, 3])
    G = gn.GaussNewton(network([5, 7, 3], "relu"), data(6, 5))
    np.testing.assert_allclose(gn.eigsh(2 * G + G, 2)[0], 3 * gn.eigsh(G, 2)[0], rtol=1e-9)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("space", ["parameters", "samples", "linear map"])
def test_eigenpairs_of_our_operators(space, dtype, monkeypatch):
    net, X = network([9, 20, 15, 4], dtype=dtype), data(21, 9, dtype=dtype)
    G = gn.GaussNewton(net, X)
    op = {"parameters": G, "samples": G.gram(), "linear map": G.linear_dual()}[space]
    values = oracles.spectrum(oracles.gauss_newton(net, X))
    rtol, floor = (1e-9, 1e-13) if dtype == "float64" else (1e-4, 1e-5)
    for method in ("dense", "lanczos"):
        found, vectors = gn.eigsh(op, 5, method=method)
        np.testing.assert_allclose(found, values[-5:], rtol=rtol)
        if space != "parameters":
            lifted = op.lift(vectors) / np.sqrt(found)
            np.testing.assert_allclose(lifted.T @ lifted, np.eye(5), atol=100 * rtol)
            np.testing.assert_allclose(G @ lifted, lifted * found, atol=1000 * math.sqrt(rtol * floor) * values[-1])
    if space == "linear map":
        limits(monkeypatch)
        low, vectors, info = gn.eigsh(op, 3, "SA", return_info=True)
        assert info.method == "davidson"
        assert info.converged
        np.testing.assert_allclose(
            low, oracles.nonzero(oracles.gauss_newton(net, X))[:3], rtol=rtol, atol=floor * values[-1]
        )
        np.testing.assert_allclose(op @ vectors, vectors * low, atol=info.residuals.max() + 10 * floor * values[-1])
        np.testing.assert_allclose(gn.eigsh(op, 3, "SA", method="davidson")[0], low, rtol=rtol)


def test_davidson_works_below_the_dense_size_and_on_a_gram():
    G = gn.GaussNewton(network([30, 200, 3], "relu"), data(15, 30))
    exact = oracles.spectrum(oracles.gram(G.net, G.X))
    values, _, info = gn.eigsh(G.gram(), 4, "SA", "davidson", return_info=True)
    np.testing.assert_allclose(values, exact[:4], rtol=1e-9)
    assert info.method == "davidson"


def test_stored_grams_are_used_by_solvers():
    G = gn.GaussNewton(network([5, 40, 3], "relu"), data(30, 5))
    before = gn.eigsh(G.gram(), 2, method="lanczos")[0]
    G.gram().to_dense()
    np.testing.assert_allclose(gn.eigsh(G.gram(), 2, method="lanczos")[0], before, rtol=1e-10)
    np.testing.assert_allclose(gn.eigsh(G.gram(), 2, method="dense")[0], before, rtol=1e-10)


def test_not_converged_warns_and_returns_the_best():
    M = with_spectrum(np.linspace(1, 2, 400))
    with pytest.warns(
        gn.ConvergenceWarning, match=r"lanczos stopped after \d+ products .* max_products reached"
    ) as seen:
        values, vectors, info = gn.eigsh(M, 4, method="lanczos", max_products=40, return_info=True)
    assert seen[0].filename == __file__
    assert not info.converged
    assert info.products <= 40
    assert info.reason == "max_products reached"
    assert values.shape == (4,)
    assert np.all(values <= 2 + 1e-12)  # Ritz values lie inside the spectrum
    assert np.all(values > 1.7)
    residuals = np.linalg.norm(M @ vectors - vectors * values, axis=0)
    np.testing.assert_allclose(residuals, info.residuals, rtol=1e-6)
    with pytest.warns(gn.ConvergenceWarning):
        values, vectors = gn.eigsh(M, 6, method="lanczos", max_products=4, block_size=2)
    assert values.shape[0] == vectors.shape[1] <= 6


class StopError(Exception):
    pass


@pytest.mark.parametrize("method", ["dense", "lanczos"])
@pytest.mark.parametrize("after", [0, 1, 5])
def test_what_a_product_raises_comes_out(after, method):
    M, calls = with_spectrum(np.linspace(1, 2, 400)), itertools.count()

    def product(V):
        if next(calls) >= after:
            raise StopError("enough")
        return M @ V

    op = sla.LinearOperator(M.shape, matvec=product, matmat=product, dtype=M.dtype)
    if method == "dense" and after == 5:
        pytest.skip("fewer products than that")
    with pytest.raises(StopError, match="enough"):
        gn.eigsh(op, 2, method=method)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("method", ["dense", "lanczos"])
@pytest.mark.parametrize("after", [0, 1])
def test_nan_from_a_product_is_told(after, method, value):
    M, calls = with_spectrum(np.linspace(1, 2, 60)), itertools.count()

    def product(V):
        out = M @ V
        if next(calls) >= after:
            out[3] = value
        return out

    op = sla.LinearOperator(M.shape, matvec=product, matmat=product, dtype=M.dtype)
    with pytest.raises(ValueError, match="NaN or infinite"), np.errstate(invalid="ignore"):
        gn.eigsh(op, 2, method=method)


def test_bad_operators_and_arguments():
    M = with_spectrum(SPECTRA["geometric"])
    skew = M.copy()
    skew[3, 50] += 1e-3
    for op in (skew, as_operator(skew)):
        with pytest.raises(ValueError, match=r"op is not symmetric; pass \(op \+ op\.T\) / 2"):
            gn.eigsh(op)
    for op in (M[:5], as_operator(M[:5]), M[0], np.zeros((0, 0))):
        with pytest.raises(ValueError, match="op has shape"):
            gn.eigsh(op)
    for op, message in (
        (M.astype(complex), "must be real"),
        (as_operator(M.astype(complex)), "op has dtype complex128 but must be real symmetric"),
        (M.astype(int), "op has dtype int64 but must be float32 or float64"),
        ("M", "NumPy"),
        (sla.LinearOperator((4, 4), matvec=lambda v: v * 1j, dtype=float), "op gave a complex product"),
    ):
        with pytest.raises(TypeError, match=message):
            gn.eigsh(op, 2)
    short = sla.LinearOperator((4, 4), matvec=lambda v: v, matmat=lambda V: V[:3], dtype=float)
    with pytest.raises(ValueError, match=r"gave a product of shape \(3, 2\) for a block of vectors of shape \(4, 2\)"):
        gn.eigsh(short, 2)
    with pytest.raises(ValueError, match="NaN"):
        gn.eigsh(np.full((3, 3), np.nan))
    for options, error, message in (
        ({"k": 0}, ValueError, "k is 0 but must be from 1 to 97"),
        ({"k": 98}, ValueError, "k is 98 but must be from 1 to 97"),
        ({"k": 2.0}, TypeError, "k is 2.0 but must be an integer"),
        ({"which": "LM"}, ValueError, "which is 'LM' but must be one of 'LA', 'SA'"),
        ({"method": "lancsoz"}, ValueError, "did you mean 'lanczos'"),
        ({"method": "davidson", "which": "BE"}, ValueError, "which needs which='LA' or which='SA', not 'BE'"),
        ({"tol": 0}, ValueError, "tol is 0 but must be positive"),
        ({"tol": "small"}, TypeError, "tol is 'small'"),
        ({"seed": -1}, ValueError, "seed is -1"),
        ({"block_size": 98}, ValueError, "block_size is 98"),
        ({"max_products": 0}, ValueError, "max_products is 0"),
        ({"progress": 3}, TypeError, "progress is of type int"),
        ({"return_info": 1}, TypeError, "return_info is 1"),
    ):
        with pytest.raises(error, match=message):
            gn.eigsh(M, **options)


def test_a_dense_spectrum_stays_within_memory_limit():
    G = gn.GaussNewton(network([5, 7, 3], "relu"), data(60, 5), memory_limit=90_000)
    with pytest.raises(MemoryError, match=r"the 180 x 180 matrix with what it is formed of needs 281\.8 kB"):
        gn.eigsh(G.gram(), method="dense")


# -------------------------------------------------------------------------------------------------------- progress
def test_progress_tells_stages(capsys, monkeypatch):
    limits(monkeypatch)
    seen = []
    G = gn.GaussNewton(network([6, 50, 4], "relu"), data(12, 6))
    gn.cond(G, progress=lambda *step: seen.append(step))
    assert {stage for stage, _, _ in seen} == {"forming the Gram matrix", "largest eigenvalues"}
    assert all(done > 0 and (total == 0 or done <= total) for _, done, total in seen)
    linear = gn.GaussNewton(network([6, 50, 4]), data(12, 6)).linear_dual()
    gn.cond(linear, progress=lambda *step: seen.append(step))
    assert "smallest eigenvalues" in {stage for stage, _, _ in seen}
    gn.eigsh(with_spectrum(SPECTRA["geometric"]), method="lanczos", progress=True)
    gn.eigsh(G, method="dense", progress=True)
    shown = capsys.readouterr()
    assert not shown.out
    assert "largest eigenvalues: " in shown.err
    assert "forming the matrix: 100%" in shown.err
    assert shown.err.endswith("\n")
    gn.cond(G, progress=False)
    assert not capsys.readouterr().err


@pytest.mark.parametrize("stop", [KeyboardInterrupt, StopError])
@pytest.mark.parametrize("stage", ["forming the Gram matrix", "largest eigenvalues", "smallest eigenvalues"])
def test_interrupts_get_out_cleanly(stage, stop, monkeypatch):
    limits(monkeypatch)
    linear = stage.startswith("smallest")
    G = gn.GaussNewton(network([6, 50, 4], "identity" if linear else "relu"), data(12, 6))
    op = G.linear_dual() if linear else G

    def interrupt(current, done, total):
        if current == stage:
            raise stop

    expected = gn.cond(op).value
    with pytest.raises(stop):
        gn.cond(op, progress=interrupt)
    assert gn.cond(op).value == expected  # nothing is left locked or half done


# ------------------------------------------------------------------------------------------------------------- rank
@pytest.mark.parametrize("spectrum", [3_200, 5])
def test_rank(spectrum, monkeypatch):
    limits(monkeypatch, spectrum=spectrum)
    method = "whole spectrum by LAPACK" if spectrum > N else "inertia"
    for name, expected in (("geometric", N), ("rank deficient", 31), ("all equal", N), ("repeated", N)):
        for dtype in ("float64", "float32"):
            found = gn.rank(with_spectrum(SPECTRA[name], dtype))
            if name == "geometric" and dtype == "float32":
                assert found.value > 0.9 * N  # 1e-6 is not resolved
                continue
            assert (found.value, found.dimension, found.method) == (expected, N, method)
            assert int(found) == range(200)[found] == expected
            eps = np.finfo(dtype).eps
            assert found.cut == pytest.approx(16 * eps * SPECTRA[name].max(), rel=1e-2)
    zero = gn.rank(np.zeros((9, 9)))
    assert (zero.value, zero.cut) == (0, 0)
    assert gn.rank(with_spectrum(SPECTRA["geometric"]), cut=1e-3 * 1.001).value <= 49
    assert gn.rank(as_operator(with_spectrum(SPECTRA["rank deficient"]))).value == 31


def test_rank_of_networks():
    X = data(30, 8)
    X[:, 3] = 0
    assert int(gn.rank(gn.GaussNewton(network([8, 20, 3]), X))) == 7 * 3
    bottleneck = gn.GaussNewton(network([8, 2, 5]), X)
    assert int(gn.rank(bottleneck)) == int(gn.rank(bottleneck.gram())) == 7 * 5 - (7 - 2) * (5 - 2)
    softmax = gn.GaussNewton(network([8, 90, 4], "tanh"), X, "cross_entropy")
    full = gn.rank(softmax)
    assert (full.value, full.dimension) == (90, 90)  # the reduced dual
    assert (gn.rank(softmax.gram()).value, gn.rank(softmax.gram()).dimension) == (90, 120)


def test_rank_refuses(monkeypatch):
    with pytest.raises(ValueError, match="cut is -1 but must be at least 0"):
        gn.rank(np.eye(3), cut=-1)
    with pytest.raises(ValueError, match="must be positive semi-definite but has the eigenvalue -3"):
        gn.rank(with_spectrum(SPECTRA["indefinite"]))
    limits(monkeypatch, stored=50)
    with pytest.raises(ValueError, match="op is 97 x 97 but its matrix has to be stored"):
        gn.rank(with_spectrum(SPECTRA["geometric"]), method="exact")
    G = gn.GaussNewton(network([5, 7, 3], "relu"), data(15, 5), memory_limit=12_000)
    with pytest.raises(MemoryError, match="the 45 x 45 matrix needs"):
        gn.rank(G.gram(), method="exact")
