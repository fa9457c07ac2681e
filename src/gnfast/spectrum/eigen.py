"""Eigenpairs at one end of a spectrum."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from gnfast import _checks, _core
from gnfast._arrays import Array
from gnfast.operators import Dual, SymmetricOperator
from gnfast.spectrum import matrices


class ConvergenceWarning(UserWarning):
    """An eigensolver stopped before its tolerance was met."""

    __module__ = "gnfast"


class EigenInfo(NamedTuple):
    """How an eigenvalue computation went.

    Attributes:
        residuals: |A y - lambda y| of each pair, y of norm one: an eigenvalue lies that near.
        products: Vectors multiplied by the operator.
        converged: Whether the tolerance was met.
        reason: Why it stopped.
        method: "dense", "lanczos" or "davidson".
    """

    residuals: Array
    products: int
    converged: bool
    reason: str
    method: str


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
        tol: Relative accuracy of the eigenvalues, judged by residuals and gaps; None means 1e-10 for float64 and 1e-5
            for float32. Eigenvalues in a cluster tighter than their residuals are as accurate as these.
        seed: Of the starting block.
        return_info: Also return an `EigenInfo`.
        block_size: Vectors a product; None means max(4, k). An eigenvalue that is there more often than the block has
            vectors may be found that often only.
        max_products: Vectors multiplied before giving up; None means 100 + 20 N, at most a million.
        progress: True shows a line on stderr, a callable is called with (stage, done, total), total 0 if unknown.

    Returns:
        Eigenvalues (k,) ascending and eigenvectors (N, k) of the operator's dtype, and the `EigenInfo` if asked for.

    Raises:
        TypeError: Bad kinds or dtypes.
        ValueError: Bad arguments, a matrix that is not symmetric, NaN or infinity from a product.
        MemoryError: The matrix has to be formed and exceeds the operator's `memory_limit`.

    Warns:
        ConvergenceWarning: The tolerance was not met; the best pairs so far are returned, k at most.

    References:
        Golub & Underwood, "The block Lanczos method for computing eigenvalues", 1977; Wu & Simon, "Thick-restart
        Lanczos method for large symmetric eigenvalue problems", SIAM J. Matrix Anal. Appl. 2000; Stathopoulos & Saad,
        "Restarting techniques for the (Jacobi-)Davidson symmetric eigenvalue methods", ETNA 1998.
    """
    A = matrices.as_symmetric(op)
    size = A.shape[0]
    k = _checks.integer(k, "k", 1, size)
    which = _checks.choice(which, "which", ("LA", "SA"))
    method = _checks.choice(method, "method", ("auto", "dense", "lanczos", "davidson"))
    seed = _checks.integer(seed, "seed", 0)
    tol = tolerance(tol, A.dtype, double=1e-10, single=1e-5)
    block = min(max(4, k), size) if block_size is None else _checks.integer(block_size, "block_size", 1, size)
    limit = min(10**6, 100 + 20 * size) if max_products is None else _checks.integer(max_products, "max_products")
    return_info = _checks.boolean(return_info, "return_info")
    if method == "auto" and (size <= matrices.DENSE_SIZE or k > size // 4):
        method = "dense"
    preconditioner = A.preconditioner() if which == "SA" and method != "dense" and isinstance(A, Dual) else None
    if method == "auto":
        method = "lanczos" if preconditioner is None else "davidson"
    with reporting(progress) as report:
        if method == "dense":
            values, vectors, info = _dense(A, k, which, report)
        elif method == "lanczos":
            rows = np.zeros((k, size), A.dtype)
            basis = max(2 * k + 4 * block, 60)
            raw = _core.lanczos(A.core, rows, which == "LA", block, basis, limit, tol, 0.0, seed, report)
            values, vectors, info = _ascending(raw, rows, which, method)
        elif preconditioner is None:
            raise ValueError(
                "method is 'davidson', which needs which='SA' and a dual of gnfast whose preconditioner is not "
                "singular; use method='lanczos'"
            )
        else:
            norm = largest(A, 1, 0.1, seed, report)
            rows, block = np.zeros((k, size), A.dtype), max(block, k)
            raw = _core.davidson(
                A.core, preconditioner.core, rows, block, 10 * block, limit, tol, norm.value, seed, report
            )
            raw["products"] += norm.products
            values, vectors, info = _ascending(raw, rows, which, method)
    if not info.converged:
        warnings.warn(
            f"{method} stopped after {info.products} products with residuals up to {info.residuals.max():.1e}: "
            f"{info.reason}; the best pairs so far are returned",
            ConvergenceWarning,
            stacklevel=_checks.level_of_caller(),
        )
    return (values, vectors, info) if return_info else (values, vectors)


def _dense(A: SymmetricOperator, k: int, which: str, report: _core.Progress) -> tuple[Array, Array, EigenInfo]:
    K = A.new_square()
    products = A.form(K, report)
    first = A.shape[0] - k if which == "LA" else 0
    values, vectors = matrices.eigenpairs(K, first, first + k - 1)
    vectors = np.asfortranarray(vectors)
    residuals = np.linalg.norm(A.matmat(vectors) - vectors * values, axis=0)
    return values, vectors, EigenInfo(residuals, products + k, True, "the whole spectrum was computed", "dense")


def _ascending(raw: dict[str, Any], rows: Array, which: str, method: str) -> tuple[Array, Array, EigenInfo]:
    """The core's pairs, which start at the end that was asked for."""
    order = slice(None, None, -1) if which == "LA" else slice(None)
    values = np.array(raw["values"], rows.dtype)[order]
    residuals = np.array(raw["residuals"])[order]
    info = EigenInfo(residuals, raw["products"], raw["converged"], raw["reason"], method)
    return values, rows[: len(values)][order].T, info


# --------------------------------------------------------------------------------------------------- single ends
class End(NamedTuple):
    """One end of a spectrum: the eigenvalue, how near to it one is known to lie, vectors multiplied, how it went."""

    value: float
    residual: float
    products: int = 0
    converged: bool = True
    reason: str = ""

    @classmethod
    def of(cls, raw: dict[str, Any]) -> End:
        return cls(raw["values"][0], raw["residuals"][0], raw["products"], raw["converged"], raw["reason"])


def largest(A: SymmetricOperator, block: int, tol: float, seed: int, report: _core.Progress) -> End:
    """The largest eigenvalue by block Lanczos."""
    row = np.zeros((1, A.shape[0]), A.dtype)
    return End.of(_core.lanczos(A.core, row, True, min(block, A.shape[0]), 60, 20_000, tol, 0.0, seed, report))


# ------------------------------------------------------------------------------------------------------- arguments
def tolerance(tol: float | None, dtype: np.dtype[Any], double: float, single: float) -> float:
    if tol is None:
        return single if dtype == np.float32 else double
    number = _checks.real(tol, "tol")
    if number <= 0:
        raise ValueError(f"tol is {tol} but must be positive")
    return number


@contextlib.contextmanager
def reporting(progress: Any) -> Iterator[_core.Progress]:
    """The callback that the argument `progress` asks for."""
    if progress is None or progress is False:
        yield None
    elif progress is True:
        try:
            yield _print_line
        finally:
            print(file=sys.stderr)
    elif callable(progress):
        yield progress
    else:
        raise TypeError(f"progress is of type {type(progress).__name__} but must be True, None or a callable")


def _print_line(stage: str, done: float, total: float) -> None:
    share = f"{done / total:4.0%}" if total else f"{int(done)} products"
    print(f"\r{stage}: {share}   ", end="", file=sys.stderr, flush=True)
