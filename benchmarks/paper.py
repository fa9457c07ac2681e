"""Figure 1 of the paper, kappa of linear networks on whitened MNIST over depth and width: how long, and against what?

python benchmarks/paper.py                  everything, about half an hour
python benchmarks/paper.py --only points    one part: points or figure
python benchmarks/paper.py --out DIR        keeps the figure, where `gnfast paper gallery --out DIR` finds it
python benchmarks/paper.py --quick          tiny sizes, to see that it runs

points  the figure's own networks and data, at some of its points, against the dense way: the stored Kronecker sum
        sum_l P_l (x) S Q_l S and all its eigenvalues
figure  the whole figure by its command, from an empty folder: the wall time that the run itself has recorded

Weights are drawn before either clock starts; forming the small matrices P_l and Q_l counts on both sides. A point of
the figure takes more than its condition number: drawing the weights, and the bounds; that is the column "as in the
figure". Every measurement of a point is a fresh process: gnfast, the dense way, gnfast, of whose two runs the slower
counts.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import condition
import harness
import peers

from gnfast.paper import FIGURES, Options
from gnfast.study import Point, Study
from gnfast.study.store import runs

Row = dict[str, Any]
FIGURE = "depth-width"
ROUNDING = 1e-7  # relative: both eigenvalues are found to 1e-9
TARGET, TIMES = 20, 50  # minutes for the whole figure on two cores; how many times faster
PLACES = {"full": [(m, depth) for m in (800, 3000) for depth in (2, 6, 20)], "quick": [(80, 2), (160, 4)]}


def study(setting: str) -> Study:
    return FIGURES[FIGURE].study(Options(setting))


def point_at(setting: str, width: int, depth: int) -> Point:
    [found] = [p for p in study(setting).points() if (p.width, p.depth, p.seed) == (width, depth, 0)]
    return found


def by_gnfast(setting: str, width: int, depth: int) -> Row:
    point = point_at(setting, width, depth)
    subject = point.subject()
    found = condition.measure(subject.net, subject.X)
    _, whole = harness.stopwatch(lambda: study(setting).compute(point))
    return {**found, "whole": whole}


def by_kronecker(setting: str, width: int, depth: int) -> Row:
    subject = point_at(setting, width, depth).subject()
    return condition.measure_spectrum(subject.net, subject.X, peers.kronecker_spectrum)


def points(args: Any) -> tuple[list[Row], str]:
    setting = "quick" if args.quick else "full"
    rows, lines = [], []
    for width, depth in PLACES[setting]:
        place = dict(setting=setting, width=width, depth=depth)
        first, theirs, last = (
            harness.in_subprocess(__file__, task, **place) for task in ("by_gnfast", "by_kronecker", "by_gnfast")
        )
        if failed := [run["failed"] for run in (first, theirs, last) if "failed" in run]:
            raise RuntimeError(f"m = {width}, L = {depth}: {failed[0]}")
        ours = max(first, last, key=lambda run: run["seconds"])
        error = abs(ours["kappa"] / theirs["kappa"] - 1)
        if error > ROUNDING or theirs["rank"] != theirs["dimension"]:
            raise AssertionError(f"m = {width}, L = {depth}: gnfast has {ours}, the dense way {theirs}")
        rows.append({**place, "gnfast": ours, "dense": theirs, "times": theirs["seconds"] / ours["seconds"]})
        lines.append(line(rows[-1], error))
        print("  " + " | ".join(lines[-1]), flush=True)
    times = [row["times"] for row in rows]
    size, outputs = theirs["dimension"], study(setting).outputs
    text = (
        f"Points of `gnfast paper {FIGURE}` against the dense {size:,} x {size:,} matrix (d = {size // outputs} after "
        f"whitening, k = {outputs}) and all of its eigenvalues: {harness.geometric_mean(times):.0f} times "
        f"faster in the geometric mean, {min(times):.0f} at least; {TIMES} are asked."
    )
    header = ["", "kappa", "relative difference", "gnfast, s", "of which forming", "as in the figure, s", "dense, s"]
    return rows, f"{text}\n\n" + harness.table([*header, "times faster"], lines)


def line(row: Row, error: float) -> list[str]:
    ours, theirs = row["gnfast"], row["dense"]
    times = [ours["seconds"], ours["forming"], ours["whole"], theirs["seconds"]]
    return [
        f"m = {row['width']:,}, L = {row['depth']}",
        harness.digits(ours["kappa"], 6),
        f"{error:.0e}",
        *map(harness.digits, times),
        f"**{row['times']:.0f}**",
    ]


def made_in(folder: str, args: Any) -> Path:
    return Path(folder) / f"{FIGURE}-{'quick' if args.quick else 'full'}"


def figure(args: Any) -> tuple[list[Row], str]:
    option = "--quick" if args.quick else "--full"
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.out or temporary
        made = made_in(folder, args)
        command = [sys.executable, "-m", "gnfast", "paper", FIGURE, option, "--out", folder]
        _, seconds = harness.stopwatch(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))
        [run] = runs(made / "results.sqlite")
        claims = (made / "claims.txt").read_text().splitlines()
    row = {**run._asdict(), "with_drawing": seconds, "claims": claims, "target_minutes": TARGET}
    text = (
        f"The whole figure, `gnfast paper {FIGURE} {option}`, {run.points} points: {run.seconds / 60:.1f} min (asked: "
        f"{TARGET} on two cores), {seconds / 60:.1f} with imports and drawing. Its claims:"
    )
    return [row], "\n".join([text, "", *(f"* {claim}" for claim in claims)])


PARTS = {"points": points, "figure": figure}


def main() -> None:
    args = harness.arguments(__doc__, extra={"--out": "folder of the figure"})
    if args.task:
        return harness.run_task({"by_gnfast": by_gnfast, "by_kronecker": by_kronecker}, args)
    if args.out and args.only in "figure" and made_in(args.out, args).exists():
        raise SystemExit(
            f"{made_in(args.out, args)} is there already: its time would be an old one; choose another --out"
        )
    for name, part in PARTS.items():
        if args.only in name:
            print(name, flush=True)
            rows, text = part(args)
            harness.publish_part("paper", list(PARTS), name, rows, text, args)


if __name__ == "__main__":
    main()
