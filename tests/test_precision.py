"""Products in float32 with all else in float64: more is computed exactly, and no more is claimed."""

from __future__ import annotations

import numpy as np
import oracles
import pytest
from problems import data, network
from spectra import N, as_operator, limits, with_spectrum

import gnfast as gn

EPS = np.finfo(np.float32).eps
VALUES = np.linspace(0.5, 3, N)
METHODS = [
    ("LA", "lanczos"),
    ("LA", "krylov"),
    ("LA", "nystrom"),
    ("SA", "davidson"),
    ("SA", "lobpcg"),
    ("SA", "inverse"),
    ("SA", "inverse-cg"),
]


@pytest.mark.parametrize(("which", "method"), METHODS)
@pytest.mark.parametrize("given", ["operator", "array"])
def test_eigenpairs(given, which, method):
    M = with_spectrum(VALUES, "float32")
    exact = np.linalg.eigvalsh(M.astype(float))
    wanted = {"LA": exact[-4:], "SA": exact[:4], "BE": np.r_[exact[:2], exact[-2:]]}[which]
    op = as_operator(M) if given == "operator" else M
    values, vectors, info = gn.eigsh(op, 4, which, method, tol=1e-12, return_info=True, precision="float64")
    assert info.converged
    assert values.dtype == vectors.dtype == np.float64
    # the block algebra is float64's: orthonormal far beyond what float32 gives
    assert np.abs(vectors.T @ vectors - np.eye(4)).max() < 1e-12
    np.testing.assert_allclose(values, wanted, atol=8 * EPS * 3)
    # and the claims are float32's, whatever tolerance was asked for
    assert np.all(info.intervals[:, 0] <= wanted)
    assert np.all(wanted <= info.intervals[:, 1])
    assert np.ptp(info.intervals, axis=1).min() >= 2 * 8 * EPS * info.norm * 0.99


def test_float32_alone_is_less_orthogonal():
    M = with_spectrum(VALUES, "float32")
    plain = gn.eigsh(as_operator(M), 4, method="lanczos")[1]
    assert np.abs(plain.T @ plain - np.eye(4)).max() > 1e-9


@pytest.mark.parametrize("activation", ["identity", "relu"])
def test_gauss_newton_in_its_duals(activation, monkeypatch):
    limits(monkeypatch)
    G = gn.GaussNewton(network([30, 90, 4], activation, dtype="float32"), data(25, 30, dtype="float32"))
    exact = oracles.nonzero(oracles.gram(G.net, G.X), 1e-6)
    values, vectors, info = gn.eigsh(G, 3, return_info=True, precision="float64")
    assert info.space != "parameters"
    np.testing.assert_allclose(values, exact[-3:], rtol=1e-5)
    assert np.abs(vectors.T @ vectors - np.eye(3)).max() < 1e-12
    for op in (G, G.dual()):
        for found in (gn.cond(op, precision="float64"), gn.cond(op, certify=True, precision="float64")):
            plain = gn.cond(op)
            np.testing.assert_allclose(found.value, plain.value, rtol=1e-2)
            assert found.lower <= plain.value * 1.001
            assert found.upper >= plain.value * 0.999
            assert found.residuals[0] >= 0
    assert gn.rank(G, precision="float64").value == gn.rank(G).value
    wide, narrow = gn.rank_profile(G, precision="float64"), gn.rank_profile(G)
    assert (wide.eigenvalues.dtype, wide.rounding_cut) == (np.float64, pytest.approx(narrow.rounding_cut))
    np.testing.assert_allclose(wide.eigenvalues, narrow.eigenvalues, atol=20 * EPS * wide.eigenvalues[-1])
    b = np.ones(G.shape[0])
    for space in ("parameters", "dual"):
        x, solved = gn.solve(G, b, 0.1, space=space, precision="float64")
        assert x.dtype == np.float64
        assert solved.converged
        dense = oracles.gauss_newton(G.net, G.X)
        rounding = EPS * exact[-1] * np.linalg.norm(x)  # of one product in float32
        assert np.linalg.norm(dense @ x + 0.1 * x - b) < 16 * rounding


def test_ranks_cut_at_the_level_of_the_products(monkeypatch):
    """Zeros of a matrix in float32 are 1e-7 of its norm: in float64 they would count."""
    M = with_spectrum(np.r_[np.zeros(30), np.linspace(1, 2, N - 30)], "float32")
    for spectrum in (3_200, 5):
        limits(monkeypatch, spectrum=spectrum)
        assert gn.rank(M, precision="float64").value == N - 30
    assert gn.rank(as_operator(M), method="lanczos", precision="float64", probes=4).cut == pytest.approx(
        gn.rank(M).cut, rel=1e-3
    )
    found = gn.cond(M, precision="float64")
    assert found.rank == N - 30
    assert found.cut > 10 * EPS


@pytest.mark.parametrize("method", ["hutchinson", "hutch++", "xtrace"])
def test_traces(method):
    low = with_spectrum(np.r_[np.linspace(1, 2, 6), np.zeros(N - 6)], "float32")
    found = gn.trace(as_operator(low), method, probes=30, precision="float64")
    assert abs(found.value - np.trace(low.astype(float))) <= max(6 * found.error, 100 * EPS * 9)
    assert found.error >= EPS


def test_other_estimators():
    M = with_spectrum(VALUES, "float32")
    op, wide = as_operator(M), {"precision": "float64"}
    diagonal = gn.diagonal(op, "xdiag", 40, **wide)
    assert diagonal.values.dtype == np.float64
    assert diagonal.error.min() >= EPS * np.abs(diagonal.values).max()
    np.testing.assert_allclose(gn.diagonal(op, "exact", **wide).values, M.diagonal(), atol=1e-6)
    for method in ("exact", "lanczos"):
        found = gn.logdet(op, 0.1, method, steps=30, **wide)
        assert abs(found.value - np.log(VALUES + 0.1).sum()) <= 4 * found.error + 1e-4
        found = gn.effective_dimension(op, 0.1, method, steps=30, **wide)
        assert abs(found.value - np.sum(VALUES / (VALUES + 0.1))) <= 4 * found.error + 1e-4
    for method in ("lanczos", "kpm"):
        assert abs(gn.density(op, method, steps=30, **wide).integral - 1) < 0.05
    x, info = gn.solve(op, np.ones(N, np.float32), 0.1, **wide)
    assert info.converged
    np.testing.assert_allclose(M @ x + 0.1 * x, np.ones(N), atol=1e-3)


def test_what_is_refused_and_what_changes_nothing():
    M = with_spectrum(VALUES)
    with pytest.raises(ValueError, match="precision is 'float32' but op has float64"):
        gn.eigsh(M, 2, precision="float32")
    with pytest.raises(ValueError, match="precision is 'double-double'"):
        gn.trace(M, precision="double-double")
    np.testing.assert_array_equal(gn.eigsh(as_operator(M), 2, precision="float64")[0], gn.eigsh(as_operator(M), 2)[0])


def test_checkpoints_tell_precisions_apart(tmp_path):
    M, path = with_spectrum(np.logspace(0, -3, N), "float32"), tmp_path / "state.npz"
    op = as_operator(M)
    short = {"method": "lanczos", "tol": 1e-9, "checkpoint": path}
    with pytest.warns(gn.ConvergenceWarning):
        gn.eigsh(op, 3, max_products=24, precision="float64", **short)
    with pytest.raises(ValueError, match="its precision is 'float64', not 'float32'"):
        gn.eigsh(op, 3, **short)
    values = gn.eigsh(op, 3, precision="float64", return_eigenvectors=False, **short)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(M.astype(float))[-3:], rtol=1e-6)
