"""The few functions of CuPy that gnfast and its tests use, on the emulated GPU: `install` makes them `import cupy`.

Nobody but a copy reads the memory of the emulated device, as on a real one. Each function here copies what it needs to
the host, has NumPy compute and copies the result back. What CuPy refuses is refused: being read by NumPy, NumPy's
arrays as operands, and functions of NumPy that CuPy does not have.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import itertools
import sys
import types
import weakref
from typing import ClassVar

import numpy as np

TO_DEVICE, TO_HOST = 1, 2  # cudaMemcpyKind
# NumPy's functions that gnfast calls with arrays of either library, all of which CuPy has
FUNCTIONS = {"argwhere", "copyto", "diagonal", "einsum", "hstack", "may_share_memory", "take", "tril", "linalg.norm"}
LIKE = {"empty_like": None, "zeros_like": 0, "ones_like": 1, "full_like": "given"}
SCALARS = (bool, int, float, np.generic)


class Runtime:
    """The emulated CUDA runtime, as the module that is linked with it has it."""

    def __init__(self, core):
        self._library = ctypes.CDLL(core.__file__)

    def device(self):
        found = ctypes.c_int()
        self.call("cudaGetDevice", ctypes.byref(found))
        return found.value

    def call(self, name, *arguments):
        status = getattr(self._library, name)(*arguments)
        if status != 0:
            raise RuntimeError(f"{name} of the emulated runtime gave the error {status}")

    def copy(self, to, source, count, kind):
        if count:
            self.call(
                "cudaMemcpy", ctypes.c_void_p(to), ctypes.c_void_p(source), ctypes.c_size_t(count), ctypes.c_int(kind)
            )


class Memory:
    """Device memory that is freed with this object: what `cupy.cuda.alloc` gives."""

    def __init__(self, size):
        pointer = ctypes.c_void_p()
        runtime.call("cudaMalloc", ctypes.byref(pointer), ctypes.c_size_t(max(size, 1)))
        self.ptr, self.device = pointer.value, runtime.device()
        weakref.finalize(self, runtime.call, "cudaFree", pointer).atexit = False


class ndarray(np.lib.mixins.NDArrayOperatorsMixin):  # noqa: N801
    """An array of the device. `_header` is NumPy's view of its memory, for shapes and strides: reading it crashes."""

    __module__ = "cupy"

    def __init__(self, header, memory):
        self._header, self._memory = header, memory

    @classmethod
    def new(cls, shape, dtype, order="C"):
        dtype = np.dtype(dtype)
        count = int(np.prod(shape, dtype=int))
        memory = Memory(count * dtype.itemsize)
        return cls(header(memory.ptr, shape, dtype, order=order), memory)

    @classmethod
    def of(cls, host):
        """A copy of a NumPy array, in its order."""
        host = np.asarray(host)
        order = "F" if host.flags.f_contiguous and not host.flags.c_contiguous else "C"
        made = cls.new(host.shape, host.dtype, order)
        host = np.require(host, requirements=order)
        runtime.copy(made._address, host.ctypes.data, host.nbytes, TO_DEVICE)
        return made

    # ------------------------------------------------------------------------------------------ shapes, without values
    shape = property(lambda self: self._header.shape)
    dtype = property(lambda self: self._header.dtype)
    ndim = property(lambda self: self._header.ndim)
    size = property(lambda self: self._header.size)
    nbytes = property(lambda self: self._header.nbytes)
    itemsize = property(lambda self: self._header.itemsize)
    strides = property(lambda self: self._header.strides)
    T = property(lambda self: self._view(self._header.T))
    device = property(lambda self: types.SimpleNamespace(id=self._memory.device))
    _address = property(lambda self: self._header.ctypes.data)

    @property
    def flags(self):
        flags = self._header.flags
        return types.SimpleNamespace(c_contiguous=flags.c_contiguous, f_contiguous=flags.f_contiguous)

    def _view(self, header):
        return ndarray(header, self._memory)

    def view(self, dtype):
        return self._view(self._header.view(dtype))

    def reshape(self, *shape):
        shape = shape[0] if len(shape) == 1 and isinstance(shape[0], tuple) else shape
        try:
            return self._view(np.reshape(self._header, shape, copy=False))
        except ValueError:
            return ndarray.of(self.get().reshape(shape))

    def diagonal(self):
        return self._view(self._header.diagonal())

    def __len__(self):
        return len(self._header)

    def __getitem__(self, key):
        keys = key if isinstance(key, tuple) else (key,)
        if any(isinstance(part, list | np.ndarray | ndarray) for part in keys):
            return ndarray.of(self.get()[tuple(map(to_host, keys))])
        return self._view(self._header[(*keys, ...) if Ellipsis not in keys else keys])  # never a number

    # ---------------------------------------------------------------------------------------------------------- values
    def _span(self):
        """(first byte, bytes) of the memory between its first and last value."""
        low, high = np.lib.array_utils.byte_bounds(self._header)
        return low, high - low

    def _copied(self):
        """A NumPy array of the same strides on a copy of the span, and that copy."""
        low, count = self._span()
        buffer = ctypes.create_string_buffer(max(count, 1))
        runtime.copy(ctypes.addressof(buffer), low, count, TO_HOST)
        host = np.ndarray(self.shape, self.dtype, buffer, self._address - low, self.strides)
        return host, buffer

    def get(self):
        return self._copied()[0].copy(order="C")

    def _write(self, key, value):
        host, buffer = self._copied()
        host[key] = value
        low, count = self._span()
        runtime.copy(low, ctypes.addressof(buffer), count, TO_DEVICE)

    def __setitem__(self, key, value):
        refuse_numpy(value)
        self._write(tuple(map(to_host, key)) if isinstance(key, tuple) else to_host(key), to_host(value))

    def astype(self, dtype, copy=True):
        return self if not copy and np.dtype(dtype) == self.dtype else ndarray.of(self._copied()[0].astype(dtype))

    def copy(self, order="C"):
        return ndarray.of(self._copied()[0].copy(order))

    def _reduced(self, name, **options):
        return ndarray.of(getattr(self.get(), name)(**options))

    sum = functools.partialmethod(_reduced, "sum")
    max = functools.partialmethod(_reduced, "max")
    min = functools.partialmethod(_reduced, "min")
    all = functools.partialmethod(_reduced, "all")
    any = functools.partialmethod(_reduced, "any")

    def __bool__(self):
        return bool(self.get())

    def __float__(self):
        return float(self.get())

    def __int__(self):
        return int(self.get())

    def __array__(self, *_, **__):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    @property
    def __cuda_array_interface__(self):
        contiguous = self._header.flags.c_contiguous
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self._address, False),
            "strides": None if contiguous else self.strides,
            "version": 3,
            "stream": cuda.get_current_stream().ptr or 1,
        }

    def __dlpack_device__(self):
        return 2, self._memory.device

    # ------------------------------------------------------------------------------------------------ NumPy's protocols
    def __array_ufunc__(self, ufunc, method, *inputs, out=(None,), **options):
        if method != "__call__" or len(out) != 1:
            return NotImplemented
        refuse_numpy(*inputs, *out)
        found = ufunc(*map(to_host, inputs), **options)
        if out[0] is None:
            return ndarray.of(found)
        out[0]._write(..., found)
        return out[0]

    def __array_function__(self, function, types, arguments, options):
        name = ".".join([*function.__module__.split(".")[1:], function.__name__])
        if name in LIKE:
            return like(name, *arguments, **options)
        if name not in FUNCTIONS:
            return NotImplemented
        refuse_numpy(*(part for part in arguments if name != "take"))
        if name == "may_share_memory":
            return np.may_share_memory(*(part._header for part in arguments))
        if name == "copyto":
            return arguments[0]._write(..., to_host(arguments[1]))
        target = options.pop("out", None)
        found = function(*map(to_host, arguments), **options)
        if target is None:
            return ndarray.of(found)
        target._write(..., found)
        return target


