"""Checks of arguments, shared by all modules: each returns the checked value or raises one sentence of what to do."""

from __future__ import annotations

import difflib
import importlib
import math
import numbers
import operator
import os
import reprlib
import sys
import traceback
import warnings
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from gnfast import _arrays, _extras
from gnfast._arrays import CPU, Array, Device

Seed: TypeAlias = int | np.random.Generator

COPY_WARNING_BYTES = 1 << 20  # a smaller copy takes well under a millisecond: not worth a word


class CopyWarning(UserWarning):
    """A large input was copied because it is not in C order."""

    __module__ = "gnfast"


# ------------------------------------------------------------------------------------------------------------ arrays
def array(
    value: object,
    name: str,
    shape: Sequence[str | int],
    dtype: np.dtype[Any] | None = None,
    owner: str = "the network",
    device: Device = CPU,
) -> Array:
    """A real, finite, non-empty array in C order: the same memory where `value` is one already, else a copy.

    Args:
        value: Anything that NumPy, or on a GPU CuPy, reads as an array.
        name: The argument's name, for the messages.
        shape: One entry per dimension: the size it must have, or a letter for any size from 1.
        dtype: The dtype it must have; None for float32 or float64.
        owner: What has that dtype and that shape, for the messages.
        device: Where it must be.

    Raises:
        TypeError: Not an array of real numbers, of another dtype, or not in the device's kind of memory.
        ValueError: Another shape, empty, on another GPU, or with NaN or infinite values.
    """
    found = _arrays.as_array(value, name, device, owner)
    _check_dtype(found.dtype, name, dtype, owner, value)
    _check_shape(found.shape, name, shape, owner)
    finite = np.isfinite(found)
    if not finite.all():
        bad = np.argwhere(~_arrays.to_host(finite))
        count, where = counted(len(bad), "NaN or infinite value"), ", ".join(map(str, bad[0]))
        at = f"{name}[{where}]" if where else name
        raise ValueError(f"{name} has {count}, the first is {at}; replace them by finite numbers")
    contiguous = _arrays.as_c_contiguous(found)
    if contiguous is not found and found.nbytes >= COPY_WARNING_BYTES:
        warnings.warn(
            f"{name} of shape {found.shape} is not in C order and was copied ({found.nbytes / 2**20:.1f} MiB); "
            f"pass {device.library}.ascontiguousarray({name}) to keep one copy only",
            CopyWarning,
            stacklevel=level_of_caller(),
        )
    return contiguous


def inputs(X: object, features: int, dtype: np.dtype[Any], device: Device = CPU) -> Array:
    """Samples X (n, features) for a network that takes so many features in that dtype."""
    found = array(X, "X", ("n", "d"), dtype, device=device)
    if found.shape[1] != features:
        raise ValueError(
            f"X has {found.shape[1]} columns but the network takes {features} features; pass X of shape (n, {features})"
        )
    return found


def float_dtype(value: Any, name: str = "dtype") -> np.dtype[Any]:
    """'float32' or 'float64', in any of NumPy's spellings, as a NumPy dtype."""
    try:
        spelled = value.strip().lower() if isinstance(value, str) else value
        found: np.dtype[Any] | None = None if value is None else np.dtype(spelled)  # NumPy reads None as float64
    except (TypeError, ValueError, SyntaxError):  # what NumPy says of odd values
        found = None
    if found is None or not _arrays.is_float(found):
        raise ValueError(f"{name} is {_shown(value)} but must be 'float32' or 'float64'")
    return found


def _check_dtype(found: np.dtype[Any], name: str, dtype: np.dtype[Any] | None, owner: str, value: object) -> None:
    if found.kind == "c":
        real = f"{name}.real" if hasattr(value, "real") else f"numpy.real({name})"
        raise TypeError(f"{name} has dtype {found.name} but must be real; pass {real} if that is what you mean")
    cure = f"convert it with {_arrays.conversion(value, name, dtype.name if dtype else 'float64')}"
    if not found.isnative:
        raise TypeError(f"{name} has dtype {found.str}, not in this machine's byte order; {cure}")
    if not _arrays.is_float(found):
        raise TypeError(f"{name} has dtype {found.name} but must be float32 or float64; {cure}")
    if dtype and found != dtype:
        raise TypeError(f"{name} has dtype {found.name} but {owner} has {dtype.name}; {cure}")


