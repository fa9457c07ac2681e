"""Operators in JAX: under its transformations, against dense matrices, and matfree's own functions on them."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import scipy.sparse.linalg

import gnfast as gn

jax = pytest.importorskip("jax")
jnp = jax.numpy

import problems  # noqa: E402

from gnfast import _extras  # noqa: E402
from gnfast.interop.jax import _on_host, matvec  # noqa: E402

pytestmark = pytest.mark.usefixtures("jax64")
enable_x64 = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64  # as older releases call it


class Counted:
    """A dense symmetric matrix as an operator that remembers the blocks that it multiplied."""

    def __init__(self, size: int = 7) -> None:
        A = np.random.default_rng(0).standard_normal((size, size))
        self.dense, self.blocks = A @ A.T, []
        self.operator = gn.operator(self._multiply, size)
        self.blocks.clear()  # the operator was tried

    def _multiply(self, V: np.ndarray) -> np.ndarray:
        self.blocks.append(V.shape[1])
        return self.dense @ V


def random(*shape: int, dtype: str = "float64") -> Any:
    return jnp.asarray(np.random.default_rng(len(shape)).standard_normal(shape), dtype)


def close(found: Any, wanted: Any, tol: float = 1e-12) -> bool:
    """Relative to the largest entry: sums of some hundred products in float64."""
    found, wanted = np.asarray(found), np.asarray(wanted)
    return found.shape == wanted.shape and bool(np.abs(found - wanted).max() <= tol * np.abs(wanted).max())


# ---------------------------------------------------------------------------------------------------- transformations
@pytest.mark.parametrize("jit", [jax.jit, lambda f: f], ids=["compiled", "eager"])
def test_a_batch_is_one_product(jit: Any) -> None:
    A = Counted()
    f, V, W = matvec(A.operator), random(5, 7), random(2, 7, 3)
    assert close(jit(f)(V[0]), A.dense @ V[0])
    assert close(jit(jax.vmap(f))(V), V @ A.dense)
    assert close(jit(jax.vmap(f, in_axes=1, out_axes=1))(V.T), A.dense @ V.T)
    assert close(jit(jax.vmap(jax.vmap(f, in_axes=1), in_axes=0))(W), np.einsum("ij,ajb->abi", A.dense, W))
    assert A.blocks == [1, 5, 5, 6]
    assert jit(jax.vmap(f))(V[:0]).shape == (0, 7)


def test_loops_and_branches() -> None:
    A = Counted()
    f, v = matvec(A.operator), random(7)
    power = jax.jit(lambda v: jax.lax.fori_loop(0, 3, lambda _, v: f(v), v))
    cubed = np.linalg.matrix_power(A.dense, 3)
    assert close(power(v), cubed @ v)
    assert close(jax.vmap(power)(jnp.stack([v, 2 * v])), np.outer([1, 2], cubed @ v))
    _, found = jax.jit(lambda V: jax.lax.scan(lambda s, v: (s, f(v)), 0.0, V))(random(4, 7))
    assert close(found, random(4, 7) @ A.dense)
    either = jax.jit(jax.vmap(lambda v, yes: jax.lax.cond(yes, f, lambda v: v, v)))
    assert close(either(random(2, 7), jnp.array([True, False])), np.stack([A.dense @ random(2, 7)[0], random(2, 7)[1]]))
    while_ = jax.jit(lambda v: jax.lax.while_loop(lambda v: jnp.linalg.norm(v) < 1e3, f, v))
    wanted = np.asarray(v)
    while np.linalg.norm(wanted) < 1e3:
        wanted = A.dense @ wanted
    assert close(while_(v), wanted)
    x, _ = jax.jit(lambda b: jax.scipy.sparse.linalg.cg(lambda v: f(v) + v, b, tol=1e-13, maxiter=50))(v)
    assert close(x, np.linalg.solve(A.dense + np.eye(7), v), 1e-9)  # as far as cg has converged


def test_derivatives() -> None:
    A = Counted()
    f, v, V = matvec(A.operator), random(7), random(5, 7)

    @jax.jit
    def found(v: Any, t: Any) -> Any:
        return jax.jvp(f, (v,), (t,)), jax.linear_transpose(f, v)(v), jax.hessian(lambda v: v @ f(v))(v)

    (value, tangent), (transposed,), second = found(v, V[0])
    assert close(value, A.dense @ v)
    assert close(tangent, A.dense @ V[0])
    assert close(transposed, A.dense @ v)
    assert close(second, 2 * A.dense)
    A.blocks.clear()
    slopes = jax.jit(jax.vmap(jax.grad(lambda v: jnp.sin(v @ f(v)))))(V)
    assert close(slopes, 2 * np.cos(np.einsum("si,ij,sj->s", V, A.dense, V))[:, None] * (V @ A.dense))
    assert set(A.blocks) == {5}


def test_the_transpose_of_a_jacobian() -> None:
    G = problems.problem()
    J = G.jacobian()
    dense = J @ np.eye(J.shape[1])
    f, v, u = matvec(J), random(J.shape[1]), random(J.shape[0])

    @jax.jit
    def found(v: Any, u: Any) -> Any:
        out, pull = jax.vjp(f, v)
        (back,) = jax.linear_transpose(lambda u: pull(u)[0], u)(v)
        return out, back, jax.vmap(pull)(jnp.eye(len(u)))[0]

    out, back, rows = found(v, u)
    assert close(out, dense @ v)
    assert close(back, dense @ v)
    assert close(rows, dense)


def test_duals_sums_and_scalings() -> None:
    G = problems.problem(activation="identity", bias=False)
    for operator in (G, G.gram(), G.linear_dual(), 2 * G + scipy.sparse.linalg.aslinearoperator(np.eye(G.shape[0]))):
        f, v = matvec(operator), random(operator.shape[0])
        value, pull = jax.vjp(f, v)
        assert close(value, operator @ np.asarray(v))
        assert close(pull(v)[0], value)


def test_a_large_block_beside_the_threads_of_both() -> None:
    """XLA's threads and ours at once, in a loop: neither may wait for the other for ever."""
    net = problems.network([50, 300, 10], "relu", dtype="float32")
    G = gn.GaussNewton(net, problems.data(40, 50, dtype="float32"))
    V = random(24, G.shape[0], dtype="float32")
    f = jax.vmap(matvec(G))

    @jax.jit
    def both(V: Any) -> Any:
        return jax.lax.fori_loop(0, 3, lambda _, V: jnp.sin(f(V)) + jnp.cos(f(2 * V)), V)

    wanted = np.asarray(V)
    for _ in range(3):
        wanted = np.sin((G @ wanted.T).T) + np.cos((G @ (2 * wanted.T)).T)
    assert close(both(V), wanted, 1e-5)


