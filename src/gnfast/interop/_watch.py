"""What is kept is out of date once something that it was made of has been changed: looked at before each use.

Tensors and arrays are compared by what PyTorch counts (versions, addresses, steps of optimizers) and, since writes
through `.data` or NumPy raise no count, by a checksum of all their bytes. That is one pass over p numbers. A product
with the Gauss-Newton matrix of n samples makes 8 n p flops, so that the checksum is b / n of it, 8 b the flops that a
processor makes while it reads a number of 8 bytes, b about 4 to 10, and never more than a fourth, since a product
passes over them four times. Modules are compared by all that their
forward reads of them: submodules, modes, hooks, methods, numbers, strings, tensors, and lists, tuples, dicts and
dataclasses of these, also as attributes of classes, in closures, and as globals that forward names, or a function or
method of the same package that it calls, or one that this calls, and so on. Not seen is what functions of other
packages read, attributes of objects of other kinds, files, and the environment. Lists and dicts that the code itself
writes to (counters, caches) are no inputs of it.
"""

from __future__ import annotations

import argparse
import dataclasses
import dis
import functools
import inspect
import operator
import types
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.optim.optimizer import register_optimizer_step_post_hook

from gnfast import _core

Tensor: TypeAlias = Any  # torch.Tensor, which a type checker sees only where PyTorch is installed
Values: TypeAlias = "Callable[[], Collection[Any]]"
Bytes: TypeAlias = "np.ndarray[Any, np.dtype[np.uint8]]"
PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size, slice)
DATA = (*PLAIN, torch.Tensor, np.ndarray)
RECORDS = (types.SimpleNamespace, argparse.Namespace)
CONTAINERS = (list, tuple, dict, *RECORDS)
WRITERS = {"append", "appendleft", "extend", "insert", "pop", "clear", "update", "setdefault", "add", "remove"}
PARTS = ("_parameters", "_buffers", "_modules")
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
EVERYWHERE = ("_global_forward_hooks", "_global_forward_pre_hooks")
WORDS = 1 << 22  # of a tensor on a GPU that are summed at once
# Of a module, what says nothing about its function.
ASIDE = {
    "_non_persistent_buffers_set",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
    "_compiled_call_impl",
    "_trainer",  # Lightning's, whose counters move
}

# Steps of optimizers by the ids of their tensors; one that is given out again counts on, which changes no comparison.
_steps: Counter[int] = Counter()


def _count(optimizer: Any, *_: Any) -> None:
    _steps.update(id(tensor) for group in optimizer.param_groups for tensor in group["params"])


register_optimizer_step_post_hook(_count)


def state(tensor: Tensor) -> tuple[object, ...]:
    """What changes when a tensor is replaced, or written to in the usual ways (in inference mode it has no version)."""
    version = -1 if tensor.is_inference() else int(tensor._version)
    if tensor.layout is not torch.strided:
        return version, _steps[id(tensor)], tensor.layout, tensor.shape, tensor.dtype
    return version, _steps[id(tensor)], tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype


