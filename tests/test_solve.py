"""Damped linear systems against dense solutions, with every preconditioner and in both spaces."""

from __future__ import annotations

import numpy as np
import oracles
import pytest
import scipy.sparse.linalg as sla
from problems import data, network, problem
from spectra import SPECTRA, N, as_operator, with_spectrum

import gnfast as gn
from gnfast import _core
from gnfast.estimators import systems
from gnfast.spectrum import matrices

POSITIVE = ("geometric", "clustered", "repeated", "rank deficient", "all equal", "one", "two")
DECAYING = np.logspace(0, -8, N)


def right_hand_sides(size, s, dtype="float64", seed=0):
    return np.random.default_rng(seed).standard_normal((size, s)).astype(dtype)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("preconditioner", ["nystrom", None])
@pytest.mark.parametrize("name", POSITIVE)
def test_solutions_of_prescribed_spectra(name, preconditioner, dtype):
    M = with_spectrum(SPECTRA[name], dtype)
    size = len(M)
    b = right_hand_sides(size, 3, dtype)
    for damping in (0.03, 0.5):
        shifted = M.astype(float) + damping * np.eye(size)
        x, info = gn.solve(as_operator(M), b, damping, preconditioner=preconditioner)
        assert (x.shape, x.dtype) == (b.shape, np.dtype(dtype))
        tol = 1e-8 if dtype == "float64" else 1e-4
        residuals = np.linalg.norm(shifted @ x - b, axis=0) / np.linalg.norm(b, axis=0)
        assert info.converged
        assert residuals.max() <= tol * 1.1 + 100 * np.finfo(dtype).eps
        np.testing.assert_allclose(info.residuals, residuals, rtol=0.1, atol=1000 * np.finfo(dtype).eps)
        kappa = np.linalg.cond(shifted)
        exact = np.linalg.solve(shifted, b)
        assert np.linalg.norm(x - exact) <= 2 * kappa * tol * np.linalg.norm(exact)


def test_without_damping_and_one_vector():
    M = with_spectrum(np.linspace(0.5, 2, N))
    b = right_hand_sides(N, 1)[:, 0]
    x, info = gn.solve(M, b, tol=1e-12)
    assert x.shape == (N,)
    np.testing.assert_allclose(x, np.linalg.solve(M, b), rtol=1e-9, atol=1e-10)
    assert "Nystrom" in info.method
    zero, info = gn.solve(M, 0 * b)
    assert not zero.any()
    assert info.converged


@pytest.mark.parametrize("preconditioner", ["nystrom", None])
def test_dependent_right_hand_sides_do_not_break_the_block(preconditioner):
    M = with_spectrum(np.logspace(0, -3, N))
    b = right_hand_sides(N, 2)
    block = np.column_stack([b[:, 0], b[:, 0], np.zeros(N), b[:, 0] - 2 * b[:, 1], b[:, 1], 1e-9 * b[:, 1]])
    x, info = gn.solve(M, block, 1e-3, preconditioner=preconditioner)
    assert info.converged
    np.testing.assert_allclose(M @ x + 1e-3 * x, block, atol=2e-8 * np.linalg.norm(block, axis=0).max())
    np.testing.assert_allclose(x[:, 0], x[:, 1], rtol=1e-6, atol=1e-9)
    wide, info = gn.solve(M, np.eye(N), 1e-3)  # as many right-hand sides as unknowns
    np.testing.assert_allclose(wide, np.linalg.inv(M + 1e-3 * np.eye(N)), atol=1e-4)
    assert info.iterations <= 3


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("preconditioner", ["nystrom", None])
def test_singular_systems_with_a_solution(preconditioner, dtype):
    M = with_spectrum(SPECTRA["rank deficient"], dtype)
    b = (M.astype(float) @ right_hand_sides(N, 3)).astype(dtype)
    x, info = gn.solve(M, b, preconditioner=preconditioner)
    assert info.converged
    np.testing.assert_allclose(M @ x, b, atol=(1e-7 if dtype == "float64" else 1e-3) * np.abs(b).max())


