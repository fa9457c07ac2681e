"""Bounds of linear and residual networks against explicit Jacobians, and what all bounds share."""

from __future__ import annotations

import math

import numpy as np
import oracles
import pytest
from bounding import EPS, assert_bounds, data, exact, linear_network, with_activation
from hypothesis import given, settings
from hypothesis import strategies as st

import gnfast as gn
from gnfast.bounds.linear import joint_from_factors

FORMS = ("joint", "matrix", "convex", "loose", "layers", "equality")


# ------------------------------------------------------------------------------------------------------------ linear
CASES = [
    ([6, 9, 3], 60, 0.0, False),
    ([6, 12, 12, 12, 3], 60, 0.0, False),
    ([6, 12, 12, 12, 12, 12, 3], 60, 1.0, False),
    ([6, 12, 3], 60, 2.0, False),
    ([6, 12, 12, 12, 3], 4, 0.0, False),  # n < d
    ([6, 12, 12, 3], 60, 0.5, True),
    ([5, 11, 7, 13, 2], 3, 0.0, True),  # n < d, uneven widths, biases
    ([2, 9, 9, 7], 15, 0.0, False),  # k > d
    ([1, 3, 1], 5, 0.0, False),
]


@pytest.mark.parametrize(("widths", "n", "skip", "bias"), CASES)
def test_linear_forms_bound_the_spectrum_and_are_ordered(widths, n, skip, bias):
    net, X = linear_network(widths, skip=skip, bias=bias), data(n, widths[0])
    bounds = {form: gn.bounds.linear(net, X, form) for form in FORMS}
    for bound in bounds.values():
        assert_bounds(bound, net, X)
    assert all(bounds[form].applies for form in ("joint", "matrix", "convex"))
    values = [bounds[form].value for form in ("joint", "matrix", "convex")]
    for other in (bounds["loose"], bounds["layers"]):
        assert np.all(np.diff([*values, other.value]) >= -1e-9 * values[-1]), bounds


@pytest.mark.parametrize(("widths", "n", "skip", "bias"), CASES)
def test_kappa_ghat_is_bounded_on_the_range_of_sigma(widths, n, skip, bias):
    net, X = linear_network(widths, skip=skip, bias=bias), data(n, widths[0])
    dual = oracles.linear_dual(net, X)
    w, V = np.linalg.eigh(dual.S)
    V = V[:, w > 1e-7 * w[-1]]
    ghat = oracles.spectrum(sum(np.kron(P, V.T @ Q @ V) for P, Q in zip(dual.P, dual.Q, strict=True)))
    sigma = oracles.kappa(dual.S @ dual.S)
    for form in ("matrix", "convex", "loose", "layers"):
        bound = gn.bounds.linear(net, X, form)
        assert bound.parts["kappa_ghat"] >= ghat[-1] / ghat[0] * (1 - 1e-9)
        assert bound.parts["kappa_sigma"] == pytest.approx(sigma, rel=1e-9)
        if bound.applies:
            assert bound.value == pytest.approx(bound.parts["kappa_sigma"] * bound.parts["kappa_ghat"], rel=1e-12)
    convex = gn.bounds.linear(net, X, "convex").parts
    assert convex["gammas"].sum() == pytest.approx(1)
    combined = np.nansum(convex["gammas"] * convex["u"] / np.where(convex["v"] > 0, convex["v"], np.nan))
    if np.all(convex["v"] > 0):
        assert combined == pytest.approx(convex["kappa_ghat"], rel=1e-12)


def test_product_of_layers_is_its_formula():
    net, X = linear_network([6, 12, 12, 12, 3], skip=0.3), data(40, 6)
    weights = [layer.weight + 0.3 * np.eye(*layer.weight.shape) for layer in net.dense]
    s = [np.linalg.svd(W, compute_uv=False) ** 2 for W in weights]
    big, small = np.array([v[0] for v in s]), np.array([v[-1] for v in s])
    formula = np.prod(big / small) * np.sum(1 / big) / np.sum(1 / small)
    bound = gn.bounds.linear(net, X, "layers")
    assert bound.parts["kappa_ghat"] == pytest.approx(formula, rel=1e-6)  # s_min of 12 x 12: kappa^2 eps or so


