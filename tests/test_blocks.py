"""The diagonal blocks of layers against explicit Jacobians: products, duals, spectra, tables."""

from __future__ import annotations

import numpy as np
import oracles
import pytest
import torch_layers

import gnfast as gn

EPS = np.finfo(np.float64).eps


def rng(seed=0):
    return np.random.default_rng(seed)


def dense(out, into, bias=True, seed=1):
    draw = rng(seed)
    return gn.Dense(draw.standard_normal((out, into)) / np.sqrt(into), draw.standard_normal(out) if bias else None)


def image_layers():
    """Convolutions with groups and strides, normalisations, and a residual block with parameters on both ways."""
    draw = rng(4)
    norm = gn.BatchNorm(
        draw.uniform(0.5, 2, 4), draw.standard_normal(4), draw.standard_normal(4), draw.uniform(1, 2, 4)
    )
    body = [
        gn.Conv2d(draw.standard_normal((6, 4, 3, 3)) / 6, draw.standard_normal(6), padding=1),
        gn.Activation("tanh"),
    ]
    return [
        gn.Conv2d(draw.standard_normal((4, 1, 2, 3)) / 2, groups=2, stride=(1, 2)),
        norm,
        gn.Activation("gelu"),
        gn.Residual(body, shortcut=[gn.Scale(0.5), gn.Conv2d(draw.standard_normal((6, 4, 1, 1)) / 2)], scale=0.7),
        gn.Pool("average", 2),
        gn.Flatten(),
        gn.LayerNorm(draw.standard_normal(12)),
        dense(3, 12, seed=5),
    ]


IMAGES = rng(6).standard_normal((5, 2, 5, 7))
CASES = {
    "chain": (lambda: gn.mlp([4, 9, 6, 3], "tanh", bias=True, seed=2), rng(1).standard_normal((7, 4))),
    "no bias": (lambda: gn.mlp([4, 9, 3], "relu", seed=2), rng(1).standard_normal((11, 4))),
    "linear": (lambda: gn.mlp([4, 5, 3], "identity", skip=0.5, seed=2), rng(1).standard_normal((6, 4))),
    "one layer": (lambda: gn.mlp([5, 2], seed=3), rng(2).standard_normal((3, 5))),
    "images": (lambda: gn.Network(image_layers()), IMAGES),
    "batch": (
        lambda: gn.Network([dense(6, 3), gn.BatchNorm(rng(7).uniform(1, 2, 6), training=True), dense(2, 6, False)]),
        rng(8).standard_normal((6, 3)),
    ),
}


def scaled_rows(net, X, loss):
    """S (n k, p) with G = S^T S."""
    F, J = torch_layers.forward(net, X), torch_layers.jacobian(net, X)
    R = oracles.hessian_root(loss, F)
    return np.einsum("iab,iap->ibp", R, J.reshape(*R.shape[:2], -1)).reshape(J.shape) / np.sqrt(len(X))


def close(found, expected):
    scale = max(1e-3, float(np.abs(expected).max(initial=0)))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11 * scale)


