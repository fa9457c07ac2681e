"""Networks as values: layers with their arrays, checked once; everything computed with them is computed by the core."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from gnfast import _arrays, _checks, _core, _files
from gnfast._arrays import CPU, Array, Device, DTypeName
from gnfast.networks import initializers
from gnfast.networks.convolutions import Conv1d, Conv2d, Pool
from gnfast.networks.layers import (
    SLOPE,
    Activation,
    ActivationName,
    Dense,
    Flatten,
    Layer,
    Residual,
    Scale,
    Shape,
    build_specs,
)
from gnfast.networks.norms import BatchNorm, LayerNorm
from gnfast.networks.traversal import flat_layers

LISTED_LAYERS = 12  # repr lists the layers up to this many
KINDS: dict[str, type[Layer]] = {
    kind.kind: kind
    for kind in (Dense, Activation, Conv1d, Conv2d, Pool, Flatten, Scale, Residual, BatchNorm, LayerNorm)
}
SAMPLES = {2: ("n", "d"), 3: ("n", "c", "l"), 4: ("n", "c", "h", "w")}  # what X may be


class Linearization(NamedTuple):
    """Parts of the derivatives of a network at given samples, one entry per dense layer."""

    inputs: list[Array]
    """The input (n, m_{l-1}) of the layer."""
    derivatives: list[Array | None]
    """The derivative (n, m_l) of the activations that follow the layer, their product; None for the identity."""


class Placed(NamedTuple):
    """A network on samples of one shape."""

    core: _core.Network
    features: int
    """Numbers of a sample."""
    outputs: int
    """k, those of an output."""


# Compares a network with what it was read from, at samples: whether that could be done; raises where both differ.
Source: TypeAlias = Callable[["Network", Array], bool]


class Network:
    """A feed-forward network, F(x) = its layers applied in order.

    Args:
        layers: Layers in any order that fit each other, at least one of them with parameters, all of one dtype.

    Networks of `Dense`, `Activation` and, before them, `Flatten` take samples X (n, d); with other layers X may be
    (n, c, h, w) or (n, c, l), of any size that the layers take: it is known from X. Outputs are always (n, k).
    The parameters are flat in layer order, row-major, weight before bias: the order of `torch.nn.Module.parameters()`.
    A network does not change: `with_parameters` makes another.

    Attributes:
        source: What the network was read from, as a function with which it is compared at its first samples; None
            after that, and for networks that were not read.

    Raises:
        TypeError: A layer of another kind, or layers of different dtypes.
        ValueError: No layer with parameters, a `Dense` that takes another number of features than the one before it
            gives, or parameters that are used twice.

    Examples:
        >>> import numpy as np
        >>> import gnfast as gn
        >>> W = np.ones((3, 2))
        >>> net = gn.Network([gn.Dense(W), gn.Activation("relu"), gn.Dense(W.T)])
        >>> net(np.array([[1.0, 2.0], [-1.0, -2.0]]))
        array([[9., 9.],
               [0., 0.]])
    """

    def __init__(self, layers: Iterable[Layer]) -> None:
        self._layers = _check_layers(layers)
        self._dense = tuple(layer for layer in self._layers if isinstance(layer, Dense))
        self._placed: dict[tuple[Shape, Device], Placed] = {}
        self.source: Source | None = None

    @property
    def layers(self) -> tuple[Layer, ...]:
        """All layers in order."""
        return self._layers

    def check_unchanged(self) -> None:
        """Raise if the arrays, where they belong to somebody else, have been changed: operators keep forward passes."""

    @property
    def watches(self) -> bool:
        """Whether `check_unchanged` looks at all of its arrays, whoever calls it."""
        return False

    @property
    def kept(self) -> Array | None:
        """The places of the parameters among all entries of the arrays, or None for all of them: see `gnfast.prune`."""
        return None

    @property
    def is_feedforward_dense(self) -> bool:
        """Whether there are only `Dense`, `Activation` and `Flatten`: plain dense networks, without residual blocks."""
        return all(isinstance(layer, Dense | Activation | Flatten) for layer in self._layers)

    @property
    def dense(self) -> tuple[Dense, ...]:
        """The dense layers only; those inside of residual blocks are not among them."""
        return self._dense

    @property
    def widths(self) -> list[int]:
        """[d, m_1, ..., k]: inputs of the first dense layer and outputs of each one; of plain dense networks only."""
        return [self.in_features, *(layer.out_features for layer in self._dense)]

    @property
    def in_features(self) -> int:
        """d, the number of features of a sample; of plain dense networks only."""
        if not self.is_feedforward_dense:
            raise ValueError("a network with other layers than dense ones takes samples of any shape that they fit")
        return self._dense[0].in_features

    @property
    def out_features(self) -> int:
        """k, the number of outputs, where the layers alone say it."""
        if found := _out_features(self._layers):
            return found
        raise ValueError("the number of outputs depends on the shape of the samples; net.output_shape(shape) has it")

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
        return self.parameters()[0].dtype

    @property
    def is_linear(self) -> bool:
        """Whether all layers are linear, up to constants: every activation is the identity."""
        return all(layer.is_linear for layer in self._layers)

    def parameters(self) -> list[Array]:
        """The weights and biases in flat order, read-only, not copied."""
        return [array for layer in self._layers for array in layer.parameters()]

    def with_parameters(self, parameters: Iterable[Any]) -> Network:
        """The same layers with other values.

        Args:
            parameters: Arrays of the shapes of `parameters()`, in its order, all of one dtype, not
                necessarily this network's.
        """
        shapes = [array.shape for array in self.parameters()]
        arrays = _check_parameters(parameters, "parameters", shapes)
        values = iter(arrays)
        found = Network([layer.with_parameters(values, arrays[0].dtype) for layer in self._layers])
        found.source = self.source
        return found

    def output_shape(self, shape: Sequence[int]) -> Shape:
        """The shape of the output for a sample of `shape`: (k,).

        Raises:
            ValueError: The network does not take such samples; names the layer.
        """
        return build_specs(self._layers, tuple(_checks.integers(shape, "shape", 1)))[1]

    def check_samples(self, X: Any, device: Device = CPU) -> Array:
        """X checked, (n, d) for plain dense networks, an array on the device.

        A network that was read from something else is compared with it at the first samples that come here.

        Raises:
            ValueError: Samples that the network does not take, or at which it differs from what it was read from.
        """
        given = _arrays.as_array(X, "X", device, "the network")
        samples = self._checked(X, given, device)
        if self.source is not None:
            self.place(samples.shape[1:])  # first: what these samples do not fit has its own error
            if self.source(self, given):
                self.source = None
        return samples

    def _checked(self, X: Any, found: Array, device: Device) -> Array:
        """X, which was read as `found`."""
        if not self.is_feedforward_dense:
            if found.ndim not in SAMPLES:
                raise ValueError(f"X has shape {found.shape} but must be (n, d), (n, c, l) or (n, c, h, w)")
            return _checks.array(X, "X", SAMPLES[found.ndim], self.dtype, device=device)
        if found.ndim in (3, 4) and found.size and any(isinstance(layer, Flatten) for layer in self._layers):
            X = found.reshape(len(found), -1)
        return _checks.inputs(X, self.in_features, self.dtype, device)

    def place(self, shape: Shape, device: Device = CPU) -> Placed:
        """The network on samples of `shape`, made once for each device, where its arrays are copied to.

        Raises:
            ValueError: The network does not take such samples, or does not give vectors.
        """
        if (shape, device) not in self._placed:
            specs, out = build_specs(self._layers, shape)
            if len(out) != 1:
                raise ValueError(
                    f"the network gives {out} for samples of shape {shape} but must give vectors; "
                    "end it with gn.Flatten()"
                )
            features = math.prod(shape)
            core = device.core.Network(_on(device, specs), features, self.dtype.name)
            self._placed[shape, device] = Placed(core, features, out[0])
        return self._placed[shape, device]

    def __call__(self, X: Any) -> Array:
        """The outputs (n, k) at the samples X, (n, d), (n, c, l) or (n, c, h, w), of the network's dtype.

        They are made where X is, on a GPU as CuPy's; of a tensor they are a tensor.
        """
        home = _arrays.device_of(X)
        samples = self.check_samples(X, home)
        placed = self.place(samples.shape[1:], home)
        out = home.empty((len(samples), placed.outputs), self.dtype)
        placed.core.forward(samples.reshape(len(samples), -1), out)
        return _arrays.like(out, X)  # type: ignore[no-any-return]  # a tensor of a tensor

    def linearize(self, X: Any) -> Linearization:
        """The inputs of all dense layers and the derivatives of the activations at the samples X (n, d).

        Raises:
            ValueError: The network has other layers.
        """
        if not self.is_feedforward_dense:
            raise ValueError(
                f"only networks of dense layers and activations, one after another, are linearized, not {self!r}"
            )
        X = self.check_samples(X)
        return Linearization(*self.place(X.shape[1:]).core.linearize(X))

    def save(self, path: str | PathLike[str]) -> None:
        """Write the network to a safetensors file, whole or not at all; needs the extra `safetensors`.

        The arrays are the tensors `layers.<i>.weight` and so on, i the position in `layers`; the list of layers
        is in the metadata. `load` reads it back.

        Raises:
            OSError: The folder does not exist or may not be written to.
        """
        records = [_record(layer) for layer in self._layers]
        named = (
            (f"layers.{i}.{name}", a) for i, layer in enumerate(self._layers) for name, a in layer.arrays().items()
        )
        _files.write(path, records, dict(named))

    def __reduce__(self) -> tuple[Any, ...]:
        return Network, (self._layers,)

    def __deepcopy__(self, memo: dict[int, Any]) -> Network:
        """One with arrays of its own, which is still compared with a copy of what this one was read from."""
        kind, arguments = self.__reduce__()
        found: Network = kind(*copy.deepcopy(arguments, memo))
        try:
            found.source = copy.deepcopy(self.source, memo)
        except Exception:  # not everything that may be inside of a module can be copied
            found.source = self.source
        return found

    def __repr__(self) -> str:
        activations = dict.fromkeys(str(layer) for layer in flat_layers(self._layers) if isinstance(layer, Activation))
        kind = "linear" if self.is_linear else " + ".join(activations) or "not linear"
        count = _checks.counted(self.num_parameters, "parameter")
        what = _arrow(self.widths) if self.is_feedforward_dense else _checks.counted(len(self._layers), "layer")
        head = f"Network({what}, {kind}, {count}, {self.dtype})"
        if len(self._layers) > LISTED_LAYERS:
            return head
        return "\n".join([head, *(f"  {i:>2}  {layer!r}" for i, layer in enumerate(self._layers))])


def check_network(net: Any) -> Network:
    """`net` if it is a network."""
    if not isinstance(net, Network):
        cure = "pass gnfast.from_torch(net)" if _arrays.is_module(net) else "pass one such as gnfast.mlp([64, 256, 10])"
        raise TypeError(f"net is of type {type(net).__name__} but must be a gnfast.Network; {cure}")
    return net


def mlp(
    widths: Sequence[int],
    activation: ActivationName | str = "relu",
    slope: float = SLOPE,
    skip: float | Sequence[float] = 0.0,
    bias: bool = False,
    init: initializers.Initializer | Sequence[Any] = "kaiming_normal",
    seed: _checks.Seed = 0,
    dtype: DTypeName | Any = "float64",
) -> Network:
    """A multi-layer perceptron: dense layers with an activation between them and none after the last.

    Args:
        widths: [d, m_1, ..., k], at least two.
        activation: A name of `Activation`.
        slope: Of leaky_relu, 0.01 by default; given for no other.
        skip: Strength of the residual connections, one number for all dense layers or one each.
        bias: Whether the dense layers have biases, zero unless `init` gives them.
        init: "kaiming_normal", "kaiming_uniform", "xavier_normal", "xavier_uniform", "lecun_normal", "pytorch_uniform",
            "orthogonal" or "ntk" (`networks.initializers` has their variances; the gain of kaiming is that of the
            activation, 1 for "identity"), a family alone ("kaiming" or "he", "xavier" or "glorot", "lecun") being its
            normal one; a function of (shape, seed) that returns a weight; or all arrays, ordered as
            `parameters()`.
        seed: An integer from 0 to 2^64 - 1, or a `numpy.random.Generator`; each layer draws its own numbers.
        dtype: "float32" or "float64".

    Examples:
        >>> import gnfast as gn
        >>> net = gn.mlp([64, 256, 10], activation="tanh", bias=True, seed=0)
        >>> net
        Network(64 -> 256 -> 10, tanh, 19,210 parameters, float64)
           0  Dense(64 -> 256, bias, float64)
           1  Activation(tanh)
           2  Dense(256 -> 10, bias, float64)
    """
    sizes = _checks.integers(widths, "widths", at_least=2)
    between = Activation(activation, slope)
    kind = _checks.float_dtype(dtype)
    shapes = [(out, into) for into, out in itertools.pairwise(sizes)]
    skips = _checks.reals(skip, "skip", len(shapes), each="dense layer")
    biased = _checks.boolean(bias, "bias")
    if isinstance(init, str) or callable(init) or not isinstance(init, Iterable):  # the last as mistakes of a name
        seed = _checks.seed(seed)
        weights = initializers.weights(init, shapes, between.name, between.slope, seed, kind)
        biases = [np.zeros(out, kind) if biased else None for out, _ in shapes]
    else:
        initializers.refuse_seed(seed)
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
        expected = [f"layers.{i}.{name}" for i, record in enumerate(records) for name in _tensor_names(record)]
        if odd := sorted(set(expected) ^ set(tensors)):
            raise ValueError(f"its list of layers and its tensors disagree about {', '.join(odd)}")
        return Network(_layer(record, tensors, f"layers.{i}.") for i, record in enumerate(records))
    except RecursionError:
        raise ValueError(f"{file} nests residual blocks too deeply to be read") from None
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is damaged or from a newer gnfast: {error}") from error


def _on(device: Device, spec: Any) -> Any:
    """A layer's description for the core with its arrays on the device."""
    if isinstance(spec, list | tuple):
        return type(spec)(_on(device, part) for part in spec)
    return device.upload(spec) if isinstance(spec, np.ndarray) else spec


