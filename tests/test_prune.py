"""Pruned networks: every operator and dual against explicit Jacobians whose pruned columns are left out."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import oracles
import pytest

import gnfast as gn

N = 6


def dense_net(activation: str = "tanh") -> Any:
    return gn.mlp([4, 9, 3], activation=activation, bias=True, seed=2)


def conv_net() -> Any:
    rng = np.random.default_rng(1)
    body = [gn.Conv2d(rng.standard_normal((2, 2, 3, 3)), rng.standard_normal(2), padding=1), gn.Activation("tanh")]
    return gn.Network(
        [
            gn.Conv2d(rng.standard_normal((2, 1, 3, 3))),
            gn.Residual(body),
            gn.Flatten(),
            gn.Dense(rng.standard_normal((3, 2 * 3 * 2))),
        ]
    )


CASES = {"dense": (dense_net, (N, 4)), "conv": (conv_net, (N, 1, 5, 4))}


def case(name: str, loss: str = "mse") -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The pruned network, X, J of what is kept, R^T J and G from that of the same network without a mask."""
    make, shape = CASES[name]
    X = np.random.default_rng(3).standard_normal(shape)
    net = gn.prune(make(), 0.4)
    whole = gn.Network(net.layers)
    J = gn.GaussNewton(whole, X).jacobian() @ np.asfortranarray(np.eye(whole.num_parameters))
    J = J[:, net.kept]
    R = oracles.hessian_root(loss, whole(X))
    RJ = np.einsum("iab,iap->ibp", R, J.reshape(N, 3, -1)).reshape(J.shape) / np.sqrt(N)
    return net, X, J, RJ, RJ.T @ RJ


def test_the_unpruned_jacobian_is_the_oracles() -> None:
    net, X, J, _, _ = case("dense")
    assert np.abs(oracles.jacobian(net, X)[:, net.kept] - J).max() <= 1e-12


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_operators_leave_pruned_weights_out(name: str, loss: str) -> None:
    net, X, J, RJ, D = case(name, loss)
    G = gn.GaussNewton(net, X, loss)
    assert G.shape == D.shape == (net.num_parameters,) * 2
    rng = np.random.default_rng(4)
    V, U = (np.asfortranarray(rng.standard_normal((size, 3))) for size in (len(D), N * 3))
    tol = 1e-12 * np.abs(D).max() * len(D)
    assert np.abs(G @ V - D @ V).max() <= tol
    assert np.abs(G.jacobian() @ V - J @ V).max() <= tol
    assert np.abs(G.jacobian().T @ U - J.T @ U).max() <= tol
    K = G.gram()
    assert np.abs(K @ U - RJ @ (RJ.T @ U)).max() <= tol
    assert np.abs(K.lift(U) - RJ.T @ U).max() <= tol
    assert np.abs(K.diagonal() - np.einsum("ij,ij->i", RJ, RJ)).max() <= tol
    assert np.abs(K.to_dense() - RJ @ RJ.T).max() <= tol
    assert np.abs(gn.diagonal(G).values - D.diagonal()).max() <= tol


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_solvers_see_the_pruned_spectrum(name: str, loss: str) -> None:
    net, X, _, _, D = case(name, loss)
    G = gn.GaussNewton(net, X, loss)
    values = oracles.nonzero(D, 1e-9)
    found = gn.cond(G)
    assert found.rank == len(values) == int(gn.rank(G))
    assert found.value == pytest.approx(values[-1] / values[0], rel=1e-7)
    assert found.upper >= found.value >= found.lower
    top, vectors = gn.eigsh(G, k=2)
    assert top == pytest.approx(values[-2:], rel=1e-9)
    assert np.abs(D @ vectors - vectors * top).max() <= 1e-7 * top[-1]
    assert gn.trace(G).value == pytest.approx(D.trace(), rel=1e-10)
    x, _ = gn.solve(G, D[:, 0], damping=0.1)
    assert np.abs(D @ x + 0.1 * x - D[:, 0]).max() <= 1e-7 * np.abs(D).max()


