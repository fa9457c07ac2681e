"""Quadratures and what is made of them: densities, determinants, effective dimensions, against whole spectra."""

from __future__ import annotations

import sys

import numpy as np
import oracles
import pytest
import scipy.sparse.linalg as sla
from problems import data, network, problem
from scipy.integrate import trapezoid
from scipy.special import ndtr
from spectra import SPECTRA, N, as_operator, limits, with_spectrum

import gnfast as gn
from gnfast import _core
from gnfast.spectrum import matrices, quadrature

POSITIVE = ("geometric", "clustered", "repeated", "rank deficient", "all equal", "one", "two")


def exact_rows(M, probes, f):
    """v^T f(M) v for the probes v that the core draws: they are seen in the first product."""
    values, vectors = np.linalg.eigh(M)
    signs = []

    def spy(V):
        signs.append(np.array(V))
        return M @ V

    core = _core.callback(lambda block: np.ascontiguousarray(spy(block.T).T), len(M), "float64")
    options = _core.QuadratureOptions(probes=probes, steps=1, block=probes, reorthogonalize=True, seed=0)
    _core.lanczos_quadrature(core, options)
    weights = (vectors.T @ signs[0]) ** 2
    return f(values) @ weights


# ------------------------------------------------------------------------------------------------------ quadrature
@pytest.mark.parametrize("block", [1, 3, 5])
@pytest.mark.parametrize("keep", [True, False])
def test_quadrature_is_exact_for_polynomials(keep, block):
    M = with_spectrum(SPECTRA["indefinite"])
    options = _core.QuadratureOptions(probes=5, steps=6, block=block, reorthogonalize=keep, seed=0)
    found = _core.lanczos_quadrature(matrices.Stored(M).core, options)
    nodes, weights, residuals = found.nodes, found.weights, found.residuals
    assert nodes.shape == weights.shape == residuals.shape == (5, 6)
    # an eigenvalue lies within the residual of each node, and the residuals are not all large
    distance = np.abs(nodes[..., None] - SPECTRA["indefinite"]).min(axis=2)
    assert np.all(distance <= residuals + 1e-12)
    assert residuals.max() < 3
    assert residuals.min() > 0
    assert found.coarse_nodes.shape == found.coarse_weights.shape == (5, 3)
    assert found.products == 30
    for degree in range(12):  # 2 * 6 - 1
        expected = exact_rows(M, 5, lambda x, degree=degree: x**degree)
        np.testing.assert_allclose(np.sum(weights * nodes**degree, axis=1), expected, atol=1e-11 * 3.0**degree)
        if degree < 6:
            coarse = np.sum(found.coarse_weights * found.coarse_nodes**degree, axis=1)
            np.testing.assert_allclose(coarse, expected, atol=1e-11 * 3.0**degree)
    assert np.abs(np.sum(weights * nodes**12, axis=1) - exact_rows(M, 5, lambda x: x**12)).max() > 1e-6


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", SPECTRA)
def test_weights_and_nodes_of_prescribed_spectra(name, dtype):
    """Nodes lie within the spectrum, weights are a measure, breakdown leaves no ghosts."""
    M = with_spectrum(SPECTRA[name], dtype)
    eps, norm = np.finfo(dtype).eps, np.abs(SPECTRA[name]).max()
    found = quadrature.measure(matrices.Stored(M), 7, 200, 0, None, None)
    assert found.reorthogonalized
    np.testing.assert_allclose(found.weights.sum(axis=1), 1, rtol=1e-12)
    assert found.weights.min() >= 0
    # 50 eps: of products with matrices of 97 entries a row
    assert found.nodes.min() > SPECTRA[name].min() - 50 * eps * norm
    assert found.nodes.max() < SPECTRA[name].max() + 50 * eps * norm
    distinct = len(np.unique(SPECTRA[name]))
    if distinct <= 5:
        # As many steps as there are different eigenvalues, plus the one that rounding may take.
        assert found.products <= 7 * (distinct + 1)
        off = np.abs(found.nodes[..., None] - np.unique(SPECTRA[name])).min(axis=2)
        assert np.sum(found.weights * (off > 100 * eps * norm)) < 100 * eps
    means = np.sum(found.weights * found.nodes, axis=1)
    mean, error = means.mean(), quadrature.standard_error(means)
    assert abs(mean * len(M) - np.trace(M.astype(float))) <= 5 * len(M) * error + 100 * eps * norm * len(M)


