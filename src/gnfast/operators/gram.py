"""The Gram (NTK) dual, in the space of samples."""

from __future__ import annotations

from typing import Any

import numpy as np

from gnfast import _arrays, _core
from gnfast._arrays import Array
from gnfast._memory import check_memory
from gnfast.bounds import Bound, deep
from gnfast.operators.costs import GramCosts, gram_costs
from gnfast.operators.dual import Dual
from gnfast.operators.layer_slices import LayerSlice, layers_of
from gnfast.operators.masked import KeptGram
from gnfast.operators.problem import Problem
from gnfast.operators.symmetric import KnownDiagonal

BOUND_SIZE = 2_000  # duals up to this size get the deep bound, whose cost would show beyond it


class Gram(Dual):
    """The Gram (NTK) dual, applied without being stored, until `to_dense()` forms and keeps it.

    With J that in one layer's parameters if it is a layer's: `part`, whose vectors it lifts to.
    """

    _dual: _core.Gram | KeptGram
    space = "samples"

    def __init__(self, problem: Problem, rank: int, part: LayerSlice | None = None) -> None:
        costs = gram_costs(problem, rank, None if part is None else part.size)
        check_memory(costs.kept, problem.memory_limit, "the Gram dual with its backward rows", "pass fewer samples")
        home, kept = problem.device, problem.net.kept
        first, last, own = (0, problem.core.size, slice(None)) if part is None else (*part.entries, part.own)
        whole = home.core.Gram(problem.core, rank < problem.outputs, first, last)
        core = whole
        if kept is not None:
            core = KeptGram(whole, home.upload(kept[own] - first), last - first, problem.dtype, home)
        super().__init__(problem, core, len(problem.X), rank, interleaved=True)
        self._dual, self.part, self.exponent = core, part, problem.exponent
        self.parameters = problem.parameters if part is None else part.size
        self._beside_bytes = costs.least
        self._dense: Array | None = None

    def _recipe(self) -> tuple[Any, ...]:
        return _gram, (self.problem, self._copies, None if self.part is None else self.part.index, self._dense)

    def form(self, out: Array, progress: _core.Progress = None) -> int:
        """Write the lower triangle into `out` (N, N) in C order, and return the number of products made for it."""
        if self._dense is not None:
            np.copyto(out, self._dense)
        else:
            self._dual.form(out, progress)
        return 0

    def enlarged(self) -> Gram:
        """The same times a power of two, for entries too small for the dtype."""
        return Gram(self.problem.enlarged(), self._copies, self.part)

    def diagonal(self) -> Array:
        """The diagonal (N,), exactly, in float64 and NumPy's: norms of the Jacobian's rows, without a product."""
        self.check_unchanged()
        self.device.enter()
        return self._dual.diagonal()

    def known_diagonal(self) -> KnownDiagonal:
        """The diagonal, from the rows that products keep."""
        return KnownDiagonal(self.diagonal(), "norms of the Jacobian's rows")

    def costs(self) -> GramCosts:
        """Costs of products as they are, and stored."""
        return gram_costs(self.problem, self._copies)

    def analytic_bound(self) -> Bound | None:
        """The deep bound, of whole plain dense networks whose dual is so small that its cost does not show."""
        problem = self.problem
        loss, net = problem.loss_at, problem.net
        if self.part is not None or net.kept is not None or self.shape[0] > BOUND_SIZE or not net.is_feedforward_dense:
            return None
        X = _arrays.to_host(problem.X)
        return deep(net, X, loss.name if loss.blocks is None else loss.blocks, weights=loss.weights)

    @property
    def stored(self) -> bool:
        """Whether products use the matrix that `to_dense()` has formed."""
        return self._dense is not None

    def to_dense(self) -> Array:
        """K as an array (N, N), not to be written to; it is kept, and products use it from then on."""
        self.check_unchanged()
        if self._dense is None:
            self._store(super().to_dense())
        return self._dense  # type: ignore[return-value]  # which is there now

    def _store(self, dense: Array) -> None:
        self._dense = _arrays.read_only(dense)
        self.core = self.device.core.stored(self._dense)

    def __repr__(self) -> str:
        state = "stored" if self.stored else "not stored"
        whose = "" if self.part is None else f" of {self.part.name}"
        return f"Gram({self.shape[0]} x {self.shape[0]}{whose}, {state}, {self.dtype})"


def _gram(problem: Problem, rank: int, part: int | None, dense: Array | None) -> Gram:
    """One that was pickled, with its matrix where it had been formed."""
    made = Gram(problem, rank, None if part is None else layers_of(problem.net)[part])
    if dense is not None:
        made._store(dense)
    return made
