"""The diagonal blocks of a Gauss-Newton matrix, one for the parameters of each layer."""

from __future__ import annotations

from typing import Any

from gnfast._arrays import Array
from gnfast.operators.diagonal import diagonal_of, rows_fit
from gnfast.operators.gram import Gram
from gnfast.operators.layer_slices import LayerSlice, layers_of
from gnfast.operators.linear_operator import check_finite
from gnfast.operators.masked import operator_of
from gnfast.operators.problem import Problem
from gnfast.operators.symmetric import KnownDiagonal, SymmetricOperator


class Block(SymmetricOperator):
    """G_l = S_l^T S_l (p_l, p_l), S_l = R^T J_l / sqrt(n) in one layer's parameters; `GaussNewton.block` makes it.

    A product multiplies by the layer's rows alone, 4 n p_l + 4 n q m_l flops a vector in a plain dense network, with
    q outputs, m_l units and derivatives of the outputs that all blocks share; in other networks it walks from the
    layer to the outputs and back, unless the rows of the Jacobian are stored. It has a dual of its own, S_l S_l^T
    (n q, n q), the layer's share of the Gram matrix: G's dual is the sum of them.
    """

    space = "parameters"
    problem: Problem

    def __init__(self, problem: Problem, part: LayerSlice) -> None:
        if part.size == 0:
            raise ValueError(f"layer {part.name!r} has no parameters left; pruning has taken them all")
        gram = Gram(problem, problem.loss_at.rank, part)

        def product(rows: Array, out: Array) -> None:
            image = gram.restrict(rows)
            check_finite(image, "V")
            gram.lift_rows(image, out)

        dtype, home = problem.dtype, problem.device
        super().__init__(operator_of(product, part.size, dtype, home), dtype, home)
        self.problem, self.part, self.memory_limit, self._gram = problem, part, problem.memory_limit, gram
        self.exponent = problem.exponent

    def _recipe(self) -> tuple[Any, ...]:
        return _block, (self.problem, self.part.index)

    def gram(self) -> Gram:
        """The layer's share of the Gram dual, S_l S_l^T (n q, n q), with the non-zero spectrum of the block."""
        return self._gram

    def dual(self) -> SymmetricOperator:
        """The smaller of the two."""
        return self if self.shape[0] <= self._gram.shape[0] else self._gram

    def dual_for_largest(self, k: int, dense: int) -> Gram | None:
        """Its Gram, if that is smaller and its spectrum not wanted as a whole."""
        return self._gram if k < self._gram.shape[0] < self.shape[0] else None

    def enlarged(self) -> Block:
        """The same times a power of two, for entries too small for the dtype."""
        return Block(self.problem.enlarged(), self.part)

    def diagonal(self) -> Array:
        """The block's diagonal, (p_l,), exactly, in float64: see `GaussNewton.diagonal`."""
        return diagonal_of(self.problem)[self.part.own]

    def known_diagonal(self) -> KnownDiagonal | None:
        """The diagonal, where the derivatives that it is made of are within `memory_limit`."""
        if not rows_fit(self.problem):
            return None
        return KnownDiagonal(self.diagonal(), "squares of the Jacobian, one product a layer")

    def trace_operator(self) -> SymmetricOperator:
        """Its Gram, whose diagonal is free, or itself where that is its own."""
        return self if self.problem.net.kept is not None else self._gram

    def __repr__(self) -> str:
        p = self.shape[0]
        return f"Block({p} x {p}, {self.part.name}, {self.dtype}, {self.device})"


def _block(problem: Problem, part: int) -> Block:
    return Block(problem, layers_of(problem.net)[part])
