"""What `interop.torch.GaussNewton` refuses works once its message is followed: beside J by plain reverse mode."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional

import test_torch_models as models_tests  # noqa: E402
import torch_models as models  # noqa: E402

from gnfast.interop.torch import GaussNewton  # noqa: E402

X = models.randn(4)
LARGEST = torch.finfo(torch.float64).max


def net(inputs: int = 4, outputs: int = 2, **options: Any) -> Any:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(inputs, 3), nn.Tanh(), nn.Linear(3, outputs)).to(
        **({"dtype": torch.float64} | options)
    )


def ended(function: Callable[[Any], Any]) -> Any:
    """A network with a function behind it."""
    return models.Call(lambda x, body: function(body(x)), net())


def frozen() -> Any:
    return net().requires_grad_(False)


def with_nan(value: Any) -> Any:
    value = value.clone()
    value.reshape(-1)[0] = torch.nan
    return value


def first_layer(change: Callable[[Any], Any]) -> Any:
    """The first layer's parameters as a list of tensors, the first of which is changed."""
    layer = net()[0]
    return [change(layer.weight.detach()), layer.bias.detach()]


def linear(params: Any, x: Any) -> Any:
    return torch.tanh(x @ params[0].T + params[1])


def embedded(max_norm: float | None) -> Any:
    torch.manual_seed(1)
    return nn.Sequential(nn.Embedding(6, 3, max_norm=max_norm), nn.Flatten(), nn.Linear(12, 2)).double()


def kept(module: Any, called: bool) -> Any:
    """A cache of the square of a weight, filled by a call."""
    store: dict[str, Any] = {}

    def forward(x: Any, body: Any) -> Any:
        if "square" not in store:
            store["square"] = body[0].weight ** 2
        return x @ store["square"].T

    if called:
        store["square"] = module[0].weight ** 2
        return models.Call(forward, module)
    return models.Call(lambda x, body: x @ (body[0].weight ** 2).T, module)


def without_values(filled: bool) -> Any:
    with torch.device("meta"):
        module = net()
    if filled:
        module.to_empty(device="cpu").load_state_dict(net().state_dict())
    return module


def lazy(called: bool) -> Any:
    torch.manual_seed(1)
    module = nn.Sequential(nn.LazyLinear(3), nn.Tanh(), nn.Linear(3, 2)).double()
    if called:
        module(X)
    return module


class Complex(nn.Module):
    def __init__(self, real: bool) -> None:
        super().__init__()
        torch.manual_seed(1)
        weight = torch.randn(4, 3, dtype=torch.complex128)
        self.real, self.weight = real, nn.Parameter(torch.view_as_real(weight) if real else weight)

    def forward(self, x: Any) -> Any:
        weight = torch.view_as_complex(self.weight) if self.real else self.weight
        return (x.to(weight.dtype) @ weight).abs()


def made_in_inference(inside: bool) -> Any:
    with torch.inference_mode(inside):
        return net()


def in_inference(module: Any) -> Any:
    return torch.jit.freeze(torch.jit.script(module.eval()))


