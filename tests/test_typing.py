"""What a user's type checker and editor see: types of results, names of options, wrong calls."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

import gnfast as gn
from gnfast.estimators import functions, traces
from gnfast.losses import LOSSES, LossName
from gnfast.networks import layers
from gnfast.spectrum import methods

SOURCE = Path(gn.__file__).parent.parent
PROGRAM = """
import numpy as np
import gnfast as gn

X = np.ones((3, 4))
G = gn.GaussNewton(gn.mlp([4, 5, 2], activation="tanh", seed=0), X, "cross_entropy")
kappa: gn.Condition = gn.cond(G)
value: float = kappa.value + float(kappa)
larger: bool = kappa > 3
name: str = "lanczos"
gn.eigsh(G, 2, "LA", name)
trace: gn.Trace = gn.trace(G)
"""
WRONG = {
    "gn.eigsh(G, 2, method=3)": "incompatible type",
    "gn.eigsh(G, which=None)": "incompatible type",
    "gn.mlp([4, 2], activation=7)": "incompatible type",
    "gn.cond(G).kappa": "has no attribute",
    "gn.GaussNewton(gn.mlp([4, 2]), X, reductions='sum')": "Unexpected keyword",
    "wrong: str = gn.rank(G)": "Incompatible types",
}


def test_a_type_checker_sees_results_and_finds_wrong_calls(tmp_path):
    pytest.importorskip("mypy")
    text = PROGRAM + "\n".join(WRONG)
    (tmp_path / "program.py").write_text(text)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), "program.py"]
    # mypy refuses installed packages in MYPYPATH; it finds them by itself.
    path = {} if SOURCE.name == "site-packages" else {"MYPYPATH": str(SOURCE)}
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    found = [line for line in done.stdout.splitlines() if line.startswith("program.py")]
    first = PROGRAM.count("\n") + 1
    for number, (call, words) in enumerate(WRONG.items(), first):
        assert any(line.startswith(f"program.py:{number}: error") and words in line for line in found), (call, found)
    assert all(int(line.split(":")[1]) >= first for line in found), found


def test_names_that_editors_complete_are_those_that_are_taken():
    assert get_args(LossName) == tuple(LOSSES)
    assert get_args(layers.ActivationName) == layers.ACTIVATIONS
    assert get_args(methods.EigenMethod) == methods.METHODS
    offered = {
        gn.eigsh: {"method": methods.EigenMethod},
        gn.trace: {"method": traces.TraceMethod},
        gn.diagonal: {"method": traces.DiagonalMethod},
        gn.logdet: {"method": functions.FunctionMethod},
        gn.mlp: {"activation": layers.ActivationName},
        gn.GaussNewton.__init__: {"loss": LossName},
    }
    for function, options in offered.items():
        hints = get_type_hints(function)
        for option, names in options.items():
            assert set(get_args(names)) <= {
                name for part in get_args(hints[option]) for name in (get_args(part) or [part])
            }
