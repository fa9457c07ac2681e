"""Layers as values: arrays and options, each checked once, when it is made; the core computes with them.

The shape of a sample is (d,), (c, l) or (c, h, w). A layer says what it makes of such a shape, and what
the core is told of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal, Self, TypeAlias, get_args

import numpy as np

from gnfast import _arrays, _checks
from gnfast._arrays import Array

ActivationName: TypeAlias = Literal[
    "identity",
    "relu",
    "leaky_relu",
    "elu",
    "gelu",
    "gelu_tanh",
    "silu",
    "softplus",
    "tanh",
    "sigmoid",
]
ACTIVATIONS: tuple[str, ...] = get_args(ActivationName)

SLOPE = 0.01  # the default, as in PyTorch

Shape: TypeAlias = tuple[int, ...]
Spec: TypeAlias = tuple[Any, ...]  # what the core is told of a layer: its kind, arrays and options


class Layer:
    """The common base of all layers."""

    kind: ClassVar[str]  # in weight files
    is_linear = True  # whether the outputs are linear in the inputs, up to a constant

    def arrays(self) -> dict[str, Array]:
        """The layer's arrays by name, the parameters first and in flat order."""
        return {}

    def parameters(self) -> list[Array]:
        """The arrays that are parameters."""
        return list(self.arrays().values())

    def with_parameters(self, values: Iterator[Array], dtype: np.dtype[Any]) -> Self:
        """The same layer with the next of the values as its parameters, and its other arrays in their dtype."""
        return replace(self, **{name: next(values) for name in self.arrays()}) if self.arrays() else self  # type: ignore[type-var]

    def output_shape(self, shape: Shape) -> Shape:
        """The shape of what the layer gives for a sample of `shape`.

        Raises:
            ValueError: The layer takes no such samples; begins with a verb: `build_specs` puts its place before it.
        """
        return shape

    def spec(self, shape: Shape) -> list[Spec]:
        """The layer on samples of `shape`, as the core is told of it."""
        raise NotImplementedError

    def options(self) -> dict[str, Any]:
        """All that is not an array, for weight files."""
        return {}

    def __reduce__(self) -> tuple[Any, ...]:  # through __init__: copies and unpickled layers are read-only too
        return type(self), tuple(getattr(self, field.name) for field in fields(self))  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False, repr=False)
class Dense(Layer):
    """A dense layer, x -> (weight + skip * eye(out, in)) x + bias.

    Args:
        weight: (out, in), float32 or float64. Kept as a read-only view, not copied where it is in C order: do not
            change the array afterwards.
        bias: (out,) of the same dtype, or None for a layer without one.
        skip: Strength of the residual connection, a rectangular identity where the layer is not square; no parameter.

    Raises:
        TypeError: Not a real array of float32 or float64, or a bias of another dtype than its weight.
        ValueError: Another shape, an empty array, NaN or infinite values.

    Examples:
        >>> import numpy as np
        >>> import gnfast as gn
        >>> layer = gn.Dense(np.zeros((2, 3)), bias=np.ones(2), skip=1.0)
        >>> layer.in_features, layer.out_features
        (3, 2)
        >>> gn.Network([layer])(np.array([[1.0, 2.0, 3.0]]))
        array([[2., 3.]])
    """

    kind: ClassVar[str] = "dense"
    weight: Array
    bias: Array | None = None
    skip: float = 0.0

    def __post_init__(self) -> None:
        weight = _checks.array(self.weight, "weight", ("out", "in"))
        object.__setattr__(self, "weight", _arrays.read_only(weight))
        if self.bias is not None:
            bias = _checks.array(self.bias, "bias", (len(weight),), weight.dtype, owner="the weight")
            object.__setattr__(self, "bias", _arrays.read_only(bias))
        object.__setattr__(self, "skip", _checks.real(self.skip, "skip"))

    @property
    def in_features(self) -> int:
        """Columns of the weight."""
        return int(self.weight.shape[1])

    @property
    def out_features(self) -> int:
        """Rows of the weight."""
        return int(self.weight.shape[0])

    def arrays(self) -> dict[str, Array]:
        """The arrays by name, for weight files."""
        return weight_and_bias(self.weight, self.bias)

    def output_shape(self, shape: Shape) -> Shape:
        """The shape of the outputs of samples of `shape`, or a ValueError where they do not fit."""
        if shape != (self.in_features,):
            hint = "; put a gn.Flatten() before it" if len(shape) > 1 else ""
            raise ValueError(f"takes {self.in_features} features but gets samples of shape {shape}{hint}")
        return (self.out_features,)

    def spec(self, shape: Shape) -> list[Spec]:
        """The layer on samples of `shape`, as the core is told of it."""
        return [("dense", self.weight, self.bias, self.skip)]

    def options(self) -> dict[str, Any]:
        """All that is not an array, for weight files."""
        return {"skip": self.skip}

    def __repr__(self) -> str:
        notes = [f"{self.in_features} -> {self.out_features}"]
        notes += ["bias"] if self.bias is not None else []
        notes += [f"skip {self.skip:g}"] if self.skip else []
        return f"Dense({', '.join([*notes, self.weight.dtype.name])})"


