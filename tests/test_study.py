"""Studies: what they compute, that nothing finished is lost, and that each mistake is one clear sentence."""

from __future__ import annotations

import math
import os
import re
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import oracles
import pytest
from killing import killed_at

import gnfast as gn
from gnfast import _extras, cli
from gnfast.study import Family, Point, Record, Store, Study, run
from gnfast.study.figures import draw
from gnfast.study.quantities import QUANTITIES
from gnfast.study.tables import HEADERS, markdown, number, summarise, write_csv
from gnfast.study.width import WidthStudy

pytest.importorskip("sklearn")

TINY = """
widths = [3, 7]
depths = [2, 3]
seeds = [4, 0]
samples = 6
outputs = 3
[[networks]]
kind = "linear"
[[networks]]
kind = "residual"
skip = "1/sqrt(L)"
[[networks]]
kind = "leaky_relu"
slope = 0.2
depths = 2
"""


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return Study.from_toml(path)


def values(kappa=2.0, **others):
    """Values of a point, as the default quantities have them."""
    found = dict.fromkeys(("kappa", "lower", "upper", "lambda_max"), kappa) | {"lambda_min": 1.0}
    found |= {"rank": 30, "dimension": 30, "space": "samples", "method": "dense", "products": 0, "parameters": 99}
    found |= {"paper": math.inf, "paper_name": "", "tightest": 3.0, "tightest_name": "deep", "kappa_data": 5.0}
    return found | {"seconds": 0.1} | others


# ---------------------------------------------------------------- the grid
def test_default_study_is_the_grid_of_the_readme():
    study = Study()
    points = study.points()
    assert len(points) == len({point.key for point in points}) == (3 + 3 + 2) * 5 * 3
    assert {point.kind for point in points} == {"linear", "residual", "leaky_relu"}
    assert {point.width for point in points} == {16, 64, 256, 1024, 4096}
    assert all(point.samples == (50 if point.kind == "leaky_relu" else None) for point in points)
    assert {point.beta for point in points if point.kind == "residual"} == {1.0}
    assert max(point.width for point in study.quick().points()) <= 256
    assert set(study.quick().points()) < set(points)


def test_points_come_seed_by_seed_and_narrow_first(tiny):
    points = tiny.points()
    assert len(points) == 2 * (4 + 4 + 2)
    assert [point.seed for point in points] == [4] * 10 + [0] * 10
    assert [point.width for point in points[:10]] == [3] * 5 + [7] * 5


def test_keys_do_not_change():
    assert Point("linear", 64, 2, 0).key == '{"depth": 2, "kind": "linear", "seed": 0, "width": 64}'
    point = Point("residual", 64, 4, 1, samples=30, skip="1/L", outputs=3)
    assert point.key == (
        '{"depth": 4, "kind": "residual", "outputs": 3, "samples": 30, "seed": 1, "skip": "1/L", "width": 64}'
    )
    assert point.beta == 0.25 and replace(point, skip="1/sqrt(L)").beta == 0.5


def test_definition_is_the_grid_and_not_the_name(tiny):
    assert replace(tiny, name="other").definition == tiny.definition
    assert replace(tiny, seeds=(4, 1)).definition != tiny.definition
    assert Study(networks=(Family("linear"),)).definition != Study().definition


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("widhts = [3]", ValueError, "key of the study is 'widhts'.*did you mean 'widths'"),
        (
            "[[networks]]\nkind = 'linear'\nslop = 0.1",
            ValueError,
            "networks.* number 1 is 'slop'.*did you mean 'slope'",
        ),
        ("[[networks]]\nkind = 'leaky_rely'", ValueError, "kind is 'leaky_rely'.*did you mean 'leaky_relu'"),
        ("[[networks]]\nslope = 0.1", ValueError, "has no key 'kind'"),
        ("networks = 3", TypeError, "networks is 3"),
        ("networks = [3]", TypeError, "number 1 is 3 but must be a table"),
        ("networks = []", TypeError, "one or more tables"),
        ("widths = '64'", ValueError, "widths is '64' but must be an integer, or text like '10L'"),
        ("widths = [64, 2.5]", TypeError, "widths is 2.5 but must be an integer"),
        ("widths = [0]", ValueError, "widths is 0 but must be at least 1"),
        ("widths = []", ValueError, "widths is an empty list"),
        ("depths = true", TypeError, "depths is True"),
        ("seeds = [-1]", ValueError, "seeds is -1"),
        ("samples = 'many'", ValueError, "samples is 'many' but must be a number of samples or 'all'"),
        ("whiten = 1", TypeError, "whiten is 1 but must be true or false"),
        ("loss = 'mae'", ValueError, "loss is 'mae'"),
        ("dtype = 'float16'", ValueError, "dtype is 'float16'"),
        ("data = 3", TypeError, "data is 3 but must be text"),
        ("name = ''", ValueError, "name is empty"),
        ("[[networks]]\nkind = 'residual'\nskip = '1/M'", ValueError, "skip is '1/M'"),
        ("[[networks]]\nkind = 'residual'\nskip = nan", ValueError, "skip is nan"),
        ("widths = [3", ValueError, "not valid TOML"),
    ],
)
def test_mistakes_in_a_file_are_one_sentence(tmp_path, text, error, words):
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(error, match=words) as caught:
        Study.from_toml(path)
    assert "wrong.toml" in str(caught.value) and "\n" not in str(caught.value)


