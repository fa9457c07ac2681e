"""The losses of PyTorch's and JAX's routes at samples of which a classifier is sure."""

from __future__ import annotations

import confident
import numpy as np
import pytest
from test_confident import EPS, deep, near, separable, sure

import gnfast as gn
from gnfast.hessians import Hessians
from gnfast.losses import loss_at

torch = pytest.importorskip("torch")

OUTPUTS = [
    [[0.0, -20.72, -69.1], [37.0, 0, 36.5], [-3.0, 250, 2]],
    [[5.0, 5, 5, 5, 5], [0, -60, 0, -60, 3], [1, 2, 3, 90, 4]],
    [[300.0, -300], [1e-9, 0], [-41, 1]],
    [[0, 44.0, 44, -44]],
]


def module_of(net):
    layers = []
    for layer in net.layers:
        if isinstance(layer, gn.Activation):
            layers.append({"tanh": torch.nn.Tanh, "relu": torch.nn.ReLU}[layer.name]())
            continue
        dense = torch.nn.Linear(layer.weight.shape[1], layer.weight.shape[0], layer.bias is not None)
        dense = dense.to(torch.float32 if layer.weight.dtype == np.float32 else torch.float64)
        dense.weight.data = torch.tensor(layer.weight)
        if layer.bias is not None:
            dense.bias.data = torch.tensor(layer.bias)
        layers.append(dense)
    return torch.nn.Sequential(*layers)


def columns(xp, n, r, dtype):
    """The units of r entries, each at n samples: (r, n, r)."""
    return xp.asarray(np.repeat(np.eye(r, dtype=dtype)[:, None], n, axis=1))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy", "poisson", "gaussian_nll"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("library", ["numpy", "torch", "jax.numpy"])
