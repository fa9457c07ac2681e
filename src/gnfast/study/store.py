"""Where results live: one SQLite file for one study, one row for one point, one transaction for one row."""

from __future__ import annotations

import json
import math
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import astuple, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Self

from gnfast import _checks, datasets
from gnfast._runtime import build_info, get_num_threads
from gnfast.study.jobs import SERIES, Growing, Job, Part, Record, Value, Values

APPLICATION = 0x676E6673  # "gnfs", in the header of the file: tells our files from other SQLite files
VERSION = 2  # of the tables below
DEFAULT, DATA = "default", "data"  # kinds of rows of the table basis


class Run(NamedTuple):
    """One run that wrote points: when it began (UTC, ISO 8601), its wall time up to its last point, and on what.

    A point that was computed again after it failed counts again; ``threads`` are those of the machine with the file.
    """

    began: str
    seconds: float
    points: int
    threads: int
    version: str


class Store:
    """The results of one study in a SQLite file, made where it does not exist.

    Table ``points`` has a row for each finished point: ``key``, the columns of the point, ``error`` (empty if it
    succeeded) and the columns of its values, a series as a JSON list. Table ``study`` has the study's definition, table
    ``basis`` what it takes for granted: the defaults that keys leave out, and the SHA-256 of data files; older files
    have none, and are taken as they are. Table ``runs`` has a row for each run.

    A study that grows or shrinks keeps its file: rows and columns that it does not ask for stay there for the day when
    it asks for them again.

    Args:
        path: the file.
        study: the study whose results it holds.

    Raises:
        OSError: the folder or the file cannot be read or written.
        ValueError: the file holds another study, or one of other defaults, was written by another version, or is not a
            results file.
    """

    def __init__(self, path: str | Path, study: Job) -> None:
        self.path = Path(path)
        self._study, self._types = study, dict(study.columns)
        self._parts = study.parts if isinstance(study, Growing) else (tuple(self._types),)
        self._opened = time.perf_counter()
        self._run: int | None = None  # row of this run, which its first point makes
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(
                f"folder {str(self.path.parent)!r} cannot be made ({error.strerror}); choose one that can be written"
            ) from error
        with _explained(self.path):
            self._db = sqlite3.connect(self.path, timeout=30.0)
            try:
                self._open(study)
            except BaseException:
                self._db.close()
                raise

    def _open(self, study: Job) -> None:
        if _is_new(self._db):
            self._create(study)
        elif not _accepts(study, _definition(self._db, self.path)):
            raise ValueError(
                f"{str(self.path)!r} holds the results of another study than {study.name!r}; choose another folder or "
                "delete the file"
            )
        kept, now = self._basis(DEFAULT), study.points()[0].defaults()
        changed = [f"{name} {kept[name]}, now {now.get(name)}" for name in kept if now.get(name) != kept[name]]
        if changed:
            raise ValueError(
                f"{str(self.path)!r} was filled by a gnfast with other defaults ({'; '.join(changed)}), which its "
                "points leave unsaid; choose another folder or delete the file"
            )

    def _basis(self, kind: str) -> dict[str, str]:
        if not self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'basis'").fetchone():
            return {}
        return dict(self._db.execute("SELECT name, value FROM basis WHERE kind = ?", (kind,)).fetchall())

    def check_data(self) -> None:
        """Raise a ValueError if a data file of the study is here and not the one that the results are of."""
        with _explained(self.path):
            kept = self._basis(DATA)
        for source, place in self._study.sources.items():
            if kept.get(source) and datasets.fingerprint(place) not in ("", kept[source]):
                raise ValueError(
                    f"data file {place!r} has changed since {str(self.path)!r} was begun; choose another folder, or "
                    "put the old file back"
                )

    def adopt(self) -> None:
        """Make the file one of this study: its definition, its columns, the data that it names.

        Raises: as `check_data`.
        """
        self.check_data()
        study = self._study
        with _explained(self.path):
            lacking = [f"[{f.name}]" for f in fields(study.points()[0]) if f.name not in self._columns()]
            lacking += [f"[{name}] {kind}" for name, kind in self._types.items() if name not in self._columns()]
            known = self._basis(DATA)
            # An older file has no basis: what its results are of is not known.
            fresh = {} if not self._basis(DEFAULT) else {s: p for s, p in study.sources.items() if not known.get(s)}
            if _definition(self._db, self.path) == study.definition and not lacking and not fresh.keys() - known.keys():
                return
            with self._db:
                self._db.execute("UPDATE study SET definition = ?", (study.definition,))
                for column in lacking:
                    self._db.execute(f"ALTER TABLE points ADD COLUMN {column}")
                for source, place in fresh.items():
                    self._db.execute("DELETE FROM basis WHERE kind = ? AND name = ?", (DATA, source))
                    self._db.execute("INSERT INTO basis VALUES (?, ?, ?)", (DATA, source, datasets.fingerprint(place)))

    def _columns(self) -> set[str]:
        return {row[1] for row in self._db.execute("PRAGMA table_info(points)")}

    def _create(self, study: Job) -> None:
        # One transaction makes the file ours and complete, or leaves it empty.
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            if not _is_new(self._db):
                return self._open(study)  # another process was faster
            self._db.execute("CREATE TABLE study (definition TEXT NOT NULL)")
            self._db.execute("INSERT INTO study VALUES (?)", (study.definition,))
            self._db.execute("CREATE TABLE basis (kind TEXT, name TEXT, value TEXT)")
            basis = {DEFAULT: study.points()[0].defaults(), DATA: _fingerprints(study)}
            rows = [(kind, *pair) for kind, pairs in basis.items() for pair in pairs.items()]
            self._db.executemany("INSERT INTO basis VALUES (?, ?, ?)", rows)
            columns = [f"[{f.name}]" for f in fields(study.points()[0])] + ["error"]
            columns += [f"[{name}] {kind}" for name, kind in self._types.items()]
            self._db.execute(f"CREATE TABLE points (key TEXT PRIMARY KEY, {', '.join(columns)})")
            self._db.execute(f"PRAGMA application_id = {APPLICATION}")
            self._db.execute(f"PRAGMA user_version = {VERSION}")

    def write(self, record: Record) -> None:
        """Keep a record, in place of an earlier one of the same point; it is on the disk when this returns.

        Some of the values alone, or an error, leave those that the point had.
        """
        row = {"key": record.point.key, **dict(zip(_names(record.point), astuple(record.point), strict=True))}
        row |= {"error": record.error}
        row |= {name: _kept(value, self._types[name]) for name, value in (record.values or {}).items()}
        names = ", ".join(f"[{name}]" for name in row)
        change = {name: f"excluded.[{name}]" for name in row if name != "key"}
        if record.values is not None and len(record.values) < len(self._types):
            change["seconds"] = "coalesce(points.[seconds], 0) + excluded.[seconds]"
        changes = ", ".join(f"[{name}] = {value}" for name, value in change.items())
        with _explained(self.path), self._db:
            self._db.execute(
                f"INSERT INTO points ({names}) VALUES ({', '.join('?' * len(row))}) "
                f"ON CONFLICT ([key]) DO UPDATE SET {changes}",
                [*row.values()],
            )
            self._stamp()

    def _stamp(self) -> None:
        """Count the point and its time in the row of this run, so that a killed run has told its time too."""
        if self._run is None:
            columns = ", ".join(Run._fields)
            self._db.execute(f"CREATE TABLE IF NOT EXISTS runs ({columns})")  # older files have none
            run = Run(
                datetime.now(UTC).isoformat(timespec="seconds"), 0.0, 0, get_num_threads(), build_info()["version"]
            )
            self._run = self._db.execute("INSERT INTO runs VALUES (?, ?, ?, ?, ?)", run).lastrowid
        spent = time.perf_counter() - self._opened
        self._db.execute("UPDATE runs SET seconds = ?, points = points + 1 WHERE rowid = ?", (spent, self._run))

    def read(self, points: Iterable[Any]) -> list[Record]:
        """Return the records of those points that have all that the study asks for, or failed, in their order."""
        kept = self._rows()
        found = [self._record(point, *kept[point.key]) for point in points if point.key in kept]
        return [record for record in found if record is not None]

    def missing(self, points: Iterable[Any]) -> dict[tuple[Part, ...], list[Any]]:
        """Return the points that lack something, by the parts that they lack."""
        kept, found = self._rows(), dict[tuple[Part, ...], list[Any]]()
        for point in points:
            _, values = kept.get(point.key, ("", {}))
            lacking = tuple(part for part in self._parts if not _has(values, part))
            if lacking:
                found.setdefault(lacking, []).append(point)
        return found

    def finding(self, parts: tuple[Part, ...], compute: Callable[[Any], Values]) -> Callable[[Any], Values]:
        """Return what computes these parts: ``compute`` for all of them."""
        if len(parts) == len(self._parts) or not isinstance(self._study, Growing):
            return compute
        job: Any = self._study.only(parts)
        found: Callable[[Any], Values] = job.compute
        return found

    def _rows(self) -> dict[str, tuple[str, dict[str, Any]]]:
        """The error and the values of each key that the file has, null where it has no such column."""
        with _explained(self.path):
            there = [name for name in self._types if name in self._columns()]
            names = "".join(f", [{name}]" for name in there)  # in double quotes a missing one would be a string
            rows = self._db.execute(f"SELECT key, error{names} FROM points").fetchall()
        return {key: (error, dict(zip(there, values, strict=True))) for key, error, *values in rows}

    def _record(self, point: Any, error: str, values: Mapping[str, Any]) -> Record | None:
        if all(_has(values, part) for part in self._parts):
            return Record(point, {name: _given(values.get(name), kind) for name, kind in self._types.items()})
        return Record(point, None, error) if error else None

    def finished(self, points: Iterable[Any]) -> int:
        """Return how many of the points have values."""
        return sum(record.values is not None for record in self.read(points))

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _accepts(study: Job, told: str) -> bool:
    return told == study.definition or (isinstance(study, Growing) and study.accepts(told))


