"""SciPy's own functions on our operators: values, and blocks that arrive at our block code whole."""

from __future__ import annotations

import numpy as np
import oracles
import pytest
import scipy.sparse.linalg as sla

import gnfast as gn
from gnfast.operators.linear_operator import BlockOperator


@pytest.fixture(scope="module")
def problem() -> tuple[gn.GaussNewton, np.ndarray]:
    net = gn.mlp([5, 7, 3], "tanh", seed=1, bias=True)
    X = np.random.default_rng(2).standard_normal((9, 5))
    return gn.GaussNewton(net, X), oracles.gauss_newton(net, X)


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the blocks that reach our code."""
    sizes: list[int] = []
    matmat = BlockOperator.matmat

    def counted(self, V, out=None):
        sizes.append(np.shape(V)[1])
        return matmat(self, V, out)

    monkeypatch.setattr(BlockOperator, "matmat", counted)
    return sizes


def test_eigsh_lobpcg_and_svds(problem, blocks) -> None:
    G, dense = problem
    expected = np.linalg.eigvalsh(dense)[-3:]
    assert np.allclose(np.sort(sla.eigsh(G, k=3, return_eigenvectors=False)), expected, rtol=1e-10)
    J = G.jacobian()
    singular = sla.svds(J, k=3, return_singular_vectors=False)
    assert np.allclose(np.sort(singular), np.linalg.svd(J @ np.eye(J.shape[1]), compute_uv=False)[2::-1], rtol=1e-10)
    blocks.clear()
    start = np.random.default_rng(0).standard_normal((G.shape[0], 4))
    found, _ = sla.lobpcg(G, start, tol=1e-9, maxiter=200)
    assert np.allclose(np.sort(found)[-3:], expected, rtol=1e-8)
    assert max(blocks) == 4, "lobpcg multiplies its block vector by vector"


def test_cg_and_expm_multiply(problem, blocks) -> None:
    G, dense = problem
    b = np.random.default_rng(3).standard_normal(G.shape[0])
    damped = G + 0.1 * sla.aslinearoperator(np.eye(G.shape[0]))
    x, info = sla.cg(damped, b, rtol=1e-12)
    assert info == 0 and np.allclose(x, np.linalg.solve(dense + 0.1 * np.eye(len(b)), b), rtol=1e-8)
    B = np.random.default_rng(4).standard_normal((G.shape[0], 3))
    blocks.clear()
    flowed = sla.expm_multiply(-0.5 * G, B, traceA=-0.5 * float(np.trace(dense)))
    values, vectors = np.linalg.eigh(dense)
    assert np.allclose(flowed, vectors @ (np.exp(-0.5 * values)[:, None] * (vectors.T @ B)), rtol=1e-8)
    assert 3 in blocks, "expm_multiply multiplies its block vector by vector"


def test_sums_products_and_scalings_hand_blocks_on(problem, blocks) -> None:
    G, dense = problem
    J = G.jacobian()
    V = np.asfortranarray(np.random.default_rng(5).standard_normal((G.shape[0], 6)))
    cases = [
        (2.5 * G, 2.5 * dense),
        (G + G, 2 * dense),
        (G @ G, dense @ dense),
        (G**2, dense @ dense),
        (-G, -dense),
        ((J.T @ J) * (1 / 9), dense),
        (sla.aslinearoperator(G), dense),
        (G.T, dense),
        (G.H, dense),
    ]
    for operator, matrix in cases:
        blocks.clear()
        assert np.allclose(operator @ V, matrix @ V, rtol=1e-10, atol=1e-12)
        assert set(blocks) == {6}, f"{operator!r} splits its block into {blocks}"


def test_the_jacobian_in_scipys_lsmr(problem) -> None:
    G, _ = problem
    J = G.jacobian()
    y = np.random.default_rng(6).standard_normal(J.shape[0])
    x = sla.lsmr(J, y, atol=1e-14, btol=1e-14, maxiter=500)[0]
    dense = J @ np.eye(J.shape[1])
    assert np.allclose(J @ x, dense @ np.linalg.lstsq(dense, y, rcond=None)[0], atol=1e-7)