def header(pointer, shape, dtype, strides=None, order="C"):
    count = int(np.prod(shape, dtype=int)) * np.dtype(dtype).itemsize
    buffer = (ctypes.c_char * max(count, 1)).from_address(pointer)
    return np.ndarray(shape, dtype, buffer, 0, strides, order)


def like(name, prototype, fill=None, dtype=None, shape=None):
    value = fill if LIKE[name] == "given" else LIKE[name]
    order = "F" if shape is None and prototype.flags.f_contiguous and not prototype.flags.c_contiguous else "C"
    made = ndarray.new(prototype.shape if shape is None else shape, dtype or prototype.dtype, order)
    if value is not None:
        made._write(..., value)
    return made


def to_host(value):
    if isinstance(value, list | tuple):
        return type(value)(map(to_host, value))
    return value.get() if isinstance(value, ndarray) else value


def refuse_numpy(*values):
    if any(isinstance(value, np.ndarray) for value in values):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")


# -------------------------------------------------------------------------------------------- functions of the module
def asarray(value):
    """NumPy's arrays are copied; what has __cuda_array_interface__ is referred to."""
    if isinstance(value, ndarray):
        return value
    if hasattr(value, "__cuda_array_interface__"):
        found, memory = value.__cuda_array_interface__, types.SimpleNamespace(owner=value, device=runtime.device())
        return ndarray(header(found["data"][0], found["shape"], found["typestr"], found.get("strides")), memory)
    return ndarray.of(value)


