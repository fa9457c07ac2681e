"""What a point of a study costs before it is computed: flops and bytes from its shapes alone, as `plan` counts them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np

from gnfast.losses import LOSSES
from gnfast.operators.costs import dense_gram_costs, linear_dual_bytes, linear_dual_flops
from gnfast.study.grid import Point
from gnfast.study.jobs import Record

# In flops of a matrix product that take the same time: drawing a weight; the singular values of a matrix (m, n), over
# m^2 n; the eigenvalues of a symmetric matrix, over N^3; what any point takes.
DRAW, SINGULAR, SYMMETRIC, ANY = 500.0, 9.0, 4.0, 2e9
# The time is told as within this factor of what is expected, either way: four studies on a busy machine took 0.56 to 14
# times as long, which is no calibration; a range that is told is a guess.
ROUGH = 10.0


@dataclass(frozen=True)
class Cost:
    """Of one point: flops, in those of a matrix product, and bytes that it cannot spare."""

    flops: float
    memory: float


def cost(point: Point, shape: tuple[int, ...], quantities: Iterable[str]) -> Cost:
    """Return what a point costs on data of a shape (n, d)."""
    n, d = shape
    sizes = [d, *[point.width] * (point.depth - 1), point.outputs]
    shapes = [(out, into) for into, out in pairwise(sizes)]
    item, asked = np.dtype(point.dtype).itemsize, set(quantities)
    linear = point.activation == "identity" and point.loss == "mse"
    weights = float(sum(out * into for out, into in shapes))
    forward = float(n * sum(sizes[1:]) * item)
    flops, memory = ANY + DRAW * weights, weights * item
    if asked & {"condition", "eigenvalues"}:
        spaces = _spaces(point, shapes, n, item, forward)
        if linear:
            spaces.append(_linear_map(point, shapes, min(n, d + point.bias), item, "eigenvalues" in asked))
        cheapest = min(spaces, key=lambda space: space.flops)
        flops, memory = flops + cheapest.flops, memory + cheapest.memory
    elif not linear:
        memory += forward
    singular = SINGULAR * sum(min(each) ** 2 * max(each) for each in shapes)
    if asked & {"bounds", "forms"}:
        flops += linear_dual_flops(shapes, min(n, d)) if linear else singular
    if "partial_products" in asked:
        flops += 4 * singular
    return Cost(flops, memory)


def _linear_map(point: Point, shapes: list[tuple[int, int]], rank: int, item: int, stored: bool) -> Cost:
    size = float(point.outputs * rank)
    return Cost(
        linear_dual_flops(shapes, rank) + stored * SYMMETRIC * size**3,
        linear_dual_bytes(point.depth, point.outputs, rank, item) + stored * size**2 * item,
    )


def _spaces(point: Point, shapes: list[tuple[int, int]], n: int, item: int, forward: float) -> list[Cost]:
    """Return the costs in the spaces of samples and of parameters."""
    rank = LOSSES[point.loss].rank(point.outputs)
    size, p = float(n * rank), float(sum(out * into for out, into in shapes))
    gram = dense_gram_costs(shapes, n, rank, item, 0.0)
    return [
        Cost(gram.forming + SYMMETRIC * size**3, size**2 * item + gram.kept + forward),
        Cost(p * 6.0 * n * p + SYMMETRIC * p**3, p**2 * item + forward),
    ]


def speed(records: Iterable[Record], costs: Mapping[Any, Cost]) -> tuple[float, int]:
    """Return flops in a second by the points that are there, and how many these are; by a matrix product if none is."""
    known = [
        costs[record.point].flops / record.values["seconds"]
        for record in records
        if record.values and record.point in costs and isinstance(record.values["seconds"], float)
    ]
    if known:
        return median(known), len(known)
    A = np.ones((512, 512))
    A @ A  # the first one starts threads
    start = time.perf_counter()
    for _ in range(4):
        A @ A
    return 4 * 2 * 512**3 / (time.perf_counter() - start), 0


def duration(seconds: float) -> str:
    """A time for people."""
    for unit, name in ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:,.0f} {name}"
    return f"{seconds:.0f} seconds" if seconds >= 1.5 else "a second"
