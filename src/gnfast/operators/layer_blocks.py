"""The diagonal blocks of a Gauss-Newton matrix, one for the parameters of each layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import methodcaller
from typing import Any, overload

import numpy as np

from gnfast import _arrays, _checks
from gnfast._arrays import Array
from gnfast._runtime import blas_threads
from gnfast.networks.layers import Layer, Residual
from gnfast.operators.gauss_newton import GaussNewton, Gram
from gnfast.operators.linear_operator import check_finite
from gnfast.operators.masked import operator_of
from gnfast.operators.symmetric import SymmetricOperator

# `cond`, by its name: it stands above this room, and puts itself here when it is imported.
solvers: dict[str, Callable[..., Any]] = {}


@dataclass(frozen=True)
class Part:
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


class Layers(Sequence[Part]):
    """The layers with parameters, in the order of the parameters; `print(...)` shows a table.

    `cond()` and `spectra()` look at each layer's block of the operator; the table then has what they found, too.

    Examples:
        >>> import gnfast as gn
        >>> G = gn.GaussNewton(gn.mlp([64, 32, 10], seed=0), gn.datasets.digits()[0][:20])
        >>> {name: found.rank for name, found in G.layers().cond().items()}
        {'layers.0': 200, 'layers.2': 200}
    """

    def __init__(self, parts: Sequence[Part], owner: GaussNewton) -> None:
        self._parts, self._owner = tuple(parts), owner
        self._columns: dict[str, dict[str, str]] = {}  # of the table, by layer

    def cond(self, **options: Any) -> dict[str, Any]:
        """The condition number of each layer's block: name -> `gnfast.cond(G.block(name), **options)`.

        A layer whose block is zero, or to which pruning has left no parameters, has none and is left out.
        """
        blocks = {name: block for name, block in self._blocks() if block.gram().diagonal().any()}
        found = {name: solvers["cond"](block, **options) for name, block in blocks.items()}
        for column, form in (("kappa", ".4g"), ("lambda_max", ".4g"), ("lambda_min", ".4g"), ("rank", "d")):
            field = "value" if column == "kappa" else column
            self._columns[column] = {name: format(getattr(one, field), form) for name, one in found.items()}
        return found

    def spectra(self) -> dict[str, Array]:
        """All eigenvalues of each layer's block, ascending, by name, from LAPACK.

        They are the min(p_l, n q) of the block's `dual()`, q the rank of the loss's Hessian; any others are zero. The
        largest alone are cheaper by `gnfast.eigsh(G.block(name), k)`.

        Raises:
            MemoryError: A dual exceeds `memory_limit`.
        """
        found = {}
        for name, block in self._blocks():
            dense = _arrays.to_host(block.dual().to_dense())
            with blas_threads(len(dense)):
                found[name] = np.linalg.eigvalsh(dense)
        self._columns["lambda_max"] = {name: format(values[-1], ".4g") for name, values in found.items()}
        return found

    def _blocks(self) -> Iterator[tuple[str, Block]]:
        """Of the layers that have parameters left."""
        return ((part.name, Block(self._owner, part)) for part in self if part.size)

    @overload
    def __getitem__(self, index: int) -> Part: ...
    @overload
    def __getitem__(self, index: slice) -> Layers: ...
    def __getitem__(self, index: int | slice) -> Part | Layers:
        return Layers(self._parts[index], self._owner) if isinstance(index, slice) else self._parts[index]

    def __len__(self) -> int:
        return len(self._parts)

    def find(self, layer: int | str | Part) -> Part:
        """The layer of this number, negative ones from the end, or of this name."""
        if isinstance(layer, str):
            layer = _checks.choice(layer, "layer", tuple(part.name for part in self))
            return next(part for part in self if part.name == layer)
        if isinstance(layer, Part):
            if layer not in self._parts:
                raise ValueError(f"layer is {layer.name!r} of another operator; pass one of this operator's layers()")
            return layer
        return self[_checks.integer(layer, "layer", -len(self), len(self) - 1)]

    def __str__(self) -> str:
        width = max(len("layer"), *(len(part.name) for part in self))
        more = "".join(f"{column:>10}  " for column in self._columns)
        lines = [f"  #  {'layer':{width}}  parameters  {'entries':15}  {more}".rstrip()]
        for part in self:
            entries = f"{part.own.start}:{part.own.stop}"
            more = "".join(f"{cells.get(part.name, '-'):>10}  " for cells in self._columns.values())
            lines.append(f"{part.index:>3}  {part.name:{width}}  {part.size:>10}  {entries:15}  {more}{part.layer!r}")
        return "\n".join(lines)

    __repr__ = __str__


class Block(SymmetricOperator):
    """G_l = S_l^T S_l (p_l, p_l), S_l = R^T J_l / sqrt(n) in one layer's parameters; `GaussNewton.block` makes it.

    A product multiplies by the layer's rows alone, 4 n p_l + 4 n q m_l flops a vector in a chain of dense layers, with
    q outputs, m_l units and derivatives of the outputs that all blocks share; in other networks it walks from the
    layer to the outputs and back, unless the rows of the Jacobian are stored. It has a dual of its own, S_l S_l^T
    (n q, n q), the layer's share of the Gram matrix: G's dual is the sum of them.
    """

    space = "parameters"
    owner: GaussNewton

    def __init__(self, owner: GaussNewton, part: Part) -> None:
        if part.size == 0:
            raise ValueError(f"layer {part.name!r} has no parameters left; pruning has taken them all")
        gram = Gram(owner, owner.loss_at.rank, part)

        def product(rows: Array, out: Array) -> None:
            image = gram.restrict(rows)
            check_finite(image, "V")
            gram.lift_rows(image, out)

        super().__init__(operator_of(product, part.size, owner.dtype, owner.device), owner.dtype, owner.device)
        self.owner, self.part, self.memory_limit, self._gram = owner, part, owner.memory_limit, gram
        self.exponent = owner.exponent

    def _recipe(self) -> tuple[Any, ...]:
        return methodcaller("block", self.part.index), (self.owner,)

    def check_unchanged(self) -> None:
        """Raise a RuntimeError if the PyTorch module has changed since the network was read from it."""
        self.owner.check_unchanged()

    def gram(self) -> Gram:
        """The layer's share of the Gram dual, S_l S_l^T (n q, n q), with the non-zero spectrum of the block."""
        return self._gram

    def dual(self) -> SymmetricOperator:
        """The smaller of the two."""
        return self if self.shape[0] <= self._gram.shape[0] else self._gram

    def enlarged(self) -> Block:
        """The same times a power of two, for entries too small for the dtype."""
        return Block(self.owner.enlarged(), self.part)

    def diagonal(self) -> Array:
        """The block's diagonal, (p_l,), exactly, in float64: see `GaussNewton.diagonal`."""
        return self.owner.diagonal()[self.part.own]

    def __repr__(self) -> str:
        p = self.shape[0]
        return f"Block({p} x {p}, {self.part.name}, {self.dtype}, {self.device})"


def layers_of(G: GaussNewton) -> Layers:
    """The layers of the operator's network that have parameters."""
    kept, first = G.net.kept, 0
    parts: list[Part] = []
    for name, layer in named(G.net.layers):
        size = sum(array.size for array in layer.parameters())
        if size:
            ends = np.array([first, first + size])
            start, stop = map(int, ends if kept is None else np.searchsorted(kept, ends))
            parts.append(Part(len(parts), name, layer, (first, first + size), slice(start, stop)))
            first += size
    return Layers(parts, G)


def named(layers: Sequence[Layer], prefix: str = "layers.") -> Iterator[tuple[str, Layer]]:
    """All layers with their names, those of a residual block in its place."""
    for i, layer in enumerate(layers):
        if isinstance(layer, Residual):
            for part, inner in layer.parts().items():
                yield from named(inner, f"{prefix}{i}.{part}.")
        else:
            yield f"{prefix}{i}", layer
