"""Checks before the first point of a study: that its networks fit in the memory of the machine that computes them."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np

from gnfast import datasets
from gnfast._memory import machine_bytes, megabytes
from gnfast.ensemble.law import WIDEST
from gnfast.networks import initializers
from gnfast.study.grid import Point, Study
from gnfast.study.store import Store

STREAMED = 10**6  # units of networks that are not linear, whose neurons are all visited: minutes
SAMPLED = {"identity", "leaky_relu", *initializers.GAINS}  # activations of `gnfast width`


def check_memory(study: Study, results: Path) -> None:
    """Refuse networks whose weights alone exceed this machine's memory, of those that a results file lacks.

    Args:
        study: what is to be computed here.
        results: its file, which need not be there.

    Raises:
        MemoryError: such a network; the widest is told, and how networks like it are sampled without weights.
    """
    machine = machine_bytes()
    large = [point for point in study.points() if machine is not None and weight_bytes(point) > machine]
    if large and results.exists():
        with Store(results, study) as store:
            large = [point for some in store.missing(large).values() for point in some]
    if machine is None or not large:
        return
    widths = sorted({point.width for point in large})
    point = max(large, key=weight_bytes)
    told = ", ".join(f"{width:,}" for width in widths[:5]) + ", ..." * (len(widths) > 5)
    raise MemoryError(
        f"widths has {told}, and the weights alone of width {point.width:,} at depth {point.depth} need "
        f"{megabytes(weight_bytes(point))} but this machine has {megabytes(machine)}; leave such widths out"
        + without_weights(point, study.base)
    )


def weight_bytes(point: Point) -> float:
    """Bytes of the weights of a point's network behind its first layer, whose size is that of data not read yet."""
    width, hidden = float(point.width), point.depth - 1
    weights = width * (point.outputs + 1) + width**2 * (hidden - 1) if hidden else float(point.outputs)
    return weights * np.dtype(point.dtype).itemsize


def without_weights(point: Point, base: str = "") -> str:
    """Say by which command networks like that of a point are sampled without weights; nothing where none does it."""
    usual = not point.bias and point.init == "kaiming_normal" and point.loss == "mse"
    if not usual or point.depth < 2 or point.activation not in SAMPLED:
        return ""
    linear = point.activation == "identity"
    width = min(point.width, WIDEST if linear else STREAMED)
    words = ["gnfast", "width", "--data", datasets.place(point.data, base), "--depth", point.depth, "--widths", width]
    words += ["--k", point.outputs]
    words += ["--activation", point.activation] * (not linear)
    words += ["--slope", point.slope] * (point.activation == "leaky_relu")
    words += ["--skip", point.beta] * (point.beta != 0)
    words += ["--samples", point.samples] * (point.samples is not None)
    words += ["--whiten"] * point.whiten
    how = "sample them without weights" if linear else "sample wide ones without weights"
    return f", or {how}: {shlex.join(map(str, words))}"
