"""Eigenvalues, condition numbers and ranks: which solver, in which space, with what certainty."""

from __future__ import annotations

import math
import sys
import time
import warnings
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from gnfast import _arrays, _checks, _core
from gnfast._arrays import Array
from gnfast.bounds import Bound, deep
from gnfast.bounds.linear import joint_from_factors
from gnfast.operators import Dual, GaussNewton, Gram, LinearDual, SymmetricOperator, _pivoted_cholesky, mirror_lower
from gnfast.plan import megabytes

DENSE_SIZE = 800  # below this LAPACK's whole spectrum takes less than a tenth of a second
STORED_SIZE = 20_000  # 3.2 GB in float64: up to here a Cholesky factorisation beats thousands of products
BOUND_SIZE = 2_000  # duals up to this size get the deep bound in cond, whose cost would show beyond it


class ConvergenceWarning(UserWarning):
    """An eigensolver stopped before its tolerance was met."""

    __module__ = "gnfast"


class EigenInfo(NamedTuple):
    """How an eigenvalue computation went: residual norms, vectors multiplied, whether and why it stopped."""

    residuals: Array
    products: int
    converged: bool
    reason: str
    method: str


@dataclass(frozen=True)
class Rank:
    """The numerical rank of a symmetric positive semi-definite operator, and the cut it holds for."""

    value: int
    dimension: int
    cut: float
    method: str

    def __int__(self) -> int:
        return self.value

    def __index__(self) -> int:
        return self.value


@dataclass(frozen=True)
class Condition:
    """The condition number of the non-zero spectrum, as an interval with its reasons.

    Attributes:
        value: lambda_max / lambda_min.
        lower, upper: kappa lies between them: `lower` from Ritz values, which lie inside the spectrum, `upper` by
            `upper_from`.
        lambda_max, lambda_min: The largest and the smallest non-zero eigenvalue of G.
        rank: Non-zero eigenvalues; `dimension`: the size of the dual that was used.
        space: "parameters", "samples" or "linear map".
        residuals: Norms of A y - lambda y at both ends, y of norm one: an eigenvalue lies that near.
        upper_from: What limits kappa from above, and whether that is proven or estimated.
        cut: Eigenvalues up to it count as zero; 0 where the dual has full rank and nothing was cut.
        products: Vectors multiplied by the dual.
        method: How both ends were found.
        seconds: Wall time.
        notes: What else a reader should know.
    """

    value: float
    lower: float
    upper: float
    lambda_max: float
    lambda_min: float
    rank: int
    dimension: int
    space: str
    residuals: tuple[float, float]
    upper_from: str
    cut: float
    products: int
    method: str
    seconds: float
    notes: tuple[str, ...] = field(default=())

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        rank = "full rank" if self.rank == self.dimension else f"rank {self.rank} of {self.dimension}, cut {self.cut:.1e}"
        lines = [
            f"kappa {self.value:.6g} in [{self.lower:.6g}, {self.upper:.6g}]",
            f"  lambda_max {self.lambda_max:.6g}, lambda_min {self.lambda_min:.6g}, {rank} ({self.space})",
            f"  lower end: Ritz values, residuals {self.residuals[0]:.1e} and {self.residuals[1]:.1e}",
            f"  upper end: {self.upper_from}",
            f"  {self.method}; {self.products} products, {self.seconds:.2f} s",
        ]
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])


