"""What counts as zero: each threshold leaves no rounding error above it and no direction below it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import gnfast as gn
from gnfast import thresholds
from gnfast.factors import block_factors, pivoted_cholesky, range_factor

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "gnfast"
OWNERS = {"_arrays.py", "thresholds.py"}


def dependent(seed):
    """Data (n, d) of rank r < d: products of normal, shifted or uniform numbers."""
    rng = np.random.default_rng(seed)
    d, n = int(rng.integers(2, 9)), int(10 ** rng.uniform(1, 4))
    r = int(rng.integers(1, d))
    draw = (rng.standard_normal, lambda shape: rng.standard_normal(shape) + 3, rng.random)[seed % 3]
    return draw((n, r)) @ draw((r, d)), r


def test_pivots_of_dependent_columns_are_below_their_threshold():
    """And above N eps, which took them for directions: seeds where they are were looked for."""
    short, counted = 0, 0
    for seed in range(300):
        X, r = dependent(seed)
        M = X.T @ X
        if np.linalg.svd(X, compute_uv=False)[r - 1] < 1e-6 * np.sqrt(M.max()):
            continue  # whose true directions a moment does not show
        top, d = M.diagonal().max(), len(M)
        counted += 1
        assert pivoted_cholesky(M.copy())[2] == r, seed
        short += pivoted_cholesky(M.copy(), d * thresholds.EPS * top)[2] > r
    assert counted > 200
    assert short > 0


@pytest.mark.parametrize("affine", [False, True])
def test_the_range_of_dependent_data_has_their_rank(affine):
    for seed in range(60):
        X, r = dependent(seed)
        X = X - affine * X.mean(axis=0)  # so that no combination of columns is the column of ones
        r = np.linalg.matrix_rank(X, tol=1e-10 * np.abs(X).max()) + affine
        assert len(range_factor(X, 1.0, affine)) == r, seed


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_zeros_of_computed_matrices_are_below_their_threshold(dtype):
    """Repeated samples, of which the second half are the first: half of the eigenvalues are zero."""
    largest = 0.0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        half, p = int(rng.integers(2, 100)), int(rng.integers(200, 2000))
        rows = (rng.standard_normal((half, p)) + rng.integers(0, 2)).astype(dtype)
        K = np.vstack([rows, rows]) @ np.vstack([rows, rows]).T
        values = np.linalg.eigvalsh(K)
        at = thresholds.zero_threshold(values[-1], len(K), np.dtype(dtype))
        assert np.count_nonzero(values > at) == half, seed
        largest = max(largest, np.abs(values[:half]).max() / at)
    assert largest > 0.01  # so that a threshold a hundred times as high would not pass for this reason alone


def test_moments_of_vectors_in_single_precision_know_no_more_than_these():
    """A zero of K-FAC's factor is the square of a zero among the vectors' singular values."""
    single, double, counted = np.dtype(np.float32), np.dtype(np.float64), 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        n, d = int(rng.integers(20, 200)), int(rng.integers(3, 30))
        first, second, third = (rng.standard_normal(shape).astype(np.float32) for shape in ((n, 2), (2, 999), (999, d)))
        a = (first @ second @ third).astype(float)
        values = np.linalg.eigvalsh(a.T @ a)
        assert np.count_nonzero(values > thresholds.moment_threshold(values[-1], d, single)) == 2, seed
        counted += np.count_nonzero(values > thresholds.zero_threshold(values[-1], d, double)) > 2
    assert counted > 0  # in float64's own terms rounding of the vectors counts as directions
    assert thresholds.moment_threshold(1.0, 9, double) == thresholds.zero_threshold(1.0, 9, double)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_hessians_of_lower_rank_keep_it(dtype):
    rng = np.random.default_rng(0)
    for k in (2, 3, 7, 20):
        root = rng.standard_normal((11, k, 2)) * 10.0 ** rng.uniform(-3, 3, (11, 1, 1))
        H = (root @ root.transpose(0, 2, 1)).astype(dtype)
        assert block_factors((H + H.transpose(0, 2, 1)) / 2, "loss", np.ones(11)).shape == (11, min(k, 2), k)


def test_data_count_as_matrix_rank_counts_them():
    X = np.random.default_rng(0).standard_normal((9, 3)) @ np.diag([1.0, 1e-9, 1e-14]) @ np.eye(3, 5)
    for dtype in ("float32", "float64"):
        data = X.astype(dtype)
        assert gn.datasets.whiten(data).shape[1] == np.linalg.matrix_rank(data)
    net = gn.mlp([5, 4, 2], activation="identity", seed=0)
    assert gn.bounds.linear(net, X).parts["rank"] == np.linalg.matrix_rank(X)


def test_what_a_cholesky_factorisation_may_hide_is_below_its_error():
    """Matrices whose smallest eigenvalue is minus that error have no factorisation."""
    rng = np.random.default_rng(0)
    for size in (1, 5, 40, 150):
        Q = np.linalg.qr(rng.standard_normal((size, size)))[0]
        values = np.linspace(1.0, 2.0, size)
        values[0] = -4 * thresholds.cholesky_error(size, float(values.sum()))
        with pytest.raises(np.linalg.LinAlgError):
            np.linalg.cholesky((Q * values) @ Q.T)


def test_a_gap_is_a_factor_of_a_hundred():
    assert thresholds.has_gap(1.01e-8, 1e-10)
    assert not thresholds.has_gap(0.99e-8, 1e-10)
    assert thresholds.has_gap(1.0, 0.0)
    assert not thresholds.has_gap(0.0, 0.0)


def multiples(text):
    """Places where a rounding unit is multiplied by a size: thresholds of their own."""
    unit = r"(?:finfo\([^()]*(?:\([^()]*\))?[^()]*\)\.eps|\beps\([^()]*\)|\bEPS\b)"
    size = r"(?:len\([^()]*\)|size|max\([^()]*\)|math\.sqrt\([^()]*\)|\bN\b|\bd\b|\bn\b)"
    return re.findall(rf"{size} \* (?:float\()?(?:np\.|_arrays\.)?{unit}|{unit}\)? \* {size}", text)


def test_no_other_module_has_thresholds_of_its_own():
    paths = [path for path in PACKAGE.rglob("*.py") if path.name not in OWNERS and "interop" not in path.parts]
    assert {str(path): found for path in paths if (found := multiples(path.read_text()))} == {}
    planted = (
        "cut = 10 * size * np.finfo(np.float64).eps * top",
        "EPS * max(n, columns)",
        "len(K) * _arrays.eps(dtype)",
    )
    assert all(multiples(line) for line in planted)