@pytest.mark.gpu
def test_an_operator_on_a_gpu(gpu: Any) -> None:
    """It multiplies there, and JAX has its vectors where it had them."""
    G = problems.problem()
    on_gpu = gn.GaussNewton(G.net, G.X, device=gpu)
    V = random(3, G.shape[0])
    for f in (jax.vmap(matvec(on_gpu)), jax.jit(jax.vmap(matvec(on_gpu)))):
        assert close(f(V), (G @ np.asarray(V).T).T)


def test_float32_is_kept() -> None:
    G = problems.problem(dtype="float32")
    v = random(G.shape[0], dtype="float32")
    with enable_x64(False):
        found = jax.jit(matvec(G))(v)
    assert found.dtype == np.float32
    assert close(found, G @ np.asarray(v), 1e-6)
    assert close(jax.jit(matvec(G))(v), G @ np.asarray(v), 1e-6)


def test_a_vector_that_is_not_finite_disturbs_no_other() -> None:
    G = problems.problem()
    V = np.asarray(random(4, G.shape[0])).copy()
    wanted = (G @ V.T).T
    V[1, 3], V[2, 0] = np.nan, np.inf
    for operator in (G, G.gram(), G.jacobian()):
        size = operator.shape[1]
        found = np.asarray(jax.jit(jax.vmap(matvec(operator)))(jnp.asarray(V[:, :size])))
        assert np.isnan(found[1:3]).all()
        assert np.isfinite(found[[0, 3]]).all()
    assert close(np.asarray(jax.vmap(matvec(G))(jnp.asarray(V)))[[0, 3]], wanted[[0, 3]])


# ------------------------------------------------------------------------------------------------------------- errors
def test_what_is_refused() -> None:
    G = problems.problem()
    f, v = matvec(G), random(G.shape[0])
    with pytest.raises(TypeError, match="v has dtype float32 but the operator has float64; convert it"):
        f(v.astype("float32"))
    with pytest.raises(ValueError, match=r"v has shape \(3,\) but must be .*; use jax.vmap"):
        f(v[:3])
    with pytest.raises(ValueError, match=r"use jax\.vmap for a block"):
        f(v[None])
    with pytest.raises(TypeError, match="operator is of type ndarray but must be a LinearOperator"):
        matvec(np.eye(3))
    with pytest.raises(TypeError, match="operator has dtype complex128 but must have float32 or float64"):
        matvec(scipy.sparse.linalg.aslinearoperator(1j * np.eye(3)))
    with enable_x64(False), pytest.raises(TypeError, match=r'jax.config.update\("jax_enable_x64", True\) first'):
        f(np.asarray(v))
    with pytest.raises(TypeError, match=r"JAX rounded v to float32 .* do not see the context"):
        _on_host(G, v.astype("float32"))


