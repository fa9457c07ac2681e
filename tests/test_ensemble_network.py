"""Networks without weights against networks with them, by Kolmogorov-Smirnov tests; what must not change a sample."""

from __future__ import annotations

import functools
import subprocess
import sys

import numpy as np
import pytest
from drawing import drawn_weights, gram_duals, statistics
from ensembling import differences

import gnfast as gn

COUNT = 1500
DATA = np.random.default_rng(0).standard_normal((5, 3))
REPEATED = DATA[[0, 1, 2, 0, 1]] * [[1], [1], [1], [1], [-2]]  # of rank 3, one sample twice, one mirrored

# activation, hidden widths, k, skips, loss, bias, X
CASES = {
    "one hidden layer": ("gelu", [6], 2, 0.0, "mse", False, DATA),
    "two layers, one output": ("relu", [9, 9], 1, 0.0, "mse", True, DATA),
    "three layers": ("leaky_relu", [14, 14, 14], 2, 0.0, "mse", False, DATA),
    "bottlenecks": ("leaky_relu", [3, 9, 2], 2, 0.0, "mse", False, DATA),
    "softmax": ("tanh", [11, 7], 3, 0.0, "cross_entropy", False, DATA),
    "sigmoids of the outputs": ("gelu", [7, 5], 2, 0.0, "binary_cross_entropy", True, DATA),
    "repeated samples": ("tanh", [8, 8], 2, 0.0, "mse", False, REPEATED),
    "skips": ("leaky_relu", [7, 7, 7], 2, 0.6, "mse", False, DATA),
    "skips of unequal layers": ("tanh", [5, 8], 3, 0.5, "cross_entropy", False, DATA),
    "some skips": ("sigmoid", [6, 6, 4], 2, [0.0, 0.8, -0.5, 0.0], "poisson", False, DATA),
    "a skip at either end": ("identity", [4, 6], 2, [0.7, 0.0, 0.9], "mse", True, DATA),
}


def law_of(case):
    activation, hidden, k, skip, loss, bias, X = CASES[case]
    return gn.ensemble.NetworkLaw(hidden, activation=activation, X=X, k=k, skip=skip, slope=0.1, loss=loss, bias=bias)


def statistics_of(law):
    drawn = [law.draw(3, sample) for sample in range(COUNT)]
    return statistics(np.stack([d.gram for d in drawn]), np.stack([d.outputs for d in drawn]), *kind(law))


def kind(law):
    distinct = len(np.unique(np.abs(law.X / law.X[:, :1]).round(9), axis=0)) if law.X is REPEATED else len(law.X)
    return distinct * law.rows, law.loss == "mse"


@functools.cache
def right_statistics(case):
    law, rng = law_of(case), np.random.default_rng(4)
    weights = drawn_weights(rng, COUNT, [law.X.shape[1], *law.widths], law.variances, law.skips)
    K, F = gram_duals(weights, law.X, law.activation.name, 0.1, law.loss, law.bias)
    return statistics(K, F, *kind(law))


@pytest.mark.parametrize("case", CASES)
def test_law_is_that_of_networks_with_weights(case):
    assert differences(statistics_of(law_of(case)), right_statistics(case)) == {}


@pytest.mark.parametrize("layer", range(4))
@pytest.mark.parametrize("what", ["variances", "skips"])
def test_a_wrong_factor_is_caught(layer, what):
    law, right = law_of("skips"), right_statistics("skips")
    getattr(law, what)[layer] *= 2
    assert differences(statistics_of(law), right)


def test_networks_with_weights_are_those_of_mlp():
    rng = np.random.default_rng(1)
    for case, (activation, hidden, k, skip, loss, bias, X) in CASES.items():
        law = law_of(case)
        widths = [X.shape[1], *hidden, k]
        weights = drawn_weights(rng, 1, widths, law.variances, [0.0] * len(law.skips))
        arrays = [part for W in weights for part in ([W[0], np.zeros(len(W[0]))] if bias else [W[0]])]
        net = gn.mlp(widths, activation, slope=0.1, skip=skip, bias=bias, init=arrays)
        K, F = gram_duals(
            [W + b * np.eye(*W.shape[1:]) for W, b in zip(weights, law.skips, strict=True)],
            X,
            activation,
            0.1,
            loss,
            bias,
        )
        np.testing.assert_allclose(F[0], net(X), atol=1e-12)
        np.testing.assert_allclose(K[0], gn.GaussNewton(net, X, loss=loss).gram().to_dense(), atol=1e-12)