# ------------------------------------------------------------------------------------------------------ eigenvalues
def eigsh(
    op: Any,
    k: int = 6,
    which: str = "LA",
    method: str = "auto",
    tol: float | None = None,
    seed: int = 0,
    return_info: bool = False,
    *,
    block_size: int | None = None,
    max_products: int | None = None,
    progress: Any = None,
) -> tuple[Array, Array] | tuple[Array, Array, EigenInfo]:
    """A few eigenpairs at one end of the spectrum of a symmetric operator.

    Args:
        op: An operator of gnfast, any SciPy LinearOperator, or a symmetric array, (N, N), float32 or float64.
        k: Eigenpairs, 1 to N.
        which: "LA", the largest, or "SA", the smallest.
        method: "dense" (LAPACK, the matrix is formed), "lanczos" (blocks, full reorthogonalisation, thick restart),
            "davidson" (the smallest, with the operator's own preconditioner), or "auto".
        tol: Relative accuracy of the eigenvalues; None means 1e-10 for float64 and 1e-5 for float32.
        seed: Of the starting block.
        return_info: Also return an `EigenInfo`.
        block_size: Vectors a product; None chooses.
        max_products: Vectors multiplied before giving up; None means 100 + 20 N, at most a million.
        progress: True shows a line on stderr, a callable is called with (stage, done, total).

    Returns:
        Eigenvalues (k,) ascending and eigenvectors (N, k), and the `EigenInfo` if asked for.

    Raises:
        TypeError, ValueError: Bad arguments; a matrix that is not symmetric; NaN from a product.

    Warns:
        ConvergenceWarning: The tolerance was not met; the best pairs so far are returned.

    References:
        Golub & Underwood, "The block Lanczos method for computing eigenvalues", 1977; Wu & Simon, "Thick-restart
        Lanczos method for large symmetric eigenvalue problems", SIAM J. Matrix Anal. Appl. 2000; Stathopoulos & Saad,
        "Restarting techniques for the (Jacobi-)Davidson symmetric eigenvalue methods", ETNA 1998.
    """
    A = _as_symmetric(op)
    size = A.shape[0]
    k = _checks.integer(k, "k", 1, size)
    which = _checks.choice(which, "which", ("LA", "SA"))
    method = _checks.choice(method, "method", ("auto", "dense", "lanczos", "davidson"))
    seed = _checks.integer(seed, "seed", 0)
    tol = _tolerance(A.dtype, tol)
    block = _checks.integer(block_size, "block_size", 1, size) if block_size is not None else min(4, size)
    limit = _checks.integer(max_products, "max_products") if max_products is not None else min(10**6, 100 + 20 * size)
    report = _progress(progress)
    preconditioner = None
    if which == "SA" and method in ("auto", "davidson") and isinstance(A, Dual) and size > DENSE_SIZE:
        preconditioner = A.preconditioner()
    if method == "auto":
        small = size <= DENSE_SIZE or k > size // 4
        method = "dense" if small else "davidson" if preconditioner is not None else "lanczos"
    if method == "davidson" and preconditioner is None:
        raise ValueError("method is 'davidson' but the operator has no preconditioner for which='SA'; use method='lanczos'")

    if method == "dense":
        K = np.empty(A.shape, A.dtype)
        A.form(K, report)
        first = size - k if which == "LA" else 0
        values, vectors = scipy.linalg.eigh(K.T, lower=False, subset_by_index=(first, first + k - 1), overwrite_a=True)
        mirror = A.matmat(np.asfortranarray(vectors)) - vectors * values
        info = EigenInfo(np.linalg.norm(mirror, axis=0), 2 * k if isinstance(A, SymmetricOperator) else size + k, True, "all of the spectrum", "dense")
    else:
        rows = np.zeros((k, size), A.dtype)
        if method == "lanczos":
            basis = max(4 * k + 8 * block, 60)
            raw = _core.lanczos(A.core, rows, which == "LA", block, basis, limit, tol, 0.0, seed, report)
        else:
            assert preconditioner is not None
            block = max(block, k)
            raw = _core.davidson(A.core, preconditioner.core, rows, block, 10 * block, limit, tol, 0.0, seed, report)
        info = EigenInfo(np.array(raw["residuals"]), raw["products"], raw["converged"], raw["reason"], method)
        values, vectors = np.array(raw["values"]), rows[: len(raw["values"])].T
        if which == "LA":
            values, vectors, info = values[::-1], vectors[:, ::-1], info._replace(residuals=info.residuals[::-1])
        if not info.converged:
            _warn_unconverged(info)
    return (values, vectors, info) if return_info else (values, vectors)


def rank(op: Any, cut: float | None = None) -> Rank:
    """The numerical rank of a symmetric positive semi-definite operator: its eigenvalues above `cut`.

    Args:
        op: As for `eigsh`, up to a size whose matrix fits in memory.
        cut: None means max(16, sqrt(N)) * eps * lambda_max, what rounding leaves of a zero.

    Returns:
        A `Rank` with `value`, `dimension`, `cut` and `method`; `int(...)` gives the value.
    """
    A = _as_symmetric(op)
    if A.shape[0] > STORED_SIZE:
        raise ValueError(f"op is {A.shape[0]} x {A.shape[0]}; gn.rank forms the matrix and takes up to {STORED_SIZE}")
    ladder = _Stored(A, None)
    cut = ladder.cut if cut is None else _checks.real(cut, "cut")
    values, method = ladder.eigenvalues_above(cut)
    return Rank(len(values) if values is not None else ladder.compressed_rank(cut), A.shape[0], cut, method)


