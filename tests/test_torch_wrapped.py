"""Modules that were compiled, scripted, exported, parametrized, pruned or wrapped: products are right, or refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest

import gnfast as gn

torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional

import test_torch_models as models_tests  # noqa: E402
import torch_models as models  # noqa: E402
from torch.nn.utils import parametrizations, parametrize, prune  # noqa: E402

from gnfast.interop.torch import GaussNewton  # noqa: E402

X = models.randn(4)


def net() -> Any:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3), nn.ReLU(), nn.Linear(3, 2)).double()


def tied() -> Any:
    module = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)).double()
    module[2].weight = module[0].weight
    return module


def changed(change: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """A network with two of its layers changed."""
    module = net()
    for layer in (module[0], module[2]):
        change(layer, *args, **options)
    return module


def part(change: Callable[[Any], Any]) -> Any:
    """A network of which one layer is another."""
    module = net()
    module[2] = change(module[2])
    return module


class Scaled(nn.Module):
    """A module called with other values than its own parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = net()

    def forward(self, x: Any) -> Any:
        return torch.func.functional_call(self.inner, {k: 1.5 * v for k, v in self.inner.named_parameters()}, (x,))


class Made(nn.Module):
    """Weights that another layer makes, of a module without values."""

    def __init__(self) -> None:
        super().__init__()
        self.code, self.maker = nn.Parameter(torch.randn(5).double()), nn.Linear(5, 10).double()
        vars(self)["base"] = nn.Linear(4, 2, device="meta")

    def forward(self, x: Any) -> Any:
        made = self.maker(self.code)
        return torch.func.functional_call(self.base, {"weight": made[:8].reshape(2, 4), "bias": made[8:]}, (x,))


class Ensemble(nn.Module):
    """Stacked parameters of three networks, by vmap."""

    def __init__(self) -> None:
        super().__init__()
        stacked, _ = torch.func.stack_module_state([nn.Linear(4, 2).double() for _ in range(3)])
        self.stacked = nn.ParameterDict({key: nn.Parameter(value.detach()) for key, value in stacked.items()})
        vars(self)["base"] = nn.Linear(4, 2, device="meta")

    def forward(self, x: Any) -> Any:
        def one(values: Any, samples: Any) -> Any:
            return torch.func.functional_call(self.base, values, (samples,))

        return torch.vmap(one, (0, None))(dict(self.stacked), x).transpose(0, 1)


class Symmetric(nn.Module):
    def forward(self, x: Any) -> Any:
        return x.triu() + x.triu(1).mT


class Complex(nn.Module):
    """A complex matrix: as it is, or its real and imaginary parts as the parameter."""

    def __init__(self, real: bool) -> None:
        super().__init__()
        weight = torch.randn(4, 3, dtype=torch.complex128)
        self.real, self.last = real, nn.Linear(3, 2).double()
        self.weight = nn.Parameter(torch.view_as_real(weight) if real else weight)

    def forward(self, x: Any) -> Any:
        weight = torch.view_as_complex(self.weight) if self.real else self.weight
        return self.last((x.to(weight.dtype) @ weight).abs())