TOKENS = models.integers(4)
Arguments = tuple[Any, ...]  # module, params, X
# What is refused, a part of the message, and the same as the message says.
REMEDIES: dict[str, tuple[Callable[[], Arguments], str, Callable[[], Arguments]]] = {
    "dropout": (
        lambda: (nn.Sequential(net(), nn.Dropout(0.5)), None, X),
        r"call eval\(\)",
        lambda: (nn.Sequential(net(), nn.Dropout(0.5)).eval(), None, X),
    ),
    "random": (
        lambda: (ended(F.dropout), None, X),
        "remove what is random",
        lambda: (ended(lambda h: F.dropout(h, training=False)), None, X),
    ),
    "frozen by TorchScript": (
        lambda: (in_inference(net()), None, X),
        "pass the module that it was made of",
        lambda: (net().eval(), None, X),
    ),
    "meta": (lambda: (without_values(False), None, X), "to_empty", lambda: (without_values(True), None, X)),
    "lazy": (lambda: (lazy(False), None, X), "call the module once", lambda: (lazy(True), None, X)),
    "complex": (lambda: (Complex(False), None, X), "torch.view_as_real", lambda: (Complex(True), None, X)),
    "half": (
        lambda: (net(dtype=torch.float16), None, X.half()),
        r"\.float\(\) or \.double\(\)",
        lambda: (net(dtype=torch.float16).double(), None, X),
    ),
    "two dtypes": (
        lambda: (nn.Sequential(net(), nn.Linear(2, 2)), None, X),
        "bring all parameters to one dtype",
        lambda: (nn.Sequential(net(), nn.Linear(2, 2)).double(), None, X),
    ),
    "nothing requires a gradient": (
        lambda: (frozen(), None, X),
        "name some in params, such as '0.weight'",
        lambda: (frozen(), ["0.weight"], X),
    ),
    "a name for a list": (lambda: (net(), "0.weight", X), "a list", lambda: (net(), ["0.weight"], X)),
    "an unknown name": (lambda: (net(), ["weight"], X), "it has 0.weight", lambda: (net(), ["0.weight"], X)),
    "none": (lambda: (net(), [], X), "name at least one", lambda: (net(), ["2.bias"], X)),
    "a function without parameters": (
        lambda: (linear, None, X),
        "a list",
        lambda: (linear, first_layer(lambda W: W), X),
    ),
    "a sparse parameter": (
        lambda: (linear, first_layer(lambda W: W.to_sparse()), X),
        r"\.to_dense\(\)",
        lambda: (linear, first_layer(lambda W: W.to_sparse().to_dense()), X),
    ),
    "a parameter that is NaN": (
        lambda: (linear, first_layer(with_nan), X),
        "replace them",
        lambda: (linear, first_layer(lambda W: with_nan(W).nan_to_num()), X),
    ),
    "an empty parameter": (
        lambda: (linear, [*first_layer(lambda W: W), torch.empty(0, dtype=torch.float64)], X),
        "leave it out",
        lambda: (linear, first_layer(lambda W: W), X),
    ),
    "inference mode": (
        lambda: (made_in_inference(True), None, X),
        "make the model outside",
        lambda: (made_in_inference(False), None, X),
    ),
    "writes to its parameter": (
        lambda: (embedded(0.5), None, TOKENS),
        "do that outside of forward",
        lambda: (embedded(None), None, TOKENS),
    ),
    "an earlier call's cache": (
        lambda: (kept(net(), True), None, X),
        "compute it anew",
        lambda: (kept(net(), False), None, X),
    ),
    "no samples": (lambda: (net(), None), "a tensor of samples", lambda: (net(), None, X)),
    "sparse samples": (
        lambda: (net(), None, X.to_sparse()),
        r"X\.to_dense\(\)",
        lambda: (net(), None, X.to_sparse().to_dense()),
    ),
    "samples in another dtype": (
        lambda: (net(), None, X.float()),
        r"convert one of them with \.to\(\)",
        lambda: (net(), None, X.float().to(torch.float64)),
    ),
    "integers": (
        lambda: (net(), None, TOKENS),
        r"convert it with \.to\(\)",
        lambda: (net(), None, TOKENS.to(torch.float64)),
    ),
    "samples that are NaN": (
        lambda: (net(), None, with_nan(X)),
        "replace them",
        lambda: (net(), None, with_nan(X).nan_to_num()),
    ),
    "masked samples": (
        lambda: (net(), None, np.ma.masked_less(X.numpy(), 0)),
        r"X\.filled",
        lambda: (net(), None, np.ma.masked_less(X.numpy(), 0).filled(0.0)),
    ),
    "objects": (
        lambda: (net(), None, X.numpy().astype(object)),
        r"\.astype\(\)",
        lambda: (net(), None, X.numpy().astype(object).astype(np.float64)),
    ),
    "two results": (
        lambda: (ended(lambda h: (h, h)), None, X),
        "one tensor",
        lambda: (ended(lambda h: torch.cat([h, h], 1)), None, X),
    ),
    "outputs first": (
        lambda: (ended(lambda h: h.T), None, X),
        "their first dimension must be the samples",
        lambda: (ended(lambda h: h.T.T), None, X),
    ),
    "outputs in another dtype": (
        lambda: (ended(lambda h: h.float()), None, X),
        "compute in one dtype",
        lambda: (ended(lambda h: h), None, X),
    ),
    "lower precision within": (
        lambda: (models.Call(lambda x, first, last: last(first(x).bfloat16().double()), net(), net(2, 2)), None, X),
        "compute in one dtype throughout",
        lambda: (models.Call(lambda x, first, last: last(first(x)), net(), net(2, 2)), None, X),
    ),
    "a root at zero": (
        lambda: (ended(lambda h: (h - h.detach()).abs().sqrt() + h), None, X),
        "change the model",
        lambda: (ended(lambda h: ((h - h.detach()) ** 2 + 1).sqrt() + h), None, X),
    ),
    "a logarithm at some samples": (
        lambda: (ended(lambda h: h.log()), None, X),
        "check the inputs",
        lambda: (ended(lambda h: h.exp().log()), None, X),
    ),
}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("name", REMEDIES)
def test_what_is_refused_works_as_its_message_says(name: str) -> None:
    wrong, message, right = REMEDIES[name]
    with pytest.raises((TypeError, ValueError), match=message):
        GaussNewton(*wrong()).to_dense()
    module, params, samples = right()
    tensors = torch.as_tensor(samples)
    if isinstance(module, nn.Module):
        reference = copy.deepcopy(module)
        named = dict(reference.named_parameters())
        leaves = [named[key].requires_grad_() for key in (named if params is None else params)]
        outputs = reference(tensors)
    else:
        leaves = [tensor.clone().requires_grad_() for tensor in params]
        outputs = module(leaves, tensors)
    J = models_tests.rows(outputs, leaves)
    models_tests.check(lambda: GaussNewton(module, params, samples), J, len(samples), cond=False)


def test_what_products_refuse() -> None:
    module = net()
    G = GaussNewton(module, None, X)
    v = np.ones(G.shape[0])
    wanted = G @ v
    for wrong, message, right in (
        (v * np.nan, "pass finite vectors", v),
        (v[:-1], str(len(v)), v),
        (v * LARGEST, "pass vectors of smaller entries|finite", v),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            G @ wrong
        np.testing.assert_array_equal(G @ right, wanted)
    with pytest.raises(ValueError, match=r"it needs \(n, k\)"):
        GaussNewton(ended(lambda h: h[:, :, None]), None, X, "cross_entropy")
    GaussNewton(ended(lambda h: h), None, X, "cross_entropy").to_dense()
    with torch.no_grad():
        module[0].weight.mul_(2)
    with pytest.raises(RuntimeError, match="make a new one after a training step"):
        G @ v
    assert not np.array_equal(GaussNewton(module, None, X) @ v, wanted)
    with pytest.raises(MemoryError, match="use a smaller model"):
        GaussNewton(net(), None, X, memory_limit=50.0)
    GaussNewton(net(), None, X, memory_limit=1e6).to_dense()
