"""Batch and layer normalisation as values."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from gnfast import _arrays, _checks
from gnfast._arrays import Array
from gnfast.networks.layers import Layer, Shape, Spec

PARAMETERS = ("weight", "bias")


class _Normalization(Layer):
    """The common base of both: weight and bias, where there are any, are parameters."""

    weight: Array | None
    bias: Array | None
    eps: float

    def _keep(self, name: str, shape: tuple[str | int, ...]) -> None:
        """Check one of the arrays against the shape and the dtype of those before it."""
        value = getattr(self, name)
        if value is not None:
            first = next(iter(self.arrays().values()))
            dtype = first.dtype if first is not value else None
            found = _checks.array(value, name, shape, dtype, owner="the layer")
            object.__setattr__(self, name, _arrays.read_only(found))

    def parameters(self) -> list[Array]:
        return [array for name, array in self.arrays().items() if name in PARAMETERS]

    def with_parameters(self, values: Iterator[Array], dtype: np.dtype[Any]) -> Self:
        arrays = {
            name: next(values) if name in PARAMETERS else array.astype(dtype, copy=False)
            for name, array in self.arrays().items()
        }
        return type(self)(**(arrays | self.options()))

    def __repr__(self) -> str:
        sizes = dict.fromkeys("x".join(map(str, array.shape)) for array in self.arrays().values())
        notes = [*sizes, *(name for name in PARAMETERS if getattr(self, name) is not None)]
        notes += ["training"] * bool(getattr(self, "training", False))
        return f"{type(self).__name__}({', '.join(notes)})"


@dataclass(frozen=True, eq=False, repr=False)
class BatchNorm(_Normalization):
    """Batch normalisation, y = weight (x - mean) / sqrt(var + eps) + bias for each channel.

    Channels are the first axis of a sample (c,), (c, l) or (c, h, w).

    Args:
        weight: (c,), a parameter, or None for ones.
        bias: (c,), a parameter, or None for zeros.
        mean: (c,), the running mean; read unless `training`.
        var: (c,), the running variance, not negative; read unless `training`.
        eps: Not negative.
        training: Use mean and variance (without Bessel's correction) of the batch, the whole X. Each output then
            depends on all samples: products take the whole batch at once, and each row of the Jacobian is a product.

    Raises:
        TypeError: Arrays of different dtypes.
        ValueError: Other shapes, or no mean and var although they are read.

    Reference: Ioffe & Szegedy (2015), Batch normalization: accelerating deep network training, ICML.
    """

    kind: ClassVar[str] = "batch_norm"
    weight: Array | None = None
    bias: Array | None = None
    mean: Array | None = None
    var: Array | None = None
    eps: float = 1e-5
    training: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "eps", _checks.at_least_zero(self.eps, "eps"))
        object.__setattr__(self, "training", _checks.boolean(self.training, "training"))
        if not self.training and (self.mean is None or self.var is None):
            missing = "mean" if self.mean is None else "var"
            raise ValueError(
                f"{missing} is None but batch normalisation in evaluation reads mean and var; pass both, or "
                "training=True for the batch's own"
            )
        size: str | int = "c"
        for name in (*PARAMETERS, "mean", "var"):
            self._keep(name, (size,))
            size = size if getattr(self, name) is None else len(getattr(self, name))
        if self.var is not None and not (self.var + self.eps > 0).all():
            raise ValueError(f"var has an entry of {self.var.min():g}, eps is {self.eps:g}; var + eps must be positive")

    @property
    def is_linear(self) -> bool:  # type: ignore[override]
        """Whether the statistics are given."""
        return not self.training

    def arrays(self) -> dict[str, Array]:
        """The arrays by name, for weight files."""
        every = {"weight": self.weight, "bias": self.bias, "mean": self.mean, "var": self.var}
        return {name: array for name, array in every.items() if array is not None}

    def output_shape(self, shape: Shape) -> Shape:
        """The shape of the outputs of samples of `shape`, or a ValueError where they do not fit."""
        arrays = self.arrays()
        if arrays and (size := len(next(iter(arrays.values())))) != shape[0]:
            raise ValueError(f"normalises {size} channels but gets samples of shape {shape}")
        return shape

    def spec(self, shape: Shape) -> list[Spec]:
        """The layer on samples of `shape`, as the core is told of it."""
        given: tuple[Array | None, ...] = (None, None, None)
        if not self.training and self.mean is not None and self.var is not None:
            # The forward pass, which subtracts the mean, is made in float64; tangents are in the network's dtype.
            inverse = 1 / np.sqrt(self.var.astype(np.float64) + self.eps)
            gain = inverse if self.weight is None else inverse * self.weight
            given = (inverse, -self.mean * inverse, gain.astype(self.mean.dtype))
        sizes = (math.prod(shape), shape[0], math.prod(shape[1:]), 0)
        return [("norm", sizes, self.weight, self.bias, self.eps, *given)]

    def options(self) -> dict[str, Any]:
        """All that is not an array, for weight files."""
        return {"eps": self.eps, "training": self.training}


@dataclass(frozen=True, eq=False, repr=False)
class LayerNorm(_Normalization):
    """Layer normalisation, y = weight (x - mean(x)) / sqrt(var(x) + eps) + bias over the last axes of each sample.

    Args:
        weight: Of the normalised shape, a parameter, or None for ones.
        bias: Of the normalised shape, a parameter, or None for zeros.
        normalized_shape: The last axes of a sample that are taken together, an integer or a tuple; None for the shape
            of weight or bias, and where there is neither for whole samples.
        eps: Not negative.

    Raises:
        TypeError: Arrays of different dtypes.
        ValueError: Shapes that do not fit each other.

    Reference: Ba, Kiros & Hinton (2016), Layer normalization, arXiv 1607.06450.
    """

    kind: ClassVar[str] = "layer_norm"
    weight: Array | None = None
    bias: Array | None = None
    normalized_shape: int | tuple[int, ...] | None = None
    eps: float = 1e-5
    is_linear = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "eps", _checks.at_least_zero(self.eps, "eps"))
        shape = self.normalized_shape
        if shape is not None:
            sizes = [shape] if isinstance(shape, int) else shape
            shape = tuple(_checks.integers(sizes, "normalized_shape", 1))
        for name in PARAMETERS:
            value = getattr(self, name)
            if value is not None:
                letters = tuple("abc"[: max(1, _arrays.as_array(value, name).ndim)])
                self._keep(name, letters if shape is None else shape)
                shape = getattr(self, name).shape
        object.__setattr__(self, "normalized_shape", shape)

    def arrays(self) -> dict[str, Array]:
        """The arrays by name, for weight files."""
        every = {"weight": self.weight, "bias": self.bias}
        return {name: array for name, array in every.items() if array is not None}

    def output_shape(self, shape: Shape) -> Shape:
        """The shape of the outputs of samples of `shape`, or a ValueError where they do not fit."""
        last = self._last(shape)
        if shape[-len(last) :] != last:
            raise ValueError(f"normalises the last axes {last} but gets samples of shape {shape}")
        return shape

    def _last(self, shape: Shape) -> Shape:
        return self.normalized_shape if isinstance(self.normalized_shape, tuple) else shape

    def spec(self, shape: Shape) -> list[Spec]:
        """The layer on samples of `shape`, as the core is told of it."""
        size = math.prod(self._last(shape))
        flat = [None if array is None else array.reshape(-1) for array in (self.weight, self.bias)]
        return [("norm", (math.prod(shape), size, 1, size), *flat, self.eps, None, None, None)]

    def options(self) -> dict[str, Any]:
        """All that is not an array, for weight files."""
        return {"normalized_shape": self.normalized_shape, "eps": self.eps}
