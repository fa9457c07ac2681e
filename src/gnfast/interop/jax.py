"""JAX: products with operators inside of jit, vmap, loops and derivatives, and networks from pytrees of arrays."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
from scipy.sparse.linalg import LinearOperator

import gnfast as gn
from gnfast import _arrays, _checks

jax: Any = _checks.optional_import("jax", "gnfast.interop.jax", "jax")

import jax.numpy as jnp  # noqa: E402  (they need jax, which an error above asks for)
from jax.extend.core import Primitive  # noqa: E402
from jax.interpreters import ad, batching, mlir  # noqa: E402

from gnfast.hessians import Hessians  # noqa: E402
from gnfast.interop._applied import Applied  # noqa: E402
from gnfast.interop._chains import LAYOUTS, Conv, Dense, read  # noqa: E402
from gnfast.interop._compare import spaced  # noqa: E402
from gnfast.interop._pytrees import Order  # noqa: E402
from gnfast.losses import LossAt  # noqa: E402

__all__ = ["Conv", "Dense", "GaussNewton", "from_pytree", "matvec"]

JaxArray: TypeAlias = Any  # jax.Array
Product: TypeAlias = Callable[[JaxArray], JaxArray]
ENGINES = ("auto", "gnfast", "jax")
# What the hand-over of one entry of a vector, there and back, costs in flops of our product, and a flop of XLA's: from
# a profile of the cases of benchmarks/jax_peers.py.
HANDOVER_FLOPS, OWN_FLOPS = 3000, 1.6


# --------------------------------------------------------------------------------------------------------- products
def matvec(operator: LinearOperator) -> Callable[[JaxArray], JaxArray]:
    """The product with an operator of gnfast as a function of JAX's arrays.

    It goes through `jax.jit`, `jax.lax` loops and branches, and `jax.vmap`, however nested, which makes one product
    with the whole block of vectors. It is linear: `jax.jvp`, `jax.vjp`, `jax.grad`, `jax.linearize` and
    `jax.linear_transpose` work, the transpose being `operator.T`. Its values do not depend on traced parameters: an
    operator is that of the values it was made from.

    Args:
        operator: A `GaussNewton`, `Gram`, `LinearDual`, `Jacobian` or any other `LinearOperator` (M, N) of float32 or
            float64, also SciPy's sums and products of them.

    Returns:
        A function of one vector (N,) of the operator's dtype that returns (M,). A vector with NaN or infinite values
        has a product of NaN, as in JAX, and disturbs no other of its block.

    Raises:
        ImportError: JAX is not installed.
        TypeError: Not a LinearOperator, or of another dtype; a vector of another dtype than the operator.
        ValueError: A vector of another shape.

    Compiled code hands blocks over by `jax.pure_callback`, which copies them up to twice on their way in and once on
    their way out; arrays on another device travel to the machine's memory and back. Each operator is compiled anew.
    float64 needs `jax.config.update("jax_enable_x64", True)`: callbacks of JAX do not see the context `jax.enable_x64`.
    """
    if not isinstance(operator, LinearOperator):
        raise TypeError(f"operator is of type {type(operator).__name__} but must be a LinearOperator, as gnfast's are")
    dtype, length = np.dtype(operator.dtype), operator.shape[1]
    if not _arrays.is_float(dtype):
        raise TypeError(f"operator has dtype {dtype} but must have float32 or float64")

    def product(v: JaxArray) -> JaxArray:
        v = _checked(v, dtype)
        if v.shape != (length,):
            raise ValueError(f"v has shape {v.shape} but must be ({length},); use jax.vmap for a block of vectors")
        return _product.bind(v, operator=operator)

    return product


def _checked(v: Any, dtype: np.dtype[Any]) -> JaxArray:
    """v as an array of JAX's, of the operator's dtype."""
    v = jnp.asarray(v)
    if v.dtype != dtype:
        cure = f"convert it with v.astype('{dtype}')"
        if dtype == np.float64 and not jax.config.jax_enable_x64:
            cure = 'call jax.config.update("jax_enable_x64", True) first, or make the operator in float32'
        raise TypeError(f"v has dtype {v.dtype} but the operator has {dtype}; {cure}")
    return v


def _on_host(operator: LinearOperator, v: Any) -> np.ndarray[Any, Any]:
    """The products (..., M) with all vectors of v (..., N) at once, by NumPy's functions only.

    JAX's must not be called here: where all threads of XLA wait for this one, they would wait for ever.
    """
    rows = np.asarray(v).reshape(-1, operator.shape[1])
    if rows.dtype != operator.dtype:
        raise TypeError(
            f"JAX rounded v to {rows.dtype} on its way to an operator in {operator.dtype}: its callbacks do not see "
            'the context jax.enable_x64; call jax.config.update("jax_enable_x64", True) instead'
        )
    shape = (*v.shape[:-1], operator.shape[0])
    if not len(rows):
        return np.empty(shape, rows.dtype)
    bad = ~np.isfinite(rows.sum(axis=1))
    if bad.any():
        bad = ~np.isfinite(rows).all(axis=1)
    if bad.any():  # a loop's branch that is not taken may hold anything; an error would take all down with it
        rows = np.where(bad[:, None], 0, rows)
    home = getattr(operator, "device", _arrays.CPU)
    out = np.ascontiguousarray(_arrays.to_host(operator.matmat(home.upload(rows).T)).T, dtype=rows.dtype)
    if bad.any():
        out[bad] = np.nan
    return out.reshape(shape)


def _own(v: JaxArray, operator: LinearOperator) -> Product | None:
    """JAX's own product, where the operator has one and v is a single vector."""
    return getattr(operator, "own", None) if v.size == operator.shape[1] else None


