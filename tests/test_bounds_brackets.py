"""Ends of large matrices proven by Cholesky factorisations, against LAPACK's whole spectra."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gnfast.bounds import brackets
from gnfast.bounds.linear import joint_from_factors

SPECTRA = {
    "flat": lambda rng, size: rng.uniform(1, 2, size),
    "six decades": lambda rng, size: np.logspace(-6, 0, size),
    "clusters": lambda rng, size: np.repeat([1e-3, 1.0, 5.0], -(-size // 3))[:size],
    "one far above": lambda rng, size: np.append(rng.uniform(1, 2, size - 1), 1e5),
    "one far below": lambda rng, size: np.append(rng.uniform(1, 2, size - 1), 1e-7),
    "identity": lambda rng, size: np.ones(size),
}


def with_values(values: np.ndarray, seed: int = 0) -> np.ndarray:
    q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(values), len(values))))
    M = (q * values) @ q.T
    return (M + M.T) / 2


@pytest.mark.parametrize("size", [1, 7, 60])
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_ends_lie_outside_the_spectrum_and_near_to_it(spectrum, size, monkeypatch):
    monkeypatch.setattr(brackets, "SIZE", 1)
    values = SPECTRA[spectrum](np.random.default_rng(1), size)
    M = with_values(values)
    top, (low, _) = brackets.largest_end(M), brackets.smallest_end(M)
    assert values.max() <= top.value <= values.max() * (1 + 1e-3)
    # A margin of size * eps * trace for rounding: nothing smaller than that is known of the low end.
    doubt = 2 * np.finfo(np.float64).eps * size * values.sum()
    assert values.min() * (1 - 1e-3) - doubt <= low.value <= values.min()


def test_an_estimate_that_is_too_far_inside_is_found_out(monkeypatch):
    """The proof decides, not the estimate: with one of 5 % inside, the whole spectrum has to answer."""
    monkeypatch.setattr(brackets, "SIZE", 1)
    lanczos = brackets._lanczos

    def inside(apply, size):
        value, vector = lanczos(apply, size)
        return 0.95 * value, vector

    monkeypatch.setattr(brackets, "_lanczos", inside)
    M = with_values(np.linspace(1, 3, 40))
    assert brackets.largest_end(M).value == pytest.approx(3, rel=1e-10)
    assert brackets.smallest_end(M)[0].value == pytest.approx(1, rel=1e-10)


@pytest.mark.parametrize("values", [np.zeros(20), np.append(np.zeros(3), np.ones(17)), np.append(1e-15, np.ones(19))])
def test_what_is_not_positive_definite_has_a_lower_end_of_zero(values, monkeypatch):
    monkeypatch.setattr(brackets, "SIZE", 1)
    M = with_values(values)
    assert brackets.smallest_end(M)[0].value == pytest.approx(0, abs=2e-15)
    assert brackets.smallest_end(M)[0].value <= values.min()
    assert brackets.largest_end(M).value == pytest.approx(values.max(), rel=1e-5)


def kronecker_sum(P: np.ndarray, R: np.ndarray) -> np.ndarray:
    return np.linalg.eigvalsh(sum(np.kron(p, r) for p, r in zip(P, R, strict=True)))


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("spread", ["both", "outputs", "inputs"])
def test_joint_bound_with_bracketed_ends(spread, depth, monkeypatch):
    """Above the exact value, and as tight as with whole spectra, whichever of the two roles is the tighter one."""
    rng = np.random.default_rng(5)
    wide = {"both": (40, 90), "outputs": (6, 4000), "inputs": (4000, 60)}[spread]
    P, R = (
        np.stack([A @ A.T / A.shape[1] for A in rng.standard_normal((depth, size, columns))])
        for size, columns in zip((4, 45), wide, strict=True)
    )
    whole = joint_from_factors(P, R)
    monkeypatch.setattr(brackets, "SIZE", 10)
    bracketed = joint_from_factors(P, R)
    exact = kronecker_sum(P, R)
    assert bracketed.parts["lambda_max_upper"] >= exact[-1]
    assert 0 < bracketed.parts["lambda_min_lower"] <= exact[0]
    assert whole.value * (1 - 1e-12) <= bracketed.value <= whole.value * (1 + 1e-5)


def test_joint_bound_of_singular_factors_is_infinite_in_both_ways(monkeypatch):
    P, R = np.eye(3)[None], with_values(np.append(np.zeros(5), np.ones(30)))[None]
    monkeypatch.setattr(brackets, "SIZE", 10)
    assert joint_from_factors(P, R).value == math.inf
