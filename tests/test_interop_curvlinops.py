"""curvlinops' own functions on our operator, beside theirs."""

from __future__ import annotations

import threading
from collections import UserDict

import numpy as np
import pytest
import scipy.sparse.linalg

torch = pytest.importorskip("torch")
curvlinops = pytest.importorskip("curvlinops")

from curvlinops.examples.functorch import functorch_ggn  # noqa: E402
from curvlinops.papyan2020traces.spectrum import lanczos_approximate_spectrum  # noqa: E402
from risks import batches, convolutional, dense, same  # noqa: E402
from torch.nn.utils import prune  # noqa: E402

from gnfast.interop._risk import Risk, network_of  # noqa: E402
from gnfast.interop.curvlinops import GGNLinearOperator  # noqa: E402

nn = torch.nn


LOSSES = {
    "mse": (nn.MSELoss(), "values"),
    "mse, sum": (nn.MSELoss(reduction="sum"), "values"),
    "classes": (nn.CrossEntropyLoss(), "classes"),
    "classes, sum, smoothed": (nn.CrossEntropyLoss(reduction="sum", label_smoothing=0.1), "classes"),
    "classes, weighted": (nn.CrossEntropyLoss(weight=torch.tensor([0.5, 2.0, 1.5], dtype=torch.float64)), "classes"),
    "binary": (nn.BCEWithLogitsLoss(), "values"),
    "binary, sum": (nn.BCEWithLogitsLoss(reduction="sum"), "values"),
}


def named(model: nn.Module, params: list) -> object:
    """The parameters as the installed release takes them."""
    names = {id(value): name for name, value in model.named_parameters()}
    later = hasattr(curvlinops.GGNLinearOperator, "_matvec_batch")
    return {names[id(value)]: value for value in params} if later else params


def both(model: nn.Module, loss: nn.Module, data: list[tuple], params: list | None = None, **options: object) -> tuple:
    params = list(model.parameters()) if params is None else params
    return (
        GGNLinearOperator(model, loss, params, data, **options),
        curvlinops.GGNLinearOperator(model, loss, named(model, params), data, **options),
    )


def identity(operator: curvlinops.GGNLinearOperator) -> torch.Tensor:
    return torch.eye(operator.shape[1], dtype=operator.dtype)


@pytest.mark.parametrize("loss, targets", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("kind", ["dense", "convolutional"])
def test_the_matrix_is_theirs(kind: str, loss: nn.Module, targets: str) -> None:
    model, shape = (dense([6, 7, 5, 3]), (6,)) if kind == "dense" else (convolutional(), (2, 6, 6))
    ours, theirs = both(model, loss, batches(shape, 3, targets))
    assert "gnfast's engine" in repr(ours)
    same(ours @ identity(ours), theirs @ identity(theirs))


def test_tensor_lists_vectors_and_the_order_of_params() -> None:
    model = dense([6, 7, 3], nn.GELU)
    data = batches((6,), 3, "classes")
    backwards = list(model.parameters())[::-1]
    ours, theirs = both(model, nn.CrossEntropyLoss(), data, backwards)
    assert "gnfast's engine" in repr(ours)
    vector = [torch.randn(p.shape, dtype=p.dtype) for p in backwards]
    matrix = [torch.randn(*p.shape, 4, dtype=p.dtype) for p in backwards]
    for given in (vector, matrix):
        for a, b in zip(ours @ given, theirs @ given, strict=True):
            same(a, b)
    flat = torch.randn(ours.shape[1], dtype=torch.float64)
    same(ours @ flat, theirs @ flat)


def test_single_precision() -> None:
    model = dense([6, 9, 3], dtype=torch.float32)
    data = [(X.float(), y.float()) for X, y in batches((6,), 3, "values")]
    ours, theirs = both(model, nn.MSELoss(), data)
    same(ours @ identity(ours), theirs @ identity(theirs), 1e-5)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, lambda p, lr: torch.optim.Adam(p, lr=lr, fused=True)])
def test_a_training_step_is_followed(optimizer) -> None:
    model = dense([6, 7, 3])
    data = batches((6,), 3, "values")
    ours, theirs = both(model, nn.MSELoss(), data)
    before = ours @ identity(ours)
    steps = optimizer(model.parameters(), lr=0.5)
    nn.MSELoss()(model(data[0][0]), data[0][1]).backward()
    steps.step()
    after = ours @ identity(ours)
    assert not torch.allclose(before, after)
    same(after, theirs @ identity(theirs))
    vector = nn.utils.parameters_to_vector(model.parameters()).detach()
    nn.utils.vector_to_parameters(2 * vector, model.parameters())  # assigns to .data, which changes no version
    same(ours @ identity(ours), theirs @ identity(theirs))


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3).double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(self.linear(x))


