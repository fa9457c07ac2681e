"""Files are written whole or not at all, and what a killed writer leaves is cleared by the next one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

import gnfast as gn
from gnfast import _files

WRITER = """
import sys, time
from pathlib import Path
from gnfast import _files
with _files.replacing(Path(sys.argv[1])) as beside:
    beside.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def killed_while_writing(path):
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "writing\n"
        kept = sorted(path.parent.iterdir())
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert sorted(path.parent.iterdir()) == kept
    return kept


@pytest.mark.skipif(os.name == "nt", reason="a process that ends takes its open files along")
@pytest.mark.parametrize("name", ["table.md", "state", "a b[1]*.npz", ".hidden.csv"])
def test_the_next_writer_clears_what_a_killed_one_left(tmp_path, name):
    path = tmp_path / name
    path.write_text("old")
    (left,) = (file for file in killed_while_writing(path) if file != path)
    assert path.read_text() == "old"
    other = tmp_path / f"other{path.suffix}"
    _files.write_text(other, "another file's writer leaves it alone")
    assert left.exists()
    with _files.replacing(path) as beside:
        beside.write_text("new")
        _files.clear_left(path)  # as a second writer does, at the same time
        assert beside.exists()
        assert not left.exists()
    assert path.read_text() == "new"
    assert sorted(tmp_path.iterdir()) == sorted([path, other])


@pytest.mark.skipif(os.name == "nt", reason="a process that ends takes its open files along")
def test_a_search_clears_what_a_killed_one_left_of_its_checkpoint(tmp_path):
    path = tmp_path / "state.npz"
    killed_while_writing(path)
    assert len(list(tmp_path.iterdir())) == 1
    A = np.diag(np.arange(1.0, 30))
    gn.eigsh(A, 2, method="lanczos", checkpoint=path)
    assert not list(tmp_path.iterdir())


def test_writers_of_other_machines_are_let_be(tmp_path):
    foreign = tmp_path / ".x.elsewhere-1-abcd.tmp.md"
    foreign.write_text("being written")
    _files.write_text(tmp_path / "x.md", "new")
    assert foreign.exists()
