"""The common base of duals: vectors that can be taken to parameters."""

from __future__ import annotations

from typing import Any

from gnfast import _arrays, _core
from gnfast._arrays import Array
from gnfast.operators.linear_operator import check_finite
from gnfast.operators.masked import KeptGram, operator_of
from gnfast.operators.problem import Problem
from gnfast.operators.symmetric import Lifting
from gnfast.operators.wide_limit import Decoupling


class Dual(Decoupling, Lifting):
    """The common base of the duals of a network: vectors that can be taken to parameters."""

    problem: Problem
    parameters: int
    _dual: _core.Dual | KeptGram  # where the core holds the dual

    def __init__(
        self, problem: Problem, core: _core.Operator | KeptGram, block: int, copies: int, interleaved: bool
    ) -> None:
        dtype, home = problem.dtype, problem.device
        operator = operator_of(core.apply, block * copies, dtype, home) if isinstance(core, KeptGram) else core
        super().__init__(operator, dtype, home, block, copies, interleaved)
        self.problem = problem
        self.parameters = problem.parameters
        self.memory_limit = problem.memory_limit

    def _recipe(self) -> tuple[Any, ...]:
        return type(self), (self.problem,)

    def _apply(self, rows: Array, out: Array) -> None:
        check_finite(rows, "V")
        self.core.apply(rows, out)

    def lift(self, Y: Any) -> Array:
        """Vectors of the dual taken to parameters: columns of (N, s) to columns of (p, s).

        An eigenvector y of the dual with eigenvalue lambda becomes one of G with the same eigenvalue and the norm
        sqrt(lambda) |y| (divide by it).
        """
        self.check_unchanged()
        given = self._rows_of(Y, "Y", self.shape[0])
        check_finite(given.rows, "Y")
        out = self.device.empty((len(given.rows), self.parameters), self.dtype)
        self.lift_rows(given.rows, out)
        return _arrays.like(given.back(out).T, Y)  # type: ignore[no-any-return]  # a tensor of a tensor

    def restrict(self, rows: Array) -> Array:
        """Each row v of `rows` (s, p) taken to the dual, (s, N): the adjoint of `lift`.

        An eigenvector of norm one with eigenvalue lambda becomes one of the dual, of norm sqrt(lambda).
        """
        out = self.device.empty((len(rows), self.shape[0]), self.dtype)
        self._restrict(rows, out)
        return out

    def lift_rows(self, rows: Array, out: Array) -> None:
        """Write `lift` of each row (s, N) into `out` (s, p), up to its factor."""
        self._dual.lift(rows, out, self.parameters)

    def _restrict(self, rows: Array, out: Array) -> None:
        self._dual.restrict(rows, out, self.parameters)

    def _mean_over_outputs(self, out: Array) -> None:
        self._dual.mean_over_outputs(out)


def check_scalar_loss(problem: Problem) -> None:
    """Raise unless the loss's Hessian is a multiple of I at all samples: what duals of linear maps need."""
    at = problem.loss_at
    if not at.is_scalar:
        got = "with weights (n, k)" if at.name == "mse" else repr(at.name)
        raise ValueError(
            f"the linear dual needs loss='mse', whose Hessian is a multiple of I at all samples, not {got}; use gram()"
        )
