"""How results behave: as the number that they are, in a line, and in a notebook."""

from __future__ import annotations

import dataclasses
import html
import numbers
from collections.abc import Iterable
from typing import Any

import numpy as np

SHORT = 6  # entries of an array that a line has room for


def brief(name: str, items: Iterable[tuple[str, Any]]) -> str:
    """A line that tells arrays by their shape, where they are not short."""
    return f"{name}({', '.join(f'{key}={_value(value)}' for key, value in items)})"


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        if value.ndim == 1 and value.size <= SHORT:
            return "[" + ", ".join(_value(entry) for entry in value.tolist()) + "]"
        return f"<{' x '.join(map(str, value.shape)) or 'one'} {value.dtype}>"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {_value(entry)}" for key, entry in value.items()) + "}"
    return repr(value)


class Shown:
    """A result whose text is a table: notebooks show it with its columns under each other."""

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


class Brief(Shown):
    """A dataclass that shows in a line."""

    def __repr__(self) -> str:
        fields = [field.name for field in dataclasses.fields(self) if field.repr]  # type: ignore[arg-type]
        return brief(type(self).__name__, ((name, getattr(self, name)) for name in fields))


class Number(Brief):
    """A result that converts, formats, compares and hashes as its value."""

    value: float

    def __float__(self) -> float:
        return float(self.value)

    def __int__(self) -> int:
        return int(self.value)

    def __bool__(self) -> bool:
        return bool(self.value)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        return np.array(self.value, dtype)

    def __format__(self, spec: str) -> str:
        return format(self.value, spec) if spec else str(self)

    def __hash__(self) -> int:
        return hash(self.value)

    def __eq__(self, other: object) -> bool:
        return bool(self.value == _number(other)) if _is_number(other) else NotImplemented

    def __lt__(self, other: Any) -> bool:
        return bool(self.value < _number(other)) if _is_number(other) else NotImplemented

    def __le__(self, other: Any) -> bool:
        return bool(self.value <= _number(other)) if _is_number(other) else NotImplemented

    def __gt__(self, other: Any) -> bool:
        return bool(self.value > _number(other)) if _is_number(other) else NotImplemented

    def __ge__(self, other: Any) -> bool:
        return bool(self.value >= _number(other)) if _is_number(other) else NotImplemented


def _is_number(other: object) -> bool:
    return isinstance(other, Number | numbers.Real)


def _number(other: Any) -> Any:
    return other.value if isinstance(other, Number) else other
