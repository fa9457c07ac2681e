"""Infinite width: moments against quadrature in polar coordinates, kernels against wide networks with drawn weights."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import oracles
import pytest
from scipy.special import erf, expit

import gnfast as gn
from gnfast.limits.covariance import Covariance, of_rows
from gnfast.limits.moments import NAMES, Pointwise

SLOPE = 0.3
PHI = {
    "identity": lambda z: z,
    "relu": lambda z: np.maximum(z, 0),
    "leaky_relu": lambda z: np.where(z > 0, z, SLOPE * z),
    "elu": lambda z: np.where(z > 0, z, np.expm1(np.minimum(z, 0))),
    "gelu": lambda z: z * (1 + erf(z / np.sqrt(2))) / 2,
    "gelu_tanh": lambda z: z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3))) / 2,
    "silu": lambda z: z * expit(z),
    "softplus": lambda z: np.logaddexp(0, z),
    "tanh": np.tanh,
    "sigmoid": expit,
    "erf": erf,
}


def slope_for(activation):
    """What is given as the slope: only one activation has any."""
    return SLOPE if activation == "leaky_relu" else 0.01


def polar(f, a, b, t):
    """E f(u) f(v), u and v of standard deviations a and b at angle t: kinks at 0 are rays, where the panels end."""
    r, wr = np.polynomial.legendre.leggauss(200)
    r, wr = 5 * (r + 1), 5 * wr
    g, wg = np.polynomial.legendre.leggauss(40)
    ends = np.unique(np.mod([np.pi / 2, 3 * np.pi / 2, t + np.pi / 2, t - np.pi / 2], 2 * np.pi))
    ends = [*ends, ends[0] + 2 * np.pi]
    total = 0.0
    for low, high in itertools.pairwise(ends):
        theta = low + (high - low) * (g + 1) / 2
        values = f(a * np.outer(r, np.cos(theta))) * f(b * np.outer(r, np.cos(theta - t)))
        total += (wr * r * np.exp(-(r**2) / 2)) @ values @ wg * (high - low) / 2
    return total / (2 * np.pi)


@pytest.mark.parametrize("name", NAMES)
def test_moments(name):
    phi = Pointwise(name, slope_for(name))
    t = np.array([[0.0, 0.02, 1.3], [0.02, 0.0, 3.1], [1.3, 3.1, 0.0]])
    z = Covariance(np.array([0.3, 1.1, 2.4]), t)
    found = phi.moments(z)
    # What jumps in a derivative converges slowly in Hermite polynomials, and says so.
    assert found.error < (1e-4 if name == "elu" else 1e-12)
    tolerance = 1e-8 if name == "elu" else 1e-11
    for i, j in itertools.product(range(3), repeat=2):
        a, b = z.scale[[i, j]]
        pair = np.sqrt(polar(PHI[name], a, a, 0) * polar(PHI[name], b, b, 0))
        assert found.values.matrix[i, j] == pytest.approx(polar(PHI[name], a, b, t[i, j]), abs=tolerance * pair)
        slopes = polar(lambda u: phi(u)[1], a, b, t[i, j])
        assert found.slopes[i, j] == pytest.approx(slopes, abs=1e-5 if name == "elu" else 1e-11)


@pytest.mark.parametrize("name", NAMES)
def test_pointwise(name):
    z = np.array([[-3.0, -0.2], [0.4, 7.0]])
    values, slopes = Pointwise(name, slope_for(name))(z)
    np.testing.assert_allclose(values, PHI[name](z), rtol=1e-14)
    step = 1e-5
    np.testing.assert_allclose(slopes, (PHI[name](z + step) - PHI[name](z - step)) / (2 * step), atol=1e-9)


# ---------------------------------------------------------------------------------- kernels against wide networks
AWKWARD = np.random.default_rng(3).standard_normal((5, 7))
AWKWARD[3] = AWKWARD[1]  # a duplicate
AWKWARD[4] = -AWKWARD[0]  # antipodal


@functools.cache
def drawn_parts(m, depth, activation, skip, c, seed):
    """For each layer <a_{l-1}, a_{l-1}'> and <b_l, b_l'> of one network, from explicit factors."""
    X = AWKWARD
    net = gn.mlp(
        [X.shape[1], *[m] * (depth - 1), 1], activation, slope_for(activation), skip, seed=seed, init=gaussian(c)
    )
    return oracles.gram_factors(net, X)


def gaussian(c):
    return lambda shape, seed: np.random.default_rng(seed).standard_normal(shape) * np.sqrt(c / shape[1])


def drawn_kernel(parts, m, d, c, parameterization):
    """The Gram matrix in the scale of the parameterization, from the factors of its definition."""
    depth = len(parts)
    if parameterization == "standard":
        return sum(A * B for A, B in parts) / m
    if parameterization == "ntk":
        return sum(c / (m if layer else d) * A * B for layer, (A, B) in enumerate(parts))
    rates = [m, *[1] * (depth - 2), 1 / m]
    # the last layer's weights are smaller by sqrt(m), so that all B before it are by m
    return sum(
        rate * A * B / (m if layer < depth - 1 else 1)
        for layer, (rate, (A, B)) in enumerate(zip(rates, parts, strict=True))
    )


@pytest.mark.parametrize("parameterization", ["standard", "ntk", "mup"])
@pytest.mark.parametrize(
    ("activation", "depth", "skip"),
    [
        ("relu", 2, 0.0),
        ("leaky_relu", 3, 0.0),
        ("gelu", 3, 0.0),
        ("tanh", 4, 0.0),
        ("identity", 4, (0.4, 0.8, 0.5, 0.0)),
        ("leaky_relu", 4, (0.4, 0.8, 0.5, 0.0)),
        ("tanh", 4, (0.0, 0.9, 0.7, 0.0)),
    ],
)
def test_wide_networks_tend_to_the_limit_at_the_rate_of_the_root(activation, depth, skip, parameterization):
    c, draws = 1.3, 40
    found = gn.limits.gram(
        AWKWARD,
        depth,
        activation,
        parameterization,
        slope=slope_for(activation),
        skip=skip,
        variances=c,
        neurons=200_000,
    )
    size = np.linalg.norm(found.kernel)
    errors, widths = [], [40, 400]
    for m in widths:
        kernels = np.array(
            [
                drawn_kernel(drawn_parts(m, depth, activation, skip, c, seed), m, 7, c, parameterization)
                for seed in range(draws)
            ]
        )
        distances = np.linalg.norm(kernels - found.kernel, axis=(1, 2)) / size
        errors.append(np.median(distances))  # tails are heavy at small widths
        bias = np.linalg.norm(kernels.mean(axis=0) - found.kernel) / size
        # the mean's own error, and what is of order 1 / m
        assert bias < 4 * errors[-1] / np.sqrt(draws) + 12 / m
    rate = np.log(errors[1] / errors[0]) / np.log(10)
    assert abs(rate + 0.5) < 0.15  # medians of 40 draws, and what is of order 1 / m at 40 units


@pytest.mark.parametrize(
    ("activation", "skip"),
    [("relu", 0.0), ("silu", 0.0), ("identity", [0.4, 0.8, 0.6]), ("tanh", [0.3, 0.9, 0.0])],
)
def test_nngp_is_the_covariance_of_the_outputs(activation, skip):
    c, m, k, draws = 1.3, 4_000, 40, 25
    found = gn.limits.gram(AWKWARD, 3, activation, skip=skip, variances=c, neurons=200_000).nngp
    law = gn.ensemble.NetworkLaw(
        [m, m], activation=activation, X=AWKWARD, k=k, skip=skip, variances=[c / 7, c / m, c / m]
    )
    outputs = np.hstack([law.draw(2, sample).outputs for sample in range(draws)])
    pairs = np.outer(np.diag(found), np.diag(found)) + found**2
    assert (np.abs(outputs @ outputs.T / (k * draws) - found) < 5 * np.sqrt(pairs / (k * draws))).all()


@pytest.mark.parametrize("parameterization", ["standard", "ntk", "mup"])
def test_nngp_in_closed_form(parameterization):
    c, S = [1.5, 0.7, 1.1], 1.5 * AWKWARD @ AWKWARD.T / 7

    def arc_cosine(S):
        q = np.sqrt(np.outer(np.diag(S), np.diag(S)))
        t = np.arccos(np.clip(S / q, -1, 1))
        return q * (np.sin(t) + (np.pi - t) * np.cos(t)) / (2 * np.pi)

    def arc_sine(S):
        r = np.sqrt(np.outer(1 + 2 * np.diag(S), 1 + 2 * np.diag(S)))
        return 2 / np.pi * np.arcsin(2 * S / r)

    for name, moment in (("relu", arc_cosine), ("erf", arc_sine), ("identity", lambda S: S)):
        found = gn.limits.gram(AWKWARD, 3, name, parameterization, variances=c, bias=True)
        np.testing.assert_allclose(found.nngp, 1.1 * moment(0.7 * moment(S)), atol=1e-7)
        assert found.nngp.max() > 0.1


def test_pytorchs_variance():
    for name in ("silu", "relu"):
        found, same = (gn.limits.gram(AWKWARD, 3, name, variances=c) for c in ("pytorch", 1 / 3))
        np.testing.assert_array_equal(found.kernel, same.kernel)


def test_the_error_of_drawn_neurons_is_that_of_the_whole_kernel():
    options = dict(depth=4, activation="tanh", skip=[0.0, 0.9, 0.7, 0.0], variances=2.0, neurons=4_000)
    for parameterization in ("standard", "ntk"):
        found = [gn.limits.gram(AWKWARD, parameterization=parameterization, seed=seed, **options) for seed in range(24)]
        kernels = np.stack([limit.kernel for limit in found])
        mean = kernels.mean(axis=0)
        spread = np.sqrt(((kernels - mean) ** 2).sum() / 23) / np.linalg.norm(mean)
        told = np.sqrt(np.mean([limit.error**2 for limit in found]))
        assert told == pytest.approx(spread, rel=0.35)  # standard deviations of either: 15 % and 4 %


def test_biases_add_their_part():
    c = 1.3
    drawn = [sum(B for _, B in drawn_parts(2000, 3, "relu", 0.0, c, seed)) for seed in range(12)]
    for parameterization in ("ntk", "mup"):
        biased, plain = (
            gn.limits.gram(AWKWARD, 3, "relu", parameterization, variances=c, bias=bias).kernel
            for bias in (True, False)
        )
        np.testing.assert_allclose(biased - plain, np.mean(drawn, axis=0), rtol=0.05, atol=0.05)
    standard = [gn.limits.gram(AWKWARD, 3, bias=bias).kernel for bias in (True, False)]
    np.testing.assert_array_equal(*standard)


@pytest.mark.parametrize("parameterization", ["standard", "ntk", "mup"])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "gelu", "tanh", "identity"])
def test_variance_of_one_hidden_layer(activation, parameterization):
    """Of single neurons, of which a wide layer is the mean; standard errors of variances, fourth moments included."""
    c, neurons, d = 1.3, 200_000, 7
    found = gn.limits.variance(AWKWARD, activation, parameterization, slope=slope_for(activation), variances=c)
    rng = np.random.default_rng(1)
    phi = Pointwise(activation, slope_for(activation))
    values, slopes = phi(rng.standard_normal((neurons, d)) @ AWKWARD.T * np.sqrt(c / d))
    own = {"standard": (0, 1), "ntk": (c / d, c), "mup": (1, 1)}[parameterization]
    slopes *= np.sqrt(own[0] * c) * rng.standard_normal((neurons, 1))
    each = own[1] * values[:, :, None] * values[:, None, :]
    each += slopes[:, :, None] * slopes[:, None, :] * (AWKWARD @ AWKWARD.T)
    squares = (each - each.mean(axis=0)) ** 2
    assert (np.abs(found - squares.mean(axis=0)) < 5 * squares.std(axis=0) / np.sqrt(neurons) + 1e-12).all()
    np.testing.assert_array_equal(found, found.T)


def test_mean_of_one_hidden_layer_is_known_at_any_width():
    c, m, draws = 1.3, 3, 4000
    options = dict(X=AWKWARD, k=1, variances=[c / 7, c / m], reduction="sum")
    law = gn.ensemble.NetworkLaw(m, depth=2, activation="tanh", **options)
    limit, ntk = (gn.limits.gram(AWKWARD, 2, "tanh", name, variances=c).kernel for name in ("standard", "ntk"))
    first = c * AWKWARD @ AWKWARD.T * Pointwise("tanh", 0.01).moments(of_rows(AWKWARD).times(c / 7)).slopes
    drawn = np.array([law.draw(8, sample).gram for sample in range(draws)]) / m
    assert (np.abs(drawn.mean(axis=0) - limit - first / m) < 5 * drawn.std(axis=0) / np.sqrt(draws)).all()
    # in "ntk" both layers' parts are c / fan_in times these, at any m
    np.testing.assert_allclose(ntk, c * limit + c / 7 * first, atol=1e-12)


def test_shares_and_kappa():
    found = gn.limits.gram(AWKWARD, 3, "relu")
    assert found.shares[0] == 0 and found.shares.sum() == pytest.approx(1)
    assert found.rank == 4 and found.lambda_min > 1e3 * found.cut  # one duplicate
    values = np.linalg.eigvalsh(found.kernel)[1:] / 5
    assert found.kappa == pytest.approx(values[-1] / values[0], rel=1e-9)
    assert "rank 4 of 5" in repr(found)


def test_linear_networks_tend_to_the_data():
    rng = np.random.default_rng(0)
    for n, d in ((40, 6), (5, 9)):
        X = rng.standard_normal((n, d)) * np.logspace(0, -6, d)
        s = np.linalg.svd(X, compute_uv=False)
        for parameterization in ("standard", "ntk", "mup"):
            found = gn.limits.gram(X, 3, "identity", parameterization, skip=[0.3, 0.7, 0.0])
            assert found.rank == min(n, d)
            assert found.kappa == pytest.approx((s[0] / s[-1]) ** 2, rel=1e-12)
        shifted = np.hstack([X, np.ones((n, 1))])
        biased = gn.limits.gram(X, 2, "identity", "ntk", bias=True, variances=d)
        assert biased.rank == np.linalg.matrix_rank(shifted)
        np.testing.assert_allclose(biased.kernel, 2 * d * X @ X.T + d + 1, rtol=1e-12)


def test_nearly_parallel_samples_keep_their_angle():
    """lambda_min of two samples at angle t is known to all digits; from a cosine in float64 none are left at 1e-9."""
    for t in (1e-3, 1e-6, 1e-9, 1e-12):
        X = np.array([[1.0, 0.0], [np.cos(t), np.sin(t)]])
        found = gn.limits.gram(X, 2, "relu", "ntk", variances=2.0)
        # both layers' kernels are 1 on the diagonal; here is what they lack beside it
        bent = 2 * np.sin(t / 2) ** 2 - (np.sin(t) - t * np.cos(t)) / np.pi
        first = 2 * np.sin(t / 2) ** 2 + np.cos(t) * t / np.pi
        expected = (first + bent) / 2
        assert found.lambda_min == pytest.approx(expected, rel=1e-5 + 1e-15 / t)
        assert found.rank == 2


def test_angles():
    X = np.array([[3.0, 0.0], [6.0, 0.0], [-1.0, 1e-9], [0.0, 0.0], [1.0, 1e-10]])
    found = of_rows(X)
    np.testing.assert_array_equal(found.angle, found.angle.T)
    np.testing.assert_array_equal(np.diag(found.angle), 0)
    assert found.angle[0, 1] == 0 and found.angle[0, 4] == pytest.approx(1e-10, rel=1e-12)
    assert np.pi - found.angle[0, 2] == pytest.approx(1e-9, rel=1e-6)
    np.testing.assert_allclose(found.matrix, X @ X.T, atol=1e-15)


def test_rows_of_zeros():
    """Where pre-activations are zero the derivative is the left side's, as in networks."""
    X = np.vstack([AWKWARD[:2], np.zeros((2, 7))])
    for activation in ("leaky_relu", "relu", "gelu", "silu", "tanh"):
        slopes = Pointwise(activation, slope_for(activation)).moments(of_rows(X)).slopes
        z = np.random.default_rng(0).standard_normal((100_000, 7)) @ X.T
        drawn = Pointwise(activation, slope_for(activation))(z)[1]
        np.testing.assert_allclose(slopes, drawn.T @ drawn / len(z), atol=1e-2)
        found = gn.limits.gram(X, 3, activation, slope=slope_for(activation), variances="lecun")
        assert found.rank == (3 if activation == "softplus" else 2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"depth": 1}, "depth is 1 but must be at least 2"),
        ({"activation": "rellu"}, "did you mean 'relu'"),
        ({"parameterization": "mu"}, "'mup'"),
        ({"X": np.zeros((3, 2))}, "X is zero everywhere"),
        ({"skip": 0.5}, "0 for the last"),
        ({"skip": 0.5, "activation": "identity", "parameterization": "mup"}, "0 for the last"),
        ({"activation": "silu"}, "no gain for silu"),
        ({"variances": "xavier"}, "'lecun'"),
        ({"variances": [1.0, -2.0, 1.0]}, "variances[1] is -2 but must be positive"),
        ({"skip": [0.1, 0.2]}, "skip has 2 entries but needs 3"),
        ({"X": np.ones((3, 2), int)}, "convert it with X.astype"),
    ],
)
def test_mistakes(arguments, words):
    with pytest.raises((TypeError, ValueError)) as error:
        gn.limits.gram(**{"X": AWKWARD, "depth": 3} | arguments)
    assert words in str(error.value)


