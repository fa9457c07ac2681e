"""A user's module after products, Gram, spectrum and monitor: everything in it as it was, whatever its structure."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import gnfast as gn

torch = pytest.importorskip("torch")
nn = torch.nn

import test_torch_models as models_tests  # noqa: E402
import torch_functions as functions  # noqa: E402
import torch_models as models  # noqa: E402
from torch.nn.utils import parametrizations, prune  # noqa: E402

from gnfast.interop.torch import CurvatureMonitor, GaussNewton  # noqa: E402


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.again, self.out = self.first, nn.Linear(4, 2)

    def forward(self, x: Any) -> Any:
        return self.out(torch.tanh(self.again(torch.tanh(self.first(x)))))


class Recording(nn.Module):
    """Forward assigns, counts, appends, and averages in a tensor that is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)
        self.calls, self.seen, self.sizes, self.average = 0, [], {"last": 0}, torch.zeros(4)
        self.recent: Any = collections.deque(maxlen=3)
        self.register_buffer("made", None)

    def forward(self, x: Any) -> Any:
        self.calls += 1
        h = torch.tanh(self.a(x))
        self.h = h
        self.seen.append(h)
        self.recent.append(h.detach())
        self.sizes["last"], self.sizes[f"{self.calls}"] = len(x), 1
        self.average.mul_(0.9).add_(0.1 * h.detach().mean(0))
        self.made = h.detach()
        return self.b(h)


def alias() -> Any:
    """A parameter that forward reads by a second way, which is no registration."""

    class Alias(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)
            self.weights, self.named, self.pair = [self.a.weight], {"w": self.a.weight}, (self.a.weight, 1)

        def forward(self, x: Any) -> Any:
            x = torch.tanh(self.a(x) @ self.weights[0])
            return (x @ self.named["w"]).tanh() @ self.pair[0]

    return Alias()


def tied() -> Any:
    module = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    module[2].weight = module[0].weight
    return module


def hooked() -> Any:
    module = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    module[0].register_forward_hook(lambda child, _, out: setattr(child, "activation", out))
    module[2].register_forward_pre_hook(lambda child, args: setattr(child, "inputs", args[0]))
    module[0].weight.register_hook(lambda g: 0.5 * g)
    module[2].register_full_backward_hook(lambda child, *_: setattr(child, "seen", True))
    return module


def captured() -> Any:
    """A parameter that forward reads from outside of the module."""
    layer = nn.Linear(4, 4)
    return models.Call(lambda x, a: torch.tanh(a(x)) @ layer.weight, layer)


def frozen() -> Any:
    module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)).eval()
    module[0].requires_grad_(False)
    return module


def twice_in_a_list() -> Any:
    module = nn.Module()
    layer = nn.Linear(4, 4)
    module.layers = nn.ModuleList([layer, nn.Tanh(), layer, nn.Tanh(), layer])
    module.forward = lambda x: [x := layer(x) for layer in module.layers][-1]
    return module


def unregistered() -> Any:
    """Batch norm in a plain list: nobody's submodule, and its averages move in training mode."""
    module = models.Call(lambda x, a: module.hidden[0](a(x)), nn.Linear(4, 3))
    module.hidden = [nn.BatchNorm1d(3).double()]
    return module


STRUCTURES: dict[str, Callable[[], Any]] = {
    "shared under two names": Shared,
    "shared in a list": twice_in_a_list,
    "shared in a Sequential": lambda: (lambda s: nn.Sequential(s, nn.Tanh(), s))(nn.Linear(4, 4)),
    "tied weights": tied,
    "weights by other ways": alias,
    "captured weights": captured,
    "recording": Recording,
    "hooks": hooked,
    "frozen": frozen,
    "LSTM": lambda: models.First(nn.LSTM(4, 3)),
    "GRU of two layers": lambda: models.First(nn.GRU(4, 2, 2, bidirectional=True)),
    "batch norm in training mode": lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)),
    "cumulative batch norm": lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, momentum=None)),
    "batch norm in a plain list": unregistered,
    "weight_norm": lambda: parametrizations.weight_norm(nn.Linear(4, 3)),
    "weight_norm by hooks": lambda: nn.utils.weight_norm(nn.Linear(4, 3)),
    "weight_norm of an LSTM": lambda: models.First(nn.utils.weight_norm(nn.LSTM(4, 3), "weight_hh_l0")),
    "spectral_norm": lambda: parametrizations.spectral_norm(nn.Linear(4, 3)).eval(),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(4, 3)),
    "pruned": lambda: prune.l1_unstructured(nn.Linear(4, 3), "weight", amount=0.4),
    "scripted": lambda: torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))),
    "traced": lambda: torch.jit.trace(
        nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)).double(), models.randn(4)
    ),
}


