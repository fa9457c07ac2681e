"""K-FAC's factors against NumPy's sums over samples, positions and outputs, and the approximation where it is exact."""

from __future__ import annotations

import layer_oracles
import numpy as np
import oracles
import pytest
from scipy.linalg import block_diag

import gnfast as gn


def rng(seed=0):
    return np.random.default_rng(seed)


def close(found, expected, rtol=1e-10):
    np.testing.assert_allclose(found, expected, rtol=0, atol=rtol * max(1e-3, float(np.abs(expected).max(initial=0))))


def matrix_of(kfac):
    """M, with each layer's weight and bias where the flat order has them."""
    return kfac @ np.asfortranarray(np.eye(kfac.shape[0], dtype=kfac.dtype))


def behind(weight_size, m, bias):
    """Where the entries of X (m, d + 1) are in a layer's parameters, its weight before its bias."""
    places = np.arange(weight_size).reshape(m, -1)
    return np.hstack([places, weight_size + np.arange(m)[:, None]]).ravel() if bias else places.ravel()


def expected(A, B, weight_size, bias):
    """B (x) A in the flat order: X -> B X A of row-major X."""
    places, out = behind(weight_size, len(B), bias), np.zeros((len(A) * len(B),) * 2)
    out[np.ix_(places, places)] = np.kron(B, A)
    return out


