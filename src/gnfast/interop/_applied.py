"""The user's function of JAX whose network was read: compared with it, and its own Gauss-Newton product."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

import gnfast as gn
from gnfast._arrays import Array
from gnfast.interop._compare import difference
from gnfast.interop._pytrees import Order

JaxArray: TypeAlias = Any  # jax.Array
Leaves: TypeAlias = list[Any]
Product: TypeAlias = Callable[[Any], Any]
INSTEAD = "gnfast.operator takes JAX's own product with its Gauss-Newton matrix"


class Applied:
    """apply(params, X) -> outputs (n, k), as a function of the leaves of params."""

    def __init__(self, apply: Callable[[Any, Any], Any], params: Any, order: Order) -> None:
        self.apply, self.order = apply, order
        pairs, self.tree = jax.tree_util.tree_flatten_with_path(params)
        self.names = [f"params{jax.tree_util.keystr(path)}" for path, _ in pairs]
        self.leaves = [jnp.asarray(leaf) for _, leaf in pairs]

    def at(self, X: JaxArray) -> Callable[[Leaves], JaxArray]:
        """The outputs at X as a function of the leaves of the parameters."""
        return lambda leaves: self.apply(self.tree.unflatten(leaves), X)

    # ------------------------------------------------------------------------------------------------ the comparison
    def compare(self, net: gn.Network, X: JaxArray, samples: Array) -> None:
        """Raise where outputs or derivatives at X are not the network's at the same samples."""

        def double(cotangent: Callable[[Array], Array]) -> tuple[Array, Sequence[Array]]:
            return self._pulled([leaf.astype("float64") for leaf in self.leaves], X.astype("float64"), cotangent)

        names = [self.names[move.leaf] for move in self.order.moves]
        found = difference(
            net,
            samples,
            names,
            lambda cotangent: self._pulled(self.leaves, X, cotangent),
            double if jax.config.jax_enable_x64 else None,
        )
        if found and found.in_derivative:
            raise ValueError(
                f"apply gives {found}, compared with the network that was read, whose matrix would be another than "
                f"that of jax.grad of apply; {INSTEAD}"
            )
        if found:
            raise ValueError(
                f"apply gives {found}, compared with the network that was read; check activation, layers, layout and "
                f"order: {net!r}"
            )

    def _pulled(
        self, leaves: Leaves, X: JaxArray, cotangent: Callable[[Array], Array]
    ) -> tuple[Array, Sequence[Array]]:
        with jax.default_matmul_precision("highest"):  # which it is not by itself on GPUs and TPUs
            try:
                outputs, pull = jax.vjp(self.at(X), leaves)
                out = np.asarray(outputs)
                (parts,) = pull(jnp.asarray(cotangent(out), out.dtype))
            except Exception as error:  # whatever the user's code and rules raise
                self.apply(self.tree.unflatten(leaves), X)  # which has its own error where that is the fault
                raise ValueError(
                    f"apply has no derivative in reverse mode, with which the network that was read could be compared "
                    f"({_first_line(error)}); {INSTEAD}"
                ) from error
        return out, self.order.to_arrays([np.asarray(part) for part in parts])

    # --------------------------------------------------------------------------------------------------- the product
    def product(self, X: JaxArray, hessian: Callable[[JaxArray], Product], must: bool, check: bool) -> Product | None:
        """G v from leaves to leaves by JAX's own derivatives, linearised once, as its users do it.

        J v is that of forward mode, whose transpose JAX's reverse mode is; where there is none, of what
        `jax.custom_vjp` defines, it is the transpose of reverse mode, which is checked. None, or an error if it `must`
        be, where JAX has neither.
        """
        f = self.at(X)
        try:
            outputs, push = jax.linearize(f, self.leaves)
            found = _product(push, jax.linear_transpose(push, self.leaves), hessian(outputs))
            found.lower(self.leaves)  # which is when what has no forward mode says so, and is not done again
            return found  # type: ignore[no-any-return]
        except Exception:  # whatever the user's rules raise: jax.custom_vjp has no forward mode
            outputs = None
        try:
            outputs, pull = jax.vjp(f, self.leaves)
            transposed = jax.linear_transpose(pull, outputs)

            def push_back(leaves: Leaves) -> JaxArray:
                return transposed((leaves,))[0]

            if not check or self._is_adjoint(push_back, pull, outputs):
                return _product(push_back, pull, hessian(outputs))  # type: ignore[no-any-return]
            reason = "its derivative is not linear"
        except Exception as error:  # as above
            reason = _first_line(error)
        if must:
            raise ValueError(
                f"engine is 'jax' but JAX has no product with the Jacobian of apply ({reason}); use engine='gnfast'"
            )
        return None

    def _is_adjoint(self, push: Product, pull: Product, outputs: JaxArray) -> bool:
        """<u, J v> = <J^T u, v> for random u and v, up to rounding."""
        rng = np.random.default_rng(0)
        v = [jnp.asarray(rng.standard_normal(leaf.shape), leaf.dtype) for leaf in self.leaves]
        u = jnp.asarray(rng.standard_normal(outputs.shape), outputs.dtype)
        forward, (back,) = jax.jit(lambda u, v: (push(v), pull(u)))(u, v)
        left = np.vdot(u, forward)
        right = sum(np.vdot(a, b) for a, b in zip(back, v, strict=True))
        size = np.linalg.norm(u) * np.linalg.norm(forward)
        return bool(abs(left - right) <= max(1e3 * float(jnp.finfo(outputs.dtype).eps), 1e-9) * size)


def _product(push: Product, pull: Product, hessian: Product) -> Any:
    return jax.jit(lambda v: pull(hessian(push(v)))[0])


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [repr(error)])[0]
