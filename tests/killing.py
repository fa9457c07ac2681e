"""A command that is killed while it writes a result."""

from __future__ import annotations

import signal
import subprocess
import sys

PROGRAM = """
import os, signal, sys
from gnfast import cli
from gnfast.study.store import Store

number, stamp, begun = int(sys.argv[1]), Store._stamp, []

def last(store):
    stamp(store)
    begun.append(store)
    if len(begun) == number:
        os.kill(os.getpid(), signal.SIGKILL)

Store._stamp = last
sys.exit(cli.main(sys.argv[2:]))
"""


def killed_at(number, arguments):
    """Run gnfast with these arguments, and kill it in the middle of the transaction of its result of that number."""
    command = [sys.executable, "-c", PROGRAM, str(number), *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.DEVNULL)
    assert done.returncode == -signal.SIGKILL, done