def cond(G: Any, certify: bool = False, progress: Any = None, tol: float | None = None, seed: int = 0) -> Condition:
    """The condition number of the non-zero spectrum, lambda_max / lambda_min, with an interval and its reasons.

    It is computed on the dual (`G.dual()`), whose smallest eigenvalue is the smallest non-zero one of G, never by
    cutting G's own null space away. Small duals: the whole spectrum by LAPACK. Stored ones: block Lanczos above, Cholesky
    factorisation and inverse iteration below. Others: block Lanczos above, and below block Davidson with the
    wide-limit preconditioner. A singular dual is recognised and gives its rank, the cut, and the smallest eigenvalue above it.

    Args:
        G: A `GaussNewton`, one of its duals, or any symmetric positive semi-definite operator or array.
        certify: Prove both ends by inertia (two more Cholesky factorisations of the stored dual, widened by `tol`).
        progress: True shows a line on stderr, a callable is called with (stage, done, total).
        tol: Relative accuracy of both eigenvalues; None means 1e-9 for float64 and 1e-4 for float32.
        seed: Of the starting blocks.

    Returns:
        A `Condition`.

    Raises:
        MemoryError: The dual has to be stored and exceeds `memory_limit`.

    References:
        Zhao, Singh & Lucchi, "Theoretical characterisation of the Gauss-Newton conditioning in neural networks",
        NeurIPS 2024.
    """
    start = time.perf_counter()
    A = _as_symmetric(G.dual() if isinstance(G, GaussNewton) else G)
    single = A.dtype == np.float32
    tol = (1e-4 if single else 1e-9) if tol is None else _positive(tol, "tol")
    work = _Work(A, _checks.boolean(certify, "certify"), tol, _checks.integer(seed, "seed", 0), _progress(progress))
    ends = work.run()
    value = ends.largest / ends.smallest if ends.smallest > 0 else math.inf
    lower = value
    upper, source = _upper(A, ends, work)
    return Condition(
        value=value,
        lower=lower,
        upper=max(upper, value),
        lambda_max=ends.largest,
        lambda_min=ends.smallest,
        rank=ends.rank,
        dimension=A.shape[0],
        space=A.space if isinstance(A, Dual) else "parameters" if isinstance(A, GaussNewton) else "given",
        residuals=(ends.residual_largest, ends.residual_smallest),
        upper_from=source,
        cut=ends.cut,
        products=ends.products,
        method=ends.method,
        seconds=time.perf_counter() - start,
        notes=tuple(work.notes),
    )


@dataclass
class _Ends:
    largest: float
    smallest: float
    rank: int
    residual_largest: float
    residual_smallest: float
    cut: float
    products: int
    method: str
    proven: bool = False  # by inertia, or because the whole spectrum was computed


