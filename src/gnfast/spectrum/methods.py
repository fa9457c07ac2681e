"""The ways to a few eigenpairs: what each asks of the core, and its answer in one form."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np

from gnfast import _arrays, _core
from gnfast._arrays import Array, Device
from gnfast.operators import Decoupling, SymmetricOperator
from gnfast.spectrum import matrices
from gnfast.spectrum.certificates import intervals, inverse_intervals, randomized_error
from gnfast.spectrum.checkpoints import Checkpoint

METHODS = ("auto", "dense", "lanczos", "krylov", "nystrom", "davidson", "lobpcg", "inverse", "inverse-cg")
LOOK = (
    4  # block steps of random vectors after a search with a block narrower than k: copies of an eigenvalue show in them
)
INNER_TOL = 0.3  # of the systems in "inverse-cg", relative to the residuals that are their right-hand sides
OVERSAMPLING = 10  # vectors beyond k in a randomized sketch (Halko, Martinsson & Tropp 2011, section 1.3: 5 to 10)


class EigenInfo(NamedTuple):
    """How an eigenvalue computation went.

    Attributes:
        residuals: |A y - lambda y| of each pair, y of norm one: an eigenvalue lies that near.
        products: Vectors multiplied by the operator (by its inverse, for "inverse"), inside of systems too.
        converged: Whether the tolerance was met.
        reason: Why it stopped.
        method: "dense", "lanczos", "krylov", "nystrom", "davidson", "lobpcg", "inverse" or "inverse-cg".
        passes: Products of a block: how often the operator was gone through.
        intervals: (k, 2), an eigenvalue lies in each: the residual's interval, widened by rounding in the dtype.
        space: Where the products were made: "parameters", "samples", "linear map" or "given".
        norm: The largest |Ritz value| that was seen.
        steps: Block steps that span a whole Krylov space of a random start (see `gnfast.spectrum.certificates`).
    """

    residuals: Array
    products: int
    converged: bool
    reason: str
    method: str
    passes: int = 0
    intervals: Array = np.zeros((0, 2))
    space: str = "given"
    norm: float = 0.0
    steps: int = 0


class Pairs(NamedTuple):
    """Eigenvalues ascending, eigenvectors in columns, and how it went."""

    values: Array
    vectors: Array
    info: EigenInfo


@dataclass
class Task:
    """What one search is asked for, all of it checked."""

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
        """What is worked on: A, which says what can be claimed, or A with vectors in more precision."""
        return matrices.in_precision(self.A, self.precision)

    @cached_property
    def preconditioner(self) -> SymmetricOperator | None:
        """The operator's own, for the low end."""
        return self.A.preconditioner() if isinstance(self.A, Decoupling) and self.which == "SA" else None

    @property
    def size(self) -> int:
        return int(self.A.shape[0])

    @property
    def device(self) -> Device:
        return self.A.device

    @property
    def storable(self) -> bool:
        """Whether the matrix may be formed and factored."""
        return self.size <= matrices.STORED_SIZE and self.op.fits_in_memory

    def block_or(self, default: int) -> int:
        """The block that was asked for, or `default`, and the starting block at least."""
        given = 0 if self.start is None else len(self.start)
        return min(self.size, max(default if self.block is None else self.block, given))