def _check_shape(found: tuple[int, ...], name: str, shape: Sequence[str | int], owner: str) -> None:
    wanted = f"({', '.join(map(str, shape))}{',' * (len(shape) == 1)})"
    if len(found) != len(shape):
        hint = f"; pass {name}.reshape(1, -1) if it is one row" if len(found) == 1 and len(shape) == 2 else ""
        raise ValueError(f"{name} has shape {found} but must be {len(shape)}-dimensional, {wanted}{hint}")
    if 0 in found:
        raise ValueError(f"{name} has shape {found}, which is empty; every dimension of {wanted} must be at least 1")
    if any(isinstance(want, int) and want != size for want, size in zip(shape, found, strict=True)):
        raise ValueError(f"{name} has shape {found} but {owner} needs {wanted}")


def level_of_caller() -> int:
    """`stacklevel` of the first frame outside gnfast, counted from the function that calls this one.

    SciPy's frames are passed over as well: `G @ V` goes through its LinearOperator.
    """
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in ("gnfast", "scipy"):
        level, frame = level + 1, frame.f_back
    return level


# ------------------------------------------------------------------------------------------------- numbers and names
def integer(value: Any, name: str, minimum: int = 1, maximum: int | None = None) -> int:
    """An integer, from 1 on unless said otherwise."""
    try:
        found = operator.index(value)
    except TypeError:
        found = None
    limits = f"at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
    if found is None or isinstance(value, bool | np.bool_):
        whole = f"; pass {int(value)}" if isinstance(value, float) and value.is_integer() else ""
        raise TypeError(f"{name} is {_shown(value)} but must be an integer, {limits}{whole}")
    if found < minimum or (maximum is not None and found > maximum):
        raise ValueError(f"{name} is {_shown(found)} but must be {limits}")
    return found


def seed(value: Any) -> int:
    """The 64 bits that random numbers are made from: an integer, or the next one of a generator, which moves on."""
    if isinstance(value, np.random.Generator):
        return int(value.integers(2**64, dtype=np.uint64))
    if isinstance(value, bool | np.bool_) or not hasattr(value, "__index__"):
        raise TypeError(
            f"seed is {_shown(value)} but must be an integer from 0 to 2^64 - 1, or a numpy.random.Generator"
        )
    return integer(value, "seed", 0, 2**64 - 1)


def other_seed(value: int, number: int = 1) -> int:
    """Another seed than a checked one, for a second use of it in one call."""
    return (value + number) % 2**64


def integers(value: Any, name: str, at_least: int, minimum: int = 1) -> list[int]:
    """A sequence of `at_least` or more integers."""
    if isinstance(value, str) or not _is_iterable(value):
        raise TypeError(f"{name} is {_shown(value)} but must be a list of integers, {at_least} or more")
    found = [integer(entry, f"{name}[{i}]", minimum) for i, entry in enumerate(value)]
    if len(found) < at_least:
        got = counted(len(found), "entry", "entries")
        raise ValueError(f"{name} has {got} but needs at least {at_least}, each an integer of {minimum} or more")
    return found


def real(value: Any, name: str) -> float:
    """A finite real number."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        number = f"; pass {_number(value)}" if _number(value) else ""
        raise TypeError(f"{name} is {_shown(value)} but must be a real number{number}")
    try:
        found = float(value)
    except OverflowError:  # of an integer or a fraction
        found = math.inf
    if not math.isfinite(found):
        raise ValueError(f"{name} is {_shown(value)} but must be finite, a real number of float64's range")
    return found


def _number(value: Any) -> str:
    """The number that a string spells or a tensor or an array of one entry holds, for a message; empty for others."""
    try:
        held = value if isinstance(value, str) else value.item()
        return f"{float(held):g}" if math.isfinite(float(held)) and not isinstance(held, bool) else ""
    except (AttributeError, TypeError, ValueError, RuntimeError):
        return ""


def _is_iterable(value: Any) -> bool:
    """Whether it has entries; arrays and tensors of no dimension say that they are iterable and are not."""
    return isinstance(value, Iterable) and getattr(value, "ndim", 1) != 0


def positive(value: Any, name: str) -> float:
    """A positive real number."""
    found = real(value, name)
    if found <= 0:
        raise ValueError(f"{name} is {found:g} but must be positive")
    return found


def at_least_zero(value: Any, name: str) -> float:
    """A real number that is not negative."""
    found = real(value, name)
    if found < 0:
        raise ValueError(f"{name} is {found:g} but must be at least 0")
    return found


def reals(value: Any, name: str, count: int, each: str) -> list[float]:
    """One finite real number for all, or a sequence of `count` of them, one per `each`."""
    if isinstance(value, numbers.Real):
        return [real(value, name)] * count
    if isinstance(value, str | bytes) or not _is_iterable(value):
        raise TypeError(f"{name} is {_shown(value)} but must be a real number or a list with one per {each}")
    found = [real(entry, f"{name}[{i}]") for i, entry in enumerate(value)]
    if len(found) != count:
        got = counted(len(found), "entry", "entries")
        raise ValueError(f"{name} has {got} but needs {count}, one per {each}; pass one number for all")
    return found


def boolean(value: Any, name: str) -> bool:
    """True or False, and nothing that merely counts as one."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} is {_shown(value)} but must be True or False")
    return bool(value)


