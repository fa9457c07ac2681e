"""Pytrees of arrays: which arrays are the layers' kernels and biases, in what order, and vectors like them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from gnfast import _core
from gnfast._arrays import Array
from gnfast.networks.layers import Shape

Path: TypeAlias = tuple[Any, ...]
ROLE = re.compile(r"(kernel|weight|w)_?(\d*)|(bias|b)_?(\d*)", re.IGNORECASE)


class Move(NamedTuple):
    """How one array of a pytree becomes its share of the network's flat parameters."""

    leaf: int  # its number
    view: Shape  # the shape that its entries are given,
    axes: Shape  # and the order in which those axes are then taken


class Order:
    """The order of a pytree's entries among the flat parameters of the network that was read from it."""

    def __init__(self, tree: Any, shapes: list[Shape], moves: list[Move]) -> None:
        self.tree, self.shapes, self.moves = tree, shapes, moves
        self.sizes = [math.prod(shape) for shape in shapes]
        # (place among the raveled leaves, place among the network's parameters, view, axes) of each array
        starts, at = np.cumsum([0, *self.sizes]).tolist(), 0
        self._there, self._back = [], []
        for leaf, view, axes in moves:
            self._there.append((starts[leaf], at, view, axes))
            turned = tuple(view[axis] for axis in axes)
            self._back.append((at, starts[leaf], turned, tuple(np.argsort(axes).tolist())))
            at += self.sizes[leaf]

    def permute(self, rows: Array, out: Array, back: bool = False) -> None:
        """Vectors (s, p) of NumPy's, ordered as `ravel_pytree` has them, in the network's order, or back."""
        _core.permute_rows(rows, out, self._back if back else self._there)

    def leaves_of(self, tree: Any) -> list[Any]:
        """The arrays of a pytree, checked to be like the parameters."""
        leaves, structure = jax.tree.flatten(tree)
        if structure != self.tree:
            raise ValueError(f"v is a pytree of structure {structure} but params has {self.tree}; pass one like params")
        leaves = [jnp.asarray(leaf) for leaf in leaves]
        for leaf, shape in zip(leaves, self.shapes, strict=True):
            if leaf.shape != shape:
                raise ValueError(f"v has an array of shape {leaf.shape} where params has {shape}; pass one like params")
        return leaves

    def leaves_of_flat(self, flat: Any) -> list[Any]:
        """The arrays that `jax.flatten_util.ravel_pytree` has put behind each other in `flat` (p,)."""
        ends = np.cumsum(self.sizes)[:-1].tolist()
        return [part.reshape(shape) for part, shape in zip(jnp.split(flat, ends), self.shapes, strict=True)]

    def to_vector(self, leaves: list[Any]) -> Any:
        """The network's flat parameters (p,)."""
        parts = [leaves[leaf].reshape(view).transpose(axes).ravel() for leaf, view, axes in self.moves]
        return jnp.concatenate(parts)

    def to_arrays(self, leaves: list[Array]) -> list[Array]:
        """NumPy's leaves as the network's arrays, flat."""
        return [leaves[leaf].reshape(view).transpose(axes).ravel() for leaf, view, axes in self.moves]

    def to_leaves(self, vector: Any) -> list[Any]:
        """The arrays of the pytree from the network's flat parameters (p,)."""
        found: list[Any] = [None] * len(self.shapes)
        at = 0
        for leaf, view, axes in self.moves:
            part = vector[at : at + self.sizes[leaf]].reshape([view[axis] for axis in axes])
            found[leaf] = part.transpose(np.argsort(axes)).reshape(self.shapes[leaf])
            at += self.sizes[leaf]
        return found


# ------------------------------------------------------------------------------------------- the layers of a pytree
@dataclass
class Entry:
    """One layer's arrays in a pytree."""

    path: Path
    kernel: int = -1
    bias: int = -1  # -1 for none
    shape: Shape = ()  # of the kernel

    @property
    def name(self) -> str:
        """Its path in the pytree, for messages."""
        return "/".join(str(_key(key)) for key in self.path) or "params"

    @property
    def is_dense(self) -> bool:
        """Whether it is a matrix."""
        return len(self.shape) == 2


