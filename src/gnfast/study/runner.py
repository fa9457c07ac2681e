"""How a study runs: each point kept as soon as it is there; here, or on the workers of a Dask cluster."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from gnfast.study.jobs import Compute, Record, attempt
from gnfast.study.store import Store
from gnfast.study.workers import Pool


def run(points: Iterable[Any], store: Store, compute: Compute, pool: Pool | None = None) -> Iterator[Record]:
    """Compute what the points lack in the store, and yield each point once it is kept there.

    A point that fails is kept with its error and the rest go on; the next run tries it again. An interruption loses
    the points being computed and no other: one here, one for each worker of a pool.

    Raises:
        ValueError: a data file is not the one any more that the store has results of.
    """
    store.adopt()
    return _run(points, store, compute, pool)


def _run(points: Iterable[Any], store: Store, compute: Compute, pool: Pool | None) -> Iterator[Record]:
    for parts, todo in store.missing(points).items():
        found = store.finding(parts, compute)
        records = (attempt(found, point) for point in todo) if pool is None else pool.records(found, todo)
        for record in records:
            store.write(record)
            yield record
