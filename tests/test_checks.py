"""Bad input: each is one sentence that names the argument, what it got and what to do; and what is not bad input."""

from __future__ import annotations

import json
import os
import sys
import warnings

import numpy as np
import oracles
import pytest

import gnfast as gn
from gnfast import _arrays, _checks, _extras, losses

W, V = np.ones((4, 3)), np.ones((2, 4))
X = np.ones((5, 3))
NET = gn.mlp([3, 4, 2])


def with_value(value, dtype="float64"):
    bad = np.ones((4, 3), dtype)
    bad[2, 1] = value
    return bad


class Sparse:
    """An object that NumPy wraps instead of reading it."""


BAD = {
    # arrays
    "weight 1-D": (lambda: gn.Dense(np.ones(3)), ValueError, ["weight", "(3,)", "2-dimensional", "(out, in)"]),
    "weight 3-D": (lambda: gn.Dense(np.ones((2, 3, 4))), ValueError, ["weight", "(2, 3, 4)", "2-dimensional"]),
    "weight empty": (lambda: gn.Dense(np.ones((0, 3))), ValueError, ["weight", "(0, 3)", "empty", "at least 1"]),
    "weight no columns": (lambda: gn.Dense(np.ones((3, 0))), ValueError, ["weight", "(3, 0)", "empty"]),
    "weight int": (lambda: gn.Dense(np.ones((2, 3), int)), TypeError, ["weight", "int64", ".astype('float64')"]),
    "weight list of int": (lambda: gn.Dense([[1, 2]]), TypeError, ["weight", "int64", "float64"]),
    "weight bool": (lambda: gn.Dense(np.ones((2, 3), bool)), TypeError, ["weight", "bool", "float32 or float64"]),
    "weight half": (lambda: gn.Dense(np.ones((2, 3), "float16")), TypeError, ["weight", "float16", "float32"]),
    "weight complex": (lambda: gn.Dense(np.ones((2, 3), complex)), TypeError, ["complex128", "real", "weight.real"]),
    "weight swapped": (lambda: gn.Dense(np.ones((2, 3), ">f8")), TypeError, [">f8", "byte order", ".astype"]),
    "weight text": (lambda: gn.Dense([["a", "b"]]), TypeError, ["weight", "list", "numbers"]),
    "weight object": (lambda: gn.Dense(Sparse()), TypeError, ["weight", "Sparse", "NumPy array"]),
    "weight None": (lambda: gn.Dense(None), TypeError, ["weight", "NoneType", "NumPy array"]),
    "weight ragged": (lambda: gn.Dense([[1.0], [1.0, 2.0]]), TypeError, ["weight", "list", "cannot read"]),
    "weight masked": (lambda: gn.Dense(np.ma.ones((2, 3))), TypeError, ["weight", "masked", "filled"]),
    "weight NaN": (lambda: gn.Dense(with_value(np.nan)), ValueError, ["weight", "1 NaN or infinite value, ", "[2, 1]"]),
    "weight inf": (lambda: gn.Dense(with_value(-np.inf, "float32")), ValueError, ["weight", "infinite", "[2, 1]"]),
    "bias shape": (lambda: gn.Dense(W, np.ones(3)), ValueError, ["bias", "(3,)", "weight", "(4,)"]),
    "bias 2-D": (lambda: gn.Dense(W, np.ones((4, 1))), ValueError, ["bias", "(4, 1)", "1-dimensional", "(4,)"]),
    "bias dtype": (lambda: gn.Dense(W, np.ones(4, "float32")), TypeError, ["bias", "float32", "weight has float64"]),
    "bias NaN": (lambda: gn.Dense(W, np.full(4, np.nan)), ValueError, ["bias", "4 NaN or infinite values", "[0]"]),
    "skip text": (lambda: gn.Dense(W, skip="1"), TypeError, ["skip", "'1'", "real number"]),
    "skip bool": (lambda: gn.Dense(W, skip=True), TypeError, ["skip", "True", "real number"]),
    "skip NaN": (lambda: gn.Dense(W, skip=np.nan), ValueError, ["skip", "nan", "finite"]),
    # activations
    "activation near": (lambda: gn.Activation("rely"), ValueError, ["activation", "'rely'", "did you mean 'relu'?"]),
    "activation far": (lambda: gn.Activation("swish"), ValueError, ["'swish'", "'identity'", "'sigmoid'"]),
    "activation type": (lambda: gn.Activation(np.tanh), TypeError, ["activation", "tanh", "one of"]),
    "slope inf": (lambda: gn.Activation("leaky_relu", np.inf), ValueError, ["slope", "inf", "finite"]),
    # networks
    "no layers": (lambda: gn.Network([]), ValueError, ["gn.Dense", "at least one"]),
    "no dense": (lambda: gn.Network([gn.Activation("relu")]), ValueError, ["gn.Dense", "at least one"]),
    "not a list": (lambda: gn.Network(gn.Dense(W)), TypeError, ["layers", "Dense", "list"]),
    "foreign layer": (lambda: gn.Network([gn.Dense(W), "relu"]), TypeError, ["layers[1]", "str", "gn.Activation"]),
    "no chain": (
        lambda: gn.Network([gn.Dense(W), gn.Activation("relu"), gn.Dense(np.ones((2, 5)))]),
        ValueError,
        ["layers[2]", "5 features", "give 4", "(2, 4)"],
    ),
    "mixed dtypes": (
        lambda: gn.Network([gn.Dense(W), gn.Dense(V.astype("float32"))]),
        TypeError,
        ["layers[1]", "float32", "float64", ".astype"],
    ),
    "too few": (lambda: NET.with_parameters([W]), ValueError, ["parameters has 1 array ", "has 2", "(4, 3), (2, 4)"]),
    "wrong shape": (lambda: NET.with_parameters([W, W]), ValueError, ["parameters[1]", "(4, 3)", "(2, 4)"]),
    "no parameters": (lambda: NET.with_parameters(3), TypeError, ["parameters", "int", "list of arrays"]),
    "mixed parameters": (lambda: NET.with_parameters([W, V.astype("float32")]), TypeError, ["float32", "float64"]),
    # samples
    "columns": (
        lambda: NET(np.ones((5, 2))),
        ValueError,
        ["X has 2 columns", "takes 3 features", "pass X of shape (n, 3)"],
    ),
    "one row": (lambda: NET(np.ones(3)), ValueError, ["X has shape (3,)", "X.reshape(1, -1)"]),
    "no samples": (lambda: NET(np.ones((0, 3))), ValueError, ["X has shape (0, 3)", "empty"]),
    "X dtype": (lambda: NET(X.astype("float32")), TypeError, ["X", "float32", "network has float64", ".astype"]),
    "X int": (lambda: NET(X.astype("uint8")), TypeError, ["X", "uint8", "X.astype('float64')"]),
    "X NaN": (lambda: NET.linearize(np.full((5, 3), np.nan)), ValueError, ["X has 15 NaN", "[0, 0]"]),
    # mlp
    "one width": (lambda: gn.mlp([3]), ValueError, ["widths", "1 entry", "at least 2"]),
    "zero width": (lambda: gn.mlp([3, 0, 2]), ValueError, ["widths[1] is 0", "at least 1"]),
    "float width": (lambda: gn.mlp([3, 4.0]), TypeError, ["widths[1]", "4.0", "integer"]),
    "bool width": (lambda: gn.mlp([3, True]), TypeError, ["widths[1]", "True", "integer"]),
    "widths number": (lambda: gn.mlp(3), TypeError, ["widths", "3", "list of integers"]),
    "widths text": (lambda: gn.mlp("34"), TypeError, ["widths", "'34'", "list of integers"]),
    "skips": (lambda: gn.mlp([3, 4, 2], skip=[1, 2, 3]), ValueError, ["skip has 3", "needs 2", "dense layer"]),
    "skip entry": (lambda: gn.mlp([3, 4, 2], skip=[1, None]), TypeError, ["skip[1]", "None", "real number"]),
    "bias text": (lambda: gn.mlp([3, 4, 2], bias="no"), TypeError, ["bias", "'no'", "True or False"]),
    "init near": (lambda: gn.mlp([3, 2], init="kaiming_norm"), ValueError, ["init", "did you mean 'kaiming_normal'?"]),
    "init count": (lambda: gn.mlp([3, 4, 2], init=[W]), ValueError, ["init has 1", "has 2"]),
    "init shape": (lambda: gn.mlp([3, 4, 2], init=[W.T, V]), ValueError, ["init[0]", "(3, 4)", "(4, 3)"]),
    "init dtype": (
        lambda: gn.mlp([3, 4, 2], init=[W.astype("float32"), V]),
        TypeError,
        ["init[0]", "float32", "float64"],
    ),
    "init nothing": (lambda: gn.mlp([3, 2], init=None), TypeError, ["init is None", "one of"]),
    "init function": (
        lambda: gn.mlp([3, 2], init=lambda shape, seed: np.ones(3)),
        ValueError,
        ["init((2, 3), ", "has shape (3,)", "must be 2-dimensional, (2, 3)"],
    ),
    "seed negative": (lambda: gn.mlp([3, 2], seed=-1), ValueError, ["seed is -1", "from 0"]),
    "seed large": (lambda: gn.mlp([3, 2], seed=2**64), ValueError, ["seed is 18446744073709551616", "from 0"]),
    "seed of eigsh large": (
        lambda: gn.eigsh(np.eye(3), 1, seed=2**64),
        ValueError,
        ["seed is 18446744073709551616", "from 0"],
    ),
    "seed of trace large": (lambda: gn.trace(np.eye(3), seed=2**64), ValueError, ["seed is", "from 0"]),
    "seed of cond large": (lambda: gn.cond(np.eye(3), seed=2**64), ValueError, ["seed is", "from 0"]),
    "seed of solve large": (lambda: gn.solve(np.eye(3), np.ones(3), seed=2**64), ValueError, ["seed is", "from 0"]),
    "seed of logdet no number": (lambda: gn.logdet(np.eye(3), seed=0.5), TypeError, ["seed is 0.5", "integer"]),
    "seed of a tracker large": (lambda: gn.Tracker(seed=2**64), ValueError, ["seed is", "from 0"]),
    "seed None": (lambda: gn.mlp([3, 2], seed=None), TypeError, ["seed is None", "integer"]),
    "dtype": (lambda: gn.mlp([3, 2], dtype="int32"), ValueError, ["dtype is 'int32'", "'float32' or 'float64'"]),
    "dtype name": (lambda: gn.mlp([3, 2], dtype="double precision"), ValueError, ["dtype", "'float64'"]),
    "dtype None": (lambda: gn.mlp([3, 2], dtype=None), ValueError, ["dtype is None", "'float64'"]),
    # losses and devices
    "loss near": (lambda: losses.check_loss("crossentropy", 3), ValueError, ["did you mean 'cross_entropy'?"]),
    "loss one output": (
        lambda: losses.check_loss("cross_entropy", 1),
        ValueError,
        ["'cross_entropy'", "1 output", "'binary_cross_entropy'"],
    ),
    "device": (lambda: _arrays.device(0), ValueError, ["device is 0", "'cpu', 'cuda' or 'cuda:"]),
    "device near": (lambda: _arrays.device("cuda:x"), ValueError, ["device is 'cuda:x'", "'cuda:<number of a GPU>'"]),
    # paths
    "path number": (lambda: gn.load(3), TypeError, ["path is 3", "string"]),
    "path bytes": (lambda: NET.save(b"net"), TypeError, ["path", "b'net'", "string"]),
    "path empty": (lambda: gn.load(""), ValueError, ["path is empty"]),
    "path folder": (lambda: gn.load(os.curdir), IsADirectoryError, ["path", "folder"]),
    "no file": (lambda: gn.load("nowhere/net.safetensors"), FileNotFoundError, ["nowhere/net.safetensors", "no such"]),
    "extra": (
        lambda: _checks.optional_import("no_such_module.part", "drawing", "study"),
        ImportError,
        ["drawing needs no_such_module", f"install it with: {_extras.install('study')}"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_sentence(case):
    call, kind, parts = BAD[case]
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert [part for part in parts if part not in message] == [], message
    assert len(message) < 400
    assert "\n" not in message
    assert not message.endswith(".")


def test_small_problems_are_not_bad_input():
    one = np.ones((1, 1))
    for dtype in ("float32", "float64"):
        net = gn.Network([gn.Dense(one.astype(dtype))])
        assert net(one.astype(dtype)).shape == (1, 1)
    assert gn.mlp([1, 1, 7])(one).shape == (1, 7)
    assert gn.mlp((3, np.int32(2)), skip=np.float32(0.5), seed=np.uint64(2**63)).widths == [3, 2]
    assert gn.Dense([[0.5, 1.0]]).weight.shape == (1, 2)
    assert losses.check_loss("binary_cross_entropy", 1) == "binary_cross_entropy"
    with pytest.raises(ValueError, match=r"'gaussian_nll' but the network has 3 outputs; use .* an even number"):
        losses.check_loss("gaussian_nll", 3)


@pytest.mark.parametrize(
    ("loss", "rank"),
    [("mse", 6), ("cross_entropy", 5), ("binary_cross_entropy", 6), ("poisson", 6), ("gaussian_nll", 6)],
)
def test_rank_of_the_loss_hessian_is_the_oracle_s(loss, rank):
    outputs = np.random.default_rng(0).standard_normal((3, 6))
    assert losses.LOSSES[loss].rank(6) == rank
    assert [oracles.rank(H) for H in oracles.hessian(loss, outputs)] == [rank] * 3


# ------------------------------------------------------------------------------------------------------- copies
LARGE = 512  # a float64 matrix of this size is 2 MiB


@pytest.mark.parametrize(
    "array",
    [
        np.asfortranarray(np.ones((LARGE, LARGE))),
        np.ones((LARGE, 2 * LARGE))[:, ::2],
        np.ones((LARGE, LARGE + 1))[:, 1:],
    ],
    ids=["fortran", "strided", "padded"],
)
def test_a_large_copy_is_a_warning_at_the_caller_s_line(array):
    with pytest.warns(gn.CopyWarning, match=r"^weight of shape \(512, 512\) .*\(2\.0 MiB\).*ascontiguous") as caught:
        dense = gn.Dense(array)
    assert caught[0].filename == __file__
    assert dense.weight.flags.c_contiguous
    np.testing.assert_array_equal(dense.weight, array)


def test_arrays_in_c_order_and_small_copies_are_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gn.Dense(np.ones((LARGE, LARGE)))
        gn.Dense(np.ones((LARGE, LARGE))[:1])
        gn.Dense(np.ones((3, 4), order="F"))
        NET(np.ones((3, 5)).T)


# -------------------------------------------------------------------------------------------------------- files
def bad_file(change):
    """A test's file: a saved network with its metadata and tensors changed by `change`."""
    safetensors = pytest.importorskip("safetensors")
    numpy_format = pytest.importorskip("safetensors.numpy")

    def make(path):
        NET.save(path)
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata["layers"] = json.loads(metadata["layers"])
        change(metadata, tensors)
        metadata["layers"] = json.dumps(metadata["layers"])
        numpy_format.save_file(tensors, path, metadata)

    return make


def foreign(metadata, tensors):
    del metadata["gnfast"]


def newer(metadata, tensors):
    metadata["gnfast"] = "99"


def missing_tensor(metadata, tensors):
    del tensors["layers.2.weight"]


def extra_tensor(metadata, tensors):
    tensors["layers.0.bias"] = np.ones(4)


def unknown_layer(metadata, tensors):
    metadata["layers"][1]["type"] = "upsample"


def no_type(metadata, tensors):
    del metadata["layers"][1]["type"]


def not_a_number(metadata, tensors):
    tensors["layers.0.weight"][1, 2] = np.nan


def no_list(metadata, tensors):
    metadata["layers"] = 3


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (foreign, ["layers.0.weight", "list of layers", "load_file", "gn.Network([gn.Dense(W1, b1)"]),
        (newer, ["layout '99'", "layout '1'", "newer"]),
        (missing_tensor, ["layers.2.weight"]),
        (extra_tensor, ["layers.0.bias"]),
        (unknown_layer, ["'upsample'", "'dense', 'activation'"]),
        (no_type, ["damaged", "'type'"]),
        (not_a_number, ["weight", "NaN", "[1, 2]"]),
        (no_list, ["damaged"]),
    ],
)
def test_a_changed_weights_file_is_one_clear_sentence(tmp_path, change, parts):
    path = tmp_path / "net.safetensors"
    bad_file(change)(path)
    with pytest.raises(ValueError) as caught:
        gn.load(path)
    message = str(caught.value)
    assert [part for part in [str(path), *parts] if part not in message] == [], message


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\x93NUMPY" + bytes(200), None], ids=["empty", "text", "npy", "cut"]
)
def test_an_unreadable_weights_file_is_one_clear_sentence(tmp_path, content):
    pytest.importorskip("safetensors")
    path = tmp_path / "net.safetensors"
    NET.save(path)
    path.write_bytes(path.read_bytes()[:-8] if content is None else content)
    with pytest.raises(ValueError, match=r"no safetensors file or is damaged .*pass one that net\.save wrote"):
        gn.load(path)


