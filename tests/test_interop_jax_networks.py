"""Networks from pytrees of arrays: the outputs and Gauss-Newton matrices of Flax, Equinox and plain functions."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import gnfast as gn

jax = pytest.importorskip("jax")
jnp = jax.numpy

import oracles  # noqa: E402
from jax.flatten_util import ravel_pytree  # noqa: E402

from gnfast.interop.jax import Conv, Dense, GaussNewton, from_pytree  # noqa: E402
from gnfast.losses import LOSSES  # noqa: E402

pytestmark = pytest.mark.usefixtures("jax64")
TOL = 1e-11  # relative to the largest entry: sums of some hundred products in float64


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def filled(tree: Any) -> Any:
    """Random values for the arrays of a pytree, or what stands for them."""
    leaves, structure = jax.tree.flatten(tree)
    return structure.unflatten([jnp.asarray(random(*leaf.shape, seed=i)) / 2 for i, leaf in enumerate(leaves)])


def parameters(module: Any, X: Any) -> Any:
    """Of a module of Flax, with biases that are not zero."""
    return filled(jax.eval_shape(module.init, jax.random.key(0), X))


def close(found: Any, wanted: Any, tol: float = TOL) -> bool:
    found, wanted = np.asarray(found), np.asarray(wanted)
    return found.shape == wanted.shape and bool(np.abs(found - wanted).max() <= tol * np.abs(wanted).max())


def explicit(apply: Any, params: Any, X: Any, loss: str = "mse") -> np.ndarray:
    """G (p, p) in the order of ravel_pytree, from the outputs' Jacobian by JAX."""
    flat, unravel = ravel_pytree(params)
    out = np.asarray(apply(params, X))
    J = np.asarray(jax.jit(jax.jacrev(lambda flat: apply(unravel(flat), X)))(flat))
    return np.einsum("iap,iab,ibq->pq", J, oracles.hessian(loss, out), J, optimize=True) / len(out)


def check(ggn: GaussNewton, params: Any, G: np.ndarray) -> None:
    """Both kinds of vectors, in blocks, against the dense matrix."""
    _, unravel = ravel_pytree(params)
    V = random(3, len(G))
    assert ggn.shape == G.shape
    flat, trees = jax.jit(jax.vmap(lambda v: (ggn.matvec(v), ggn(unravel(v)))))(jnp.asarray(V))
    assert close(flat, V @ G)
    assert jax.tree.structure(trees) == jax.tree.structure(params)
    leaves = [np.asarray(leaf).reshape(len(V), -1) for leaf in jax.tree.leaves(trees)]
    assert close(np.concatenate(leaves, axis=1), V @ G)


def check_order(ggn: GaussNewton, params: Any) -> None:
    """With outputs that agree, this is all that a product needs: where each entry is, and the way back."""
    vector, again = jax.jit(lambda tree: (ggn.to_vector(tree), ggn.to_pytree(ggn.to_vector(tree))))(params)
    assert np.array_equal(vector, np.concatenate([array.ravel() for array in ggn.network.parameters()]))
    assert jax.tree.all(jax.tree.map(np.array_equal, again, params))


def mlp(params: list[tuple[Any, Any]], X: Any) -> Any:
    """As in JAX's own MNIST example: mnist_classifier_fromscratch.predict, without its softmax."""
    for w, b in params[:-1]:
        X = jnp.tanh(jnp.dot(X, w) + b)
    w, b = params[-1]
    return jnp.dot(X, w) + b


def pairs(*widths: int) -> list[tuple[Any, Any]]:
    return filled([(np.zeros((m, n)), np.zeros(n)) for m, n in itertools.pairwise(widths)])


