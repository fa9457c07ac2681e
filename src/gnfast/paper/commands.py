"""The command ``gnfast paper``."""

# typer reads the annotations of commands, which works inside a function only if they are evaluated in place: no
# "from __future__ import annotations".
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from gnfast import _checks, _files, datasets
from gnfast.paper import FIGURES, Figure, Options, Table
from gnfast.paper.drawing import draw, footnote
from gnfast.paper.gallery import folder_of, write_page
from gnfast.study.commands import (
    FAILED,
    INTERRUPTED,
    check_drawing,
    complete,
    dry_run_option,
    foretell,
    points_at_once,
    pool_of,
    pool_options,
)
from gnfast.study.preflight import look
from gnfast.study.results import RESULTS
from gnfast.study.tables import write_csv
from gnfast.study.workers import Pool

if TYPE_CHECKING:
    import typer
    from rich.console import Console


def add(app: "typer.Typer", console: "Console") -> None:
    """Add the command to an application."""
    import typer

    at_once, elsewhere = pool_options()

    @app.command()
    def paper(
        what: Annotated[
            str,
            typer.Argument(
                metavar="list|FIGURE|all|gallery",
                help="Their names, one figure, all, or a page of those that the folder has.",
            ),
        ],
        quick: Annotated[bool, typer.Option("--quick", help="Small sizes, in seconds.")] = False,
        full: Annotated[bool, typer.Option("--full", help="The paper's own sizes.")] = False,
        out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the figures.")] = Path("gnfast-paper"),
        cifar: Annotated[
            Path | None,
            typer.Option(metavar="PATH", help="cifar-10-batches-bin, instead of patches of two photographs."),
        ] = None,
        page: Annotated[
            Path | None, typer.Option(metavar="FILE.md", help="The gallery's page; default DIR/gallery.md.")
        ] = None,
        count: Annotated[int | None, at_once] = None,
        scheduler: Annotated[str | None, elsewhere] = None,
        dry_run: Annotated[bool, dry_run_option()] = False,
    ) -> None:
        """Figures of Zhao, Singh & Lucchi (NeurIPS 2024): table, drawing, and whether its claims are seen here."""
        if quick and full:
            raise ValueError("--quick and --full exclude each other; give one of the two, or none for a size between")
        if page and what != "gallery":
            raise ValueError(f"--page is where the gallery goes; leave it out of: gnfast paper {what}")
        if what == "list":
            _list(console)
            return
        options = Options("quick" if quick else "full" if full else "usual", str(cifar) if cifar else "photographs")
        if what == "gallery":
            _gallery(console, out, options, page or out / "gallery.md")
            return
        names = list(FIGURES) if what == "all" else [_checks.choice(what, "the figure", FIGURES)]
        if cifar:
            datasets.cifar10_files(str(cifar))  # a wrong path is told before it is part of a results file
            if without := [name for name in names if not FIGURES[name].uses_images(options)]:
                print(f"gnfast: no colour images, so --cifar changes nothing: {', '.join(without)}", file=sys.stderr)
        check_drawing()
        for name in names:
            results = folder_of(out, FIGURES[name], options) / RESULTS
            seen = look(FIGURES[name].study(options), results, points_at_once(count), here=scheduler is None)
            if dry_run:
                foretell(console, seen, f"{name}: ")
        if dry_run:
            return
        status = 0
        with pool_of(count, scheduler) as pool:
            for name in names:
                found = make(console, FIGURES[name], options, folder_of(out, FIGURES[name], options), pool)
                if found == INTERRUPTED:
                    raise typer.Exit(found)
                status = max(status, found)
        raise typer.Exit(status)


def make(console: "Console", figure: Figure, options: Options, folder: Path, pool: Pool | None = None) -> int:
    """Compute a figure's study where it is not finished; write its table, drawing and claims; return the exit status.

    The folder gets results.sqlite, table.csv, figure.png, figure.svg and, unless points failed, claims.txt.
    """
    job = figure.study(options)
    records = complete(console, job, folder, pool)
    if records is None:
        return INTERRUPTED
    failed = sum(record.values is None for record in records)
    (folder / "claims.txt").unlink(missing_ok=True)  # of a table that is about to be another one
    write_csv(records, folder / "table.csv")
    table = Table.of(records)
    if table.rows:
        draw(figure, table, footnote(options, records), folder)
    if failed:
        console.print(
            f"{figure.name}: {failed} of {len(records)} points failed; the same command tries them again and then says "
            "what is reproduced",
            highlight=False,
        )
        return FAILED
    claims = [str(claim) for claim in figure.claims(table)]
    _files.write_text(folder / "claims.txt", "\n".join(claims) + "\n")
    for line in (f"{figure.name}: {figure.finding}", *claims):
        console.print(line, markup=False, highlight=False)
    console.print(f"{folder}: {RESULTS}, table.csv, figure.png, figure.svg, claims.txt", markup=False, highlight=False)
    return 0


def _gallery(console: "Console", out: Path, options: Options, page: Path) -> None:
    missing = write_page(out, options, page)
    told = f"{page}, pictures in {page.parent / 'images' / page.stem}"
    absent = f"; not there: {', '.join(missing)}" if missing else ""
    console.print(told + absent, markup=False, highlight=False, soft_wrap=True)


def _list(console: "Console") -> None:
    from rich.table import Table as Grid

    grid = Grid.grid(padding=(0, 2))
    for figure in FIGURES.values():
        grid.add_row(figure.name, f"{figure.title}: {figure.finding}")
    console.print(grid)
