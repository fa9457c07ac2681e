"""Copies: pickled, deep and shallow ones compute the same, or say in one sentence why there are none."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

import gnfast as gn
from gnfast import _arrays

RNG = np.random.default_rng(0)
X = RNG.standard_normal((6, 4))
MATRIX = np.diag(np.arange(1.0, 8))
WAYS = {"pickle": lambda made: pickle.loads(pickle.dumps(made)), "deepcopy": copy.deepcopy, "copy": copy.copy}


def multiply(V):  # at the top of a module: pickle finds it by its name
    return MATRIX @ V


def networks():
    W = RNG.standard_normal
    norm, block = gn.BatchNorm(np.ones(2), W(2), W(2), np.ones(2)), gn.Residual([gn.Dense(W((6, 6)))], scale=0.5)
    head = [gn.Conv1d(W((2, 1, 2)), W(2)), norm, gn.Activation("leaky_relu", 0.3), gn.Flatten()]
    conv = gn.Network([*head, block, gn.LayerNorm(np.ones(6)), gn.Dense(W((3, 6)))])
    mlp = gn.mlp([4, 5, 3], "tanh", seed=1, bias=True, skip=0.5)
    module = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3)).double()
    pruned, read = gn.prune(mlp, 0.3), gn.from_torch(module)
    return {"mlp": (mlp, X), "conv": (conv, X[:, None]), "pruned": (pruned, X), "module": (read, X)}


def operators():
    made = {}
    for name, (net, data) in networks().items():
        made[name] = gn.GaussNewton(net, data, reduction="sum", memory_limit=1e9)
    G = made["mlp"]
    blocks = RNG.standard_normal((6, 3, 2))
    stored = gn.GaussNewton(G.net, X, "cross_entropy", weights=RNG.uniform(0, 1, 6)).gram(reduced=True)
    stored.to_dense()
    L = gn.GaussNewton(gn.mlp([4, 5, 3], "identity", seed=1), X)
    conv = gn.GaussNewton(gn.Network([gn.Conv1d(RNG.standard_normal((2, 1, 2))), gn.Flatten()]), X[:, None])
    return made | {
        "blocks": gn.GaussNewton(G.net, X, blocks @ blocks.transpose(0, 2, 1), method="factored"),
        "float32": gn.GaussNewton(gn.mlp([4, 5, 3], seed=1, dtype="float32"), X.astype("float32")),
        "gram": G.gram(),
        "gram of a pruned one": made["pruned"].gram(),
        "stored gram": stored,
        "linear dual": L.linear_dual(),
        "convolutional dual": conv.linear_dual(),
        "wide limit": L.linear_dual().preconditioner(),
        "jacobian": G.jacobian(),
        "its adjoint": G.jacobian().T,
        "block": G.block(1),
        "gram of a block": G.block("layers.0").gram(),
        "kfac": G.kfac(),
        "inverse of kfac": G.kfac().inverse(0.1),
        "root of kfac": G.kfac().inverse_root(0.1),
        "preconditioned": G.preconditioned("block", 0.1),
        "preconditioned by an array": G.preconditioned(np.ones(G.shape[0])),
        "sharded": gn.ShardedGaussNewton(G.net, X, ["cpu"] * 2, "poisson", "sum", weights=RNG.uniform(0, 1, (6, 3))),
        "function": gn.operator(multiply, 7),
        "sum of SciPy's": G + 2 * G,
    }


@pytest.mark.parametrize("way", WAYS)
def test_operators(way):
    for name, op in operators().items():
        again = WAYS[way](op)
        assert type(again) is type(op) and again.shape == op.shape and again.dtype == op.dtype, name
        V = RNG.standard_normal((op.shape[1], 3))
        np.testing.assert_array_equal(again @ V, op @ V, err_msg=name)
        if hasattr(op, "device"):
            assert again.device is _arrays.CPU, name
            assert repr(again) == repr(op), name
            if way == "deepcopy" and getattr(op, "problem", None) is not None:
                assert not np.shares_memory(again.problem.X, op.problem.X), name
        if isinstance(op, gn.GaussNewton):
            assert (again.reduction, again.memory_limit, again.method) == (op.reduction, op.memory_limit, op.method)
            np.testing.assert_array_equal(again.diagonal(), op.diagonal())
        if hasattr(op, "space"):
            assert again.space == op.space and again.memory_limit == op.memory_limit, name
    assert WAYS[way](operators()["stored gram"]).stored


def test_deep_copies_share_nothing_and_shallow_ones_the_data():
    G = operators()["mlp"]
    deep, shallow = copy.deepcopy(G), copy.copy(G)
    assert not np.shares_memory(deep.X, G.X) and np.shares_memory(shallow.X, G.X)
    pairs = zip(deep.net.parameters(), G.net.parameters(), strict=True)
    assert not any(np.shares_memory(a, b) for a, b in pairs)
    K, twice = copy.deepcopy([G, G])
    assert K is twice, "what is met twice is copied once"


@pytest.mark.parametrize("way", WAYS)
def test_networks_results_and_trackers(way):
    for name, (net, data) in networks().items():
        again = WAYS[way](net)
        np.testing.assert_array_equal(again(data), net(data), err_msg=name)
        assert not again.parameters()[0].flags.writeable
    ops = operators()
    G = ops["mlp"]
    tracker = gn.Tracker(top=1, low=1)
    tracker.update(G)
    found = {
        "condition": gn.cond(G),
        "eigenvalues": gn.eigsh(G, 2, return_info=True),
        "trace": gn.trace(G),
        "diagonal": gn.diagonal(G),
        "density": gn.density(G),
        "logdet": gn.logdet(G, 0.1),
        "rank": gn.rank(G),
        "solution": gn.solve(G, np.ones(G.shape[0]), 0.1),
        "plan": G.plan(),
        "layers": G.layers(),
        "bounds": gn.bounds.all(ops["linear dual"].problem.net, X),
        "limit": gn.limits.gram(X, 3),
        "ensemble": gn.ensemble.linear([8], d=4, k=2, samples=3),
    }
    for name, one in found.items():
        assert repr(WAYS[way](one)) == repr(one), name
    copied, before = WAYS[way](tracker), len(tracker.history)
    np.testing.assert_allclose(copied.update(G), tracker.update(G), rtol=1e-6)
    assert copied.history[-1].warm
    assert way == "copy" or len(tracker.history) == before + 1, "a copy has a history of its own"


def test_what_is_not_copied_says_so():
    module = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3)).double()
    G = gn.interop.torch.GaussNewton(module, X=X)
    for op in (G, G.gram(), G.jacobian(), G.jacobian().T):
        for way in (pickle.dumps, copy.deepcopy):
            with pytest.raises(TypeError, match="is neither pickled nor deeply copied; pickle what it was made of"):
                way(op)
        twin = copy.copy(op)
        V = RNG.standard_normal((op.shape[1], 2))
        np.testing.assert_array_equal(twin @ V, op @ V)
    local = gn.operator(lambda V: 2 * V, 5)
    with pytest.raises((AttributeError, pickle.PicklingError), match="lambda"):  # pickle's own sentence, which names it
        pickle.dumps(local)
    np.testing.assert_array_equal(copy.deepcopy(local) @ np.eye(5), 2 * np.eye(5))
