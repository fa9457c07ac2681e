"""Traces and diagonals: exact where they are free, else by random probes."""

from __future__ import annotations

import math
import warnings
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from gnfast import _arrays, _checks, _core, thresholds
from gnfast._memory import check_memory
from gnfast.estimators.results import Diagonal, Trace
from gnfast.operators import SymmetricOperator
from gnfast.operators.symmetric import KnownDiagonal
from gnfast.spectrum import matrices
from gnfast.spectrum.eigen import ConvergenceWarning, reporting
from gnfast.spectrum.quadrature import block_of, stored_where_cheaper

TraceMethod: TypeAlias = Literal["auto", "exact", "hutchinson", "hutch++", "xtrace"]
DiagonalMethod: TypeAlias = Literal["auto", "exact", "hutchinson", "xdiag"]
TRACE_METHODS: tuple[str, ...] = get_args(TraceMethod)
DIAGONAL_METHODS: tuple[str, ...] = get_args(DiagonalMethod)
# Vectors that are kept for each product, and blocks beside them: test vectors and basis; these and the basis's image;
# the basis and its image, for a third of the products.
KEPT = {"xtrace": (1.0, 1), "xdiag": (1.5, 3), "hutch++": (2 / 3, 2)}


def trace(
    op: Any,
    method: TraceMethod | str = "auto",
    probes: int = 60,
    tol: float | None = None,
    seed: _checks.Seed = 0,
    *,
    max_products: int | None = None,
    block_size: int | None = None,
    progress: Any = None,
    precision: Any = None,
) -> Trace:
    """The trace of a symmetric operator, with its error.

    Args:
        op: An operator of gnfast, any SciPy LinearOperator, an array or a sparse matrix, symmetric (N, N), float32 or
            float64; of a function `gnfast.operator` makes one. What has a dual (`op.dual()`) is traced there,
            where the trace is the same, so that vectors are no longer than need be.
        method: "exact": without a random number, which is free for gnfast's operators (sums of the norms of the
            Jacobian's rows, or of tr P_l tr R_l) and for arrays, and N products for anything else;
            "hutchinson": mean of w^T A w over random signs w, error falling like 1 / sqrt(probes);
            "hutch++": a third of the products spans the largest eigenvectors, whose part is exact;
            "xtrace": leaves one test vector out at a time, best where the spectrum decays;
            "auto": exact where that is free or not more than `probes` products, else "xtrace", or "hutchinson" where
            the `probes` vectors that "xtrace" keeps exceed the operator's `memory_limit`.
        probes: How many vectors are multiplied, at least 3: random ones and, with "xtrace" and "hutch++", directions
            that these span; the two use multiples of 2 and 3.
        tol: Relative error asked for: more vectors are drawn until the estimate's own error is no larger.
        seed: For the probes, as in `gnfast.eigsh`; they are the same whatever the block size.
        max_products: Vectors multiplied before giving up on `tol`; None means the smaller of N and 100 * probes.
        block_size: Vectors a product; None means at most 32.
        progress: True shows a line on stderr, a callable is called with (stage, done, total).
        precision: None or "float64", as in `gnfast.eigsh`.

    Returns:
        A `Trace` with `value`, `error`, `method`, `exact`, `products` and `converged`. The truth lies within two errors
        in about 95 of 100 draws; of "xtrace" it is more often, up to always where the spectrum decays fast, and as
        seldom as 85 in 100 where the test vectors are just as many as there are eigenvalues that matter.

    Raises:
        TypeError: Bad kinds or dtypes.
        ValueError: Bad arguments, a matrix that is not symmetric, NaN or infinity from a product.
        MemoryError: The vectors that the method keeps exceed the operator's `memory_limit`.

    Warns:
        ConvergenceWarning: `tol` was not met within `max_products`.

    References:
        Hutchinson, "A stochastic estimator of the trace of the influence matrix", 1990; Meyer, Musco, Musco & Woodruff,
        "Hutch++: optimal stochastic trace estimation", SOSA 2021; Epperly, Tropp & Webber, "XTrace: making the most of
        every sample in stochastic trace estimation", SIAM J. Matrix Anal. Appl. 2024.

    Examples:
        >>> import numpy as np
        >>> import gnfast as gn
        >>> A = np.diag(np.arange(1.0, 301.0))
        >>> gn.trace(A).value, gn.trace(A).exact
        (45150.0, True)
        >>> found = gn.trace(gn.operator(lambda V: A @ V, 300), probes=60, method="hutch++")
        >>> abs(found.value - 45150) < 4 * found.error
        True
    """
    method = _checks.choice(method, "method", TRACE_METHODS)
    probes = _checks.integer(probes, "probes", 3)
    seed = _checks.seed(seed)
    wanted = 0.0 if tol is None else _checks.positive(tol, "tol")
    A = matrices.as_symmetric(matrices.as_symmetric(op).trace_operator())
    work = matrices.in_precision(A, precision)
    size = A.shape[0]
    limit = _limit(max_products, size, probes)
    block = block_of(A, probes, block_size)
    known = _known(A, method, probes, block)
    if known is not None:
        value, error = float(known.values.sum()), _rounding(A) * float(np.abs(known.values).sum())
        # Known diagonals are squares of roots that the dtype holds, added in float64.
        least = max(_arrays.vanishing(A.dtype) ** 2, _arrays.vanishing(np.dtype(np.float64)))
        A.warn_of_underflow("the trace underflows", value, least)
        return Trace(value, error, f"exact: {known.method}", True, known.products)
    method, limit = _within_memory(work, method, "xtrace", probes, limit, block)
    with reporting(progress) as report:
        units = matrices.InUnits(stored_where_cheaper(A, probes, report))
        work = matrices.in_precision(units, precision)
        core = A.device.core
        options = core.EstimatorOptions(
            samples=probes, max_products=limit, tol=wanted, block=block, seed=seed, progress=report
        )
        found: _core.Estimate = core.trace(work.core, method, options)
        value, error = (float(units.out_of(np.float64(number))) for number in (found.value, found.error))
    A.warn_of_underflow("the trace underflows", abs(value), _arrays.vanishing(A.dtype))
    if not found.converged:
        _warn(method, found.products, error, value, wanted)
    return Trace(value, error, method, False, found.products, found.converged)