def test_the_example_of_the_documentation(tmp_path):
    page = (Path(__file__).parents[1] / "docs" / "studies.md").read_text()
    (tmp_path / "mine.toml").write_text(page.partition("```toml\n")[2].partition("```")[0])
    points = Study.from_toml(tmp_path / "mine.toml").points()
    assert len(points) == (3 * 3 * 2 * 2 + 1 * 3 * 2 * 2) * 3 * 2 * 2
    assert {(point.width, point.depth) for point in points} >= {(40, 2), (160, 8), (64, 2)}
    assert {point.slope for point in points if point.kind == "tanh"} == {0.01}
    assert all(f"`{name}`" in page for name in QUANTITIES)


def test_kinds_are_all_activations(tmp_path):
    from gnfast.networks.layers import ACTIVATIONS

    study = Study(networks=({"kind": list(ACTIVATIONS)[1:], "init": "lecun_normal"},), widths=6, depths=2, seeds=0)
    points = replace(study, samples=5, outputs=2).points()
    assert {point.activation for point in points} == {*ACTIVATIONS} - {"identity"}
    for point in points:
        net = gn.mlp([64, 6, 2], activation=point.kind, init="lecun_normal", seed=0)
        kappa = gn.cond(gn.GaussNewton(net, gn.datasets.load("digits", 5))).value
        assert study.compute(point)["kappa"] == pytest.approx(kappa, rel=1e-9)
    with pytest.raises(ValueError, match="no gain for 'silu'; choose another, such as lecun"):
        Family(("relu", "silu"))


@pytest.mark.parametrize(("value", "words"), [(0.0, "zero everywhere"), (np.nan, "has 10 NaN or infinite values")])
def test_data_without_a_spectrum_are_told(tmp_path, value, words):
    np.save(tmp_path / "X.npy", np.full((5, 2), value))
    for whiten in (False, True):
        with pytest.raises(ValueError, match=words):
            Study().compute(Point("linear", 4, 2, 0, data=str(tmp_path / "X.npy"), whiten=whiten))


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        Study.from_toml(tmp_path / "none.toml")


# ---------------------------------------------------------------- computing
def test_points_are_what_the_library_says(tiny):
    for point in tiny.points()[:10]:
        found = tiny.compute(point)
        X = gn.datasets.load("digits", 6)
        net = gn.mlp(
            [64, *[point.width] * (point.depth - 1), 3],
            activation={"leaky_relu": "leaky_relu"}.get(point.kind, "identity"),
            slope=0.2 if point.kind == "leaky_relu" else 0.01,
            skip=1 / math.sqrt(point.depth) if point.kind == "residual" else 0.0,
            seed=point.seed,
        )
        K = oracles.gram(net, X)
        assert found["rank"] == oracles.rank(K), point
        # Eigenvalues of the Gram matrix carry an error of a few eps * lambda_max.
        np.testing.assert_allclose(found["kappa"], oracles.kappa(K), rtol=1e-9 + 1e-14 * oracles.kappa(K))
        assert found["kappa"] <= found["tightest"] * (1 + 1e-9) and found["tightest"] <= found["paper"]
        assert found["parameters"] == net.num_parameters and set(found) | {"seconds"} == set(tiny.columns)


