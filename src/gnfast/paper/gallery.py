"""A page of the figures in a folder: what each shows, its claims, the command that makes it, its time."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from gnfast import _checks, _files
from gnfast.paper import FIGURES, Claim, Figure, Options, Table, ours
from gnfast.paper.drawing import draw, footnote
from gnfast.study import Record, Store
from gnfast.study.results import RESULTS
from gnfast.study.store import Run, definition, runs

COLOURS = 64  # of a picture: with a palette it has a third of the bytes, and lines and letters look the same
OURS = tuple(figure.name for figure in ours.FIGURES)


@dataclass(frozen=True)
class Made:
    """A figure that may be finished: its folder, and what its results are and show now, whatever was written before."""

    figure: Figure
    options: Options
    folder: Path

    @property
    def count(self) -> int:
        """Points of the figure."""
        return len(self.figure.study(self.options).points())

    @cached_property
    def records(self) -> list[Record]:
        """The points of the figure that the folder has; none if its grid is another one."""
        job, path = self.figure.study(self.options), self.folder / RESULTS
        if not path.is_file() or definition(path) != job.definition:
            return []
        with Store(path, job) as store:
            return store.read(job.points())

    @property
    def is_finished(self) -> bool:
        """Whether every point has values."""
        return sum(record.values is not None for record in self.records) == self.count

    @cached_property
    def claims(self) -> list[Claim]:
        """The figure's claims, checked on the folder's table."""
        return self.figure.claims(Table.of(self.records))

    @property
    def runs(self) -> list[Run]:
        """The runs that filled the folder."""
        return runs(self.folder / RESULTS)

    @property
    def seconds(self) -> float | None:
        """Wall time of all runs; None if some points come from none that told it."""
        known = sum(run.points for run in self.runs) >= self.count
        return sum(run.seconds for run in self.runs) if known else None

    @property
    def command(self) -> str:
        """The command that makes the figure."""
        words = ["gnfast paper", self.figure.name, _option(self.options)]
        if self.options.images != Options.images and self.figure.uses_images(self.options):
            words.append("--cifar PATH")
        return " ".join(word for word in words if word)


def folder_of(out: Path, figure: Figure, options: Options) -> Path:
    """Return where a figure of this setting is kept in the folder of all."""
    return out / f"{figure.name}-{options.setting}"


def write_page(out: Path, options: Options, page: Path) -> list[str]:
    """Write a page in Markdown about the finished figures of a folder, and their pictures beside it.

    Args:
        out: what ``gnfast paper`` was given as ``--out``.
        options: setting and images with which they were made.
        page: the file; pictures go to ``images/NAME/`` in its folder, NAME its own without its ending.

    Returns:
        The names of the figures that are not there: not made, not finished, or made by a version with another grid.

    Raises:
        ValueError: none is there.
        ImportError: matplotlib, whose Pillow packs the pictures, is not installed.
    """
    found = [Made(figure, options, folder_of(out, figure, options)) for figure in FIGURES.values()]
    made = [one for one in found if one.is_finished]
    missing = [one for one in found if one not in made]
    if not made:
        raise ValueError(
            f"folder {str(out)!r} has no finished figure of the {options.setting} setting; make some with: "
            f"{' '.join(['gnfast paper all', _option(options)]).strip()} --out {out}"
        )
    pictures = page.parent / "images" / page.stem
    pictures.mkdir(parents=True, exist_ok=True)
    for one in made:
        _draw(one, pictures / f"{one.figure.name}.png")
    lines = [
        *_head(made, page.name),
        *(line for one in made for line in _section(one, pictures.relative_to(page.parent))),
    ]
    if missing:
        lines += ["## Not here yet", "", *(f"* `{one.figure.name}`: `{one.command}`" for one in missing), ""]
    _files.write_text(page, "\n".join(lines))
    return [one.figure.name for one in missing]


def _head(made: list[Made], name: str) -> Iterator[str]:
    setting = made[0].options.setting
    option = _option(made[0].options)
    all_runs = [run for one in made for run in one.runs]
    yield "# The paper's figures"
    yield ""
    yield (
        "Those of Zhao, Singh & Lucchi, *Theoretical characterisation of the Gauss-Newton conditioning in neural "
        f"networks* (NeurIPS 2024), and of our own ({', '.join(OURS)}), in the {setting} setting. Every claim is "
        "computed from the figure's table, and one that is not seen there is reported as not reproduced; one that says "
        '"only" is a restricted form of another. Behind +- is half of the 95 % interval over seeds.'
    )
    yield ""
    yield "```sh"
    yield " ".join(word for word in ("gnfast paper all", option) if word)
    yield " ".join(word for word in ("gnfast paper gallery", option, f"--page {name}") if word) + "  # this page"
    yield "```"
    yield ""
    if all_runs:
        threads = " or ".join(_checks.counted(count, "thread") for count in sorted({run.threads for run in all_runs}))
        versions = ", ".join(sorted({run.version for run in all_runs}))
        days = sorted({run.began[:10] for run in all_runs})
        when = " to ".join(dict.fromkeys((days[0], days[-1])))
        yield f"Times are wall times of the runs that computed the points, on {threads} (gnfast {versions}, {when})."
        yield ""
    yield "| figure | claims reproduced | points | time |"
    yield "|---|---:|---:|---:|"
    for one in made:
        holding = sum(claim.holds for claim in one.claims)
        place = f"[{one.figure.name}](#{one.figure.name})"
        yield f"| {place} | {holding} of {len(one.claims)} | {one.count:,} | {_duration(one.seconds)} |"
    yield ""


def _section(one: Made, pictures: Path) -> Iterator[str]:
    figure = one.figure
    yield f"## {figure.name}"
    yield ""
    yield f"{figure.title}. {'Asked' if figure.name in OURS else 'The paper'}: {figure.finding}."
    yield ""
    yield f"![{figure.title}]({(pictures / figure.name).as_posix()}.png)"
    yield ""
    for claim in one.claims:
        status = claim.status if claim.holds else f"**{claim.status}**"
        yield f"* {status}: {claim.statement} ({claim.numbers})"
    yield ""
    yield f"`{one.command}`: {_checks.counted(one.count, 'point')}, {_duration(one.seconds)}."
    yield ""


def _option(options: Options) -> str:
    return "" if options.setting == "usual" else f"--{options.setting}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "time not recorded"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def _draw(one: Made, target: Path) -> None:
    """Write a PNG with a palette of few colours."""
    images = _checks.optional_import("PIL.Image", "the page of figures", "study")
    with tempfile.TemporaryDirectory() as folder:
        draw(one.figure, Table.of(one.records), footnote(one.options, one.records), Path(folder))
        with images.open(Path(folder) / "figure.png") as picture, _files.replacing(target) as beside:
            # No dithering: dots would make it larger and the lines uneven.
            picture.convert("RGB").quantize(COLOURS, dither=images.Dither.NONE).save(beside, optimize=True)
