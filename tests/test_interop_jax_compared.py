"""Functions of JAX compared with the network that was read: one matrix whatever makes the products, or refused."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gnfast as gn

jax = pytest.importorskip("jax")
jnp = jax.numpy

from jax.flatten_util import ravel_pytree  # noqa: E402

from gnfast.interop.jax import Conv, GaussNewton, from_pytree  # noqa: E402

pytestmark = pytest.mark.usefixtures("jax64")
stop, SHAPES = jax.lax.stop_gradient, ((4, 6), (6, 5), (5, 3))


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def double(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, "float64"), tree)


def params(dtype: str = "float64") -> list[tuple[Any, Any]]:
    return [
        (jnp.asarray(random(*shape).astype(dtype)), jnp.asarray(random(shape[1]).astype(dtype))) for shape in SHAPES
    ]


X = random(20, 4)


def chain(*acts: Callable[[Any], Any], start: Any = None, weights: Any = None, end: Any = None) -> Any:
    """x -> W3 a2(W2 a1(W1 x)), with what is done to x, to the parameters and to the outputs."""

    def apply(P: Any, x: Any) -> Any:
        P = weights(P) if weights else P
        x = start(x) if start else x
        for (W, b), act in zip(P, (*acts, end or (lambda z: z)), strict=True):
            x = act(x @ W + b)
        return x

    return apply


def custom_vjp(function: Any, backward: Any) -> Any:
    found = jax.custom_vjp(function)
    found.defvjp(lambda x: (function(x), x), lambda x, g: (backward(x, g),))
    return found


def custom_jvp(function: Any, tangent: Any) -> Any:
    found = jax.custom_jvp(function)
    found.defjvp(lambda x, v: (function(x[0]), tangent(x[0], v[0])))
    return found


def in_a_loop(P: Any, x: Any) -> Any:
    """Two passes of lax.fori_loop with a bound that is known, which has both modes."""
    (W, b), (V, c), (U, d) = P
    h = jax.lax.fori_loop(0, 1, lambda i, h: jnp.tanh(x @ W + b), jnp.tanh(x @ W + b))
    return jnp.tanh(h @ V + c) @ U + d


def by_while(P: Any, x: Any) -> Any:
    (W, b), (V, c), (U, d) = P
    h = jax.lax.while_loop(lambda s: s[0] < 1, lambda s: (s[0] + 1, jnp.tanh(x @ W + b)), (0, x @ W))[1]
    return jnp.tanh(h @ V + c) @ U + d


def first_frozen(P: Any) -> Any:
    return [jax.tree.map(stop, P[0]), *P[1:]]


tanh, slope = jnp.tanh, lambda x: 1 - jnp.tanh(x) ** 2
own = custom_vjp(tanh, lambda x, g: g * slope(x))
clipped = custom_vjp(tanh, lambda x, g: jnp.clip(g, -0.1, 0.1) * slope(x))
R, OTHER, NONE, OFF = "right", "another derivative in", "no derivative in", "outputs that are off"
FUNCTIONS: dict[str, tuple[Any, str]] = {
    "plain": (chain(tanh, tanh), R),
    "jitted": (jax.jit(chain(tanh, tanh)), R),
    "checkpointed": (jax.checkpoint(chain(tanh, tanh)), R),
    "by vmap": (lambda P, x: jax.vmap(lambda row: chain(tanh, tanh)(P, row))(x), R),
    "tanh by exp": (chain(lambda x: 1 - 2 / (jnp.exp(2 * x) + 1), tanh), R),
    "tanh by sigmoid": (chain(lambda x: 2 * jax.nn.sigmoid(2 * x) - 1, tanh), R),
    "a loop": (in_a_loop, R),
    "a branch": (lambda P, x: jax.lax.cond(x[0, 0] > 9e9, chain(jnp.sin, tanh), chain(tanh, tanh), P, x), R),
    "while_loop": (by_while, "no derivative in reverse mode"),
    "custom_vjp that is right": (chain(own, own), R),
    "custom_jvp that is right": (chain(custom_jvp(tanh, lambda x, v: v * slope(x)), tanh), R),
    "custom_vjp, straight through": (chain(custom_vjp(tanh, lambda x, g: g), tanh), OTHER),
    "custom_vjp, reversed": (chain(tanh, custom_vjp(tanh, lambda x, g: -g * slope(x))), OTHER),
    "custom_vjp, clipped": (chain(tanh, clipped), OTHER),
    "custom_jvp, straight through": (chain(tanh, custom_jvp(tanh, lambda x, v: v)), OTHER),
    "gradients scaled": (chain(tanh, tanh, end=custom_vjp(lambda x: x, lambda x, g: 1.01 * g)), OTHER),
    "stopped backbone": (chain(lambda x: stop(tanh(x)), tanh), NONE),
    "stopped features": (chain(tanh, lambda x: stop(tanh(x))), NONE),
    "stopped outputs": (chain(tanh, tanh, end=stop), NONE),
    "stopped weights": (chain(tanh, tanh, weights=first_frozen), NONE),
    "stopped in part": (chain(tanh, lambda x: 0.5 * stop(tanh(x)) + 0.5 * tanh(x)), OTHER),
    "straight through": (chain(tanh, lambda x: x + stop(tanh(x) - x)), OTHER),
    "stopped bias": (chain(tanh, tanh, weights=lambda P: [*P[:2], (P[2][0], stop(P[2][1]))]), NONE),
    "stopped samples": (chain(tanh, tanh, start=stop), R),
    "doubled": (chain(tanh, tanh, end=lambda x: 2 * x), OFF),
    "shifted samples": (chain(tanh, tanh, start=lambda x: x + 1e-5), OFF),
    "rounded": (chain(tanh, tanh, end=lambda x: x.astype("float16").astype(x.dtype)), OFF),
    "another activation": (chain(tanh, jnp.sin), OFF),
    "softmax": (chain(tanh, tanh, end=jax.nn.softmax), OFF),
    "transposed outputs": (lambda P, x: chain(tanh, tanh)(P, x)[:, ::-1], OFF),
    "samples of each other": (chain(tanh, tanh, start=lambda x: x - x.mean(0)), OFF),
    "one output": (lambda P, x: chain(tanh, tanh)(P, x)[:, 0], "outputs of shape"),
}


def matrix(apply: Any, P: Any) -> np.ndarray:
    """G (p, p) from rows by jax.vjp, which is what training follows."""
    flat, unravel = ravel_pytree(P)
    out, pull = jax.vjp(lambda flat: apply(unravel(flat), X), flat)
    units = jnp.eye(out.size).reshape(out.size, *out.shape)
    J = np.asarray(jax.jit(jax.vmap(lambda u: pull(u)[0]))(units))
    return J.T @ J / len(X)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_one_matrix_or_refused(name: str) -> None:
    apply, outcome = FUNCTIONS[name]
    P = params()
    for engine in ("jax", "gnfast") if outcome == R else ("auto",):
        if outcome == R:
            G, wanted = GaussNewton(P, X, "tanh", apply=apply, engine=engine), matrix(apply, P)
            v = random(len(wanted))
            assert np.abs(G.matvec(jnp.asarray(v)) - wanted @ v).max() <= 1e-10 * np.abs(wanted @ v).max(), engine
            spectrum = np.linalg.eigvalsh(G.operator.to_dense())
            assert np.abs(spectrum - np.linalg.eigvalsh(wanted)).max() <= 1e-10 * spectrum[-1]
        else:
            with pytest.raises(ValueError, match=re.escape(outcome)) as caught:
                GaussNewton(P, X, "tanh", apply=apply, engine=engine)
            assert ("gnfast.operator takes" in str(caught.value)) == ("derivative" in outcome)
            GaussNewton(P, X, "tanh", apply=apply, engine="gnfast", check=False)


def test_the_way_out_works() -> None:
    """JAX's own product of a function whose derivative is stopped, through gnfast.operator."""
    apply, P = FUNCTIONS["stopped backbone"][0], params()
    flat, unravel = ravel_pytree(P)
    _, push = jax.linearize(lambda flat: apply(unravel(flat), X), flat)
    pull = jax.linear_transpose(push, flat)
    block = jax.jit(jax.vmap(lambda v: pull(push(v))[0] / len(X), in_axes=1, out_axes=1))
    op = gn.operator(lambda V: np.asarray(block(V)), len(flat))
    wanted = np.linalg.eigvalsh(matrix(apply, P))
    assert abs(gn.eigsh(op, k=1)[0][0] - wanted[-1]) <= 1e-8 * wanted[-1]


