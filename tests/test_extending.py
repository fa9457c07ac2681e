"""docs/extending.md: its lists are those of parts that exist, and its steps lead to a part that works."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import bounding
import numpy as np
import oracles
import pytest

import gnfast as gn
from gnfast.bounds.bound import quotient, silent
from gnfast.bounds.inputs import as_data, nonlinearity
from gnfast.bounds.partial_products import input_range
from gnfast.interop import BRIDGES
from gnfast.limits.moments import Pointwise
from gnfast.losses import LOSSES
from gnfast.networks import network
from gnfast.networks.layers import ACTIVATIONS, Layer
from gnfast.spectrum.methods import METHODS
from gnfast.study.grid import KINDS

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text()
# How a part of each kind is found in the sources, and files where it is found but nothing has to be done.
EXAMPLES = {
    "An activation": (r"(?i)softplus", set()),
    "A layer": (r'LayerNorm|layers::Norm<T>|kind == "norm"|struct Norm\b', {"src/gnfast/paper/layers.py"}),
    "A loss": (r"gaussian_nll", set()),
    "An eigensolver": (r'"krylov"', set()),
    "A bound": (r"bounds\.relu\b|def relu\b", {"src/gnfast/bounds/inputs.py", "src/gnfast/paper/ours.py"}),
    "A bridge to another tool": (r"interop\.pyhessian\b|\"pyhessian\"", set()),
}


def recipe(title: str) -> str:
    return re.split(rf"^## {title}\n", PAGE, flags=re.MULTILINE)[1].split("\n## ")[0]


def listed(title: str) -> set[str]:
    """Files that a recipe names."""
    return set(re.findall(r"`((?:src|csrc|tests|docs)/[\w/.]+\.\w+|pyproject\.toml)`", recipe(title)))


def found(title: str) -> set[str]:
    pattern, beside = EXAMPLES[title]
    files = [path for folder in ("src", "csrc") for path in (ROOT / folder).rglob("*") if path.suffix in SOURCES]
    names = {str(path.relative_to(ROOT)) for path in files if re.search(pattern, path.read_text())}
    return names - beside


SOURCES = {".py", ".hpp", ".cpp", ".cu", ".cuh"}


@pytest.mark.parametrize("title", EXAMPLES)
def test_lists_are_complete(title):
    """No file that has the example is missing, and every file that is named exists."""
    assert found(title)
    assert found(title) - listed(title) == set()
    assert [name for name in listed(title) if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("title", ["An activation", "A loss", "An eigensolver"])
def test_lists_have_nothing_else(title):
    sources = {name for name in listed(title) if name.startswith(("src/", "csrc/"))}
    # Of solvers with steps of their own, and of activations that have a gain.
    beside = {"csrc/api/solvers.cpp", "csrc/bind/solvers.cpp", "src/gnfast/networks/initializers.py"}
    assert sources - beside == found(title)


def test_a_missing_file_is_caught():
    assert found("An activation") - (listed("An activation") - {"csrc/api/dispatch.hpp"}) == {"csrc/api/dispatch.hpp"}


# ------------------------------------------------------------------------------------------------------- activations
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_known_everywhere_from_its_name(name):
    X = np.random.default_rng(0).standard_normal((4, 3))
    net = gn.mlp([3, 5, 2], name, init="lecun_normal", seed=0)
    K = gn.GaussNewton(net, X).gram().to_dense()
    J = numeric_jacobian(net, X)
    np.testing.assert_allclose(K, J @ J.T / 4, atol=1e-6)
    assert name in KINDS.values()
    values, slopes = Pointwise(name, 0.01)(np.array([-0.7, 0.3]))
    np.testing.assert_allclose(
        slopes, (Pointwise(name, 0.01)(np.array([-0.7, 0.3]) + 1e-6)[0] - values) / 1e-6, atol=1e-5
    )
    law = gn.ensemble.NetworkLaw(3, activation=name, X=X, k=1, depth=2, variances="lecun")
    assert np.isfinite(law.draw(0, 0).gram).all()


def numeric_jacobian(net, X, step=1e-6):
    """By central differences, rows (sample, output)."""
    columns, arrays = [], [np.array(array) for array in net.parameters()]
    for array in arrays:
        for place in np.ndindex(array.shape):
            kept = array[place]
            ends = []
            for move in (step, -step):
                array[place] = kept + move
                ends.append(net.with_parameters([part.copy() for part in arrays])(X).ravel())
            array[place] = kept
            columns.append((ends[0] - ends[1]) / (2 * step))
    return np.stack(columns, 1)


# ------------------------------------------------------------------------------------------------------------ layers
@dataclass(frozen=True)
class Negative(Layer):
    """x -> -x, by what the core has."""

    kind: ClassVar[str] = "negative"

    def spec(self, shape):
        return [("scale", -1.0)]


def test_a_layer_made_of_others(tmp_path, monkeypatch):
    monkeypatch.setitem(network.KINDS, Negative.kind, Negative)
    X = np.random.default_rng(0).standard_normal((5, 3))
    dense = gn.mlp([3, 4, 2], "tanh", seed=0).layers
    net = gn.Network([*dense[:2], Negative(), *dense[2:]])
    np.testing.assert_allclose(
        gn.GaussNewton(net, X).to_dense(),
        gn.GaussNewton(gn.Network([*dense[:2], gn.Scale(-1.0), *dense[2:]]), X).to_dense(),
    )
    J = numeric_jacobian(net, X)
    np.testing.assert_allclose(gn.GaussNewton(net, X).to_dense(), J.T @ J / 5, atol=1e-8)
    net.save(tmp_path / "net.safetensors")
    np.testing.assert_array_equal(gn.load(tmp_path / "net.safetensors")(X), net(X))


# ------------------------------------------------------------------------------------------------------------ losses
def test_a_loss_without_a_name():
    """Huber's loss with targets: H is I where the residual is small, and has the outer part of it beyond."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((7, 3)), rng.standard_normal((7, 2))
    net = gn.mlp([3, 5, 2], "tanh", seed=0)
    H = np.array([np.diag((np.abs(r) < 0.8).astype(float)) for r in net(X) - y])
    found = gn.GaussNewton(net, X, loss=H).to_dense()
    J = numeric_jacobian(net, X).reshape(7, 2, -1)
    np.testing.assert_allclose(found, np.einsum("iap,iab,ibq->pq", J, H, J) / 7, atol=1e-8)


