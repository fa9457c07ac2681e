"""Results as values: numbers where they are numbers, short in a line, tables in a notebook; public names alone."""

from __future__ import annotations

import copy
import html
import inspect
import math
import pickle

import numpy as np
import pytest

import gnfast as gn
from gnfast import cli

X = gn.datasets.digits()[0][:12]
G = gn.GaussNewton(gn.mlp([64, 20, 3], seed=0), X)
NUMBERS = {
    "cond": gn.cond(G),
    "trace": gn.trace(G),
    "rank": gn.rank(G),
    "logdet": gn.logdet(G.gram(), damping=0.1),
    "effective dimension": gn.effective_dimension(G, 0.1),
}
OTHERS = {
    "density": gn.density(G),
    "diagonal": gn.diagonal(G),
    "rank profile": gn.rank_profile(G),
    "eigsh": gn.eigsh(G, 9, return_info=True)[2],
    "plan": G.plan(),
    "layers": G.layers(),
    "by layer": gn.by_layer.cond(G),
    "bound": gn.bounds.deep(G.net, X),
    "ensemble": gn.ensemble.linear([50, 100], depth=3, d=20, k=5, samples=20, seed=0),
    "limit": gn.limits.gram(X, 3, "relu"),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers(name):
    found = NUMBERS[name]
    value = found.value
    assert float(found) == value
    assert int(found) == int(value)
    assert f"{found:.3e}" == f"{value:.3e}"
    assert f"{found}" == str(found)
    assert found == value
    assert value == found
    assert found != value + 1
    assert value - 1 < found < value + 1
    assert found <= value <= found
    assert not found > value
    assert math.isfinite(found)
    assert np.asarray(found) == value
    assert np.log1p(np.abs(found)) == np.log1p(abs(value))
    assert {found: 1}[value] == 1
    assert sorted([found, -1e9])[1] is found
    assert found != "kappa"
    with pytest.raises(TypeError, match="not supported between"):
        found < "kappa"  # noqa: B015


def test_numbers_of_two_results():
    first, second = NUMBERS["trace"], NUMBERS["rank"]
    assert (first < second) == (first.value < second.value)
    assert first == copy.copy(first)
    assert range(5)[gn.rank(np.diag([1.0, 0, 0]))] == 1
    assert not gn.rank(np.diag([1.0, 0, 0])) > 1


@pytest.mark.parametrize("name", [*NUMBERS, *OTHERS])
def test_a_line_is_short(name):
    found = (NUMBERS | OTHERS)[name]
    tables = ("layers", "by layer", "ensemble", "limit")
    assert name in tables or len(repr(found)) <= 420
    assert len(repr(found)) <= 1500
    assert name in tables or "\n" not in repr(found)


@pytest.mark.parametrize("name", [*NUMBERS, *OTHERS])
def test_copies(name):
    found = (NUMBERS | OTHERS)[name]
    for again in (pickle.loads(pickle.dumps(found)), copy.deepcopy(found)):
        assert type(again) is type(found)
        assert repr(again) == repr(found)


@pytest.mark.parametrize("name", ["cond", "trace", "rank", "plan", "layers", "by layer", "bound"])
def test_notebooks_show_the_text_and_no_markup_of_it(name):
    found = (NUMBERS | OTHERS)[name]
    shown = found._repr_html_()
    assert shown.startswith("<pre>")
    assert html.unescape(shown.removeprefix("<pre>").removesuffix("</pre>")) == str(found)
    assert "<" not in shown[5:-6]


def test_only_public_names_are_offered():
    names = dir(gn)
    assert {*gn.__all__, "from_torch", "interop", "__version__"} == set(names)
    for module in (gn.bounds, gn.ensemble, gn.limits):
        assert sorted(dir(module)) == sorted(module.__all__)
        assert not any(inspect.ismodule(getattr(module, name)) for name in dir(module))


@pytest.mark.parametrize("command", [[], ["study"], ["study", "run"], ["cond"], ["width"], ["paper"], ["info"]])
def test_help_has_two_names(command, capsys):
    pytest.importorskip("typer")
    texts = []
    for option in ("-h", "--help"):
        assert cli.main([*command, option]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    assert "Usage: gnfast" in texts[0]


def test_the_version(capsys):
    pytest.importorskip("typer")
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"gnfast {gn.__version__}\n"
    assert cli.main(["studi"]) == 2
    assert "Did you mean 'study'?" in capsys.readouterr().err
    assert cli.main(["cond", "--activaton", "tanh"]) == 2
    assert "--activation" in capsys.readouterr().err
