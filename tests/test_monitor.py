"""Curvature while a model trains: values, the share of the time by a fake clock, and that training is left alone."""

from __future__ import annotations

import csv
import importlib.metadata
import math
import sys
from typing import Any

import numpy as np
import pytest

import gnfast as gn

torch = pytest.importorskip("torch")
nn = torch.nn

import oracles  # noqa: E402

from gnfast.interop.torch import CurvatureMonitor  # noqa: E402


def classifier(dtype: Any = torch.float64) -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 9), nn.ReLU(), nn.BatchNorm1d(9), nn.Dropout(0.3), nn.Linear(9, 3)).to(dtype)


def dense() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 9), nn.Tanh(), nn.Linear(9, 3)).double()


def data(n: int = 7) -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(1)
    X = torch.randn(n, 5, dtype=torch.float64, generator=generator)
    return X, torch.randint(0, 3, (n,), generator=generator)


class Clock:
    """Seconds that pass only where a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Odd(nn.Module):
    """What the core does not take."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Any) -> Any:
        return torch.sin(self.net(x))


# ---------------------------------------------------------------------------------------------------------- values
@pytest.mark.parametrize("wrap", [lambda net: net, Odd], ids=["core", "autograd"])
def test_values_are_those_of_the_matrix(wrap: Any) -> None:
    net, (X, _) = wrap(dense()), data()
    monitor = CurvatureMonitor(net, X, every=1, tol=1e-9)
    found = monitor.step()
    outputs = net(X)
    rows = [
        np.concatenate([g.numpy().ravel() for g in torch.autograd.grad(out, list(net.parameters()), retain_graph=True)])
        for out in outputs.ravel()
    ]
    J = np.array(rows)
    values = oracles.nonzero(J.T @ J / len(X))
    assert found.kappa == pytest.approx(values[-1] / values[0], rel=1e-6)
    assert found.lambda_max == pytest.approx(values[-1], rel=1e-6)
    assert found.effective_rank == pytest.approx(values.sum() / values[-1], rel=1e-6)
    assert monitor.history == [found] and found.step == 1 and not found.note


def test_lambda_max_alone_starts_from_the_measurement_before() -> None:
    net, (X, y) = dense(), data()
    monitor = CurvatureMonitor(net, X, "cross_entropy", every=1, share=1, quantities=["lambda_max"])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    for _ in range(3):
        nn.functional.cross_entropy(net(X), y).backward()
        optimizer.step()
        found = monitor.step()
        wanted = gn.eigsh(gn.GaussNewton(gn.from_torch(net), X, "cross_entropy"), k=1, return_eigenvectors=False)
        assert found.lambda_max == pytest.approx(float(wanted[0]), rel=1e-2)
        assert math.isnan(found.kappa) and math.isnan(found.effective_rank)
    assert [step.warm for step in monitor._tracker.history] == [False, True, True]


def test_only_what_is_trained_is_measured() -> None:
    net, (X, _) = dense(), data()
    net[0].requires_grad_(False)
    found = CurvatureMonitor(net, X, every=1, tol=1e-9).step()
    G = gn.interop.torch.GaussNewton(net, ["2.weight", "2.bias"], X)
    assert found.lambda_max == pytest.approx(float(np.linalg.eigvalsh(G.to_dense())[-1]), rel=1e-8)


def test_training_goes_on_as_without_it() -> None:
    def trained(watched: bool) -> list[Any]:
        net, (X, y) = classifier(), data()
        monitor = CurvatureMonitor(net, X, "cross_entropy", every=1, share=1) if watched else None
        optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
        torch.manual_seed(3)  # of the dropout
        for _ in range(4):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(X), y).backward()
            gradients = [parameter.grad.clone() for parameter in net.parameters()]
            optimizer.step()
            if monitor is not None:
                monitor.step()
                assert all(child.training for child in net.modules())
                pairs = zip(net.parameters(), gradients, strict=True)
                assert all(torch.equal(parameter.grad, g) for parameter, g in pairs)
        return [*net.parameters(), *net.buffers()]

    for with_it, without in zip(trained(True), trained(False), strict=True):
        assert torch.equal(with_it, without)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_inside_of_other_modes(mode: Any) -> None:
    net, (X, _) = dense(), data()
    wanted = CurvatureMonitor(net, X, every=1).step().kappa
    with mode():
        assert CurvatureMonitor(net, X, every=1).step().kappa == pytest.approx(wanted, rel=1e-3)
        assert CurvatureMonitor(Odd(net), every=1).step(X + 0).lambda_max > 0


