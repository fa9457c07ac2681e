"""Names that code reads and writes, by its bytecode: those that it writes itself are no input of it.

State that a library keeps for itself (caches, counters, what is compiled) is none either.
"""

from __future__ import annotations

import dis
import functools
import inspect
import itertools
import sys
import types
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

import torch

WRITERS = {"append", "appendleft", "extend", "insert", "pop", "popitem", "popleft", "clear", "update", "setdefault"}
WRITERS |= {"add", "remove", "discard", "move_to_end", "__setitem__"}
EVERY = object()  # among keys: all that a list or dict holds
INSTALLED = {"site-packages", "dist-packages"}


def function_of(value: Any) -> Any:
    """The function that a method, property, cached function or the like calls; else the value itself."""
    if isinstance(value, functools._lru_cache_wrapper):
        return value.__wrapped__
    for name in ("__func__", "fget", "func"):
        if isinstance(value, (staticmethod, classmethod, property, functools.cached_property)) and hasattr(value, name):
            return getattr(value, name)
    return value


def package(name: str | None) -> str:
    """The first part of a module's name."""
    return (name or "").partition(".")[0]


@functools.cache
def is_closed(name: str) -> bool:
    """Whether a package is Python's own, PyTorch or NumPy, whose globals nobody else changes."""
    return name in sys.stdlib_module_names or name in ("torch", "functorch", "numpy", "gnfast")


@functools.cache
def is_installed(name: str) -> bool:
    """Whether a package is a library's, not code that somebody works on."""
    module = sys.modules.get(name)
    places = [getattr(module, "__file__", None) or "", *getattr(module, "__path__", ())]
    return is_closed(name) or any(INSTALLED.intersection(PurePath(place).parts) for place in places)


def within(code: types.CodeType) -> Iterator[types.CodeType]:
    """The code, and that of functions in it."""
    yield code
    for part in code.co_consts:
        if isinstance(part, types.CodeType):
            yield from within(part)


@functools.cache
def names(code: types.CodeType) -> list[str]:
    """Names of globals and attributes."""
    return list(dict.fromkeys(name for part in within(code) for name in part.co_names))


@functools.cache
def stored(code: types.CodeType) -> tuple[set[str], set[str]]:
    """Names of globals, and of attributes, that are assigned."""
    steps = [step for part in within(code) for step in dis.get_instructions(part)]
    globals_ = {step.argval for step in steps if step.opname in ("STORE_GLOBAL", "STORE_DEREF", "DELETE_GLOBAL")}
    return globals_, {step.argval for step in steps if step.opname in ("STORE_ATTR", "DELETE_ATTR")}


@functools.cache
def written(code: types.CodeType) -> dict[str, set[Any]]:
    """Names of lists and dicts whose entries are written, by `[key] =` or a method that does, and the keys."""
    found: dict[str, set[Any]] = {}
    for part in within(code):
        steps = list(dis.get_instructions(part))
        aliases: dict[str, str] = {}  # of locals
        for before, step in itertools.pairwise(steps):
            if step.opname == "STORE_FAST" and before.opname in ("LOAD_GLOBAL", "LOAD_ATTR", "LOAD_DEREF"):
                aliases[step.argval] = before.argval
        for step in steps:
            by_key = step.opname in ("STORE_SUBSCR", "DELETE_SUBSCR")
            if not by_key and not (step.opname in ("LOAD_METHOD", "LOAD_ATTR") and step.argval in WRITERS):
                continue
            if step.positions is None or step.positions.col_offset is None:  # `python -X no_debug_ranges`
                continue
            inside = [other for other in steps if _is_inside(other, step)]
            # What is written to begins where the whole does; what is not of it is the key.
            key = [other for other in inside if not _begins_with(other, step)]
            keys = {key[0].argval} if by_key and len(key) == 1 and key[0].opname == "LOAD_CONST" else {EVERY}
            for other in inside:
                if not _begins_with(other, step) or other.argval in WRITERS:
                    continue
                if other.opname in ("LOAD_GLOBAL", "LOAD_DEREF", "LOAD_ATTR"):
                    found.setdefault(other.argval, set()).update(keys)
                elif other.opname == "LOAD_FAST" and other.argval in aliases:
                    found.setdefault(aliases[other.argval], set()).update(keys)
    return found


def _start(step: dis.Instruction) -> tuple[int, int]:
    at = step.positions
    return (at.lineno or -1, at.col_offset or 0) if at else (-1, 0)


def _end(step: dis.Instruction) -> tuple[int, int]:
    at = step.positions
    return (at.end_lineno or -1, at.end_col_offset or 0) if at else (-1, 0)


def _begins_with(step: dis.Instruction, whole: dis.Instruction) -> bool:
    return _start(step) == _start(whole)


def _is_inside(step: dis.Instruction, whole: dis.Instruction) -> bool:
    return step.opname.startswith("LOAD") and _start(whole) <= _start(step) and _end(step) <= _end(whole)


# --------------------------------------------------------------------------------------------------- classes of modules
@functools.cache
def reads_mode(kind: Any) -> bool:
    """Whether a method of a module's class reads `self.training`."""
    bases = [base for base in kind.__mro__ if base not in (torch.nn.Module, object)]
    return any("training" in code.co_names for base in bases for code in _codes(base))


@functools.cache
def called(kind: Any) -> set[str]:
    """Names of a module's methods and properties that its forward calls, or one that it calls, itself among them."""
    todo, done = ["forward"], set()
    while todo:
        if (name := todo.pop()) in done or getattr(torch.nn.Module, name, None) is getattr(kind, name, None):
            continue
        code = getattr(function_of(inspect.getattr_static(kind, name, None)), "__code__", None)
        if code is not None:
            done.add(name)
            todo += names(code)
    return done


@functools.cache
def assigned(kind: Any) -> set[str]:
    """Attributes that a module's forward, or what it calls of the class, assigns: what it leaves is no input of it."""
    return {name for code in _own_codes(kind) for name in stored(code)[1]}


@functools.cache
def entries_written(kind: Any) -> dict[str, set[Any]]:
    """Attributes whose entries a module's forward, or what it calls of the class, writes, and their keys."""
    found: dict[str, set[Any]] = {}
    for code in _own_codes(kind):
        for name, keys in written(code).items():
            found.setdefault(name, set()).update(keys)
    return found


def _own_codes(kind: Any) -> list[types.CodeType]:
    return [function_of(inspect.getattr_static(kind, name)).__code__ for name in called(kind)]


def _codes(kind: type) -> Iterator[types.CodeType]:
    for value in vars(kind).values():
        function = function_of(value)
        if isinstance(function, types.FunctionType):
            yield function.__code__
