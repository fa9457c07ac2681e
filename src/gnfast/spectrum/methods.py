"""The ways to a few eigenpairs: what each asks of the core, and its answer in one form."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Literal, NamedTuple, TypeAlias, get_args

import numpy as np

from gnfast import _arrays, _core, thresholds
from gnfast._arrays import Array
from gnfast._results import brief
from gnfast.operators import SymmetricOperator
from gnfast.spectrum import matrices
from gnfast.spectrum.certificates import intervals, inverse_intervals, randomized_error
from gnfast.spectrum.checkpoints import Checkpoint
from gnfast.spectrum.complete import LOOK, Engine, Found, complete, is_within
from gnfast.spectrum.outcome import Outcome
from gnfast.spectrum.task import Task

EigenMethod: TypeAlias = Literal[
    "auto", "dense", "lanczos", "krylov", "nystrom", "davidson", "lobpcg", "inverse", "inverse-cg"
]
METHODS: tuple[str, ...] = get_args(EigenMethod)
INNER_TOL = 0.3  # of the systems in "inverse-cg", relative to the residuals that are their right-hand sides
OVERSAMPLING = 10  # vectors beyond k in a randomized sketch (Halko, Martinsson & Tropp 2011, section 1.3: 5 to 10)


class EigenInfo(NamedTuple):
    """How an eigenvalue computation went.

    Attributes:
        residuals: |A y - lambda y| of each pair, y of norm one: an eigenvalue lies that near. Compared with products
            at the end.
        products: Vectors multiplied by the operator (by its inverse, for "inverse"), inside of systems too.
        converged: Whether the tolerance was met.
        reason: Why it stopped.
        method: "dense", "lanczos", "krylov", "nystrom", "davidson", "lobpcg", "inverse" or "inverse-cg".
        passes: Products of a block: how often the operator was gone through.
        intervals: (k, 2), an eigenvalue lies in each: the residual's interval, widened by rounding in the dtype.
        space: Where the products were made: "parameters", "samples", "linear map" or "given".
        norm: The largest |Ritz value| that was seen.
        steps: Block steps that span a whole Krylov space of a random start (see `gnfast.spectrum.certificates`).
        look: Products from a random vector in the complement of the pairs, which met nothing beyond them; 0 where there
            was no need for them: a search from a random block meets as many copies of an eigenvalue as it has vectors.
            An eigenvalue beyond the pairs by the share `certificates.randomized_error(N, look)` of the distance from
            the other end would have been met but for a probability of 1e-6.
        interrupted: Whether Ctrl-C ended it.
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
    look: int = 0
    interrupted: bool = False

    def __repr__(self) -> str:
        return brief("EigenInfo", zip(self._fields, self, strict=True))


class Pairs(NamedTuple):
    """Eigenvalues ascending, eigenvectors in columns, and how it went."""

    values: Array
    vectors: Array
    info: EigenInfo


