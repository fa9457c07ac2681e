"""Do thread pools fight? Small products alone, and in a process where other libraries keep threads of their own.

python benchmarks/threads.py            a minute
python benchmarks/threads.py --quick    fewer calls, to see that it runs

OpenMP's threads spin for a while after a parallel loop. If a loop of ours, or of a library beside us, leaves them
spinning while BLAS' own threads want the cores, small products become tens of times slower, and only in some calls:
the median falls far below the best. Every line is a fresh process; a neighbour does parallel work right before every
product, the worst case.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable
from typing import Any

import harness
import numpy as np

import gnfast as gn

SIZES = {
    "small": (64, [64, 128, 128, 10], 1),
    "medium": (256, [256, 256, 256, 10], 4),
    "large": (256, [784, 1024, 1024, 10], 8),
}


def nothing() -> Callable[[], object]:
    return lambda: None


def with_torch() -> Callable[[], object]:
    import torch

    a = torch.ones(512, 512)
    return lambda: torch.relu(a @ a).exp()


def with_sklearn() -> Callable[[], object]:
    from sklearn.metrics import pairwise_distances_argmin

    X = np.random.default_rng(0).standard_normal((2000, 20))
    return lambda: pairwise_distances_argmin(X, X[:50])


def with_joblib() -> Callable[[], object]:
    from joblib import Parallel, delayed

    a = np.ones((128, 128))
    pool = Parallel(n_jobs=2, prefer="threads")
    return lambda: pool(delayed(np.dot)(a, a) for _ in range(4))


NEIGHBOURS = {"nothing": nothing, "torch": with_torch, "sklearn": with_sklearn, "joblib": with_joblib}


def rate(neighbour: str, threads: int, size: str, calls: int) -> dict[str, Any]:
    """Best and median GF/s of ``calls`` products, the neighbour at work before each."""
    n, widths, s = SIZES[size]
    gn.set_num_threads(threads)
    rng = np.random.default_rng(0)
    net = gn.mlp(widths, "relu", seed=0, dtype="float32")
    G = gn.GaussNewton(net, rng.standard_normal((n, widths[0]), dtype=np.float32))
    block = np.asfortranarray(rng.standard_normal((s, net.num_parameters), dtype=np.float32).T)
    out = np.empty_like(block, order="F")
    disturb = NEIGHBOURS[neighbour]()
    seconds = []
    for _ in range(calls + 5):
        disturb()
        start = time.perf_counter()
        G.matmat(block, out=out)
        seconds.append(time.perf_counter() - start)
    work = 4.0 * n * net.num_parameters * s / 1e9  # two products per layer, whichever algorithm runs
    warm = seconds[5:]
    return {
        "best": work / min(warm),
        "median": work / statistics.median(warm),
        "worst": work / max(warm),
    }


def main() -> None:
    args = harness.arguments(__doc__)
    if args.task:
        return harness.run_task({"rate": rate}, args)
    calls = 20 if args.quick else 400
    available = gn.get_num_threads()
    rows, lines = [], []
    for size in list(SIZES)[: 1 if args.quick else None]:
        alone = 0.0
        for neighbour in NEIGHBOURS:
            if args.only not in neighbour or (neighbour != "nothing" and not importlib.util.find_spec(neighbour)):
                continue
            found = {
                threads: harness.in_subprocess(
                    __file__, "rate", neighbour=neighbour, threads=threads, size=size, calls=calls
                )
                for threads in sorted({1, available})
            }
            rows.append({"size": size, "neighbour": neighbour, "threads": found})
            best, median = (found[available][name] for name in ("best", "median"))
            alone = alone or median
            one = f"{found[1]['best']:.0f} / {found[1]['median']:.0f}"
            ratio = [f"{value:.1f}" for value in (best / median, alone / median)]
            lines.append([f"{size}, {neighbour}", one, f"{best:.0f} / {median:.0f}", *ratio])
    header = ["product, neighbour", "1 thread: best / median GF/s", f"{available} threads", "best / median"]
    text = (
        "Products right after a neighbour's parallel work, "
        + "; ".join(f"{name}: n = {n}, {'-'.join(map(str, widths))}, s = {s}" for name, (n, widths, s) in SIZES.items())
        + ". A fight between thread pools would show as a factor of 10 to 40 in one of the last two columns."
    )
    harness.publish(
        "threads", {"rows": rows}, f"{text}\n\n" + harness.table([*header, "slower than alone"], lines), args
    )


if __name__ == "__main__":
    main()