def test_every_loss_is_named_where_losses_are_listed():
    for name in sorted(listed("A loss")):
        if name.startswith("src/"):
            text = (ROOT / name).read_text()
            assert [loss for loss in LOSSES if f'"{loss}"' not in text and loss not in text] == [], name


# ---------------------------------------------------------------------------------------------------------- solvers
@pytest.mark.parametrize("method", METHODS)
def test_an_eigensolver_is_told_and_found_by_its_name(method):
    assert method == "auto" or f'"{method}"' in gn.eigsh.__doc__
    rng = np.random.default_rng(0)
    Q = np.linalg.qr(rng.standard_normal((60, 60)))[0]
    A = (Q * np.geomspace(1, 100, 60)) @ Q.T
    which = "SA" if method.startswith("inverse") else "LA"
    values = gn.eigsh((A + A.T) / 2, 2, which, method, return_eigenvectors=False)
    exact = np.linalg.eigvalsh((A + A.T) / 2)
    np.testing.assert_allclose(values, exact[:2] if which == "SA" else exact[-2:], rtol=1e-8)


# ------------------------------------------------------------------------------------------------------------ bounds
def single_layer(net, X):
    """kappa(G) <= kappa(Sigma), which is an equality, for one dense layer without a bias."""
    name, statement, data = "single.layer", "kappa(G) <= kappa(Sigma)", as_data(net, X)
    if reason := nonlinearity(net):
        return silent(name, statement, reason)
    if len(net.dense) != 1 or net.dense[0].bias is not None:
        return silent(name, statement, "this bound is for one dense layer without a bias")
    largest, smallest = input_range(data, ones=False).ends
    return quotient(name, statement, largest, smallest, {"lambda_max_upper": largest, "lambda_min_lower": smallest})


@pytest.mark.parametrize(("n", "d"), [(9, 4), (3, 5), (1, 1), (40, 7)])
def test_a_bound_of_ones_own(n, d):
    net, X = bounding.linear_network([d, 3]), bounding.data(n, d)
    bound = single_layer(net, X)
    bounding.assert_bounds(bound, net, X)
    assert bound.value == pytest.approx(oracles.kappa(X.T @ X / n), rel=1e-8)
    two = single_layer(bounding.linear_network([d, 4, 3]), X)
    assert not two.applies and "one dense layer" in two.reason


# ----------------------------------------------------------------------------------------------------------- bridges
class Theirs:
    """An operator of another tool: shape, dtype and matmat, and nothing else."""

    def __init__(self, A):
        self._A, self.shape, self.dtype = A, A.shape, A.dtype

    def matmat(self, V):
        return self._A @ V


class TheirPreconditioner:
    def __init__(self, M):
        self._values, self._vectors = np.linalg.eigh(M)

    def inverse_root(self, damping):
        return Theirs((self._vectors / np.sqrt(self._values + damping)) @ self._vectors.T)


def test_an_operator_of_another_tool():
    rng = np.random.default_rng(0)
    B = rng.standard_normal((30, 30))
    A = B @ B.T + np.eye(30)
    values = np.linalg.eigvalsh(A)
    np.testing.assert_allclose(gn.eigsh(Theirs(A), 3, return_eigenvectors=False), values[-3:], rtol=1e-9)
    assert gn.cond(Theirs(A)).value == pytest.approx(values[-1] / values[0], rel=1e-8)
    x, info = gn.solve(Theirs(A), np.ones(30), 0.1)
    assert info.converged
    np.testing.assert_allclose(A @ x + 0.1 * x, np.ones(30), atol=1e-6)
    net, X = gn.mlp([3, 4, 2], "tanh", seed=0), rng.standard_normal((30, 3))
    G = gn.GaussNewton(net, X)
    M = G.to_dense() + 0.1 * np.eye(len(G.to_dense()))
    found = gn.cond(G, preconditioner=TheirPreconditioner(M))
    exact = np.linalg.eigvals(np.linalg.solve(M, G.to_dense())).real
    exact = exact[exact > 1e-10]
    assert found.value == pytest.approx(exact.max() / exact.min(), rel=1e-6)


def test_every_bridge_has_an_extra_and_a_page():
    project = (ROOT / "pyproject.toml").read_text()
    tools = "".join(
        (ROOT / "docs" / name).read_text() for name in ("tools.md", "pytorch.md", "jax.md", "api/interop.md")
    )
    for name in BRIDGES:
        assert re.search(rf"^{name.replace('_', '-')} = \[|^{name} = \[", project, re.MULTILINE), name
        assert f"gnfast.interop.{name}" in tools, name