class _Work:
    """One condition number: the route, the two ends, and what was noticed on the way."""

    def __init__(self, A: SymmetricOperator, certify: bool, tol: float, seed: int, report: _core.Progress) -> None:
        self.A, self.certify, self.tol, self.seed, self.report = A, certify, tol, seed, report
        self.notes: list[str] = []

    def run(self) -> _Ends:
        A, size = self.A, self.A.shape[0]
        if size <= DENSE_SIZE:
            return self._dense()
        if isinstance(A, LinearDual) and not self.certify:
            ends = self._preconditioned()
            if ends is not None:
                return ends
        fits = size <= STORED_SIZE and self._fits(size)
        if fits or not isinstance(A, Dual):
            return self._stored()
        ends = self._preconditioned()
        if ends is None:
            raise ValueError(
                f"the dual is singular and too large ({size} x {size}) to be stored, so that its rank is not known; "
                "use fewer samples, wider layers, or raise memory_limit"
            )
        if self.certify:
            self.notes.append("not certified: a proof by inertia needs the dual stored")
        return ends

    def _fits(self, size: int) -> bool:
        limit = self.A._limit() if not isinstance(self.A, Dual) else self.A.owner.memory_limit
        return limit is None or size**2 * self.A.dtype.itemsize <= limit

    def _dense(self) -> _Ends:
        stored = _Stored(self.A, self.report)
        values = stored.spectrum()
        cut = _cut(values[-1], len(values), values.dtype)
        above = values[values > cut]
        if len(above) == 0:
            raise ValueError("the Gauss-Newton matrix is zero: no output depends on a parameter at these samples")
        self._note_gap(values, cut)
        full = len(above) == len(values)
        rounding = float(np.finfo(self.A.dtype).eps * values[-1])
        return _Ends(
            float(values[-1]), float(above[0]), len(above), rounding, rounding, 0.0 if full else cut, 0,
            "whole spectrum by LAPACK", proven=True,
        )  # fmt: skip

    def _note_gap(self, values: Array, cut: float) -> None:
        doubtful = int(np.count_nonzero((values > cut) & (values < 100 * cut)))
        if doubtful:
            self.notes.append(
                f"{doubtful} eigenvalues lie within a factor 100 above the cut {cut:.1e}: rank and kappa depend on it"
            )

    def _largest(self, core: _core.Operator, block: int) -> dict[str, Any]:
        rows = np.zeros((1, self.A.shape[0]), self.A.dtype)
        raw = _core.lanczos(core, rows, True, block, 60, 20_000, self.tol, 0.0, self.seed, self.report)
        if not raw["converged"]:
            self._warn(raw, "largest")
        return raw

    def _preconditioned(self) -> _Ends | None:
        """Both ends by products alone, or None if the dual turns out to be singular."""
        A = self.A
        assert isinstance(A, Dual)
        preconditioner = A.preconditioner()
        if preconditioner is None:
            return None
        top = self._largest(A.core, 1)
        largest = top["values"][0]
        cut = _cut(largest, A.shape[0], A.dtype)
        rows = np.zeros((1, A.shape[0]), A.dtype)
        raw = _core.davidson(A.core, preconditioner.core, rows, 4, 40, 20_000, self.tol, largest, self.seed, self.report)
        if raw["values"][0] <= cut:
            return None
        if not raw["converged"]:
            self._warn(raw, "smallest")
        return _Ends(
            largest, raw["values"][0], A.shape[0], top["residuals"][0], raw["residuals"][0], 0.0,
            top["products"] + raw["products"],
            "block Lanczos above, block Davidson with the wide-limit preconditioner below",
        )  # fmt: skip

    def _stored(self) -> _Ends:
        stored = _Stored(self.A, self.report)
        top = self._largest(stored.operator, 8)
        largest = top["values"][0]
        cut = _cut(largest, self.A.shape[0], self.A.dtype)
        bottom = stored.smallest(self.tol, self.seed, largest, self.report)
        if bottom is None or bottom["values"][0] <= cut:
            return self._singular(stored, top, cut)
        if not bottom["converged"]:
            self._warn(bottom, "smallest")
        ends = _Ends(
            largest, bottom["values"][0], self.A.shape[0], top["residuals"][0], bottom["residuals"][0], 0.0,
            top["products"] + bottom["products"], "stored: block Lanczos above, Cholesky and inverse block Lanczos below",
        )  # fmt: skip
        if self.certify:
            ends.proven = self._prove(ends)
        return ends

    def _singular(self, stored: _Stored, top: dict[str, Any], cut: float) -> _Ends:
        """A pivoted Cholesky factorisation K = U^T U of the numerical rank r: U U^T (r, r) has K's non-zero spectrum."""
        values, method = stored.eigenvalues_above(cut)
        if values is not None:
            self._note_gap(values, cut)
            above = values[values > cut]
            rounding = float(np.finfo(self.A.dtype).eps * top["values"][0])
            return _Ends(
                top["values"][0], float(above[0]), len(above), top["residuals"][0], rounding, cut, top["products"], method,
                proven=True,
            )  # fmt: skip
        small, rank_ = stored.compress(cut)
        bottom = small.smallest(self.tol, self.seed, top["values"][0], self.report)
        if bottom is None or bottom["values"][0] <= cut:
            raise ValueError(
                f"the spectrum has no gap at the cut {cut:.1e}: its rank, about {rank_}, and its smallest non-zero "
                "eigenvalue are not determined in this precision; use float64 or look at gn.eigsh"
            )
        return _Ends(
            top["values"][0], bottom["values"][0], rank_, top["residuals"][0], bottom["residuals"][0], cut,
            top["products"] + bottom["products"],
            "stored, singular: block Lanczos above, pivoted Cholesky and inverse block Lanczos below",
        )  # fmt: skip

    def _prove(self, ends: _Ends) -> bool:
        """Sylvester's law: K - a I and b I - K have Cholesky factors if and only if the spectrum lies in (a, b)."""
        margin = self.tol * 10
        for sign, shift in ((1.0, ends.smallest * (1 - margin)), (-1.0, ends.largest * (1 + margin))):
            K = np.empty(self.A.shape, self.A.dtype)
            self.A.form(K, self.report)
            if sign < 0:
                np.negative(K, out=K)
            K.reshape(-1)[:: len(K) + 1] -= sign * shift
            if _core.cholesky(K) != 0:
                self.notes.append(f"the proof of the {'lower' if sign > 0 else 'upper'} end failed at {shift:.6g}")
                return False
        return True

    def _warn(self, raw: dict[str, Any], end: str) -> None:
        text = f"the {end} eigenvalue stopped at residual {raw['residuals'][0]:.1e}: {raw['reason']}"
        self.notes.append(text)
        warnings.warn(text, ConvergenceWarning, stacklevel=_checks.level_of_caller())


