"""Networks with orthogonal weights that are never drawn, against networks with drawn ones; what is certain of them."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from drawing import gram_duals, statistics
from ensembling import differences, drawn_weights

import gnfast as gn

COUNT = 1500
DATA = np.random.default_rng(0).standard_normal((5, 3))

# activation, hidden widths, k, skips, loss, bias. Five samples of rank 3: from the second layer on five directions are
# seen, if a layer has as many, and 5 k derivatives, if there are directions left.
CASES = {
    "one hidden layer": ("gelu", [6], 2, 0.0, "mse", False),
    "wide enough for all": ("leaky_relu", [14, 14, 14], 2, 0.0, "mse", False),
    "one output": ("tanh", [9, 9], 1, 0.0, "mse", True),
    "fewer directions left than derivatives": ("leaky_relu", [7, 7], 2, 0.0, "mse", False),
    "no direction left": ("leaky_relu", [4, 4, 4], 2, 0.0, "mse", False),
    "wider than before": ("tanh", [4, 12], 3, 0.0, "cross_entropy", False),
    "narrower than before": ("gelu", [12, 6], 2, 0.0, "binary_cross_entropy", True),
    "bottlenecks": ("leaky_relu", [3, 9, 2], 2, 0.0, "mse", False),
    "more outputs than units": ("tanh", [4], 7, 0.0, "mse", False),
    "a unit in each layer": ("tanh", [1, 1], 1, 0.0, "mse", False),
    "skips": ("leaky_relu", [7, 7, 7], 2, 0.6, "mse", False),
    "skips of unequal layers": ("tanh", [5, 8], 3, 0.5, "cross_entropy", False),
    "skips of narrow layers": ("tanh", [3, 3], 2, [0.0, 0.8, -0.5], "poisson", False),
    "means and log-variances": ("gelu", [6, 5], 4, 0.0, "gaussian_nll", True),
}


def law_of(case, init="orthogonal"):
    activation, hidden, k, skip, loss, bias = CASES[case]
    slope = 0.1 if activation == "leaky_relu" else 0.01
    return gn.ensemble.NetworkLaw(
        hidden, activation=activation, X=DATA, k=k, skip=skip, slope=slope, loss=loss, bias=bias, init=init
    )


def statistics_of(law, rank):
    drawn = [law.draw(3, sample) for sample in range(COUNT)]
    grams, outputs = (np.stack(part) for part in zip(*drawn, strict=True))
    return statistics(grams, outputs, rank, law.loss == "mse")


@functools.cache
def right_statistics(case):
    """Of drawn weights, and the rank that all of them have."""
    law, rng = law_of(case), np.random.default_rng(4)
    parts = zip(law.shapes, law.variances, law.skips, strict=True)
    weights = [drawn_weights(rng, COUNT, *each, "orthogonal") for each in parts]
    K, F = gram_duals(weights, law.X, law.activation.name, 0.1, law.loss, law.bias)
    values = np.linalg.eigvalsh(K)
    rank = int((values > 1e-9 * values[:, -1:]).sum(1).max())
    return statistics(K, F, rank, law.loss == "mse"), rank


@pytest.mark.parametrize("case", CASES)
def test_law_is_that_of_networks_with_weights(case):
    right, rank = right_statistics(case)
    assert differences(statistics_of(law_of(case), rank), right) == {}


@pytest.mark.parametrize("case", ["no direction left", "skips", "bottlenecks"])
def test_gaussian_weights_are_caught(case):
    right, rank = right_statistics(case)
    assert differences(statistics_of(law_of(case, "gaussian"), rank), right)


@pytest.mark.parametrize("layer", range(4))
def test_a_wrong_factor_is_caught(layer):
    law, (right, rank) = law_of("skips"), right_statistics("skips")
    law.variances[layer] *= 2
    assert differences(statistics_of(law, rank), right)


@pytest.mark.parametrize("hidden, k", [([3, 3], 3), ([7, 7], 7), ([3, 6, 8], 8)])
def test_isometries_are_known(hidden, k):
    # W^T W = I in layers that do not narrow, and W W^T = I in square ones: only where layers widen is anything random.
    law = gn.ensemble.NetworkLaw(
        hidden,
        activation="identity",
        X=DATA,
        k=k,
        init="orthogonal",
        variances=[1 / w for w in [*hidden, k]],
        reduction="sum",
    )
    for sample in range(20):
        gram, outputs = law.draw(1, sample)
        inputs = DATA @ DATA.T
        np.testing.assert_allclose(outputs @ outputs.T, inputs, atol=1e-9)
        if len(set(hidden)) == 1:
            np.testing.assert_allclose(gram, np.kron((len(hidden) + 1) * inputs, np.eye(k)), atol=1e-9)
        else:  # each B B^T is a projection, onto as many dimensions as its layer has
            assert np.trace(gram) == pytest.approx(np.trace(inputs) * sum([*hidden, k]), rel=1e-9)


def test_wide_networks_have_the_limit_of_gaussian_ones():
    width, options = 20_000, dict(activation="leaky_relu", slope=0.1, X=DATA, k=1, depth=3)
    drawn = {
        init: np.mean([gn.ensemble.NetworkLaw(width, init=init, **options).draw(1, s).gram for s in range(20)], axis=0)
        for init in ("gaussian", "orthogonal")
    }
    difference = drawn["gaussian"] - drawn["orthogonal"]  # of order sqrt(2 / (20 width)) of either
    assert np.linalg.norm(difference) < 0.02 * np.linalg.norm(drawn["gaussian"])


def test_same_sample_for_every_tile_and_thread_count():
    law = gn.ensemble.NetworkLaw(
        [40_001, 3_003, 5_001], activation="tanh", X=DATA, k=2, skip=[0, 0, 0.4, 0], init="orthogonal"
    )
    threads = gn.get_num_threads()
    try:
        gn.set_num_threads(1)
        first = law.draw(5, 1)
        gn.set_num_threads(3)
        again = law.draw(5, 1)
    finally:
        gn.set_num_threads(threads)
    assert np.array_equal(again.gram, first.gram)
    assert np.array_equal(again.outputs, first.outputs)
    for tile in (4, 1000):
        other = law.draw(5, 1, tile=tile)
        np.testing.assert_allclose(other.gram, first.gram, rtol=0, atol=1e-11 * np.abs(first.gram).max())
    assert not np.allclose(law.draw(5, 2).gram, first.gram, rtol=1e-3)


def test_ensembles_of_any_width_are_exact_without_a_warning(recwarn):
    told = []
    found = gn.ensemble.network(
        [30_000, 200],
        activation="relu",
        X=DATA,
        k=2,
        init="orthogonal",
        samples=2,
        memory_limit=1e6,
        progress=lambda *what: told.append(what),
    )
    assert not [w for w in recwarn if w.category is gn.ensemble.LawWarning]
    assert "Orthogonal (Haar)" in found.law and "exact in law at every width" in found.law
    assert np.isfinite(found.kappa).all()
    assert told[-1][1] == told[-1][2]
