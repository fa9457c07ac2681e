"""Block products G V of ReLU networks: gnfast against curvlinops and torch.func, and against the machine's ceiling.

python benchmarks/products.py            every shape, a few minutes
python benchmarks/products.py --quick    tiny sizes, to see that it runs

Questions: how many times faster is a product than what users run today; how much of the matrix-multiplication rate of
this machine does it reach, counted in the multiplications that its own algorithm needs; and does the cost model choose
the faster of its two algorithms?
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import harness
import numpy as np
import peers

import gnfast as gn


class Shape(NamedTuple):
    n: int  # samples
    widths: tuple[int, ...]
    s: int  # vectors in the block

    def __str__(self) -> str:
        return f"n = {self.n}, {'-'.join(map(str, self.widths))}, s = {self.s}"


def relu(n: int, m: int, s: int, k: int = 10) -> Shape:
    return Shape(n, (784, m, m, k), s)


SHAPES = {
    "k = 10": [
        relu(256, 1024, 1),
        relu(256, 1024, 8),
        relu(256, 1024, 32),
        relu(256, 2048, 16),
        relu(1000, 1024, 8),
        relu(1000, 256, 32),
    ],
    "k = 100": [relu(256, 1024, 8, 100), relu(256, 2048, 16, 100), relu(1000, 256, 32, 100), relu(64, 1024, 1, 100)],
    "n = 8": [relu(8, 1024, 8), relu(8, 1024, 32), relu(8, 256, 8), relu(8, 1024, 1), relu(8, 1024, 8, 100)],
}
QUICK = {"k = 10": [relu(32, 64, 1), relu(32, 64, 8)], "k = 100": [relu(16, 128, 4, 100)], "n = 8": [relu(8, 64, 8)]}
METHODS = ("auto", "usual", "factored")
PEERS: dict[str, tuple[str, Callable[..., Callable[[], Sequence[Any]]], int]] = {
    "curvlinops": ("curvlinops", peers.curvlinops_product, -1),
    "torch.func": ("torch", peers.torch_func_product, 0),
}
COMPARED = ("gnfast usual", "gnfast factored", *PEERS)


def measure(shape: Shape, args: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((shape.n, shape.widths[0]), dtype=np.float32)
    net = gn.mlp(shape.widths, activation="relu", seed=0, dtype="float32")
    block = np.asfortranarray(rng.standard_normal((shape.s, net.num_parameters), dtype=np.float32).T)
    operators = {method: gn.GaussNewton(net, X, method=method) for method in METHODS}
    outs = {method: np.empty_like(block, order="F") for method in METHODS}
    contenders: dict[str, Callable[[], object]] = {
        f"gnfast {method}": lambda method=method: operators[method].matmat(block, out=outs[method])
        for method in METHODS
    }
    module = peers.torch_network(net.parameters()) if importlib.util.find_spec("torch") else None
    scale = {"curvlinops": shape.widths[-1] / 2, "torch.func": 1.0}
    for name, (package, build, axis) in PEERS.items():
        if importlib.util.find_spec(package) is None:
            print(f"{name} is not installed: left out")
            continue
        contenders[name] = build(module, X, block)
        theirs = peers.join(list(contenders[name]()), axis) * scale[name]
        check(name, operators["auto"].matmat(block), theirs)
    check("the other algorithm", operators["usual"].matmat(block), operators["factored"].matmat(block))
    contenders["gemm"], ceiling_flops = harness.gemm(np.float32, 512 if args.quick else 3072)
    timings = harness.alternate(contenders, runs=args.runs, seconds=0.01 if args.quick else 0.3)
    seconds = {name: timing.median for name, timing in timings.items()}
    plan = operators["auto"].plan(shape.s)
    own = plan.flops * shape.s / seconds["gnfast auto"]
    ceiling = ceiling_flops / seconds["gemm"]
    return {
        "shape": str(shape),
        "chosen": plan.method,
        "milliseconds_per_vector": {name: 1e3 * value / shape.s for name, value in seconds.items() if name != "gemm"},
        "ratio": {name: seconds[name] / seconds["gnfast auto"] for name in PEERS if name in seconds},
        "gflops": own / 1e9,
        "ceiling_gflops": ceiling / 1e9,
        "share": own / ceiling,
        "runs": {name: timing.runs for name, timing in timings.items()},
    }


def check(name: str, ours: np.ndarray, theirs: np.ndarray) -> None:
    """Same product, or there is nothing to compare: float32 sums of up to 10^6 terms agree to about 1e-5."""
    error = float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
    if not error < 1e-4:
        raise SystemExit(f"gnfast and {name} disagree by {error:.1e}: these products are not the same")


def tables(groups: dict[str, list[dict[str, Any]]]) -> str:
    header = ["float32", "gnfast", "chosen", "usual", "factored", *PEERS]
    header += [f"{name} / gnfast" for name in PEERS] + ["GF/s", "share of ceiling"]
    lines, summary = [], []
    for group, rows in groups.items():
        for row in rows:
            ms = row["milliseconds_per_vector"]
            line = [row["shape"], f"**{harness.digits(ms['gnfast auto'])}**", row["chosen"]]
            line += [harness.digits(ms[name]) if name in ms else "" for name in COMPARED]
            line += [f"{row['ratio'][name]:.2f}" if name in row["ratio"] else "" for name in PEERS]
            lines.append([*line, f"{row['gflops']:.0f}", f"{row['share']:.0%}"])
        for name in PEERS:
            found = [row["ratio"][name] for row in rows if name in row["ratio"]]
            if found:
                summary.append([group, name, f"{harness.geometric_mean(found):.2f}", f"{min(found):.2f}"])
    ceilings = sorted(row["ceiling_gflops"] for rows in groups.values() for row in rows)
    text = (
        "Milliseconds per vector, medians of alternating runs; GF/s in the matrix products of the algorithm chosen; "
        f"the ceiling is this machine's `sgemm`, {ceilings[0]:.0f} to {ceilings[-1]:.0f} GF/s in the same runs."
    )
    best = harness.table(["times faster", "than", "geometric mean", "least"], summary)
    return "\n\n".join([text, harness.table(header, lines), best])


def main() -> None:
    args = harness.arguments(__doc__)
    groups: dict[str, list[dict[str, Any]]] = {}
    for group, shapes in (QUICK if args.quick else SHAPES).items():
        for shape in shapes:
            if args.only in str(shape):
                print(f"{group}: {shape} ...", flush=True)
                groups.setdefault(group, []).append(measure(shape, args))
    harness.publish("products", {"groups": groups}, tables(groups), args)


if __name__ == "__main__":
    main()
