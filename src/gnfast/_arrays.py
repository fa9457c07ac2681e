"""Arrays, dtypes and devices: the only module that tells one array library from another."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
FLOATS = ("float32", "float64")


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether the core computes in `dtype`: float32 or float64, in the machine's own byte order."""
    return dtype.isnative and dtype.name in FLOATS


def as_array(value: object, name: str) -> Array:
    """`value` as an array without a copy where NumPy can, or a TypeError that names the argument."""
    got = type(value).__name__
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array; pass a plain array, for instance {name}.filled(0)")
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists, tensors on a GPU or with a gradient
        raise TypeError(f"{name} is of type {got}, which NumPy cannot read ({error}); pass a NumPy array") from error
    if array.dtype.kind not in "biufc":
        raise TypeError(f"{name} is of type {got} with dtype {array.dtype}; pass a NumPy array of numbers")
    return array


def as_c_contiguous(array: Array) -> Array:
    """The array itself where it is aligned and in C order, else a copy."""
    return np.require(array, requirements=("C", "A"))


def read_only(array: Array) -> Array:
    """A view that cannot be written through; no copy."""
    view = array.view(np.ndarray)
    view.flags.writeable = False
    return view


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """An array in C order whose values are still to be written."""
    return np.empty(shape, dtype)


def check_device(device: object) -> str:
    """The name of a device that this build has."""
    if device == "cpu":
        return "cpu"
    if isinstance(device, str) and device.split(":")[0] in ("cuda", "gpu"):
        raise ValueError(f"device is {device!r} but this build of gnfast has no CUDA; pass device='cpu'")
    raise ValueError(f"device is {device!r}; pass device='cpu', the only device of this build")


def mirror_lower(K: Array) -> None:
    """Copy the lower triangle onto the upper one, by blocks."""
    block = 512
    for i in range(0, len(K), block):
        rows = slice(i, i + block)
        corner = K[rows, rows]
        corner[:] = np.tril(corner) + np.tril(corner, -1).T
        K[rows, i + block :] = K[i + block :, rows].T
