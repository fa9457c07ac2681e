"""What a study computes: families of networks over widths, depths, seeds and data, from TOML or by default."""

from __future__ import annotations

import itertools
import json
import math
import re
import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gnfast import _checks, datasets
from gnfast.ensemble.law import WIDEST
from gnfast.losses import LOSSES
from gnfast.networks import initializers, mlp
from gnfast.networks.layers import ACTIVATIONS, SLOPE
from gnfast.study import quantities, readers, store
from gnfast.study.jobs import REAL, Keyed, Part, Value
from gnfast.study.readers import key
from gnfast.study.results import RESULTS, Results, check_study

# The activation that each kind stands for; a residual network is a linear one whose layers carry a skip.
KINDS = {"linear": "identity", "residual": "identity"} | {name: name for name in ACTIVATIONS if name != "identity"}
WORDS = {
    "relu": "ReLU",
    "leaky_relu": "leaky ReLU",
    "elu": "ELU",
    "gelu": "GELU",
    "gelu_tanh": "GELU (tanh)",
    "silu": "SiLU",
}
SKIPS: dict[str, Callable[[int], float]] = {
    "1/L": lambda depth: 1 / depth,
    "1/sqrt(L)": lambda depth: 1 / math.sqrt(depth),
}


# ---------------------------------------------------------------- readers of keys that only a study has
def _samples(value: Any, name: str) -> int | None:
    if value is None or value == "all":
        return None
    if isinstance(value, str):
        raise ValueError(f"{name} is {value!r} but must be a number of samples or 'all'")
    found: int = readers.whole(1)(value, name)
    return found


def _source(value: Any, name: str) -> str:
    return datasets.tidy(readers.text(value, name))


def _width(value: Any, name: str) -> int | str:
    if not isinstance(value, str):
        return _units(_checks.integer(value, name), name)
    if not re.fullmatch(r"[1-9]\d{0,99}L", value):  # Python reads no number of thousands of digits
        raise ValueError(f"{name} is {value!r} but must be an integer, or text like '10L' for 10 times the depth")
    return value


def _units(width: int, name: str) -> int:
    if width > WIDEST:
        raise ValueError(
            f"{name} has {width:,} but no machine stores networks of more than {WIDEST:,} units; "
            f"leave it out, or sample networks without weights: gnfast width --widths {WIDEST}"
        )
    return width


def _skip(value: Any, name: str) -> float | str:
    return _checks.choice(value, name, SKIPS) if isinstance(value, str) else _checks.real(value, name)


# ---------------------------------------------------------------- the study
@dataclass(frozen=True)
class Family:
    """Networks that belong together: a panel of the figure for each combination of kind, skip, slope, bias and init.

    Every key takes one value or a list of them.

    Args:
        kind: "linear", "residual" (linear with a skip), or any activation of `gnfast.Activation`.
        skip: strength of the skip connections, a number or "1/L", "1/sqrt(L)" of the depth L; 1 if residual, else 0.
        slope: negative slope of "leaky_relu", 0.01 by default; refused where no kind is that.
        bias: whether the layers have biases.
        init: name of the initialisation; kaiming's have no gain for elu, gelu_tanh, silu and softplus.
        widths, depths, samples: instead of the study's, where given.
    """

    kind: tuple[str, ...] = key(readers.several(readers.choice(KINDS)))
    skip: tuple[float | str, ...] = key(readers.several(_skip, empty=True), ())
    slope: tuple[float, ...] = key(readers.several(_checks.real, empty=True), ())
    bias: tuple[bool, ...] = key(readers.several(readers.flag), (False,))
    init: tuple[str, ...] = key(readers.several(readers.choice(initializers.NAMES)), ("kaiming_normal",))
    widths: tuple[int | str, ...] = key(readers.several(_width, empty=True), ())
    depths: tuple[int, ...] = key(readers.several(readers.whole(1), empty=True), ())
    samples: tuple[int | None, ...] = key(readers.several(_samples, empty=True), ())

    def __post_init__(self) -> None:
        readers.read_fields(self)
        if self.slope and "leaky_relu" not in self.kind:
            raise ValueError(
                f"slope is of leaky_relu alone but kind is {', '.join(self.kind)}; leave slope out, or say "
                'kind = "leaky_relu"'
            )
        if any(init.startswith("kaiming") for init in self.init):
            for kind in self.kind:
                initializers.gain(KINDS[kind], SLOPE)  # or an error that says what to choose

    def members(self) -> Iterable[dict[str, Any]]:
        """Return what the networks of each panel have in common, as fields of a Point."""
        for kind, bias, init in itertools.product(self.kind, self.bias, self.init):
            slopes = (self.slope if kind == "leaky_relu" else ()) or (SLOPE,)
            for skip, slope in itertools.product(self.skip or (1.0 if kind == "residual" else 0.0,), slopes):
                yield {"kind": kind, "skip": skip, "slope": slope, "bias": bias, "init": init}