def test_without_reorthogonalization_the_answer_stays(monkeypatch):
    """Copies of converged eigenvalues share the weight of one."""
    M = with_spectrum(np.r_[np.linspace(0.1, 1, N - 2), 50, 80])
    full = quadrature.measure(matrices.Stored(M), 6, 60, 0, None, None)
    monkeypatch.setattr(quadrature, "BASIS_BYTES", 1)
    lean = quadrature.measure(matrices.Stored(M), 6, 60, 0, None, None)
    assert not lean.reorthogonalized
    assert np.sum(lean.nodes > 79.9) > np.sum(full.nodes > 79.9)  # the copies are there
    for f in (np.log, np.sqrt, lambda x: x / (x + 1)):
        mean, expected = (np.sum(one.weights * f(one.nodes), axis=1).mean() for one in (lean, full))
        np.testing.assert_allclose(mean, expected, rtol=1e-5)


def test_chebyshev_moments():
    M = with_spectrum(SPECTRA["indefinite"])
    for block in (1, 4):
        options = _core.QuadratureOptions(probes=5, steps=9, block=block, seed=0)
        found = _core.chebyshev_moments(matrices.Stored(M).core, -0.5, 3.0, options)
        for k in range(9):
            expected = exact_rows(M, 5, lambda x, k=k: np.cos(k * np.arccos((x + 0.5) / 3)))
            np.testing.assert_allclose(found[:, k], expected, atol=1e-12)


# ------------------------------------------------------------------------------------------------------- densities
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("method", ["lanczos", "kpm"])
@pytest.mark.parametrize("name", SPECTRA)
def test_densities_integrate_to_one(name, method, dtype):
    found = gn.density(as_operator(with_spectrum(SPECTRA[name], dtype)), method)
    assert abs(found.integral - 1) < 1e-6  # 5 standard deviations of the smoothing beyond both ends
    assert np.all(np.isfinite(found.values))
    assert found.values.min() > -1e3 * np.finfo(dtype).eps * found.values.max()  # Jackson's series is not negative
    assert found.grid.shape == found.values.shape == found.error.shape
    assert found.dimension == len(SPECTRA[name])
    if not found.log:
        assert abs(trapezoid(found.values, found.grid) - 1) < 0.01


def test_density_is_the_smoothed_spectrum():
    values = np.r_[np.linspace(0, 1, 200), np.linspace(2, 2.5, 100)]
    op = as_operator(with_spectrum(values))
    edges = np.linspace(-0.5, 3, 141)
    grid = (edges[1:] + edges[:-1]) / 2
    found = gn.density(op, probes=60, steps=80, grid=grid, width=0.1)
    exact = np.diff(ndtr((edges[:, None] - values) / 0.1).mean(axis=1)) / np.diff(edges)
    off = np.abs(found.values - exact)
    assert np.mean(off <= 2 * found.error + 1e-6) > 0.9
    assert off.max() < 0.1
    # KPM in the same place, at its own resolution: shares of the two bands and of the gap
    kpm = gn.density(op, "kpm", probes=60, steps=80, grid=grid)
    cell = np.diff(edges)[0]
    for low, high, share in ((-0.5, 1.5, 2 / 3), (1.5, 3, 1 / 3), (1.3, 1.7, 0)):
        inside = (grid > low) & (grid < high)
        for one in (found, kpm):
            assert abs(one.values[inside].sum() * cell - share) < 0.03


def test_many_decades_are_shown_on_a_logarithmic_grid():
    values = np.logspace(-7, 0, N)
    found = gn.density(as_operator(with_spectrum(values)), probes=40)
    assert found.log
    assert found.zero_fraction < 1e-3
    inside = (found.grid > 1e-6) & (found.grid < 1e-1)
    # N eigenvalues over 7 decades: an even 1/7 of them each, but for the probes' noise and rounding at the low end
    np.testing.assert_allclose(found.values[inside].mean(), 1 / 7, rtol=0.2)
    singular = gn.density(as_operator(with_spectrum(np.r_[values, np.zeros(N)])), probes=40)
    assert singular.log
    assert abs(singular.zero_fraction - 0.5) < 0.1
    assert abs(singular.mass_at_zero - singular.zero_fraction) < 1e-12
    assert abs(singular.integral - 1) < 1e-6
    linear = gn.density(as_operator(with_spectrum(values)), log=False)
    assert not linear.log
    kpm = gn.density(as_operator(with_spectrum(values)), "kpm", log=True)
    assert abs(kpm.integral - 1) < 1e-6


