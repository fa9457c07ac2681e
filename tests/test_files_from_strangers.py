"""A file that gnfast reads never runs code: SECURITY.md says so, and these files would."""

from __future__ import annotations

import ast
import pickle
from pathlib import Path

import numpy as np
import pytest

import gnfast as gn
from gnfast import datasets

PACKAGE = Path(gn.__file__).parent
UNSAFE = {"eval", "exec", "compile", "__import__"}
UNSAFE_OF = {  # what reads a file and may run it; a module's name does not matter where the function's says enough
    "load": {"pickle", "dill", "cloudpickle", "joblib", "torch", "yaml", "marshal"},
    "loads": {"pickle", "dill", "cloudpickle", "marshal"},
    "Unpickler": {"pickle"},
    "system": {"os"},
    "load_extension": set(),
    "enable_load_extension": set(),
}


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.fixture
def bomb(tmp_path):
    trace = tmp_path / "it-ran"
    pickle.loads(pickle.dumps(Bomb(trace)))
    assert trace.exists()  # it does run where somebody unpickles it
    trace.unlink()
    yield Bomb(trace)
    assert not trace.exists()


def test_samples_are_not_unpickled(tmp_path, bomb):
    path = tmp_path / "X.npy"
    np.save(path, np.array([[bomb]], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="holds no NumPy array"):
        datasets.load(str(path))
    path.write_bytes(pickle.dumps(bomb))
    with pytest.raises(ValueError, match="holds no NumPy array"):
        datasets.load(str(path))


def test_checkpoints_are_not_unpickled(tmp_path, bomb):
    X = np.random.default_rng(0).standard_normal((40, 6))
    G = gn.GaussNewton(gn.mlp([6, 30, 4], seed=0), X)
    path = tmp_path / "search.npz"
    np.savez(path, search=np.array([bomb], dtype=object), probe=np.zeros(3))
    with pytest.raises(ValueError, match="is damaged or no checkpoint"):
        gn.eigsh(G, k=2, checkpoint=path, method="lanczos")
    path.write_bytes(pickle.dumps(bomb))
    with pytest.raises(ValueError, match="is damaged or no checkpoint"):
        gn.eigsh(G, k=2, checkpoint=path, method="lanczos")


def test_weights_are_not_unpickled(tmp_path, bomb):
    pytest.importorskip("safetensors")
    path = tmp_path / "net.safetensors"
    path.write_bytes(pickle.dumps(bomb))
    with pytest.raises(ValueError, match="is no safetensors file or is damaged"):
        gn.load(path)


def test_results_are_not_unpickled(tmp_path, bomb):
    from gnfast.study import store

    path = tmp_path / "results.sqlite"
    path.write_bytes(pickle.dumps(bomb))
    with pytest.raises((OSError, ValueError), match=r"results\.sqlite"):
        store.definition(path)


def unsafe_calls(text: str) -> list[str]:
    """Calls that can run what they read."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        if isinstance(function, ast.Name) and function.id in UNSAFE:
            found.append(ast.unparse(node))
        elif isinstance(function, ast.Attribute):
            owner = ast.unparse(function.value).rpartition(".")[2]
            owners = UNSAFE_OF.get(function.attr, {""})
            unpickles = (owner, function.attr) == ("np", "load") and "allow_pickle=False" not in ast.unparse(node)
            if not owners or owner in owners or unpickles:
                found.append(ast.unparse(node))
    return found


def test_no_reader_can_run_what_it_reads():
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 50
    assert {str(file): found for file in files if (found := unsafe_calls(file.read_text()))} == {}


@pytest.mark.parametrize(
    "text",
    [
        "import pickle\npickle.load(file)",
        "torch.load(path, weights_only=False)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "eval(text)",
        "db.enable_load_extension(True)",
    ],
)
def test_unsafe_readers_are_found(text):
    assert len(unsafe_calls(text)) == 1
