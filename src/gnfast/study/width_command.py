"""The command ``gnfast width``."""

# typer reads the annotations of commands, which works inside a function only if they are evaluated in place: no
# "from __future__ import annotations".
import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from gnfast import _files
from gnfast.networks.layers import SLOPE
from gnfast.study import width_figure
from gnfast.study.commands import FAILED, INTERRUPTED, check_drawing, complete, dry_run_option, foretell
from gnfast.study.preflight import look
from gnfast.study.results import RESULTS
from gnfast.study.tables import markdown_table, number, print_table
from gnfast.study.width import Existing, Row, WidthStudy, existing, summarise

if TYPE_CHECKING:
    import typer
    from rich.console import Console

HALVES = (1, 3.1622776601683795)  # two widths a decade
SAMPLES = 50  # of networks that are not linear: their cost grows with the square
HEADERS = ("width", "draws", "kappa", "5 %", "95 %", "off limit", "paper", "rank", "s a draw")


def add(app: "typer.Typer", console: "Console") -> None:
    """Add the command to the others."""
    import typer

    @app.command()
    def width(
        data: Annotated[str, typer.Option(metavar="FILE|digits|mnist", help="The inputs (n, d).")] = "digits",
        samples: Annotated[
            int | None, typer.Option(help=f"Rows taken, spread evenly; default all if linear, else {SAMPLES}.")
        ] = None,
        whiten: Annotated[bool, typer.Option("--whiten", help="Whiten the data first.")] = False,
        activation: Annotated[str, typer.Option(metavar="NAME", help="identity for linear networks.")] = "identity",
        slope: Annotated[float, typer.Option(help="Negative slope of leaky_relu.")] = SLOPE,
        skip: Annotated[float, typer.Option(help="Strength of the skip connections.")] = 0.0,
        depth: Annotated[int, typer.Option(help="Layers with weights.")] = 4,
        k: Annotated[int | None, typer.Option("--k", help="Outputs; default 10 if linear, else 1.")] = None,
        widths: Annotated[
            str | None,
            typer.Option(metavar="M,M,..", help="Default two a decade from 10 to 1e9 if linear, else to 1e6."),
        ] = None,
        draws: Annotated[
            int | None, typer.Option(help="Networks for each width; default 50 if linear, else 10.")
        ] = None,
        seed: Annotated[int, typer.Option(help="Seed of the networks.")] = 0,
        weights: Annotated[
            list[Path] | None, typer.Option(metavar="FILE", help="Networks saved by gnfast, to be shown; repeatable.")
        ] = None,
        out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the results.")] = Path("gnfast-width"),
        dry_run: Annotated[bool, dry_run_option()] = False,
    ) -> None:
        """Sample condition numbers of random networks of any width; if stopped, the same command resumes."""
        linear = activation == "identity"
        study = WidthStudy(
            data=data,
            samples=samples if samples is not None or linear else SAMPLES,
            whiten=whiten,
            activation=activation,
            slope=slope,
            skip=skip,
            depth=depth,
            k=k if k is not None else 10 if linear else 1,
            seed=seed,
            widths=_widths(widths, 9 if linear else 6),
            draws=draws if draws is not None else 50 if linear else 10,
        )
        check_drawing()
        seen = look(study, out / RESULTS)
        if dry_run:
            return foretell(console, seen)
        raise typer.Exit(_run(console, study, weights or [], out))


def _run(console: "Console", study: WidthStudy, weights: Sequence[Path], folder: Path) -> int:
    title = str(study)  # reads the data: mistakes there are told before anything is made
    networks = [existing(path, study) for path in weights]
    records = complete(console, study, folder, None)
    if records is None:
        return INTERRUPTED
    limit, reason = study.limit()
    rows = summarise(records, limit)
    _write(rows, limit, networks, folder)
    print_table(console, title, HEADERS, _lines(rows, limit, networks))
    for note in _notes(networks):
        console.print(note, markup=False, highlight=False, soft_wrap=True)
    if reason:
        console.print(f"no infinite width is shown: {reason}", markup=False, highlight=False, soft_wrap=True)
    if rows:
        paths = [folder / "figure.png", folder / "figure.svg"]
        width_figure.draw(title, rows, limit, networks, paths)
    files = f"{RESULTS}, table.csv, table.md" + ", figure.png, figure.svg" * bool(rows)
    console.print(f"{folder}: {files}", markup=False, highlight=False, soft_wrap=True)
    failed = sum(record.values is None for record in records)
    if failed:
        console.print(f"{failed} of {len(records)} points failed; the same command tries them again")
    return FAILED if failed else 0


def _widths(given: str | None, decades: int) -> tuple[int, ...]:
    if given is None:
        return (*(round(half * 10**e) for e in range(1, decades) for half in HALVES), 10**decades)
    try:
        found = tuple(int(part) if part.isdigit() else _whole(float(part)) for part in given.split(","))
    except (ValueError, OverflowError):
        raise ValueError(f"--widths is {given!r} but must be whole numbers with commas, like 100,1e4,1e9") from None
    return found


def _whole(value: float) -> int:
    if value != int(value):
        raise ValueError
    return int(value)


def _lines(rows: Sequence[Row], limit: float, networks: Sequence[Existing]) -> list[tuple[str, ...]]:
    lines = [
        (
            f"{row.width:,}" if row.width < 10**7 else number(row.width),
            str(row.draws),
            *map(number, (row.kappa[1], row.kappa[0], row.kappa[2], row.deviation[1], row.paper)),
            str(row.rank),
            number(row.seconds),
        )
        for row in rows
    ]
    blank = ("-",) * (len(HEADERS) - 4)
    lines += [("infinite", "-", number(limit), *blank, "-")] * math.isfinite(limit)
    return lines + [(f"{net.name}: {net.width:,}", "-", number(net.kappa), *blank, "-") for net in networks]


def _notes(networks: Sequence[Existing]) -> list[str]:
    """How networks that exist are other than those drawn."""
    return [f"{net.name} is no such network: {net.differs}" for net in networks if net.differs]


def _write(rows: Sequence[Row], limit: float, networks: Sequence[Existing], folder: Path) -> None:
    notes = "".join(f"\n{note}\n" for note in _notes(networks))
    _files.write_text(folder / "table.md", markdown_table(HEADERS, _lines(rows, limit, networks)) + notes)
    with _files.replacing(folder / "table.csv") as beside, beside.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(
            [
                "network",
                "width",
                "draws",
                "kappa_q50",
                "kappa_q5",
                "kappa_q95",
                "deviation_q50",
                "paper_q50",
                "rank",
                "seconds",
            ]
        )
        for row in rows:
            low, middle, high = row.kappa
            writer.writerow(
                ["random", row.width, row.draws, middle, low, high, row.deviation[1], row.paper, row.rank, row.seconds]
            )
        writer.writerows([["limit", "inf", "", limit]] * math.isfinite(limit))
        writer.writerows(["existing", net.width, net.name, net.kappa] for net in networks)
