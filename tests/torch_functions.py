"""Functions of (parameters, X) with whatever forward may do: for products by autograd, beside `torch_models`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint
from torch_models import N


class StraightThrough(torch.autograd.Function):
    """Rounding whose gradient is that of the identity: forward mode has none by design."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return torch.round(4 * x) / 4

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return g


class StraightThroughBothWays(torch.autograd.Function):
    """One that torch.func takes, whose forward mode is zero and whose reverse mode is the identity."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Any) -> Any:
        return torch.round(4 * x) / 4

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return g

    @staticmethod
    def jvp(ctx: Any, t: Any) -> Any:
        return torch.zeros_like(t)


class ReversedGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return -0.3 * g


class OnceDifferentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Any) -> Any:
        (x,) = ctx.saved_tensors
        return 3 * x**2 * g


class DetachedBackward(torch.autograd.Function):
    """A backward pass that a second one does not see."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return torch.sin(x)

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return torch.from_numpy(g.detach().numpy() * 0.5)


class ClippedGradient(torch.autograd.Function):
    """A backward pass that is not linear: there is no Jacobian."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return g.clamp(-0.1, 0.1)


def hidden(p: Any, x: Any) -> Any:
    return torch.tanh(x @ p["a"] + p["b"])


def _in_place(change: Callable[[Any], Any]) -> Callable[..., Any]:
    def run(p: Any, x: Any) -> Any:
        h = x @ p["a"] + p["b"]
        change(h)
        return torch.tanh(h) @ p["c"]

    return run


def _between(change: Callable[[Any], Any]) -> Callable[..., Any]:
    """tanh(x a + b), changed, times c."""
    return lambda p, x: change(hidden(p, x)) @ p["c"]


def _no_grad_scale(h: Any) -> Any:
    with torch.no_grad():
        scale = h.pow(2).sum(1, keepdim=True) + 1
    return h / scale


def _ghost(h: Any) -> Any:
    return torch.cat([part - part.mean(0) for part in h.split(2)])


def _pairs(h: Any) -> Any:
    other = h[torch.arange(len(h)) ^ 1 if len(h) % 2 == 0 else torch.arange(len(h)).flip(0)]
    return h + 0.5 * other


def _filled(h: Any) -> Any:
    out = torch.zeros_like(h)
    out[:, ::2] = h[:, ::2]
    out[:, 1::2] += 2 * h[:, 1::2]
    return out


def _where_slope(p: Any, x: Any) -> Any:
    h = x @ p["a"]
    return torch.where(h > 0, h, p["b"] * h) @ p["c"]


def _inner_gradient(p: Any, x: Any) -> Any:
    """A force: the derivative of an energy in x, by autograd in forward."""
    x = x.requires_grad_()
    with torch.enable_grad():
        energy = (hidden(p, x) @ p["c"]).sum()
        return torch.autograd.grad(energy, x, create_graph=True)[0]


# The same signature: a (4, 6), b (6,), c (6, 2).
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "mul_": _in_place(lambda h: h.mul_(0.5)),
    "add_ of itself": _in_place(lambda h: h.add_(h)),
    "exp_": _in_place(lambda h: h.exp_()),
    "relu_": _in_place(torch.relu_),
    "sigmoid_": _in_place(lambda h: h.sigmoid_().mul(1.0)),
    "F.relu inplace, dropped": _in_place(lambda h: F.relu(h, inplace=True)),
    "F.silu inplace": _in_place(lambda h: F.silu(h, inplace=True)),
    "out= column": _in_place(lambda h: h[:, 0].mul_(2.0)),
    "masked_fill_": _in_place(lambda h: h.masked_fill_(h > 0.3, 0.3)),
    "clamp_": _in_place(lambda h: h.clamp_(-0.5, 0.5)),
    "index_add_": _in_place(lambda h: h.index_add_(1, torch.tensor([0, 2]), h[:, 3:5] * 1.0)),
    "copy_": _in_place(lambda h: h[:, :3].copy_(h[:, 3:] * 2)),
    "filled": _between(_filled),
    "no_grad": _between(_no_grad_scale),
    "detach": _between(lambda h: h * h.detach()),
    "detached mean": _between(lambda h: h - h.mean(1, keepdim=True).detach()),
    "data": _between(lambda h: h / h.data.norm()),
    "straight through": _between(StraightThrough.apply),
    "straight through both ways": _between(StraightThroughBothWays.apply),
    "x + (q - x).detach()": _between(lambda h: h + (torch.round(h) - h).detach()),
    "reversed gradient": _between(ReversedGradient.apply),
    "once differentiable": _between(OnceDifferentiable.apply),
    "backward through numpy": _between(DetachedBackward.apply),
    "hook that halves": _between(lambda h: (h.register_hook(lambda g: 0.5 * g), h)[1]),
    "checkpoint": lambda p, x: checkpoint(hidden, p, x, use_reentrant=False) @ p["c"],
    "cumsum over the batch": _between(lambda h: h.cumsum(0)),
    "cumsum backwards": _between(lambda h: h.flip(0).cumsum(0).flip(0)),
    "cumulative maximum": _between(lambda h: h.cummax(0).values),
    "logcumsumexp": _between(lambda h: torch.logcumsumexp(h, 0)),
    "softmax over the batch": _between(lambda h: h.softmax(0)),
    "divided by the maximum": _between(lambda h: h / h.max()),
    "sorted over the batch": _between(lambda h: h.sort(0).values),
    "permuted": _between(lambda h: h[[3, 0, 4, 1, 2]] if len(h) == N else h),
    "flipped": _between(lambda h: h.flip(0)),
    "rolled": _between(lambda h: h - h.roll(1, 0)),
    "centred": _between(lambda h: h - h.mean(0)),
    "centred in the derivative alone": _between(lambda h: h - h.mean(0) + h.mean(0).detach()),
    "first sample as reference": _between(lambda h: h - h[:1]),
    "last sample as reference": _between(lambda h: h - h[-1:]),
    "ghost batch norm": _between(_ghost),
    "pairs": _between(_pairs),
    "mean over the samples' number": _between(lambda h: h / len(h)),
    "a learned slope": _where_slope,
    "prelu": lambda p, x: F.prelu(x @ p["a"], p["b"]) @ p["c"],
    "torch.func.grad in forward": lambda p, x: torch.func.vmap(
        torch.func.grad(lambda one: (hidden(p, one) @ p["c"]).sum())
    )(x),
    "torch.func.jvp in forward": lambda p, x: torch.func.jvp(lambda z: hidden(p, z) @ p["c"], (x,), (x**2,))[1],
    "torch.func.jacrev in forward": lambda p, x: torch.func.vmap(
        torch.func.jacrev(lambda one: hidden(p, one) @ p["c"])
    )(x),
    "autograd.grad in forward": _inner_gradient,
    "eigenvalues": _between(lambda h: torch.linalg.eigvalsh(h[:, :, None] * h[:, None, :] + torch.eye(6).double())),
    "control flow": _between(lambda h: h * 2 if float(h.detach().sum()) > 0 else h * 3),
    "complex in between": _between(lambda h: torch.fft.ifft(torch.fft.fft(h, dim=1) * 1j, dim=1).real),
    "writes to X": lambda p, x: torch.tanh(x.mul_(0.5) @ p["a"] + p["b"]) @ p["c"],
}


def parameters() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(4)
    shapes = {"a": (4, 6), "b": (6,), "c": (6, 2)}
    return {name: torch.randn(*s, generator=generator, dtype=torch.float64) / 2 for name, s in shapes.items()}
