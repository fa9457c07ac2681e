"""What `gnfast width` computes: condition numbers of random networks at widths that nobody could store.

Beside them stand the infinitely wide network, the bound of the paper, and networks that exist.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from gnfast import _checks, ensemble, limits
from gnfast.ensemble.law import WIDEST
from gnfast.ensemble.results import Ensemble, FloatArray, quantiles
from gnfast.networks import Network, initializers, load
from gnfast.networks.layers import Activation
from gnfast.operators import GaussNewton
from gnfast.spectrum import cond
from gnfast.study import readers
from gnfast.study.jobs import REAL, SERIES, Keyed, Record, Values
from gnfast.study.quantities import PAPER_FORMS, inputs

CHUNK = 10  # draws of linear networks at once: what is made of the data is shared, and a stop loses little


@dataclass(frozen=True)
class Draws(Keyed):
    """Some independent networks of one width, by their numbers."""

    width: int
    first: int
    count: int

    @property
    def work(self) -> float:
        """Estimated work, to order points by."""
        return self.count


@dataclass(frozen=True)
class StreamedDraws(Draws):
    """Draws whose neurons are all visited."""

    @property
    def work(self) -> float:
        """Estimated work, to order points by."""
        return self.count * (10_000.0 + self.width)  # the rest costs about as much as so many neurons


@dataclass(frozen=True)
class WidthStudy:
    """Random networks of growing width on one data set.

    Args:
        data, samples, whiten: As in a `Study`.
        activation, slope, skip, depth, k: Of the networks; all hidden layers have one width.
        widths: Of them.
        draws: Networks for each width.
        seed: Draw number i of one width has much in common with that of any other: curves are smooth.
    """

    data: str
    samples: int | None
    whiten: bool
    activation: str
    slope: float
    skip: float
    depth: int
    k: int
    seed: int
    widths: tuple[int, ...] = field(compare=False)
    draws: int = field(compare=False)
    name: str = "width"

    def __post_init__(self) -> None:
        _checks.choice(self.activation, "activation", (*initializers.GAINS, "leaky_relu"))
        _checks.real(self.slope, "slope")
        _checks.real(self.skip, "skip")
        _checks.integer(self.depth, "depth", 2)
        _checks.integer(self.k, "k")
        for width in self.widths:
            readers.whole(1, WIDEST)(width, "widths")
        _checks.integer(self.draws, "draws")
        _checks.integer(self.seed, "seed", 0, 2**64 - 1)

    @property
    def is_linear(self) -> bool:
        """Whether the cost of a draw does not depend on the width."""
        return self.activation == "identity"

    @property
    def X(self) -> FloatArray:
        """The data."""
        return inputs(self.data, self.samples, self.whiten, "float64")[0]

    @property
    def _moment(self) -> FloatArray:
        return self.X.T @ self.X / len(self.X)

    @property
    def definition(self) -> str:
        """All but the widths and the number of draws: more of them go into the same file."""
        told = {name: value for name, value in asdict(self).items() if name not in ("widths", "draws", "name")}
        return json.dumps(told, sort_keys=True)

    @property
    def sources(self) -> Mapping[str, str]:
        """The data that it names."""
        return {self.data: self.data}

    @property
    def columns(self) -> Mapping[str, str]:
        """Names of its values, with their types."""
        return {"kappa": SERIES, "paper": SERIES, "rank": SERIES, "seconds": REAL}

    def points(self) -> list[Draws]:
        """Width by width, the narrow ones first."""
        kind, size = (Draws, CHUNK) if self.is_linear else (StreamedDraws, 1)
        firsts = range(0, self.draws, size)
        return [kind(width, i, min(size, self.draws - i)) for width in sorted(set(self.widths)) for i in firsts]

    def compute(self, point: Draws) -> Values:
        """The condition numbers of some draws, and the paper's bound on each."""
        found = self._draw(point)
        missing = np.full(point.count, np.inf)
        paper = next(
            (values for name, values in found.bounds.items() if name.replace("residual", "linear") in PAPER_FORMS),
            missing,
        )
        return {"kappa": found.kappa.tolist(), "paper": paper.tolist(), "rank": found.rank.astype(float).tolist()}

    def _draw(self, point: Draws) -> Ensemble:
        seed = int(np.random.SeedSequence((self.seed, point.first)).generate_state(1, np.uint64)[0])
        same: dict[str, Any] = {
            "depth": self.depth,
            "k": self.k,
            "skip": self.skip,
            "samples": point.count,
            "seed": seed,
        }
        if self.is_linear:
            return ensemble.linear(point.width, Sigma=self._moment, bounds=("convex",), **same)
        return ensemble.network(point.width, activation=self.activation, slope=self.slope, X=self.X, **same)

    def limit(self) -> tuple[float, str]:
        """kappa of infinitely wide networks; nan and the reason where there is no such number."""
        if self.is_linear:  # that of the data as draws see them, of the same rank: no matrix of all samples
            law = ensemble.LinearLaw(1, depth=self.depth, k=self.k, Sigma=self._moment)
            return float(law.inputs.scale[0] / law.inputs.scale[-1]) ** 2, ""
        try:
            found = limits.gram(self.X, self.depth, self.activation, slope=self.slope, skip=self.skip)
        except ValueError as error:
            return math.nan, str(error)
        return found.kappa, ""

    def __str__(self) -> str:
        names = {
            "identity": "linear",
            "leaky_relu": f"leaky ReLU (slope {self.slope:g})",
            "relu": "ReLU",
            "gelu": "GELU",
        }
        kind = names.get(self.activation, self.activation)
        skip = f", skip {self.skip:g}" * bool(self.skip)
        n, d = self.X.shape
        data = f"{Path(self.data).name}{', whitened' * self.whiten}"
        return f"{kind}, {self.depth} layers{skip}, k = {self.k}; {data}, {n:,} x {d}"