def check(G, S):
    """Every layer's block, and what its Gram matrices add up to."""
    total = 0
    for part in G.layers():
        S_l, block = S[:, part.own], G.block(part)
        V = np.asfortranarray(rng(2).standard_normal((part.size, 3)))
        U = np.asfortranarray(rng(3).standard_normal((len(S), 2)))
        assert block.shape == (part.size, part.size)
        close(block @ V, S_l.T @ (S_l @ V))
        close(block.to_dense(), S_l.T @ S_l)
        close(block.diagonal(), (S_l**2).sum(0))
        own = block.gram()
        lifted = own.lift(np.asfortranarray(np.eye(own.shape[0])))
        close(lifted @ lifted.T, S_l.T @ S_l)
        close(own.to_dense(), lifted.T @ lifted)
        close(own.diagonal(), (lifted**2).sum(0))
        close(own.restrict(np.ascontiguousarray(V.T)), V.T @ lifted)
        if G.loss == "mse":  # whose rows are those of S, not others with the same product
            close(own.to_dense(), S_l @ S_l.T)
            close(own @ U, S_l @ (S_l.T @ U))
        total = total + own.to_dense()
        values = oracles.nonzero(S_l.T @ S_l, 1e-9)
        assert block.dual().shape[0] == min(part.size, own.shape[0])
        if len(values):
            found = gn.cond(block)
            assert found.rank == len(values) == int(gn.rank(block))
            assert found.value == pytest.approx(values[-1] / values[0], rel=1e-6)
            assert found.lower <= found.value <= found.upper
            top, vectors = gn.eigsh(block, k=1)
            assert top == pytest.approx(values[-1:], rel=1e-9)
            close(S_l.T @ (S_l @ vectors), vectors * top)
        assert gn.trace(block).value == pytest.approx((S_l**2).sum(), rel=1e-9, abs=1e-12)
    close(total, G.gram(reduced=True).to_dense())


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize("name", CASES)
def test_blocks_are_those_of_the_explicit_matrix(name, loss):
    make, X = CASES[name]
    net = make()
    G, S = gn.GaussNewton(net, X, loss), scaled_rows(net, X, loss)
    assert [part.own.start for part in G.layers()][1:] == [part.own.stop for part in G.layers()][:-1]
    assert sum(part.size for part in G.layers()) == G.shape[0]
    close(G.diagonal(), (S**2).sum(0))
    assert G.diagonal().dtype == np.float64
    check(G, S)


@pytest.mark.parametrize("method", ["usual", "stored"])
def test_with_the_rows_stored_and_without(method):
    net = gn.Network(image_layers())
    check(gn.GaussNewton(net, IMAGES, "cross_entropy", method=method), scaled_rows(net, IMAGES, "cross_entropy"))


@pytest.mark.parametrize("name", ["chain", "images"])
def test_pruned(name):
    make, X = CASES[name]
    net = gn.prune(make(), 0.6)
    S = scaled_rows(gn.Network(net.layers), X, "mse")[:, net.kept]
    G = gn.GaussNewton(net, X)
    assert sum(part.size for part in G.layers()) == net.num_parameters
    check(G, S)


def test_a_layer_without_parameters_left():
    layers = [dense(3, 4, False), gn.Dense(np.zeros((2, 3)))]
    G = gn.GaussNewton(gn.PrunedNetwork(layers, np.arange(12)), rng().standard_normal((3, 4)))
    assert [part.size for part in G.layers()] == [12, 0]
    with pytest.raises(ValueError, match=r"layer 'layers.1' has no parameters left"):
        G.block(1)


def test_dead_units_and_single_precision():
    first = gn.Dense(np.full((4, 3), -1.0, np.float32))
    net = gn.Network([first, gn.Activation("relu"), gn.Dense(np.ones((2, 4), np.float32))])
    G = gn.GaussNewton(net, np.abs(rng().standard_normal((5, 3))).astype(np.float32))
    assert not G.block(0).to_dense().any()
    with pytest.raises(ValueError, match="largest eigenvalue is 0"):
        gn.cond(G.block(0))
    net = gn.mlp([4, 8, 3], "tanh", dtype="float32", seed=1)
    X = rng(1).standard_normal((6, 4)).astype(np.float32)
    S = scaled_rows(
        gn.Network(net.layers).with_parameters([w.astype(float) for w in net.parameters()]), X.astype(float), "mse"
    )
    for part in gn.GaussNewton(net, X).layers():
        block = gn.GaussNewton(net, X).block(part).to_dense()
        assert block.dtype == np.float32
        np.testing.assert_allclose(block, S[:, part.own].T @ S[:, part.own], atol=1e-5)


