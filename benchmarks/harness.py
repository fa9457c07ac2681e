"""What every benchmark here shares: fair timing, the machine's ceiling, peak memory, and where the numbers go.

Contenders run by turns, so that what the machine does meanwhile meets all of them; medians are compared, never best
times; and the matrix product that serves as the ceiling is one more contender of the same run.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import gc
import importlib.metadata
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.linalg import blas

HERE = Path(__file__).resolve().parent
PACKAGES = ("gnfast", "numpy", "scipy", "torch", "cupy-cuda13x", "curvlinops-for-pytorch", "matfree", "scikit-learn")
MIB = 2.0**20


@dataclass(frozen=True)
class Timing:
    """Seconds per call, one entry per run, in the order of the runs."""

    runs: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.runs)

    @property
    def best(self) -> float:
        return min(self.runs)


def alternate(
    contenders: Mapping[str, Callable[[], object]],
    *,
    runs: int = 5,
    warmup: int = 1,
    seconds: float = 0.2,
    pause: float = 0.02,
) -> dict[str, Timing]:
    """Time the contenders by turns: ``runs`` rounds, each calling every one for at least ``seconds``.

    The order rotates from round to round. The pause lets thread pools of the one before fall asleep: waiting threads
    of one library steal the cores of the next, which is a question of its own (threads.py), not of these ratios.
    """
    for call in contenders.values():
        for _ in range(warmup):
            call()
    names = list(contenders)
    found: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(runs):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            gc.collect()
            time.sleep(pause)
            found[name].append(seconds_per_call(contenders[name], seconds))
    return {name: Timing(tuple(values)) for name, values in found.items()}


def seconds_per_call(call: Callable[[], object], seconds: float) -> float:
    """Mean over as many calls as fill ``seconds``, at least one."""
    start, calls = time.perf_counter(), 0
    while True:
        call()
        calls += 1
        spent = time.perf_counter() - start
        if spent >= seconds:
            return spent / calls


def stopwatch(call: Callable[[], Any]) -> tuple[Any, float]:
    """The result of one call and its seconds."""
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


def gemm(dtype: np.dtype[Any] | str, size: int = 3072) -> tuple[Callable[[], object], float]:
    """The ceiling: one square matrix product through SciPy's BLAS, and its flops."""
    rng = np.random.default_rng(0)
    a, b = (np.asfortranarray(rng.standard_normal((size, size)), dtype=dtype) for _ in range(2))
    c = np.zeros_like(a)
    multiply = blas.sgemm if a.dtype == np.float32 else blas.dgemm
    return lambda: multiply(1.0, a, b, beta=0.0, c=c, overwrite_c=True), 2.0 * size**3


def geometric_mean(values: Iterable[float]) -> float:
    return math.exp(statistics.fmean(math.log(value) for value in values))


def peak_memory() -> float:
    """Peak resident memory of this process in MiB, from the operating system.

    Linux keeps it per address space as VmHWM. ``ru_maxrss`` of a child starts from its parent's peak (it survives
    fork and exec), so it is read only where there is no VmHWM.
    """
    with contextlib.suppress(FileNotFoundError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / MIB if sys.platform == "darwin" else peak / 1024


def in_subprocess(script: str, task: str, **values: Any) -> dict[str, Any]:
    """Run one task of a script in a fresh process; a task that dies reports ``{"failed": why}``.

    The script must pass its command line to :func:`arguments` and hand the task to :func:`run_task`.
    """
    command = [sys.executable, script, "--task", task, "--values", json.dumps(values)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(HERE)})
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        return {"failed": last[0]}
    return json.loads(done.stdout.splitlines()[-1])


def run_task(tasks: Mapping[str, Callable[..., dict[str, Any]]], args: argparse.Namespace) -> None:
    """The other end of :func:`in_subprocess`: run the task and print its values with this process's peak memory."""
    found = tasks[args.task](**json.loads(args.values))
    print(json.dumps({**found, "peak_mib": peak_memory()}))


