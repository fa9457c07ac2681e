"""Losses that are functions, wrappers, log-probabilities and layers without a part: as under the tools themselves."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("curvlinops")
eigenthings = pytest.importorskip("hessian_eigenthings")
pyhessian = pytest.importorskip("pyhessian")

from changes import reference  # noqa: E402
from risks import same  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

from gnfast.interop.curvlinops import GGNLinearOperator  # noqa: E402
from gnfast.interop.hessian_eigenthings import GaussNewtonOperator  # noqa: E402
from gnfast.interop.pyhessian import hessian  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
F = nn.functional


def by_curvlinops(model: Any, loss: Any, batches: Any) -> Any:
    return GGNLinearOperator(model, loss, [p for p in model.parameters() if p.requires_grad], batches)


def by_pyhessian(model: Any, loss: Any, batches: Any) -> Any:
    single = isinstance(batches, list) and len(batches) == 1
    given = {"data": batches[0]} if single else {"dataloader": batches}
    return hessian(model, loss, cuda=False, **given).operator


def by_eigenthings(model: Any, loss: Any, batches: Any) -> Any:
    return GaussNewtonOperator(model, batches, loss).operator


TOOLS = pytest.mark.parametrize("tool", [by_curvlinops, by_pyhessian, by_eigenthings])


def dense(operator: Any) -> Any:
    return operator @ torch.eye(operator.shape[1], dtype=operator.dtype)


def mlp(k: int = 3, last: Any = ()) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, k), *last).double()


def batch(targets: str, n: int = 8, k: int = 3) -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(5)
    X = torch.randn(n, 5, generator=generator, dtype=torch.float64)
    if targets == "classes":
        return X, torch.randint(k, (n,), generator=generator)
    return X, torch.rand(n, k, generator=generator, dtype=torch.float64)


def split(X: Any, y: Any) -> list[Any]:
    """Batches of different sizes."""
    return [(X[:3], y[:3]), (X[3:4], y[3:4]), (X[4:], y[4:])]


# ------------------------------------------------------------------------------------------------------ functions
def focal(outputs: Any, y: Any) -> Any:
    p = outputs.softmax(dim=1)[torch.arange(len(y)), y]
    return ((1 - p) ** 2 * -p.log()).mean()


def squares(outputs: Any, y: Any) -> Any:
    return ((outputs - y) ** 4).sum()


class OfUser(nn.Module):
    """A loss module that PyTorch does not know, without a reduction."""

    def forward(self, outputs: Any, y: Any) -> Any:
        return (outputs - y).cosh().log().mean()


class Called:
    def __call__(self, outputs: Any, y: Any) -> Any:
        return F.cross_entropy(outputs, y)


FUNCTIONS = {
    "cross_entropy": (F.cross_entropy, "classes"),
    "smoothed": (functools.partial(F.cross_entropy, label_smoothing=0.2), "classes"),
    "mse_loss": (F.mse_loss, "values"),
    "bce": (F.binary_cross_entropy_with_logits, "values"),
    "huber": (functools.partial(F.huber_loss, delta=0.5), "values"),
    "poisson": (F.poisson_nll_loss, "values"),
    "lambda": (lambda outputs, y: F.cross_entropy(outputs, y), "classes"),
    "lambda of another scale": (lambda outputs, y: 3 * F.mse_loss(outputs, y), "values"),
    "focal": (focal, "classes"),
    "a method": (nn.CrossEntropyLoss().forward, "classes"),
    "an object": (Called(), "classes"),
    "a module of the user's": (OfUser(), "values"),
}
SUMS = {
    "cross_entropy": (functools.partial(F.cross_entropy, reduction="sum"), "classes"),
    "squares": (squares, "values"),
}


@TOOLS
@pytest.mark.parametrize("name", FUNCTIONS)
def test_losses_that_are_functions(name: str, tool: Any) -> None:
    loss, targets = FUNCTIONS[name]
    model, (X, y) = mlp(), batch(targets)
    expected = reference(model, loss, X, y)
    same(dense(tool(model, loss, split(X, y))), expected)  # a mean over all, whatever the batches
    same(dense(tool(model, loss, [(X, y)])), expected)
    same(dense(tool(model, loss, DataLoader(TensorDataset(X, y), batch_size=3))), expected)


@pytest.mark.parametrize("name", SUMS)
def test_functions_that_are_sums(name: str) -> None:
    loss, targets = SUMS[name]
    model, (X, y) = mlp(), batch(targets)
    expected = reference(model, loss, X, y)
    for tool in (by_curvlinops, by_eigenthings):
        same(dense(tool(model, loss, split(X, y))), expected)
    same(dense(by_pyhessian(model, loss, [(X, y)])), expected)


def test_pytorch_s_functions_are_on_our_engine() -> None:
    for name in ("cross_entropy", "mse_loss", "bce"):
        loss, targets = FUNCTIONS[name]
        assert "gnfast's engine" in repr(by_curvlinops(mlp(), loss, [batch(targets)]))


def test_neither_mean_nor_sum() -> None:
    X, y = batch("values")
    with pytest.raises(ValueError, match="neither a mean nor a sum over samples; pass a loss module"):
        by_curvlinops(mlp(), lambda outputs, y: ((outputs - y) ** 2).sum().sqrt(), split(X, y))
    named = lambda outputs, y: ((outputs - y) ** 2).sum().sqrt()  # noqa: E731
    named.reduction = "sum"
    parts = [reference(mlp(), named, *part) for part in split(X, y)]
    same(dense(by_curvlinops(mlp(), named, split(X, y))), sum(parts))


def test_a_sum_over_several_batches_is_refused_by_name() -> None:
    X, y = batch("classes")
    with pytest.raises(ValueError, match=r"criterion is .* but must have reduction='mean'"):
        by_pyhessian(mlp(), functools.partial(F.cross_entropy, reduction="sum"), split(X, y))


def test_their_own_numbers_for_a_function() -> None:
    """PyHessian with a function, a linear model whose Hessian is the Gauss-Newton matrix; eigenthings' GGNOperator."""
    torch.manual_seed(3)
    model = nn.Linear(5, 3)
    X, y = batch("classes")
    X = X.float()
    torch.manual_seed(0)
    ours = hessian(model, F.cross_entropy, data=(X, y), cuda=False).eigenvalues(top_n=2)[0]
    torch.manual_seed(0)
    theirs = pyhessian.hessian(model, F.cross_entropy, data=(X, y), cuda=False).eigenvalues(top_n=2)[0]
    assert ours == pytest.approx(theirs, rel=1e-4)
    model, (X, y) = mlp(), batch("values")
    batches = [(X[:4], y[:4]), (X[4:], y[4:])]
    loss_of_output = eigenthings.supervised_loss_of_output(F.mse_loss)
    other = eigenthings.GGNOperator(model, batches, eigenthings.supervised_forward, loss_of_output)
    v = torch.randn(other.size, dtype=torch.float64)
    same(GaussNewtonOperator(model, batches, F.mse_loss).matvec(v), other.matvec(v))


