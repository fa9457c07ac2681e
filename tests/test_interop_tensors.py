"""Tensors in, tensors out: memory that is shared, gradients and modes that are left alone, training that goes on."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gnfast as gn

torch = pytest.importorskip("torch")
nn = torch.nn

from gnfast.interop.torch import GaussNewton  # noqa: E402


def module(dtype: Any = torch.float64) -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 3)).to(dtype)


def samples(n: int = 5, dtype: Any = torch.float64) -> Any:
    return torch.randn(n, 4, dtype=dtype, generator=torch.Generator().manual_seed(1))


def by_core(net: Any, X: Any) -> Any:
    return gn.GaussNewton(gn.from_torch(net), X)


def by_autograd(net: Any, X: Any) -> Any:
    return GaussNewton(net, None, X)


Make = Callable[[Any, Any], Any]
engines = pytest.mark.parametrize("make", [by_core, by_autograd])


def columns(size: int, s: int = 3, dtype: Any = torch.float64) -> Any:
    """(size, s), each column contiguous."""
    return torch.randn(s, size, dtype=dtype, generator=torch.Generator().manual_seed(2)).T


def family(G: Any) -> list[Any]:
    return [G, G.gram(), G.jacobian(), G.jacobian().T]


# -------------------------------------------------------------------------------------------------------- products
@engines
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_product_is_of_the_library_of_its_vectors(make: Make, dtype: Any) -> None:
    for op in family(make(module(dtype), samples(dtype=dtype))):
        V, U = columns(op.shape[1], dtype=dtype), columns(op.shape[0], dtype=dtype)
        ways = {
            "block": (op @ V, op @ V.numpy()),
            "vector": (op @ V[:, 0], op @ V[:, 0].numpy()),
            "column": (op.matvec(V[:, :1]), op.matvec(V[:, :1].numpy())),
            "adjoint": (op.rmatmat(U), op.rmatmat(U.numpy())),
            "adjoint of a vector": (op.rmatvec(U[:, 0]), op.rmatvec(U[:, 0].numpy())),
            "from the left": (U.T @ op, U.T.numpy() @ op),
            "vector from the left": (U[:, 0] @ op, U[:, 0].numpy() @ op),
        }
        for name, (found, wanted) in ways.items():
            assert isinstance(found, torch.Tensor) and isinstance(wanted, np.ndarray), name
            assert found.dtype == dtype and tuple(found.shape) == wanted.shape, name
            tolerance = 1e-5 if dtype == torch.float32 else 1e-13
            np.testing.assert_allclose(found.numpy(), wanted, rtol=tolerance, atol=tolerance, err_msg=name)


@engines
def test_lift_solve_and_outputs_are_too(make: Make) -> None:
    net, X = module(), samples()
    G = make(net, X)
    Y = columns(G.gram().shape[0], 2)
    np.testing.assert_allclose(G.gram().lift(Y).numpy(), G.gram().lift(Y.numpy()), rtol=1e-12)
    b = columns(G.shape[0], 2)
    x, _ = gn.solve(G, b, damping=0.1)
    assert isinstance(x, torch.Tensor)
    torch.testing.assert_close(G @ x + 0.1 * x, b, rtol=0, atol=1e-6)
    outputs = gn.from_torch(net)(X)
    assert isinstance(outputs, torch.Tensor)
    torch.testing.assert_close(outputs, net(X).detach())


def test_what_has_no_array_in_is_numpy_s() -> None:
    G = by_autograd(module(), samples())
    values, vectors = gn.eigsh(G, k=2)
    assert isinstance(values, np.ndarray) and isinstance(vectors, np.ndarray)
    assert torch.from_numpy(vectors).data_ptr() == vectors.ctypes.data
    torch.testing.assert_close(
        G @ torch.from_numpy(vectors), torch.from_numpy(vectors * values), rtol=0, atol=1e-7 * values[-1]
    )


@engines
def test_memory_is_shared(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    G = make(module(), samples())
    V, seen = columns(G.shape[1]), []
    apply = type(G)._product if make is by_autograd else type(G)._apply

    def spy(self: Any, rows: Any, out: Any) -> None:
        seen.append(
            [array.data_ptr() if isinstance(array, torch.Tensor) else array.ctypes.data for array in (rows, out)]
        )
        apply(self, rows, out)

    monkeypatch.setattr(type(G), "_product" if make is by_autograd else "_apply", spy)
    product = G @ V
    assert seen == [[V.data_ptr(), product.data_ptr()]]


def test_networks_share_the_parameters_memory() -> None:
    net = module()
    shared = zip(gn.from_torch(net).parameters(), net.parameters(), strict=True)
    assert all(array.ctypes.data == tensor.data_ptr() for array, tensor in shared)


# ----------------------------------------------------------------------------------------------- gradients and modes
@engines
def test_a_tensor_that_requires_a_gradient_is_refused_where_gradients_are_recorded(make: Make) -> None:
    for op in family(make(module(), samples())):
        v = columns(op.shape[1], 1)[:, 0].requires_grad_()
        with pytest.raises(TypeError, match=r"requires a gradient, .*; pass [vV]\.detach\(\), or"):
            op @ v
        with torch.no_grad():
            found = op @ v
        assert not found.requires_grad
        torch.testing.assert_close(found, op @ v.detach())


@engines
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_every_grad_mode(make: Make, mode: Any) -> None:
    net = module()
    wanted = make(net, samples()).to_dense()
    with mode():
        X = samples()
        G = make(net, X)
        V = torch.eye(G.shape[0], dtype=torch.float64)
        for _ in range(2):
            np.testing.assert_allclose((G @ V).numpy(), wanted, atol=1e-13)
        assert gn.cond(G).value == pytest.approx(gn.cond(make(net, samples())).value, rel=1e-6)
        assert torch.is_inference_mode_enabled() == (mode is torch.inference_mode)
        assert torch.is_grad_enabled() == (mode is torch.enable_grad)


@engines
def test_gradients_random_numbers_and_modes_are_left_alone(make: Make) -> None:
    net = nn.Sequential(module(), nn.BatchNorm1d(3).double(), nn.Dropout(0.0), nn.Linear(3, 3).double())
    net[3].eval()
    X = samples()
    net(X).sum().backward()
    gradients = [parameter.grad.clone() for parameter in net.parameters()]
    buffers = [buffer.clone() for buffer in net.buffers()]
    modes, generator = [child.training for child in net.modules()], torch.get_rng_state()
    G = make(net, X)
    gn.cond(G)
    gn.trace(G)
    G @ columns(G.shape[0])
    assert torch.equal(torch.get_rng_state(), generator)
    assert [child.training for child in net.modules()] == modes
    assert all(torch.equal(parameter.grad, g) for parameter, g in zip(net.parameters(), gradients, strict=True))
    assert all(torch.equal(now, before) for now, before in zip(net.buffers(), buffers, strict=True))
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_parameters_made_in_inference_mode_are_refused() -> None:
    with torch.inference_mode():
        net = module()
    with pytest.raises(ValueError, match=r"0\.weight was made in torch\.inference_mode\(\)"):
        by_autograd(net, samples())


# --------------------------------------------------------------------------------------------------------- training
def fused(parameters: Any, lr: float) -> Any:
    """Adam in one kernel, which raises no version of the parameters."""
    return torch.optim.Adam(parameters, lr=lr, fused=True)


@engines
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam, fused])
def test_an_operator_refuses_to_go_on_after_a_training_step(make: Make, optimizer: Any) -> None:
    net, X = module(), samples()
    G = make(net, X)
    gram, J, stored = G.gram(), G.jacobian(), make(net, X).gram()
    stored.to_dense()
    further = [G.block(0), G.preconditioned("diagonal", 0.1)] if make is by_core else []
    steps = optimizer(net.parameters(), lr=0.1)
    net(X).square().mean().backward()
    steps.step()
    uses = [
        lambda: G @ np.ones(G.shape[0]),
        lambda: G @ columns(G.shape[0]),
        lambda: gram @ np.ones(gram.shape[0]),
        lambda: gram.lift(np.ones((gram.shape[0], 1))),
        lambda: J @ np.ones(J.shape[1]),
        lambda: J.T @ np.ones(J.shape[0]),
        lambda: G.to_dense(),
        lambda: gram.to_dense(),
        lambda: stored.to_dense(),
        lambda: gn.cond(G),
        lambda: gn.trace(G),
        lambda: gn.eigsh(gram, k=1),
        *(lambda op=op: gn.cond(op) for op in further),
    ]
    if make is by_core:
        uses += [
            lambda: G.diagonal(),
            lambda: further[0].diagonal(),
            lambda: gram.diagonal(),
            lambda: gn.diagonal(G),
            lambda: G.kfac(),
            *(lambda name=name: G.preconditioned(name, 0.1) for name in ("diagonal", "block", "kfac")),
        ]
    for use in uses:
        with pytest.raises(RuntimeError, match=r"0\.weight has been changed since .*; make a new one after a training"):
            use()
    fresh = copy.deepcopy(net)
    np.testing.assert_allclose(make(net, X).to_dense(), make(fresh, X).to_dense(), atol=1e-14)


def test_duals_of_linear_networks_are_refused_too() -> None:
    torch.manual_seed(0)
    nets = [nn.Sequential(nn.Linear(4, 7), nn.Linear(7, 3)), nn.Sequential(nn.Conv1d(2, 2, 2), nn.Flatten())]
    for net, X in zip(nets, (torch.randn(5, 4), torch.randn(5, 2, 4)), strict=True):
        dual = by_core(net, X).linear_dual()
        with torch.no_grad():
            net[0].weight.add_(1)
        for use in ("to_dense", "factors"):
            if hasattr(dual, use):
                with pytest.raises(RuntimeError, match="make a new one"):
                    getattr(dual, use)()


def test_steps_of_other_parameters_are_not_its() -> None:
    net, other = module(), module()
    G = by_core(net, samples())
    optimizer = fused(other.parameters(), 0.1)
    other(samples()).sum().backward()
    optimizer.step()
    G @ columns(G.shape[0])


def test_running_averages_are_watched_where_they_are_used() -> None:
    net, X = nn.Sequential(module(), nn.BatchNorm1d(3).double()), samples()
    training = by_core(net, X)
    net(X)  # moves the averages, which training mode does not use
    training @ np.ones(training.shape[0])
    evaluation = by_core(net.eval(), X)
    net.train()(X)
    with pytest.raises(RuntimeError, match=r"1\.num_batches_tracked has been changed"):
        evaluation @ np.ones(evaluation.shape[0])


class OnGpu:
    """What tells that it is in the memory of a GPU."""

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0


@engines
def test_a_vector_on_a_gpu_is_told_where_to_go(make: Make) -> None:
    with pytest.raises(TypeError, match=r"b is of type OnGpu on cuda:0 but op takes .* memory; pass b\.cpu\(\) in"):
        gn.solve(make(module(), samples()), OnGpu())


@engines
def test_wrong_tensors(make: Make) -> None:
    G = make(module(), samples())
    cases = [
        (columns(G.shape[0], dtype=torch.float32), TypeError, r"convert it with V\.to\(torch\.float64\)"),
        (columns(G.shape[0], dtype=torch.float32)[:, 0], TypeError, r"convert it with V\.to\(torch\.float64\)"),
        (columns(5), ValueError, r"V has shape \(5, 3\) but must be"),
        (columns(5)[:, 0], ValueError, r"v has shape \(5,\) but must be"),
        (columns(G.shape[0]) * np.nan, ValueError, "V has NaN or infinite values"),
    ]
    for given, kind, message in cases:
        with pytest.raises(kind, match=message):
            G @ given
