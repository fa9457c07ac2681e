"""Arrays, dtypes and devices: the only module that tells one array library from another.

A `Device` makes arrays and names the module of the core that computes on them. All else is NumPy's functions and the
arrays' own methods: NumPy's protocols hand what concerns a CuPy array to CuPy.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import re
import reprlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from gnfast import _extras

Array = npt.NDArray[Any]  # or CuPy's
DTypeName: TypeAlias = Literal["float32", "float64"]
FLOATS: tuple[str, ...] = get_args(DTypeName)
# Relative spacing of the factors in products of float32 matrices on a GPU: TF32 keeps 10 bits, bfloat16 7.
PRECISIONS = {"highest": float(np.finfo(np.float32).eps), "high": 2.0**-10, "medium": 2.0**-7}
GPU_KINDS = (2, 13)  # of DLPack: memory of a CUDA device, managed memory
_precision = "highest"
_preparations: list[Callable[[Any], None]] = []
_core: Any = None  # the module for the CPU, once the package has prepared it


def prepare_core(core: Any, f: Callable[[Any], None]) -> None:
    """Have `f` called with this module of the core, and with each further one before its first use."""
    global _core
    f(core)
    _core = core
    _preparations.append(f)


class Device(str):
    """The place of arrays and products: "cpu", the machine's memory, or "cuda:0" and so on, a GPU's."""

    library = "numpy"

    def __reduce__(self) -> tuple[Any, ...]:  # each device is one object
        return device, (str(self),)

    @property
    def core(self) -> Any:
        """The compiled module that computes there, at work on the caller's stream."""
        return _core

    def enter(self) -> None:
        """From here on the core works on the caller's stream."""

    def upload(self, array: Array) -> Array:
        """The array in this device's memory and in C order: a copy where it is not both already."""
        return as_c_contiguous(array)

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """An array in C order whose values are still to be written."""
        return np.empty(shape, dtype)

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """A new array of zeros."""
        return np.zeros(shape, dtype)

    def unit_rows(self, first: int, count: int, size: int, dtype: np.dtype[Any]) -> Array:
        """Rows `first` to `first + count` of the identity (size, size)."""
        rows = self.zeros((count, size), dtype)
        rows.reshape(-1)[first :: size + 1] = 1
        return rows

    def as_array(self, value: object, name: str, owner: str) -> Array:
        """`value` as an array without a copy where NumPy can, or a TypeError that names the argument."""
        got = type(value).__name__
        if isinstance(value, np.ma.MaskedArray):
            raise TypeError(f"{name} is a masked array; pass a plain array, for instance {name}.filled(0)")
        if (gpu := _gpu_of(value)) is not None:
            raise TypeError(
                f"{name} is of type {got} on cuda:{gpu} but {owner} takes arrays in the machine's memory; pass "
                f"{name}.cpu() in PyTorch, {name}.get() in CuPy, or make {owner} with device='cuda' where it takes that"
            )
        if hasattr(value, "toarray"):  # SciPy's sparse matrices, which NumPy would take for one object
            raise TypeError(f"{name} is of type {got}, which is sparse; pass {name}.toarray()")
        dlpack_alone = hasattr(value, "__dlpack__") and not hasattr(value, "__array__")
        try:
            array = np.from_dlpack(value) if dlpack_alone else np.asarray(value)  # type: ignore[arg-type]
        except (TypeError, ValueError, RuntimeError, BufferError) as error:  # ragged lists, tensors with a gradient
            reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
            cure = "a NumPy array of numbers"
            if is_tensor(value):  # in a layout or a dtype that NumPy has not
                cure = f"{name}.double()" if value.layout == sys.modules["torch"].strided else f"{name}.to_dense()"  # type: ignore[attr-defined]
            raise TypeError(f"{name} is of type {got}, which NumPy cannot read ({reason}); pass {cure}") from error
        if array.dtype.kind not in "biufc":
            raise TypeError(f"{name} is of type {got} with dtype {array.dtype}; pass {_numbers_of(array, name)}")
        return array

    def owns(self, array: object) -> bool:
        """Whether this is an array of the device's library on the device."""
        return isinstance(array, np.ndarray)

    @property
    def free_memory(self) -> FreeMemory | None:
        """Bytes that are free; None where nobody limits them beforehand."""
        return None


