"""Ways in which a model, its loss or its data come to be others, many of which raise no count of PyTorch's."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

Change = Callable[[Any], object]


class Scaled(nn.Module):
    """A layer with numbers, a tuple, a dict, a plain tensor and a method of its own, which forward reads."""

    def __init__(self) -> None:
        super().__init__()
        self.slope, self.powers, self.options = 0.3, (1.0, 0.5), {"shift": [0.1]}
        self.settings = types.SimpleNamespace(gain=1.1)
        self.mask = torch.ones(6, dtype=torch.float64)
        self.array = np.full(6, 1.2)
        self.act = torch.tanh
        self.calls, self.last = 0, None
        self.seen: Any = None

    def bent(self, x: Any) -> Any:
        return nn.functional.leaky_relu(x, self.slope)

    def forward(self, x: Any) -> Any:
        self.calls += 1
        self.last = x
        x = self.bent(self.act(x) * self.powers[0] + self.options["shift"][0])
        return x * self.mask * self.settings.gain * torch.from_numpy(self.array)


def own() -> nn.Module:
    """Read by no engine but PyTorch's own."""
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(4, 6), Scaled(), nn.Linear(6, 3)).double().eval()


def usual() -> nn.Module:
    """What the core reads."""
    torch.manual_seed(1)
    body = [nn.Linear(4, 6), nn.BatchNorm1d(6), nn.LeakyReLU(0.2), nn.Linear(6, 6), nn.Dropout(0.0), nn.Tanh()]
    model = nn.Sequential(*body, nn.Linear(6, 3)).double().eval()
    model[1].running_mean.uniform_(-0.5, 0.5)
    model[1].running_var.uniform_(0.5, 2)
    return model


def data(n: int = 7) -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(4)
    X = torch.randn(n, 4, generator=generator, dtype=torch.float64)
    return X, torch.randint(3, (n,), generator=generator)


def reference(model: Any, loss: Any, X: Any, y: Any, params: Any = None) -> Any:
    """J^T H J of a batch, a row of J at a time by plain reverse mode, and H by differentiating the loss twice."""
    params = list(model.parameters()) if params is None else params
    params = [p for p in params if p.requires_grad]
    outputs = model(X)
    H = torch.autograd.functional.hessian(lambda f: loss(f, y), outputs.detach())
    rows = []
    for entry in outputs.reshape(-1):
        parts = torch.autograd.grad(entry, params, retain_graph=True, allow_unused=True, materialize_grads=True)
        rows.append(torch.cat([part.reshape(-1) for part in parts]))
    J = torch.stack(rows)
    return J.T @ H.reshape(len(J), len(J)) @ J


def _ulp(model: Any) -> None:
    """One entry, by the smallest step that there is."""
    weight = model[-1].weight.detach().numpy()
    weight[1, 2] = np.nextafter(weight[1, 2], np.inf)


def _swap_rows(model: Any) -> None:
    weight = model[0].weight.data
    weight[[0, 1]] = weight[[1, 0]]


def _signs(model: Any) -> None:
    model[0].weight.data[:2].neg_()


def _sgd(model: Any) -> None:
    for p in model.parameters():
        p.data.add_(torch.ones_like(p), alpha=-0.3)


def _to_vector(model: Any) -> None:
    vector = nn.utils.parameters_to_vector(model.parameters()).detach()
    nn.utils.vector_to_parameters(1.5 * vector, model.parameters())


def _average(model: Any) -> None:
    for p in model.parameters():
        p.data = p.data * 0.9


def _load(model: Any) -> None:
    model.load_state_dict({key: value * 2 for key, value in model.state_dict().items()})


def _set_storage(model: Any) -> None:
    with torch.no_grad():
        model[0].weight.set_(torch.randn(6, 4, dtype=torch.float64))


def _optimizer(model: Any, **options: Any) -> None:
    steps = torch.optim.Adam(model.parameters(), lr=0.1, **options)
    model(data()[0]).square().sum().backward()
    steps.step()
    steps.zero_grad()


def _set(index: int, **values: Any) -> Change:
    def change(model: Any) -> None:
        for key, value in values.items():
            setattr(model[index], key, value)

    return change


def _item(index: int, value: Callable[[], Any]) -> Change:
    def change(model: Any) -> None:
        model[index] = value()

    return change


