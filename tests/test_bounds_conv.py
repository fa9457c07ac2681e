"""Bounds of linear convolutional networks against explicit Jacobians."""

from __future__ import annotations

import math

import layer_oracles
import numpy as np
import oracles
import pytest
from bounding import EPS
from convolving import CASES, REFUSED, circular, images, layers_of, random_network

import gnfast as gn
from gnfast.bounds.conv import FORMS, conv_forms

GENERAL = ("joint", "jacobian", "convex")


def assert_bounds(bounds, net, X):
    """Values and ends of the spectrum; nothing to compare where G is zero within rounding."""
    values = oracles.nonzero(layer_oracles.gauss_newton(net.layers, X), 1e-11)
    kappa = values[-1] / values[0]
    slack = 1e-8 + 1e3 * EPS * kappa
    for bound in bounds:
        assert bound.value >= kappa * (1 - slack), (bound, kappa)
        if bound.applies:
            assert bound.parts["lambda_max_upper"] >= values[-1] * (1 - 1e-9), bound
            assert bound.parts["lambda_min_lower"] <= values[0] * (1 + slack), bound
        else:
            assert bound.reason


@pytest.mark.parametrize("name", CASES)
def test_bounds_lie_above_the_spectrum(name):
    net, X = layers_of(name), images(name)
    bounds = dict(zip(FORMS, conv_forms(net, X, FORMS), strict=True))
    assert_bounds(bounds.values(), net, X)
    if bounds["convex"].applies:
        assert bounds["jacobian"].value <= bounds["convex"].value * (1 + 1e-9)


def test_what_applies_to_wide_layers_does():
    """Enough filters give every U_l full row rank."""
    rng = np.random.default_rng(0)
    net = gn.Network(
        [gn.Conv1d(rng.standard_normal((18, 2, 3))), gn.Conv1d(rng.standard_normal((3, 18, 4))), gn.Flatten()]
    )
    X = rng.standard_normal((9, 2, 13))
    assert all(gn.bounds.conv(net, X, form).applies for form in GENERAL)


def test_jacobian_value_is_the_formula():
    """kappa(Sigma) kappa(U U^T) with U by differences of kernels composed by np.convolve, and patches by a loop."""
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((7, 1, 3)), rng.standard_normal((1, 7, 4))
    X = rng.standard_normal((11, 1, 12))
    first = [sum_of(np.convolve(unit(3, t), b[0, i]) for _ in (0,)) for i in range(7) for t in range(3)]
    second = [np.convolve(a[i, 0], unit(4, t)) for i in range(7) for t in range(4)]
    U1, U2 = np.array(first).T, np.array(second).T
    patches = np.array([x[0, t : t + 6] for x in X for t in range(7)])
    sigma, ghat = patches.T @ patches / 11, U1 @ U1.T + U2 @ U2.T
    net = gn.Network([gn.Conv1d(a), gn.Conv1d(b), gn.Flatten()])
    found = gn.bounds.conv(net, X)
    assert found.value == pytest.approx(oracles.kappa(sigma) * oracles.kappa(ghat), rel=1e-9)
    ends = [np.linalg.svd(U, compute_uv=False) ** 2 for U in (U1, U2)]
    np.testing.assert_allclose(found.parts["jacobian_max"], [s[0] for s in ends], rtol=1e-9)
    np.testing.assert_allclose(found.parts["jacobian_min"], [s[-1] for s in ends], rtol=1e-8)
    convex = sum(s[0] for s in ends) / sum(s[-1] for s in ends)
    assert gn.bounds.conv(net, X, "convex").value == pytest.approx(oracles.kappa(sigma) * convex, rel=1e-8)


def unit(size, at):
    return np.eye(size)[at]


def sum_of(arrays):
    return np.sum(list(arrays), axis=0)


def test_one_hidden_layer_of_single_taps_is_an_equality():
    """Convolutions of single taps are dense layers at every pixel: kappa(U U^T) is the convex combination itself."""
    rng = np.random.default_rng(2)
    V, W = rng.standard_normal((9, 3, 1, 1)), rng.standard_normal((2, 9, 1, 1))
    X = rng.standard_normal((8, 3, 4, 5))
    net = gn.Network([gn.Conv2d(V), gn.Conv2d(W), gn.Flatten()])
    v, w = (np.linalg.svd(K[:, :, 0, 0], compute_uv=False) ** 2 for K in (V, W))
    expected = (w[0] + v[0]) / (w[-1] + v[-1])
    for form in ("jacobian", "convex"):
        assert gn.bounds.conv(net, X, form).parts["kappa_ghat"] == pytest.approx(expected, rel=1e-9)
    joint = gn.bounds.conv(net, X, "joint")
    pixels = X.transpose(0, 2, 3, 1).reshape(-1, 3)
    dense = gn.Network([gn.Dense(V[:, :, 0, 0]), gn.Dense(W[:, :, 0, 0])])
    kappa = oracles.kappa(oracles.gauss_newton(dense, pixels))
    assert joint.value >= kappa * (1 - 1e-9)


# ------------------------------------------------------------------------------------------------------------ Fourier
@pytest.mark.parametrize(
    ("c_in", "filters", "c_out", "size"), [(1, 4, 2, (1, 5)), (2, 5, 2, (3, 5)), (3, 4, 1, (3, 3))]
)
def test_kernels_as_large_as_the_image_make_the_fourier_form_exact(c_in, filters, c_out, size):
    rng = np.random.default_rng(3)
    net = gn.Network(
        [
            circular(rng.standard_normal((filters, c_in, *size))),
            circular(rng.standard_normal((c_out, filters, *size))),
            gn.Flatten(),
        ]
    )
    X = rng.standard_normal((6, c_in, *size))
    kappa = oracles.kappa(layer_oracles.gauss_newton(net.layers, X))
    bound = gn.bounds.conv(net, X, "fourier")
    assert bound.value == pytest.approx(kappa, rel=1e-8)
    assert bound.parts["large"].all()


