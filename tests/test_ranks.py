"""Ranks by inertia and by quadrature, and how rank and condition number move with the cut."""

from __future__ import annotations

import numpy as np
import oracles
import pytest
from problems import data, network, problem
from spectra import SPECTRA, N, as_operator, limits, with_spectrum

import gnfast as gn

GAP = np.r_[np.zeros(37), np.linspace(1, 3, N - 37)]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_inertia_counts_eigenvalues_where_pivots_would_not(dtype, monkeypatch):
    """Any cut in the middle of a smooth spectrum: the count is LAPACK's, since eigenvalues are counted."""
    limits(monkeypatch, dense=5, spectrum=5)
    for name in ("geometric", "clustered", "repeated", "rank deficient"):
        M = with_spectrum(SPECTRA[name], dtype)
        values = np.linalg.eigvalsh(M.astype(float))
        for cut in (0.9, 0.51, 0.07, 3e-3, 4.1e-5):
            if np.abs(values - cut).min() > 50 * np.finfo(dtype).eps * values[-1]:
                found = gn.rank(M, cut)
                assert (found.value, found.method, found.error) == (np.sum(values > cut), "inertia", 0), (name, cut)
    assert gn.rank(np.diag([1.0, 3, 2]), 1.5).value == 2
    # zeros on the diagonal: pivots of 2 x 2
    swap = np.kron(np.eye(4), np.array([[0.0, 1], [1, 0]])) + np.eye(8) * 0.5
    assert gn.rank(swap, 0.5).value == 4


def test_rank_by_quadrature_has_an_error_that_covers(monkeypatch):
    op = as_operator(with_spectrum(GAP))
    found = [gn.rank(op, method="lanczos", probes=10, steps=40, seed=seed) for seed in range(200)]
    off, errors = np.array([one.value - 60 for one in found]), np.array([one.error for one in found])
    assert found[0].method == "stochastic Lanczos quadrature"
    # rounding to an integer adds 0.3 to each
    assert np.mean(np.abs(off) <= 2 * np.hypot(errors, 0.3)) >= 0.88
    assert abs(off.mean()) < 4 * off.std() / np.sqrt(200)
    assert 0.7 < np.sqrt(np.mean(errors**2)) / off.std() < 1.5
    assert gn.rank(op).error == 0
    limits(monkeypatch, stored=50)
    assert gn.rank(op).error > 0
    assert gn.rank(as_operator(np.eye(N)), cut=0.5).value == N
    assert gn.rank(as_operator(np.zeros((N, N)))).value == 0


def test_rank_by_quadrature_does_not_claim_what_it_does_not_resolve():
    """Six steps on a spectrum without a gap cannot tell which eigenvalues are below a millionth."""
    values = np.logspace(-12, 0, N)
    found = gn.rank(as_operator(with_spectrum(values)), 1e-6, "lanczos", steps=6)
    exact = np.sum(values > 1e-6)
    assert abs(found.value - exact) > 5
    assert abs(found.value - exact) <= 2 * found.error


def test_rank_within_a_memory_limit_is_estimated():
    G = gn.GaussNewton(network([9, 40, 5], "relu"), data(40, 9))
    tight = gn.GaussNewton(G.net, G.X, memory_limit=250_000)
    found, exact = gn.rank(tight.gram()), gn.rank(G.gram())
    assert found.method == "stochastic Lanczos quadrature"
    assert exact.error == 0
    assert abs(found.value - exact.value) <= 4 * found.error + 1


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_rank_profile_is_read_off_the_spectrum(dtype):
    M = with_spectrum(np.r_[np.zeros(20), np.logspace(-3, 0, N - 20)], dtype)
    values = np.linalg.eigvalsh(M.astype(float))
    found = gn.rank_profile(M)
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(found.eigenvalues, values, atol=100 * eps)
    assert np.all(np.diff(found.cuts) < 0)
    assert np.all(np.diff(found.ranks) >= 0)
    for cut, kept, low, kappa in zip(found.cuts, found.ranks, found.smallest, found.kappas, strict=True):
        above = found.eigenvalues[found.eigenvalues > cut]
        assert (kept, low) == (len(above), above[0])
        assert kappa == found.eigenvalues[-1] / low
    at = np.flatnonzero(found.cuts == found.rounding_cut)[0]
    assert found.ranks[at] == N - 20
    assert abs(found.kappas[at] - 1000) < 1000 * (1e-9 if dtype == "float64" else 0.1)
    assert np.argmax(found.gaps) == 19
    lines = str(found).splitlines()
    assert len(lines) == len(found.cuts) + 1
    assert sum("customary" in line for line in lines) == 1
    assert f"{N - 20}" in lines[1 + at]


def test_rank_profile_of_chosen_cuts():
    found = gn.rank_profile(np.diag([0.0, 1, 2, 4]), cuts=[8, 3, 0, 1.5])
    np.testing.assert_array_equal(found.cuts, [8, 3, 1.5, 0])
    np.testing.assert_array_equal(found.ranks, [0, 1, 2, 3])
    np.testing.assert_array_equal(found.kappas, [np.nan, 1, 2, 4])
    G = problem()
    np.testing.assert_allclose(
        gn.rank_profile(G).eigenvalues[-5:], oracles.spectrum(oracles.gram(G.net, G.X))[-5:], rtol=1e-10
    )


def test_bad_arguments_are_named(monkeypatch):
    for call, text in (
        (lambda: gn.rank_profile(np.zeros((3, 3))), "op is zero"),
        (lambda: gn.rank_profile(np.eye(3), cuts=[]), "cuts is empty"),
        (lambda: gn.rank_profile(np.eye(3), cuts=[1, -1]), r"cuts\[1\] is -1 but must be at least 0"),
        (lambda: gn.rank_profile(with_spectrum(SPECTRA["indefinite"])), "positive semi-definite"),
        (lambda: gn.rank(np.eye(3), method="pivots"), "method is 'pivots' but must be one of"),
    ):
        with pytest.raises(ValueError, match=text):
            call()
    limits(monkeypatch, stored=50)
    with pytest.raises(ValueError, match="op is 97 x 97 but its whole spectrum is needed"):
        gn.rank_profile(as_operator(np.eye(N)))