# ------------------------------------------------------------------------------------------------- DataParallel
@TOOLS
def test_data_parallel(tool: Any) -> None:
    model, (X, y) = mlp(), batch("classes")
    loss = nn.CrossEntropyLoss()
    expected = reference(model, loss, X, y)
    operator = tool(nn.DataParallel(model), loss, split(X, y))
    assert "gnfast's engine" in repr(operator)
    same(dense(operator), expected)
    same(dense(tool(nn.DataParallel(model), lambda outputs, y: loss(outputs, y), split(X, y))), expected)
    model[1] = nn.Softplus()
    same(dense(operator), reference(model, loss, X, y))
    hooked = nn.DataParallel(model)
    hooked.register_forward_hook(lambda module, inputs, output: 2 * output)
    same(dense(tool(hooked, loss, split(X, y))), reference(hooked, loss, X, y))
    odd = nn.DataParallel(nn.Sequential(model, nn.Softsign()))  # which the core does not read
    same(dense(tool(odd, loss, split(X, y))), reference(odd, loss, X, y))


def test_laplace_of_data_parallel() -> None:
    pytest.importorskip("laplace")
    from gnfast.interop.laplace import GnfastGGN

    model, (X, y) = mlp(), batch("classes")
    for inner in (model, nn.Sequential(model, nn.Softsign())):
        backend = GnfastGGN(nn.DataParallel(inner), "classification")
        same(backend.full(X, y)[1], reference(inner, nn.CrossEntropyLoss(reduction="sum"), X, y), 1e-6)
        same(backend.diag(X, y)[1], reference(inner, nn.CrossEntropyLoss(reduction="sum"), X, y).diagonal(), 1e-6)
        assert backend.jacobians(X)[0].shape == (len(X), 3, 57)


