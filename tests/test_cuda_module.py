"""The module for GPUs without a GPU: it loads, and finds all it needs of cuBLAS in the library of NVIDIA's wheel."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import gnfast as gn


def wheel_library() -> Path | None:
    spec = importlib.util.find_spec("nvidia")
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()] if spec else []
    return next((path for folder in folders for path in sorted(folder.glob("cu*/lib/libcublas.so.*"))), None)


def run(code: str) -> str:
    """In a process of its own: the library takes hundreds of megabytes."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


needs_module = pytest.mark.skipif(
    importlib.util.find_spec("gnfast._core_cuda") is None, reason="this build has no module for GPUs"
)


@needs_module
def test_what_was_built_is_told() -> None:
    built = gn.build_info()["cuda"]
    assert re.fullmatch(r"\d+\.\d+", built["toolkit"])
    assert "sm_90" in built["targets"] and "compute_" in built["targets"]


@needs_module
def test_counting_devices_needs_no_driver() -> None:
    assert int(run("import gnfast, gnfast._core_cuda as core; print(core.device_count())")) >= 0


@needs_module
def test_all_of_cublas_is_found_without_a_gpu() -> None:
    library = wheel_library()
    if library is None:
        pytest.skip("NVIDIA's wheel of cuBLAS is not installed")
    found = run(f"import gnfast, gnfast._core_cuda as core; print(core.set_cublas({str(library)!r}))")
    assert found.startswith(library.name.removeprefix("libcublas.so."))


@needs_module
def test_another_library_is_no_cublas() -> None:
    code = """
import ctypes.util, gnfast, gnfast._core_cuda as core
try:
    core.set_cublas(ctypes.util.find_library("m"))
except RuntimeError as error:
    print(error)
"""
    assert "has no function cublasGetProperty" in run(code)