def test_uniform_weights_are_stored_and_have_the_law_of_initialisers():
    hidden, k, draws = [7, 5], 2, 400
    options = dict(activation="leaky_relu", X=DATA, k=k, slope=0.1, skip=[0, 0.4, 0], init="uniform")
    law = gn.ensemble.NetworkLaw(hidden, **options)
    assert law.is_stored and law.is_exact and "drawn whole" in str(law)
    ours = [law.draw(3, sample) for sample in range(draws)]
    theirs = []
    for seed in range(draws):
        net = gn.mlp([3, *hidden, k], "leaky_relu", slope=0.1, skip=[0, 0.4, 0], init="kaiming_uniform", seed=seed)
        theirs.append((gn.GaussNewton(net, DATA).gram().to_dense(), net(DATA)))
    right = statistics(*(np.stack(part) for part in zip(*theirs, strict=True)), *kind(law))
    found = statistics(*(np.stack(part) for part in zip(*ours, strict=True)), *kind(law))
    assert differences(found, right) == {}
    wrong = gn.ensemble.NetworkLaw(hidden, variances=[2 * v for v in law.variances], **options)
    drawn = [wrong.draw(3, sample) for sample in range(draws)]
    assert differences(statistics(*(np.stack(part) for part in zip(*drawn, strict=True)), *kind(law)), right)


def test_gaussian_weights_in_place_of_others_are_announced():
    options = dict(activation="relu", X=DATA, k=1, samples=2)
    with pytest.warns(gn.ensemble.LawWarning, match=r"in place of uniform ones .* GB"):
        stood_in = gn.ensemble.network([64, 64], init="uniform", memory_limit=1e3, **options)
    plain = gn.ensemble.network([64, 64], **options)
    np.testing.assert_array_equal(stood_in.kappa, plain.kappa)
    assert "not theirs" in stood_in.law and "not theirs" not in plain.law


def test_variances_are_those_of_initialisers():
    for name in ("kaiming", "xavier", "lecun", "ntk"):
        law = gn.ensemble.NetworkLaw([40, 30], activation="relu", X=np.ones((2, 50)), k=20, variances=name)
        net = gn.mlp([50, 40, 30, 20], "relu", init=f"{name}_normal" if name != "ntk" else name)
        for W, variance in zip(net.parameters(), law.variances, strict=True):
            assert abs(np.var(W) / variance - 1) < 6 * np.sqrt(2 / W.size)


# ---------------------------------------------------------------------------------------------- what must not matter
@pytest.mark.parametrize("skip", [0.0, [0.0, 0.4, 0.4, 0.4]])
def test_same_sample_for_every_tile_and_thread_count(skip):
    widths = [70_001, 5_003, 2_222]  # several reports, chunks and tiles, none of them full
    law = gn.ensemble.NetworkLaw(widths, activation="tanh", X=DATA, k=2, skip=skip)
    threads = gn.get_num_threads()
    try:
        gn.set_num_threads(1)
        first = law.draw(5, 1)
        for count in (2, 3):
            gn.set_num_threads(count)
            again = law.draw(5, 1)
            assert np.array_equal(again.gram, first.gram)
            assert np.array_equal(again.outputs, first.outputs)
    finally:
        gn.set_num_threads(threads)
    for tile in (4, 100, 4096):
        other = law.draw(5, 1, tile=tile)
        # Sums of 7e4 numbers in another order.
        np.testing.assert_allclose(other.gram, first.gram, rtol=0, atol=1e-12 * np.abs(first.gram).max())
        np.testing.assert_allclose(other.outputs, first.outputs, rtol=1e-10)
    assert not np.allclose(law.draw(5, 2).gram, first.gram, rtol=1e-3)
    assert not np.allclose(law.draw(6, 1).gram, first.gram, rtol=1e-3)


def test_memory_does_not_grow_with_the_width():
    code = """
import resource
import numpy as np
import gnfast as gn
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
def draw(width):
    gn.ensemble.NetworkLaw(width, activation="relu", X=np.eye(5), k=2, depth=3).draw(0)
    return peak()
small = draw(10_000)
print(draw(1_000_000) - small)
"""
    grown = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert grown < 8  # MiB; one array of a number for each neuron and sample would take 38


def test_repeated_samples_keep_their_rank():
    found = gn.ensemble.network([30, 20], activation="tanh", X=DATA[[0, 1, 2, 0, 1, 0]], k=2, samples=8)
    assert (found.rank == 6).all()  # three samples, two outputs
    assert np.isfinite(found.kappa).all()


def test_many_samples_of_few_inputs_and_narrow_layers():
    X = np.random.default_rng(2).standard_normal((40, 2))
    found = gn.ensemble.network([3, 4], activation="tanh", X=X, k=1, samples=20)
    assert (found.rank == 40).sum() == 0  # 6 + 12 + 4 parameters
    assert (found.rank <= 22).all()


