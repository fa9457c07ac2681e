"""Spectral densities: how the eigenvalues of an operator are spread, from a few random vectors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import scipy.fft
from scipy.special import ndtr

from gnfast import _arrays, _checks, _core, thresholds
from gnfast._arrays import Array
from gnfast._results import Brief
from gnfast.estimators.functions import space_of
from gnfast.operators import SymmetricOperator
from gnfast.spectrum import matrices
from gnfast.spectrum.eigen import reporting
from gnfast.spectrum.quadrature import Measure, block_of, measure, standard_error, stored_where_cheaper

DensityMethod: TypeAlias = Literal["lanczos", "kpm"]
METHODS: tuple[str, ...] = get_args(DensityMethod)
POINTS = 400  # of a grid that nobody gave
MOST_POINTS = 10_000  # at which the Christoffel functions are taken
LOG_RATIO = 100.0  # eigenvalues over more than two decades are shown on a logarithmic grid

# The share of the spectrum up to each of some abscissas, one row a probe.
Cumulative = Callable[[Array], Array]


@dataclass(frozen=True, repr=False)
class Density(Brief):
    """The spectral density of a symmetric operator, smoothed, on a grid.

    Attributes:
        grid: (points,) eigenvalues.
        values: (points,) the density: per unit of the eigenvalue, or, with `log`, per decade. Summed over the cells of
            the grid it gives 1 (with `log` 1 - zero_fraction) where the grid covers the spectrum.
        error: (points,) as in `Estimate`, of the density smoothed with `width`: the standard error over the probes and,
            for "lanczos", half of what the steps may leave unresolved. Where the spectrum is denser than they resolve
            it is as large as the density; more steps or a larger `width` make it smaller.
        log: Whether the grid is logarithmic.
        width: Standard deviation of the smoothing, in eigenvalues or decades; for "kpm" the resolution at mid-interval.
        zero_fraction: With `log`, the share of eigenvalues at or below the level of rounding, which it cannot show,
            as far as the steps tell them from other small ones.
        dimension: Size N of the operator whose eigenvalues these are; of a GaussNewton that of its dual.
        nullity: Further eigenvalues zero: p - N of a GaussNewton. They are not in `values`.
        method: "lanczos" or "kpm".
        products: Vectors multiplied.
        nodes, weights: (probes, steps) of the quadratures, empty for "kpm".
    """

    grid: Array
    values: Array
    error: Array
    log: bool
    width: float
    zero_fraction: float
    dimension: int
    nullity: int
    method: str
    products: int
    nodes: Array = field(repr=False)
    weights: Array = field(repr=False)

    @property
    def mass_at_zero(self) -> float:
        """The share of all eigenvalues, those of `nullity` among them, that are zero and not in `values`."""
        return (self.nullity + self.zero_fraction * self.dimension) / (self.nullity + self.dimension)

    @property
    def integral(self) -> float:
        """The share of the spectrum that lies on the grid, the zeros included."""
        return float(self.values @ np.diff(_edges(np.log10(self.grid) if self.log else self.grid))) + self.zero_fraction

    def plot(self, ax: Any = None, **style: Any) -> Any:
        """Draw the density with a band of two errors.

        Args:
            ax: matplotlib axes; None means the current ones.
            style: Passed to `ax.plot`.

        Returns:
            The axes.

        Raises:
            ImportError: matplotlib is not installed.
        """
        pyplot = _checks.optional_import("matplotlib.pyplot", "Density.plot", "study")
        ax = pyplot.gca() if ax is None else ax
        (line,) = ax.plot(self.grid, self.values, **style)
        low, high = np.maximum(self.values - 2 * self.error, 0), self.values + 2 * self.error
        ax.fill_between(self.grid, low, high, color=line.get_color(), alpha=0.25, linewidth=0)
        if self.log:
            ax.set_xscale("log")
        ax.set_xlabel("eigenvalue")
        ax.set_ylabel("density per decade" if self.log else "density")
        if self.mass_at_zero > 0:
            ax.set_title(f"{self.mass_at_zero:.2%} of the eigenvalues are zero and not shown", fontsize="small")
        return ax


def density(
    op: Any,
    method: DensityMethod | str = "lanczos",
    probes: int = 10,
    steps: int = 100,
    grid: Any = None,
    log: bool | None = None,
    seed: _checks.Seed = 0,
    *,
    width: float | None = None,
    block_size: int | None = None,
    progress: Any = None,
    precision: Any = None,
) -> Density:
    """The spectral density of a symmetric operator by random probes, all of which advance together.

    Of a GaussNewton it is that of its dual, which holds all non-zero eigenvalues; the p - N zeros that G has beyond are
    counted in `nullity` and `mass_at_zero`.

    Args:
        op: A GaussNewton, or any symmetric operator, array or LinearOperator (N, N), float32 or float64; of a function
            `gnfast.operator` makes one.
        method: "lanczos": stochastic Lanczos quadrature, smoothed by normal densities; resolves both ends and many
            decades. "kpm": the kernel polynomial method, 2 * steps Chebyshev moments with Jackson damping; less memory,
            and one resolution all over the spectrum's interval.
        probes: Random vectors, at least 2.
        steps: Products for each, at most N for "lanczos".
        grid: Eigenvalues, ascending, at which the density is wanted; None means 400 that cover the spectrum.
        log: Whether the density is one per decade, on a logarithmic grid; None means that no grid is given and the
            eigenvalues are positive, up to rounding, and spread over more than two decades.
        seed: For the probes, as in `gnfast.eigsh`; they are the same whatever the block size.
        width: Standard deviation of the smoothing, in eigenvalues or, with `log`, in decades; None means 1/60 of the
            spectrum's extent. "kpm" has its own and takes none.
        block_size: Probes that advance together; None means at most 32.
        progress: True shows a line on stderr, a callable is called with (stage, done, total).
        precision: None or "float64", as in `gnfast.eigsh`.

    Returns:
        A `Density` with `grid`, `values`, `error` and a method `plot()`.

    Raises:
        TypeError: Bad kinds or dtypes.
        ValueError: Bad arguments, a matrix that is not symmetric, NaN or infinity from a product.

    References:
        Lin, Saad & Yang, "Approximating spectral densities of large matrices", SIAM Review 2016; Ubaru, Chen & Saad,
        2017; Weisse, Wellein, Alvermann & Fehske, "The kernel polynomial method", Rev. Mod. Phys. 2006.

    Examples:
        >>> import numpy as np
        >>> import gnfast as gn
        >>> found = gn.density(np.diag(np.linspace(1.0, 2.0, 200)), probes=4, steps=30)
        >>> found.grid.shape, found.values.shape
        ((400,), (400,))
        >>> round(float(np.trapezoid(found.values, found.grid)), 1)
        1.0
    """
    A, nullity = space_of(op)
    method = _checks.choice(method, "method", METHODS)
    probes, steps = _checks.integer(probes, "probes", 2), _checks.integer(steps, "steps", 1)
    seed = _checks.seed(seed)
    wanted = None if grid is None else _checked_grid(grid, log)
    log = None if log is None else _checks.boolean(log, "log")
    if width is not None:
        width = _checks.positive(width, "width")
        if method == "kpm":
            raise ValueError("width is given but method 'kpm' smooths by its number of steps; leave it out")
    found: Measure | None = None
    with reporting(progress) as report:
        if method == "lanczos":
            found = measure(A, probes, steps, seed, block_size, report, precision)
            low, high = float(found.nodes.min()), float(found.nodes.max())
            products, nodes, weights = found.products, found.nodes, found.weights
        else:
            low, high, moments, products = _moments(A, probes, steps, seed, block_size, report, precision)
            nodes = weights = np.empty((probes, 0))
    A.warn_of_underflow("the eigenvalues underflow", max(abs(low), abs(high)), _arrays.vanishing(A.dtype))
    cut = thresholds.zero_threshold(max(abs(low), abs(high)), A.shape[0], A.dtype)
    if log is None:
        log = wanted is None and low > -cut and high > LOG_RATIO * max(_smallest_above(nodes, cut, low), cut)
    if log and high <= cut:
        raise ValueError(f"log is True but the largest eigenvalue is {high:.3g}; use log=False")
    if found is not None:
        first, last = (math.log10(_smallest_above(nodes, cut, low)), math.log10(high)) if log else (low, high)
        width = width or (max(last - first, 0.3) if log else _extent(first, last)) / 60
        cumulative = _smoothed(found, log, width, cut)
        margin = 5 * width
        ends = (0.0 if log else low, high)
    else:
        first, last = (math.log10(max(low, cut)), math.log10(high)) if log else (low, high)
        width, margin = math.pi / (2 * steps) * (high - low) / 2, 0.0
        cumulative = _jackson(moments, (low + high) / 2, (high - low) / 2, log)
    if wanted is not None:
        axis = np.log10(wanted) if log else wanted
    else:
        axis = np.linspace(first - margin, last + margin, POINTS)
    edges = _edges(axis)
    shares = cumulative(edges)
    rows = np.diff(shares, axis=1) / np.diff(edges)
    unresolved = 0.0 if found is None else _unresolved(found, edges, log, width, cut, ends) / 2
    zero = float(cumulative(np.array([-np.inf]))[:, 0].mean()) if log else 0.0
    return Density(
        10**axis if log else axis,
        rows.mean(axis=0),
        standard_error(rows) + unresolved,
        log,
        width,
        zero,
        A.shape[0],
        nullity,
        method,
        products,
        nodes,
        weights,
    )


# ----------------------------------------------------------------------------------------------------------- steps
def _smoothed(found: Measure, log: bool, width: float, cut: float) -> Cumulative:
    """The quadratures with each node spread by a normal density; with `log` in decades, zeros at -infinity."""
    with np.errstate(divide="ignore"):
        nodes = np.log10(np.where(found.nodes > cut, found.nodes, 0)) if log else found.nodes

    def cumulative(edges: Array) -> Array:
        rows = []
        for position, weight in zip(nodes, found.weights, strict=True):
            shown = np.isfinite(position)
            below = weight[~shown].sum()
            rows.append(ndtr((edges[:, None] - position[shown]) / width) @ weight[shown] + below)
        return np.array(rows)

    return cumulative


def _unresolved(found: Measure, edges: Array, log: bool, width: float, cut: float, ends: tuple[float, float]) -> Array:
    """How far the smoothed quadratures may be from the smoothed spectral measures of the probes, for each cell.

    The smaller of two bounds. A quadrature of m nodes is exact for polynomials of degree 2 m - 1, and so within twice
    the distance of a cell's function from them, at most what its Chebyshev series has beyond. And up to any point x the
    two have the same share within the Christoffel function of x, the largest share that x itself may have (Chebyshev,
    Markov & Stieltjes; Akhiezer, "The classical moment problem", 1965).
    """
    steps, cells = found.nodes.shape[1], np.diff(edges)
    points = 1 << max(11, (8 * steps).bit_length())
    room = 1e-3 * (ends[1] - ends[0]) + cut
    low, high = ends[0] if log else ends[0] - room, ends[1] + room
    x = (low + high) / 2 + (high - low) / 2 * np.cos(np.pi * (np.arange(points) + 0.5) / points)
    with np.errstate(divide="ignore"):
        place = np.log10(np.maximum(x, 0)) if log else x
    series = scipy.fft.dct(np.diff(ndtr((edges - place[:, None]) / width), axis=1), axis=0, overwrite_x=True) / points
    # Where the points are too far apart to see the cell's function, the bound is that of any share.
    with np.errstate(invalid="ignore"):
        seen = np.interp((edges[1:] + edges[:-1]) / 2, place[::-1], np.abs(np.gradient(place))[::-1]) < width / 2
    by_degree = np.where(seen, 2 * np.abs(series[2 * steps :]).sum(axis=0), 1.0)
    count = math.ceil((edges[-1] - edges[0] + 8 * width) / width * 4)
    if count > MOST_POINTS:
        return np.asarray(by_degree / cells)
    u = np.linspace(edges[0] - 4 * width, edges[-1] + 4 * width, count)
    shares = found.christoffel(10**u if log else u)
    between = (edges[:, None] - u) / width
    kernel = np.exp(-(between**2) / 2) / math.sqrt(2 * math.pi)
    by_shares = np.abs(np.diff(kernel, axis=0)) @ shares * ((u[1] - u[0]) / width)
    return np.asarray(np.minimum(by_degree, by_shares) / cells)


def _moments(
    A: SymmetricOperator,
    probes: int,
    steps: int,
    seed: int,
    block_size: int | None,
    report: _core.Progress,
    precision: Any,
) -> tuple[float, float, Array, int]:
    """An interval that holds the spectrum, Chebyshev moments (probes, 2 steps) on it, and vectors multiplied."""
    units = matrices.InUnits(stored_where_cheaper(A, probes * steps, report))
    units.settled()
    A = matrices.in_precision(units, precision)
    block = block_of(A, probes, block_size)
    ends = measure(A, min(4, probes), 20, _checks.other_seed(seed), block_size, report)
    low, high, products = float(ends.nodes.min()), float(ends.nodes.max()), ends.products
    extent = _extent(low, high)
    # One eigenvalue alone: the interval is a tenth of it, wide against what rounding adds to each Chebyshev step.
    room = max(0.0, 0.1 * max(abs(low), abs(high)) - extent)
    low, high = low - room / 2, high + room / 2
    # Ritz values lie inside; a moment beyond 1 tells that an eigenvalue lies outside of the interval.
    core = A.device.core
    options = core.QuadratureOptions(probes=probes, steps=2 * steps, block=block, seed=seed, progress=report)
    for margin in (0.02, 0.1, 0.5):
        first, last = low - margin * extent, high + margin * extent
        moments = core.chebyshev_moments(A.core, (first + last) / 2, (last - first) / 2, options)
        products += probes * steps
        if np.abs(moments).max() < 1 + 1e-3:
            return float(units.out_of(first)), float(units.out_of(last)), moments, products
    raise ValueError("no interval was found that holds the spectrum of op; use method='lanczos'")


def _jackson(moments: Array, centre: float, half: float, log: bool) -> Cumulative:
    """The damped Chebyshev series, integrated: F(x) = 1 - theta / pi - sum_k (2 / (k pi)) g_k mu_k sin(k theta)."""
    count = moments.shape[1]
    k, angle = np.arange(1, count), math.pi / (count + 1)
    damping = ((count - k + 1) * np.cos(angle * k) + np.sin(angle * k) / math.tan(angle)) / (count + 1)

    def cumulative(edges: Array) -> Array:
        at = 10**edges if log else edges
        theta = np.arccos(np.clip((at - centre) / half, -1, 1))
        waves = np.sin(np.outer(k, theta)) * (2 / math.pi * damping / k)[:, None]
        return np.asarray(1 - theta / math.pi - moments[:, 1:] @ waves)

    return cumulative


def _edges(axis: Array) -> Array:
    """Cells around the points of a grid: half way between neighbours, and as far beyond the ends."""
    middle = (axis[1:] + axis[:-1]) / 2
    return np.concatenate([[2 * axis[0] - middle[0]], middle, [2 * axis[-1] - middle[-1]]])


def _extent(low: float, high: float) -> float:
    """Length of an interval, not below a hundredth of what it is far from zero: one eigenvalue has a width too."""
    return max(high - low, 0.01 * max(abs(low), abs(high))) or 1.0


def _smallest_above(nodes: Array, cut: float, low: float) -> float:
    kept = nodes[nodes > cut]
    return float(kept.min()) if kept.size else max(low, cut)


def _checked_grid(grid: Any, log: bool | None) -> Array:
    found = _checks.array(np.asarray(grid, np.float64), "grid", ("points",))
    if len(found) < 2 or not np.all(np.diff(found) > 0):
        raise ValueError("grid must have at least 2 eigenvalues in ascending order")
    if log and found[0] <= 0:
        raise ValueError(f"grid starts at {found[0]:g} but must be positive where log is True")
    return found
