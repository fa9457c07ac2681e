"""The figures about dense networks: width, depth, skips, slopes, whitening, partial products."""

from __future__ import annotations

import math
from typing import Any

from gnfast.paper.claims import (
    Claim,
    across,
    bounded,
    changes,
    each_step,
    equal,
    everywhere,
    falls_with_width,
    geometric,
    ordered,
    quotient,
    steeper,
    trend,
)
from gnfast.paper.figure import BOUND_COLUMNS, BOUNDS, PAPER, Figure, Line, Options, Panel, named
from gnfast.paper.table import Curve, Row, Seeds, Table
from gnfast.study import Family, Study

LINEAR = (Family(("linear",)),)
SEEDS = (0, 1, 2)


def _digits(options: Options) -> dict[str, Any]:
    """MNIST, or a few of scikit-learn's digits where seconds count; whitened."""
    few = {"data": "digits", "samples": 600}
    found: dict[str, Any] = options.of(few, {"data": "mnist"}, {"data": "mnist"})
    return found | {"whiten": True}


_m, _slope = named("m"), named("slope")


def _at(curves: list[Curve], place: int, name: Any) -> list[tuple[str, Seeds]]:
    """The values of all seeds at one place of each curve, with the curve's name."""
    return [(name(curve.by), curve.y[place]) for curve in curves]


# ---------------------------------------------------------------- 1. depth and width
def _depth_width(options: Options) -> Study:
    return Study(
        name="depth-width",
        networks=LINEAR,
        widths=options.of((80, 160, 320), (800, 1500, 3000), (800, 1200, 2000, 3000)),
        depths=options.of((2, 4, 6), (2, 4, 6, 8, 10), tuple(range(1, 21))),
        seeds=SEEDS,
        **_digits(options),
    )


def _depth_width_claims(table: Table) -> list[Claim]:
    curves = table.curves("depth", "kappa", "width")
    deep = Table(row for row in table.rows if row["depth"] > 1)  # with a hidden layer
    return [
        trend(curves, 1, "at fixed width kappa grows with depth", label=_m),
        falls_with_width(deep.curves("width", "kappa", "depth"), "at fixed depth kappa falls with width", named("L")),
        everywhere(
            across(deep.curves("depth", "kappa", "width"), lambda width, depth: f"{_m(width)}, L = {depth}"),
            "at fixed depth kappa falls from each width to the next",
        ),
        bounded(table, BOUND_COLUMNS),
    ]


DEPTH_WIDTH = Figure(
    "depth-width",
    "Condition number against depth for several widths, linear networks",
    "kappa grows with depth at fixed width, and falls with width; the bound follows it closely",
    _depth_width,
    [Panel("depth", "kappa", "width", "depth $L$", label=_m, lines=BOUNDS)],
    _depth_width_claims,
)


# ---------------------------------------------------------------- 2. width proportional to depth
def _growth(row: Row) -> str:
    """How the width of a network follows from its depth; the fixed width is no multiple of any."""
    factor, rest = divmod(row["width"], row["depth"])
    return f"m = {row['width']:,}" if rest else f"m = {factor} L"


def _scaling(options: Options) -> Study:
    """On digits at every setting: whitened data enter by their dimension alone, and widths in proportion to that of
    MNIST, 653, would need 10 GB of weights. No width is below the dimension of the digits, 61: there kappa explodes.
    """
    factors = options.of((40, 80), (40, 80, 160), (40, 80, 160))
    return Study(
        name="scaling",
        networks=LINEAR,
        widths=(*(f"{factor}L" for factor in factors), 2 * factors[-1] + 1),
        depths=options.of((2, 4, 6, 8), (2, 4, 6, 8, 10, 12), tuple(range(2, 21, 2))),
        seeds=SEEDS,
        data=("digits",),
        samples=(options.of(600, 1797, 1797),),
        whiten=(True,),
    )


def _scaling_claims(table: Table) -> list[Claim]:
    curves = table.curves("depth", "kappa", _growth)
    scaled = [curve for curve in curves if curve.by.endswith("L")]
    [fixed] = [curve for curve in curves if not curve.by.endswith("L")]
    widest = scaled[-1]
    half = len(widest.x) // 2
    return [
        steeper(fixed, scaled, "kappa grows more slowly where the width grows with the depth"),
        changes([widest], -1, "with the largest factor kappa falls with depth"),
        Claim(
            "with the largest factor kappa levels off: over the deeper half it changes by less than a tenth",
            f"kappa from {geometric(widest.y[half])} for L = {widest.x[half]} to {geometric(widest.y[-1])} for "
            f"L = {widest.x[-1]}",
            abs(quotient(widest.y[-1], widest.y[half]).value) < math.log(1.1),
        ),
        everywhere(
            across(scaled, lambda factor, depth: f"{factor}, L = {depth}"),
            "the more units for each layer, the smaller kappa, at every depth",
        ),
        bounded(table, BOUND_COLUMNS),
    ]