def test_float32() -> None:
    net = dense_net()
    X = np.random.default_rng(7).standard_normal((N, 4)).astype(np.float32)
    single = gn.prune(net.with_parameters([array.astype(np.float32) for array in net.parameters()]), 0.3)
    G, D = gn.GaussNewton(single, X), gn.GaussNewton(gn.prune(net, 0.3), X.astype(np.float64))
    assert (single.kept == gn.prune(net, 0.3).kept).all()
    assert G.gram().diagonal() == pytest.approx(D.gram().diagonal(), rel=1e-4)
    assert gn.cond(G).value == pytest.approx(gn.cond(D).value, rel=1e-2)


def test_a_linear_network_has_no_structured_dual_once_pruned() -> None:
    net = gn.prune(dense_net("identity"), 0.5)
    X = np.random.default_rng(5).standard_normal((N, 4))
    G = gn.GaussNewton(net, X)
    assert G.plan().space != "linear map"
    assert "the network is pruned" in str(G.plan())
    with pytest.raises(ValueError, match="the network is pruned; use gram"):
        G.linear_dual()
    with pytest.warns(gn.bounds.NoBoundWarning, match=r"the network is pruned"):
        assert gn.bounds.all(net, X) == []
    with pytest.raises(ValueError, match="not for a pruned one"):
        gn.bounds.deep(net, X)


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_the_smallest_weights_go(scope: str) -> None:
    net = dense_net()
    pruned = gn.prune(net, 0.25, scope)
    weights, left = ([layer.weight.ravel() for layer in each.dense] for each in (net, pruned))
    if scope == "global":
        weights, left = [np.concatenate(weights)], [np.concatenate(left)]
    for before, after in zip(weights, left, strict=True):
        gone = after == 0
        assert gone.sum() == round(0.25 * before.size)
        assert np.abs(before[gone]).max() <= np.abs(before[~gone]).min()
        assert (after[~gone] == before[~gone]).all()
    assert pruned.num_parameters == len(pruned.kept) == net.num_parameters - sum((w == 0).sum() for w in left)
    assert gn.prune(net, 0.0).num_parameters == net.num_parameters


def test_pruning_again_pickling_and_new_values() -> None:
    once = gn.prune(dense_net(), 0.5)
    twice = gn.prune(once, 0.5)
    assert set(twice.kept) < set(once.kept)
    weights = 4 * 9 + 9 * 3
    assert twice.num_parameters == 12 + weights - round(weights * 0.5) - round((weights - round(weights * 0.5)) * 0.5)
    again = pickle.loads(pickle.dumps(twice))
    assert (again.kept == twice.kept).all()
    ones = twice.with_parameters([np.ones(array.shape) for array in twice.parameters()])
    assert sum(array.sum() for array in ones.parameters()) == twice.num_parameters
    assert (ones.kept == twice.kept).all()


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (("net", 0.5), TypeError, "net is of type str"),
        ((dense_net(), 1.0), ValueError, "fraction is 1.0 but must be below 1"),
        ((dense_net(), -0.1), ValueError, "fraction is -0.1"),
        ((dense_net(), 0.5, "channel"), ValueError, "scope is 'channel'"),
    ],
)
def test_wrong_arguments(arguments: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        gn.prune(*arguments)


def test_a_mask_that_does_not_fit(tmp_path: Any) -> None:
    net = dense_net()
    with pytest.raises(ValueError, match="is not kept is not zero"):
        gn.PrunedNetwork(net.layers, [0, 1])
    with pytest.raises(ValueError, match="must be ascending"):
        gn.PrunedNetwork(net.layers, [1, 1])
    with pytest.raises(ValueError, match="one position from 0"):
        gn.PrunedNetwork(net.layers, [10**6])
    with pytest.raises(ValueError, match="cannot be saved"):
        gn.prune(net, 0.5).save(tmp_path / "net.safetensors")
