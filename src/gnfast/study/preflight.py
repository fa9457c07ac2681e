"""Looks before the first point of a study: at its data, what it asks for, memory and time; all of it once."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from heapq import nlargest
from pathlib import Path
from typing import Any

import numpy as np

from gnfast import _checks, datasets
from gnfast._memory import machine_bytes, megabytes
from gnfast.ensemble.law import WIDEST
from gnfast.losses import check_loss
from gnfast.networks import initializers
from gnfast.study import quantities
from gnfast.study.costs import ROUGH, Cost, cost, duration, speed
from gnfast.study.grid import Point, Study
from gnfast.study.jobs import Job, Record
from gnfast.study.store import Store

STREAMED = 10**6  # units of networks that are not linear, whose neurons are all visited: minutes
SAMPLED = {"identity", "leaky_relu", *initializers.GAINS}  # activations of `gnfast width`
PROGRAM = 2e8  # bytes of the program and its libraries, data and results not counted


@dataclass(frozen=True)
class Outlook:
    """What a run of a job would do.

    Attributes:
        kept: Records with values that its results file has.
        missing: Points to compute.
        costs: Of those points whose data could be read here; of none unless the job is a `Study`.
        count: Points at once.
    """

    kept: Sequence[Record]
    missing: Sequence[Any]
    costs: Mapping[Any, Cost] = field(default_factory=dict)
    count: int = 1

    def lines(self) -> Iterator[str]:
        """Tell it: points, time and memory."""
        done, left = len(self.kept), len(self.missing)
        yield f"{_checks.counted(done + left, 'point')}: {done:,} done, {left:,} to compute"
        if left:
            yield f"time: {self._time()}"
            yield f"memory: {self._memory()}"
        yield "nothing was computed or written"

    def _time(self) -> str:
        if any(point not in self.costs for point in self.missing):
            return self._time_by_pace()
        flops, seen = speed(self.kept, self.costs)
        seconds = sum(self.costs[point].flops for point in self.missing) / flops
        by = f"the pace of the {_checks.counted(seen, 'point')} done" if seen else "the speed of a matrix product here"
        return (
            f"about {duration(seconds)}, {duration(seconds / ROUGH)} to {duration(seconds * ROUGH)} where nothing else "
            f"runs, from the counted operations and {by}"
        )

    def _time_by_pace(self) -> str:
        known = [
            (record.point.work, record.values["seconds"])
            for record in self.kept
            if record.values and isinstance(record.values.get("seconds"), float)
        ]
        if not known:
            return "not known before the first points are there; the command may be stopped and resumed"
        work, spent = (sum(part) for part in zip(*known, strict=True))
        pace = spent / work
        seconds = pace * sum(point.work for point in self.missing)
        return f"about {duration(seconds)}, by the pace of the {_checks.counted(len(known), 'point')} done"

    def _memory(self) -> str:
        if any(point not in self.costs for point in self.missing):
            return "not known before the first points are there"
        needed = sum(nlargest(self.count, (self.costs[point].memory for point in self.missing)))
        machine = machine_bytes()
        has = f"; this machine has {megabytes(machine)}" if machine else ""
        return f"about {megabytes(needed + self.count * PROGRAM)} at its height{has}"


def look(job: Job, results: Path, count: int = 1, here: bool = True) -> Outlook:
    """Look at all that a run needs, once, computing no point and writing nothing.

    Args:
        job: What is to be computed.
        results: Its file, which need not be there.
        count: Points at once on this machine.
        here: Whether points are computed on this machine; if not, its memory does not count, and data and extras that
            are not here may be there.

    Raises:
        FileNotFoundError, ImportError, TypeError, ValueError: Data that cannot be read or have no such samples, an
            extra that is missing, a loss or a quantity that the networks cannot have, another study's results.
        MemoryError: Networks or duals that exceed this machine's memory.
    """
    kept, missing = _kept(job, results)
    if not missing:
        return Outlook(kept, missing, {}, count)
    if not isinstance(job, Study):
        for place in job.sources.values():
            with suppress(*(() if here else (FileNotFoundError, ImportError))):
                _check_source(place)
        return Outlook(kept, missing, {}, count)
    _check_asked(job, missing)
    if here:
        _check_weights(job, missing)
    costs = _costs(job, [*missing, *(record.point for record in kept)], set(missing), here)
    found = Outlook(kept, missing, costs, count)
    if here:
        _check_duals(found)
    return found


def _kept(job: Job, results: Path) -> tuple[list[Record], list[Any]]:
    points = job.points()
    if not results.exists():
        return [], points
    with Store(results, job) as store:
        store.check_data()
        lacking = {point for some in store.missing(points).values() for point in some}
        kept = [record for record in store.read(points) if record.values is not None]
    return kept, [point for point in points if point in lacking]


def _check_source(place: str) -> None:
    if Path(place).is_dir():
        datasets.cifar10_files(place)
    else:
        datasets.load(place)


def _check_asked(study: Study, missing: Sequence[Point]) -> None:
    check_loss(study.loss, study.outputs)
    bent = dict.fromkeys(point.kind for point in missing if point.activation != "identity")
    if "partial_products" in study.quantities and bent:
        raise ValueError(
            f"quantities has 'partial_products', which are of linear networks, but kind is {', '.join(bent)}; leave it "
            "out, or give the linear networks a study file of their own"
        )


def _costs(study: Study, points: Sequence[Point], missing: set[Point], here: bool) -> dict[Point, Cost]:
    """Read the data of all points, each once; those of points that are done need not be there any more."""
    shapes: dict[tuple[str, int | None, str], tuple[int, ...] | None] = {}
    found = {}
    for point in points:
        inputs = datasets.place(point.data, study.base), point.samples, point.dtype
        if inputs not in shapes and point in missing:
            with suppress(*(() if here else (FileNotFoundError, ImportError))):
                shapes[inputs] = quantities.read(*inputs).shape
        shape = shapes.get(inputs)
        if shape is not None:
            found[point] = cost(point, shape, study.quantities)
    return found


def _check_weights(study: Study, missing: Sequence[Point]) -> None:
    """Refuse networks whose weights alone exceed this machine's memory: the widest is told, and what samples it."""
    machine = machine_bytes()
    large = [point for point in missing if machine is not None and weight_bytes(point) > machine]
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


def _check_duals(found: Outlook) -> None:
    machine = machine_bytes()
    needed = {point: found.costs[point].memory for point in found.missing if point in found.costs}
    if machine is None or not needed:
        return
    point = max(needed, key=lambda point: needed[point])
    if needed[point] > machine:
        raise MemoryError(
            f"samples and widths make a {point.kind} network of width {point.width:,} at depth {point.depth}, whose "
            f"curvature needs {megabytes(needed[point])} but this machine has {megabytes(machine)}; "
            "say fewer samples or narrower widths"
        )
    at_once = sum(nlargest(found.count, needed.values()))
    if at_once > machine:
        raise MemoryError(
            f"--workers is {found.count}, and so many points at once need up to {megabytes(at_once)} but this machine "
            f"has {megabytes(machine)}; say fewer workers"
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