class FreeMemory(float):
    """A limit in bytes that is what a device has free."""

    device: Device


CPU = Device("cpu")


class Gpu(Device):
    """A GPU: CuPy's arrays, and the core's module for CUDA."""

    library = "cupy"

    def __new__(cls, index: int) -> Gpu:
        self = super().__new__(cls, f"cuda:{index}")
        self.number, (self.cupy, self._core) = index, _cuda()
        return self

    number: int
    cupy: Any
    _core: Any

    @property
    def core(self) -> Any:
        """The compiled module for GPUs, once this GPU is known to be current."""
        self.enter()
        return self._core

    def enter(self) -> None:
        """Raise a ValueError if another GPU is CuPy's current one."""
        current = self.cupy.cuda.runtime.getDevice()
        if current != self.number:
            raise ValueError(
                f"the operator is on {self} but CuPy's current device is cuda:{current}; "
                f"call it inside `with cupy.cuda.Device({self.number}):`"
            )
        self._core.set_device(self.number)
        self._core.set_stream(self.cupy.cuda.get_current_stream().ptr)

    def upload(self, array: Array) -> Array:
        """The array in this GPU's memory, in C order; copied only if it is elsewhere."""
        if not isinstance(array, np.ndarray):
            return as_c_contiguous(array)
        self.enter()
        return self.cupy.asarray(np.ascontiguousarray(array))  # type: ignore[no-any-return]

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """A new array of whatever the memory holds."""
        self.enter()
        return self.cupy.empty(shape, dtype)  # type: ignore[no-any-return]

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """A new array of zeros."""
        self.enter()
        return self.cupy.zeros(shape, dtype)  # type: ignore[no-any-return]

    def as_array(self, value: object, name: str, owner: str) -> Array:
        """A CuPy array of the same memory for what lies in this GPU's; anything else is a TypeError."""
        got, gpu = type(value).__name__, _gpu_of(value)
        if gpu is None:
            raise TypeError(
                f"{name} is of type {got} in the machine's memory but {owner} is on {self}; pass cupy.asarray({name})"
            )
        if gpu != self.number:
            raise ValueError(
                f"{name} is on cuda:{gpu} but {owner} is on {self}; copy it inside "
                f"`with cupy.cuda.Device({self.number}):`"
            )
        if self.owns(value):
            return value  # type: ignore[return-value]  # which is CuPy's
        read = self.cupy.from_dlpack if hasattr(value, "__dlpack__") else self.cupy.asarray
        try:
            return read(value)  # type: ignore[no-any-return]
        except (TypeError, ValueError, RuntimeError, BufferError) as error:  # a tensor with a gradient, an odd dtype
            raise TypeError(f"{name} is of type {got}, which CuPy cannot read ({error}); pass a CuPy array") from error

    def owns(self, array: object) -> bool:
        """Whether it is a CuPy array of this GPU."""
        return isinstance(array, self.cupy.ndarray) and array.device.id == self.number

    @property
    def free_memory(self) -> FreeMemory | None:
        """Bytes that are free on this GPU, those in CuPy's pool included."""
        self.enter()
        found = FreeMemory(self._core.memory_info()[0] + self.cupy.get_default_memory_pool().free_bytes())
        found.device = self
        return found


def device(name: object) -> Device:
    """The device of a name: "cpu", "cuda:<number>", or "cuda" for CuPy's current one.

    Raises:
        ValueError: No such device, or this build has no CUDA.
        ImportError: CuPy is not installed.
        RuntimeError: No driver, or no GPU.
    """
    plain = name.strip().lower() if isinstance(name, str) else ""
    if plain == "cpu":
        return CPU
    found = re.fullmatch(r"cuda(?::(\d+))?", plain)
    if found is None:
        torch = sys.modules.get("torch")
        meant = f"; pass {str(name)!r}" if torch is not None and isinstance(name, torch.device) else ""
        raise ValueError(f"device is {reprlib.repr(name)} but must be 'cpu', 'cuda' or 'cuda:<number of a GPU>'{meant}")
    cupy, core = _cuda()
    index = int(found[1]) if found[1] else cupy.cuda.runtime.getDevice()
    if index >= (count := core.device_count()):
        raise ValueError(f"device is {name!r} but the GPUs are numbered from 0 to {count - 1}")
    return _gpu(index)


