"""Checksums of the memory of tensors and arrays, wherever it is."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import torch

from gnfast import _core

Tensor: TypeAlias = Any  # torch.Tensor, which a type checker sees only where PyTorch is installed
Bytes: TypeAlias = "np.ndarray[Any, np.dtype[np.uint8]]"
WORDS = 1 << 22  # of a tensor on a GPU that are summed at once


def bytes_of(thing: Any) -> Bytes | None:
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


def sum_elsewhere(thing: Any) -> int:
    """The checksum of what `bytes_of` does not take, of a copy; 0 where there is nothing to read."""
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
