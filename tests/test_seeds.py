"""A seed is an integer or a numpy.random.Generator, in every public function that has one."""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
from pathlib import Path

import numpy as np
import pytest

import gnfast as gn

MODULES = ("gnfast", "gnfast.ensemble", "gnfast.limits", "gnfast.bounds", "gnfast.datasets")
BRIDGES = [path for path in Path(gn.__file__).parent.joinpath("interop").glob("*.py") if path.name[0] != "_"]
Q = np.linalg.qr(np.random.default_rng(1).standard_normal((40, 40)))[0]
A = (Q * np.linspace(1.0, 2.0, 40)) @ Q.T
A = (A + A.T) / 2
X = np.random.default_rng(0).standard_normal((5, 3))


def tracked(seed):
    return gn.Tracker(top=1, seed=seed).seed


def law(seed):
    return gn.ensemble.LinearLaw(4, depth=3, d=3, k=2).draw(seed, 3).P


def network_law(seed):
    return gn.ensemble.NetworkLaw(4, activation="tanh", X=X, k=2, depth=2).draw(seed, 3).gram


def eigenvalues(seed):
    """Of an operator that is larger than what is decomposed at once."""
    size = 900
    op = gn.operator(lambda V: V * np.linspace(1.0, 2.0, size)[:, None], size)
    return gn.eigsh(op, 1, method="lanczos", tol=1e-2, seed=seed, max_products=90, return_eigenvectors=False)


# What depends on the seed, and what the function gives does not depend on it alone.
CALLS = {
    "mlp": lambda seed: gn.mlp([3, 4, 2], seed=seed).parameters()[0],
    "resnet20": lambda seed: gn.resnet20(seed=seed).parameters()[0],
    "eigsh": eigenvalues,
    "cond": lambda seed: gn.cond(A, seed=seed).value,
    "rank": lambda seed: gn.rank(A, 1.5, "lanczos", probes=3, steps=5, seed=seed).error,
    "trace": lambda seed: gn.trace(A, "hutchinson", 3, seed=seed).value,
    "diagonal": lambda seed: gn.diagonal(A, "hutchinson", 3, seed=seed).values,
    "density": lambda seed: gn.density(A, probes=3, steps=5, seed=seed).values,
    "logdet": lambda seed: gn.logdet(A, 0.1, "lanczos", 3, 2, seed=seed).value,
    "effective_dimension": lambda seed: gn.effective_dimension(A, 0.1, "lanczos", 3, 2, seed=seed).value,
    "solve": lambda seed: gn.solve(A, np.ones(40), 0.1, rank=3, seed=seed)[0],
    "Tracker": tracked,
    "ensemble.linear": lambda seed: drawn(gn.ensemble.linear, d=3)(seed),
    "ensemble.network": lambda seed: drawn(gn.ensemble.network, activation="relu", X=X)(seed),
    "ensemble.LinearLaw.draw": law,
    "ensemble.NetworkLaw.draw": network_law,
    "limits.gram": lambda seed: (
        gn.limits.gram(X, 3, "tanh", skip=[0.0, 0.5, 0.0], variances=1.0, neurons=64, seed=seed).kernel
    ),
}
ALWAYS_THE_SAME = {"cond"}  # up to rounding: of a small matrix, its whole spectrum
RESULTS = {"ensemble.Ensemble"}  # which say what they were drawn from


def drawn(function, **options):
    return lambda seed: function(4, depth=3, k=2, seed=seed, samples=2, **options).kappa


def functions_with_seeds():
    """By inspection, and in the bridges, whose extras take long to import, by reading."""
    found = set()
    for name in MODULES:
        module, prefix = importlib.import_module(name), name.removeprefix("gnfast").lstrip(".")
        for public in getattr(module, "__all__", vars(module)):
            value = getattr(module, public)
            own = vars(value).items() if inspect.isclass(value) else ()
            methods = [(f"{public}.{key}", part) for key, part in own if inspect.isfunction(part) and key[0] != "_"]
            for label, one in [(public, value), *methods]:
                if callable(one) and has_seed(one):
                    found.add(".".join(filter(None, (prefix, label))))
    for path in BRIDGES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and "seed" in {
                argument.arg for argument in ast.walk(node.args) if isinstance(argument, ast.arg)
            }:
                found.add(f"{path.stem}.{node.name}")
    return found


def has_seed(function):
    try:
        return "seed" in inspect.signature(function).parameters
    except ValueError:  # types without a signature
        return False


def test_every_public_seed_is_tested():
    assert functions_with_seeds() == set(CALLS) | RESULTS


@pytest.mark.parametrize("name", CALLS)
def test_a_generator_is_a_seed(name):
    call, rng = CALLS[name], np.random.default_rng(3)
    first, second = call(rng), call(rng)
    numbers = np.random.default_rng(3).integers(2**64, dtype=np.uint64, size=2)
    for found, seed in zip((first, second), numbers, strict=True):
        for one, other in zip(parts(found), parts(call(int(seed))), strict=True):
            np.testing.assert_array_equal(one, other)
    if name not in ALWAYS_THE_SAME:
        pairs = itertools.zip_longest(parts(first), parts(second))
        assert not all(np.array_equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("name", CALLS)
def test_the_largest_seed_is_one(name):
    parts(CALLS[name](2**64 - 1))


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("seed", [None, 0.5, "1", True, np.random.RandomState(0)])
def test_other_seeds_are_refused(name, seed):
    with pytest.raises(TypeError, match=r"^seed is .* but must be an integer from 0 to 2\^64 - 1, or a numpy.random"):
        CALLS[name](seed)


def test_a_second_look_has_another_seed_at_the_end_of_the_range():
    """A given start is followed by a look with the next seed, and kpm finds its interval with it."""
    size = 900
    op = gn.operator(lambda V: V * np.linspace(1.0, 2.0, size)[:, None], size)
    found = gn.eigsh(op, 1, v0=np.ones(size), tol=1e-2, seed=2**64 - 1, return_eigenvectors=False)
    assert found[0] == pytest.approx(2, rel=1e-2)
    assert gn.density(A, "kpm", probes=2, steps=8, seed=2**64 - 1).integral == pytest.approx(1, abs=0.05)


def parts(found):
    return [np.asarray(part) for part in (found if isinstance(found, tuple) else (found,))]
