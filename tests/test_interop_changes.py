"""What is kept follows every change, or refuses to go on: beside matrices by plain reverse mode."""

from __future__ import annotations

import copy
import pickle
import sys
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import changes  # noqa: E402
from changes import LOSSES, ON_OWN, ON_PARAMETERS, ON_STRUCTURE, Change, data, own, reference, usual  # noqa: E402
from risks import same  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils.data import ConcatDataset, DataLoader, Dataset, RandomSampler, Subset, TensorDataset  # noqa: E402

import gnfast as gn  # noqa: E402
import gnfast.interop.torch as bridge  # noqa: E402
from gnfast.interop._watch import Watch  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
OF_MODULES = [(usual, change) for change in (ON_PARAMETERS | ON_STRUCTURE).values()]
OF_MODULES += [(own, change) for name, change in (ON_PARAMETERS | ON_OWN).items()]
IDS = [*ON_PARAMETERS, *ON_STRUCTURE, *(f"own, {name}" for name in (*ON_PARAMETERS, *ON_OWN))]
TINY = {"one ulp of one entry"}  # that no tolerance of a comparison shows


def eye(operator: Any) -> Any:
    return torch.eye(operator.shape[1], dtype=torch.float64)


def curvlinops_operator(model: Any, loss: Any, batches: Any, **options: Any) -> Any:
    pytest.importorskip("curvlinops")
    from gnfast.interop.curvlinops import GGNLinearOperator

    # curvlinops compares the losses of two last batches, which are others where the order is
    options.setdefault("check_deterministic", not isinstance(getattr(batches, "sampler", None), RandomSampler))
    return GGNLinearOperator(model, loss, list(model.parameters()), batches, **options)


# ------------------------------------------------------------------------------------------- adapters follow
@pytest.mark.parametrize(("make", "change"), OF_MODULES, ids=IDS)
def test_curvlinops_follows(make: Any, change: Change) -> None:
    model, (X, y) = make(), data()
    loss = nn.CrossEntropyLoss()
    operator = curvlinops_operator(model, loss, [(X, y)])
    assert ("gnfast's engine" in repr(operator)) == (make is usual)
    before = operator @ eye(operator)
    change(model)
    now = list(model.parameters())
    if len(now) != len(operator._params) or any(a is not b for a, b in zip(now, operator._params, strict=True)):
        return  # the operator is no longer one of this model's parameters: theirs raises, and so do we
    after = operator @ eye(operator)
    expected = reference(model, loss, X, y)
    same(after, expected)
    if change is not ON_PARAMETERS["one ulp of one entry"]:
        assert float((before - expected).abs().max()) > 1e-4 * float(expected.abs().max())


def test_one_bit_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (X, y) = usual(), data()
    operator = curvlinops_operator(model, nn.CrossEntropyLoss(), [(X, y)])
    operator @ eye(operator)
    times = []
    monkeypatch.setattr(type(operator), "_read", lambda self, batches: times.append(batches))
    operator @ eye(operator)
    assert not times
    ON_PARAMETERS["one ulp of one entry"](model)
    operator @ eye(operator)
    assert len(times) == 1


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_followed(name: str) -> None:
    make, change = LOSSES[name]
    loss, model, (X, y) = make(), usual(), data()
    operator = curvlinops_operator(model, loss, [(X, y)])
    before = operator @ eye(operator)
    change(loss)
    expected = reference(model, loss, X, y)
    same(operator @ eye(operator), expected)
    assert float((before - expected).abs().max()) > 1e-3 * float(expected.abs().max())


class Made(Dataset):
    """Samples that are made when they are asked for, of something that cannot be seen from outside."""

    def __init__(self, X: Any, y: Any) -> None:
        self.parts = {"X": (lambda: X), "y": (lambda: y)}

    def __len__(self) -> int:
        return len(self.parts["y"]())

    def __getitem__(self, i: int) -> Any:
        return self.parts["X"]()[i].clone(), self.parts["y"]()[i].clone()


class Each:
    """Batches that each pass makes anew."""

    def __init__(self, X: Any, y: Any) -> None:
        self.X, self.y = X, y

    def __iter__(self) -> Any:
        for i in range(0, len(self.X), 3):
            yield self.X[i : i + 3] * 1, self.y[i : i + 3] * 1