def arguments(
    description: str | None, argv: Sequence[str] | None = None, extra: Mapping[str, str] | None = None
) -> argparse.Namespace:
    """The command line that all scripts share, and further options with their help."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs; nothing is written")
    parser.add_argument("--runs", type=int, default=5, help="rounds of alternating runs (default 5)")
    parser.add_argument("--only", default="", help="only the parts whose name contains this; the other results stay")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    parser.add_argument("--values", default="{}", help=argparse.SUPPRESS)
    for name, text in (extra or {}).items():
        parser.add_argument(name, help=text)
    args = parser.parse_args(argv)
    if args.quick:
        args.runs = min(args.runs, 2)
    return args


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def environment() -> dict[str, Any]:
    """Machine, versions, threads and date of this run."""
    import gnfast as gn

    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(FileNotFoundError):
        fields = [line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line]
        names = {key.strip(): value.strip() for key, value in fields}
        widest = next((isa for isa in ("avx512f", "avx2") if isa in names.get("flags", "").split()), "")
        cpu = f"{names.get('model name', cpu)} {widest}".strip()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_gib": round(memory, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "threads": gn.get_num_threads(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "build": {key: str(value) for key, value in gn.build_info().items()},
    }


def describe(env: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in env["versions"].items() if number != "absent")
    machine = f"{env['cpu']}, {env['cores']} cores, {env['memory_gib']} GiB, {env['threads']} threads"
    return f"{env['date']}: {machine}; {versions}."


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A markdown table; the first column left, the others right."""
    lines = ["| " + " | ".join(header) + " |", "|" + "|".join(["---"] + ["---:"] * (len(header) - 1)) + "|"]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def splice(text: str, name: str, body: str) -> str:
    """``text`` with what stands between the markers of ``name`` replaced by ``body``."""
    start, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    if text.count(start) != 1 or text.count(end) != 1 or text.index(start) > text.index(end):
        raise ValueError(f"README.md needs the markers {start} and {end}, once each and in this order")
    return text[: text.index(start) + len(start)] + "\n" + body.strip() + "\n" + text[text.index(end) :]


def publish(name: str, results: Mapping[str, Any], body: str, args: argparse.Namespace) -> None:
    """Print the tables; after a complete run also write results/NAME.json and the README's section."""
    env = environment()
    print(f"\n{body}\n\n{describe(env)}")
    if not args.quick and not args.only:
        _write(name, {**env, **results}, f"{body}\n\n{describe(env)}")


def publish_part(name: str, order: Sequence[str], part: str, rows: Any, body: str, args: argparse.Namespace) -> None:
    """As publish, for one part of a long benchmark: the others' results stay, each with its own machine and date."""
    env = environment()
    print(f"\n{body}\n\n{describe(env)}", flush=True)
    if args.quick:
        return
    target = HERE / "results" / f"{name}.json"
    parts = json.loads(target.read_text())["parts"] if target.exists() else {}
    parts[part] = {**env, "machine": describe(env), "text": body, "rows": rows}
    known = [parts[key] for key in order if key in parts]
    blocks = []
    for here, following in zip(known, [*known[1:], None], strict=True):
        last = following is None or following["machine"] != here["machine"]
        blocks += [here["text"], here["machine"]] if last else [here["text"]]
    _write(name, {"parts": parts}, "\n\n".join(blocks))


def _write(name: str, results: Mapping[str, Any], body: str) -> None:
    target = HERE / "results" / f"{name}.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps({"benchmark": name, **results}, indent=1) + "\n")
    readme = HERE / "README.md"
    readme.write_text(splice(readme.read_text(), name, body))
    print(f"written: {target.name} and README.md")


def digits(value: float, count: int = 3) -> str:
    """A number for a table: ``count`` significant digits, plain where that is readable."""
    if not math.isfinite(value):
        return str(value)
    if value and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.{count - 1}e}"
    places = count - 1 - math.floor(math.log10(abs(value))) if value else 0
    return f"{value:,.{max(places, 0)}f}"
