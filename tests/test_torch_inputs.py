"""Losses and samples of kinds that PyTorch's users have at hand: taken, or refused in a sentence that helps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gnfast as gn

torch = pytest.importorskip("torch")
nn = torch.nn

from gnfast.interop.torch import GaussNewton  # noqa: E402


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(),
        nn.CrossEntropyLoss(reduction="sum"),
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0])),
        nn.MSELoss(),
        nn.MSELoss(reduction="sum"),
        nn.BCEWithLogitsLoss(),
        nn.PoissonNLLLoss(),
        nn.functional.mse_loss,
    ],
    ids=["classes", "classes sum", "classes weighted", "mse", "mse sum", "binary", "poisson", "function"],
)
def test_the_equivalent_of_a_loss_is_its_matrix(loss: Any, dtype: Any) -> None:
    """What the error says is passed: of a linear model it is the loss's Hessian by autograd."""
    torch.manual_seed(0)
    module, X = nn.Linear(3, 2).to(dtype), torch.randn(5, 3, dtype=dtype)
    of_classes = isinstance(loss, nn.CrossEntropyLoss)
    y = torch.randint(0, 2, (5,)) if of_classes else torch.rand(5, 2, dtype=dtype)
    loss = loss.to(dtype) if isinstance(loss, nn.Module) else loss
    with pytest.raises(TypeError, match="must be one of") as refused:
        GaussNewton(module, None, X, loss)
    with pytest.raises(TypeError) as again:
        gn.GaussNewton(gn.from_torch(module), X, loss)
    assert str(again.value) == str(refused.value), (again.value, refused.value)
    cure = str(refused.value).split("; pass ")[1].replace(" for log_input=True", "")
    options = eval(
        f"dict({cure.replace(' and ', ', ').replace(' with ', ', ')})",
        {"numpy": np, "y": y, "w": getattr(loss, "weight", None)},
    )

    def risk(p: Any) -> Any:
        return loss(torch.func.functional_call(module, {"weight": p[:6].reshape(2, 3), "bias": p[6:]}, X), y)

    at = torch.cat([module.weight.detach().ravel(), module.bias.detach()])
    H = torch.autograd.functional.hessian(risk, at).numpy()
    for G in (GaussNewton(module, None, X, **options), gn.GaussNewton(gn.from_torch(module), X, **options)):
        assert np.abs(G.to_dense() - H).max() <= 100 * np.finfo(H.dtype).eps * np.abs(H).max()


@pytest.mark.parametrize(
    "loss",
    [nn.CrossEntropyLoss, nn.MSELoss, nn.L1Loss(), nn.NLLLoss(), lambda f, y: 0.0],
    ids=["class", "other class", "l1", "nll", "function"],
)
def test_losses_that_are_refused(loss: Any) -> None:
    with pytest.raises(TypeError, match=r"loss is (a|the class|the function) \S+ but must be one of 'mse'.*; pass"):
        GaussNewton(nn.Linear(3, 2), None, torch.randn(5, 3), loss)


GRID = np.arange(15.0, dtype=np.float32).reshape(5, 3)


@pytest.mark.parametrize(
    "X", [GRID.astype(">f4"), GRID[::-1], GRID[:, ::-1], GRID[::2], np.broadcast_to(GRID[0], (4, 3)), GRID.T.copy().T]
)
def test_arrays_of_any_layout(X: np.ndarray) -> None:
    torch.manual_seed(0)
    module = nn.Linear(3, 2)
    wanted = GaussNewton(module, None, torch.tensor(np.ascontiguousarray(X, np.float32))).to_dense()
    assert np.array_equal(GaussNewton(module, None, X).to_dense(), wanted)


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (GRID.astype(object), "X is an array of dtype object"),
        (GRID.astype(str), "X is an array of dtype <U"),
        (GRID.astype("M8[s]"), "X is an array of dtype datetime64"),
        (np.ma.masked_array(GRID, GRID > 3), "X is a masked array"),
        (torch.tensor(GRID).to_sparse(), "X is of layout sparse_coo"),
        (torch.tensor(GRID).to_sparse_csr(), "X is of layout sparse_csr"),
        (GRID.astype(np.int32), "the model does not take X of dtype int32"),
    ],
)
def test_samples_that_are_refused(X: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        GaussNewton(nn.Linear(3, 2), None, X)


@pytest.mark.parametrize("check", [True, False])
def test_a_derivative_that_is_nan(check: bool) -> None:
    X = torch.tensor(GRID) - 5
    G = GaussNewton(lambda p, x: ((x @ p) * 0).sqrt(), torch.ones(3, 2), X, check=check)
    with pytest.raises(ValueError, match=r"derivative of the .* is NaN or infinite"):
        G @ np.ones(6, np.float32)
