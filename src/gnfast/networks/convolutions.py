"""Layers that see images and series through windows: convolutions and pooling."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from gnfast import _arrays, _checks
from gnfast._arrays import Array
from gnfast.networks.layers import Layer, Shape, Spec, weight_and_bias

POOLS = ("average", "max", "global_average")
PADDING_MODES = ("zeros", "circular")


@dataclass(frozen=True, eq=False, repr=False)
class _Convolution(Layer):
    """The common base of convolutions along one and two axes."""

    axes: ClassVar[tuple[str, ...]]
    weight: Array
    bias: Array | None = None
    stride: int | Sequence[int] = 1
    padding: int | Sequence[int | Sequence[int]] | str = 0
    padding_mode: str = "zeros"
    dilation: int | Sequence[int] = 1
    groups: int = 1

    def __post_init__(self) -> None:
        count, name = len(self.axes), type(self).__name__
        weight = _checks.array(self.weight, "weight", ("out", "in / groups", *(f"k{a}" for a in self.axes)))
        keep = object.__setattr__
        keep(self, "weight", _arrays.read_only(weight))
        if self.bias is not None:
            bias = _checks.array(self.bias, "bias", (len(weight),), weight.dtype, owner="the weight")
            keep(self, "bias", _arrays.read_only(bias))
        keep(self, "stride", _per_axis(self.stride, "stride", count))
        keep(self, "dilation", _per_axis(self.dilation, "dilation", count))
        keep(self, "groups", _checks.integer(self.groups, "groups"))
        keep(self, "padding_mode", _checks.choice(self.padding_mode, "padding_mode", PADDING_MODES))
        if isinstance(self.padding, str):
            keep(self, "padding", _checks.choice(self.padding, "padding", ("valid", "same")))
            if self.padding == "same" and set(self.stride) != {1}:  # type: ignore[arg-type]
                raise ValueError(f"padding is 'same' but stride is {self.stride}; {name} has it for stride 1 only")
        else:
            keep(self, "padding", _paddings(self.padding, count))
        if len(weight) % self.groups:
            raise ValueError(f"groups is {self.groups} but must divide the {len(weight)} output channels of the weight")

    @property
    def in_channels(self) -> int:
        """Channels that it takes."""
        return int(self.weight.shape[1]) * self.groups

    @property
    def out_channels(self) -> int:
        """Channels that it gives."""
        return int(self.weight.shape[0])

    @property
    def kernel_size(self) -> Shape:
        """The kernel's size along each axis."""
        return tuple(self.weight.shape[2:])

    def arrays(self) -> dict[str, Array]:
        return weight_and_bias(self.weight, self.bias)

    def output_shape(self, shape: Shape) -> Shape:
        wanted = (self.in_channels, *self.axes)
        if len(shape) != len(wanted) or shape[0] != self.in_channels:
            raise ValueError(f"takes samples of shape ({', '.join(map(str, wanted))}) but gets {shape}")
        return (self.out_channels, *(axis[5] for axis in self._windows(shape)))

    def spec(self, shape: Shape) -> list[Spec]:
        axes = self._windows(shape)
        windows = (shape[0], *([_POINT] if len(axes) == 1 else []), *axes, self.padding_mode == "circular")
        return [("convolution", self.weight.reshape(len(self.weight), -1), self.bias, windows, self.groups)]

    def options(self) -> dict[str, Any]:
        names = ("stride", "padding", "padding_mode", "dilation", "groups")
        return {name: getattr(self, name) for name in names}

    def _windows(self, shape: Shape) -> list[Shape]:
        """(size, kernel, stride, dilation, padding before, positions) along each axis."""
        out: list[Shape] = []
        for i, (size, kernel) in enumerate(zip(shape[1:], self.kernel_size, strict=True)):
            stride, dilation = self.stride[i], self.dilation[i]  # type: ignore[index]
            if isinstance(self.padding, str):
                both = dilation * (kernel - 1) if self.padding == "same" else 0
                before = both // 2
            else:
                pads = self.padding[i]  # type: ignore[index]
                before, after = (pads, pads) if isinstance(pads, int) else pads
                both = before + after
            if self.padding_mode == "circular" and (most := max(before, both - before)) > size:
                raise ValueError(f"pads by {most} around a circle of {size} but can go round it only once")
            out.append((size, kernel, stride, dilation, before, _positions(size + both, kernel, stride, dilation)))
        return out

    def __repr__(self) -> str:
        notes = [f"{self.in_channels} -> {self.out_channels}", "x".join(map(str, self.kernel_size))]
        notes += [f"stride {_short(self.stride)}"] * (set(self.stride) != {1})  # type: ignore[arg-type]
        notes += [f"padding {_short(self.padding)}"] * (self.padding not in ("valid", (0,) * len(self.axes)))
        notes += ["circular"] * (self.padding_mode == "circular")
        notes += [f"dilation {_short(self.dilation)}"] * (set(self.dilation) != {1})  # type: ignore[arg-type]
        notes += [f"groups {self.groups}"] * (self.groups > 1)
        notes += ["bias"] * (self.bias is not None)
        return f"{type(self).__name__}({', '.join([*notes, self.weight.dtype.name])})"