def test_hessians_and_their_factors(loss, dtype, weighted, library, request):
    xp = pytest.importorskip(library)
    if library == "jax.numpy":
        request.getfixturevalue("jax64")
    for values in OUTPUTS:
        outputs = np.asarray(values, dtype) * (1 if dtype == "float64" else 0.25)
        outputs = outputs[:, : outputs.shape[1] // 2 * 2] if loss == "gaussian_nll" else outputs
        n, k = outputs.shape
        weights = np.array([0.3, 0, 2.0][:n], dtype) if weighted else None
        at = loss_at(loss, weights, n, k, np.dtype(dtype))
        hessian = Hessians(xp, at, xp.asarray(outputs), 0.5)
        exact = confident.hessian(loss, outputs) * 0.5
        exact = exact if weights is None else exact * weights.astype(float)[:, None, None]
        diagonal = np.sqrt(np.einsum("naa->na", exact))
        size = diagonal[:, :, None] * diagonal[:, None]
        slack = 60 * EPS[dtype] * (1 + np.abs(outputs).max() * (dtype == "float32"))
        tiny = float(np.finfo(dtype).tiny) / EPS[dtype]
        units = columns(xp, n, k, dtype)
        found = np.asarray(hessian.apply(units)).transpose(1, 0, 2)
        np.testing.assert_allclose(found, exact, rtol=slack, atol=tiny)
        for reduced in (False, True):
            transposed = np.asarray(hessian.root_transposed(units, reduced))  # (k, n, r): rows
            root = np.asarray(hessian.root(columns(xp, n, transposed.shape[2], dtype), reduced))  # (r, n, k): columns
            R = transposed.transpose(1, 0, 2).astype(float)
            assert (np.abs(R - root.transpose(1, 2, 0)) <= slack * diagonal[:, :, None] + tiny).all()
            assert (np.abs(R @ R.transpose(0, 2, 1) - exact) <= slack * size + tiny).all()


@pytest.mark.filterwarnings("ignore:the product underflows")
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_torch_products_and_grams(dtype):
    cases = [sure(margin, dtype=dtype) for margin in (5, 34, 70)]
    cases += [separable(scale, dtype, n=6) for scale in (1, 6, 8 if dtype == "float32" else 16)]
    cases += [deep(20, dtype), deep(20, dtype, (5, 30, 6), activation="relu")]
    for net, X in cases:
        exact = confident.gauss_newton(net, X, "cross_entropy")
        values, log = confident.spectrum(net, X, "cross_entropy")
        G = gn.interop.torch.GaussNewton(module_of(net), X=torch.tensor(X), loss="cross_entropy")
        near(G.to_dense(), exact, dtype, 2000)
        for reduced in (False, True):
            found = np.linalg.eigvalsh(G.gram(reduced).to_dense().astype(float))[::-1]
            size = min(len(found), len(values))
            wanted = values[:size] * np.exp(log)
            np.testing.assert_allclose(found[:size], wanted, rtol=0, atol=2000 * EPS[dtype] * wanted[0])


@pytest.mark.parametrize(("dtype", "margin"), [("float32", 60), ("float32", 130), ("float64", 40), ("float64", 900)])
def test_torch_condition_numbers(dtype, margin):
    net, X = sure(margin, dtype=dtype)
    values, _ = confident.spectrum(net, X, "cross_entropy")
    found = gn.cond(gn.interop.torch.GaussNewton(module_of(net), X=torch.tensor(X), loss="cross_entropy"))
    assert found.rank == 6
    assert found.value == pytest.approx(values[0] / values[5], rel=1e-3 if dtype == "float32" else 1e-8)
    assert found.lower <= values[0] / values[5] <= found.upper
    wide = gn.GaussNewton(net, X, "cross_entropy")
    assert wide.gram(True).enlarged().exponent == wide.enlarged().exponent > 0
    far = torch.nn.Linear(2, 3).to(torch.float32 if dtype == "float32" else torch.float64)
    torch.nn.init.constant_(far.bias, 0)
    far.bias.data[0] = 400 if dtype == "float32" else 4000
    with pytest.raises(ValueError, match="the softmax is saturated at all 12 samples"):
        gn.cond(gn.interop.torch.GaussNewton(far, X=torch.tensor(X), loss="cross_entropy"))


def test_a_gram_by_batches_is_in_one_basis_where_classes_tie():
    """Outputs that agree up to rounding, which differs from batch to batch."""
    rng = np.random.default_rng(0)
    X = torch.tensor(rng.standard_normal((40, 33)).astype(np.float32))
    module = torch.nn.Linear(33, 4, bias=False)
    row = torch.tensor(rng.standard_normal(33).astype(np.float32))
    module.weight.data = row.repeat(4, 1) * torch.tensor([1, 1 + 1e-7, 1 - 1e-7, 1])[:, None]
    whole = gn.interop.torch.GaussNewton(module, X=X, loss="cross_entropy").gram(True).to_dense()
    for limit in (160_000, 200_000, 300_000):
        G = gn.interop.torch.GaussNewton(module, X=X, loss="cross_entropy", memory_limit=limit)
        found = G.gram(True).to_dense()
        np.testing.assert_allclose(
            np.linalg.eigvalsh(found), np.linalg.eigvalsh(whole), atol=1e-5 * np.abs(whole).max()
        )
        np.testing.assert_allclose(found, found.T, atol=1e-5 * np.abs(whole).max())


def test_rates_that_overflow_are_told():
    jax = pytest.importorskip("jax")
    from gnfast.interop.jax import _hessian

    net, X = sure(90, k=2, n=2, dtype="float32")
    G = gn.interop.torch.GaussNewton(module_of(net), X=torch.tensor(X), loss="poisson")
    with pytest.raises(ValueError, match="loss='poisson' overflows"):
        G @ np.ones(6, np.float32)
    with pytest.raises(ValueError, match="loss='poisson' overflows"):
        _hessian(loss_at("poisson", None, 2, 2, np.dtype("float32")), 1.0)(jax.numpy.asarray(net(X)))
    with pytest.raises(ValueError, match="loss='poisson' overflows"):
        gn.GaussNewton(net, X, "poisson") @ np.ones(6, np.float32)