def _eager(v: JaxArray, *, operator: LinearOperator) -> JaxArray:
    if own := _own(v, operator):
        return own(v.ravel()).reshape(v.shape)
    return jax.device_put(_on_host(operator, v), v.sharding)


def _compiled(v: JaxArray, *, operator: LinearOperator) -> JaxArray:
    if own := _own(v, operator):
        return own(v.ravel()).reshape(v.shape)
    shape = jax.ShapeDtypeStruct((*v.shape[:-1], operator.shape[0]), v.dtype)
    return jax.pure_callback(lambda block: _on_host(operator, block), shape, v)


def _shape(v: Any, *, operator: LinearOperator) -> Any:
    return jax.core.ShapedArray((*v.shape[:-1], operator.shape[0]), v.dtype)


def _batched(args: Sequence[Any], axes: Sequence[int], *, operator: LinearOperator) -> tuple[JaxArray, int]:
    return _product.bind(jnp.moveaxis(args[0], axes[0], 0), operator=operator), 0


def _transposed(cotangent: Any, v: Any, *, operator: LinearOperator) -> list[Any]:
    return [_product.bind(cotangent, operator=operator.T)]


# A primitive of our own, since jax.pure_callback has no derivative, and JAX's linear_call has no rule for vmap.
_product = Primitive("gnfast_product")
_product.def_impl(_eager)
_product.def_abstract_eval(_shape)
ad.deflinear2(_product, _transposed)
batching.primitive_batchers[_product] = _batched
mlir.register_lowering(_product, mlir.lower_fun(_compiled, multiple_results=False))


# --------------------------------------------------------------------------------------------------------- networks
def from_pytree(
    params: Any,
    activation: Any = "relu",
    *,
    layers: Iterable[Any] | None = None,
    layout: str = "flax",
    order: Sequence[str] | None = None,
    sample_shape: Sequence[int] | None = None,
) -> gn.Network:
    """A pytree of arrays as a network of the core.

    A pytree does not say what is computed with its arrays. By default the network is the usual chain: convolutions,
    their pixels as one vector, dense layers, and one activation after each but the last. `layers` says anything else.

    Args:
        params: Arrays of one dtype, float32 or float64, in dicts (`kernel`, `weight`, `w` or `W` with `bias` or `b`,
            numbered or not, as in Flax, Haiku and flax.nnx), in lists (pairs (W, b) as in stax, or all arrays behind
            each other) or in modules (of Equinox, without what is no array: `eqx.filter(model, eqx.is_array)`).
        activation: A name of `gnfast.Activation`, such a layer, or JAX's function: `jax.nn.gelu` is "gelu_tanh".
        layers: All layers in order: `Dense()` and `Conv(...)`, which take the next arrays, activations,
            `gnfast.Pool`, `gnfast.Flatten` and `gnfast.Scale`. None for the chain.
        layout: "flax": kernels (in, out) and (h, w, in, out), samples (n, h, w, c), convolutions padded by "SAME"; or
            "equinox": weights (out, in) and (out, in, h, w), samples (n, c, h, w), convolutions without padding.
        order: Names of the layers of `params` in the order of their use, where their numbers do not tell it. Without:
            convolutions before dense layers, in the order of numbers in names, places in lists, fields in classes.
            Flax numbers layers as they are made: in `Dense(3)(tanh(Dense(5)(x)))` the last one is `Dense_0`.
        sample_shape: The shape of one sample in that layout; only convolutions before dense layers, or with padding
            "SAME" and strides, need it.

    Returns:
        A network that takes samples (n, d), or (n, c, h, w) and (n, c, l) whatever the layout, with copies of the
        arrays.

    Raises:
        ImportError: JAX is not installed.
        TypeError: Wrong kinds or dtypes, or traced values.
        ValueError: Arrays of other layers, or shapes, names and layers that do not fit each other.
    """
    sample = None if sample_shape is None else tuple(_checks.integers(sample_shape, "sample_shape", 1))
    layout = _checks.choice(layout, "layout", LAYOUTS)
    if sample is not None and layout == "flax":
        sample = (sample[-1], *sample[:-1])
    return read(params, activation, layers, layout, order, sample)[0]


