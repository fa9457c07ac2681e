"""Condition numbers against explicit Jacobians, by every route: the interval, the rank, what is refused."""

from __future__ import annotations

import math

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import data, network
from spectra import SPECTRA, as_operator, limits, with_spectrum

import gnfast as gn
from gnfast.spectrum import eigen, routes

WHOLE, STORED, PRODUCTS, PIVOTED = "whole spectrum", "stored: block Lanczos", "block Davidson", "pivoted Cholesky"
same_examples = settings(max_examples=40, deadline=None, derandomize=True, database=None)


def assert_contains(found, net, X, loss="mse", rank=None, cut=1e-10):
    """The interval holds the exact value, which float64 knows up to eps * kappa times a few."""
    linear = net.is_linear and loss == "mse"
    values = oracles.nonzero(oracles.linear_dual_matrix(net, X) if linear else oracles.gram(net, X, loss), cut)
    exact = values[-1] / values[0]
    slack = 1e-12 + 4 * np.finfo(np.float64).eps * exact
    assert found.lower * (1 - slack) <= exact <= found.upper * (1 + slack), (exact, str(found))
    assert 1 <= found.lower <= found.value <= found.upper
    eps = np.finfo(net.dtype).eps
    assert found.value == pytest.approx(exact, rel=(1e-8 if eps < 1e-10 else 1e-3) + 10 * eps * exact)
    assert found.lambda_max == pytest.approx(values[-1], rel=1e-8 if eps < 1e-10 else 1e-3)
    assert found.rank == (len(values) if rank is None else rank)
    assert found.residuals[0] <= 1e-2 * found.lambda_max  # the square root of the tolerance
    assert found.seconds > 0
    return exact


# ------------------------------------------------------------------------------------------------------- the routes
NETWORKS = [
    ([9, 30, 4], "identity", {}),
    ([9, 30, 20, 25, 4], "identity", {"bias": True, "skip": 1.0}),
    ([9, 40, 40, 4], "relu", {}),
    ([9, 50, 45, 4], "tanh", {"bias": True}),
    ([9, 60, 3], "leaky_relu", {"skip": 0.5}),
    ([3, 40, 20, 1], "gelu", {}),
]


ROUTES = [
    (case, route) for case in NETWORKS for route in (WHOLE, PRODUCTS if case[1] == "identity" else STORED, "certified")
]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("case", "route"), ROUTES)
def test_every_route_contains_the_exact_value(case, route, dtype, monkeypatch):
    limits(monkeypatch, dense=800 if route == WHOLE else 5)
    widths, activation, options = case
    net, X = network(widths, activation, dtype=dtype, **options), data(14, widths[0], 0.5, dtype=dtype)
    G = gn.GaussNewton(net, X)
    dual = G.linear_dual() if net.is_linear else G.gram()
    found = gn.cond(dual, certify=route == "certified")
    exact = assert_contains(found, net, X, rank=dual.shape[0])
    assert found.cut == 0
    assert not found.notes
    assert (found.space, found.dimension) == (dual.space, dual.shape[0])
    assert (STORED if route == "certified" else route) in found.method
    if route == "certified":
        assert found.upper_from.startswith("inertia")
        tol, eps = (1e-2, 1e-7) if dtype == "float32" else (1e-7, 1e-15)
        assert found.upper < exact * (1 + tol) / (1 - 20 * eps * exact)
    elif route == WHOLE:
        assert found.upper_from.startswith("the whole spectrum")
        assert found.products == 0
    else:
        assert found.upper_from.startswith(("bound", "random start: lambda_max <= ", "the Krylov spaces are"))
        assert found.products > 10


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_a_gram_that_may_not_be_stored(loss, dtype, monkeypatch):
    limits(monkeypatch)
    net, X = network([20, 15, 8], "tanh", dtype=dtype, bias=True), data(30, 20, 0.2, dtype=dtype)
    G = gn.GaussNewton(net, X, loss, memory_limit=25_000 * np.dtype(dtype).itemsize)
    assert not G.gram(reduced=True).fits_in_memory
    found = gn.cond(G)
    assert_contains(found, net, X, loss, rank=30 * (8 if loss == "mse" else 7))
    assert PRODUCTS in found.method
    assert found.space == "samples"
    noted = gn.cond(G, certify=True)
    assert noted.notes == ("not certified: a proof by inertia needs the dual stored",)
    assert noted.value == found.value