@pytest.mark.filterwarnings("ignore:Using a target size:UserWarning")  # PyTorch's, of targets that are broadcast
@pytest.mark.parametrize(
    "change, reason",
    [
        ("model", "sin"),
        ("subset", "not all parameters"),
        ("loss", "SmoothL1Loss"),
        ("ignored", "ignored"),
        ("broadcast", "its targets"),
        ("pruned", "with its parameters changed"),
        ("hooked", "forward hooks"),
    ],
)
def test_their_route_where_the_engine_does_not_take_it(change: str, reason: str) -> None:
    model = Odd() if change == "model" else dense([6, 7, 3])
    loss: nn.Module = nn.SmoothL1Loss() if change == "loss" else nn.MSELoss()
    data = batches((6,), 3, "values")
    params = list(model.parameters())
    if change == "ignored":
        loss, data = nn.CrossEntropyLoss(ignore_index=1), batches((6,), 3, "classes")
    if change == "subset":
        params = params[2:]
    if change == "broadcast":
        data = [(X, y[:, :1]) for X, y in data]
    if change == "pruned":
        prune.l1_unstructured(model[0], "weight", amount=0.5)
        params = list(model.parameters())
    if change == "hooked":
        model[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    ours, theirs = both(model, loss, data, params)
    assert reason in repr(ours) and "curvlinops' own" in repr(ours)
    same(ours @ identity(ours), theirs @ identity(theirs), 1e-14)


def test_a_hook_that_comes_later_is_followed() -> None:
    model = dense([6, 7, 3])
    ours, theirs = both(model, nn.MSELoss(), batches((6,), 3, "values"))
    ours @ identity(ours)
    model[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    same(ours @ identity(ours), theirs @ identity(theirs))


# ---------------------------------------------------------------------------------------------- their data and sizes
class OnDicts(nn.Module):
    """As their example with the data of Hugging Face has it: the model takes what it needs out of a batch."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, data: dict) -> torch.Tensor:
        return self.net(data["pixels"])


@pytest.mark.parametrize("kind", [dict, UserDict])
def test_data_like_dicts(kind: type) -> None:
    data = [(kind(pixels=X), y) for X, y in batches((2, 6, 6), 3, "classes")]
    size = {"batch_size_fn": lambda X: len(X["pixels"])}
    ours, theirs = both(OnDicts(convolutional()), nn.CrossEntropyLoss(), data, **size)
    assert "curvlinops' own" in repr(ours)
    same(ours @ identity(ours), theirs @ identity(theirs), 1e-14)
    with pytest.raises(ValueError, match="batch_size_fn"):
        both(OnDicts(convolutional()), nn.CrossEntropyLoss(), data)


def test_a_convolutional_network_like_theirs() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 5, 3, padding=1),
        nn.Sigmoid(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 4),
    )
    data = [(torch.rand(n, 3, 8, 8), torch.randint(4, (n,))) for n in (6, 2)]
    ours, theirs = both(model, nn.CrossEntropyLoss(), data)
    assert "gnfast's engine" in repr(ours)
    same(ours @ identity(ours), theirs @ identity(theirs), 1e-5)


@pytest.mark.parametrize("loss", [nn.MSELoss(), nn.MSELoss(reduction="sum")], ids=str)
@pytest.mark.parametrize(
    "options", [{"batch_size_fn": lambda X: 2 * len(X) + 1}, {"num_data": 100}], ids=["batch_size_fn", "num_data"]
)
def test_their_normalization(loss: nn.Module, options: dict) -> None:
    ours, theirs = both(dense([6, 7, 3]), loss, batches((6,), 3, "values"), **options)
    assert "gnfast's engine" in repr(ours)
    same(ours @ identity(ours), theirs @ identity(theirs))


def test_losses_without_a_reduction_are_their_error() -> None:
    ours, theirs = both(
        dense([6, 3]), nn.MSELoss(reduction="none"), batches((6,), 3, "values"), check_deterministic=False
    )
    assert "reduction='none'" in repr(ours)
    for operator in (ours, theirs):
        with pytest.raises(KeyError, match="none"):
            operator @ torch.ones(operator.shape[1], dtype=torch.float64)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_batch_without_weight(reduction: str) -> None:
    data = batches((6,), 3, "classes")
    data[1] = (data[1][0], torch.zeros(3, dtype=torch.long))
    loss = nn.CrossEntropyLoss(torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64), reduction=reduction)
    ours, theirs = both(dense([6, 3]), loss, data, check_deterministic=False)
    assert "the weight 0" in repr(ours)
    a, b = ours @ identity(ours), theirs @ identity(theirs)
    assert torch.equal(a.isnan(), b.isnan()) and bool(a.isnan().all()) == (reduction == "mean")
    torch.testing.assert_close(a, b, equal_nan=True)


@pytest.mark.filterwarnings("ignore:CG terminated in")  # theirs, which asks for more digits than it gets
def test_their_estimators_run_on_ours() -> None:
    model = dense([6, 8, 3], nn.Tanh)
    ours, theirs = both(model, nn.MSELoss(), batches((6,), 3, "values"))
    G = theirs @ identity(theirs)
    p = ours.shape[0]
    for estimate in (curvlinops.hutchinson_trace, curvlinops.hutchpp_trace):
        torch.manual_seed(0)
        a = estimate(ours, num_matvecs=3 * (p // 3))
        torch.manual_seed(0)
        b = estimate(theirs, num_matvecs=3 * (p // 3))
        assert a == pytest.approx(float(b), rel=1e-8)
    torch.manual_seed(0)
    same(curvlinops.xdiag(ours, 20), _seeded(lambda: curvlinops.xdiag(theirs, 20)), 1e-6)
    damped = ours + curvlinops_identity(ours, 0.1)
    b = torch.randn(p, dtype=torch.float64)
    solved = curvlinops.CGInverseLinearOperator(damped, eps=0, tolerance=1e-12) @ b
    same(solved, torch.linalg.solve(G + 0.1 * torch.eye(p, dtype=G.dtype), b), 1e-6)
    bounds = (-1.0, 1.0 + float(torch.linalg.eigvalsh(G)[-1]))
    densities = []
    for operator in (ours, theirs):
        torch.manual_seed(0)
        options = dict(num_points=50, num_repeats=1, boundaries=bounds)
        densities.append(lanczos_approximate_spectrum(operator, 12, **options)[1])
    assert np.allclose(*densities, rtol=1e-5)
    top = scipy.sparse.linalg.eigsh(ours.to_scipy(), k=3, return_eigenvectors=False)
    assert np.allclose(np.sort(top), np.linalg.eigvalsh(G.numpy())[-3:], rtol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_model_of_their_documentation(dtype: torch.dtype) -> None:
    """That of all their basic examples; their products, eigenvalues, blocks and inverses of the Gauss-Newton matrix."""
    torch.manual_seed(0)
    n, d, hidden, k = 20, 7, 5, 3
    model = nn.Sequential(
        nn.Linear(d, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.Sigmoid(), nn.Linear(hidden, k)
    ).to(dtype)
    data = [(torch.rand(n, d, dtype=dtype), torch.rand(n, k, dtype=dtype)) for _ in range(2)]
    ours, theirs = both(model, nn.MSELoss(reduction="mean"), data)
    assert "gnfast's engine" in repr(ours)
    dense_theirs = functorch_ggn(model, nn.MSELoss(), list(model.parameters()), data).detach()
    accuracy = 1e-5 if dtype == torch.float32 else 1e-10
    same(ours @ identity(ours), dense_theirs, accuracy)
    for a, b in zip(ours.gradient_and_loss()[0], theirs.gradient_and_loss()[0], strict=True):
        same(a, b, accuracy)
    top = scipy.sparse.linalg.eigsh(ours.to_scipy(), k=3, which="LM", return_eigenvectors=False)
    assert np.allclose(np.sort(top), torch.linalg.eigvalsh(dense_theirs)[-3:], rtol=1e-4)
    rows, columns = [0, 13, 42], [1, 2, 3]
    block = curvlinops.SubmatrixLinearOperator(ours, rows, columns) @ torch.eye(3, dtype=dtype)
    same(block, dense_theirs[rows][:, columns], max(accuracy, 1e-5))
    if dtype == torch.float32:
        return  # their example of inverses is in double precision
    delta, b = 1e-2, torch.cat([g.flatten() for g in ours.gradient_and_loss()[0]]).detach()
    solution = torch.linalg.solve(dense_theirs + delta * torch.eye(len(b), dtype=dtype), b)
    for operator in (ours, theirs):
        damped = operator + curvlinops_identity(operator, delta)
        inverse = curvlinops.CGInverseLinearOperator(damped, eps=0, max_iter=10, max_tridiag_iter=10)
        assert torch.allclose(inverse @ b, solution, rtol=5e-4, atol=5e-6)
    damped = ours + curvlinops_identity(ours, delta)
    scale = 1 / float(torch.linalg.eigvalsh(dense_theirs)[-1] + delta)
    neumann = curvlinops.NeumannInverseLinearOperator(damped, num_terms=3000, scale=scale)
    same(neumann @ b, solution, 1e-4)
    lsmr = curvlinops.LSMRInverseLinearOperator(damped, atol=1e-12, btol=1e-12, maxiter=500)
    same(lsmr @ b, solution, 1e-6)


ESTIMATORS = {
    "xtrace": lambda A: curvlinops.xtrace(A, 20),
    "hutchinson_diag": lambda A: curvlinops.hutchinson_diag(A, 20),
    "hutchinson_squared_fro": lambda A: curvlinops.hutchinson_squared_fro(A, 20),
    "log spectrum": lambda A: curvlinops.lanczos_approximate_log_spectrum(
        A, 12, num_points=30, num_repeats=1, boundaries=(1e-12, 3.0)
    )[1],
    "spectrum, kept": lambda A: curvlinops.LanczosApproximateSpectrumCached(A, 12, (-1.0, 3.0)).approximate_spectrum(
        num_repeats=2, num_points=30
    )[1],
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_their_other_estimators_run_on_ours(name: str) -> None:
    ours, theirs = both(dense([6, 8, 3], nn.Tanh), nn.MSELoss(), batches((6,), 3, "values"))
    a, b = (torch.as_tensor(_seeded(lambda A=A: ESTIMATORS[name](A))) for A in (ours, theirs))
    same(a, b, 1e-5)


def _seeded(f):
    torch.manual_seed(0)
    return f()


def curvlinops_identity(like, factor: float):
    from curvlinops.examples import IdentityLinearOperator

    shapes = [tuple(p.shape) for p in like._params]
    return factor * IdentityLinearOperator(shapes, like.device, like.dtype)


def test_forward_passes_that_do_not_fit_are_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    import gnfast.interop._risk as module

    monkeypatch.setattr(module, "KEPT_BYTES", 1.0)
    data = batches((6,), 3, "values")
    ours, theirs = both(dense([6, 7, 3]), nn.MSELoss(), data)
    assert "made again" in repr(ours)
    same(ours @ identity(ours), theirs @ identity(theirs))
    data[2][0][0, 0] = np.nan  # a later batch that the engine does not take: known before the first product
    ours, theirs = both(dense([6, 7, 3]), nn.MSELoss(), data, check_deterministic=False)
    assert "X has 1 NaN" in repr(ours)
    assert (ours @ identity(ours)).isnan().any()


def test_rows_are_kept_for_many_products_only(monkeypatch: pytest.MonkeyPatch) -> None:
    import gnfast.interop._risk as module

    model, data = convolutional(), batches((2, 6, 6), 3, "values", sizes=(40, 40))
    params = list(model.parameters())

    def methods(bytes_: float) -> tuple[float, bool, set]:
        monkeypatch.setattr(module, "KEPT_BYTES", bytes_)
        risk = Risk(network_of(model, params), nn.MSELoss(), params, data, lambda X, y: 1.0)
        return risk.bytes, "made again" not in risk.describe(), {operator.method for _, operator in risk.terms()}

    most, *with_all = methods(1e9)
    least, *with_none = methods(1.0)
    assert least < most
    assert (with_all, with_none) == ([True, {"auto"}], [False, {"usual"}])
    assert methods((least + most) / 2) == (least, True, {"usual"})


def test_two_threads_on_one_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = dense([6, 7, 3]), batches((6,), 3, "values")
    params = list(model.parameters())
    risk = Risk(network_of(model, params), nn.MSELoss(), params, data, lambda X, y: 1.0)
    given = [[torch.randn(*p.shape, 1, dtype=p.dtype) for p in params] for _ in range(2)]
    wanted, found = [risk.product(M) for M in given], [[], []]
    both_inside, inside, multiplied = threading.Event(), [], risk.multiplied

    def slow(V: torch.Tensor) -> torch.Tensor:
        inside.append(1)
        if len(inside) == 2:
            both_inside.set()
        both_inside.wait(0.2)  # for the other, which writes its vectors in the meantime, if it can
        return multiplied(V)

    monkeypatch.setattr(risk, "multiplied", slow)

    def work(i: int) -> None:
        found[i] = risk.product(given[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for products, others in zip(found, wanted, strict=True):
        for a, b in zip(products, others, strict=True):
            same(a, b)
