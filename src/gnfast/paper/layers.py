"""The figures about other layers: batch normalisation, linear convolutions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gnfast import datasets, initializers
from gnfast.bounds.conv import conv_forms
from gnfast.convolutions import Conv2d
from gnfast.layers import Dense, Flatten, Layer
from gnfast.networks import Network
from gnfast.norms import BatchNorm
from gnfast.operators import GaussNewton
from gnfast.paper.claims import Claim, bounded, changes, ordered
from gnfast.paper.figure import Experiment, Figure, Line, Options, Panel
from gnfast.paper.table import Table
from gnfast.spectrum import cond
from gnfast.study.jobs import INTEGER, REAL, Keyed, Values

OUTPUTS = 10


# ---------------------------------------------------------------- 6. batch normalisation
@dataclass(frozen=True)
class NormPoint(Keyed):
    """One hidden linear layer, with batch normalisation by the batch's own statistics or without."""

    width: int
    norm: bool
    seed: int
    samples: int
    data: str = "digits"
    outputs: int = OUTPUTS

    @property
    def work(self) -> float:
        return 1e6 + self.norm * self.samples**2 * self.width


def _norm_values(point: NormPoint) -> Values:
    X = datasets.load(point.data, point.samples)
    shapes = [(point.width, X.shape[1]), (point.outputs, point.width)]
    V, W = initializers.weights("kaiming_normal", shapes, "identity", 0.0, point.seed, np.dtype(np.float64))
    normal: list[Layer] = [BatchNorm(training=True)] if point.norm else []
    found = cond(GaussNewton(Network([Dense(V), *normal, Dense(W)]), X))
    return {"kappa": float(found.value), "rank": int(found.rank), "dimension": int(found.dimension)}


def _batch_norm(options: Options) -> Experiment:
    samples, widths = options.of((80, (80, 160, 320)), (200, (80, 160, 320, 640)), (1000, (80, 160, 320, 640, 1280)))
    grid = [
        NormPoint(m, norm, seed, samples, outputs=options.of(3, 10, 10))
        for seed in range(3)
        for m in widths
        for norm in (False, True)
    ]
    return Experiment("batch-norm", tuple(grid), _norm_values, {"kappa": REAL, "rank": INTEGER, "dimension": INTEGER})


def _with(norm: bool) -> str:
    return "with" if norm else "without"


def _batch_norm_claims(table: Table) -> list[Claim]:
    without, with_norm = sorted(table.curves("width", "kappa", "norm"), key=lambda curve: bool(curve.by))
    return [
        ordered(
            [(f"{_with(curve.by)}, m = {curve.x[i]}", curve.y[i]) for curve in (without, with_norm)],
            "batch normalisation lowers kappa",
        )
        for i in (0, -1)
    ]


BATCH_NORM = Figure(
    "batch-norm",
    "One hidden linear layer with and without batch normalisation",
    "batch normalisation lowers kappa at every width",
    _batch_norm,
    [Panel("width", "kappa", "norm", "width $m$", label=_with, scales=("log", "log"))],
    _batch_norm_claims,
)


# ---------------------------------------------------------------- 7. linear convolutional networks
@dataclass(frozen=True)
class ConvPoint(Keyed):
    """Two convolutions without anything between them."""

    filters: int
    kernel: int
    seed: int
    samples: int
    data: str
    outputs: int = 1


def _conv_values(point: ConvPoint) -> Values:
    X = datasets.load(point.data, point.samples).reshape(-1, 3, 32, 32)
    size = point.kernel**2
    shapes = [(point.filters, 3 * size), (point.outputs, point.filters * size)]
    first, second = initializers.weights("kaiming_normal", shapes, "identity", 0.0, point.seed, np.dtype(np.float64))
    shape = (-1, point.kernel, point.kernel)
    net = Network(
        [Conv2d(first.reshape(point.filters, *shape)), Conv2d(second.reshape(point.outputs, *shape)), Flatten()]
    )
    paper, jacobian, joint = conv_forms(net, X, ("convex", "jacobian", "joint"))
    return {
        "kappa": float(cond(GaussNewton(net, X)).value),
        "network": float(np.max(jacobian.parts["kappa_ghat"])),
        "paper": float(paper.value),
        "jacobian": float(jacobian.value),
        "joint": float(joint.value),
    }


def _cnn(options: Options) -> Experiment:
    samples, kernels, filters = options.of(
        (40, (2, 3), (3, 12, 48)), (200, (2, 3, 4, 5), (3, 10, 30, 100)), (1000, (2, 3, 4, 5, 6), (3, 10, 30, 100, 300))
    )
    grid = [
        ConvPoint(count, kernel, seed, samples, options.images)
        for seed in range(3)
        for kernel in kernels
        for count in filters
    ]
    return Experiment(
        "cnn", tuple(grid), _conv_values, dict.fromkeys(("kappa", "network", "paper", "jacobian", "joint"), REAL)
    )


def _filters(count: int) -> str:
    return f"{count} filters"


def _kernel(size: int) -> str:
    return f"{size} x {size}"


def _cnn_claims(table: Table) -> list[Claim]:
    found = [bounded(table, ("paper", "jacobian", "joint"))]
    for column, words in (("kappa", "kappa"), ("network", "without the data, kappa(U U^T)")):
        by_kernel, by_filters = table.curves("filters", column, "kernel"), table.curves("kernel", column, "filters")
        grows, falls = (
            f"more filters act as depth does in an MLP: {words} grows",
            f"larger kernels act as width: {words} falls",
        )
        found += [changes(by_kernel, 1, grows, _kernel, words), changes(by_filters, -1, falls, _filters, words)]
    return found


JACOBIAN = Line("jacobian", "our bound, of the whole kernel", ":")
CONVEX = Line("paper", "bound layer by layer", "--")
CNN = Figure(
    "cnn",
    "Two linear convolutions: kernel size and number of filters",
    "more filters act like depth in an MLP, larger kernels like width",
    _cnn,
    [
        Panel("filters", "kappa", "kernel", "filters", label=_kernel, lines=(CONVEX, JACOBIAN), scales=("log", "log")),
        Panel("kernel", "kappa", "filters", "kernel size", label=_filters),
        Panel("kernel", "network", "filters", "kernel size", r"without the data, $\kappa(UU^T)$", label=_filters),
    ],
    _cnn_claims,
)

FIGURES = (BATCH_NORM, CNN)
