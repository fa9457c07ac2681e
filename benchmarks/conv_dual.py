"""The condition number of linear convolutional networks: the structured dual against dense Toeplitz matrices.

python benchmarks/conv_dual.py           everything, some minutes (nearly all of it the others')
python benchmarks/conv_dual.py --quick   tiny sizes, to see that it runs

The peer writes every convolution as its Toeplitz matrix, which makes a dense network of it, forms the Jacobian in the
kernels from partial products of these matrices, a block of samples at a time, and takes all eigenvalues of the
Gauss-Newton matrix or of the Gram matrix, whichever is smaller. Every measurement is a fresh process; gnfast and its
peer run by turns.
"""

from __future__ import annotations

import statistics
from typing import Any

import harness
import numpy as np
import peers

import gnfast as gn

Problem = dict[str, Any]
Row = dict[str, Any]

# image side, channels [in, ..., out], kernel sides, samples
CASES = [
    (12, [1, 16, 4], [5, 3], 200),
    (16, [3, 16, 4], [3, 3], 200),
    (20, [1, 32, 10], [5, 3], 50),
    (16, [1, 16, 16, 4], [3, 3, 3], 200),
]
QUICK = [(7, [2, 4, 2], [3, 2], 10)]


def build(problem: Problem) -> tuple[list[np.ndarray], np.ndarray]:
    """The same kernels and data in every process."""
    rng, channels = np.random.default_rng(0), problem["channels"]
    kernels = [
        rng.standard_normal((out, into, side, side)) / np.sqrt(into * side**2)
        for into, out, side in zip(channels[:-1], channels[1:], problem["kernels"], strict=True)
    ]
    return kernels, rng.standard_normal((problem["n"], channels[0], problem["side"], problem["side"]))


def by_gnfast(problem: Problem, repeats: int = 3) -> Row:
    """Median seconds over new operators after a first, cold one: forward pass, forming and solving."""
    kernels, X = build(problem)
    start, seconds = harness.peak_memory(), []

    def condition() -> gn.Condition:
        net = gn.Network([*(gn.Conv2d(kernel) for kernel in kernels), gn.Flatten()])
        return gn.cond(gn.GaussNewton(net, X).linear_dual())

    for _ in range(repeats + 1):
        found, spent = harness.stopwatch(condition)
        seconds.append(spent)
    return {
        "kappa": found.value,
        "rank": found.rank,
        "dimension": found.dimension,
        "method": found.method,
        "seconds": statistics.median(seconds[1 if repeats else 0 :]),
        "first": seconds[0],
        "before_mib": start,
    }


def by_toeplitz(problem: Problem) -> Row:
    """A tiny problem first, so that first calls are not timed."""
    kernels, X = build(problem)
    peers.toeplitz_spectrum([np.ones((1, 1, 1, 1))], np.ones((1, 1, 2, 2)))
    start = harness.peak_memory()
    spectrum, seconds = harness.stopwatch(lambda: peers.toeplitz_spectrum(kernels, X))
    kappa, rank = peers.customary_condition(spectrum)
    return {"kappa": kappa, "rank": rank, "dimension": len(spectrum), "seconds": seconds, "before_mib": start}


TASKS = {task.__name__: task for task in (by_gnfast, by_toeplitz)}


def run(task: str, problem: Problem) -> Row:
    print(f"  {task} {problem}", end=" ", flush=True)
    found = harness.in_subprocess(__file__, task, problem=problem)
    print(f"{found['seconds']:.3g} s" if "seconds" in found else found["failed"], flush=True)
    return found


def by_turns(problem: Problem, rounds: int) -> tuple[Row, Row]:
    """gnfast, the peer, gnfast, ...; of each the run of median time."""
    found: list[tuple[Row, Row]] = [(run("by_gnfast", problem), run("by_toeplitz", problem)) for _ in range(rounds)]
    ours, theirs = (
        sorted(rows, key=lambda row: row.get("seconds", np.inf))[len(rows) // 2] for rows in zip(*found, strict=True)
    )
    return ours, theirs


def line(problem: Problem, ours: Row, theirs: Row) -> list[str]:
    channels, kernels = ("-".join(map(str, problem[key])) for key in ("channels", "kernels"))
    label = f"{problem['side']} x {problem['side']}, channels {channels}, kernels {kernels}, n = {problem['n']}"
    cells = [label]
    for row in (ours, theirs):
        if "failed" in row:
            return [*cells, row["failed"], *[""] * (9 - len(cells))]
        cells += [harness.digits(row["kappa"], 6), str(row["dimension"]), harness.digits(row["seconds"])]
        cells += [f"{row['peak_mib'] / 1024:.2f}"]
    return [*cells, f"**{theirs['seconds'] / ours['seconds']:.0f}**"]


def main() -> None:
    args = harness.arguments(__doc__)
    if args.task:
        return harness.run_task(TASKS, args)
    rows, lines = [], []
    for side, channels, kernels, n in QUICK if args.quick else CASES:
        problem = {"side": side, "channels": channels, "kernels": kernels, "n": n}
        ours, theirs = by_turns(problem, rounds=1 if args.quick else min(args.runs, 3))
        rows.append({"problem": problem, "gnfast": ours, "peer": theirs})
        lines.append(line(problem, ours, theirs))
    header = ["linear, valid, float64", "gnfast: kappa", "size", "s", "GiB"]
    header += ["Toeplitz: kappa", "size", "s", "GiB", "times faster"]
    harness.publish("conv_dual", {"rows": rows}, harness.table(header, lines), args)
    return None


if __name__ == "__main__":
    main()
