"""Bytes: for people, of this machine, and against a limit."""

from __future__ import annotations

import os

from gnfast._arrays import FreeMemory


def megabytes(size: float) -> str:
    """A number of bytes for people, with two digits at least."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= 0.99995 * unit:
            return f"{size / unit:.1f} {name}"
    return f"{size:.0f} B"


def machine_bytes() -> float | None:
    """Bytes of this machine's memory, None where the system does not tell."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):
        return None


def check_memory(needed: float, limit: float | None, what: str, instead: str) -> None:
    """Refuse what needs more bytes than `limit`, before anything is allocated."""
    if limit is None or needed <= limit:
        return
    if isinstance(limit, FreeMemory):
        raise MemoryError(f"{what} needs {megabytes(needed)} but {limit.device} has {megabytes(limit)} free; {instead}")
    raise MemoryError(
        f"{what} needs {megabytes(needed)} but memory_limit is {megabytes(limit)}; raise memory_limit or {instead}"
    )
