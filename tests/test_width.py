"""gnfast width: what it computes is what ensembles, limits and cond give; it goes on where it was stopped."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest

import gnfast as gn
from gnfast import cli
from gnfast.study import width, width_command, width_figure
from gnfast.study.jobs import Record

pytest.importorskip("typer")
pytest.importorskip("matplotlib")


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    X = np.random.default_rng(0).standard_normal((9, 4))
    X[7] = X[2]
    np.save("X.npy", X)
    return X


def call(capsys, *arguments):
    status = cli.main(["width", "--data", str(Path("X.npy").resolve()), *arguments])  # data are kept by their path
    out, err = capsys.readouterr()
    return status, out, err


def rows(folder):
    with (folder / "table.csv").open() as stream:
        return list(csv.DictReader(stream))


def study(**changes):
    values = dict(
        data=str(Path("X.npy").resolve()), samples=None, whiten=False, activation="identity", slope=0.01, skip=0.0,
        depth=3, k=2, seed=5, widths=(20, 10**9), draws=12,
    )  # fmt: skip
    return width.WidthStudy(**values | changes)


def test_linear(capsys, data, tmp_path):
    arguments = ["--depth", "3", "--k", "2", "--draws", "12", "--widths", "20,1e9", "--seed", "5"]
    status, out, _ = call(capsys, *arguments)
    assert status == 0 and "infinite" in out and "linear, 3 layers, k = 2; X.npy, 9 x 4" in out
    folder = tmp_path / "gnfast-width"
    names = ["figure.png", "figure.svg", "results.sqlite", "table.csv", "table.md"]
    assert sorted(path.name for path in folder.iterdir()) == names
    narrow, wide, limit = rows(folder)
    s = np.linalg.svd(data, compute_uv=False)
    kappa = (s[0] / s[-1]) ** 2
    assert float(limit["kappa_q50"]) == pytest.approx(kappa, rel=1e-12)
    assert abs(float(wide["kappa_q50"]) / kappa - 1) < 1e-3 and narrow["draws"] == wide["draws"] == "12"
    assert float(narrow["paper_q50"]) > float(narrow["kappa_q95"]) > float(narrow["kappa_q50"]) > kappa
    assert narrow["rank"] == "8"
    job = study()
    kappas = np.concatenate([job.compute(point)["kappa"] for point in job.points()[:2]])
    assert float(narrow["kappa_q50"]) == np.sort(kappas)[5]
    assert cli.main(["study", "show", str(folder)]) == 2
    assert "holds results of gnfast width, not of a study; table.csv, table.md" in capsys.readouterr().err
    # the same command has nothing left to do
    before = (folder / "results.sqlite").read_bytes()
    assert call(capsys, *arguments)[0] == 0 and (folder / "results.sqlite").read_bytes() == before


def test_more_widths_and_draws_go_into_the_same_file(capsys, data, tmp_path, monkeypatch):
    first = ["--draws", "10", "--widths", "12,30"]
    assert call(capsys, *first)[0] == 0
    asked = []
    compute = width.WidthStudy.compute
    monkeypatch.setattr(width.WidthStudy, "compute", lambda self, point: asked.append(point) or compute(self, point))
    assert call(capsys, "--draws", "20", "--widths", "12,30,70")[0] == 0
    assert [(point.width, point.first) for point in asked] == [(12, 10), (30, 10), (70, 0), (70, 10)]
    assert [row["draws"] for row in rows(tmp_path / "gnfast-width")[:3]] == ["20"] * 3
    status, _, err = call(capsys, *first, "--seed", "1")
    assert status == 2 and "another study" in err


def test_interrupted(capsys, data, monkeypatch):
    compute = width.WidthStudy.compute

    def interrupted(self, point):
        if point.width > 12:
            raise KeyboardInterrupt
        return compute(self, point)

    monkeypatch.setattr(width.WidthStudy, "compute", interrupted)
    arguments = ["--draws", "10", "--widths", "12,30"]
    status, out, _ = call(capsys, *arguments)
    assert status == 130 and "stopped with 1 of 2 points kept" in out
    monkeypatch.setattr(width.WidthStudy, "compute", compute)
    assert call(capsys, *arguments)[0] == 0


def test_curve_and_limit_have_one_rank(capsys, data, tmp_path):
    np.save("X.npy", data * [1, 1, 1, 1e-10])  # of rank 4 for its singular values, 3 for X^T X
    assert call(capsys, "--depth", "3", "--k", "2", "--draws", "5", "--widths", "1e9")[0] == 0
    wide, limit = rows(tmp_path / "gnfast-width")
    assert wide["rank"] == "6" and float(wide["deviation_q50"]) < 1e-3 and float(limit["kappa_q50"]) < 100


def test_other_activations(capsys, data, tmp_path):
    arguments = ["--activation", "leaky_relu", "--slope", "0.2", "--samples", "5", "--depth", "3", "--draws", "3"]
    status, out, _ = call(capsys, *arguments, "--widths", "16,4000")
    assert status == 0 and "leaky ReLU (slope 0.2), 3 layers, k = 1; X.npy, 5 x 4" in out
    narrow, wide, limit = rows(tmp_path / "gnfast-width")
    expected = gn.limits.gram(gn.datasets.load("X.npy", 5), 3, "leaky_relu", slope=0.2).kappa
    assert float(limit["kappa_q50"]) == pytest.approx(expected)
    assert float(wide["deviation_q50"]) < 0.3 and float(narrow["paper_q50"]) == math.inf


def test_a_skip_without_a_limit_is_told(capsys, data, tmp_path):
    status, out, _ = call(
        capsys, "--activation", "tanh", "--samples", "4", "--skip", "0.5", "--widths", "30", "--draws", "2"
    )
    assert status == 0 and "no infinite width is shown: the skip of the last layer is 0.5" in " ".join(out.split())
    assert [row["network"] for row in rows(tmp_path / "gnfast-width")] == ["random"]


def test_networks_that_exist(capsys, data, tmp_path):
    pytest.importorskip("safetensors")
    net = gn.mlp([4, 25, 17, 2], "identity", seed=3)
    net.save("mine.safetensors")
    status, out, _ = call(capsys, "--weights", "mine.safetensors", "--widths", "20,50", "--draws", "4")
    assert status == 0 and "mine: 17" in out
    note = "mine is no such network: 3 layers, k = 2, hidden widths 25, 17"
    assert note in " ".join(out.split()) and note in (tmp_path / "gnfast-width" / "table.md").read_text()
    *_, mine = rows(tmp_path / "gnfast-width")
    assert float(mine["kappa_q50"]) == pytest.approx(gn.cond(gn.GaussNewton(net, data)).value, rel=1e-9)
    gn.mlp([4, 2], "identity").save("flat.safetensors")
    status, _, err = call(capsys, "--weights", "flat.safetensors", "--widths", "20")
    assert status == 2 and "no hidden dense layers" in err


@pytest.mark.parametrize(
    ("options", "differs"),
    [
        (dict(), ""),
        (dict(activation="leaky_relu", slope=0.3), "leaky_relu of slope 0.3"),
        (dict(activation="relu", bias=True), "relu, biases"),
        (dict(skip=[0.0, 0.5, 0.0]), "skip 0 and 0.5"),
    ],
)
def test_networks_that_exist_are_compared(data, options, differs):
    pytest.importorskip("safetensors")
    gn.mlp([4, 25, 25, 2], **{"activation": "identity"} | options).save("mine.safetensors")
    assert width.existing("mine.safetensors", study()).differs == differs


def test_without_any_distance_from_the_limit(capsys, data, tmp_path):
    """One sample and one output: G has one eigenvalue that is not zero, and kappa is 1 at every width."""
    status, _, _ = call(capsys, "--samples", "1", "--k", "1", "--draws", "3", "--widths", "20,50")
    assert status == 0 and (tmp_path / "gnfast-width" / "figure.png").read_bytes().startswith(b"\x89PNG")


def figure_row(m, kappa, deviation):
    return width.Row(m, 3, (kappa, kappa, kappa), (deviation, deviation, deviation), math.inf, 1, 1.0)


@pytest.mark.parametrize("last", [0.0, math.nan, math.inf])
def test_the_guide_ends_where_there_is_a_distance(tmp_path, last):
    rows = [figure_row(10, 3.0, 0.5), figure_row(100, 2.2, 0.1), figure_row(1000, 2.0, last)]
    width_figure.draw("title", rows, 2.0, [], [tmp_path / "figure.png"])
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_networks_that_exist_are_inside_of_the_figure():
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    width_figure._kappas(axes, [figure_row(10, 3e6, 0.5)], 2e6, [width.Existing("mine", 10, 5.0, "biases")])
    assert axes.get_ylim()[0] < 5.0
    assert "mine\n(biases)" in [text.get_text() for text in axes.texts]


def test_quantiles_of_infinite_condition_numbers():
    point = width.Draws(3, 0, 3)
    values = {"kappa": [2.0, math.inf, 4.0], "paper": [math.inf] * 3, "rank": [1.0, 0.0, 1.0], "seconds": 6.0}
    (row,) = width.summarise([Record(point, values), Record(point, None, "failed")], limit=math.nan)
    assert row.kappa == (2.0, 4.0, math.inf) and row.paper == math.inf and row.rank == 0 and row.seconds == 2.0


def test_default_widths():
    widths = width_command._widths(None, 9)
    assert widths[:4] == (10, 32, 100, 316) and widths[-1] == 10**9 and len(widths) == 17
    assert width_command._widths("100,1e4", 9) == (100, 10_000)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--widths", "10,x"], "--widths is '10,x' but must be whole numbers"),
        (["--widths", "1.5"], "must be whole numbers"),
        (["--widths", "0"], "must be at least 1"),
        (["--draws", "0"], "draws is 0 but must be at least 1"),
        (["--depth", "1"], "depth is 1 but must be at least 2"),
        (["--data", "none.npy"], "no such file"),
        (["--data", "zero.npy"], "are zero everywhere"),
        (["--data", "zero.npy", "--whiten"], "are zero everywhere"),
        (["--data", "nan.npy"], "the first is data 'nan.npy'[2, 1]; replace them by finite numbers"),
        (["--activation", "rellu", "--widths", "9", "--draws", "1"], "did you mean 'relu'"),
    ],
)
def test_mistakes(capsys, data, arguments, words):
    np.save("zero.npy", 0 * data)
    np.save("nan.npy", np.where(np.arange(36).reshape(9, 4) == 9, np.nan, data))
    status, out, err = call(capsys, *arguments)
    assert status == 2 and words in err and "Traceback" not in err and not out