def test_bounds_of_the_paper_are_named():
    compute = Study(quantities="bounds").compute
    wide = Point("linear", 80, 3, 0, samples=20, outputs=3)
    assert [compute(wide)[name] for name in ("paper_name", "tightest_name")] == ["linear.convex", "linear.joint"]
    assert compute(replace(wide, kind="residual", skip=1.0))["paper_name"] == "linear.convex"
    assert compute(replace(wide, kind="leaky_relu", depth=2))["paper_name"] == "relu.paper"
    deep = compute(replace(wide, kind="leaky_relu"))
    assert deep["paper"] == math.inf and deep["paper_name"] == ""
    for kind, depth in (("linear", 3), ("residual", 3), ("leaky_relu", 2)):  # it has none with biases, which ours take
        biased = compute(replace(wide, kind=kind, depth=depth, bias=True, skip=1.0 if kind == "residual" else 0.0))
        assert (biased["paper"], biased["paper_name"]) == (math.inf, "") and math.isfinite(biased["tightest"])


def test_other_quantities():
    study = Study(quantities=["forms", "partial_products", "eigenvalues", "trace"])
    point = Point("residual", 17, 3, 1, samples=9, outputs=2, skip=0.5)
    found, subject = study.compute(point), point.subject()
    K = oracles.gram(subject.net, subject.X)
    np.testing.assert_allclose(found["eigenvalue"], np.linalg.eigvalsh(K)[::-1], atol=1e-13 * np.linalg.norm(K))
    np.testing.assert_allclose(found["trace"], np.trace(K), rtol=1e-10)
    weights = [layer.weight + 0.5 * np.eye(*layer.weight.shape) for layer in subject.net.dense]
    s = np.linalg.svd(weights[1] @ weights[0], compute_uv=False)
    np.testing.assert_allclose(
        [found["kappa_before"][1], found["smallest_before"][1]], [s[0] / s[-1], s[-1]], rtol=1e-9
    )
    s = np.linalg.svd(weights[2] @ weights[1], compute_uv=False)
    np.testing.assert_allclose([found["kappa_after"][0], found["smallest_after"][0]], [s[0] / s[-1], s[-1]], rtol=1e-9)
    assert found["layer"] == [1, 2]
    assert oracles.kappa(K) <= found["joint"] <= found["matrix"] * (1 + 1e-9)
    assert found["matrix"] <= found["convex"] <= found["loose"] and found["relu"] == found["deep"] == math.inf
    with pytest.raises(ValueError, match="leave 'partial_products' out"):
        study.compute(replace(point, kind="tanh", skip=0.0))


def test_a_point_that_fails_is_kept_with_its_error_and_the_rest_go_on(tmp_path):
    study = Study(networks=(Family("linear"),), widths=(3,), depths=(2,), seeds=(0,), samples=(9999, 5))
    with Store(tmp_path / "results.sqlite", study) as store:
        records = list(run(study.points(), store, study.compute))
        assert store.read(study.points()) == records and store.finished(study.points()) == 1
        failed, good = records
        assert failed.values is None and failed.error == (
            "ValueError: samples is 9999 but digits has 1797 rows; choose 1 to 1797"
        )
        assert good.values and not good.error
        again = list(run(study.points(), store, lambda point: values()))
    assert [record.point for record in again] == [failed.point] and again[0].values


def test_an_interruption_loses_nothing_that_was_finished(tiny, tmp_path):
    points, seen = tiny.points(), []

    def stops_at(limit):
        def stop(point):
            if len(seen) == limit:
                raise KeyboardInterrupt
            seen.append(point)
            return values(float(len(seen)))

        return stop

    with Store(tmp_path / "results.sqlite", tiny) as store, pytest.raises(KeyboardInterrupt):
        list(run(points, store, stops_at(7)))
    with Store(tmp_path / "results.sqlite", tiny) as store:
        assert [record.point for record in store.read(points)] == points[:7]
        list(run(points, store, stops_at(99)))
        assert seen == points
        assert [record.values["kappa"] for record in store.read(points)] == list(range(1, len(points) + 1))
        assert not list(run(points, store, stops_at(0)))