def test_blocks_take_fewer_steps_than_single_vectors():
    M = with_spectrum(np.logspace(0, -4, N))
    b = right_hand_sides(N, 8)
    together = gn.solve(M, b, 1e-4, preconditioner=None)[1].iterations
    alone = gn.solve(M, b[:, 0], 1e-4, preconditioner=None)[1].iterations
    assert together < 0.5 * alone


def test_nystrom_makes_decaying_spectra_easy():
    op, b, damping = as_operator(with_spectrum(DECAYING)), right_hand_sides(N, 1), 1e-5
    plain = gn.solve(op, b, damping, preconditioner=None, max_iterations=2000)[1]
    preconditioned = gn.solve(op, b, damping, rank=48)[1]
    assert preconditioned.iterations < 0.3 * plain.iterations
    assert "rank 48" in preconditioned.method


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_nystrom_factors(dtype):
    M = with_spectrum(np.r_[np.linspace(1, 2, 9), np.zeros(N - 9)], dtype)
    rows = np.empty((20, N), dtype)
    values = np.array(_core.nystrom_factors(matrices.Stored(M).core, 0, rows))
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(rows @ rows.T, np.eye(20), atol=200 * eps)
    # of a matrix of lower rank the approximation is exact, up to the shift sqrt(N) eps |A| and what it amplifies
    np.testing.assert_allclose((rows.T * values) @ rows, M, atol=1000 * eps)
    assert np.all(np.diff(values) <= 0)
    assert values.min() >= 0
    inverse = systems.NystromPreconditioner(rows, values, 0.1).to_dense()
    expected = np.linalg.inv(M.astype(float) + 0.1 * np.eye(N)) * (values[-1] + 0.1)
    np.testing.assert_allclose(inverse, expected, atol=3000 * eps)
    zeros = np.array(_core.nystrom_factors(matrices.Stored(0 * M).core, 0, rows))
    assert not zeros.any()
    assert np.all(np.isfinite(systems.NystromPreconditioner(rows, zeros, 0.0).to_dense()))


def test_own_preconditioners_and_first_guesses():
    M = with_spectrum(np.logspace(0, -5, N))
    b = right_hand_sides(N, 2)
    exact = np.linalg.solve(M + 1e-4 * np.eye(N), b)
    inverse = as_operator(np.linalg.inv(M + 2e-4 * np.eye(N)))
    x, info = gn.solve(M, b, 1e-4, preconditioner=inverse)
    np.testing.assert_allclose(x, exact, atol=1e-5 * np.abs(exact).max())
    assert info.iterations < 12
    assert "given" in info.method
    near = exact + 1e-6 * right_hand_sides(N, 2, seed=1)
    assert gn.solve(M, b, 1e-4, x0=near)[1].iterations < gn.solve(M, b, 1e-4)[1].iterations
    guess = near.copy()
    gn.solve(M, b, 1e-4, x0=guess)
    np.testing.assert_array_equal(guess, near)  # not written to
    G = gn.GaussNewton(network([30, 200, 3], "relu"), data(15, 30))
    info = gn.solve(G.gram(), right_hand_sides(45, 2), preconditioner=G.gram().preconditioner())[1]
    assert info.converged


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize("space", ["parameters", "dual", "auto"])
def test_gauss_newton_is_solved_in_both_spaces(space, loss, dtype):
    G = problem((7, 41, 30, 4), n=9, loss=loss, dtype=dtype)
    damping = 0.02
    shifted = oracles.gauss_newton(G.net, G.X, loss) + damping * np.eye(G.shape[0])
    b = right_hand_sides(G.shape[0], 2, dtype)
    x, info = gn.solve(G, b, damping, space=space)
    residual = np.linalg.norm(shifted @ x - b, axis=0) / np.linalg.norm(b, axis=0)
    tol = 1e-8 if dtype == "float64" else 1e-4
    assert info.converged
    assert residual.max() < 1.2 * tol
    assert ("sample space" in info.method) == (space != "parameters")


def test_small_dampings_are_refined_in_the_dual():
    """Without refinement lambda_max / damping times the residual in sample space would be left."""
    G = problem((7, 41, 30, 4), n=9)
    damping = 1e-7
    b = right_hand_sides(G.shape[0], 1)
    x, info = gn.solve(G, b, damping, space="dual")
    assert info.converged
    assert np.linalg.norm(G @ x + damping * x - b) < 1.1e-8 * np.linalg.norm(b)


