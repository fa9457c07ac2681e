"""The command line: readable results, and one sentence with exit status 2 for every mistake."""

from __future__ import annotations

import csv
import sqlite3
import subprocess
import sys
from contextlib import closing

import numpy as np
import pytest

import gnfast as gn
from gnfast import _extras, cli
from gnfast.study import commands

pytest.importorskip("sklearn")
pytest.importorskip("typer")


@pytest.fixture
def data(tmp_path):
    """A path of data with duplicates, zero columns and awkward sizes."""
    X = np.random.default_rng(0).standard_normal((11, 5))
    X[3] = X[8]
    X[:, 2] = 0
    np.save(tmp_path / "X.npy", X)
    return str(tmp_path / "X.npy")


def call(capsys, *arguments):
    status = cli.main(list(arguments))
    out, err = capsys.readouterr()
    return status, out, err


def refused(capsys, *arguments):
    """Return the one sentence that a mistake ends in."""
    status, out, err = call(capsys, *arguments)
    assert status == 2 and not out
    assert err.startswith("gnfast: ") and err.count("\n") == 1 and "Traceback" not in err
    return err


def test_info(capsys):
    status, out, _ = call(capsys, "info")
    assert status == 0 and str(gn.build_info()["version"]) in out


def test_cond(capsys, data):
    status, out, _ = call(
        capsys,
        "cond",
        "--widths",
        "5,9,3",
        "--activation",
        "leaky_relu",
        "--slope",
        "0.2",
        "--seed",
        "7",
        "--data",
        data,
    )
    net = gn.mlp([5, 9, 3], activation="leaky_relu", slope=0.2, seed=7)
    found = gn.cond(gn.GaussNewton(net, np.load(data)))
    assert status == 0
    assert f"{found.value:.8g}" in out
    assert f"{found.rank} of {found.dimension}" in out and found.rank < found.dimension  # the duplicate
    for word in ("interval", "lambda max", "lambda min", "none applies"):
        assert word in out


def test_cond_shows_bounds(capsys, data):
    for activation, words in (("leaky_relu", ("relu.paper", "deep.schur")), ("identity", ("linear.joint",))):
        arguments = ["--widths", "5,40,3", "--activation", activation, "--data", data, "--samples", "3"]
        status, out, _ = call(capsys, "cond", *arguments)
        assert status == 0 and all(word in out for word in words)


def test_cond_options(capsys, data):
    options = ["--activation", "tanh", "--skip", "0.5", "--bias", "--init", "xavier_uniform", "--loss", "cross_entropy"]
    status, out, _ = call(capsys, "cond", "--widths", "5,9,3", "--data", data, "--samples", "3", "--certify", *options)
    net = gn.mlp([5, 9, 3], activation="tanh", skip=0.5, bias=True, init="xavier_uniform")
    found = gn.cond(gn.GaussNewton(net, gn.datasets.load(data, 3), loss="cross_entropy"))
    assert status == 0 and f"{found.value:.6g}"[:6] in out and "3 samples" in out


def test_cond_whitens(capsys, data):
    status, out, _ = call(capsys, "cond", "--widths", "4,9,3", "--activation", "identity", "--data", data, "--whiten")
    assert status == 0 and "11 samples of 4 features" in out


def test_cond_casts_data_to_the_network(capsys, data):
    status, out, _ = call(capsys, "cond", "--widths", "5,9,3", "--dtype", "float32", "--data", data)
    assert status == 0 and "float32" in out


