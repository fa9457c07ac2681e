"""The low end by the inverse where nothing is stored: systems by conjugate gradients, all of their products counted."""

from __future__ import annotations

import itertools
from functools import partial

import numpy as np
import oracles
import pytest
import scipy.sparse.linalg as sla
from problems import data, network
from spectra import SPECTRA, N, as_operator, few_digits, limits, with_spectrum
from test_eigen import check

import gnfast as gn
from gnfast.spectrum import checkpoints


class Counted:
    """An operator that counts the vectors and blocks that it multiplies once it is known to be symmetric."""

    def __init__(self, M):
        self.M, self.vectors, self.blocks = M, 0, 0
        self.op = gn.operator(self.product, len(M), M.dtype)
        self.vectors = self.blocks = 0

    def product(self, V):
        self.vectors += V.shape[1]
        self.blocks += 1
        return self.M @ V


def interrupted_after(count):
    calls = itertools.count(1)

    def progress(stage, done, total):
        if stage == "smallest eigenvalues" and next(calls) == count:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize(("decades", "dtype"), [(6, "float64"), (6, "float32"), (10, "float32"), (14, "float32")])
def test_many_decades(decades, dtype):
    """As many as the dtype resolves: an eigenvalue is known up to rounding of the largest."""
    M = with_spectrum(np.logspace(0, -decades, N), dtype)
    for seed, k in zip((1, 2, 3), (1, 5, N - 1), strict=True):
        check(M, k, "SA", "inverse-cg", seed)


@pytest.mark.filterwarnings("ignore::gnfast.ConvergenceWarning")
@pytest.mark.parametrize("decades", [10, 14])
def test_what_conjugate_gradients_cannot_reach_is_never_claimed(decades):
    M = with_spectrum(np.logspace(0, -decades, N))
    exact, eps = np.linalg.eigvalsh(M), np.finfo(float).eps
    for seed, k in zip((1, 2, 3), (1, 5, N - 1), strict=True):
        values, vectors, info = gn.eigsh(M, k, "SA", "inverse-cg", seed=seed, max_products=3_000, return_info=True)
        assert info.converged == (k == N - 1 and decades == 10)  # all of them: some of 14 decades have no digits
        residuals = np.linalg.norm(M @ vectors - vectors * values, axis=0)
        np.testing.assert_allclose(info.residuals, residuals, rtol=0.5, atol=100 * eps)
        # Ritz values lie above, and the smallest is at most this far
        assert np.all(values >= exact[:k] - 50 * eps)
        nearest = np.clip(exact[:, None], info.intervals[:, 0], info.intervals[:, 1])
        assert np.all(np.abs(nearest - exact[:, None]).min(axis=0) <= 10 * eps)


def test_products_inside_of_systems_are_counted_and_limited():
    counted = Counted(with_spectrum(SPECTRA["geometric"]))
    info = gn.eigsh(counted.op, 3, "SA", "inverse-cg", max_products=20_000, return_info=True)[2]
    # the residuals that come with pairs are the search's own: no product is made after it
    assert (info.products, info.passes) == (counted.vectors, counted.blocks)
    for limit in (20, 60, 150):  # the norm's products are among them
        counted = Counted(with_spectrum(SPECTRA["geometric"]))
        with pytest.warns(gn.ConvergenceWarning, match="inverse-cg stopped after .*: max_products reached; the best"):
            values, vectors, info = gn.eigsh(counted.op, 3, "SA", "inverse-cg", max_products=limit, return_info=True)
        assert info.products == counted.vectors <= limit
        residuals = np.linalg.norm(counted.M @ vectors - vectors * values, axis=0)
        np.testing.assert_allclose(info.residuals, residuals, rtol=1e-6, atol=1e-15)