def slope_of(activation: str, slope: Any) -> float:
    """The checked slope; another than the one that nobody has to give is an error where the activation has none."""
    found = _checks.real(slope, "slope")
    if found != SLOPE and activation != "leaky_relu":
        raise ValueError(
            f"slope is {found:g} but activation is {activation!r}, which has no slope; leave slope out, or pass "
            "activation='leaky_relu'"
        )
    return found


@dataclass(frozen=True)
class Activation(Layer):
    """An elementwise activation.

    Args:
        name: "identity", "relu", "leaky_relu", "elu" (alpha 1), "gelu" (with the error function), "gelu_tanh", "silu",
            "softplus", "tanh" or "sigmoid".
        slope: Of leaky_relu for negative arguments; the others have none.

    At 0 the derivative of relu is 0 and that of leaky_relu its slope, as in PyTorch.
    """

    kind: ClassVar[str] = "activation"
    name: str
    slope: float = SLOPE

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", _checks.choice(self.name, "activation", ACTIVATIONS))
        object.__setattr__(self, "slope", slope_of(self.name, self.slope))

    @property
    def is_linear(self) -> bool:  # type: ignore[override]
        """Whether it is the identity."""
        return self.name == "identity"

    def spec(self, shape: Shape) -> list[Spec]:
        """The layer on samples of `shape`, as the core is told of it."""
        return [] if self.is_linear else [("activation", self.name, self.slope)]

    def options(self) -> dict[str, Any]:
        """All that is not an array, for weight files."""
        return {"name": self.name, "slope": self.slope}

    def __repr__(self) -> str:
        return f"Activation({self})"

    def __str__(self) -> str:
        return f"{self.name} {self.slope:g}" if self.name == "leaky_relu" else self.name


@dataclass(frozen=True)
class Flatten(Layer):
    """Samples (c, h, w) or (c, l) as vectors (d,), in their order."""

    kind: ClassVar[str] = "flatten"

    def output_shape(self, shape: Shape) -> Shape:
        """The shape of the outputs of samples of `shape`, or a ValueError where they do not fit."""
        return (math.prod(shape),)

    def spec(self, shape: Shape) -> list[Spec]:
        """The layer on samples of `shape`, as the core is told of it."""
        return []


@dataclass(frozen=True)
class Scale(Layer):
    """Multiplication by a constant, x -> factor x: how parameterisations (NTK, mu-P) differ from the standard one."""

    kind: ClassVar[str] = "scale"
    factor: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "factor", _checks.real(self.factor, "factor"))

    def spec(self, shape: Shape) -> list[Spec]:
        """The layer on samples of `shape`, as the core is told of it."""
        return [("scale", self.factor)]

    def options(self) -> dict[str, Any]:
        """All that is not an array, for weight files."""
        return {"factor": self.factor}

    def __repr__(self) -> str:
        return f"Scale({self.factor:g})"