class Watch:
    """Things as they are now.

    Args:
        things: Names and tensors, arrays, modules, functions, or lists, tuples and dicts of them.
        module: One more, whose parts are named as PyTorch names them.
        all_modes: Whether a change of any module's mode is one, or only of those whose code reads it.
    """

    def __init__(self, things: Iterable[tuple[str, Any]], module: Any = None, all_modes: bool = True) -> None:
        found = _Walk()
        for name, thing in things:
            found.walk(thing, name)
        if module is not None:
            found.walk(module, "")
        self._all_modes, self._tables, self._empty = all_modes, found.tables, found.empty
        self._tensors = [(name, tensor, state(tensor)) for name, tensor in found.tensors]
        seen = [(name, thing, _bytes_of(thing)) for name, thing in [*found.tensors, *found.arrays]]
        self._views = [view for _, _, view in seen if view is not None]
        self._others = [thing for _, thing, view in seen if view is None]
        self._names = [name for name, _, view in seen if view is not None]
        self._names += [name for name, _, view in seen if view is None]
        self._before = self._sums()

    def changed(self) -> str:
        """The name of the first thing that has been changed; empty if nothing has."""
        for name, tensor, before in self._tensors:
            if state(tensor) != before:
                return name
        for table in self._tables:
            if not table.is_same() and (name := table.changed(self._all_modes)):
                return name
        for name, hooks in self._empty:
            if hooks:
                return name
        if (now := self._sums()) != self._before:
            return next(name for name, a, b in zip(self._names, self._before, now, strict=True) if a != b)
        return ""

    def check(self) -> None:
        """Raise if something has been changed."""
        if name := self.changed():
            raise RuntimeError(
                f"{name} has been changed since this operator was made; make a new one after a training step"
            )

    def _sums(self) -> list[int]:
        return [*_core.checksums(self._views), *map(_sum_elsewhere, self._others)]

    def __reduce__(self) -> tuple[type[Watch], tuple[object, ...]]:
        """A copy has what it was made of to itself."""
        return Watch, ((),)


class _Table:
    """Names and values of an object, a dict or a list."""

    def __init__(self, path: str, names: Callable[[], Iterable[Any]], values: Values, owner: Any = None) -> None:
        self.path, self.owner = path, owner
        self._names_now, self._now = names, values
        self.names, self.values = list(names()), list(values())

    def is_same(self) -> bool:
        """Whether all are the very same objects, quickly."""
        values = self._now()
        return len(values) == len(self.values) and all(map(operator.is_, values, self.values))

    def changed(self, all_modes: bool) -> str:
        """The name of what has changed, where equal numbers are the same."""
        before = dict(zip(self.names, self.values, strict=True))
        now = dict(zip(self._names_now(), self._now(), strict=True))
        for key in dict.fromkeys([*before, *now]):
            if key in before and key in now and _equal(before[key], now[key]):
                continue
            if isinstance(self.owner, torch.nn.Module):
                kind: Any = type(self.owner)
                if key == "training" and (all_modes or _reads_mode(kind)):
                    return f"the mode of {self.path or 'module'}"
                if key == "training" or key in ASIDE or key in _assigned(kind) or _is_made(self.owner, key, now):
                    continue
            return _joined(self.path, key)
        return ""