@pytest.mark.parametrize("options", [[], ["--workers", "2"]], ids=["here", "on workers"])
def test_killed_in_the_middle_it_goes_on_to_the_same_table(tmp_path, options):
    path = tmp_path / "tiny.toml"
    np.save(tmp_path / "X.npy", np.random.default_rng(1).standard_normal((7, 5)))
    many = TINY.replace("seeds = [4, 0]", f"seeds = [4, 0]\ndata = '{tmp_path / 'X.npy'}'")
    path.write_text(many)
    study = Study.from_toml(path)
    command = ["study", str(path), "--no-figure", "--out"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"

    killed_at(6, [*command, killed, *options])
    with Store(killed / "results.sqlite", study) as store:
        before = store.read(study.points())
    assert len(before) == 5 < len(study.points())
    for folder in (killed, whole):
        subprocess.run([sys.executable, "-m", "gnfast", *command, str(folder)], check=True, stdout=subprocess.DEVNULL)
    assert (killed / "table.md").read_text() == (whole / "table.md").read_text()
    with Store(killed / "results.sqlite", study) as store:
        after = store.read(study.points())
    assert len(after) == len(study.points())
    assert all(record in after for record in before)  # with the seconds they took: not one was computed again


# ---------------------------------------------------------------- the file
def test_results_are_plain_columns(tmp_path):
    study = Study(networks=(Family("linear"),), widths=(3,), depths=(2,), seeds=(0,), samples=(5,))
    [point] = study.points()
    with Store(tmp_path / "results.sqlite", study) as store:
        store.write(Record(point, values(8.0)))
        store.write(Record(point, values(9.0)))
    rows = sqlite3.connect(tmp_path / "results.sqlite").execute("SELECT kind, width, kappa, paper, error FROM points")
    assert rows.fetchall() == [("linear", 3, 9.0, math.inf, "")]


def test_a_file_of_another_study_is_refused(tiny, tmp_path):
    path = tmp_path / "results.sqlite"
    Store(path, WidthStudy("digits", 5, False, "identity", 0.01, 0.0, 3, 2, 0, (8,), 2)).close()
    with pytest.raises(ValueError, match="another study than 'tiny'; choose another folder or delete the file"):
        Store(path, tiny)


def test_points_of_other_defaults_are_refused(tiny, tmp_path):
    path = tmp_path / "results.sqlite"
    Store(path, tiny).close()
    with sqlite3.connect(path) as db:
        db.execute("""UPDATE basis SET value = '"float32"' WHERE name = 'dtype'""")
    with pytest.raises(ValueError, match=r'other defaults .dtype "float32", now "float64".*choose another folder'):
        Store(path, tiny)
    with sqlite3.connect(path) as db:
        db.execute("DROP TABLE basis")  # as older files are
    Store(path, tiny).close()


def test_results_of_an_edited_data_file_are_refused(tmp_path, monkeypatch, capsys):
    pytest.importorskip("typer")
    monkeypatch.chdir(tmp_path)
    X = np.random.default_rng(0).standard_normal((5, 4))
    np.save("X.npy", X)
    Path("mine.toml").write_text("widths = 3\ndepths = 2\nseeds = 0\ndata = 'X.npy'\n[[networks]]\nkind = 'linear'")
    command = ["study", "mine.toml", "--no-figure"]
    assert cli.main(command) == 0
    np.save("X.npy", 2 * X)
    capsys.readouterr()
    assert cli.main(command) == 2
    assert "data file 'X.npy' has changed since 'gnfast-mine/results.sqlite' was begun" in capsys.readouterr().err
    assert cli.main(["study", "show", "gnfast-mine"]) == 0  # what was found stays true of what was there
    np.save("X.npy", X)
    assert cli.main(command) == 0


def test_a_table_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")

    class Breaks(Record):
        def rows(self):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_csv([Breaks(Point("linear", 3, 2, 0), values())], path)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    write_csv([Record(Point("linear", 3, 2, 0), values())], path)
    assert path.read_text().startswith("kind,width") and list(tmp_path.iterdir()) == [path]
    with pytest.raises(OSError, match="none") as caught:
        write_csv([], tmp_path / "none" / "table.csv")
    assert caught.value.filename == str(tmp_path / "none" / "table.csv")


@pytest.mark.parametrize("content", [b"not a database", b"SQLite format 3\0" + b"\xff" * 4096])
def test_a_file_that_is_no_database_is_refused_and_left_alone(tiny, tmp_path, content):
    path = tmp_path / "results.sqlite"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="not a results file of gnfast or is damaged"):
        Store(path, tiny)
    assert path.read_bytes() == content


def test_a_damaged_file_is_refused(tiny, tmp_path):
    path = tmp_path / "results.sqlite"
    Store(path, tiny).close()
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    with pytest.raises(ValueError, match="damaged"):
        Store(path, tiny).read(tiny.points())


