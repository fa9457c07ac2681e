"""Data from files: what is read, and that each mistake is told by its place in the file."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest

from gnfast import _extras, data_files, datasets

X = np.array([[1.5, -2.0, 3e-7], [4.0, 0.1, 6.0]])


@pytest.mark.parametrize(
    "text",
    [
        "1.5,-2,3e-7\n4,.1,6\n",
        "a,b,c\n1.5,-2,3e-7\n4,.1,6",
        "\ufeffa,b,c\r\n1.5,-2,3e-7\r\n4,.1,6\r\n",
        '"a, b";"c";"d"\n"1.5";-2;3e-7\n4;.1;6\n\n',
        "a\tb\tc\n1.5\t-2\t3e-7\n4\t.1\t6\n",
        "\n a , b , c \n 1.5 , -2 , 3e-7 \n 4 , .1 , 6 \n",
    ],
)
def test_text(tmp_path, text):
    path = tmp_path / "X.CSV"
    path.write_bytes(text.encode())
    np.testing.assert_array_equal(datasets.load(str(path)), X)
    np.testing.assert_array_equal(datasets.load(str(path), 1), X[:1])


def test_one_column_and_one_row(tmp_path):
    (tmp_path / "column.csv").write_text("height\n1\n2\n3\n")
    (tmp_path / "row.csv").write_text("1,2,3\n")
    assert datasets.load(str(tmp_path / "column.csv")).shape == (3, 1)
    assert datasets.load(str(tmp_path / "row.csv")).shape == (1, 3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2\n3,cat\n", "has 'cat' in line 3, column 'b'; write numbers alone"),
        ("1,2\n3,cat\n", "has 'cat' in line 2, column 2"),
        ("a,b\n1,2\n3,\n", "has an empty cell in line 3, column 'b'; fill it"),
        ("a,b\n1,2\n3\n", "has 1 column in line 3 but 2 before"),
        ("a,b\n1,2,3\n", "has 3 columns in line 2 but 2 before"),
        ("1,2\n3,4,5\n", "has 3 columns in line 2 but 2 before"),
        (",a\n0,2\n1,4\n", "first column without a name, as pandas writes its index; write it with index=False"),
        ("a,b\n", "has no rows of numbers"),
        ("a,b\n\n", "has no rows of numbers"),
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("1,000\n1_000,2\n", "has '1_000' in line 2"),
        ("1;2,5\n3;4,5\n", "has '1;2' in line 1"),
        ("a,2\n3,4\n", "has 'a' in line 1, column 1"),
    ],
)
def test_what_is_no_table_of_numbers(tmp_path, text, words):
    path = tmp_path / "X.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=words) as caught:
        datasets.load(str(path))
    assert "\n" not in str(caught.value) and "X.csv" in str(caught.value)


def test_text_in_another_encoding(tmp_path):
    (tmp_path / "X.csv").write_bytes("größe\n1\n".encode("latin-1"))
    with pytest.raises(ValueError, match="is not text in UTF-8"):
        datasets.load(str(tmp_path / "X.csv"))


def test_npz(tmp_path):
    path = tmp_path / "X.npz"
    np.savez(path, values=X)
    np.testing.assert_array_equal(datasets.load(str(path)), X)
    np.savez(path, X=X, y=np.ones(2))
    np.testing.assert_array_equal(datasets.load(str(path)), X)
    np.savez(path, a=X, y=np.ones(2))
    with pytest.raises(ValueError, match="holds the arrays 'a', 'y'; name the one that is meant X"):
        datasets.load(str(path))
    for content in (b"", b"PK\x03\x04nonsense", b"text"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"holds no NumPy arrays; write it with numpy\.savez"):
            datasets.load(str(path))


def test_parquet(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "X.parquet"

    def write(**columns):
        parquet.write_table(arrow.table(columns), path)
        return str(path)

    found = datasets.load(write(a=[1.5, 4.0], b=[-2, 7], c=[True, False]))
    np.testing.assert_array_equal(found, [[1.5, -2, 1], [4, 7, 0]])
    single = datasets.load(write(a=np.float32([1, 2]), b=np.float32([3, 4])))
    assert single.dtype == np.float32
    with pytest.raises(ValueError, match="has string in column 'name'"):
        datasets.load(write(a=[1.0], name=["cat"]))
    with pytest.raises(ValueError, match="has 1 empty cell in column 'a'"):
        datasets.load(write(a=[1.0, None]))
    path.write_bytes(b"text")
    with pytest.raises(ValueError, match="is no Parquet file"):
        datasets.load(str(path))


def test_parquet_without_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "X.parquet").write_bytes(b"")
    with pytest.raises(ImportError, match=re.escape(_extras.install("parquet"))):
        datasets.load(str(tmp_path / "X.parquet"))


@pytest.mark.parametrize("kind", ["uint8", "int16", "int64", "uint64", "bool", "float16", "float32"])
def test_casts_that_change_nothing(kind):
    found = data_files.cast(np.array([[0, 1], [1, 1]], kind), "float64", "data")
    assert found.dtype == np.float64 and found.tolist() == [[0, 1], [1, 1]]


def test_casts_that_would_change_an_integer():
    large = np.array([[1, 2**24 + 1]])
    assert data_files.cast(large, "float64", "data")[0, 1] == 2**24 + 1
    with pytest.raises(ValueError, match="holds the integer 16777217 at row 1, column 2, which float32 does not have"):
        data_files.cast(large, "float32", "data")
    with pytest.raises(ValueError, match="the integer 9007199254740993 at row 2, column 1, which float64"):
        data_files.cast(np.array([[1], [2**53 + 1]]), "float64", "data")