def test_restriction_is_the_adjoint_of_lifting():
    for loss in ("mse", "cross_entropy", "binary_cross_entropy"):
        G = problem(loss=loss)
        gram = G.gram(reduced=True)
        u, v = right_hand_sides(gram.shape[0], 2), right_hand_sides(G.shape[0], 3)
        np.testing.assert_allclose(gram.restrict(np.ascontiguousarray(v.T)) @ u, v.T @ gram.lift(u), rtol=1e-10)


def test_not_converged_warns():
    op, b = as_operator(with_spectrum(DECAYING)), right_hand_sides(N, 1)
    with pytest.warns(gn.ConvergenceWarning, match=r"solve stopped after 3 steps with relative residuals up to \d"):
        x, info = gn.solve(op, b, 1e-7, preconditioner=None, max_iterations=3)
    assert not info.converged
    assert np.all(np.isfinite(x))
    with pytest.warns(gn.ConvergenceWarning, match="stopped after"):
        info = gn.solve(op, b, 1e-3, tol=1e-17)[1]  # beyond rounding
    assert info.residuals.max() < 1e-6
    assert info.iterations <= 100 + 2 * N


def test_bad_arguments_are_named():
    M, b = with_spectrum(SPECTRA["indefinite"]), right_hand_sides(N, 2)
    for call, error, text in (
        (lambda: gn.solve(M, b, 0.1, preconditioner=None), ValueError, "not positive definite; pass a larger damping"),
        (lambda: gn.solve(M, b, 0.1), ValueError, "not positive semi-definite"),
        (lambda: gn.solve(M, b[:5]), ValueError, "b has shape"),
        (lambda: gn.solve(M, b.astype("float32")), TypeError, "b has dtype float32 but op has float64"),
        (lambda: gn.solve(M, b * np.nan), ValueError, "b has .* NaN"),
        (lambda: gn.solve(M, b, -1), ValueError, "damping is -1"),
        (lambda: gn.solve(M, b, 4, x0=b[:, :1]), ValueError, "x0 has shape"),
        (lambda: gn.solve(M, b, 4, preconditioner="nistrom"), ValueError, "did you mean 'nystrom'"),
        (lambda: gn.solve(M, b, 4, preconditioner=np.eye(3)), ValueError, "preconditioner is 3 x 3"),
        (lambda: gn.solve(M, b, 4, rank=0), ValueError, "rank is 0"),
        (lambda: gn.solve(M, b, 4, space="dual"), ValueError, "space is 'dual', which needs a GaussNewton"),
        (lambda: gn.solve(np.eye(3) * 1j, b), TypeError, "real"),
    ):
        with pytest.raises(error, match=text):
            call()


@pytest.mark.parametrize("preconditioner", ["nystrom", None])
def test_bad_products_come_out(preconditioner):
    def raising(V):
        raise ZeroDivisionError("from the product")

    calls = []

    def nan_later(V):
        calls.append(1)
        return V * (np.nan if len(calls) > 1 else 1.0)

    for product, error in ((raising, ZeroDivisionError), (nan_later, ValueError)):
        op = sla.LinearOperator((90, 90), matvec=product, matmat=product, dtype=float)
        with pytest.raises(error, match=r"from the product|NaN or infinite"):
            gn.solve(op, right_hand_sides(90, 2), 1.0, preconditioner=preconditioner)


# ---------------------------------------------------------------------------------------- no and tiny right-hand sides
def positive_definite(seed, n=10):
    A = np.random.default_rng(seed).random((n, n))
    return A @ A.T + n * np.eye(n)


