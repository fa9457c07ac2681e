"""The figures about other layers: batch normalisation, linear convolutions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnfast import thresholds
from gnfast.bounds.conv import conv_forms
from gnfast.bounds.linear import linear_forms
from gnfast.networks import Network, initializers
from gnfast.networks.convolutions import Conv1d
from gnfast.networks.layers import Dense, Flatten, Layer
from gnfast.networks.norms import BatchNorm
from gnfast.operators import GaussNewton
from gnfast.paper.claims import Claim, across, bounded, changes, each_step, equal, everywhere, falls_with_width
from gnfast.paper.figure import Experiment, Figure, Options, Panel, named
from gnfast.paper.images import CLASSES, grey
from gnfast.paper.table import Table
from gnfast.spectrum import cond
from gnfast.study.jobs import INTEGER, REAL, Keyed, Values

Array = NDArray[Any]
FLOAT64 = np.dtype(np.float64)


# ---------------------------------------------------------------- 6. batch normalisation
@dataclass(frozen=True)
class NormPoint(Keyed):
    """One hidden linear layer, with batch normalisation by the batch's own statistics or without."""

    width: int
    norm: bool
    seed: int
    samples: int
    data: str
    size: int = 8

    @property
    def work(self) -> float:
        """Estimated work, to order points by."""
        return 1e6 + self.norm * self.samples * self.width * self.size**4


def reduced(G: GaussNewton, X: Array) -> Array:
    """A small matrix with the non-zero spectrum of G, for a network that is affine in X on this very batch.

    Batch normalisation behind a linear layer is affine in X, with coefficients that depend on parameters and batch.
    Whatever the parameters, each output stays in the span of the columns of [X, 1], and so does each column of the
    Jacobian J (n k, p): with Q (n, r) an orthonormal basis of that span, (Q (x) I)^T J J^T (Q (x) I) / n of dimension
    r k, at most 650 here, has all non-zero eigenvalues of the Gram matrix of dimension n k = 10,000.
    """
    U, s, _ = np.linalg.svd(np.column_stack([X, np.ones(len(X))]), full_matrices=False)
    Q = U[:, s > thresholds.data_threshold(s[0], X.shape)]
    rows = np.asfortranarray(np.kron(Q, np.eye(CLASSES)))
    matrix: Array = rows.T @ (G.gram() @ rows)
    symmetric: Array = (matrix + matrix.T) / 2
    return symmetric


def _norm_values(point: NormPoint) -> Values:
    X, _ = grey(point.data, point.samples, point.size)
    shapes = [(point.width, X.shape[1]), (CLASSES, point.width)]
    V, W = initializers.weights("kaiming_normal", shapes, "identity", 0.0, point.seed, FLOAT64)
    units = np.ones(point.width), np.zeros(point.width)
    normal: list[Layer] = [BatchNorm(*units, training=True)] if point.norm else []
    G = GaussNewton(Network([Dense(V), *normal, Dense(W)]), X)
    found = cond(reduced(G, X) if point.norm else G)
    return {"kappa": float(found.value), "rank": int(found.rank), "dimension": int(found.dimension)}


def _batch_norm(options: Options) -> Experiment:
    samples, widths = options.of((80, (80, 160, 320)), (300, (80, 160, 320, 640)), (1000, (80, 160, 320, 640, 1280)))
    grid = [
        NormPoint(width, norm, seed, samples, options.images)
        for seed in range(options.of(3, 3, 5))
        for width in widths
        for norm in (False, True)
    ]
    return Experiment("batch-norm", tuple(grid), _norm_values, {"kappa": REAL, "rank": INTEGER, "dimension": INTEGER})


def _with(norm: bool) -> str:
    return "with" if norm else "without"


