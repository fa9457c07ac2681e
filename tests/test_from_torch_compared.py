"""Networks compared with the module that they were read from, at their first samples: what differs, named."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import numpy as np
import pytest

import gnfast as gn

torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional

from gnfast.interop import _layers  # noqa: E402


def chain(dtype: Any = torch.float64) -> Any:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).to(dtype)


def samples(n: int = 7, *shape: int, dtype: str = "float64") -> np.ndarray:
    return np.random.default_rng(2).standard_normal((n, *(shape or (4,)))).astype(dtype)


USES = {
    "a call": lambda net, X: net(X),
    "an operator": lambda net, X: gn.GaussNewton(net, X),
    "linearize": lambda net, X: net.linearize(X),
    "other values": lambda net, X: net.with_parameters([2 * a for a in net.parameters()])(X),
    "another dtype": lambda net, X: net.with_parameters([a.astype("f") for a in net.parameters()])(X.astype("f")),
    "pruned": lambda net, X: gn.GaussNewton(gn.prune(net, 0.3), X),
    "pruned and other values": lambda net, X: gn.prune(net, 0.3).with_parameters(net.parameters())(X),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_wrong_reading_is_found_whatever_uses_it(use: str, dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that takes tanh for SiLU."""
    X = samples().astype(str(dtype).removeprefix("torch."))
    USES[use](gn.from_torch(chain(dtype)), X)
    monkeypatch.setitem(_layers.MODULES, nn.Tanh, lambda m: _layers.activation("silu"))
    net = gn.from_torch(chain(dtype))
    for _ in range(2):  # it is not forgotten
        with pytest.raises(
            ValueError, match=r"module Sequential gives outputs that are off by .*GaussNewton\(module, X="
        ):
            USES[use](net, X)
    USES[use](gn.from_torch(chain(dtype), check=False), X)


def test_the_other_gelu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_layers.MODULES, nn.GELU, lambda m: _layers.activation("gelu"))
    module = nn.Sequential(nn.Linear(4, 30), nn.GELU("tanh"), nn.Linear(30, 3))
    with pytest.raises(ValueError, match="outputs that are off"):
        gn.from_torch(module)(samples(dtype="float32"))


UNREAD = {"__module__": "torch.nn.other"}  # torch.fx does not look inside of PyTorch's own


def hooked_gradient(module: Any) -> None:
    module[2].bias.register_hook(lambda grad: 0.5 * grad)


def own_tanh(module: Any) -> None:
    class Tanh(torch.autograd.Function):  # a derivative of its own
        forward = staticmethod(lambda ctx, x: torch.tanh(x))
        backward = staticmethod(lambda ctx, grad: grad)

    module[1].__class__ = type("Tanh", (nn.Tanh,), {"forward": lambda self, x: Tanh.apply(x), **UNREAD})


