"""Networks of dense layers and convolutions from pytrees of arrays, in the layouts that JAX's libraries have."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gnfast as gn
from gnfast import _checks
from gnfast._arrays import Array
from gnfast.interop._pytrees import Entry, Move, Order, entries_of
from gnfast.networks.layers import Layer, Shape

LAYOUTS = ("flax", "equinox")
PLAIN = (gn.Activation, gn.Flatten, gn.Pool, gn.Scale)  # layers without arrays
# Functions that may stand for an activation. jax.nn.gelu is the approximation with tanh unless told otherwise.
FUNCTIONS = {
    jax.nn.relu: "relu",
    jax.nn.leaky_relu: "leaky_relu",
    jax.nn.elu: "elu",
    jax.nn.gelu: "gelu_tanh",
    jax.nn.silu: "silu",
    jax.nn.softplus: "softplus",
    jax.nn.sigmoid: "sigmoid",
    jax.nn.tanh: "tanh",
    jnp.tanh: "tanh",
}


@dataclass(frozen=True)
class Dense:
    """The next dense layer of a pytree, in the list `layers`."""


@dataclass(frozen=True)
class Conv:
    """The next convolution of a pytree, in the list `layers`, with the names and meanings of `flax.linen.Conv`.

    Args:
        strides, kernel_dilation: An integer, or one for each axis.
        padding: "SAME", "VALID", "CIRCULAR" (stride 1), pixels on each side, or a list of such numbers or of pairs
            (before, after), one for each axis. None is the library's own: "SAME" in the layout "flax", "VALID" in
            "equinox".
        feature_group_count: Groups of channels that do not see each other.
    """

    strides: int | Sequence[int] = 1
    padding: int | str | Sequence[Any] | None = None
    kernel_dilation: int | Sequence[int] = 1
    feature_group_count: int = 1


def activation_of(value: Any) -> Layer:
    """An activation from its name, from JAX's function or as a layer."""
    if isinstance(value, Layer):
        return value
    if callable(value) and not isinstance(value, type):
        if value not in FUNCTIONS:
            names = ", ".join(sorted({getattr(function, "__name__", "?") for function in FUNCTIONS}))
            raise ValueError(f"activation is {value!r} but must be a name of gnfast's, or one of JAX's {names}")
        return gn.Activation(FUNCTIONS[value])
    return gn.Activation(value)


def read(
    params: Any, activation: Any, layers: Iterable[Any] | None, layout: str, order: Any, sample: Shape | None
) -> tuple[gn.Network, Order]:
    """The network of a pytree for samples of a shape, (d,), (c, l) or (c, h, w), None where it does not matter."""
    pairs, tree = jax.tree_util.tree_flatten_with_path(params)
    if not pairs:
        raise ValueError("params has no arrays; pass the parameters of at least one layer")
    arrays = [_array(leaf, jax.tree_util.keystr(path)) for path, leaf in pairs]
    shapes = [array.shape for array in arrays]
    entries = entries_of([path for path, _ in pairs], shapes, order)
    reader = _Reader(arrays, entries, layout, sample)
    plan = _chain(entries, activation_of(activation), sample) if layers is None else list(layers)
    network = gn.Network(list(reader.layers(plan)))
    return network, Order(tree, shapes, reader.moves)


def _array(leaf: Any, name: str) -> Array:
    if isinstance(leaf, jax.core.Tracer):
        raise TypeError(
            f"params{name} is a traced value, which has no entries yet; make the operator outside of jax.jit"
        )
    return _checks.array(leaf, f"params{name}", [f"d{i}" for i in range(np.ndim(leaf))], owner="params")


def _chain(entries: list[Entry], between: Layer, sample: Shape | None) -> list[Any]:
    """Convolutions, their pixels as one vector, dense layers; the activation after each but the last."""
    found: list[Any] = []
    flat = sample is None or len(sample) == 1
    for entry in entries:
        if entry.is_dense and not flat:
            found.append(gn.Flatten())
        flat = entry.is_dense
        found += [Dense() if entry.is_dense else Conv(), between]
    return found[:-1] if flat else [*found[:-1], gn.Flatten()]


