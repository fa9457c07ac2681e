"""Ways to write a module of PyTorch down: each is read as the function that it is, or refused by name; never another.

Outcomes are judged by the whole Jacobian by plain reverse mode, row by row, in float64.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import gnfast as gn

torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional

TOL = 1e-10
REMEDY = r"gnfast\.interop\.torch\.GaussNewton|call eval\(\) first"
# What PyTorch does not differentiate either, or where outputs are not finite: nothing takes that.
NOBODY = ("weight of the input", "floor_divide", "divided by zero", "times infinity", "out=", "dropped out=")
NOBODY += ("inference_mode", "no_grad everywhere", "view of the wrong size", "mean over channels")


class Vectors(nn.Module):
    """Samples (n, 4)."""

    shape: tuple[int, ...] = (6, 4)

    def __init__(self, forward: Any) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.a, self.b = nn.Linear(4, 3), nn.Linear(3, 2)
        self.identity, self.dropout, self.flat = nn.Identity(), nn.Dropout(0.5), nn.Flatten()
        self.relu, self.tanh = nn.ReLU(inplace=True), nn.Tanh()
        self.register_buffer("shift", torch.randn(3))
        self.register_buffer("two", torch.tensor(2.0))
        self.how = forward
        self.double().eval()

    def forward(self, x: Any) -> Any:
        return self.how(self, x)


class Images(Vectors):
    """Samples (n, 2, 4, 4)."""

    shape = (5, 2, 4, 4)

    def __init__(self, forward: Any) -> None:
        super().__init__(forward)
        self.a, self.b = nn.Conv2d(2, 3, 3, padding=1), nn.Linear(3, 2)
        self.double()


class Weights(Vectors):
    """Samples (n, 4), parameters W1 (3, 4), b1, W2 (2, 3), b2."""

    def __init__(self, forward: Any) -> None:
        super().__init__(forward)
        del self.a, self.b
        for name, shape in (("W1", (3, 4)), ("b1", (3,)), ("W2", (2, 3)), ("b2", (2,))):
            setattr(self, name, nn.Parameter(torch.randn(*shape)))
        self.double()


def dropped(call: Any) -> Any:
    def forward(s: Any, x: Any) -> Any:
        h = s.a(x)
        call(s, h)
        return s.b(h)

    return forward


def aliased(alias: Any, change: Any, end: Any = lambda s, h, k: s.b(h + k)) -> Any:
    def forward(s: Any, x: Any) -> Any:
        h = s.a(x)
        k = alias(s, h)
        return end(s, change(s, h), k)

    return forward


def under(context: Any, whole: bool = False) -> Any:
    def forward(s: Any, x: Any) -> Any:
        with context():
            h = torch.tanh(s.a(x))
            if whole:
                return s.b(h)
        return s.b(h)

    return forward


def switched(s: Any, x: Any) -> Any:
    torch.set_grad_enabled(False)
    h = torch.tanh(s.a(x))
    torch.set_grad_enabled(True)
    return s.b(h)


def pixels_under_no_grad(s: Any, x: Any) -> Any:
    with torch.no_grad():
        x = x / 255
    return s.b(torch.tanh(s.a(x)))


class Reversed(torch.autograd.Function):
    """The identity, whose derivative is that of x -> -x."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return x * 1.0

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return -grad


@torch.no_grad()
def backbone(s: Any, x: Any) -> Any:
    return torch.tanh(s.a(x))