SCALING = Figure(
    "scaling",
    "Width in proportion to depth, linear networks",
    "scaling the width with the depth slows the growth of kappa, and a large factor even improves it",
    _scaling,
    [Panel("depth", "kappa", _growth, "depth $L$", lines=BOUNDS)],
    _scaling_claims,
)


# ---------------------------------------------------------------- 3. one hidden layer
def _convex(options: Options) -> Study:
    return Study(
        name="convex",
        networks=LINEAR,
        widths=options.of((80, 160, 320), (800, 1600, 3200), (800, 1000, 1500, 2000, 3000, 4000, 6000)),
        depths=(2,),
        seeds=SEEDS,
        quantities=("condition", "forms"),
        **_digits(options),
    )


def _convex_claims(table: Table) -> list[Claim]:
    curves = table.curves("width", "kappa", "depth")
    return [
        equal(table, "convex", "for whitened data the convex combination is kappa itself"),
        falls_with_width(curves, "kappa falls with width", lambda depth: "one hidden layer"),
        each_step(curves, lambda depth: "one hidden layer"),
        bounded(table, ("convex", "loose", "joint")),
    ]


CONVEX = Figure(
    "convex",
    "One hidden layer: the convex combination against the loose bound",
    "kappa is a convex combination of the layers' squared condition numbers; their maximum is far above it",
    _convex,
    [
        Panel(
            "width",
            "kappa",
            "depth",
            "width $m$",
            label=lambda depth: "exact",
            lines=(Line("convex", "convex combination", "--"), Line("loose", "loose: the largest of the two", ":")),
            scales=("log", "log"),
        )
    ],
    _convex_claims,
)


# ---------------------------------------------------------------- 4. residual networks
def _residual(options: Options) -> Study:
    return Study(
        name="residual",
        networks=(Family(("linear",), skip=(0, "1/L", "1/sqrt(L)", 0.5, 1, 2)),),
        widths=options.of((100,), (1000,), (1500,)),
        depths=options.of((2, 5), (2, 4, 6, 8, 10), tuple(range(2, 21, 2))),
        seeds=SEEDS,
        **_digits(options),
    )


def _skip(value: Any) -> str:
    return f"β = {value.replace('sqrt(L)', '√L')}" if isinstance(value, str) else f"β = {value:g}"


def _residual_claims(table: Table) -> list[Claim]:
    curves = {curve.by: curve for curve in table.curves("depth", "kappa", "skip")}
    none, skips = curves[0.0], (1.0, 2.0, 0.5, "1/sqrt(L)", "1/L")
    return [
        steeper(none, [curves[skip] for skip in skips], "skip connections slow the growth of kappa with depth", _skip),
        steeper(none, [curves[2.0]], "skip connections slow the growth of kappa with depth; only the strongest", _skip),
        everywhere(
            (
                place
                for skip in skips
                for place in across([none, curves[skip]], lambda by, depth: f"{_skip(by)}, L = {depth}")
            ),
            "skip connections lower kappa, of every strength and at every depth",
        ),
        *(
            ordered(
                _at([none, curves[skip]], -1, _skip),
                f"skip connections lower kappa; only {_skip(skip)} at the largest depth",
            )
            for skip in skips
        ),
        bounded(table, BOUND_COLUMNS),
    ]


RESIDUAL = Figure(
    "residual",
    "Skip connections of several strengths, linear networks",
    "skip connections lower kappa and slow its growth with depth",
    _residual,
    [Panel("depth", "kappa", "skip", "depth $L$", label=_skip, lines=(PAPER,))],
    _residual_claims,
)


# ---------------------------------------------------------------- 5. leaky ReLU
def _leaky_relu(options: Options) -> Study:
    slopes = options.of((0, 0.3, 0.8), (0, 0.1, 0.5, 0.9), (0, 0.1, 0.3, 0.5, 0.9))
    return Study(
        name="leaky-relu",
        networks=(Family(("leaky_relu",), slope=slopes),),
        widths=options.of((64, 256, 1024), (256, 1024, 4096), (128, 256, 512, 1024, 2048, 4096)),
        depths=(2,),
        seeds=SEEDS,
        data=options.of("digits", "mnist", "mnist"),
        samples=options.of(25, 100, 300),
        quantities=("condition", "bounds", "data", "forms"),
    )