def _batch_norm_claims(table: Table) -> list[Claim]:
    without, with_norm = sorted(table.curves("width", "kappa", "norm"), key=lambda curve: bool(curve.by))
    return [
        everywhere(
            across([without, with_norm], lambda _, width: named("m")(width)),
            "batch normalisation lowers kappa at every width",
        ),
        falls_with_width([without, with_norm], "kappa falls with width, with and without it", _with),
        each_step([without, with_norm], _with),
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
LONG = 19  # kernels from here on, of series of 45 to 49 numbers, have the paper's trends; shorter ones do not


@dataclass(frozen=True)
class ConvPoint(Keyed):
    """Two convolutions of one dimension with nothing between them and as many outputs as filters, on whitened rows."""

    filters: int
    kernel: int
    seed: int
    samples: int
    data: str = "mnist"
    size: int = 7
    whiten: bool = True


def unrolled(kernels: Array, length: int) -> Array:
    """The matrix (out e, in length) that a convolution (out, in, s) of series of that length is, e = length - s + 1."""
    outputs, inputs, size = kernels.shape
    positions = length - size + 1
    matrix = np.zeros((outputs, positions, inputs, length))
    for t in range(positions):
        matrix[:, t, :, t : t + size] = kernels
    return matrix.reshape(outputs * positions, inputs * length)


def _conv_values(point: ConvPoint) -> Values:
    """As the paper, kappa of a network whose weights are the unrolled kernels; and of G in the kernels themselves."""
    X, _ = grey(point.data, point.samples, point.size, point.whiten)
    count, size, length = point.filters, point.kernel, X.shape[1]
    shapes = [(count, size), (count, count * size)]
    first, second = (
        weight.reshape(count, -1, size)
        for weight in initializers.weights("kaiming_normal", shapes, "identity", 0.0, point.seed, FLOAT64)
    )
    dense = Network([Dense(unrolled(first, length)), Dense(unrolled(second, length - size + 1))])
    [paper] = linear_forms(dense, X, ("convex",))
    series = X[:, None, :]
    shared = Network([Conv1d(first), Conv1d(second), Flatten()])
    layerwise, jacobian = conv_forms(shared, series, ("convex", "jacobian"))
    return {
        "kappa": float(cond(GaussNewton(dense, X)).value),
        "paper": float(paper.value),
        "kernels": float(cond(GaussNewton(shared, series)).value),
        "layerwise": float(layerwise.value),
        "jacobian": float(jacobian.value),
    }


def _cnn(options: Options) -> Experiment:
    kernels, filters = options.of(
        ((19, 21), (1, 2, 4)), ((5, 13, 19, 21, 23), (1, 2, 4)), ((5, 9, 13, 17, 19, 21, 23), (1, 2, 4, 8))
    )
    grid = [
        ConvPoint(count, kernel, seed, options.of(300, 1000, 1000))
        for seed in range(options.of(5, 5, 10))
        for kernel in kernels
        for count in filters
    ]
    columns = ("kappa", "paper", "kernels", "layerwise", "jacobian")
    return Experiment("cnn", tuple(grid), _conv_values, dict.fromkeys(columns, REAL))


def _filters(count: int) -> str:
    return f"{count} filter{'s' * (count > 1)}"


_kernel = named("s")


def _cnn_claims(table: Table) -> list[Claim]:
    def changed(column: str, by: str, along: str, sign: int, words: str, label: Callable[[Any], str]) -> list[Claim]:
        """Over all kernels, and over the long ones alone."""
        long = Table(row for row in table.rows if row["kernel"] >= LONG)
        parts = [(table, "")]
        if len(long.rows) < len(table.rows):
            parts.append((long, f"; only kernels of {LONG} or more, near half of the length"))
        return [changes(rows.curves(along, column, by), sign, words + only, label) for rows, only in parts]

    depth, width = "more filters act as depth does in an MLP: kappa grows", "larger kernels act as width: kappa falls"
    own = "of the Gauss-Newton matrix in the kernels themselves, whose entries all positions share"
    return [
        *changed("kappa", "kernel", "filters", 1, depth, _kernel),
        *changed("kappa", "filters", "kernel", -1, width, _filters),
        *changed("kernels", "kernel", "filters", 1, f"{depth}, {own}", _kernel),
        *changed("kernels", "filters", "kernel", -1, f"{width}, {own}", _filters),
        equal(table, "paper", "for whitened data the convex combination is kappa itself"),
        bounded(table, ("layerwise", "jacobian"), "kernels"),
    ]


CNN = Figure(
    "cnn",
    "Two linear convolutions, unrolled as in the paper, and in the kernels themselves",
    "more filters act like depth in an MLP, larger kernels like width",
    _cnn,
    [
        Panel("filters", "kappa", "kernel", "filters", label=_kernel, title="unrolled", scales=("log", "log")),
        Panel("kernel", "kappa", "filters", "kernel size $s$", label=_filters, title="unrolled"),
        Panel("kernel", "kernels", "filters", "kernel size $s$", label=_filters, title="in the kernels themselves"),
    ],
    _cnn_claims,
)

FIGURES = (BATCH_NORM, CNN)
