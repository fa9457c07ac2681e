"""Modules of PyTorch read as networks: random ones against autograd, and what is refused, with its place."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gnfast as gn

torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional

from torch.nn.utils import prune  # noqa: E402

from gnfast.interop.torch import GaussNewton  # noqa: E402

TOL = 1e-10  # relative to the largest entry, float64


# ------------------------------------------------------------------------------------------------- random modules
class Sum(nn.Module):
    """body(x) + shortcut(x), said in several ways."""

    def __init__(self, body: Any, shortcut: Any, way: str) -> None:
        super().__init__()
        self.body, self.shortcut, self.way = body, shortcut, way

    def forward(self, x: Any) -> Any:
        y, z = self.body(x), x if self.shortcut is None else self.shortcut(x)
        if self.way == "iadd":
            y += z
            return y
        if self.way == "torch.add":
            return torch.add(z, y, alpha=0.5)
        if self.way == "sub":
            return z - 2 * y / 3
        return y + z


ACTIVATIONS = (
    nn.ReLU,
    lambda: nn.LeakyReLU(0.3),
    nn.ELU,
    nn.GELU,
    lambda: nn.GELU("tanh"),
    nn.SiLU,
    nn.Tanh,
    nn.Sigmoid,
    nn.Softplus,
    nn.Identity,
)
NAMES = st.integers(0, len(ACTIVATIONS) - 1)


@st.composite
def bodies(draw: Any, channels: int, depth: int = 0) -> tuple[list[Any], int]:
    """Modules on images, and the channels that they give."""
    layers: list[Any] = []
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["conv", "conv", "norm", "activation", "pool", "dropout", "sum"]))
        if kind == "conv":
            groups = draw(st.sampled_from([g for g in (1, channels) if channels % g == 0]))
            out = groups * draw(st.integers(1, 2))
            size = draw(st.sampled_from([1, 3]))
            mode = draw(st.sampled_from(["zeros", "circular"])) if size == 3 else "zeros"
            layers.append(
                nn.Conv2d(channels, out, size, 1, size // 2, 1, groups, draw(st.booleans()), padding_mode=mode)
            )
            channels = out
        elif kind == "norm":
            layers.append(nn.BatchNorm2d(channels, affine=draw(st.booleans())))
        elif kind == "activation":
            layers.append(ACTIVATIONS[draw(NAMES)]())
        elif kind == "pool":
            pool = draw(st.sampled_from([nn.AvgPool2d, nn.MaxPool2d]))
            layers.append(pool(3, 1, padding=1))
        elif kind == "dropout":
            layers.append(nn.Dropout(0.4))
        elif depth < 2:
            body, out = draw(bodies(channels, depth + 1))
            straight = out == channels and draw(st.booleans())
            shortcut = None if straight else nn.Conv2d(channels, out, 1)
            way = draw(st.sampled_from(["add", "iadd", "torch.add", "sub"]))
            # An identity or dropout as the body hands on its input itself, which += would change for the shortcut too.
            safe = way if isinstance(body[-1], nn.Conv2d) else "add"
            layers.append(Sum(nn.Sequential(*body), shortcut, safe))
            channels = out
    return layers or [nn.Tanh()], channels


@st.composite
def modules(draw: Any) -> tuple[Any, Any]:
    """A module in float64 and samples for it."""
    torch.manual_seed(draw(st.integers(0, 2**20)))
    k, n = draw(st.integers(1, 3)), draw(st.integers(2, 4))
    family = draw(st.sampled_from(["images", "images", "vectors", "series"]))
    if family == "images":
        c, h, w = draw(st.integers(1, 3)), draw(st.integers(3, 5)), draw(st.integers(3, 5))
        layers, out = draw(bodies(c))
        end = draw(st.sampled_from(["flatten", "global", "strided"]))
        if end == "flatten":
            layers += [nn.Flatten(), nn.Linear(out * h * w, k)]
        elif end == "global":
            layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(out, k, bias=False)]
        else:
            layers += [
                nn.Conv2d(out, 2, 2, 2, dilation=(1, 2)),
                nn.AdaptiveAvgPool2d((1, 1)),
                nn.Flatten(),
                nn.Linear(2, k),
            ]
        X = torch.randn(n, c, h, w, dtype=torch.float64)
    elif family == "series":
        c, length = draw(st.integers(1, 3)), draw(st.integers(5, 9))
        layers = [nn.Conv1d(c, 3, 3, stride=2, padding=1), nn.BatchNorm1d(3), ACTIVATIONS[draw(NAMES)]()]
        layers += [nn.MaxPool1d(2), nn.Conv1d(3, 2, 1), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(2, k)]
        X = torch.randn(n, c, length, dtype=torch.float64)
    else:
        d, m = draw(st.integers(1, 5)), draw(st.integers(2, 6))
        layers = [
            nn.Linear(d, m),
            draw(st.sampled_from([nn.LayerNorm(m), nn.BatchNorm1d(m)])),
            ACTIVATIONS[draw(NAMES)](),
        ]
        layers += [Sum(nn.Sequential(nn.Linear(m, m), ACTIVATIONS[draw(NAMES)]()), None, "add"), nn.Linear(m, k)]
        X = torch.randn(n, d, dtype=torch.float64)
    module = nn.Sequential(*layers).double()
    with torch.no_grad():
        for child in module.modules():
            if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d | nn.LayerNorm) and child.weight is not None:
                child.weight.uniform_(0.5, 1.5)
                child.bias.normal_()
            if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
                child.running_mean.normal_()
                child.running_var.uniform_(0.5, 2)
    for child in module.modules():
        training = isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d) and draw(st.booleans())
        child.training = training
    return module, X


def outputs_and_product(module: Any, X: Any, V: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """F(X) and G V for the mean squares by plain autograd: J^T through a backward pass, J V by finite rows of J."""
    out = module(X)
    rows = []
    for value in out.reshape(-1):
        parts = torch.autograd.grad(value, list(module.parameters()), retain_graph=True)
        rows.append(np.concatenate([part.numpy().ravel() for part in parts]))
    J = np.array(rows)
    return out.detach().numpy(), J.T @ (J @ V) / len(X)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(modules())
def test_random_modules_equal_autograd(case: tuple[Any, Any]) -> None:
    module, X = case
    net = gn.from_torch(module)
    for array, tensor in zip(net.parameters(), module.parameters(), strict=True):
        assert np.shares_memory(array, tensor.detach().numpy())
    G = gn.GaussNewton(net, X.numpy())
    V = np.asfortranarray(np.random.default_rng(0).standard_normal((G.shape[0], 2)))
    out, product = outputs_and_product(module, X, V)
    assert np.abs(net(X.numpy()) - out).max() <= TOL * max(1, np.abs(out).max())
    assert np.abs(G @ V - product).max() <= TOL * np.abs(product).max()


# ------------------------------------------------------------------------------------------------- functional forms
class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(3, 2, 3, 3))
        self.points = nn.Parameter(torch.randn(3, 3, 1, 1))
        self.weight, self.bias = nn.Parameter(torch.randn(2, 3)), nn.Parameter(torch.randn(2))

    def forward(self, x: Any) -> Any:
        x = F.conv2d(x, self.kernel, padding=1)
        y = F.gelu(F.conv2d(F.leaky_relu(x, 0.2), self.points), approximate="tanh")
        x = F.silu(x) + 0.5 * y - F.dropout(x, training=self.training)
        x = torch.sigmoid(F.elu(x)).tanh() * 2
        x = F.avg_pool2d(F.max_pool2d(x, 2), 2, stride=1)
        return F.linear(torch.relu(x).mean((2, 3)) / 3, self.weight, self.bias)


def test_functional_forms() -> None:
    torch.manual_seed(3)
    module = Functional().double().eval()
    X = torch.randn(4, 2, 6, 6, dtype=torch.float64)
    net = gn.from_torch(module)
    G = gn.GaussNewton(net, X.numpy())
    V = np.asfortranarray(np.random.default_rng(0).standard_normal((G.shape[0], 2)))
    out, product = outputs_and_product(module, X, V)
    assert np.abs(net(X.numpy()) - out).max() <= TOL * np.abs(out).max()
    assert np.abs(G @ V - product).max() <= TOL * np.abs(product).max()


@pytest.mark.parametrize(
    "spelling", [lambda x: x.view(x.size(0), -1), lambda x: x.reshape(x.shape[0], -1)], ids=["view", "reshape"]
)
def test_flattening_by_shape(spelling: Any) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(12, 2)

        def forward(self, x: Any) -> Any:
            return self.fc(spelling(x))

    module, X = Model(), torch.randn(3, 1, 3, 4)
    assert np.abs(gn.from_torch(module)(X.numpy()) - module(X).detach().numpy()).max() <= 1e-5


# ----------------------------------------------------------------------------------------------- what is refused
def model(forward: Any, **children: Any) -> Any:
    """A module of these children whose forward is `forward(self, x)`."""
    made = type("Model", (nn.Module,), {"forward": forward})()
    for name, child in children.items():
        setattr(made, name, child)
    return made


def tied() -> Any:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module[1].weight = module[0].weight
    return module


@pytest.mark.parametrize(
    ("module", "kind", "message"),
    [
        ("net", TypeError, "module is of type str"),
        (tied(), ValueError, "shares a parameter, '0.weight' is '1.weight' too"),
        (nn.Sequential(nn.Linear(2, 2), nn.Softmax(1)), ValueError, "has the module Softmax at '1' after '_0'"),
        (nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect")), ValueError, "padding_mode='reflect' at"),
        (nn.Sequential(nn.Linear(2, 2), nn.Dropout()), ValueError, "dropout in training mode, which is random"),
        (nn.Sequential(nn.Linear(2, 2), nn.AvgPool1d(2, ceil_mode=True)), ValueError, "ceil_mode"),
        (nn.Linear(2, 2).half(), TypeError, r"dtype float16 .* convert the model with \.float\(\)"),
        (nn.Linear(2, 2, device="meta"), ValueError, r"on the device 'meta'; call module\.to_empty\(device='cpu'\)"),
        (nn.LazyLinear(2), ValueError, "no shape yet.* call the module once with samples"),
        (nn.Linear(2, 2, dtype=torch.complex64), TypeError, r"complex64 .* keep torch\.view_as_real of it"),
        (nn.Sequential(nn.Flatten(), nn.ReLU()), ValueError, "has no parameters"),
        (model(lambda self, x: self.fc(self.fc(x)), fc=nn.Linear(2, 2)), ValueError, "'fc.weight' is used twice"),
        (
            model(lambda self, x: self.a(x), a=nn.Linear(2, 2), b=nn.Linear(2, 2)),
            ValueError,
            "'b.weight' does not",
        ),
        (
            model(lambda self, x: self.a(self.b(x)), a=nn.Linear(2, 2), b=nn.Linear(2, 2)),
            ValueError,
            "used as number 0",
        ),
        (
            model(lambda self, x: torch.cumsum(self.a(x), 1), a=nn.Linear(2, 2)),
            ValueError,
            "cumsum at 'cumsum'",
        ),
        (model(lambda self, x: self.a(x) * x, a=nn.Linear(2, 2)), ValueError, "operation mul at 'mul' after 'x'|'a'"),
        (model(lambda self, x: self.a(x) if x.sum() > 0 else x, a=nn.Linear(2, 2)), ValueError, "cannot be traced"),
        (
            model(lambda self, x: torch.relu_(x) + self.a(x) + x, a=nn.Linear(2, 2)),
            ValueError,
            "in place whose",
        ),
    ],
)
def test_refused_with_the_place_and_the_way_out(module: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message) as caught:
        gn.from_torch(module)
    ways_out = r"interop\.torch\.GaussNewton takes any module|; call .*|; if it is quantized, .* pass the module"
    assert kind is TypeError or re.search(ways_out, str(caught.value))


# Layers that compute something else than their type says: all of it in `change`, on a chain of dense ones.
def doubled(net: Any) -> None:
    net[0].register_forward_hook(lambda module, inputs, output: 2 * output)


def squared(net: Any) -> None:
    net[2].register_forward_pre_hook(lambda module, inputs: (inputs[0] ** 2,))


def doubled_whole(net: Any) -> None:
    net.register_forward_hook(lambda module, inputs, output: 2 * output)


def own_forward(net: Any) -> None:
    net[0].forward = lambda x: F.linear(x, net[0].weight.sin(), net[0].bias)


def pruned(net: Any) -> None:
    prune.l1_unstructured(net[0], "weight", amount=0.4)


def old_weight_norm(net: Any) -> None:
    nn.utils.weight_norm(net[2])
    with torch.no_grad():
        net[2].weight_g.mul_(3)  # so that the weight that is there is not the one that the next call makes


def weight_of_a_buffer(net: Any) -> None:
    weight = net[0].weight.detach()
    del net[0].weight
    net[0].register_buffer("weight", weight)


CHANGES = {
    "forward hooks": (doubled, squared, doubled_whole),
    "a forward of its own": (own_forward,),
    r"Linear with its parameters changed \(weight, weight_orig\)": (pruned, lambda net: nn.utils.spectral_norm(net[0])),
    r"Linear with its parameters changed \(weight, weight_g, weight_v\)": (old_weight_norm,),
    r"Linear with its parameters changed \(weight\)": (weight_of_a_buffer,),
    "the module ParametrizedLinear": (
        lambda net: nn.utils.parametrizations.weight_norm(net[0]),
        lambda net: nn.utils.parametrizations.spectral_norm(net[0]),
    ),
}


@pytest.mark.filterwarnings("ignore")  # of PyTorch: what is deprecated or slow
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("message", "change"), [(m, f) for m, changes in CHANGES.items() for f in changes])
def test_layers_that_do_not_compute_what_they_are_named(message: str, change: Any, training: bool) -> None:
    """They are refused; autograd's operator is right, and leaves the module as it was."""
    torch.manual_seed(2)
    module = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3), nn.BatchNorm1d(3)).double()
    change(module)
    module.train(training)
    X = torch.randn(6, 4, dtype=torch.float64)
    with pytest.raises(ValueError, match=f"module has .*{message}.*GaussNewton takes any module"):
        gn.from_torch(module)
    buffers = [buffer.clone() for buffer in module.buffers()]
    attributes = [dict(vars(child)) for child in module.modules()]
    G = GaussNewton(module, None, X)
    V = np.asfortranarray(np.random.default_rng(0).standard_normal((G.shape[0], 2)))
    found = [G @ V, G @ V, G.gram().lift(G.gram().to_dense())]
    assert all(torch.equal(now, before) for now, before in zip(module.buffers(), buffers, strict=True))
    for child, before in zip(module.modules(), attributes, strict=True):
        assert vars(child).keys() == before.keys() and all(vars(child)[key] is before[key] for key in before)
    wanted = outputs_and_product(module, X, V)[1]  # last: in training mode it moves the buffers
    for product in found[:2]:
        assert np.abs(product - wanted).max() <= TOL * np.abs(wanted).max()


def test_a_weight_that_is_no_parameter() -> None:
    constant = torch.randn(2, 2)
    for forward in (lambda self, x: F.linear(self.a(x), self.fixed), lambda self, x: F.linear(self.a(x), constant)):
        module = model(forward, a=nn.Linear(2, 2))
        module.register_buffer("fixed", torch.randn(2, 2))
        with pytest.raises(ValueError, match="a weight or bias that is no parameter at 'linear'"):
            gn.from_torch(module)


def test_reading_leaves_the_module_alone() -> None:
    def forward(self: Any, x: Any) -> Any:
        self.features = self.a(x)
        return self.b(self.features)

    module = model(forward, a=nn.Linear(2, 2), b=nn.Linear(2, 2))
    module(torch.randn(3, 2))
    features = module.features
    gn.from_torch(module)
    assert module.features is features


def test_training_steps_show_through() -> None:
    """No copy: what PyTorch writes into a parameter, a network that is read again has, and the old arrays too."""
    module = nn.Sequential(nn.Linear(3, 2))
    net = gn.from_torch(module)
    with torch.no_grad():
        module[0].weight.fill_(2)
    assert (net.parameters()[0] == 2).all()
