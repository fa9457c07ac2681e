"""Widths without weights: what a sample of a condition number takes, against drawing the weights.

python benchmarks/width.py            everything, ten to fifteen minutes
python benchmarks/width.py --quick    tiny sizes, to see that it runs

Four questions. Linear networks: does the time of a sample depend on the width, and how much faster is it than drawing
the weights with NumPy and forming the small matrices P_l and Q_l from them? Leaky ReLU: is time linear in the width and
memory flat, to ten million units (below ten thousand the small matrices count)? How much faster is that than
drawing the network and forming its Gram matrix with our own engine? And are normal numbers made as fast as the fused
tile could use them?

The NumPy way is timed layer by layer: a middle layer once, multiplied by their number (at m = 10,000 each is 800 MB and
all are alike), the first and the last once each; it is compared with our P_l and Q_l, which are all that it forms.
Times and memory against width are of fresh processes. A tile's own speed is what is left of its time without that of
making the numbers alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import harness
import numpy as np

import gnfast as gn
from gnfast import _core

SLOPE = 0.1
LINEAR = {"d": 784, "k": 10, "depth": 8, "widths": [10**4, 10**6, 10**9], "drawn": 10**4}
QUICK_LINEAR = {"d": 20, "k": 3, "depth": 4, "widths": [10**3, 10**9], "drawn": 300}
WIDE = {"n": 100, "depth": 3, "widths": [10**4, 10**5, 10**6, 10**7], "drawn": 16_384, "normals": 1 << 24}
QUICK_WIDE = {"n": 10, "depth": 3, "widths": [10**3, 10**4], "drawn": 300, "normals": 1 << 16}


# ------------------------------------------------------------------------------------------------------------ linear
def middle_layer(rng: np.random.Generator, X: np.ndarray, Y: np.ndarray) -> tuple[np.ndarray, ...]:
    """Draw W (m, m), carry the forward and the backward products over it, and form Q and P from them."""
    m = len(X)
    W = rng.standard_normal((m, m))
    W *= 1 / math.sqrt(m)
    X, Y = W @ X, Y @ W
    return X, Y, X.T @ X, Y @ Y.T


def drawn_linear(m: int, d: int, k: int, depth: int) -> dict[str, float]:
    """Seconds of each part with NumPy in float64, as a user would write it."""
    rng = np.random.default_rng(0)

    def ends() -> tuple[np.ndarray, np.ndarray]:
        V, W = rng.standard_normal((m, d)) / math.sqrt(d), rng.standard_normal((k, m)) / math.sqrt(m)
        V.T @ V, W @ W.T
        return V, W

    (X, Y), outer = harness.stopwatch(ends)
    _, middle = harness.stopwatch(lambda: middle_layer(rng, X, Y))
    return {"outer": outer, "middle": middle, "whole": outer + (depth - 2) * middle}


def linear(case: dict[str, Any], args: Any) -> dict[str, Any]:
    same = {"d": case["d"], "k": case["k"], "depth": case["depth"], "samples": 1, "bounds": False}

    def kappa(m: int) -> Callable[[], object]:
        return lambda: gn.ensemble.linear(m, **same)

    def grams(m: int) -> Callable[[], object]:
        law = gn.ensemble.LinearLaw(m, depth=case["depth"], d=case["d"], k=case["k"])
        return lambda: law.draw(0, 0).matrices()

    seconds = {}
    for name, make in (("grams", grams), ("kappa", kappa)):
        timings = harness.alternate({str(m): make(m) for m in case["widths"]}, runs=2 * args.runs)
        seconds[name] = {m: timing.median for m, timing in timings.items()}
    ours = harness.alternate({"ours": grams(case["drawn"])}, runs=args.runs)["ours"].median
    drawn = drawn_linear(case["drawn"], case["d"], case["k"], case["depth"])
    first, last = str(case["widths"][0]), str(case["widths"][-1])
    ratios = {name: found[last] / found[first] for name, found in seconds.items()}
    return {"case": case, "seconds": seconds, "ratios": ratios, "drawn": drawn, "ours": ours}


def linear_table(row: dict[str, Any]) -> str:
    case, seconds = row["case"], row["seconds"]
    lines = [
        [f"{m:,}", *(harness.digits(seconds[name][str(m)]) for name in ("grams", "kappa"))] for m in case["widths"]
    ]
    ratios = row["ratios"]
    text = (
        f"Linear networks, d = {case['d']}, k = {case['k']}, depth {case['depth']}: seconds for one sample. The widest "
        f"takes {ratios['grams']:.2f} times as long as the narrowest for P_l and Q_l, {ratios['kappa']:.2f} times with "
        "kappa(G)."
    )
    drawn, m = row["drawn"], case["drawn"]
    versus = [
        [
            f"{m:,}",
            harness.digits(row["ours"]),
            harness.digits(drawn["middle"]),
            harness.digits(drawn["outer"]),
            harness.digits(drawn["whole"]),
            f"**{drawn['whole'] / row['ours']:.0f}**",
        ]
    ]
    header = [
        "m",
        "gnfast, all P_l and Q_l, s",
        "NumPy: a middle layer, s",
        "first and last, s",
        "all layers, s",
        "times faster",
    ]
    by_width = harness.table(["m", "all P_l and Q_l", "with kappa(G)"], lines)
    return f"{text}\n\n{by_width}\n\n{harness.table(header, versus)}"


# ------------------------------------------------------------------------------------------------- any activation
def inputs(n: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((n, n))


def sample_network(m: int, n: int, depth: int) -> gn.ensemble.Ensemble:
    return gn.ensemble.network(m, activation="leaky_relu", slope=SLOPE, X=inputs(n), k=1, depth=depth, samples=1)


def streamed(m: int, n: int, depth: int) -> dict[str, Any]:
    """One sample in this process, after a small one; the peak is the process's, the interpreter included."""
    sample_network(64, n, depth)
    before = harness.peak_memory()
    seconds = [harness.stopwatch(lambda: sample_network(m, n, depth))[1] for _ in range(1 if m > 10**5 else 3)]
    return {"seconds": sorted(seconds)[len(seconds) // 2], "before_mib": before}


def by_weights(m: int, n: int, depth: int, dtype: str) -> np.ndarray:
    net = gn.mlp([n, *[m] * (depth - 1), 1], "leaky_relu", SLOPE, dtype=dtype)
    return np.linalg.eigvalsh(gn.GaussNewton(net, inputs(n).astype(dtype)).gram().to_dense())


def wide(case: dict[str, Any], args: Any) -> dict[str, Any]:
    n, depth = case["n"], case["depth"]
    rows = []
    for m in case["widths"]:
        rows.append({"m": m, **harness.in_subprocess(__file__, "streamed", m=m, n=n, depth=depth)})
        print(rows[-1], flush=True)
    done = [row for row in rows if "seconds" in row]
    exponent = np.polyfit(*np.log([[row["m"] for row in done], [row["seconds"] for row in done]]), 1)[0]
    m = case["drawn"]
    contenders: dict[str, Callable[[], object]] = {"law": lambda: sample_network(m, n, depth)}
    for dtype in ("float64", "float32"):
        contenders[dtype] = lambda dtype=dtype: by_weights(m, n, depth, dtype)
    timings = harness.alternate(contenders, runs=min(args.runs, 3), warmup=0, seconds=0.0)
    weights = {name: timing.median for name, timing in timings.items()}
    return {"case": case, "rows": rows, "exponent": float(exponent), "weights": weights}


def wide_table(row: dict[str, Any]) -> str:
    case, weights = row["case"], row["weights"]
    lines = [
        [f"{found['m']:,}", harness.digits(found["seconds"]), f"{found['peak_mib']:.0f}"]
        if "seconds" in found
        else [f"{found['m']:,}", found["failed"], ""]
        for found in row["rows"]
    ]
    text = (
        f"Leaky ReLU, n = {case['n']}, k = 1, depth {case['depth']}: one sample of the Gram matrix and its spectrum in "
        f"a fresh process; time grows like m^{row['exponent']:.2f}."
    )
    versus = [
        [f"drawing the weights, {dtype}", harness.digits(weights[dtype]), f"**{weights[dtype] / weights['law']:.1f}**"]
        for dtype in ("float64", "float32")
    ]
    versus.insert(0, ["gnfast.ensemble.network", harness.digits(weights["law"]), ""])
    header = [f"m = {case['drawn']:,}, same Gram matrix", "s", "times slower"]
    return f"{text}\n\n{harness.table(['m', 's', 'peak MiB'], lines)}\n\n{harness.table(header, versus)}"


# ----------------------------------------------------------------------------------------------------------- normals
def normals(case: dict[str, Any], args: Any) -> dict[str, Any]:
    size, n, m = case["normals"], case["n"], case["widths"][1]
    into, source = np.empty((256, size // 256), np.float32), np.zeros((256, size // 256), np.float32)
    rng = np.random.default_rng(0)
    contenders: dict[str, Callable[[], object]] = {
        "ours": lambda: _core.fill_normal(into, 1, 0, 1.0),
        "numpy": lambda: rng.standard_normal(out=into, dtype=np.float32),
        "copy": lambda: np.copyto(into, source),
        "sample": lambda: sample_network(m, n, 3),
    }
    seconds = {name: t.median for name, t in harness.alternate(contenders, runs=args.runs).items()}
    # A hidden layer's neurons take min(n, d) = n numbers for the inputs and, below another hidden layer, n for the
    # derivatives (one below a single output), on the way forward and again on the way back.
    drawn = m * 2 * ((n + n) + (n + 1))
    making = drawn * seconds["ours"] / size
    using = seconds["sample"] - making
    return {
        "size": size,
        "seconds": seconds,
        "per_second": {name: size / seconds[name] for name in ("ours", "numpy")},
        "gb_per_second": {name: 4e-9 * size / seconds[name] for name in ("ours", "numpy", "copy")},
        "m": m,
        "drawn": drawn,
        "share_of_tile": using / making if using > 0 else math.inf,
    }


def normals_table(row: dict[str, Any]) -> str:
    rates, speeds = row["gb_per_second"], row["per_second"]
    lines = [
        ["gnfast, normal", f"{speeds['ours'] / 1e9:.3f}", f"{rates['ours']:.2f}"],
        ["NumPy, normal, one thread", f"{speeds['numpy'] / 1e9:.3f}", f"{rates['numpy']:.2f}"],
        ["copy", "", f"{rates['copy']:.2f}"],
    ]
    text = (
        f"Normal numbers in float32, {row['size']:,} at a time. A sample at m = {row['m']:,} takes {row['drawn']:,} of "
        f"them; they are made at {row['share_of_tile']:.0%} of the speed at which the rest of the tile uses them."
    )
    return f"{text}\n\n{harness.table(['', '10^9 numbers a second', 'GB/s written'], lines)}"


PARTS: dict[str, tuple[Callable[..., Any], Callable[..., str], dict[str, Any], dict[str, Any]]] = {
    "linear": (linear, linear_table, LINEAR, QUICK_LINEAR),
    "network": (wide, wide_table, WIDE, QUICK_WIDE),
    "normals": (normals, normals_table, WIDE, QUICK_WIDE),
}


def main() -> None:
    args = harness.arguments(__doc__)
    if args.task:
        return harness.run_task({"streamed": streamed}, args)
    for name, (measure, table, case, quick) in PARTS.items():
        if args.only in name:
            print(f"{name} ...", flush=True)
            row = measure(quick if args.quick else case, args)
            harness.publish_part("width", tuple(PARTS), name, [row], table(row), args)
    return None


if __name__ == "__main__":
    main()