def _fingerprints(study: Job) -> dict[str, str]:
    return {source: datasets.fingerprint(place) for source, place in study.sources.items()}


def _names(point: Any) -> list[str]:
    return [f.name for f in fields(point)]


def _has(values: Mapping[str, Any], part: Part) -> bool:
    return any(values.get(name) is not None for name in part)


def definition(path: str | Path) -> str:
    """Return the definition of the study whose results a file holds.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it was written by another version, or is not a results file.
    """
    path = _checks.existing_file(path, "the results file")
    with _explained(path), closing(sqlite3.connect(path, timeout=30.0)) as db:
        return _definition(db, path)


def runs(path: str | Path) -> list[Run]:
    """Return the runs that filled a results file, in their order; none is known of a file that is older than the table.

    Raises: as `definition`.
    """
    path = _checks.existing_file(path, "the results file")
    with _explained(path), closing(sqlite3.connect(path, timeout=30.0)) as db:
        _definition(db, path)  # that it is a results file
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'runs'").fetchone():
            return []
        return [Run(*row) for row in db.execute("SELECT * FROM runs ORDER BY rowid")]


def _is_new(db: sqlite3.Connection) -> bool:
    return _application(db) == 0 and not db.execute("SELECT 1 FROM sqlite_master").fetchone()


def _application(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA application_id").fetchone()[0])


def _definition(db: sqlite3.Connection, path: Path) -> str:
    if _application(db) != APPLICATION:
        raise ValueError(
            f"{str(path)!r} is a database of another program, not results of gnfast; choose another folder"
        )
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version != VERSION:
        raise ValueError(
            f"{str(path)!r} was written by another version of gnfast (format {version}, this one reads {VERSION}); "
            "choose another folder"
        )
    return str(db.execute("SELECT definition FROM study").fetchone()[0])


def _kept(value: Value | None, kind: str) -> Any:
    return json.dumps(value) if kind == SERIES and value is not None else value


def _given(value: Any, kind: str) -> Value:
    if value is None:  # SQLite has no nan
        return math.nan
    found: Value = json.loads(value) if kind == SERIES else value
    return found


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what SQLite raises into one sentence that says what to do."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise OSError(
            f"{str(path)!r} cannot be read or written ({error}); choose a folder that can be written"
        ) from error
    except sqlite3.DatabaseError as error:
        raise ValueError(
            f"{str(path)!r} is not a results file of gnfast or is damaged ({error}); choose another folder or "
            "delete the file"
        ) from error
