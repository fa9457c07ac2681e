"""Workers for a study: processes on this machine, or those of a Dask scheduler that runs elsewhere."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from gnfast import _checks
from gnfast._runtime import get_num_threads, set_num_threads
from gnfast.study.jobs import Record
from gnfast.study.runner import Compute, attempt

JOIN_SECONDS = 30.0  # how long a scheduler, and then its first worker, may take to answer


class Pool:
    """The workers of a Dask client, each computing one point at a time.

    A worker gets its next point when the result of the last one is here, so that a worker that dies takes one point
    with it and no result. Dask gives that point to another worker and, after three more deaths, gives it up, which is
    recorded as its error.
    """

    def __init__(self, client: Any) -> None:
        self._client = client

    def records(self, compute: Compute, points: Iterable[Any]) -> Iterator[Record]:
        """Compute all points and yield their records as they come.

        Raises:
            ConnectionError: the scheduler is gone, or all workers are and none comes back.
        """
        from distributed import as_completed

        waiting, running = deque(points), as_completed()
        handed_out: dict[str, tuple[Any, str, Any]] = {}  # by key of the future: point, address of the worker, future

        def hand_out() -> None:
            busy = Counter(place for _, place, _ in handed_out.values())
            for place in (Counter(self._slots(wait=not busy)) - busy).elements():
                if waiting:
                    point = waiting.popleft()
                    # Not pure: a point that is tried again is computed again. Other workers: should this one die.
                    options: dict[str, Any] = dict(pure=False, workers=[place], allow_other_workers=True)
                    future = self._client.submit(attempt, compute, point, **options)
                    handed_out[future.key] = point, place, future
                    running.add(future)

        try:
            if waiting:
                hand_out()
            for future in running:
                point, _, _ = handed_out.pop(future.key)
                record = _record(future, point)
                future.release()  # or Dask would compute it again if its worker died now
                if waiting:
                    hand_out()
                yield record
        finally:
            self._client.cancel([future for _, _, future in handed_out.values()])

    def _slots(self, wait: bool) -> dict[str, int]:
        """How many points each worker can compute at once, now; or as soon as there is a worker."""
        if wait:
            try:
                self._client.wait_for_workers(1, timeout=JOIN_SECONDS)
            except TimeoutError as error:
                raise ConnectionError(
                    "the Dask scheduler has no workers; start some with: dask worker ADDRESS --nthreads 1, and run the "
                    "same command"
                ) from error
        found: dict[str, int] = self._client.nthreads()
        return found


def _record(future: Any, point: Any) -> Record:
    if future.cancelled():
        raise ConnectionError("the Dask scheduler is gone; start one and run the same command, which goes on")
    if error := future.exception():  # the worker died again and again, or could not read what it was sent
        return Record(point, None, f"{type(error).__name__}: {error}")
    found: Record = future.result()
    return found


@contextmanager
def local(count: int) -> Iterator[Pool]:
    """Start so many worker processes on this machine; they share its threads, and end with the block.

    Args:
        count: at least 1.

    Raises:
        ImportError: dask[distributed] is not installed.
    """
    distributed = _checks.optional_import("distributed", "running on workers", "study")
    # No limit of memory: Dask would stop a worker that comes near its share of it, and the point would start again.
    options: dict[str, Any] = dict(n_workers=count, threads_per_worker=1, memory_limit=None, dashboard_address=None)
    with (
        distributed.LocalCluster(processes=True, silence_logs=logging.CRITICAL, **options) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield _shared(client, get_num_threads())


@contextmanager
def remote(address: str) -> Iterator[Pool]:
    """Use the workers of a running ``dask scheduler``; the threads of each machine are divided among those on it.

    Args:
        address: of the scheduler, as it prints it: "tcp://host:8786".

    Raises:
        ImportError: dask[distributed] is not installed.
        ConnectionError: no scheduler answers there.
    """
    distributed = _checks.optional_import("distributed", "running on workers", "study")
    try:
        client = distributed.Client(address, timeout=JOIN_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ConnectionError(
            f"no Dask scheduler answers at {address!r}; start one with: dask scheduler, and pass the address it prints"
        ) from error
    with client:
        yield _shared(client, None)


def _shared(client: Any, cores: int | None) -> Pool:
    """Divide the threads of each machine (``cores``, or all it has) among its workers, also those that come later."""
    from distributed.comm import get_address_host

    slots: dict[str, int] = {}
    for address, threads in client.nthreads().items():
        host = get_address_host(address)
        slots[host] = slots.get(host, 0) + threads
    client.register_worker_callbacks(partial(_take_share, slots, cores))
    return Pool(client)


def _take_share(slots: Mapping[str, int], cores: int | None, dask_worker: Any) -> None:
    """On a worker: leave the other points of this machine their threads, in our loops and in BLAS."""
    from dask.system import CPU_COUNT
    from distributed.comm import get_address_host
    from threadpoolctl import threadpool_limits

    share = max(1, (cores or CPU_COUNT) // slots.get(get_address_host(dask_worker.address), 1))
    set_num_threads(share)
    threadpool_limits(share, user_api="blas")
