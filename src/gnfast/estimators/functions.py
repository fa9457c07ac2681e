"""Traces of functions of an operator: the logarithm of a determinant and the effective dimension."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np

from gnfast import _arrays, _checks, thresholds
from gnfast._arrays import Array
from gnfast.estimators.results import EffectiveDimension, LogDet
from gnfast.operators import SymmetricOperator
from gnfast.spectrum import matrices
from gnfast.spectrum.eigen import ConvergenceWarning, reporting
from gnfast.spectrum.quadrature import Measure, measure, stored_where_cheaper

FunctionMethod: TypeAlias = Literal["auto", "exact", "lanczos"]
METHODS: tuple[str, ...] = get_args(FunctionMethod)


def logdet(
    op: Any,
    damping: float = 0.0,
    method: FunctionMethod | str = "auto",
    probes: int = 20,
    steps: int = 100,
    seed: _checks.Seed = 0,
    *,
    tol: float | None = None,
    max_products: int | None = None,
    block_size: int | None = None,
    progress: Any = None,
    precision: Any = None,
) -> LogDet:
    """log det (A + damping I) of a symmetric operator, with its error.

    Of a GaussNewton it is taken in its dual K (N, N): log det (G + damping I) = log det (K + damping I)
    + (p - N) log damping, since G has p - N further eigenvalues zero.

    Args:
        op: A GaussNewton, or any symmetric operator, array or LinearOperator (N, N), float32 or float64; of a function
            `gnfast.operator` makes one.
        damping: At least 0; positive where the operator is singular, as a GaussNewton with p > N is.
        method: "exact" (Cholesky of the stored matrix), "lanczos" (stochastic Lanczos quadrature), or "auto": exact
            for up to 800 unknowns.
        probes: Random vectors, all multiplied at once; the error falls like 1 / sqrt(probes).
        steps: Lanczos steps for each, at most N. A wide spectrum without damping needs many.
        seed: For the probes, as in `gnfast.eigsh`; they are the same whatever the block size.
        tol: Relative error asked for: more probes are drawn until the estimate's own error is no larger.
        max_products: Vectors multiplied before giving up on `tol`; None means N, or 100 * probes * steps if that is
            fewer, and a first round in any case.
        block_size: Probes that advance together; None means at most 32.
        progress: True shows a line on stderr, a callable is called with (stage, done, total).
        precision: None or "float64", as in `gnfast.eigsh`.

    Returns:
        A `LogDet` with `value`, `error`, `method`, `exact`, `products` and `converged`. The error is that over the
        probes and half of the distance between two quadratures that have the logarithm between them: it is large where
        the steps do not resolve the eigenvalues that matter.

    Raises:
        TypeError: Bad kinds or dtypes.
        ValueError: Bad arguments, or A + damping I is not positive definite.
        MemoryError: "exact", and the matrix exceeds the operator's `memory_limit`.

    Warns:
        ConvergenceWarning: `tol` was not met.

    References:
        Ubaru, Chen & Saad, "Fast estimation of tr(f(A)) via stochastic Lanczos quadrature", SIAM J. Matrix Anal.
        Appl. 2017; Golub & Meurant, "Matrices, moments and quadrature", 1993.

    Examples:
        >>> import numpy as np
        >>> import gnfast as gn
        >>> A = np.diag([1.0, 2.0, 3.0])
        >>> bool(np.isclose(gn.logdet(A, damping=1.0).value, np.log(2 * 3 * 4)))
        True
    """
    space = space_of(op)
    damping = _checks.at_least_zero(damping, "damping")
    if space.nullity > 0 and damping == 0:
        raise ValueError(
            f"damping is 0 but op has {space.nullity:,} eigenvalues zero; pass a positive damping, or op.dual()"
        )
    beyond = space.nullity * math.log(damping) if space.nullity else 0.0
    A, draws = (
        space.operator,
        Draws(probes, steps, _checks.seed(seed), tol, max_products, block_size, progress, precision),
    )
    if _is_exact(A, method):
        K = _damped(A, damping, precision)
        if A.device.core.cholesky(K) != 0:
            raise ValueError(_NOT_POSITIVE)
        logs = 2 * np.log(_arrays.to_host(K.diagonal()).astype(np.float64))
        # What rounding does to a pivot, relative to it, is the absolute error of its logarithm.
        relative = thresholds.rounding_error(float(np.exp(logs.max() - logs).mean()), A.dtype)
        return LogDet(float(logs.sum()) + beyond, relative * len(logs), "exact: Cholesky", True, 0)

    def bracket(found: Measure) -> tuple[float, float, float]:
        low, high = float(found.nodes.min()), float(found.nodes.max())
        if low + damping <= 0:
            raise ValueError(_NOT_POSITIVE)
        doubt = thresholds.rounding_error(max(high, -low), A.dtype)
        # Where an eigenvalue below zero was seen, all that is known of the others is that op + damping I is positive.
        end = 0.0 if low > -doubt else -damping
        least = doubt * float(np.finfo(np.float64).eps)

        def below(x: Array) -> Array:
            return np.asarray(np.log(np.maximum(np.maximum(x - doubt, end) + damping, least)))

        def above(x: Array) -> Array:
            return np.asarray(np.log(x + doubt + damping))

        return found.bracket(below, above, min(end, low) - doubt)

    return LogDet(*_by_quadrature(A, bracket, beyond, draws))


def effective_dimension(
    op: Any,
    damping: float,
    method: FunctionMethod | str = "auto",
    probes: int = 20,
    steps: int = 100,
    seed: _checks.Seed = 0,
    *,
    tol: float | None = None,
    max_products: int | None = None,
    block_size: int | None = None,
    progress: Any = None,
    precision: Any = None,
) -> EffectiveDimension:
    """tr A (A + damping I)^-1 of a positive semi-definite operator: how many directions rise above the damping.

    Of a GaussNewton it is taken in its dual, which has the same non-zero eigenvalues.

    Args:
        op: A GaussNewton, or any symmetric operator, array or LinearOperator (N, N), float32 or float64; of a function
            `gnfast.operator` makes one.
        damping: Positive.
        method: "exact" (all eigenvalues of the stored matrix), "lanczos", or "auto": exact for up to 800 unknowns.
        probes, steps, seed, tol, max_products, block_size, progress, precision: As in `logdet`.

    Returns:
        An `EffectiveDimension` with `value`, `error`, `method`, `exact`, `products` and `converged`.

    Raises:
        TypeError: Bad kinds or dtypes.
        ValueError: Bad arguments, or negative eigenvalues.
        MemoryError: "exact", and the matrix exceeds the operator's `memory_limit`.

    Warns:
        ConvergenceWarning: `tol` was not met.

    References:
        MacKay, "Bayesian interpolation", Neural Computation 1992; Ubaru, Chen & Saad, 2017.

    Examples:
        >>> import numpy as np
        >>> import gnfast as gn
        >>> A = np.diag([100.0, 100.0, 1e-4])
        >>> round(gn.effective_dimension(A, damping=1.0).value, 2)
        1.98
    """
    A, draws = (
        space_of(op).operator,
        Draws(probes, steps, _checks.seed(seed), tol, max_products, block_size, progress, precision),
    )
    damping = _checks.positive(damping, "damping")
    if _is_exact(A, method):
        values = np.maximum(
            matrices.semidefinite_eigenvalues(_damped(A, 0.0, precision), A.dtype).astype(np.float64), 0
        )
        # An eigenvalue moved by r moves its share by r damping / (value + damping)^2.
        slope = thresholds.rounding_error(float(values[-1]), A.dtype) * float(
            np.sum(damping / (values + damping) / (values + damping))
        )
        shares = values / (values + damping)
        return EffectiveDimension(float(shares.sum()), slope, "exact: whole spectrum by LAPACK", True, 0)

    def share(x: Array) -> Array:
        positive = np.maximum(x, 0)
        return np.asarray(positive / (positive + damping))

    def bracket(found: Measure) -> tuple[float, float, float]:
        low, high = float(found.nodes.min()), float(found.nodes.max())
        if low < -10 * thresholds.zero_threshold(max(high, -low), A.shape[0], A.dtype):
            raise ValueError(f"op has the eigenvalue {low:.3g} or one below but must be positive semi-definite")
        doubt = thresholds.rounding_error(max(high, -low), A.dtype)
        return found.bracket(lambda x: share(x - doubt), lambda x: share(x + doubt), min(low, 0.0) - doubt)

    return EffectiveDimension(*_by_quadrature(A, bracket, 0.0, draws))


# ----------------------------------------------------------------------------------------------------------- steps
_NOT_POSITIVE = "op + damping I is not positive definite; pass a larger damping"


class Space(NamedTuple):
    """The operator whose spectrum is looked at, and how many eigenvalues zero there are beside it."""

    operator: SymmetricOperator
    nullity: int


def space_of(op: Any) -> Space:
    """The dual of an operator, and how many zeros its own spectrum has besides."""
    A = matrices.as_symmetric(op)
    dual = A.dual()
    return Space(dual, A.shape[0] - dual.shape[0])


def _is_exact(A: SymmetricOperator, method: str) -> bool:
    method = _checks.choice(method, "method", METHODS)
    if method == "exact" and A.shape[0] > matrices.STORED_SIZE:
        raise ValueError(
            f"method is 'exact' but op is {A.shape[0]} x {A.shape[0]}, and its matrix is stored for up to "
            f"{matrices.STORED_SIZE} only; use method='lanczos'"
        )
    return method == "exact" or (method == "auto" and A.shape[0] <= matrices.DENSE_SIZE and A.fits_in_memory)


def _damped(A: SymmetricOperator, damping: float, precision: Any) -> Array:
    work = matrices.in_precision(A, precision)
    K = work.new_square()
    work.form(K)
    matrices.check_finite(K)
    K.reshape(-1)[:: len(K) + 1] += damping
    return K


class Draws(NamedTuple):
    """The arguments of a quadrature, as they were given."""

    probes: int
    steps: int
    seed: int
    tol: float | None
    max_products: int | None
    block_size: int | None
    progress: Any
    precision: Any


def _by_quadrature(
    A: SymmetricOperator, bracket: Callable[[Measure], tuple[float, float, float]], beyond: float, draws: Draws
) -> tuple[float, float, str, bool, int, bool]:
    """tr f(A) + beyond, as the fields of an `Estimate`: all probes at once, and more of them until `tol` is met."""
    probes, steps = _checks.integer(draws.probes, "probes", 2), _checks.integer(draws.steps, "steps")
    seed, size, method = draws.seed, A.shape[0], "stochastic Lanczos quadrature"
    tol = 0.0 if draws.tol is None else _checks.positive(draws.tol, "tol")
    limit = min(size, 100 * probes * steps)
    if draws.max_products is not None:
        limit = _checks.integer(draws.max_products, "max_products")
    with reporting(draws.progress) as report:
        A = stored_where_cheaper(A, probes * min(steps, size), report)
        found = measure(A, probes, steps, seed, draws.block_size, report, draws.precision)
        while True:
            mean, spread, drift = (size * part for part in bracket(found))
            value, error, count = mean + beyond, spread + drift, len(found.nodes)
            allowed = tol * abs(value)
            if not tol or error <= allowed:
                return value, error, method, False, found.products, True
            # As many more as the spread asks for: at most three times as many, since it is itself an estimate.
            wanted = count * ((spread / (allowed - drift)) ** 2 - 1) if drift < allowed else 0
            more = min(3 * count, math.ceil(1.1 * wanted), (limit - found.products) // min(steps, size))
            if more < 1:
                break
            found = found.joined(measure(A, more, steps, seed, draws.block_size, report, draws.precision, first=count))
    cure = "max_products" if drift < allowed else "steps"
    warnings.warn(
        f"{method} stopped after {found.products} products with error {error:.2g} of {value:.6g}, above tol {tol:g}; "
        f"raise {cure}",
        ConvergenceWarning,
        stacklevel=_checks.level_of_caller(),
    )
    return value, error, method, False, found.products, False