# ---------------------------------------------------------------------------------------------------------- products
@pytest.mark.parametrize("engine", ["gnfast", "jax"])
@pytest.mark.parametrize("loss", LOSSES)
def test_pairs_of_jax_own_example(loss: str, engine: str) -> None:
    params, X = pairs(5, 7, 6, 4), random(8, 5)
    ggn = GaussNewton(params, X, "tanh", loss, apply=mlp, engine=engine)
    check(ggn, params, explicit(mlp, params, X, loss))
    assert "in JAX" in repr(ggn)


@pytest.mark.parametrize("loss", ["cross_entropy", "poisson", "blocks"])
def test_jax_own_derivatives_take_every_loss(loss: str) -> None:
    params, X = pairs(5, 7, 3), random(8, 5)
    blocks = random(8, 3, 2) @ random(8, 2, 3, seed=1)
    blocks = blocks @ blocks.transpose(0, 2, 1)
    weights = np.abs(random(8, 3) if loss == "poisson" else random(8))
    options = dict(loss=blocks if loss == "blocks" else loss, weights=weights, reduction="sum", apply=mlp)
    ours, own = (GaussNewton(params, X, "tanh", engine=engine, **options) for engine in ("gnfast", "jax"))
    v = jnp.asarray(random(len(ours.matvec(jnp.zeros(ours.shape[0])))))
    assert close(own.matvec(v), ours.matvec(v))


def test_the_engine_is_chosen_by_cost() -> None:
    """The hand-over of a vector costs the same for any number of samples; what our products save grows with it."""
    params = pairs(5, 70, 60, 3)
    few, many = random(9, 5), random(900, 5)
    assert GaussNewton(params, few, "tanh", apply=mlp).engine == "jax"
    assert "JAX's own derivatives" in repr(GaussNewton(params, few, "tanh", apply=mlp))
    assert GaussNewton(params, many, "tanh", apply=mlp).engine == "gnfast"
    assert GaussNewton(params, few, "tanh").engine == "gnfast"  # no function to differentiate
    with pytest.raises(ValueError, match="engine is 'jax' but apply is None"):
        GaussNewton(params, few, "tanh", engine="jax")
    with pytest.raises(ValueError, match="engine is 'xla' but must be one of"):
        GaussNewton(params, few, "tanh", apply=mlp, engine="xla")


def test_vectors_of_the_operator_are_pytrees_in_another_order() -> None:
    nn = pytest.importorskip("flax.linen")
    module, X = nn.Sequential([nn.Dense(7), nn.relu, nn.Dense(3)]), random(8, 5)
    params = parameters(module, X)
    ggn = GaussNewton(params, X, nn.relu, apply=module.apply, engine="gnfast")
    G = explicit(module.apply, params, X)
    check(ggn, params, G)
    values, vectors = gn.eigsh(ggn.operator, k=2)
    for value, vector in zip(values, vectors.T, strict=True):
        flat, _ = ravel_pytree(ggn.to_pytree(vector))
        assert close(G @ flat, value * flat, 1e-9)
        assert close(ggn.to_vector(ggn.to_pytree(vector)), vector)


def test_a_convolutional_network_of_flax() -> None:
    """Strides with SAME, which pads unevenly, a pool, and pixels with the channels last behind each other."""
    nn = pytest.importorskip("flax.linen")

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            x = nn.relu(nn.Conv(4, (3, 3), strides=2)(x))
            x = nn.gelu(nn.Conv(6, (2, 3), feature_group_count=2, padding=((0, 1), (2, 1)), use_bias=False)(x))
            x = nn.avg_pool(x, (2, 2), strides=(2, 2))
            x = x.reshape(len(x), -1)
            return nn.Dense(3)(nn.tanh(nn.Dense(5)(x)))

    module, X = Net(), random(4, 8, 11, 2)
    params = parameters(module, X)
    chain = [Conv(strides=2), "relu", Conv(padding=((0, 1), (2, 1)), feature_group_count=2), nn.gelu]
    chain += [gn.Pool("average", 2), gn.Flatten(), Dense(), "tanh", Dense]
    apply = jax.jit(module.apply)
    order = ["Conv_0", "Conv_1", "Dense_1", "Dense_0"]  # Flax counts them as they are made, and makes the outer first
    ggn = GaussNewton(params, X, layers=chain, loss="cross_entropy", order=order, apply=apply, engine="gnfast")
    check(ggn, params, explicit(apply, params, X, "cross_entropy"))
    again = from_pytree(params, layers=chain, order=order, sample_shape=(8, 11, 2))
    assert close(again(np.moveaxis(X, -1, 1).copy()), apply(params, X))


