"""Products of a convolutional network: gnfast against curvlinops and torch.func, where its time goes and its memory.

python benchmarks/networks.py                    every part, several minutes (most of it the others')
python benchmarks/networks.py --only products    one part: products, memory or profile
python benchmarks/networks.py --quick            tiny sizes, to see that it runs

products  ResNet-20 on 32 x 32 x 3: the rows of the Jacobian stored, and the usual product layer by layer
memory    peak memory of products that may use so much, from the operating system
profile   which part of the calling thread's time is BLAS, from stacks sampled by py-spy
"""

from __future__ import annotations

import collections
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import numpy as np
import peers

import gnfast as gn

Row = dict[str, Any]
METHODS = ("auto", "usual")
PEERS: dict[str, tuple[str, Callable[..., Callable[[], Any]], int]] = {
    "curvlinops": ("curvlinops", peers.curvlinops_product, -1),
    "torch.func": ("torch", peers.torch_func_product, 0),
}


def problem(n: int, width: int, s: int) -> tuple[Any, np.ndarray, np.ndarray]:
    """A module of PyTorch, images and a block of vectors: the same in every process."""
    module = peers.torch_resnet20(width=width)
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, 3, 32, 32), dtype=np.float32)
    size = sum(parameter.numel() for parameter in module.parameters())
    return module, X, np.asfortranarray(rng.standard_normal((s, size), dtype=np.float32).T)


def sizes(args: Any) -> dict[str, int]:
    return {"n": 4, "width": 2, "s": 2} if args.quick else {"n": 128, "width": 16, "s": 8}


def part_products(args: Any) -> tuple[list[Row], str]:
    shape = sizes(args)
    module, X, block = problem(**shape)
    net = gn.from_torch(module)
    operators = {method: gn.GaussNewton(net, X, method=method) for method in METHODS}
    first = {method: harness.stopwatch(lambda method=method: operators[method] @ block)[1] for method in METHODS}
    outs = {method: np.empty_like(block, order="F") for method in METHODS}
    contenders: dict[str, Callable[[], object]] = {
        f"gnfast, {operators[method].plan(shape['s']).method}": lambda method=method: operators[method].matmat(
            block, out=outs[method]
        )
        for method in METHODS
    }
    chosen, usual = contenders
    ours = operators["auto"] @ block
    check("the usual product", ours, operators["usual"] @ block)
    scale = {"curvlinops": net.out_features / 2, "torch.func": 1.0}
    for name, (package, build, axis) in PEERS.items():
        if importlib.util.find_spec(package) is None:
            print(f"{name} is not installed: left out")
            continue
        contenders[name] = build(module, X, block)
        check(name, ours, peers.join(list(contenders[name]()), axis) * scale[name])
    timings = harness.alternate(contenders, runs=args.runs, seconds=0.01)
    seconds = {name: timing.median for name, timing in timings.items()}
    lines = []
    for name, value in seconds.items():
        once = {chosen: first["auto"], usual: first["usual"]}.get(name)
        ratios = [f"{value / seconds[mine]:.2f}" if name != mine else "" for mine in (chosen, usual)]
        cells = [harness.digits(1e3 * value / shape["s"]), "" if once is None else harness.digits(once)]
        lines.append([name, *cells, *ratios])
    text = (
        f"ResNet-20 (width {shape['width']}, evaluation mode), {shape['n']} images of 32 x 32 x 3, float32, blocks of "
        f"{shape['s']} vectors; milliseconds per vector, medians of alternating runs. The first product makes what is "
        "kept: the forward pass, and for the stored product the rows of the Jacobian."
    )
    header = ["", "ms a vector", "first block, s", f"times {chosen}", f"times {usual}"]
    return [{"shape": shape, "seconds": seconds, "first": first}], f"{text}\n\n" + harness.table(header, lines)


def check(name: str, ours: np.ndarray, theirs: np.ndarray) -> None:
    """Same product, or there is nothing to compare; float32 through some 20 layers agrees to about 1e-5."""
    error = float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
    if not error < 1e-3:
        raise SystemExit(f"gnfast and {name} disagree by {error:.1e}: these products are not the same")