def _families(value: Any, name: str) -> tuple[Family, ...]:
    if not isinstance(value, list | tuple) or not value:
        raise TypeError(f"{name} is {value!r} but must be one or more tables [[{name}]]")
    return tuple(
        v if isinstance(v, Family) else readers.from_table(Family, v, f"[[{name}]] number {i}")
        for i, v in enumerate(value, 1)
    )


@dataclass(frozen=True)
class Point(Keyed):
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
    slope: float = SLOPE
    bias: bool = False
    init: str = "kaiming_normal"
    loss: str = "mse"
    dtype: str = "float64"

    @property
    def activation(self) -> str:
        """The name of the activation of its kind."""
        return KINDS[self.kind]

    @property
    def beta(self) -> float:
        """Strength of the skip connections as a number."""
        return SKIPS[self.skip](self.depth) if isinstance(self.skip, str) else self.skip

    @property
    def work(self) -> float:
        """The weights, and as much as some millions of them for any point."""
        return 5_000_000 + self.depth * self.width**2

    @property
    def family(self) -> str:
        """What networks of one panel have in common, in words."""
        name = WORDS.get(self.kind, self.kind)
        parts = [f"{name}, slope {self.slope:g}" if self.kind == "leaky_relu" else name]
        if self.skip != 0.0:
            parts.append(f"skip {self.skip:g}" if isinstance(self.skip, float) else f"skip {self.skip}")
        parts += ["biases"] * self.bias + [self.init] * (self.init != "kaiming_normal")
        parts.append(f"{self.data}" + ", whitened" * self.whiten + (f", n = {self.samples:,}" if self.samples else ""))
        return ", ".join(parts)

    def subject(self, base: str = "") -> quantities.Subject:
        """Return the network and its data, whose path starts at a folder.

        Raises whatever the data or the network raises.
        """
        X, kappa_data = quantities.inputs(datasets.place(self.data, base), self.samples, self.whiten, self.dtype)
        net = mlp(
            [X.shape[1], *[self.width] * (self.depth - 1), self.outputs],
            activation=self.activation,
            slope=self.slope,
            skip=self.beta,
            bias=self.bias,
            init=self.init,
            seed=self.seed,
            dtype=self.dtype,
        )
        return quantities.Subject(net, X, self.loss, kappa_data)


