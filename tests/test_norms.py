"""Batch and layer normalisation against PyTorch's Jacobians, alone, in nests, and where the samples are coupled."""

from __future__ import annotations

import copy

import numpy as np
import oracles
import pytest
import torch_layers

import gnfast as gn


def rng(seed=0):
    return np.random.default_rng(seed)


def close(found, expected):
    scale = max(1e-3, float(np.abs(expected).max(initial=0)))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10 * scale)


def batch_norm(c, parameters="weight bias", training=False, seed=0, **options):
    draw = rng(seed)
    arrays = {name: draw.uniform(0.5, 2, c) * draw.choice([-1, 1], c) for name in parameters.split()}
    if not training:
        arrays |= {"mean": draw.standard_normal(c), "var": draw.uniform(0.3, 2, c)}
    return gn.BatchNorm(**arrays, training=training, **options)


def layer_norm(shape, parameters="weight bias", seed=0, **options):
    draw = rng(seed)
    return gn.LayerNorm(**{name: draw.standard_normal(shape) for name in parameters.split()}, **options)


def dense(out, into, seed=1):
    return gn.Dense(rng(seed).standard_normal((out, into)) / np.sqrt(into), rng(seed).standard_normal(out))


def check(net, X, loss="cross_entropy", coupled=False, **options):
    """All that an operator gives."""
    F, J = torch_layers.forward(net, X), torch_layers.jacobian(net, X)
    close(net(X), F)
    R = oracles.hessian_root(loss, F)
    S = np.einsum("iab,iap->ibp", R, J.reshape(*R.shape[:2], -1)).reshape(J.shape) / np.sqrt(len(X))
    G = gn.GaussNewton(net, X, loss, **options)
    V = np.asfortranarray(rng(2).standard_normal((J.shape[1], 3)))
    U = np.asfortranarray(rng(3).standard_normal((J.shape[0], 2)))
    close(G.jacobian() @ V, J @ V)
    close(G.jacobian().T @ U, J.T @ U)
    close(G @ V, S.T @ (S @ V))
    K = G.gram()
    close(K @ U, S @ (S.T @ U))
    close(K.lift(U), S.T @ U)
    close(K.diagonal(), (S**2).sum(1))
    close(K.to_dense(), S @ S.T)
    close(gn.diagonal(G).values, (S**2).sum(0))
    assert gn.trace(G).value == pytest.approx((S**2).sum(), rel=1e-10)
    if coupled:
        n = len(X)
        rows = J.reshape(n, -1, J.shape[1])
        alone = torch_layers.jacobian(net, X[: max(1, n // 2)]) if n > 3 else None
        assert alone is None or not np.allclose(alone, rows[: n // 2].reshape(alone.shape))
        assert G.plan().sample_block == n
    return G, S


SHAPES = [(5, 3), (1, 1), (2, 1), (6, 2, 4), (3, 1, 1), (4, 3, 2, 5), (7, 1, 3, 1), (70, 2, 1, 3)]


@pytest.mark.parametrize("parameters", ["weight bias", "weight", "bias", ""])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_batch_norm_is_that_of_torch(shape, training, parameters):
    n, c, *rest = shape
    if training and n * int(np.prod(rest)) == 1:
        return  # one value a channel: PyTorch refuses it
    X, width = 1 + 2 * rng(4).standard_normal(shape), int(np.prod(shape[1:]))
    norm = batch_norm(c, parameters, training)
    between = [gn.Flatten()] if rest else []
    first = gn.Conv2d(rng(5).standard_normal((c, c, 1, 1))) if len(rest) == 2 else gn.Scale(1.3)
    check(gn.Network([first, norm, gn.Activation("tanh"), *between, dense(3, width)]), X, coupled=training and n > 3)
    check(gn.Network([*between, dense(c, width), norm]), X, "mse") if c > 1 or n > 1 else None


@pytest.mark.parametrize("parameters", ["weight bias", "weight", "bias", ""])
@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("shape", [shape for shape in SHAPES if np.prod(shape[1:]) > 1])
def test_layer_norm_is_that_of_torch(shape, axes, parameters):
    if axes >= len(shape):
        return
    last = shape[-axes:]
    norm = layer_norm(last, parameters, normalized_shape=None if parameters else last)
    X, width = 1 + 2 * rng(4).standard_normal(shape), int(np.prod(shape[1:]))
    # over one value alone the inputs do not matter: torch's derivative there is 0 up to rounding times 1 / sqrt(eps)
    norm = norm if np.prod(last) > 1 else layer_norm(last, parameters, normalized_shape=last, eps=1.0)
    check(gn.Network([gn.Scale(0.7), norm, gn.Activation("tanh"), gn.Flatten(), dense(3, width)]), X)


def test_a_layer_norm_of_nothing_takes_whole_samples():
    X = rng().standard_normal((4, 3, 2, 2))
    check(gn.Network([gn.LayerNorm(), gn.Flatten(), dense(3, 12)]), X)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("method", ["auto", "usual"])
def test_nests_with_convolutions_and_residual_blocks(training, method):
    draw = rng(7)

    def conv(out, into, **options):
        return gn.Conv2d(draw.standard_normal((out, into, 3, 3)) / 3, padding=1, **options)

    block = gn.Residual(
        [
            conv(4, 3, stride=2),
            batch_norm(4, training=training),
            gn.Activation("relu"),
            conv(4, 4),
            batch_norm(4, training=training, seed=1),
        ],
        [gn.Conv2d(draw.standard_normal((4, 3, 1, 1)), stride=2), batch_norm(4, "weight", training, seed=2)],
        scale=0.6,
    )
    inner = gn.Residual([layer_norm((4, 3, 2)), gn.Activation("gelu"), gn.Residual([batch_norm(4, "", training)])])
    head = [gn.Pool("global_average"), gn.Flatten(), layer_norm((4,), "weight"), dense(3, 4)]
    net = gn.Network([conv(3, 2), block, gn.Activation("silu"), inner, *head])
    G, S = check(net, draw.standard_normal((6, 2, 5, 4)), coupled=training, method=method)
    found = gn.eigsh(G, k=3, return_eigenvectors=False)
    close(np.sort(found), oracles.spectrum(S @ S.T)[-3:])


def test_given_statistics_do_not_couple_and_block_sizes_do_not_matter():
    layers = [dense(9, 5), batch_norm(9), gn.Activation("tanh"), layer_norm((9,)), dense(4, 9, 2)]
    net, X = gn.Network(layers), rng().standard_normal((33, 5))
    free = gn.GaussNewton(net, X, method="usual")
    V = np.asfortranarray(rng(1).standard_normal((free.shape[0], 4)))
    least = free.plan().memory
    for share in (0.5, 0.6, 0.8):
        small = gn.GaussNewton(net, X, method="usual", memory_limit=share * least)
        assert (
            small.plan().sample_block * small.plan().vector_block < free.plan().sample_block * free.plan().vector_block
        )
        close(small @ V, free @ V)


def test_coupled_samples_take_the_whole_batch_or_are_refused():
    net = gn.Network([dense(9, 5), batch_norm(9, training=True), gn.Activation("tanh"), dense(4, 9, 2)])
    X = rng().standard_normal((33, 5))
    free = gn.GaussNewton(net, X)
    assert free.plan().method == "usual"
    V = np.asfortranarray(rng(1).standard_normal((free.shape[0], 4)))
    limit, kept = free.plan().memory, 0
    while True:  # down to the least that is taken
        try:
            small = gn.GaussNewton(net, X, memory_limit=limit)
        except MemoryError as error:
            assert "all samples at once, which batch normalisation couples" in str(error)
            break
        assert small.plan().sample_block == 33
        close(small @ V, free @ V)
        limit, kept = limit * 0.8, kept + 1
    assert kept > 1
    with pytest.raises(ValueError, match="couples the samples, so that each row"):
        gn.GaussNewton(net, X, method="stored")


def test_float32_is_near_float64():
    X = 3 + rng().standard_normal((20, 3, 4, 4)).astype("float32")
    net = gn.Network([batch_norm(3, training=True), layer_norm((3, 4, 4)), gn.Flatten(), dense(2, 48)])
    single = net.with_parameters([a.astype("float32") for a in net.parameters()])
    G, S = gn.GaussNewton(net, X.astype("float64")), gn.GaussNewton(single, X)
    V = np.asfortranarray(rng(1).standard_normal((G.shape[0], 3)))
    found, expected = S @ V.astype("float32"), G @ V
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def test_layers_are_values(tmp_path):
    pytest.importorskip("safetensors")
    norms = [batch_norm(4), batch_norm(4, "weight", True), gn.Activation("relu"), layer_norm((4,)), gn.LayerNorm()]
    net = gn.Network([dense(4, 3), *norms, gn.Residual([batch_norm(4, "bias")])])
    X = rng().standard_normal((5, 3))
    assert [a.shape for a in net.parameters()] == [(4, 3), *[(4,)] * 7]
    assert not net.is_linear
    net.save(tmp_path / "net.safetensors")
    for again in (gn.load(tmp_path / "net.safetensors"), copy.deepcopy(net), net.with_parameters(net.parameters())):
        np.testing.assert_array_equal(again(X), net(X))
        assert repr(again) == repr(net)
    other = net.with_parameters([2 * a for a in net.parameters()])
    close(other(X), torch_layers.forward(other, X))
    assert "BatchNorm(4, weight, training)" in repr(net)
    with pytest.raises(ValueError, match="read-only"):
        norms[0].mean[0] = 1


ONE = np.ones(3)
MISTAKES = {
    "no mean": (lambda: gn.BatchNorm(ONE), ValueError, "mean is None but .* training=True"),
    "no var": (lambda: gn.BatchNorm(mean=ONE), ValueError, "var is None"),
    "sizes": (lambda: gn.BatchNorm(ONE, np.ones(4), training=True), ValueError, r"bias has shape \(4,\).*\(3,\)"),
    "dtypes": (lambda: gn.BatchNorm(ONE, ONE.astype("float32"), training=True), TypeError, "bias has dtype float32"),
    "var": (lambda: gn.BatchNorm(mean=ONE, var=-ONE), ValueError, r"var has an entry of -1.*must be positive"),
    "eps": (lambda: gn.BatchNorm(training=True, eps=-1), ValueError, "eps is -1 but must be at least 0"),
    "training": (lambda: gn.BatchNorm(training=1), TypeError, "training is 1"),
    "shapes": (lambda: gn.LayerNorm(ONE, normalized_shape=4), ValueError, r"weight has shape \(3,\)"),
    "bias": (lambda: gn.LayerNorm(ONE, np.ones(4)), ValueError, r"bias has shape \(4,\)"),
    "channels": (
        lambda: gn.Network([dense(4, 3), batch_norm(3)])(np.ones((2, 3))),
        ValueError,
        r"layers\[1\], BatchNorm, normalises 3 channels but gets samples of shape \(4,\)",
    ),
    "axes": (
        lambda: gn.Network([dense(4, 3), layer_norm((3,))])(np.ones((2, 3))),
        ValueError,
        r"LayerNorm, normalises the last axes \(3,\) but gets",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_told(name):
    make, kind, words = MISTAKES[name]
    with pytest.raises(kind, match=words):
        make()
