"""Watches over what kept results were made of: a change makes them out of date, and is looked for before each use.

Tensors and arrays are compared by what PyTorch counts (versions, addresses, steps of optimizers) and, since writes
through `.data` or NumPy raise no count, by a checksum of all their bytes. That is one pass over p numbers. A product
with the Gauss-Newton matrix of n samples makes 8 n p flops, so that the checksum is b / n of it, 8 b the flops that a
processor makes while it reads a number of 8 bytes, b about 4 to 10, and never more than a fourth, since a product
passes over them four times. Modules are compared by all that their
forward reads of them: submodules, modes, hooks, methods, numbers, strings, tensors, and lists, tuples, dicts and
dataclasses of these, also as attributes of classes, in closures, and as globals that forward names, or a function or
method of the same package that it calls, or one that this calls, and so on; so are classes and objects of code that
somebody works on, by the attributes that functions in reach name. Not seen is what functions of other packages read,
what installed packages keep in lists and dicts, any state of PyTorch, NumPy and Python's own, files, and the
environment. What the code itself assigns or writes to (counters, caches) is no input of it, nor is what the first calls
of a model have changed.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import operator
import types
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.optim.optimizer import register_optimizer_step_post_hook

from gnfast import _core
from gnfast.interop import _code
from gnfast.interop._sums import bytes_of, sum_elsewhere

Tensor: TypeAlias = Any  # torch.Tensor, which a type checker sees only where PyTorch is installed
Values: TypeAlias = "Callable[[], Collection[Any]]"
PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size, slice)
DATA = (*PLAIN, torch.Tensor, np.ndarray)
RECORDS = (types.SimpleNamespace, argparse.Namespace)
CONTAINERS = (list, tuple, dict, *RECORDS)
CALLED = (types.FunctionType, types.MethodType, functools.partial, functools._lru_cache_wrapper)
PARTS = ("_parameters", "_buffers", "_modules")
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
EVERYWHERE = ("_global_forward_hooks", "_global_forward_pre_hooks")
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
    """Marks that change when a tensor is replaced or written to as usual (in inference mode it has no version)."""
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
        found.finish()
        self._all_modes, self._tables, self._empty, self._aside = all_modes, found.tables, found.empty, found.aside
        self._tensors = [(name, tensor, state(tensor)) for name, tensor in found.tensors]
        self._take([*found.tensors, *found.arrays])

    def _take(self, things: list[tuple[str, Any]]) -> None:
        seen = [(name, thing, bytes_of(thing)) for name, thing in things]
        self._views = [view for _, _, view in seen if view is not None]
        self._others = [thing for _, thing, view in seen if view is None]
        self._summed = [(name, thing) for name, thing, view in seen if view is not None]
        self._summed += [(name, thing) for name, thing, view in seen if view is None]
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
            return next(name for (name, _), a, b in zip(self._summed, self._before, now, strict=True) if a != b)
        return ""

    def settle(self) -> None:
        """Leave out from now on what is not as it was: after calls of a model, what it changes itself at each call."""
        for table in self._tables:
            if table.owner is None and not table.is_same():
                table.settle()
        self._tensors = [entry for entry in self._tensors if state(entry[1]) == entry[2]]
        if (now := self._sums()) != self._before:
            self._take([thing for thing, a, b in zip(self._summed, self._before, now, strict=True) if a == b])

    def left_over(self) -> list[Tensor]:
        """Tensors with a history in autograd, left by an earlier call where code keeps what it makes."""
        found: dict[int, Tensor] = {}

        def walk(value: Any, depth: int) -> None:
            if isinstance(value, torch.Tensor):
                if value.grad_fn is not None:
                    found[id(value)] = value
            elif depth and isinstance(value, (list, tuple, set, deque, Mapping)):
                for part in list(value.values() if isinstance(value, Mapping) else value):
                    walk(part, depth - 1)

        for aside in self._aside:
            walk(aside(), 3)
        return list(found.values())

    def check(self) -> None:
        """Raise if something has been changed."""
        if name := self.changed():
            raise RuntimeError(
                f"{name} has been changed since this operator was made; make a new one after a training step"
            )

    def _sums(self) -> list[int]:
        return [*_core.checksums(self._views), *map(sum_elsewhere, self._others)]

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

    def settle(self) -> None:
        """Leave out what is not as it was."""
        names, values, now = self._names_now, self._now, self._pairs()
        same = [k for k, value in zip(self.names, self.values, strict=True) if k in now and _equal(now[k], value)]
        self.values = [now[key] for key in same]
        self.names = same

        def current() -> list[Any]:
            found = dict(zip(names(), values(), strict=True))
            return [found.get(key) for key in same]

        self._names_now, self._now = lambda: same, current

    def _pairs(self) -> dict[Any, Any]:
        return dict(zip(self._names_now(), self._now(), strict=True))

    def changed(self, all_modes: bool) -> str:
        """The name of what has changed, where equal numbers are the same."""
        before = dict(zip(self.names, self.values, strict=True))
        now = self._pairs()
        for key in dict.fromkeys([*before, *now]):
            if key in before and key in now and _equal(before[key], now[key]):
                continue
            if isinstance(self.owner, torch.nn.Module):
                kind: Any = type(self.owner)
                if key == "training" and (all_modes or _code.reads_mode(kind)):
                    return f"the mode of {self.path or 'module'}"
                if key == "training" or key in ASIDE or key in _code.assigned(kind) or _is_made(self.owner, key, now):
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
        self.aside: list[Callable[[], Any]] = []  # what code writes itself, as it is then
        self._classes: set[type] = set()
        self._codes: list[tuple[types.CodeType, int]] = []  # in reach, with the ids of their globals
        self._later: list[Callable[[], None]] = []

    def walk(self, value: Any, path: str, aside: Collection[Any] = ()) -> None:
        """Take in `value`, but for some keys of it, or `_code.EVERY`."""
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
            self._function(value, path)
        elif isinstance(value, functools._lru_cache_wrapper):
            self.walk(value.__wrapped__, path)
        elif isinstance(value, types.MethodType):
            self.walk(value.__func__, path)
            if isinstance(value.__self__, torch.nn.Module) or _is_own(value.__self__):
                self.walk(value.__self__, path)
        elif isinstance(value, functools.partial):
            for part in (value.func, value.args, value.keywords):
                self.walk(part, path)
        elif _code.EVERY in aside:
            self.aside.append(lambda: value)
        elif isinstance(value, Mapping):
            self._mapping(value, path, aside)
        elif isinstance(value, list | tuple):
            if isinstance(value, list):
                self._table(path, lambda: range(len(value)), lambda: value)
            for i, part in enumerate(value):
                self.walk(part, f"{path}[{i}]")
        elif _is_own(value):
            self._later.append(functools.partial(self._object, value, path))
        elif isinstance(value, RECORDS) or (dataclasses.is_dataclass(value) and hasattr(value, "__dict__")):
            self._mapping(vars(value), path)

    def _table(self, path: str, names: Callable[[], Iterable[Any]], values: Values, owner: Any = None) -> None:
        self.tables.append(_Table(path, names, values, owner))

    def _one(self, path: str, value: Callable[[], Any]) -> None:
        self._table(path, lambda: ("",), lambda: (value(),))

    def _some(self, path: str, names: Sequence[str], own: Mapping[str, Any]) -> None:
        self._table(path, lambda: names, lambda: [own.get(name) for name in names])

    def _mapping(self, found: Mapping[Any, Any], path: str, aside: Collection[Any] = ()) -> None:
        if aside:
            self.aside.append(lambda: found)
            found_keys = [key for key in found if key not in aside]
            self._table(path, lambda: found_keys, lambda: [found.get(key) for key in found_keys])
        else:
            self._table(path, found.keys, found.values)
        for key, part in list(found.items()):
            if key not in aside:
                self.walk(part, _joined(path, key))

    def _module(self, module: Any, path: str) -> None:
        own = vars(module)
        self._table(path, own.keys, own.values, module)
        self.aside.append(lambda: [part for key, part in own.items() if key not in PARTS])
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
        written = _code.entries_written(kind)
        for key, value in list(own.items()):
            if key not in ASIDE and key not in HOOKS and key not in PARTS and not _is_made(module, key, own):
                self.walk(value, _joined(path, key), written.get(key, ()))
        self._class(kind, _code.called(kind), _code.assigned(kind))
        for key in EVERYWHERE:
            if id(hooks := getattr(torch.nn.modules.module, key)) not in self._seen:
                self._seen[id(hooks)] = hooks
                self._hooks(hooks, f"torch.nn.modules.module.{key}")

    def _hooks(self, hooks: Any, path: str) -> None:
        if not hooks:
            self.empty.append((path, hooks))
            return
        self._table(path, hooks.keys, hooks.values)
        for hook in list(hooks.values()):
            self.walk(hook, path)

    def _class(self, kind: type, called: Collection[str], aside: Collection[str]) -> None:
        """Members that objects of a class have from it; of functions those that are called."""
        for base in kind.__mro__:
            if base in self._classes or base in (torch.nn.Module, object):
                continue
            self._classes.add(base)
            own = vars(base)
            if _code.is_closed(_code.package(base.__module__)):  # somebody may have put another method there
                self._one(f"{base.__name__}.forward", functools.partial(own.get, "forward"))
                continue
            names = [key for key, value in own.items() if _is_data(key, value) and key not in aside]
            self._some(base.__name__, names, own)
            for key in names:
                function = _code.function_of(own[key])
                if key in called or not isinstance(function, types.FunctionType):
                    self.walk(function, f"{base.__name__}.{key}")

    def _function(self, function: Any, path: str) -> None:
        name, code = path or function.__name__, function.__code__
        of = _code.package(function.__globals__.get("__name__"))  # `__module__` is another's in a decorator
        cells = [(free, cell) for free, cell in zip(code.co_freevars, function.__closure__ or (), strict=True)]
        if _code.is_closed(of):  # what PyTorch puts around a function: only that is somebody's own
            for free, cell in cells:
                if isinstance(_contents(cell), (torch.nn.Module, torch.Tensor, *CALLED)):
                    self.walk(_contents(cell), free)
            return
        self._one(name, lambda: function.__code__)
        for attribute in ("__defaults__", "__kwdefaults__"):
            self._one(name, functools.partial(getattr, function, attribute))
            self.walk(getattr(function, attribute), name)
        (rebound, _), written = _code.stored(code), _code.written(code)
        for free, cell in cells:
            if free in rebound:
                self.aside.append(functools.partial(_contents, cell))
            elif free != "__class__":
                self._one(f"{free} of {name}", functools.partial(_contents, cell))
                self.walk(_contents(cell), free, written.get(free, ()))
        self._codes.append((code, id(function.__globals__)))
        self._named_in(function, "", function.__globals__, of)

    def _named_in(self, function: Any, path: str, own: Mapping[str, Any], of: str) -> None:
        """Globals, or what a module holds, that a function or one within it names: functions now, data later."""
        data = (torch.nn.Module, *DATA) if _code.is_installed(of) else (torch.nn.Module, *DATA, *CONTAINERS)
        for key in _code.names(function.__code__):
            value, called = own.get(key), _code.function_of(own.get(key))
            if isinstance(value, types.ModuleType):
                inner = _code.package(value.__name__)
                if path.count(".") < 2 and not _code.is_closed(inner):
                    self._named_in(function, _joined(path, key), vars(value), inner)
            elif isinstance(called, types.FunctionType) and _code.package(called.__globals__.get("__name__")) == of:
                self._some(path, [key], own)
                self.walk(called, _joined(path, key))
            elif key in own and (isinstance(value, data) or _is_own(value)):
                self._later.append(functools.partial(self._global, path, key, own))

    def _global(self, path: str, key: str, own: Mapping[str, Any]) -> None:
        if any(at == id(own) and key in _code.stored(code)[0] for code, at in self._codes):
            self.aside.append(lambda: own.get(key))
            return
        self._some(path, [key], own)
        self.walk(own[key], _joined(path, key), self._keys_written(key))

    def _object(self, value: Any, path: str) -> None:
        """A class that somebody works on, or an object of one: of what functions in reach name, what none assigns."""
        kind, whole = value if isinstance(value, type) else type(value), dataclasses.is_dataclass(value)
        found = -1
        while len(self._codes) > found:  # methods that are named name others
            found = len(self._codes)
            named = {name for code, _ in self._codes for name in (*_code.names(code), "__call__")}
            for base in kind.__mro__[:-1]:
                for key, part in vars(base).items():
                    if key in named and isinstance(function := _code.function_of(part), types.FunctionType):
                        self.walk(function, f"{base.__name__}.{key}")
        assigned = {name for code, _ in self._codes for name in _code.stored(code)[1]}
        self._class(kind, named, assigned)
        if kind is value:
            return
        own = vars(value)
        names = [key for key in own if key not in assigned and (whole or key in named)]
        self.aside.append(lambda: [own.get(key) for key in assigned])
        self._some(path, names, own)
        for key in names:
            self.walk(own[key], _joined(path, key), self._keys_written(key))

    def _keys_written(self, name: str) -> set[Any]:
        return {key for code, _ in self._codes for key in _code.written(code).get(name, ())}

    def finish(self) -> _Walk:
        """Take in what was put off until all functions in reach were known."""
        while self._later:
            self._later.pop(0)()
        return self


def _is_own(value: Any) -> bool:
    """Whether a value is a class that somebody works on, or an object of one."""
    kind: Any = value if isinstance(value, type) else type(value)
    return hasattr(value, "__dict__") and not _code.is_installed(_code.package(kind.__module__))


def _is_data(key: str, value: Any) -> bool:
    """Whether an attribute of a class may change what its objects compute."""
    if key.startswith("__") and key != "__call__":
        return False
    return isinstance(_code.function_of(value), (*DATA, list, tuple, dict, types.FunctionType))


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


def fingerprint(batches: Iterable[Any]) -> list[object]:
    """Marks that tell tensors in tuples, lists and dicts from others."""
    found = _Walk()
    for i, batch in enumerate(batches):
        found.walk(batch, str(i))
    found.finish()
    return [(tensor.shape, tensor.dtype, sum_elsewhere(tensor)) for _, tensor in found.tensors]