def test_cond_takes_the_cheapest_dual():
    net = network([5, 300, 3])
    assert gn.cond(gn.GaussNewton(net, data(40, 5))).space == "linear map"
    assert gn.cond(gn.GaussNewton(net, data(4, 5), "cross_entropy")).space == "samples"
    few = gn.GaussNewton(network([2, 3, 1], "tanh"), data(300, 2))
    found = gn.cond(few)
    assert (found.space, found.dimension) == ("parameters", 9)
    assert_contains(found, few.net, few.X)


@pytest.mark.parametrize("loss", ["mse", "cross_entropy", "binary_cross_entropy", "poisson", "gaussian_nll"])
@pytest.mark.parametrize("dense", [800, 5])
def test_losses(loss, dense, monkeypatch):
    limits(monkeypatch, dense=dense)
    net, X = network([8, 70, 4], "tanh"), data(12, 8)
    G = gn.GaussNewton(net, X, loss)
    found = gn.cond(G)
    assert_contains(found, net, X, loss)
    assert found.rank == found.dimension == 12 * (3 if loss == "cross_entropy" else 4)
    whole = gn.cond(G.gram())  # with the null space that is known of the softmax
    assert_contains(whole, net, X, loss)
    assert (whole.rank, whole.dimension) == (found.rank, 48)
    total = gn.cond(gn.GaussNewton(net, X, loss, reduction="sum"))
    assert total.value == pytest.approx(found.value, rel=1e-8)
    assert total.lambda_max == pytest.approx(12 * found.lambda_max, rel=1e-8)


def test_ill_conditioned_linear_data_need_few_products(monkeypatch):
    """kappa(Sigma) 1e8: the wide-limit preconditioner does not see it."""
    limits(monkeypatch)
    net, X = network([20, 300, 200, 5]), data(100, 20, 4)
    found = gn.cond(gn.GaussNewton(net, X).linear_dual())
    exact = assert_contains(found, net, X, cut=1e-14)
    assert exact > 1e8
    assert found.products < 300
    assert found.upper == pytest.approx(exact, rel=1)  # the joint bound


def test_a_random_start_limits_both_ends_of_a_stored_dual(monkeypatch):
    limits(monkeypatch)
    monkeypatch.setattr("gnfast.operators.gram.BOUND_SIZE", 10)
    G = gn.GaussNewton(network([30, 200, 3], "relu"), data(90, 30))
    found = gn.cond(G)
    assert found.upper_from.startswith("random start: lambda_max <= ")
    assert "with probability 1 - 1e-06 and lambda_min >= " in found.upper_from
    exact = oracles.kappa(oracles.gram(G.net, G.X))
    # errors of both ends by the theorem for 12 steps of 8 vectors and 270 unknowns: 5 %
    assert exact <= found.upper <= 1.2 * exact
    limits(monkeypatch, stored=100)
    loose = gn.cond(G)
    assert "lambda_min by its residual (estimated)" in loose.upper_from
    assert exact <= loose.upper <= 1.2 * exact


def test_intervals_come_with_their_reasons(monkeypatch):
    limits(monkeypatch)
    linear = gn.GaussNewton(network([6, 60, 50, 3]), data(30, 6))
    by_bound = gn.cond(linear.linear_dual())
    assert by_bound.upper_from.startswith("bound linear.joint (proven); residuals alone suggest")
    assert by_bound.upper == gn.bounds.linear(linear.net, linear.X).value or by_bound.upper < 2 * by_bound.value
    deep = gn.cond(gn.GaussNewton(network([30, 200, 3], "relu"), data(15, 30)))
    assert deep.upper_from.startswith("bound deep.schur (proven)")
    monkeypatch.setattr("gnfast.operators.gram.BOUND_SIZE", 10)
    estimated = gn.cond(gn.GaussNewton(network([30, 200, 3], "relu"), data(15, 30)))
    assert estimated.upper_from.startswith("the Krylov spaces are everything")  # 12 steps of 8 for 45 unknowns
    assert estimated.upper == pytest.approx(estimated.value, rel=1e-3)
    text = str(estimated)
    for part in ("kappa ", "lambda_max", "full rank (samples)", "residuals", "upper end: ", "products"):
        assert part in text
    assert float(estimated) == estimated.value
    repeated = gn.cond(gn.GaussNewton(network([30, 200, 3], "relu"), data(15, 30)))
    assert (repeated.value, repeated.lower, repeated.upper) == (estimated.value, estimated.lower, estimated.upper)


