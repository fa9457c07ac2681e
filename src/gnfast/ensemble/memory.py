"""The memory of a draw of `NetworkLaw`: matrices of csrc/algo/ensemble.hpp, and sums and tiles of each thread."""

from __future__ import annotations

from collections.abc import Sequence

from gnfast._memory import check_memory, machine_bytes, megabytes

REPORT = 2**15  # neurons that are summed up between two reports
TILE, LEAST, MOST = 96 * 1024, 128, 512  # numbers in a thread's tile, and its neurons: csrc/cpu/tiles.hpp
GPU_TILE = 2.0**30  # bytes of a GPU's tile: csrc/cuda/tiles.hpp


def draw_bytes(
    shapes: Sequence[tuple[int, int]], skips: Sequence[float], n: int, rows: int, threads: int
) -> tuple[float, float]:
    """Bytes that a draw takes at its height: in the machine's memory, and on a GPU if it is there that tiles are drawn.

    Args:
        shapes, skips: The shapes (out, in) and skips of W_1 ... W_L.
        n, rows: Samples, and rows of the loss for each.
        threads: How many threads have sums of their own; one on a GPU.
    """
    N, layers = n * rows, range(len(shapes) - 1)
    widths = [out for out, _ in shapes]
    ranks = [min(n, into) for _, into in shapes]
    # Directions of the derivatives one layer above.
    fresh = [min(N, width) for width in widths[1:-1]] + widths[-1:]
    numbers = [ranks[i] + fresh[i] + 2 * n + N for i in layers]
    # X X^T, K, B B^T; Grams, frames, mixes, whitenings of orthogonal weights; N A, what lies behind neurons.
    kept = n**2 + 2 * N**2 + sum(n**2 + 2 * n * r + r**2 for r in ranks)
    kept += sum(fresh[i] * n + N * (n + fresh[i]) for i in layers)
    passing = on_gpu = 0.0
    for i in layers:
        low, high = i, i
        while low > 0 and skips[low]:
            low -= 1
        while high + 1 < len(layers) and skips[high + 1]:
            high += 1
        neuron = sum(numbers[low : high + 1])
        sums = max(N * (N + (ranks[i] if i else 0)), n * (n + fresh[i]))
        tile = min(max(TILE // neuron // 64 * 64, LEAST), MOST, widths[i])
        slots = min(threads, -(-min(widths[i], REPORT) // tile))
        behind = N * (fresh[i] + n) + fresh[i] * ranks[i]
        passing = max(passing, sums + slots * (sums + neuron * tile) + behind)
        many = max(GPU_TILE / 8, neuron * LEAST)
        on_gpu = max(on_gpu, sums + N * (fresh[i] + n) + min(many, neuron * min(widths[i], REPORT)))
    return 8.0 * (kept + passing), 8.0 * on_gpu


def check_draw(needed: float, limit: float | None, size: int) -> None:
    """Refuse a draw that needs more bytes than a limit, or than the machine has, before anything is allocated.

    Args:
        needed: Bytes.
        limit: Bytes; None for the machine's alone.
        size: The number of rows of K.
    """
    what = f"a draw of K, {size:,} x {size:,},"
    instead = "pass fewer samples, or take fewer threads (gn.set_num_threads)"
    check_memory(needed, limit, what, instead)
    machine = machine_bytes()
    if machine is not None and needed > machine:
        raise MemoryError(f"{what} needs {megabytes(needed)} but this machine has {megabytes(machine)}; {instead}")
