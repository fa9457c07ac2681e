"""Functions of (parameters, X) with whatever forward may do: for products by autograd, beside `torch_models`."""

from __future__ import annotations

import concurrent.futures
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


def _seeded(p: Any, x: Any) -> Any:
    torch.manual_seed(3)
    return F.dropout(hidden(p, x), 0.5) @ p["c"]


def _lossy(p: Any, x: Any) -> Any:
    """What autograd saves is rounded, and with it training's gradient."""
    with torch.autograd.graph.saved_tensors_hooks(lambda saved: saved.detach().half(), lambda half: half.double()):
        return hidden(p, x) ** 2 @ p["c"]


def _threads(p: Any, x: Any) -> Any:
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda power: (x @ p["a"] + p["b"]) ** power, (1, 2))
    return (first * second) @ p["c"]


def _equilibrium(p: Any, x: Any) -> Any:
    """A fixed point without gradients, whose derivative a hook solves for."""

    def step(z: Any, a: Any, b: Any) -> Any:
        return torch.tanh(0.3 * z + x @ a + b)

    z = x.new_zeros(len(x), 6)
    with torch.no_grad():
        for _ in range(40):
            z = step(z, p["a"], p["b"])
    z = step(z, p["a"], p["b"])
    at = z.clone().detach().requires_grad_()
    with torch.enable_grad():
        again = step(at, p["a"].detach(), p["b"].detach())

    def solve(gradient: Any) -> Any:
        found = gradient
        for _ in range(40):
            found = torch.autograd.grad(again, at, found, retain_graph=True)[0] + gradient
        return found

    if z.requires_grad:
        z.register_hook(solve)
    return z @ p["c"]


def _steps_within(p: Any, x: Any) -> Any:
    """Steps of gradient descent in forward, on all samples."""
    w = x.new_zeros(6).requires_grad_()
    with torch.enable_grad():
        for _ in range(3):
            loss = ((hidden(p, x) * w).sum(1) - x[:, 0]).square().sum()
            w = w - 0.05 * torch.autograd.grad(loss, w, create_graph=True)[0]
    return hidden(p, x) * w @ p["c"]


SCRATCH = torch.zeros(N, 6, dtype=torch.float64)
KEPT: dict[int, Any] = {}


def _scratch(p: Any, x: Any) -> Any:
    """A buffer of the whole process, which each call writes to."""
    h = hidden(p, x)
    with torch.no_grad():
        SCRATCH[: len(x)].copy_(h)
    return h * SCRATCH[: len(x)] @ p["c"]


def _same_outputs(p: Any, x: Any) -> Any:
    """The same tensor is given by each call."""
    out = KEPT.setdefault(len(x), torch.empty(len(x), 2, dtype=torch.float64))
    out.detach_()
    return out.copy_(hidden(p, x) @ p["c"])


def _until_small(p: Any, x: Any) -> Any:
    h = hidden(p, x)
    while float(h.detach().abs().max()) > 0.3:
        h = 0.8 * h
    return h @ p["c"]


def _zero(h: Any) -> Any:
    """Zeros that depend on h: all ties and kinks at once."""
    return h - h.detach()


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
    "sparse samples": lambda p, x: torch.sparse.mm(x.to_sparse(), p["a"]) @ p["c"],
    "sparse parameter": lambda p, x: torch.sparse.mm(p["a"].t().to_sparse(), x.t()).t() @ p["c"],
    "in place through another view": _in_place(lambda h: h.t()[1].mul_(3)),
    "scattered in place": _in_place(lambda h: h.scatter_(1, torch.zeros(len(h), 1, dtype=torch.long), h[:, 2:3] * 1.0)),
    "accumulated in place": _in_place(
        lambda h: h.index_put_((torch.arange(len(h)), torch.tensor(1)), h[:, 3] * 2, accumulate=True)
    ),
    "foreach": _in_place(lambda h: torch._foreach_mul_([h], 2.0)),
    "written through data": _between(lambda h: (h.data.mul_(0.5), h)[1]),
    "seeded dropout": _seeded,
    "lossy saved tensors": _lossy,
    "threads": _threads,
    "deep equilibrium": _equilibrium,
    "gradient descent in forward": _steps_within,
    "a scratch buffer": _scratch,
    "the same outputs again": _same_outputs,
    "as many steps as the batch needs": _until_small,
    "three samples earlier": _between(lambda h: h + torch.cat([torch.zeros_like(h[:3]), h[:-3]]) if len(h) > 3 else h),
    "the next sample's derivative alone": _between(lambda h: h + _zero(h.roll(1, 0))),
    "centred beside a large constant": lambda p, x: 1e9 + (lambda h: h - h.mean(0))(hidden(p, x)) @ p["c"],
    "half of the samples detached": _between(lambda h: torch.cat([h[: len(h) // 2].detach(), h[len(h) // 2 :]])),
    "ties": _between(lambda h: torch.maximum(h, h * 1.0) + torch.stack([h, h]).amax(0) + torch.fmin(h, h + 0.0)),
    "kinks": _between(lambda h: h + F.relu(_zero(h)) + _zero(h).abs() + F.hardtanh(_zero(h) + 1) + _zero(h) ** 0),
    "norms at zero": _between(lambda h: h + _zero(h).norm(dim=1, keepdim=True) + F.normalize(_zero(h))),
    "products with zero": _between(lambda h: h + torch.cat([_zero(h), h], 1).prod(1, keepdim=True)),
    "writes to X": lambda p, x: torch.tanh(x.mul_(0.5) @ p["a"] + p["b"]) @ p["c"],
}


def parameters() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(4)
    shapes = {"a": (4, 6), "b": (6,), "c": (6, 2)}
    return {name: torch.randn(*s, generator=generator, dtype=torch.float64) / 2 for name, s in shapes.items()}
