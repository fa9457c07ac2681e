"""What the tests of eigenvalues and condition numbers share: prescribed spectra, and sizes that take every route."""

from __future__ import annotations

import numpy as np
import scipy.sparse.linalg as sla

from gnfast.spectrum import matrices

N = 97
SPECTRA = {
    "geometric": np.logspace(0, -6, N),
    "fourteen decades": np.logspace(0, -14, N),
    "gaps": np.concatenate([[1000.0, 100.0, 99.0], np.linspace(1, 2, N - 5), [1e-3, 1e-4]]),
    "clustered": np.concatenate([3 + 1e-5 * np.arange(20), np.linspace(1, 2, N - 40), 1e-3 + 1e-8 * np.arange(20)]),
    "repeated": np.repeat([5.0, 2.0, 1.0, 0.5], [7, 40, 41, 9]),
    "rank deficient": np.concatenate([np.linspace(1, 4, 31), np.zeros(N - 31)]),
    "all equal": np.full(N, 2.5),
    "indefinite": np.linspace(-3, 2, N),
    "one": np.array([0.25]),
    "two": np.array([1.0, 3.0]),
}


def with_spectrum(values, dtype="float64", seed=0):
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.standard_normal((len(values), len(values))))[0]
    M = (Q * values) @ Q.T
    return ((M + M.T) / 2).astype(dtype)


def few_digits(values, norm, eps):
    """Whether rounding of |A| leaves less than two digits of some, but more than none: never called converged."""
    return bool(((np.abs(values) < 800 * eps * norm) & (np.abs(values) > 8 * eps * norm)).any())


def as_operator(M):
    return sla.LinearOperator(M.shape, matvec=lambda v: M @ v, matmat=lambda V: M @ V, dtype=M.dtype)


def limits(monkeypatch, dense=5, spectrum=3_200, stored=20_000):
    """Sizes from which the routes for large matrices are taken, and rows of which these are worked on at a time."""
    monkeypatch.setattr(matrices, "DENSE_SIZE", dense)
    monkeypatch.setattr(matrices, "SPECTRUM_SIZE", spectrum)
    monkeypatch.setattr(matrices, "STORED_SIZE", stored)
    monkeypatch.setattr(matrices, "BLOCK", 7)