# -------------------------------------------------------------------------------------------- log-probabilities
class LogProbabilities(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Any) -> Any:
        return F.log_softmax(self.inner(x), dim=1)


ENDS = {
    "module": lambda: mlp(3, [nn.LogSoftmax(dim=1)]),
    "last axis": lambda: mlp(3, [nn.LogSoftmax(dim=-1)]),
    "function": lambda: LogProbabilities(mlp()),
    "twice": lambda: mlp(3, [nn.LogSoftmax(dim=1), nn.LogSoftmax(dim=1)]),
    "wrapped": lambda: nn.DataParallel(mlp(3, [nn.LogSoftmax(dim=1)])),
}
WEIGHT = torch.tensor([0.5, 2.0, 1.5], dtype=torch.float64)
NLL = {
    "mean": (nn.NLLLoss(), nn.CrossEntropyLoss()),
    "function": (F.nll_loss, nn.CrossEntropyLoss()),
    "weights": (nn.NLLLoss(WEIGHT), nn.CrossEntropyLoss(WEIGHT)),
    "ignored": (nn.NLLLoss(ignore_index=1), nn.CrossEntropyLoss(ignore_index=1)),
}


@TOOLS
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("name", NLL)
def test_nll_loss_of_log_probabilities(name: str, end: str, tool: Any) -> None:
    loss, same_of_logits = NLL[name]
    X, y = batch("classes")
    operator = tool(ENDS[end](), loss, [(X, y)])
    same(dense(operator), reference(mlp(), same_of_logits, X, y))
    on_engine = name != "ignored" and end in ("module", "last axis", "wrapped")
    assert ("gnfast's engine" in repr(operator)) == on_engine


def test_it_is_pyhessian_s_matrix_of_a_linear_model() -> None:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(5, 3), nn.LogSoftmax(dim=1))
    X, y = batch("classes")
    X = X.float()
    values = []
    for tool in (hessian, pyhessian.hessian):
        torch.manual_seed(0)
        values.append(tool(model, nn.NLLLoss(), data=(X, y), cuda=False).eigenvalues(top_n=2)[0])
    assert values[0] == pytest.approx(values[1], rel=1e-4) and values[0][0] > 0.1


def test_the_weight_of_an_nll_loss_is_followed() -> None:
    X, y = batch("classes")
    loss, model = nn.NLLLoss(WEIGHT.clone()), mlp(3, [nn.LogSoftmax(dim=1)])
    operator = by_eigenthings(model, loss, [(X, y)])
    dense(operator)
    loss.weight.data[1] = 0.1
    same(dense(operator), reference(mlp(), nn.CrossEntropyLoss(loss.weight), X, y))
    model[2].weight.data.mul_(2)
    logits = mlp()
    logits[2].weight.data.mul_(2)
    same(dense(operator), reference(logits, nn.CrossEntropyLoss(loss.weight), X, y))


