"""Spectral measures of random vectors by Lanczos, from which densities, ranks and traces of functions are estimated."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from scipy.special import stdtrit

from gnfast import _checks, _core, thresholds
from gnfast._arrays import Array
from gnfast._runtime import blas_threads
from gnfast.factors import unit_of
from gnfast.operators import SymmetricOperator
from gnfast.spectrum import matrices

# Bytes that the Lanczos vectors of all probes may take where the operator sets no limit; beyond, they are not kept.
BASIS_BYTES = 2e9
# Bytes of one block of vectors: larger blocks gain nothing and cost memory.
BLOCK_BYTES = 256e6
RULES = 64  # made at once
Function = Callable[[Array], Array]


@dataclass(frozen=True)
class Measure:
    """Gauss quadratures of (1/N) tr f(A), one a probe: sum_j weights[i, j] f(nodes[i, j]) for probe i.

    `nodes` (probes, steps), `weights` likewise, each row summing to 1; the coarse ones are from half of the steps.
    An eigenvalue lies within `residuals` (probes, steps) of each node. Nodes closer than `rounding` are not told apart.
    """

    nodes: Array
    weights: Array
    coarse_nodes: Array
    coarse_weights: Array
    residuals: Array
    products: int
    reorthogonalized: bool
    rounding: float

    @property
    def errors(self) -> Array:
        """How far an eigenvalue is from each node at most, (probes, steps).

        The residual r, or r^2 / the gap to the next node, halved since eigenvalues may be nearer (Kato & Temple).
        """
        gap = np.empty(self.nodes.shape)
        for nodes, row in zip(self.nodes, gap, strict=True):
            # Rounding brings an eigenvalue up twice, and a probe that ended early repeats its last node: no neighbours.
            ends = np.concatenate([[-np.inf], nodes, [np.inf]])
            below = ends[np.searchsorted(nodes, nodes - self.rounding)]
            above = ends[np.searchsorted(nodes, nodes + self.rounding, side="right") + 1]
            row[:] = np.minimum(nodes - below, above - nodes) / 2
        return np.asarray(np.minimum(self.residuals, self.residuals * (self.residuals / gap)))

    def bracket(self, below: Function, above: Function, at: float) -> tuple[float, float, float]:
        """(1/N) tr f(A), its error over the probes, and how far the quadratures may be off whatever the probes.

        Of a function whose derivatives of even order are negative and whose others are positive, as log(x + d) and
        x / (x + d), Gauss' rule is above v^T f(A) v and the rule of Gauss and Radau with a node at the lower end of the
        spectrum below (Golub & Meurant, "Matrices, moments and quadrature", 1993), at no further product: the value is
        half way between them.

        Args:
            below, above: f, lowered and raised by what rounding of the eigenvalues may do to it.
            at: Below the spectrum.
        """
        upper = np.sum(self.weights * above(self.nodes), axis=1)
        lower = np.empty(len(upper))
        for i in range(0, len(upper), RULES):
            part = slice(i, i + RULES)
            nodes, weights = radau(self.nodes[part], self.weights[part], self.residuals[part], at)
            lower[part] = np.sum(weights * below(nodes), axis=1)
        lower = np.minimum(lower, upper)
        spread = max(float(standard_error(samples)) for samples in (lower, upper))
        spread = max(spread, 64 * float(np.finfo(float).eps) * float(np.abs(upper).max()))  # the weights' own rounding
        return float((lower + upper).mean() / 2), spread, float((upper - lower).mean() / 2)

    def christoffel(self, x: Array) -> Array:
        """The largest share that each x may have of a measure with these quadratures, mean over the probes.

        1 / sum_j p_j(x)^2 with the orthonormal polynomials p_j, written with the nodes' vectors: their first entries f,
        the roots of the weights, and last entries, which the residuals r stand for, (sum f r / (node - x))^2 over
        sum (r / (node - x))^2.
        """
        total = np.zeros(len(x))
        for nodes, weights, beside in zip(self.nodes, self.weights, _last_entries(self.residuals), strict=True):
            with np.errstate(divide="ignore", invalid="ignore"):
                terms = beside / (nodes - x[:, None])
                shares = (terms @ np.sqrt(weights)) ** 2 / np.sum(terms**2, axis=1)
            total += np.where(np.isfinite(shares), shares, 0.0 if not beside.any() else 1.0)
        return total / len(self.nodes)

    def joined(self, more: Self) -> Self:
        """The same with the probes of `more`."""
        names = ("nodes", "weights", "coarse_nodes", "coarse_weights", "residuals")
        both: dict[str, Any] = {name: np.concatenate([getattr(self, name), getattr(more, name)]) for name in names}
        return replace(self, **both, rounding=max(self.rounding, more.rounding), products=self.products + more.products)


def radau(nodes: Array, weights: Array, residuals: Array, at: float) -> tuple[Array, Array]:
    """Gauss and Radau's rules with one node more, which lies at `at` below the others: (probes, steps + 1) twice.

    In the basis of the nodes' vectors the tridiagonal matrix T of one step more is an arrow: the nodes, beside them
    beta times these vectors' last entries, whose sizes are the residuals, and a corner that makes `at` an eigenvalue.
    """
    (count, steps), unit = nodes.shape, unit_of(float(np.abs(nodes).max()))
    nodes, residuals, at = nodes / unit, residuals / unit, at / unit
    beside = _last_entries(residuals)
    arrow, each = np.zeros((count, steps + 1, steps + 1)), np.arange(steps)
    arrow[:, each, each] = nodes
    arrow[:, each, steps] = arrow[:, steps, each] = beside
    arrow[:, steps, steps] = at + np.sum(residuals**2 / (nodes - at), axis=1)
    with blas_threads(steps):
        found, vectors = np.linalg.eigh(arrow)
    return found * unit, np.einsum("pi,pij->pj", np.sqrt(weights), vectors[:, :steps]) ** 2


def _last_entries(residuals: Array) -> Array:
    """Last entries of the nodes' vectors, times beta: of the first ones' sign for the largest node, then by turns."""
    return residuals * (-1.0) ** np.arange(residuals.shape[1] - 1, -1, -1)


def measure(
    A: SymmetricOperator,
    probes: int,
    steps: int,
    seed: int,
    block_size: int | None,
    report: _core.Progress,
    precision: Any = None,
    first: int = 0,
) -> Measure:
    """Lanczos for all probes together, reorthogonalised where their vectors fit in memory; `first` were drawn."""
    dtype = A.dtype
    units = matrices.InUnits(stored_where_cheaper(A, probes * min(steps, A.shape[0]), report))
    A = matrices.in_precision(units, precision)
    size, item = A.shape[0], A.dtype.itemsize
    steps = min(steps, size)
    block = block_of(A, probes, block_size)
    keep = steps * block * size * item <= (BASIS_BYTES if A.memory_limit is None else A.memory_limit)
    core = A.device.core
    options = core.QuadratureOptions(
        probes=probes, steps=steps, block=block, reorthogonalize=keep, first=first, seed=seed, progress=report
    )
    found: _core.Quadrature = core.lanczos_quadrature(A.core, options)
    nodes, coarse_nodes, residuals = map(units.out_of, (found.nodes, found.coarse_nodes, found.residuals))
    rounding = thresholds.node_threshold(float(np.abs(nodes).max()), size, dtype)
    return Measure(nodes, found.weights, coarse_nodes, found.coarse_weights, residuals, found.products, keep, rounding)


def stored_where_cheaper(A: SymmetricOperator, vectors: int, report: _core.Progress) -> SymmetricOperator:
    """The Gram dual formed first, for this computation, where that pays for so many products; others as they are.

    Forming it takes N^2 sum(m_l) flops and a product then 2 N^2; not stored, a product takes 2 n (n + 2 r) sum(m_l),
    N = n r. With r outputs it pays from about r^2 / 2 vectors on.
    """
    size, costs = A.shape[0], A.costs()
    if costs is None or A.stored or size > matrices.STORED_SIZE or not A.fits_in_memory:
        return A
    if costs.start + vectors * costs.product <= costs.forming + vectors * 2 * size**2:
        return A
    K = A.new_square()
    A.form(K, report)
    stored = matrices.Stored(K)
    stored.memory_limit = A.memory_limit
    return stored


def block_of(A: SymmetricOperator, vectors: int, block_size: int | None) -> int:
    """How many vectors are multiplied at once."""
    if block_size is not None:
        return _checks.integer(block_size, "block_size")
    room = (BLOCK_BYTES if A.memory_limit is None else min(BLOCK_BYTES, A.memory_limit)) / (
        A.shape[0] * A.dtype.itemsize
    )
    # Where products are compute-bound more vectors gain nothing, and keep whoever interrupts waiting.
    return max(1, min(vectors, 8 if A.space == "parameters" else 32, int(room)))


def standard_error(samples: Array) -> Any:
    """The error of the mean over the first axis, widened for few samples so that two of it hold in 95 of 100 draws.

    Student's quantile in place of the normal one; infinite for a single sample.
    """
    count = len(samples)
    if count < 2:
        return np.full(samples.shape[1:], np.inf)[()]
    student = float(stdtrit(count - 1, 0.97725)) / 2
    unit = unit_of(float(np.abs(samples).max()))
    return student * unit * ((samples / unit).std(axis=0, ddof=1) / math.sqrt(count))