@pytest.mark.parametrize("shape", [(9, 2), (6, 7, 2)])
def test_the_usual_chain_is_the_default(shape: tuple[int, ...]) -> None:
    """Series and images; as after a step of an optimizer, JAX has sorted the names: Dense_10 before Dense_2."""
    nn = pytest.importorskip("flax.linen")
    k = len(shape) - 1

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            x = nn.silu(nn.Conv(3, (3,) * k)(x))
            x = nn.silu(nn.Conv(2, (2,) * k)(x)).reshape(len(x), -1)
            for _ in range(10):
                x = nn.silu(nn.Dense(4)(x))
            return nn.Dense(3)(x)

    module, X = Net(), random(5, *shape)
    params = parameters(module, X)
    assert list(params["params"])[2:5] == ["Dense_0", "Dense_1", "Dense_10"]
    check_order(GaussNewton(params, X, nn.silu, apply=jax.jit(module.apply)), params)


def test_modules_of_equinox() -> None:
    eqx = pytest.importorskip("equinox")
    key = jax.random.key(0)

    class Net(eqx.Module):
        conv: Any
        hidden: Any
        out: Any

        def __init__(self) -> None:
            self.conv = eqx.nn.Conv2d(2, 3, 3, padding=1, key=key)
            self.hidden = eqx.nn.Linear(3 * 5 * 4, 5, key=key)
            self.out = eqx.nn.Linear(5, 3, use_bias=False, key=key)

        def __call__(self, x: Any) -> Any:
            return self.out(jax.nn.relu(self.hidden(jax.nn.relu(self.conv(x)).ravel())))

    chain = [Conv(padding=1), "relu", gn.Flatten(), Dense, "relu", Dense]
    for make, shape, layers in (
        (lambda: eqx.nn.MLP(4, 3, 6, 2, activation=jax.nn.relu, key=key), (4,), None),
        (Net, (2, 5, 4), chain),
    ):
        shapes, rest = eqx.partition(eqx.filter_eval_shape(make), lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))
        params, X = filled(shapes), random(6, *shape)
        apply = jax.jit(lambda params, X, rest=rest: jax.vmap(eqx.combine(params, rest))(X))
        check_order(GaussNewton(params, X, layers=layers, layout="equinox", apply=apply), params)


# ----------------------------------------------------------------------------------------------------------- layouts
def test_layouts_of_other_libraries() -> None:
    """stax (an empty tuple an activation), Haiku, flax.nnx, numbered names and bare lists: one network."""
    params, X = pairs(5, 7, 6, 3), random(8, 5)
    wanted = mlp(params, X)
    (W1, b1), (W2, b2), (W3, b3) = params
    haiku = ["linear_2", "linear", "linear_1"]
    spellings = {
        "stax": [params[0], (), params[1], (), params[2]],
        "haiku": {name: {"w": params[i][0], "b": params[i][1]} for i, name in zip((2, 0, 1), haiku, strict=True)},
        "numbered": {"b3": b3, "W1": W1, "b1": b1, "b2": b2, "W3": W3, "W2": W2},
        "list": [W1, b1, W2, b2, W3, b3],
        "inside": {"params": {"mlp": {f"fc{i}": {"kernel": W, "bias": b} for i, (W, b) in enumerate(params)}}},
        "tutorial": [(W.T, b) for W, b in params],  # JAX's "Training a simple neural network"
    }
    for name, tree in spellings.items():
        layout = "equinox" if name == "tutorial" else "flax"
        assert close(from_pytree(tree, "tanh", layout=layout)(X), wanted), name
    bare = from_pytree([W1, W2, W3], jnp.tanh)
    assert close(bare(X), mlp([(W, 0) for W, _ in params], X))
    assert from_pytree(W1).widths == [5, 7]
    square = pairs(5, 5)[0]
    assert from_pytree([square, square]).num_parameters == 60  # two layers, though one memory
    kernel, bias = random(3, 2, 2, 4), random(1, 1, 1, 4)
    conv = from_pytree(
        [(kernel, bias), (), (), (random(4, 3), random(3))],
        layers=[Conv, gn.Pool("global_average"), gn.Flatten(), Dense],
    )
    assert [array.shape for array in conv.parameters()] == [(4, 2, 3, 2), (4,), (3, 4), (3,)]
    assert close(conv.parameters()[1], bias.ravel())


