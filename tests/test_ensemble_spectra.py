"""From samples of P_l and Q_l to condition numbers, bounds and tables."""

import ensembling
import numpy as np
import oracles
import pytest

import gnfast as gn
from gnfast.bounds.linear import GRAM_FORMS, gram_form
from gnfast.bounds.partial_products import PartialProducts, input_range, partial_products
from gnfast.ensemble import random_weights
from gnfast.ensemble.grams import BACKWARD, Grams, feedforward_grams, generator
from gnfast.ensemble.spectra import dual_of, ends


def data(n, d, seed=0, smallest=1.0):
    return np.random.default_rng(seed).standard_normal((n, d)) * np.geomspace(1.0, smallest, d)


def grams_of(net, inputs):
    """P_l and Q_l of a network with weights, as a sample."""
    c = partial_products(net, inputs)
    ones = np.ones(len(c.P))
    return Grams(c.P, c.Q, ones, ones)


# ------------------------------------------------------------------------------------------------- ends of the spectrum
@pytest.mark.parametrize(
    ("widths", "n", "skip"),
    [
        ([6, 9, 7, 3], 20, 0.0),
        ([6, 9, 7, 3], 4, 0.5),
        ([6, 2, 7, 3], 20, 0.0),
        ([50, 60, 17], 80, 0.0),
        ([50, 16, 17], 80, 0.0),
    ],
)
def test_ends_are_those_of_the_gauss_newton_matrix(widths, n, skip):
    net, X = gn.mlp(widths, activation="identity", skip=skip, dtype="float64"), data(n, widths[0], smallest=0.1)
    inputs = gn.ensemble.LinearLaw(widths[1:-1], Sigma=X.T @ X / n, k=widths[-1]).inputs
    found = ends(dual_of(grams_of(net, inputs), inputs.scale), 0)
    cond = gn.cond(gn.GaussNewton(net, X))
    assert found.kappa_minus_one + 1 == pytest.approx(cond.value, rel=1e-6)
    assert (found.largest, found.smallest) == pytest.approx((cond.lambda_max, cond.lambda_min), rel=1e-6)
    assert found.rank == cond.rank
    P, Q, S = oracles.linear_dual(net, X)
    assert found.trace == pytest.approx(sum(np.trace(p) * np.trace(S @ q @ S) for p, q in zip(P, Q, strict=True)))
    if found.values is not None:
        assert found.values.sum() == pytest.approx(found.trace)


@pytest.mark.parametrize("size", [(6, 4), (60, 15)])  # the whole spectrum, and products alone
@pytest.mark.parametrize("spread", [None, 1.2, 30.0])
def test_deviations_give_the_ends_of_the_whole_matrices(size, spread):
    r, k = size
    first, last = random_weights.Gaussian(10**5, r, 2.0), random_weights.Gaussian(k, 10**5, 0.3)
    sample = feedforward_grams([first, *[random_weights.Gaussian(10**5, 10**5, 3e-5)] * 2, last], r, 3, 1, 1.0)
    scale = None if spread is None else np.linspace(spread, 1.0, r)
    found = ends(dual_of(sample, scale), 0)
    P, Q = sample.matrices()
    S = np.eye(r) if scale is None else np.diag(scale)
    values = np.linalg.eigvalsh(sum(np.kron(p, S @ q @ S) for p, q in zip(P, Q, strict=True)))
    assert (found.largest, found.smallest) == pytest.approx((values[-1], values[0]), rel=1e-8)
    assert found.kappa_minus_one == pytest.approx(values[-1] / values[0] - 1, rel=1e-6)
    assert found.trace == pytest.approx(values.sum())
    assert found.rank == r * k


