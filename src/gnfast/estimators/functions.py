"""Traces of functions of an operator: the logarithm of a determinant and the effective dimension."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from gnfast import _checks, _core
from gnfast._arrays import Array
from gnfast.estimators.results import EffectiveDimension, LogDet
from gnfast.operators import SymmetricOperator
from gnfast.spectrum import matrices
from gnfast.spectrum.eigen import reporting
from gnfast.spectrum.quadrature import measure

METHODS = ("auto", "exact", "lanczos")


def logdet(
    op: Any,
    damping: float = 0.0,
    method: str = "auto",
    probes: int = 20,
    steps: int = 100,
    seed: int = 0,
    *,
    block_size: int | None = None,
    progress: Any = None,
) -> LogDet:
    """log det (A + damping I) of a symmetric operator, with its error.

    Of a GaussNewton it is taken in its dual K (N, N): log det (G + damping I) = log det (K + damping I)
    + (p - N) log damping, since G has p - N further eigenvalues zero.

    Args:
        op: A GaussNewton, or any symmetric operator, array or LinearOperator (N, N), float32 or float64.
        damping: At least 0; positive where the operator is singular, as a GaussNewton with p > N is.
        method: "exact" (Cholesky of the stored matrix), "lanczos" (stochastic Lanczos quadrature), or "auto": exact
            for up to 800 unknowns.
        probes: Random vectors, all multiplied at once; the error falls like 1 / sqrt(probes).
        steps: Lanczos steps for each, at most N. A wide spectrum without damping needs many.
        seed: Of the probes; the same whatever the block size.
        block_size: Probes that advance together; None means at most 32.
        progress: True shows a line on stderr, a callable is called with (stage, done, total).

    Returns:
        A `LogDet` with `value`, `error`, `method`, `exact` and `products`. The error is one standard error over
        the probes together with what the second half of the steps changed.

    Raises:
        TypeError: Bad kinds or dtypes.
        ValueError: Bad arguments, or A + damping I is not positive definite.
        MemoryError: "exact", and the matrix exceeds the operator's `memory_limit`.

    References:
        Ubaru, Chen & Saad, "Fast estimation of tr(f(A)) via stochastic Lanczos quadrature", SIAM J. Matrix Anal.
        Appl. 2017.
    """
    space = space_of(op)
    damping = _checks.at_least_zero(damping, "damping")
    if space.nullity > 0 and damping == 0:
        raise ValueError(
            f"damping is 0 but op has {space.nullity:,} eigenvalues zero; pass a positive damping, or op.dual()"
        )
    beyond = space.nullity * math.log(damping) if space.nullity else 0.0
    A = space.operator
    if _is_exact(A, method):
        K = _damped(A, damping)
        if _core.cholesky(K) != 0:
            raise ValueError(_NOT_POSITIVE)
        logs = 2 * np.log(K.diagonal().astype(np.float64))
        # What rounding does to a pivot, relative to it, is the absolute error of its logarithm.
        relative = 8 * float(np.finfo(A.dtype).eps) * float(np.exp(logs.max() - logs).mean())
        return LogDet(float(logs.sum()) + beyond, relative * len(logs), "exact: Cholesky", True, 0)

    def logarithm(nodes: Array) -> Array:
        if nodes.min() + damping <= 0:
            raise ValueError(_NOT_POSITIVE)
        return np.log(nodes + damping)

    value, error, products = _by_quadrature(A, logarithm, probes, steps, seed, block_size, progress)
    return LogDet(value + beyond, error, "stochastic Lanczos quadrature", False, products)


def effective_dimension(
    op: Any,
    damping: float,
    method: str = "auto",
    probes: int = 20,
    steps: int = 100,
    seed: int = 0,
    *,
    block_size: int | None = None,
    progress: Any = None,
) -> EffectiveDimension:
    """tr A (A + damping I)^-1 of a positive semi-definite operator: how many directions rise above the damping.

    Of a GaussNewton it is taken in its dual, which has the same non-zero eigenvalues.

    Args:
        op: A GaussNewton, or any symmetric operator, array or LinearOperator (N, N), float32 or float64.
        damping: Positive.
        method: "exact" (all eigenvalues of the stored matrix), "lanczos", or "auto": exact for up to 800 unknowns.
        probes, steps, seed, block_size, progress: As in `logdet`.

    Returns:
        An `EffectiveDimension` with `value`, `error`, `method`, `exact` and `products`.

    Raises:
        TypeError: Bad kinds or dtypes.
        ValueError: Bad arguments, or negative eigenvalues.
        MemoryError: "exact", and the matrix exceeds the operator's `memory_limit`.

    References:
        MacKay, "Bayesian interpolation", Neural Computation 1992; Ubaru, Chen & Saad, 2017.
    """
    A = space_of(op).operator
    damping = _checks.positive(damping, "damping")
    if _is_exact(A, method):
        values = np.maximum(matrices.semidefinite_eigenvalues(_damped(A, 0.0)).astype(np.float64), 0)
        # An eigenvalue moved by r moves its share by r damping / (value + damping)^2.
        slope = matrices.rounding(float(values[-1]), A.dtype) * float(np.sum(damping / (values + damping) ** 2))
        shares = values / (values + damping)
        return EffectiveDimension(float(shares.sum()), slope, "exact: whole spectrum by LAPACK", True, 0)

    def share(nodes: Array) -> Array:
        if nodes.min() < -10 * matrices.zero_cut(float(np.abs(nodes).max()), A.shape[0], A.dtype):
            raise ValueError(f"op has the eigenvalue {nodes.min():.3g} or one below but must be positive semi-definite")
        positive = np.maximum(nodes, 0)
        return positive / (positive + damping)

    value, error, products = _by_quadrature(A, share, probes, steps, seed, block_size, progress)
    return EffectiveDimension(value, error, "stochastic Lanczos quadrature", False, products)


# ----------------------------------------------------------------------------------------------------------- steps
_NOT_POSITIVE = "op + damping I is not positive definite; pass a larger damping"


class Space(NamedTuple):
    """Where a spectrum is looked at, and how many eigenvalues zero the operator has beside it."""

    operator: SymmetricOperator
    nullity: int


def space_of(op: Any) -> Space:
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


def _damped(A: SymmetricOperator, damping: float) -> Array:
    K = A.new_square()
    A.form(K)
    matrices.check_finite(K)
    K.reshape(-1)[:: len(K) + 1] += damping
    return K


def _by_quadrature(
    A: SymmetricOperator,
    f: Callable[[Array], Array],
    probes: int,
    steps: int,
    seed: int,
    block_size: int | None,
    progress: Any,
) -> tuple[float, float, int]:
    probes, steps = _checks.integer(probes, "probes", 2), _checks.integer(steps, "steps")
    seed = _checks.integer(seed, "seed", 0)
    with reporting(progress) as report:
        found = measure(A, probes, steps, seed, block_size, report)
    mean, error = found.mean(f)
    return A.shape[0] * mean, A.shape[0] * error, found.products