R = "right"
UNUSED = "whose result the outputs do not use"
LATER = "in place whose input"
NO_GRAD = r"under torch\.no_grad"
SPELLINGS: dict[str, tuple[type[Vectors], Any, str]] = {
    # activations: functions, modules, methods, in place, keywords
    "F.relu": (Vectors, lambda s, x: s.b(F.relu(s.a(x))), R),
    "F.relu in place": (Vectors, lambda s, x: s.b(F.relu(s.a(x), inplace=True)), R),
    "F.relu in place by position": (Vectors, lambda s, x: s.b(F.relu(s.a(x), True)), R),
    "F.relu(input=)": (Vectors, lambda s, x: s.b(F.relu(input=s.a(x))), R),
    "F.relu(input=, inplace=)": (Vectors, lambda s, x: s.b(F.relu(input=s.a(x), inplace=True)), R),
    "torch.relu": (Vectors, lambda s, x: s.b(torch.relu(s.a(x))), R),
    "relu_": (Vectors, lambda s, x: s.b(s.a(x).relu_()), R),
    "module in place": (Vectors, lambda s, x: s.b(s.relu(s.a(x))), R),
    "module twice": (Vectors, lambda s, x: s.tanh(s.b(s.tanh(s.a(x)))), R),
    "tanh_": (Vectors, lambda s, x: s.b(s.a(x).tanh_()), R),
    "sigmoid": (Vectors, lambda s, x: s.b(torch.sigmoid(s.a(x)).sigmoid()), R),
    "leaky_relu": (Vectors, lambda s, x: s.b(F.leaky_relu(s.a(x), negative_slope=0.2, inplace=True)), R),
    "leaky_relu by position": (Vectors, lambda s, x: s.b(F.leaky_relu(s.a(x), 0.2, True)), R),
    "leaky_relu_": (Vectors, lambda s, x: s.b(F.leaky_relu_(s.a(x), 0.2)), "leaky_relu_ at"),
    "elu": (Vectors, lambda s, x: s.b(F.elu(s.a(x), alpha=1.0)), R),
    "elu alpha": (Vectors, lambda s, x: s.b(F.elu(s.a(x), alpha=0.5)), "elu with alpha=0.5"),
    "gelu": (Vectors, lambda s, x: s.b(F.gelu(s.a(x), approximate="tanh")), R),
    "softplus": (Vectors, lambda s, x: s.b(F.softplus(s.a(x))), R),
    "softplus beta": (Vectors, lambda s, x: s.b(F.softplus(s.a(x), 2)), "softplus with beta=2"),
    "relu6": (Vectors, lambda s, x: s.b(F.relu6(s.a(x))), "relu6 at"),
    "hardtanh": (Vectors, lambda s, x: s.b(F.hardtanh(s.a(x))), "hardtanh at"),
    "clamp": (Vectors, lambda s, x: s.b(s.a(x).clamp(min=0)), "clamp at"),
    "maximum": (Vectors, lambda s, x: s.b(torch.maximum(s.a(x), s.two)), "maximum at"),
    "softmax": (Vectors, lambda s, x: F.softmax(s.b(s.a(x)), 1), "softmax at"),
    "exp": (Vectors, lambda s, x: s.b(s.a(x).exp()), "exp at"),
    # linear maps
    "F.linear": (Weights, lambda s, x: F.linear(F.linear(x, s.W1, s.b1), s.W2, s.b2), R),
    "F.linear by name": (Weights, lambda s, x: F.linear(F.linear(bias=s.b1, weight=s.W1, input=x), s.W2, s.b2), R),
    "F.linear doubled": (Weights, lambda s, x: F.linear(F.linear(x, s.W1 * 2, s.b1), s.W2, s.b2), "depends on the|mul"),
    "matmul": (Weights, lambda s, x: F.linear(x @ s.W1.t() + s.b1, s.W2, s.b2), "module has"),
    "addmm": (Weights, lambda s, x: F.linear(torch.addmm(s.b1, x, s.W1.T), s.W2, s.b2), "module has"),
    "einsum": (Weights, lambda s, x: F.linear(torch.einsum("ni,oi->no", x, s.W1) + s.b1, s.W2, s.b2), "module has"),
    "baddbmm": (Weights, lambda s, x: torch.baddbmm(s.b1, x[None], s.W1.T[None])[0] @ s.W2.T, "module has"),
    "bias apart": (Weights, lambda s, x: F.linear(F.linear(x, s.W1) + s.b1, s.W2, s.b2), "value of its own"),
    "weight of a view": (Weights, lambda s, x: F.linear(F.linear(x, s.W1.view(3, 4), s.b1), s.W2, s.b2), "linear at"),
    "detached weight": (Weights, lambda s, x: F.linear(F.linear(x, s.W1.detach(), s.b1), s.W2, s.b2), "linear at"),
    "weight of the input": (Vectors, lambda s, x: s.b(F.linear(s.a(x), s.a(x))), "linear at"),
    "layer twice": (Vectors, lambda s, x: s.b(s.a(x) + s.a(x)), "used twice"),
    # scalars
    "2 * h": (Vectors, lambda s, x: s.b(2 * s.a(x)), R),
    "h * 2": (Vectors, lambda s, x: s.b(s.a(x) * 2), R),
    "mul(other=)": (Vectors, lambda s, x: s.b(s.a(x).mul(other=2.5)), R),
    "torch.mul by name": (Vectors, lambda s, x: s.b(torch.mul(input=s.a(x), other=2.5)), R),
    "mul_": (Vectors, lambda s, x: s.b(s.a(x).mul_(3)), R),
    "h *= 2": (Vectors, lambda s, x: s.b(s.a(x).__imul__(2)), "__imul__ at|module has"),
    "neg": (Vectors, lambda s, x: s.b(-s.a(x)), R),
    "torch.neg": (Vectors, lambda s, x: s.b(torch.neg(s.a(x)).neg() / -4), R),
    "div": (Vectors, lambda s, x: s.b(torch.div(s.a(x), 3)), R),
    "div by nothing": (Vectors, lambda s, x: s.b(torch.div(s.a(x), 3, rounding_mode=None)), R),
    "div floor": (Vectors, lambda s, x: s.b(torch.div(s.a(x), 2, rounding_mode="floor")), "rounding_mode='floor'"),
    "div_ trunc": (Vectors, lambda s, x: s.b(s.a(x).div_(2, rounding_mode="trunc")), "rounding_mode='trunc'"),
    "floor_divide": (Vectors, lambda s, x: s.b(s.a(x) // 2), "floordiv"),
    "divided by zero": (Vectors, lambda s, x: s.b(s.a(x) / 0), "by 0"),
    "times infinity": (Vectors, lambda s, x: s.b(s.a(x) * float("inf")), "by inf"),
    "reciprocal": (Vectors, lambda s, x: s.b(2 / s.a(x)), "two values"),
    "power": (Vectors, lambda s, x: s.b(s.a(x) ** 2), "pow"),
    "a buffer's multiple": (Vectors, lambda s, x: s.b(s.a(x) * s.two), "two values"),
    "a buffer before": (Vectors, lambda s, x: s.b(s.two * s.a(x)), "module has"),
    "a number added": (Vectors, lambda s, x: s.b(s.a(x) + 1), "add at"),
    "a buffer added": (Vectors, lambda s, x: s.b(s.a(x) + s.shift), "value of its own, 'shift'"),
    "out=": (Vectors, lambda s, x: s.b(torch.mul(s.a(x), 2, out=s.two)), "other arguments"),
    # sums
    "sum": (Vectors, lambda s, x: s.b(_sum(s.a(x), lambda h: h + torch.tanh(h))), R),
    "add(other=)": (Vectors, lambda s, x: s.b(_sum(s.a(x), lambda h: torch.add(h, other=torch.tanh(h), alpha=2))), R),
    "add by names": (Vectors, lambda s, x: s.b(_sum(s.a(x), lambda h: torch.add(input=torch.tanh(h), other=h))), R),
    "sub(other=)": (Vectors, lambda s, x: s.b(_sum(s.a(x), lambda h: h.sub(other=torch.tanh(h)))), R),
    "doubled": (Vectors, lambda s, x: s.b(_sum(s.a(x), lambda h: h + h)), R),
    "cancelled": (Vectors, lambda s, x: s.b(_sum(s.a(x), lambda h: h - h + torch.tanh(h))), R),
    "old alpha": (Vectors, lambda s, x: s.b(_sum(s.a(x), lambda h: torch.add(h, 2, torch.tanh(h)))), "module has"),
    "rsub": (Vectors, lambda s, x: s.b(_sum(s.a(x), lambda h: torch.rsub(h, torch.tanh(h)))), "rsub"),
    "addcmul": (Vectors, lambda s, x: s.b(_sum(s.a(x), lambda h: torch.addcmul(h, h, h))), "addcmul"),
    "gate": (Vectors, lambda s, x: s.b(_sum(s.a(x), lambda h: h * torch.sigmoid(h))), "mul at|two values"),
    "sum in place": (Vectors, lambda s, x: s.b(_sum(s.a(x), lambda h: F.silu(h).add_(h))), R),
    "lerp": (Vectors, lambda s, x: s.b(_sum(s.a(x), lambda h: torch.lerp(h, torch.tanh(h), 0.5))), "lerp"),
    # results in place that are dropped, and aliases
    "dropped module": (Vectors, dropped(lambda s, h: s.relu(h)), UNUSED),
    "dropped function": (Vectors, dropped(lambda s, h: F.relu(h, inplace=True)), UNUSED),
    "dropped relu_": (Vectors, dropped(lambda s, h: h.relu_()), UNUSED),
    "dropped add_": (Vectors, dropped(lambda s, h: h.add_(1)), UNUSED),
    "dropped mul_": (Vectors, dropped(lambda s, h: h.mul_(3.0)), UNUSED),
    "dropped clamp_": (Vectors, dropped(lambda s, h: h.clamp_(min=0)), UNUSED),
    "dropped setitem": (Vectors, dropped(lambda s, h: h.__setitem__(0, 0)), "module has|cannot be traced"),
    "dropped copy_": (Vectors, dropped(lambda s, h: h.copy_(torch.tanh(h))), UNUSED),
    "dropped through a view": (Vectors, dropped(lambda s, h: h.view(h.size(0), -1).mul_(2)), UNUSED),
    "dropped out=": (Vectors, dropped(lambda s, h: torch.tanh(h, out=h)), UNUSED),
    "dropped detach_": (Vectors, dropped(lambda s, h: h.detach_()), UNUSED),
    "dropped requires_grad_": (Vectors, dropped(lambda s, h: h.requires_grad_(True)), UNUSED),
    "dropped hook": (Vectors, dropped(lambda s, h: h.register_hook(lambda g: 2 * g)), "cannot be traced"),
    "dropped, pure": (Vectors, dropped(lambda s, h: torch.sin(h)), UNUSED),
    "written input": (Vectors, lambda s, x: (x.mul_(2), s.b(s.a(x)))[1], UNUSED),
    "alias of Identity": (Vectors, aliased(lambda s, h: s.identity(h), lambda s, h: s.relu(h)), LATER),
    "alias of dropout": (Vectors, aliased(lambda s, h: s.dropout(h), lambda s, h: s.relu(h)), LATER),
    "alias of F.dropout": (Vectors, aliased(lambda s, h: F.dropout(h, 0.5, False), lambda s, h: h.mul_(2)), LATER),
    "alias by a name": (Vectors, aliased(lambda s, h: h, lambda s, h: s.relu(h)), LATER),
    "alias of view": (Vectors, aliased(lambda s, h: h.view(h.shape[0], -1), lambda s, h: h.mul_(2)), LATER),
    "alias of flatten": (Vectors, aliased(lambda s, h: torch.flatten(h, 1), lambda s, h: h.relu_()), LATER),
    "alias of Flatten": (Vectors, aliased(lambda s, h: s.flat(h), lambda s, h: torch.relu_(h)), LATER),
    "alias of contiguous": (Vectors, aliased(lambda s, h: h.contiguous(), lambda s, h: h.tanh_()), LATER),
    "alias of alias": (Vectors, aliased(lambda s, h: s.flat(s.identity(h)), lambda s, h: h.relu_()), LATER),
    "alias that changes": (Vectors, aliased(lambda s, h: s.identity(h).mul_(2), lambda s, h: h), LATER),
    "no alias": (Vectors, aliased(lambda s, h: torch.sigmoid(h), lambda s, h: s.relu(h)), R),
    "alias read before": (Vectors, aliased(lambda s, h: torch.tanh(s.identity(h)), lambda s, h: s.relu(h)), R),
    "chain in place": (Vectors, lambda s, x: s.b(s.relu(s.identity(s.a(x)).mul_(2).neg_()) * 0.5), R),
    # what has no gradient
    "no_grad": (Vectors, under(torch.no_grad), NO_GRAD),
    "inference_mode": (Vectors, under(torch.inference_mode), NO_GRAD),
    "set_grad_enabled": (Vectors, under(lambda: torch.set_grad_enabled(False)), NO_GRAD),
    "set_grad_enabled as a call": (Vectors, switched, NO_GRAD),
    "enable_grad": (Vectors, under(torch.enable_grad), R),
    "no_grad as a decorator": (Vectors, lambda s, x: s.b(backbone(s, x)), NO_GRAD),
    "no_grad everywhere": (Vectors, under(torch.no_grad, True), NO_GRAD),
    "no_grad before parameters": (Vectors, pixels_under_no_grad, R),
    "autocast": (Vectors, under(lambda: torch.autocast("cpu", torch.bfloat16)), "autocast"),
    "detach": (Vectors, lambda s, x: s.b(s.a(x).detach()), "detach"),
    "data": (Vectors, lambda s, x: s.b(s.a(x).data), "getattr"),
    "straight through": (Vectors, lambda s, x: s.b(_sum(s.a(x), lambda h: (h.sign() - h).detach() + h)), "sign at"),
    "a derivative of its own": (Vectors, lambda s, x: s.b(Reversed.apply(s.a(x))), "module|no derivative"),
    # casts
    "double": (Vectors, lambda s, x: s.b(s.a(x).double()), "double"),
    "to": (Vectors, lambda s, x: s.b(s.a(x).to(torch.float32).to(torch.float64)), "the operation to"),
    "bfloat16": (Vectors, lambda s, x: s.b(s.a(x).bfloat16().double()), "bfloat16|double"),
    # shapes
    "flatten": (Vectors, lambda s, x: s.b(torch.flatten(s.a(x), start_dim=1)), R),
    "view of a tuple": (Vectors, lambda s, x: s.b(s.a(x).view((x.size(0), -1))), R),
    "view of size()[0]": (Vectors, lambda s, x: s.b(s.a(x).view(x.size()[0], -1)), R),
    "reshape(shape=)": (Vectors, lambda s, x: s.b(s.a(x).reshape(shape=(x.shape[0], -1))), R),
    "torch.reshape": (Vectors, lambda s, x: s.b(torch.reshape(s.a(x), (x.shape[0], -1))), R),
    "view of the wrong size": (Vectors, lambda s, x: s.b(s.a(x).view(x.shape[1:][0], -1)), "reshape to anything"),
    "view of a dtype": (Vectors, lambda s, x: s.b(s.a(x).view(torch.float64)), "reshape to anything"),
    "contiguous": (Vectors, lambda s, x: s.b(s.a(x).contiguous(memory_format=torch.contiguous_format)), R),
    "permute": (Vectors, lambda s, x: s.b(s.a(x).permute(0, 1)), "permute"),
    "transpose": (Vectors, lambda s, x: s.b(s.a(x).T.T), "getattr"),
    "squeeze": (Vectors, lambda s, x: s.b(s.a(x).unsqueeze(1).squeeze(1)), "squeeze"),
    "cat": (Vectors, lambda s, x: s.b(torch.cat([s.a(x)[:, :1], s.a(x)[:, 1:]], 1)), "module has"),
    "chunk": (Vectors, lambda s, x: s.b(torch.cat(s.a(x).chunk(3, 1), 1)), "module has|cannot be traced"),
    "split": (Vectors, lambda s, x: s.b(torch.cat(list(s.a(x).split(1, 1))[::-1], 1)), "module has|cannot be traced"),
    "flip": (Vectors, lambda s, x: s.b(s.a(x).flip(1)), "flip"),
    "rolled samples": (Vectors, lambda s, x: s.b(s.a(x.roll(1, 0))), "roll"),
    "part": (Vectors, lambda s, x: s.b(s.a(x))[:, :1], "getitem"),
    # images
    "mean": (Images, lambda s, x: s.b(s.a(x).mean((2, 3))), R),
    "mean from behind": (Images, lambda s, x: s.b(torch.mean(s.a(x), dim=[-1, -2], keepdim=False)), R),
    "mean(dtype=)": (Images, lambda s, x: s.b(s.a(x).mean((2, 3), dtype=torch.float64)), "a mean with dtype"),
    "mean over channels": (Images, lambda s, x: s.b(s.a(x).mean((1, 2))), "mean over dimensions"),
    "sum over pixels": (Images, lambda s, x: s.b(s.a(x).sum((2, 3))), "sum at"),
    "amax": (Images, lambda s, x: s.b(s.a(x).amax((2, 3))), "amax"),
    "kept pixels": (Images, lambda s, x: s.b(s.a(x).mean((2, 3), True).flatten(1)), R),
    "pool": (Images, lambda s, x: s.b(F.adaptive_avg_pool2d(F.max_pool2d(s.a(x), 2), 1).flatten(1)), R),
    "pool by name": (Images, lambda s, x: s.b(F.avg_pool2d(s.a(x), kernel_size=4).flatten(1)), R),
    "pool with ceil_mode": (Images, lambda s, x: s.b(F.max_pool2d(s.a(x), 4, ceil_mode=True).flatten(1)), "ceil_mode"),
    "pool with a divisor": (
        Images,
        lambda s, x: s.b(F.avg_pool2d(s.a(x), 4, divisor_override=1).flatten(1)),
        "divisor",
    ),
    "pool to 2": (Images, lambda s, x: s.b(F.adaptive_avg_pool2d(s.a(x), 2).mean((2, 3))), "adaptive pooling to 2"),
    "channels last": (
        Images,
        lambda s, x: s.b(s.a(x.contiguous(memory_format=torch.channels_last)).mean((2, 3))),
        R,
    ),
    "conv by name": (
        Images,
        lambda s, x: s.b(F.conv2d(x, bias=s.a.bias, weight=s.a.weight, padding=1).mean((2, 3))),
        R,
    ),
    "conv of a copy": (Images, lambda s, x: s.b(F.conv2d(x, s.a.weight.clone(), s.a.bias).mean((2, 3))), "conv2d at"),
    "gate of means": (
        Images,
        lambda s, x: s.b(_sum(s.a(x), lambda h: h * h.mean((2, 3), True)).mean((2, 3))),
        "module",
    ),
    "interpolate": (Images, lambda s, x: s.b(F.interpolate(s.a(x), scale_factor=2).mean((2, 3))), "interpolate"),
    "pad": (Images, lambda s, x: s.b(s.a(F.pad(x, (1, 1))).mean((2, 3))), "pad"),
    "layer_norm of the shape": (
        Images,
        lambda s, x: s.b(F.layer_norm(s.a(x), x.shape[2:]).mean((2, 3))),
        "depends on the input",
    ),
    "layer_norm": (Images, lambda s, x: s.b(F.layer_norm(s.a(x), (3, 4, 4), eps=1e-3).mean((2, 3))), R),
    "batch_norm": (Images, lambda s, x: s.b(F.batch_norm(s.a(x), None, None, training=True).mean((2, 3))), R),
    "normalize": (Images, lambda s, x: s.b(F.normalize(s.a(x).mean((2, 3)))), "normalize|mean"),
    "dropout in training": (Images, lambda s, x: s.b(F.dropout(s.a(x)).mean((2, 3))), "dropout in training"),
}


def _sum(h: Any, of: Any) -> Any:
    return of(h)


def rows(module: Any, X: Any) -> tuple[np.ndarray, np.ndarray]:
    """Outputs and their Jacobian, a backward pass for each output."""
    out = module(X.clone())
    found = []
    for value in out.reshape(-1):
        parts = torch.autograd.grad(value, list(module.parameters()), retain_graph=True, allow_unused=True)
        found.append(
            np.concatenate(
                [
                    (torch.zeros_like(p) if g is None else g).numpy().ravel()
                    for p, g in zip(module.parameters(), parts, strict=True)
                ]
            )
        )
    return out.detach().numpy(), np.array(found)


def judged(module: Any, X: Any) -> tuple[np.ndarray, np.ndarray] | str:
    """Outputs and G (p, p) of the network, or the message of its refusal."""
    try:
        net = gn.from_torch(module)
        return net(X.numpy()), gn.GaussNewton(net, X.numpy()).to_dense()
    except ValueError as error:
        return str(error)


def follow(name: str, message: str, module: Any, X: Any) -> None:
    """Do what the refusal says: G is right then."""
    make = gn.interop.torch.GaussNewton
    if "call eval() first" in message:
        return  # test_the_remedy_of_dropout
    if name in NOBODY:
        try:
            out, J = rows(module, X)
        except RuntimeError:
            return
        assert not np.isfinite(out).all() or not np.isfinite(J).all()
        return
    if "one dtype" in message and name != "autocast" and name != "double":  # which change nothing in float64
        with pytest.raises(ValueError, match="compute in one dtype"):
            make(module, X=X).to_dense()
        return
    out, J = rows(module, X)
    wanted = J.T @ J / len(X)
    found = make(module, X=X) @ np.eye(len(wanted))
    assert np.abs(found - wanted).max() <= 1e-9 * max(np.abs(wanted).max(), 1e-300)


def is_right(found: Any, module: Any, X: Any) -> bool:
    out, J = rows(module, X)
    wanted = J.T @ J / len(X)
    return bool(
        np.abs(found[0] - out).max() <= TOL * np.abs(out).max()
        and np.abs(found[1] - wanted).max() <= TOL * np.abs(wanted).max()
    )


@pytest.mark.parametrize("name", SPELLINGS)
def test_right_or_refused(name: str) -> None:
    kind, forward, outcome = SPELLINGS[name]
    module = kind(forward)
    X = torch.from_numpy(np.random.default_rng(3).standard_normal(kind.shape))
    found = judged(module, X)
    if outcome == R:
        assert not isinstance(found, str), found
        assert is_right(found, module, X)
    else:
        assert isinstance(found, str), "read, but should be refused"
        assert re.search(outcome, found), found
        assert re.search(REMEDY, found), found
        follow(name, found, module, X)
    assert torch.is_grad_enabled()
