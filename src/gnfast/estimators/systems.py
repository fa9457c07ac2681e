"""Linear systems with a damped operator: block conjugate gradients with a randomized Nystrom preconditioner."""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

import numpy as np

from gnfast import _arrays, _checks, _core, thresholds
from gnfast._arrays import Array
from gnfast.operators import SymmetricOperator
from gnfast.operators.symmetric import Lifting
from gnfast.spectrum import matrices
from gnfast.spectrum.eigen import ConvergenceWarning, reporting, tolerance
from gnfast.spectrum.quadrature import stored_where_cheaper

RANK = 32  # of the first Nystrom approximation
EXPECTED_STEPS = 50  # of conjugate gradients, with the preconditioner's: whether the dual is worth forming
MAX_RANK = 512  # and of the last: its factor takes rank * N numbers


class SolveInfo(NamedTuple):
    """How a linear system was solved.

    Attributes:
        residuals: (s,) |b - (A + damping I) x| / |b| of each right-hand side, as the equations give it; 0 where b is 0,
            whose solution is 0.
        iterations: Block steps.
        products: Vectors multiplied, those of the preconditioner included.
        converged: Whether all residuals are within the tolerance.
        reason: Why it stopped.
        method: The preconditioner, and where a GaussNewton was solved.
    """

    residuals: Array
    iterations: int
    products: int
    converged: bool
    reason: str
    method: str


class NystromPreconditioner(SymmetricOperator):
    """The inverse of U diag(values) U^T + damping I on the span of U and of (values[-1] + damping) I beyond, scaled.

    U (N, rank), orthonormal, and `values`, descending, are a randomized Nystrom approximation of a positive
    semi-definite operator.

    References:
        Frangella, Tropp & Udell, "Randomized Nystrom preconditioning", SIAM J. Matrix Anal. Appl. 2023.
    """

    def __init__(self, rows: Array, values: Array, damping: float) -> None:
        floor = float(values[-1]) + damping
        with np.errstate(invalid="ignore", divide="ignore"):
            factors = np.where(values + damping > 0, floor / (values + damping) - 1, 0.0)
        home = _arrays.device_of(rows)
        super().__init__(home.core.low_rank_update(rows, factors.tolist()), rows.dtype, home)
        self.values, self._rows, self._damping = values, rows, damping

    def _recipe(self) -> tuple[Any, ...]:
        return type(self), (self._rows, self.values, self._damping)

    @property
    def rank(self) -> int:
        """Columns of U."""
        return len(self._rows)