def test_a_wrong_end_is_not_certified(monkeypatch):
    """The smallest eigenvalue is claimed to be larger than it is."""
    limits(monkeypatch)
    G = gn.GaussNewton(network([9, 40, 3], "relu"), data(12, 9))
    monkeypatch.setattr(
        routes.Search,
        "_by_inverse",
        lambda self, K: eigen.End(1.5 * oracles.spectrum(oracles.gram(G.net, G.X))[0], 1e-9),
    )
    found = gn.cond(G, certify=True)
    assert "the proof of the lower end of the spectrum failed" in found.notes[0]
    assert not found.upper_from.startswith("inertia")


# ---------------------------------------------------------------------------------------------------- singular duals
def singular(name):
    """(net, X) whose dual is singular, and its rank where that is known beforehand."""
    if name == "bottleneck":
        return network([7, 20, 2, 20, 4]), data(30, 7), None
    if name == "duplicate samples":
        X = data(20, 7)
        X[10:] = X[:10]
        return network([7, 80, 4], "relu"), X, 40
    if name == "dead for one sample":
        net, X = network([30, 60, 3], "relu"), np.abs(data(12, 30)) + 0.1
        first = gn.Dense(np.abs(net.dense[0].weight))
        X[5] *= -1  # all pre-activations negative: nothing depends on any parameter
        return gn.Network([first, gn.Activation("relu"), net.dense[1]]), X, 33
    if name == "zero pixels":
        X = data(10, 9)
        X[:, [0, 4, 5, 8]] = 0
        return network([9, 4, 3], "leaky_relu"), X, None
    if name == "narrow layers":
        return network([3, 4, 2], "tanh"), data(40, 3), 20  # n k = 80 beyond p = 20
    raise ValueError(name)


SINGULAR = ["bottleneck", "duplicate samples", "dead for one sample", "zero pixels", "narrow layers"]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("route", [WHOLE, "whole at last", PIVOTED])
@pytest.mark.parametrize("name", SINGULAR)
def test_singular_duals_give_rank_cut_and_the_smallest_non_zero_eigenvalue(name, route, dtype, monkeypatch):
    limits(monkeypatch, dense=800 if route == WHOLE else 5, spectrum=5 if route == PIVOTED else 3_200)
    net, X, rank = singular(name)
    net = net.with_parameters([a.astype(dtype) for a in net.parameters()])
    G = gn.GaussNewton(net, X.astype(dtype))
    for dual in [G.gram()] + ([G.linear_dual()] if net.is_linear else []):
        found = gn.cond(dual)
        if found.upper < math.inf:
            exact = assert_contains(found, net, G.X, rank=rank, cut=1e-10)
        else:
            assert dtype == "float32"  # which does not tell these spectra from zero
            assert "no clear gap" in found.notes[0]
            assert found.lower <= oracles.kappa(oracles.gram(net, G.X))
        assert found.rank < found.dimension
        eps = np.finfo(dtype).eps
        assert found.cut == pytest.approx(max(16, math.sqrt(dual.shape[0])) * eps * found.lambda_max, rel=1e-3)
        assert (PIVOTED if route == PIVOTED else WHOLE) in found.method
        assert f"rank {found.rank} of {found.dimension}, cut" in str(found)
        assert int(gn.rank(dual)) == found.rank
        if dtype == "float64":
            # the random start: 12 steps of 8 vectors for up to 150 unknowns
            assert found.upper == pytest.approx(exact, rel=1e-3 if route != PIVOTED else 0.5)
            assert not found.notes
    certified = gn.cond(G.gram(), certify=True)
    assert certified.value == pytest.approx(gn.cond(G.gram()).value, rel=1e-9)
    assert certified.notes or WHOLE in certified.method


