"""PyHessian's own code on the Gauss-Newton matrix."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("curvlinops")
pyhessian = pytest.importorskip("pyhessian")

import oracles  # noqa: E402
from risks import batches, convolutional, dense  # noqa: E402

import gnfast as gn  # noqa: E402
from gnfast.interop.pyhessian import _eig, hessian  # noqa: E402

nn = torch.nn


def exact(model: nn.Module, data: list[tuple]) -> np.ndarray:
    """The eigenvalues of the Gauss-Newton matrix of nn.MSELoss, a mean over entries, from explicit Jacobians."""
    net = gn.from_torch(model)
    X = torch.cat([X for X, _ in data]).numpy()
    J = oracles.jacobian(net, X)
    return np.linalg.eigvalsh(2 / len(J) * J.T @ J)[::-1]


def seeded(function: Any, *args: Any, **options: Any) -> Any:
    torch.manual_seed(5)
    return function(*args, **options)


@pytest.mark.parametrize("loss, targets", [(nn.MSELoss(), "values"), (nn.CrossEntropyLoss(), "classes")])
@pytest.mark.parametrize("single", [True, False])
def test_a_linear_model_has_the_numbers_of_pyhessian(loss: nn.Module, targets: str, single: bool) -> None:
    """Its Gauss-Newton matrix is its Hessian: the same draws give the same results, step by step."""
    data = batches((6,), 3, targets, sizes=(5, 3, 5))
    given = {"data": data[0]} if single else {"dataloader": data}
    ours = hessian(dense([6, 3]), loss, cuda=False, **given)
    theirs = pyhessian.hessian(dense([6, 3]), loss, cuda=False, **given)
    assert "gnfast's engine" in repr(ours)
    (a, vectors), (b, others) = (seeded(h.eigenvalues, top_n=2, maxIter=300) for h in (ours, theirs))
    assert np.allclose(a, b, rtol=1e-5)
    assert all(v.shape == w.shape for v, w in zip(vectors[0], others[0], strict=True))
    # PyHessian keeps some of its vectors in PyTorch's default float32
    assert np.allclose(seeded(ours.trace, maxIter=20), seeded(theirs.trace, maxIter=20), rtol=1e-5)


def test_eigenvalues_trace_and_density_are_those_of_the_gauss_newton_matrix() -> None:
    model, data = dense([6, 7, 3], nn.Tanh), batches((6,), 3, "values")
    values = exact(model, data)
    h = hessian(model, nn.MSELoss(), dataloader=data, cuda=False)
    top, vectors = seeded(h.eigenvalues, top_n=2, tol=1e-7, maxIter=2000)
    assert np.allclose(top, values[:2], rtol=1e-3)  # the power method's own accuracy
    G_v = h.dataloader_hv_product(vectors[0])[1]
    assert sum(float((a - top[0] * b).norm() ** 2) for a, b in zip(G_v, vectors[0], strict=True)) < 1e-6 * top[0] ** 2
    assert np.mean(seeded(h.trace, maxIter=400, tol=0)) == pytest.approx(values.sum(), rel=0.1)
    found, weights = seeded(h.density, iter=20, n_v=2)
    assert len(found) == len(weights) == 2
    for ritz, weight in zip(found, weights, strict=True):
        assert np.sum(weight) == pytest.approx(1, abs=1e-4)
        assert np.max(ritz) == pytest.approx(values[0], rel=1e-3)
    # the first moment of a quadrature is v^T G v of its start v, here that of the first run; float32 on the way
    signs = seeded(lambda: [2 * torch.randint_like(p, high=2) - 1 for p in model.parameters()])
    moment = h.dataloader_hv_product(signs)[0] / len(values)
    assert np.dot(found[0], weights[0]) == pytest.approx(moment, rel=1e-3)
    full = pyhessian.hessian(model, nn.MSELoss(), dataloader=data, cuda=False)
    assert not np.allclose(seeded(full.trace, maxIter=20, tol=0), seeded(h.trace, maxIter=20, tol=0), rtol=1e-2)
    assert pyhessian.hessian.__init__.__globals__["torch"] is torch  # as it was


def test_images_and_what_the_engine_does_not_take() -> None:
    data = batches((2, 6, 6), 3, "classes")
    model = convolutional()
    ours = hessian(model, nn.CrossEntropyLoss(), dataloader=data, cuda=False)
    assert "gnfast's engine" in repr(ours)
    for parameter in model[0].parameters():
        parameter.requires_grad_(False)
    part = hessian(model, nn.CrossEntropyLoss(), dataloader=data, cuda=False)
    assert "curvlinops' own" in repr(part)
    assert part.eigenvalues()[0][0] <= ours.eigenvalues()[0][0] * (1 + 1e-2)


class Block(nn.Module):
    """A residual block as in the network of PyHessian's README."""

    def __init__(self, planes: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(planes, planes, 3, padding=1, bias=False), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False), nn.BatchNorm2d(planes)

    def forward(self, x: Any) -> Any:
        out = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(out)) + x)


def test_the_example_of_their_readme() -> None:
    torch.manual_seed(0)
    stem = [nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU()]
    model = nn.Sequential(*stem, Block(4), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(16, 5))
    inputs, targets = torch.randn(20, 3, 8, 8), torch.randint(5, (20,))
    criterion = nn.CrossEntropyLoss()

    hessian_comp = hessian(model, criterion, data=(inputs, targets), cuda=False)
    top_eigenvalues, top_eigenvectors = seeded(hessian_comp.eigenvalues, top_n=2)
    trace = seeded(hessian_comp.trace)
    density_eigen, density_weight = seeded(hessian_comp.density)

    assert "gnfast's engine" in repr(hessian_comp)
    G = gn.GaussNewton(gn.from_torch(model), inputs, "cross_entropy")
    values = np.linalg.eigvalsh(G.to_dense())[::-1]
    assert np.allclose(top_eigenvalues, values[:2], rtol=3e-2)  # the power method stops at changes of 1e-3
    assert [v.shape for v in top_eigenvectors[0]] == [p.shape for p in model.parameters()]
    assert np.mean(trace) == pytest.approx(values.sum(), rel=0.2)
    assert np.max(density_eigen[0]) == pytest.approx(values[0], rel=1e-3)
    assert np.sum(density_weight[0]) == pytest.approx(1, abs=1e-3)
    assert hessian_comp.inputs is inputs and hessian_comp.targets is targets
    assert isinstance(hessian_comp.data, tuple) and not model.training


def test_two_threads_do_not_change_each_other_s_pytorch() -> None:
    entered = threading.Event()

    def other() -> None:
        with _eig():
            entered.set()

    thread = threading.Thread(target=other)
    with _eig():
        thread.start()
        assert not entered.wait(0.1)
    thread.join()
    assert entered.is_set() and pyhessian.hessian.__init__.__globals__["torch"] is torch


def test_wrong_arguments_are_refused() -> None:
    model, data = dense([6, 3]), batches((6,), 3, "values")
    for given in ({}, {"data": data[0], "dataloader": data}):
        with pytest.raises(ValueError, match="data and dataloader are"):
            hessian(model, nn.MSELoss(), cuda=False, **given)
    with pytest.raises(ValueError, match="criterion is MSELoss"):
        hessian(model, nn.MSELoss(reduction="sum"), dataloader=data, cuda=False)
    one = hessian(model, nn.MSELoss(reduction="sum"), data=data[0], cuda=False)
    mean = hessian(model, nn.MSELoss(), data=data[0], cuda=False)
    assert one.eigenvalues()[0][0] == pytest.approx(15 * mean.eigenvalues()[0][0], rel=1e-2)