@dataclass(frozen=True)
class Study:
    """A grid of points, and what they have in common.

    Without arguments: linear, residual and leaky-ReLU networks on scikit-learn's digits, which is what
    ``gnfast study`` computes. Every key that holds a list takes one value too.

    Args:
        name: names the folder of the results and heads the figure.
        networks: families of networks (``[[networks]]`` in TOML); see Family.
        widths: numbers of units of every hidden layer; "10L" is 10 times the depth.
        depths: numbers of dense layers; 2 is one hidden layer.
        seeds: seeds of the weights; curves show their median and range.
        data: "digits", "mnist", "photographs", or files or folders as `gnfast.datasets.load` takes them.
        samples: how many rows, spread evenly over the data, or "all".
        whiten: whether the data's second moment is made the identity on its range.
        quantities: what is found at each point: "condition", "bounds", "data", "forms", "partial_products",
            "eigenvalues", "trace"; see quantities.py.
        outputs: number k of outputs.
        loss: "mse", "cross_entropy", "binary_cross_entropy", "poisson" or "gaussian_nll".
        dtype: "float64" or "float32"; data are cast to it.
        base: where paths of data start, the folder of the TOML file; here by default.
    """

    name: str = key(readers.text, "study")
    networks: tuple[Family, ...] = key(
        _families,
        (
            Family(("linear",)),
            Family(("residual",)),
            Family(("leaky_relu",), slope=(0.1,), depths=(2, 4), samples=(50,)),
        ),
    )
    widths: tuple[int | str, ...] = key(readers.several(_width), (16, 64, 256, 1024, 4096))
    depths: tuple[int, ...] = key(readers.several(readers.whole(1)), (2, 4, 8))
    seeds: tuple[int, ...] = key(readers.several(readers.whole(0)), (0, 1, 2))
    data: tuple[str, ...] = key(readers.several(_source), ("digits",))
    samples: tuple[int | None, ...] = key(readers.several(_samples), (None,))
    whiten: tuple[bool, ...] = key(readers.several(readers.flag), (False,))
    quantities: tuple[str, ...] = key(readers.several(readers.choice(quantities.QUANTITIES)), quantities.DEFAULT)
    outputs: int = key(readers.whole(1), 10)
    loss: str = key(readers.choice(tuple(LOSSES)), "mse")
    dtype: str = key(readers.choice(("float64", "float32")), "float64")

    base: str = readers.unread("")

    def __post_init__(self) -> None:
        readers.read_fields(self)
        for family in self.networks:
            for width in family.widths or self.widths:
                if isinstance(width, str):
                    _units(int(width[:-1]) * max(family.depths or self.depths), "widths")

    @classmethod
    def from_toml(cls, path: str | Path) -> Study:
        """Read a study from a TOML file; its name is the file's unless it says one.

        Raises:
            FileNotFoundError: no such file.
            OSError: a file that cannot be read.
            ValueError: not TOML, empty, an unknown key, a value that is not allowed.
            TypeError: a value of the wrong type.
        """
        path = _checks.existing_file(path, "the study file")
        table = _toml(path)
        try:
            study: Study = readers.from_table(cls, {"name": path.stem} | table, "the study")
        except (TypeError, ValueError) as error:
            raise type(error)(f"study file {str(path)!r}: {error}") from error
        return replace(study, base="" if path.parent == Path() else str(path.parent))

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
        del told["name"], told["base"]
        return json.dumps(told, sort_keys=True)

    @classmethod
    def from_definition(cls, definition: str, name: str) -> Study:
        """Return the study that has this definition."""
        told = json.loads(definition)
        for family in told["networks"]:
            if "leaky_relu" not in family["kind"]:
                family.pop("slope", None)  # older files have it of every kind
        study: Study = readers.from_table(cls, told | {"name": name}, "the study")
        return study

    @classmethod
    def load(cls, folder: str | Path) -> Results:
        """Return what a study has found so far, also while it runs.

        Args:
            folder: That of its results, which ``gnfast study`` fills.

        Raises:
            FileNotFoundError: No results are there.
            NotADirectoryError: It is a file.
            ValueError: They are of another command, of another version, or damaged.
        """
        folder = _checks.path(folder, "folder")
        if folder.is_file():
            raise NotADirectoryError(
                f"{str(folder)!r} is a file; pass the folder that gnfast study filled, gnfast-NAME unless --out said "
                "another"
            )
        if not (folder / RESULTS).exists():
            raise FileNotFoundError(
                f"folder {str(folder)!r} holds no {RESULTS}; pass the folder that gnfast study filled, gnfast-NAME "
                "unless --out said another"
            )
        told = store.definition(folder / RESULTS)
        check_study(told, str(folder))
        study = cls.from_definition(told, folder.resolve().name or "study")
        points = study.points()
        with store.Store(folder / RESULTS, study) as kept:
            return Results(kept.read(points), len(points))

    def accepts(self, definition: str) -> bool:
        """Whether a file of that definition is one of a study: its points are this one's wherever they are the same."""
        return "networks" in json.loads(definition)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The columns of each quantity."""
        return tuple(tuple(quantities.QUANTITIES[name].columns) for name in self.quantities)

    def only(self, parts: Collection[Part]) -> Study:
        """Return the study of those quantities alone."""
        names = [name for name, part in zip(self.quantities, self.parts, strict=True) if part in parts]
        return replace(self, quantities=tuple(names))

    @property
    def sources(self) -> Mapping[str, str]:
        """The data that its points name, and where each lies."""
        return {name: datasets.place(name, self.base) for name in self.data}

    @property
    def columns(self) -> Mapping[str, str]:
        """The values of a point by name, with their types; ``seconds`` is the time that it took."""
        found: dict[str, str] = {}
        for name in self.quantities:
            found |= quantities.QUANTITIES[name].columns
        return found | {"seconds": REAL}

    def compute(self, point: Point) -> dict[str, Value]:
        """Build the network of a point and find what the study asks for, without ``seconds``.

        Raises whatever the data, the network or a solver raises.
        """
        subject = point.subject(self.base)
        found: dict[str, Value] = {}
        for name in self.quantities:
            found |= quantities.QUANTITIES[name].measure(subject)
        return found

    def points(self) -> list[Point]:
        """Return all points, a whole grid for one seed before the next, narrow networks first."""
        grid = [
            Point(
                **member,
                width=width if isinstance(width, int) else int(width[:-1]) * depth,
                depth=depth,
                seed=seed,
                data=data,
                samples=samples,
                whiten=whiten,
                outputs=self.outputs,
                loss=self.loss,
                dtype=self.dtype,
            )
            for family in self.networks
            for member in family.members()
            for data in self.data
            for samples in family.samples or self.samples
            for whiten in self.whiten
            for width in family.widths or self.widths
            for depth in family.depths or self.depths
            for seed in self.seeds
        ]
        order = {seed: i for i, seed in enumerate(self.seeds)}
        return sorted(dict.fromkeys(grid), key=lambda point: (order[point.seed], point.width))


def _toml(path: Path) -> dict[str, Any]:
    """The keys of a study file."""
    name, form = f"study file {str(path)!r}", "write keys with values, such as widths = [16, 64]"
    try:
        table = tomllib.loads(path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n"))
    except OSError as error:
        raise type(error)(f"{name} cannot be read ({error.strerror}); pass one that you may read") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not text in UTF-8; save it as UTF-8, or pass the TOML file") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ValueError(f"{name} is not valid TOML: {error}; {form}") from error
    if not table:
        raise ValueError(f"{name} has no keys; {form}, or run the default study by: gnfast study run")
    return table


def _small(widths: Iterable[int | str]) -> tuple[int | str, ...]:
    """Return a few narrow widths: those up to 256, or the narrowest; a multiple of the depth counts by its factor."""
    ordered = sorted(widths, key=lambda width: int(str(width).rstrip("L")))
    narrow = [w for w in ordered if isinstance(w, str) or w <= 256]
    return tuple(narrow[:3] or ordered[:1])
