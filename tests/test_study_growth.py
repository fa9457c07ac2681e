"""Studies that grow: what is there stays, what is missing is computed, what has changed is refused."""

from __future__ import annotations

import sqlite3
from dataclasses import replace

import numpy as np
import pytest

from gnfast.study import Family, Store, Study, run

BASE = Study(networks=(Family("linear"),), widths=(3, 5), depths=(2,), seeds=(0,), data=("X.npy",), outputs=2)


@pytest.fixture
def study(tmp_path):
    np.save(tmp_path / "X.npy", np.random.default_rng(3).standard_normal((7, 4)))
    return replace(BASE, base=str(tmp_path))


def ran(job, folder):
    """Run a job; return how many points were computed, and all records."""
    with Store(folder / "results.sqlite", job) as store:
        fresh = list(run(job.points(), store, job.compute))
        return len(fresh), store.read(job.points())


@pytest.mark.parametrize(
    ("more", "fresh"),
    [
        (dict(widths=(3, 4, 5)), 1),
        (dict(widths=("4L", 5, 3)), 1),
        (dict(depths=(3, 2)), 2),
        (dict(seeds=(7, 0)), 2),
        (dict(samples=(None, 5)), 2),
        (dict(whiten=(True, False)), 2),
        (dict(networks=(Family("tanh"), Family("linear"))), 2),
        (dict(networks=(Family("linear", init=("lecun_normal", "kaiming_normal")),)), 2),
        (dict(widths=(5,)), 0),
        (dict(name="other"), 0),
        (dict(data=("./X.npy",)), 0),
        (dict(dtype="float32"), 2),  # decides the values
        (dict(outputs=3), 2),
    ],
    ids=str,
)
def test_points_that_are_there_are_kept(study, tmp_path, more, fresh):
    count, before = ran(study, tmp_path)
    assert count == 2
    other = replace(study, **more)
    count, after = ran(other, tmp_path)
    assert count == fresh and len(after) == len(other.points())
    kept = {record.point: record for record in before}
    assert all(kept.get(record.point, record) == record for record in after)  # with the seconds that they took
    assert ran(study, tmp_path) == (0, before)  # nothing of what the other left out is lost
    count, alone = ran(other, tmp_path / "alone")
    assert [(r.point, r.values | {"seconds": 0}) for r in alone] == [
        (r.point, r.values | {"seconds": 0}) for r in after
    ]


def test_another_quantity_is_found_alone(study, tmp_path, monkeypatch):
    from gnfast.study import quantities

    _, before = ran(study, tmp_path)
    wider = replace(study, quantities=("trace", *study.quantities, "eigenvalues"))

    def refused(subject):
        raise AssertionError("it was there")

    condition = quantities.QUANTITIES["condition"]
    monkeypatch.setitem(quantities.QUANTITIES, "condition", replace(condition, measure=refused))
    count, after = ran(wider, tmp_path)
    assert count == 2
    for old, new in zip(before, after, strict=True):
        assert set(new.values) - set(old.values) == {"trace", "trace_error", "eigenvalue"}
        assert {name: new.values[name] for name in old.values if name != "seconds"} == {
            name: value for name, value in old.values.items() if name != "seconds"
        }
        assert new.values["seconds"] > old.values["seconds"]
        np.testing.assert_allclose(sum(new.values["eigenvalue"]), new.values["trace"], rtol=1e-10)
    assert ran(replace(study, quantities=("eigenvalues",)), tmp_path)[0] == 0


def test_a_quantity_that_fails_leaves_the_others(study, tmp_path):
    bent = replace(study, networks=(Family("tanh"),))
    _, before = ran(bent, tmp_path)
    _, failed = ran(replace(bent, quantities=(*bent.quantities, "partial_products")), tmp_path)
    assert all("leave 'partial_products' out" in record.error for record in failed)
    assert ran(bent, tmp_path) == (0, before)


def test_data_that_join_are_watched_from_then_on(study, tmp_path):
    ran(study, tmp_path)
    np.save(tmp_path / "Y.npy", np.ones((3, 2)))
    both = replace(study, data=("X.npy", "Y.npy"))
    assert ran(both, tmp_path)[0] == 2
    np.save(tmp_path / "Y.npy", np.eye(3))
    with pytest.raises(ValueError, match=r"data file '.*Y.npy' has changed since"):
        ran(both, tmp_path)
    assert ran(study, tmp_path)[0] == 0  # which does not name them


def test_paths_start_at_the_file(study, tmp_path, monkeypatch):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (tmp_path / "mine.toml").write_text(
        "data = 'X.npy'\nwidths = 3\ndepths = 2\nseeds = 0\n[[networks]]\nkind = 'linear'"
    )
    monkeypatch.chdir(folder)
    read = Study.from_toml("../mine.toml")
    assert ran(read, folder)[1][0].values["kappa"] > 1
    (folder / "inner.toml").write_text("base = 'here'")
    with pytest.raises(ValueError, match="a key of the study is 'base'"):
        Study.from_toml("inner.toml")
    moved = tmp_path / "moved"
    moved.mkdir()
    (tmp_path / "mine.toml").rename(moved / "mine.toml")
    (tmp_path / "X.npy").rename(moved / "X.npy")
    assert ran(Study.from_toml(moved / "mine.toml"), folder)[0] == 0  # the file and its data move together


def test_a_file_of_an_older_gnfast_grows(study, tmp_path):
    _, before = ran(study, tmp_path)
    with sqlite3.connect(tmp_path / "results.sqlite") as db:
        db.execute("DROP TABLE basis")
        db.execute("DROP TABLE runs")
    count, after = ran(replace(study, widths=(3, 5, 6)), tmp_path)
    assert count == 1 and after[:2] == before