class Compiled(nn.Module):
    """A compiled function with a parameter as argument."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.scale = net(), nn.Parameter(torch.ones(2).double())
        self.function = torch.compile(lambda x, scale: torch.tanh(x) * scale, backend="aot_eager")

    def forward(self, x: Any) -> Any:
        return self.function(self.inner(x), self.scale)


def symmetric() -> Any:
    module = tied()
    parametrize.register_parametrization(module[0], "weight", Symmetric())  # the other layer has what it was
    return module


def pruned_twice() -> Any:
    module = changed(prune.l1_unstructured, "weight", amount=0.4)
    return prune.ln_structured(module[0], "weight", amount=1, n=2, dim=0) and module


def pruned_at_all() -> Any:
    module = net()
    prune.global_unstructured([(module[0], "weight"), (module[4], "bias")], prune.L1Unstructured, amount=0.4)
    prune.remove(module[0], "weight")
    return module


def lazy(called: bool) -> Any:
    module = nn.Sequential(nn.LazyLinear(6), nn.Tanh(), nn.LazyLinear(2)).double()
    if called:
        module(X)
    return module


def without_values() -> Any:
    with torch.device("meta"):
        return net()


def filled() -> Any:
    module = without_values().to_empty(device="cpu")
    module.load_state_dict(net().state_dict())
    return module


RIGHT: dict[str, Callable[[], Any]] = {
    "compiled": lambda: torch.compile(tied(), backend="eager"),
    "compiled by AOT autograd": lambda: torch.compile(net(), backend="aot_eager"),
    "compile() of a part": lambda: part(lambda layer: (layer.compile(backend="aot_eager"), layer)[1]),
    "a compiled function": Compiled,
    "scripted": lambda: torch.jit.script(net()),
    "traced": lambda: torch.jit.trace(tied(), X),
    "scripted part": lambda: part(torch.jit.script),
    "graph of torch.fx": lambda: torch.fx.symbolic_trace(net()),
    "exported": lambda: torch.export.export(net(), (X,), dynamic_shapes=({0: torch.export.Dim.AUTO},)).module(),
    "exported for this number of samples": lambda: torch.export.export(net(), (X,)).module(),
    "functional_call": Scaled,
    "functional_call of a module without values": Made,
    "functional_call under vmap": Ensemble,
    "weight_norm": lambda: changed(parametrizations.weight_norm),
    "spectral_norm": lambda: changed(parametrizations.spectral_norm).eval(),
    "orthogonal": lambda: changed(parametrizations.orthogonal),
    "orthogonal, by Cayley": lambda: changed(parametrizations.orthogonal, orthogonal_map="cayley"),
    "a parametrization of a tied weight": symmetric,
    "pruned at random": lambda: changed(prune.random_unstructured, "weight", amount=0.3),
    "pruned twice": pruned_twice,
    "pruned at all, once for good": pruned_at_all,
    "DataParallel": lambda: nn.DataParallel(tied()),
    "averaged": lambda: torch.optim.swa_utils.AveragedModel(net()),
    "lazy, called": lambda: lazy(True),
    "complex by its parts": lambda: Complex(True),
    "quantized weights in training": lambda: models.Call(
        lambda x, m: F.linear(x, torch.fake_quantize_per_tensor_affine(m.weight, 0.05, 0, -128, 127), m.bias),
        nn.Linear(4, 2).double(),
    ),
    "loaded after the device 'meta'": filled,
}
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "frozen by TorchScript": (lambda: torch.jit.freeze(torch.jit.script(net().eval())), "has no parameters.* pass the"),
    "quantized": (
        lambda: torch.ao.quantization.quantize_dynamic(net().float(), {nn.Linear}),
        "has no parameters.* pass the module that it was made of",
    ),
    "lazy": (lambda: lazy(False), "0.weight has no shape yet.* call the module once with samples"),
    "without values": (without_values, r"0.weight has no values.* call module.to_empty\(device='cpu'\)"),
    "partly without values": (lambda: part(lambda layer: layer.to("meta")), "2.weight has no values"),
    "complex": (lambda: Complex(False), "weight has dtype complex128 .* keep torch.view_as_real of it"),
    "half precision": (lambda: net().half(), r"0.weight has dtype float16 .* convert the model with \.float\(\)"),
    "bfloat16 in a part": (lambda: part(lambda layer: layer.bfloat16()), "2.weight has dtype bfloat16"),
    "two dtypes": (
        lambda: part(lambda layer: layer.float()),
        "bring all parameters to one dtype|float32 but the layers",
    ),
}


@pytest.fixture(autouse=True)
def quiet() -> Any:
    """Of PyTorch's own warnings: what it deprecates, and what its transforms do slowly."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    torch.compiler.reset()


def made(make: Callable[[], Any]) -> Any:
    torch.manual_seed(1)
    return make()


@pytest.mark.parametrize("name", RIGHT)
def test_right_and_untouched(name: str) -> None:
    reference, module = made(RIGHT[name]), made(RIGHT[name])
    J = models_tests.rows(reference(X), [tensor for tensor in reference.parameters() if tensor.requires_grad])
    before = [(key, id(tensor), tensor.detach().clone()) for key, tensor in module.named_parameters()]
    models_tests.check(lambda: GaussNewton(module, None, X), J, len(X), cond=False)
    for (key, at, value), (name_now, now) in zip(before, module.named_parameters(), strict=True):
        assert key == name_now
        assert at == id(now)
        assert torch.equal(value, now.detach())
        assert now.grad is None


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_what_to_do(name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises((TypeError, ValueError), match=message):
        GaussNewton(made(make), None, X)
    with pytest.raises((TypeError, ValueError), match=message):
        gn.from_torch(made(make))


def test_gradients_that_are_not_linear_are_named() -> None:
    module = models.Call(lambda x, a, b: b(a(x).bfloat16().double()), nn.Linear(4, 3), nn.Linear(3, 2)).double()
    with pytest.raises(ValueError, match="no linear function of those of its outputs: compute in one dtype"):
        GaussNewton(module, None, X).to_dense()


def test_dropout_is_cured_by_what_is_said() -> None:
    """In a module by eval(), in a function by the module's mode."""
    module = models.Call(lambda x, a, b: b(F.dropout(a(x))), nn.Linear(4, 3), nn.Linear(3, 2)).double().eval()
    with pytest.raises(ValueError, match=r"call eval\(\) first, and .* pass it training=self\.training"):
        gn.from_torch(module)
    module.function = lambda x, a, b: b(F.dropout(a(x), training=module.training))
    wanted = GaussNewton(module, None, X).to_dense()
    assert models_tests.close(gn.GaussNewton(gn.from_torch(module), X.numpy()).to_dense(), wanted)
    module.train()
    with pytest.raises(ValueError, match=r"gives other outputs when it is called again; .*eval\(\)"):
        GaussNewton(module, None, X).to_dense()