def test_error_bands_cover():
    values = np.linspace(0, 1, N)
    op, edges = as_operator(with_spectrum(values)), np.linspace(-0.1, 1.1, 7)
    grid = (edges[1:] + edges[:-1]) / 2
    exact = np.diff(ndtr((edges[:, None] - values) / 0.05).mean(axis=1)) / np.diff(edges)
    runs = [gn.density(op, grid=grid, width=0.05, seed=seed, steps=40) for seed in range(200)]
    off = np.array([run.values - exact for run in runs])
    errors = np.array([run.error for run in runs])
    assert np.mean(np.abs(off) <= 2 * errors) > 0.9  # 10 probes: 92 % by Student's distribution
    assert np.all(np.abs(off.mean(axis=0)) < 4 * off.std(axis=0) / np.sqrt(200) + 1e-3)


@pytest.mark.parametrize("method", ["lanczos", "kpm"])
def test_blocks_do_not_change_a_density(method):
    op = as_operator(with_spectrum(np.sqrt(SPECTRA["geometric"])))
    expected = gn.density(op, method, steps=30, log=False)
    for block in (1, 3):
        found = gn.density(op, method, steps=30, log=False, block_size=block)
        np.testing.assert_allclose(found.values, expected.values, rtol=1e-7, atol=1e-9)
        assert found.products == expected.products
    assert np.abs(gn.density(op, method, steps=30, log=False, seed=1).values - expected.values).max() > 1e-6


def test_density_of_gauss_newton_counts_its_null_space():
    G = problem()
    found = gn.density(G)
    p, dual = G.shape[0], G.dual().shape[0]
    assert (found.dimension, found.nullity) == (dual, p - dual)
    spectrum = oracles.spectrum(oracles.gauss_newton(G.net, G.X))
    zeros = np.mean(spectrum < 1e-12 * spectrum[-1])
    assert abs(found.mass_at_zero - zeros) < 0.02
    assert found.nodes.max() < spectrum[-1] * (1 + 1e-10)


def test_the_gram_is_formed_where_that_pays(monkeypatch):
    G = gn.GaussNewton(network([40, 70, 60, 10], "relu"), data(50, 40))
    formed = []
    form = gn.Gram.form
    monkeypatch.setattr(gn.Gram, "form", lambda self, *args: formed.append(1) or form(self, *args))
    many = gn.density(G.gram(), probes=6, steps=20)
    assert formed
    assert not G.gram().stored  # for this computation only
    formed.clear()
    gn.density(G.gram(), probes=2, steps=2)
    assert not formed  # four products do not pay for it
    tight = gn.GaussNewton(G.net, G.X, memory_limit=8 * 500**2 - 1)
    assert not tight.gram().fits_in_memory
    np.testing.assert_allclose(gn.density(tight.gram(), probes=6, steps=20).nodes, many.nodes, atol=1e-10)
    assert not formed


def test_plot(monkeypatch):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    found = gn.density(problem())
    ax = found.plot(pyplot.figure().add_subplot(), color="C1")
    assert ax.get_xscale() == "log"
    assert "are zero and not shown" in ax.get_title()
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), found.values)
    pyplot.figure()
    assert gn.density(np.diag([1.0, 2, 3])).plot().get_xscale() == "linear"
    pyplot.close("all")
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"plot needs matplotlib; install it with: pip install '"):
        found.plot()


# ----------------------------------------------------------------------------------- determinants and dimensions
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("damping", [1e-3, 0.5])
@pytest.mark.parametrize("name", POSITIVE)
def test_functions_of_prescribed_spectra(name, damping, dtype):
    M = with_spectrum(SPECTRA[name], dtype)
    values = np.linalg.eigvalsh(M.astype(float))
    truths = (np.log(values + damping).sum(), (values / (values + damping)).sum())
    for f, truth in zip((gn.logdet, gn.effective_dimension), truths, strict=True):
        exact = f(as_operator(M), damping)
        assert exact.exact
        assert abs(exact.value - truth) <= exact.error + 1e-12 * abs(truth)
        assert exact.error <= 5e4 * np.finfo(dtype).eps * len(M) / damping  # what it claims is worth something
        found = f(as_operator(M), damping, "lanczos", seed=2)
        assert not found.exact
        assert abs(found.value - truth) <= 5 * found.error + exact.error + 1e-10 * abs(truth)


