"""Forming the Gram matrix K = J J^T / n: how near to the machine's ceiling, and in how much memory?

python benchmarks/gram.py            nk = 5,000 and 10,000, three to four minutes
python benchmarks/gram.py --quick    tiny sizes, to see that it runs

Only the lower triangle is worth computing, so the flops counted are half of the full product's; ``form`` stops there,
``to_dense`` copies it onto the upper one. Memory is what the operating system says of a fresh process, in units of the
matrix itself: 1 is the least possible, a second array of that size would show as 2. The peer is the same formula in
NumPy with full products, as one would write it in five lines; at nk = 10,000 it and ``to_dense`` run once each.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import harness
import numpy as np

import gnfast as gn

CASES = [
    (500, [64, 1024, 10], "float64"),
    (1000, [64, 1024, 10], "float64"),
    (1000, [64, 1024, 10], "float32"),
    (1000, [64, 4096, 10], "float64"),
    (500, [64, 1024, 1024, 10], "float64"),
    (1000, [64, 1024, 1024, 10], "float64"),
    (1000, [64, 1024, 1024, 10], "float32"),
]
REPEATED = 5_000  # of larger matrices the whole ones are made once each, and only the lower triangle by turns with GEMM
QUICK = [(20, [64, 48, 10], "float64"), (20, [64, 48, 32, 10], "float32")]


def build(n: int, widths: list[int], dtype: str) -> tuple[gn.Network, np.ndarray]:
    X, _ = gn.datasets.digits()
    return gn.mlp(widths, "relu", seed=0, dtype=dtype), np.ascontiguousarray(X[:n], dtype=dtype)


def flops(n: int, widths: list[int]) -> float:
    """Lower triangles of the two Grams of every layer, and the rows B_l = (B_{l+1} W_{l+1}) * phi' that they need.

    The last layer's rows are the identity and the one below takes its rows from the weights: no products there.
    """
    rows, hidden = n * widths[-1], widths[1:-1]
    triangles = n**2 * sum(widths[:-1]) + rows**2 * sum(hidden)
    return triangles + 2.0 * rows * sum(a * b for a, b in pairwise(hidden))


def by_gnfast(net: gn.Network, X: np.ndarray) -> np.ndarray:
    return gn.GaussNewton(net, X).gram().to_dense()


def form_lower(net: gn.Network, X: np.ndarray, out: np.ndarray) -> None:
    gn.GaussNewton(net, X).gram().form(out)


def by_numpy(net: gn.Network, X: np.ndarray) -> np.ndarray:
    inputs, derivatives = net.linearize(X)
    n, k = len(X), net.out_features
    back, K = np.broadcast_to(np.eye(k, dtype=X.dtype), (n, k, k)), 0.0
    for layer, A, slope in zip(net.dense[::-1], inputs[::-1], derivatives[::-1], strict=True):
        if slope is not None:
            back = back * slope[:, None, :]
        rows = back.reshape(n * k, -1)
        K = K + (rows @ rows.T).reshape(n, k, n, k) * (A @ A.T)[:, None, :, None]
        back = (rows @ layer.weight).reshape(n, k, -1)
    return K.reshape(n * k, n * k) / n


WAYS: dict[str, Callable[..., np.ndarray]] = {"gnfast": by_gnfast, "numpy": by_numpy}


def memory(way: str, n: int, widths: list[int], dtype: str) -> dict[str, Any]:
    net, X = build(n, widths, dtype)
    start = harness.peak_memory()
    return {"before_mib": start, "matrix_mib": WAYS[way](net, X).nbytes / harness.MIB}


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Of two large matrices, relative to the largest entry, without a third one."""
    rows = [slice(i, i + 256) for i in range(0, len(ours), 256)]
    return float(max(np.abs(ours[r] - theirs[r]).max() for r in rows) / max(np.abs(theirs[r]).max() for r in rows))


def measure(n: int, widths: list[int], dtype: str, args: Any) -> dict[str, Any]:
    net, X = build(n, widths, dtype)
    once = {name: harness.stopwatch(partial(way, net, X)) for name, way in WAYS.items()}
    error = difference(*(matrix for matrix, _ in once.values()))
    if not error < 1e4 * np.finfo(dtype).eps:  # sums of some thousands of terms
        raise SystemExit(f"gnfast and NumPy disagree by {error:.1e}: these matrices are not the same")
    seconds = {name: spent for name, (_, spent) in once.items()}
    del once
    lower = np.empty((n * widths[-1],) * 2, dtype)
    contenders: dict[str, Callable[[], object]] = {"lower": partial(form_lower, net, X, lower)}
    contenders["gemm"], ceiling_flops = harness.gemm(dtype, 512 if args.quick else 3072)
    if len(lower) <= REPEATED:
        contenders |= {name: partial(way, net, X) for name, way in WAYS.items()}
    seconds |= {
        name: timing.median for name, timing in harness.alternate(contenders, runs=args.runs, seconds=0).items()
    }
    rate, ceiling = flops(n, widths) / seconds["lower"], ceiling_flops / seconds["gemm"]
    row: dict[str, Any] = {"n": n, "widths": widths, "dtype": dtype, "seconds": seconds}
    row |= {"gflops": rate / 1e9, "ceiling_gflops": ceiling / 1e9, "share": rate / ceiling}
    for way in WAYS:
        found = harness.in_subprocess(__file__, "memory", way=way, n=n, widths=widths, dtype=dtype)
        row[f"{way}_memory"] = found
        row[f"{way}_matrices"] = (found["peak_mib"] - found["before_mib"]) / found["matrix_mib"]
    return row


def table(rows: list[dict[str, Any]]) -> str:
    header = [
        "",
        "nk",
        "lower triangle, s",
        "GF/s",
        "share of ceiling",
        "both, s",
        "NumPy / gnfast",
        "memory / K",
        "NumPy's memory / K",
    ]
    lines = []
    for row in rows:
        seconds = row["seconds"]
        line = [f"{'-'.join(map(str, row['widths']))}, {row['dtype']}", f"{row['n'] * row['widths'][-1]:,}"]
        line += [harness.digits(seconds["lower"]), f"{row['gflops']:.0f}", f"**{row['share']:.0%}**"]
        line += [harness.digits(seconds["gnfast"]), f"{seconds['numpy'] / seconds['gnfast']:.1f}"]
        lines.append([*line, f"**{row['gnfast_matrices']:.2f}**", f"{row['numpy_matrices']:.2f}"])
    text = (
        "Gram matrix, new operator each time, forward pass and backward rows included; GF/s on half of the full "
        "product's flops; memory is the peak of a fresh process above what it had before, in matrices of nk x nk."
    )
    return f"{text}\n\n{harness.table(header, lines)}"


def main() -> None:
    args = harness.arguments(__doc__)
    if args.task:
        return harness.run_task({"memory": memory}, args)
    rows = []
    for case in QUICK if args.quick else CASES:
        if args.only in str(case):
            print(*case, "...", flush=True)
            rows.append(measure(*case, args))
    harness.publish("gram", {"rows": rows}, table(rows), args)


if __name__ == "__main__":
    main()
