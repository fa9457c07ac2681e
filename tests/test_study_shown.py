"""Tables and figures of studies of any size: no number is cut on any terminal, no figure is wider than a page."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gnfast import cli
from gnfast.study.figures import columns_of, draw
from gnfast.study.tables import Cell, print_study, print_table

rich_console = pytest.importorskip("rich.console")

CELL = Cell("linear, X[a].npy", 64, 2, (1.23e-200, 4.56e100, 7.89e200), 2.0, 3.0, math.nan, 123456, 123456, 3)
OTHERS = {f"quantity_{i}": (-1.0) ** i * 1.01**i * 1e100 for i in range(12)}
CELLS = [replace(CELL, width=width, others=OTHERS) for width in (64, 1_000_000_000)]


def shown(width, terminal, show):
    stream = io.StringIO()
    show(rich_console.Console(width=width, force_terminal=terminal, color_system=None, file=stream))
    return stream.getvalue()


def words(text):
    return [line.split() for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("width", [10, 40, 79, 80, 200])
def test_no_number_is_cut(width):
    whole = words(shown(80, False, lambda console: print_study(console, CELLS)))
    assert whole[0] == ["linear,", "X[a].npy"] and len(whole) == 1 + 2 + len(CELLS)
    headers, _, *rows = whole[1:]
    text = shown(width, True, lambda console: print_study(console, CELLS))
    parts = words(text)[1:]
    found = [{}, {}]
    for start in range(0, len(parts), 4):
        names, _, *body = parts[start : start + 4]
        assert names[:2] == ["width", "depth"]  # each part tells which network it is of
        for kept, row in zip(found, body, strict=True):
            kept.update(zip(names, row, strict=True))
    assert found == [dict(zip(headers, row, strict=True)) for row in rows]
    if width >= 40:
        assert max(map(len, text.splitlines())) <= width


def test_wide_and_piped_tables_are_whole():
    wide = shown(40, True, lambda console: print_study(console, CELLS, wide=True))
    piped = shown(40, False, lambda console: print_study(console, CELLS))
    assert wide == piped and len(words(piped)) == 5 and piped.isascii()
    assert max(map(len, piped.splitlines())) > 200


def test_a_table_fits_to_the_last_column():
    body = [("1", "22222", "333")]
    for width, parts in ((13, 1), (12, 2), (1, 2)):
        text = shown(width, True, lambda console: print_table(console, "t", ("a", "b", "c"), body))
        assert sum(line.split()[:1] == ["a"] for line in text.splitlines()) == parts, width


def test_study_show(tmp_path, monkeypatch, capsys):
    pytest.importorskip("typer")
    monkeypatch.chdir(tmp_path)
    np.save("X.npy", np.random.default_rng(0).standard_normal((6, 3)))
    Path("mine.toml").write_text(
        "widths = [4, 5]\ndepths = 2\nseeds = 0\ndata = 'X.npy'\n"
        "quantities = ['condition', 'bounds', 'forms', 'trace']\n"
        "[[networks]]\nkind = 'linear'"
    )
    assert cli.main(["study", "mine.toml", "--no-figure"]) == 0
    capsys.readouterr()
    assert cli.main(["study", "show", "gnfast-mine"]) == 0
    piped = capsys.readouterr().out
    assert "\x1b" not in piped and piped.isascii()
    monkeypatch.setenv("FORCE_COLOR", "1")  # what rich takes for a terminal
    monkeypatch.setenv("COLUMNS", "60")
    assert cli.main(["study", "show", "gnfast-mine"]) == 0
    narrow = capsys.readouterr().out
    assert narrow.count("width") > 1 and "trace_error" in narrow
    assert cli.main(["study", "show", "gnfast-mine", "--wide"]) == 0
    assert capsys.readouterr().out.count("width") == 1


# ---------------------------------------------------------------- figures
def test_columns_wrap():
    assert [columns_of(n) for n in (1, 2, 3, 4, 5, 8, 9)] == [1, 2, 3, 4, 3, 4, 5]
    for n in range(1, 500):
        columns = columns_of(n)
        bands = -(-n // columns)
        assert columns <= n <= columns * bands and columns * bands - n < bands + columns
        assert columns <= max(4, math.sqrt(2 * n) + 1)


def test_a_figure_of_many_families_wraps(tmp_path):
    pytest.importorskip("matplotlib")
    from matplotlib.image import imread

    cells = [
        replace(
            CELL, family=f"leaky ReLU, slope 0.{i}, skip 1/sqrt(L), X.npy, whitened, n = 300", kappa=(1.0, 2.0, 3.0)
        )
        for i in range(1, 12)
    ]
    draw(cells, tmp_path / "many.png")
    draw(cells[:1], tmp_path / "one.png")
    height, width, _ = imread(tmp_path / "many.png").shape
    _, one, _ = imread(tmp_path / "one.png").shape
    assert one < width < 5 * one and height < 2 * width