def empty(shape, dtype=float, order="C"):
    return ndarray.new(shape, dtype, order)


def zeros(shape, dtype=float):
    return ndarray.of(np.zeros(shape, dtype))


def asfortranarray(value):
    return value.copy(order="F")


class Stream:
    """A stream by its number: the emulated device works on one thing at a time anyway."""

    current = None
    numbers = itertools.count()

    def __init__(self):
        self.ptr = next(Stream.numbers)

    def synchronize(self):
        pass

    def __enter__(self):
        self._before, Stream.current = Stream.current, self
        return self

    def __exit__(self, *_):
        Stream.current = self._before


class Device:
    """A GPU as the current one."""

    def __init__(self, index):
        self._index = index

    def __enter__(self):
        self._before = runtime.device()
        runtime.call("cudaSetDevice", self._index)

    def __exit__(self, *_):
        runtime.call("cudaSetDevice", self._before)


runtime: Runtime
Stream.current = Stream()
cuda = types.SimpleNamespace(
    alloc=Memory,
    Device=Device,
    Stream=Stream,
    get_current_stream=lambda: Stream.current,
    runtime=types.SimpleNamespace(getDevice=lambda: runtime.device()),
    device=types.SimpleNamespace(get_cublas_handle=lambda: 0),
)


class Communicator:
    """One of NCCL's: calls between groupStart and groupEnd happen at the latter."""

    waiting: ClassVar[list] = []
    types: ClassVar[dict] = {7: np.float32, 8: np.float64}

    @staticmethod
    def initAll(devices):
        return [Communicator() for _ in devices]

    def bcast(self, buffer, count, kind, root, stream):
        Communicator.waiting.append((False, buffer, buffer, count, kind, root))

    def reduce(self, source, to, count, kind, operation, root, stream):
        Communicator.waiting.append((True, source, to, count, kind, root))

    @staticmethod
    def finish():
        calls, Communicator.waiting = Communicator.waiting, []
        add, _, _, count, kind, root = calls[0]
        found = [np.empty(count, Communicator.types[kind]) for _ in calls]
        for host, call in zip(found, calls, strict=True):
            runtime.copy(host.ctypes.data, call[1], host.nbytes, TO_HOST)
        result = sum(found) if add else found[root]
        for rank, call in enumerate(calls):
            if not add or rank == root:
                runtime.copy(call[2], result.ctypes.data, result.nbytes, TO_DEVICE)


cuda.nccl = types.SimpleNamespace(
    available=True,
    NcclCommunicator=Communicator,
    NCCL_FLOAT32=7,
    NCCL_FLOAT64=8,
    NCCL_SUM=0,
    groupStart=lambda: None,
    groupEnd=Communicator.finish,
)


def get_default_memory_pool():
    return types.SimpleNamespace(free_bytes=lambda: 0)


def install(path):
    """From here on `import cupy` is this module and gnfast's module for CUDA the emulated one, a file or in a folder.

    Raises:
        FileNotFoundError: There is none.
    """
    global runtime
    name = "_core_cuda_emulated"
    found = [path] if path.is_file() else sorted(path.rglob(f"{name}*.so"), key=lambda file: file.stat().st_mtime)
    if not found:
        raise FileNotFoundError(f"there is no {name} in {path}; build it with GNFAST_CUDA_EMULATION=ON")
    spec = importlib.util.spec_from_file_location(name, found[-1])
    core = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(core)
    runtime = Runtime(core)
    sys.modules["cupy"], sys.modules["gnfast._core_cuda"] = sys.modules[__name__], core
