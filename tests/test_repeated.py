"""Repeated and clustered eigenvalues by every method: right to the tolerance, or not converged with a warning."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from spectra import as_operator, with_spectrum

import gnfast as gn
from gnfast.spectrum import matrices

EPS = float(np.finfo(np.float64).eps)
METHODS = {
    "LA": ("auto", "lanczos", "krylov", "nystrom", "davidson", "lobpcg"),
    "SA": ("auto", "lanczos", "davidson", "lobpcg", "inverse", "inverse-cg"),
    "BE": ("auto", "lanczos", "krylov"),
}


def spectrum(rng, size):
    """Copies up to 60-fold, clusters down to 1e-9 apart, null spaces, and what falls by decades between them."""
    values = []
    while len(values) < size:
        value = 10.0 ** rng.uniform(-3, 0)
        count = int(rng.choice([1, 1, 2, 3, 5, 10, 30, 60]))
        apart = rng.choice([0.0, 1e-9, 1e-7, 1e-5])
        values += list(value * (1 + apart * np.arange(count)))
    values = np.array(values[:size])
    if rng.uniform() < 0.3:
        values[: int(rng.integers(1, size // 2))] = 0
    return values


def silent(op, M, k, which, method, **options):
    """None, or what is wrong with an answer that is called converged, or that no warning follows.

    `M` is the matrix, or one of its spectrum where the operator has another basis: then pairs are multiplied by `op`.
    """
    exact = np.linalg.eigvalsh(M.astype(float))[-op.shape[0] :]  # a linear dual leaves what the data do not span out
    low = {"LA": 0, "SA": k, "BE": k // 2}[which]
    expected = np.concatenate([exact[:low], exact[len(exact) - (k - low) :]])
    eps, norm = np.finfo(op.dtype).eps, np.abs(exact).max()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        values, vectors, info = gn.eigsh(op, k, which, method, return_info=True, **options)
    if not info.converged:
        return None if seen else "not converged without a warning"
    tol = 1e-10 if op.dtype == np.float64 else 1e-5
    # the tolerance, and rounding of |A| in products and in LAPACK
    allowed = 4 * tol * np.abs(expected) + max(16.0, np.sqrt(len(M))) * eps * norm
    if not np.all(np.abs(values - expected) <= allowed):
        return f"off by {np.abs(values - expected).max():.1e} of {norm:.1e}, {info}"
    product = op @ vectors if isinstance(op, gn.operators.LinearDual) else M.astype(float) @ vectors
    true = np.linalg.norm(product - vectors.astype(float) * values, axis=0)
    if not np.all(true <= 2.5 * info.residuals + 4 * max(16.0, np.sqrt(len(M))) * eps * norm):
        return f"residuals {true} but {info.residuals} are stated"
    held = np.clip(exact[:, None], info.intervals[:, 0], info.intervals[:, 1])
    if not np.all(
        np.abs(held - exact[:, None]).min(axis=0) <= max(10, len(M) / 10) * np.finfo(float).eps * norm
    ):  # of LAPACK
        return "an interval holds no eigenvalue"
    return None


def dual(values, dtype, seed, kind, outputs):
    """A dual of one linear layer whose eigenvalues are these, each once for each output, and its matrix in float64."""
    rng, n = np.random.default_rng(seed), len(values)
    U, V = (np.linalg.qr(rng.standard_normal((n, n)))[0] for _ in range(2))
    X = ((U * np.sqrt(n * values)) @ V.T).astype(dtype)
    G = gn.GaussNewton(gn.Network([gn.Dense(rng.standard_normal((outputs, n)).astype(dtype))]), X)
    K = np.kron(X.astype(float) @ X.astype(float).T / n, np.eye(outputs))
    return (G.gram() if kind == "gram" else G.linear_dual()), K


def one(seed, largest=300):
    """A random member: spectrum, precision, form, end, method and k; and what is wrong with the answer."""
    rng = np.random.default_rng(seed)
    size = int(rng.integers(20, largest))
    dtype = str(rng.choice(["float64", "float32"], p=[0.7, 0.3]))
    which = str(rng.choice(["LA", "SA", "BE"]))
    method = str(rng.choice(METHODS[which]))
    k = int(rng.choice([1, 3, 6, 15, 40, size // 2, size]))
    form = str(rng.choice(["array", "function", "gram", "linear dual"]))
    values = spectrum(rng, size)
    if form in ("array", "function"):
        M = with_spectrum(values, dtype, seed)
        op = M if form == "array" else as_operator(M)
    else:
        outputs = int(rng.choice([1, 2, 7]))
        values = values[: max(size // outputs, 3)]
        if not values.any():
            return None
        op, M = dual(values, dtype, seed, form, outputs)
    try:
        wrong = silent(op, M, min(k, op.shape[0]), which, method, seed=seed)
    except ValueError as error:  # of a singular matrix whose zeros are negative by more than rounding
        wrong = None if "negative eigenvalues" in str(error) else str(error)
    return wrong and f"seed {seed}: {size} {dtype} {form} {which} {method} {k}: {wrong}"


@pytest.mark.parametrize("first", [0, 20, 40])
def test_nothing_is_wrong_without_a_word(first, monkeypatch):
    monkeypatch.setattr(matrices, "DENSE_SIZE", 5)
    wrong = [found for seed in range(first, first + 20) if (found := one(seed))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("method", ["lobpcg", "krylov", "lanczos", "davidson"])
@pytest.mark.parametrize("block", [1, 2, 3])
def test_narrow_blocks_give_no_mixtures_of_neighbours(method, block):
    """Two eigenvalues nearer to each other than the search's residuals, and clusters wider than its block."""
    wrong = []
    for seed in range(12):
        rng = np.random.default_rng([5, seed])
        copies, apart = int(rng.integers(2, 10)), 10.0 ** rng.uniform(-9, -4)
        top = 1 + apart * rng.permutation(copies)
        values = np.sort(np.concatenate([top, rng.uniform(0, 0.5, 60)]))
        op = gn.operator(lambda V, values=values: values[:, None] * V, len(values), "float64")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", gn.ConvergenceWarning)
            k = int(rng.integers(1, 4))
            found, _, info = gn.eigsh(op, k, method=method, block_size=block, seed=seed, return_info=True)
        if info.converged and np.abs(found - values[-k:]).max() > 1.5e-10 + 16 * EPS * values[-1]:
            wrong.append((seed, copies, apart, k, found - values[-k:]))
    assert not wrong


@pytest.mark.parametrize("seed", [58, 79, 217, 328, 485])
def test_zeros_by_the_inverse_are_zero_to_rounding(seed):
    """Eigenvalues of a shifted singular matrix: not off by the tolerance times |A|, as quotients are at these seeds."""
    rng = np.random.default_rng([6, seed])
    zeros = np.zeros(int(rng.integers(1, 60)))
    values = np.concatenate([zeros, np.repeat(10.0 ** rng.uniform(-4, 0, 8), rng.integers(1, 20, 8))])
    op = gn.operator(lambda V: values[:, None] * V, len(values), "float64")
    k = int(rng.integers(1, 4))
    found, _, info = gn.eigsh(op, k, "SA", "inverse", seed=seed, return_info=True)
    expected = np.sort(values)[:k]
    assert info.converged
    assert (np.abs(found - expected) <= 16 * EPS * values.max() + 1e-10 * expected).all()
