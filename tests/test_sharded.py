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


def givens(n, rng):
    """Losses and weights that one operator takes or refuses; those of single shares are not looked at."""
    H = np.zeros((n, 2, 2))
    H[n // 2 :] = np.eye(2)
    first = np.arange(n) < n // 3
    low_rank = np.where(first[:, None, None], np.ones((2, 2)), np.eye(2))
    roots = rng.standard_normal((n, 2, 2))
    return {
        "weights zero in a share": {"weights": 1.0 * ~first},
        "one sample counts": {"weights": np.eye(n)[-1]},
        "weights of outputs": {"weights": rng.uniform(0, 1, (n, 2)) * first[:, None]},
        "weights (n, 1)": {"weights": np.ones((n, 1))},
        "weights in a list": {"weights": rng.uniform(0, 1, n).tolist()},
        "integer weights": {"weights": np.ones(n, int)},
        "weights of another dtype": {"weights": np.ones(n, "float32")},
        "a weight too many": {"weights": np.ones(n + 1)},
        "many weights too many": {"weights": np.ones(2 * n)},
        "a weight too few": {"weights": np.ones(n - 1)},
        "one weight": {"weights": np.ones(1)},
        "a number": {"weights": 2.0},
        "zero everywhere": {"weights": np.zeros(n)},
        "negative in the last share": {"weights": np.where(np.arange(n) == n - 1, -1.0, 1.0)},
        "not finite in the last share": {"weights": np.where(np.arange(n) == n - 1, np.nan, 1.0)},
        "Hessians zero in a share": {"loss": H},
        "of different ranks": {"loss": low_rank},
        "Hessians zero but of one sample": {"loss": np.where(np.eye(n)[0][:, None, None] > 0, np.eye(2), 0.0)},
        "Hessians in a list": {"loss": list(roots @ roots.transpose(0, 2, 1))},
        "Hessians as a tuple": {"loss": tuple(roots @ roots.transpose(0, 2, 1))},
        "a Hessian too many": {"loss": np.tile(np.eye(2), (n + 1, 1, 1))},
        "many Hessians too many": {"loss": np.tile(np.eye(2), (3 * n, 1, 1))},
        "one Hessian": {"loss": np.eye(2)},
        "one Hessian of the last share not symmetric": {"loss": np.concatenate([H[:-1], [[[1.0, 1], [0, 1]]]])},
        "zero Hessians": {"loss": np.zeros((n, 2, 2))},
        "with weights": {"loss": H, "weights": rng.uniform(0, 1, n)},
        "weights that leave zero": {"loss": H, "weights": 1.0 * (np.arange(n) < n // 2)},
        "a number for a loss": {"loss": 3},
        "no loss": {"loss": None},
        "a misspelt loss": {"loss": "mes"},
        "softmax with weights of outputs": {"loss": "cross_entropy", "weights": np.ones((n, 2))},
        "samples in lists": {"X": rng.standard_normal((n, 3)).tolist()},
        "one sample, one axis": {"X": np.ones(3)},
        "other features": {"X": np.ones((n, 4))},
        "not finite samples": {"X": np.where(np.eye(n, 3) > 0, np.inf, 1.0)},
        "samples of float32": {"X": np.ones((n, 3), "float32")},
        "no network": {"net": "mlp"},
        "a bad method": {"method": "fast"},
        "a bad reduction": {"reduction": "none"},
        "no memory": {"memory_limit": -1.0},
    }


@pytest.mark.parametrize("n", [5, 8])
def test_what_one_operator_takes_or_refuses_shares_do_too(n):
    rng = np.random.default_rng(n)
    net, X = gn.mlp([3, 4, 2], "tanh", seed=0), rng.standard_normal((n, 3))
    for name, given in givens(n, rng).items():
        options = {"net": net, "X": X} | given

        def sharded(count, options=options):
            return gn.ShardedGaussNewton(devices=["cpu"] * count, **options)

        try:
            one = gn.GaussNewton(**options)
        except (TypeError, ValueError) as error:
            for count in (1, 2, 5):
                with pytest.raises(type(error)) as caught:
                    sharded(count)
                assert str(caught.value) == str(error), name
            continue
        expected = one.to_dense()
        for count in (1, 2, 5):
            found = sharded(count).to_dense()
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13 * np.abs(expected).max(), err_msg=name)


def test_a_module_that_changes_is_noticed():
    torch = pytest.importorskip("torch")
    module = torch.nn.Linear(3, 2).double()
    G = gn.ShardedGaussNewton(gn.from_torch(module), np.ones((4, 3)), ["cpu"] * 2)
    v = np.ones(G.shape[0])
    G @ v
    with torch.no_grad():
        module.weight.add_(1)
    with pytest.raises(RuntimeError):
        G @ v


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