class _Reader:
    """Takes the layers of a pytree one after another, and keeps where their arrays go."""

    def __init__(self, arrays: list[Array], entries: list[Entry], layout: str, sample: Shape | None) -> None:
        self.arrays, self.left, self.shape = arrays, list(entries), sample
        self.channels_last = layout == "flax"
        self.moves: list[Move] = []
        self._pixels: Shape | None = None  # (c, h, w) that a Flatten has made a vector of
        self._pooled = False  # whether there is one pixel, whatever the samples

    def layers(self, plan: list[Any]) -> Iterator[Layer]:
        for i, item in enumerate(plan):
            where = f"layers[{i}]"
            layer = self._layer(item, where)
            if isinstance(layer, gn.Flatten):
                self._flatten(where)
            elif isinstance(layer, gn.Pool | gn.Conv1d | gn.Conv2d):
                self._pooled = isinstance(layer, gn.Pool) and layer.mode == "global_average"
            if self.shape is not None:
                try:
                    self.shape = layer.output_shape(self.shape)
                except ValueError as error:
                    raise ValueError(f"{where}, {layer!r}, {error}; see layout, order and layers") from None
            yield layer
        if self.left:
            raise ValueError(f"layers does not take {self.left[0].name!r} of params; add a Dense() or Conv() for it")
        if self._pixels is not None and math.prod(self._pixels[1:]) > 1:
            raise ValueError(
                f"layers ends with a Flatten of pixels (c, h, w) = {self._pixels}, whose outputs would come in another "
                "order than JAX's; end with a dense layer or with global_average pooling"
            )

    def _layer(self, item: Any, where: str) -> Layer:
        item = item() if item in (Dense, Conv) else item
        if isinstance(item, Dense):
            return self._dense(self._take(True, where))
        if isinstance(item, Conv):
            return self._convolution(self._take(False, where), item, where)
        layer = activation_of(item)
        if not isinstance(layer, PLAIN):
            raise TypeError(
                f"{where} is {layer!r} but must be Dense(), Conv(...), the name of an activation, gn.Activation, "
                "gn.Pool, gn.Flatten or gn.Scale; arrays come from params"
            )
        return layer

    def _take(self, dense: bool, where: str) -> Entry:
        if not self.left or self.left[0].is_dense is not dense:
            got = f"a kernel of shape {self.left[0].shape} at {self.left[0].name!r}" if self.left else "no more layers"
            raise ValueError(f"{where} is a {'Dense' if dense else 'Conv'} but params has {got} there; see order")
        return self.left.pop(0)

    def _flatten(self, where: str) -> None:
        if self.shape is None and self.channels_last and not self._pooled:
            raise ValueError(
                f"{where} is a Flatten, whose order of pixels needs the shape of a sample; pass sample_shape=(h, w, c)"
            )
        self._pixels = self.shape if self.channels_last and self.shape is not None and len(self.shape) > 1 else None

    def _dense(self, entry: Entry) -> Layer:
        into, out = entry.shape if self.channels_last else entry.shape[::-1]
        view: Shape = entry.shape
        axes: Shape = (1, 0) if self.channels_last else (0, 1)
        if self._pixels is not None and math.prod(self._pixels) == into:
            c, *pixels = self._pixels
            k = len(pixels)
            view, axes = (*pixels, c, out), (k + 1, k, *range(k))
        self._pixels = None
        weight = self._moved(entry.kernel, view, axes, (out, into))
        return gn.Dense(weight, self._bias(entry, out))

    def _convolution(self, entry: Entry, options: Conv, where: str) -> Layer:
        k = len(entry.shape) - 2
        axes = (k + 1, k, *range(k)) if self.channels_last else tuple(range(k + 2))
        shape = tuple(entry.shape[axis] for axis in axes)
        weight = self._moved(entry.kernel, entry.shape, axes, shape)
        padding, mode = self._padding(options, shape[2:], where)
        kind = gn.Conv2d if k == 2 else gn.Conv1d
        return kind(
            weight,
            self._bias(entry, shape[0]),
            options.strides,
            padding,
            mode,
            options.kernel_dilation,
            options.feature_group_count,
        )

    def _padding(self, options: Conv, kernel: Shape, where: str) -> tuple[Any, str]:
        """Ours for JAX's: with strides "SAME" puts what is odd behind, so that it depends on the size."""
        padding = options.padding
        if padding is None:
            padding = "SAME" if self.channels_last else "VALID"
        if not isinstance(padding, str):
            return padding, "zeros"
        name = _checks.choice(padding.upper(), f"{where}.padding", ("SAME", "VALID", "CIRCULAR"))
        strides, dilation = (
            (value,) * len(kernel) if isinstance(value, int) else tuple(value)
            for value in (options.strides, options.kernel_dilation)
        )
        if name == "CIRCULAR":
            return "same", "circular"
        if name == "VALID" or set(strides) == {1}:
            return name.lower(), "zeros"
        if self.shape is None:
            raise ValueError(
                f"{where} has padding 'SAME' and strides {strides}, which needs the shape of a sample; pass "
                "sample_shape=(h, w, c)"
            )
        pads = []
        for size, taps, stride, step in zip(self.shape[1:], kernel, strides, dilation, strict=True):
            total = max((-(-size // stride) - 1) * stride + step * (taps - 1) + 1 - size, 0)
            pads.append((total // 2, total - total // 2))
        return pads, "zeros"

    def _moved(self, leaf: int, view: Shape, axes: Shape, shape: Shape) -> Array:
        self.moves.append(Move(leaf, view, axes))
        # Always a copy: arrays of a pytree are values, and two that share memory are still two parameters.
        return np.array(self.arrays[leaf].reshape(view).transpose(axes), order="C").reshape(shape)

    def _bias(self, entry: Entry, out: int) -> Array | None:
        if entry.bias < 0:
            return None
        bias = self.arrays[entry.bias]
        if bias.size != out:
            raise ValueError(
                f"params has a bias of shape {bias.shape} at {entry.name!r} for a kernel of shape {entry.shape}, which "
                f"needs {out} numbers; see layout"
            )
        return self._moved(entry.bias, (out,), (0,), (out,))
