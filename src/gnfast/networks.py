"""Networks as values: layers with their arrays, checked once; everything computed with them is computed by the core."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from gnfast import _arrays, _checks, _core, _files, initializers
from gnfast._arrays import Array

ACTIVATIONS = ("identity", "relu", "leaky_relu", "tanh", "gelu", "sigmoid")
LISTED_LAYERS = 12  # repr lists the layers up to this many


@dataclass(frozen=True, eq=False, repr=False)
class Dense:
    """A dense layer, x -> (weight + skip * eye(out, in)) x + bias.

    Args:
        weight: (out, in), float32 or float64. Kept as a read-only view, not copied where it is in C order: do not
            change the array afterwards.
        bias: (out,) of the same dtype, or None for a layer without one.
        skip: Strength of the residual connection, a rectangular identity where the layer is not square; no parameter.

    Raises:
        TypeError: Not a real array of float32 or float64, or a bias of another dtype than its weight.
        ValueError: Another shape, an empty array, NaN or infinite values.
    """

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

    def parameters(self) -> list[Array]:
        """The weight and, where there is one, the bias."""
        return [self.weight] if self.bias is None else [self.weight, self.bias]

    def __reduce__(self) -> tuple[Any, ...]:  # through __init__: copies and unpickled layers are read-only too
        return Dense, (self.weight, self.bias, self.skip)

    def __repr__(self) -> str:
        notes = [f"{self.in_features} -> {self.out_features}"]
        notes += ["bias"] if self.bias is not None else []
        notes += [f"skip {self.skip:g}"] if self.skip else []
        return f"Dense({', '.join([*notes, self.weight.dtype.name])})"


@dataclass(frozen=True)
class Activation:
    """An elementwise activation.

    Args:
        name: "identity", "relu", "leaky_relu", "tanh", "gelu" (with the error function) or "sigmoid".
        slope: Of leaky_relu for negative arguments; the others do not read it.

    At 0 the derivative of relu is 0 and that of leaky_relu its slope, as in PyTorch.
    """

    name: str
    slope: float = 0.01

    def __post_init__(self) -> None:
        _checks.choice(self.name, "activation", ACTIVATIONS)
        object.__setattr__(self, "slope", _checks.real(self.slope, "slope"))

    def __repr__(self) -> str:
        return f"Activation({self})"

    def __str__(self) -> str:
        return f"{self.name} {self.slope:g}" if self.name == "leaky_relu" else self.name


Layer: TypeAlias = Dense | Activation


class Linearization(NamedTuple):
    """What the derivatives of a network at given samples are made of, one entry per dense layer."""

    inputs: list[Array]
    """The input (n, m_{l-1}) of the layer."""
    derivatives: list[Array | None]
    """The derivative (n, m_l) of the activations that follow the layer, their product; None for the identity."""


class Network:
    """A feed-forward network, F(x) = its layers applied in order.

    Args:
        layers: `Dense` and `Activation` in any order, at least one `Dense`, all of one dtype.

    The parameters are flat in layer order, row-major, weight before bias: the order of `torch.nn.Module.parameters()`.
    A network does not change: `with_parameters` makes another.

    Raises:
        TypeError: A layer of another kind, or layers of different dtypes.
        ValueError: No `Dense`, or a layer that takes another number of features than the one before it gives.
    """

    def __init__(self, layers: Iterable[Layer]) -> None:
        self._layers = _check_layers(layers)
        self._dense = tuple(layer for layer in self._layers if isinstance(layer, Dense))
        self._core = _core.Network(
            [
                ("dense", layer.weight, layer.bias, layer.skip)
                if isinstance(layer, Dense)
                else ("activation", layer.name, layer.slope)
                for layer in self._layers
            ]
        )

    @property
    def layers(self) -> tuple[Layer, ...]:
        """All layers in order."""
        return self._layers

    @property
    def dense(self) -> tuple[Dense, ...]:
        """The dense layers only."""
        return self._dense

    @property
    def widths(self) -> list[int]:
        """[d, m_1, ..., k]: what the first dense layer takes and what each one gives."""
        return [self.in_features, *(layer.out_features for layer in self._dense)]

    @property
    def in_features(self) -> int:
        """d, the number of features of a sample."""
        return self._dense[0].in_features

    @property
    def out_features(self) -> int:
        """k, the number of outputs."""
        return self._dense[-1].out_features

    @property
    def depth(self) -> int:
        """The number of dense layers."""
        return len(self._dense)

    @property
    def num_parameters(self) -> int:
        """p, the entries of all weights and biases."""
        return sum(array.size for array in self.parameters())

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float64."""
        return self._dense[0].weight.dtype

    @property
    def is_linear(self) -> bool:
        """Whether every activation is the identity."""
        return all(layer.name == "identity" for layer in self._layers if isinstance(layer, Activation))

    def parameters(self) -> list[Array]:
        """The weights and biases in flat order, read-only, not copied."""
        return [array for layer in self._dense for array in layer.parameters()]

    def with_parameters(self, parameters: Iterable[Any]) -> Network:
        """The same layers with other values.

        Args:
            parameters: Arrays of the shapes of `parameters()`, in its order, all of one dtype, not
                necessarily this network's.
        """
        shapes = [array.shape for array in self.parameters()]
        values = iter(_check_parameters(parameters, "parameters", shapes))
        return Network(
            Dense(next(values), None if layer.bias is None else next(values), layer.skip)
            if isinstance(layer, Dense)
            else layer
            for layer in self._layers
        )

    def __call__(self, X: Any) -> Array:
        """The outputs (n, k) at the samples X (n, d), of the network's dtype."""
        X = _checks.inputs(X, self.in_features, self.dtype)
        out = _arrays.empty((len(X), self.out_features), self.dtype)
        self._core.forward(X, out)
        return out

    def linearize(self, X: Any) -> Linearization:
        """The inputs of all dense layers and the derivatives of the activations at the samples X (n, d)."""
        return Linearization(*self._core.linearize(_checks.inputs(X, self.in_features, self.dtype)))

    def save(self, path: str | PathLike[str]) -> None:
        """Write the network to a safetensors file, whole or not at all; needs the extra `safetensors`.

        The arrays are the tensors `layers.<i>.weight` and `layers.<i>.bias`, i the position in `layers`; the list of
        layers is in the metadata. `load` reads it back.

        Raises:
            OSError: The folder does not exist or may not be written to.
        """
        records: list[_files.Record] = []
        tensors: dict[str, Array] = {}
        for i, layer in enumerate(self._layers):
            if isinstance(layer, Dense):
                records.append({"type": "dense", "bias": layer.bias is not None, "skip": layer.skip})
                tensors |= dict(zip(_tensor_names(i, records[-1]), layer.parameters(), strict=True))
            else:
                records.append({"type": "activation", "name": layer.name, "slope": layer.slope})
        _files.write(path, records, tensors)

    def __reduce__(self) -> tuple[Any, ...]:
        return Network, (self._layers,)

    def __repr__(self) -> str:
        activations = dict.fromkeys(str(layer) for layer in self._layers if isinstance(layer, Activation))
        kind = "linear" if self.is_linear else " + ".join(activations)
        count = _checks.counted(self.num_parameters, "parameter")
        head = f"Network({_arrow(self.widths)}, {kind}, {count}, {self.dtype})"
        if len(self._layers) > LISTED_LAYERS:
            return head
        return "\n".join([head, *(f"  {i:>2}  {layer!r}" for i, layer in enumerate(self._layers))])