@pytest.mark.parametrize("skip", [0.0, 2.0])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("widths", "n"), [([6, 9, 3], 50), ([6, 9, 3], 4), ([6, 4, 3], 50), ([3, 5, 5], 30)])
def test_one_hidden_layer_is_an_equality(widths, n, skip, bias):
    net, X = linear_network(widths, skip=skip, bias=bias), data(n, widths[0])
    kappa, slack = exact(net, X)
    joint, equality = gn.bounds.linear(net, X), gn.bounds.linear(net, X, "equality")
    assert joint.value == pytest.approx(kappa, rel=slack)
    dual = oracles.linear_dual(net, X)
    w, V = np.linalg.eigh(dual.S)
    V = V[:, w > 1e-7 * w[-1]]
    ghat = oracles.spectrum(sum(np.kron(P, V.T @ Q @ V) for P, Q in zip(dual.P, dual.Q, strict=True)))
    assert equality.parts["kappa_ghat"] == pytest.approx(ghat[-1] / ghat[0], rel=1e-9)


def test_a_single_layer_has_the_condition_number_of_its_data():
    net, X = linear_network([5, 3]), data(20, 5)
    sigma = oracles.kappa(X.T @ X)
    for form in ("joint", "matrix", "convex", "loose", "layers"):
        assert gn.bounds.linear(net, X, form).value == pytest.approx(sigma, rel=1e-9)
    assert "two dense layers" in gn.bounds.linear(net, X, "equality").reason


def test_joint_form_is_near_on_deep_networks_where_the_product_is_not():
    net, X = linear_network([6, 12, 12, 12, 12, 12, 3]), data(60, 6)
    kappa, _ = exact(net, X)
    joint, convex = gn.bounds.linear(net, X).value, gn.bounds.linear(net, X, "convex").value
    assert joint < 1.6 * kappa
    assert convex > 5 * kappa


def test_joint_from_factors_is_the_joint_form():
    net, X = linear_network([6, 12, 12, 3], bias=True), data(40, 6)
    dual = oracles.linear_dual(net, X)
    R = np.stack([dual.S @ Q @ dual.S for Q in dual.Q])
    bound = joint_from_factors(np.stack(dual.P), R)
    joint = gn.bounds.linear(net, X)
    assert bound.name == joint.name == "linear.joint"
    assert bound.value == pytest.approx(joint.value, rel=1e-9)
    assert bound.parts["lambda_max_upper"] == pytest.approx(joint.parts["lambda_max_upper"], rel=1e-9)
    assert_bounds(bound, net, X)


def test_joint_from_factors_tries_both_roles():
    """Each end is the tighter of the two, so that exchanging P and R changes nothing."""
    rng = np.random.default_rng(3)
    P, R = (M @ M.transpose(0, 2, 1) for M in (rng.standard_normal((3, 4, 6)), rng.standard_normal((3, 5, 9))))
    bound = joint_from_factors(P, R)
    assert joint_from_factors(R, P).value == pytest.approx(bound.value, rel=1e-12)
    spectrum = oracles.spectrum(sum(np.kron(p, r) for p, r in zip(P, R, strict=True)))
    roles = []
    for A, B in ((P, R), (R, P)):
        ends = np.array([oracles.spectrum(a)[[-1, 0]] for a in A])
        roles.append(
            (oracles.spectrum(np.tensordot(ends[:, 0], B, 1))[-1], oracles.spectrum(np.tensordot(ends[:, 1], B, 1))[0])
        )
    largest, smallest = bound.parts["lambda_max_upper"], bound.parts["lambda_min_lower"]
    assert spectrum[-1] <= largest == pytest.approx(min(roles[0][0], roles[1][0]), rel=1e-12)
    assert spectrum[0] >= smallest == pytest.approx(max(roles[0][1], roles[1][1]), rel=1e-9)


def test_joint_from_factors_knows_what_its_dtype_resolves():
    R = np.diag([1.0, 1e-9])[None]
    P = np.eye(2)[None]
    assert joint_from_factors(P, R).value == pytest.approx(1e9, rel=1e-5)
    single = joint_from_factors(P.astype(np.float32), R.astype(np.float32))
    assert single.value == math.inf
    assert "not resolved" in single.reason


def test_rank_deficient_data_are_restricted_to_their_range():
    X = data(30, 7)
    X[:, [2, 5]] = 0  # constant zero pixels
    X = np.vstack([X, X[:4]])  # duplicates
    X[:, 6] = X[:, 0] - X[:, 1]
    net = linear_network([7, 9, 8, 2])
    for form in ("joint", "matrix", "convex", "loose"):
        bound = gn.bounds.linear(net, X, form)
        assert bound.applies
        assert_bounds(bound, net, X)
        assert bound.parts["rank"] == 4
        assert bound.parts["rank_cut"] == EPS * 34


