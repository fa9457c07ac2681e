"""The condition number of the non-zero spectrum, as an interval."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

from gnfast import _checks, thresholds
from gnfast._results import Number
from gnfast.operators import SymmetricOperator
from gnfast.spectrum import matrices
from gnfast.spectrum.certificates import FAILURE
from gnfast.spectrum.eigen import reporting, tolerance
from gnfast.spectrum.routes import Found, Search, VanishingError


@dataclass(frozen=True, eq=False, repr=False)
class Condition(Number):
    """The condition number of the non-zero spectrum, as an interval with its reasons.

    It converts, compares and formats (`f"{found:.3g}"`) as its value.

    Attributes:
        value: lambda_max / lambda_min.
        lower, upper: kappa lies between them: `lower` from Ritz values, which lie inside the spectrum, `upper` by
            `upper_from`; both moved outwards by what rounding may have done.
        lambda_max, lambda_min: The largest and the smallest non-zero eigenvalue of G.
        rank: Non-zero eigenvalues; `dimension`: the size of the dual that was used.
        space: "parameters", "samples" or "linear map"; "given" for an operator of somebody else's.
        residuals: How near to lambda_max and to lambda_min an eigenvalue is known to lie: the norm of A y - lambda y, y
            of norm one, or of the inverse lambda^2 |A^-1 y - y / lambda|, or rounding where the spectrum is whole.
        upper_from: What limits kappa from above, and whether that is proven or estimated.
        cut: Eigenvalues up to it count as zero; 0 where the dual has full rank and nothing was cut. If they are not
            zero but too small for the dtype, kappa is lambda_max / cut at least: `upper_from` says so.
        products: Vectors multiplied by the dual or its inverse.
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

    def __str__(self) -> str:
        full = self.rank == self.dimension
        rank = "full rank" if full else f"rank {self.rank} of {self.dimension}, cut {self.cut:.1e}"
        lines = [
            f"kappa {self.value:.6g} in [{self.lower:.6g}, {self.upper:.6g}]",
            f"  lambda_max {self.lambda_max:.6g}, lambda_min {self.lambda_min:.6g}, {rank} ({self.space})",
            f"  lower end: Ritz values, residuals {self.residuals[0]:.1e} and {self.residuals[1]:.1e}",
            f"  upper end: {self.upper_from}",
            f"  {self.method}; {self.products} products, {self.seconds:.2f} s",
        ]
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])


def cond(
    G: Any,
    certify: bool = False,
    progress: Any = None,
    tol: float | None = None,
    seed: _checks.Seed = 0,
    *,
    precision: Any = None,
    preconditioner: Any = None,
    damping: float = 0.0,
) -> Condition:
    """The condition number of the non-zero spectrum, lambda_max / lambda_min, with an interval and its reasons.

    It is computed on the dual (`G.dual()`), whose smallest eigenvalue is the smallest non-zero one of G, never by
    cutting G's own null space away. Small duals: the whole spectrum by LAPACK. Linear duals, and others that
    `memory_limit` forbids to store: block Lanczos above, and below block Davidson with the wide-limit preconditioner.
    Others are stored: block Lanczos above, Cholesky factorisation and inverse iteration below. A singular dual is
    recognised and gives its rank, the cut, and the smallest eigenvalue above it. Where neither a proof nor an analytic
    bound limits it from above, the random starts of both searches do, but for a probability of 1e-6 each.

    With a preconditioner M it is that of D^(-1/2) G D^(-1/2), D = M + damping I, whose spectrum is that of D^-1 G: how
    much M mends. It is computed on T T^T or T^T T, T = R^T J D^(-1/2) / sqrt(n), whichever is smaller, by the same
    rules. Damping goes into M alone, G stays as it is; without damping M is inverted on its range.

    Args:
        G: A `GaussNewton`, one of its duals, or any symmetric positive semi-definite operator or array.
        certify: Prove both ends by inertia (two more Cholesky factorisations of the stored dual, widened by 10 `tol`).
        progress: True shows a line on stderr, a callable is called with (stage, done, total), total 0 if unknown.
        tol: Relative accuracy of both eigenvalues; None means 1e-9 for float64 and 1e-4 for float32.
        seed: For the starting blocks, as in `eigsh`.
        precision: None or "float64", as in `gnfast.eigsh`.
        preconditioner: Of a GaussNewton: "diagonal" (diag G), "block" (the blocks of its layers, `G.block`), "kfac"
            (`G.kfac()`), the diagonal of M as an array (p,), float32 or float64, or an object of
            `gnfast.protocol.Preconditioner`, such as `G.kfac()` of other samples.
        damping: Of the preconditioner, at least 0.

    Returns:
        A `Condition`.

    Raises:
        TypeError, ValueError: Bad arguments, a matrix that is zero, not symmetric or not positive semi-definite, a
            singular dual of more than 20,000 unknowns.
        MemoryError: The dual has to be stored and exceeds `memory_limit`.

    Warns:
        ConvergenceWarning: An end stopped before its tolerance was met.

    References:
        Zhao, Singh & Lucchi, "Theoretical characterisation of the Gauss-Newton conditioning in neural networks",
        NeurIPS 2024; Kuczynski & Wozniakowski, "Estimating the largest eigenvalue by the power and Lanczos algorithms
        with a random start", SIAM J. Matrix Anal. Appl. 1992.

    Examples:
        >>> import gnfast as gn
        >>> X = gn.datasets.digits()[0][:50]
        >>> kappa = gn.cond(gn.GaussNewton(gn.mlp([64, 256, 10], seed=0), X))
        >>> kappa.lower <= kappa.value <= kappa.upper, kappa.rank, kappa.space
        (True, 500, 'samples')
        >>> f"{kappa.value:.3g}"
        '4.81e+03'
    """
    start = time.perf_counter()
    A = _preconditioned(G, preconditioner, damping)
    tol = tolerance(tol, A.dtype, double=1e-9, single=1e-4)
    certify, seed = _checks.boolean(certify, "certify"), _checks.seed(seed)
    with reporting(progress) as report:
        search = Search(A, certify, tol, seed, report, precision, "G")
        try:
            found = search.run()
        except VanishingError as vanishing:
            A = vanishing.operator
            search = Search(A, certify, tol, seed, report, precision, "G")
            found = search.run()
            search.notes.append(
                f"found from 2^{A.exponent} times the matrix, whose entries are too small for {A.dtype}"
            )
    if preconditioner is not None:
        search.notes.append(f"of G preconditioned by {A.name}")
    top, low = found.largest, found.smallest
    value = max(top.value / low.value, 1.0)
    relative = A.relative_rounding()
    doubts = [_doubt(A, top.value, end.value) + relative * end.value for end in (top, low)]
    upper, source = _upper(A, found, *doubts, analytic=search.units.taken == 0)
    source += _what_was_cut(A, found)
    return Condition(
        value=value,
        lower=max((top.value - doubts[0]) / (low.value + doubts[1]), 1.0),
        upper=max(upper, value),
        lambda_max=math.ldexp(top.value, -A.exponent),
        lambda_min=math.ldexp(low.value, -A.exponent),
        rank=found.rank,
        dimension=A.shape[0],
        space=A.space,
        residuals=(math.ldexp(top.residual, -A.exponent), math.ldexp(low.residual, -A.exponent)),
        upper_from=source,
        cut=math.ldexp(found.cut, -A.exponent),
        products=top.products + low.products,
        method=found.method,
        seconds=time.perf_counter() - start,
        notes=tuple(search.notes),
    )


