"""The commands ``gnfast study``: run, show, export, plot."""

# typer reads the annotations of commands, which works inside a function only if they are evaluated in place: no
# "from __future__ import annotations".
import math
import sys
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from gnfast import _checks, _files
from gnfast.study import workers
from gnfast.study.figures import draw
from gnfast.study.grid import Study
from gnfast.study.jobs import Job, Record
from gnfast.study.preflight import Outlook, look
from gnfast.study.results import RESULTS
from gnfast.study.runner import run
from gnfast.study.store import Store
from gnfast.study.tables import failures, markdown, pattern, print_study, summarise, write_csv

if TYPE_CHECKING:
    import typer
    from rich.console import Console

FAILED = 1
INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def build(console: "Console") -> "typer.Typer":
    """Return the commands; what is no name of one is the file of a study to run."""
    import typer
    from typer.core import TyperGroup

    class RunByDefault(TyperGroup):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            known = args and (args[0] in self.commands or args[0] in ("-h", "--help"))
            if args and not known:
                _check_file_or_command(args[0], self.commands)
            return super().parse_args(ctx, args if known else ["run", *args])

    app = typer.Typer(
        cls=RunByDefault,
        help="Grids of networks, computed point by point: gnfast study [FILE.toml] runs one; if it is stopped, the "
        "same command resumes. All options: gnfast study run --help.",
        rich_markup_mode=None,
        subcommand_metavar="[FILE.toml | COMMAND] ...",
    )
    folder = typer.Argument(metavar="DIR", help="Folder of the results.")
    at_once, elsewhere = pool_options()

    @app.command("run")
    def run_study(
        file: Annotated[
            Path | None, typer.Argument(metavar="[FILE.toml]", help="The study; a default one without.")
        ] = None,
        quick: Annotated[bool, typer.Option("--quick", help="Only a small part of it, in seconds.")] = False,
        out: Annotated[
            Path | None, typer.Option(metavar="DIR", help="Folder of the results; default gnfast-NAME.")
        ] = None,
        figure: Annotated[bool, typer.Option(help="Draw figure.png.")] = True,
        count: Annotated[int | None, at_once] = None,
        scheduler: Annotated[str | None, elsewhere] = None,
        dry_run: Annotated[bool, dry_run_option()] = False,
    ) -> None:
        """Compute a study; points that it has already are not computed again."""
        study = Study.from_toml(file) if file else Study()
        study = study.quick() if quick else study
        place = out or Path(f"gnfast-{study.name}")
        if figure:
            check_drawing()
        seen = look(study, place / RESULTS, points_at_once(count), here=scheduler is None)
        if dry_run:
            return foretell(console, seen)
        with pool_of(count, scheduler) as pool:
            records = complete(console, study, place, pool)
        if records is None:
            raise typer.Exit(INTERRUPTED)
        raise typer.Exit(_finish(console, records, place, figure))

    @app.command()
    def show(
        where: Annotated[Path, folder],
        wide: Annotated[
            bool, typer.Option("--wide", help="All columns side by side, however narrow the terminal.")
        ] = False,
    ) -> None:
        """Print the table of what a study has found so far."""
        found = Study.load(where)
        print_study(console, summarise(found.records), wide)
        for failure in failures(found.records):
            console.print(failure, markup=False, highlight=False, soft_wrap=True)
        console.print(f"{_counted(found.records)} of {found.total} points")

    @app.command()
    def export(
        where: Annotated[Path, folder],
        out: Annotated[
            Path | None, typer.Option(metavar="FILE.csv|.md", help="CSV of all points, or the table; default CSV here.")
        ] = None,
    ) -> None:
        """Write what a study has found so far, a row for each point, or for each entry of its series."""
        records = Study.load(where).records
        kind = _suffix(out, (".csv", ".md")) if out else ".csv"
        if out and kind == ".md":
            _files.write_text(out, markdown(summarise(records)))
        else:
            write_csv(records, out or sys.stdout)

    @app.command()
    def plot(
        where: Annotated[Path, folder],
        out: Annotated[Path | None, typer.Option(metavar="FILE.png|.svg|.pdf", help="Default DIR/figure.png.")] = None,
    ) -> None:
        """Draw what a study has found so far."""
        records = Study.load(where).records
        path = out or where / "figure.png"
        _suffix(path, (".png", ".svg", ".pdf"))
        draw(summarise(records), path)
        console.print(str(path), markup=False, highlight=False, soft_wrap=True)

    return app