class _Walk:
    """All that can be compared, found from some things on."""

    def __init__(self) -> None:
        self.tensors: list[tuple[str, Tensor]] = []
        self.arrays: list[tuple[str, Any]] = []
        self.tables: list[_Table] = []
        self.empty: list[tuple[str, Any]] = []
        self._seen: dict[int, Any] = {}  # alive, or an id could be given out again

    def walk(self, value: Any, path: str, shallow: bool = False) -> None:
        """Take in `value`; `shallow` leaves out what lists and dicts hold."""
        if isinstance(value, PLAIN) or id(value) in self._seen:
            return
        self._seen[id(value)] = value
        if isinstance(value, torch.Tensor):
            self.tensors.append((path, value))
        elif isinstance(value, np.ndarray):
            self.arrays.append((path, value))
        elif isinstance(value, torch.nn.Module):
            self._module(value, path)
        elif isinstance(value, types.FunctionType):
            self._function(value, path, shallow)
        elif isinstance(value, types.MethodType):
            self.walk(value.__func__, path, shallow)
            if isinstance(value.__self__, torch.nn.Module):
                self.walk(value.__self__, path)
        elif isinstance(value, functools.partial):
            for part in (value.func, value.args, value.keywords):
                self.walk(part, path)
        elif shallow:
            return
        elif isinstance(value, Mapping):
            self._mapping(value, path)
        elif isinstance(value, list | tuple):
            if isinstance(value, list):
                self._table(path, lambda: range(len(value)), lambda: value)
            for i, part in enumerate(value):
                self.walk(part, f"{path}[{i}]")
        elif isinstance(value, RECORDS) or (dataclasses.is_dataclass(value) and hasattr(value, "__dict__")):
            self._mapping(vars(value), path)

    def _table(self, path: str, names: Callable[[], Iterable[Any]], values: Values, owner: Any = None) -> None:
        self.tables.append(_Table(path, names, values, owner))

    def _one(self, path: str, value: Callable[[], Any]) -> None:
        self._table(path, lambda: ("",), lambda: (value(),))

    def _some(self, path: str, names: list[str], own: Mapping[str, Any]) -> None:
        self._table(path, lambda: names, lambda: [own.get(name) for name in names])

    def _mapping(self, found: Mapping[Any, Any], path: str) -> None:
        self._table(path, found.keys, found.values)
        for key, part in list(found.items()):
            self.walk(part, _joined(path, key))

    def _module(self, module: Any, path: str) -> None:
        own = vars(module)
        self._table(path, own.keys, own.values, module)
        self._one(f"the type of {path or 'module'}", lambda: type(module))
        for key in PARTS:
            if key not in own:  # scripted
                self.walk(
                    dict(getattr(module, f"named{key}")() if key != "_modules" else module.named_children()), path
                )
            elif not own[key]:
                self.empty.append((_joined(path, key), own[key]))
            elif not (key == "_buffers" and _buffers_do_not_enter(module)):
                self._mapping(own[key], path)
        for key in HOOKS:
            self._hooks(own.get(key, {}), _joined(path, key))
        kind: Any = type(module)
        written = _entries_written(kind)
        for key, value in list(own.items()):
            if key not in ASIDE and key not in HOOKS and key not in PARTS and not _is_made(module, key, own):
                self.walk(value, _joined(path, key), shallow=key in written)
        self._class(type(module))
        for key in EVERYWHERE:
            if id(hooks := getattr(torch.nn.modules.module, key)) not in self._seen:
                self._seen[id(hooks)] = hooks
                self._hooks(hooks, f"torch.nn.modules.module.{key}")

    def _hooks(self, hooks: Any, path: str) -> None:
        if not hooks:
            self.empty.append((path, hooks))
            return
        self._table(path, hooks.keys, hooks.values)
        for hook in list(hooks.values()):  # what they gather in lists and dicts is no input of theirs
            self.walk(hook, path, shallow=True)

    def _class(self, kind: type) -> None:
        for base in kind.__mro__:
            if id(base) in self._seen or base in (torch.nn.Module, object):
                continue
            self._seen[id(base)] = base
            own = vars(base)
            if base.__module__.partition(".")[0] == "torch":  # somebody may have put another method there
                self._one(f"{base.__name__}.forward", functools.partial(own.get, "forward"))
                continue
            names = [key for key, value in own.items() if _is_data(key, value)]
            self._some(base.__name__, names, own)
            called = _called(kind)
            for key in names:
                function = _function_of(own[key])
                if key in called or not isinstance(function, types.FunctionType):
                    self.walk(function, f"{base.__name__}.{key}")

    def _function(self, function: Any, path: str, shallow: bool) -> None:
        name = path or function.__name__
        self._one(name, lambda: function.__code__)
        for attribute in ("__defaults__", "__kwdefaults__"):
            self._one(name, functools.partial(getattr, function, attribute))
            self.walk(getattr(function, attribute), name, shallow)
        code, written = function.__code__, _written(function.__code__)
        for free, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            if free != "__class__":
                self._one(f"{free} of {name}", functools.partial(_contents, cell))
                self.walk(_contents(cell), free, shallow or free in written)
        self._named_in(function, "", function.__globals__, written, shallow)

    def _named_in(self, function: Any, path: str, own: Mapping[str, Any], written: set[str], shallow: bool) -> None:
        """Globals, or what a module holds, that a function or one within it names."""
        for key in _names(function.__code__):
            value = own.get(key)
            if isinstance(value, types.ModuleType) and not path and _package(value.__name__) not in ("torch", "numpy"):
                self._named_in(function, key, vars(value), written, shallow)
            elif value is None or not (
                isinstance(value, (torch.nn.Module, *DATA, *CONTAINERS)) or _is_own(function, value)
            ):
                continue
            elif key not in written or not isinstance(value, CONTAINERS):
                self._some(path, [key], own)
                self.walk(value, _joined(path, key), shallow)


