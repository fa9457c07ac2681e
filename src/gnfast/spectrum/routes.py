"""The ways to both ends of a non-zero spectrum: which one is taken, and what each finds.

Small: LAPACK's whole spectrum. A linear dual, or a Gram that may not be stored: products alone, block Lanczos above and
below block Davidson with the wide-limit preconditioner. Stored: Cholesky factorisation and inverse iteration below.
Singular: the whole spectrum again, or a pivoted Cholesky factorisation that leaves a matrix of full rank.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np

from gnfast import _arrays, _checks, _core, thresholds
from gnfast._arrays import Array
from gnfast.operators import SymmetricOperator
from gnfast.spectrum import matrices
from gnfast.spectrum.eigen import ConvergenceWarning, End, largest

# Block steps that are made in any case: with blocks of 8 and 10,000 unknowns 12 of them leave the randomized end 9 %
# wide, for less than a tenth of forming or factoring the matrix; single vectors (products alone) take 32 for the same.
STEPS, SINGLE_STEPS = 12, 32


class Found(NamedTuple):
    """Both ends of a non-zero spectrum."""

    largest: End
    smallest: End
    rank: int
    cut: float  # 0 where nothing was cut
    method: str
    proof: str = ""  # why no eigenvalue lies beyond the ends moved outwards by `margin`; empty where that is not proven
    margin: float = 0.0  # relative
    clear: bool = True  # whether a gap tells what was cut from what was not


class VanishingError(Exception):
    """Entries of the matrix that count underflow in its dtype; `operator` is the same times a power of two."""

    def __init__(self, operator: SymmetricOperator) -> None:
        super().__init__()
        self.operator = operator


class Search:
    """One search for both ends, and what was noticed on the way."""

    def __init__(
        self,
        A: SymmetricOperator,
        certify: bool,
        tol: float,
        seed: int,
        report: _core.Progress,
        precision: Any = None,
        name: str = "op",
    ) -> None:
        self.name = name  # of the argument, for the messages
        self.A, self.certify, self.tol, self.seed, self.report = A, certify, tol, seed, report
        self.units = matrices.InUnits(A, name)
        self.op = matrices.in_precision(self.units, precision, name)  # what is worked on; A says what can be claimed
        self.notes: list[str] = []

    def run(self) -> Found:
        """Both ends of the spectrum, by the route that fits the operator."""
        found = self._found()
        largest, smallest = (
            end._replace(value=self._true(end.value), residual=self._true(end.residual))
            for end in (found.largest, found.smallest)
        )
        return found._replace(largest=largest, smallest=smallest, cut=self._true(found.cut))

    def _true(self, value: float) -> float:
        """The value for A of what was found in units of its size."""
        return float(self.units.out_of(value))

    def _found(self) -> Found:
        A, size = self.A, self.A.shape[0]
        if size <= matrices.DENSE_SIZE:
            return self._whole(self._matrix(), 0)
        storable = size <= matrices.STORED_SIZE and A.fits_in_memory
        if A.decouples and (not storable or (A.cheap_products and not self.certify)):
            found = self._by_products(A)
            if found is not None:
                if self.certify:
                    self.notes.append("not certified: a proof by inertia needs the dual stored")
                return found
        if size > matrices.STORED_SIZE:
            what = "has a singular dual, which" if A.decouples else "is an operator that"
            raise ValueError(
                f"{self.name} {what} has to be stored, but with {size} x {size} it is too large "
                f"({matrices.STORED_SIZE} at most); use fewer samples or wider layers"
            )
        return self._stored()

    # ----------------------------------------------------------------------------------------------------- routes
    def _whole(self, K: Array, products: int) -> Found:
        values = matrices.semidefinite_eigenvalues(K, self.A.dtype, self.name)
        cut = self._cut(float(values[-1]))
        above, below = values[values > cut], values[values <= cut]
        full = len(below) == 0
        residual = thresholds.rounding_error(float(values[-1]), self.A.dtype)
        return Found(
            End(float(values[-1]), residual, products),
            End(float(above[0]), residual),
            len(above),
            0.0 if full else cut,
            "whole spectrum by LAPACK",
            proof="the whole spectrum, up to rounding" if full else "all eigenvalues above the cut, up to rounding",
            clear=full or self._is_clear(float(above[0]), float(np.abs(below).max()), cut),
        )

    def _by_products(self, A: SymmetricOperator) -> Found | None:
        """Both ends without a stored matrix, or None if the dual turns out to be singular."""
        own, op = A.preconditioner(), self.op
        if own is None:
            return None
        preconditioner = matrices.in_precision(matrices.InUnits(own), op.dtype)
        top = self._largest(op, block=1)
        cut = self._cut(top.value)
        row, block = A.device.zeros((1, A.shape[0]), op.dtype), A.vectors_at_once
        basis = max(20, 10 * block)
        core = A.device.core
        options = core.SearchOptions(
            block=block,
            max_basis=basis,
            max_products=20_000,
            tol=self.tol,
            norm=top.value,
            seed=self.seed,
            progress=self.report,
            largest=False,
        )
        low = End.of(core.davidson(op.core, preconditioner.core, row, options), A.shape[0])
        if low.value <= cut:
            return None
        method = "block Lanczos above, block Davidson with the wide-limit preconditioner below"
        return Found(top, self._checked(low, "smallest"), A.shape[0], 0.0, method)

    def _stored(self) -> Found:
        K = self._matrix()
        top = self._largest(matrices.Stored(K), block=8)
        cut = self._cut(top.value)
        low = self._by_inverse(K)
        if low is None or low.value <= cut:
            return self._singular(self._matrix(K), top, cut)
        method = "stored: block Lanczos above, Cholesky and inverse block Lanczos below"
        found = Found(top, self._checked(low, "smallest"), len(K), 0.0, method)
        return self._certified(found, K) if self.certify else found

    def _singular(self, K: Array, top: End, cut: float) -> Found:
        if len(K) <= matrices.SPECTRUM_SIZE:
            return self._whole(K, top.products)
        small = matrices.compress(K, cut)
        rank = len(small)
        low = self._by_inverse(small)
        if low is None or low.value <= cut:
            raise ValueError(
                f"{self.name} has no gap in its spectrum at the cut {self._true(cut):.1e}: its rank, about {rank}, and "
                "its smallest non-zero eigenvalue are not determined in this precision; use float64 or look at "
                "gnfast.eigsh"
            )
        if self.certify:
            self.notes.append("not certified: a proof by inertia needs a dual of full rank")
        method = "stored, singular: block Lanczos above, pivoted Cholesky and inverse block Lanczos below"
        clear = self._is_clear(low.value, cut, cut)
        return Found(top, self._checked(low, "smallest"), rank, cut, method, clear=clear)

    # ------------------------------------------------------------------------------------------------------ steps
    def _matrix(self, out: Array | None = None) -> Array:
        """The matrix, formed anew: what is done with it overwrites it."""
        K = self.op.new_square() if out is None else out
        self.op.form(K, self.report)
        self._check_range(float(K.reshape(-1)[:: len(K) + 1].max()))
        return K

    def _largest(self, A: SymmetricOperator, block: int) -> End:
        steps = SINGLE_STEPS if block == 1 else STEPS
        return self._checked(largest(A, block, self.tol, self.seed, self.report, steps), "largest")

    def _by_inverse(self, K: Array) -> End | None:
        """The smallest eigenvalue as the largest of the inverse, or None if there is no Cholesky factorisation."""
        home = _arrays.device_of(K)  # not the operator's, where a singular matrix was compressed
        if home.core.cholesky(K) != 0:
            return None
        row = home.zeros((1, len(K)), K.dtype)
        inverse = home.core.cholesky_inverse(K, 1, False)
        block = min(8, len(K))
        options = home.core.SearchOptions(
            block=block,
            max_basis=block * (STEPS + 2),
            max_products=4000,
            tol=self.tol,
            seed=self.seed,
            progress=self.report,
            min_steps=STEPS,
        )
        end = End.of(home.core.lanczos(inverse, row, options), len(K), block)
        # An eigenvalue of the inverse within r of mu is one of K within r / mu^2 of 1 / mu, on the side that matters.
        return end._replace(value=1 / end.value, residual=end.residual / end.value**2)

    def _certified(self, found: Found, K: Array) -> Found:
        """Sylvester's law: K - a I and b I - K have Cholesky factors if and only if the spectrum lies in (a, b)."""
        margin = 10 * self.tol
        doubt = thresholds.rounding_error(found.largest.value, self.A.dtype)
        above, below = found.largest.value * (1 + margin) + doubt, found.smallest.value * (1 - margin) - doubt
        for sign, shift, end in ((1, below, "lower"), (-1, above, "upper")):
            self._matrix(K)
            if sign < 0:
                np.negative(K, out=K)
            K.reshape(-1)[:: len(K) + 1] -= sign * shift
            if self.A.device.core.cholesky(K) != 0:
                self.notes.append(f"the proof of the {end} end of the spectrum failed at {self._true(shift):.6g}")
                return found
        return found._replace(proof="inertia: both ends proven by Cholesky factorisations", margin=margin)

    def _check_range(self, size: float) -> None:
        """A matrix of this size is made anew if it underflows."""
        if self._true(size) < _arrays.vanishing(self.A.dtype) and not self.A.exponent:
            larger = self.A.enlarged()
            if larger is not None:
                raise VanishingError(larger)

    def _cut(self, top: float) -> float:
        """The threshold of zero, once it is known that not everything is."""
        self._check_range(top)
        if not top > 0:
            why = self.A.why_zero()
            raise ValueError(
                f"{self.name} has no positive eigenvalue: the largest eigenvalue is {top:.6g}, so that there is no "
                "condition number; " + (why or "pass one that is not zero everywhere")
            )
        return thresholds.zero_threshold(top, self.A.shape[0], self.A.dtype)

    def _is_clear(self, kept: float, dropped: float, cut: float) -> bool:
        clear = thresholds.has_gap(kept, dropped)
        if not clear:
            cure = "; use float64" if self.A.dtype == np.float32 else ""
            self.notes.append(
                f"the spectrum has no clear gap at the cut {self._true(cut):.1e}: rank and kappa depend on it{cure}"
            )
        return clear

    def _checked(self, end: End, name: str) -> End:
        if not end.converged:
            text = f"the {name} eigenvalue stopped at residual {self._true(end.residual):.1e}: {end.reason}"
            self.notes.append(text)
            warnings.warn(text, ConvergenceWarning, stacklevel=_checks.level_of_caller())
        return end
