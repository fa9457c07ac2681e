"""The layers of a network as slices of its parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

from gnfast import _checks
from gnfast._results import Shown
from gnfast.networks.layers import Layer
from gnfast.networks.network import Network
from gnfast.networks.traversal import walk


@dataclass(frozen=True)
class LayerSlice:
    """One layer's share of the parameters.

    Attributes:
        index: Its number among the layers with parameters.
        name: "layers.0", or "layers.2.layers.1" inside a residual block: what its tensors' names begin with in files.
        layer: The layer itself.
        entries: (first, last) of all entries of the parameter arrays; those of a pruned network count too.
        own: Its entries in vectors of the operator, a slice.
    """

    index: int
    name: str
    layer: Layer
    entries: tuple[int, int]
    own: slice

    @property
    def size(self) -> int:
        """p_l, its parameters: weight and bias together, without what is pruned."""
        return int(self.own.stop - self.own.start)


class Layers(Shown, Sequence[LayerSlice]):
    """The layers with parameters, in the order of the parameters; `print(...)` shows a table.

    `gnfast.by_layer` has the condition numbers and the spectra of all layers' blocks.

    Examples:
        >>> import gnfast as gn
        >>> G = gn.GaussNewton(gn.mlp([64, 32, 10], seed=0), gn.datasets.digits()[0][:20])
        >>> [(layer.name, layer.size) for layer in G.layers()]
        [('layers.0', 2048), ('layers.2', 320)]
    """

    def __init__(self, parts: Sequence[LayerSlice]) -> None:
        self._parts = tuple(parts)

    @overload
    def __getitem__(self, index: int) -> LayerSlice: ...
    @overload
    def __getitem__(self, index: slice) -> Layers: ...
    def __getitem__(self, index: int | slice) -> LayerSlice | Layers:
        return Layers(self._parts[index]) if isinstance(index, slice) else self._parts[index]

    def __len__(self) -> int:
        return len(self._parts)

    def find(self, layer: int | str | LayerSlice) -> LayerSlice:
        """The layer of this number, negative ones from the end, or of this name."""
        if isinstance(layer, str):
            layer = _checks.choice(layer, "layer", tuple(part.name for part in self))
            return next(part for part in self if part.name == layer)
        if isinstance(layer, LayerSlice):
            if layer not in self._parts:
                raise ValueError(f"layer is {layer.name!r} of another operator; pass one of this operator's layers()")
            return layer
        return self[_checks.integer(layer, "layer", -len(self), len(self) - 1)]

    def __str__(self) -> str:
        return self.table({})

    __repr__ = __str__

    def table(self, columns: Mapping[str, Mapping[str, str]]) -> str:
        """The table with more columns: their titles, each with its cells by the layers' names."""
        width = max(len("layer"), *(len(part.name) for part in self))
        more = "".join(f"{column:>10}  " for column in columns)
        lines = [f"  #  {'layer':{width}}  parameters  {'entries':15}  {more}".rstrip()]
        for part in self:
            entries = f"{part.own.start}:{part.own.stop}"
            more = "".join(f"{cells.get(part.name, '-'):>10}  " for cells in columns.values())
            lines.append(f"{part.index:>3}  {part.name:{width}}  {part.size:>10}  {entries:15}  {more}{part.layer!r}")
        return "\n".join(lines)


def layers_of(net: Network) -> Layers:
    """The layers of a network that have parameters."""
    kept = net.kept
    parts: list[LayerSlice] = []
    for step in walk(net.layers):
        if step.size:
            ends = (step.first, step.first + step.size)
            start, stop = map(int, ends if kept is None else np.searchsorted(kept, ends))
            parts.append(LayerSlice(len(parts), step.name, step.layer, ends, slice(start, stop)))
    return Layers(parts)
