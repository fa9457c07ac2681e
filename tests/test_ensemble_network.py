"""Networks without weights against networks with them, by Kolmogorov-Smirnov tests; what must not change a sample."""

from __future__ import annotations

import functools
import os
import subprocess
import sys

import numpy as np
import pytest
from drawing import drawn_weights, gram_duals, statistics
from ensembling import differences

import gnfast as gn
from gnfast.networks.layers import ACTIVATIONS

COUNT = 1500
MORE = {"softmax": 6000, "bottlenecks": 8000}  # which wrong factors change less
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


def slope_for(activation):
    """What is given as the slope: only one activation has any."""
    return 0.1 if activation == "leaky_relu" else 0.01


def law_of(case):
    activation, hidden, k, skip, loss, bias, X = CASES[case]
    return gn.ensemble.NetworkLaw(
        hidden, activation=activation, X=X, k=k, skip=skip, slope=slope_for(activation), loss=loss, bias=bias
    )


def statistics_of(law, count):
    drawn = [law.draw(3, sample) for sample in range(count)]
    return statistics(np.stack([d.gram for d in drawn]), np.stack([d.outputs for d in drawn]), *kind(law))


def count_of(case):
    return MORE.get(case, COUNT)


def kind(law):
    distinct = len(np.unique(np.abs(law.X / law.X[:, :1]).round(9), axis=0)) if law.X is REPEATED else len(law.X)
    return distinct * law.rows, law.loss == "mse"


@functools.cache
def right_statistics(case):
    law, rng = law_of(case), np.random.default_rng(4)
    weights = drawn_weights(rng, count_of(case), [law.X.shape[1], *law.widths], law.variances, law.skips)
    K, F = gram_duals(weights, law.X, law.activation.name, 0.1, law.loss, law.bias)
    return statistics(K, F, *kind(law))


@pytest.mark.parametrize("case", CASES)
def test_law_is_that_of_networks_with_weights(case):
    assert differences(statistics_of(law_of(case), count_of(case)), right_statistics(case)) == {}


@pytest.mark.parametrize(
    ("case", "what", "layer"),
    [("skips", "skips", layer) for layer in range(4)]
    + [("some skips", "skips", layer) for layer in (1, 2)]
    + [("a skip at either end", "skips", layer) for layer in (0, 2)]
    + [(case, "variances", layer) for case in CASES for layer in range(len(CASES[case][1]) + 1)],
)
def test_a_wrong_factor_is_caught(case, what, layer):
    law, right = law_of(case), right_statistics(case)
    getattr(law, what)[layer] *= 2
    assert differences(statistics_of(law, count_of(case)), right)


@pytest.mark.parametrize("case", [case for case in CASES if CASES[case][5]])
def test_a_wrong_share_of_biases_is_caught(case):
    law = law_of(case)
    with_biases = [law.draw(3, sample) for sample in range(count_of(case))]
    law.bias = False  # the same networks
    without = [law.draw(3, sample) for sample in range(count_of(case))]
    for factor in (0.5, 2):
        grams = [b.gram + factor * (a.gram - b.gram) for a, b in zip(with_biases, without, strict=True)]
        found = statistics(np.stack(grams), np.stack([d.outputs for d in without]), *kind(law))
        assert differences(found, right_statistics(case))


@pytest.mark.parametrize("case", ["one hidden layer", "softmax", "sigmoids of the outputs", "some skips"])
def test_a_wrong_root_of_the_loss_is_caught(case):
    law = law_of(case)
    law._scale *= 2
    assert differences(statistics_of(law, count_of(case)), right_statistics(case))


@pytest.mark.parametrize("case", ["one hidden layer", "three layers", "bottlenecks", "repeated samples"])
def test_a_wrong_share_of_the_last_layer_is_caught(case):
    law, wider = law_of(case), law_of(case)
    wider.variances[-1] *= 4  # what the same draws make of the other layers is then four times as much
    drawn = [(law.draw(3, sample), wider.draw(3, sample).gram) for sample in range(count_of(case))]
    for factor in (0, 2):
        grams = [d.gram + (factor - 1) * (4 * d.gram - more) / 3 for d, more in drawn]
        found = statistics(np.stack(grams), np.stack([d.outputs for d, _ in drawn]), *kind(law))
        assert differences(found, right_statistics(case))


def test_networks_with_weights_are_those_of_mlp():
    rng = np.random.default_rng(1)
    for case, (activation, hidden, k, skip, loss, bias, X) in CASES.items():
        law = law_of(case)
        widths = [X.shape[1], *hidden, k]
        weights = drawn_weights(rng, 1, widths, law.variances, [0.0] * len(law.skips))
        arrays = [part for W in weights for part in ([W[0], np.zeros(len(W[0]))] if bias else [W[0]])]
        net = gn.mlp(widths, activation, slope=slope_for(activation), skip=skip, bias=bias, init=arrays)
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
        stood_in = gn.ensemble.network([640, 640], init="uniform", memory_limit=1e6, **options)
    plain = gn.ensemble.network([640, 640], **options)
    np.testing.assert_array_equal(stood_in.kappa, plain.kappa)
    assert "not theirs" in stood_in.law and "not theirs" not in plain.law