def _check_file_or_command(word: str, commands: Collection[str]) -> None:
    """Refuse a word without a dot or a slash that is no file: a command that was mistyped."""
    if word and not word.startswith("-") and not set(word) & {".", "/", "\\"} and not Path(word).exists():
        _checks.choice(word, "no file, so the command of gnfast study", commands)


def pool_options() -> tuple[Any, Any]:
    """Return the options --workers and --scheduler of a command, whose values `pool_of` takes."""
    import typer

    return (
        typer.Option("--workers", metavar="N", help="Compute N points at once, in N processes."),
        typer.Option("--scheduler", metavar="ADDRESS", help="Compute on the workers of this dask scheduler."),
    )


def dry_run_option() -> Any:
    """Return the option --dry-run of a command."""
    import typer

    return typer.Option("--dry-run", help="Tell the points, the expected time and memory; compute and write nothing.")


def points_at_once(count: int | None) -> int:
    """Return how many points the option --workers asks for at once."""
    return 1 if count is None else _checks.integer(count, "--workers")


def check_drawing() -> None:
    """Raise an ImportError now if there will be nothing to draw with."""
    _checks.optional_import("matplotlib", "the figure", "study")


def foretell(console: "Console", seen: Outlook, name: str = "") -> None:
    """Print what a run would do."""
    for line in seen.lines():
        console.print(f"{name}{line}", markup=False, highlight=False, soft_wrap=True)


def pool_of(count: int | None, scheduler: str | None) -> AbstractContextManager[workers.Pool | None]:
    """Return what to enter for the workers that the options ask for."""
    if count is not None and scheduler is not None:
        raise ValueError("--workers starts workers here and --scheduler uses those of another; give one of the two")
    if scheduler is not None:
        return workers.remote(scheduler)
    return nullcontext() if count is None else workers.local(points_at_once(count))


def complete(console: "Console", job: Job, folder: Path, pool: workers.Pool | None) -> list[Record] | None:
    """Compute what a folder does not have yet, showing progress; return all records, None if interrupted.

    An error is told when the first point ends in it, not again for others that differ by numbers alone.
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    points = job.points()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[points]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Store(folder / RESULTS, job) as store:
        fresh, told = run(points, store, job.compute, pool), set[str]()
        try:
            # Speed is that of the whole run: some points take longer than any window.
            with Progress(*columns, console=console, speed_estimate_period=float("inf")) as progress:
                done = [record.point for record in store.read(points) if record.values is not None]
                task = progress.add_task(job.name, total=sum(point.work for point in points), points="")
                progress.update(task, completed=sum(point.work for point in done), points=f"{len(done)}/{len(points)}")
                for count, record in enumerate(fresh, len(done) + 1):
                    progress.update(task, advance=record.point.work, points=f"{count}/{len(points)}")
                    if record.error and pattern(record.error) not in told:
                        told.add(pattern(record.error))
                        failure = f"{record.point.key} failed: {record.error}"
                        progress.console.print(failure, markup=False, highlight=False, soft_wrap=True)
        except KeyboardInterrupt:
            console.print(
                f"stopped with {store.finished(points)} of {len(points)} points kept; the same command goes on"
            )
            return None
        return store.read(points)


def _finish(console: "Console", records: list[Record], folder: Path, figure: bool) -> int:
    """Print and write the table, draw the figure; return the exit status."""
    failed = len(records) - _counted(records)
    cells = summarise(records)
    drawn = figure and any(math.isfinite(cell.kappa[1]) for cell in cells)
    print_study(console, cells)
    _files.write_text(folder / "table.md", markdown(cells))
    if drawn:
        draw(cells, folder / "figure.png")
    console.print(
        f"{folder}: {RESULTS}, table.md{', figure.png' * drawn}", markup=False, highlight=False, soft_wrap=True
    )
    if failed:
        console.print(f"{failed} of {len(records)} points failed; the same command tries them again")
    return FAILED if failed else 0


def _counted(records: Sequence[Record]) -> int:
    return sum(record.values is not None for record in records)


def _suffix(path: Path, allowed: tuple[str, ...]) -> str:
    return _checks.choice(path.suffix, f"the ending of {str(path)!r}", allowed)
