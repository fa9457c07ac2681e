"""Two errors hold the truth in about 95 of 100 draws, also where the steps do not resolve the spectrum."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import ndtr

import gnfast as gn

N = 150
rng = np.random.default_rng(7)
SPECTRA = {
    "flat": np.ones(N),
    "uniform": np.linspace(0.5, 2, N),
    "to zero": np.linspace(0, 1, N),
    "two decades": np.logspace(-2, 0, N),
    "six decades": np.logspace(-6, 0, N),
    "fourteen decades": np.logspace(-14, 0, N),
    "cubes": np.arange(1, N + 1.0) ** -3,
    "outliers": np.r_[np.linspace(0.9, 1.1, N - 3), 50, 1e3, 1e5],
    "singular": np.r_[np.zeros(N // 2), np.linspace(1, 2, N - N // 2)],
    "noise below": np.r_[1e-9 * rng.random(N - 20), 1 + rng.random(20)],
    "exponential": np.exp(-8 * rng.random(N)),
    "a gap": np.r_[1e-6 * (1 + rng.random(N // 2)), 1 + rng.random(N - N // 2)],
}
CALLS = {
    "effective dimension": (gn.effective_dimension, lambda x, d: np.sum(x / (x + d))),
    "logdet": (gn.logdet, lambda x, d: np.sum(np.log(x + d))),
}
Q = np.linalg.qr(rng.standard_normal((N, N)))[0]


def matrix(values):
    A = (Q * values) @ Q.T
    return (A + A.T) / 2


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_traces_of_functions(spectrum, name):
    values = SPECTRA[spectrum]
    A, (call, exact), held, total = matrix(values), CALLS[name], 0, 0
    for relative in (1e-2, 1e-6, 1e-11):
        damping = relative * values.max()
        for steps in (6, 25):
            found = [call(A, damping, "lanczos", 8, steps, seed) for seed in range(6)]
            held += sum(abs(one.value - exact(values, damping)) <= 2 * one.error for one in found)
            total += len(found)
    assert held >= 0.9 * total


def test_bars_are_narrow_where_the_steps_resolve_the_spectrum():
    A = matrix(SPECTRA["uniform"])
    for call, _ in CALLS.values():
        few, many = (call(A, 0.1, "lanczos", 8, steps) for steps in (12, 60))
        assert abs(few.value - many.value) < 1e-6 * abs(many.value)
        assert few.error == pytest.approx(many.error, rel=1e-4)
    found = gn.logdet(matrix(SPECTRA["uniform"]), 0.0, "lanczos", 8, 60)
    assert abs(found.value - np.log(SPECTRA["uniform"]).sum()) <= 2 * found.error < 5


def test_a_matrix_that_is_positive_by_its_damping_alone():
    values = np.linspace(-0.9, 1, N)
    held = [
        abs(found.value - np.log(values + 1).sum()) <= 2 * found.error
        for found in (gn.logdet(matrix(values), 1.0, "lanczos", 8, 10, seed) for seed in range(10))
    ]
    assert sum(held) >= 9


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("spectrum", ["uniform", "six decades", "fourteen decades", "cubes", "noise below", "a gap"])
def test_densities(spectrum, log):
    """Of the spectrum smoothed as the density says that it is."""
    values, held, points = SPECTRA[spectrum], 0, 0
    A = matrix(values)
    for steps in (8, 40):
        for seed in range(5):
            found = gn.density(A, probes=6, steps=steps, log=log, seed=seed, width=0.15 if log else None)
            axis = np.log10(found.grid) if log else found.grid
            middle = (axis[1:] + axis[:-1]) / 2
            edges = np.r_[2 * axis[0] - middle[0], middle, 2 * axis[-1] - middle[-1]]
            places = np.log10(values) if log else values
            cells = np.diff(ndtr((edges[:, None] - places) / found.width).mean(axis=1)) / np.diff(edges)
            held += np.count_nonzero(np.abs(found.values - cells) <= 2 * found.error + 1e-9 * cells.max())
            points += len(cells)
    assert held >= 0.92 * points


def test_densities_that_are_resolved_have_the_error_of_the_probes():
    A = matrix(SPECTRA["uniform"])
    few, many = (gn.density(A, probes=6, steps=steps, grid=np.linspace(0.3, 2.2, 50), width=0.1) for steps in (60, 150))
    np.testing.assert_allclose(few.values, many.values, atol=1e-6)
    np.testing.assert_allclose(few.error, many.error, atol=1e-6)


@pytest.mark.parametrize("samples", [10, 20, 60, 100])
@pytest.mark.parametrize("spectrum", ["uniform", "to zero", "six decades", "exponential", "singular"])
def test_diagonals(spectrum, samples):
    A = matrix(SPECTRA[spectrum])
    op, exact = gn.operator(lambda V: A @ V, N), A.diagonal()
    found = [gn.diagonal(op, "xdiag", samples, seed) for seed in range(12)]
    off = np.array([(one.values - exact) / one.error for one in found])
    assert np.mean(np.abs(off) <= 2) >= 0.93
    if spectrum == "uniform":
        assert 0.8 < np.sqrt(np.mean(off**2)) < 1.2  # nor wider than need be
