"""Condition numbers and spectra of the diagonal blocks of all layers, as tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from gnfast import _arrays
from gnfast._arrays import Array
from gnfast._results import Shown
from gnfast._runtime import blas_threads
from gnfast.operators import Block, GaussNewton
from gnfast.operators.layer_slices import Layers
from gnfast.spectrum import condition
from gnfast.spectrum.condition import Condition

T = TypeVar("T")


@dataclass(frozen=True, eq=False, repr=False)
class LayerTable(Shown, Mapping[str, T], Generic[T]):
    """Results for each layer, by the layer's name; `print(...)` shows a table.

    Attributes:
        layers: The layers that were asked about.
        found: Name -> what was found. A layer of which there is nothing to say is left out.
        columns: Those of the table: title -> name -> cell.
    """

    layers: Layers
    found: Mapping[str, T]
    columns: Mapping[str, Mapping[str, str]]

    def __getitem__(self, name: str) -> T:
        return self.found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.found)

    def __len__(self) -> int:
        return len(self.found)

    def __str__(self) -> str:
        return self.layers.table(self.columns)

    __repr__ = __str__


def cond(G: GaussNewton, layers: Layers | None = None, **options: Any) -> LayerTable[Condition]:
    """The condition number of each layer's block, `gnfast.cond(G.block(layer), **options)`.

    Args:
        G: The operator.
        layers: Some of `G.layers()`, such as a slice; None means all.
        options: As in `gnfast.cond`.

    Returns:
        A mapping of names to `Condition`s that prints as a table. A layer whose block is zero, or to which pruning has
        left no parameters, has none and is left out.

    Examples:
        >>> import gnfast as gn
        >>> G = gn.GaussNewton(gn.mlp([64, 32, 10], seed=0), gn.datasets.digits()[0][:20])
        >>> {name: found.rank for name, found in gn.by_layer.cond(G).items()}
        {'layers.0': 200, 'layers.2': 200}
    """
    blocks = {name: block for name, block in _blocks(G, layers) if block.gram().diagonal().any()}
    found = {name: condition.cond(block, **options) for name, block in blocks.items()}
    columns = {
        "kappa": {name: format(one.value, ".4g") for name, one in found.items()},
        "lambda_max": {name: format(one.lambda_max, ".4g") for name, one in found.items()},
        "lambda_min": {name: format(one.lambda_min, ".4g") for name, one in found.items()},
        "rank": {name: str(one.rank) for name, one in found.items()},
    }
    return LayerTable(G.layers() if layers is None else layers, found, columns)


def spectra(G: GaussNewton, layers: Layers | None = None) -> LayerTable[Array]:
    """All eigenvalues of each layer's block, ascending, from LAPACK.

    They are the min(p_l, n q) of the block's `dual()`, q the rank of the loss's Hessian; any others are zero. The
    largest alone are cheaper by `gnfast.eigsh(G.block(name), k)`.

    Args:
        G: The operator.
        layers: Some of `G.layers()`, such as a slice; None means all.

    Returns:
        A mapping of names to arrays that prints as a table. A layer to which pruning has left no parameters is left
        out.

    Raises:
        MemoryError: A dual exceeds `memory_limit`.

    Examples:
        >>> import gnfast as gn
        >>> G = gn.GaussNewton(gn.mlp([64, 32, 10], seed=0), gn.datasets.digits()[0][:20])
        >>> {name: len(values) for name, values in gn.by_layer.spectra(G).items()}
        {'layers.0': 200, 'layers.2': 200}
    """
    found: dict[str, Array] = {}
    for name, block in _blocks(G, layers):
        dense = _arrays.to_host(block.dual().to_dense())
        with blas_threads(len(dense)):
            found[name] = np.linalg.eigvalsh(dense)
    columns = {"lambda_max": {name: format(values[-1], ".4g") for name, values in found.items()}}
    return LayerTable(G.layers() if layers is None else layers, found, columns)


def _blocks(G: GaussNewton, layers: Layers | None) -> Iterator[tuple[str, Block]]:
    """The blocks of the layers that have parameters left."""
    return ((part.name, G.block(part)) for part in (G.layers() if layers is None else layers) if part.size)
