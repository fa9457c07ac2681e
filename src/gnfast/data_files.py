"""Inputs (n, d) from files: .npy, .npz, .csv, .tsv and .parquet, each mistake told by its place in the file."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from gnfast import _checks

NUMBERS = "write numbers alone, one sample a row"


def is_table(source: str) -> bool:
    """Whether a source is a file that `read` takes, by its ending."""
    return Path(source).suffix.lower() in READERS


def read(source: str) -> NDArray[Any]:
    """Return the array (n, d) of a file.

    Args:
        source: its path. A .npz file has one array, or one named X; a .csv or .tsv file may begin with a header, and
            its numbers become float64, as those of a .parquet file do unless all its columns are float32.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no array (n, d) of numbers; NaN and infinite values are left to those who compute with them, but for
            empty cells.
        ImportError: a .parquet file without pyarrow.
    """
    path = _checks.existing_file(source, "data")
    X = READERS[path.suffix.lower()](path)
    if not isinstance(X, np.ndarray) or X.ndim != 2:
        raise ValueError(f"data file {source!r} holds shape {np.shape(X)} but must hold (n, d), one sample a row")
    return X


def cast(X: NDArray[Any], dtype: str, name: str) -> NDArray[Any]:
    """Return an array in a floating dtype; integers and booleans only where that changes none of them.

    Raises:
        ValueError: an integer that the dtype does not have.
    """
    if X.dtype.kind == "f":
        return X.astype(dtype, copy=False)
    if X.dtype.kind not in "iub":
        return X  # what it is instead is told by those who check it
    found = X.astype(dtype)
    wrong = np.argwhere(found.astype(np.longdouble) != X.astype(np.longdouble))
    if len(wrong):
        value, wider = X[tuple(wrong[0])], " or dtype float64" * (dtype == "float32")
        raise ValueError(
            f"{name} holds the integer {value} at row {wrong[0][0] + 1}, column {wrong[0][1] + 1}, which {dtype} does "
            f"not have; scale the data{wider}"
        )
    return found


def _npy(path: Path) -> Any:
    try:
        with path.open("rb") as stream:
            return np.load(stream, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"data file {str(path)!r} holds no NumPy array; write it with numpy.save") from error


def _npz(path: Path) -> Any:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            names = list(file)
            if len(names) != 1 and "X" not in names:
                raise _several(path, names)
            return file["X" if "X" in names else names[0]]
    except (BadZipFile, EOFError, AttributeError, TypeError, ValueError) as error:
        if isinstance(error, _ToldError):
            raise
        raise ValueError(f"data file {str(path)!r} holds no NumPy arrays; write it with numpy.savez") from error


class _ToldError(ValueError):
    """An error whose sentence is final."""


def _several(path: Path, names: Sequence[str]) -> _ToldError:
    shown = ", ".join(map(repr, names)) or "none"
    return _ToldError(f"data file {str(path)!r} holds the arrays {shown}; name the one that is meant X")


def _text(path: Path) -> NDArray[np.float64]:
    """Numbers between commas, or what stands between those of the first line; a first line without numbers is a header.

    NumPy reads the file; where it cannot, the rows are gone through for the first that is wrong.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            blank, first = 0, stream.readline()
            while first and not first.strip():
                blank, first = blank + 1, stream.readline()
    except UnicodeDecodeError as error:
        raise ValueError(f"data file {str(path)!r} is not text in UTF-8; write it again in UTF-8") from error
    if not first:
        raise ValueError(f"data file {str(path)!r} is empty; {NUMBERS}")
    between = max(",;\t", key=first.count)
    header = next(csv.reader([first], delimiter=between))
    begins = all(_number(cell) is None for cell in header if cell.strip())
    if begins and not header[0].strip():
        raise ValueError(
            f"data file {str(path)!r} has a first column without a name, as pandas writes its index; write it with "
            "index=False"
        )
    form: Any = dict(delimiter=between, skiprows=blank + begins, quotechar='"', encoding="utf-8-sig", comments=None)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of a file without rows, which is told below
            X = np.loadtxt(path, ndmin=2, **form)
    except ValueError:
        raise _fault(path, between, header if begins else None) from None
    if not X.size or X.shape[1] != len(header):
        raise _fault(path, between, header if begins else None)
    return X


def _fault(path: Path, between: str, header: list[str] | None) -> ValueError:
    where = f"data file {str(path)!r}"
    with path.open(encoding="utf-8-sig", newline="") as stream:
        lines = ((number, row) for number, row in _lines(csv.reader(stream, delimiter=between)))
        if header:
            next(lines)
        count = len(header) if header else None
        for number, row in lines:
            count = count or len(row)
            if len(row) != count:
                got = _checks.counted(len(row), "column")
                return ValueError(
                    f"{where} has {got} in line {number} but {count} before; give every sample all of them"
                )
            for i, cell in enumerate(row):
                name = f"column {header[i]!r}" if header else f"column {i + 1}"
                if not cell.strip():
                    return ValueError(
                        f"{where} has an empty cell in line {number}, {name}; fill it or leave the row out"
                    )
                if _number(cell) is None:
                    return ValueError(f"{where} has {cell!r} in line {number}, {name}; {NUMBERS}")
    return ValueError(f"{where} has no rows of numbers; {NUMBERS}")


def _lines(reader: Any) -> Iterator[tuple[int, list[str]]]:
    for row in reader:
        if row:
            yield reader.line_num, row


def _number(cell: str) -> float | None:
    try:
        return float(cell) if "_" not in cell else None  # Python takes 1_000
    except ValueError:
        return None


def _parquet(path: Path) -> NDArray[Any]:
    parquet = _checks.optional_import("pyarrow.parquet", "reading .parquet files", "parquet")
    arrow = _checks.optional_import("pyarrow", "reading .parquet files", "parquet")
    try:
        table = parquet.read_table(path)
    except (arrow.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise ValueError(f"data file {str(path)!r} is no Parquet file ({reason}); write it with to_parquet") from error
    where = f"data file {str(path)!r}"
    indices = [name for name in table.column_names if name.startswith("__index_level_")]
    table = table.drop_columns(indices)
    for name, column in zip(table.column_names, table.columns, strict=True):
        types = arrow.types
        if not (types.is_floating(column.type) or types.is_integer(column.type) or types.is_boolean(column.type)):
            raise ValueError(f"{where} has {column.type} in column {name!r}; {NUMBERS}")
        if column.null_count:
            count = _checks.counted(column.null_count, "empty cell")
            raise ValueError(f"{where} has {count} in column {name!r}; fill them or leave these rows out")
    if not table.num_columns or not table.num_rows:
        raise ValueError(f"{where} has no rows of numbers; {NUMBERS}")
    columns = [column.to_numpy() for column in table.columns]
    single = all(column.dtype == np.float32 for column in columns)
    return np.column_stack([cast(c[:, None], "float32" if single else "float64", where)[:, 0] for c in columns])


READERS = {".npy": _npy, ".npz": _npz, ".csv": _text, ".tsv": _text, ".parquet": _parquet}
SHOWN = ".npy, .npz, .csv or .parquet"
