"""The ends of a spectrum through training, each search started from the one before."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from gnfast import _arrays, _checks
from gnfast._arrays import Array
from gnfast.spectrum import matrices
from gnfast.spectrum.eigen import ConvergenceWarning, eigsh
from gnfast.spectrum.methods import EigenInfo


@dataclass(frozen=True)
class Tracked:
    """One update of a `Tracker`.

    Attributes:
        values: The eigenvalues that are followed, ascending: `low` from the lower end, then `top` from the upper.
        intervals: (top + low, 2), an eigenvalue lies in each.
        products: Vectors multiplied for this update; `passes`: products of a block.
        warm: Whether it started from the update before.
        converged: Whether the tolerance was met at both ends.
    """

    values: Array
    intervals: Array
    products: int
    passes: int
    warm: bool
    converged: bool


class Tracker:
    """Follows the top and the bottom of a spectrum through training.

    A step of training changes the matrix little, so that the eigenvectors of the last one are nearly those of the
    next: each search starts from them, and a look from a random vector follows whether another eigenvalue has overtaken
    them (see `EigenInfo.look`). A `GaussNewton` is followed on its dual. The top of its spectrum starts from
    vectors taken to parameters, which keep their meaning when the samples change; the low end from the dual's own,
    which belong to samples, and anew where their number changes.

    Args:
        top: Eigenvalues at the upper end, at least 0.
        low: Eigenvalues at the lower end (the smallest of the dual: the smallest non-zero ones of G), at least 0.
        tol: Relative accuracy; None means 1e-6 for float64 and 1e-4 for float32.
        seed: For the first starting block, as in `eigsh`.
        precision: None or "float64", as in `gnfast.eigsh`.

    Attributes:
        history: A `Tracked` for each update.
        products: Vectors multiplied so far.

    Examples:
        >>> import gnfast as gn
        >>> X, tracker = gn.datasets.digits()[0][:20], gn.Tracker(top=1, low=0)
        >>> for seed in (0, 1):  # the networks of a training, in its place
        ...     found = tracker.update(gn.GaussNewton(gn.mlp([64, 32, 10], seed=seed), X))
        >>> len(tracker.history)
        2
    """

    def __init__(
        self, top: int = 1, low: int = 0, tol: float | None = None, seed: _checks.Seed = 0, precision: Any = None
    ) -> None:
        self.top = _checks.integer(top, "top", 0)
        self.low = _checks.integer(low, "low", 0)
        if self.top + self.low == 0:
            raise ValueError("top and low are both 0; ask for at least one eigenvalue")
        self.tol = tol
        self.seed = _checks.seed(seed)
        self.precision = None if precision is None else _checks.float_dtype(precision, "precision")
        self.history: list[Tracked] = []
        self._vectors: dict[str, Array] = {}  # of the space that was searched
        self._parameters: Array | None = None  # (p, top), those of the top of a GaussNewton

    @property
    def products(self) -> int:
        """Vectors multiplied so far."""
        return sum(step.products for step in self.history)

    def update(self, op: Any) -> Array:
        """The eigenvalues at this point of training, ascending.

        Args:
            op: A `GaussNewton`, or what `eigsh` takes.

        Returns:
            (low + top,), first those of the lower end.

        Raises:
            KeyboardInterrupt: Ctrl-C: the update is left out of `history`.

        Warns:
            ConvergenceWarning: The tolerance was not met; `history[-1].converged` says so too.
        """
        A = matrices.as_symmetric(op).dual()
        if self.top + self.low > A.shape[0]:
            raise ValueError(f"top + low is {self.top + self.low} but the matrix has {A.shape[0]} eigenvalues only")
        tol = self.tol if self.tol is not None else (1e-4 if A.dtype == np.float32 else 1e-6)
        ends = [("SA", self.low), ("LA", self.top)]
        found = [self._end(A, which, count, tol) for which, count in ends if count]
        warm = all(is_warm for _, _, is_warm in found)
        step = Tracked(
            np.concatenate([values for values, _, _ in found]),
            np.concatenate([info.intervals for _, info, _ in found]),
            sum(info.products for _, info, _ in found),
            sum(info.passes for _, info, _ in found),
            warm,
            all(info.converged for _, info, _ in found),
        )
        self.history.append(step)
        if not step.converged:
            reasons = "; ".join(info.reason for _, info, _ in found if not info.converged)
            warnings.warn(
                f"update {len(self.history)} of the tracker did not reach its tolerance: {reasons}",
                ConvergenceWarning,
                stacklevel=_checks.level_of_caller(),
            )
        return step.values

    def _end(self, A: Any, which: str, count: int, tol: float) -> tuple[Array, EigenInfo, bool]:
        start = self._start(A, which)
        method = "lanczos" if which == "LA" else "auto"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            found = eigsh(A, count, which, method, tol, self.seed, True, v0=start, precision=self.precision)
        values, vectors, info = cast(tuple[Array, Array, EigenInfo], found)
        if info.interrupted:
            raise KeyboardInterrupt
        self._vectors[which] = vectors
        if which == "LA":
            # The lower end's small eigenvalues are lost in what a step of training changes of the map to parameters.
            narrow = _arrays.as_f_contiguous(vectors.astype(A.dtype, copy=False))
            self._parameters = A.lift(narrow) if A.parameters is not None else None
        return values, info, start is not None

    def _start(self, A: Any, which: str) -> Array | None:
        above, before = self._parameters, self._vectors.get(which)
        if which == "LA" and above is not None and A.parameters is not None:
            return A.restrict(above.T).T if (A.parameters, A.dtype) == (len(above), above.dtype) else None
        dtype = matrices.in_precision(A, self.precision).dtype
        return before if before is not None and (len(before), before.dtype) == (A.shape[0], dtype) else None

    def __repr__(self) -> str:
        return f"Tracker(top={self.top}, low={self.low}, {len(self.history)} updates, {self.products} products)"