@pytest.mark.parametrize(
    "loss", [nn.NLLLoss(), nn.L1Loss(), lambda outputs, y: F.nll_loss(outputs, y)], ids=["nll", "l1", "function"]
)
def test_losses_without_curvature_are_refused(loss: Any) -> None:
    for tool in (by_curvlinops, by_pyhessian, by_eigenthings):
        given = batch("values" if isinstance(loss, nn.L1Loss) else "classes")
        with pytest.raises(ValueError, match="has no second derivative in the model's outputs"):
            tool(mlp(), loss, [given])


# ---------------------------------------------------------------------------------------- layers without a part
class Partly(nn.Module):
    """Some of its layers do not take part, or not always."""

    def __init__(self, places: tuple[int, ...], often: bool = True) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6) if 0 in places else None
        self.a = nn.Linear(5, 6)
        self.middle = nn.Linear(6, 4) if 1 in places else None
        self.scale = nn.Parameter(torch.ones(())) if 2 in places else None
        self.b = nn.Linear(6, 3)
        self.last = nn.Conv2d(2, 3, 3) if 3 in places else None
        self.often = often

    def forward(self, x: Any) -> Any:
        h = torch.tanh(self.a(x))
        if not self.often and len(x) > 3:
            h = h * 1.5 if self.scale is None else h * self.scale
        return self.b(h)


@TOOLS
@pytest.mark.parametrize("wrap", [False, True], ids=["plain", "DataParallel"])
@pytest.mark.parametrize("places", [(0,), (1,), (2,), (3,), (0, 1, 2, 3)], ids=str)
def test_layers_without_a_part(places: tuple[int, ...], wrap: bool, tool: Any) -> None:
    torch.manual_seed(1)
    model, (X, y) = Partly(places).double(), batch("classes")
    loss = nn.CrossEntropyLoss()
    operator = tool(nn.DataParallel(model) if wrap else model, loss, split(X, y))
    expected = reference(model, loss, X, y)
    same(dense(operator), expected)
    v = torch.randn(len(expected), dtype=torch.float64)
    same(operator @ v, expected @ v)
    assert int((expected.abs().sum(0) == 0).sum()) >= sum(
        p.numel() for name, p in model.named_parameters() if name.split(".")[0] not in ("a", "b")
    )


@TOOLS
def test_a_layer_that_takes_part_in_some_batches(tool: Any) -> None:
    torch.manual_seed(1)
    model, (X, y) = Partly((2,), often=False).double(), batch("classes")
    loss = nn.CrossEntropyLoss()
    for batches in (split(X, y), split(X, y)[::-1]):
        expected = sum(len(part[1]) / len(y) * reference(model, loss, *part) for part in batches)
        same(dense(tool(model, loss, batches)), expected)


def test_eigenvalues_of_the_tools_with_a_layer_without_a_part() -> None:
    torch.manual_seed(0)
    model, (X, y) = Partly((0, 3)), batch("classes", 11)
    X = X.float()
    loader = DataLoader(TensorDataset(X, y), batch_size=4)
    top = float(torch.linalg.eigvalsh(reference(model, nn.CrossEntropyLoss(), X, y))[-1])
    found = hessian(model, nn.CrossEntropyLoss(), dataloader=loader, cuda=False)
    assert found.eigenvalues(maxIter=300, tol=1e-6)[0][0] == pytest.approx(top, rel=1e-3)
    assert np.max(found.density(iter=12)[0][0]) == pytest.approx(top, rel=1e-3)
    operator = GaussNewtonOperator(model, loader, nn.CrossEntropyLoss())
    assert float(eigenthings.lanczos(operator, k=3, max_iter=40, seed=0).eigenvalues.max()) == pytest.approx(
        top, rel=1e-4
    )