@pytest.mark.parametrize("name", ["stopped backbone", "stopped bias", "custom_vjp, reversed"])
def test_single_precision(name: str) -> None:
    with pytest.raises(ValueError, match=re.escape(FUNCTIONS[name][1])):
        GaussNewton(params("float32"), X.astype("f"), "tanh", apply=FUNCTIONS[name][0])
    GaussNewton(params("float32"), X.astype("f"), "tanh", apply=FUNCTIONS["jitted"][0])


def test_a_derivative_that_is_not_linear_has_no_product_of_jax_own() -> None:
    """One that is right at the random cotangent only: JAX's product is refused, ours is that of the network."""
    strange = custom_vjp(tanh, lambda x, g: jnp.where(jnp.abs(g) > 1e6, 0, g) * slope(x))
    P, apply = params(), chain(strange, tanh)
    with pytest.raises(ValueError, match=r"engine is 'jax' but JAX has no product .*; use engine='gnfast'"):
        GaussNewton(P, X, "tanh", apply=apply, engine="jax")
    assert GaussNewton(P, X, "tanh", apply=apply).engine == "gnfast"


def test_flax_and_equinox() -> None:
    nn, eqx = pytest.importorskip("flax.linen"), pytest.importorskip("equinox")

    class Frozen(nn.Module):
        stopped: bool

        @nn.compact
        def __call__(self, x: Any) -> Any:
            x = nn.tanh(nn.Dense(5)(x))
            return nn.Dense(3)(stop(x) if self.stopped else x)

    whole, part = Frozen(False), Frozen(True)
    P = double(whole.init(jax.random.key(0), X))
    GaussNewton(P, X, "tanh", apply=whole.apply)
    with pytest.raises(ValueError, match=r"no derivative in .*Dense_0.*kernel"):
        GaussNewton(P, X, "tanh", apply=part.apply)
    model = eqx.nn.MLP(4, 3, 5, 1, jnp.tanh, key=jax.random.key(1))
    P, static = eqx.partition(model, eqx.is_inexact_array)
    P = double(P)
    options = {"layout": "equinox"}
    GaussNewton(P, X, "tanh", apply=lambda P, x: jax.vmap(eqx.combine(P, static))(x), **options)
    with pytest.raises(ValueError, match=NONE):
        GaussNewton(P, X, "tanh", apply=lambda P, x: jax.vmap(eqx.combine(stop(P), static))(x), **options)


