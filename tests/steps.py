"""A job whose points leave a trace in a folder: for tests of studies on workers, which import it by its name."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import threadpoolctl

import gnfast as gn
from gnfast.study.jobs import INTEGER, REAL, SERIES, Keyed


@dataclass(frozen=True)
class Step(Keyed):
    number: int


@dataclass(frozen=True)
class Steps:
    """Point ``deadly`` kills the process that computes it, the first time; point ``wrong`` fails each time.

    Each takes ``slow`` seconds.
    """

    folder: str
    count: int
    deadly: int = -1
    wrong: int = -1
    slow: float = 0.0

    name = definition = "steps"
    sources = {}  # noqa: RUF012
    columns = {"square": REAL, "threads": INTEGER, "blas": INTEGER, "pid": INTEGER, "series": SERIES, "seconds": REAL}  # noqa: RUF012

    def points(self):
        return [Step(number) for number in range(self.count)]

    def compute(self, point):
        first = self.tries(point) == 0
        with (Path(self.folder) / str(point.number)).open("a") as trace:
            trace.write("tried\n")
        if point.number == self.deadly and first:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.slow)
        if point.number == self.wrong:
            raise ValueError("wrong")
        blas = max(pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas")
        found = {"square": float(point.number**2), "threads": gn.get_num_threads(), "blas": blas, "pid": os.getpid()}
        return found | {"series": [1.0, 2.0]}

    def tries(self, point):
        trace = Path(self.folder) / str(point.number)
        return len(trace.read_text().splitlines()) if trace.exists() else 0