def test_a_rank_that_depends_on_the_cut_is_not_dressed_as_a_condition_number(monkeypatch):
    """Data over seven decades in float32: eigenvalues fade into rounding without a gap."""
    net, X = network([30, 40, 3], dtype="float32"), data(50, 30, 4, dtype="float32")
    for spectrum in (3_200, 5):
        found = gn.cond(gn.GaussNewton(net, X).linear_dual())
        assert found.rank < found.dimension
        assert found.lower <= found.value < found.upper == math.inf
        assert found.upper_from == "nothing: what was cut may not be zero"
        assert "no clear gap at the cut" in found.notes[0]
        assert found.lower <= oracles.kappa(oracles.linear_dual_matrix(net, X), 1e-14)
        limits(monkeypatch, spectrum=spectrum)
    double = net.with_parameters([a.astype(float) for a in net.parameters()])
    assert gn.cond(gn.GaussNewton(double, X.astype(float)).linear_dual()).rank == 90


def test_a_singular_dual_that_cannot_be_stored_is_refused(monkeypatch):
    limits(monkeypatch, stored=30)
    net, X, _ = singular("bottleneck")
    with pytest.raises(ValueError, match="G has a singular dual, which has to be stored, but with 28 x 28 it is"):
        limits(monkeypatch, stored=20)
        gn.cond(gn.GaussNewton(net, X).linear_dual())
    X = data(20, 7)
    X[10:] = X[:10]
    G = gn.GaussNewton(network([7, 30, 4], "relu"), X)
    limited = gn.GaussNewton(G.net, X, memory_limit=50_000).gram()
    with pytest.raises(MemoryError, match=r"the 80 x 80 matrix needs 51\.2 kB but memory_limit is 50\.0 kB"):
        limits(monkeypatch)
        gn.cond(limited)


# ------------------------------------------------------------------------------------------------- other operators
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("dense", [800, 5])
@pytest.mark.parametrize("kind", [np.asarray, as_operator])
def test_any_semidefinite_matrix(kind, dense, dtype, monkeypatch):
    limits(monkeypatch, dense=dense)
    single = dtype == "float32"
    for values in (np.logspace(2, 0 if single else -4, 60), SPECTRA["rank deficient"], SPECTRA["all equal"], [0.25]):
        values = np.asarray(values, float)
        found = gn.cond(kind(with_spectrum(values, dtype)))
        exact = values.max() / values[values > 0].min()
        assert found.value == pytest.approx(exact, rel=1e-3 if single else 1e-8)
        # the matrix itself was rounded: its eigenvalues are those prescribed up to a few eps
        assert found.lower <= exact * (1 + 1e-14)
        assert found.upper >= exact * (1 - 1e-14)
        assert (found.rank, found.dimension) == (np.count_nonzero(values), len(values))
        assert found.space == "given"


@pytest.mark.parametrize("dense", [800, 5])
def test_what_has_no_condition_number(dense, monkeypatch):
    limits(monkeypatch, dense=dense)
    for op in (np.zeros((9, 9)), as_operator(np.zeros((9, 9)))):
        with pytest.raises(ValueError, match="the largest eigenvalue is 0, so that there is no condition number"):
            gn.cond(op)
    with pytest.raises(ValueError, match=r"the largest eigenvalue is -1|has the eigenvalue -1"):
        gn.cond(-np.eye(9))
    with pytest.raises(ValueError, match="must be positive semi-definite but has the eigenvalue -3"):
        gn.cond(with_spectrum(SPECTRA["indefinite"]))
    zero = gn.Network([gn.Dense(np.zeros((5, 4))), gn.Activation("relu"), gn.Dense(np.zeros((3, 5)))])
    with pytest.raises(ValueError, match="no output depends on any parameter at these samples"):
        gn.cond(gn.GaussNewton(zero, data(6, 4)))
    with pytest.raises(ValueError, match="no output depends on any parameter at these samples"):
        gn.cond(gn.GaussNewton(gn.Network([zero.dense[0], zero.dense[1]]), data(6, 4)).linear_dual())
    with pytest.raises(ValueError, match="X is zero at all samples"):
        gn.cond(gn.GaussNewton(network([4, 500, 3]), np.zeros((60, 4))))
    with pytest.raises(ValueError, match="NaN or infinite"):
        gn.cond(as_operator(np.full((9, 9), np.nan)))


