"""The paper's figures, quick: tables that hold what is known, drawings that are there, claims that are computed."""

from __future__ import annotations

import csv
import math
import sqlite3
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import oracles
import pytest
from killing import killed_at

import gnfast as gn
from gnfast import cli
from gnfast.paper import FIGURES, Claim, Options, Table, layers, ours, training
from gnfast.paper.claims import (
    Mean,
    across,
    bounded,
    changes,
    equal,
    everywhere,
    ordered,
    slopes,
    steeper,
    steps,
    tighter,
    trend,
)
from gnfast.paper.commands import make
from gnfast.paper.drawing import draw
from gnfast.paper.figure import Experiment, Figure, Panel
from gnfast.paper.table import Curve
from gnfast.study import workers
from gnfast.study.jobs import REAL, Keyed

for extra in ("sklearn", "matplotlib", "typer", "mlxtend"):
    pytest.importorskip(extra)
Console = pytest.importorskip("rich.console").Console

# What the quick setting does not show, by the beginnings of the statements; all other claims are reproduced there.
NOT_REPRODUCED = {
    "scaling": ("with the largest factor kappa falls",),
    "residual": (
        "skip connections slow",
        "skip connections lower kappa, of every",
        *(f"skip connections lower kappa; only β = {skip}" for skip in ("0.5", "1/")),
    ),
    "batch-norm": ("kappa falls with width", "kappa falls from each"),
    "leaky-relu": ("kappa falls from each",),
    "cnn": tuple(
        f"{words}, of the Gauss"
        for words in (
            "more filters act as depth does in an MLP: kappa grows",
            "larger kernels act as width: kappa falls",
        )
    ),
    "pruning": ("kappa at initialisation", "the more weights are pruned"),
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
    command = ["paper", "cnn", "--quick", "--out", str(tmp_path)]
    folder = tmp_path / "cnn-quick"
    killed_at(4, command)
    before = kept(folder)
    assert len(before) == 3 < len(FIGURES["cnn"].study(Options("quick")).points())
    assert not (folder / "table.csv").exists()

    assert cli.main(command) == 0
    assert set(before) < set(kept(folder))  # with the seconds they took: not one was computed again
    whole, _, rows = made("cnn")
    assert rows_of(folder) == rows and (folder / "claims.txt").read_text() == (whole / "claims.txt").read_text()


def kept(folder):
    """All rows of a results file as they are."""
    return sqlite3.connect(folder / "results.sqlite").execute("SELECT * FROM points").fetchall()


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
def curve(by, x, *seeds):
    """y of each seed along x."""
    return Curve(by, x, [dict(enumerate(values)) for values in zip(*seeds, strict=True)])


def test_curves_collect_seeds():
    found = [(2, 5.0, "b", 0), (1, 3.0, "a", 0), (2, 7.0, "b", 1), (1, math.inf, "b", 0), (1, 2.0, "b", 1)]
    rows = [{"x": x, "y": y, "c": c, "seed": seed} for x, y, c, seed in found]
    b, a = Table([*rows, {"error": "no", "x": 1, "c": "a"}]).curves("x", "y", "c")
    assert (b.by, b.x, b.y) == ("b", [1, 2], [{0: math.inf, 1: 2.0}, {0: 5.0, 1: 7.0}]) and b.middle == [math.inf, 6.0]
    assert (a.x, a.y) == ([1], [{0: 3.0}]) and b.lines == {0: [(1, math.inf), (2, 5.0)], 1: [(1, 2.0), (2, 7.0)]}
    mostly_infinite = Curve("c", [1], [{0: 1.0, 1: math.inf, 2: math.inf}])
    assert mostly_infinite.middle == [math.inf] and math.isnan(Curve("d", [1], [{0: 1.0, 1: math.nan}]).middle[0])


def test_a_slope_is_as_sure_as_seeds_agree_on_it():
    """Many points of each seed lie on its own line: they say nothing about the next seed."""
    x = [0.1 * i for i in range(50)]
    found = slopes(curve("a", x, *([math.exp(s * at) for at in x] for s in (1.0, 2.0, 6.0))))
    np.testing.assert_allclose(list(found.values()), [1.0, 2.0, 6.0], rtol=1e-12)
    mean = Mean.of(found.values())
    # Student's quantile of two degrees of freedom for 95 %.
    np.testing.assert_allclose(mean, [3.0, 4.302652729696 * math.sqrt(7.0) / math.sqrt(3)], rtol=1e-10)
    assert mean.sign == 0 and Mean.of([1.0, 1.1, 0.9]).sign == 1 and Mean.of([-1.0, -1.1, -0.9]).sign == -1
    assert Mean.of([5.0]) == (5.0, math.inf) and Mean.of([5.0]).sign == 0 and Mean.of([]).sign == 0
    assert Mean.of([math.inf, math.inf]).sign == 0


def test_claims_can_fail():
    rise, flat = curve("a", [1, 2, 3], [1.0, 2.0, 4.0], [1.1, 2.1, 4.1]), curve("b", [1, 2], [1.0, 1.5], [2.0, 1.0])
    assert changes([rise], 1, "it grows").holds and trend([rise], 1, "it grows").holds
    assert not changes([rise, flat], 1, "both grow").holds and not changes([rise], -1, "it falls").holds
    assert steeper(rise, [curve("c", [1, 2], [1.0, 1.1], [1.0, 1.1])], "it is steeper").holds
    assert not steeper(flat, [rise], "it is steeper").holds
    assert not steeper(rise, [rise], "it is steeper").holds and not steeper(rise, [], "it is steeper").holds
    many = [rise] * 8 + [curve(c, [1, 2], [2.0, 1.0], [2.1, 1.2]) for c in "xyzuv"]
    assert (
        trend(many, 1, "they grow").numbers
        == "d log kappa / d L: 8 of 13, -0.626 to 0.675; not at x; y; z; u and 1 more"
    )
    assert not trend([flat], 1, "it grows").holds and not trend([rise], -1, "it falls").holds
    assert not trend([], 1, "it grows").holds and not changes([], 1, "it grows").holds
    high, low, near = ("high", {0: 9.0, 1: 9.1}), ("low", {0: 1.0, 1: 1.1}), ("near", {0: 1.0, 1: 1.3})
    assert ordered([high, low], "first").holds
    assert not ordered([low, high], "first").holds and not ordered([near, low], "first").holds
    assert not ordered([high], "first").holds
    assert str(ordered([low, high], "first")).startswith("not reproduced: first (kappa: 1.05")


def test_a_claim_is_asked_everywhere():
    dip = curve("dip", [1, 2, 3], [8.0, 1.0, 4.0], [8.1, 1.1, 4.1])
    claim = everywhere(steps([dip], -1, lambda by, x: f"{by} at {x}"), "it falls")
    assert changes([dip], -1, "it falls").holds and not claim.holds
    assert claim.numbers == "kappa: 1 of 2, factors 0.259 to 7.68; not at dip at 3"
    low = curve("low", [1, 2, 3], [1.0, 2.0, 1.0], [1.1, 2.1, 1.1])
    claim = everywhere(across([dip, low], lambda by, x: f"x = {x}"), "the first is above")
    assert not claim.holds and claim.numbers.endswith("not at x = 2")
    assert everywhere(steps([dip], 1, lambda by, x: f"{x}"), "it grows").numbers.startswith("kappa: 1 of 2")
    assert not everywhere([], "it falls").holds


def test_bounds_that_are_no_numbers_fail():
    rows = [{"kappa": 2.0, "bound": 2.0, "none": math.inf}, {"kappa": 3.0, "bound": 2.9, "none": math.inf}]
    table = Table(rows)
    assert not bounded(table, ("bound",)).holds and not bounded(table, ("none",)).holds
    assert bounded(Table(rows[:1]), ("bound", "none")).holds
    assert not bounded(Table([*rows[:1], {"kappa": 3.0, "bound": math.nan, "none": 9.0}]), ("bound", "none")).holds
    assert not bounded(Table([*rows[:1], {"kappa": math.nan, "bound": 3.0}]), ("bound",)).holds
    assert not equal(table, "bound", "it is kappa").holds and equal(table, "kappa", "it is kappa").holds
    for wrong in (math.nan, math.inf):
        assert not equal(Table([*rows[:1], {"kappa": 3.0, "bound": wrong}]), "bound", "it is kappa").holds


def test_bounds_are_compared_network_by_network():
    """The second bound is smaller wherever both speak, though it is larger in the mean over all of its networks."""
    rows = [{"seed": seed, "a": 2.0 + seed / 9, "b": 1.0} for seed in range(3)]
    rows += [{"seed": seed, "a": math.inf, "b": 1e6} for seed in range(3)]
    better, worse = tighter(rows, "b", "a", "b is nearer"), tighter(rows, "a", "b", "a is nearer")
    assert better.holds and "over 3 networks; 3 more have b alone, 0 a alone" in better.numbers and not worse.holds
    assert not tighter([dict(row, b=math.inf, a=2.0) for row in rows[:1]] + rows, "b", "a", "b is nearer").holds
    assert not tighter([], "a", "b", "a is nearer").holds


def test_a_bound_that_is_silent_counts_among_the_networks_it_is_for():
    nothing = dict.fromkeys(ours.FORMS, math.inf)
    rows = [
        nothing | {"kind": "linear", "depth": 2, "skip": 0.0, "seed": 0, "kappa": 2.0, "convex": 4.0, "equality": 2.0},
        nothing | {"kind": "linear", "depth": 3, "skip": 0.0, "seed": 0, "kappa": 2.0},
        nothing | {"kind": "relu", "depth": 3, "skip": 0.0, "seed": 0, "kappa": 5.0, "deep": 5.0},
    ]
    shares = ours.TIGHTNESS.derive(Table(rows))
    found = {curve.by: (curve.x, curve.middle) for curve in shares.curves("share", "tightness", "bound")}
    assert found["paper: convex"] == ([0.5, 1.0], [0.0, 0.5]) and found["equality"] == ([1.0], [1.0])
    assert found["ours: any depth"] == ([1.0], [1.0]) and "paper: one hidden layer" not in found
    assert not ours.TIGHTNESS.claims(Table([dict(rows[0], joint=math.nan)]))[1].holds


@pytest.mark.parametrize(
    ("a_decade", "gap", "holds"),
    [
        (2, 1.0, [True, True, True, True]),
        (5, 1.0, [True, True, False, True]),
        (5, 0.01, [True, False, False, True]),
        (20, 1.0, [False, True, False, True]),
    ],
)
def test_spectra_that_fall_little_or_with_a_gap_are_told(a_decade, gap, holds):
    values = [10.0 ** (-i / a_decade) * (gap if i > 20 else 1.0) for i in range(41)]
    rows = [
        {"step": step, "seed": seed, "number": float(i), "eigenvalue": value}
        for step in (0, 9)
        for seed in range(3)
        for i, value in enumerate(values, 1)
    ]
    assert [claim.holds for claim in training.SPECTRUM.claims(Table(rows))] == holds


# ---------------------------------------------------------------- what is written
@dataclass(frozen=True)
class Half(Keyed):
    number: int
    seed: int = 0
    data: str = "digits"


def halves(point):
    return {"kappa": point.number / 2}


def broken(point):
    raise ValueError("broken")


def figure_of(function, numbers=(1, 2)):
    return Figure(
        "tiny",
        "Tiny",
        "halves grow",
        lambda options: Experiment("tiny", tuple(map(Half, numbers)), function, {"kappa": REAL}),
        [Panel("number", "kappa", "data", "number")],
        lambda table: [Claim("halves grow", "", True)],
    )


def test_claims_of_an_older_table_are_removed(tmp_path):
    (tmp_path / "claims.txt").write_text("reproduced: what was")
    assert make(Console(quiet=True), figure_of(broken), Options("quick"), tmp_path) == 1
    assert not (tmp_path / "claims.txt").exists()
    assert make(Console(quiet=True), figure_of(halves), Options("quick"), tmp_path) == 0
    assert (tmp_path / "claims.txt").read_text() == "reproduced: halves grow ()\n"


def test_a_drawing_that_fails_leaves_the_old_one(tmp_path, monkeypatch):
    from matplotlib.figure import Figure as Page

    table, figure = Table([{"number": 1, "kappa": 2.0, "data": "digits"}]), figure_of(halves)
    draw(figure, table, "", tmp_path)
    before = (tmp_path / "figure.png").read_bytes()

    def half(self, path, **options):
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Page, "savefig", half)
    with pytest.raises(KeyboardInterrupt):
        draw(figure, table, "", tmp_path)
    assert (tmp_path / "figure.png").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["figure.png", "figure.svg"]


