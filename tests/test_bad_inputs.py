"""Bad inputs end in one sentence that names the argument, and on the command line in exit status 2."""

from __future__ import annotations

import re
import shlex
import sqlite3
import warnings
from contextlib import closing

import bad_inputs
import numpy as np
import pytest

import gnfast as gn
from gnfast import cli

torch = pytest.importorskip("torch")
pytest.importorskip("typer")
pytest.importorskip("safetensors")
pytest.importorskip("sklearn")


GOOD = b"widths = [4]\ndepths = [3]\nseeds = [0]\nsamples = 12\noutputs = 2\ndata = 'X.npy'\n"
FAMILY = b"[[networks]]\nkind = 'linear'\n"
STUDY_FILES = {
    "GOOD.toml": GOOD + FAMILY,
    "UNCLOSED.toml": GOOD + b"name = 'x",
    "EMPTY.toml": b"# nothing yet\n",
    "UTF16.toml": GOOD.decode().encode("utf-16"),
    "NULS.toml": bytes(100),
    "SLOPE.toml": GOOD + b"[[networks]]\nkind = 'tanh'\ninit = 'xavier_normal'\nslope = 0.01\n",
}


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """Return what the expressions may name."""
    folder = tmp_path_factory.mktemp("folder")
    corrupt = folder / "corrupt.npy"
    corrupt.write_bytes(b"\x93NUMPY nothing of use")
    rng = np.random.default_rng(0)
    X = rng.standard_normal((12, 5))
    np.save(folder / "X.npy", X)
    for name, content in STUDY_FILES.items():
        (folder / name).write_bytes(content)
    (folder / "DAMAGED").mkdir()
    (folder / "DAMAGED" / "results.sqlite").write_bytes(b"no database at all" * 9)
    (folder / "OTHERS").mkdir()
    with closing(sqlite3.connect(folder / "OTHERS" / "results.sqlite")) as db, db:
        db.execute("CREATE TABLE points (x)")
    net = gn.mlp([5, 4, 3], seed=0)
    return {
        "gn": gn,
        "np": np,
        "torch": torch,
        "X": X,
        "X32": X.astype("float32"),
        "y": rng.integers(3, size=12),
        "net": net,
        "G": gn.GaussNewton(net, X),
        "torch_net": torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3)),
        "folder": str(folder),
        "corrupt": str(corrupt),
        "DATA": str(folder / "X.npy"),
    }


def names_the_argument(message, argument):
    """Whether the message says something of the argument, as a word of its own: `k is 0`, `widths[1] is 0`."""
    entry = r"(\[[^\]]*\])*"
    call, more = r"(\(.*\))?", r"(\([^)]*\) )?('[^']*' )?"  # init((4, 5), 3) has, Sigma (d, d) is, data 'X.npy' has
    begun = rf"(?<![\w.]){re.escape(argument)}{entry}{call} {more}(is|has|have|must|needs|gave|holds)\b"
    return re.search(begun, message) is not None


def has(message, words):
    return all(word.lower() in message.lower() for word in words.split())


@pytest.mark.parametrize(("expression", "words"), bad_inputs.API)
def test_api(names, expression, words):
    with warnings.catch_warnings(), pytest.raises(Exception) as caught:
        warnings.simplefilter("ignore")
        eval(expression, dict(names))
    assert isinstance(caught.value, TypeError | ValueError | OSError | MemoryError), repr(caught.value)
    message = str(caught.value)
    assert words and has(message, words), message
    argument = words.split()[0]
    assert names_the_argument(message, argument) or argument == "corrupt", message
    assert "\n" not in message.strip()


@pytest.mark.parametrize(("expression", "remedy", "mended"), bad_inputs.REMEDIES)
def test_a_remedy_that_is_followed_works(names, expression, remedy, mended):
    with pytest.raises((TypeError, ValueError)) as caught:
        eval(expression, dict(names))
    message = str(caught.value)
    assert remedy in message, message
    words = re.findall(r"[A-Za-z_]\w*", mended)
    known = set(re.findall(r"[A-Za-z_]\w*", f"{expression} {message}")) | names.keys()
    assert set(words) <= known, set(words) - known  # nothing that the message does not say
    eval(mended, dict(names))


@pytest.mark.parametrize(("words_typed", "words"), bad_inputs.CLI)
def test_command_line(names, capsys, words_typed, words):
    paths = {"DATA": names["DATA"], "CORRUPT": names["corrupt"], "FOLDER": names["folder"]}
    paths |= {name: f"{names['folder']}/{name}" for name in (*STUDY_FILES, "DAMAGED", "OTHERS")}
    status = cli.main([paths.get(word, word) for word in shlex.split(words_typed)])
    out, err = capsys.readouterr()
    assert status == 2, (status, out, err)
    assert "Traceback" not in err
    assert has(err + out * (not err), words), err


NAMES_IN_ANY_CASE = {
    "activation": lambda gn, X, name: gn.mlp([4, 5, 3], activation=name, seed=0)(X),
    "loss": lambda gn, X, name: gn.GaussNewton(gn.mlp([4, 3], seed=0), X, name).to_dense(),
    "init": lambda gn, X, name: gn.mlp([4, 3], init=name, seed=0)(X),
    "method": lambda gn, X, name: gn.eigsh(X.T @ X, 2, method=name)[0],
    "variances": lambda gn, X, name: (
        gn.ensemble.network([20], activation="relu", X=X, k=2, samples=2, seed=0, variances=name).kappa
    ),
    "padding": lambda gn, X, name: gn.Conv1d(np.ones((1, 1, 3)), padding=name).padding == "same",
    "bounds' loss": lambda gn, X, name: [b.value for b in gn.bounds.all(gn.mlp([4, 9, 3], seed=0), X, name)],
}
SPELLINGS = {
    "activation": ("leaky_relu", "Leaky-ReLU"),
    "loss": ("cross_entropy", "Cross-Entropy"),
    "init": ("xavier_normal", "Xavier_Normal"),
    "method": ("krylov", "Krylov"),
    "variances": ("kaiming", "Kaiming"),
    "padding": ("same", "SAME"),
    "bounds' loss": ("mse", "MSE"),
}


@pytest.mark.parametrize("what", NAMES_IN_ANY_CASE)
def test_names_are_taken_in_any_case(what):
    X = np.random.default_rng(0).standard_normal((6, 4))
    usual, other = (np.asarray(NAMES_IN_ANY_CASE[what](gn, X, name)) for name in SPELLINGS[what])
    np.testing.assert_array_equal(usual, other)


def test_a_family_of_inits_is_its_normal_one():
    for family in ("kaiming", "xavier", "lecun"):
        short, whole = (gn.mlp([4, 3], init=name, seed=0).layers[0].weight for name in (family, f"{family}_normal"))
        np.testing.assert_array_equal(short, whole)