@functools.cache
def _gpu(index: int) -> Gpu:
    return Gpu(index)


@functools.cache
def _cuda() -> tuple[Any, Any]:
    """CuPy and the core's module for CUDA, which allocates in CuPy's pool and multiplies with CuPy's cuBLAS."""
    try:
        core = importlib.import_module("gnfast._core_cuda")
    except ImportError as error:
        if error.name != "gnfast._core_cuda":
            raise
        raise ValueError(
            "device is 'cuda' but this build of gnfast has no CUDA; build it where nvcc is (GNFAST_CUDA=ON says what "
            "is missing), or pass device='cpu'"
        ) from None
    try:
        cupy = importlib.import_module("cupy")
    except ImportError:
        raise ImportError(f"device='cuda' needs cupy; install it with: {_extras.install('cuda')}") from None
    try:
        count = core.device_count()
    except RuntimeError as error:
        raise RuntimeError(f"device is 'cuda' but CUDA does not start ({error}); pass device='cpu'") from error
    if count == 0:
        raise RuntimeError("device is 'cuda' but there is no GPU, or no NVIDIA driver; pass device='cpu'")
    for prepare in _preparations:
        prepare(core)
    held: dict[int, Any] = {}  # by address

    def allocate(size: int) -> int:
        memory = cupy.cuda.alloc(max(size, 1))  # an address of its own for nothing, too
        held[memory.ptr] = memory
        return int(memory.ptr)

    core.set_allocator(allocate, held.pop)
    core.set_array_factory(lambda shape, dtype: cupy.empty(shape, dtype))
    cupy.cuda.device.get_cublas_handle()  # CuPy loads its cuBLAS here
    try:
        core.set_cublas(None)
    except RuntimeError:
        if (path := _packaged_cublas()) is None:
            raise
        core.set_cublas(path)
    core.set_precision(_precision)
    return cupy, core


def _packaged_cublas() -> str | None:
    """The library in the package nvidia-cublas, where that is installed."""
    if importlib.util.find_spec("nvidia") is None:
        return None
    folders = [Path(folder) for folder in importlib.import_module("nvidia").__path__]
    return next((str(path) for folder in folders for path in sorted(folder.glob("cu*/lib/libcublas.so.*"))), None)


def _gpu_of(value: object) -> int | None:
    """The number of the GPU in whose memory `value` is, or None for anything else."""
    if isinstance(value, np.ndarray):
        return None
    if hasattr(value, "__dlpack_device__"):
        kind, index = value.__dlpack_device__()
        return int(index) if kind in GPU_KINDS else None
    if hasattr(value, "__cuda_array_interface__"):  # which does not tell; CuPy asks CUDA
        return int(_cuda()[0].asarray(value).device.id)
    return None


def is_on_gpu(value: object) -> bool:
    """Whether this is an array, of any library, in the memory of a GPU."""
    return _gpu_of(value) is not None


def device_of(value: object) -> Device:
    """The device in whose memory `value` is: an array of any library; the CPU for what is no array."""
    gpu = _gpu_of(value)
    return CPU if gpu is None else _gpu(gpu)


def as_array(value: object, name: str, device: Device = CPU, owner: str = "what it is passed to") -> Array:
    """`value` as an array of `device` without a copy where its library can, or an error that names the argument.

    Raises:
        TypeError: No array of numbers, one in the other kind of memory, or a tensor that records a gradient.
        ValueError: On another GPU.
    """
    return device.as_array(plain_tensor(value, name), name, owner)


def _numbers_of(array: Array, name: str) -> str:
    """Advice of what to pass in place of an array of anything else."""
    if array.dtype.names is not None:
        return f"numpy.lib.recfunctions.structured_to_unstructured({name})"
    entries = array.dtype == object and array.ndim > 0
    return f"numpy.asarray({name}, dtype='float64')" if entries else "a NumPy array of numbers"