def choice(value: Any, name: str, allowed: Collection[str]) -> str:
    """One of the allowed names, in any case and with - or a blank for _; a near miss is told what it may have meant."""
    names = {plain(one): one for one in allowed}
    if isinstance(value, str):
        if value in allowed:
            return value
        if plain(value) in names:
            return names[plain(value)]
    # Functions and modules of other libraries have the names of ours: numpy.tanh, torch.nn.LeakyReLU().
    spelled = value if isinstance(value, str) else ""
    if callable(value):
        spelled = getattr(value, "__name__", type(value).__name__)
    tight = {one.replace("_", ""): known for one, known in names.items()}
    near = difflib.get_close_matches(plain(spelled).replace("_", ""), tight, n=1)
    meant = f"; did you mean {tight[near[0]]!r}?" if near else ""
    error = ValueError if isinstance(value, str) else TypeError
    raise error(f"{name} is {_shown(value)} but must be one of {', '.join(map(repr, allowed))}{meant}")


def plain(name: str) -> str:
    """A name as names are compared: in lower case, with _ for - and blanks."""
    return name.strip().lower().replace("-", "_").replace(" ", "_")


class _Shortened(reprlib.Repr):
    """On one line, since a message is one sentence: arrays and modules print themselves on several."""

    def repr(self, x: Any) -> str:
        return " ".join(super().repr(x).split())


_Short = _Shortened()


def counted(number: int, one: str, many: str | None = None) -> str:
    """'1 array', '2 arrays', for messages."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _shown(value: object) -> str:
    return _Short.repr(value)


# ------------------------------------------------------------------------------------------------- files and extras
def path(value: Any, name: str = "path") -> Path:
    """A path from a string or a path object, `~` expanded."""
    if not isinstance(value, str | os.PathLike) or isinstance(os.fspath(value), bytes):
        raise TypeError(f"{name} is {_shown(value)} but must be a string or a pathlib.Path")
    if not os.fspath(value):
        raise ValueError(f"{name} is empty; pass the path of a file")
    return Path(value).expanduser()


def existing_file(value: Any, name: str = "path") -> Path:
    """The path of a file that is there."""
    found = path(value, name)
    if found.is_dir():
        raise IsADirectoryError(f"{name} is the folder {str(found)!r}; pass the path of a file in it")
    if not found.exists():
        near = difflib.get_close_matches(found.name, _siblings(found), n=1, cutoff=0.75)
        meant = f"did you mean {str(found.with_name(near[0]))!r}?" if near else "pass the path of a file that is there"
        raise FileNotFoundError(f"{name} is {str(found)!r}, and there is no such file; {meant}")
    return found


def _siblings(path: Path) -> list[str]:
    """The names of what is in the path's folder; none where that cannot be read."""
    try:
        return [one.name for one in path.parent.iterdir()]
    except OSError:
        return []


def optional_import(module: str, purpose: str, extra: str) -> Any:
    """A module that only an extra installs."""
    package, install = module.partition(".")[0], f"install it with: {_extras.install(extra)}"
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module}.".startswith(f"{error.name}."):
            raise ImportError(f"{purpose} needs {package}; {install}") from None
        raise ImportError(f"{purpose} needs {package}, and that {error.name}, which is missing; {install}") from error
    except (ImportError, RuntimeError) as error:  # the latter of what was built for another PyTorch
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        cure = "install it anew"
        if _raised_within(error, "torchvision"):
            cure = "where PyTorch is CPU-only or of another release than torchvision, pip uninstall torchvision"
        raise ImportError(f"{purpose} needs {package}, which cannot be imported ({reason}); {cure}") from error


def _raised_within(error: BaseException | None, package: str) -> bool:
    """Whether code of the package, or an import from it, is on the way of the error or of one that it came from."""
    while error is not None:
        names = [frame.f_globals.get("__name__") for frame, _ in traceback.walk_tb(error.__traceback__)]
        if any(f"{name}.".startswith(f"{package}.") for name in [*names, getattr(error, "name", None)]):
            return True
        error = error.__cause__ or error.__context__
    return False