def test_variances_are_those_of_initialisers():
    for name in ("kaiming", "xavier", "lecun", "ntk", "pytorch"):
        law = gn.ensemble.NetworkLaw([40, 30], activation="relu", X=np.ones((2, 50)), k=20, variances=name)
        kinds = {"ntk": "ntk", "pytorch": "pytorch_uniform"}
        net = gn.mlp([50, 40, 30, 20], "relu", init=kinds.get(name, f"{name}_normal"))
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


# MiB of a process; the ru_maxrss of resource.getrusage begins with what its parent had.
PEAK = "peak = lambda: int(open('/proc/self/status').read().partition('VmHWM:')[2].split()[0]) / 1024"
no_peak = pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="the peak of memory is read in /proc")


@no_peak
def test_memory_does_not_grow_with_the_width():
    code = f"""
import numpy as np
import gnfast as gn
{PEAK}
def draw(width):
    gn.ensemble.NetworkLaw(width, activation="relu", X=np.eye(5), k=2, depth=3).draw(0)
    return peak()
small = draw(10_000)
print(draw(1_000_000) - small)
"""
    grown = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert grown < 8  # MiB; one array of a number for each neuron and sample would take 38


@no_peak
@pytest.mark.parametrize(("n", "k", "widths", "skip"), [(800, 1, [1000, 900], 0.0), (160, 5, [500, 3000], 0.5)])
def test_memory_is_what_the_model_says(n, k, widths, skip):
    code = f"""
import numpy as np
import gnfast as gn
from gnfast.ensemble.memory import draw_bytes
gn.set_num_threads(2)
X = np.random.default_rng(0).standard_normal(({n}, 8))
law = gn.ensemble.NetworkLaw({widths}, activation="relu", X=X, k={k}, skip={skip})
{PEAK}
gn.ensemble.NetworkLaw({widths}, activation="relu", X=X[:60], k={k}).draw(0)
before = peak()
law.draw(0)
print((peak() - before) * 2**20 / draw_bytes(law.shapes, law.skips, {n}, {k}, 2)[0])
"""
    share = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert 0.75 < share < 1.35  # below 32 MB the allocator keeps some of what was freed


def test_draws_that_do_not_fit_are_refused_with_sizes(monkeypatch):
    from gnfast.ensemble import memory

    options = dict(depth=3, activation="relu", X=np.ones((40_000, 1)), k=1, samples=1)
    with pytest.raises(
        MemoryError, match=r"a draw of K, 40,000 x 40,000, needs \d.* GB but memory_limit is 50.0 GB; raise"
    ):
        gn.ensemble.network(10**5, memory_limit=5e10, **options)
    monkeypatch.setattr(memory, "machine_bytes", lambda: 2e10)
    with pytest.raises(MemoryError, match=r"needs \d.* GB but this machine has 20.0 GB; pass fewer samples, or take"):
        gn.ensemble.network(10**5, **options)
    with pytest.raises(MemoryError, match=r"needs 25.6 GB but this machine has 20.0 GB"):  # K twice
        gn.ensemble.network(10, init="uniform", **options)
    for init in ("gaussian", "uniform"):
        gn.ensemble.network(10, init=init, **options | {"X": DATA})


def test_bad_draws_are_told():
    law = gn.ensemble.NetworkLaw(8, activation="relu", X=DATA, k=2, depth=3)
    for given, words in (
        ({"seed": -1}, "seed is -1 but must be from 0 to 18446744073709551615"),
        ({"seed": 2**64}, "seed is 18446744073709551616"),
        ({"sample": -1}, "sample is -1 but must be from 0"),
        ({"sample": 2**64}, "sample is 18446744073709551616"),
        ({"tile": 3}, "tile is 3 but must be a multiple of 4"),
        ({"tile": -4}, "tile is -4 but must be from 0"),
        ({"tile": 4.0}, "tile is 4.0 but must be an integer"),
    ):
        with pytest.raises((TypeError, ValueError), match=words):
            law.draw(**{"seed": 0} | given)
    assert np.isfinite(law.draw(2**64 - 1, 2**48, tile=2**15).gram).all()


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


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_wide_networks_tend_to_gnfasts_own_limit(activation):
    c, widths, draws = 1.3, np.array([300, 3_000, 30_000]), 60
    limit = gn.limits.gram(DATA, 3, activation, slope=slope_for(activation), variances=c)
    assert limit.error < 1e-4
    errors = []
    for width in map(int, widths):
        law = gn.ensemble.NetworkLaw(
            [width, width],
            activation=activation,
            slope=slope_for(activation),
            X=DATA,
            k=1,
            variances=[c / 3, c / width, c / width],
            reduction="sum",
        )
        grams = np.stack([law.draw(1, sample).gram for sample in range(draws)]) / width
        errors.append(np.sqrt(np.mean((grams - limit.kernel) ** 2)))
        spread = grams.std(axis=0) / np.sqrt(draws)
        assert (np.abs(grams.mean(axis=0) - limit.kernel) < 5 * spread + 8 * limit.kernel.max() / width).all()
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
        ({"widths": [8, 10**19], "depth": None}, r"widths\[1\] is 10000000000000000000 but must be from 1"),
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
