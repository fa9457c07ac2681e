"""How the keys of a study file are read: one reader for each type that a key may have."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import MISSING, field, fields
from typing import Any

from gnfast import _checks

Reader = Callable[[Any, str], Any]  # (value, name of the key) -> what the study keeps, or an error that names the key


LARGEST = 2**63 - 1  # integer that a results file holds


def whole(minimum: int, maximum: int = LARGEST) -> Reader:
    """Read an integer of at least `minimum` that a results file can hold."""

    def read(value: Any, name: str) -> int:
        found = _checks.integer(value, name, minimum)
        return found if found <= maximum else _checks.integer(found, name, minimum, maximum)

    return read


def choice(allowed: Iterable[str]) -> Reader:
    """Read one of some names."""
    return lambda value, name: _checks.choice(value, name, tuple(allowed))


def text(value: Any, name: str) -> str:
    """Read text that is not empty."""
    if not isinstance(value, str):
        raise TypeError(f"{name} is {value!r} but must be text in quotes")
    if not value:
        raise ValueError(f"{name} is empty; leave the key out for its default")
    return value


def flag(value: Any, name: str) -> bool:
    """Read true or false."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} is {value!r} but must be true or false")
    return value


def several(read: Reader, empty: bool = False) -> Reader:
    """Read a list, or one value as a list of one; repeated values are dropped."""

    def read_all(value: Any, name: str) -> tuple[Any, ...]:
        values = value if isinstance(value, list | tuple) else [value]
        if not values and not empty:
            raise ValueError(f"{name} is an empty list; give at least one value")
        return tuple(dict.fromkeys(read(v, name) for v in values))

    return read_all


def key(read: Reader, default: Any = MISSING) -> Any:
    """Return a dataclass field that knows how to read itself."""
    return field(default=default, metadata={"read": read})


def unread(default: Any) -> Any:
    """Return a dataclass field that is no key of a file."""
    return field(default=default, compare=False)


def keys(cls: Any) -> list[Any]:
    """Return the fields that are keys."""
    return [f for f in fields(cls) if "read" in f.metadata]


def read_fields(instance: Any) -> None:
    """Read every field of a dataclass by its own reader, in place."""
    for f in keys(instance):
        object.__setattr__(instance, f.name, f.metadata["read"](getattr(instance, f.name), f.name))


def from_table(cls: type[Any], table: Any, where: str) -> Any:
    """Build a dataclass of such fields from a TOML table, refusing keys that it does not have."""
    if not isinstance(table, dict):
        raise TypeError(f"{where} is {table!r} but must be a table of keys and values")
    for name in table:
        _checks.choice(name, f"a key of {where}", [f.name for f in keys(cls)])
    for f in keys(cls):
        if f.default is MISSING and f.name not in table:
            raise ValueError(f"{where} has no key {f.name!r}; add one")
    return cls(**table)