def test_variables_of_nnx() -> None:
    nnx = pytest.importorskip("flax.nnx")
    make = lambda rngs: nnx.Sequential(nnx.Linear(5, 4, rngs=rngs), nnx.tanh, nnx.Linear(4, 3, rngs=rngs))  # noqa: E731
    graph, state = nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))))
    params, X = filled(state), random(6, 5)
    apply = jax.jit(lambda params, X: nnx.merge(graph, params)(X))
    check_order(GaussNewton(params, X, nnx.tanh, apply=apply), params)


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "elu", "gelu", "silu", "swish", "softplus", "sigmoid", "tanh"])
def test_activations_are_those_of_jax(name: str) -> None:
    function = getattr(jax.nn, name)
    params, X = pairs(4, 6, 3), random(7, 4)
    wanted = function(X @ params[0][0] + params[0][1]) @ params[1][0] + params[1][1]
    assert close(from_pytree(params, function)(X), wanted)


def test_circular_padding() -> None:
    nn = pytest.importorskip("flax.linen")
    module, X = nn.Conv(3, (3, 4), padding="CIRCULAR"), random(3, 6, 5, 2)
    params = parameters(module, X)
    net = from_pytree(params, layers=[Conv(padding="CIRCULAR"), gn.Pool("global_average"), gn.Flatten()])
    assert close(net(np.moveaxis(X, -1, 1).copy()), jax.jit(module.apply)(params, X).mean((1, 2)))


def test_uneven_padding() -> None:
    """Of our own convolution, saved and loaded too: the same as zeros around the samples."""
    layer = gn.Conv2d(random(2, 3, 3, 2), padding=((0, 1), (2, 3)), stride=2)
    X = random(2, 3, 5, 6)
    padded = np.pad(X, ((0, 0), (0, 0), (0, 1), (2, 3)))
    end = [gn.Flatten()]
    wanted = gn.Network([gn.Conv2d(layer.weight, stride=2), *end])(padded)
    assert close(gn.Network([layer, *end])(X), wanted)
    assert "padding 0+1x2+3" in repr(layer)
    with pytest.raises(ValueError, match=r"padding is .* but must be an integer or 2"):
        gn.Conv2d(layer.weight, padding=(1, 2, 3))
    with pytest.raises(ValueError, match=r"padding is \(1, 2, 3\) but must be an integer or 2"):
        gn.Conv2d(layer.weight, padding=((1, 2, 3), 1))


# -------------------------------------------------------------------------------------------------- the same network?
def single(widths: tuple[int, ...], seed: int) -> list[tuple[Any, Any]]:
    """Weights in float32 of the usual size."""
    draws = enumerate(itertools.pairwise(widths))
    return [
        ((random(m, n, seed=97 * seed + i) * np.sqrt(2 / m)).astype("f"), (random(n, seed=i) / 10).astype("f"))
        for i, (m, n) in draws
    ]


