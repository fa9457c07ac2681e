"""Is the product that the cost model chooses the faster one, and what are the model's constants here?

python benchmarks/choice.py            a few minutes
python benchmarks/choice.py --quick    tiny sizes, to see that it runs

ReLU networks of equal widths m with k outputs, n samples, blocks of s vectors. The factored product needs fewer matrix
products, but a contraction with k backward rows a sample: it loses where k is large or the block small. A contraction
costs `c` times as much as its flops would in a matrix product; csrc/algo/blocking.hpp models c as 1.7 + 11 / min(s, 8).
The choice also counts the making of the backward rows, spread over 200 products; this table does not.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import harness
import numpy as np

import gnfast as gn

DEPTH = 3


class Shape(NamedTuple):
    n: int
    m: int
    s: int
    k: int
    dtype: str = "float32"

    def __str__(self) -> str:
        return f"n = {self.n}, m = {self.m}, s = {self.s}, k = {self.k}, {self.dtype}"


SHAPES = [
    Shape(n, m, s, k)
    for n, m, s in ((256, 1024, 8), (256, 1024, 1), (1000, 256, 32), (256, 256, 8), (64, 1024, 4))
    for k in (10, 50, 100, 200)
] + [Shape(256, 512, 8, k, "float64") for k in (10, 50, 100)]
QUICK = [Shape(32, 64, 4, 10), Shape(32, 64, 1, 20, "float64")]


def measure(shape: Shape, args: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    net = gn.mlp((shape.m,) * DEPTH + (shape.k,), activation="relu", seed=0, dtype=shape.dtype)
    X = rng.standard_normal((shape.n, shape.m)).astype(shape.dtype)
    block = np.asfortranarray(rng.standard_normal((shape.s, net.num_parameters)).astype(shape.dtype).T)
    out = np.empty_like(block, order="F")
    operators = {method: gn.GaussNewton(net, X, method=method) for method in ("usual", "factored")}
    contenders = {
        name: (lambda operator=operator: operator.matmat(block, out=out)) for name, operator in operators.items()
    }
    timings = harness.alternate(contenders, runs=args.runs, seconds=0.01 if args.quick else 0.1)
    usual, factored = timings["usual"].median, timings["factored"].median
    plan = gn.GaussNewton(net, X).plan(shape.s)
    contraction = 4.0 * shape.n * shape.k * (shape.m * (DEPTH - 1) + shape.k)
    return {
        "shape": str(shape),
        "ratio": usual / factored,
        "chosen": plan.method,
        "lost": {"usual": usual, "factored": factored}[plan.method] / min(usual, factored) - 1,
        "slowdown": (plan.flops_usual * factored / usual - (plan.flops_factored - contraction)) / contraction,
    }


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        [row["shape"], f"{row['ratio']:.2f}", row["chosen"], f"{row['lost']:.0%}", f"{row['slowdown']:.1f}"]
        for row in rows
    ]
    worst = max(row["lost"] for row in rows)
    found = harness.table(["ReLU, three layers", "usual / factored", "chosen", "lost by it", "c"], lines)
    return f"The choice loses {worst:.0%} at most.\n\n{found}"


def main() -> None:
    args = harness.arguments(__doc__)
    rows = []
    for shape in QUICK if args.quick else SHAPES:
        if args.only in str(shape):
            print(f"{shape} ...", flush=True)
            rows.append(measure(shape, args))
    harness.publish("choice", {"rows": rows}, table(rows), args)


if __name__ == "__main__":
    main()
