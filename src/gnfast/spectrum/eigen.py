"""Eigenpairs at the ends of a spectrum."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from gnfast import _arrays, _checks, _core, thresholds
from gnfast._arrays import Array
from gnfast.operators import SymmetricOperator
from gnfast.spectrum import matrices, methods, spaces
from gnfast.spectrum.methods import METHODS, EigenInfo, End, Pairs, largest
from gnfast.spectrum.progress import reporting
from gnfast.spectrum.task import Task

__all__ = ["ConvergenceWarning", "EigenInfo", "End", "eigsh", "largest", "reporting", "tolerance"]

Which: TypeAlias = Literal["LA", "SA", "BE"]
TWO_DIGITS = 0.01  # of a value: what is known less well is not called converged


class ConvergenceWarning(UserWarning):
    """An eigensolver stopped before its tolerance was met."""

    __module__ = "gnfast"


def eigsh(
    op: Any,
    k: int = 6,
    which: Which | str = "LA",
    method: methods.EigenMethod | str = "auto",
    tol: float | None = None,
    seed: _checks.Seed = 0,
    return_info: bool = False,
    *,
    block_size: int | None = None,
    max_products: int | None = None,
    v0: Any = None,
    checkpoint: Any = None,
    progress: Any = None,
    return_eigenvectors: bool = True,
    precision: Any = None,
    sigma: Any = None,
) -> Any:
    """A few eigenpairs at one end of the spectrum of a symmetric operator, or at both.

    Args:
        op: An operator of gnfast, any SciPy LinearOperator, or a symmetric array, (N, N), float32 or float64; of a
            function `gnfast.operator` makes one.
        k: Eigenpairs, 1 to N.
        which: "LA", the largest, "SA", the smallest, or "BE", k // 2 from the lower end and the rest from the upper.
        method: "auto", or

            - "dense": LAPACK, the matrix is formed;
            - "lanczos": blocks, full reorthogonalisation, thick restart;
            - "krylov": the same from a random block wider than k, for a quick top (LA, BE);
            - "nystrom": a one-pass randomized sketch of a positive semi-definite operator, then Krylov steps from it
              until `tol` is met; max_products < 2 (k + 10) leaves it at the sketch, whose residuals are not known (LA);
            - "davidson": block Davidson, at the low end with a dual's own preconditioner (LA, SA);
            - "lobpcg": the same with the shortest basis, which takes the least memory (LA, SA);
            - "inverse": Lanczos with the inverse of a positive semi-definite operator (SA): by a Cholesky factorisation
              of the matrix, formed, where that is within `memory_limit` and has 20,000 unknowns at most, else
            - "inverse-cg": by conjugate gradients, with a dual's own preconditioner, and products alone (SA).

            "auto" takes LAPACK for small matrices, the inverse for the low end of a stored one, Davidson where there
            is a preconditioner, the inverse by conjugate gradients where there is none and the matrix may not be
            stored, else Lanczos; at a low end that is not reached by N / 4 products the matrix is formed. The top of a
            `GaussNewton` is sought in the cheapest of the three spaces that have it, and its eigenvectors are lifted to
            parameters.
        tol: Relative accuracy of the eigenvalues, judged by residuals and gaps; None means 1e-10 for float64 and 1e-5
            for float32. Eigenvalues in a cluster tighter than their residuals are as accurate as these, and none is
            more accurate than rounding, 8 eps |A|. A tolerance below the dtype's is never called met, nor is any where
            rounding leaves less than two digits: of values below 1e-4 |A| in float32 and 2e-13 |A| in float64, beside a
            large outlier say. What is zero up to rounding, at most 8 eps |A|, is right as a zero.
        seed: For the starting block: an integer from 0 to 2^64 - 1, or a `numpy.random.Generator`, of which one number
            is taken.
        return_info: Also return an `EigenInfo`.
        block_size: Vectors a product; None means 2 where products are compute-bound, else 4 to 6 with k, or what the
            method needs. Where a cluster among the values is as wide as the block, a look follows whether there are
            more of them, and a search with a wider block if so.
        max_products: Vectors multiplied before giving up; None means 100 + 20 N, at most a million.
        v0: (N,) or (N, b): vectors to start from, say the eigenvectors of a neighbouring problem; widens the block to
            b. None starts from random ones. Those of a `GaussNewton` are taken to the space that is searched. LAPACK
            has no use for it.
        checkpoint: A path: the state is written there every few seconds, between two block steps, and a call with the
            same problem goes on from it; removed at the end of the search. Not for "dense" and "nystrom".
        progress: True shows a line on stderr with the residual, a callable is called with (stage, done, total), total 0
            if unknown; stage is a str whose attribute `residual` is the largest residual of the pairs, or None.
        return_eigenvectors: False leaves the eigenvectors out, and the lifting of a dual's with them.
        precision: "float64": all but the products with an operator in float32 is done in float64; these stay in
            float32, and nothing is claimed that float32 does not resolve. None means the operator's dtype.
        sigma: Must be None: eigenvalues inside of the spectrum are SciPy's to find.

    Returns:
        Eigenvalues (k,) ascending and eigenvectors (N, k) of the operator's dtype, or `precision`, and the `EigenInfo`
        if asked for: a tuple of those asked for, or the eigenvalues alone. The eigenvectors are where the operator is.

    Raises:
        TypeError: Bad kinds or dtypes.
        ValueError: Bad arguments, a matrix that is not symmetric, NaN or infinity from a product, a checkpoint that is
            damaged or of another search, a negative eigenvalue met by an inverse.
        MemoryError: The matrix has to be formed and exceeds the operator's `memory_limit`.
        KeyboardInterrupt: Ctrl-C before there is anything to return.

    Warns:
        ConvergenceWarning: The tolerance was not met, products show that the operator changes or is not symmetric, or
            the search was interrupted (Ctrl-C, or a progress callback that raises KeyboardInterrupt); the best pairs
            so far are returned, k at most, with their residuals.

    References:
        Golub & Underwood, "The block Lanczos method for computing eigenvalues", 1977; Wu & Simon, "Thick-restart
        Lanczos method for large symmetric eigenvalue problems", SIAM J. Matrix Anal. Appl. 2000; Musco & Musco,
        "Randomized block Krylov methods for stronger and faster approximate singular value decomposition", NeurIPS
        2015; Frangella, Tropp & Udell, "Randomized Nystrom preconditioning", SIAM J. Matrix Anal. Appl. 2023;
        Stathopoulos & Saad, "Restarting techniques for the (Jacobi-)Davidson symmetric eigenvalue methods", ETNA 1998;
        Knyazev, "Toward the optimal preconditioned eigensolver", SIAM J. Sci. Comput. 2001.

    Examples:
        >>> import numpy as np
        >>> import gnfast as gn
        >>> G = gn.GaussNewton(gn.mlp([64, 32, 10], seed=0), gn.datasets.digits()[0][:20])
        >>> values, vectors = gn.eigsh(G, k=3)  # ascending; vectors in parameters
        >>> values.shape, vectors.shape
        ((3,), (2368, 3))
        >>> bool(abs(G @ vectors - vectors * values).max() < 1e-5 * values.max())
        True
    """
    A = matrices.as_symmetric(op)
    size = A.shape[0]
    k = _checks.integer(k, "k", 1, size)
    which = _end(which, sigma)
    method = _checks.choice(method, "method", METHODS)
    _check_method(method, which)
    return_info = _checks.boolean(return_info, "return_info")
    return_eigenvectors = _checks.boolean(return_eigenvectors, "return_eigenvectors")
    task = Task(
        A,
        k,
        which,
        tolerance(tol, A.dtype, double=1e-10, single=1e-5),
        None if block_size is None else _checks.integer(block_size, "block_size", 1, size),
        min(10**6, 100 + 20 * size) if max_products is None else _checks.integer(max_products, "max_products"),
        _start(v0, A, block_size, matrices.in_precision(A, precision).dtype),
        _checks.seed(seed),
        None,
        checkpoint,
        precision,
    )
    if checkpoint is not None and method in ("dense", "nystrom"):
        raise ValueError(f"method {method!r} keeps no checkpoint; use method='lanczos' or leave checkpoint out")
    with reporting(progress) as report:
        task.report = report
        values, vectors, info = _in_units(task, method, return_eigenvectors)
    if len(values) == 0:
        if info.interrupted:
            raise KeyboardInterrupt
        raise ValueError(
            "the operator is zero up to rounding, so that a sketch of it finds nothing; use method='lanczos'"
        )
    if info.converged and (doubt := _lost_in_rounding(task, values, info)):
        info = info._replace(converged=False, reason=doubt)
    if not info.converged:
        how = "was interrupted" if info.interrupted else "stopped"
        warnings.warn(
            f"{info.method} {how} after {info.products} products with residuals from {info.residuals.min():.1e} to "
            f"{info.residuals.max():.1e}: {info.reason}; the best pairs so far are returned",
            ConvergenceWarning,
            stacklevel=_checks.level_of_caller(),
        )
    if relative := A.relative_rounding():
        doubt = relative * np.abs(_arrays.to_host(values).astype(float))
        info = info._replace(intervals=info.intervals + np.stack([-doubt, doubt], axis=1))
    A.warn_of_underflow("the eigenvalues underflow", info.norm, _arrays.vanishing(A.dtype))
    found = (values, *([vectors] if return_eigenvectors else []), *([info] if return_info else []))
    return found if len(found) > 1 else values


def _end(which: Any, sigma: Any) -> str:
    """Which end is meant; what SciPy calls otherwise is refused with our name for it."""
    if sigma is not None:
        raise ValueError(
            f"sigma is {sigma!r} but must be None: the eigenvalues nearest to 0 of a positive semi-definite matrix are "
            "which='SA', method='inverse'; for those inside of a spectrum take scipy.sparse.linalg.eigsh of the matrix "
            "as an array"
        )
    names = {
        "LM": "the largest in magnitude are 'LA' of a positive semi-definite matrix; of another they are among the 2 k "
        "of 'BE'",
        "SM": "the smallest in magnitude are 'SA' of a positive semi-definite matrix; of another take "
        "scipy.sparse.linalg.eigsh of the matrix as an array, with sigma=0",
    }
    if isinstance(which, str) and which in names:
        raise ValueError(f"which is {which!r} but must be one of 'LA', 'SA', 'BE': {names[which]}")
    return _checks.choice(which, "which", get_args(Which))


def _check_method(method: str, which: str) -> None:
    allowed = {"krylov": ("LA", "BE"), "nystrom": ("LA",), "inverse": ("SA",), "inverse-cg": ("SA",)}
    allowed |= dict.fromkeys(("davidson", "lobpcg"), ("LA", "SA"))
    if which not in allowed.get(method, (which,)):
        ends = " or ".join(f"which={end!r}" for end in allowed[method])
        raise ValueError(f"method is {method!r}, which needs {ends}, not {which!r}; use method='lanczos'")


def _start(v0: Any, A: SymmetricOperator, block_size: int | None, dtype: np.dtype[Any]) -> Array | None:
    if v0 is None:
        return None
    found = _arrays.as_array(v0, "v0", A.device, "the operator")
    rows = found[:, None] if found.ndim == 1 else found
    if rows.ndim != 2 or rows.shape[0] != A.shape[0] or not 1 <= rows.shape[1] <= A.shape[0]:
        raise ValueError(f"v0 has shape {found.shape} but must be ({A.shape[0]},) or ({A.shape[0]}, b), b at most N")
    if block_size is not None and rows.shape[1] > block_size:
        raise ValueError(
            f"v0 has {rows.shape[1]} vectors but block_size is {block_size}; raise it or pass fewer vectors"
        )
    given = dtype if found.dtype == dtype else A.dtype
    return _checks.array(rows.T, "v0", ("b", "N"), given, "the operator", A.device).astype(dtype, copy=False)


def _lost_in_rounding(task: Task, values: Array, info: EigenInfo) -> str:
    """Which values have too few digits left by rounding of |A|, in words; empty where none has.

    One within rounding of zero is an answer: the matrix is singular to the dtype.
    """
    dtype, size = task.A.dtype, np.abs(_arrays.to_host(values).astype(float))
    rounding = thresholds.rounding_error(info.norm, dtype)
    lost = (rounding > max(task.tol, TWO_DIGITS) * size) & (size > rounding)
    if not lost.any():
        return ""
    cure = "; pass the operator in float64" if dtype == np.float32 else ""
    return (
        f"{np.count_nonzero(lost)} of {len(size)} eigenvalues, {size[lost].max():.2g} at most, are known to "
        f"{rounding:.1e} only, what rounding in {dtype} leaves beside |A| = {info.norm:.2g}{cure}"
    )


def _in_units(task: Task, method: str, with_vectors: bool) -> Pairs:
    """The pairs of A, or of a power of two times A where its size is none whose squares the dtype holds.

    What a search finds tells the size: one of an ordinary operator costs nothing more. One whose squares are lost ends
    at once, with residuals of zero or with infinite products.
    """

    def found(task: Task) -> Pairs:
        return _in_best_space(task, with_vectors) if method == "auto" else _solve(task, method)

    units, pairs, size = matrices.InUnits(task.A), None, task.A.size_seen
    doubtful = task.path is not None or not (size is None or matrices.is_ordinary(size, task.A.dtype))
    if not doubtful or not units.settled():  # of a checkpoint there is one search only
        try:
            pairs = found(task)
        except _core.NonFiniteError:
            if not units.settled():
                raise
    if pairs is not None and (
        matrices.is_ordinary(pairs.info.norm, task.A.dtype)
        or task.A.saturation()  # digits are lost within the products, which is said
        or not units.settled()
    ):
        return pairs
    pairs = found(replace(task, A=units))
    out_of, info = units.out_of, pairs.info
    scaled = {name: out_of(getattr(info, name)) for name in ("residuals", "intervals", "norm")}
    return Pairs(out_of(pairs.values), pairs.vectors, info._replace(**scaled))


def _in_best_space(task: Task, with_vectors: bool) -> Pairs:
    """The top of a Gauss-Newton matrix by a dual where that is cheaper; else the operator itself."""
    dual = task.A.dual_for_largest(task.k, matrices.DENSE_SIZE) if task.which == "LA" else None
    if dual is None:
        return _solve_auto(task)
    start = task.start
    if start is not None:
        start = dual.restrict(start[: dual.shape[0]].astype(dual.dtype, copy=False)).astype(start.dtype, copy=False)
    found = _solve_auto(replace(task, A=dual, block=task.block and min(task.block, dual.shape[0]), start=start))
    pairs = spaces.lifted(dual, found, with_vectors)
    if pairs is None and found.info.converged:
        return _solve(
            task, "lanczos"
        )  # eigenvalue zero is among them: what belongs to it has to be sought in parameters
    return Pairs(found.values[:0], found.vectors[:0], found.info) if pairs is None else pairs


def _solve_auto(task: Task) -> Pairs:
    method = _method_for(task)
    if method == "inverse":
        return methods.inverse(task) or methods.lanczos(task)
    if method == "inverse-cg":
        return methods.inverse_cg(task) or methods.lanczos(task)
    return _low_end(task) if method == "by cost" else _solve(task, method)


def _low_end(task: Task) -> Pairs:
    """Lanczos, and from a quarter of the products that form the matrix on, its inverse.

    How many products Lanczos needs at the low end depends on the spectrum: hundreds to hundreds of N. Whoever forms the
    matrix, by N products in wide blocks, once about as much was spent in narrow ones, spends at most twice what the
    better of the two ways takes.
    """
    first = task.size // 4
    if task.limit < first + task.size:
        return methods.lanczos(task)
    quick = methods.lanczos(replace(task, limit=first))
    if quick.info.converged or quick.info.interrupted:
        return quick
    rest = replace(task, limit=task.limit - quick.info.products)
    found = methods.inverse(rest) or methods.lanczos(rest)
    products, passes = found.info.products + quick.info.products, found.info.passes + quick.info.passes
    return found._replace(info=found.info._replace(products=products, passes=passes))


def _method_for(task: Task) -> str:
    size, stored = task.size, task.A.stored
    plain = task.path is None and task.start is None and task.A.fits_in_memory
    if plain and (size <= matrices.DENSE_SIZE or (task.k > size // 4 and size <= matrices.STORED_SIZE)):
        return "dense"
    if task.which != "SA":
        return "lanczos"
    if stored and task.storable:
        return "inverse"
    if task.preconditioner is not None:
        return "davidson"
    if task.A.space == "parameters":
        return "lanczos"  # most of the spectrum is zero there, and any search is there at once
    if not task.storable:
        return "inverse-cg"
    return "lanczos" if task.path is not None else "by cost"


def _solve(task: Task, method: str) -> Pairs:
    if method == "dense":
        return methods.dense(task)
    if method == "nystrom":
        return methods.nystrom(task)
    if method in ("davidson", "lobpcg"):
        return methods.davidson(task, method)
    if method in ("inverse", "inverse-cg"):
        by_factor = method == "inverse" and task.storable
        found = methods.inverse(task) if by_factor else methods.inverse_cg(task)
        if found is None:
            raise ValueError(
                f"method is {method!r} but the matrix has negative eigenvalues, so that the low end is not the top of "
                "the inverse; use method='lanczos'"
            )
        return found
    return methods.lanczos(task, method)


# ------------------------------------------------------------------------------------------------------- arguments
def tolerance(tol: float | None, dtype: np.dtype[Any], double: float, single: float) -> float:
    """The tolerance that is meant: `tol` if given, else the default of the dtype."""
    if tol is None:
        return max(single, _arrays.eps(dtype)) if dtype == np.float32 else double
    number = _checks.real(tol, "tol")
    if number <= 0:
        raise ValueError(f"tol is {tol} but must be positive")
    return number
