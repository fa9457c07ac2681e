"""The state of a long search in a file, from which the same search goes on."""

from __future__ import annotations

import json
import os
import time
import zipfile
from typing import Any

import numpy as np

from gnfast import _arrays, _checks, _files
from gnfast._arrays import Array
from gnfast.operators import SymmetricOperator

EVERY = 5.0  # seconds between two writes: a state may be hundreds of megabytes
FORMAT = 2
PROBES = 64  # entries of a product by which an operator is recognised


class Checkpoint:
    """One search's file: written whole or not at all, and read only for the search that wrote it.

    Args:
        path: Where it is kept.
        A: The operator; a product with a fixed vector recognises it.
        search: What else must be the same: names and plain values.
        drawn: Columns of the first block that were random; of the search that is gone on with, once it was loaded.
    """

    def __init__(self, path: Any, A: SymmetricOperator, search: dict[str, Any], drawn: int = 0) -> None:
        self.drawn = drawn
        self.path = _checks.path(path, "checkpoint")
        folder = self.path.parent
        if not folder.is_dir():
            raise FileNotFoundError(f"checkpoint is {str(self.path)!r}, but there is no folder {str(folder)!r}")
        if self.path.is_dir() or not os.access(folder, os.W_OK):
            raise PermissionError(
                f"checkpoint is {str(self.path)!r}, which cannot be written; pass the path of a file in your own folder"
            )
        _files.clear_left(self.path)
        self._search = {"format": FORMAT, "size": A.shape[0], "dtype": A.dtype.name, **search}
        self._dtype = A.dtype
        self._probe = _probe(A)
        self._written = time.monotonic()

    def load(self) -> dict[str, Array] | None:
        """The state to go on from, or None for a new search.

        Raises:
            ValueError: The file is damaged, or of another search.
        """
        if not self.path.exists():
            return None
        try:
            # Opened here: np.load leaves open what it cannot read.
            with self.path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                parts = {name: file[name] for name in file.files}
            search = json.loads(str(parts.pop("search")))
            probe = np.asarray(parts.pop("probe"), float)
            drawn = int(parts.pop("drawn", self.drawn))
            if not isinstance(search, dict) or probe.ndim != 1:
                raise ValueError("its parts are not those of a checkpoint")
        except (OSError, EOFError, KeyError, ValueError, TypeError, zipfile.BadZipFile, RuntimeError) as error:
            raise ValueError(
                f"checkpoint {str(self.path)!r} is damaged or no checkpoint of gnfast ({error}); "
                "delete it to start anew, or pass another path"
            ) from error
        other = [name for name in self._search if search.get(name) != self._search[name]]
        if other:
            name = other[0]
            raise self._foreign(f"its {name} is {search.get(name)!r}, not {self._search[name]!r}")
        slack = 1e3 * np.finfo(self._dtype).eps * max(float(np.abs(self._probe).max()), 1e-300)
        if probe.shape != self._probe.shape or not np.abs(probe - self._probe).max() <= slack:
            raise self._foreign("its operator gives another product with a fixed vector")
        self.drawn = drawn
        return {name: np.ascontiguousarray(np.atleast_2d(part)) for name, part in parts.items()}

    def save(self, state: dict[str, Array], last: bool) -> None:
        """Write the state: the last one, and others every few seconds."""
        now = time.monotonic()
        if not last and now - self._written < EVERY:
            return
        arrays: dict[str, Any] = dict(state)
        with _files.replacing(self.path) as beside, beside.open("xb") as file:
            np.savez(file, search=np.array(json.dumps(self._search)), probe=self._probe, drawn=self.drawn, **arrays)
            file.flush()
            os.fsync(file.fileno())
        self._written = time.monotonic()

    def remove(self) -> None:
        """The search is over: there is nothing to go on from."""
        self.path.unlink(missing_ok=True)

    def damaged(self, error: Exception) -> ValueError:
        """The error for a file that cannot be read."""
        return ValueError(f"checkpoint {str(self.path)!r} is damaged ({error}); delete it to start anew")

    def _foreign(self, why: str) -> ValueError:
        return ValueError(
            f"checkpoint {str(self.path)!r} is of another search: {why}; pass another path, or delete it to start anew"
        )


def _probe(A: SymmetricOperator) -> Array:
    """Some entries of the product with a fixed vector, and its norm."""
    size = A.shape[0]
    vector = np.random.default_rng(2).standard_normal(size).astype(A.dtype)
    image = _arrays.to_host(A.matvec(A.device.upload(vector))).astype(float)
    at = np.linspace(0, size - 1, min(size, PROBES)).astype(int)
    return np.append(image[at], np.linalg.norm(image))
