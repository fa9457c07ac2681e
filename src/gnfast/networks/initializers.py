"""Initial weights by name, by a function, or given; names and variances are PyTorch's.

fan_in and fan_out are the columns and rows of a weight, skips left out; gain is that of the network's activation.

    kaiming_normal    N(0, gain^2 / fan_in)
    kaiming_uniform   uniform with that variance
    xavier_normal     N(0, 2 / (fan_in + fan_out))
    xavier_uniform    uniform with that variance
    lecun_normal      N(0, 1 / fan_in), not truncated
    pytorch_uniform   uniform with variance 1 / (3 fan_in), on +- 1 / sqrt(fan_in): the weights of torch.nn.Linear
    orthogonal        orthonormal rows or columns, Haar-distributed
    ntk               N(0, 1) / sqrt(fan_in), the factor folded into the weight: the values of lecun_normal. Derivatives
                      are with respect to the folded weight, as for every other name.

The gain is one for all layers of a network, the last too: sqrt(2) for relu and gelu, sqrt(2 / (1 + slope^2)) for
leaky_relu, 5/3 for tanh, 1 for identity and sigmoid: torch.nn.init.calculate_gain, which has no gelu (its second moment
under a standard normal, 0.425, is close to relu's 0.5). Biases are zero.

Every entry depends on (seed, layer, row, column) alone: a network is the same on any number of threads.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from gnfast import _checks, _core
from gnfast._arrays import Array

Shape: TypeAlias = tuple[int, int]

InitName: TypeAlias = Literal[
    "kaiming_normal",
    "kaiming_uniform",
    "xavier_normal",
    "xavier_uniform",
    "lecun_normal",
    "pytorch_uniform",
    "orthogonal",
    "ntk",
]
NAMES: tuple[str, ...] = get_args(InitName)
Initializer: TypeAlias = InitName | str | Callable[[Shape, int], Any]
# A family without a distribution means the normal one; He and Glorot are whose two of them are.
FAMILIES = {"kaiming": "kaiming", "he": "kaiming", "xavier": "xavier", "glorot": "xavier", "lecun": "lecun"}
GAINS = {"identity": 1.0, "relu": math.sqrt(2), "tanh": 5 / 3, "gelu": math.sqrt(2), "sigmoid": 1.0}


def gain(activation: str, slope: float) -> float:
    """The factor of a weight's standard deviation by which the activation keeps the scale of its input."""
    if activation == "leaky_relu":
        return math.sqrt(2 / (1 + slope**2))
    if activation not in GAINS:
        raise ValueError(f"the kaiming variance has no gain for {activation!r}; choose another, such as lecun_normal")
    return GAINS[activation]


def variance(family: str, shape: Shape, gain: float) -> float:
    """The variance of the entries of a weight (out, in); family is "kaiming", "xavier", "lecun", "ntk" or "pytorch"."""
    fan_out, fan_in = shape
    others = {"kaiming": gain**2 / fan_in, "xavier": 2 / (fan_in + fan_out), "pytorch": 1 / (3 * fan_in)}
    return others.get(family, 1 / fan_in)


def init_name(given: Any, name: str = "init") -> str:
    """One of `NAMES`, in any case, from one of them, a family alone, or either of a family's authors."""
    spelled = _checks.plain(given) if isinstance(given, str) else ""
    family, _, distribution = spelled.partition("_")
    if family in FAMILIES and distribution in ("", "normal", "uniform"):
        given = f"{FAMILIES[family]}_{distribution or 'normal'}"
    return _checks.choice(given, name, NAMES)


def refuse_seed(seed: Any) -> None:
    """Raise for a seed other than the default, 0, beside weights that are given and not drawn."""
    if not isinstance(seed, int) or seed:
        raise ValueError(
            f"seed is {reprlib.repr(seed)} but init has the weights themselves, which are not drawn; leave seed out, "
            "or pass a name as init"
        )


def family_name(given: Any, name: str, allowed: Sequence[str]) -> str:
    """One of the allowed families of variances, in any case, by the same names."""
    spelled = _checks.plain(given) if isinstance(given, str) else ""
    return _checks.choice(FAMILIES.get(spelled, given), name, allowed)


def weights(
    init: Initializer, shapes: Sequence[Shape], activation: str, slope: float, seed: int, dtype: np.dtype[Any]
) -> list[Array]:
    """One weight per shape (out, in).

    Args:
        init: One of `NAMES`, or a function of (shape, seed) that returns an array of floats, converted to `dtype`; its
            seed is an integer below 2^32, another for every layer.
        shapes: (out, in) of each weight.
        activation, slope: Of the network, for the gain of the kaiming ones.
        seed: From 0 to 2^64 - 1.
        dtype: float32 or float64.
    """
    if callable(init):
        return [_called(init, shape, seed, layer, dtype) for layer, shape in enumerate(shapes)]
    name = init_name(init)
    factor = gain(activation, slope) if name.startswith("kaiming") else 1.0
    return [_drawn(name, shape, factor, seed, layer, dtype) for layer, shape in enumerate(shapes)]


def _called(init: Callable[[Shape, int], Any], shape: Shape, seed: int, layer: int, dtype: np.dtype[Any]) -> Array:
    layer_seed = int(np.random.SeedSequence((seed, layer)).generate_state(1)[0])
    found = _checks.array(init(shape, layer_seed), f"init({shape}, {layer_seed})", shape, owner="the layer")
    return found.astype(dtype, copy=False)


def _drawn(name: str, shape: Shape, gain: float, seed: int, layer: int, dtype: np.dtype[Any]) -> Array:
    if name == "orthogonal":
        return _orthogonal(shape, seed, layer).astype(dtype, copy=False)
    spread = variance(name.partition("_")[0], shape, gain)
    weight = np.empty(shape, dtype)
    if name.endswith("uniform"):
        limit = math.sqrt(3 * spread)  # the variance of a uniform on [-a, a] is a^2 / 3
        _core.fill_uniform(weight, seed, layer, -limit, limit)
    else:
        _core.fill_normal(weight, seed, layer, math.sqrt(spread))
    return weight


def _orthogonal(shape: Shape, seed: int, layer: int) -> Array:
    """Q of a Gaussian matrix, the signs of R's diagonal moved into it: Haar-distributed (Mezzadri 2007)."""
    gaussian = np.empty((max(shape), min(shape)), np.dtype("float64"))
    _core.fill_normal(gaussian, seed, layer, 1.0)
    Q, R = np.linalg.qr(gaussian)
    Q *= np.where(np.diag(R) < 0, -1.0, 1.0)
    return np.ascontiguousarray(Q if shape[0] >= shape[1] else Q.T)
