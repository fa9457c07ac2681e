"""PyTorch models by autograd: operators against explicit Jacobians in float64, and what they refuse."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import gnfast as gn

torch = pytest.importorskip("torch")
nn = torch.nn

import oracles  # noqa: E402

from gnfast import _extras  # noqa: E402
from gnfast.interop.torch import GaussNewton  # noqa: E402

N, OUTPUTS = 7, 3
TOL = 1e-11  # relative to the largest entry: sums of some hundred products in float64


def conv_net(mode: str = "eval") -> Any:
    torch.manual_seed(1)
    module = nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * 9, OUTPUTS),
    ).double()
    module[1].running_mean.normal_()
    return module.train(mode == "train")


def images(n: int = N) -> Any:
    return torch.randn(n, 2, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


class OldDouble(torch.autograd.Function):  # an old-style function, which torch.func cannot transform
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return 2 * g


def explicit(module: Any, X: Any) -> tuple[np.ndarray, np.ndarray]:
    """Outputs (n, k) and J (n k, p) by one backward pass an output, without torch.func."""
    module = copy.deepcopy(module)
    out = module(X).reshape(len(X), -1)
    rows = []
    for value in out.reshape(-1):
        parts = torch.autograd.grad(
            value, list(module.parameters()), retain_graph=True, allow_unused=True, materialize_grads=True
        )
        rows.append(np.concatenate([part.numpy().ravel() for part in parts]))
    return out.detach().numpy(), np.array(rows)


def expected(module: Any, X: Any, loss: str, reduction: str = "mean") -> np.ndarray:
    out, J = explicit(module, X)
    H = oracles.hessian(loss, out)
    J = J.reshape(*H.shape[:2], -1)
    return np.einsum("iap,iab,ibq->pq", J, H, J, optimize=True) / (len(X) if reduction == "mean" else 1)


def block(p: int, s: int = 4) -> np.ndarray:
    return np.asfortranarray(np.random.default_rng(3).standard_normal((p, s)))


def close(found: np.ndarray, wanted: np.ndarray, tol: float = TOL) -> bool:
    return bool(np.abs(found - wanted).max() <= tol * np.abs(wanted).max())


# ------------------------------------------------------------------------------------------------------- products
@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("loss", ["mse", "cross_entropy", "binary_cross_entropy"])
def test_operators_equal_explicit_ones(mode: str, loss: str) -> None:
    module, X = conv_net(mode), images()
    averages = module[1].running_mean.clone()
    D = expected(module, X, loss, "sum")
    module[1].running_mean.copy_(averages)
    G = GaussNewton(module, None, X, loss, reduction="sum")
    V = block(G.shape[0])
    assert close(G @ V, D @ V)
    assert close(G.matvec(V[:, 0].copy()), D @ V[:, 0])
    wanted = oracles.spectrum(D)
    K = G.gram(reduced=True)
    rank = K.shape[0]
    assert close(oracles.spectrum(K.to_dense()), wanted[-rank:])
    Y = block(rank, 2)
    again = GaussNewton(module, None, X, loss, reduction="sum").gram(reduced=True)
    assert close(again @ Y, K.to_dense() @ Y)
    padded = np.sort(np.append(wanted[-rank:], np.zeros(N * OUTPUTS - rank)))
    assert close(oracles.spectrum(G.gram().to_dense()), padded)
    lifted = K.lift(Y)
    assert close(lifted.T @ lifted, Y.T @ K.to_dense() @ Y)
    assert torch.equal(module[1].running_mean, averages), "a product moved the running averages"


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_jacobian(mode: str) -> None:
    module, X = conv_net(mode), images()
    _, J = explicit(module, X)
    op = GaussNewton(module, None, X).jacobian()
    V, U = block(op.shape[1]), block(op.shape[0])
    assert close(op @ V, J @ V)
    assert close(op.T @ U, J.T @ U)


def test_weights_and_given_hessians() -> None:
    module, X = conv_net(), images()
    rng = np.random.default_rng(6)
    out, J = explicit(module, X)
    J = J.reshape(N, OUTPUTS, -1)
    root = rng.standard_normal((N, OUTPUTS, 2))
    blocks, rows, entries = root @ root.transpose(0, 2, 1), rng.random(N), rng.random((N, OUTPUTS))
    softmax = oracles.hessian("cross_entropy", out)
    cases = [
        ("poisson", entries, np.eye(OUTPUTS) * (entries * np.exp(out))[:, None]),
        ("mse", rows, np.eye(OUTPUTS) * rows[:, None, None]),
        ("cross_entropy", rows, softmax * rows[:, None, None]),
        (torch.from_numpy(blocks), rows, blocks * rows[:, None, None]),
    ]
    V = block(J.shape[2])
    for loss, weights, H in cases:
        D = np.einsum("iap,iab,ibq->pq", J, H, J, optimize=True) / N
        for limit in (None, 4e4):
            G = GaussNewton(module, None, X, loss, weights=weights, memory_limit=limit)
            assert close(G @ V, D @ V)
            assert close(oracles.spectrum(G.dual().to_dense()), oracles.spectrum(D)[-G.dual().shape[0] :])


@pytest.mark.parametrize("limit", [6e4, 3.5e4, 2.5e4])
def test_batches_of_samples_change_nothing(limit: float) -> None:
    module, X = conv_net(), images()
    whole, parts = GaussNewton(module, None, X), GaussNewton(module, None, X, memory_limit=limit)
    assert parts.plan().memory <= limit
    assert parts.plan().sample_block < N or parts.plan().vector_block < 32
    V, Y = block(whole.shape[0]), block(whole.gram().shape[0])
    assert close(parts @ V, whole @ V)
    assert close(parts.jacobian() @ V, whole.jacobian() @ V)
    assert close(parts.jacobian().T @ Y, whole.jacobian().T @ Y)
    assert close(parts.gram() @ Y, whole.gram().to_dense() @ Y)


def test_gram_by_blocks_of_rows() -> None:
    module, X = conv_net(), images()
    dense = GaussNewton(module, None, X, "cross_entropy").gram().to_dense()
    limited = GaussNewton(module, None, X, "cross_entropy", memory_limit=6e4).gram()
    assert close(limited.to_dense(), dense)


def test_what_torch_func_cannot_transform_goes_vector_by_vector() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.unused = nn.Linear(4, 3, dtype=torch.float64), nn.Linear(2, 2, dtype=torch.float64)

        def forward(self, x: Any) -> Any:
            return torch.tanh(OldDouble.apply(self.inner(x)))

    X = torch.randn(5, 4, dtype=torch.float64)
    module = Model()
    D, G = expected(module, X, "mse"), GaussNewton(module, None, X)
    V = block(G.shape[0])
    assert close(G @ V, D @ V)
    assert "vector by vector" in str(G.plan())
    assert close(oracles.spectrum(G.gram().to_dense()), oracles.spectrum(D)[-15:])


@pytest.mark.parametrize("nest", ["list", "dict", "tensor"])
def test_functions_of_any_parameters(nest: str) -> None:
    generator = torch.Generator().manual_seed(5)
    W, b = (torch.randn(*shape, dtype=torch.float64, generator=generator) for shape in ((3, 4), (3,)))
    X = torch.randn(6, 4, dtype=torch.float64, generator=generator)
    net = gn.Network([gn.Dense(W.numpy(), b.numpy()), gn.Activation("tanh")])
    functions = {
        "list": (lambda ps, x: torch.tanh(x @ ps[0].T + ps[1]), [W, b]),
        "dict": (lambda ps, x: torch.tanh(x @ ps["a"][0].T + ps["b"]), {"a": (W,), "b": b}),
        "tensor": (lambda p, x: torch.tanh(x @ p[:12].reshape(3, 4).T + p[12:]), torch.cat([W.ravel(), b])),
    }
    G = GaussNewton(*functions[nest], X.numpy())
    assert close(G @ np.eye(15, order="F"), oracles.gauss_newton(net, X.numpy()))


def test_parameters_that_are_chosen_frozen_or_shared() -> None:
    module, X = conv_net(), images()
    D = expected(module, X, "mse")
    last = D[-OUTPUTS * 37 :, -OUTPUTS * 37 :]
    V = block(len(last))
    assert close(GaussNewton(module, ["4.weight", "4.bias"], X) @ V, last @ V)
    assert close(GaussNewton(module, list(module[4].parameters()), X) @ V, last @ V)
    for parameter in module[:2].parameters():
        parameter.requires_grad_(False)
    assert close(GaussNewton(module, None, X) @ V, last @ V)
    tied = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)).double()
    tied[2].weight = tied[0].weight
    x = torch.randn(3, 4, dtype=torch.float64)
    G = GaussNewton(tied, None, x)
    assert G.shape == (24, 24)
    assert close(G @ np.eye(24, order="F"), expected(tied, x, "mse"))


def test_integers_as_inputs() -> None:
    module = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 2)).double()
    X = torch.randint(0, 9, (5, 3))
    G = GaussNewton(module, None, X)
    V = block(G.shape[0])
    assert close(G @ V, expected(module, X, "mse") @ V)


# --------------------------------------------------------------------------------------------------------- solvers
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_solvers_take_it(mode: str) -> None:
    module, X = conv_net(mode), images()
    D = expected(module, X, "cross_entropy")
    G = GaussNewton(module, None, X, "cross_entropy")
    values = oracles.nonzero(D)
    found = gn.cond(G)
    assert found.space == "samples"
    assert found.rank == len(values) == int(gn.rank(G))
    assert found.value == pytest.approx(values[-1] / values[0], rel=1e-9)
    top, vectors = gn.eigsh(G, k=2)
    assert top == pytest.approx(values[-2:], rel=1e-9)
    assert close(D @ vectors, vectors * top, 1e-8)
    trace = gn.trace(G)
    assert trace.value == pytest.approx(values.sum(), rel=1e-9)
    rows = G.dual().shape[0]  # of coupled samples; those of others have norms without a product
    assert trace.exact and trace.products == (rows if mode == "train" else 0)
    b = D @ block(len(D), 1)[:, 0]
    x, info = gn.solve(G, b, damping=0.1)
    assert info.converged
    assert close(D @ x + 0.1 * x, b, 1e-7)
    assert gn.logdet(G, damping=0.5).value == pytest.approx(np.linalg.slogdet(D + 0.5 * np.eye(len(D)))[1], rel=1e-9)
    assert gn.density(G).nullity == len(D) - G.dual().shape[0]


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize("space", ["auto", "dual", "parameters"])
def test_systems_of_a_wide_module_are_solved_in_samples(loss: str, space: str) -> None:
    module = nn.Sequential(nn.Linear(4, 30), nn.Tanh(), nn.Linear(30, 3)).double()
    G = GaussNewton(module, None, block(5, 4), loss)
    D = dense_of(G)
    B = block(len(D), 2)
    X, info = gn.solve(G, B, damping=1e-3, space=space)
    assert close(X, np.linalg.solve(D + 1e-3 * np.eye(len(D)), B), 1e-6)
    assert info.converged and ("in sample space" in info.method) == (space != "parameters")


def dense_of(G: GaussNewton) -> np.ndarray:
    return G @ np.eye(G.shape[0])


def test_agrees_with_the_native_operator_in_float32() -> None:
    net = gn.mlp([5, 40, 3], bias=True, seed=4, dtype="float32")
    W, b, V, c = (torch.from_numpy(array.copy()) for array in net.parameters())
    X = np.random.default_rng(0).standard_normal((8, 5)).astype(np.float32)
    G = GaussNewton(lambda p, x: torch.relu(x @ p[0].T + p[1]) @ p[2].T + p[3], [W, b, V, c], X, "cross_entropy")
    native = gn.GaussNewton(net, X, "cross_entropy")
    U = block(G.shape[0]).astype(np.float32)
    assert close(G @ U, native @ U, 1e-5)
    assert gn.cond(G).value == pytest.approx(gn.cond(native).value, rel=1e-3)


def test_repr_says_which_engine_runs() -> None:
    module, X = conv_net(), images()
    assert "autograd engine of PyTorch" in repr(GaussNewton(module, None, X))
    assert "autograd engine of PyTorch" in str(GaussNewton(module, None, X).plan())


# --------------------------------------------------------------------------------------------------- what is refused
def test_preconditioners_are_the_cores() -> None:
    G = GaussNewton(LINEAR, None, SMALL)
    with pytest.raises(TypeError, match=r"G is a gnfast\.interop\.torch\.GaussNewton; read .* with gnfast\.from_torch"):
        gn.cond(G, preconditioner="kfac")
    names = ("diagonal", "layers", "block", "kfac", "preconditioned", "linear_dual")
    assert not any(hasattr(G, name) for name in names), "docs/pytorch.md says so"


LINEAR = nn.Linear(2, 2, dtype=torch.float64)
SMALL = torch.ones(3, 2, dtype=torch.float64)


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: GaussNewton("net", None, SMALL), TypeError, "module is of type str"),
        (lambda: GaussNewton(LINEAR), TypeError, "X is missing"),
        (lambda: GaussNewton(LINEAR, None, "X"), TypeError, "X is of type str but must be a tensor"),
        (lambda: GaussNewton(LINEAR, None, SMALL.float()), TypeError, "X has dtype float32 but the parameters have"),
        (lambda: GaussNewton(copy.deepcopy(LINEAR).half(), None, SMALL), TypeError, "weight has dtype float16"),
        (lambda: GaussNewton(LINEAR, None, SMALL * np.nan), ValueError, "X has NaN"),
        (lambda: GaussNewton(LINEAR, ["weights"], SMALL), ValueError, "'?weights'?, which is no parameter"),
        (lambda: GaussNewton(LINEAR, [], SMALL), ValueError, "params is empty"),
        (lambda: GaussNewton(LINEAR, "weight", SMALL), TypeError, "params must be None, or a list"),
        (lambda: GaussNewton(torch.matmul, None, SMALL), TypeError, "a function needs its parameters"),
        (lambda: GaussNewton(torch.matmul, [3.0], SMALL), TypeError, r"params\[0\] is of type float"),
        (lambda: GaussNewton(LINEAR, None, SMALL, "hinge"), ValueError, "loss is 'hinge'"),
        (lambda: GaussNewton(LINEAR, None, SMALL, memory_limit=100), MemoryError, "memory_limit is 100 B"),
        (lambda: GaussNewton(nn.Sequential(LINEAR, nn.Dropout()), None, SMALL), ValueError, "dropout in training mode"),
        (lambda: GaussNewton(lambda p, x: x.float(), SMALL, SMALL), TypeError, "outputs in float32"),
        (lambda: GaussNewton(lambda p, x: x.sum(), SMALL, SMALL), ValueError, "must be the samples"),
        (lambda: GaussNewton(lambda p, x: [x], SMALL, SMALL), TypeError, "gives a list"),
    ],
)
def test_wrong_arguments(make: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        make()


def test_outputs_that_are_not_finite() -> None:
    X = SMALL.clone()
    X[1, 0] = -1
    G = GaussNewton(lambda p, x: torch.log(x) * p, torch.ones(2, dtype=torch.float64), X)
    with pytest.raises(ValueError, match=r"NaN or infinite outputs at 1 of the samples, the first at X\[1\]"):
        G @ np.ones(2)
    with pytest.raises(ValueError, match="V has NaN or infinite values"):
        GaussNewton(LINEAR, None, SMALL) @ np.full(6, np.nan)


def test_random_model() -> None:
    G = GaussNewton(lambda p, x: x * p + torch.rand(()), torch.ones(2, dtype=torch.float64), SMALL)
    with pytest.raises(ValueError, match="gives other outputs when it is called again"):
        G @ np.ones(2)


def test_coupled_samples_are_not_taken_apart() -> None:
    with pytest.raises(MemoryError, match=r"batch norm with statistics of the batch \(1\) couples the samples"):
        GaussNewton(conv_net("train"), None, images(), memory_limit=1e4)
    centred = lambda p, x: (x - x.mean(0)) @ p  # noqa: E731
    W = torch.randn(2, 2, dtype=torch.float64)
    X = torch.randn(50, 2, dtype=torch.float64)
    with pytest.raises(MemoryError, match="the output at one sample depends on the others"):
        GaussNewton(centred, W, X, memory_limit=1000)
    J = np.stack([np.kron((X - X.mean(0)).numpy()[i], np.eye(2)[a]) for i in range(50) for a in range(2)])
    J = J.reshape(100, 4)
    assert close(GaussNewton(centred, W, X).gram().to_dense(), J @ J.T / 50)


def test_a_training_step_makes_it_out_of_date() -> None:
    module, X = copy.deepcopy(LINEAR), SMALL
    G = GaussNewton(module, None, X)
    G @ np.ones(6)
    with torch.no_grad():
        module.weight += 1
    with pytest.raises(RuntimeError, match="weight has been changed since this operator was made"):
        G @ np.ones(6)


def _step(module: Any) -> None:
    with torch.no_grad():
        module[0].weight += 1


@pytest.mark.parametrize("early", [True, False], ids=["before the first product", "between products"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda module: module.train(), "the mode of module has"),
        (lambda module: module[1].train(), "the mode of 1 has"),
        (lambda module: module[1].running_var.mul_(2), "1.running_var has"),
        (_step, "0.weight has"),
    ],
)
def test_what_is_fixed_is_watched(change: Any, message: str, early: bool) -> None:
    """Modes, buffers and the weights that are not among `params`: passes are made at the first product, and kept."""
    module = conv_net()
    G = GaussNewton(module, ["4.weight", "4.bias"], images())
    v = np.ones(G.shape[0])
    if not early:
        G @ v
    change(module)
    before = module[1].running_mean.clone()
    with pytest.raises(RuntimeError, match=f"{message} been changed since this operator was made; make a new one"):
        G @ v
    assert torch.equal(module[1].running_mean, before)
    GaussNewton(module, ["4.weight", "4.bias"], images()) @ v


def test_averages_that_do_not_enter_may_move() -> None:
    module, X = conv_net("train"), images()
    G = GaussNewton(module, None, X)
    V = block(G.shape[0])
    before = G @ V
    module(X)
    assert np.array_equal(G @ V, before)


@pytest.mark.parametrize("at", ["FunctionalPass", "_linearized"])
@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
    ],
)
def test_want_of_memory_does_not_change_the_engine(at: str, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise error

    G = GaussNewton(conv_net(), None, images())
    with monkeypatch.context() as patch:
        patch.setattr(f"gnfast.interop._autograd.{at}", fail)
        with pytest.raises(type(error), match="allocate"):
            G @ np.ones(G.shape[0])
    G @ np.ones(G.shape[0])
    assert "torch.func" in str(G.plan())


def test_without_pytorch_the_error_names_the_extra() -> None:
    code = """import sys
sys.modules["torch"] = None
import gnfast
try:
    gnfast.interop.torch
except ImportError as error:
    print(error)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert _extras.install("torch") in found.stdout


def test_gnfast_alone_does_not_import_pytorch() -> None:
    code = "import sys, gnfast; assert 'torch' not in sys.modules; gnfast.interop.torch; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'interp'"):
        _ = gn.interp
