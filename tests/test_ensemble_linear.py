"""Laws of random linear networks without weights against networks whose weights are drawn."""

import ensembling
import numpy as np
import pytest

import gnfast as gn
from gnfast.ensemble import grams, random_weights, skips

SAMPLES = 600

# (dims, skips): wide; narrow below and above; m - d < k; one input, one output, single units; growing and shrinking
WIDE, NARROW, TIGHT = (3, 12, 12, 12, 2), (5, 4, 9, 3, 6, 4), (3, 4, 3)
TINY, UNEVEN, CLOSE = (1, 2, 1, 3, 1), (2, 9, 5, 13, 3), (1, 1, 1, 1, 1)
CASES = [
    *[("gaussian", dims, 0.0) for dims in (WIDE, NARROW, TIGHT, TINY, CLOSE)],
    *[("orthogonal", dims, 0.0) for dims in (UNEVEN, NARROW)],
    *[("gaussian", dims, skip) for dims, skip in ((WIDE, 0.7), (NARROW, 0.6), (UNEVEN, [0.5, 0.0, -0.9, 0.0]))],
    *[("orthogonal", dims, skip) for dims, skip in ((UNEVEN, 0.8), (NARROW, [0.0, 0.9, 0.0, 0.4, 0.0]))],
    ("uniform", UNEVEN, [0.5, 0.0, 0.3, 0.0]),
]


def law_of(init, dims, skip=0.0, **more):
    return gn.ensemble.LinearLaw(list(dims[1:-1]), d=dims[0], k=dims[-1], init=init, skip=skip, **more)


def sampled(law, samples=SAMPLES, seed=7):
    P, Q = zip(*[law.draw(seed, sample).matrices() for sample in range(samples)], strict=True)
    return np.stack(P), np.stack(Q)


def compare(init, dims, skip, samples=SAMPLES, draw=None):
    law = law_of(init, dims, skip)
    dense = ensembling.drawn_grams(3 * samples, dims, law.variances, law.skips, init)
    own = sampled(law, samples) if draw is None else draw(law)
    return ensembling.differences(ensembling.statistics(*dense), ensembling.statistics(*own))


@pytest.mark.parametrize(("init", "dims", "skip"), CASES)
def test_grams_have_the_law_of_networks_with_weights(init, dims, skip):
    assert compare(init, dims, skip, samples=SAMPLES if skip == 0.0 else 400) == {}


def test_deviations_from_the_identity_have_the_same_law():
    dims = (2, 40, 40, 40, 2)

    def draw(law):
        found = [grams.feedforward_grams(law.weights, 2, 7, i, 1.0).matrices() for i in range(SAMPLES)]
        return tuple(np.stack(one) for one in zip(*found, strict=True))

    assert law_of("gaussian", dims).shift == 0.0
    assert compare("gaussian", dims, 0.0, draw=draw) == {}