def _preconditioned(G: Any, preconditioner: Any, damping: float) -> SymmetricOperator:
    """The operator whose condition number is computed."""
    if preconditioner is None:
        if damping != 0:
            raise ValueError(f"damping is {damping} but is a preconditioner's; pass one, or leave damping out")
        return matrices.as_symmetric(G, "G").dual()
    A = matrices.as_symmetric(G, "G")
    found = A.with_preconditioner(preconditioner, damping)
    if found is None:
        kind = f"{type(G).__module__}.{type(G).__qualname__}"
        raise TypeError(f"preconditioner needs a gnfast.GaussNewton but G is a {kind}{A.preconditioning_hint}")
    return found


def _doubt(A: SymmetricOperator, largest: float, value: float) -> float:
    """The change that rounding may have made of an eigenvalue."""
    return thresholds.rounding_error(largest, A.dtype) + A.root_rounding * (2 * math.sqrt(value) + A.root_rounding)


def _upper(
    A: SymmetricOperator, found: Found, doubt: float, doubt_below: float, *, analytic: bool
) -> tuple[float, str]:
    """The upper end where it is proven, or else the residuals' estimate, with its reason."""
    top, low = found.largest, found.smallest
    if not found.clear:
        return math.inf, "nothing: what was cut may not be zero"
    if found.proof:
        margin = found.margin
        return _quotient(top.value * (1 + margin) + doubt, low.value * (1 - margin) - doubt_below), found.proof
    estimate = _quotient(top.value + top.residual + doubt, low.value - low.residual - doubt_below)
    bound = A.analytic_bound() if analytic else None  # whose parts may under- or overflow
    if bound is not None and bound.applies:
        return bound.value, f"bound {bound.name} (proven); residuals alone suggest {estimate:.6g}"
    # Both ends are tops of positive semi-definite matrices, A and its inverse, found from a random start.
    if top.error >= 1:
        return estimate, "residuals (estimated; certify=True proves it where the dual is stored)"
    if top.error == low.error == 0:
        return estimate, "the Krylov spaces are everything, up to rounding"
    upper = (top.value + doubt) / (1 - top.error)
    start = f"lambda_max <= {upper:.6g} with probability 1 - {FAILURE:.0e}"
    if low.error >= 1:
        lower = low.value - low.residual - doubt_below
        return _quotient(upper, lower), f"random start: {start}; lambda_min by its residual (estimated)"
    lower = low.value * (1 - low.error) - doubt_below
    return _quotient(upper, lower), (
        f"random start: {start} and lambda_min >= {lower:.6g} with the same (Kuczynski & Wozniakowski); "
        f"residuals alone suggest {estimate:.6g}"
    )


def _what_was_cut(A: SymmetricOperator, found: Found) -> str:
    """A note on eigenvalues that the dtype does not tell from zero, beyond those that are by the sizes alone."""
    count = A.shape[0] - found.rank
    if count <= A.known_nullity or not found.clear:
        return ""
    return (
        f"; {count} of {A.shape[0]} eigenvalues are at or below the cut and count as zero: if they are not, kappa is "
        f"at least {found.largest.value / found.cut:.1e}"
    )


def _quotient(upper: float, lower: float) -> float:
    return upper / lower if lower > 0 else math.inf