def contents(module: Any) -> Iterator[tuple[str, Any]]:
    """Everything that a module holds, by identity, and the values, versions and gradients of its tensors."""
    yield "random numbers", torch.get_rng_state().tolist()
    for name, tensor in [*module.named_parameters(remove_duplicate=False), *module.named_buffers()]:
        yield name, (type(tensor), tensor.data_ptr(), tensor.requires_grad, tensor._version, tensor.tolist())
        yield f"{name}.grad", None if tensor.grad is None else (id(tensor.grad), tensor.grad.tolist())
    if isinstance(module, torch.jit.ScriptModule):
        return
    for path, child in module.named_modules(remove_duplicate=False):
        for key, value in vars(child).items():
            yield f"{path}.{key}", id(value)
            if isinstance(value, list | collections.deque):
                yield f"{path}.{key}[:]", [id(part) for part in value]
            elif isinstance(value, dict):
                yield f"{path}.{key}{{}}", [(key, id(part)) for key, part in value.items()]
            elif isinstance(value, torch.Tensor):
                yield f"{path}.{key} values", value.tolist()


def built(name: str) -> tuple[Any, np.ndarray]:
    """A module that has been called and has gradients, and its Jacobian."""
    torch.manual_seed(3)
    module, X = STRUCTURES[name]().double(), models.randn(4)
    if isinstance(module, Recording):
        module.average = module.average.double()
    J = models_tests.rows(module(X), [tensor for tensor in module.parameters() if tensor.requires_grad])
    module(X).square().mean().backward()
    return module, J


def trained(module: Any, X: Any) -> list[Any]:
    """The parameters after a step."""
    leaves = list(module.parameters())
    optimizer = torch.optim.SGD(leaves, lr=0.1)
    optimizer.zero_grad()
    module(X).square().sum().backward()
    optimizer.step()
    return leaves


@pytest.mark.parametrize("name", STRUCTURES)
def test_nothing_is_changed(name: str) -> None:
    module, J = built(name)
    twin, _ = built(name)
    X = models.randn(4)
    before = dict(contents(module))
    models_tests.check(lambda: GaussNewton(module, None, X), J, len(X))
    monitor = CurvatureMonitor(module, X, every=1)
    assert not monitor.measure().note
    after = dict(contents(module))
    assert after.keys() == before.keys()
    changed = [key for key in before if after[key] != before[key]]
    assert not changed
    assert all(torch.equal(a, b) for a, b in zip(trained(module, X), trained(twin, X), strict=True)), "training differs"


def test_a_failure_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    module, X = Shared().double(), models.randn(4)
    module.register_forward_pre_hook(lambda child, _: setattr(child, "seen", 1))
    G = GaussNewton(module, None, X)
    v = np.ones(G.shape[0])
    before = dict(contents(module))

    def fail(*_: Any) -> None:
        raise KeyError("in the middle")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "tanh", fail)
        for _ in range(2):
            with pytest.raises(KeyError, match="in the middle"):
                G @ v
            assert dict(contents(module)) == before
    J = models_tests.explicit(module, X)
    assert models_tests.close(G @ v, J.T @ (J @ v) / len(X))


def test_parameters_that_are_given() -> None:
    """Frozen ones by name, and other tensors in the place of the module's."""
    module, X = frozen().double(), models.randn(4)
    leaf = torch.randn(4, 4).double().requires_grad_()
    before = dict(contents(module))
    J = models_tests.rows(torch.func.functional_call(module, {"0.weight": leaf}, X), [leaf])
    G = GaussNewton(module, {"0.weight": leaf.detach()}, X)
    v = np.ones(16)
    assert models_tests.close(G @ v, J.T @ (J @ v) / len(X))
    module[0].requires_grad_(True)
    J = models_tests.rows(module(X), [module[0].weight])
    module[0].requires_grad_(False)
    G = GaussNewton(module, ["0.weight"], X)
    assert models_tests.close(G @ v, J.T @ (J @ v) / len(X))
    assert dict(contents(module)) == before


@pytest.mark.parametrize("momentum", [0.1, None])
def test_averages_inside_of_checkpoints(momentum: float | None) -> None:
    """What is checkpointed is called again in the backward pass."""
    body = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, momentum=momentum), nn.Tanh(), nn.Linear(4, 2))
    run = lambda x, b: functions.checkpoint(b, x, use_reentrant=False)  # noqa: E731
    module, X = models.Call(run, body).double(), models.randn(4)
    J = models_tests.explicit(body, X)
    before = dict(contents(module))
    models_tests.check(lambda: GaussNewton(module, None, X), J, len(X))
    assert dict(contents(module)) == before


def test_gn_solvers_leave_gradients() -> None:
    module, X = Shared().double(), models.randn(4)
    module(X).sum().backward()
    gradients = [tensor.grad for tensor in module.parameters()]
    gn.solve(GaussNewton(module, None, X), np.ones(30), damping=0.1)
    assert all(tensor.grad is gradient for tensor, gradient in zip(module.parameters(), gradients, strict=True))
