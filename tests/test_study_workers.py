"""Studies on workers: the same numbers, and a worker that dies costs its point one repeat and nothing else."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from steps import Steps

import gnfast as gn
from gnfast import _extras
from gnfast.study import Store, Study, run, workers

pytest.importorskip("sklearn")
pytest.importorskip("distributed")
threadpoolctl = pytest.importorskip("threadpoolctl")

SMALL = dict(networks=[{"kind": ["linear", "leaky_relu"], "slope": 0.2}], widths=[3, 80], depths=[2], seeds=[0, 5])


@pytest.fixture(scope="module")
def pool():
    """Two workers here, with two of four threads each."""
    before = gn.get_num_threads()
    gn.set_num_threads(4)
    try:
        with workers.local(2) as found:
            yield found
    finally:
        gn.set_num_threads(before)


@pytest.fixture
def steps(tmp_path):
    def make(**options):
        (tmp_path / "traces").mkdir()
        return Steps(str(tmp_path / "traces"), **options)

    return make


def ran(job, folder, pool):
    with Store(folder / "results.sqlite", job) as store:
        records = list(run(job.points(), store, job.compute, pool))
        assert len(records) == len({record.point for record in records})  # none comes twice
        return store.read(job.points())


def test_two_workers_give_the_numbers_of_one(pool, tmp_path):
    study = Study(samples=[6, 9999], outputs=3, quantities=["condition", "bounds", "partial_products"], **SMALL)
    on_two = ran(study, tmp_path / "two", pool)
    before = gn.get_num_threads()
    gn.set_num_threads(2)  # as the workers have them: sums are grouped by threads
    try:
        with threadpoolctl.threadpool_limits(2, user_api="blas"):
            on_one = ran(study, tmp_path / "one", None)
    finally:
        gn.set_num_threads(before)
    assert len(on_two) == len(study.points()) == 2 * 2 * 2 * 2

    def numbers(records):
        return [(r.point, r.error, r.values and {**r.values, "seconds": 0}) for r in records]

    assert numbers(on_two) == numbers(on_one)
    assert sum(record.error != "" for record in on_two) == 12  # too many samples, and partial products of leaky ReLU


def test_threads_are_divided(pool, steps, tmp_path):
    job = steps(count=9, wrong=4)
    found = ran(job, tmp_path, pool)
    assert [record.error for record in found if record.error] == ["ValueError: wrong"]
    values = [record.values for record in found if record.values]
    assert [v["square"] for v in values] == [n**2 for n in range(9) if n != 4]
    assert {v["threads"] for v in values} == {2} and {v["blas"] for v in values} == {min(2, values[0]["blas"])}
    assert all(v["pid"] != os.getpid() and v["series"] == [1.0, 2.0] for v in values)


def test_the_environment_stays_as_it_was(monkeypatch):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = dict(os.environ)
    with workers.local(1):
        pass
    assert dict(os.environ) == before


def test_a_killed_worker_costs_its_point_one_repeat(pool, steps, tmp_path):
    job = steps(count=12, deadly=5)
    found = ran(job, tmp_path, pool)
    assert [record.values["square"] for record in found] == [n**2 for n in range(12)]
    assert [job.tries(point) for point in job.points()] == [1 + (n == 5) for n in range(12)]
    assert {record.values["threads"] for record in found} == {2}  # of the worker that came in its place too


# ---------------------------------------------------------------- a scheduler that runs already
@contextmanager
def processes(folder, count=2):
    """A scheduler and workers, started as a user would, on the loopback address.

    Yields its address, the processes, and a function that starts one more worker.
    """
    file = folder / "scheduler.json"
    ours = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(ours)}
    base = [sys.executable, "-m", "dask"]
    quiet = dict(env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder)
    listen = ["scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
    join = ["worker", "--scheduler-file", str(file), "--nthreads", "1", "--no-nanny", "--no-dashboard"]
    started = [subprocess.Popen([*base, *listen], **quiet)]

    def one_more():
        started.append(subprocess.Popen([*base, *join, "--name", str(len(started))], **quiet))

    try:
        for _ in range(count):
            one_more()
        for _ in range(600):
            if file.exists():
                break
            time.sleep(0.05)
        yield json.loads(file.read_text())["address"], started, one_more
    finally:
        for process in reversed(started):
            process.kill()
            process.wait()


def test_a_scheduler_elsewhere(steps, tmp_path):
    job = steps(count=8, deadly=3, wrong=6)
    with processes(tmp_path) as (address, *_), workers.remote(address) as pool:
        found = ran(job, tmp_path, pool)
    assert [record.point.number for record in found if record.error] == [6]
    assert [record.values["square"] for record in found if record.values] == [n**2 for n in range(8) if n != 6]
    assert [job.tries(point) for point in job.points()] == [1 + (n == 3) for n in range(8)]


def test_workers_that_join_later_share_the_threads(steps, tmp_path):
    job = steps(count=10_000, slow=0.05)
    with processes(tmp_path, count=0) as (address, _, one_more), workers.remote(address) as pool:
        pool._cores = 6
        one_more()  # nobody is there at first
        threads, joined = [], {}
        for record in pool.records(job.compute, job.points()):
            threads.append(record.values["threads"])
            joined.setdefault(record.values["pid"], len(threads))
            if len(threads) == 1:
                one_more()
                one_more()
            if len(joined) == 3 and len(threads) > max(joined.values()) + 6:
                break
    assert threads[0] == 6 and threads[-3:] == [2, 2, 2] and set(threads) <= {6, 3, 2}
    assert threads == sorted(threads, reverse=True)  # one more, and all of them take less


@pytest.mark.parametrize("gone", ["workers", "scheduler"])
def test_a_run_ends_where_all_are_gone(monkeypatch, steps, tmp_path, gone):
    monkeypatch.setattr(workers, "JOIN_SECONDS", 3.0)
    job = steps(count=30, slow=0.2)
    words = {"workers": "has no workers; start some", "scheduler": "the Dask scheduler is gone; start one"}[gone]
    with processes(tmp_path) as (address, started, _):
        with workers.remote(address) as pool, pytest.raises(ConnectionError, match=words):
            for number, _ in enumerate(pool.records(job.compute, job.points())):
                if number == 4:
                    for process in started[1:] if gone == "workers" else started[:1]:
                        process.kill()
        assert 4 <= number < 29


def test_a_result_that_dies_with_its_worker_is_computed_again(monkeypatch, steps, tmp_path):
    job, taken = steps(count=4), []
    with processes(tmp_path, count=1) as (address, started, one_more), workers.remote(address) as pool:
        fetch = workers._record

        def late(future, point):
            taken.append(point.number)
            if len(taken) != 2:
                return fetch(future, point)
            started[1].kill()
            while pool._client.nthreads():
                time.sleep(0.05)
            assert fetch(future, point) is None
            one_more()
            return None

        monkeypatch.setattr(workers, "_record", late)
        found = ran(job, tmp_path, pool)
    assert [record.values["square"] for record in found] == [0, 1, 4, 9]
    assert taken == [0, 1, 1, 2, 3]
    assert [job.tries(point) for point in job.points()] == [1, 2, 1, 1]


@pytest.mark.parametrize(
    "address", ["tcp://127.0.0.1:9", "nowhere", "tcp://127.0.0.1", "ftp://127.0.0.1:9", "", "a:b:c"]
)
def test_no_scheduler(monkeypatch, address):
    monkeypatch.setattr(workers, "ANSWER_SECONDS", 0.5)
    with pytest.raises(ConnectionError, match=f"no Dask scheduler answers at '{address}'; start one with: dask sched"):
        workers.remote(address).__enter__()


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", bytes(64)])
def test_what_answers_is_no_scheduler(answer):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def serve():
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    taken.append(connection)
                    connection.sendall(answer)

        taken = []
        threading.Thread(target=serve, daemon=True).start()
        program = (
            "import sys; from gnfast import cli; from gnfast.study import workers; workers.ANSWER_SECONDS = 0.5; "
            "sys.exit(cli.main(sys.argv[1:]))"
        )
        command = [sys.executable, "-c", program, "study", "--quick", "--scheduler", f"tcp://127.0.0.1:{port}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        server.shutdown(socket.SHUT_RDWR)
    assert taken and done.returncode == 2 and not done.stdout
    assert done.stderr.startswith("gnfast: no Dask scheduler answers at ") and done.stderr.count("\n") == 1
    for connection in taken:
        connection.close()


def test_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ImportError, match=re.escape(_extras.install("study"))):
        workers.local(2).__enter__()
