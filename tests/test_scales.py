"""Operators of any size a dtype holds: what is found is that of an ordinary size times a power of two."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse.linalg import aslinearoperator

import gnfast as gn
from gnfast.spectrum import matrices

N = 60
VALUES = np.linspace(1, 2, N)
Q = np.linalg.qr(np.random.default_rng(0).standard_normal((N, N)))[0]
A = (Q * VALUES) @ Q.T
A = (A + A.T) / 2
SIZES = [("float64", e) for e in (-996, -700, -530, -300, -120, 120, 250, 530, 700, 990)]
SIZES += [("float32", e) for e in (-122, -100, -73, -40, 30, 70, 100, 118)]
KINDS = {
    "array": lambda B: B,
    "function": lambda B: gn.operator(lambda V: B @ V, len(B), B.dtype),
    "LinearOperator": aslinearoperator,
}


def sized(matrix, dtype, exponent):
    return np.ldexp(matrix.astype(dtype), exponent)


def back(values, exponent):
    return np.ldexp(np.asarray(values, float), -exponent)


def tolerance(dtype):
    return 1e-8 if dtype == "float64" else 1e-3


@pytest.mark.parametrize("method", ["dense", "lanczos", "krylov", "nystrom", "davidson", "lobpcg"])
@pytest.mark.parametrize(("dtype", "exponent"), SIZES)
def test_eigsh(method, dtype, exponent):
    for name, kind in KINDS.items():
        op = kind(sized(A, dtype, exponent))
        values, vectors, info = gn.eigsh(op, 3, method=method, return_info=True)
        assert info.converged, name
        np.testing.assert_allclose(back(values, exponent), VALUES[-3:], rtol=tolerance(dtype))
        w, ordinary = vectors.astype(float), A.astype(dtype).astype(float)
        true = np.linalg.norm(ordinary @ w - w * back(values, exponent), axis=0)
        slack = 100 * np.finfo(dtype).eps
        np.testing.assert_allclose(back(info.residuals, exponent), true, rtol=0.5, atol=slack)
        intervals = back(info.intervals, exponent)
        exact = np.linalg.eigvalsh(ordinary)[-3:]
        assert np.all(intervals[:, 0] <= exact) and np.all(exact <= intervals[:, 1])
        assert np.all(intervals[:, 1] - intervals[:, 0] < 1e-2)
        assert 1 <= back(info.norm, exponent) <= 2.1


@pytest.mark.parametrize("method", ["auto", "dense", "lanczos", "davidson", "inverse", "inverse-cg"])
@pytest.mark.parametrize(("dtype", "exponent"), SIZES)
def test_low_ends(method, dtype, exponent):
    for kind in KINDS.values():
        values = gn.eigsh(kind(sized(A, dtype, exponent)), 2, "SA", method, return_eigenvectors=False)
        np.testing.assert_allclose(back(values, exponent), VALUES[:2], rtol=10 * tolerance(dtype))


@pytest.mark.parametrize(("dtype", "exponent"), SIZES)
def test_what_is_found_of_whole_spectra(dtype, exponent):
    tol, B = tolerance(dtype), sized(A, dtype, exponent)
    size = np.ldexp(1.0, exponent)
    for kind in KINDS.values():
        op = kind(B)
        found = gn.cond(op)
        np.testing.assert_allclose(found.value, 2, rtol=tol)
        np.testing.assert_allclose(back([found.lambda_max, found.lambda_min], exponent), [2, 1], rtol=tol)
        assert found.lower <= 2 * (1 + tol) and found.upper * (1 + tol) >= 2
        assert (found.rank, gn.rank(op).value, gn.rank(op, 1.5 * size).value) == (N, N, N // 2)
        assert abs(gn.rank(op, 1.5 * size, "lanczos").value - N // 2) < 12
        for method in ("auto", "hutchinson", "hutch++", "xtrace"):
            estimate = gn.trace(op, method, 20)
            assert abs(back(estimate.value, exponent) - VALUES.sum()) <= 4 * back(estimate.error, exponent) + tol * N
            assert back(estimate.error, exponent) < 20
        for method in ("auto", "hutchinson", "xdiag"):
            diagonal = gn.diagonal(op, method, 30)
            off = np.abs(back(diagonal.values, exponent) - A.diagonal())
            assert np.mean(off <= 3 * back(diagonal.error, exponent) + tol) > 0.9
            assert back(diagonal.error, exponent).max() < 1
        for method in ("exact", "lanczos"):
            share = gn.effective_dimension(op, size, method)
            assert abs(share.value - np.sum(VALUES / (VALUES + 1))) <= 3 * share.error + tol * N
            logdet = gn.logdet(op, size, method)
            expected = np.sum(np.log(VALUES + 1)) + N * exponent * np.log(2)
            assert abs(logdet.value - expected) <= 3 * logdet.error + tol * N
        for method in ("lanczos", "kpm"):
            density = gn.density(op, method, log=False)
            assert 0.9 < density.integral < 1.1
            assert 0.5 < back(density.grid[0], exponent) < 1 and 2 < back(density.grid[-1], exponent) < 2.5
        b = np.random.default_rng(1).standard_normal((N, 2)).astype(dtype)
        for damping in (0.0, 0.5):
            expected = np.linalg.solve(A + damping * np.eye(N), b.astype(float))
            for preconditioner in ("nystrom", None):
                x, info = gn.solve(op, sized(b, dtype, exponent), damping * size, preconditioner=preconditioner)
                assert info.converged
                np.testing.assert_allclose(x, expected, rtol=100 * tol, atol=10 * tol)


def test_large_matrices_take_the_other_routes(monkeypatch):
    """Davidson, factorisations, inertia and pivoted Cholesky, which small ones have no use for."""
    monkeypatch.setattr(matrices, "DENSE_SIZE", 10)
    monkeypatch.setattr(matrices, "SPECTRUM_SIZE", 20)
    singular = (Q * np.r_[np.zeros(10), VALUES[10:]]) @ Q.T
    for dtype, exponent in SIZES:
        tol = 30 * tolerance(dtype)
        for certify in (False, True):
            found = gn.cond(sized(A, dtype, exponent), certify)
            assert (found.rank, found.upper_from.startswith("inertia")) == (N, certify)
            np.testing.assert_allclose([found.value, back(found.lambda_min, exponent)], [2, 1], rtol=tol)
        found = gn.cond(sized((singular + singular.T) / 2, dtype, exponent))
        assert found.rank == N - 10
        np.testing.assert_allclose(back(found.lambda_min, exponent), VALUES[10], rtol=tol)
        assert gn.rank(sized(A, dtype, exponent), np.ldexp(1.5, exponent)).value == N // 2


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize(
    ("dtype", "exponent"), [("float64", -480), ("float64", -300), ("float64", 400), ("float32", -50)]
)
def test_gauss_newton_matrices(loss, dtype, exponent):
    """One layer: G is proportional to the squares of the inputs, H is that of outputs near zero."""
    X = np.random.default_rng(2).standard_normal((7, 4)).astype(dtype)
    W = np.zeros((3, 4), dtype)
    ordinary, extreme = (gn.GaussNewton(gn.Network([gn.Dense(W)]), x, loss) for x in (X, np.ldexp(X, exponent)))
    tol, double = tolerance(dtype), 2 * exponent
    for view in (lambda G: G, lambda G: G.gram(reduced=True)):
        a, b = view(ordinary), view(extreme)
        for method in ("lanczos", "dense", "auto"):
            expected = gn.eigsh(a, 2, method=method, return_eigenvectors=False)
            found, info = gn.eigsh(b, 2, method=method, return_info=True, return_eigenvectors=False)
            assert info.converged
            np.testing.assert_allclose(back(found, double), expected, rtol=10 * tol)
        np.testing.assert_allclose(gn.cond(b).value, gn.cond(a).value, rtol=100 * tol)
        assert gn.rank(b).value == gn.rank(a).value
    b = np.random.default_rng(3).standard_normal(12).astype(dtype)
    damping = float(np.ldexp(1.0, double))
    x, _ = gn.solve(ordinary, b, 1.0)
    found, info = gn.solve(extreme, np.ldexp(b, double), damping)
    assert info.converged
    np.testing.assert_allclose(found, x, rtol=100 * tol, atol=10 * tol)
    trace = gn.trace(extreme)
    np.testing.assert_allclose(back(trace.value, double), gn.trace(ordinary).value, rtol=tol)


def test_what_no_number_of_the_dtype_holds_is_refused():
    B = np.full((50, 50), 1e38, "float32") + np.diag(np.full(50, 1e38, "float32"))
    with pytest.raises(ValueError, match="beyond float32"):
        gn.eigsh(B, 1, method="lanczos")
    values = gn.eigsh(B, 1, method="lanczos", precision="float64", return_eigenvectors=False)
    np.testing.assert_allclose(values, 51e38, rtol=1e-5)


def test_zero_and_unfit_operators_stay_what_they_are():
    assert gn.trace(np.zeros((5, 5)), "xtrace", 6).value == 0
    assert not gn.eigsh(np.zeros((30, 30)), 2, method="lanczos", return_eigenvectors=False).any()
    with pytest.raises(ValueError, match="NaN or infinite"):
        gn.eigsh(gn.operator(lambda V: V * np.nan, 30), 2, method="lanczos")