@pytest.mark.parametrize("name", ["chain", "images", "batch"])
def test_spectra_of_all_layers(name):
    make, X = CASES[name]
    net = make()
    G, S = gn.GaussNewton(net, X, "cross_entropy"), scaled_rows(net, X, "cross_entropy")
    layers = G.layers()
    found, spectra = gn.by_layer.cond(G), gn.by_layer.spectra(G)
    assert list(found) == list(spectra) == [part.name for part in layers]
    for part in layers:
        exact = np.linalg.eigvalsh(S[:, part.own].T @ S[:, part.own])
        values = oracles.nonzero(S[:, part.own].T @ S[:, part.own], 1e-9)
        assert found[part.name].value == pytest.approx(values[-1] / values[0], rel=1e-6)
        assert len(spectra[part.name]) == G.block(part).dual().shape[0]
        count = min(len(exact), len(spectra[part.name]))
        close(spectra[part.name][-count:], exact[-count:])
        line = next(line for line in str(found).splitlines() if f" {part.name} " in line).split()
        row = dict(zip(str(found).splitlines()[0].split(), line, strict=False))
        assert float(row["kappa"]) == pytest.approx(values[-1] / values[0], rel=1e-3)
        assert float(row["lambda_max"]) == pytest.approx(values[-1], rel=1e-3)
        assert float(row["lambda_min"]) == pytest.approx(values[0], rel=1e-3)
        assert int(row["rank"]) == len(values)
    assert list(gn.by_layer.cond(G, layers[1:])) == list(found)[1:]
    assert "kappa" not in str(layers), "a value, which nobody changes"
    assert f"{spectra[layers[0].name][-1]:.4g}" in str(spectra)


def test_layers_without_a_spectrum_are_left_out():
    first = gn.Dense(np.full((4, 3), -1.0))  # units that see no sample, so that no gradient passes either
    net = gn.Network([first, gn.Activation("relu"), gn.Dense(np.ones((2, 4)), np.ones(2)), gn.Dense(np.ones((2, 2)))])
    G = gn.GaussNewton(net, np.abs(rng().standard_normal((5, 3))))
    found = gn.by_layer.cond(G)
    assert list(found) == ["layers.2", "layers.3"]
    assert not gn.by_layer.spectra(G)["layers.0"].any()
    assert " - " in str(found).splitlines()[1]
    pruned = gn.PrunedNetwork([gn.Dense(np.zeros((3, 4))), dense(2, 3)], np.arange(12, 20))
    own = gn.GaussNewton(pruned, rng().standard_normal((3, 4)))
    assert list(gn.by_layer.cond(own)) == list(gn.by_layer.spectra(own)) == ["layers.1"]


def test_the_table_and_names():
    G = gn.GaussNewton(gn.Network(image_layers()), IMAGES)
    layers = G.layers()
    names = ["layers.0", "layers.1", "layers.3.layers.0", "layers.3.shortcut.1", "layers.6", "layers.7"]
    assert [part.name for part in layers] == names
    assert [part.index for part in layers] == list(range(6))
    assert layers[-1].layer is G.net.layers[-1] and len(layers[2:]) == 4
    assert "layers.3.shortcut.1" in str(layers) and len(str(layers).splitlines()) == 7
    assert G.block(-1).part == G.block("layers.7").part == layers[5]
    assert "layers.7" in repr(G.block(5)) and "layers.7" in repr(G.block(5).gram())


@pytest.mark.parametrize(
    ("layer", "kind", "message"),
    [
        (6, ValueError, "layer is 6"),
        ("layers.2", ValueError, "layer is 'layers.2'"),
        (1.5, TypeError, "layer is 1.5"),
    ],
)
def test_no_such_layer(layer, kind, message):
    with pytest.raises(kind, match=message):
        gn.GaussNewton(gn.Network(image_layers()), IMAGES).block(layer)


def test_memory_limit():
    X = rng().standard_normal((6, 4))
    G = gn.GaussNewton(gn.mlp([4, 50, 3], seed=1), X, memory_limit=6e3)
    with pytest.raises(MemoryError, match=r"use gnfast\.diagonal"):
        G.diagonal()


def test_on_a_device(device):
    for net, X in (
        (gn.mlp([4, 9, 3], "tanh", bias=True, seed=2), rng(1).standard_normal((7, 4))),
        (gn.Network(image_layers()), IMAGES),
    ):
        G = gn.GaussNewton(net, X, "cross_entropy")
        there = device.on(G)
        close(there.diagonal(), G.diagonal())
        for part in there.layers():
            V = np.asfortranarray(rng(2).standard_normal((part.size, 3)))
            block, own = G.block(part.index), there.block(part.index)
            close(own @ V, block @ V)
            close(own.gram().to_dense(), block.gram().to_dense())
            assert device.dressed(gn.cond)(own).value == pytest.approx(gn.cond(block).value, rel=1e-8)
