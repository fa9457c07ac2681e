"""Products, Gram and spectrum of what PyTorch's forward may do, against rows of the Jacobian by plain reverse mode."""

from __future__ import annotations

import copy
import random
import warnings
from typing import Any

import numpy as np
import pytest

import gnfast as gn

torch = pytest.importorskip("torch")
nn = torch.nn

import oracles  # noqa: E402
import torch_functions as functions  # noqa: E402
import torch_models as models  # noqa: E402

from gnfast.interop.torch import GaussNewton  # noqa: E402

TOL = 1e-9  # relative to the largest entry: some hundred products in float64, roots and norms among them
F32 = 2e-4


def rows(outputs: Any, parameters: list[Any]) -> np.ndarray:
    """J (n k, p), one backward pass an output, in float64."""
    found = []
    for value in outputs.reshape(-1):
        parts = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
        dense = [
            torch.zeros_like(tensor) if part is None else part.to_dense() if part.is_sparse else part
            for tensor, part in zip(parameters, parts, strict=True)
        ]
        found.append(torch.cat([part.reshape(-1) for part in dense]).detach().double().numpy())
    return np.array(found)


def explicit(module: Any, X: Any) -> np.ndarray:
    """Of a copy of the module, made before anything has been asked of it."""
    module = copy.deepcopy(module)
    return rows(module(X.clone()), [tensor for tensor in module.parameters() if tensor.requires_grad])


def close(found: np.ndarray, wanted: np.ndarray, tol: float = TOL) -> bool:
    return bool(np.abs(found - wanted).max() <= tol * max(np.abs(wanted).max(), 1e-300))


def check(make: Any, J: np.ndarray, n: int, tol: float = TOL, cond: bool = True) -> None:
    """G, its Jacobian, its stored Gram and kappa: each of an operator of its own, as a first call of it."""
    D, K = J.T @ J / n, J @ J.T / n
    rng = np.random.default_rng(5)
    V = np.asfortranarray(rng.standard_normal((len(D), 3)))
    G = make()
    dtype = G.dtype
    for columns in (slice(0, 1), slice(0, 3), slice(0, 3)):  # twice, since products may drift
        block = np.asfortranarray(V[:, columns].astype(dtype))
        assert close(G @ block, D @ block.astype(np.float64), tol), "product"
    U = np.asfortranarray(rng.standard_normal((len(K), 2)).astype(dtype))
    assert close(G.jacobian().T @ U, J.T @ U.astype(np.float64), tol), "J^T U"
    assert close(make().gram().to_dense(), K, tol), "Gram"
    if cond:
        wanted = oracles.nonzero(D if len(D) < len(K) else K, 1e-13)
        found = gn.cond(make())
        if wanted[-1] > 1e8 * wanted[0]:  # whose smallest values rounding of the oracle's own product may move
            return
        assert found.lower * (1 - 1e-6) <= wanted[-1] / wanted[0] <= found.upper * (1 + 1e-6), "interval"
        rounding = 30 * np.finfo(dtype).eps * wanted[-1] / wanted[0]  # of the smallest
        assert found.value == pytest.approx(wanted[-1] / wanted[0], rel=max(1e-5, rounding)), "kappa"


def check_softmax(G: Any, J: np.ndarray, outputs: Any) -> None:
    """Products with G of the cross-entropy, whose H is that of the softmax of each sample."""
    p = torch.softmax(outputs.detach().double(), 1).numpy()
    H = np.stack([np.diag(row) - np.outer(row, row) for row in p])
    rows_of = J.reshape(len(p), p.shape[1], -1)
    D = np.einsum("nip,nij,njq->pq", rows_of, H, rows_of) / len(p)
    v = np.random.default_rng(6).standard_normal(len(D))
    assert close(G @ v, D @ v), "cross-entropy"


def or_refused(name: str, run: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name in models.REFUSED:
            with pytest.raises(ValueError, match=models.REFUSED[name]):
                run()
        else:
            run()


# All of them take minutes: a fixed selection, and those of which forward mode, vmap or a fused kernel has been wrong.
PITFALLS = ("inplace", "PReLU", "Embedding", "Transformer", "scaled", "LSTM time", "Circular", "RReLU", "Fractional")
CHOSEN = [entry for entry in models.NAMES if any(word in entry[0] for word in PITFALLS)]
CHOSEN = sorted({*random.Random(4).sample(models.NAMES, 40), *CHOSEN}, key=models.NAMES.index)


@pytest.mark.parametrize(("name", "group"), CHOSEN, ids=[f"{name}, {i}" for name, i in CHOSEN])
def test_modules_within_a_network(name: str, group: int) -> None:
    module, X = models.built(name, group, inside=True)
    J = rows(module(X), [tensor for tensor in module.parameters() if tensor.requires_grad])
    module, _ = models.built(name, group, inside=True)  # one of which nothing has been asked
    or_refused(name, lambda: check(lambda: GaussNewton(module, None, X), J, len(X), cond=False))


@pytest.mark.parametrize(("name", "group"), CHOSEN[1::5], ids=[f"{name}, {i}" for name, i in CHOSEN[1::5]])
def test_modules_within_a_network_by_cross_entropy(name: str, group: int) -> None:
    module, X = models.built(name, group, inside=True)
    outputs = module(X)
    J = rows(outputs, [tensor for tensor in module.parameters() if tensor.requires_grad])
    module, _ = models.built(name, group, inside=True)
    or_refused(name, lambda: check_softmax(GaussNewton(module, None, X, "cross_entropy"), J, outputs))


ALONE = ["PReLU", "BatchNorm1d train", "weight_norm", "ConvTranspose2d", "GRUCell", "MultiheadAttention eval"]
ALONE += ["Embedding padding_idx", "EmbeddingBag max", "LazyConv3d", "ParameterList and ParameterDict", "ReLU(inplace)"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("name", ALONE)
def test_modules_alone(name: str, dtype: Any) -> None:
    group = next(i for other, i in models.NAMES if other == name)
    module, X = models.built(name, group, False, dtype)
    if not list(module.parameters()):
        with pytest.raises(ValueError, match="module has no parameters"):
            GaussNewton(module, None, X)
        return
    J = rows(module(X), list(module.parameters()))
    module, _ = models.built(name, group, False, dtype)
    check(lambda: GaussNewton(module, None, X), J, len(X), TOL if dtype is torch.float64 else F32)


@pytest.mark.parametrize(("name", "group"), CHOSEN[::8], ids=[f"{name}, {i}" for name, i in CHOSEN[::8]])
def test_modules_within_a_network_in_float32(name: str, group: int) -> None:
    module, X = models.built(name, group, True, torch.float32)
    J = rows(module(X), [tensor for tensor in module.parameters() if tensor.requires_grad])
    module, _ = models.built(name, group, True, torch.float32)
    or_refused(name, lambda: check(lambda: GaussNewton(module, None, X), J, len(X), F32))


COUPLED = (
    "cumsum over the batch",
    "sorted over the batch",
    "centred in the derivative alone",
    "gradient descent in forward",
)


@pytest.mark.parametrize("name", functions.FUNCTIONS)
def test_functions(name: str) -> None:
    p, X = functions.parameters(), models.randn(4)
    leaves = {key: tensor.clone().requires_grad_() for key, tensor in p.items()}
    function = functions.FUNCTIONS[name]
    J = rows(function(leaves, X.clone()), list(leaves.values()))
    kept = X.clone()
    or_refused(name, lambda: check(lambda: GaussNewton(function, p, X), J, len(X), cond=name in COUPLED))
    assert torch.equal(X, kept), "the samples were written to"