def solve(
    op: Any,
    b: Any,
    damping: float = 0.0,
    tol: float | None = None,
    preconditioner: Any = "nystrom",
    *,
    x0: Any = None,
    rank: int | None = None,
    space: str = "auto",
    max_iterations: int | None = None,
    seed: _checks.Seed = 0,
    progress: Any = None,
    precision: Any = None,
) -> tuple[Array, SolveInfo]:
    """Solve (A + damping I) x = b for a symmetric positive semi-definite operator, all right-hand sides together.

    Block conjugate gradients: each step multiplies one block and searches the span of all; directions that have become
    dependent, as equal or converged right-hand sides make them, are dropped.

    Args:
        op: A GaussNewton, or any symmetric operator, array or LinearOperator (N, N), float32 or float64; of a function
            `gnfast.operator` makes one.
        b: (N,) or (N, s), of the operator's dtype or of `precision`, which x has.
        damping: At least 0; positive where the operator is singular.
        tol: Relative residual of each right-hand side; None means 1e-8 for float64 and 1e-4 for float32.
        preconditioner: "nystrom", None, or an operator (N, N) that multiplies with an approximate inverse, for
            instance a dual's `preconditioner()`.
        x0: A first guess, shaped as `b`; None means zero, as does a guess so far off that its rounding would hide b.
        rank: Of the Nystrom approximation; None means 32, doubled while that promises to save more products than it
            takes, to 512 or N / 4 at most.
        space: Where a GaussNewton is solved. "parameters": by products with it; "dual": in sample space, for a positive
            damping, by x = (b - J^T R (K + damping I)^-1 R^T J b) / damping, refined until the equations in parameters
            hold; "auto": in the dual where its vectors are less than a quarter as long, damping is positive, and there
            is no first guess and no preconditioner of yours.
        max_iterations: Block steps before giving up; None means 100 + 2 N, at most 10,000.
        seed: For the Nystrom approximation, as in `gnfast.eigsh`.
        progress: True shows a line on stderr, a callable is called with (stage, done, total).
        precision: None or "float64", as in `gnfast.eigsh`.

    Returns:
        x, shaped as `b`, a tensor if `b` is one, and a `SolveInfo`.

    Raises:
        TypeError: Bad kinds or dtypes.
        ValueError: Bad arguments, an operator that is not positive definite, NaN or infinity from a product, a solution
            too large for its dtype.

    Warns:
        ConvergenceWarning: The tolerance was not met; the x so far is returned.

    References:
        O'Leary, "The block conjugate gradient algorithm and related methods", 1980; Ji & Li, "A breakdown-free block
        conjugate gradient method", BIT 2017; Frangella, Tropp & Udell, 2023; Woodbury, 1950.

    Examples:
        >>> import numpy as np
        >>> import gnfast as gn
        >>> G = gn.GaussNewton(gn.mlp([64, 32, 10], seed=0), gn.datasets.digits()[0][:20])
        >>> b = np.ones(G.shape[1])
        >>> x, info = gn.solve(G, b, damping=1e-2)
        >>> info.converged, bool(abs(G @ x + 1e-2 * x - b).max() < 1e-5)
        (True, True)
    """
    A = matrices.as_symmetric(op)
    work, size = matrices.in_precision(A, precision), A.shape[0]
    right = _right_hand_sides(b, work)
    is_vector = _arrays.as_array(b, "b", A.device, "op").ndim == 1
    damping = _checks.at_least_zero(damping, "damping")
    tol = tolerance(tol, A.dtype, double=1e-8, single=1e-4)
    space = _checks.choice(space, "space", ("auto", "parameters", "dual"))
    rank = None if rank is None else _checks.integer(rank, "rank", 1, size)
    limit = min(10_000, 100 + 2 * size) if max_iterations is None else _checks.integer(max_iterations, "max_iterations")
    seed = _checks.seed(seed)
    if isinstance(preconditioner, str):
        _checks.choice(preconditioner, "preconditioner", ("nystrom",))
    with reporting(progress) as report:
        units = matrices.InUnits(A)
        exponents = units.settled(damping) + np.zeros(len(right), int)
        gram = _dual_of(A, space, damping, x0, preconditioner) if units.taken == 0 else None
        right, taken = _in_units(right)
        if gram is not None:
            x, info = _solve_in_dual(work, gram, right, damping, tol, preconditioner, rank, limit, seed, report)
        else:
            work = matrices.in_precision(units, precision)
            x = np.zeros_like(right)
            if x0 is not None:
                x = matrices.times_powers(_right_hand_sides(x0, work, "x0", len(right)), exponents - taken)
                x[~np.isfinite(x)] = 0
            damping = float(np.ldexp(damping, -units.taken))
            info = _conjugate_gradients(
                work, right, x, damping, tol, preconditioner, rank, limit, seed, report, x0 is None
            )
        info = info._replace(products=info.products + 1)  # that of the units
        x, info = _out_of_units(work, right, x, damping, taken - exponents, tol, info)
    if not info.converged:
        warnings.warn(
            f"solve stopped after {info.iterations} steps with relative residuals up to {info.residuals.max():.1e}: "
            f"{info.reason}",
            ConvergenceWarning,
            stacklevel=_checks.level_of_caller(),
        )
    return _arrays.like(x[0] if is_vector else x.T, b), info


# ----------------------------------------------------------------------------------------------------------- steps
def _in_units(right: Array) -> tuple[Array, Array]:
    """Right-hand sides of about 1 where their squares would be lost, and the powers of two (s,) that were taken out."""
    sizes = _arrays.to_host(abs(right).max(axis=1)).astype(float)
    lost = np.array([size > 0 and not matrices.is_ordinary(size, right.dtype) for size in sizes])
    exponents = np.where(lost, np.frexp(sizes)[1], 0)
    return (matrices.times_powers(right, -exponents) if lost.any() else right), exponents