def test_bad_arguments(monkeypatch):
    G = gn.GaussNewton(network([4, 9, 3], "relu"), data(6, 4))
    for options, error, message in (
        ({"tol": -1e-3}, ValueError, "tol is -0.001 but must be positive"),
        ({"certify": "yes"}, TypeError, "certify is 'yes' but must be True or False"),
        ({"seed": 0.5}, TypeError, "seed is 0.5"),
        ({"progress": "bar"}, TypeError, "progress is of type str"),
    ):
        with pytest.raises(error, match=message):
            gn.cond(G, **options)
    with pytest.raises(ValueError, match="G has shape"):
        gn.cond(G.jacobian())
    limits(monkeypatch, stored=50)
    with pytest.raises(
        ValueError, match=r"G is an operator that has to be stored, but with 97 x 97 it is too large \(50 at most\)"
    ):
        gn.cond(with_spectrum(SPECTRA["geometric"]))


def test_an_end_that_did_not_converge_is_told(monkeypatch):
    limits(monkeypatch)
    real = routes.largest
    monkeypatch.setattr(
        routes, "largest", lambda *a: real(*a)._replace(residual=0.5, converged=False, reason="max_products reached")
    )
    with pytest.warns(
        gn.ConvergenceWarning, match=r"the largest eigenvalue stopped at residual 5\.0e-01: max_prod"
    ) as seen:
        found = gn.cond(gn.GaussNewton(network([9, 40, 3], "relu"), data(12, 9)))
    assert seen[0].filename == __file__
    assert found.notes == (str(seen[0].message),)
    assert "note: the largest" in str(found)
    assert found.residuals[0] == 0.5


# ------------------------------------------------------------------------------------------------------- hypothesis
@given(
    widths=st.lists(st.sampled_from([1, 2, 3, 5, 8, 13]), min_size=2, max_size=5),
    activation=st.sampled_from(["identity", "relu", "leaky_relu", "tanh", "gelu", "sigmoid"]),
    loss=st.sampled_from(["mse", "cross_entropy", "binary_cross_entropy", "poisson"]),
    n=st.sampled_from([1, 2, 5, 12]),
    bias=st.booleans(),
    skip=st.sampled_from([0.0, 0.5]),
    seed=st.integers(0, 1000),
    dtype=st.sampled_from(["float64", "float32"]),
    dense=st.sampled_from([800, 3]),
    spectrum=st.sampled_from([3_200, 3]),
)
@same_examples
def test_intervals_hold(widths, activation, loss, n, bias, skip, seed, dtype, dense, spectrum):
    net, X = network(widths, activation, seed, bias, dtype, skip), data(n, widths[0], seed=seed, dtype=dtype)
    if loss == "cross_entropy" and widths[-1] == 1:
        return
    exact = oracles.spectrum(oracles.gram(net, X, loss))
    with pytest.MonkeyPatch.context() as patch:
        limits(patch, dense=dense, spectrum=spectrum)
        G = gn.GaussNewton(net, X, loss)
        duals = [G.gram(reduced=True)] + ([G.linear_dual()] if net.is_linear and loss == "mse" else [])
        for dual in duals:
            try:
                found = gn.cond(dual)
            except ValueError as error:
                assert "no output depends" in str(error) or "no gap" in str(error), error
                continue
            assert found.lambda_max == pytest.approx(exact[-1], rel=1e-8 if dtype == "float64" else 1e-3)
            # Of the eigenvalues that were kept; float64 knows the smallest of them up to a few eps of the largest.
            smallest, rounding = exact[-found.rank], 4 * np.finfo(np.float64).eps * exact[-1]
            assert found.lower <= exact[-1] / max(smallest - rounding, 1e-300)
            assert found.upper >= exact[-1] / (smallest + rounding)
