"""Condition numbers: gnfast against what users do today, with time, peak memory and the value itself.

python benchmarks/condition.py                 everything, about a quarter of an hour (nearly all of it the others')
python benchmarks/condition.py --only linear   one part: linear, width, leaky, raw or large
python benchmarks/condition.py --quick         tiny sizes, to see that it runs

linear  a deep linear network against the dense Kronecker matrix and all its eigenvalues
width   the same network from 784 to 12,800 neurons: what depends on the width?
leaky   leaky ReLU on real digits against per-sample Jacobians and all eigenvalues, in float64 and in float32
raw     raw pixels, not whitened: how many products to a relative error of 1e-8?
large   d = 3,072, k = 100: a dense matrix would take 755 GB

Every measurement is a fresh process, so that its peak memory is its own; gnfast and its peer run by turns.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import harness
import numpy as np
import peers

import gnfast as gn

Problem = dict[str, Any]
Row = dict[str, Any]
SLOPE = 0.1


def linear(d: int, k: int, m: int, depth: int, data: str = "gaussian", n: int = 2000) -> Problem:
    return {"widths": [d, *[m] * (depth - 1), k], "activation": "identity", "data": data, "n": n, "dtype": "float64"}


def leaky(m: int, dtype: str, n: int = 500) -> Problem:
    return {"widths": [64, m, 10], "activation": "leaky_relu", "data": "standard digits", "n": n, "dtype": dtype}


def build(problem: Problem) -> tuple[gn.Network, np.ndarray]:
    """The same network and data in every process."""
    slope = SLOPE if problem["activation"] == "leaky_relu" else 0.01
    net = gn.mlp(problem["widths"], problem["activation"], slope=slope, seed=0, dtype=problem["dtype"])
    rng = np.random.default_rng(0)
    if problem["data"] == "gaussian":
        X = rng.standard_normal((problem["n"], problem["widths"][0]))
    elif problem["data"] == "mnist":
        X = gn.datasets.mnist()[0]
    else:
        X = gn.datasets.digits()[0]
        if problem["data"] == "standard digits":
            # Pixels to mean 0 and variance 1 over all images (constant ones to 0), then a random subset of the images.
            X = (X - X.mean(axis=0)) / np.where(X.std(axis=0) > 0, X.std(axis=0), 1.0)
            X = X[rng.permutation(len(X))[: problem["n"]]]
    return net, np.ascontiguousarray(X, dtype=problem["dtype"])


def by_gnfast(problem: Problem, repeats: int = 3) -> Row:
    return measure(*build(problem), repeats)


def measure(net: gn.Network, X: np.ndarray, repeats: int = 3) -> Row:
    """Median seconds over new operators after a first, cold one; of linear networks forming and solving apart."""
    start = harness.peak_memory()
    forming, solving = [], []
    for _ in range(repeats + 1):
        G = gn.GaussNewton(net, X)
        forming.append(harness.stopwatch(G.linear_dual)[1] if net.is_linear else 0.0)
        found, seconds = harness.stopwatch(partial(gn.cond, G))
        solving.append(seconds)
        del G
    total = [formed + solved for formed, solved in zip(forming, solving, strict=True)]
    warm = slice(1 if repeats else 0, None)
    return {
        "kappa": found.value,
        "interval": (found.lower, found.upper),
        "rank": found.rank,
        "dimension": found.dimension,
        "products": found.products,
        "method": found.method,
        "forming": statistics.median(forming[warm]),
        "solving": statistics.median(solving[warm]),
        "seconds": statistics.median(total[warm]),
        "first": total[0],
        "before_mib": start,
    }


def by_iteration(problem: Problem) -> Row:
    """Both ends of the linear dual by products alone, also where cond would take the whole spectrum of a small one."""
    net, X = build(problem)
    dual = gn.GaussNewton(net, X).linear_dual()
    ends = {"LA": "lanczos", "SA": "davidson"}
    solve = partial(gn.eigsh, dual, 1, tol=1e-9, return_info=True)
    found, seconds = harness.stopwatch(lambda: [solve(which=which, method=way) for which, way in ends.items()])
    (largest, _, above), (smallest, _, below) = found
    kappa = float(largest[0] / smallest[0])
    return {"kappa": kappa, "products": above.products + below.products, "seconds": seconds}


def by_spectrum(problem: Problem, eigenvalues: Callable[..., np.ndarray], **options: Any) -> Row:
    return measure_spectrum(*build(problem), eigenvalues, **options)


def measure_spectrum(net: gn.Network, X: np.ndarray, eigenvalues: Callable[..., np.ndarray], **options: Any) -> Row:
    """All eigenvalues, then the customary cut; a tiny problem first, so that imports and first calls are not timed."""
    eigenvalues([np.eye(3, 2, dtype=X.dtype), np.eye(2, 3, dtype=X.dtype)], np.eye(2, dtype=X.dtype), **options)
    start = harness.peak_memory()
    spectrum, seconds = harness.stopwatch(lambda: eigenvalues(net.parameters(), X, **options))
    kappa, rank = peers.customary_condition(spectrum)
    return {"kappa": kappa, "rank": rank, "dimension": len(spectrum), "seconds": seconds, "before_mib": start}


def by_kronecker(problem: Problem) -> Row:
    return by_spectrum(problem, peers.kronecker_spectrum)


def by_jacobians(problem: Problem, lean: bool = False) -> Row:
    return by_spectrum(problem, peers.jacobian_spectrum, slope=SLOPE, lean=lean)


def by_reference(problem: Problem) -> Row:
    net, X = build(problem)
    (kappa, rank), seconds = harness.stopwatch(lambda: peers.kronecker_condition(net.parameters(), X))
    return {"kappa": kappa, "rank": rank, "seconds": seconds, "kappa_data": peers.data_condition(X)}


TASKS = {task.__name__: task for task in (by_gnfast, by_iteration, by_kronecker, by_jacobians, by_reference)}


def by_turns(problem: Problem, peer: str, rounds: int, **options: Any) -> tuple[Row, Row]:
    """gnfast, the peer, gnfast, the peer, ..., gnfast; of each the run of median time."""
    found: dict[str, list[Row]] = {"by_gnfast": [run("by_gnfast", problem)], peer: []}
    for _ in range(rounds):
        found[peer].append(run(peer, problem, **options))
        found["by_gnfast"].append(run("by_gnfast", problem))
    ours, theirs = (sorted(rows, key=lambda row: row.get("seconds", np.inf))[len(rows) // 2] for rows in found.values())
    return ours, theirs


def run(task: str, problem: Problem, **options: Any) -> Row:
    print(f"  {task} {options or ''} {problem['widths']} {problem['data']} {problem['dtype']}", end=" ", flush=True)
    found = harness.in_subprocess(__file__, task, problem=problem, **options)
    print(f"{found['seconds']:.3g} s" if "seconds" in found else found["failed"], flush=True)
    return found


def gib(row: Row) -> str:
    return f"{row['peak_mib'] / 1024:.2f}" if "peak_mib" in row else ""


def compare(label: str, ours: Row, theirs: Row) -> list[str]:
    """One line of a table that sets gnfast beside a peer."""
    line = [label, harness.digits(ours["kappa"], 6), harness.digits(ours["seconds"]), gib(ours)]
    if "failed" in theirs:
        return [*line, theirs["failed"], "", "", "", ""]
    line += [harness.digits(theirs["kappa"], 6), harness.digits(theirs["seconds"]), gib(theirs)]
    return [
        *line,
        f"**{theirs['seconds'] / ours['seconds']:.1f}**",
        f"{theirs['peak_mib'] / ours['peak_mib']:.1f}",
    ]


COMPARED = ["", "gnfast: kappa", "s", "GiB", "peer: kappa", "s", "GiB", "times faster", "times less memory"]


def part_linear(args: Any) -> tuple[list[Row], str]:
    problem = linear(24, 3, 40, 4, n=100) if args.quick else linear(784, 10, 1600, 4)
    ours, theirs = by_turns(problem, "by_kronecker", rounds=1 if args.quick else 2)
    label = "d = {0}, k = {3}, m = {1}, L = 4".format(*[problem["widths"][i] for i in (0, 1, 2, -1)])
    text = f"Linear, float64, against the dense {theirs.get('dimension')} x {theirs.get('dimension')} Kronecker matrix."
    return [{"problem": problem, "gnfast": ours, "peer": theirs}], "\n\n".join(
        [text, harness.table(COMPARED, [compare(label, ours, theirs)])]
    )


def part_width(args: Any) -> tuple[list[Row], str]:
    problems = [linear(24, 3, m, 4, n=100) for m in (24, 64)]
    if not args.quick:
        problems = [linear(784, 10, m, 4) for m in (784, 1600, 3200, 6400, 12800)]
    rows = [{"problem": problem, "gnfast": run("by_gnfast", problem, repeats=1)} for problem in problems]
    lines = []
    for row in rows:
        ours = row["gnfast"]
        times = [harness.digits(value) for value in (ours["forming"], ours["seconds"] - ours["forming"])]
        lines.append(
            [row["problem"]["widths"][1], *times, ours["products"], harness.digits(ours["kappa"], 6), gib(ours)]
        )
    d, k = problems[0]["widths"][0], problems[0]["widths"][-1]
    text = f"Linear, d = {d}, k = {k}, L = 4, float64: only forming the small matrices depends on the width."
    return rows, f"{text}\n\n" + harness.table(["m", "forming, s", "solving, s", "products", "kappa", "GiB"], lines)


def part_leaky(args: Any) -> tuple[list[Row], str]:
    rounds = 1
    cases = [(leaky(m, dtype), lean) for m, dtype, lean in LEAKY]
    if args.quick:
        cases = [(leaky(32, dtype, n=20), lean) for dtype, lean in (("float64", False), ("float32", True))]
    rows, lines, cut = [], [], []
    for problem, lean in cases:
        ours, theirs = by_turns(problem, "by_jacobians", rounds, lean=lean)
        rows.append({"problem": problem, "lean": lean, "gnfast": ours, "peer": theirs})
        label = f"m = {problem['widths'][1]}, {problem['dtype']}{', a layer at a time' if lean else ''}"
        lines.append(compare(label, ours, theirs))
        if problem["dtype"] == "float32" and "rank" in theirs:
            cut.append(f"{1 - theirs['rank'] / theirs['dimension']:.0%} at m = {problem['widths'][1]}")
    for m, dtype in [] if args.quick else [(4096, "float64"), (4096, "float32")]:
        ours = run("by_gnfast", leaky(m, dtype))
        rows.append({"problem": leaky(m, dtype), "gnfast": ours})
        jacobian = 500 * 10 * (64 + 10) * m * np.dtype(dtype).itemsize / 2**30
        lines.append([*compare(f"m = {m}, {dtype}", ours, {"failed": f"not run: J alone is {jacobian:.1f} GiB"})])
    text = (
        f"Leaky ReLU 64-m-10 on {cases[0][0]['n']} standardised digits, against per-sample Jacobians (vmap of "
        "jacrev), J J^T and all its eigenvalues, those below max(eigenvalue) * size * eps dropped. In float32 that cut "
        f"throws away {' and '.join(cut) or 'part'} of a full spectrum, and the condition number with it."
    )
    return rows, f"{text}\n\n" + harness.table(COMPARED, lines)


LEAKY = [
    (256, "float64", False),
    (1024, "float64", False),
    (1024, "float64", True),
    (1024, "float32", False),
]


def part_raw(args: Any) -> tuple[list[Row], str]:
    cases = [("digits", 256, 2), ("digits", 256, 4), ("digits", 1024, 8), ("digits", 128, 8)]
    cases += [] if args.quick else [("mnist", 1024, 2), ("mnist", 1024, 4), ("mnist", 2048, 8)]
    rows, lines = [], []
    for data, m, depth in cases[: 1 if args.quick else None]:
        problem = linear(64 if data == "digits" else 784, 10, m, depth, data)
        ours, exact = run("by_gnfast", problem, repeats=1), run("by_reference", problem)
        products = run("by_iteration", problem)
        rows.append({"problem": problem, "gnfast": ours, "iteration": products, "reference": exact})
        line = [f"{data}, m = {m}, L = {depth}", harness.digits(exact["kappa_data"])]
        line += [harness.digits(exact["kappa"], 10), str(exact["rank"]), str(ours["rank"])]
        for found in (ours, products):
            if "failed" in found:
                line += [found["failed"], "", ""]
                continue
            error = abs(found["kappa"] / exact["kappa"] - 1)
            line += [f"{error:.0e}", str(found["products"]), harness.digits(found["seconds"])]
        lines.append(line)
    text = (
        "Linear networks on raw pixels, float64, against a reference that inverts the well-conditioned factor and so "
        "keeps the relative accuracy of the smallest eigenvalue. Of small duals `cond` takes the whole spectrum (0 "
        "products); the last three columns are the iterations that it uses on larger ones."
    )
    header = ["", "kappa of the data", "kappa", "rank", "gnfast: rank", "relative error", "products", "s"]
    return rows, f"{text}\n\n" + harness.table([*header, *header[-3:]], lines)


def part_large(args: Any) -> tuple[list[Row], str]:
    problem = linear(48, 8, 32, 4, n=200) if args.quick else linear(3072, 100, 2048, 4, n=6144)
    ours = run("by_gnfast", problem, repeats=0)
    d, m, k = (problem["widths"][i] for i in (0, 1, -1))
    values = [f"d = {d}, k = {k}, m = {m}, L = 4", f"{8e-9 * (k * d) ** 2:,.0f}", harness.digits(ours["kappa"], 6)]
    values += [harness.digits(ours["forming"]), harness.digits(ours["seconds"]), ours["products"], gib(ours)]
    header = ["linear, float64", "dense matrix, GB", "kappa", "forming, s", "in all, s", "products", "GiB"]
    return [{"problem": problem, "gnfast": ours}], harness.table(header, [values])


def main() -> None:
    args = harness.arguments(__doc__)
    if args.task:
        return harness.run_task(TASKS, args)
    parts = (part_linear, part_width, part_leaky, part_raw, part_large)
    order = [part.__name__.removeprefix("part_") for part in parts]
    for name, part in zip(order, parts, strict=True):
        if args.only in name:
            print(name, flush=True)
            rows, text = part(args)
            harness.publish_part("condition", order, name, rows, text, args)


if __name__ == "__main__":
    main()
