"""Results of a study as a DataFrame: exact, typed, with what failed; and what is no study is refused."""

from __future__ import annotations

import csv
import io
import math
import re
import sys
from pathlib import Path

import pytest

from gnfast import _extras
from gnfast.study import Family, Record, Store, Study
from gnfast.study.results import RESULTS
from gnfast.study.tables import write_csv
from gnfast.study.width import WidthStudy

pandas = pytest.importorskip("pandas")

STUDY = Study(
    networks=(Family("linear", skip=(0, "1/L")),),
    widths=(3, 5),
    depths=3,
    seeds=(0, 2**63 - 1),
    samples=("all", 2**60 + 1),
    quantities=("condition", "partial_products"),
)
SERIES = ("layer", "kappa_after", "kappa_before", "smallest_after", "smallest_before")


def fill(folder):
    """Write made-up values for all points but the last one, of which one failed; return the records."""
    records = []
    with Store(folder / RESULTS, STUDY) as store:
        for i, point in enumerate(STUDY.points()[:-1]):
            values = dict.fromkeys(("lower", "upper", "lambda_max", "lambda_min"), 0.1) | {
                name: [1.0, 2.5] for name in SERIES
            }
            values |= {
                "kappa": math.inf if i == 2 else 2.0 / 3.0,
                "rank": 2**53 + 1,
                "dimension": 4,
                "space": "samples",
            }
            values |= {"method": "dense", "products": 0, "parameters": 9, "seconds": 1.0}
            records.append(Record(point, None, "ValueError: no") if i == 1 else Record(point, values))
            store.write(records[-1])
    return records


def test_all_is_there_exactly(tmp_path):
    records = fill(tmp_path)
    found = Study.load(tmp_path)
    assert list(found.records) == records and found.total == len(records) + 1
    assert repr(found) == "<Results 15 of 16 points, 1 of them failed; to_pandas() gives the table>"
    frame = found.to_pandas()
    assert len(frame) == 14 * 2 + 1
    assert [str(frame.dtypes[name]) for name in ("kappa", "width", "seed", "samples", "rank")] == [
        "float64", "int64", "int64", "Int64", "Int64",
    ]  # fmt: skip
    stream = io.StringIO()
    write_csv(records, stream)
    for told, (_, row) in zip(csv.DictReader(io.StringIO(stream.getvalue())), frame.iterrows(), strict=True):
        for name, text in told.items():  # what is missing is empty there
            assert pandas.isna(row[name]) or str(row[name]) == "" if text == "" else str(row[name]) == text, name
    assert list(frame.error[frame.error != ""]) == ["ValueError: no"] and frame.kappa.max() == math.inf
    assert set(frame["rank"].dropna()) == {2**53 + 1} and set(frame.samples.dropna()) == {2**60 + 1}
    assert list(frame["skip"].unique()) == [0.0, "1/L"] and set(frame.seed) == {0, 2**63 - 1}


def test_from_inside_the_folder_and_without_points(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Store(RESULTS, STUDY).close()
    frame = Study.load(".").to_pandas()
    assert len(frame) == 0 and list(frame.columns) == ["error"]


def test_what_is_no_study(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"holds no results\.sqlite; pass the folder"):
        Study.load(tmp_path / "none")
    Store(tmp_path / RESULTS, WidthStudy("digits", 5, False, "identity", 0.01, 0.0, 3, 2, 0, (8,), 2)).close()
    with pytest.raises(ValueError, match="holds results of gnfast width, not of a study"):
        Study.load(str(tmp_path))
    with pytest.raises(TypeError, match="folder is 3 but must be"):
        Study.load(3)


def test_without_pandas(tmp_path, monkeypatch):
    fill(tmp_path)
    found = Study.load(Path(tmp_path))
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(
        ImportError, match=re.escape(f"to_pandas needs pandas; install it with: {_extras.install('pandas')}")
    ):
        found.to_pandas()