@pytest.mark.parametrize("preconditioner", ["nystrom", None])
@pytest.mark.parametrize("tol", [1e-10, 1e-2, None])
@pytest.mark.parametrize("guess", [None, 1.0, 1e-300, 1e200])
def test_no_right_hand_side_has_the_solution_zero(preconditioner, tol, guess):
    """SciPy's test_zero_rhs, also beside others."""
    A = positive_definite(1684414984100503)
    x0 = None if guess is None else np.full(10, guess)
    x, info = gn.solve(A, np.zeros(10), tol=tol, x0=x0, preconditioner=preconditioner)
    assert not x.any()
    assert info.converged
    assert not info.residuals.any()
    B = np.stack([np.zeros(10), np.ones(10), np.zeros(10), np.arange(10.0)], 1)
    X0 = None if guess is None else np.full((10, 4), guess)
    X, info = gn.solve(A, B, tol=tol, x0=X0, preconditioner=preconditioner)
    assert not X[:, [0, 2]].any()
    assert info.converged
    left = np.linalg.norm(A @ X - B, axis=0)[[1, 3]] / np.linalg.norm(B, axis=0)[[1, 3]]
    assert left.max() <= (tol or 1e-8) * 1.01


@pytest.mark.parametrize("exponent", [-300, -200, -162, -100, -12, 60, 160, 290])
@pytest.mark.parametrize("guess", [None, 0.0, 1.0])
def test_right_hand_sides_of_any_size(exponent, guess):
    """The same digits for b and for b times a power of two, and for columns of several sizes."""
    A, rng = positive_definite(3), np.random.default_rng(4)
    b, size = rng.standard_normal(10), np.ldexp(1.0, round(exponent * np.log2(10)))
    x, _ = gn.solve(A, b)
    found, info = gn.solve(A, b * size, x0=None if guess is None else np.full(10, guess))
    assert info.converged
    np.testing.assert_allclose(found / size, x, rtol=1e-6)
    both = np.stack([b * size, b], 1)
    found, info = gn.solve(A, both, x0=None if guess is None else np.full((10, 2), guess))
    assert info.converged
    np.testing.assert_allclose(found / [size, 1], np.stack([x, x], 1), rtol=1e-6)
    small = np.float32(2.0 ** (exponent // 3)) if abs(exponent) < 120 else np.float32(1e-30)
    found, info = gn.solve(A.astype("float32"), (b * small).astype("float32"))
    assert info.converged
    np.testing.assert_allclose(found.astype(float) / small, x, rtol=1e-2, atol=1e-4)


def test_a_solution_without_digits_is_not_called_converged():
    """Numbers of 1e-321 have two digits: what is said of x is true of the x that is returned."""
    A, b = positive_definite(3), np.full(10, 1e-320)
    with pytest.warns(gn.ConvergenceWarning, match="few digits"):
        x, info = gn.solve(A, b)
    assert not info.converged
    expected = np.linalg.solve(A, np.ones(10)) * 1e-320
    np.testing.assert_allclose(x, expected, atol=5e-324)
    true = np.linalg.norm(A @ (x * 2.0**1000) - b * 2.0**1000) / np.linalg.norm(b * 2.0**1000)
    np.testing.assert_allclose(info.residuals, true, rtol=1e-6)
    with pytest.raises(ValueError, match="larger than float64 can hold"):
        gn.solve(A * 1e-10, np.full(10, 1e300))


def test_no_right_hand_side_of_a_network():
    rng = np.random.default_rng(0)
    G = gn.GaussNewton(gn.mlp([4, 8, 3], "tanh", seed=0), rng.standard_normal((10, 4)))
    b = rng.standard_normal(G.shape[0])
    for space in ("parameters", "dual"):
        x, info = gn.solve(G, np.zeros(len(b)), damping=0.1, space=space)
        assert not x.any() and info.converged
        scaled, info = gn.solve(G, b * 2.0**-700, damping=0.1, space=space)
        assert info.converged
        np.testing.assert_allclose(scaled * 2.0**700, gn.solve(G, b, damping=0.1, space=space)[0], rtol=1e-6, atol=1e-9)
    x, info = gn.solve(G, np.zeros(len(b)), damping=0.1, x0=np.ones(len(b)))
    assert not x.any() and info.converged
    x = np.linalg.solve(G.to_dense() + 0.1 * np.eye(len(b)), b)
    warm, info = gn.solve(G, b, damping=0.1, x0=x)
    assert info.iterations == 0  # a good guess is still one
    np.testing.assert_allclose(warm, x, rtol=1e-6)
