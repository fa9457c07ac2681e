"""Which devices tests run on: the CPU, and a GPU or its emulation where there is one."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
from places import Place

from gnfast import _arrays


def pytest_addoption(parser):
    parser.addoption(
        "--emulated-gpu",
        metavar="PATH",
        help="the module _core_cuda_emulated, or a folder with it: tests for a GPU run on an emulated one",
    )
    parser.addoption("--no-pool", action="store_true", help="each array in memory of its own, for compute-sanitizer")


def pytest_configure(config):
    path = config.getoption("--emulated-gpu")
    if path:
        emulate(Path(path))
    if config.getoption("--no-pool"):
        importlib.import_module("cupy").cuda.set_allocator(None)


def pytest_collection_modifyitems(items):
    """Refuse names that hold an address: processes that share the tests out know them by name."""
    if unstable := [item.nodeid for item in items if " at 0x" in item.nodeid]:
        raise pytest.UsageError(f"{unstable[0]} has another name in each process; name its parameters with ids=")


def emulate(path):
    sys.path.insert(0, str(Path(__file__).parent / "emulation"))
    try:
        importlib.import_module("cupy_stand_in").install(path)
    except FileNotFoundError as error:
        raise pytest.UsageError(f"--emulated-gpu: {error}") from None


@pytest.fixture(scope="session", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    """The name of a device, dressed as a `Place`: a test that asks for it runs on each."""
    if request.param != "cpu":
        require_gpu()
    return Place(request.param)


@pytest.fixture
def gpu():
    """A GPU: for tests of what only GPUs do, which are marked `gpu`."""
    require_gpu()
    return Place("cuda")


def require_gpu():
    try:
        _arrays.device("cuda")
    except (ImportError, RuntimeError, ValueError) as error:
        pytest.skip(f"no GPU and no emulation: {error}")


@pytest.fixture
def jax64():
    """JAX's arrays in float64, for one test; compiled in haste, since each program runs once."""
    config = pytest.importorskip("jax").config
    before = {name: config.read(name) for name in ("jax_enable_x64", "jax_disable_most_optimizations")}
    for name in before:
        config.update(name, True)
    yield
    for name, value in before.items():
        config.update(name, value)