def conversion(value: object, name: str, dtype: object) -> str:
    """How `value`, of whatever library, is converted to `dtype`, in the user's words."""
    if is_tensor(value):
        return f"{name}.to(torch.{dtype})"
    return f"{name}.astype('{dtype}')" if hasattr(value, "astype") else f"numpy.asarray({name}, '{dtype}')"


def is_tensor(value: object) -> bool:
    """Whether this is a tensor of PyTorch."""
    torch = sys.modules.get("torch")  # who has a tensor has imported it
    return torch is not None and isinstance(value, torch.Tensor)


def is_module(value: object) -> bool:
    """Whether this is a module of PyTorch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)


def like(found: Array, given: object) -> Any:
    """`found`, as a tensor of the same memory where `given` is a tensor."""
    return sys.modules["torch"].from_dlpack(found) if is_tensor(given) else found


def plain_tensor(value: Any, name: str) -> Any:
    """A tensor without a gradient whose memory holds its values: not negated or conjugated when they are read."""
    found = without_gradient(value, name)
    return found.resolve_conj().resolve_neg() if is_tensor(found) else found


def without_gradient(value: Any, name: str) -> Any:
    """A tensor that requires a gradient is taken where PyTorch records none: nothing here would carry it on."""
    if not is_tensor(value) or not value.requires_grad:
        return value
    if sys.modules["torch"].is_grad_enabled():
        raise TypeError(
            f"{name} requires a gradient, which gnfast does not carry on; pass {name}.detach(), or call it inside "
            "`with torch.no_grad():`"
        )
    return value.detach()


def to_host(value: Any) -> Any:
    """An array on a GPU copied to the machine's memory, once what it waits for is done; anything else as it is."""
    home = device_of(value)
    return value if home is CPU else home.as_array(value, "the array", "it").get()  # type: ignore[attr-defined]


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether the core computes in `dtype`: float32 or float64, in the machine's own byte order."""
    return dtype.isnative and dtype.name in FLOATS


def as_c_contiguous(array: Array) -> Array:
    """The array itself where it is aligned and in C order, else a copy."""
    if isinstance(array, np.ndarray):
        return np.require(array, requirements=("C", "A"))
    return array if array.flags.c_contiguous else array.copy(order="C")


def as_f_contiguous(array: Array) -> Array:
    """The matrix itself where its columns are contiguous, else a copy."""
    return as_c_contiguous(array.T).T


def is_writeable(array: Array) -> bool:
    """Whether the array may be written to; CuPy's always may."""
    return bool(getattr(array.flags, "writeable", True))


def read_only(array: Array) -> Array:
    """A view that cannot be written through, of NumPy's arrays, which know such views; no copy."""
    if not isinstance(array, np.ndarray):
        return array
    view = array.view(np.ndarray)
    view.flags.writeable = False
    return view


def mirror_lower(K: Array) -> None:
    """Copy the lower triangle onto the upper one, by blocks."""
    block = 512
    for i in range(0, len(K), block):
        rows = slice(i, i + block)
        corner = K[rows, rows]
        corner[:] = np.tril(corner) + np.tril(corner, -1).T
        K[rows, i + block :] = K[i + block :, rows].T


# ------------------------------------------------------------------------------------------------------- precision
def set_precision(name: str) -> None:
    """How products of float32 matrices are made on GPUs, one of PRECISIONS."""
    global _precision
    _precision = name
    if _cuda.cache_info().currsize:
        _cuda()[1].set_precision(name)


def get_precision() -> str:
    """The name of the precision of products in float32 on GPUs."""
    return _precision


def eps(dtype: np.dtype[Any]) -> float:
    """Relative rounding of what products in `dtype` are made of: no result is known better, whatever computes it."""
    return PRECISIONS[_precision] if dtype == np.float32 else float(np.finfo(dtype).eps)


# By so many powers of two an operator is enlarged whose products underflow: probabilities down to their square then
# have digits, since their roots do, and sums of what they multiply do not overflow.
ENLARGEMENT = {"float32": 120, "float64": 1000}


def vanishing(dtype: np.dtype[Any]) -> float:
    """Operators smaller than that have entries that count and underflow."""
    return float(np.finfo(dtype).tiny / np.finfo(dtype).eps ** 2)