def diagonal(
    op: Any,
    method: DiagonalMethod | str = "auto",
    probes: int = 60,
    seed: _checks.Seed = 0,
    *,
    tol: float | None = None,
    max_products: int | None = None,
    block_size: int | None = None,
    progress: Any = None,
    precision: Any = None,
) -> Diagonal:
    """The diagonal of a symmetric operator, with the error of each entry.

    Args:
        op: As in `trace`; the diagonal of a GaussNewton is that in parameters.
        method: "exact": free for gnfast's operators (of a GaussNewton one product of squares a layer, less than G
            times one vector) and for arrays, N products for anything else; "hutchinson": mean of w o A w over random
            signs w; "xdiag": the part in the span of half of the products exactly, leaving one test vector out at a
            time; "auto": exact where that is free or not more than `probes` products, else "xdiag", or "hutchinson"
            where the 1.5 `probes` vectors that "xdiag" keeps exceed the operator's `memory_limit`.
        probes: How many vectors are multiplied, at least 2: random ones and, with "xdiag", which uses multiples of 2,
            directions that these span.
        tol: Relative error asked for, of all entries together: more vectors are drawn until the norm of the errors is
            no larger than `tol` times that of the diagonal.
        max_products: As in `trace`.
        block_size: Vectors a product; None means at most 32.
        progress: True shows a line on stderr, a callable is called with (stage, done, total).
        precision: None or "float64", as in `gnfast.eigsh`.

    Returns:
        A `Diagonal` with `values`, `error`, `method`, `exact`, `products` and `converged`.

    Raises:
        TypeError: Bad kinds or dtypes.
        ValueError: Bad arguments, a matrix that is not symmetric, NaN or infinity from a product.
        MemoryError: The vectors that the method keeps exceed the operator's `memory_limit`.

    Warns:
        ConvergenceWarning: `tol` was not met within `max_products`.

    References:
        Bekas, Kokiopoulou & Saad, "An estimator for the diagonal of a matrix", 2007; Epperly, Tropp & Webber, 2024.

    Examples:
        >>> import numpy as np
        >>> import gnfast as gn
        >>> G = gn.GaussNewton(gn.mlp([4, 8, 2], seed=0), np.random.default_rng(0).standard_normal((5, 4)))
        >>> found = gn.diagonal(G)
        >>> found.exact, np.allclose(found.values, np.diag(G.to_dense()))
        (True, True)
    """
    method = _checks.choice(method, "method", DIAGONAL_METHODS)
    probes = _checks.integer(probes, "probes", 2)
    seed = _checks.seed(seed)
    wanted = 0.0 if tol is None else _checks.positive(tol, "tol")
    A = matrices.as_symmetric(op)
    work, size = matrices.in_precision(A, precision), A.shape[0]
    limit = _limit(max_products, size, probes)
    block = block_of(work, probes, block_size)
    known = _known(A, method, probes, block)
    if known is not None:
        values = A.device.upload(known.values).astype(work.dtype)
        A.warn_of_underflow("the diagonal underflows", float(values.max()), _arrays.vanishing(A.dtype))
        return Diagonal(values, _rounding(A) * np.abs(values), f"exact: {known.method}", True, known.products)
    method, limit = _within_memory(work, method, "xdiag", probes, limit, block)
    units = matrices.InUnits(A)
    work = matrices.in_precision(units, precision)
    mean, squares, without = (A.device.empty((1, size), work.dtype) for _ in range(3))
    with reporting(progress) as report:
        core = A.device.core
        options = core.EstimatorOptions(
            samples=probes, max_products=limit, tol=wanted, block=block, seed=seed, progress=report
        )
        found: _core.DiagonalResult = core.diagonal(work.core, method, mean, squares, without, options)
    error, count = np.full_like(mean[0], np.inf), found.count
    if count > 1:
        if method == "xdiag":  # the spread's error and the jackknife's, see csrc/algo/solvers/diagonal.hpp
            variance = np.sqrt(np.maximum(squares[0], 0)) * np.sqrt(np.maximum(without[0], 0)) / (count - 1)
        else:
            variance = np.maximum(squares[0], 0) / (count * (count - 1))
        error = (found.student * np.sqrt(variance)).astype(work.dtype)
    mean, error = units.out_of(mean), units.out_of(error)
    A.warn_of_underflow("the diagonal underflows", float(np.abs(mean).max()), _arrays.vanishing(A.dtype))
    if not found.converged:
        _warn(method, found.products, float(np.linalg.norm(error)), float(np.linalg.norm(mean)), wanted)
    error = np.maximum(error, _rounding(A) * np.abs(mean[0]).max())
    return Diagonal(mean[0], error, method, False, found.products, found.converged)