# ---------------------------------------------------------------------------- biases with the axes of their kernels
def test_biases_of_neural_tangents() -> None:
    """(1, out) in pairs, as its stax makes them; outputs of one number, too."""
    for widths in ((4, 6, 3), (4, 1, 1), (1, 1)):
        P: list[Any] = []
        for i, (into, out) in enumerate(itertools.pairwise(widths)):
            P += [(jnp.asarray(random(into, out, seed=i)), jnp.asarray(random(1, out, seed=i))), ()]
        P, data = P[:-1], random(9, widths[0])

        def apply(P: Any, x: Any) -> Any:
            layers = [layer for layer in P if layer]
            for W, b in layers[:-1]:
                x = jnp.tanh(x @ W + b)
            return x @ layers[-1][0] + layers[-1][1]

        net = from_pytree(P, "tanh")
        assert net.num_parameters == sum(leaf.size for leaf in jax.tree.leaves(P))
        assert np.abs(net(data) - apply(P, data)).max() <= 1e-12
        G = GaussNewton(P, data, "tanh", apply=apply)
        shapes = [leaf.shape for leaf in jax.tree.leaves(G(jax.tree.map(jnp.ones_like, P)))]
        assert shapes == [leaf.shape for leaf in jax.tree.leaves(P)]
    convolution = [(random(3, 3, 2, 4), random(1, 1, 1, 4)), (), (random(36, 3), random(1, 3))]
    layers = [Conv(padding="VALID"), "tanh", gn.Flatten(), gn.interop.jax.Dense]
    assert from_pytree(convolution, layers=layers, sample_shape=(5, 5, 2)).num_parameters == 72 + 4 + 108 + 3


def test_kernels_of_one_feature_are_kernels() -> None:
    bare = from_pytree([random(4, 1), random(1, 3)], "tanh")
    assert bare.widths == [4, 1, 3]
    assert from_pytree([(random(4, 1),), (random(1, 1),)], "tanh").widths == [4, 1, 1]
    named = {"w": random(4, 3), "b": random(1, 3)}
    assert from_pytree(named).num_parameters == 15
    with pytest.raises(ValueError, match="may be a kernel or a bias; pass pairs"):
        from_pytree([random(4, 1), random(1, 1)])
