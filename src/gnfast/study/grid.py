"""What a study computes: families of networks over widths, depths, seeds and data, from TOML or by default."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from gnfast import _checks, initializers
from gnfast.losses import LOSSES

# The activation that each kind stands for; a residual network is a linear one whose layers carry a skip.
KINDS = {
    "linear": "identity",
    "residual": "identity",
    "relu": "relu",
    "leaky_relu": "leaky_relu",
    "tanh": "tanh",
    "gelu": "gelu",
    "sigmoid": "sigmoid",
}
SKIPS: dict[str, Callable[[int], float]] = {
    "1/L": lambda depth: 1 / depth,
    "1/sqrt(L)": lambda depth: 1 / math.sqrt(depth),
}


# ---------------------------------------------------------------- one reader for each type that a key may have
Reader = Callable[[Any, str], Any]


def _whole(minimum: int) -> Reader:
    return lambda value, name: _checks.integer(value, name, minimum)


def _choice(allowed: Iterable[str]) -> Reader:
    return lambda value, name: _checks.choice(value, name, tuple(allowed))


def _samples(value: Any, name: str) -> int | None:
    if value is None or value == "all":
        return None
    if isinstance(value, str):
        raise ValueError(f"{name} is {value!r} but must be a number of samples or 'all'")
    return _checks.integer(value, name)


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} is {value!r} but must be text in quotes")
    if not value:
        raise ValueError(f"{name} is empty; leave the key out for its default")
    return value


def _flag(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name} is {value!r} but must be true or false")
    return value


def _skip(value: Any, name: str) -> float | str | None:
    if isinstance(value, str):
        return _checks.choice(value, name, SKIPS)
    return None if value is None else _checks.real(value, name)


def _several(read: Reader, empty: bool = False) -> Reader:
    """Read a list, or one value as a list of one; repeated values are dropped."""

    def read_all(value: Any, name: str) -> tuple[Any, ...]:
        values = value if isinstance(value, list | tuple) else [value]
        if not values and not empty:
            raise ValueError(f"{name} is an empty list; give at least one value")
        return tuple(dict.fromkeys(read(v, name) for v in values))

    return read_all


def _key(read: Reader, default: Any = MISSING) -> Any:
    """Return a dataclass field that knows how to read itself."""
    return field(default=default, metadata={"read": read})


def _read_fields(instance: Any) -> None:
    for f in fields(instance):
        object.__setattr__(instance, f.name, f.metadata["read"](getattr(instance, f.name), f.name))


def _from_table(cls: type[Any], table: Any, where: str) -> Any:
    """Build a dataclass of such fields from a TOML table, refusing keys that it does not have."""
    if not isinstance(table, dict):
        raise TypeError(f"{where} is {table!r} but must be a table of keys and values")
    for key in table:
        _checks.choice(key, f"a key of {where}", [f.name for f in fields(cls)])
    for f in fields(cls):
        if f.default is MISSING and f.name not in table:
            raise ValueError(f"{where} has no key {f.name!r}; add one")
    return cls(**table)


# ---------------------------------------------------------------- the study
@dataclass(frozen=True)
class Family:
    """Networks that differ in width, depth and seed only: one panel of the figure.

    Args:
        kind: "linear", "residual" (linear with a skip), "relu", "leaky_relu", "tanh", "gelu" or "sigmoid".
        skip: strength of the skip connections, a number or "1/L", "1/sqrt(L)" of the depth L; 1 if residual, else 0.
        slope: negative slope of "leaky_relu".
        bias: whether the layers have biases.
        init: name of the initialisation.
        widths, depths, samples: instead of the study's, where given.
    """

    kind: str = _key(_choice(KINDS))
    skip: float | str | None = _key(_skip, None)
    slope: float = _key(_checks.real, 0.01)
    bias: bool = _key(_flag, False)
    init: str = _key(_choice(initializers.NAMES), "kaiming_normal")
    widths: tuple[int, ...] = _key(_several(_whole(1), empty=True), ())
    depths: tuple[int, ...] = _key(_several(_whole(1), empty=True), ())
    samples: tuple[int | None, ...] = _key(_several(_samples, empty=True), ())

    def __post_init__(self) -> None:
        _read_fields(self)
        if self.skip is None:
            object.__setattr__(self, "skip", 1.0 if self.kind == "residual" else 0.0)


def _families(value: Any, name: str) -> tuple[Family, ...]:
    if not isinstance(value, list | tuple) or not value:
        raise TypeError(f"{name} is {value!r} but must be one or more tables [[{name}]]")
    return tuple(
        v if isinstance(v, Family) else _from_table(Family, v, f"[[{name}]] number {i}") for i, v in enumerate(value, 1)
    )


@dataclass(frozen=True)
class Point:
    """One network on one data set: all that its result depends on."""

    kind: str
    width: int
    depth: int
    seed: int
    data: str = "digits"
    samples: int | None = None
    whiten: bool = False
    outputs: int = 10
    skip: float | str = 0.0
    slope: float = 0.01
    bias: bool = False
    init: str = "kaiming_normal"
    loss: str = "mse"
    dtype: str = "float64"

    @property
    def key(self) -> str:
        """A name that stays the same from run to run; what has its default value is left out of it."""
        told = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        return json.dumps(told, sort_keys=True)

    @property
    def activation(self) -> str:
        return KINDS[self.kind]

    @property
    def beta(self) -> float:
        """Strength of the skip connections as a number."""
        return SKIPS[self.skip](self.depth) if isinstance(self.skip, str) else self.skip

    @property
    def work(self) -> int:
        """Rough cost, to tell the time left: the weights, and as much as some millions of them for any point."""
        return 5_000_000 + self.depth * self.width**2

    @property
    def family(self) -> str:
        """What networks of one panel have in common, in words."""
        name = {"leaky_relu": "leaky ReLU", "relu": "ReLU", "gelu": "GELU"}.get(self.kind, self.kind)
        parts = [f"{name}, slope {self.slope:g}" if self.kind == "leaky_relu" else name]
        if self.skip != 0.0:
            parts.append(f"skip {self.skip:g}" if isinstance(self.skip, float) else f"skip {self.skip}")
        parts += ["biases"] * self.bias + [self.init] * (self.init != "kaiming_normal")
        parts.append(f"{self.data}" + ", whitened" * self.whiten + (f", n = {self.samples:,}" if self.samples else ""))
        return ", ".join(parts)


@dataclass(frozen=True)
class Study:
    """A grid of points, and what they have in common.

    Without arguments: linear, residual and leaky-ReLU networks on scikit-learn's digits, which is what
    ``gnfast study`` computes. Every key that holds a list takes one value too.

    Args:
        name: names the folder of the results and heads the figure.
        networks: families of networks (``[[networks]]`` in TOML); see Family.
        widths: numbers of units of every hidden layer.
        depths: numbers of dense layers; 2 is one hidden layer.
        seeds: seeds of the weights; curves show their median and range.
        data: "digits", "mnist" or paths of .npy files (n, d).
        samples: how many rows, spread evenly over the data, or "all".
        whiten: whether the data's second moment is made the identity on its range.
        outputs: number k of outputs.
        loss: "mse", "cross_entropy", "binary_cross_entropy" or "poisson".
        dtype: "float64" or "float32".
    """

    name: str = _key(_text, "study")
    networks: tuple[Family, ...] = _key(
        _families,
        (
            Family("linear"),
            Family("residual"),
            Family("leaky_relu", slope=0.1, depths=(2, 4), samples=(50,)),
        ),
    )
    widths: tuple[int, ...] = _key(_several(_whole(1)), (16, 64, 256, 1024, 4096))
    depths: tuple[int, ...] = _key(_several(_whole(1)), (2, 4, 8))
    seeds: tuple[int, ...] = _key(_several(_whole(0)), (0, 1, 2))
    data: tuple[str, ...] = _key(_several(_text), ("digits",))
    samples: tuple[int | None, ...] = _key(_several(_samples), (None,))
    whiten: bool = _key(_flag, False)
    outputs: int = _key(_whole(1), 10)
    loss: str = _key(_choice(LOSSES), "mse")
    dtype: str = _key(_choice(("float64", "float32")), "float64")

    def __post_init__(self) -> None:
        _read_fields(self)

    @classmethod
    def from_toml(cls, path: str | Path) -> Study:
        """Read a study from a TOML file; its name is the file's unless it says one.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not TOML, an unknown key, a value that is not allowed.
            TypeError: a value of the wrong type.
        """
        path = _checks.existing_file(path, "the study file")
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"study file {str(path)!r} is not valid TOML: {error}") from error
        try:
            study: Study = _from_table(cls, {"name": path.stem} | table, "the study")
        except (TypeError, ValueError) as error:
            raise type(error)(f"study file {str(path)!r}: {error}") from error
        return study

    def quick(self) -> Study:
        """Return a small part of this study, a few seconds long: narrow widths, two depths, one seed."""
        narrow = [replace(f, widths=_small(f.widths), depths=tuple(sorted(f.depths)[:2])) for f in self.networks]
        return replace(
            self,
            name=f"{self.name}-quick",
            networks=tuple(narrow),
            widths=_small(self.widths),
            depths=tuple(sorted(self.depths)[:2]),
            seeds=self.seeds[:1],
        )

    @property
    def definition(self) -> str:
        """All that decides the points, as text: two studies with the same definition are the same study."""
        told = asdict(self)
        del told["name"]
        return json.dumps(told, sort_keys=True)

    def points(self) -> list[Point]:
        """Return all points, a whole grid for one seed before the next, narrow networks first."""
        grid = [
            Point(
                kind=family.kind,
                width=width,
                depth=depth,
                seed=seed,
                data=data,
                samples=samples,
                whiten=self.whiten,
                outputs=self.outputs,
                skip=family.skip or 0.0,
                slope=family.slope,
                bias=family.bias,
                init=family.init,
                loss=self.loss,
                dtype=self.dtype,
            )
            for family in self.networks
            for data in self.data
            for samples in family.samples or self.samples
            for width in family.widths or self.widths
            for depth in family.depths or self.depths
            for seed in self.seeds
        ]
        order = {seed: i for i, seed in enumerate(self.seeds)}
        return sorted(dict.fromkeys(grid), key=lambda point: (order[point.seed], point.width))


def _small(widths: Iterable[int]) -> tuple[int, ...]:
    ordered = sorted(widths)
    return tuple(w for w in ordered if w <= 256)[:3] or tuple(ordered[:1])
