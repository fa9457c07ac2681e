"""The figures that train: spectra before and after, kappa and loss through training, pruned networks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnfast import datasets, thresholds
from gnfast.bounds.linear import linear_forms
from gnfast.networks import Network, mlp
from gnfast.networks.architectures import resnet20
from gnfast.networks.pruning import prune
from gnfast.operators import GaussNewton
from gnfast.paper.claims import Claim, bounded, changes, falls_with_width, ordered, trend
from gnfast.paper.figure import BOUND_COLUMNS, BOUNDS, PAPER, Experiment, Figure, Options, Panel, named
from gnfast.paper.images import CLASSES, grey
from gnfast.paper.table import Row, Table
from gnfast.spectrum import cond
from gnfast.study.jobs import INTEGER, REAL, SERIES, Keyed, Values

Array = NDArray[Any]


def descend(net: Network, X: Array, Y: Array, rate: float, batch: int, steps: int) -> Iterator[tuple[int, Network]]:
    """Stochastic gradient descent on the mean of 1/2 |F(x) - y|^2: yield (0, net), (1, net after a step), ...

    Args:
        net: where it begins; a pruned network keeps its zeros.
        X, Y: samples and targets (n, k), of the network's dtype.
        rate: of learning.
        batch: samples of a step; all orders are drawn from the same seed.
        steps: how many.
    """
    yield 0, net
    random = np.random.default_rng(0)
    order = random.permutation(len(X))
    for step in range(1, steps + 1):
        if len(order) < batch:
            order = random.permutation(len(X))
        rows, order = order[:batch], order[batch:]
        inputs = np.ascontiguousarray(X[rows])
        gradient = GaussNewton(net, inputs).jacobian().T @ ((net(inputs) - Y[rows]) / batch).ravel()
        flat = np.concatenate([array.ravel() for array in net.parameters()])
        flat[slice(None) if net.kept is None else net.kept] -= rate * gradient
        arrays, first = [], 0
        for array in net.parameters():
            arrays.append(flat[first : first + array.size].reshape(array.shape))
            first += array.size
        net = net.with_parameters(arrays)
        yield step, net


def loss_of(net: Network, X: Array, Y: Array) -> float:
    """Half of the mean squared distance of the outputs from Y."""
    return float(((net(X) - Y) ** 2).sum() / (2 * len(X)))


def _step(row: Row) -> str:
    return "at initialisation" if row["step"] == 0 else "after training"


# ---------------------------------------------------------------- 8. spectrum
ORDERS = 4  # orders of magnitude


@dataclass(frozen=True)
class SpectrumPoint(Keyed):
    """A linear network at initialisation, or after so many steps of training."""

    width: int
    step: int
    seed: int
    data: str
    samples: int
    size: int = 8
    whiten: bool = False
    depth: int = 3
    rate: float = 0.02


def _eigenvalues(point: SpectrumPoint) -> Values:
    X, Y = grey(point.data, point.samples, point.size, point.whiten)
    widths = [X.shape[1], *[point.width] * (point.depth - 1), CLASSES]
    net = mlp(widths, activation="identity", seed=point.seed)
    *_, (_, net) = descend(net, X, Y, point.rate, len(X), point.step)
    values = np.linalg.eigvalsh(GaussNewton(net, X).dual().to_dense())[::-1]
    values = values[values > thresholds.zero_threshold(values[0], len(values), values.dtype)]
    return {
        "number": [float(i) for i in range(1, len(values) + 1)],
        "eigenvalue": [float(value) for value in values],
        "kappa_at": [float(values[0] / value) for value in values],
    }


def _spectrum(options: Options) -> Experiment:
    width, samples, steps = options.of((100, 200, 50), (300, 1000, 500), (500, 1797, 2000))
    grid = [SpectrumPoint(width, step, seed, "digits", samples) for seed in range(3) for step in (0, steps)]
    types = dict.fromkeys(("number", "eigenvalue", "kappa_at"), SERIES)
    return Experiment("spectrum", tuple(grid), _eigenvalues, types)


def _spectrum_claims(table: Table) -> list[Claim]:
    curves = {curve.by: curve for curve in table.curves("number", "eigenvalue", _step)}
    before, after = curves["at initialisation"], curves["after training"]
    spectra = [np.array([y for _, y in line]) for curve in (before, after) for line in curve.lines.values()]
    rank = min(map(len, spectra))
    short = max(1, round(0.9 * rank))
    moved = np.divide(after.middle[:rank], before.middle[:rank])
    lost = np.array([s[short - 1] / s[rank - 1] for s in spectra])
    falls, gaps = np.array([(s[0] / s[-1], (s[:-1] / s[1:]).max()) for s in spectra]).T
    return [
        Claim(
            f"eigenvalues fall over {ORDERS} orders of magnitude or more",
            f"largest / smallest from {falls.min():.3g} to {falls.max():.3g} over seeds, before and after training",
            bool(falls.min() >= 10**ORDERS),
        ),
        Claim(
            "without a gap: each is less than ten times the next one",
            f"largest quotient of neighbours from {gaps.min():.3g} to {gaps.max():.3g}",
            bool(gaps.max() < 10),
        ),
        Claim(
            "kappa depends on the rank that is assumed: a tenth of the eigenvalues less makes it less than a tenth",
            f"kappa for rank {rank} is {lost.min():.3g} to {lost.max():.3g} times that for rank {short}",
            bool(lost.min() > 10),
        ),
        Claim(
            "training moves no ordered eigenvalue by an order of magnitude",
            f"factors from {moved.min():.3g} to {moved.max():.3g}",
            bool(moved.min() > 0.1 and moved.max() < 10),
        ),
    ]


SPECTRUM = Figure(
    "spectrum",
    "Ordered eigenvalues at initialisation and after training, three-layer linear networks",
    "eigenvalues fall over many orders without a gap, so that kappa depends on the rank that is assumed",
    _spectrum,
    [
        Panel("number", "eigenvalue", _step, "number by size", r"eigenvalue of $G$"),
        Panel("number", "kappa_at", _step, "assumed rank $r$", r"$\lambda_1 / \lambda_r$"),
    ],
    _spectrum_claims,
)


# ---------------------------------------------------------------- 9. training
@dataclass(frozen=True)
class TrainingPoint(Keyed):
    """A linear network through stochastic gradient descent; its values are series over steps.

    The rate is that of PyTorch's SGD on its MSELoss, the mean of squares over samples and outputs, which is 2 / k times
    our loss: the paper's 0.2 is 0.04 in ours. On 1,000 whitened photographs of 8 x 8 pixels it converges with batches
    of 100, with kappa from 6 to 11 in 30 epochs, and diverges with batches of 32.
    """

    width: int
    depth: int
    seed: int
    data: str
    size: int
    samples: int
    steps: int
    every: int
    rate: float
    batch: int = 100
    whiten: bool = True

    @property
    def work(self) -> float:
        """Estimated work, to order points by."""
        return 1e6 + self.steps * self.width * (self.depth * self.width + self.size**2)


def _training_values(point: TrainingPoint) -> Values:
    X, Y = grey(point.data, point.samples, point.size, point.whiten)
    widths = [X.shape[1], *[point.width] * (point.depth - 1), CLASSES]
    net = mlp(widths, activation="identity", seed=point.seed)
    found: dict[str, Any] = {name: [] for name in ("step", "loss", "kappa", "paper", "tightest")}
    for step, now in descend(net, X, Y, point.rate * 2 / CLASSES, point.batch, point.steps):
        if step % point.every == 0:
            convex, joint = linear_forms(now, X, ("convex", "joint"))
            kappa = float(cond(GaussNewton(now, X)).value)
            row = (float(step), loss_of(now, X, Y), kappa, float(convex.value), float(joint.value))
            for name, value in zip(found, row, strict=True):
                found[name].append(value)
    return found


def _training(options: Options) -> Experiment:
    samples, steps, every = options.of((300, 30, 10), (1000, 100, 10), (1000, 300, 10))
    deep, narrow = options.of((150, (20, 70, 200)), (500, (15, 50, 100, 200)), (500, (15, 20, 50, 100, 150, 200)))
    shared = dict(samples=samples, steps=steps, every=every)
    grid = [TrainingPoint(deep, 3, seed, options.images, 8, rate=0.2, **shared) for seed in range(3)]
    grid += [TrainingPoint(m, 2, seed, "mnist", 7, rate=0.1, **shared) for seed in range(3) for m in narrow]
    types = dict.fromkeys(("step", "loss", "kappa", "paper", "tightest"), SERIES)
    return Experiment("training", tuple(grid), _training_values, types)


_m = named("m")


def _training_claims(table: Table) -> list[Claim]:
    deep, narrow = table.where(depth=3), table.where(depth=2)
    kappas = narrow.curves("step", "kappa", "width")
    losses = narrow.curves("step", "loss", "width")
    [through] = deep.curves("step", "kappa", "width")
    factors = np.divide(deep.column("paper"), deep.column("kappa"))
    moved = float(np.max(through.middle) / np.min(through.middle))
    ends = ((0, "at the beginning"), (-1, "at the end"))
    return [
        changes(deep.curves("step", "loss", "width"), -1, "the three-layer network is trained", _m, "loss"),
        Claim(
            "its kappa stays within a factor of two and a half through training",
            f"median from {min(through.middle):.3g} to {max(through.middle):.3g}",
            moved < 2.5,
        ),
        Claim(
            "and the bound stays near it",
            f"paper / exact from {factors.min():.3g} to {factors.max():.3g}",
            bool(factors.max() < 2.5),
        ),
        *(
            falls_with_width(
                narrow.curves("width", words, "step")[first:],
                f"the wider the two-layer network, the smaller its {words}, at every step",
                lambda step: f"step {step:.0f}",
                words,
            )
            for words, first in (("kappa", 0), ("loss", 1))
        ),
        *(
            ordered(
                [(_m(curves[i].by), curves[i].y[place]) for i in (0, -1)],
                f"the wider the two-layer network, the smaller its {words}; only the two ends, {when}",
                words,
            )
            for curves, words in ((kappas, "kappa"), (losses, "loss"))
            for place, when in ends
            if words == "kappa" or place
        ),
        bounded(table, BOUND_COLUMNS),
    ]


TRAINING = Figure(
    "training",
    "Through training by stochastic gradient descent: linear networks of three layers (above) and two (below)",
    "kappa changes little and its bound stays near it; wider networks have a smaller kappa and are trained faster",
    _training,
    [
        Panel("step", "loss", "width", "step", "loss", _m, "three layers", where={"depth": 3}),
        Panel(
            "step",
            "kappa",
            "width",
            "step",
            label=_m,
            title="three layers",
            lines=BOUNDS,
            where={"depth": 3},
        ),
        Panel("step", "loss", "width", "step", "loss", _m, "two layers", where={"depth": 2}),
        Panel("step", "kappa", "width", "step", label=_m, title="two layers", lines=(PAPER,), where={"depth": 2}),
    ],
    _training_claims,
)


# ---------------------------------------------------------------- 10. pruning
@dataclass(frozen=True)
class PruningPoint(Keyed):
    """A ResNet-20 without a fraction of each layer's weights, through training in float32.

    kappa is that at initialisation, of the mean squared error over a few images and with the statistics of these as
    batch, in float64. A row of the Jacobian is a product with the whole batch, which limits the number of images.

    At a rate of 0.05 the first steps throw the loss up, by PyTorch's gradients as by ours, and that of the whole
    network further than that of a pruned one, which is ahead of it from then on.
    """

    fraction: float
    seed: int
    data: str
    samples: int
    steps: int
    every: int
    images: int
    channels: int
    rate: float = 0.01
    batch: int = 32

    def network(self, dtype: str) -> Network:
        """ResNet-20, pruned by magnitude in each layer."""
        whole = resnet20(width=self.channels, seed=self.seed, training=True, dtype=dtype)
        return prune(whole, self.fraction, scope="layer")


def _pruning_values(point: PruningPoint) -> Values:
    images, classes = datasets.load_labelled(point.data, point.samples)
    images = (images - images.mean()).reshape(len(images), 3, 32, 32)
    some = np.ascontiguousarray(images[:: len(images) // point.images][: point.images])
    condition = cond(GaussNewton(point.network("float64"), some))
    found: dict[str, Any] = {"kappa": float(condition.value), "rank": int(condition.rank), "step": [], "loss": []}
    X, Y = images.astype(np.float32), np.eye(CLASSES, dtype=np.float32)[classes]
    for step, now in descend(point.network("float32"), X, Y, point.rate, point.batch, point.steps):
        if step % point.every == 0:
            found["step"].append(float(step))
            found["loss"].append(loss_of(now, X, Y))
    return found


def _pruning(options: Options) -> Experiment:
    samples, steps, every, images, channels = options.of((16, 6, 2, 3, 4), (128, 60, 10, 10, 8), (256, 200, 20, 20, 16))
    fractions = options.of((0.0, 0.4, 0.8), (0.0, 0.2, 0.4, 0.6, 0.8), (0.0, 0.2, 0.4, 0.6, 0.8))
    grid = [
        PruningPoint(fraction, seed, options.images, samples, steps, every, images, channels)
        for seed in range(3)
        for fraction in fractions
    ]
    types = {"kappa": REAL, "rank": INTEGER, "step": SERIES, "loss": SERIES}
    return Experiment("pruning", tuple(grid), _pruning_values, types)


def _pruned(fraction: float) -> str:
    return f"{fraction:.0%} pruned"


def _pruning_claims(table: Table) -> list[Claim]:
    kappas = table.where(step=0.0).curves("fraction", "kappa", lambda row: "ResNet-20")
    losses = table.curves("step", "loss", "fraction")
    last, first, words = losses[-1], losses[0], "loss at the end"
    return [
        trend(
            kappas, 1, "kappa at initialisation grows with the part of the weights pruned", unit="d log kappa / d part"
        ),
        changes(kappas, 1, "kappa at initialisation grows with the part of the weights pruned; only the two ends"),
        trend(
            table.where(step=max(table.column("step"))).curves("fraction", "loss", lambda row: "the last step"),
            1,
            "the more weights are pruned, the slower is training",
            unit="d log loss / d part",
        ),
        ordered(
            [(_pruned(curve.by), curve.y[-1]) for curve in (last, first)],
            "the more weights are pruned, the slower is training; only the two ends",
            words,
        ),
    ]


PRUNING = Figure(
    "pruning",
    "ResNet-20, the smallest weights of each layer pruned at initialisation",
    "pruning raises kappa and slows training",
    _pruning,
    [
        Panel("fraction", "kappa", lambda row: "", "fraction pruned"),
        Panel("step", "loss", "fraction", "step", "training loss", _pruned),
    ],
    _pruning_claims,
)

FIGURES = (SPECTRUM, TRAINING, PRUNING)