class _Stored:
    """A matrix in one triangle that is made again when a factorisation has overwritten it."""

    def __init__(self, A: SymmetricOperator, report: _core.Progress) -> None:
        self._A, self._report = A, report
        self._K: Array | None = None

    def _matrix(self) -> Array:
        if self._K is None:
            self._K = self._A._new_square() if not isinstance(self._A, Dual) else _new_square(self._A)
            self._A.form(self._K, self._report)
        return self._K

    @property
    def operator(self) -> _core.Operator:
        return _core.stored(self._matrix())

    @property
    def cut(self) -> float:
        """What rounding leaves of a zero eigenvalue."""
        rows = np.zeros((1, self._A.shape[0]), self._A.dtype)
        top = _core.lanczos(self.operator, rows, True, min(8, len(rows[0])), 60, 20_000, 1e-3, 0.0, 0, self._report)
        return _cut(top["values"][0], len(rows[0]), self._A.dtype)

    def spectrum(self) -> Array:
        """All eigenvalues, ascending; the matrix is overwritten."""
        K, self._K = self._matrix(), None
        values: Array = scipy.linalg.eigvalsh(K.T, lower=False, overwrite_a=True)
        return values

    def smallest(self, tol: float, seed: int, norm: float, report: _core.Progress) -> dict[str, Any] | None:
        """The smallest eigenvalue by inverse block Lanczos, or None if there is no Cholesky factorisation."""
        K, self._K = self._matrix(), None
        if _core.cholesky(K) != 0:
            return None
        rows = np.zeros((1, len(K)), K.dtype)
        raw = _core.lanczos(_core.cholesky_inverse(K, 1, False), rows, True, 8, 60, 4000, tol, 0.0, seed, report)
        # |K^-1 y - y / lambda| = r gives |K y - lambda y| <= lambda |K| r in general; near the end lambda^2 r is what it is.
        raw["residuals"] = [r / v**2 for r, v in zip(raw["residuals"], raw["values"], strict=True)]
        raw["values"] = [1 / v for v in raw["values"]]
        return raw

    def eigenvalues_above(self, cut: float) -> tuple[Array | None, str]:
        """All eigenvalues above the cut where LAPACK takes seconds, else None."""
        if self._A.shape[0] <= 4 * DENSE_SIZE:
            values = self.spectrum()
            return values[values > cut], "whole spectrum by LAPACK"
        return None, "pivoted Cholesky"

    def compress(self, cut: float) -> tuple[_Stored, int]:
        """(U U^T stored, rank) for the pivoted Cholesky factorisation K = U^T U cut at `cut`."""
        K, self._K = self._matrix(), None
        factor, _, rank_ = _pivoted_cholesky(_symmetric_for_lapack(K), cut)
        U = np.triu(factor)[:rank_]
        small = _Stored.__new__(_Stored)
        small._A, small._report, small._K = self._A, self._report, _arrays.as_c_contiguous(U @ U.T)
        return small, rank_

    def compressed_rank(self, cut: float) -> int:
        return self.compress(cut)[1]


def _new_square(A: Dual) -> Array:
    needed, limit = A.shape[0] ** 2 * A.dtype.itemsize, A.owner.memory_limit
    if limit is not None and needed > limit:
        raise MemoryError(
            f"the dual of {A.shape[0]} x {A.shape[0]} has to be stored and needs {megabytes(needed)} but memory_limit is "
            f"{megabytes(limit)}; raise memory_limit or use fewer samples"
        )
    return np.empty(A.shape, A.dtype)


def _symmetric_for_lapack(K: Array) -> Array:
    mirror_lower(K)
    return K