def chain_of(activation: Any, params: list[tuple[Any, Any]], X: Any) -> Any:
    for W, b in params[:-1]:
        X = activation(X @ W + b)
    return X @ params[-1][0] + params[-1][1]


@pytest.mark.parametrize("widths", [(9, 17, 2), (9, 300, 11), (9, 40, 40, 40, 40, 3), (9, *(33,) * 19, 3)])
def test_the_other_gelu_is_found_in_single_precision(widths: tuple[int, ...]) -> None:
    """Both differ by 5e-4 at most, where rounding in float32 is 1e-7."""
    functions = {"gelu": lambda x: jax.nn.gelu(x, approximate=False), "gelu_tanh": jax.nn.gelu}
    for seed in range(3):
        params, X = single(widths, seed), random(20, 9, seed=seed).astype("f")
        for name, function in functions.items():
            apply = jax.jit(lambda params, X, function=function: chain_of(function, params, X))
            assert GaussNewton(params, X, name, apply=apply, engine="gnfast").dtype == np.float32
            other = next(each for each in functions if each != name)
            with pytest.raises(ValueError, match="check activation, layers"):
                GaussNewton(params, X, other, apply=apply)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("gain", [0.2, 1, 3])
@pytest.mark.parametrize("name", ["relu", "tanh", "silu", "softplus", "sigmoid"])
def test_the_right_network_is_never_refused(name: str, gain: float, dtype: str) -> None:
    """Deep ones whose rounding grows from layer to layer, too: with three times the weights tanh is chaotic."""
    apply = jax.jit(lambda params, X: chain_of(getattr(jax.nn, name), params, X))
    for widths in ((9, 200, 1), (9, *(33,) * 11, 3)):
        for seed in range(3):
            params = [((gain * W).astype(dtype), b.astype(dtype)) for W, b in single(widths, seed)]
            GaussNewton(params, random(20, 9, seed=seed).astype(dtype), name, apply=apply, engine="gnfast")


# ------------------------------------------------------------------------------------------------------------ errors
def named(*names: str) -> dict[str, Any]:
    return {name: {"kernel": random(4, 4, seed=i), "bias": random(4)} for i, name in enumerate(names)}