# -------------------------------------------------------------------------------------------------------- range
@pytest.mark.parametrize("activation", ["relu", "identity", "leaky_relu"])
@pytest.mark.parametrize("parameterization", ["standard", "ntk", "mup"])
@pytest.mark.parametrize("bias", [False, True])
def test_homogeneous_networks_at_any_scale(activation, parameterization, bias):
    X = np.random.default_rng(0).standard_normal((4, 3))
    one = gn.limits.gram(X, 3, activation, parameterization, variances="lecun")
    for decade in (-300, -200, -160, -120, 120, 150, 200, 300):
        found = gn.limits.gram(X * 10.0**decade, 3, activation, parameterization, bias=bias, variances="lecun")
        if bias and decade < 0 and parameterization != "standard":  # the biases' part alone is left
            near = gn.limits.gram(X * 1e-30, 3, activation, parameterization, bias=True, variances="lecun")
            np.testing.assert_allclose(found.kernel, near.kernel, rtol=1e-12)
            assert found.exponent == 0 and found.rank == near.rank
            continue
        assert found.kappa == pytest.approx(one.kappa, rel=1e-9) and found.rank == one.rank
        np.testing.assert_allclose(found.shares, one.shares, rtol=1e-9, atol=1e-15)
        power = 2 * decade - 2 * found.exponent * np.log10(2)  # of the kernel as it is given
        np.testing.assert_allclose(found.kernel / 10.0**power, one.kernel, rtol=1e-9)
        assert (f"X / 2^{found.exponent}" in repr(found)) == bool(found.exponent)