def test_a_missing_jax_is_an_error_that_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['jax'] = None; import gnfast as gn; print('jax' in dir(gn.interop))\n"
        "try: gn.interop.jax\nexcept ImportError as error: print(error)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found == f"True\ngnfast.interop.jax needs jax; install it with: {_extras.install('jax')}\n"


# ------------------------------------------------------------------------------------------------------------ matfree
def spd() -> tuple[gn.GaussNewton, np.ndarray]:
    """A Gram matrix of full rank, as an operator that is not stored, and as an array."""
    G = problems.problem()
    return G, G.gram().to_dense()


def test_matfree_finds_traces_and_diagonals() -> None:
    stochtrace = pytest.importorskip("matfree.stochtrace")
    G, K = spd()
    f, key, like = matvec(G.gram()), jax.random.key(1), jnp.zeros(len(K))
    sampler = stochtrace.sampler_signs(like, num=50)
    estimate = stochtrace.estimator_monte_carlo(stochtrace.monte_carlo_trace_and_diagonal(), sampler)
    found, V = jax.jit(lambda key: estimate(f, key))(key), np.asarray(sampler(key))
    assert close(found["trace"], (V * (V @ K)).sum(1).mean())
    assert close(found["diagonal"], (V * (V @ K)).mean(0))
    # As many samples as dimensions: exact but for rounding.
    whole = stochtrace.sampler_normal(like, num=len(K))
    xtrace = stochtrace.estimator_leave_one_out(stochtrace.leave_one_out_xtrace(), whole)
    assert close(jax.jit(lambda key: xtrace(f, key))(key), np.trace(K), 1e-8)


def test_matfree_decomposes() -> None:
    decomp, eig, funm = (pytest.importorskip(f"matfree.{name}") for name in ("decomp", "eig", "funm"))
    G, K = spd()
    f, v = matvec(G.gram()), random(len(K))
    lanczos = decomp.tridiag_sym(len(K))
    root = funm.funm_lanczos_sym(funm.dense_funm_sym_eigh(jnp.sqrt), lanczos)

    @jax.jit
    def found(v: Any) -> Any:
        return lanczos(f, v)[:2], eig.eigh_partial(lanczos)(f, v), root(f, v)

    (Q, T), (values, vectors), rooted = jax.tree.map(np.asarray, found(v))
    assert close(Q @ Q.T, np.eye(len(K)))
    assert close(Q @ K @ Q.T, T, 1e-10)
    w, U = np.linalg.eigh(K)
    assert close(np.sort(values), w, 1e-10)
    assert close(vectors @ K, values[:, None] * vectors, 1e-10)
    assert close(rooted, U @ (np.sqrt(w) * (U.T @ np.asarray(v))), 1e-8)
    # The Jacobian is not square: both halves of a bidiagonalisation, through its transpose.
    J = G.jacobian()
    svd = eig.svd_partial(decomp.bidiag(J.shape[0]))
    start = jnp.asarray(J.T @ np.asarray(random(J.shape[0])))  # not in the null space
    singular = jax.jit(lambda v: svd(matvec(J), v))(start)[1]
    dense = J @ np.eye(J.shape[1])
    assert close(np.sort(singular), np.sort(np.linalg.svd(dense, compute_uv=False)), 1e-8)


def test_matfree_finds_log_determinants() -> None:
    decomp, funm, stochtrace = (pytest.importorskip(f"matfree.{name}") for name in ("decomp", "funm", "stochtrace"))
    G, K = spd()
    f, key = matvec(G.gram()), jax.random.key(3)
    integrand = funm.monte_carlo_funm_sym_logdet(decomp.tridiag_sym(len(K)))  # all steps: exact for each sample
    sampler = stochtrace.sampler_signs(jnp.zeros(len(K)), num=50)
    estimate = stochtrace.estimator_monte_carlo(integrand, sampler)
    found, V = jax.jit(lambda key: estimate(f, key))(key), np.asarray(sampler(key))
    values, U = np.linalg.eigh(K)
    assert close(found, ((V @ U) ** 2 @ np.log(values)).mean(), 1e-8)