def test_a_database_of_another_program_or_version_is_refused(tiny, tmp_path):
    foreign, newer = tmp_path / "foreign.sqlite", tmp_path / "newer.sqlite"
    with sqlite3.connect(foreign) as db:
        db.execute("CREATE TABLE points (x)")
    with pytest.raises(ValueError, match="database of another program"):
        Store(foreign, tiny)
    Store(newer, tiny).close()
    with sqlite3.connect(newer) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(ValueError, match=r"another version of gnfast .format 99"):
        Store(newer, tiny)


def test_a_folder_that_cannot_be_written(tiny, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot be made .*; choose one that can be written"):
        Store(tmp_path / "file" / "results.sqlite", tiny)
    (tmp_path / "results.sqlite").mkdir()
    with pytest.raises(OSError, match=r"cannot be read or written .*; choose a folder that can be written"):
        Store(tmp_path / "results.sqlite", tiny)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root writes to read-only folders")
def test_a_read_only_folder(tiny, tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OSError, match="choose a folder that can be written"):
            Store(tmp_path / "results.sqlite", tiny)
    finally:
        tmp_path.chmod(0o700)


def test_a_file_that_turns_read_only_is_told(tiny, tmp_path):
    store = Store(tmp_path / "results.sqlite", tiny)
    store._db.execute("PRAGMA query_only = ON")  # what SQLite does on a read-only disk, for root too
    with pytest.raises(OSError, match=r"cannot be read or written .*readonly"):
        store.write(Record(tiny.points()[0], values()))
    store.close()


# ---------------------------------------------------------------- tables and the figure
def some_records(tiny):
    kappas = iter([1.0, 3.0, 2.0] * 99)
    found = [Record(point, values(next(kappas) * point.width, rank=point.width)) for point in tiny.points()]
    return [replace(r, values=None, error="no") if r.point.width == 3 and r.point.depth == 3 else r for r in found]


def test_seeds_are_summarised():
    points = [Point("linear", 64, 2, seed) for seed in range(4)]
    found = [
        Record(points[0], values(5.0, paper=9.0, rank=29)),
        Record(points[1], values(1.0, paper=7.0)),
        Record(points[2], values(2.0, paper=math.inf)),
        Record(points[3], None, "no"),
    ]
    [cell] = summarise(found)
    assert cell.kappa == (1.0, 2.0, 5.0) and cell.paper == 9.0 and cell.tightest == 3.0
    assert (cell.rank, cell.dimension, cell.failed, cell.limit) == (29, 30, 1, 5.0)
    [cell] = summarise(found[3:])
    assert all(map(math.isnan, cell.kappa)) and cell.failed == 1


def test_the_limit_is_that_of_the_data_only_where_it_is():
    def limit(**options):
        [cell] = summarise([Record(Point("linear", 64, 2, 0, **options), values())])
        return cell.limit

    assert limit() == limit(skip=0.5) == 5.0
    assert all(map(math.isnan, (limit(bias=True), limit(loss="cross_entropy"))))


def test_numbers_are_short():
    assert [number(x) for x in (2.0, 1234.5, 3.14159e-7, 1.6e12, math.inf, math.nan)] == [
        "2", "1.23e3", "3.14e-7", "1.6e12", "-", "-",
    ]  # fmt: skip


def test_markdown_table(tiny):
    lines = markdown(summarise(some_records(tiny))).splitlines()
    shown = [header for header in HEADERS if header != "paper"]  # no column of nothing but dashes
    assert lines[0] == "| network | " + " | ".join(shown) + " |"
    assert len(lines) == 2 + 10 and len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith("| linear, digits, n = 6 | 3 | 2 | ")
    assert any(line.endswith("| - | - | - | - | - | 2 |") for line in lines)  # all seeds failed
    whole = [record for record in some_records(tiny) if record.values]
    assert "failed" not in markdown(summarise(whole))


def test_figure(tiny, tmp_path):
    pytest.importorskip("matplotlib")
    draw(summarise(some_records(tiny)), tmp_path / "figure.png")
    content = (tmp_path / "figure.png").read_bytes()
    assert content.startswith(b"\x89PNG") and len(content) > 20_000
    failed = [Record(point, None, "no") for point in tiny.points()]
    with pytest.raises(ValueError, match="nothing to draw"):
        draw(summarise(failed), tmp_path / "empty.png")


def test_figure_without_matplotlib(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=re.escape(_extras.install("study"))):
        draw(summarise(some_records(tiny)), tmp_path / "figure.png")
