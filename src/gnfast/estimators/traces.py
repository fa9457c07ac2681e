"""Traces and diagonals: exact where they are free, else by random probes."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from gnfast import _checks, _core
from gnfast.estimators.exact import Known, diagonal_by_all_products, diagonal_without_products, trace_space
from gnfast.estimators.results import Diagonal, Trace
from gnfast.operators import SymmetricOperator
from gnfast.spectrum import matrices
from gnfast.spectrum.eigen import ConvergenceWarning, reporting
from gnfast.spectrum.quadrature import block_of, stored_where_cheaper

TRACE_METHODS = ("auto", "exact", "hutchinson", "hutch++", "xtrace")
DIAGONAL_METHODS = ("auto", "exact", "hutchinson", "xdiag")


def trace(
    op: Any,
    method: str = "auto",
    samples: int = 60,
    tol: float | None = None,
    seed: int = 0,
    *,
    max_products: int | None = None,
    block_size: int | None = None,
    progress: Any = None,
) -> Trace:
    """The trace of a symmetric operator, with its error.

    Args:
        op: An operator of gnfast, any SciPy LinearOperator, an array or a sparse matrix, symmetric (N, N), float32 or
            float64; of a function `gnfast.operator` makes one. The trace of a GaussNewton is taken in its cheapest dual, which has the same.
        method: "exact": without a random number, which is free for gnfast's operators (sums of the norms of the
            Jacobian's rows, or of tr P_l tr R_l) and for arrays, and N products for anything else;
            "hutchinson": mean of w^T A w over random signs w, error falling like 1 / sqrt(samples);
            "hutch++": a third of the products spans the largest eigenvectors, whose part is exact;
            "xtrace": leaves one test vector out at a time, best where the spectrum decays;
            "auto": exact where that is free or not more than `samples` products, else "xtrace".
        samples: Vectors multiplied, at least 3; "xtrace" and "hutch++" use the multiples of 2 and 3.
        tol: Relative error asked for: more vectors are drawn until the estimate's own error is no larger.
        seed: Of the probes; the same whatever the block size.
        max_products: Vectors multiplied before giving up on `tol`; None means the smaller of N and 100 * samples.
        block_size: Vectors a product; None means at most 32.
        progress: True shows a line on stderr, a callable is called with (stage, done, total).

    Returns:
        A `Trace` with `value`, `error`, `method`, `exact`, `products` and `converged`. The truth lies within two errors
        in about 9 of 10 draws of "hutchinson" and "hutch++", and in about 8 of 10 of "xtrace", whose authors' estimate
        takes numbers that share test vectors as independent.

    Raises:
        TypeError: Bad kinds or dtypes.
        ValueError: Bad arguments, a matrix that is not symmetric, NaN or infinity from a product.

    Warns:
        ConvergenceWarning: `tol` was not met within `max_products`.

    References:
        Hutchinson, "A stochastic estimator of the trace of the influence matrix", 1990; Meyer, Musco, Musco & Woodruff,
        "Hutch++: optimal stochastic trace estimation", SOSA 2021; Epperly, Tropp & Webber, "XTrace: making the most of
        every sample in stochastic trace estimation", SIAM J. Matrix Anal. Appl. 2024.
    """
    method = _checks.choice(method, "method", TRACE_METHODS)
    samples = _checks.integer(samples, "samples", 3)
    seed = _checks.integer(seed, "seed", 0)
    wanted = 0.0 if tol is None else _checks.positive(tol, "tol")
    cheapest = trace_space(op)
    A = matrices.as_symmetric(cheapest)
    size = A.shape[0]
    limit = min(max(size, samples), 100 * samples)
    if max_products is not None:
        limit = _checks.integer(max_products, "max_products")
    block = block_of(A, samples, block_size)
    known = _known(cheapest, A, method, samples, block)
    if known is not None:
        value, error = float(known.values.sum()), _rounding(A) * float(np.abs(known.values).sum())
        return Trace(value, error, f"exact: {known.method}", True, known.products)
    method = "xtrace" if method == "auto" else method
    with reporting(progress) as report:
        A = stored_where_cheaper(A, samples, report)
        value, error, products, converged = _core.trace(A.core, method, samples, limit, wanted, block, seed, report)
    if not converged:
        warnings.warn(
            f"{method} stopped after {products} products with error {error:.2g} of {value:.6g}, above tol {wanted:g}; "
            "raise max_products",
            ConvergenceWarning,
            stacklevel=_checks.level_of_caller(),
        )
    return Trace(value, error, method, False, products, converged)


def diagonal(
    op: Any,
    method: str = "auto",
    samples: int = 60,
    seed: int = 0,
    *,
    block_size: int | None = None,
    progress: Any = None,
) -> Diagonal:
    """The diagonal of a symmetric operator, with the error of each entry.

    Args:
        op: As in `trace`; the diagonal of a GaussNewton is that in parameters.
        method: "exact": free for gnfast's operators (of a GaussNewton one product of squares a layer, less than G
            times one vector) and for arrays, N products for anything else; "hutchinson": mean of w o A w over random
            signs w; "xdiag": the part in the span of half of the products exactly, leaving one test vector out at a
            time; "auto": exact where that is free or not more than `samples` products, else "xdiag".
        samples: Vectors multiplied, at least 2; "xdiag" uses the multiples of 2.
        seed: Of the probes; the same whatever the block size.
        block_size: Vectors a product; None means at most 32.
        progress: True shows a line on stderr, a callable is called with (stage, done, total).

    Returns:
        A `Diagonal` with `values`, `error`, `method`, `exact` and `products`.

    Raises:
        TypeError: Bad kinds or dtypes.
        ValueError: Bad arguments, a matrix that is not symmetric, NaN or infinity from a product.

    References:
        Bekas, Kokiopoulou & Saad, "An estimator for the diagonal of a matrix", 2007; Epperly, Tropp & Webber, 2024.
    """
    method = _checks.choice(method, "method", DIAGONAL_METHODS)
    samples = _checks.integer(samples, "samples", 2)
    seed = _checks.integer(seed, "seed", 0)
    A = matrices.as_symmetric(op)
    size = A.shape[0]
    block = block_of(A, samples, block_size)
    known = _known(op, A, method, samples, block)
    if known is not None:
        values = known.values.astype(A.dtype)
        return Diagonal(values, _rounding(A) * np.abs(values), f"exact: {known.method}", True, known.products)
    method = "xdiag" if method == "auto" else method
    mean, squares = np.empty((1, size), A.dtype), np.empty((1, size), A.dtype)
    with reporting(progress) as report:
        count = _core.diagonal(A.core, method, samples, block, seed, report, mean, squares)
    spread = np.sqrt(np.maximum(squares[0], 0) / (count * (count - 1))) if count > 1 else np.full_like(mean[0], np.inf)
    error = np.maximum(spread, _rounding(A) * np.abs(mean[0]).max())
    return Diagonal(mean[0], error, method, False, 2 * count if method == "xdiag" else count)


def _known(op: Any, A: SymmetricOperator, method: str, samples: int, block: int) -> Known | None:
    """The diagonal where it is to be exact: of one entry always, since no spread would tell how far it is off."""
    if A.shape[0] == 1:
        method = "exact"
    if method not in ("auto", "exact"):
        return None
    known = diagonal_without_products(op, A)
    if known is None and (method == "exact" or A.shape[0] <= samples):
        known = diagonal_by_all_products(A, block)
    return known


def _rounding(A: SymmetricOperator) -> float:
    """Relative, of each entry of a diagonal: sums of a few hundred products, measured at 1 eps and below."""
    return float(8 * np.finfo(A.dtype).eps)