@pytest.mark.parametrize("width", [10**9, 10**15])
def test_kappa_minus_one_keeps_its_digits(monkeypatch, width):
    mp = pytest.importorskip("mpmath").mp
    mp.dps = 50
    drawn, k, r, depth = [], 2, 3, 4
    bartlett = random_weights.bartlett
    monkeypatch.setattr(random_weights, "bartlett", lambda *given: drawn.append(bartlett(*given)) or drawn[-1])
    law = gn.ensemble.LinearLaw(width, depth=depth, d=r, k=k)
    assert law.shift == 1.0
    found = ends(dual_of(law.draw(5, 2)), 0)

    def exact(a):
        return mp.matrix(a.tolist())

    T = [mp.eye(r) + exact(E) for E in drawn[: depth - 1]]
    N = [mp.eye(k) + exact(E.T) for E in drawn[depth - 1 :]]
    C, Q = mp.eye(r), [mp.eye(r)]
    for t in T:
        C = t * C
        Q.append(C.T * C)
    f = exact(generator(5, 2, depth - 1, BACKWARD).standard_normal((k, r)) / np.sqrt(width))
    P = [mp.eye(k), f * f.T + N[0] * N[0].T]
    for t, n in zip(T[:0:-1], N[1:], strict=True):
        values, U = mp.eigsy(P[-1])
        c = U * mp.diag([mp.sqrt(value) for value in values]) * U.T
        f = f * t
        P.append(f * f.T + c * n * n.T * c.T)
    weights = [width / mp.mpf(r)] * depth  # m v of every weight but the first is one, which only Q_1 has not got
    weights[0] = mp.mpf(1)
    total = mp.zeros(k * r)
    for w, p, q in zip(weights, P[::-1], Q, strict=True):
        for a in range(k):
            for b in range(k):
                for i in range(r):
                    for j in range(r):
                        total[a * r + i, b * r + j] += w * p[a, b] * q[i, j]
    values = sorted(mp.eigsy(total, eigvals_only=True))
    truth = values[-1] / values[0] - 1
    assert abs(found.kappa_minus_one / truth - 1) < 1e-13
    assert abs(float(found.largest) / values[-1] - 1) < 1e-14
    naive = found.largest / found.smallest - 1
    assert abs(naive / truth - 1) > 1e-13  # which the quotient of the ends would not


@pytest.mark.parametrize("width", [10**3, 10**9, 10**15])
def test_chi_variables_keep_their_deviations(width):
    mp = pytest.importorskip("mpmath").mp
    mp.dps = 50
    T = random_weights.bartlett(np.random.default_rng(3), width, 4, float(width), 1.0)
    rng = np.random.default_rng(3)
    rng.standard_normal(6)
    for entry, square in zip(np.diag(T), rng.chisquare(width - np.arange(4)[::-1]), strict=True):
        assert abs(entry / (mp.sqrt(mp.mpf(square) / width) - 1) - 1) < 1e-14


# --------------------------------------------------------------------------------------------------------- the function
def test_kappa_has_the_law_of_networks_with_weights_on_data():
    widths, n, k, count = [9, 11], 30, 2, 400
    X = data(n, 4, smallest=0.2)
    X[:, 3] = X[:, 0] - X[:, 1]  # Sigma of rank 3
    own = gn.ensemble.linear(widths, Sigma=X.T @ X / n, k=k, samples=count, bounds=("joint", "convex"))
    law = gn.ensemble.LinearLaw(widths, d=4, k=k)
    P, Q = ensembling.drawn_grams(3 * count, [4, *widths, k], law.variances, law.skips, "gaussian")
    values, vectors = np.linalg.eigh(X.T @ X / n)
    V, s = vectors[:, 1:], np.sqrt(values[1:])
    Q = V.T @ Q @ V
    whole, hat = (ensembling.statistics(P, R) for R in (s[:, None] * Q * s, Q))
    first = {name: whole[name] for name in ("lambda_min", "lambda_max", "kappa", "trace")}
    first |= {f"{name}_hat": hat[name] for name in first}
    assert ensembling.differences(first, own.quantities) == {}
    assert (own.rank == 6).all()
    assert (own.kappa <= own.bounds["linear.joint"] * (1 + 1e-9)).all()
    assert (own.bounds["linear.joint"] <= own.bounds["linear.convex"] * (1 + 1e-9)).all()
    assert own.spectrum.shape == (count, 6)
    np.testing.assert_allclose(own.spectrum[:, 0], own.lambda_min)


def test_bounds_are_those_of_a_network_with_the_same_grams():
    net, X = gn.mlp([5, 9, 8, 3], activation="identity", dtype="float64"), data(30, 5)
    inputs = input_range(X, ones=False)
    c = PartialProducts(*grams_of(net, inputs).matrices(), inputs, [9, 8])
    for form in GRAM_FORMS:
        expected = gn.bounds.linear(net, X, form)
        assert gram_form(c, form).value == pytest.approx(expected.value, rel=1e-12)
        assert gram_form(c, form).name == expected.name


def test_one_hidden_layer_has_equality_for_ghat():
    found = gn.ensemble.linear([8], d=4, k=3, samples=5)
    np.testing.assert_allclose(found.bounds["linear.equality"], found.kappa_hat, rtol=1e-9)


