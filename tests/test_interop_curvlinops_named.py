"""Both forms of curvlinops' models and parameters, with its installed release and with the one after it."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import pytest

torch = pytest.importorskip("torch")
curvlinops = pytest.importorskip("curvlinops")
import curvlinops_named  # noqa: E402

import gnfast  # noqa: E402

nn = torch.nn
NAMED_INSTALLED = hasattr(curvlinops.GGNLinearOperator, "_matvec_batch")


@pytest.fixture(params=["installed", "named"])
def adapter(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Our module made upon the release that is installed, and upon one that takes names."""
    if request.param == "named":
        monkeypatch.setitem(sys.modules, "curvlinops", curvlinops_named)
    spec = importlib.util.find_spec("gnfast.interop.curvlinops")
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    assert found.NAMED is (request.param == "named" or NAMED_INSTALLED)
    return found


def problem() -> tuple[Any, list[tuple[Any, Any]]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    return model, [(torch.randn(n, 4, dtype=torch.float64), torch.randint(3, (n,))) for n in (6, 1, 4)]


def exact(model: Any, values: dict[str, Any], data: list[tuple[Any, Any]], loss: Any) -> Any:
    """J^T H J by reverse mode, sample by sample, at values that the module need not have."""
    shapes = {name: value.shape for name, value in values.items()}
    at = torch.cat([value.detach().reshape(-1) for value in values.values()])

    def outputs(flat: Any, x: Any) -> Any:
        parts = flat.split([shape.numel() for shape in shapes.values()])
        named = {name: part.reshape(shape) for part, (name, shape) in zip(parts, shapes.items(), strict=True)}
        return torch.func.functional_call(model, named, (x[None],))[0]

    total = torch.zeros(len(at), len(at), dtype=at.dtype)
    count = sum(len(X) for X, _ in data)
    for X, y in data:
        for x, target in zip(X, y, strict=True):
            J = torch.autograd.functional.jacobian(lambda flat, x=x: outputs(flat, x), at)
            H = torch.autograd.functional.hessian(lambda out, t=target: loss(out[None], t[None]), outputs(at, x))
            total += J.T @ H @ J / count
    return total


def dense(operator: Any) -> Any:
    return operator @ torch.eye(operator.shape[0], dtype=torch.float64)


def close(found: Any, expected: Any) -> None:
    assert (found - expected).abs().max() <= 1e-12 * expected.abs().max()


FORMS = {
    "list": lambda model: (model, list(model.parameters())),
    "dict": lambda model: (model, dict(model.named_parameters())),
    "dict in another order": lambda model: (model, dict(reversed(list(model.named_parameters())))),
    "some": lambda model: (model, {"2.bias": model[2].bias, "0.weight": model[0].weight}),
    "list of some": lambda model: (model, [model[2].bias, model[0].weight]),
    "wrapper": lambda model: (nn.DataParallel(model), dict(nn.DataParallel(model).named_parameters())),
    "function": lambda model: (
        lambda values, X: torch.func.functional_call(model, values, (X,)),
        dict(model.named_parameters()),
    ),
    "function of tensors": lambda model: (
        lambda values, X: torch.func.functional_call(model, values, (X,)),
        {name: value.detach().clone() for name, value in model.named_parameters()},
    ),
    "other values": lambda model: (model, {name: 0.5 * value.detach() for name, value in model.named_parameters()}),
    "names exchanged": lambda model: (
        model,
        {"0.bias": model[0].bias, "2.bias": nn.Parameter(model[2].bias.detach() + 1.0)},
    ),
}
BY_ENGINE = {"list", "dict", "dict in another order", "wrapper"}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_matrix(adapter: Any, form: str) -> None:
    model, data = problem()
    given, params = FORMS[form](model)
    loss = nn.CrossEntropyLoss()
    names = {id(value): name for name, value in model.named_parameters()}
    values = params if isinstance(params, dict) else {names[id(value)]: value for value in params}
    values = {name.removeprefix("module."): value for name, value in values.items()}
    operator = adapter.GGNLinearOperator(given, loss, params, data)
    expected = exact(model, values, data, loss)
    close(dense(operator), expected)
    assert ("gnfast's engine" in repr(operator)) is (form in BY_ENGINE), repr(operator)
    # and as it is after a change in place of what it was given
    first = next(iter(values.values()))
    with torch.no_grad():
        first.mul_(1.5)
    again = exact(model, values, data, loss)
    assert (again - expected).abs().max() > 1e-3 * expected.abs().max()
    close(dense(operator), again)


def test_a_sampled_curvature_is_theirs(adapter: Any) -> None:
    if not adapter.NAMED:
        pytest.skip("the installed curvlinops draws none")
    model, data = problem()
    args = (model, nn.CrossEntropyLoss(), dict(model.named_parameters()), data)
    sampled = adapter.GGNLinearOperator(*args, mc_samples=7)
    assert "mc_samples=7" in repr(sampled)
    close(dense(sampled), dense(adapter._Base(*args, mc_samples=7)))
    assert "engine" in repr(adapter.GGNLinearOperator(*args, mc_samples=0, seed=3))


def test_wrong_forms_are_told(adapter: Any) -> None:
    model, data = problem()
    with pytest.raises(TypeError, match="params is a list but must be a dict where model_func is a function"):
        adapter.GGNLinearOperator(lambda values, X: X, nn.MSELoss(), list(model.parameters()), data)
    with pytest.raises(ValueError, match=r"params\[0\] is no parameter of the module"):
        adapter.GGNLinearOperator(model, nn.MSELoss(), [torch.ones(3)], data)
    with pytest.raises(TypeError, match="params is a dict of str but must hold tensors"):
        adapter.GGNLinearOperator(model, nn.MSELoss(), {"0.weight": "x"}, data)
    with pytest.raises(TypeError, match="params is a list of nothing but must hold tensors"):
        adapter.GGNLinearOperator(model, nn.MSELoss(), [], data)


def test_the_package_s_own_module_is_left_alone(adapter: Any) -> None:
    assert adapter is not gnfast.interop.curvlinops