def _record(layer: Layer) -> _files.Record:
    record: _files.Record = {"type": layer.kind, **layer.options()}
    if isinstance(layer, Residual):
        return record | {part: [_record(one) for one in layers] for part, layers in layer.parts().items()}
    if isinstance(layer, Dense):  # as the first layout had it
        return record | {"bias": layer.bias is not None}
    return record | ({"arrays": list(layer.arrays())} if layer.arrays() else {})


def _tensor_names(record: _files.Record) -> list[str]:
    if record["type"] == "dense":
        return ["weight", "bias"][: 1 + record["bias"]]
    parts = [(part, record[part]) for part in ("layers", "shortcut") if part in record]
    inner = [
        f"{part}.{i}.{name}" for part, records in parts for i, one in enumerate(records) for name in _tensor_names(one)
    ]
    return [*inner, *record.get("arrays", [])]


def _layer(record: _files.Record, tensors: Mapping[str, Array], prefix: str) -> Layer:
    kind = KINDS[_checks.choice(record["type"], "the type of a layer", tuple(KINDS))]
    found: dict[str, Any] = {name: value for name, value in record.items() if name not in ("type", "arrays", "bias")}
    if kind is Residual:
        for part in found.keys() & {"layers", "shortcut"}:
            found[part] = [_layer(one, tensors, f"{prefix}{part}.{i}.") for i, one in enumerate(found[part])]
        return Residual(**found)
    if kind is Activation and found.get("name") != "leaky_relu":
        found.pop("slope", None)  # which files of earlier versions have for all
    return kind(**found, **{name: tensors[prefix + name] for name in _tensor_names(record)})