@pytest.mark.parametrize("more", [{}, {"skip": 0.5}, {"init": "orthogonal"}, {"init": "uniform"}])
def test_a_sample_depends_on_its_number_alone(more):
    widths = [9, 7] if more.get("init") == "uniform" else [10**6, 4, 10**9]
    draw = {"d": 3, "k": 2, "bounds": False, **more}
    few, many = (gn.ensemble.linear(widths, samples=count, seed=2**64 - 1, **draw) for count in (3, 9))
    threads = gn.get_num_threads()
    gn.set_num_threads(3)
    again = gn.ensemble.linear(widths, samples=3, seed=2**64 - 1, **draw)
    gn.set_num_threads(threads)
    for name, values in few.quantities.items():
        np.testing.assert_array_equal(values, many.quantities[name][:3])
        np.testing.assert_array_equal(values, again.quantities[name])
    assert not np.isin(gn.ensemble.linear(widths, samples=3, seed=0, **draw).trace, few.trace).any()


@pytest.mark.parametrize("init", ["gaussian", "orthogonal"])
@pytest.mark.parametrize("width", [7, 10**9])
@pytest.mark.parametrize("skip", [0.0, 0.6])
def test_mean_traces_have_their_closed_form(init, width, skip):
    # E (W + b J)^T (W + b J) = (m v + b^2) I on what J keeps, for any W whose distribution is that of -W.
    d, k, count = 3, 2, 300
    law = gn.ensemble.LinearLaw(
        width, depth=4, d=d, k=k, skip=skip, init=init, variances=[0.3, 2.0 / width, 0.5 / width, 0.4]
    )
    shapes = np.array(law.shapes)
    out = np.array(law.variances) * shapes[:, 0]
    Q = np.array([np.trace(law.draw(0, i).matrices()[1], axis1=1, axis2=2) for i in range(count)])
    expected = d * np.cumprod([1.0, *(out[:-1] + skip**2)])
    error = np.maximum(Q.std(0) / np.sqrt(count), 1e-12 * expected)
    assert (np.abs(Q.mean(0) - expected) < 4.5 * error).all()


@pytest.mark.parametrize(("init", "skip"), [("gaussian", 0.0), ("gaussian", 0.5)])
def test_kappa_approaches_one_like_the_root_of_the_width(init, skip):
    wide, wider = (
        np.median(
            gn.ensemble.linear(m, depth=3, d=4, k=2, init=init, skip=skip, samples=200, bounds=False).kappa_minus_one
        )
        for m in (10**6, 10**12)
    )
    assert wide / wider == pytest.approx(1000, rel=0.25)


def test_square_orthogonal_networks_are_perfectly_conditioned():
    found = gn.ensemble.linear(10**8, depth=5, d=4, k=3, init="orthogonal", samples=3)
    np.testing.assert_allclose(found.kappa_minus_one, 0.0, atol=1e-13)


def test_graded_second_moments_keep_their_small_directions():
    X = data(40, 6, smallest=1e-6)
    found = gn.ensemble.linear(10**15, depth=2, Sigma=X.T @ X / 40, k=1, samples=2, bounds=False)
    s = np.linalg.svd(X, compute_uv=False)
    # Q_2 weighs 10^15 / 6 times P_1 (x) Sigma, so that kappa(G) is kappa(Sigma) but for 1e-7
    np.testing.assert_allclose(found.kappa, (s[0] / s[-1]) ** 2, rtol=1e-3)
    assert (found.rank == 6).all()


@pytest.mark.parametrize("n", [40, 4000])
def test_a_moment_in_float32_has_the_rank_that_its_rounding_leaves(n):
    for seed in range(40):
        X = np.random.default_rng(seed).standard_normal((n, 4))
        X[:, 3] = X[:, 0] + X[:, 1] - X[:, 2]
        double, single = (
            gn.ensemble.linear(10**6, depth=2, Sigma=Y.T @ Y / n, k=1, samples=1, bounds=False)
            for Y in (X, X.astype("float32"))
        )
        assert (double.rank == 3).all() and (single.rank == 3).all()
        np.testing.assert_allclose(single.kappa, double.kappa, rtol=1e-4)


def test_uniform_weights_beyond_memory_are_told():
    with pytest.warns(gn.ensemble.LawWarning, match="Gaussian weights in place of uniform ones"):
        found = gn.ensemble.linear(10**6, depth=3, d=3, k=2, init="uniform", samples=2)
    assert "Gaussian weights in place" in found.law
    assert "exact in law" in gn.ensemble.linear(9, depth=3, d=3, k=2, init="uniform", samples=2).law
    np.testing.assert_array_equal(found.kappa, gn.ensemble.linear(10**6, depth=3, d=3, k=2, samples=2).kappa)