# ----------------------------------------------------------------------------------------------------------- budget
@pytest.mark.parametrize(("share", "cost"), [(0.05, 2.0), (0.2, 0.5), (0.5, 30.0)])
def test_measurements_keep_within_the_share(share: float, cost: float) -> None:
    clock = Clock()

    def spend(_: Any) -> None:
        clock.now += cost

    monitor = CurvatureMonitor(
        dense(), data()[0], every=3, share=share, log=spend, clock=clock, quantities=["lambda_max"]
    )
    for _ in range(600):
        clock.now += 1.0
        before = monitor.used
        if monitor.step() is not None and len(monitor.history) > 1:
            assert before <= monitor.used <= share + 1e-12
    steps = [record.step for record in monitor.history]
    assert steps[0] == 3 and not any(step % 3 for step in steps)
    gap = max(3.0, cost * (1 - share) / share)  # steps of a second whose time allows one measurement
    assert len(steps) == pytest.approx(600 / gap, abs=2)


def test_a_dearer_measurement_waits_for_the_share_again() -> None:
    clock, costs = Clock(), iter([1.0, 50.0, 1.0, 1.0])

    def spend(_: Any) -> None:
        clock.now += next(costs)

    monitor = CurvatureMonitor(
        dense(), data()[0], every=1, share=0.1, log=spend, clock=clock, quantities=["lambda_max"]
    )
    while len(monitor.history) < 3:
        clock.now += 1.0
        monitor.step()
    steps = [record.step for record in monitor.history]
    assert steps[1] - steps[0] == pytest.approx(1.0 * 2 / 0.1, abs=4)
    assert steps[2] - steps[1] > 50 / 0.1 - 100
    assert monitor.used <= 0.1


def test_a_share_of_one_measures_every_time() -> None:
    monitor = CurvatureMonitor(dense(), data()[0], every=2, share=1, clock=Clock(), quantities=["lambda_max"])
    for _ in range(6):
        monitor.step()
    assert [record.step for record in monitor.history] == [2, 4, 6]


# ---------------------------------------------------------------------------------------------------------- records
def test_log_and_file(tmp_path: Any) -> None:
    seen: list[dict[str, float]] = []
    path = tmp_path / "curvature.csv"
    for _ in range(2):  # a run that is taken up again adds to its file
        monitor = CurvatureMonitor(dense(), data()[0], every=1, share=1, log=seen.append, path=path)
        monitor.step()
    assert set(seen[0]) == {"step", "kappa", "lambda_max", "effective_rank", "seconds"}
    assert all(isinstance(value, float | int) for value in seen[0].values())
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 and float(rows[1]["kappa"]) == seen[1]["kappa"]
    with pytest.raises(ValueError, match="which begins with"):
        CurvatureMonitor(dense(), data()[0], quantities=["kappa"], path=path)


def test_a_training_that_diverges_is_recorded_not_stopped() -> None:
    net = dense()
    monitor = CurvatureMonitor(net, data()[0], every=1, share=1)
    with torch.no_grad():
        net[0].weight.fill_(math.nan)
    with pytest.warns(RuntimeWarning, match="curvature after step 1 is NaN: .*NaN or infinite"):
        found = monitor.step()
    assert math.isnan(found.kappa) and "NaN" in found.note
    assert math.isnan(monitor.step().kappa)  # and not a word more
    with torch.no_grad():
        net[0].weight.fill_(0.1)
    assert monitor.step().lambda_max > 0