@pytest.mark.filterwarnings("ignore:.* are known to .* only:gnfast.ConvergenceWarning")  # the low end in float32
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("kind", ["linear", "gram", "softmax"])
def test_duals_that_may_not_be_stored(kind, dtype, monkeypatch):
    limits(monkeypatch, stored=20)
    linear = kind == "linear"
    net = network([12, 30, 7], "identity" if linear else "tanh", dtype=dtype)
    X, loss = data(14, 12, 2 if linear else 0.3, dtype=dtype), "cross_entropy" if kind == "softmax" else "mse"
    G = gn.GaussNewton(net, X, loss)
    dual = G.linear_dual() if linear else G.gram(reduced=True)
    exact = oracles.spectrum(oracles.gauss_newton(net, X, loss))[-dual.shape[0] :]
    eps = np.finfo(dtype).eps
    for seed in (1, 2, 3):
        values, vectors, info = gn.eigsh(dual, 4, "SA", "inverse", seed=seed, return_info=True)
        assert (info.method, info.converged) == ("inverse-cg", not few_digits(exact[:4], exact[-1], eps))
        np.testing.assert_allclose(
            values, exact[:4], rtol=1e-8 if dtype == "float64" else 1e-3, atol=50 * eps * exact[-1]
        )
        np.testing.assert_allclose(vectors.T @ vectors, np.eye(4), atol=500 * eps)
        assert np.all((info.intervals[:, 0] <= exact[:4]) & (exact[:4] <= info.intervals[:, 1]))
    if dtype == "float32":
        wide, _, info = gn.eigsh(dual, 4, "SA", "inverse", precision="float64", return_info=True)
        assert wide.dtype == np.float64
        np.testing.assert_allclose(wide, exact[:4], rtol=1e-3, atol=10 * eps * exact[-1])
        assert np.ptp(info.intervals, axis=1).min() >= 2 * eps * exact[-1]


def test_a_memory_limit_decides_what_the_inverse_is(monkeypatch):
    limits(monkeypatch)
    M = with_spectrum(SPECTRA["geometric"])
    op = gn.operator(lambda V: M @ V, N)
    for memory_limit, method in ((None, "inverse"), (8 * N**2, "inverse"), (8 * N**2 - 1, "inverse-cg")):
        op.memory_limit = memory_limit
        values, _, info = gn.eigsh(op, 2, "SA", "inverse", max_products=20_000, return_info=True)
        assert info.method == method
        np.testing.assert_allclose(values, SPECTRA["geometric"][:-3:-1], rtol=1e-8)


def test_a_singular_operator_gives_zeros_and_what_follows():
    spectrum = np.concatenate([np.zeros(5), np.geomspace(1e-3, 1, 200)])
    for seed in (1, 2, 3):
        for dtype in ("float64", "float32"):
            check(with_spectrum(spectrum, dtype, seed), 8, "SA", "inverse-cg", seed)


@pytest.mark.parametrize("method", ["inverse", "inverse-cg"])
@pytest.mark.parametrize(
    "spectrum", [SPECTRA["indefinite"], -np.linspace(1, 2, N), np.append(np.linspace(1, 2, N - 1), -1e-3)]
)
def test_negative_eigenvalues_are_told(spectrum, method):
    for seed in (1, 2, 3):
        with pytest.raises(ValueError, match=f"method is '{method}' but the matrix has negative eigenvalues"):
            gn.eigsh(as_operator(with_spectrum(spectrum)), 2, "SA", method, seed=seed)


def test_zero_identity_and_scales():
    np.testing.assert_allclose(gn.eigsh(np.zeros((60, 60)), 4, "SA", "inverse-cg")[0], 0, atol=1e-300)
    np.testing.assert_allclose(gn.eigsh(np.eye(60), 4, "SA", "inverse-cg")[0], 1, rtol=1e-14)
    for scale in (1e-30, 1e30):
        M = with_spectrum(SPECTRA["geometric"]) * scale
        values, _ = gn.eigsh(M, 4, "SA", "inverse-cg", max_products=20_000)
        np.testing.assert_allclose(values, np.linalg.eigvalsh(M)[:4], rtol=1e-9)


def test_what_a_product_gives_or_raises_inside_of_a_system_comes_out():
    M = with_spectrum(SPECTRA["geometric"])
    for after in (30, 31, 32, 33):
        for bad, error, message in ((np.nan, ValueError, "NaN or infinite"), (None, ZeroDivisionError, "by zero")):
            calls = itertools.count()

            def product(V, calls=calls, bad=bad, after=after):
                if next(calls) < after:
                    return M @ V
                return np.full_like(V, bad) if bad is not None else 1 // 0

            with pytest.raises(error, match=message):
                gn.eigsh(gn.operator(product, N), 2, "SA", "inverse-cg")