def test_cond_of_saved_weights(capsys, data, tmp_path):
    pytest.importorskip("safetensors")
    net = gn.mlp([5, 8, 2], activation="tanh", seed=3)
    net.save(tmp_path / "net.safetensors")
    weights = str(tmp_path / "net.safetensors")
    status, out, _ = call(capsys, "cond", "--weights", weights, "--data", data)
    assert status == 0 and f"{gn.cond(gn.GaussNewton(net, np.load(data))).value:.8g}" in out
    assert "leave out --seed, --bias" in refused(
        capsys, "cond", "--weights", weights, "--data", data, "--bias", "--seed", "1"
    ).replace("--bias, --seed", "--seed, --bias")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--widths", "5,x,3"], "--widths is '5,x,3' but must be whole numbers"),
        (["--widths", "6,9,3"], "X has 5 columns but the network takes 6 features"),
        (["--widths", "5,0,3"], "must be at least 1"),
        (["--widths", "5,9,3", "--activation", "rellu"], "did you mean 'relu'"),
        (["--widths", "5,9,3", "--loss", "mae"], "loss is 'mae'"),
        (["--widths", "5,9,3", "--samples", "99"], "samples is 99 but"),
        (["--widths", "5,9,3", "--weights", "x"], "either as --widths 64,1024,10 or as --weights FILE"),
        ([], "either as --widths 64,1024,10 or as --weights FILE"),
        (["--weights", "none.safetensors"], "no such file"),
        (["--widths", "5,9,3", "--data", "none.npy"], "no such file"),
        (
            ["--widths", "5,9,3", "--data", "cifar"],
            "'digits', 'mnist', 'photographs', the path of a .npy, .npz, .csv or .parquet file",
        ),
    ],
)
def test_mistakes_of_cond(capsys, data, arguments, words):
    assert words in refused(capsys, "cond", "--data", data, *arguments)


def test_integer_data_is_told(capsys, tmp_path):
    np.save(tmp_path / "X.npy", np.ones((3, 5), np.uint8))
    told = refused(capsys, "cond", "--widths", "5,2", "--data", str(tmp_path / "X.npy"))
    assert "uint8" in told and "say --dtype float64 to convert them" in told
    assert call(capsys, "cond", "--widths", "5,2", "--data", str(tmp_path / "X.npy"), "--dtype", "float64")[0] == 0


def test_unknown_command_and_option(capsys):
    for arguments, words in ((["cnod"], "No such command"), (["cond", "--slop", "1"], "--slope"), (["cond"], "--data")):
        status, _, err = call(capsys, *arguments)
        assert status == 2 and words in err and "Traceback" not in err


def test_without_the_extra(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "typer", None)
    assert f"needs typer and rich; install them with: {_extras.install('study')}" in refused(capsys, "info")


STUDY = """
data = "X.npy"
widths = [3, 9]
depths = [2]
seeds = [0, 1]
samples = {samples}
[[networks]]
kind = "linear"
"""


@pytest.fixture
def study(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(STUDY.format(samples=5))
    return tmp_path


def test_study_and_again(capsys, study):
    pytest.importorskip("matplotlib")
    status, out, _ = call(capsys, "study", "small.toml")
    folder = study / "gnfast-small"
    assert status == 0 and "linear, X.npy, n = 5" in out and "4/4" in out
    assert sorted(path.name for path in folder.iterdir()) == ["figure.png", "results.sqlite", "table.md"]
    table, results = (folder / "table.md").read_bytes(), (folder / "results.sqlite").read_bytes()
    (folder / "table.md").unlink()
    assert call(capsys, "study", "small.toml", "--no-figure")[0] == 0
    assert (folder / "table.md").read_bytes() == table and (folder / "results.sqlite").read_bytes() == results


def test_study_with_points_that_fail(capsys, monkeypatch, study):
    monkeypatch.setattr("gnfast.study.commands.look", lambda *_, **__: None)  # which would refuse 9999
    (study / "small.toml").write_text(STUDY.format(samples="[5, 9999]"))
    status, out, _ = call(capsys, "study", "small.toml", "--no-figure", "--out", "out")
    assert status == 1 and "4 of 8 points failed" in out and "9999" in out
    assert "| 2 |" in (study / "out" / "table.md").read_text()


def test_study_interrupted(capsys, study, monkeypatch):
    run = commands.run

    def interrupted(*arguments):
        yield next(run(*arguments))
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "run", interrupted)
    status, out, _ = call(capsys, "study", "small.toml")
    assert status == 130 and "stopped with 1 of 4 points kept" in out
    monkeypatch.setattr(commands, "run", run)
    assert call(capsys, "study", "small.toml", "--no-figure")[0] == 0


