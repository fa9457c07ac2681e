"""Figures that the paper does not have: how tight the bounds are, and networks of any width."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from gnfast import ensemble
from gnfast.paper.claims import Claim, bounded, changes, ordered, slope
from gnfast.paper.figure import PAPER, TIGHTEST, Experiment, Figure, Options, Panel
from gnfast.paper.table import Row, Table
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
    law = dict(depth=point.depth, d=point.inputs, k=point.outputs, samples=1, seed=point.seed)
    found = ensemble.linear(point.width, bounds=("convex", "joint"), **law)
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

FIGURES = (TIGHTNESS, BEYOND_WIDTH)