@pytest.mark.parametrize("f", [gn.logdet, gn.effective_dimension])
def test_errors_of_functions_cover(f):
    M = with_spectrum(np.logspace(0, -3, N))
    op, exact = as_operator(M), f(M, 0.05).value
    found = [f(op, 0.05, "lanczos", probes=10, steps=40, seed=seed) for seed in range(200)]
    off, errors = np.array([one.value - exact for one in found]), np.array([one.error for one in found])
    assert abs(off.mean()) < 4 * off.std() / np.sqrt(200)
    assert np.mean(np.abs(off) <= 2 * errors) >= 0.88  # 10 probes: 92 % by Student's distribution
    assert 0.7 < np.sqrt(np.mean(errors**2)) / off.std() < 1.5


def test_too_few_steps_are_seen():
    """The bias of a short quadrature is in the error, where the probes alone would not show it."""
    values = np.logspace(0, -4, N)
    exact = np.log(values).sum()
    short, long = (gn.logdet(as_operator(with_spectrum(values)), 0, "lanczos", 200, steps) for steps in (8, 80))
    assert abs(short.value - exact) > 5 * long.error
    for found in (short, long):
        assert abs(found.value - exact) < 2.5 * found.error


def test_logdet_of_gauss_newton_has_its_null_space():
    for G in (problem(), problem(loss="cross_entropy"), gn.GaussNewton(network([5, 40, 3]), data(50, 5))):
        exact = np.linalg.slogdet(oracles.gauss_newton(G.net, G.X, G.loss) + 1e-2 * np.eye(G.shape[0]))[1]
        np.testing.assert_allclose(gn.logdet(G, 1e-2).value, exact, rtol=1e-11)
        found = gn.logdet(G, 1e-2, "lanczos")
        assert abs(found.value - exact) < 5 * found.error
        values = oracles.spectrum(oracles.gauss_newton(G.net, G.X, G.loss))
        np.testing.assert_allclose(gn.effective_dimension(G, 1e-2).value, (values / (values + 1e-2)).sum(), rtol=1e-10)
        with pytest.raises(ValueError, match=r"damping is 0 but op has [\d,]+ eigenvalues zero"):
            gn.logdet(G)


def test_large_operators_are_estimated(monkeypatch):
    limits(monkeypatch, dense=50)
    M = with_spectrum(SPECTRA["geometric"])
    assert not gn.logdet(M, 0.1).exact
    assert gn.logdet(M, 0.1, "exact").exact
    limits(monkeypatch, stored=50)
    with pytest.raises(ValueError, match="method is 'exact' but op is 97 x 97"):
        gn.effective_dimension(M, 0.1, "exact")


def test_bad_arguments_are_named():
    M = with_spectrum(SPECTRA["indefinite"])
    for call, text in (
        (lambda: gn.density(M, "lanzcos"), "did you mean 'lanczos'"),
        (lambda: gn.density(M, probes=1), "probes is 1 but must be at least 2"),
        (lambda: gn.density(M, grid=[1.0, 0.5]), "ascending"),
        (lambda: gn.density(M, grid=[0.0, 0.5], log=True), "grid starts at 0 but must be positive"),
        (lambda: gn.density(-np.eye(4), log=True), "the largest eigenvalue is -1; use log=False"),
        (lambda: gn.density(M, "kpm", width=0.1), "leave it out"),
        (lambda: gn.density(M, width=0.0), "width is 0 but must be positive"),
        (lambda: gn.logdet(M, -1), "damping is -1 but must be at least 0"),
        (lambda: gn.logdet(M, 0.1), "op \\+ damping I is not positive definite"),
        (lambda: gn.logdet(M, 0.1, "lanczos"), "op \\+ damping I is not positive definite"),
        (lambda: gn.effective_dimension(M, 0), "damping is 0 but must be positive"),
        (lambda: gn.effective_dimension(M, 1), "positive semi-definite"),
        (lambda: gn.effective_dimension(M, 1, "lanczos"), "positive semi-definite"),
        (lambda: gn.density(as_operator(np.triu(np.ones((40, 40))))), "not symmetric"),
    ):
        with pytest.raises(ValueError, match=text):
            call()


@pytest.mark.parametrize("method", ["lanczos", "kpm"])
def test_bad_products_come_out(method):
    calls = []

    def failing(V):
        calls.append(V)
        return V * (np.nan if len(calls) > 3 else np.arange(1, 91)[:, None])

    op = sla.LinearOperator((90, 90), matvec=failing, matmat=failing, dtype=float)
    with pytest.raises(ValueError, match="NaN or infinite"):
        gn.density(op, method)

    def raising(V):
        raise ZeroDivisionError("from the product")

    op = sla.LinearOperator((90, 90), matvec=raising, matmat=raising, dtype=float)
    with pytest.raises(ZeroDivisionError, match="from the product"):
        gn.density(op, method)