def limited_product(limit: float, n: int, width: int, s: int) -> Row:
    """One product of an operator that may use `limit` bytes, in a process of its own."""
    module, X, block = problem(n, width, s)
    out = np.empty_like(block, order="F")
    G = gn.GaussNewton(gn.from_torch(module), X, memory_limit=limit)
    start = harness.peak_memory()
    _, seconds = harness.stopwatch(lambda: G.matmat(block, out=out))
    return {"before_mib": start, "seconds": seconds, "method": G.plan(s).method}


def product_for(duration: float, n: int, width: int, s: int, method: str) -> Row:
    """Products for so long, for the profiler to look at."""
    module, X, block = problem(n, width, s)
    G, out = gn.GaussNewton(gn.from_torch(module), X, method=method), np.empty_like(block, order="F")
    G.matmat(block, out=out)
    stop = time.perf_counter() + duration
    count = 0
    while time.perf_counter() < stop:
        profiled(G, block, out)
        count += 1
    return {"products": count}


def profiled(G: Any, block: np.ndarray, out: np.ndarray) -> None:
    """The frame below which samples count."""
    G.matmat(block, out=out)


TASKS = {task.__name__: task for task in (limited_product, product_for)}


def part_memory(args: Any) -> tuple[list[Row], str]:
    shape = sizes(args)
    rows, lines = [], []
    for limit in (2e7, 1e8) if args.quick else (3e8, 6e8, 1.2e9, 3e9):
        found = harness.in_subprocess(__file__, "limited_product", limit=limit, **shape)
        rows.append({"limit": limit, **found})
        if "failed" in found:
            lines.append([f"{limit / 2**20:,.0f}", found["failed"], "", ""])
            continue
        used = found["peak_mib"] - found["before_mib"]
        lines.append([f"{limit / 2**20:,.0f}", found["method"], f"{used:,.0f}", harness.digits(found["seconds"])])
    text = (
        "What the first product of the same network adds to the peak memory of its process (VmHWM), its output "
        "allocated before."
    )
    header = ["memory_limit, MiB", "product", "used, MiB", "seconds"]
    return rows, f"{text}\n\n" + harness.table(header, lines)


def part_profile(args: Any) -> tuple[list[Row], str]:
    if shutil.which("py-spy") is None:
        return [], "py-spy is not installed: not profiled."
    rows, lines = [], []
    for method in METHODS:
        shape = {**sizes(args), "duration": 1.0 if args.quick else 20.0, "method": method}
        shares = blas_share("product_for", shape)
        rows.append({"method": method, **shares})
        lines.append([method, *(f"{shares[key]:.0%}" for key in ("blas", "other")), shares["samples"]])
    text = "Where the calling thread is while products run, by sampled stacks: in BLAS, or anywhere else."
    return rows, f"{text}\n\n" + harness.table(["product", "BLAS", "other", "samples"], lines)


def blas_share(task: str, values: Row) -> Row:
    """The share of the samples below `profiled` that have a frame of OpenBLAS."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "stacks.txt"
        command = ["py-spy", "record", "--native", "--rate", "200", "--format", "raw", "--output", str(out), "--"]
        command += [sys.executable, __file__, "--task", task, "--values", json.dumps(values)]
        env = os.environ | {"PYTHONPATH": str(harness.HERE)}
        subprocess.run(command, check=True, capture_output=True, env=env)
        counts: collections.Counter[bool] = collections.Counter()
        for line in out.read_text().splitlines():
            stack, _, count = line.rpartition(" ")
            if "profiled" in stack:
                counts["openblas" in stack or "gemm" in stack] += int(count)
    total = counts.total()
    return {"blas": counts[True] / total, "other": counts[False] / total, "samples": total}


def main() -> None:
    args = harness.arguments(__doc__)
    if args.task:
        return harness.run_task(TASKS, args)
    parts = (part_products, part_memory, part_profile)
    order = [part.__name__.removeprefix("part_") for part in parts]
    for name, part in zip(order, parts, strict=True):
        if args.only in name:
            print(name, flush=True)
            rows, text = part(args)
            harness.publish_part("networks", order, name, rows, text, args)


if __name__ == "__main__":
    main()
