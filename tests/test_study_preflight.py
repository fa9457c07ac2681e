"""What a study refuses before its first point, and how it tells what failed: each once, with a remedy that works."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest

from gnfast import cli
from gnfast.study import Point, Record, Store, Study, preflight
from gnfast.study.tables import failures
from gnfast.study.width import WidthStudy

pytest.importorskip("typer")

TOML = """
widths = [4, {width}]
depths = {depth}
seeds = [0, 1]
data = "X.npy"
outputs = 2
{more}
[[networks]]
kind = "{kind}"
{family}
"""


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("X.npy", np.random.default_rng(2).standard_normal((6, 3)))

    def write(width=5, depth=3, kind="linear", more="", family=""):
        Path("mine.toml").write_text(TOML.format(width=width, depth=depth, kind=kind, more=more, family=family))

    return write


def call(capsys, *arguments):
    status = cli.main(list(arguments))
    return (status, *capsys.readouterr())


@pytest.mark.parametrize(
    ("width", "kind", "more", "family"),
    [
        (10**9, "linear", "", ""),
        (10**12, "linear", "whiten = true\nsamples = 5", ""),
        (2**53, "residual", "", "skip = 0.5"),
        ('"100000000000L"', "linear", "dtype = 'float32'", ""),
    ],
)
def test_networks_that_fit_nowhere_are_sampled_instead(capsys, study, width, kind, more, family):
    study(width, kind=kind, more=more, family=family)
    status, out, err = call(capsys, "study", "mine.toml")
    assert (status, out) == (2, "") and err.count("\n") == 1 and not Path("gnfast-mine").exists()
    assert "the weights alone of width" in err
    command = shlex.split(err.partition("without weights: ")[2])
    assert command[0] == "gnfast"
    assert call(capsys, *command[1:], "--draws", "2", "--out", "out")[0] == 0  # as it is told


def test_the_command_names_what_the_point_is():
    point = Point("leaky_relu", 10**9, 4, 0, data="X.npy", samples=7, outputs=2, slope=0.2, skip="1/L")
    told = preflight.without_weights(point, "my data")
    assert shlex.split(told.partition(": ")[2])[2:] == [
        "--data", "my data/X.npy", "--depth", "4", "--widths", "1000000", "--k", "2", "--activation", "leaky_relu",
        "--slope", "0.2", "--skip", "0.25", "--samples", "7",
    ]  # fmt: skip
    for other in (dict(bias=True), dict(init="orthogonal"), dict(loss="cross_entropy"), dict(kind="silu")):
        assert preflight.without_weights(Point(**{"kind": "relu", "width": 9, "depth": 2, "seed": 0} | other)) == ""


def test_weights_are_counted():
    for depth in (2, 3, 5):
        point = Point("linear", 7, depth, 0, outputs=3, dtype="float32")
        sizes = [1, *[7] * (depth - 1), 3]
        assert preflight.weight_bytes(point) == 4 * sum(a * b for a, b in zip(sizes[1:], sizes[:-1], strict=True))


def test_networks_that_are_there_already_are_no_obstacle(capsys, study, monkeypatch):
    study(width=50)
    assert call(capsys, "study", "mine.toml", "--no-figure")[0] == 0
    monkeypatch.setattr(preflight, "machine_bytes", lambda: 1000.0)
    assert call(capsys, "study", "mine.toml", "--no-figure")[0] == 0
    study(width=60)
    assert call(capsys, "study", "mine.toml", "--no-figure")[0] == 2


@pytest.mark.parametrize("width", [2**53 + 1, 10**30, f'"{2**53}L"', f'"{10**30}L"'])
def test_widths_beyond_all_machines(capsys, study, width):
    study(width)
    status, out, err = call(capsys, "study", "mine.toml", "--scheduler", "tcp://127.0.0.1:9")
    assert (status, out) == (2, "") and err.count("\n") == 1
    command = shlex.split(err.partition("without weights: ")[2])[1:]
    assert call(capsys, *command, "--data", "X.npy", "--draws", "2")[0] == 0


def test_integers_that_no_results_file_holds():
    for key in ("seeds", "samples", "depths", "outputs"):
        with pytest.raises(ValueError, match=f"{key} is {2**63} but must be from [01] to {2**63 - 1}"):
            Study(**{key: 2**63})
    with pytest.raises(ValueError, match=r"widths is .* but must be from 1 to 9007199254740992"):
        WidthStudy("digits", 5, False, "identity", 0.01, 0.0, 3, 2, 0, (10**30,), 2)


def test_the_largest_integers_are_kept(tmp_path):
    point = Point("linear", 2**53, 2, 2**63 - 1, samples=2**63 - 1)
    study = Study(widths=point.width, seeds=point.seed, samples=point.samples, depths=2)
    with Store(tmp_path / "results.sqlite", study) as store:
        store.write(Record(study.points()[0], None, "no"))
        assert store.read(study.points())[0].point == study.points()[0]


# ---------------------------------------------------------------- failures
def test_failures_are_told_once(capsys, study):
    study(more="samples = [5, 9999, 99999]")
    status, out, _ = call(capsys, "study", "mine.toml", "--no-figure")
    assert status == 1 and out.count("ValueError") == 1 and "8 of 12 points failed" in out
    status, out, _ = call(capsys, "study", "show", "gnfast-mine")
    assert status == 0 and out.count("ValueError") == 1 and "8 points failed: ValueError: samples is 9999" in out


def test_failures_of_other_kinds_are_told_apart():
    errors = ["a is 3 of 1,000", "a is 12.5e-3 of 7", "b is 3", "", "a is 4 of 1"]
    found = failures(Record(Point("linear", 3, 2, seed), None, error) for seed, error in enumerate(errors))
    assert [line.partition(" (first")[0] for line in found] == [
        "3 points failed: a is 3 of 1,000", "1 point failed: b is 3", "1 point failed: ",
    ]  # fmt: skip