@pytest.mark.parametrize("loss", ["mse", "cross_entropy", "poisson", "gaussian_nll"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_dense_layers(loss, bias, reduction):
    net, X = gn.mlp([4, 7, 5, 4], "tanh", bias=bias, seed=1), rng(2).standard_normal((9, 4))
    kfac = gn.GaussNewton(net, X, loss, reduction=reduction).kfac()
    H = oracles.hessian(loss, net(X))
    inputs, backward = oracles.linearize(net, X)[0], oracles.backward(net, X)
    blocks = []
    for one, a, b, layer in zip(kfac.factors, inputs, backward, net.dense, strict=True):
        a = np.hstack([a, np.ones((9, 1))]) if bias else a
        B = np.einsum("iar,iab,ibs->rs", b, H, b) / (9 if reduction == "mean" else 1)
        close(one.A, a.T @ a / 9)
        close(one.B, B)
        blocks.append(expected(a.T @ a / 9, B, layer.weight.size, bias))
    close(matrix_of(kfac), block_diag(*blocks))


def convolutions(first_bias=True):
    draw = rng(3)
    return [
        gn.Conv2d(
            draw.standard_normal((6, 2, 2, 3)) / 3,
            draw.standard_normal(6) if first_bias else None,
            groups=2,
            stride=(1, 2),
            padding=1,
        ),
        gn.Activation("tanh"),
        gn.Conv2d(draw.standard_normal((2, 6, 1, 1)) / 2),
        gn.Flatten(),
        gn.Dense(draw.standard_normal((3, 2 * 5 * 3)) / 5, draw.standard_normal(3)),
    ]


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_convolutions_expand_their_positions(loss):
    layers, n = convolutions(), 5
    net, X = gn.Network(layers), rng(4).standard_normal((n, 4, 4, 5))
    found = list(gn.GaussNewton(net, X, loss).kfac().factors)
    H, x = oracles.hessian(loss, layer_oracles.forward(layers, X)), X
    for i, layer in enumerate(layers):
        z = layer_oracles.forward([layer], x)
        if hasattr(layer, "weight"):
            channels, T, groups = z.shape[1], int(np.prod(z.shape[2:])), getattr(layer, "groups", 1)
            directions = np.eye(z[0].size).reshape(-1, 1, *z.shape[1:]) * np.ones((1, n, *(1,) * (z.ndim - 1)))
            slopes = layer_oracles.along(layers[i + 1 :], z, directions)  # of the outputs, (z, n, k)
            slopes = slopes.reshape(channels, T, n, -1)
            moved = layer_oracles.own(layer, x).reshape(-1, n, channels, T)
            for g in range(groups):
                m = channels // groups
                weights = np.arange(layer.weight[0].size) + g * m * layer.weight[0].size  # of the group's first channel
                a = moved[weights, :, g * m]
                if layer.bias is not None:
                    a = np.concatenate([a, np.ones((1, *a.shape[1:]))])
                b = slopes[g * m : (g + 1) * m]
                one = found.pop(0)
                close(one.A, np.einsum("dit,eit->de", a, a) / n)
                close(one.B, np.einsum("otia,iab,ptib->op", b, H, b) / (n * T))
        x = z
    assert not found


@pytest.mark.parametrize("first_bias", [False, True])
def test_m_is_its_factors_in_their_places(first_bias):
    net, X = gn.Network(convolutions(first_bias)), rng(4).standard_normal((5, 4, 4, 5))
    kfac = gn.GaussNewton(net, X).kfac()
    M, one = matrix_of(kfac), kfac.factors
    rows = [np.arange(g * 36, (g + 1) * 36) for g in range(2)]
    if first_bias:
        rows = [np.hstack([r.reshape(3, 12), 72 + 3 * g + np.arange(3)[:, None]]).ravel() for g, r in enumerate(rows)]
    for r, factors in zip(rows, one[:2], strict=True):
        close(M[np.ix_(r, r)], np.kron(factors.B, factors.A))
    first = 72 + 6 * first_bias
    assert not M[np.ix_(rows[0], rows[1])].any() and not M[first:, :first].any()
    close(M[first : first + 12, first : first + 12], np.kron(one[2].B, one[2].A))
    close(M[first + 12 :, first + 12 :], expected(one[3].A, one[3].B, 90, True))


def test_one_sample_is_exact_for_dense_layers():
    net, X = gn.mlp([4, 6, 3], "gelu", bias=True, seed=1), rng(2).standard_normal((1, 4))
    for loss in ("mse", "cross_entropy"):
        G = gn.GaussNewton(net, X, loss)
        M = matrix_of(G.kfac())
        for part in G.layers():
            close(M[part.own, part.own], G.block(part).to_dense())


def test_one_linear_layer_is_exact_for_any_samples():
    net, X = gn.mlp([5, 3], bias=True, seed=1), rng(2).standard_normal((8, 5))
    G = gn.GaussNewton(net, X)
    close(matrix_of(G.kfac()), G.to_dense())
    assert gn.cond(G, preconditioner="kfac").value == pytest.approx(1, rel=1e-8)


def test_normalisations_and_residual_blocks():
    draw = rng(5)
    norm = gn.BatchNorm(draw.uniform(1, 2, 6), draw.standard_normal(6), draw.standard_normal(6), draw.uniform(1, 2, 6))
    inner = gn.Dense(draw.standard_normal((6, 6)), draw.standard_normal(6))
    net = gn.Network(
        [
            gn.Dense(draw.standard_normal((6, 4))),
            norm,
            gn.Residual([inner, gn.Activation("tanh")], shortcut=[gn.Dense(draw.standard_normal((6, 6)))]),
            gn.Dense(draw.standard_normal((2, 6))),
        ]
    )
    for n in (1, 7):
        G = gn.GaussNewton(net, draw.standard_normal((n, 4)), "cross_entropy")
        M, exact = matrix_of(G.kfac()), [i for i, part in enumerate(G.layers()) if n == 1 or part.layer is norm]
        assert len(exact) == (5 if n == 1 else 1)
        for i in exact:
            own = G.layers()[i].own
            close(M[own, own], G.block(i).to_dense())


@pytest.mark.parametrize("damping", [0.0, 0.3])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_inverses(damping, dtype):
    net = gn.Network(convolutions())
    X = rng(4).standard_normal((5, 4, 4, 5))
    if dtype == "float32":
        net, X = net.with_parameters([w.astype(dtype) for w in net.parameters()]), X.astype(dtype)
    kfac = gn.GaussNewton(net, X).kfac()
    M, tol = matrix_of(kfac).astype(float), 1e-9 if dtype == "float64" else 2e-3
    root = matrix_of(kfac.inverse_root(damping)).astype(float)
    assert matrix_of(kfac.inverse_root(damping)).dtype == dtype
    close(root, root.T, tol)
    close(root @ root, matrix_of(kfac.inverse(damping)).astype(float), tol)
    if damping:
        close(root @ root, np.linalg.inv(M + damping * np.eye(len(M))), tol)
    elif dtype == "float64":  # the inverse on the range
        close(M @ root @ root @ M, M, 1e-7)


def test_it_preconditions_solve():
    net, X = gn.mlp([4, 9, 3], "tanh", bias=True, seed=1), rng(2).standard_normal((20, 4))
    G, b = gn.GaussNewton(net, X), rng(3).standard_normal(75)
    x, info = gn.solve(G, b, 0.01, tol=1e-10, preconditioner=G.kfac().inverse(0.01), space="parameters")
    assert info.converged
    close(G @ x + 0.01 * x, b, 1e-8)


@pytest.mark.parametrize(
    "layers",
    [
        [gn.Dense(rng(1).standard_normal((150, 6))), gn.Dense(rng(2).standard_normal((2, 150)))],
        [gn.Flatten(), gn.LayerNorm(np.ones(150)), gn.Dense(rng(2).standard_normal((2, 150)))],
    ],
)
def test_factors_beyond_the_memory_limit_are_refused(layers):
    """Wide layers and normalisations: (150, 150) and more, where products need a fraction of that."""
    net = gn.Network(layers)
    X = rng(3).standard_normal((4, 150 if isinstance(layers[0], gn.Flatten) else 6))
    G = gn.GaussNewton(net, X, memory_limit=2e5)
    with pytest.raises(MemoryError, match=r"K-FAC with its factors A_l and B_l needs .*; raise memory_limit or use 'd"):
        G.kfac()
    with pytest.raises(MemoryError, match="K-FAC"):
        gn.cond(G, preconditioner="kfac")
    G = gn.GaussNewton(net, X, memory_limit=2e6)
    kfac = G.kfac()
    assert kfac.memory_limit == 2e6
    kfac.memory_limit = 1e5
    for op in (kfac, kfac.inverse(0.1), kfac.inverse_root(0.1)):
        assert op.memory_limit == 1e5
        with pytest.raises(MemoryError, match="matrix needs"):
            op.to_dense()


def test_refusals():
    net, X = gn.mlp([4, 6, 3], seed=1), rng(2).standard_normal((5, 4))
    with pytest.raises(ValueError, match="the network is pruned; use 'diagonal'"):
        gn.GaussNewton(gn.prune(net, 0.5), X).kfac()
    coupled = gn.Network([*net.layers, gn.BatchNorm(training=True)])
    with pytest.raises(ValueError, match="samples that do not depend on each other"):
        gn.GaussNewton(coupled, X).kfac()