def cut(module: Any) -> None:
    forward = lambda self, x: nn.Linear.forward(self, x).detach()  # noqa: E731
    module[0].__class__ = type("Cut", (nn.Linear,), {"forward": forward, **UNREAD})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (hooked_gradient, "another derivative in '2.bias', off by 0.5 of its norm"),
        (own_tanh, "another derivative in '0.weight'"),
        (cut, "no derivative in '0.weight'"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_equal_outputs_with_other_derivatives(
    change: Any, message: str, dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = chain(dtype)
    change(module)
    for kind, make in ((type(module[0]), nn.Linear), (type(module[1]), nn.Tanh)):  # as if their code could be read
        monkeypatch.setitem(_layers.MODULES, kind, _layers.MODULES[make])
    X = samples().astype(str(dtype).removeprefix("torch."))
    with pytest.raises(ValueError, match=f"{message}.*compared with the network that was read"):
        gn.GaussNewton(gn.from_torch(module), X)


def test_a_small_bias_beside_large_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    module = nn.Sequential(nn.Linear(400, 700), nn.ReLU(), nn.Linear(700, 1))
    module[2].bias.register_hook(lambda grad: 1.1 * grad)
    with pytest.raises(ValueError, match=r"another derivative in '2\.bias', off by 0\.091"):
        gn.from_torch(module)(1e3 * samples(20, 400, dtype="float32"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_right_networks_pass(dtype: Any, scale: float) -> None:
    """Deep, wide and badly scaled ones, whose kinks rounding crosses, and biases whose derivative cancels."""
    name = str(dtype).removeprefix("torch.")
    for seed in range(4):
        torch.manual_seed(seed)
        deep = [part for i in range(12) for part in (nn.Linear(30, 30), (nn.ReLU, nn.GELU, nn.SiLU)[i % 3]())]
        wide = [nn.Linear(30, 2000), nn.ReLU(), nn.Linear(2000, 1000), nn.LeakyReLU(), nn.Linear(1000, 2)]
        gn.from_torch(nn.Sequential(*deep).to(dtype))(scale * samples(40, 30, dtype=name))
        gn.from_torch(nn.Sequential(*wide).to(dtype))(scale * samples(40, 30, dtype=name))
        norms = [
            nn.Conv2d(3, 8, 3),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 8, 3),
            nn.BatchNorm2d(8),
        ]
        module = nn.Sequential(*norms, nn.ELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).to(dtype)
        for _ in range(2):
            gn.from_torch(module)(scale * samples(9, 3, 12, 12, dtype=name))
            module.eval()
    whole = np.random.default_rng(0).integers(0, 256, (30, 3, 12, 12)).astype(name)
    gn.from_torch(module)(whole)


def test_dead_and_single_ones_pass() -> None:
    module = chain()
    gn.from_torch(module)(samples(1))
    gn.from_torch(module)(np.zeros((3, 4)))
    gn.from_torch(nn.Sequential(nn.Linear(4, 1)).double())(samples(1))
    with torch.no_grad():
        for tensor in module.parameters():
            tensor.zero_()
    gn.from_torch(module)(samples())
    with torch.no_grad():
        module[0].weight.fill_(1e3)  # saturated: no derivative is left in most
    gn.from_torch(module)(samples())


def test_the_module_is_let_go_once_it_has_passed() -> None:
    module = chain()
    net = gn.from_torch(module)
    there = weakref.ref(module)
    net(samples())
    other = net.with_parameters(net.parameters())
    assert net.source is None and other.source is None
    del module, net  # which watches it for changes
    gc.collect()
    assert there() is None and other(samples()).shape == (7, 3)


def test_deep_copies_are_compared_too() -> None:
    """With a copy of the module as it was, whatever becomes of it."""
    module = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2)).double().eval()
    one = copy.deepcopy(gn.from_torch(module))
    expected = module(torch.from_numpy(samples())).detach().numpy()
    with torch.no_grad():
        module[0].weight.mul_(2)
        module[1].running_mean.add_(1)
    np.testing.assert_allclose(one(samples()), expected, rtol=1e-12)
    assert one.source is None
    module[0].bias.register_hook(lambda grad: 2 * grad)  # which copies of it have not
    net = gn.from_torch(module)
    for other in (copy.deepcopy(net), net.with_parameters([2 * array for array in net.parameters()])):
        with pytest.raises(ValueError, match=r"another derivative in '0\.bias'"):
            other(samples())
    other = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    net = gn.from_torch(other)
    other[1].forward = torch.sigmoid  # after it was read
    with pytest.raises(ValueError, match="outputs that are off"):
        copy.deepcopy(net)(samples())


def test_the_module_is_left_alone() -> None:
    module = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(inplace=True), nn.Linear(5, 2)).double()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    identities = [id(tensor) for tensor in [*module.parameters(), *module.buffers()]]
    module[0].weight.grad = grad = torch.ones_like(module[0].weight)
    X, state = samples(), torch.get_rng_state()
    gn.from_torch(module)(X)
    assert np.array_equal(X, samples()) and torch.equal(state, torch.get_rng_state())
    assert [id(tensor) for tensor in [*module.parameters(), *module.buffers()]] == identities
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert module[0].weight.grad is grad and module[3].weight.grad is None and (grad == 1).all()


def test_modes_of_the_caller_and_modules_that_change() -> None:
    for mode in (torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)):
        with mode():
            gn.from_torch(chain(torch.float32))(samples(dtype="float32"))
    module = nn.Sequential(nn.Linear(4, 5), nn.Dropout(), nn.Linear(5, 2)).double().eval()
    net = gn.from_torch(module)
    module.train()  # after it was read
    net(samples())
    assert module.training and module[1].training
    net = gn.from_torch(module.eval())
    module[2] = nn.Linear(5, 2).double()
    with pytest.raises(RuntimeError, match=r"other parameters than when it was read, .*read it again"):
        net(samples())


def test_frozen_parameters() -> None:
    """All of them, which says nothing about some, or none: a network has no other kind."""
    module, X = chain(), samples()
    module[0].requires_grad_(False)
    with pytest.raises(
        ValueError, match=r"'0.weight' does not require a gradient.*torch\.GaussNewton takes any module"
    ):
        gn.from_torch(module)
    part = gn.interop.torch.GaussNewton(module, X=torch.from_numpy(X))
    assert part.shape == (18, 18)
    module.requires_grad_(False)
    found = gn.GaussNewton(gn.from_torch(module), X)
    assert not any(tensor.requires_grad for tensor in module.parameters())
    module.requires_grad_(True)
    whole = found.to_dense()
    assert np.abs(whole[-18:, -18:] - part.to_dense()).max() <= 1e-12 * np.abs(whole).max()


def test_parameters_in_the_order_of_the_module_or_refused() -> None:
    """A bias that is registered before its weight."""
    for dtype in (torch.float32, torch.float64):
        module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)).to(dtype)
        weight = module[0].weight
        del module[0].weight
        module[0].weight = weight
        with pytest.raises(ValueError, match=r"'0\.weight' is used as number 0 but registered as number 1"):
            gn.from_torch(module)


def test_samples_that_the_module_does_not_take() -> None:
    class Shaped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 2).double()

        def forward(self, x: Any) -> Any:
            return self.fc(x.view(x.shape[0], -1))

    net = gn.from_torch(Shaped())
    net(samples(5, 2, 2))
    with pytest.raises(ValueError, match="X has 3 columns"):
        gn.from_torch(chain())(samples(5, 3))
    with pytest.raises(TypeError, match="check is 1 but must be"):
        gn.from_torch(chain(), check=1)


def test_a_bias_beside_samples_of_millions() -> None:
    """Its derivative is a millionth of the weights'."""
    module = nn.Sequential(nn.Linear(4, 3))
    module[0].bias.register_hook(lambda grad: 1.01 * grad)
    with pytest.raises(ValueError, match="another derivative in '0"):
        gn.from_torch(module)(1e6 * samples(20, dtype="float32"))