def test_ill_conditioned_data_keep_their_bound():
    """Singular values of X, not of its square: kappa(Sigma) of 1e14 is resolved, and joint stays below the product."""
    X = np.linalg.qr(data(40, 6))[0] * np.logspace(0, -7, 6)
    net = linear_network([6, 14, 14, 3])
    joint, matrix = gn.bounds.linear(net, X), gn.bounds.linear(net, X, "matrix")
    assert joint.parts["kappa_sigma"] == pytest.approx(1e14, rel=1e-6)
    assert joint.value <= matrix.value
    # A congruence is exact in exact arithmetic: the network with its data whitened is well conditioned.
    dual = oracles.linear_dual(net, X / np.logspace(0, -7, 6) * np.sqrt(40))
    M = sum(np.kron(P, Q) for P, Q in zip(dual.P, dual.Q, strict=True))
    root = np.linalg.cholesky(M).T @ np.kron(np.eye(3), np.diag(np.logspace(0, -7, 6)))
    s = np.linalg.svd(root, compute_uv=False)
    assert (s[0] / s[-1]) ** 2 * (1 - 1e-6) <= joint.value <= 10 * (s[0] / s[-1]) ** 2


def test_a_large_network_forms_no_kd_matrix():
    """k d = 15,000: a matrix of that size takes 1.8 GB, and its eigenvalues many minutes."""
    net, X = linear_network([150, 160, 155, 100]), data(170, 150)
    bound = gn.bounds.linear(net, X)
    W1, W2, W3 = (layer.weight for layer in net.dense)
    v = np.random.default_rng(0).standard_normal((100, 150))
    terms = ((W3 @ W2, np.eye(150)), (W3, W1), (np.eye(100), W2 @ W1))
    R = np.linalg.qr(X, mode="r") / np.sqrt(170)  # R^T R = Sigma: as good as its square root
    rayleigh = sum(np.linalg.norm(left.T @ v @ R @ right.T) ** 2 for left, right in terms) / np.linalg.norm(v) ** 2
    assert bound.applies
    assert bound.parts["lambda_min_lower"] < rayleigh < bound.parts["lambda_max_upper"]


def test_linear_reasons():
    X = data(50, 64)
    narrow = gn.bounds.linear(linear_network([64, 100, 8, 100, 10]), X)
    assert narrow.value == math.inf
    assert narrow.reason == "layer 2 has 8 units, fewer than the 10 outputs and the rank 50 of the inputs"
    two = gn.bounds.linear(linear_network([64, 20, 8, 10]), data(5, 64), "convex")
    assert two.applies  # five inputs fit through
    split = gn.bounds.linear(linear_network([6, 4, 5, 4]), data(50, 6))
    assert split.applies  # four units are enough for layer 1's term, which has four outputs above it
    split = gn.bounds.linear(linear_network([6, 5, 7, 8]), data(50, 6))
    assert (
        split.reason
        == "layer 1 has 5 units, fewer than the rank 6 of the inputs, and layer 2 has 7, fewer than the 8 outputs"
    )
    relu = gn.bounds.linear(with_activation(linear_network([6, 9, 3]), gn.Activation("relu")), data(20, 6))
    assert relu.reason == "activation relu is not linear; use bounds.relu or bounds.deep"
    zero = gn.bounds.linear(linear_network([6, 9, 3]), np.zeros((4, 6)))
    assert zero.reason == "X is zero, and so is G"
    wavy = gn.bounds.linear(linear_network([6, 9, 7, 8, 3]), data(20, 6), "layers")
    assert wavy.reason.startswith("the hidden widths [9, 7, 8] do not grow")
    mixed = gn.Network([gn.Dense(np.ones((4, 6))), gn.Dense(np.ones((3, 4)), np.ones(3))])
    assert "layer 2 has a bias and layer 1 has none" in gn.bounds.linear(mixed, data(20, 6), "equality").reason
    loose = gn.bounds.linear(linear_network([6, 4, 3]), data(20, 6), "loose")
    assert loose.reason == "layer 1 has 4 units, fewer than the rank 6 of the inputs; use another form"


def test_singular_weights_are_not_resolved():
    first = np.random.default_rng(0).standard_normal((9, 6))
    first[:, 5] = first[:, 4]  # two inputs that nothing tells apart
    second = np.random.default_rng(1).standard_normal((8, 9))
    second[7] = second[6]
    third = np.random.default_rng(2).standard_normal((7, 8))
    third[6] = third[5]
    net = gn.Network([gn.Dense(first), gn.Dense(second), gn.Dense(third)])
    bound = gn.bounds.linear(net, data(30, 6))
    assert bound.value == math.inf
    assert "not resolved in float64" in bound.reason
    dead = gn.Network([gn.Dense(0 * first), gn.Dense(0 * second), gn.Dense(0 * third)])
    for form in FORMS:
        assert not gn.bounds.linear(dead, data(30, 6), form).applies