def entries_of(paths: list[Path], shapes: list[Shape], order: Sequence[str] | None) -> list[Entry]:
    """The layers of a pytree in the order of their use: convolutions first, then by number, place in a list, field.

    Raises:
        ValueError: An array that is no kernel and no bias of such a layer, or names that tell no order.
    """
    found: dict[Path, Entry] = {}
    for i, (path, shape) in enumerate(zip(paths, shapes, strict=True)):
        while path and _key(path[-1]) in ("value", "raw_value"):  # of a variable of flax.nnx
            path = path[:-1]
        parent, is_bias = _place(path, shape, found)
        entry = found.setdefault(parent, Entry(parent))
        if (entry.bias if is_bias else entry.kernel) >= 0:
            raise ValueError(f"params has two {'biases' if is_bias else 'kernels'} at {entry.name}; pass one of each")
        if is_bias:
            entry.bias = i
        else:
            entry.kernel, entry.shape = i, shape
    for entry in found.values():
        if entry.kernel < 0 or len(entry.shape) not in (2, 3, 4):
            what = f"a kernel of shape {entry.shape}" if entry.kernel >= 0 else "no kernel"
            raise ValueError(f"params has {what} at {entry.name}; only dense layers and convolutions are read")
    if order is not None:
        return _as_ordered(list(found.values()), order)
    dense, convolutions = ([e for e in found.values() if e.is_dense is kind] for kind in (True, False))
    for kind in (dense, convolutions):
        _check_names(kind)
    first = {e.path: min(i for i in (e.kernel, e.bias) if i >= 0) for e in found.values()}
    return [e for kind in (convolutions, dense) for e in sorted(kind, key=lambda e: _numbers(e.path, first))]


def _place(path: Path, shape: Shape, found: Mapping[Path, Entry]) -> tuple[Path, bool]:
    """The path of the layer that an array belongs to, and whether it is its bias."""
    last = _key(path[-1]) if path else 0
    if isinstance(last, str):
        role = ROLE.fullmatch(last)
        if role is None:
            name = "/".join(str(_key(key)) for key in path)
            raise ValueError(
                f"params has {name!r}, which is no kernel, weight or bias of a dense layer or a convolution; leave it "
                "out, or use JAX's own products"
            )
        number = role[2] or role[4]
        parent = (*path[:-1], jax.tree_util.DictKey(int(number))) if number else path[:-1]
        return parent, role[3] is not None
    # In a list a bias follows its kernel, in a pair (W, b) or behind each other; stax gives it the kernel's axes.
    kernels = [entry for other, entry in found.items() if other[:-1] == path[:-1] and entry.kernel >= 0]
    before = kernels[-1].shape if kernels and kernels[-1].bias < 0 else ()
    wide = len(before) == len(shape) > 1 and math.prod(shape) == max(shape) in before
    if wide and len(shape) == 2:  # of neural-tangents, (1, out): a kernel that takes one feature looks the same
        wide = shape == (1, before[1])
        if wide and before[1] == 1 and len(path) == 1:
            raise ValueError(
                f"params has arrays of shapes {before} and (1, 1) behind each other, and the second may be a kernel or "
                "a bias; pass pairs (W, b) in a list, or a dict of names"
            )
    if wide or len(shape) == 1:
        return (kernels[-1].path if before else path[:-1]), True
    return path, False


def _key(key: Any) -> Any:
    """The name, field or number of one step of a path."""
    return next(getattr(key, name) for name in ("key", "idx", "name") if hasattr(key, name))


def _split(name: Any) -> tuple[str, int]:
    """("Dense", 12) of "Dense_12"."""
    if isinstance(name, int):
        return "", name
    stem, number = re.fullmatch(r"(.*?)_?(\d*)", str(name), re.DOTALL).groups()  # type: ignore[union-attr]
    return stem, int(number or -1)


def _numbers(path: Path, first: Mapping[Path, int]) -> list[int]:
    """A key that sorts paths: numbers in names and lists, and the place of fields, which come as they are declared."""
    found = []
    for depth, key in enumerate(path, 1):
        if isinstance(key, jax.tree_util.GetAttrKey):
            found.append(min(at for other, at in first.items() if other[:depth] == path[:depth]))
        else:
            found.append(_split(_key(key))[1])
    return found


def _check_names(entries: list[Entry]) -> None:
    """Names at one place of a dict must differ in their numbers only: JAX sorts them, whatever order they came in."""
    stems: dict[Path, dict[str, Entry]] = {}
    for entry in entries:
        for depth, key in enumerate(entry.path):
            if not isinstance(key, jax.tree_util.GetAttrKey):
                stems.setdefault(entry.path[:depth], {}).setdefault(_split(_key(key))[0], entry)
    for found in stems.values():
        if len(found) > 1:
            a, b = list(found.values())[:2]
            raise ValueError(
                f"params has {a.name!r} and {b.name!r}, whose names do not tell which comes first; "
                "pass order=[...] with the names of all layers in the order of their use"
            )


def _as_ordered(entries: list[Entry], order: Sequence[str]) -> list[Entry]:
    if isinstance(order, str) or not isinstance(order, Iterable):
        raise TypeError(f"order is {order!r} but must be a list of names of layers")
    found = []
    for name in order:
        matches = [entry for entry in entries if f"/{entry.name}".endswith(f"/{name}")]
        if len(matches) != 1 or matches[0] in found:
            raise ValueError(
                f"order has {name!r}, which must be one layer of params, once; they are "
                f"{', '.join(repr(entry.name) for entry in entries)}"
            )
        found += matches
    if len(found) != len(entries):
        left = next(entry.name for entry in entries if entry not in found)
        raise ValueError(f"order leaves out {left!r}; name every layer of params")
    return found