def mlp(
    widths: Sequence[int],
    activation: str = "relu",
    slope: float = 0.01,
    skip: float | Sequence[float] = 0.0,
    bias: bool = False,
    init: initializers.Initializer | Sequence[Any] = "kaiming_normal",
    seed: int = 0,
    dtype: Any = "float64",
) -> Network:
    """A multi-layer perceptron: dense layers with an activation between them and none after the last.

    Args:
        widths: [d, m_1, ..., k], at least two.
        activation: A name of `Activation`.
        slope: Of leaky_relu.
        skip: Strength of the residual connections, one number for all dense layers or one each.
        bias: Whether the dense layers have biases, zero unless `init` gives them.
        init: "kaiming_normal", "kaiming_uniform", "xavier_normal", "xavier_uniform", "lecun_normal", "orthogonal" or
            "ntk" (`gnfast.initializers` has their variances; the gain of kaiming is that of the activation, 1 for
            "identity"); a function of (shape, seed) that returns a weight; or all arrays, ordered as `parameters()`.
        seed: From 0 to 2^64 - 1; each layer draws its own numbers.
        dtype: "float32" or "float64".
    """
    sizes = _checks.integers(widths, "widths", at_least=2)
    between = Activation(activation, slope)
    kind = _checks.float_dtype(dtype)
    shapes = [(out, into) for into, out in itertools.pairwise(sizes)]
    skips = _checks.reals(skip, "skip", len(shapes), each="dense layer")
    biased = _checks.boolean(bias, "bias")
    if isinstance(init, str) or callable(init):
        seed = _checks.integer(seed, "seed", 0, 2**64 - 1)
        weights = initializers.weights(init, shapes, activation, between.slope, seed, kind)
        biases = [np.zeros(out, kind) if biased else None for out, _ in shapes]
    else:
        flat = [shape for out, into in shapes for shape in ([(out, into), (out,)] if biased else [(out, into)])]
        values = _check_parameters(init, "init", flat, kind)
        weights = values[:: 1 + biased]
        biases = list(values[1::2]) if biased else [None] * len(shapes)
    layers = [Dense(*parts) for parts in zip(weights, biases, skips, strict=True)]
    return Network([layer for dense in layers for layer in (dense, between)][:-1])


