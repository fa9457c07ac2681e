"""gnfast.protocol: a foreign operator with nothing else runs everywhere, and ours have what it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.sparse.linalg import LinearOperator, aslinearoperator
from spectra import with_spectrum

import gnfast as gn
from gnfast.protocol import Operator, Preconditioner

VALUES = np.concatenate([np.linspace(1, 3, 38), [9.0, 20.0]])


class Minimal:
    """The three attributes of the protocol, a list for a shape, a name for a dtype, and no base class."""

    def __init__(self, matrix):
        self._matrix, self.shape, self.dtype, self.blocks = matrix, list(matrix.shape), matrix.dtype.name, []

    def matmat(self, V):
        self.blocks.append(V.shape[1])
        assert V.dtype == self._matrix.dtype and V.T.flags.c_contiguous
        return self._matrix @ V


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_minimal_operator_runs_everywhere(dtype):
    matrix, tol = with_spectrum(VALUES, dtype), 1e-8 if dtype == "float64" else 1e-3
    op = Minimal(matrix)
    assert isinstance(op, Operator) and not isinstance(op, LinearOperator)
    assert gn.eigsh(op, k=2, return_eigenvectors=False) == pytest.approx([9, 20], rel=tol)
    assert gn.eigsh(op, k=1, method="lanczos", return_eigenvectors=False) == pytest.approx([20], rel=tol)
    assert gn.cond(op).value == pytest.approx(20, rel=tol)
    assert int(gn.rank(op)) == 40
    assert gn.trace(op).value == pytest.approx(VALUES.sum(), rel=0.1)
    assert gn.diagonal(op).values == pytest.approx(matrix.diagonal(), rel=tol)
    assert gn.logdet(op).value == pytest.approx(np.log(VALUES).sum(), rel=0.1)
    assert gn.density(op).values.min() >= 0
    b = np.arange(40, dtype=dtype)
    assert matrix @ gn.solve(op, b)[0] == pytest.approx(b, abs=100 * tol)
    assert max(op.blocks) > 8, "its blocks are split"


def test_our_operators_are_operators():
    G = gn.GaussNewton(gn.mlp([4, 5, 3], seed=1), np.random.default_rng(0).standard_normal((6, 4)))
    linear = gn.GaussNewton(gn.mlp([4, 5, 3], "identity", seed=1), G.X)
    ours = [G, G.gram(), linear.linear_dual(), G.block(0), G.block(0).gram(), G.kfac(), G.kfac().inverse(0.1)]
    ours += [
        G.preconditioned("diagonal"),
        gn.operator(lambda V: V, 4),
        gn.ShardedGaussNewton(G.net, G.X, ["cpu", "cpu"]),
    ]
    for op in [*ours, aslinearoperator(np.eye(4)), G + G, 2 * G.gram()]:
        assert isinstance(op, Operator), op
        N = op.shape[0]
        assert op.shape == (N, N) and op.dtype == np.float64
        assert op.matmat(np.asfortranarray(np.ones((N, 2)))).shape == (N, 2)
    for op in ours:  # and what docs/protocol.md promises beyond it
        N = op.shape[0]
        V = np.asfortranarray(np.random.default_rng(1).standard_normal((N, 3)))
        out = np.empty((N, 3), order="F")
        assert op.matmat(V, out=out) is out and isinstance(op, LinearOperator)
        np.testing.assert_array_equal(op @ V, out)
        np.testing.assert_array_equal(op.H @ V, out)
        assert op.dual().dual().shape == op.dual().shape
        assert op.device == "cpu" and op.space in ("parameters", "samples", "linear map", "given")
        np.testing.assert_allclose(op.to_dense() @ V, out, atol=1e-10)


def test_the_page_names_what_stays():
    page = (Path(__file__).resolve().parents[1] / "docs/protocol.md").read_text()
    promise = page.partition("## What will stay")[2]
    assert "`gnfast.__all__`" in promise and "`gnfast.from_torch`" in promise
    for name in gn.interop.BRIDGES:
        assert f"`{name}`" in promise or f"`gnfast.interop.{name}`" in promise, name


def test_our_preconditioners_are_preconditioners():
    G = gn.GaussNewton(gn.mlp([4, 5, 3], seed=1), np.random.default_rng(0).standard_normal((6, 4)))
    assert isinstance(G.kfac(), Preconditioner) and isinstance(G.kfac().inverse_root(0.1), Operator)
    assert not isinstance(G, Preconditioner)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"shape": (3, 4)}, ValueError, "square"),
        ({"dtype": "complex128"}, TypeError, "real symmetric"),
        ({"_matrix": np.triu(np.ones((40, 40)))}, ValueError, "not symmetric"),
        ({"matmat": lambda V: V[:3]}, ValueError, "product of shape"),
    ],
)
def test_what_it_promises_is_checked(change, kind, message):
    op = Minimal(with_spectrum(VALUES))
    vars(op).update(change)
    with pytest.raises(kind, match=message):
        gn.cond(op)


def test_without_a_size_it_is_no_operator():
    with pytest.raises(TypeError, match=r"gnfast\.operator"):
        gn.cond(lambda V: V)