class Conv2d(_Convolution):
    """A convolution of images (c, h, w), as `torch.nn.functional.conv2d`.

    Args:
        weight: (out, in / groups, kh, kw), float32 or float64. Kept as a read-only view, not copied where it is in C
            order: do not change the array afterwards.
        bias: (out,) of the same dtype, or None.
        stride, dilation: An integer, or one for the height and one for the width.
        padding: Pixels on each side, likewise, of an axis also a pair (before, after); "valid" is 0, and "same", for
            stride 1, keeps the size.
        padding_mode: "zeros" or "circular".
        groups: The channels of input and output fall in so many groups that do not see each other.

    Raises:
        TypeError: Not a real array of float32 or float64, or options of another kind.
        ValueError: Another shape, an empty array, NaN or infinite values, or options out of range.

    Examples:
        >>> import numpy as np
        >>> import gnfast as gn
        >>> layer = gn.Conv2d(np.ones((8, 3, 3, 3)), stride=2, padding=1)
        >>> layer.output_shape((3, 32, 32))
        (8, 16, 16)
    """

    kind: ClassVar[str] = "conv2d"
    axes = ("h", "w")


class Conv1d(_Convolution):
    """A convolution of series (c, l), as `torch.nn.functional.conv1d`: see `Conv2d`; weight (out, in / groups, k)."""

    kind: ClassVar[str] = "conv1d"
    axes = ("l",)