def dense(task: Task) -> Pairs:
    """LAPACK on the whole matrix."""
    A, k, which = task.op, task.k, task.which
    K = A.new_square()
    form = partial(A.form, K, task.report)
    products = form()
    if which == "BE":
        values, vectors = matrices.eigenpairs(K, 0, len(K) - 1, form)
        chosen = np.r_[: k // 2, len(K) - (k - k // 2) : len(K)]
        values, vectors = values[chosen], vectors[:, chosen]
    else:
        first = A.shape[0] - k if which == "LA" else 0
        values, vectors = matrices.eigenpairs(K, first, first + k - 1, form)
    vectors = _arrays.as_f_contiguous(vectors)
    raw: dict[str, Any] = {"products": products + k, "passes": products // 256 + 1, "converged": True}
    raw |= {"reason": "the whole spectrum was computed", "norm": float(np.abs(values).max())}
    residuals = np.linalg.norm(A.matmat(vectors) - vectors * A.device.upload(values), axis=0)
    return _pairs(task, raw, values, vectors, _arrays.to_host(residuals), "dense")


def lanczos(task: Task, method: str = "lanczos", core: _core.Operator | None = None) -> Pairs:
    """Block Lanczos; "krylov": a wide random block and a long basis (Musco & Musco 2015)."""
    if method == "krylov":
        block = task.block_or(task.k + OVERSAMPLING)
        basis = 12 * block
    else:
        block = task.block_or(default_block(task.A, task.k))
        basis = max(2 * task.k + 4 * block, 24 if task.A.space == "parameters" else 60)
    rows = task.device.zeros((task.k, task.size), task.op.dtype)
    raw = _checkpointed(task, method, block, basis, rows, "lanczos", core)
    return _ascending(task, raw, rows, method)


def nystrom(task: Task) -> Pairs:
    """A one-pass sketch, then block Krylov steps from its vectors until the tolerance is met."""
    block = task.block_or(task.k + OVERSAMPLING)
    rows = task.device.zeros((block, task.size), task.op.dtype)
    sketch = task.device.core.nystrom(task.op.core, rows, task.seed, task.report, start=task.start)
    found = len(sketch["values"])
    if task.limit < 2 * block:
        kept = min(task.k, found)
        sketch = {**sketch, "values": sketch["values"][:kept], "residuals": sketch["residuals"][:kept]}
        return _ascending(task, sketch, rows[:kept], "nystrom")
    vectors = task.device.zeros((task.k, task.size), task.op.dtype)
    more: dict[str, Any] = {"start": rows[:found] if found else None, "keep": True}
    numbers = (block, 12 * block, task.limit - block, task.tol, 0.0, task.seed, task.report)
    raw = task.device.core.lanczos(task.op.core, vectors, True, *numbers, **more)
    raw["products"] += sketch["products"]
    raw["passes"] += sketch["passes"]
    return _ascending(task, raw, vectors, "nystrom")


def davidson(task: Task, method: str = "davidson") -> Pairs:
    """Block Davidson, or LOBPCG, which is its shortest basis; with a dual's own preconditioner at the low end.

    "inverse-cg": with the operator's inverse in place of the preconditioner, which spans what block Lanczos with the
    inverse does: A^-1 (A x - theta x) = x - theta A^-1 x. The right-hand sides of its systems are the residuals, so
    that a fixed relative accuracy of theirs is as accurate as the pairs are, and their errors enter nothing but the
    choice of directions: values, residuals and the end of the search are those of products with A.
    """
    A = task.A
    block = max(task.k, task.block_or(max(4, task.k)))
    basis = 3 * block if method == "lobpcg" else 10 * block
    norm = largest(A, 1, 0.1, task.seed, task.report) if task.which == "SA" else None
    if norm:
        task = replace(task, limit=max(1, task.limit - norm.products))
    rows = task.device.zeros((task.k, task.size), task.op.dtype)
    inverse = None if task.preconditioner is None else matrices.in_precision(task.preconditioner, task.op.dtype)
    core = None if inverse is None else inverse.core
    if method == "inverse-cg" and norm and norm.value > 0:
        # What rounding cannot tell from zero gets a floor, so that a singular operator's systems have solutions.
        damping = 16 * _arrays.eps(A.dtype) * norm.value
        core = task.device.core.cg_inverse(task.op.core, core, damping, INNER_TOL, min(10_000, 100 + 2 * task.size))
    raw = _checkpointed(
        task, method, block, basis, rows, "davidson", preconditioner=core, norm=norm.value if norm else 0.0
    )
    raw["products"] += norm.products if norm else 0
    raw["passes"] += norm.products if norm else 0
    return _ascending(task, raw, rows, method)


def inverse(task: Task) -> Pairs | None:
    """The low end as the top of the inverse, by a Cholesky factorisation; None if there is none even when shifted.

    A singular matrix is shifted by sqrt(eps) times its largest diagonal entry: that keeps the null vectors apart from
    the rest, and costs the eigenvalues no more than rounding does.
    """
    A, op, size, compiled = task.A, task.op, task.size, task.device.core
    K = op.new_square()
    products = op.form(K, task.report)
    matrices.check_finite(K)
    scale = float(np.abs(K.diagonal()).max())
    shift, failed = 0.0, compiled.cholesky(K)
    if failed and scale > 0:
        shift = float(np.sqrt(_arrays.eps(A.dtype))) * scale
        op.form(K)
        K.reshape(-1)[:: size + 1] += K.dtype.type(shift)
        failed = compiled.cholesky(K)
    if failed:
        return None
    block = task.block_or(min(max(8, task.k), size))
    rows = task.device.zeros((task.k, size), K.dtype)
    core = compiled.cholesky_inverse(K, 1, False)
    # A relative accuracy of 1 / mu is one of mu.
    raw = _checkpointed(task, "inverse", block, max(2 * task.k + 4 * block, 60), rows, "lanczos", core)
    mu, r = np.array(raw["values"]), np.array(raw["residuals"])
    vectors = rows[: len(mu)].T
    image = op.matmat(vectors) if len(mu) else vectors
    raw["norm"] = largest(A, 1, 0.1, task.seed, task.report).value
    raw["products"] += products + len(mu)
    quotients = np.einsum("ij,ij->j", vectors, image, dtype=float)
    residuals = _arrays.to_host(np.linalg.norm(image - vectors * quotients.astype(K.dtype), axis=0))
    quotients = _arrays.to_host(quotients)
    # Two certificates for each pair: of the inverse, narrow for small eigenvalues, and of the matrix, narrow for large.
    bounds = inverse_intervals(mu, r + matrices.rounding(mu.max(initial=0), A.dtype), shift, raw["norm"], A.dtype)
    direct = intervals(quotients, residuals, raw["norm"], A.dtype)
    by_quotient = np.ptp(direct, axis=1) < np.ptp(bounds, axis=1)
    bounds = np.where(by_quotient[:, None], direct, bounds)
    values = np.where(by_quotient | (shift > 0), quotients, 1 / mu)
    order = np.argsort(values, kind="stable")
    pairs = _pairs(task, raw, values.astype(K.dtype)[order], vectors[:, order], residuals[order], "inverse")
    return pairs._replace(info=pairs.info._replace(intervals=bounds[order]))


def inverse_cg(task: Task) -> Pairs | None:
    """The low end as the top of the inverse, by conjugate gradients; None where there is a negative eigenvalue."""
    try:
        found = davidson(task, "inverse-cg")
    except ValueError as error:
        if "not positive definite" in str(error):
            return None
        raise
    cut = matrices.zero_cut(found.info.norm, task.size, task.A.dtype)
    return None if found.values.min(initial=0) < -cut else found


# ------------------------------------------------------------------------------------------------------------ parts
def default_block(A: SymmetricOperator, k: int) -> int:
    """Wide where a product is a pass over stored memory or a call of Python, narrow where it is compute-bound.

    A Gram that is not stored multiplies an (n, n) by an (n, m) matrix for each vector, G itself (n, m) by (m, m): a
    block saves no work there, and a narrow one finds the same eigenvalues with fewer vectors in all. A stored matrix of
    6,000 in float64, 20 eigenvalues to 1e-8, one core: 0.34, 0.41 and 0.41 s with blocks of 4, 6 and 8; as many copies
    of an eigenvalue as the block has vectors are sure to be found.
    """
    if 4 * k > A.shape[0]:  # most of the spectrum: whatever is repeated is among what is asked for
        return k
    compute_bound = A.space == "parameters" or (A.space == "samples" and not getattr(A, "stored", False))
    return 2 if compute_bound else max(4, min(k, 6))


def _checkpointed(
    task: Task,
    method: str,
    block: int,
    basis: int,
    rows: Array,
    solver: str,
    core: _core.Operator | None = None,
    preconditioner: _core.Operator | None = None,
    norm: float = 0.0,
) -> dict[str, Any]:
    """A search of the core, with its state kept in the task's checkpoint."""
    more: dict[str, Any] = {"both": task.which == "BE", "start": task.start, "keep": True}
    checkpoint = None
    if task.path is not None:
        search = {"which": task.which, "k": task.k, "method": method, "block": block, "basis": basis, "seed": task.seed}
        search["precision"] = task.op.dtype.name
        checkpoint = Checkpoint(task.path, task.A, search)
        more |= {"save": checkpoint.save, "restore": checkpoint.load()}
    op, largest_end = task.op.core if core is None else core, task.which != "SA" or core is not None
    numbers = (block, basis, task.limit, task.tol, norm, task.seed, task.report)
    try:
        raw: dict[str, Any]
        if solver == "lanczos":
            raw = task.device.core.lanczos(op, rows, largest_end, *numbers, **more)
        else:
            raw = task.device.core.davidson(op, preconditioner, rows, *numbers, largest=largest_end, **more)
    except ValueError as error:
        if checkpoint is None or "saved state" not in str(error):
            raise
        raise checkpoint.damaged(error) from error
    if checkpoint is not None and raw["converged"]:
        checkpoint.remove()
    return raw


def _ascending(task: Task, raw: dict[str, Any], rows: Array, method: str) -> Pairs:
    """The core's pairs, which start at the end that was asked for."""
    values = np.array(raw["values"], rows.dtype)
    order = np.argsort(raw["values"], kind="stable")
    return _pairs(task, raw, values[order], rows[order].T, np.array(raw["residuals"])[order], method)


def _pairs(task: Task, raw: dict[str, Any], values: Array, vectors: Array, residuals: Array, method: str) -> Pairs:
    info = EigenInfo(
        residuals,
        raw["products"],
        raw["converged"],
        raw["reason"],
        method,
        raw["passes"],
        intervals(values, residuals, raw["norm"], task.A.dtype),
        task.A.space,
        raw["norm"],
        raw.get("steps", 0),
    )
    return Pairs(values, vectors, info)


# ------------------------------------------------------------------------------------------------------ single ends
class End(NamedTuple):
    """One end of a spectrum: the eigenvalue, how near to it one is known to lie, vectors multiplied, how it went.

    `error`: the relative error of the value, but for a small probability: `certificates.randomized_error`.
    """

    value: float
    residual: float
    products: int = 0
    converged: bool = True
    reason: str = ""
    error: float = 1.0

    @classmethod
    def of(cls, raw: dict[str, Any], size: int, block: int = 1) -> End:
        whole = raw["reason"] == "the basis spans the whole space"
        error = 0.0 if whole else randomized_error(size, raw["steps"], block)
        return cls(raw["values"][0], raw["residuals"][0], raw["products"], raw["converged"], raw["reason"], error)


def largest(A: SymmetricOperator, block: int, tol: float, seed: int, report: _core.Progress, min_steps: int = 0) -> End:
    """The largest eigenvalue by block Lanczos; `min_steps` block steps at least: the randomized end depends on them."""
    row = A.device.zeros((1, A.shape[0]), A.dtype)
    block = min(block, A.shape[0])
    basis = max(60, (min_steps + 2) * block)
    raw = A.device.core.lanczos(A.core, row, True, block, basis, 20_000, tol, 0.0, seed, report, min_steps=min_steps)
    return End.of(raw, A.shape[0], block)