SOURCES = {
    "list": lambda X, y: [(X[:4], y[:4]), (X[4:], y[4:])],
    "tuple": lambda X, y: ((X, y),),
    "loader": lambda X, y: DataLoader(TensorDataset(X, y), batch_size=3),
    "shuffled": lambda X, y: DataLoader(TensorDataset(X, y), batch_size=3, shuffle=True),
    "whole": lambda X, y: DataLoader(TensorDataset(X, y), batch_size=7, shuffle=True, drop_last=True),
    "subset": lambda X, y: DataLoader(Subset(TensorDataset(X, y), range(7)), batch_size=3),
    "two": lambda X, y: DataLoader(
        ConcatDataset([TensorDataset(X[:2], y[:2]), TensorDataset(X[2:], y[2:])]), batch_size=3
    ),
    "pairs": lambda X, y: DataLoader([(a, b) for a, b in zip(X, y, strict=True)], batch_size=3),
    "made": lambda X, y: DataLoader(Made(X, y), batch_size=3),
    "each": Each,
    "collated": lambda X, y: DataLoader(TensorDataset(X, y), batch_size=3, collate_fn=lambda rows: tuple(
        torch.stack([row[i] for row in rows]) for i in (0, 1)
    )),
}  # fmt: skip
ON_DATA = {
    "X in place": lambda X, y: X.mul_(1.5),
    "X.data": lambda X, y: X.data.add_(0.3),
    "one entry by NumPy": lambda X, y: X.numpy().__setitem__((5, 2), 4.0),
    "y by NumPy": lambda X, y: y.numpy().__setitem__(slice(None), (y.numpy() + 1) % 3),
}


@pytest.mark.parametrize("change", ON_DATA)
@pytest.mark.parametrize("source", SOURCES)
def test_data_are_followed(source: str, change: str) -> None:
    model, (X, y) = usual(), data()
    loss = nn.CrossEntropyLoss(weight=torch.tensor([0.5, 2.0, 1.5], dtype=torch.float64), reduction="sum")
    operator = curvlinops_operator(model, loss, SOURCES[source](X, y))
    before = operator @ eye(operator)
    same(before, reference(model, loss, X, y))
    ON_DATA[change](X, y)
    expected = reference(model, loss, X, y)
    same(operator @ eye(operator), expected)
    assert float((before - expected).abs().max()) > 1e-3 * float(expected.abs().max())


def test_batches_that_are_put_in_are_followed() -> None:
    model, (X, y) = usual(), data()
    batches = [(X, y)]
    operator = curvlinops_operator(model, nn.CrossEntropyLoss(reduction="sum"), batches)
    operator @ eye(operator)
    batches[0] = (X[:3], y[:3])
    same(operator @ eye(operator), reference(model, nn.CrossEntropyLoss(reduction="sum"), X[:3], y[:3]))


def test_what_has_not_changed_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (X, y) = usual(), data()
    operators = [curvlinops_operator(model, nn.CrossEntropyLoss(), make(X, y)) for name, make in SOURCES.items()]
    for operator in operators:
        operator @ eye(operator)
    monkeypatch.setattr(Watch, "__init__", None)  # who reads again fails
    model(X).sum().backward()
    model.zero_grad()
    model.state_dict()
    for name, operator in zip(SOURCES, operators, strict=True):
        operator @ eye(operator), name


@pytest.mark.parametrize("name", [*ON_PARAMETERS, *ON_STRUCTURE])
def test_laplace_follows(name: str) -> None:
    pytest.importorskip("laplace")
    from gnfast.interop.laplace import GnfastGGN

    model, (X, y) = usual(), data()
    backend = GnfastGGN(model, "classification")
    backend.full(X, y)
    backend.jacobians(X)
    (ON_PARAMETERS | ON_STRUCTURE)[name](model)
    if len(list(model.parameters())) != len(backend.params) or name in ("pruning", "parametrization"):
        return
    expected = reference(model, nn.CrossEntropyLoss(reduction="sum"), X, y)
    same(backend.full(X, y)[1], expected, 1e-6)  # theirs multiplies by an identity in float32
    outputs = model(X)
    rows = [torch.autograd.grad(f, list(model.parameters()), retain_graph=True) for f in outputs.reshape(-1)]
    J = torch.stack([torch.cat([part.reshape(-1) for part in row]) for row in rows])
    if name != "mode":  # which couples the samples: theirs are other derivatives
        same(backend.jacobians(X)[0].reshape(len(J), -1), J)