class GaussNewton:
    """The Gauss-Newton matrix G (p, p) of a network in JAX on data, as a function of pytrees like its parameters.

    `ggn(v)` is the product with a pytree v, a pytree; `ggn.matvec(v)` that with a vector (p,) ordered as
    `jax.flatten_util.ravel_pytree(params)` has it. Both go through jit, vmap, loops and derivatives as `matvec` does.

    Args:
        params, activation, layers, layout, order: The network, see `from_pytree`. The values of the parameters are
            those of now: make another operator after a training step.
        X: Samples, an array of JAX's or NumPy's in the layout, of the parameters' dtype.
        loss: A name or Hessians (n, k, k), as in `gnfast.GaussNewton`.
        apply: Your function (params, X) -> outputs (n, k), with which the network that was read is compared at 16 of
            the samples: outputs, and one random product with J^T by `jax.vjp`; None trusts it.
        engine: "gnfast": products of our engine; "jax": JAX's own derivatives of `apply`; "auto": where `apply` is
            given, JAX's for single vectors, and for blocks if their hand-over is expected to cost more than our engine
            saves, as for dense networks at few samples. Where `apply` has no forward mode that is the adjoint of its
            reverse mode (`jax.custom_vjp`), JAX's products transpose the latter.
        weights, reduction, device, memory_limit, method: As in `gnfast.GaussNewton`.
        check: Whether `apply` is compared.

    Attributes:
        network: What was read.
        engine: "gnfast" or "jax", which makes the products with blocks.
        operator: The `gnfast.GaussNewton`, for `gnfast.cond`, `gnfast.eigsh` and all else. Its vectors are ordered as
            the core has them: `to_pytree` and `to_vector` go between.

    Raises:
        ImportError: JAX is not installed.
        TypeError: Wrong kinds or dtypes, or traced values.
        ValueError: What `from_pytree` raises; outputs or derivatives of `apply` that are not the network's, as with
            `jax.lax.stop_gradient`; with the engine "jax" derivatives that JAX cannot transpose.
    """

    def __init__(
        self,
        params: Any,
        X: Any,
        activation: Any = "relu",
        loss: Any = "mse",
        *,
        layers: Iterable[Any] | None = None,
        layout: str = "flax",
        order: Sequence[str] | None = None,
        apply: Callable[[Any, Any], Any] | None = None,
        engine: str = "auto",
        weights: Any = None,
        reduction: str = "mean",
        device: str = "cpu",
        memory_limit: float | None = None,
        method: str = "auto",
        check: bool = True,
    ) -> None:
        check = _checks.boolean(check, "check")
        samples = _arrays.as_array(X, "X", _arrays.CPU, "the operator")
        layout = _checks.choice(layout, "layout", LAYOUTS)
        if layout == "flax" and samples.ndim > 2:
            samples = np.ascontiguousarray(np.moveaxis(samples, -1, 1))
        self.network, self._order = read(params, activation, layers, layout, order, samples.shape[1:])
        applied = None if apply is None else Applied(apply, params, self._order)
        if applied is not None and check:
            part = spaced(len(samples))
            applied.compare(self.network, jnp.asarray(X)[part], samples[part])
        self.operator = gn.GaussNewton(
            self.network,
            samples,
            loss,
            reduction=reduction,
            device=device,
            memory_limit=memory_limit,
            method=method,
            weights=weights,
        )
        engine = _checks.choice(engine, "engine", ENGINES)
        if engine == "jax" and apply is None:
            raise ValueError("engine is 'jax' but apply is None; pass your function (params, X) -> outputs")
        own: Any = None
        leaves_of = self._order.leaves_of_flat
        if applied is not None and engine != "gnfast":
            hessian = _hessian(self.operator.loss_at, self.operator.scale)
            if product := applied.product(jnp.asarray(X), hessian, must=engine == "jax", check=check):
                self._leaves = product
                own = self._flat = jax.jit(lambda v, leaves=product: _raveled(leaves(leaves_of(v))))
        if engine == "auto":
            engine = "gnfast" if own is None or self._saves() else "jax"
        self.engine = engine
        if engine == "gnfast":
            self._flat = matvec(_Reordered(self.operator, self._order, own))
            self._leaves = jax.jit(lambda leaves: leaves_of(self._flat(_raveled(leaves))))

    def _saves(self) -> bool:
        """Whether blocks are expected to be faster by our engine than by XLA, whose products have four matrix products
        a layer."""
        plan, size = self.operator.plan(), self.operator.shape[0]
        return bool(plan.flops + HANDOVER_FLOPS * size <= OWN_FLOPS * plan.flops_usual)

    @property
    def shape(self) -> tuple[int, int]:
        """(p, p)."""
        return self.operator.shape  # type: ignore[no-any-return]

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of parameters, samples and vectors."""
        return self.network.dtype

    def __call__(self, v: Any) -> Any:
        """The product with a pytree of the structure and shapes of the parameters, as such a pytree."""
        return self._order.tree.unflatten(self._leaves(self._like_params(v)))

    def matvec(self, v: JaxArray) -> JaxArray:
        """The product with a vector (p,), ordered as `jax.flatten_util.ravel_pytree(params)`, as such a vector."""
        return self._flat(self._vector(v))

    def to_vector(self, v: Any) -> JaxArray:
        """A pytree like the parameters as a vector (p,) of `operator`."""
        return self._order.to_vector(self._like_params(v))

    def to_pytree(self, v: Any) -> Any:
        """A vector (p,) of `operator`, an eigenvector for instance, as a pytree like the parameters."""
        return self._order.tree.unflatten(self._order.to_leaves(self._vector(v)))

    def _like_params(self, v: Any) -> list[Any]:
        return [_checked(leaf, self.dtype) for leaf in self._order.leaves_of(v)]

    def _vector(self, v: Any) -> JaxArray:
        v = _checked(v, self.dtype)
        if v.shape != self.shape[:1]:
            raise ValueError(f"v has shape {v.shape} but must be {self.shape[:1]}; use jax.vmap for a block of vectors")
        return v

    def __repr__(self) -> str:
        how = ", products by JAX's own derivatives" if self.engine == "jax" else ""
        return f"{self.operator!r} in JAX{how}"


class _Reordered(LinearOperator):  # type: ignore[misc]  # SciPy has no types
    """A Gauss-Newton matrix on vectors in the order of `ravel_pytree`, in the machine's memory.

    The core turns kernels around while it copies, so that XLA only joins the leaves and takes them apart.
    """

    def __init__(self, operator: gn.GaussNewton, order: Order, own: Product | None) -> None:
        super().__init__(operator.dtype, operator.shape)
        self.own = own  # what makes the product with a single vector instead
        self._operator, self._order = operator, order
        self._room, self._lock = np.empty((0, 0), operator.dtype), threading.Lock()  # new pages cost more than a copy

    def _matmat(self, V: Any) -> Any:
        rows = np.ascontiguousarray(V.T)
        with self._lock:
            if self._room.shape != rows.shape:
                self._room = np.empty_like(rows)
            self._order.permute(rows, self._room)
            block = self._operator.device.upload(self._room).T
            found = np.ascontiguousarray(_arrays.to_host(self._operator.matmat(block)).T)
        out = np.empty_like(rows)
        self._order.permute(found, out, back=True)
        return out.T

    def _adjoint(self) -> LinearOperator:
        return self


def _raveled(leaves: list[Any]) -> JaxArray:
    """As `ravel_pytree` does."""
    return jnp.concatenate([leaf.ravel() for leaf in leaves])


def _hessian(loss: LossAt, scale: float) -> Callable[[JaxArray], Product]:
    """The product of the loss' Hessians with cotangents (n, k), at given outputs."""

    def at(outputs: JaxArray) -> Product:
        hessians = Hessians(jnp, loss, outputs, scale)
        return lambda U: hessians.apply(U[None])[0]

    return at
