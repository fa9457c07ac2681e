"""The paper's figures, quick: tables that hold what is known, drawings that are there, claims that are computed."""

from __future__ import annotations

import csv
import math
import signal
import sqlite3
import subprocess
import sys
import time
from functools import cache

import numpy as np
import oracles
import pytest

import gnfast as gn
from gnfast import cli
from gnfast.paper import FIGURES, Options, Table, layers, training
from gnfast.paper.claims import bounded, changes, equal, ordered, slope, steeper, trend
from gnfast.paper.commands import make
from gnfast.paper.table import Curve
from gnfast.study import workers

for extra in ("sklearn", "matplotlib", "typer", "mlxtend"):
    pytest.importorskip(extra)
Console = pytest.importorskip("rich.console").Console

# What the quick setting does not show, by the beginnings of the statements; all other claims are reproduced there.
NOT_REPRODUCED = {
    "scaling": ("with the largest factor kappa falls",),
    "residual": tuple(f"skip connections lower kappa at the largest depth, β = {skip}" for skip in ("0.5", "1/")),
    "cnn": tuple(
        f"{words}, of the Gauss"
        for words in (
            "more filters act as depth does in an MLP: kappa grows",
            "larger kernels act as width: kappa falls",
        )
    ),
    "pruning": ("kappa at initialisation",),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Makes a quick figure once: its folder, what was said, and its rows."""

    @cache
    def make_quick(name):
        folder, console = tmp_path_factory.mktemp(name), Console(record=True, width=2000)
        assert make(console, FIGURES[name], Options("quick"), folder) == 0
        return folder, console.export_text(), rows_of(folder)

    return make_quick


def rows_of(folder):
    """The table without the seconds that its points took."""
    with (folder / "table.csv").open() as file:
        rows = [{key: number(value) for key, value in row.items()} for row in csv.DictReader(file)]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


@pytest.mark.parametrize("name", FIGURES)
def test_quick_figure(name, made):
    folder, said, rows = made(name)
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (folder / "figure.svg").read_text()
    points = FIGURES[name].study(Options("quick")).points()
    [(count, errors)] = sqlite3.connect(folder / "results.sqlite").execute(
        "SELECT count(*), sum(error != '') FROM points"
    )
    assert count == len(points) <= len(rows) and errors == 0
    for row in rows:
        for column in ("paper", "tightest", "convex", "loose", "matrix", "joint", "relu", "deep"):
            assert row.get(column, math.inf) >= row.get("kappa", 0.0) * (1 - 1e-6), (column, row)
        assert min(row.get("layerwise", math.inf), row.get("jacobian", math.inf)) >= row.get("kernels", 0) * (1 - 1e-6)

    claims = (folder / "claims.txt").read_text().splitlines()
    assert len(claims) == len(FIGURES[name].claims(Table(rows))) > 0
    for claim in claims:
        status, _, statement = claim.partition(": ")
        assert status == ("not reproduced" if statement.startswith(NOT_REPRODUCED.get(name, ("-",))) else "reproduced")
        assert claim in said


def test_killed_in_the_middle_it_goes_on_to_the_same_table(made, tmp_path):
    command = [sys.executable, "-m", "gnfast", "paper", "cnn", "--quick", "--out", str(tmp_path)]
    folder = tmp_path / "cnn-quick"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    before = []
    while len(before) < 3:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
        before = kept(folder)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = kept(folder)
    assert 3 <= len(before) < len(FIGURES["cnn"].study(Options("quick")).points())
    assert not (folder / "table.csv").exists()

    assert cli.main(command[3:]) == 0
    assert set(before) < set(kept(folder))  # with the seconds they took: not one was computed again
    whole, _, rows = made("cnn")
    assert rows_of(folder) == rows and (folder / "claims.txt").read_text() == (whole / "claims.txt").read_text()


def kept(folder):
    """All rows of a results file as they are, none as long as there is no file."""
    if not (folder / "results.sqlite").exists():
        return []
    try:
        return sqlite3.connect(folder / "results.sqlite").execute("SELECT * FROM points").fetchall()
    except sqlite3.OperationalError:  # the table is not there yet
        return []


def test_two_workers_give_the_numbers_of_one(tmp_path):
    pytest.importorskip("distributed")
    limits = pytest.importorskip("threadpoolctl").threadpool_limits
    figure, options, before = FIGURES["spectrum"], Options("quick"), gn.get_num_threads()
    gn.set_num_threads(2)
    try:
        with workers.local(2) as pool:
            assert make(Console(quiet=True), figure, options, tmp_path / "two", pool) == 0
        gn.set_num_threads(1)  # as each worker has them: sums are grouped by threads
        with limits(1, user_api="blas"):
            assert make(Console(quiet=True), figure, options, tmp_path / "one") == 0
    finally:
        gn.set_num_threads(before)
    assert rows_of(tmp_path / "two") == rows_of(tmp_path / "one")


def number(text):
    try:
        return float(text)
    except ValueError:
        return {"True": True, "False": False}.get(text, text)


def test_one_hidden_layer_is_an_equality():
    job = FIGURES["convex"].study(Options("quick"))
    point = job.points()[0]
    found, subject = job.compute(point), point.subject()
    V, W = subject.net.parameters()
    s, t = np.linalg.svd(W, compute_uv=False), np.linalg.svd(V, compute_uv=False)
    expected = (s[0] ** 2 + t[0] ** 2) / (s[-1] ** 2 + t[-1] ** 2)
    np.testing.assert_allclose([found["kappa"], found["convex"]], expected, rtol=1e-8)


# ---------------------------------------------------------------- other layers
def test_reduced_has_the_spectrum_of_a_network_with_batch_normalisation():
    rng = np.random.default_rng(5)
    X, units = rng.standard_normal((23, 4)) + 1.0, 9
    V, W = rng.standard_normal((units, 4)), rng.standard_normal((10, units))
    normal = gn.BatchNorm(np.ones(units), np.zeros(units), training=True)
    G = gn.GaussNewton(gn.Network([gn.Dense(V), normal, gn.Dense(W)]), X)
    found, expected = np.linalg.eigvalsh(layers.reduced(G, X)), np.linalg.eigvalsh(G.gram().to_dense())
    assert len(found) == 10 * 5
    np.testing.assert_allclose(found, expected[-50:], rtol=1e-9, atol=1e-12 * expected[-1])
    assert abs(expected[:-50]).max() < 1e-12 * expected[-1]


def test_unrolled_is_the_convolution():
    rng = np.random.default_rng(6)
    kernels, x = rng.standard_normal((3, 2, 4)), rng.standard_normal((2, 11))
    expected = [sum(np.correlate(x[j], kernel[j], "valid") for j in range(2)) for kernel in kernels]
    np.testing.assert_allclose(layers.unrolled(kernels, 11) @ x.ravel(), np.ravel(expected), rtol=1e-13, atol=1e-13)


# ---------------------------------------------------------------- training
def test_descend_is_gradient_descent():
    rng = np.random.default_rng(3)
    X, Y = rng.standard_normal((7, 5)), rng.standard_normal((7, 3))
    net = gn.prune(gn.mlp([5, 4, 3], activation="tanh", bias=True, seed=1), 0.4)
    J = oracles.jacobian(net, X)
    steps = list(training.descend(net, X, Y, rate=0.1, batch=7, steps=3))
    assert [step for step, _ in steps] == [0, 1, 2, 3]
    flat = [np.concatenate([a.ravel() for a in now.parameters()]) for _, now in steps]
    expected = flat[0].copy()
    expected[net.kept] -= (
        0.1 * (J.T @ (net(X) - Y).ravel() / 7)[net.kept if J.shape[1] == len(expected) else slice(None)]
    )
    np.testing.assert_allclose(flat[1], expected, rtol=1e-12, atol=1e-14)
    assert training.loss_of(steps[-1][1], X, Y) < training.loss_of(net, X, Y)
    epochs = [now for _, now in training.descend(net, X, Y, rate=0.1, batch=3, steps=5)]
    assert training.loss_of(epochs[-1], X, Y) < training.loss_of(net, X, Y)


# ---------------------------------------------------------------- tables and claims
def test_curves_collect_seeds():
    rows = [{"x": x, "y": y, "c": c} for x, y, c in [(2, 5.0, "b"), (1, 3.0, "a"), (2, 7.0, "b"), (1, math.inf, "b")]]
    b, a = Table([*rows, {"error": "no", "x": 1, "c": "a"}]).curves("x", "y", "c")
    assert (b.by, b.x, b.y, b.middle) == ("b", [2], [[5.0, 7.0]], [6.0]) and (a.x, a.y) == ([1], [[3.0]])


def test_slope_with_its_error():
    rng = np.random.default_rng(0)
    x = np.linspace(0, 1, 50)
    found = slope(list(zip(x, 2 * x + 0.1 * rng.standard_normal(50), strict=True)))
    coefficients, covariance = np.polyfit(x, 2 * x + 0.1 * np.random.default_rng(0).standard_normal(50), 1, cov=True)
    np.testing.assert_allclose(found, [coefficients[0], math.sqrt(covariance[0, 0])], rtol=1e-10)
    assert slope([(0, 1), (1, 5)]) == (4.0, math.inf) and slope([(0, 1), (1, 5)]).sign == 0


def test_claims_can_fail():
    rise, flat = (
        Curve("a", [1, 2, 3], [[1.0, 1.1], [2.0, 2.1], [4.0, 4.1]]),
        Curve("b", [1, 2], [[1.0, 2.0], [1.5, 1.0]]),
    )
    assert changes([rise], 1, "it grows").holds and trend([rise], 1, "it grows").holds
    assert not changes([rise, flat], 1, "both grow").holds and not changes([rise], -1, "it falls").holds
    assert steeper(rise, [flat], "it is steeper").holds and not steeper(flat, [rise], "it is steeper").holds
    assert not steeper(rise, [rise], "it is steeper").holds and not steeper(rise, [], "it is steeper").holds
    assert not trend([flat], 1, "it grows").holds and not trend([rise], -1, "it falls").holds
    high, low, near = ("high", [9.0, 9.1]), ("low", [1.0, 1.1]), ("near", [1.0, 1.3])
    assert ordered([high, low], "first").holds
    assert not ordered([low, high], "first").holds and not ordered([near, low], "first").holds
    table = Table([{"kappa": 2.0, "bound": 2.0, "none": math.inf}, {"kappa": 3.0, "bound": 2.9, "none": math.inf}])
    assert not bounded(table, ("bound",)).holds and not bounded(table, ("none",)).holds
    assert not equal(table, "bound", "it is kappa").holds and equal(table, "kappa", "it is kappa").holds
    assert str(ordered([low, high], "first")).startswith("not reproduced: first (kappa: 1.05")


# ---------------------------------------------------------------- the command
def test_the_command(capsys, tmp_path):
    assert cli.main(["paper", "list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in FIGURES)
    assert cli.main(["paper", "convex", "--quick", "--out", str(tmp_path)]) == 0
    assert "reproduced: kappa falls with width" in capsys.readouterr().out
    table = (tmp_path / "convex-quick" / "table.csv").read_text()
    assert cli.main(["paper", "convex", "--quick", "--out", str(tmp_path)]) == 0  # again, from what is kept
    assert (tmp_path / "convex-quick" / "table.csv").read_text() == table
    for arguments, words in (
        (["convx"], "the figure is 'convx' but must be one of"),
        (["convex", "--quick", "--full"], "exclude each other"),
    ):
        assert cli.main(["paper", *arguments]) == 2 and words in capsys.readouterr().err


@pytest.mark.parametrize("name", FIGURES)
def test_settings_differ(name):
    sizes = [len(FIGURES[name].study(Options(setting)).points()) for setting in ("quick", "usual", "full")]
    definitions = {FIGURES[name].study(Options(setting)).definition for setting in ("quick", "usual", "full")}
    assert sizes == sorted(sizes) and len(definitions) == 3


def test_cifar_takes_the_place_of_photographs(tmp_path):
    rng = np.random.default_rng(0)
    for i in (1, 2):
        records = rng.integers(0, 256, (40, 3073), np.uint8)
        records[:, 0] %= 10
        records.tofile(tmp_path / f"data_batch_{i}.bin")
    first = FIGURES["batch-norm"].study(Options("quick", str(tmp_path)))
    assert {point.data for point in first.points()} == {str(tmp_path)}
    assert math.isfinite(first.compute(first.points()[0])["kappa"])