def _is_data(key: str, value: Any) -> bool:
    """Whether an attribute of a class may change what its objects compute."""
    if key.startswith("__") and key != "__call__":
        return False
    return isinstance(_function_of(value), (*DATA, list, tuple, dict, types.FunctionType))


def _function_of(value: Any) -> Any:
    """What a method, property or the like calls; else the value itself."""
    return getattr(value, "__func__", None) or getattr(value, "fget", None) or value


def _is_own(function: Any, value: Any) -> bool:
    """Whether a value is a function of the package that a function is of."""
    return isinstance(value, types.FunctionType) and _package(value.__module__) == _package(function.__module__)


def _package(name: str | None) -> str:
    return (name or "").partition(".")[0]


def _within(code: types.CodeType) -> Iterator[types.CodeType]:
    """The code, and that of functions in it."""
    yield code
    for part in code.co_consts:
        if isinstance(part, types.CodeType):
            yield from _within(part)


@functools.cache
def _names(code: types.CodeType) -> list[str]:
    return list(dict.fromkeys(name for part in _within(code) for name in part.co_names))


@functools.cache
def _written(code: types.CodeType) -> set[str]:
    """Names in lines that write to entries, or call a method that does: what these write to is among them."""
    found: set[str] = set()
    for part in _within(code):
        line: list[dis.Instruction] = []
        for step in [*dis.get_instructions(part), None]:
            if step is None or step.starts_line:
                if any(s.opname in ("STORE_SUBSCR", "DELETE_SUBSCR") or s.argval in WRITERS for s in line):
                    found |= {s.argval for s in line if s.opname in ("LOAD_GLOBAL", "LOAD_DEREF", "LOAD_ATTR")}
                line = []
            if step is not None:
                line.append(step)
    return found


