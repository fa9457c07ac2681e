"""Devices that work together: what one has goes to all, what all have is added up on the first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from gnfast._arrays import Array, Device, Gpu

T = TypeVar("T")


class Group:
    """Devices that make one thing together, each a part: here CPUs, which have one memory; of GPUs see `_GpuGroup`."""

    def __init__(self, devices: Sequence[Device]) -> None:
        self.devices = tuple(devices)

    def spread(self, array: Array) -> list[Array]:
        """The array of the first device on each."""
        return [array] * len(self.devices)

    def run(self, calls: Sequence[Callable[[], T]]) -> list[T]:
        """The results of one call a device, made there, at the same time where they are GPUs."""
        return [call() for call in calls]

    def total(self, parts: Sequence[Array], out: Array) -> None:
        """out, on the first device, <- the sum of one part a device."""
        np.copyto(out, parts[0])
        for part in parts[1:]:
            out += part


class _GpuGroup(Group):
    """GPUs, which NCCL lets talk to each other, each on the stream that is CuPy's current one there."""

    def __init__(self, devices: Sequence[Gpu]) -> None:
        super().__init__(devices)
        self._cupy = devices[0].cupy
        self._nccl = self._cupy.cuda.nccl
        if not self._nccl.available:
            raise ImportError(
                "several GPUs need NCCL, which this CuPy does not find; install it with: pip install nvidia-nccl-cu13"
            )
        self._indices = [device.number for device in devices]
        self._members = self._nccl.NcclCommunicator.initAll(self._indices)
        self._threads = ThreadPoolExecutor(len(devices))  # products wait for their device, each in its own

    def spread(self, array: Array) -> list[Array]:
        copies = [array, *self._each(lambda *_: self._cupy.empty(array.shape, array.dtype))[1:]]

        def receive(rank: int, stream: int) -> None:
            self._members[rank].bcast(_address(copies[rank]), *self._kind(array), 0, stream)

        self._together(receive)
        return copies

    def run(self, calls: Sequence[Callable[[], T]]) -> list[T]:
        def there(index: int, stream: Any, call: Callable[[], T]) -> T:
            with self._cupy.cuda.Device(index), stream:
                return call()

        streams = self._each(lambda *_: self._cupy.cuda.get_current_stream())  # the caller's, not the thread's
        return list(self._threads.map(there, self._indices, streams, calls))

    def total(self, parts: Sequence[Array], out: Array) -> None:
        def reduce(rank: int, stream: int) -> None:
            to = out if rank == 0 else parts[rank]
            self._members[rank].reduce(
                _address(parts[rank]), _address(to), *self._kind(out), self._nccl.NCCL_SUM, 0, stream
            )

        self._together(reduce)

    def _kind(self, array: Array) -> tuple[int, int]:
        return array.size, self._nccl.NCCL_FLOAT32 if array.dtype == np.float32 else self._nccl.NCCL_FLOAT64

    def _together(self, f: Callable[[int, int], object]) -> None:
        self._nccl.groupStart()
        self._each(f)
        self._nccl.groupEnd()

    def _each(self, f: Callable[[int, int], Any]) -> list[Any]:
        """f(rank, stream) with each device as the current one."""
        found = []
        for rank, index in enumerate(self._indices):
            with self._cupy.cuda.Device(index):
                found.append(f(rank, self._cupy.cuda.get_current_stream().ptr))
        return found


def _address(array: Any) -> int:
    return int(array.__cuda_array_interface__["data"][0])


def group(devices: Sequence[Device]) -> Group:
    """Devices that work together: GPUs, each once, or CPUs.

    Raises:
        ValueError: Both kinds, or a GPU twice.
        ImportError: CuPy has no NCCL.
    """
    gpus = [device for device in devices if isinstance(device, Gpu)]
    if not gpus:
        return Group(devices)
    if len(gpus) < len(devices) or len(set(gpus)) < len(gpus):
        raise ValueError(f"devices is {list(map(str, devices))} but must name GPUs only, each once, or 'cpu' only")
    return _GpuGroup(gpus)