@pytest.mark.parametrize("name", ON_PARAMETERS)
def test_those_built_on_it_follow(name: str) -> None:
    pytest.importorskip("hessian_eigenthings")
    pytest.importorskip("pyhessian")
    from gnfast.interop.hessian_eigenthings import GaussNewtonOperator
    from gnfast.interop.pyhessian import hessian

    model, (X, y) = usual(), data()
    loss = nn.CrossEntropyLoss()
    first, second = GaussNewtonOperator(model, [(X, y)], loss), hessian(model, loss, data=(X, y), cuda=False)
    v = torch.randn(first.size, dtype=torch.float64)
    pieces = zip(v.split([p.numel() for p in second.params]), second.params, strict=True)
    parts = [piece.reshape(p.shape) for piece, p in pieces]
    first.matvec(v), second.dataloader_hv_product(parts)
    ON_PARAMETERS[name](model)
    expected = reference(model, loss, X, y) @ v
    same(first.matvec(v), expected)
    same(torch.cat([part.reshape(-1) for part in second.dataloader_hv_product(parts)[1]]), expected)


# --------------------------------------------------------------------------------------- our own refuse to go on
def by_core(model: Any, X: Any) -> Any:
    return gn.GaussNewton(gn.from_torch(model), X.numpy(), "cross_entropy")


def by_autograd(model: Any, X: Any) -> Any:
    return bridge.GaussNewton(model, None, X, "cross_entropy")


@pytest.mark.parametrize("early", [True, False], ids=["before the first product", "between products"])
@pytest.mark.parametrize(("make", "change"), OF_MODULES, ids=IDS)
def test_operators_refuse(make: Any, change: Change, early: bool) -> None:
    X, _ = data()
    for operator_of in (by_core, by_autograd) if make is usual else (by_autograd,):
        model = make()
        operator = operator_of(model, X)
        v = np.ones(operator.shape[0])
        if not early:
            operator @ v
        change(model)
        with pytest.raises(RuntimeError, match="has been changed since this operator was made"):
            operator @ v
        with pytest.raises(RuntimeError, match="has been changed since this operator was made"):
            gn.trace(operator)


ON_SAMPLES = {name: change for name, change in ON_DATA.items() if name[0] != "y"}


@pytest.mark.parametrize("change", ON_SAMPLES.values(), ids=ON_SAMPLES)
def test_samples_of_pytorch_s_engine_are_watched(change: Any) -> None:
    X, y = data()
    operator = by_autograd(own(), X)
    operator @ np.ones(operator.shape[0])
    change(X, y)
    with pytest.raises(RuntimeError, match="X has been changed"):
        operator @ np.ones(operator.shape[0])


SLOPE = 0.4


def test_functions_are_watched() -> None:
    X, _ = data()
    W = torch.randn(4, 3, dtype=torch.float64)
    local, scales = 0.3, [1.0]
    given = torch.ones(3, dtype=torch.float64)

    def model(params: Any, x: Any, power: float = 1.0) -> Any:
        return nn.functional.leaky_relu(x @ params, local) * given * scales[0] * SLOPE * power

    def inner() -> None:
        nonlocal local
        local = 0.6

    def outer() -> None:
        global SLOPE
        SLOPE = 0.5

    for change in (
        inner,
        outer,
        lambda: given.data.mul_(2),
        lambda: scales.__setitem__(0, 3.0),
        lambda: setattr(model, "__defaults__", (2.0,)),
        lambda: W.numpy().__setitem__((0, 0), 1.0),
    ):
        operator = bridge.GaussNewton(model, W, X)
        operator @ np.ones(12)
        change()
        with pytest.raises(RuntimeError, match="has been changed"):
            operator @ np.ones(12)