def _leaky_relu_claims(table: Table) -> list[Claim]:
    curves = table.curves("width", "kappa", "slope")
    return [
        falls_with_width(curves, "kappa falls with width, whatever the slope", _slope),
        each_step(curves, _slope),
        bounded(table, ("relu", "tightest")),
    ]


LEAKY_RELU = Figure(
    "leaky-relu",
    "One hidden layer of leaky ReLU, several slopes",
    "kappa falls with width; the bound follows it for every slope",
    _leaky_relu,
    [Panel("width", "kappa", "slope", "width $m$", label=_slope, lines=BOUNDS, scales=("log", "log"))],
    _leaky_relu_claims,
)


# ---------------------------------------------------------------- 11. whitening
def _whitening(options: Options) -> Study:
    return Study(
        name="whitening",
        networks=LINEAR,
        widths=options.of((310,), (3100,), (3100,)),
        depths=options.of((2, 4, 6), (2, 4, 6), tuple(range(1, 11))),
        seeds=SEEDS,
        **(_digits(options) | {"whiten": (True, False)}),
    )


def _whitened(value: bool) -> str:
    return "whitened" if value else "raw data"


def _whitening_claims(table: Table) -> list[Claim]:
    curves = sorted(table.curves("depth", "kappa", "whiten"), key=lambda curve: bool(curve.by))
    kappa_data = max(table.column("kappa_data"))
    factors = [a / b for a, b in zip(curves[0].middle, curves[1].middle, strict=True)]
    return [
        everywhere(across(curves, lambda _, depth: f"L = {depth}"), "whitening lowers kappa, at every depth"),
        Claim(
            "it does so by about kappa(Sigma) of the data, at every depth",
            f"factors {min(factors):.3g} to {max(factors):.3g}, kappa(Sigma) {kappa_data:.3g}",
            all(0.1 < factor / kappa_data < 10 for factor in factors),
        ),
        bounded(table, BOUND_COLUMNS),
    ]


WHITENING = Figure(
    "whitening",
    "With and without whitening, linear networks",
    "the data's condition number multiplies the network's; whitening takes it away",
    _whitening,
    [Panel("depth", "kappa", "whiten", "depth $L$", label=_whitened, lines=BOUNDS)],
    _whitening_claims,
)


# ---------------------------------------------------------------- 12. partial products
def _partial_products(options: Options) -> Study:
    return Study(
        name="partial-products",
        networks=LINEAR,
        widths=options.of((100, 400), (800, 3000), (800, 1500, 3000)),
        depths=options.of((8,), (10,), (20,)),
        seeds=options.of(SEEDS, SEEDS, tuple(range(8))),
        quantities=("partial_products",),
        **_digits(options),
    )


def _partial_products_claims(table: Table) -> list[Claim]:
    long = "the more layers a partial product has, the worse its condition"
    least = "and the smaller its smallest singular value"
    growing, shrinking = table.curves("layer", "kappa_before", "width"), table.curves("layer", "kappa_after", "width")
    falling, rising = (table.curves("layer", f"smallest_{side}", "width") for side in ("before", "after"))
    return [
        trend(growing, 1, f"{long}: W_l ... W_1", unit="d log kappa / d l", label=_m),
        trend(shrinking, -1, f"{long}: W_L ... W_{{l+1}}", unit="d log kappa / d l", label=_m),
        trend(falling, -1, f"{least}: W_l ... W_1", unit="d log s_min / d l", label=_m),
        trend(rising, 1, f"{least}: W_L ... W_{{l+1}}", unit="d log s_min / d l", label=_m),
    ]


PARTIAL_PRODUCTS = Figure(
    "partial-products",
    "Partial products of the weights of linear networks",
    "the condition of partial products grows with their length, because their smallest singular values fall",
    _partial_products,
    [
        Panel("layer", "kappa_before", "width", "layer $l$", r"$\kappa(W_l \cdots W_1)$", label=_m),
        Panel("layer", "kappa_after", "width", "layer $l$", r"$\kappa(W_L \cdots W_{l+1})$", label=_m),
        Panel("layer", "smallest_before", "width", "layer $l$", r"$\sigma_{\min}(W_l \cdots W_1)$", label=_m),
        Panel("layer", "smallest_after", "width", "layer $l$", r"$\sigma_{\min}(W_L \cdots W_{l+1})$", label=_m),
    ],
    _partial_products_claims,
)

FIGURES = (DEPTH_WIDTH, SCALING, CONVEX, RESIDUAL, LEAKY_RELU, WHITENING, PARTIAL_PRODUCTS)