def test_where_most_seeds_have_no_bound_none_is_drawn(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    drawn, plot = [], Axes.plot
    monkeypatch.setattr(Axes, "plot", lambda self, x, y, *a, **k: drawn.append(list(y)) or plot(self, x, y, *a, **k))
    rows = [
        {"number": number, "kappa": 2.0, "seed": seed, "data": "digits", "paper": 3.0 if seed < number else math.inf}
        for number in (1, 2)
        for seed in range(3)
    ]
    panel = Panel("number", "kappa", "data", "number", lines=(ours.BOUNDS[0],))
    draw(replace(figure_of(halves), panels=[panel]), Table(rows), "", tmp_path)
    assert drawn[:2] == [[2.0, 2.0], [math.inf, 3.0]]


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


def some_cifar(folder):
    rng = np.random.default_rng(0)
    for i in (1, 2):
        records = rng.integers(0, 256, (40, 3073), np.uint8)
        records[:, 0] %= 10
        records.tofile(folder / f"data_batch_{i}.bin")


def test_cifar_is_looked_at_before_anything_is_made(tmp_path, capsys):
    out = tmp_path / "out"
    assert cli.main(["paper", "batch-norm", "--quick", "--cifar", str(tmp_path), "--out", str(out)]) == 2
    assert "holds no data_batch_1.bin" in capsys.readouterr().err and not out.exists()
    some_cifar(tmp_path)
    assert cli.main(["paper", "convex", "--quick", "--cifar", str(tmp_path), "--out", str(out)]) == 0
    assert "gnfast: no colour images, so --cifar changes nothing: convex" in capsys.readouterr().err


def test_cifar_takes_the_place_of_photographs(tmp_path):
    some_cifar(tmp_path)
    first = FIGURES["batch-norm"].study(Options("quick", str(tmp_path)))
    assert {point.data for point in first.points()} == {str(tmp_path)}
    assert math.isfinite(first.compute(first.points()[0])["kappa"])
