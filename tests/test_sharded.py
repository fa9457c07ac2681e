"""One operator on several devices against the same on one."""

from __future__ import annotations

import numpy as np
import places
import pytest
from problems import block, problem

import gnfast as gn
from gnfast import _arrays


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def names(request):
    """Three shares on the CPU, or one on each of two GPUs."""
    if request.param == "cpu":
        return ["cpu"] * 3
    try:
        count = _arrays.device("cuda").core.device_count()
    except (ImportError, RuntimeError, ValueError) as error:
        pytest.skip(f"no GPU and no emulation: {error}")
    if count < 2:
        pytest.skip("there is one GPU only")
    return ["cuda:0", "cuda:1"]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("loss", ["mse", "cross_entropy", "weighted", "blocks"])
def test_shares_add_up(names, loss, reduction, dtype):
    one = problem(n=11, dtype=dtype)
    rng = np.random.default_rng(0)
    roots = rng.standard_normal((11, 4, 3)).astype(dtype)
    given = {"weighted": "poisson", "blocks": roots @ roots.transpose(0, 2, 1)}.get(loss, loss)
    options = {"reduction": reduction}
    if loss == "weighted":
        options["weights"] = rng.uniform(0.5, 2, 11).astype(dtype)
    whole = gn.GaussNewton(one.net, one.X, given, **options)
    G = gn.ShardedGaussNewton(one.net, one.X, names, given, **options)
    place = places.Place(names[0])
    V = block(rng, whole.shape[0], 5, dtype)
    expected = whole @ V
    slack = {"rtol": 0, "atol": 500 * np.finfo(dtype).eps * np.abs(expected).max()}
    np.testing.assert_allclose(place.dressed(G) @ V, expected, **slack)
    assert sum(len(shard.X) for shard in G.shards) == 11
    assert G.device == names[0]
    assert f"11 samples on {', '.join(names)}" in repr(G)


def test_solvers_take_it(names):
    one = problem((6, 30, 20, 3), 9)
    G = gn.ShardedGaussNewton(one.net, one.X, names)
    place = places.Place(names[0])
    values, vectors = place.dressed(gn.eigsh)(G, 2)
    np.testing.assert_allclose(values, gn.eigsh(one, 2)[0], rtol=1e-8)
    np.testing.assert_allclose(one @ np.asfortranarray(vectors), vectors * values, atol=1e-4 * values[-1])
    b = np.ones(one.shape[0])
    x, info = place.dressed(gn.solve)(G, b, 0.1)
    assert info.converged
    np.testing.assert_allclose(one @ x + 0.1 * x, b, atol=1e-6)


def test_what_cannot_be_shared():
    one = problem(n=2)
    norm = gn.Network([gn.BatchNorm(training=True), *one.net.layers])
    cases = [
        (lambda: gn.ShardedGaussNewton(one.net, one.X, ["cpu"] * 3), "X has 2 samples for 3 devices; name at most 2"),
        (lambda: gn.ShardedGaussNewton(one.net, one.X, "cpu"), "devices is 'cpu' but must be a list of at least one"),
        (lambda: gn.ShardedGaussNewton(one.net, one.X, []), r"devices is \[\] but must be a list"),
        (lambda: gn.ShardedGaussNewton(one.net, one.X, ["tpu"]), "device is 'tpu' but must be"),
        (lambda: gn.ShardedGaussNewton(norm, one.X, ["cpu"] * 2), "depend on each other and cannot be shared out"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.gpu
def test_gpus_are_named_once_and_alone(gpu):
    one = problem()
    for names in (["cuda:0", "cuda:0"], ["cuda:0", "cpu"]):
        with pytest.raises(ValueError, match="but must name GPUs only, each once, or 'cpu' only"):
            gn.ShardedGaussNewton(one.net, one.X, names)