@pytest.mark.parametrize("inside", [False, True])
def test_an_interrupt_returns_the_best_so_far(inside):
    """Between two products of a system as well as inside of one."""
    M, calls = with_spectrum(SPECTRA["geometric"]), itertools.count()

    def product(V):
        if inside and next(calls) == 300:
            raise KeyboardInterrupt
        return M @ V

    op = sla.LinearOperator(M.shape, matvec=product, matmat=product, dtype=M.dtype)
    progress = None if inside else interrupted_after(300)
    with pytest.warns(gn.ConvergenceWarning, match="inverse-cg was interrupted"):
        values, vectors, info = gn.eigsh(op, 3, "SA", "inverse-cg", progress=progress, return_info=True)
    assert info.reason == "interrupted"
    residuals = np.linalg.norm(M @ vectors - vectors * values, axis=0)
    np.testing.assert_allclose(info.residuals, residuals, rtol=1e-6, atol=1e-15)
    with pytest.raises(KeyboardInterrupt):  # in the first system: there is nothing yet
        gn.eigsh(M, 3, "SA", "inverse-cg", progress=interrupted_after(1))


def test_progress_tells_products_and_the_residuals_of_pairs():
    seen = []
    info = gn.eigsh(
        with_spectrum(SPECTRA["geometric"]),
        2,
        "SA",
        "inverse-cg",
        progress=lambda *step: seen.append(step),
        return_info=True,
    )[2]
    own = [step for step in seen if step[0] == "smallest eigenvalues"]
    assert np.all(np.diff([done for _, done, _ in own]) >= 0)
    assert own[0][0].residual is None  # inside of the first system
    assert own[-1][0].residual == pytest.approx(info.residuals.max())
    assert {str(stage) for stage, _, _ in seen} == {"largest eigenvalues", "smallest eigenvalues"}


@pytest.mark.filterwarnings("ignore:.* are known to .* only:gnfast.ConvergenceWarning")  # the low end in float32
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_search_goes_on_where_it_was(dtype, tmp_path, monkeypatch):
    """From inside of a system it goes on from the step before; products made in vain count."""
    monkeypatch.setattr(checkpoints, "EVERY", 0.0)
    M, path, seen = with_spectrum(SPECTRA["geometric"], dtype), tmp_path / "state.npz", []
    solve = partial(gn.eigsh, M, 3, "SA", "inverse-cg", max_products=20_000, return_info=True)
    whole, _, uncut = solve(progress=lambda *step: seen.append(step))
    own = [stage for stage, _, _ in seen if stage == "smallest eigenvalues"]
    first = sum(stage.residual is None for stage in own)  # inside of the first system, where there is nothing yet
    for stop in (first + (len(own) - first) // 4, 3, (len(own) - first) // 4):
        with pytest.warns(gn.ConvergenceWarning, match="interrupted"):
            solve(progress=interrupted_after(stop), checkpoint=path)
        assert path.exists()
    found, _, info = solve(checkpoint=path)
    np.testing.assert_array_equal(found, whole)  # to the last bit
    assert info.products >= uncut.products
    assert not path.exists()


@pytest.mark.parametrize("spectrum", ["gaps", "clustered", "repeated", "rank deficient"])
def test_a_start_near_the_answer_saves_products(spectrum):
    M = with_spectrum(SPECTRA[spectrum])
    values, vectors, cold = gn.eigsh(M, 3, "SA", "inverse-cg", max_products=20_000, return_info=True)
    again, _, warm = gn.eigsh(M, 3, "SA", "inverse-cg", v0=vectors, max_products=20_000, return_info=True)
    np.testing.assert_allclose(again, values, rtol=1e-9, atol=1e-12 * max(SPECTRA[spectrum]))
    assert cold.converged and warm.converged
    assert warm.products < cold.products


def test_auto_takes_it_where_nothing_can_be_stored_and_no_preconditioner_is_known(monkeypatch):
    limits(monkeypatch, stored=20)
    for name, method in (("geometric", "inverse-cg"), ("indefinite", "lanczos")):
        M = with_spectrum(SPECTRA[name])
        values, _, info = gn.eigsh(as_operator(M), 3, "SA", max_products=20_000, return_info=True)
        assert info.method == method
        np.testing.assert_allclose(values, np.linalg.eigvalsh(M)[:3], rtol=1e-8)
    G = gn.GaussNewton(network([5, 7, 4], "relu"), data(9, 5))
    assert gn.eigsh(G, 3, "SA", return_info=True)[2].method == "lanczos"
    assert gn.eigsh(G.gram(), 3, "SA", return_info=True)[2].method == "davidson"