def load(path: str | PathLike[str]) -> Network:
    """The network of a file that `Network.save` wrote; needs the extra `safetensors`.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Not such a file, or a damaged one.
    """
    file, records, tensors = _files.read(path)
    try:
        expected = [name for i, record in enumerate(records) for name in _tensor_names(i, record)]
        if odd := sorted(set(expected) ^ set(tensors)):
            raise ValueError(f"its list of layers and its tensors disagree about {', '.join(odd)}")
        return Network(_layer(i, record, tensors) for i, record in enumerate(records))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is damaged or from a newer gnfast: {error}") from error


def _tensor_names(i: int, record: _files.Record) -> list[str]:
    if record["type"] != "dense":
        return []
    return [f"layers.{i}.{name}" for name in ("weight", "bias")[: 1 + record["bias"]]]


def _layer(i: int, record: _files.Record, tensors: dict[str, Array]) -> Layer:
    kind = _checks.choice(record["type"], "the type of a layer", ("dense", "activation"))
    if kind == "activation":
        return Activation(record["name"], record["slope"])
    return Dense(tensors[f"layers.{i}.weight"], tensors.get(f"layers.{i}.bias"), record["skip"])


def _check_layers(layers: Iterable[Layer]) -> tuple[Layer, ...]:
    if not isinstance(layers, Iterable):
        raise TypeError(f"layers is of type {type(layers).__name__} but must be a list of gn.Dense and gn.Activation")
    found = tuple(layers)
    features, first = None, None
    for i, layer in enumerate(found):
        if not isinstance(layer, Dense | Activation):
            raise TypeError(f"layers[{i}] is of type {type(layer).__name__} but must be a gn.Dense or a gn.Activation")
        if isinstance(layer, Activation):
            continue
        if features not in (None, layer.in_features):
            raise ValueError(
                f"layers[{i}] takes {layer.in_features} features but the layers before it give {features}; "
                f"pass a weight of shape ({layer.out_features}, {features})"
            )
        first = first or layer
        if layer.weight.dtype != first.weight.dtype:
            raise TypeError(
                f"layers[{i}] is {layer.weight.dtype} but the layers before it are {first.weight.dtype}; "
                f"convert its arrays with .astype('{first.weight.dtype}')"
            )
        features = layer.out_features
    if first is None:
        raise ValueError("layers has no gn.Dense; a network needs at least one")
    return found


def _check_parameters(
    values: Any, name: str, shapes: Sequence[tuple[int, ...]], dtype: np.dtype[Any] | None = None
) -> list[Array]:
    if not isinstance(values, Iterable):
        raise TypeError(f"{name} is of type {type(values).__name__} but must be a list of arrays, one per parameter")
    found = list(values)
    if len(found) != len(shapes):
        wanted = ", ".join(map(str, shapes[:4])) + ", ..." * (len(shapes) > 4)
        got = _checks.counted(len(found), "array")
        raise ValueError(f"{name} has {got} but the network has {len(shapes)}, of shapes {wanted}")
    pairs = enumerate(zip(found, shapes, strict=True))
    return [_checks.array(value, f"{name}[{i}]", shape, dtype) for i, (value, shape) in pairs]


def _arrow(widths: list[int]) -> str:
    """64 -> 1024 x 3 -> 10: runs of three or more equal widths are counted."""
    runs = [[str(width) for width in run] for _, run in itertools.groupby(widths)]
    return " -> ".join(f"{run[0]} x {len(run)}" if len(run) > 2 else " -> ".join(run) for run in runs)
