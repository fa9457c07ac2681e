"""The walk through nested layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gnfast.networks.layers import Layer, Residual


def named(layers: Sequence[Layer], prefix: str = "layers.") -> Iterator[tuple[str, Layer]]:
    """All layers with their names, those of a residual block in its place."""
    for i, layer in enumerate(layers):
        if isinstance(layer, Residual):
            for part, inner in layer.parts().items():
                yield from named(inner, f"{prefix}{i}.{part}.")
        else:
            yield f"{prefix}{i}", layer