def _out_features(layers: Sequence[Layer]) -> int | None:
    """Features behind the layers where these alone say it: 0 for as many as before them, None if it depends on that."""
    for layer in reversed(layers):
        if isinstance(layer, Dense):
            return layer.out_features
        if isinstance(layer, Residual):  # body and shortcut give the same
            found = [_out_features(part) for part in layer.parts().values()]
            if known := [features for features in found if features]:
                return known[0]
            if None in found:
                return None
        elif not isinstance(layer, Activation | Scale | BatchNorm | LayerNorm):
            return None
    return 0


def _check_layers(layers: Iterable[Layer]) -> tuple[Layer, ...]:
    if not isinstance(layers, Iterable):
        raise TypeError(f"layers is of type {type(layers).__name__} but must be a list of layers such as gn.Dense")
    found = tuple(layers)
    features, dtype = None, None
    for i, layer in enumerate(found):
        if not isinstance(layer, Layer):
            raise TypeError(
                f"layers[{i}] is of type {type(layer).__name__} but must be a layer such as gn.Dense or gn.Activation"
            )
        if isinstance(layer, Dense) and features not in (None, layer.in_features):
            raise ValueError(
                f"layers[{i}] takes {layer.in_features} features but the layers before it give {features}; "
                f"pass a weight of shape ({layer.out_features}, {features})"
            )
        for array in layer.arrays().values():
            dtype = dtype or array.dtype
            if array.dtype != dtype:
                raise TypeError(
                    f"layers[{i}] is {array.dtype} but the layers before it are {dtype}; "
                    f"convert its arrays with .astype('{dtype}')"
                )
        if isinstance(layer, Dense):
            features = layer.out_features
        elif not isinstance(layer, Activation | Scale | BatchNorm | LayerNorm):
            features = None  # known when the shape of the samples is
    if not any(layer.parameters() for layer in found):
        raise ValueError("layers has none with parameters, such as gn.Dense; a network needs at least one")
    _check_sharing(found)
    return found


def _check_sharing(layers: Sequence[Layer]) -> None:
    """Refuse parameters that are used twice: their derivatives would have to be added up."""
    places = [(i, array) for i, layer in enumerate(layers) for array in layer.parameters()]
    places.sort(key=lambda place: np.lib.array_utils.byte_bounds(place[1])[0])
    for (i, a), (j, b) in itertools.pairwise(places):
        if np.may_share_memory(a, b):
            i, j = sorted((i, j))
            where = f"layers[{i}] and layers[{j}] use" if i != j else f"layers[{i}] uses"
            raise ValueError(
                f"{where} the same memory for two parameters, which are not shared here; pass a copy where they are to "
                "be parameters of their own"
            )


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
