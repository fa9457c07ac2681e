"""The numerical rank, and how rank and condition number move with the cut."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from scipy.linalg import lapack

from gnfast import _arrays, _checks, _core, thresholds
from gnfast._arrays import Array
from gnfast._results import Brief, Number
from gnfast.operators import SymmetricOperator
from gnfast.spectrum import matrices
from gnfast.spectrum.eigen import largest, reporting
from gnfast.spectrum.quadrature import measure, standard_error

RankMethod: TypeAlias = Literal["auto", "exact", "lanczos"]
METHODS: tuple[str, ...] = get_args(RankMethod)


@dataclass(frozen=True, eq=False, repr=False)
class Rank(Number):
    """The numerical rank of a symmetric positive semi-definite matrix; it converts and compares as its value.

    Attributes:
        value: How many eigenvalues lie above the cut.
        dimension: Size of the matrix: of a GaussNewton that of its dual.
        cut: Eigenvalues up to it count as zero.
        method: "whole spectrum by LAPACK", "inertia", which counts the signs of an LDL^T factorisation, or
            "stochastic Lanczos quadrature".
        error: Of an estimate: one standard error over probes, together with the eigenvalues that the quadrature does
            not tell from the cut; 0 where eigenvalues or signs were counted.
    """

    value: int
    dimension: int
    cut: float
    method: str
    error: float = 0.0

    def __index__(self) -> int:
        return self.value


def rank(
    op: Any,
    cut: float | None = None,
    method: RankMethod | str = "auto",
    probes: int = 30,
    steps: int = 100,
    seed: _checks.Seed = 0,
    *,
    progress: Any = None,
    precision: Any = None,
) -> Rank:
    """The numerical rank of a symmetric positive semi-definite operator: its eigenvalues above `cut`.

    Args:
        op: A GaussNewton, whose dual is taken, or what `eigsh` takes.
        cut: None means max(16, sqrt(N)) * eps * lambda_max, what rounding leaves of a zero.
        method: "exact": of the stored matrix, the whole spectrum for up to 3,200 unknowns, beyond the inertia of
            A - cut I (Sylvester's law), for up to 20,000; "lanczos": by products alone, with an error; "auto": exact
            where the matrix may be stored.
        probes, steps: Of the quadrature. It tells eigenvalues on both sides of the cut apart as well as its steps
            resolve them: without a gap there, the answer is as vague as the question.
        seed: For the probes, as in `eigsh`.
        progress: True shows a line on stderr, a callable is called with (stage, done, total).
        precision: None or "float64", as in `gnfast.eigsh`.

    Returns:
        A `Rank`.

    Raises:
        ValueError: Too large for "exact", or a negative cut.
        MemoryError: "exact", and the matrix exceeds the operator's `memory_limit`.

    References:
        Ubaru & Saad, "Fast methods for estimating the numerical rank of large matrices", ICML 2016.

    Examples:
        >>> import gnfast as gn
        >>> net = gn.mlp([64, 32, 2, 32, 10], activation="identity", seed=0)  # two units in the middle
        >>> G = gn.GaussNewton(net, gn.datasets.digits()[0][:50])
        >>> found = gn.rank(G)
        >>> found.value, found.dimension
        (116, 500)
    """
    A = matrices.as_symmetric(op).dual()
    units = matrices.InUnits(A)
    work = matrices.in_precision(units, precision)
    method = _checks.choice(method, "method", METHODS)
    cut = None if cut is None else _checks.at_least_zero(cut, "cut")
    probes, steps = _checks.integer(probes, "probes", 2), _checks.integer(steps, "steps")
    seed = _checks.seed(seed)
    size = A.shape[0]
    storable = size <= matrices.STORED_SIZE and A.fits_in_memory
    with reporting(progress) as report:
        if method == "lanczos" or (method == "auto" and not storable):
            return _by_quadrature(A, cut, probes, steps, seed, report, precision)
        if size > matrices.STORED_SIZE:
            raise ValueError(
                f"op is {size} x {size} but its matrix has to be stored, which is done up to {matrices.STORED_SIZE}; "
                "use method='lanczos'"
            )
        K = work.new_square()
        work.form(K, report)
        top = float(units.out_of(K.reshape(-1)[:: size + 1].max()))
        larger = A.enlarged() if not A.exponent and top < _arrays.vanishing(A.dtype) else None
        if larger is not None:
            scaled = None if cut is None else math.ldexp(cut, larger.exponent)
            found = rank(larger, scaled, "exact", probes, steps, seed, progress=progress, precision=precision)
            return replace(found, cut=math.ldexp(found.cut, -larger.exponent))
        A.warn_of_underflow("the eigenvalues underflow", top, float(np.finfo(A.dtype).tiny))
        if size <= matrices.SPECTRUM_SIZE:
            values = matrices.semidefinite_eigenvalues(K, A.dtype)
            values = units.out_of(values)
            cut = thresholds.zero_threshold(float(values[-1]), size, A.dtype) if cut is None else cut
            return Rank(int(np.count_nonzero(values > cut)), size, cut, "whole spectrum by LAPACK")
        if cut is None:
            at = thresholds.zero_threshold(largest(matrices.Stored(K), 8, 1e-3, seed, report).value, size, A.dtype)
            cut = float(units.out_of(at))
        else:
            at = float(np.ldexp(cut, -units.taken))
        matrices.check_finite(K)
        return Rank(_eigenvalues_above(_arrays.to_host(K), at), size, cut, "inertia")


@dataclass(frozen=True, repr=False)
class RankProfile(Brief):
    """How rank, smallest kept eigenvalue and condition number move with the cut; `print(...)` shows a table.

    Attributes:
        cuts: (c,) descending.
        ranks: (c,) eigenvalues above each cut.
        smallest: (c,) the smallest eigenvalue kept; NaN where none is.
        kappas: (c,) lambda_max / smallest.
        eigenvalues: (N,) all, ascending; of a GaussNewton those of its dual.
        rounding_cut: What rounding leaves of a zero: cuts below it keep rounding errors.
        customary_cut: N * eps * lambda_max, that of `numpy.linalg.matrix_rank`.
    """

    cuts: Array
    ranks: Array
    smallest: Array
    kappas: Array
    eigenvalues: Array = field(repr=False)
    rounding_cut: float
    customary_cut: float

    @property
    def gaps(self) -> Array:
        """(N - 1,) ratios of neighbouring eigenvalues, none taken below `rounding_cut`: a large one is a clear cut."""
        values = np.maximum(self.eigenvalues, self.rounding_cut)
        return values[1:] / values[:-1]

    def __str__(self) -> str:
        lines = ["     cut / lambda_max          cut     rank   smallest kept        kappa"]
        top = float(self.eigenvalues[-1])
        for cut, kept, low, kappa in zip(self.cuts, self.ranks, self.smallest, self.kappas, strict=True):
            marks = [
                name for name, at in (("rounding", self.rounding_cut), ("customary", self.customary_cut)) if cut == at
            ]
            note = f"  <- {', '.join(marks)}" if marks else ""
            lines.append(f"{cut / top:>21.2e} {cut:>12.3e} {kept:>8} {low:>15.4e} {kappa:>12.5g}{note}")
        return "\n".join(lines)


def rank_profile(
    op: Any, cuts: Sequence[float] | None = None, *, progress: Any = None, precision: Any = None
) -> RankProfile:
    """How the numerical rank, and with it the condition number, depends on what is counted as zero.

    The whole spectrum is computed, so that the table has no error but rounding. Where the ranks of several cuts
    agree there is a gap, and kappa means something; where they keep falling, it depends on the cut.

    Args:
        op: A GaussNewton, whose dual is taken, or a symmetric positive semi-definite operator or array, stored: up
            to 20,000 x 20,000 (minutes and 3 GB there).
        cuts: Eigenvalues up to which counts as zero, at least 0; None means one for each decade below lambda_max,
            the level of rounding and the customary N * eps * lambda_max.
        progress: True shows a line on stderr, a callable is called with (stage, done, total).
        precision: None or "float64", as in `gnfast.eigsh`.

    Returns:
        A `RankProfile`.

    Raises:
        TypeError: Bad kinds or dtypes.
        ValueError: Too large, negative cuts or eigenvalues, or a zero operator.
        MemoryError: The matrix exceeds the operator's `memory_limit`.

    Examples:
        >>> import numpy as np
        >>> import gnfast as gn
        >>> profile = gn.rank_profile(np.diag([1.0, 1e-3, 1e-9]), cuts=[1e-12, 1e-6])
        >>> profile.ranks.tolist()
        [2, 3]
    """
    A = matrices.as_symmetric(op).dual()
    units, size = matrices.InUnits(A), A.shape[0]
    work = matrices.in_precision(units, precision)
    if size > matrices.STORED_SIZE:
        raise ValueError(
            f"op is {size} x {size} but its whole spectrum is needed, for up to {matrices.STORED_SIZE}; "
            "use fewer samples"
        )
    K = work.new_square()
    with reporting(progress) as report:
        work.form(K, report)
    values = units.out_of(matrices.semidefinite_eigenvalues(K, A.dtype).astype(np.float64))
    top = float(values[-1])
    if top <= 0:
        raise ValueError("op is zero, so that nothing lies above any cut")
    rounding, customary = (
        thresholds.zero_threshold(top, size, A.dtype),
        thresholds.customary_threshold(top, size, A.dtype),
    )
    if cuts is None:
        decades = top * 10.0 ** -np.arange(1, 17 if A.dtype == np.float64 else 8)
        chosen = np.concatenate([decades, [rounding, customary]])
    else:
        chosen = np.array([_checks.at_least_zero(cut, f"cuts[{i}]") for i, cut in enumerate(cuts)])
        if not len(chosen):
            raise ValueError("cuts is empty; pass at least one, or None")
    chosen = np.unique(chosen)[::-1]
    ranks = size - np.searchsorted(values, chosen, side="right")
    smallest = np.array([values[size - kept] if kept else np.nan for kept in ranks])
    return RankProfile(chosen, ranks, smallest, top / smallest, values, rounding, customary)


# ----------------------------------------------------------------------------------------------------------- steps
def _by_quadrature(
    A: SymmetricOperator,
    cut: float | None,
    probes: int,
    steps: int,
    seed: int,
    report: _core.Progress,
    precision: Any,
) -> Rank:
    """N times the mean weight of the nodes above the cut; those that are not known well enough count as undecided."""
    found, size = measure(A, probes, steps, seed, None, report, precision), A.shape[0]
    if cut is None:
        cut = thresholds.zero_threshold(float(found.nodes.max()), size, A.dtype)
    shares = np.sum(found.weights * (found.nodes > cut), axis=1)
    coarse = np.sum(found.coarse_weights * (found.coarse_nodes > cut), axis=1)
    # A node stands for eigenvalues around it, and where it has not converged they may lie on either side of the cut.
    undecided = np.sum(found.weights * (np.abs(found.nodes - cut) <= found.errors), axis=1)
    error = size * float(np.linalg.norm([standard_error(shares), (shares - coarse).mean(), undecided.mean()]))
    return Rank(round(size * float(shares.mean())), size, cut, "stochastic Lanczos quadrature", error)


def _eigenvalues_above(K: Array, cut: float) -> int:
    """How many eigenvalues of K, overwritten, lie above `cut`: the positive ones of D in K - cut I = L D L^T.

    Bunch & Kaufman's pivots are numbers and 2 x 2 blocks; such a block has one eigenvalue of either sign. Right up to
    eigenvalues that rounding, some eps |K|, moves across the cut.
    """
    K.reshape(-1)[:: len(K) + 1] -= cut
    (sytrf, lwork) = lapack.get_lapack_funcs(("sytrf", "sytrf_lwork"), (K,))
    work = int(lwork(len(K), lower=0)[0].real)
    factor, pivots, info = sytrf(K.T, lwork=work, lower=0, overwrite_a=1)
    if info < 0:
        raise RuntimeError(f"LAPACK sytrf refused its argument {-info}")
    blocks = pivots < 0  # two entries for each 2 x 2 block
    return int(np.count_nonzero(factor.diagonal()[~blocks] > 0) + np.count_nonzero(blocks) // 2)