@pytest.mark.parametrize("error", [torch.cuda.OutOfMemoryError("CUDA out of memory"), KeyError()])
def test_no_failure_of_a_measurement_stops_the_training(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monitor = CurvatureMonitor(dense(), data()[0], every=1, share=1)

    def fail(*_: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(monitor, "_of", fail)
        with pytest.warns(RuntimeWarning, match=r"is NaN: (CUDA out of memory|KeyError); training goes on"):
            found = monitor.step()
    assert math.isnan(found.kappa) and found.note in ("CUDA out of memory", "KeyError")
    assert not monitor.step().note


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: CurvatureMonitor("net"), TypeError, "module is of type str"),
        (lambda: CurvatureMonitor(dense(), data()[0].float()), TypeError, "X has dtype float32"),
        (lambda: CurvatureMonitor(dense(), data()[0], "hinge"), ValueError, "loss is 'hinge'"),
        (lambda: CurvatureMonitor(dense(), share=2.0), ValueError, "share is 2.0 but must be at most 1"),
        (lambda: CurvatureMonitor(dense(), share=0.0), ValueError, "share is 0 but must be positive"),
        (lambda: CurvatureMonitor(dense(), quantities=["cond"]), ValueError, "quantities is 'cond'"),
        (lambda: CurvatureMonitor(dense(), every=1).step(), ValueError, "the monitor has no samples"),
    ],
)
def test_wrong_arguments(make: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        make()


# -------------------------------------------------------------------------------------------------------- Lightning
@pytest.fixture(scope="module")
def lightning() -> Any:
    """Lightning, told that there is no torchvision, which it imports where there is one, broken or not.

    curvlinops brings one along that need not have been built for the PyTorch that is here.
    """
    version = importlib.metadata.version

    def without_torchvision(name: str) -> str:
        if name == "torchvision":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.metadata, "version", without_torchvision)
        patch.setitem(sys.modules, "torchvision", None)
        return pytest.importorskip("lightning.pytorch")


def training(lightning: Any, callback: Any, tmp_path: Any) -> tuple[Any, list[dict[str, Any]]]:
    class Task(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = classifier()

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.05)

    logged: list[dict[str, Any]] = []

    class Logger(lightning.loggers.CSVLogger):
        def log_metrics(self, metrics: Any, step: Any = None) -> None:
            logged.append({**metrics, "step": step})

    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data(40)), batch_size=8)
    trainer = lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        callbacks=[callback],
        logger=Logger(tmp_path),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    task = Task()
    trainer.fit(task, loader)
    return task, [row for row in logged if any(key.startswith("curvature/") for key in row)]


@pytest.mark.filterwarnings("ignore")  # Lightning's, about workers
@pytest.mark.parametrize("given", [True, False])
def test_lightning(lightning: Any, tmp_path: Any, given: bool) -> None:
    callback = gn.interop.lightning.CurvatureCallback(
        data(6)[0] if given else None, module="net", loss="cross_entropy", every=5, share=1, samples=6
    )
    assert isinstance(callback, lightning.Callback)
    task, logged = training(lightning, callback, tmp_path)
    assert [row["step"] for row in logged] == [5, 10]
    assert callback.monitor.X.shape == (6, 5)
    last = callback.monitor.history[-1]
    assert logged[-1]["curvature/kappa"] == last.kappa > 1
    fresh = CurvatureMonitor(task.net, callback.monitor.X, "cross_entropy").measure()
    assert (fresh.kappa, fresh.lambda_max) == pytest.approx((last.kappa, last.lambda_max), rel=1e-3)
    assert set(logged[0]) == {
        "step",
        "curvature/kappa",
        "curvature/lambda_max",
        "curvature/effective_rank",
        "curvature/seconds",
    }


@pytest.mark.filterwarnings("ignore")  # Lightning's, about workers
def test_a_callback_of_a_second_training_measures_the_second_model(lightning: Any, tmp_path: Any) -> None:
    callback = gn.interop.lightning.CurvatureCallback(module="net", loss="cross_entropy", every=5, share=1, samples=6)
    for _ in range(2):
        task, logged = training(lightning, callback, tmp_path)
        assert callback.monitor.module is task.net
        assert [row["step"] for row in logged] == [5, 10]
