"""The forward pass of networks of dense layers, activations and residual blocks, as derivatives need it."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from gnfast.bounds.bound import FloatArray
from gnfast.bounds.paths import effective
from gnfast.networks import Network
from gnfast.networks.layers import Dense, Layer, Residual, Scale


@dataclass(frozen=True)
class DenseNode:
    """A dense layer with the slope (n, m) of the activations after it, None where there are none.

    Activations that come first are those of a layer without number or weight.
    """

    index: int | None
    weight: FloatArray | None  # effective
    slope: FloatArray | None


@dataclass(frozen=True)
class ResidualNode:
    """A residual block: what goes through the body plus `scale` times what goes through the shortcut."""

    body: list[Node]
    shortcut: list[Node]
    scale: float


Node: TypeAlias = "DenseNode | ResidualNode | float"  # a number multiplies
Rows: TypeAlias = Generator[tuple[int, FloatArray], None, FloatArray]


@dataclass
class ForwardRecord:
    """A network in float64 at its samples.

    Attributes:
        nodes: Its layers, activations merged into what comes before them.
        dense: All dense layers, in the order of the parameters.
        inputs: The input (n, m) of each.
        outputs: (n, k).
    """

    nodes: list[Node] = field(default_factory=list)
    dense: list[Dense] = field(default_factory=list)
    inputs: list[FloatArray] = field(default_factory=list)
    outputs: FloatArray = field(default_factory=lambda: np.empty((0, 0)))

    @classmethod
    def of(cls, net: Network, X: FloatArray) -> ForwardRecord:
        """Runs dense layers and activations, factors and residual blocks of these; X (n, d)."""
        record = cls()
        record.nodes, record.outputs = record._record(net.layers, X)
        return record

    def rows(self, R: FloatArray, samples: slice) -> Rows:
        """The index of every dense layer, the last first, with its rows R_i^T dF_i/dz (samples, q, m); R (n, k, q)."""
        return _backward(self.nodes, R[samples].transpose(0, 2, 1), samples)

    def _record(self, layers: Sequence[Layer], value: FloatArray) -> tuple[list[Node], FloatArray]:
        nodes: list[Node] = []
        for alone, group in itertools.groupby(layers, lambda layer: isinstance(layer, Residual | Scale)):
            if not alone:
                value = self._segment(list(group), value, nodes)
                continue
            for layer in group:
                if isinstance(layer, Residual):
                    body, moved = self._record(layer.layers, value)
                    shortcut, around = self._record(layer.shortcut or (), value)
                    nodes.append(ResidualNode(body, shortcut, layer.scale))
                    value = around + layer.scale * moved
                elif isinstance(layer, Scale):
                    nodes.append(layer.factor)
                    value = layer.factor * value
        return nodes, value

    def _segment(self, layers: list[Layer], value: FloatArray, nodes: list[Node]) -> FloatArray:
        """Dense layers and activations, run by the core, which knows the derivative behind a dense layer only."""
        doing = [layer for layer in layers if isinstance(layer, Dense) or not layer.is_linear]
        if not doing:
            return value
        led = not isinstance(doing[0], Dense)
        width = value.shape[1]
        part = Network([Dense(np.zeros((width, width)), skip=1.0), *doing] if led else doing)
        for position, (layer, A, slope) in enumerate(zip(part.dense, *part.linearize(value), strict=True)):
            if led and position == 0:
                nodes.append(DenseNode(None, None, slope))
                continue
            nodes.append(DenseNode(len(self.dense), effective(layer), slope))
            self.dense.append(layer)
            self.inputs.append(np.asarray(A, np.float64))
        return np.asarray(part(value), np.float64)


def _backward(nodes: Sequence[Node], B: FloatArray, samples: slice) -> Rows:
    """Rows (samples, q, m) after the nodes taken to those before them, past the dense layers on the way."""
    for node in reversed(nodes):
        if isinstance(node, ResidualNode):
            around = yield from _backward(node.shortcut, B, samples)
            through = yield from _backward(node.body, node.scale * B, samples)
            B = around + through
        elif isinstance(node, DenseNode):
            if node.slope is not None:
                B = B * node.slope[samples, None, :]
            if node.index is not None and node.weight is not None:
                yield node.index, B
                count, q, m = B.shape
                B = (B.reshape(count * q, m) @ node.weight).reshape(count, q, -1)
        else:
            B = node * B
    return B