@pytest.mark.parametrize("activation", ["tanh", "gelu", "erf", "elu", "silu", "gelu_tanh", "softplus", "sigmoid"])
def test_other_networks_at_any_scale_are_right_or_refused(activation):
    X = np.random.default_rng(0).standard_normal((3, 2))
    for decade in range(-300, 301, 50):
        try:
            found = gn.limits.gram(X * 10.0**decade, 3, activation, "ntk", variances="lecun")
        except ValueError as error:
            assert "range of float64" in str(error) or "are not resolved" in str(error)
            assert abs(decade) >= 50
        else:
            assert np.isfinite(found.kernel).all() and found.rank >= 1
            assert (found.error > 1e-9) == ("known to" in repr(found))


def test_variances_beyond_the_range_are_refused():
    X = np.random.default_rng(0).standard_normal((3, 2))
    for variance in (1e200, 1e-200, 1e300):
        with pytest.raises(ValueError, match="beyond the range of float64"):
            gn.limits.gram(X, 4, "relu", variances=variance)


def test_an_error_of_the_moments_is_shown():
    """Of tanh at large scales derivatives are spikes, which neither the expansions nor their nodes resolve."""
    X = np.random.default_rng(0).standard_normal((3, 2))
    x, t = np.linspace(-12, 12, 400_001), 0
    density = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi) * (x[1] - x[0])
    for scale in (0.3, 3.0, 30.0, 300.0, 3000.0):
        found = gn.limits.gram(X * scale, 2, "tanh", "ntk", variances=1.0)
        sigma = np.linalg.norm(X * scale, axis=1) / np.sqrt(2)
        squares = [np.sum(np.cosh(np.clip(s * x, -300, 300)) ** -4 * density) for s in sigma]
        values = [np.sum(np.tanh(s * x) ** 2 * density) for s in sigma]
        exact = sigma**2 * squares + values
        off = np.abs(found.kernel.diagonal() - exact).max() / exact.max()
        assert off <= found.error + 1e-6, scale
        t += "known to" in repr(found)
    assert t >= 2