@dataclass(frozen=True, eq=False, repr=False)
class Residual(Layer):
    """x -> shortcut(x) + scale * body(x).

    Args:
        layers: The body, at least one layer.
        shortcut: Layers too, or None for the identity.
        scale: Of the body.

    The parameters are those of the body, then those of the shortcut.

    Examples:
        >>> import numpy as np
        >>> import gnfast as gn
        >>> block = gn.Residual([gn.Dense(np.eye(2)), gn.Activation("relu")], scale=0.5)
        >>> gn.Network([block])(np.array([[1.0, -2.0]]))
        array([[ 1.5, -2. ]])
    """

    kind: ClassVar[str] = "residual"
    layers: Sequence[Layer]
    shortcut: Sequence[Layer] | None = None
    scale: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", _layers(self.layers, "layers"))
        if self.shortcut is not None:
            object.__setattr__(self, "shortcut", _layers(self.shortcut, "shortcut"))
        object.__setattr__(self, "scale", _checks.real(self.scale, "scale"))

    @property
    def is_linear(self) -> bool:  # type: ignore[override]
        """Whether all layers of body and shortcut are."""
        return all(layer.is_linear for layer in (*self.layers, *(self.shortcut or ())))

    def parts(self) -> dict[str, Sequence[Layer]]:
        """The body's layers and the shortcut's, by name."""
        return {"layers": self.layers, **({} if self.shortcut is None else {"shortcut": self.shortcut})}

    def arrays(self) -> dict[str, Array]:
        """The arrays by name, for weight files."""
        return {
            f"{part}.{i}.{name}": array
            for part, layers in self.parts().items()
            for i, layer in enumerate(layers)
            for name, array in layer.arrays().items()
        }

    def parameters(self) -> list[Array]:
        """The parameters of all its layers, the body's first."""
        return [array for layers in self.parts().values() for layer in layers for array in layer.parameters()]

    def with_parameters(self, values: Iterator[Array], dtype: np.dtype[Any]) -> Residual:
        """The same block with other parameters, taken from `values` in order."""
        body, shortcut = (
            None if part is None else [layer.with_parameters(values, dtype) for layer in part]
            for part in (self.layers, self.shortcut)
        )
        return Residual(body or (), shortcut, self.scale)

    def output_shape(self, shape: Shape) -> Shape:
        """The shape of the outputs of samples of `shape`, or a ValueError where they do not fit."""
        return self._built(shape)[1]

    def spec(self, shape: Shape) -> list[Spec]:
        """The layer on samples of `shape`, as the core is told of it."""
        return [("residual", *self._built(shape)[0], self.scale)]

    def _built(self, shape: Shape) -> tuple[tuple[list[Spec], list[Spec]], Shape]:
        body, out = build_specs(self.layers, shape, "its layers")
        shortcut, beside = build_specs(self.shortcut or (), shape, "its shortcut")
        if out != beside:
            hint = "" if self.shortcut else "; give it a shortcut, for instance a convolution with a 1 x 1 kernel"
            raise ValueError(f"adds a body that gives {out} to a shortcut that gives {beside}{hint}")
        return (body, shortcut), out

    def options(self) -> dict[str, Any]:
        """All that is not an array, for weight files."""
        return {"scale": self.scale}

    def __repr__(self) -> str:
        notes = [", ".join(map(repr, self.layers))]
        notes += [f"shortcut [{', '.join(map(repr, self.shortcut))}]"] if self.shortcut else []
        notes += [f"scale {self.scale:g}"] * (self.scale != 1)
        return f"Residual([{notes[0]}]{''.join(f', {note}' for note in notes[1:])})"


def build_specs(layers: Iterable[Layer], shape: Shape, where: str = "layers") -> tuple[list[Spec], Shape]:
    """The layers on samples of `shape`, as the core is told of them, and the shape that they give."""
    specs: list[Spec] = []
    for i, layer in enumerate(layers):
        try:
            out = layer.output_shape(shape)
            specs += layer.spec(shape)
        except ValueError as error:
            raise ValueError(f"{where}[{i}], {type(layer).__name__}, {error}") from None
        shape = out
    return specs, shape


def _layers(value: Any, name: str) -> tuple[Layer, ...]:
    if not isinstance(value, Iterable):
        raise TypeError(f"{name} is of type {type(value).__name__} but must be a list of layers")
    found = tuple(value)
    if not found:
        raise ValueError(f"{name} is empty; a residual block needs at least one layer there")
    for i, layer in enumerate(found):
        if not isinstance(layer, Layer):
            raise TypeError(f"{name}[{i}] is of type {type(layer).__name__} but must be a layer such as gn.Conv2d")
    return found


def weight_and_bias(weight: Array, bias: Array | None) -> dict[str, Array]:
    """The arrays of a layer that has these two."""
    return {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