def test_names_that_tell_no_order() -> None:
    params, X = named("out", "hidden"), random(3, 4)
    with pytest.raises(ValueError, match=r"has 'hidden' and 'out', whose names do not tell .*; pass order="):
        from_pytree(params)
    net = from_pytree(params, "tanh", order=["hidden", "out"])
    assert close(net(X), mlp([tuple(params[name].values()) for name in ("hidden", "out")], X))
    assert close(from_pytree({"params": params}, "tanh", order=["hidden", "out"])(X), net(X))
    with pytest.raises(ValueError, match="order has 'middle', which must be one layer of params, once; they are 'hi"):
        from_pytree(params, order=["hidden", "middle"])
    with pytest.raises(ValueError, match="order leaves out 'out'"):
        from_pytree(params, order=["hidden"])
    with pytest.raises(TypeError, match="order is 'hidden' but must be a list"):
        from_pytree(params, order="hidden")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: from_pytree({}), ValueError, "params has no arrays"),
        (
            lambda: from_pytree({"LayerNorm_0": {"scale": random(3)}}),
            ValueError,
            "'LayerNorm_0/scale', which is no ker",
        ),
        (lambda: from_pytree({"Dense_0": {"bias": random(3)}}), ValueError, "no kernel at Dense_0"),
        (lambda: from_pytree([np.ones((2, 3), int)]), TypeError, r"params\[0\] has dtype int64 but must be float32"),
        (lambda: from_pytree([random(2, 3), random(3, 3), random(3), random(3)]), ValueError, "no kernel at params"),
        (lambda: from_pytree([random(2, 3), random(4)]), ValueError, r"bias of shape \(4,\) at '0' .* needs 3 numbers"),
        (lambda: from_pytree(named("a1", "a2"), "swoosh"), ValueError, "activation is 'swoosh' but must be one of"),
        (lambda: from_pytree(named("a1"), jnp.sin), ValueError, "activation is .*sin.* but must be a name of gnfast's"),
        (lambda: from_pytree(named("a1"), layout="keras"), ValueError, "layout is 'keras' but must be one of 'flax'"),
        (lambda: from_pytree(named("a1"), layers=[Conv]), ValueError, "is a Conv but params has a kernel of shape"),
        (
            lambda: from_pytree(named("a1"), layers=[Dense, Dense]),
            ValueError,
            "is a Dense but params has no more layers",
        ),
        (lambda: from_pytree(named("a1", "a2"), layers=[Dense]), ValueError, "layers does not take 'a2' of params"),
        (lambda: from_pytree(named("a1"), layers=[gn.Dense(random(4, 4))]), TypeError, "arrays come from params"),
        (lambda: from_pytree([random(3, 3, 2, 4), random(36, 2)]), ValueError, "pass sample_shape="),
        (lambda: from_pytree([random(3, 3, 2, 4)], sample_shape=(3, 3, 2)), ValueError, "come in another order"),
        (lambda: from_pytree([random(3, 3, 2, 4)], layers=[Conv(2)]), ValueError, "needs the shape of a sample"),
        (lambda: GaussNewton(pairs(3, 4), random(5, 4)), ValueError, "takes 3 features but gets .*see layout"),
        (lambda: GaussNewton(pairs(3, 3, 3), random(5, 3), apply=mlp), ValueError, "check activation, layers, layout"),
        (lambda: GaussNewton(pairs(3, 3), random(5, 3), apply=lambda P, X: X[0]), ValueError, "outputs of shape"),
    ],
)
def test_what_is_refused(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_traced_parameters_and_other_vectors_are_refused() -> None:
    params, X = pairs(3, 4, 2), random(5, 3)
    with pytest.raises(TypeError, match="is a traced value, which has no entries yet; make the operator outside"):
        jax.jit(lambda params: GaussNewton(params, X).matvec(jnp.ones(26)))(params)
    ggn = GaussNewton(params, X)
    with pytest.raises(ValueError, match=r"v is a pytree of structure .* but params has"):
        ggn(params[:1])
    with pytest.raises(ValueError, match=r"v has an array of shape \(3, 1\) where params has \(3, 4\)"):
        ggn(jax.tree.map(lambda a: a[..., :1], params))
    with pytest.raises(TypeError, match="v has dtype float32 but the operator has float64"):
        ggn(jax.tree.map(lambda a: a.astype("float32"), params))
    with pytest.raises(ValueError, match=r"v has shape \(5,\) but must be \(26,\)"):
        ggn.matvec(jnp.ones(5))


def test_matfree_on_pytrees() -> None:
    """As in matfree's tutorial on pytree-valued states: log-determinants of G + 1 by vectors like the parameters."""
    decomp, funm, stochtrace = (pytest.importorskip(f"matfree.{name}") for name in ("decomp", "funm", "stochtrace"))
    params, X = pairs(4, 5, 3), random(6, 4)
    ggn = GaussNewton(params, X, "tanh")
    sampler = stochtrace.sampler_normal(params, num=20)
    integrand = funm.monte_carlo_funm_sym_logdet(decomp.tridiag_sym(20))  # G has rank 18: exact
    estimate = stochtrace.estimator_monte_carlo(integrand, sampler)
    key = jax.random.key(1)
    found = jax.jit(lambda key: estimate(lambda v: jax.tree.map(jnp.add, ggn(v), v), key))(key)
    V = np.concatenate([np.asarray(leaf).reshape(20, -1) for leaf in jax.tree.leaves(sampler(key))], axis=1)
    values, U = np.linalg.eigh(explicit(mlp, params, X))
    assert close(found, ((V @ U) ** 2 @ np.log1p(np.maximum(values, 0))).mean(), 1e-8)
