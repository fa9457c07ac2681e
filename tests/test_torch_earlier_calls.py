"""Models that were called before: what they keep of it, and what was compiled for it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
nn = torch.nn

import test_torch_models as models_tests  # noqa: E402
import torch_models as models  # noqa: E402

from gnfast.interop.torch import GaussNewton  # noqa: E402

X = models.randn(4)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():  # PyTorch's own, of what it compiles
        warnings.simplefilter("ignore")
        yield
    torch.compiler.reset()


class Kept(nn.Module):
    """A layer, and what an earlier call has left for the next one."""

    left: Any = None

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.layer = nn.Linear(4, 4).double()
        self.clear()

    def clear(self) -> None:
        self.left = None


class Product(Kept):
    def forward(self, x: Any) -> Any:
        if self.left is None:
            self.left = self.layer.weight @ self.layer.weight
        return torch.tanh(x @ self.left) + self.layer.bias


class Recurrent(Kept):
    def forward(self, x: Any) -> Any:
        before = 0 if self.left is None or len(self.left) != len(x) else self.left
        self.left = torch.tanh(self.layer(x) + before)
        return self.left


class Listed(Kept):
    def clear(self) -> None:
        self.left = []

    def forward(self, x: Any) -> Any:
        self.left.append(self.layer(x))
        return torch.stack([part for part in self.left if len(part) == len(x)]).sum(0)


GLOBAL: dict[str, Any] = {}


class InGlobal(Kept):
    def clear(self) -> None:
        GLOBAL.clear()

    def forward(self, x: Any) -> Any:
        if "made" not in GLOBAL:
            GLOBAL["made"] = torch.tanh(self.layer.weight)
        return x @ GLOBAL["made"] + self.layer.bias


@pytest.mark.parametrize("kind", [Product, Recurrent, Listed, InGlobal])
def test_what_earlier_calls_left_is_refused_until_it_is_cleared(kind: type[Kept]) -> None:
    module = kind()
    module(X)
    with pytest.raises(ValueError, match="that an earlier call has computed with gradients and left"):
        GaussNewton(module, None, X)
    module.clear()
    J = models_tests.rows(module(X), list(module.parameters()))
    module.clear()
    if kind is InGlobal:  # which our own calls fill, too
        with pytest.raises(ValueError, match="that an earlier call has computed with gradients and left"):
            GaussNewton(module, None, X)
        return
    models_tests.check(lambda: GaussNewton(module, None, X), J, len(X), cond=False)


def test_what_earlier_calls_left_without_gradients_is_a_constant() -> None:
    module, other = Product(), Product()
    for one in (module, other):
        with torch.no_grad():
            one(X)
    J = models_tests.rows(other(X), list(other.parameters()))
    models_tests.check(lambda: GaussNewton(module, None, X), J, len(X), cond=False)


def test_what_is_left_but_not_read_is_nobodys_business() -> None:
    """Activations that hooks gather, a last output, a loss."""
    gathered: list[Any] = []
    module = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    module[1].register_forward_hook(lambda layer, inputs, output: gathered.append(output))
    vars(module)["last"] = module(X).sum()
    J = models_tests.rows(module(X), list(module.parameters()))
    models_tests.check(lambda: GaussNewton(module, None, X), J, len(X), cond=False)


def test_parameters_that_a_call_writes_to_are_named_and_left_alone() -> None:
    module = models.Call(lambda x, a: (a.weight.data.clamp_(-0.1, 0.1), a(x))[1], nn.Linear(4, 3).double())
    before = module.parts[0].weight.detach().clone()
    with pytest.raises(ValueError, match=r"changes its parameter parts\.0\.weight in place when it is called"):
        GaussNewton(module, None, X)
    assert torch.equal(module.parts[0].weight, before)


def body() -> Any:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3), nn.ReLU(), nn.Linear(3, 2)).double()


class Compiled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = body()
        self.function = torch.compile(lambda h: torch.tanh(h) * h, backend="aot_eager")

    def forward(self, x: Any) -> Any:
        return self.function(self.body(x))


COMPILED: dict[str, Callable[[], Any]] = {
    "module": lambda: torch.compile(body(), backend="aot_eager"),
    "module of dynamic shapes": lambda: torch.compile(body(), backend="aot_eager", dynamic=True),
    "module without breaks": lambda: torch.compile(body(), backend="aot_eager", fullgraph=True),
    "in place": lambda: (module := body(), module.compile(backend="aot_eager"))[0],
    "a part": lambda: (module := body(), module[2].compile(backend="aot_eager"))[0],
    "a function": Compiled,
    "in DataParallel": lambda: nn.DataParallel(torch.compile(body(), backend="aot_eager")),
}


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_for_training_before(name: str) -> None:
    """Whose compiled backward pass takes one cotangent and no more; and training goes on as it was."""
    module = COMPILED[name]()
    for samples in (X, X[:3]):
        module(samples).sum().backward()
    kept = [tensor.grad.clone() for tensor in module.parameters()]
    reference = COMPILED[name]()
    with torch.compiler.set_stance("force_eager"):
        J = models_tests.rows(reference(X), list(reference.parameters()))
    models_tests.check(lambda: GaussNewton(module, None, X), J, len(X), cond=False)
    for tensor, gradient in zip(module.parameters(), kept, strict=True):
        assert torch.equal(tensor.grad, gradient)
    module.zero_grad()
    for samples in (X, X[:3]):
        module(samples).sum().backward()
    for tensor, gradient in zip(module.parameters(), kept, strict=True):
        np.testing.assert_allclose(tensor.grad, gradient, rtol=1e-12)
