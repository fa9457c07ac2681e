"""Where results live: one SQLite file for one study, one row for one point, one transaction for one row."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Self

from gnfast.study.grid import Point, Study

APPLICATION = 0x676E6673  # "gnfs", in the header of the file: tells our files from other SQLite files
VERSION = 1  # of the tables below


@dataclass(frozen=True)
class Outcome:
    """What was found at a point: the condition number over the non-zero spectrum, its interval, and bounds.

    ``paper`` is the bound of Zhao, Singh & Lucchi (NeurIPS 2024), ``tightest`` the smallest of all; a bound is
    infinite, and its name empty, where no statement applies. ``kappa_data`` is the condition number of X^T X / n, which
    kappa(G) of a linear network tends to as its width grows.
    """

    kappa: float
    lower: float
    upper: float
    lambda_max: float
    lambda_min: float
    rank: int
    dimension: int
    space: str
    method: str
    products: int
    parameters: int
    kappa_data: float
    paper: float
    paper_name: str
    tightest: float
    tightest_name: str
    seconds: float


@dataclass(frozen=True)
class Record:
    """A point with its outcome, or with the error that it ended in."""

    point: Point
    outcome: Outcome | None
    error: str = ""


_POINT = tuple(f.name for f in fields(Point))
_OUTCOME = tuple(f.name for f in fields(Outcome))
_COLUMNS = (*_POINT, "error", *_OUTCOME)


class Store:
    """The results of one study in a SQLite file, made where it does not exist.

    Table ``points`` has a row for each finished point: ``key``, the columns of the point, ``error`` (empty if it
    succeeded) and the columns of its outcome. Table ``study`` has the definition of the study.

    Args:
        path: the file.
        study: the study whose results it holds.

    Raises:
        OSError: the folder or the file cannot be read or written.
        ValueError: the file holds another study, was written by another version, or is not a results file.
    """

    def __init__(self, path: str | Path, study: Study) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(
                f"folder {str(self.path.parent)!r} cannot be made ({error.strerror}); choose one that can be written"
            ) from error
        with self._explained():
            self._db = sqlite3.connect(self.path, timeout=30.0)
            try:
                self._open(study)
            except BaseException:
                self._db.close()
                raise

    def _open(self, study: Study) -> None:
        application = self._db.execute("PRAGMA application_id").fetchone()[0]
        if application == 0 and not self._db.execute("SELECT 1 FROM sqlite_master").fetchone():
            self._create(study)
            return
        if application != APPLICATION:
            raise ValueError(
                f"{str(self.path)!r} is a database of another program, not results of gnfast; choose another folder"
            )
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version != VERSION:
            raise ValueError(
                f"{str(self.path)!r} was written by another version of gnfast (format {version}, this one reads "
                f"{VERSION}); choose another folder"
            )
        if self._db.execute("SELECT definition FROM study").fetchone() != (study.definition,):
            raise ValueError(
                f"{str(self.path)!r} holds the results of another study than {study.name!r}; choose another folder or "
                "delete the file"
            )

    def _create(self, study: Study) -> None:
        # One transaction makes the file ours and complete, or leaves it empty.
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            if self._db.execute("SELECT 1 FROM sqlite_master").fetchone():
                return self._open(study)  # another process was faster
            self._db.execute("CREATE TABLE study (definition TEXT NOT NULL)")
            self._db.execute("INSERT INTO study VALUES (?)", (study.definition,))
            self._db.execute(f"CREATE TABLE points (key TEXT PRIMARY KEY, {', '.join(_COLUMNS)})")
            self._db.execute(f"PRAGMA application_id = {APPLICATION}")
            self._db.execute(f"PRAGMA user_version = {VERSION}")

    def write(self, record: Record) -> None:
        """Keep a record, in place of an earlier one of the same point; it is on the disk when this returns."""
        outcome = astuple(record.outcome) if record.outcome else (None,) * len(_OUTCOME)
        row = (record.point.key, *astuple(record.point), record.error, *outcome)
        with self._explained(), self._db:
            self._db.execute(f"INSERT OR REPLACE INTO points VALUES ({', '.join('?' * len(row))})", row)

    def read(self, points: Iterable[Point]) -> list[Record]:
        """Return the records of those points that have one, in the order of the points."""
        with self._explained():
            rows = self._db.execute(f"SELECT key, error, {', '.join(_OUTCOME)} FROM points").fetchall()
        kept = {key: error or Outcome(*outcome) for key, error, *outcome in rows}
        found = [(point, kept[point.key]) for point in points if point.key in kept]
        return [Record(p, f) if isinstance(f, Outcome) else Record(p, None, f) for p, f in found]

    def finished(self, points: Iterable[Point]) -> int:
        """Return how many of the points have an outcome."""
        return sum(record.outcome is not None for record in self.read(points))

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what SQLite raises into one sentence that says what to do."""
        try:
            yield
        except sqlite3.OperationalError as error:
            raise OSError(
                f"{str(self.path)!r} cannot be read or written ({error}); choose a folder that can be written"
            ) from error
        except sqlite3.DatabaseError as error:
            raise ValueError(
                f"{str(self.path)!r} is not a results file of gnfast or is damaged ({error}); choose another folder or "
                "delete the file"
            ) from error