# -------------------------------------------------------------------------------------------------- infinite width
def arc_cosine(S, a):
    """E phi phi and E phi' phi' of leaky ReLU under N(0, S)."""
    q = np.sqrt(np.outer(np.diag(S), np.diag(S)))
    t = np.arccos(np.clip(S / q, -1, 1))
    k0, k0m = (np.pi - t) / (2 * np.pi), t / (2 * np.pi)
    k1 = (np.sin(t) + (np.pi - t) * np.cos(t)) / (2 * np.pi)
    k1m = (np.sin(t) - t * np.cos(t)) / (2 * np.pi)
    return q * ((1 + a**2) * k1 - 2 * a * k1m), (1 + a**2) * k0 + 2 * a * k0m


def test_wide_networks_tend_to_the_arc_cosine_limit():
    c, a, widths = 2 / 1.01, 0.1, np.array([300, 3_000, 30_000])
    E1, _ = arc_cosine(c * DATA @ DATA.T / 3, a)
    E2, derivatives2 = arc_cosine(c * E1, a)
    limit = E2 + E1 * c * derivatives2  # J J^T / m; the first layer's share is of order 1 / m
    errors = []
    for width in widths:
        law = gn.ensemble.NetworkLaw(
            int(width), activation="leaky_relu", slope=a, X=DATA, k=1, depth=3, reduction="sum"
        )
        grams = np.stack([law.draw(1, sample).gram for sample in range(60)]) / width
        errors.append(np.sqrt(np.mean((grams - limit) ** 2)))
        # The mean of 60 is nearer still, by chance and by bias of order 1 / m.
        assert np.abs(grams.mean(0) - limit).max() < 12 * np.abs(limit).max() * (1 / np.sqrt(60 * width) + 1 / width)
    slope = np.polyfit(np.log(widths), np.log(errors), 1)[0]
    assert abs(slope + 0.5) < 0.1


# -------------------------------------------------------------------------------------------------------- manners
def test_ensemble_has_the_spectra_of_its_samples():
    arguments = {"activation": "relu", "X": DATA, "k": 2, "depth": 3}
    found = gn.ensemble.network(12, **arguments, samples=5, seed=7)
    again = gn.ensemble.network([12, 12], **arguments, samples=3, seed=7)
    assert np.array_equal(found.spectrum[:3], again.spectrum)  # sample i depends on (seed, i) alone
    assert found.widths == (12, 12)
    assert "exact in law" in found.law
    for i in range(5):
        values = np.linalg.eigvalsh(gn.ensemble.NetworkLaw(12, **arguments).draw(7, i).gram)
        np.testing.assert_allclose(found.spectrum[i], values, atol=1e-13 * values[-1])
        assert found.trace[i] == pytest.approx(values.sum())
    np.testing.assert_allclose(found.kappa, found.lambda_max / found.lambda_min)
    single = gn.ensemble.network(12, **{**arguments, "X": DATA.astype("float32")}, samples=2, seed=7)
    np.testing.assert_allclose(single.kappa, found.kappa[:2], rtol=1e-4)


def test_progress_is_told_and_may_stop_the_work():
    told = []
    law = gn.ensemble.NetworkLaw([50_000, 10], activation="relu", X=DATA, k=1)
    law.draw(0, progress=lambda *what: told.append(what))
    assert told[-1][1] == told[-1][2] == 2 * 50_010
    with pytest.raises(KeyboardInterrupt):
        law.draw(0, progress=lambda *what: (_ for _ in ()).throw(KeyboardInterrupt()))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"depth": None}, "depth is missing"),
        ({"widths": [3, 4]}, "depth is 3 but widths has 2 entries|depth"),
        ({"widths": 2**34 + 1}, "from 1 to 17179869184"),
        ({"k": 0}, "k is 0"),
        ({"k": 1, "loss": "cross_entropy"}, "cross_entropy"),
        ({"activation": "rellu"}, "did you mean 'relu'"),
        ({"activation": "silu"}, "no gain for 'silu'"),
        ({"variances": [1.0, 0.0, 1.0]}, r"variances\[1\] is 0"),
        ({"variances": "kaimin"}, "did you mean 'kaiming'"),
        ({"skip": [1.0]}, "skip has 1 entry"),
        ({"X": DATA[0]}, "2-dimensional"),
        ({"reduction": "none"}, "reduction"),
        ({"loss": "poisson", "X": 1e6 * DATA}, "overflows"),
    ],
)
def test_errors_say_what_to_do(arguments, words):
    if arguments.get("widths") == [3, 4]:
        arguments = {**arguments, "depth": 4}
    with pytest.raises(ValueError, match=words):
        gn.ensemble.network(
            **{"widths": 8, "activation": "relu", "X": DATA, "k": 2, "depth": 3, "samples": 1} | arguments
        )