def test_what_the_warning_says_of_uniform_weights_is_true():
    m, v, count = 40, 0.5, 4000
    for init, variance in (("uniform", 0.8), ("gaussian", 2.0)):
        _, Q = ensembling.drawn_grams(count, [2, m, 1], [v, v], [0.0, 0.0], init)
        assert Q[:, 1, 0, 0].var() == pytest.approx(variance * m * v**2, rel=0.1)
        assert Q[:, 1, 0, 1].var() == pytest.approx(m * v**2, rel=0.1)


def test_results_tell_quantiles_and_rows_of_tables():
    found = gn.ensemble.linear([20, 30], d=3, k=2, samples=11, bounds=("loose", "convex"))
    assert set(found.bounds) == {"linear.loose", "linear.convex"}
    middle = found.quantiles(0.5)["kappa"]
    assert middle == np.median(found.kappa)
    assert found.quantiles([0.0, 1.0])["kappa"].tolist() == [found.kappa.min(), found.kappa.max()]
    row = found.to_dict()
    assert row["widths"] == "20 30"
    assert row["kappa_q50"] == middle
    assert "linear.convex_q95" in row
    assert "11 samples, depth 3, widths [20, 30]" in repr(found)
    assert "exact in law at every width" in str(found)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"widths": [5, 6], "depth": 4}, "depth is 4 but widths has 2 entries"),
        ({"widths": 5, "depth": None}, "depth is missing"),
        ({"depth": 1}, "depth is 1 but must be at least 2"),
        ({"d": None}, "d is missing"),
        ({"widths": 0}, "widths is 0 but must be from 1"),
        ({"init": "normal"}, "init is 'normal'"),
        ({"variances": "kaming"}, "did you mean 'kaiming'"),
        ({"variances": [1.0, 1.0]}, "variances has 2 entries but needs 3"),
        ({"variances": 1.0}, r"variances is 1.0, one number .* \[c / fan_in, ...\]"),
        ({"variances": np.float64(2)}, r"one number for layers of any fan-in"),
        ({"widths": 10**19}, "widths is 10000000000000000000 but must be from 1 to 9007199254740992"),
        ({"widths": [5, 2**53 + 1], "depth": None}, r"widths\[1\] is 9007199254740993"),
        ({"variances": [1.0, 0.0, 1.0]}, r"variances\[1\] is 0 but must be positive"),
        ({"skip": [1.0]}, "skip has 1 entry but needs 3"),
        ({"Sigma": np.zeros((4, 4))}, "Sigma is zero"),
        ({"Sigma": np.eye(3)}, "Sigma has shape"),
        ({"Sigma": np.diag([1.0, 1.0, 1.0, -1.0])}, "negative eigenvalues"),
        ({"Sigma": np.triu(np.ones((4, 4)))}, "Sigma is not symmetric"),
        ({"bounds": ["layers"]}, r"bounds\[0\] is 'layers'"),
        ({"samples": 0}, "samples is 0"),
        ({"seed": 2**64}, "seed is"),
    ],
)
def test_bad_arguments_are_told(changes, message):
    given = {"widths": 6, "depth": 3, "d": 4, "k": 2, "samples": 1} | changes
    with pytest.raises((ValueError, TypeError), match=message):
        gn.ensemble.linear(given.pop("widths"), **given)


@pytest.mark.parametrize("given", [(-1, 0), (0, -1), (2**64, 0), (0, 2**64), (0.5, 0), (0, None)])
def test_draws_from_bad_numbers_are_told(given):
    law = gn.ensemble.LinearLaw(9, depth=3, d=4, k=2)
    with pytest.raises((ValueError, TypeError), match=r"(seed|sample) is .* but must be"):
        law.draw(*given)
    law.draw(2**64 - 1, 2**64 - 1)


def test_convergence_to_the_limit_goes_with_the_root_of_the_width_over_decades():
    X, depth, widths = data(30, 5, smallest=0.2), 4, [10**4, 10**6, 10**8, 10**10]
    limit = gn.limits.gram(X, depth, "identity").kappa
    found = [gn.ensemble.linear(m, depth=depth, Sigma=X.T @ X / 30, k=3, samples=100, bounds=False) for m in widths]
    for errors in (
        [np.median(np.abs(f.kappa / limit - 1)) for f in found],
        [np.median(f.kappa_hat_minus_one) for f in found],
    ):
        # Of the same draws but for the width: what is left is of order 1 / m.
        np.testing.assert_allclose(np.diff(np.log10(errors)) / 2, -0.5, atol=0.02)