def _limit(max_products: int | None, size: int, probes: int) -> int:
    """Vectors to multiply before giving up on a tolerance."""
    if max_products is not None:
        return _checks.integer(max_products, "max_products")
    return min(max(size, probes), 100 * probes)


def _within_memory(
    A: SymmetricOperator, method: str, best: str, probes: int, limit: int, block: int
) -> tuple[str, int]:
    """The method for "auto", and the products until the vectors that are kept exceed the operator's `memory_limit`."""
    per_product, blocks = KEPT.get(best if method == "auto" else method, (0.0, 0))
    room = math.inf if A.memory_limit is None else A.memory_limit / (A.shape[0] * A.dtype.itemsize)
    fits = per_product * probes + blocks * block <= room
    if method == "auto":
        return (best, _growth(limit, probes, per_product, blocks * block, room)) if fits else ("hutchinson", limit)
    if not fits:
        needed = (per_product * probes + blocks * block) * A.shape[0] * A.dtype.itemsize
        what = f"{method} keeps vectors for each of its probes={probes}, which"
        check_memory(needed, A.memory_limit, what, "pass fewer probes, or method='hutchinson', which keeps one block")
    return method, _growth(limit, probes, per_product, blocks * block, room)


def _growth(limit: int, probes: int, per_product: float, fixed: int, room: float) -> int:
    """While it grows to twice as many vectors, the old half of one part is there beside the new whole: 7 / 6 at most
    of what XDiag keeps, 5 / 4 of what XTrace does."""
    if per_product == 0 or math.isinf(room):
        return limit
    return min(limit, max(probes, int((room - fixed) / (1.25 * per_product))))


def _warn(method: str, products: int, error: float, value: float, tol: float) -> None:
    warnings.warn(
        f"{method} stopped after {products} products with error {error:.2g} of {value:.6g}, above tol {tol:g}; "
        "raise max_products",
        ConvergenceWarning,
        stacklevel=_checks.level_of_caller(),
    )


def _known(A: SymmetricOperator, method: str, probes: int, block: int) -> KnownDiagonal | None:
    """The diagonal where it is to be exact: of one entry always, since no spread would tell how far it is off."""
    if A.shape[0] == 1:
        method = "exact"
    if method not in ("auto", "exact"):
        return None
    known = A.known_diagonal()
    if known is None and (method == "exact" or A.shape[0] <= probes):
        known = _by_all_products(A, block)
    return known


def _by_all_products(A: SymmetricOperator, block: int) -> KnownDiagonal:
    """The diagonal from all N unit vectors."""
    size = A.shape[0]
    values = np.empty(size)
    for i in range(0, size, block):
        count = min(block, size - i)
        rows, out = A.device.unit_rows(i, count, size, A.dtype), A.device.empty((count, size), A.dtype)
        A.core.apply(rows, out)
        values[i : i + count] = _arrays.to_host(out.reshape(-1)[i :: size + 1])
    if not np.isfinite(values).all():
        raise _core.NonFiniteError("a product with the operator gave NaN or infinite values; check its entries")
    return KnownDiagonal(values, f"all {_checks.counted(size, 'product')}", size)


def _rounding(A: SymmetricOperator) -> float:
    """Relative, of each entry of a diagonal: sums of a few hundred products, measured at 1 eps and below."""
    return thresholds.rounding_error(1.0, A.dtype)