def _out_of_units(
    A: SymmetricOperator, right: Array, x: Array, damping: float, exponents: Array, tol: float, info: SolveInfo
) -> tuple[Array, SolveInfo]:
    """2^exponents x, and what is true of it where it is so small that its dtype has few digits left for it."""
    if not exponents.any():
        return x, info
    found = matrices.times_powers(x, exponents)
    if not np.isfinite(found).all():
        raise ValueError(
            f"the solution is larger than {x.dtype} can hold; divide b by what you can multiply x by afterwards"
        )
    kept = matrices.times_powers(found, -exponents)
    if (kept == x).all():
        return found, info
    left = right - A.matmat(kept.T).T - x.dtype.type(damping) * kept
    norms = _arrays.to_host(np.linalg.norm(right, axis=1))
    residuals = np.divide(
        _arrays.to_host(np.linalg.norm(left, axis=1)), norms, out=np.zeros_like(norms), where=norms > 0
    )
    converged = bool(residuals.max() <= tol)
    reason = info.reason if converged else f"the solution is so small that {x.dtype} has few digits for it"
    return found, info._replace(
        residuals=residuals, converged=converged, reason=reason, products=info.products + len(right)
    )


def _conjugate_gradients(
    A: SymmetricOperator,
    right: Array,
    x: Array,
    damping: float,
    tol: float,
    preconditioner: Any,
    rank: int | None,
    limit: int,
    seed: int,
    report: _core.Progress,
    from_zero: bool = True,
) -> SolveInfo:
    products, name = 0, "no preconditioner"
    M: SymmetricOperator | None = None
    if isinstance(preconditioner, str):
        M, products = nystrom(A, damping, rank, tol, len(right), seed)
        name = f"Nystrom preconditioner of rank {M.rank}"
    elif preconditioner is not None:
        M, name = matrices.as_symmetric(preconditioner, "preconditioner"), "the given preconditioner"
        if M.shape == A.shape and M.dtype == A.product_dtype:
            M = matrices.in_precision(M, A.dtype)
        if M.shape != A.shape or M.dtype != A.dtype:
            raise ValueError(
                f"preconditioner is {M.shape[0]} x {M.shape[1]} in {M.dtype} but op is {A.shape[0]} x {A.shape[1]} "
                f"in {A.dtype}; pass one of the operator's own size and dtype"
            )
    inverse = None if M is None else M.core
    core = A.device.core
    options = core.SolveOptions(damping=damping, tol=tol, max_iterations=limit, from_zero=from_zero, progress=report)
    found: _core.SolveResult = core.solve(A.core, inverse, right, x, options)
    return SolveInfo(
        np.array(found.residuals),
        found.iterations,
        found.products + products,
        found.converged,
        found.reason,
        f"block conjugate gradients, {name}",
    )


