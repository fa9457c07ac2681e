"""Workers for a study: processes on this machine, or those of a Dask scheduler that runs elsewhere."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import Any

from gnfast import _checks
from gnfast._runtime import get_num_threads, set_num_threads
from gnfast.study.jobs import Compute, Record, attempt

JOIN_SECONDS = 30.0  # how long a scheduler, and then a first worker or one in place of the last, may take to come
ANSWER_SECONDS = 5.0  # how long a scheduler may take to answer at all
CHECK_SECONDS = 1.0  # between two looks at who is there while no point is done

NO_WORKERS = (
    "the Dask scheduler has no workers; start some with: dask worker ADDRESS --nthreads 1, and run the same command"
)
NO_SCHEDULER = "the Dask scheduler is gone; start one and run the same command, which goes on"


class Pool:
    """The workers of a Dask client, each computing one point at a time.

    A worker gets its next point when the result of the last one is here, so that a worker that dies takes one point
    with it and no result. Dask gives that point to another worker and, after three more deaths, gives it up, which is
    recorded as its error.

    The threads of each machine are divided among as many points as were ever computed on it at once: workers that come
    later take part, and one that comes in place of another takes its share.

    Args:
        client: Of Dask.
        cores: Threads of each machine, None for all that it has.
    """

    def __init__(self, client: Any, cores: int | None) -> None:
        self._client, self._cores = client, cores
        self._places: Counter[str] = Counter()  # by machine

    def records(self, compute: Compute, points: Iterable[Any]) -> Iterator[Record]:
        """Compute all points and yield their records as they come.

        Raises:
            ConnectionError: the scheduler is gone, or there is no worker and none comes within `JOIN_SECONDS`.
        """
        waiting, done = deque(points), SimpleQueue[Any]()
        handed_out: dict[str, tuple[Any, str, Any]] = {}  # by key of the future: point, address of the worker, future
        seen = time.monotonic()  # when there was a worker
        try:
            while waiting or handed_out:
                slots = self._slots()
                if slots:
                    seen = time.monotonic()
                elif time.monotonic() - seen > JOIN_SECONDS:
                    raise ConnectionError(NO_WORKERS)
                busy = Counter(place for _, place, _ in handed_out.values())
                for place in (Counter(slots) - busy).elements():
                    if waiting:
                        point = waiting.popleft()
                        # Not pure: a point that is tried again is computed again. Other workers: should this one die.
                        options: dict[str, Any] = dict(pure=False, workers=[place], allow_other_workers=True)
                        future = self._client.submit(attempt, compute, point, **options)
                        handed_out[future.key] = point, place, future
                        future.add_done_callback(done.put)
                try:
                    future = done.get(timeout=CHECK_SECONDS)
                except Empty:
                    continue
                point, _, _ = handed_out.pop(future.key)
                record = _record(future, point)
                future.release()  # or Dask would compute it again if its worker died now
                if record is None:
                    waiting.appendleft(point)
                else:
                    yield record
        finally:
            self._client.cancel([future for _, _, future in handed_out.values()])

    def _slots(self) -> dict[str, int]:
        """How many points each worker can compute at once, now, each worker having its share of the threads."""
        from distributed.comm import get_address_host

        try:
            found: dict[str, int] = self._client.nthreads()
        except OSError as error:
            raise ConnectionError(NO_SCHEDULER) from error
        now: Counter[str] = Counter()
        for address, threads in found.items():
            now[get_address_host(address)] += threads
        if now - self._places:
            with suppress(OSError):  # one that has just died: at the next look
                self._client.register_plugin(_plugin(self._places | now, self._cores))
                self._places |= now  # the larger of both
        return found


def _record(future: Any, point: Any) -> Record | None:
    """Of a point that is done; None where the worker died before its result was here."""
    while True:
        try:
            if error := future.exception(CHECK_SECONDS):  # its worker died again and again, or could not read it
                return Record(point, None, f"{type(error).__name__}: {error}")
            found: Record = future.result(CHECK_SECONDS)
            return found
        except TimeoutError:
            if not future.done():  # nor need it ever be: without another worker Dask waits for one
                return None
        except (CancelledError, OSError) as error:
            raise ConnectionError(NO_SCHEDULER) from error


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
    options: dict[str, Any] = dict(
        n_workers=count, threads_per_worker=1, memory_limit=None, dashboard_address="127.0.0.1:0"
    )
    with (
        _same_environment(),
        distributed.LocalCluster(processes=True, silence_logs=logging.CRITICAL, **options) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield Pool(client, get_num_threads())


@contextmanager
def _same_environment() -> Iterator[None]:
    """Give this process its environment back: Dask leaves one thread for OpenMP and BLAS in it, for all that it starts.

    Their sums would be grouped otherwise than this process groups its own.
    """
    from dask import config

    before = {name: os.environ.get(name) for name in config.get("distributed.nanny.pre-spawn-environ")}
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


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
        # A client that finds none tries for long, and complains once more when it is collected.
        asyncio.run(_greet(address))
        client = distributed.Client(address, timeout=JOIN_SECONDS, set_as_default=False)
    except Exception as error:  # what is no scheduler may answer anything
        raise ConnectionError(
            f"no Dask scheduler answers at {address!r}; start one with: dask scheduler, and pass the address it prints"
        ) from error
    with client:
        yield Pool(client, None)


async def _greet(address: str) -> None:
    """Raise what it raises unless a process of Dask answers."""
    from distributed import Security
    from distributed.comm import connect

    # Whatever answers with other bytes is read for as long as it talks: the time is that of all.
    comm = await asyncio.wait_for(
        connect(address, timeout=ANSWER_SECONDS, **Security().get_connection_args("client")), 2 * ANSWER_SECONDS
    )
    comm.abort()


def _plugin(places: Mapping[str, int], cores: int | None) -> Any:
    """What takes its share on each worker, those that come later too; one in place of any before it."""
    from distributed import WorkerPlugin

    class Share(WorkerPlugin):  # type: ignore[misc]
        name = "gnfast-threads"

        def setup(self, worker: Any) -> None:
            _take_share(places, cores, worker)

    return Share()


def _take_share(places: Mapping[str, int], cores: int | None, worker: Any) -> None:
    """On a worker: leave the other points of this machine their threads, in our loops and in BLAS."""
    from dask.system import CPU_COUNT
    from distributed.comm import get_address_host
    from threadpoolctl import threadpool_limits

    share = max(1, (cores or CPU_COUNT) // places.get(get_address_host(worker.address), 1))
    set_num_threads(share)
    threadpool_limits(share, user_api="blas")