@dataclass(frozen=True, repr=False)
class Pool(Layer):
    """Pooling of images (c, h, w) or series (c, l).

    Args:
        mode: "average" (padding counts as zeros), "max" (of equal values the first has the derivative), or
            "global_average" over all pixels, which takes no other argument.
        kernel_size: An integer, or one for each axis.
        stride: Likewise; None is the kernel's size.
        padding: Likewise, at most half of the kernel.
    """

    kind: ClassVar[str] = "pool"
    mode: str
    kernel_size: int | Sequence[int] | None = None
    stride: int | Sequence[int] | None = None
    padding: int | Sequence[int] = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "mode", _checks.choice(self.mode, "mode", POOLS))
        whole = self.mode == "global_average"
        if whole != (self.kernel_size is None):
            must = "must not have a kernel_size" if whole else "needs a kernel_size"
            raise ValueError(f"kernel_size is {self.kernel_size} but {self.mode!r} pooling {must}")
        if whole and (self.stride is not None or self.padding != 0):
            raise ValueError("global_average pooling takes neither stride nor padding; leave them out")
        for name, minimum in (("kernel_size", 1), ("stride", 1), ("padding", 0)):
            value = getattr(self, name)
            if isinstance(value, Iterable):
                object.__setattr__(self, name, tuple(_checks.integers(value, name, 1, minimum)))
            elif value is not None:
                object.__setattr__(self, name, _checks.integer(value, name, minimum))

    @property
    def is_linear(self) -> bool:  # type: ignore[override]
        """Whether it is an average."""
        return self.mode != "max"

    def output_shape(self, shape: Shape) -> Shape:
        """The shape of the outputs of samples of `shape`, or a ValueError where they do not fit."""
        return (shape[0], *(axis[5] for axis in self._windows(shape)))

    def spec(self, shape: Shape) -> list[Spec]:
        """The layer on samples of `shape`, as the core is told of it."""
        axes = self._windows(shape)
        windows = (shape[0], *([_POINT] if len(axes) == 1 else []), *axes, False)
        return [("pool", self.mode == "max", windows)]

    def options(self) -> dict[str, Any]:
        """All that is not an array, for weight files."""
        return {name: getattr(self, name) for name in ("mode", "kernel_size", "stride", "padding")}

    def _windows(self, shape: Shape) -> list[Shape]:
        if len(shape) not in (2, 3):
            raise ValueError(f"takes samples of shape (c, h, w) or (c, l) but gets {shape}")
        count = len(shape) - 1
        if self.kernel_size is None:
            return [(size, size, size, 1, 0, 1) for size in shape[1:]]
        kernel = _per_axis(self.kernel_size, "kernel_size", count)
        stride = kernel if self.stride is None else _per_axis(self.stride, "stride", count)
        padding = _per_axis(self.padding, "padding", count, 0)
        if any(2 * p > k for p, k in zip(padding, kernel, strict=True)):
            raise ValueError(f"has padding {_short(padding)}, more than half of its kernel {_short(kernel)}")
        return [
            (size, k, s, 1, p, _positions(size + 2 * p, k, s, 1))
            for size, k, s, p in zip(shape[1:], kernel, stride, padding, strict=True)
        ]

    def __repr__(self) -> str:
        notes = [self.mode] + ([] if self.kernel_size is None else [_short(self.kernel_size)])
        notes += [] if self.stride is None else [f"stride {_short(self.stride)}"]
        notes += [f"padding {_short(self.padding)}"] * (self.padding != 0)
        return f"Pool({', '.join(notes)})"


_POINT = (1, 1, 1, 1, 0, 1)  # the axis that a series does not have


def _positions(padded: int, kernel: int, stride: int, dilation: int) -> int:
    extent = dilation * (kernel - 1) + 1
    if extent > padded:
        raise ValueError(f"has a kernel that spans {extent} but gets {padded} along one axis, padding included")
    return (padded - extent) // stride + 1


def _per_axis(value: Any, name: str, count: int, minimum: int = 1) -> Shape:
    if not isinstance(value, Iterable):
        return (_checks.integer(value, name, minimum),) * count
    found = tuple(_checks.integers(value, name, 1, minimum))
    if len(found) != count:
        raise ValueError(f"{name} is {found} but must be an integer or {count}, one for each axis")
    return found


def _paddings(value: Any, count: int) -> tuple[int | tuple[int, int], ...]:
    """One for each axis: an integer, or a pair where the two sides differ."""
    entries = tuple(value) if isinstance(value, Iterable) else (value,) * count
    if len(entries) != count:
        raise ValueError(f"padding is {entries} but must be an integer or {count}, one or a pair for each axis")
    pairs = [_per_axis(entry, "padding", 2, 0) for entry in entries]
    return tuple(before if before == after else (before, after) for before, after in pairs)


def _short(value: Any) -> str:
    """3 for (3, 3), 3x5 for (3, 5); 1+2 for a pair of one axis."""
    if not isinstance(value, tuple):
        return str(value)
    parts = ["+".join(map(str, part)) if isinstance(part, tuple) else str(part) for part in value]
    return parts[0] if len(set(parts)) == 1 else "x".join(parts)