def nystrom(
    A: SymmetricOperator, damping: float, rank: int | None, tol: float, vectors: int, seed: int
) -> tuple[NystromPreconditioner, int]:
    """The preconditioner for A + damping I, and how many vectors were multiplied for it.

    Without a rank given it is doubled until what is left beyond is of the damping's order, so that the preconditioned
    operator has a condition number kappa of about ten, or until twice the rank would take more products than are left:
    sqrt(kappa) log(2 / tol) / 2 for each right-hand side by the usual bound, N at most.
    """
    size, products = A.shape[0], 0
    most = rank or max(min(RANK, size), min(MAX_RANK, size // 4))
    at = min(rank or RANK, most)
    while True:
        rows = A.device.empty((at, size), A.dtype)
        values = np.array(A.device.core.nystrom_factors(A.core, seed, rows))
        products += at
        # Of a singular operator with no damping to speak of, what is rounding would scale all the rest to its level.
        known = values + damping > thresholds.node_threshold(float(values[0]), size, A.product_dtype)
        kappa = 1 + float(values[-1]) / damping if damping > 0 else np.inf
        left = vectors * min(size, math.sqrt(kappa) * math.log(2 / tol) / 2)
        if at >= most or kappa <= 11 or not known[-1] or left <= 2 * at:
            count = max(1, int(np.count_nonzero(known)))
            return NystromPreconditioner(rows[:count], values[:count], damping), products
        at = min(2 * at, most)


def _dual_of(A: SymmetricOperator, space: str, damping: float, x0: Any, preconditioner: Any) -> Lifting | None:
    """The dual if that is where the system is to be solved."""
    possible = damping > 0 and x0 is None and isinstance(preconditioner, str | None)
    found = A.dual_for_systems(space == "dual") if possible and space != "parameters" else None
    if space == "dual" and found is None:
        raise ValueError(
            "space is 'dual', which needs a GaussNewton, a positive damping, no x0 and no preconditioner but 'nystrom' "
            "or None"
        )
    return found


def _solve_in_dual(
    G: SymmetricOperator,
    gram: Lifting,
    right: Array,
    damping: float,
    tol: float,
    preconditioner: Any,
    rank: int | None,
    limit: int,
    seed: int,
    report: _core.Progress,
) -> tuple[Array, SolveInfo]:
    """Woodbury: (G + d I)^-1 b = (b - J^T R y) / d with (K + d I) y = R^T J b, refined on what is left of b.

    A residual r of y is one of J^T R r / d in parameters, and b and J^T R y cancel: a small damping costs a factor of
    up to lambda_max / d, which each refinement wins back.
    """
    rank = None if rank is None else min(rank, gram.shape[0])
    norms = np.maximum(_arrays.to_host(np.linalg.norm(right, axis=1)), np.finfo(right.dtype).tiny)
    x, left = np.zeros_like(right), right
    best, iterations, products = np.full(len(right), np.inf), 0, 0
    M: Any = preconditioner
    name = "no preconditioner"
    K = matrices.in_precision(stored_where_cheaper(gram, EXPECTED_STEPS * len(right), report), right.dtype)
    while True:
        if isinstance(M, str):
            M, count = nystrom(K, damping, rank, tol, len(right), seed)
            products += count
            name = f"Nystrom preconditioner of rank {M.rank}"
        below = gram.restrict(left.astype(gram.dtype, copy=False)).astype(K.dtype, copy=False)
        y = np.zeros_like(below)
        inner = max(0.01 * tol, 10 * _arrays.eps(gram.dtype))
        info = _conjugate_gradients(K, below, y, damping, inner, M, rank, limit, seed, report)
        iterations, products = iterations + info.iterations, products + info.products
        lifted = gram.lift(y.astype(gram.dtype, copy=False).T).T
        step = x + (left - lifted) / G.dtype.type(damping)
        left = right - G.matmat(step.T).T - G.dtype.type(damping) * step
        residuals = _arrays.to_host(np.linalg.norm(left, axis=1)) / norms
        products += len(right)
        if residuals.max() < best.max():
            x, improved, best = step, residuals.max() < 0.5 * best.max(), residuals
        else:
            improved = False
        converged = bool(best.max() <= tol)
        if converged or not improved or iterations >= limit:
            reason = "tolerance met" if converged else "refinement gains nothing more"
            method = f"block conjugate gradients, {name}, in sample space"
            return x, SolveInfo(best, iterations, products, converged, reason, method)


def _right_hand_sides(b: Any, A: SymmetricOperator, name: str = "b", count: int | None = None) -> Array:
    """Rows (s, N), in the operator's dtype or in that of its products."""
    found, size = _arrays.as_array(b, name, A.device, "op"), A.shape[0]
    columns = found.shape[1] if found.ndim == 2 else 1
    if found.ndim not in (1, 2) or found.shape[0] != size or columns != (count or columns) or columns == 0:
        wanted = f"({size},) or ({size}, s)" if count is None else f"that of b, {count} right-hand sides"
        raise ValueError(f"{name} has shape {found.shape} but must be {wanted}")
    rows = _arrays.as_c_contiguous(found.reshape(size, columns).T)
    dtype = A.dtype if rows.dtype == A.dtype else A.product_dtype
    return _checks.array(rows, name, (columns, size), dtype, "op", A.device).astype(A.dtype, copy=False)