# ---------------------------------------------------------------------------------------------------------- residual
def test_residual_is_linear_with_the_effective_weights():
    net, X = linear_network([6, 12, 12, 3], skip=1.5), data(40, 6)
    plain = gn.Network([gn.Dense(layer.weight + 1.5 * np.eye(*layer.weight.shape)) for layer in net.dense])
    for form in FORMS:
        bound, other = gn.bounds.residual(net, X, form), gn.bounds.linear(plain, X, form)
        assert bound.name == f"residual.{form}"
        assert bound.value == pytest.approx(other.value, rel=1e-12)
        assert_bounds(bound, net, X)


@pytest.mark.parametrize("skip", [4.0, -4.0, 40.0])
@pytest.mark.parametrize("widths", [[6, 12, 12, 12, 3], [5, 5, 5], [6, 8, 8, 8, 8, 8]])
def test_residual_apriori(widths, skip):
    net, X = linear_network(widths, skip=skip), data(40, widths[0])
    bound = gn.bounds.residual(net, X, "apriori")
    assert bound.applies
    assert_bounds(bound, net, X)
    assert bound.value >= gn.bounds.residual(net, X, "layers").value * (1 - 1e-9)


def test_residual_apriori_tends_to_kappa_of_the_data_as_skips_grow():
    net, X = linear_network([5, 5, 5, 5], skip=1e6), data(40, 5)
    bound = gn.bounds.residual(net, X, "apriori")
    assert bound.value == pytest.approx(bound.parts["lambda_max_upper"] / bound.parts["lambda_min_lower"])
    assert bound.value == pytest.approx(oracles.kappa(X.T @ X), rel=1e-4)


def test_residual_reasons():
    X = data(40, 6)
    assert gn.bounds.residual(linear_network([6, 12, 3]), X).reason == "no layer has a skip; use bounds.linear"
    small = gn.bounds.residual(linear_network([6, 8, 8, 8, 3], skip=0.1), X, "apriori")
    assert small.reason == "layer 2 has the skip 0.1, no more than its s_max(W)"
    assert "square" in gn.bounds.residual(linear_network([6, 8, 3], skip=1.0), X, "apriori").reason
    assert "bias" in gn.bounds.residual(linear_network([6, 8, 8, 3], skip=9.0, bias=True), X, "apriori").reason
    nonlinear = with_activation(linear_network([6, 8, 8, 3], skip=9.0), gn.Activation("tanh"))
    assert "tanh is not linear" in gn.bounds.residual(nonlinear, X, "apriori").reason


# --------------------------------------------------------------------------------------------------------------- all
def test_all_is_sorted_and_finite():
    net, X = linear_network([6, 12, 12, 3], skip=6.0), data(40, 6)
    found = gn.bounds.all(net, X)
    assert found[0].name == "linear.joint"
    assert {"linear.convex", "linear.matrix", "linear.loose", "linear.layers", "residual.apriori"} <= {
        b.name for b in found
    }
    assert all(bound.applies for bound in found)
    assert np.all(np.diff([bound.value for bound in found]) >= 0)


def test_all_of_other_networks_and_losses():
    net, X = with_activation(linear_network([6, 30, 3]), gn.Activation("relu")), data(8, 6)
    assert {bound.name for bound in gn.bounds.all(net, X)} == {"relu.paper", "deep.schur"}
    assert [bound.name for bound in gn.bounds.all(net, X, "cross_entropy")] == ["deep.schur"]
    with pytest.warns(gn.bounds.NoBoundWarning, match=r"deep.schur \(no layer has"):
        assert gn.bounds.all(net, data(100, 6)) == []


def test_all_leaves_out_single_layer_forms_beyond_their_width(monkeypatch):
    monkeypatch.setattr(gn.bounds, "SINGLE_LAYER_WIDTH", 11)
    names = {bound.name for bound in gn.bounds.all(linear_network([6, 12, 12, 3], skip=6.0), data(40, 6))}
    assert "linear.convex" in names
    assert not names & {"linear.layers", "residual.apriori"}


