"""Faults of all sizes planted into products by autograd: the comparison with plain reverse mode must see them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from gnfast.interop._autograd import FunctionalPass  # noqa: E402
from gnfast.interop._models import model_of  # noqa: E402
from gnfast.interop._probes import Probe  # noqa: E402


class Planted:
    """Products with a fault in them."""

    batched = True

    def __init__(self, right: Any, push: Callable[..., Any] | None = None, pull: Callable[..., Any] | None = None):
        self.right, self.outputs = right, right.outputs
        self._push, self._pull, self.calls = push or (lambda w, _, __: w), pull or (lambda g, _: g), 0

    def push(self, V: Any) -> Any:
        self.calls += 1
        return self._push(self.right.push(V), V, self.calls)

    def pull(self, U: Any) -> Any:
        return self._pull(self.right.pull(U), U)


def one_more(value: float) -> Callable[..., Any]:
    def push(w: Any, *_: Any) -> Any:
        w = w.clone()
        w[:, -1, -1] += value
        return w

    return push


def without(first: int, last: int) -> Callable[..., Any]:
    """A route that stops the gradient in some of the parameters."""

    def pull(g: Any, _: Any) -> Any:
        g = g.clone()
        g[:, first:last] = 0
        return g

    return pull


FAULTS = {
    "memory that nobody wrote": {"push": one_more(1e276)},
    "nearly the largest number": {"push": one_more(1e308)},
    "an entry off": {"push": one_more(0.01)},
    "not a number": {"push": one_more(float("nan"))},
    "a percent": {"push": lambda w, *_: 1.01 * w},
    "drift": {"push": lambda w, V, call: w * (1 + 0.05 * (call > 1))},
    "one sample of another": {"push": lambda w, *_: w.roll(1, dims=1)},
    "no derivative in a bias": {"pull": without(20, 24)},
    "no derivative at all": {"push": lambda w, *_: 0 * w, "pull": lambda g, _: 0 * g},
    "a sign": {"pull": lambda g, _: -g},
    "an infinite entry": {"pull": lambda g, _: torch.cat([g[:, :-1], g[:, -1:] / 0], dim=1)},
}


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("fault", [None, *FAULTS])
def test_faults_are_seen(fault: str | None, width: int) -> None:
    torch.manual_seed(1)
    module = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3)).double()
    model = model_of(module, None, torch.randn(7, 5, dtype=torch.float64))
    right = FunctionalPass(model, model.X, "jvp")
    found = Probe(model, model.X).difference(Planted(right, **FAULTS.get(fault or "", {})), width)
    assert bool(found) == (fault is not None), found
