"""The Jacobian of a network's outputs in its parameters, as an operator."""

from __future__ import annotations

from collections.abc import Callable
from operator import methodcaller
from typing import Any, Protocol

import numpy as np

from gnfast._arrays import Array, Device
from gnfast.operators.linear_operator import BlockOperator, check_finite
from gnfast.operators.problem import Problem


class JacobianProducts(Protocol):
    """Who multiplies with a Jacobian; blocks hold one vector a row."""

    def jvp(self, v: Array, u: Array) -> None:
        """u (s, n k) <- J v for each row v (s, p)."""

    def vjp(self, u: Array, v: Array) -> None:
        """v (s, p) <- J^T u for each row u (s, n k)."""


class Jacobian(BlockOperator):
    """J (n k, p) of a network's outputs at all samples in its parameters; rows ordered (sample, output).

    `J @ V` are tangents (forward mode), `J.T @ U` cotangents (reverse mode), both in blocks.

    Examples:
        >>> import numpy as np
        >>> import gnfast as gn
        >>> net, X = gn.mlp([4, 8, 2], seed=0), np.random.default_rng(0).standard_normal((3, 4))
        >>> G = gn.GaussNewton(net, X)
        >>> J = G.jacobian()  # rows ordered (sample, output)
        >>> v = np.ones(G.shape[1])
        >>> J.shape, np.allclose(J.T @ (J @ v) / 3, G @ v)
        ((6, 48), True)
    """

    def __init__(
        self,
        products: JacobianProducts,
        shape: tuple[int, int],
        dtype: np.dtype[Any],
        device: Device,
        check: Callable[[], None] | None = None,
        problem: Problem | None = None,
    ) -> None:
        super().__init__(shape, dtype, device)
        self._products, self._check, self._problem = products, check, problem

    def _recipe(self) -> tuple[Any, ...]:
        return super()._recipe() if self._problem is None else (jacobian_of, (self._problem,))

    def check_unchanged(self) -> None:
        """Raise a RuntimeError if the PyTorch module has changed since the network was read from it."""
        if self._check is not None:
            self._check()

    def _apply(self, rows: Array, out: Array) -> None:
        self._products.jvp(rows, out)
        check_finite(out, "V")  # there NaN and infinity arrive, and out is much smaller than V

    def _adjoint(self) -> BlockOperator:
        return TransposedJacobian(self._products, self)

    _transpose = _adjoint

    def __repr__(self) -> str:
        return f"Jacobian({self.shape[0]} x {self.shape[1]}, {self.dtype})"


class TransposedJacobian(BlockOperator):
    """J^T (p, n k)."""

    def __init__(self, products: JacobianProducts, jacobian: Jacobian) -> None:
        super().__init__(jacobian.shape[::-1], jacobian.dtype, jacobian.device)
        self._products, self._jacobian = products, jacobian

    def _recipe(self) -> tuple[Any, ...]:
        return methodcaller("transpose"), (self._jacobian,)

    def check_unchanged(self) -> None:
        """Raise a RuntimeError if the PyTorch module has changed since the network was read from it."""
        self._jacobian.check_unchanged()

    def _apply(self, rows: Array, out: Array) -> None:
        check_finite(rows, "V")
        self._products.vjp(rows, out)

    def _adjoint(self) -> Jacobian:
        return self._jacobian

    _transpose = _adjoint


def jacobian_of(problem: Problem) -> Jacobian:
    """J of a network at its samples."""
    shape = (len(problem.X) * problem.outputs, problem.parameters)
    return Jacobian(problem.products, shape, problem.dtype, problem.device, problem.check_unchanged, problem)
