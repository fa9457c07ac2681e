"""The arguments of a search for eigenpairs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from gnfast import _core
from gnfast._arrays import Array, Device
from gnfast.operators import SymmetricOperator
from gnfast.spectrum import matrices


@dataclass
class Task:
    """The arguments of one search, all of them checked."""

    A: SymmetricOperator
    k: int
    which: str
    tol: float
    block: int | None
    limit: int
    start: Array | None  # (b, N) in C order
    seed: int
    report: _core.Progress
    path: Any = None  # of the checkpoint
    precision: Any = None

    @cached_property
    def op(self) -> SymmetricOperator:
        """The operator that is worked on: A, which says what can be claimed, or A with vectors in more precision."""
        return matrices.in_precision(self.A, self.precision)

    @cached_property
    def preconditioner(self) -> SymmetricOperator | None:
        """The operator's own, for the low end."""
        return self.A.preconditioner() if self.which == "SA" else None

    @property
    def size(self) -> int:
        """Rows of the matrix."""
        return int(self.A.shape[0])

    @property
    def device(self) -> Device:
        """The device where it is multiplied."""
        return self.A.device

    @property
    def storable(self) -> bool:
        """Whether the matrix may be formed and factored."""
        return self.size <= matrices.STORED_SIZE and self.op.fits_in_memory

    def block_or(self, default: int) -> int:
        """The block that was asked for, or `default`, and the starting block at least."""
        given = 0 if self.start is None else len(self.start)
        return min(self.size, max(default if self.block is None else self.block, given))
