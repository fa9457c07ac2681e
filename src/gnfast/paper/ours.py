"""Figures that the paper does not have: how tight the bounds are, networks of any width, deep ReLU networks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from gnfast import bounds, datasets, ensemble, limits
from gnfast.networks import mlp
from gnfast.operators import GaussNewton
from gnfast.paper.claims import Claim, bounded, changes, ordered, slope
from gnfast.paper.figure import PAPER, TIGHTEST, Experiment, Figure, Line, Options, Panel
from gnfast.paper.table import Curve, Row, Table
from gnfast.spectrum import cond
from gnfast.study import Family, Study
from gnfast.study.jobs import REAL, Keyed, Values

BOUNDS = (PAPER.column, TIGHTEST.column)
WIDE = 1_000_000  # from here on kappa - 1 is a power of the width to three digits

# Bounds by their columns, the paper's first.
FORMS = {
    "convex": "paper, linear",
    "joint": "ours, linear",
    "matrix": "ours without the data",
    "loose": "loose, linear",
    "relu": "paper, one hidden layer of ReLU",
    "deep": "ours, any depth and activation",
}


# ---------------------------------------------------------------- tightness
def _tightness(options: Options) -> Study:
    return Study(
        name="tightness",
        networks=(
            Family(("linear",)),
            Family(("residual",), skip=(0.5,)),
            Family(("relu",)),
            Family(("leaky_relu",), slope=(0.2,)),
        ),
        widths=options.of((24, 90), (24, 48, 96, 192), (16, 32, 64, 128, 256)),
        depths=options.of((2, 4), (2, 3, 5), (2, 3, 4, 6, 8)),
        seeds=tuple(range(options.of(3, 8, 10))),
        samples=(12,),
        outputs=3,
        quantities=("condition", "forms"),
    )


def _shares(table: Table) -> Table:
    """For each bound, how large a share of the networks has at most such a quotient of exact value and bound."""

    def rows() -> Iterator[Row]:
        for column, words in FORMS.items():
            found = sorted(row["kappa"] / row[column] for row in table.rows if math.isfinite(row[column]))
            for i, quotient in enumerate(found, 1):
                yield {"bound": words, "tightness": quotient, "share": i / len(found)}

    return Table(rows())


def _tightness_claims(table: Table) -> list[Claim]:
    def quotients(column: str, rows: list[Row]) -> tuple[str, list[float]]:
        return FORMS[column], [row["kappa"] / row[column] for row in rows if math.isfinite(row[column])]

    linear = [row for row in table.rows if math.isfinite(row["convex"])]
    both = [row for row in table.rows if math.isfinite(row["relu"])]
    never = all(row["joint"] <= row["convex"] * (1 + 1e-9) for row in linear)
    return [
        bounded(table, tuple(FORMS)),
        Claim("the joint bound is never looser than the paper's", f"{len(linear)} linear networks", never),
        ordered(
            [quotients("joint", linear), quotients("convex", linear)],
            "the joint bound is nearer to kappa than the paper's",
            "exact / bound",
        ),
        ordered(
            [quotients("deep", both), quotients("relu", both)],
            "with one hidden layer of (leaky) ReLU the deep bound is nearer than the paper's",
            "exact / bound",
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
            "share of networks that are not above",
            "exact / bound: 1 is tight",
        )
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
    return Experiment("beyond-width", tuple(grid), _law_values, dict.fromkeys(("kappa", "excess", *BOUNDS), REAL))


def _layers(depth: int) -> str:
    return f"L = {depth}"


def _beyond_width_claims(table: Table) -> list[Claim]:
    wide = Table(row for row in table.rows if row["width"] >= WIDE)
    slopes = [
        (curve.by, slope([(math.log(m), math.log(y)) for m, y in curve.points()]))
        for curve in wide.curves("width", "excess", "depth")
    ]
    numbers = ", ".join(f"{found} for {_layers(depth)}" for depth, found in slopes)
    return [
        changes(table.curves("width", "kappa", "depth"), -1, "kappa falls all the way to 10^9 units", _layers),
        Claim(
            "kappa - 1 falls with one over the square root of the width",
            f"d log(kappa - 1) / d log m beyond {WIDE:,} units: {numbers}",
            all(abs(found.value + 0.5) < 0.01 for _, found in slopes),
        ),
        bounded(table, BOUNDS),
    ]


BEYOND_WIDTH = Figure(
    "beyond-width",
    "Linear networks of up to a billion units in each layer, drawn in law",
    "kappa tends to that of the data; how fast",
    _beyond_width,
    [
        Panel("width", "kappa", "depth", "width $m$", label=_layers, lines=(PAPER, TIGHTEST), scales=("log", "log")),
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


def _units(width: int) -> str:
    return f"m = {width:,}"


def _away(curves: list[Curve], limit: list[float]) -> list[float]:
    """How far each network is from the limit, as a factor; all depths and seeds of a width."""
    return [max(y / at, at / y) for curve in curves for ys, at in zip(curve.y, limit, strict=True) for y in ys]


def _relu_depth_claims(table: Table) -> list[Claim]:
    curves = table.curves("depth", "kappa", "width")
    limit = table.curves("depth", "limit", "width")[0].middle
    return [
        ordered(
            [(_units(curve.by), _away([curve], limit)) for curve in curves],
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
    [Panel("depth", "kappa", "width", "depth $L$", label=_units, lines=(TIGHTEST, LIMIT))],
    _relu_depth_claims,
)

FIGURES = (TIGHTNESS, BEYOND_WIDTH, RELU_DEPTH)