GAIN = 1.0
OPTIONS: dict[str, Any] = {"slope": 0.3}
STATISTICS: dict[str, int] = {"calls": 0}


def bent(h: Any) -> Any:
    return nn.functional.leaky_relu(h, OPTIONS["slope"]) * GAIN


def counted(h: Any) -> Any:
    STATISTICS["calls"] += 1
    return bent(h)


class Deep(nn.Module):
    """What it computes is said two methods and two functions below forward."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.seen = nn.Linear(4, 3).double(), {}

    @property
    def gain(self) -> float:
        return 2 * GAIN

    def forward(self, x: Any) -> Any:
        return self.first(self.layer(x))

    def first(self, h: Any) -> Any:
        self.seen[len(self.seen)] = h.shape
        return self.second(h) * self.gain

    def second(self, h: Any) -> Any:
        return (lambda z: counted(z))(h)


def test_what_functions_further_down_read_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    X, _ = data()
    W, calls = torch.randn(4, 3, dtype=torch.float64), [0]

    def model(params: Any, x: Any) -> Any:
        calls.append(len(x))
        return counted(x @ params)

    here = sys.modules[__name__]
    for change in (
        lambda: monkeypatch.setitem(OPTIONS, "slope", OPTIONS["slope"] + 0.1),
        lambda: monkeypatch.setattr(here, "GAIN", GAIN + 1),
        lambda: monkeypatch.setattr(here, "bent", lambda h: h),
        lambda: monkeypatch.setattr(Deep, "second", lambda self, h: h),
        lambda: monkeypatch.setattr(Deep, "gain", property(lambda self: 5.0)),
    ):
        module = Deep()
        operators = [bridge.GaussNewton(module, None, X), bridge.GaussNewton(model, W, X)]
        of_module = operators if "Deep" not in change.__code__.co_names else operators[:1]
        for operator in of_module:
            v = np.ones(operator.shape[0])
            before = operator @ v
            module(X), model(W, X)  # counters of its own are no change
            np.testing.assert_array_equal(operator @ v, before)
        change()
        for operator in of_module:
            with pytest.raises(RuntimeError, match="has been changed"):
                operator @ np.ones(operator.shape[0])


def test_attributes_of_classes_are_watched() -> None:
    class Bent(nn.Linear):
        slope = 0.3

        def forward(self, x: Any) -> Any:
            return nn.functional.leaky_relu(super().forward(x), self.slope)

    X, _ = data()
    model = Bent(4, 3).double()
    for change in (
        lambda: setattr(Bent, "slope", 0.5),
        lambda: setattr(Bent, "forward", lambda self, x: torch.tanh(nn.Linear.forward(self, x))),
    ):
        operator = bridge.GaussNewton(model, None, X)
        operator @ np.ones(15)
        change()
        with pytest.raises(RuntimeError, match="has been changed"):
            operator @ np.ones(15)


def test_what_forward_itself_leaves_is_no_change() -> None:
    """Counters, the last activation, what a hook gathers, gradients, modes that no layer reads, equal numbers."""
    X, _ = data()
    gathered: dict[str, Any] = {}
    model = own()
    model[0].register_forward_hook(lambda module, inputs, output: gathered.update(out=output.detach()))
    G = by_autograd(model, X)
    v = np.ones(G.shape[0])
    before = G @ v
    with torch.no_grad():
        model(X[:3])
    model(X).sum().backward()
    model[1].slope, model[1].powers = float("0.3"), (1.0, float("0.5"))
    np.testing.assert_array_equal(G @ v, before)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double().eval()
    G = by_core(model, X)
    before = G @ np.ones(G.shape[0])
    model.train()
    model(X).sum().backward()
    model.zero_grad()
    np.testing.assert_array_equal(G @ np.ones(G.shape[0]), before)


def test_a_copy_of_a_network_has_its_own() -> None:
    model, (X, _) = usual(), data()
    net = gn.from_torch(model)
    copies = [copy.deepcopy(net), pickle.loads(pickle.dumps(net))]
    expected = gn.GaussNewton(net, X.numpy()).to_dense()
    ON_PARAMETERS["data mul"](model)
    for one in copies:
        np.testing.assert_array_equal(gn.GaussNewton(one, X.numpy()).to_dense(), expected)


# ----------------------------------------------------------------------------------------------------- checksums
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.bool], ids=str)
@pytest.mark.parametrize("shape", [(), (1,), (3, 5), (17, 4, 2, 3), (1 << 20,)], ids=str)
def test_a_change_of_any_entry_is_seen(dtype: Any, shape: tuple[int, ...]) -> None:
    tensor = (torch.randn(shape) > 0).to(dtype) if dtype is torch.bool else (100 * torch.randn(shape)).to(dtype)
    watch = Watch([("it", tensor)])
    raw = tensor.reshape(-1).view(torch.uint8).numpy()
    for at in sorted({0, len(raw) // 3, len(raw) // 2, len(raw) - 1}):
        raw[at] ^= 1
        assert watch.changed() == "it"
        raw[at] ^= 1
        assert watch.changed() == ""


@pytest.mark.parametrize("kind", ["transposed", "channels last", "gaps", "expanded", "conjugate", "sparse", "empty"])
def test_tensors_in_odd_layouts(kind: str) -> None:
    base = torch.randn(4, 6, 2, 2, dtype=torch.float64)
    tensor = {
        "transposed": lambda: base[:, :, 0, 0].clone().t(),
        "channels last": lambda: base.to(memory_format=torch.channels_last),
        "gaps": lambda: base[:, ::2],
        "expanded": lambda: base[0, 0].expand(3, 2, 2),
        "conjugate": lambda: torch.complex(base, base).conj(),
        "sparse": lambda: base[:, :, 0, 0].to_sparse(),
        "empty": lambda: base[:0],
    }[kind]()
    watch = Watch([("it", tensor)])
    assert watch.changed() == ""
    memory = tensor._values() if kind == "sparse" else tensor
    if kind == "empty":
        return
    detached = memory.detach() if kind != "conjugate" else torch.conj(memory.detach())
    detached.data.reshape(-1) if kind == "gaps" else None
    first = detached.data[(0,) * detached.ndim]
    version = memory._version
    first.data.add_(1)
    assert memory._version == version
    assert watch.changed() == "it"


@pytest.mark.parametrize("order", ["C", "F", "gaps", "read-only"])
def test_arrays(order: str) -> None:
    base = np.random.default_rng(0).standard_normal((6, 8))
    array = {"C": base, "F": np.asfortranarray(base), "gaps": base[:, ::2], "read-only": base.view()}[order]
    if order == "read-only":
        array.flags.writeable = False
    watch = Watch([("it", array)])
    assert watch.changed() == ""
    (base if order != "F" else array)[3, 4 if order != "F" else 1] += 1e-12
    assert watch.changed() == "it"


def test_sums_do_not_cancel() -> None:
    """Entries exchanged, signs of pairs, equal steps up and down: what plain sums of words do not see."""
    rng = np.random.default_rng(1)
    words = rng.integers(0, 1 << 63, 4096, dtype=np.int64)
    watch = Watch([("it", words)])
    for _ in range(300):
        i, j, k = rng.choice(len(words), 3, replace=False)
        kept = words.copy()
        kind = rng.integers(4)
        if kind == 0:
            words[[i, j]] = words[[j, i]]
        elif kind == 1:
            words[[i, j]] ^= np.int64(-(1 << 63))
        elif kind == 2:
            words[[i, j, k]] += [1, -2, 1]
        else:
            words[:] = np.roll(words, 8)
        assert watch.changed() == "it"
        words[:] = kept
        assert watch.changed() == ""


def test_the_number_of_threads_does_not_matter() -> None:
    array = np.random.default_rng(0).standard_normal(1 << 19)
    before = gn.get_num_threads() if hasattr(gn, "get_num_threads") else None
    from gnfast import _core

    threads = _core.get_num_threads()
    try:
        sums = []
        for count in (1, 2, 3):
            _core.set_num_threads(count)
            sums.append(_core.checksums([array, array[:5]]))
    finally:
        _core.set_num_threads(threads)
    assert sums[0] == sums[1] == sums[2] and before in (None, threads)


assert changes.Scaled  # the layer that `own` has