def test_study_show_export_plot(capsys, monkeypatch, study):
    monkeypatch.setattr("gnfast.study.commands.look", lambda *_, **__: None)  # which would refuse 9999
    pytest.importorskip("matplotlib")
    (study / "small.toml").write_text(STUDY.format(samples="[5, 9999]") + "skip = [0, 0.5]\n")
    call(capsys, "study", "run", "small.toml", "--no-figure", "--out", "out")
    status, out, _ = call(capsys, "study", "show", "out")
    assert status == 0 and "linear, skip 0.5, X.npy, n = 5" in out and "8 of 16 points" in out
    status, out, _ = call(capsys, "study", "export", "out")
    rows = list(csv.DictReader(out.splitlines()))
    assert status == 0 and len(rows) == 16 and sum("9999" in row["error"] for row in rows) == 8
    [row] = [r for r in rows if (r["samples"], r["width"], r["seed"], r["skip"]) == ("5", "9", "1", "0.5")]
    net = gn.mlp([5, 9, 10], activation="identity", skip=0.5, seed=1)
    found = gn.cond(gn.GaussNewton(net, gn.datasets.load("X.npy", 5)))
    assert float(row["kappa"]) == pytest.approx(found.value, rel=1e-8)
    assert call(capsys, "study", "export", "out", "--out", "all.csv")[0] == 0
    assert (study / "all.csv").read_text() == out
    assert call(capsys, "study", "export", "out", "--out", "all.md")[0] == 0
    assert (study / "all.md").read_text() == (study / "out" / "table.md").read_text()
    assert call(capsys, "study", "plot", "out")[0] == 0
    assert call(capsys, "study", "plot", "out", "--out", "figure.svg")[0] == 0
    assert (study / "out" / "figure.png").exists() and "<svg" in (study / "figure.svg").read_text()
    for arguments, words in (
        (["show", "nowhere"], "folder 'nowhere' holds no results.sqlite; pass the folder that gnfast study filled"),
        (["plot", "out", "--out", "figure.jpg"], "the ending of 'figure.jpg' is '.jpg' but must be one of"),
        (["export", "out", "--out", "all.xls"], "but must be one of '.csv', '.md'"),
    ):
        assert words in refused(capsys, "study", *arguments)


def test_study_without_condition_numbers(capsys, study):
    (study / "small.toml").write_text('quantities = ["trace", "eigenvalues"]\n' + STUDY.format(samples=5))
    status, out, _ = call(capsys, "study", "small.toml", "--out", "out")
    assert status == 0 and "trace" in out and "kappa" not in out and "figure" not in out
    status, out, _ = call(capsys, "study", "export", "out")
    rows = list(csv.DictReader(out.splitlines()))
    assert {int(row["position"]) for row in rows} == set(range(50 if len(rows) == 200 else len(rows) // 4))
    assert "nothing to draw" in refused(capsys, "study", "plot", "out")


def test_help_of_study(capsys):
    for arguments, words in (
        (["--help"], ("show", "export", "plot", "FILE.toml")),
        (["run", "--help"], ("--workers",)),
    ):
        status, out, _ = call(capsys, "study", *arguments)
        assert status == 0 and all(word in out for word in words)


def test_mistakes_of_study(capsys, study):
    (study / "wrong.toml").write_text("widhts = 3")
    assert "did you mean 'widths'" in refused(capsys, "study", "wrong.toml")
    assert "no such file" in refused(capsys, "study", "none.toml")
    both = ["--workers", "2", "--scheduler", "tcp://127.0.0.1:9"]
    assert "give one of the two" in refused(capsys, "study", "small.toml", *both)
    assert "--workers is 0 but must be at least 1" in refused(capsys, "study", "small.toml", "--workers", "0")
    assert "cannot be made" in refused(capsys, "study", "small.toml", "--out", "small.toml/out")
    call(capsys, "study", "small.toml", "--no-figure")
    with closing(sqlite3.connect(study / "gnfast-small" / "results.sqlite")) as db, db:
        db.execute("""UPDATE study SET definition = '{"draws": 3}'""")
    assert "another study" in refused(capsys, "study", "small.toml")
    (study / "gnfast-small" / "results.sqlite").write_text("not a database")
    assert "not a results file" in refused(capsys, "study", "small.toml")


def test_as_a_module():
    done = subprocess.run([sys.executable, "-m", "gnfast", "study", "none.toml"], capture_output=True, text=True)
    told = "gnfast: the study file is 'none.toml', and there is no such file; pass the path of a file that is there\n"
    assert done.returncode == 2 and done.stderr == told