def _contents(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None


def _joined(path: str, key: object) -> str:
    return f"{path}.{key}".strip(".") if isinstance(key, str) else f"{path}[{key!r}]"


def _equal(a: Any, b: Any) -> bool:
    """Whether two values are the same object, or plain and equal."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(_equal, a, b))
    return isinstance(a, PLAIN) and (a == b or (a != a and b != b))


def _buffers_do_not_enter(module: Any) -> bool:
    """Running averages are no part of the outputs in training mode, and move with every call."""
    if isinstance(module, _BatchNorm):
        return bool(module.training or module.running_mean is None)
    return isinstance(module, _InstanceNorm) and bool(module.training)


def _is_made(module: Any, key: str, own: Mapping[str, Any]) -> bool:
    """Whether an attribute is a tensor that each call makes of parameters: by pruning and the older weight norms."""
    value = own.get(key)
    if not isinstance(value, torch.Tensor):
        return False
    return value.grad_fn is not None or any(f"{key}{end}" in module._parameters for end in ("_orig", "_g"))


@functools.cache
def _reads_mode(kind: Any) -> bool:
    """Whether a method of a module's class reads `self.training`."""
    bases = [base for base in kind.__mro__ if base not in (torch.nn.Module, object)]
    return any("training" in code.co_names for base in bases for code in _codes(base))


@functools.cache
def _called(kind: Any) -> set[str]:
    """Names of a module's methods and properties that its forward calls, or one that it calls, itself among them."""
    todo, done = ["forward"], set()
    while todo:
        if (name := todo.pop()) in done or getattr(torch.nn.Module, name, None) is getattr(kind, name, None):
            continue
        code = getattr(_function_of(inspect.getattr_static(kind, name, None)), "__code__", None)
        if code is not None:
            done.add(name)
            todo += _names(code)
    return done


@functools.cache
def _assigned(kind: Any) -> set[str]:
    """Attributes that a module's forward, or what it calls of the class, assigns: what it leaves is no input of it."""
    return {
        step.argval for code in _own_codes(kind) for step in dis.get_instructions(code) if step.opname == "STORE_ATTR"
    }


@functools.cache
def _entries_written(kind: Any) -> set[str]:
    """Attributes whose entries a module's forward, or what it calls of the class, writes."""
    return {name for code in _own_codes(kind) for name in _written(code)}


def _own_codes(kind: Any) -> list[types.CodeType]:
    return [_function_of(inspect.getattr_static(kind, name)).__code__ for name in _called(kind)]


def _codes(kind: type) -> Iterator[types.CodeType]:
    for value in vars(kind).values():
        function = getattr(value, "__func__", getattr(value, "fget", value))
        if isinstance(function, types.FunctionType):
            yield function.__code__


# ------------------------------------------------------------------------------------------------------ checksums
def _bytes_of(thing: Any) -> Bytes | None:
    """An array's or tensor's own memory; None where NumPy cannot see it, or where it has gaps."""
    if isinstance(thing, np.ndarray):
        whole = thing if thing.flags.c_contiguous else thing.T
        fits = whole.flags.c_contiguous and not thing.dtype.hasobject
        return whole.reshape(-1).view(np.uint8) if fits else None
    if thing.layout is not torch.strided or thing.device.type != "cpu":
        return None
    with torch.no_grad():
        try:
            flat = thing.detach()
            if not flat.is_contiguous():  # channels_last, a transposed matrix: the order in memory does as well
                flat = flat.permute(sorted(range(flat.ndim), key=lambda axis: -flat.stride(axis)))
            if not flat.is_contiguous() or flat.is_conj() or flat.is_neg():
                return None
            found: Bytes = flat.reshape(-1).view(torch.uint8).numpy()
        except (RuntimeError, TypeError, NotImplementedError):  # quantized, or a subclass without memory of its own
            return None
    return found


def fingerprint(batches: Iterable[Any]) -> list[object]:
    """What tells tensors in tuples, lists and dicts from others."""
    found = _Walk()
    for i, batch in enumerate(batches):
        found.walk(batch, str(i))
    return [(tensor.shape, tensor.dtype, _sum_elsewhere(tensor)) for _, tensor in found.tensors]


def _sum_elsewhere(thing: Any) -> int:
    """The checksum of what `_bytes_of` does not take, of a copy; 0 where there is nothing to read."""
    if isinstance(thing, np.ndarray):
        return 0 if thing.dtype.hasobject else _core.checksums([np.ascontiguousarray(thing)])[0]
    with torch.no_grad():
        try:
            flat = thing.detach().to_dense().resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)
            return _core.checksums([flat.numpy()])[0] if flat.device.type == "cpu" else _weighted(flat)
        except (RuntimeError, TypeError, NotImplementedError):
            return 0


def _weighted(flat: Tensor) -> int:
    """A sum of 32-bit words by weights, modulo 2^64, where the bytes are; weights in a row would cancel neighbours."""
    total = torch.zeros((), dtype=torch.int64, device=flat.device)
    words = flat.view(torch.int32) if len(flat) % 4 == 0 else flat
    for first in range(0, len(words), WORDS):
        part = words[first : first + WORDS].to(torch.int64)
        weights = (2 * torch.arange(first, first + len(part), device=flat.device) + 1) * -7046029254386353131
        total += (part * ((weights ^ (weights >> 32)) | 1)).sum()
    return int(total)