# --------------------------------------------------------------------------------------- and the comparison can fail
def scaled_bartlett(which):
    def bartlett(rng, rows, columns, scale, shift=0.0):
        T = REAL_BARTLETT(rng, rows, columns, scale, shift)
        n = np.arange(len(T))
        if which == "freedom":  # one degree of freedom in two is lost
            T[n, columns - len(T) + n] = np.sqrt(rng.chisquare(np.maximum(rows - n, 2) // 2) / scale)
        elif which == "order":  # the degrees of freedom in the wrong order
            T[n, columns - len(T) + n] = np.sqrt(rng.chisquare(rows - n) / scale)
        else:  # "below": half the variance beside the diagonal
            T = np.where(np.arange(columns) < columns - len(T) + n[:, None], T / np.sqrt(2), T)
        return T

    return bartlett


REAL_BARTLETT = random_weights.bartlett


@pytest.mark.parametrize("which", ["freedom", "order", "below"])
def test_wrong_triangular_factors_are_caught(monkeypatch, which):
    monkeypatch.setattr(random_weights, "bartlett", scaled_bartlett(which))
    assert compare("gaussian", TIGHT if which == "order" else WIDE, 0.0, samples=400)


@pytest.mark.parametrize(
    ("init", "skip", "layer"),
    [
        *[("gaussian", 0.0, layer) for layer in range(4)],
        ("gaussian", 0.7, 1),
        ("orthogonal", 0.8, 0),
        ("orthogonal", 0.8, 3),
    ],
)
def test_twice_the_variance_in_one_layer_is_caught(init, skip, layer):
    dims = WIDE if init == "gaussian" else UNEVEN
    law = law_of(init, dims, skip)
    doubled = [v * (1 + (i == layer)) for i, v in enumerate(law.variances)]
    wrong = law_of(init, dims, skip, variances=doubled)
    assert compare(init, dims, skip, samples=200, draw=lambda _: sampled(wrong, 200))


def test_a_backward_pass_that_forgets_the_forward_one_is_caught(monkeypatch):
    fresh = np.random.default_rng(3)

    def after(image, f):
        return f @ random_weights.bartlett(fresh, 1, 1, 1.0)

    assert compare("gaussian", CLOSE, 0.0) == {}
    monkeypatch.setattr(random_weights.ForwardSketch, "after", after)
    found = compare("gaussian", CLOSE, 0.0)
    assert found
    assert all(
        "Q" in name or "lambda" in name or name in ("kappa", "trace") for name in found
    )  # each P_l alone is right


def test_blocks_of_haar_matrices_that_are_gaussian_are_caught(monkeypatch):
    def gaussian(rng, kept, dropped, columns):
        T = random_weights.bartlett(rng, kept, columns, float(kept + max(dropped, 0)))
        return T, np.zeros((len(T), 0))

    monkeypatch.setattr(random_weights, "truncated_frame", gaussian)
    assert compare("orthogonal", UNEVEN, 0.0, samples=400)


def test_new_directions_with_the_wrong_freedom_are_caught(monkeypatch):
    def bartlett(rng, rows, columns, scale, shift=0.0):
        return REAL_BARTLETT(rng, max(rows // 3, min(rows, columns)), columns, scale, shift)

    monkeypatch.setattr(skips, "bartlett", bartlett)
    assert compare("gaussian", (2, 12, 12, 12, 2), 2.0, samples=400)


def test_signs_of_frames_matter_and_are_caught(monkeypatch):
    monkeypatch.setattr(skips, "orthonormal", lambda G: np.linalg.qr(G)[0])
    assert compare("gaussian", WIDE, 0.7, samples=400)


@pytest.mark.parametrize("init", ["gaussian", "orthogonal", "uniform"])
def test_variances_of_any_size_are_right_or_refused(init):
    usual = gn.ensemble.linear([8, 8], d=3, k=2, variances=[1.0] * 3, init=init, samples=3, seed=4)
    for size in (1e-300, 1e-200, 1e-150, 1e-100, 1e-30, 1e30, 1e100, 1e150, 1e200, 1e300):
        options = {"d": 3, "k": 2, "variances": [size] * 3, "init": init, "samples": 3, "seed": 4}
        try:
            found = gn.ensemble.linear([8, 8], **options)
        except ValueError as error:
            assert "zero or leaves the range of float64" in str(error) and not 1e-150 < size < 1e150
            continue
        np.testing.assert_allclose(found.kappa, usual.kappa, rtol=1e-9)
        np.testing.assert_allclose(found.lambda_max / size**2, usual.lambda_max, rtol=1e-9)


def test_draws_of_rank_zero_are_refused_in_a_sentence():
    with pytest.raises(ValueError, match="cancel its skips"):
        gn.ensemble.linear(1, depth=2, d=1, k=1, init="orthogonal", skip=1.0, samples=20)
    for Sigma in (1e308 * np.eye(3), 1e-308 * np.eye(3), 1e200 * np.eye(3)):
        try:
            found = gn.ensemble.linear([8, 8], d=3, k=2, Sigma=Sigma, samples=2)
        except ValueError as error:
            assert "leaves the range of float64" in str(error)
        else:
            np.testing.assert_allclose(found.kappa, gn.ensemble.linear([8, 8], d=3, k=2, samples=2).kappa, rtol=1e-9)