def test_a_plain_safetensors_file_says_how_to_build_a_network(tmp_path):
    numpy_format = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "other.safetensors"
    numpy_format.save_file({f"fc{i}.weight": W for i in range(9)}, path)
    with pytest.raises(ValueError, match=r"fc0\.weight, fc1\.weight, fc2\.weight, fc3\.weight, \.\.\..*gn\.Dense\(W1"):
        gn.load(path)


def test_a_folder_that_cannot_be_written_to_is_one_clear_sentence(tmp_path):
    pytest.importorskip("safetensors")
    with pytest.raises(FileNotFoundError, match=r"cannot save the network .*choose a path in a folder"):
        NET.save(tmp_path / "nowhere" / "net.safetensors")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="cannot save the network"):
        NET.save(tmp_path / "file" / "net.safetensors")
    with pytest.raises(IsADirectoryError, match="cannot save the network"):
        NET.save(tmp_path)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    if os.access(closed, os.W_OK):
        closed = "/sys"  # root may write into any folder of a disk, not there
    with pytest.raises(OSError, match="cannot save the network"):
        NET.save(f"{closed}/net.safetensors")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["closed", "file"]


def test_without_safetensors_the_extra_is_named(monkeypatch, tmp_path):
    for name in ("safetensors", "safetensors.numpy"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"saving a network needs safetensors; .*pip install '.*safetensors"):
        NET.save(tmp_path / "net.safetensors")
    (tmp_path / "net.safetensors").touch()
    with pytest.raises(ImportError, match="loading a network needs safetensors"):
        gn.load(tmp_path / "net.safetensors")


@pytest.mark.parametrize(
    ("code", "parts"),
    [
        (
            "import no_such_part",
            ["drawing needs broken, and that no_such_part, which is missing", _extras.install("study")],
        ),
        ("from os import nothing", ["drawing needs broken, which cannot be imported (cannot import name", "anew"]),
        (
            "import torchvision",
            [
                "needs broken, which cannot be imported (operator torchvision::nms does not exist)",
                "uninstall torchvision",
            ],
        ),
    ],
)
def test_a_package_that_is_there_but_broken_says_why(code, parts, tmp_path, monkeypatch):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "__init__.py").write_text(code)
    (tmp_path / "torchvision.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist\\nand more')"
    )
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError) as caught:
        _checks.optional_import("broken.part", "drawing", "study")
    assert [part for part in parts if part not in str(caught.value)] == [], str(caught.value)
    assert "\n" not in str(caught.value)
