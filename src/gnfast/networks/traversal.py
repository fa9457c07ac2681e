"""The walk through nested layers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from gnfast.networks.layers import Layer, Residual, Shape


class Step(NamedTuple):
    """One layer on the way.

    Attributes:
        name: "layers.0", or "layers.2.layers.1" inside a residual block.
        layer: The layer itself, never a residual block.
        inputs, outputs: Shapes of a sample before and after it; None where the walk was not told of samples.
        first: The place of its first entry among all parameters.
        size: Entries of its parameters.
    """

    name: str
    layer: Layer
    inputs: Shape | None
    outputs: Shape | None
    first: int
    size: int


def walk(
    layers: Iterable[Layer], shape: Shape | None = None, prefix: str = "layers.", first: int = 0
) -> Iterator[Step]:
    """All layers in the order of the parameters, on samples of `shape`; those of a residual block in its place."""
    for i, layer in enumerate(layers):
        outputs = None if shape is None else layer.output_shape(shape)
        if isinstance(layer, Residual):
            for part, inner in layer.parts().items():  # the body's, then the shortcut's
                for step in walk(inner, shape, f"{prefix}{i}.{part}.", first):
                    yield step
                    first = step.first + step.size
        else:
            size = sum(array.size for array in layer.parameters())
            yield Step(f"{prefix}{i}", layer, shape, outputs, first, size)
            first += size
        shape = outputs


def flat_layers(layers: Iterable[Layer]) -> Iterator[Layer]:
    """The layers alone."""
    return (step.layer for step in walk(layers))
