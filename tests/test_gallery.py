"""The page of figures: each that is there, what it showed, and what is not there; and the time that a folder keeps."""

from __future__ import annotations

import re
import shutil
import sqlite3
from contextlib import closing

import pytest

from gnfast import cli
from gnfast.paper import FIGURES
from gnfast.study import Record, Store, Study
from gnfast.study.store import runs

for extra in ("sklearn", "matplotlib", "typer"):
    pytest.importorskip(extra)


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    """A folder with two figures."""
    out = tmp_path_factory.mktemp("figures")
    for name in ("convex", "cnn"):
        assert cli.main(["paper", name, "--quick", "--out", str(out)]) == 0
    return out


def test_page(figures, tmp_path, capsys):
    page = tmp_path / "some" / "figures.md"
    page.parent.mkdir()
    assert cli.main(["paper", "gallery", "--quick", "--out", str(figures), "--page", str(page)]) == 0
    told = capsys.readouterr().out
    text = page.read_text()
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["convex", "cnn", "Not here yet"]
    for name in ("convex", "cnn"):
        claims = (figures / f"{name}-quick" / "claims.txt").read_text().splitlines()
        for claim in claims:
            status, _, words = claim.partition(": ")
            shown = status if status == "reproduced" else "**not reproduced**"
            assert f"\n* {shown}: {words}\n" in text
        holding = sum(claim.startswith("reproduced") for claim in claims)
        count = len(FIGURES[name].study(cli.paper_command.Options("quick")).points())
        assert re.search(rf"\| \[{name}\]\(#{name}\) \| {holding} of {len(claims)} \| {count} \| \d+ (s|min) \|", text)
        assert f"`gnfast paper {name} --quick`: {count} points" in text
        [place] = re.findall(rf"!\[.*\]\((images/figures/{name}\.png)\)", text)
        picture = (page.parent / place).read_bytes()
        assert picture.startswith(b"\x89PNG")
        assert len(picture) < len((figures / f"{name}-quick" / "figure.png").read_bytes())
    assert "Behind +- is half of the 95 % interval over seeds." in text
    assert re.search(r"on \d+ threads? \(gnfast [\d.]+, \d{4}-\d\d-\d\d", text)
    for name in set(FIGURES) - {"convex", "cnn"}:
        assert f"* `{name}`: `gnfast paper {name} --quick`" in text and name in told


def test_what_was_written_before_is_not_read(figures, tmp_path, capsys):
    shutil.copytree(figures, tmp_path, dirs_exist_ok=True)
    (tmp_path / "cnn-quick" / "claims.txt").write_text("reproduced: an old claim\n")
    (tmp_path / "cnn-quick" / "figure.png").write_bytes(b"an old picture")
    (tmp_path / "convex-quick" / "claims.txt").unlink()
    pages = []
    for folder in (figures, tmp_path):
        assert cli.main(["paper", "gallery", "--quick", "--out", str(folder), "--page", str(tmp_path / "p.md")]) == 0
        pages.append((tmp_path / "p.md").read_text())
    assert pages[0] == pages[1] and "an old claim" not in pages[1]
    assert (tmp_path / "images" / "p" / "cnn.png").read_bytes().startswith(b"\x89PNG")
    with closing(sqlite3.connect(tmp_path / "cnn-quick" / "results.sqlite")) as db, db:  # one point has failed since
        names = [name for _, name, *_ in db.execute("PRAGMA table_info(points)")]
        gone = ", ".join(f"[{name}] = NULL" for name in names[names.index("error") + 1 :])
        db.execute(f"UPDATE points SET error = 'no', {gone} WHERE key = (SELECT key FROM points LIMIT 1)")
    capsys.readouterr()
    assert cli.main(["paper", "gallery", "--quick", "--out", str(tmp_path), "--page", str(tmp_path / "p.md")]) == 0
    assert "not there: " in (told := capsys.readouterr().out) and "cnn" in told.partition("not there: ")[2]


def test_a_study_says_whose_results_these_are(figures, tmp_path, capsys):
    for command in ("show", "export", "plot"):
        assert cli.main(["study", command, str(figures / "cnn-quick")]) == 2
        assert "holds results of gnfast paper, not of a study; table.csv, claims.txt" in capsys.readouterr().err
    assert cli.main(["study", "show", str(figures / "convex-quick")]) == 0  # a grid of dense networks is a study


def test_figures_of_another_grid_or_unfinished_are_not_shown(figures, tmp_path, capsys):
    (tmp_path / "convex-quick").mkdir()
    for part in (figures / "cnn-quick").iterdir():  # the folder of one figure under the name of another
        (tmp_path / "convex-quick" / part.name).write_bytes(part.read_bytes())
    shutil.copytree(figures / "cnn-quick", tmp_path / "cnn-quick")
    with sqlite3.connect(tmp_path / "cnn-quick" / "results.sqlite") as db:
        db.execute("DELETE FROM points WHERE key = (SELECT key FROM points LIMIT 1)")
    assert cli.main(["paper", "gallery", "--quick", "--out", str(tmp_path)]) == 2
    words = "has no finished figure of the quick setting; make some with: gnfast paper all --quick --out"
    assert words in capsys.readouterr().err
    assert cli.main(["paper", "convex", "--page", "page.md"]) == 2
    assert "--page is where the gallery goes; leave it out of: gnfast paper convex" in capsys.readouterr().err


def test_cifar_is_part_of_the_command(figures):
    from gnfast.paper.gallery import Made

    options = cli.paper_command.Options("full", "somewhere")
    commands = {name: Made(FIGURES[name], options, figures).command for name in ("batch-norm", "convex")}
    assert commands == {
        "batch-norm": "gnfast paper batch-norm --full --cifar PATH",
        "convex": "gnfast paper convex --full",
    }


# ---------------------------------------------------------------- the time
def test_runs_add_up_and_are_kept_with_every_point(tmp_path):
    study = Study(widths=(3, 5), depths=(2,), seeds=(0,), samples=(6,), quantities=("trace",))
    path, points = tmp_path / "results.sqlite", study.points()
    values = {"trace": 1.0, "trace_error": 0.0, "seconds": 0.1}
    with Store(path, study) as store:
        assert runs(path) == []
        store.write(Record(points[0], values))
        [first] = runs(path)  # while it goes on, as a kill would leave it
        assert first.points == 1 and first.seconds > 0 and first.threads >= 1
    with Store(path, study) as store:
        store.read(points)  # a run that computes nothing is none
    with Store(path, study) as store:
        for point in points[1:]:
            store.write(Record(point, values))
    assert [run.points for run in runs(path)] == [1, len(points) - 1] and runs(path)[0] == first


def test_files_without_the_table_are_read_and_filled(tmp_path):
    study = Study(widths=(3,), depths=(2,), seeds=(0,), samples=(6,), quantities=("trace",))
    path = tmp_path / "results.sqlite"
    values = {"trace": 1.0, "trace_error": 0.0, "seconds": 0.1}
    with Store(path, study) as store:
        store.write(Record(study.points()[0], values))
    with sqlite3.connect(path) as db:
        db.execute("DROP TABLE runs")
    assert runs(path) == []
    with Store(path, study) as store:
        store.write(Record(study.points()[1], values))
    assert [run.points for run in runs(path)] == [1]