@dataclass(frozen=True)
class Row:
    """All draws of one width: quantiles of kappa (5, 50 and 95 %), the median of the paper's bound, the least rank."""

    width: int
    draws: int
    kappa: tuple[float, float, float]
    deviation: tuple[float, float, float]
    """Quantiles of |kappa / limit - 1|."""
    paper: float
    rank: int
    seconds: float
    """Of one draw, the mean."""


def summarise(records: Iterable[Record], limit: float) -> list[Row]:
    """One row for each width that has a draw."""
    found = [record for record in records if record.values is not None]
    return [_row(width, list(part), limit) for width, part in groupby(found, lambda record: record.point.width)]


def _row(width: int, records: Sequence[Record], limit: float) -> Row:
    def series(name: str) -> FloatArray:
        return np.concatenate([np.atleast_1d(record.values[name]) for record in records if record.values])

    def band(values: FloatArray) -> tuple[float, float, float]:
        low, middle, high = quantiles(values)
        return float(low), float(middle), float(high)

    kappa = series("kappa")
    return Row(
        width,
        len(kappa),
        band(kappa),
        band(np.abs(kappa / limit - 1)),
        band(series("paper"))[1],
        int(series("rank").min()),
        float(series("seconds").sum()) / len(kappa),
    )


@dataclass(frozen=True)
class Existing:
    """A network of the user's: its narrowest hidden layer, kappa(G) on the data, what it has other than those drawn."""

    name: str
    width: int
    kappa: float
    differs: str


def existing(path: str | Path, study: WidthStudy) -> Existing:
    """The point of a network that `Network.save` wrote.

    Raises:
        ValueError: No hidden layer, or other inputs than the data have.
    """
    net = load(path)
    hidden = net.widths[1:-1] if net.is_feedforward_dense else []
    if not hidden:
        raise ValueError(f"{str(path)!r} holds {net!r}, which has no hidden dense layers and so no width")
    kappa = cond(GaussNewton(net, study.X.astype(net.dtype))).value
    return Existing(Path(path).stem, min(hidden), kappa, ", ".join(_differences(net, study)))


def _differences(net: Network, study: WidthStudy) -> Iterator[str]:
    """What a chain of layers has other than the networks that a study draws."""

    def activation(name: str, slope: float) -> str:
        return f"{name} of slope {slope:g}" if name == "leaky_relu" else name

    layers = {activation(a.name, a.slope) for a in net.layers if isinstance(a, Activation) and not a.is_linear}
    hidden, skips = net.widths[1:-1], sorted({f"{layer.skip:g}" for layer in net.dense})
    for found, drawn in (
        (" and ".join(sorted(layers or {"identity"})), activation(study.activation, study.slope)),
        (f"{net.depth} layers", f"{study.depth} layers"),
        (f"k = {net.out_features}", f"k = {study.k}"),
        (f"skip {' and '.join(skips)}", f"skip {study.skip:g}"),
        ("biases" if any(layer.bias is not None for layer in net.dense) else "none", "none"),
        (f"hidden widths {', '.join(map(str, hidden))}" if len(set(hidden)) > 1 else "one", "one"),
    ):
        if found != drawn:
            yield found
