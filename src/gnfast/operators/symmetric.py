"""Symmetric operators that the core can apply: what all solvers and estimators work on."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple, Protocol, Self

import numpy as np

from gnfast import _arrays, _checks, _core
from gnfast._arrays import Array, Device
from gnfast._memory import check_memory
from gnfast.bounds import Bound
from gnfast.operators.costs import GramCosts
from gnfast.operators.linear_operator import BlockOperator


class KnownDiagonal(NamedTuple):
    """A diagonal (N,) in float64, what it is made of, and the vectors that were multiplied for it."""

    values: Array
    method: str
    products: int = 0


class Origin(Protocol):
    """The owner of an operator, as far as every operator asks it."""

    def check_unchanged(self) -> None:
        """Raise a RuntimeError if it has changed since."""

    def saturation(self) -> str:
        """Why products underflow, if the loss's Hessians do at all samples; else nothing."""

    def relative_rounding(self) -> float:
        """By how much of itself rounding may move any eigenvalue, besides that of the products."""


class SymmetricOperator(BlockOperator):
    """A symmetric BlockOperator that the core can apply on its own."""

    core: _core.Operator
    space = "given"  # where its vectors live
    memory_limit: float | None = None  # bytes that one operation may use
    _beside_bytes = 0.0  # that there must be beside the whole matrix while it is formed
    # Of T T^T or T^T T: by how much rounding in T may move the roots of the eigenvalues, besides that of the product.
    root_rounding = 0.0
    problem: Origin | None = None  # what it is made of, if that is known
    parameters: int | None = None  # entries of what `lift` makes of a vector; None where it is lifted to nothing
    decouples = False  # whether it has a `preconditioner` unless it is singular
    cheap_products = False  # whether they cost so much less than the matrix that solvers should not form it
    preconditioning_hint = ""  # what to do where it takes no preconditioner, for a message
    exponent = 0  # it is 2^exponent times what it stands for: see `enlarged`
    _looked = False  # whether products underflow

    def __init__(self, core: _core.Operator, dtype: np.dtype[Any], device: Device) -> None:
        super().__init__((core.size, core.size), dtype, device)
        self.core = core

    @property
    def stored(self) -> bool:
        """Whether products use the whole matrix."""
        return False

    @property
    def size_seen(self) -> float | None:
        """About |A|, where it costs nothing; else None."""
        return None

    @property
    def product_dtype(self) -> np.dtype[Any]:
        """The dtype of the products, which limits what can be said about the eigenvalues."""
        found: np.dtype[Any] = self.dtype
        return found

    @property
    def known_nullity(self) -> int:
        """How many eigenvalues are zero by the sizes alone."""
        return 0 if self.parameters is None else max(0, int(self.shape[0]) - self.parameters)

    @property
    def vectors_at_once(self) -> int:
        """The block for one eigenvalue by products: more vectors, fewer passes (4: 29, and 116 products; 1: 43, 43)."""
        return 4

    def _apply(self, rows: Array, out: Array) -> None:
        self.core.apply(rows, out)

    def _adjoint(self) -> Self:
        return self

    def _transpose(self) -> Self:
        return self

    def check_unchanged(self) -> None:
        """Raise a RuntimeError if the PyTorch module has changed since the network was read from it."""
        if self.problem is not None:
            self.problem.check_unchanged()

    def known_diagonal(self) -> KnownDiagonal | None:
        """The diagonal, where it costs less than products do; else None."""
        return None

    def costs(self) -> GramCosts | None:
        """Costs of products as they are, and stored, where that may pay; else None."""
        return None

    def trace_operator(self) -> SymmetricOperator:
        """The operator with the same trace that tells it for least: the dual."""
        return self.dual()

    def analytic_bound(self) -> Bound | None:
        """A closed-form bound of the condition number, where there is one; else None."""
        return None

    def preconditioner(self) -> SymmetricOperator | None:
        """An approximate inverse that makes the low end of the spectrum easy, where there is one; else None."""
        return None

    def dual(self) -> SymmetricOperator:
        """The operator with the same non-zero spectrum that costs least: of one that knows none, itself."""
        return self

    def dual_for_largest(self, k: int, dense: int) -> Lifting | None:
        """The dual that gives the k largest eigenvalues for fewer flops, setting up included; else None.

        Up to the size `dense` a whole spectrum by LAPACK costs next to nothing.
        """
        return None

    def dual_for_systems(self, asked: bool) -> Lifting | None:
        """The dual in which damped systems are solved: where that saves work, or, `asked`, wherever there is one."""
        return None

    def with_preconditioner(self, preconditioner: Any, damping: float) -> SymmetricOperator | None:
        """D^(-1/2) A D^(-1/2) or its dual, D the preconditioner + damping I, where that can be made; else None."""
        return None

    def enlarged(self) -> Self | None:
        """The same times a power of two, made anew where products underflow in the dtype; None where it cannot be."""
        return None

    def why_zero(self) -> str:
        """Why it may have no eigenvalue but zero, for a message; empty where nobody knows."""
        if self.space == "given":
            return ""
        return self.saturation() or self._tiny() or "no output depends on any parameter at these samples"

    def _tiny(self) -> str:
        """Why products underflow, if the samples are so small that their squares do; else nothing."""
        samples = getattr(self.problem, "X", None)  # a PyTorch or JAX model's are not kept as one array
        if samples is None:
            return ""
        largest = float(abs(samples).max())
        if largest == 0 or largest**2 >= float(np.finfo(self.dtype).tiny):
            return ""
        return (
            f"products of X, whose largest entry is {largest:.1e}, underflow in {self.dtype.name}; "
            f"scale it, such as X / {largest:.1e}"
        )

    def relative_rounding(self) -> float:
        """By how much of itself rounding may move any eigenvalue, besides that of the products: see `losses`."""
        return 0.0 if self.problem is None else self.problem.relative_rounding()

    def saturation(self) -> str:
        """Why it underflows in its dtype, if the loss's Hessians do at all samples; else nothing."""
        return "" if self.problem is None else self.problem.saturation()

    def _look_at_first_product(self, rows: Array, out: Array) -> None:
        """Warn if the first product underflows, which tells whether all do."""
        if not self._looked:
            self._looked = True
            least = _arrays.vanishing(self.dtype) * float(abs(rows).max())
            self.warn_of_underflow("the product underflows", float(abs(out).max()), least)

    def warn_of_underflow(self, what: str, largest: float, least: float) -> None:
        """Warn of a result whose largest number is below what is needed, where the loss's Hessians are the cause."""
        if largest < least and (why := self.saturation()):
            warnings.warn(f"{what}: {why}", stacklevel=_checks.level_of_caller())

    def form(self, out: Array, progress: _core.Progress = None) -> int:
        """Write the lower triangle, with the diagonal, into `out` (N, N) in C order; the rest may hold anything.

        Returns:
            The number of vectors that were multiplied for it.
        """
        size, block = int(self.shape[0]), 256
        for i in range(0, size, block):
            rows = self.device.unit_rows(i, min(block, size - i), size, self.dtype)
            self.core.apply(rows, out[i : i + len(rows)])
            if progress:
                progress("forming the matrix", i + len(rows), size)
        return size

    def to_dense(self) -> Array:
        """The whole matrix as an array (N, N), symmetric to the last bit.

        Raises:
            MemoryError: The matrix exceeds `memory_limit`.
        """
        self.check_unchanged()
        dense = self.new_square()
        self.form(dense)
        _arrays.mirror_lower(dense)
        return dense

    @property
    def fits_in_memory(self) -> bool:
        """Whether the whole matrix is within `memory_limit`."""
        return self.memory_limit is None or self._square_bytes + self._beside_bytes <= self.memory_limit

    def new_square(self) -> Array:
        """Room for the whole matrix, or a MemoryError."""
        what = f"the {self.shape[0]} x {self.shape[0]} matrix"
        what += " with what it is formed of" if self._beside_bytes else ""
        needed = self._square_bytes + self._beside_bytes
        check_memory(needed, self.memory_limit, what, "use products, which do not store it")
        return self.device.empty(self.shape, self.dtype)

    @property
    def _square_bytes(self) -> int:
        return int(self.shape[0]) ** 2 * int(self.dtype.itemsize)


class Lifting(SymmetricOperator):
    """A dual whose vectors can be taken to parameters and back."""

    parameters: int

    def lift(self, Y: Any) -> Any:
        """Vectors of the dual taken to parameters: columns of (N, s) to columns of (p, s)."""
        raise NotImplementedError

    def restrict(self, rows: Array) -> Array:
        """Each row v of `rows` (s, p) taken to the dual, (s, N): the adjoint of `lift`."""
        raise NotImplementedError