def _upper(A: SymmetricOperator, ends: _Ends, work: _Work) -> tuple[float, str]:
    """The least upper end that is proven, or else the residuals' estimate, with its reason."""
    value = ends.largest / ends.smallest
    if ends.proven:
        eps = float(np.finfo(A.dtype).eps)
        if work.certify and ends.products:
            return value * (1 + 10 * work.tol) / (1 - 10 * work.tol), "inertia: both ends proven by Cholesky factorisations"
        doubt = max(16.0, math.sqrt(A.shape[0])) * eps * ends.largest
        top, low = ends.largest + doubt, max(ends.smallest - doubt, 0.0)
        return (top / low if low > 0 else math.inf), "the whole spectrum, up to rounding"
    bound = _analytic(A)
    low = ends.smallest - ends.residual_smallest
    estimate = (ends.largest + ends.residual_largest) / low if low > 0 else math.inf
    if bound is not None and bound.applies:
        return bound.value, f"bound {bound.name} (proven); residuals alone suggest {estimate:.6g}"
    return estimate, "residuals (estimated; certify=True proves it where the dual is stored)"


def _analytic(A: SymmetricOperator) -> Bound | None:
    if isinstance(A, LinearDual):
        return joint_from_factors(*A.factors())
    if isinstance(A, Gram) and A.shape[0] <= BOUND_SIZE:
        return deep(A.owner.net, A.owner.X, A.owner.loss)
    return None


# -------------------------------------------------------------------------------------------------------- arguments
class _Wrapped(SymmetricOperator):
    """Any symmetric LinearOperator or array of somebody else's."""

    def __init__(self, op: LinearOperator, dtype: np.dtype[Any]) -> None:
        self._op = op

        def product(block: Array) -> Array:
            out = np.asarray(op.matmat(block.T)).T
            if out.dtype.kind == "c":
                raise TypeError("op gave a complex product but must be real symmetric")
            return np.ascontiguousarray(out, dtype)

        super().__init__(_core.callback(product, op.shape[0], dtype.name), dtype)


def _as_symmetric(op: Any) -> SymmetricOperator:
    if isinstance(op, SymmetricOperator):
        return op
    if not isinstance(op, LinearOperator):
        matrix = _arrays.as_array(op, "op")
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.size == 0:
            raise ValueError(f"op has shape {matrix.shape} but must be a square matrix or operator")
        matrix = _checks.array(matrix, "op", ("N", "N"), owner="gnfast")
        scale = float(np.abs(matrix).max())
        if float(np.abs(matrix - matrix.T).max()) > 100 * np.finfo(matrix.dtype).eps * scale:
            raise ValueError("op is not symmetric; pass (op + op.T) / 2 if its symmetric part is meant")
        return _Wrapped(aslinearoperator(matrix), matrix.dtype)
    if op.shape[0] != op.shape[1] or op.shape[0] == 0:
        raise ValueError(f"op has shape {op.shape} but must be square and symmetric")
    dtype = np.dtype(op.dtype) if op.dtype is not None else np.dtype(np.float64)
    if dtype.kind == "c":
        raise TypeError(f"op has dtype {dtype} but must be real symmetric")
    return _Wrapped(op, dtype if _arrays.is_float(dtype) else np.dtype(np.float64))


def _cut(largest: float, size: int, dtype: np.dtype[Any]) -> float:
    """What rounding leaves of a zero eigenvalue: errors of eps in N^2 entries add up like sqrt(N)."""
    return float(max(16.0, math.sqrt(size)) * np.finfo(dtype).eps * largest)


def _positive(value: Any, name: str) -> float:
    number = _checks.real(value, name)
    if number <= 0:
        raise ValueError(f"{name} is {value} but must be positive")
    return number


def _tolerance(dtype: np.dtype[Any], tol: float | None) -> float:
    return (1e-5 if dtype == np.float32 else 1e-10) if tol is None else _positive(tol, "tol")


def _warn_unconverged(info: EigenInfo) -> None:
    worst = float(np.max(info.residuals)) if len(info.residuals) else math.nan
    warnings.warn(
        f"{info.method} stopped after {info.products} products with residuals up to {worst:.1e}: {info.reason}; "
        "the best pairs so far are returned",
        ConvergenceWarning,
        stacklevel=_checks.level_of_caller(),
    )


def _progress(progress: Any) -> _core.Progress:
    if progress is None or progress is False:
        return None
    if callable(progress):
        return progress  # type: ignore[no-any-return]
    if progress is True:
        return _print_progress
    raise TypeError(f"progress is of type {type(progress).__name__} but must be True, None or a callable")


def _print_progress(stage: str, done: float, total: float) -> None:
    share = f"{done / total:4.0%}" if total else f"{int(done)} products"
    print(f"\r{stage}: {share}   ", end="", file=sys.stderr, flush=True)