class Twice(nn.Module):
    def forward(self, W: Any) -> Any:
        return 2 * W


def _method(model: Any) -> None:
    model[-2].forward = types.MethodType(lambda self, x: torch.sin(x), model[-2])


def _kind(model: Any) -> None:
    model[-2].__class__ = nn.Sigmoid


def _transposed(model: Any) -> None:
    model[3].weight.data = model[3].weight.data.t()


ON_PARAMETERS: dict[str, Change] = {
    "data mul": lambda m: [p.data.mul_(0.5) for p in m.parameters()],
    "data add": _sgd,
    "data[...] =": lambda m: m[0].weight.data.__setitem__(..., 0.25),
    "numpy[...] =": lambda m: m[0].bias.detach().numpy().__setitem__(..., 0.7),
    "one ulp of one entry": _ulp,
    "rows swapped": _swap_rows,
    "signs": _signs,
    "vector_to_parameters": _to_vector,
    "averages swapped in": _average,
    "load_state_dict": _load,
    "Adam": _optimizer,
    "fused Adam": lambda m: _optimizer(m, fused=True),
    "set_": _set_storage,
    "storage": lambda m: m[0].weight.untyped_storage().copy_(torch.randn(24, dtype=torch.float64).untyped_storage()),
}
ON_STRUCTURE: dict[str, Change] = {
    "transposed": _transposed,
    "negative_slope": _set(2, negative_slope=0.7),
    "eps": _set(1, eps=0.5),
    "running_mean": lambda m: m[1].running_mean.data.add_(0.4),
    "running_var by NumPy": lambda m: m[1].running_var.numpy().__setitem__(2, 3.0),
    "buffer replaced": lambda m: m[1].register_buffer("running_mean", torch.ones(6, dtype=torch.float64)),
    "submodule replaced": _item(-2, nn.ReLU),
    "submodule without parameters put in": lambda m: m.insert(3, nn.Sigmoid()),
    "submodule taken out": lambda m: m.__delitem__(-2),
    "type": _kind,
    "method": _method,
    "hook": lambda m: m[-2].register_forward_hook(lambda module, inputs, output: 3 * output),
    "hook before": lambda m: m[-1].register_forward_pre_hook(lambda module, inputs: (inputs[0] * 2,)),
    "parametrization": lambda m: parametrize.register_parametrization(m[0], "weight", Twice()),
    "pruning": lambda m: prune.l1_unstructured(m[0], "weight", amount=0.5),
    "mode": lambda m: m[1].train(),
}
ON_OWN: dict[str, Change] = {
    "number": _set(1, slope=0.9),
    "tuple": _set(1, powers=(2.0, 0.5)),
    "list in a dict": lambda m: m[1].options["shift"].__setitem__(0, 0.8),
    "entry of a dict": lambda m: m[1].options.update(shift=[0.8]),
    "namespace": lambda m: setattr(m[1].settings, "gain", 2.0),
    "tensor that is no buffer": lambda m: m[1].mask.data.mul_(0.5),
    "array": lambda m: m[1].array.__setitem__(2, 5.0),
    "function": _set(1, act=torch.sigmoid),
    "method that forward calls": _set(1, bent=torch.sigmoid),
}
LOSSES: dict[str, tuple[Callable[[], Any], Change]] = {
    "weight": (
        lambda: nn.CrossEntropyLoss(weight=torch.tensor([0.5, 2.0, 1.5], dtype=torch.float64)),
        lambda loss: loss.weight.data.mul_(torch.tensor([3.0, 1.0, 0.5], dtype=torch.float64)),
    ),
    "another weight": (
        nn.CrossEntropyLoss,
        lambda loss: setattr(loss, "weight", torch.tensor([3.0, 1.0, 0.5], dtype=torch.float64)),
    ),
    "reduction": (nn.CrossEntropyLoss, lambda loss: setattr(loss, "reduction", "sum")),
    "label_smoothing": (
        lambda: nn.CrossEntropyLoss(weight=torch.tensor([0.5, 2.0, 1.5], dtype=torch.float64)),
        lambda loss: setattr(loss, "label_smoothing", 0.3),
    ),
    "ignore_index": (nn.CrossEntropyLoss, lambda loss: setattr(loss, "ignore_index", 1)),
}