def test_fourier_form_with_one_small_kernel_is_a_bound():
    rng = np.random.default_rng(4)
    small, large = rng.standard_normal((5, 2, 1, 3)), rng.standard_normal((2, 5, 3, 5))
    net = gn.Network([circular(small), circular(large), gn.Flatten()])
    X = rng.standard_normal((7, 2, 3, 5))
    bound = gn.bounds.conv(net, X, "fourier")
    assert bound.applies
    assert list(bound.parts["large"]) == [False, True]
    assert_bounds([bound], net, X)


# ---------------------------------------------------------------------------------------------------------- Sylvester
def test_sylvester_form_sees_a_common_root():
    """Two filters whose polynomials move towards a common root: kappa like the inverse square of the distance."""
    X = np.random.default_rng(5).standard_normal((20, 1, 11))
    values, distances = [], []
    for gap in (1e-1, 1e-2, 1e-3):
        a, b = np.poly([0.5, -1.2]), np.poly([0.5 + gap, 2.0, -0.3])
        net = gn.Network([gn.Conv1d(a.reshape(1, 1, -1)), gn.Conv1d(b.reshape(1, 1, -1)), gn.Flatten()])
        bound = gn.bounds.conv(net, X, "sylvester")
        assert bound.value == pytest.approx(gn.bounds.conv(net, X, "jacobian").value, rel=1e-12)
        assert_bounds([bound], net, X)
        values.append(bound.value)
        distances.append(bound.parts["distance"])
        # The extended Sylvester matrix: multiples of each polynomial by powers up to the degree of the other.
        S = np.array(
            [np.convolve(np.eye(4)[i], a) for i in range(4)] + [np.convolve(np.eye(3)[i], b) for i in range(3)]
        )
        assert bound.parts["kappa_ghat"] == pytest.approx(np.linalg.cond(S) ** 2, rel=1e-6)
    np.testing.assert_allclose(
        distances, [2 * g / math.hypot(1, 0.5) / math.hypot(1, 0.5 + g) for g in (1e-1, 1e-2, 1e-3)]
    )
    assert values[1] / values[0] > 30
    assert values[2] / values[1] == pytest.approx(100, rel=0.2)
    common = gn.Network(
        [gn.Conv1d(a.reshape(1, 1, -1)), gn.Conv1d(np.poly([0.5, 2.0]).reshape(1, 1, -1)), gn.Flatten()]
    )
    assert "not resolved" in gn.bounds.conv(common, X, "sylvester").reason


def test_a_vanishing_leading_tap_is_a_root_at_infinity():
    X = np.random.default_rng(6).standard_normal((20, 1, 9))
    kernels = [np.array([0.0, 1.0, 2.0]), np.array([0.0, 3.0, -1.0])]
    net = gn.Network([*(gn.Conv1d(k.reshape(1, 1, -1)) for k in kernels), gn.Flatten()])
    bound = gn.bounds.conv(net, X, "sylvester")
    assert not bound.applies
    assert bound.parts["distance"] == 0


# ------------------------------------------------------------------------------------------------------- all, reasons
def test_all_has_them_sorted():
    net, X = layers_of("2d"), images("2d")
    found = gn.bounds.all(net, X)
    assert [bound.value for bound in found] == sorted(bound.value for bound in found)
    assert {bound.name for bound in found} <= {f"conv.{form}" for form in FORMS}
    assert found
    assert_bounds(found, net, X)
    with pytest.warns(gn.bounds.NoBoundWarning, match=r"conv \(it is for loss 'mse', not 'cross_entropy'\)"):
        assert gn.bounds.all(net, X, "cross_entropy") == []


@pytest.mark.parametrize("name", REFUSED)
def test_reasons(name):
    layers, shape, reason = REFUSED[name]
    net = gn.Network([*layers, gn.Flatten()])
    X = np.random.default_rng(0).standard_normal((3, *shape))
    for bound in conv_forms(net, X, FORMS):
        assert not bound.applies
        assert reason in bound.reason
    with pytest.raises(ValueError, match="form is 'convx'"):
        gn.bounds.conv(net, X, "convx")


def test_reasons_of_single_forms():
    rng = np.random.default_rng(0)
    narrow = gn.Network(
        [gn.Conv1d(rng.standard_normal((1, 2, 3))), gn.Conv1d(rng.standard_normal((2, 1, 3))), gn.Flatten()]
    )
    X = rng.standard_normal((5, 2, 11))
    assert "U has not full row rank" in gn.bounds.conv(narrow, X).reason
    assert "use the form 'jacobian'" in gn.bounds.conv(narrow, X, "convex").reason
    assert "one channel" in gn.bounds.conv(narrow, X, "sylvester").reason
    assert "circular" in gn.bounds.conv(narrow, X, "fourier").reason
    assert "X is zero" in gn.bounds.conv(narrow, np.zeros_like(X)).reason
    with pytest.raises(ValueError, match=r"layers\[1\], Conv1d, has a kernel that spans 3 but gets 2"):
        gn.bounds.conv(narrow, np.ascontiguousarray(X[:, :, :4]))


def test_five_hundred_random_networks():
    applied = 0
    for seed in range(500):
        net, X = random_network(seed)
        bounds = conv_forms(net, X, FORMS)
        assert_bounds(bounds, net, X)
        applied += any(bound.applies for bound in bounds)
    assert applied > 150