def test_a_bound_reads_well():
    net, X = linear_network([6, 9, 3]), data(40, 6)
    bound = gn.bounds.linear(net, X)
    assert str(bound) == f"linear.joint: kappa(G) <= {bound.value:.6g}"
    assert repr(bound) == f"<Bound {bound}>"
    assert "\n" not in repr(bound)
    assert bound.statement.startswith("kappa(G) <= ")
    silent = gn.bounds.residual(net, X)
    assert str(silent) == "residual.joint: no bound, because no layer has a skip; use bounds.linear"
    assert hash(bound) == hash(gn.bounds.linear(net, X))
    assert bound == gn.bounds.linear(net, X)


# ------------------------------------------------------------------------------------------------ dtypes, bad input
def test_float32_networks_are_bounded_in_float64():
    """kappa(G) near 1e8 is out of float32's reach and must be bounded all the same."""
    X = (np.linalg.qr(data(30, 6))[0] * np.logspace(0, -4, 6)).astype(np.float32)
    net = linear_network([6, 12, 12, 3])
    net = gn.Network([gn.Dense(layer.weight.astype(np.float32)) for layer in net.dense])
    bound = gn.bounds.linear(net, X)
    assert 1e7 < bound.value < 1e9
    assert_bounds(bound, net, X)
    relu = with_activation(net, gn.Activation("relu"))
    X = X[:5]
    for bound in (
        gn.bounds.deep(relu, X),
        gn.bounds.relu(with_activation(gn.Network(relu.dense[:2]), gn.Activation("relu")), X),
    ):
        assert bound.applies
    assert_bounds(gn.bounds.deep(relu, X), relu, X)


@pytest.mark.parametrize(
    "function", [gn.bounds.linear, gn.bounds.residual, gn.bounds.relu, gn.bounds.deep, gn.bounds.all]
)
def test_bad_input(function):
    net = linear_network([6, 9, 3])
    with pytest.raises(ValueError, match="X has 5 columns but the network takes 6 features"):
        function(net, data(10, 5))
    with pytest.raises(TypeError, match="float32"):
        function(net, data(10, 6).astype(np.float32))
    with pytest.raises(ValueError, match="NaN"):
        function(net, np.full((3, 6), np.nan))


def test_unknown_names():
    net, X = linear_network([6, 9, 3]), data(10, 6)
    with pytest.raises(ValueError, match=r"form is 'convexe'.*'convex'"):
        gn.bounds.linear(net, X, "convexe")
    with pytest.raises(ValueError, match="'apriori'"):
        gn.bounds.residual(net, X, "a priori")
    with pytest.raises(ValueError, match="loss is 'hinge'"):
        gn.bounds.all(net, X, "hinge")


# -------------------------------------------------------------------------------------------------------- hypothesis
sizes = st.integers(1, 7)


@given(
    widths=st.lists(sizes, min_size=2, max_size=6),
    n=st.integers(1, 9),
    skip=st.sampled_from([0.0, 0.0, 1.0, -2.5]),
    biases=st.lists(st.booleans(), min_size=5, max_size=5),
    zeros=st.integers(0, 3),
    twins=st.booleans(),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=150, deadline=None)
def test_linear_bounds_on_awkward_shapes(widths, n, skip, biases, zeros, twins, seed):
    net = linear_network(widths, seed, skip, bias=True)
    net = gn.Network(
        [
            gn.Dense(layer.weight, layer.bias if keep else None, skip)
            for layer, keep in zip(net.dense, biases, strict=False)
        ]
    )
    X = data(n, widths[0], seed)
    X[:, : min(zeros, widths[0] - 1)] = 0
    if twins:
        X = np.vstack([X, X[:1]])
    for form in FORMS:
        assert_bounds(gn.bounds.linear(net, X, form), net, X)
    joint, matrix, convex = (gn.bounds.linear(net, X, form).value for form in FORMS[:3])
    assert joint <= matrix * (1 + 1e-9)
    assert matrix <= convex * (1 + 1e-9)
    # Term by term, each form contains the next tighter one.
    layers, partial = (gn.bounds.linear(net, X, form).parts for form in ("layers", "convex"))
    assert_contains(layers, partial)
    if skip:
        apriori = gn.bounds.residual(net, X, "apriori")
        assert_bounds(apriori, net, X)
        if "u" in apriori.parts:
            assert_contains(apriori.parts, layers)


def assert_contains(outer, inner):
    rounding = 1e-11 * outer["u"]
    assert np.all(outer["u"] >= inner["u"] - rounding)
    assert np.all(outer["v"] <= inner["v"] + rounding)
