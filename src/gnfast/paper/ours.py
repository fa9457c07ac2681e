"""Figures that the paper does not have: how tight the bounds are."""

from __future__ import annotations

import math
from collections.abc import Iterator

from gnfast.paper.claims import Claim, bounded, ordered
from gnfast.paper.figure import Figure, Options, Panel
from gnfast.paper.table import Row, Table
from gnfast.study import Family, Study

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

FIGURES = (TIGHTNESS,)
