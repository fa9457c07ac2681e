"""Figures that the paper does not have: how tight the bounds are, networks of any width, deep ReLU networks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gnfast import bounds, datasets, ensemble, limits
from gnfast.bounds.conv import conv_forms
from gnfast.bounds.linear import FORMS as LINEAR_FORMS
from gnfast.bounds.linear import linear_forms
from gnfast.networks import Network, initializers, mlp
from gnfast.networks.convolutions import Conv2d
from gnfast.networks.layers import SLOPE, Flatten
from gnfast.operators import GaussNewton
from gnfast.paper.claims import Claim, Mean, bounded, changes, everywhere, ordered, slopes, steps, tighter
from gnfast.paper.figure import BOUND_COLUMNS, BOUNDS, TIGHTEST, Experiment, Figure, Line, Options, Panel, named
from gnfast.paper.table import Curve, Row, Table
from gnfast.spectrum import cond
from gnfast.study.jobs import REAL, Keyed, Values

FLOAT64 = np.dtype(np.float64)
WIDE = 1_000_000  # from here on kappa - 1 is a power of the width to three digits
_m, _layers = named("m"), named("L")


# ---------------------------------------------------------------- tightness
LINEAR, RELU, CONV = "linear", "(leaky) ReLU", "convolutions"
GROUPS = {"linear": LINEAR, "relu": RELU, "leaky_relu": RELU, "conv": CONV}


class Form(NamedTuple):
    """A bound in words, the networks that it is drawn with, and which of these it is for."""

    words: str
    group: str
    made_for: Callable[[Row], bool] = lambda row: True


def _one_hidden(row: Row) -> bool:
    return bool(row["depth"] == 2)


# Bounds by their columns, the paper's first.
FORMS = {
    "convex": Form("paper: convex", LINEAR),
    "joint": Form("ours: joint", LINEAR),
    "matrix": Form("ours: matrix", LINEAR),
    "loose": Form("paper: loose", LINEAR),
    "layers": Form("single layers", LINEAR),
    "equality": Form("equality", LINEAR, _one_hidden),
    "apriori": Form("skips alone", LINEAR, lambda row: bool(row["skip"] > 0)),
    "relu": Form("paper: one hidden layer", RELU, _one_hidden),
    "deep": Form("ours: any depth", RELU),
    "conv_convex": Form("layer by layer", CONV),
    "conv_jacobian": Form("Jacobian", CONV),
    "conv_joint": Form("layers with data", CONV),
}


@dataclass(frozen=True)
class AnyPoint(Keyed):
    """A random network of any kind on a few digits, or images of digits.

    ``width`` is the number of units of each hidden layer, or of filters of 3 x 3.
    """

    kind: str  # of GROUPS
    width: int
    depth: int
    seed: int
    skip: float = 0.0
    samples: int = 12
    outputs: int = 3
    data: str = "digits"

    @property
    def group(self) -> str:
        """The group of its kind."""
        return GROUPS[self.kind]

    def network(self, X: NDArray[Any]) -> Network:
        """The network of the point, for samples like X."""
        if self.group == CONV:
            sizes = [1, *[self.width] * (self.depth - 1), self.outputs]
            shapes = [(out, into * 9) for into, out in itertools.pairwise(sizes)]
            kernels = initializers.weights("kaiming_normal", shapes, "identity", 0.0, self.seed, FLOAT64)
            return Network([*(Conv2d(kernel.reshape(len(kernel), -1, 3, 3)) for kernel in kernels), Flatten()])
        return mlp(
            [X.shape[1], *[self.width] * (self.depth - 1), self.outputs],
            activation="identity" if self.group == LINEAR else self.kind,
            slope=0.2 if self.kind == "leaky_relu" else SLOPE,
            skip=self.skip,
            seed=self.seed,
        )


def _tightness_values(point: AnyPoint) -> Values:
    X = datasets.load(point.data, point.samples)
    if point.group == CONV:
        X = X.reshape(len(X), 1, math.isqrt(X.shape[1]), -1)
    net = point.network(X)
    found = dict.fromkeys(FORMS, math.inf) | {"kappa": float(cond(GaussNewton(net, X)).value)}
    if point.group == LINEAR:
        forms = [*linear_forms(net, X, LINEAR_FORMS), bounds.residual(net, X, "apriori")]
        found |= {bound.name.partition(".")[2]: float(bound.value) for bound in forms}
    elif point.group == CONV:
        forms = conv_forms(net, X, ("convex", "jacobian", "joint"))
        found |= {bound.name.replace(".", "_"): float(bound.value) for bound in forms}
    else:
        found |= {"relu": float(bounds.relu(net, X).value), "deep": float(bounds.deep(net, X).value)}
    return found


def _tightness(options: Options) -> Experiment:
    """At the full setting 1,000 dense networks, and 50 of convolutions."""
    widths = options.of((24, 90), (24, 48, 96, 192), (16, 32, 64, 128, 256))
    depths = options.of((2, 4), (2, 3, 5), (2, 3, 4, 6, 8))
    # A skip of 3 is larger than any singular value of a random square layer, 2 + o(1).
    kinds = (("linear", 0.0), ("linear", 0.5), ("linear", 3.0), ("relu", 0.0), ("leaky_relu", 0.0))
    seeds, filters = range(options.of(3, 5, 8)), options.of((4, 8), (4, 8), (2, 4, 8, 16, 32))
    dense = [
        AnyPoint(kind, width, depth, seed, skip)
        for seed in seeds
        for width in widths
        for depth in depths
        for kind, skip in kinds
    ]
    images = [
        AnyPoint("conv", count, depth, seed)
        for seed in range(options.of(3, 3, 5))
        for count in filters
        for depth in (2, 3)
    ]
    return Experiment("tightness", (*dense, *images), _tightness_values, dict.fromkeys(("kappa", *FORMS), REAL))


def _shares(table: Table) -> Table:
    """For each bound, how large a share of the networks that it is for has at most such a quotient of exact and bound.

    The quotient is 0 where the bound says nothing.
    """

    def rows() -> Iterator[Row]:
        for column, form in FORMS.items():
            networks = [row for row in table.rows if GROUPS[row["kind"]] == form.group and form.made_for(row)]
            for i, quotient in enumerate(sorted(row["kappa"] / row[column] for row in networks), 1):
                yield {"bound": form.words, "group": form.group, "tightness": quotient, "share": i / len(networks)}

    return Table(rows())


def _tightness_claims(table: Table) -> list[Claim]:
    linear = [row for row in table.rows if GROUPS[row["kind"]] == LINEAR]
    hidden = [row for row in table.rows if GROUPS[row["kind"]] == RELU and _one_hidden(row)]
    never = bool(linear) and all(row["joint"] <= row["convex"] * (1 + 1e-9) for row in linear)
    return [
        bounded(table, tuple(FORMS)),
        Claim("the joint bound is never looser than the paper's", f"{len(linear)} linear networks", never),
        tighter(linear, "joint", "convex", "the joint bound is nearer to kappa than the paper's"),
        tighter(
            hidden, "deep", "relu", "with one hidden layer of (leaky) ReLU the deep bound is nearer than the paper's"
        ),
    ]


TIGHTNESS = Figure(
    "tightness",
    "How tight every bound is, on random networks",
    "our bounds are nearer to the exact value than the paper's",
    _tightness,
    [
        Panel(
            "share",
            "tightness",
            "bound",
            "share of the networks it is for, not above",
            "exact / bound: 1 is tight",
            title=group,
            where={"group": group},
        )
        for group in (LINEAR, RELU, CONV)
    ],
    _tightness_claims,
    derive=_shares,
)


# ---------------------------------------------------------------- beyond width
@dataclass(frozen=True)
class LawPoint(Keyed):
    """A random linear network in law, on data whose second moment is the identity: no weight is ever stored."""

    width: int
    depth: int
    seed: int
    inputs: int = 64
    outputs: int = 10


def _law_values(point: LawPoint) -> Values:
    found = ensemble.linear(
        point.width,
        depth=point.depth,
        d=point.inputs,
        k=point.outputs,
        samples=1,
        seed=point.seed,
        bounds=("convex", "joint"),
    )
    return {
        "kappa": float(found.kappa[0]),
        "excess": float(found.kappa_minus_one[0]),
        "paper": float(found.bounds["linear.convex"][0]),
        "tightest": float(found.bounds["linear.joint"][0]),
    }


def _beyond_width(options: Options) -> Experiment:
    widths = options.of(
        (100, 10**4, 10**6, 10**9),
        (10, 30, 100, 1000, 10**4, 10**5, 10**6, 10**7, 10**8, 10**9),
        tuple(sorted({round(10 ** (i / 4)) for i in range(4, 37)})),
    )
    depths, seeds = options.of((2, 5), (2, 5, 10), (2, 3, 5, 10, 20)), range(options.of(3, 5, 20))
    grid = [LawPoint(width, depth, seed) for seed in seeds for width in widths for depth in depths]
    return Experiment(
        "beyond-width", tuple(grid), _law_values, dict.fromkeys(("kappa", "excess", *BOUND_COLUMNS), REAL)
    )


def _beyond_width_claims(table: Table) -> list[Claim]:
    curves = table.curves("width", "kappa", "depth")
    wide = Table(row for row in table.rows if row["width"] >= WIDE).curves("width", "excess", "depth")
    found = [Mean.of(slopes(curve, math.log).values()) for curve in wide]
    numbers = ", ".join(f"{mean} for {_layers(curve.by)}" for curve, mean in zip(wide, found, strict=True))
    words = "kappa falls all the way to 10^9 units"
    return [
        everywhere(
            steps(curves, -1, lambda depth, width: f"{_layers(depth)} up to {_m(width)}"),
            f"{words}, with every step of the width",
        ),
        changes(curves, -1, f"{words}; only the two ends", _layers),
        Claim(
            "kappa - 1 falls with one over the square root of the width",
            f"d log(kappa - 1) / d log m beyond {WIDE:,} units: {numbers}",
            bool(found) and all(abs(mean.value + 0.5) + mean.error < 0.01 for mean in found),
        ),
        bounded(table, BOUND_COLUMNS),
    ]


BEYOND_WIDTH = Figure(
    "beyond-width",
    "Linear networks of up to a billion units in each layer, sampled without weights",
    "kappa tends to that of the data; how fast",
    _beyond_width,
    [
        Panel("width", "kappa", "depth", "width $m$", label=_layers, lines=BOUNDS, scales=("log", "log")),
        Panel("width", "excess", "depth", "width $m$", r"$\kappa(G) - 1$", label=_layers, scales=("log", "log")),
    ],
    _beyond_width_claims,
)


# ---------------------------------------------------------------- deep ReLU networks
@dataclass(frozen=True)
class ReluPoint(Keyed):
    """A ReLU network of any depth, and the infinitely wide one on the same data."""

    width: int
    depth: int
    seed: int
    samples: int
    data: str = "digits"
    outputs: int = 10

    @property
    def work(self) -> float:
        """Estimated work, to order points by."""
        return 1e6 + self.depth * self.width**2


def _relu_values(point: ReluPoint) -> Values:
    X = datasets.load(point.data, point.samples)
    net = mlp([X.shape[1], *[point.width] * (point.depth - 1), point.outputs], activation="relu", seed=point.seed)
    return {
        "kappa": float(cond(GaussNewton(net, X)).value),
        "tightest": float(bounds.deep(net, X).value),
        "limit": float(limits.gram(X, point.depth, "relu").kappa),
    }


def _relu_depth(options: Options) -> Experiment:
    samples = options.of(20, 50, 100)
    widths, depths = options.of(
        ((64, 512), (2, 4, 6)),
        ((128, 512, 2048), (2, 3, 4, 6, 8)),
        ((128, 512, 2048, 4096), (2, 3, 4, 5, 6, 8, 10, 12)),
    )
    grid = [ReluPoint(width, depth, seed, samples) for seed in range(3) for width in widths for depth in depths]
    return Experiment("relu-depth", tuple(grid), _relu_values, dict.fromkeys(("kappa", "tightest", "limit"), REAL))


def _away(curve: Curve, limit: list[float]) -> dict[Any, float]:
    """How far the networks of each seed are from the limit, as a factor: the geometric mean over depths."""
    return {
        seed: math.exp(float(np.mean([abs(math.log(y / at)) for (_, y), at in zip(line, limit, strict=True)])))
        for seed, line in curve.lines.items()
    }


def _relu_depth_claims(table: Table) -> list[Claim]:
    curves = table.curves("depth", "kappa", "width")
    limit = table.curves("depth", "limit", "width")[0].middle
    return [
        ordered(
            [(_m(curve.by), _away(curve, limit)) for curve in curves],
            "the wider the network, the nearer kappa is to the infinitely wide one's",
            "factor between the two",
        ),
        bounded(table, (TIGHTEST.column,)),
    ]


LIMIT = Line("limit", "infinitely wide", "--")
RELU_DEPTH = Figure(
    "relu-depth",
    "Deep ReLU networks: exact values, our bound of any depth, the infinitely wide network",
    "kappa of deep ReLU networks against depth, and how the two limits frame it",
    _relu_depth,
    [Panel("depth", "kappa", "width", "depth $L$", label=_m, lines=(TIGHTEST, LIMIT))],
    _relu_depth_claims,
)

FIGURES = (TIGHTNESS, BEYOND_WIDTH, RELU_DEPTH)