def dense(task: Task) -> Pairs:
    """LAPACK on the whole matrix."""
    A, k, which = task.op, task.k, task.which
    K = A.new_square()
    form = partial(A.form, K, task.report)
    products = form()
    matrices.check_finite(K)
    norm = _norm(task, K)
    if which == "BE":
        values, vectors = matrices.eigenpairs(K, 0, len(K) - 1, form)
        chosen = np.r_[: k // 2, len(K) - (k - k // 2) : len(K)]
        values, vectors = values[chosen], vectors[:, chosen]
    else:
        first = A.shape[0] - k if which == "LA" else 0
        values, vectors = matrices.eigenpairs(K, first, first + k - 1, form)
    vectors = _arrays.as_f_contiguous(vectors)
    residuals = _arrays.to_host(np.linalg.norm(A.matmat(vectors) - vectors * A.device.upload(values), axis=0))
    norm = max(norm, float(np.abs(values).max()))
    # LAPACK's residuals are a few eps |A|, whatever the values; others say that products are not those of the matrix.
    true = bool((residuals <= 10 * thresholds.zero_threshold(norm, len(K), task.A.dtype)).all())
    reason = "the whole spectrum was computed" if true else "the pairs' products are not those of the matrix formed"
    found = Outcome(values, residuals, values[:0], products + k, products // 256 + 1, norm, true, reason)
    return _pairs(task, found, values, vectors, residuals, "dense")


def _norm(task: Task, K: Array) -> float:
    """|K| to a tenth, by products with K as it is stored."""
    ends = min(2, len(K))
    rows = task.device.zeros((ends, len(K)), K.dtype)
    core = task.device.core
    options = core.SearchOptions(block=ends, max_basis=60, max_products=200, tol=0.1, seed=task.seed, both=True)
    return float(core.lanczos(core.stored(K), rows, options).norm)


def lanczos(task: Task, method: str = "lanczos") -> Pairs:
    """Block Lanczos; "krylov": a wide random block and a long basis (Musco & Musco 2015)."""

    def run(task: Task) -> Found:
        if method == "krylov":
            block = task.block_or(task.k + OVERSAMPLING)
            basis = 12 * block
        else:
            block = task.block_or(default_block(task.A, task.k))
            basis = max(2 * task.k + 4 * block, 24 if task.A.space == "parameters" else 60)
        return _by_lanczos(task, method, block, basis, task.op.core)

    return _ascending(task, complete(task, run), method)


def nystrom(task: Task) -> Pairs:
    """A one-pass sketch, then block Krylov steps from its vectors until the tolerance is met."""
    if task.limit < 2 * task.block_or(task.k + OVERSAMPLING):
        sketch = _sketch(task)
        kept = min(task.k, len(sketch.raw.values))
        raw = replace(sketch.raw, values=sketch.raw.values[:kept], residuals=sketch.raw.residuals[:kept])
        return _ascending(task, replace(sketch, raw=raw, rows=sketch.rows[:kept]), "nystrom")

    def run(task: Task) -> Found:
        sketch = _sketch(task)
        block, count = len(sketch.rows), len(sketch.raw.values)
        rows = task.device.zeros((task.k, task.size), task.op.dtype)
        options = task.device.core.SearchOptions(
            block=block,
            max_basis=12 * block,
            max_products=max(1, task.limit - sketch.raw.products - 1),
            tol=task.tol,
            seed=task.seed,
            progress=task.report,
            keep=True,
            start=sketch.rows[:count] if count else None,
        )
        raw = Outcome.of(sketch.engine(task.op.core, rows, options))
        raw.products += sketch.raw.products
        raw.passes += sketch.raw.passes
        return replace(sketch, raw=raw, rows=rows)

    return _ascending(task, complete(task, run), "nystrom")


def _sketch(task: Task) -> Found:
    block, core = task.block_or(task.k + OVERSAMPLING), task.device.core
    rows = task.device.zeros((block, task.size), task.op.dtype)
    options = core.SearchOptions(seed=task.seed, progress=task.report, start=task.start)
    found = Outcome.of(core.nystrom(task.op.core, rows, options))
    return Found(found, rows, task.op.core, core.lanczos, _drawn(task, block))


def davidson(task: Task, method: str = "davidson") -> Pairs:
    """Block Davidson, or LOBPCG, which is its shortest basis; with a dual's own preconditioner at the low end.

    "inverse-cg": with the operator's inverse in place of the preconditioner, which spans what block Lanczos with the
    inverse does: A^-1 (A x - theta x) = x - theta A^-1 x. The right-hand sides of its systems are the residuals, so
    that a fixed relative accuracy of theirs is as accurate as the pairs are, and their errors enter nothing but the
    choice of directions: values, residuals and the end of the search are those of products with A.
    """
    A, compiled = task.A, task.device.core
    norm = largest(A, 1, 0.1, task.seed, task.report) if task.which == "SA" else End(0.0, 0.0)
    inverse = None if task.preconditioner is None else matrices.in_precision(task.preconditioner, task.op.dtype)
    core = None if inverse is None else inverse.core
    if method == "inverse-cg" and norm.value > 0:
        # What rounding cannot tell from zero gets a floor, so that a singular operator's systems have solutions.
        damping = 16 * _arrays.eps(A.dtype) * norm.value
        core = compiled.cg_inverse(task.op.core, core, damping, INNER_TOL, min(10_000, 100 + 2 * task.size))

    def run(task: Task) -> Found:
        block = max(task.k, task.block_or(max(4, task.k)))
        basis = 3 * block if method == "lobpcg" else 10 * block
        return _by_davidson(task, method, block, basis, core, norm.value)

    left = max(1, task.limit - norm.products)
    found = complete(replace(task, limit=left), run)
    found.raw.products += norm.products
    found.raw.passes += norm.products
    return _ascending(task, found, method)


def inverse(task: Task) -> Pairs | None:
    """The low end as the top of the inverse, by a Cholesky factorisation; None if there is none even when shifted.

    A singular matrix is shifted by sqrt(eps) times its largest diagonal entry: that keeps the null vectors apart from
    the rest, and costs the eigenvalues no more than rounding does. Where rounding in the factors hides all but the
    smallest eigenvalues, as the residuals of the pairs tell, block Davidson goes on from them, preconditioned by them.
    """
    op, compiled = task.op, task.device.core
    K = op.new_square()
    products = op.form(K, task.report)
    matrices.check_finite(K)
    scale = float(np.abs(K.diagonal()).max())
    small = float(np.sqrt(_arrays.eps(task.A.dtype))) * scale

    def shifted() -> bool:
        op.form(K)
        K.reshape(-1)[:: len(K) + 1] += K.dtype.type(small)
        return bool(compiled.cholesky(K) == 0)

    shift = 0.0
    if compiled.cholesky(K) != 0:
        shift = small
        if scale == 0 or not shifted():
            return None
    norm = largest(task.A, 1, 0.1, task.seed, task.report)
    pairs, found = _by_factor(task, K, shift, norm.value)
    left = task.limit - pairs.info.products
    if found.raw.converged and not pairs.info.converged and left > 2 * task.k and (shift > 0 or shifted()):
        core = compiled.cholesky_inverse(K, 1, False)

        def run(task: Task) -> Found:
            block = max(task.k, task.block_or(task.k))
            return replace(_by_davidson(task, "inverse", block, 10 * block, core, norm.value), random=found.random)

        start = _arrays.as_c_contiguous(pairs.vectors.T)
        finer = _ascending(task, complete(replace(task, start=start, path=None, limit=left), run), "inverse")
        spent, passes = pairs.info.products + finer.info.products, pairs.info.passes + finer.info.passes
        pairs = finer._replace(info=finer.info._replace(products=spent, passes=passes))
    return pairs._replace(info=pairs.info._replace(products=pairs.info.products + products))


def _by_factor(task: Task, K: Array, shift: float, norm: float) -> tuple[Pairs, Found]:
    """The pairs by the factorisation of A + shift I in K, and what was found of its inverse."""
    A, op = task.A, task.op
    core = task.device.core.cholesky_inverse(K, 1, False)

    def run(task: Task) -> Found:
        block = task.block_or(min(max(8, task.k), task.size))
        return _by_lanczos(task, "inverse", block, max(2 * task.k + 4 * block, 60), core)

    # A relative accuracy of 1 / mu is one of mu.
    found = complete(replace(task, which="LA"), run)
    count = len(found.raw.values)
    mu, r = found.raw.values, found.raw.residuals
    vectors = found.rows[:count].T
    image = op.matmat(vectors) if count else vectors
    quotients = np.einsum("ij,ij->j", vectors, image, dtype=float)
    residuals = _arrays.to_host(np.linalg.norm(image - vectors * quotients.astype(K.dtype), axis=0)).astype(float)
    quotients = _arrays.to_host(quotients)
    # Two certificates for each pair: of the inverse, narrow for small eigenvalues, and of the matrix, narrow for large.
    rounding = thresholds.rounding_error(mu.max(initial=0), A.dtype)
    bounds = inverse_intervals(mu, r + rounding, shift, norm, A.dtype)
    direct = intervals(quotients, residuals, norm, A.dtype)
    by_quotient = np.ptp(direct, axis=1) < np.ptp(bounds, axis=1)
    bounds = np.where(by_quotient[:, None], direct, bounds)
    by_inverse = rounding <= task.tol * mu  # where rounding in it is less than the tolerance
    values = np.where(by_quotient | (shift > 0) & ~by_inverse, quotients, 1 / mu - shift)
    others = found.raw.others
    others, products = 1 / others[others > 0] - shift, found.raw.products + count
    raw = replace(found.raw, norm=norm, values=values, residuals=residuals, others=others, products=products)
    # By the inverse, where a share of the shift is none of the value either; or by A.
    within = by_inverse & (task.tol * shift <= thresholds.rounding_error(norm, A.dtype))
    within |= is_within(task, raw)
    within |= np.abs(bounds - values[:, None]).max(axis=1) <= task.tol * np.abs(values)
    if raw.converged and not within.all():
        worst = float(residuals.max())
        reason = f"the residuals are up to {worst:.1e}: the matrix is too near to a singular one for its inverse"
        raw = replace(raw, converged=False, reason=reason)
    order = np.argsort(values, kind="stable")
    pairs = _pairs(task, raw, values.astype(K.dtype)[order], vectors[:, order], residuals[order], "inverse", found.look)
    return pairs._replace(info=pairs.info._replace(intervals=bounds[order])), found


def inverse_cg(task: Task) -> Pairs | None:
    """The low end as the top of the inverse, by conjugate gradients; None where there is a negative eigenvalue."""
    try:
        found = davidson(task, "inverse-cg")
    except _core.NotPositiveDefiniteError:
        return None
    cut = thresholds.zero_threshold(found.info.norm, task.size, task.A.dtype)
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
    compute_bound = A.space == "parameters" or (A.space == "samples" and not A.stored)
    return 2 if compute_bound else max(4, min(k, 6))


def _drawn(task: Task, block: int) -> int:
    """Random columns of the first block; 0 where a start was given: the search may end before they have told."""
    return block if task.start is None else 0


def _by_lanczos(task: Task, method: str, block: int, basis: int, core: _core.Operator) -> Found:
    rows = task.device.zeros((task.k, task.size), task.op.dtype)
    engine: Engine = task.device.core.lanczos
    return _checkpointed(task, method, block, basis, rows, core, engine)


def _by_davidson(
    task: Task, method: str, block: int, basis: int, preconditioner: _core.Operator | None, norm: float
) -> Found:
    def engine(op: _core.Operator, rows: Array, options: _core.SearchOptions) -> _core.SearchResult:
        found: _core.SearchResult = task.device.core.davidson(op, preconditioner, rows, options)
        return found

    rows = task.device.zeros((task.k, task.size), task.op.dtype)
    steps = LOOK if preconditioner is None else LOOK // 3
    found = _checkpointed(task, method, block, basis, rows, task.op.core, engine, steps, norm)
    if method == "lobpcg":  # nothing but the block is kept, which a pair leaves that is within tolerance
        found.copies = max(1, block - task.k + 1)
    return found


def _checkpointed(
    task: Task,
    method: str,
    block: int,
    basis: int,
    rows: Array,
    core: _core.Operator,
    engine: Engine,
    steps: int = LOOK,
    norm: float = 0.0,
) -> Found:
    """A search of the core, with its state kept in the task's checkpoint."""
    drawn, checkpoint = _drawn(task, block), None
    if task.path is not None:
        search = {"which": task.which, "k": task.k, "method": method, "block": block, "basis": basis, "seed": task.seed}
        search["precision"] = task.op.dtype.name
        checkpoint = Checkpoint(task.path, task.A, search, drawn=drawn)
    options = task.device.core.SearchOptions(
        block=block,
        max_basis=basis,
        max_products=max(1, task.limit - 1),  # a product is left for the check of the residuals
        tol=task.tol,
        norm=norm,
        seed=task.seed,
        progress=task.report,
        largest=task.which != "SA",
        both=task.which == "BE",
        keep=True,
        start=task.start,
        restore=None if checkpoint is None else checkpoint.load(),
        save=None if checkpoint is None else checkpoint.save,
    )
    try:
        raw = Outcome.of(engine(core, rows, options))
    except _core.SavedStateError as error:
        raise error if checkpoint is None else checkpoint.damaged(error) from error
    return Found(raw, rows, core, engine, drawn if checkpoint is None else checkpoint.drawn, steps, checkpoint)


def _ascending(task: Task, found: Found, method: str) -> Pairs:
    """The core's pairs, which start at the end that was asked for."""
    raw, rows = found.raw, found.rows
    values = raw.values.astype(rows.dtype)
    order = np.argsort(raw.values, kind="stable")
    return _pairs(task, raw, values[order], rows[order].T, raw.residuals[order], method, found.look)


def _pairs(
    task: Task, raw: Outcome, values: Array, vectors: Array, residuals: Array, method: str, look: int = 0
) -> Pairs:
    coarse = task.tol < _arrays.eps(task.op.dtype)
    reason = f"tol {task.tol:.1e} is below what {task.op.dtype} resolves, {_arrays.eps(task.op.dtype):.1e}"
    info = EigenInfo(
        residuals,
        raw.products,
        raw.converged and not coarse,
        reason if raw.converged and coarse else raw.reason,
        method,
        raw.passes,
        intervals(values, residuals, raw.norm, task.A.dtype),
        task.A.space,
        raw.norm,
        raw.steps,
        look,
        raw.interrupted,
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
    def of(cls, raw: _core.SearchResult, size: int, block: int = 1) -> End:
        """The end that the core found, with the error of its random start."""
        whole = raw.ended is _core.Ended.WHOLE_SPACE
        error = 0.0 if whole else randomized_error(size, raw.steps, block)
        return cls(raw.values[0], raw.residuals[0], raw.products, raw.converged, raw.reason, error)


def largest(A: SymmetricOperator, block: int, tol: float, seed: int, report: _core.Progress, min_steps: int = 0) -> End:
    """The largest eigenvalue by block Lanczos; `min_steps` block steps at least: the randomized end depends on them."""
    row = A.device.zeros((1, A.shape[0]), A.dtype)
    block = min(block, A.shape[0])
    basis = max(60, (min_steps + 2) * block)
    core = A.device.core
    options = core.SearchOptions(
        block=block, max_basis=basis, max_products=20_000, tol=tol, seed=seed, progress=report, min_steps=min_steps
    )
    return End.of(core.lanczos(A.core, row, options), A.shape[0], block)
