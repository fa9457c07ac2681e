"""State that code keeps for itself is no change of a model; what somebody else may change in its code's reach is."""

from __future__ import annotations

import collections
import contextvars
import functools
import itertools
import logging
import random
import sys
import threading
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional

from gnfast.interop.torch import GaussNewton  # noqa: E402

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
WIDER = torch.randn(9, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
HERE = sys.modules[__name__]

CALLS, TOTAL, LATEST = 0, 0.0, None
CACHE: dict[Any, Any] = {}
HISTORY: list[int] = []
RING: Any = collections.deque(maxlen=3)
RECORD = types.SimpleNamespace(calls=0)
CONTEXT = contextvars.ContextVar("calls", default=0)
LOCAL, LOGGER, NUMBERS, COUNTER = threading.local(), logging.getLogger("own state"), random.Random(0), itertools.count()
MIXED: dict[str, Any] = {"slope": 0.3, "calls": 0}
RUNNING = torch.zeros(1)


def counted(h: Any) -> Any:
    global CALLS, LATEST
    CALLS += 1
    LATEST = h.shape
    return h


def remembered(h: Any) -> Any:
    CACHE[h.shape] = len(h)
    return CACHE[h.shape] * h / len(h)


def read_of_cache(h: Any) -> Any:
    return h * (len(CACHE) > 0)


def noted(store: list[int], h: Any) -> Any:
    store.append(len(h))
    return h


def by_another_name(h: Any) -> Any:
    kept = HISTORY
    kept += [len(h)]
    return h


def mixed(h: Any) -> Any:
    MIXED["calls"] += 1
    return F.leaky_relu(h, MIXED["slope"])


def moved(h: Any) -> Any:
    RUNNING.add_(1)
    return h


def recorded(h: Any) -> Any:
    RECORD.calls += 1
    CONTEXT.set(CONTEXT.get() + 1)
    LOCAL.calls = getattr(LOCAL, "calls", 0) + 1
    LOGGER.debug("called")
    RING.append(NUMBERS.random() + next(COUNTER))
    return h


@functools.lru_cache
def size(n: int) -> float:
    return 1 + 1 / n


def cached(h: Any) -> Any:
    return h * size(h.shape[1])


class Tally:
    """Of a plain class, with a method that counts."""

    seen: Any = 0

    def __init__(self) -> None:
        self.calls, self.lengths, self.slope = 0, {}, 0.3

    def __call__(self, h: Any) -> Any:
        self.note(h)
        return F.leaky_relu(h, self.slope)

    def note(self, h: Any) -> None:
        self.calls += 1
        Tally.seen += 1
        self.lengths[len(self.lengths)] = len(h)


TALLY = Tally()


class Layer(nn.Linear):
    made = 0

    def forward(self, x: Any) -> Any:
        type(self).made += 1
        return super().forward(x)


class Compiled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3).double()
        self.function = torch.compile(torch.tanh, backend="aot_eager")

    def forward(self, x: Any) -> Any:
        return self.function(self.layer(x))


class Through(nn.Module):
    """A layer, and a function behind it."""

    def __init__(self, function: Callable[[Any], Any], layer: Any = None) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3).double() if layer is None else layer
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(self.layer(x))


def of_closure() -> Any:
    calls, seen = 0, set()

    def function(h: Any) -> Any:
        nonlocal calls
        calls += 1
        seen.add(calls)
        return h

    return function


class Checkpointed(Through):
    def forward(self, x: Any) -> Any:
        return torch.utils.checkpoint.checkpoint(super().forward, x, use_reentrant=False)


def hooked() -> Any:
    module = Through(torch.tanh)
    module.layer.register_forward_hook(lambda layer, inputs, output: HISTORY.append(len(output)))
    return module


def of_library() -> Any:
    """A package like those that are installed, whose functions keep what they like."""
    library = types.ModuleType("installed_library")
    library.__file__ = "/somewhere/site-packages/installed_library/__init__.py"
    code = "SCALE, USED, KEPT = 2.0, [], {}\ndef call(h):\n    store(KEPT, h)\n    return h * SCALE\n"
    code += "def store(kept, h):\n    kept[len(kept)] = h.shape\n    USED.append(0)\n"
    exec(code, vars(library))  # as an import does
    return library


LIBRARY = of_library()
KEPT_FOR_ITSELF: dict[str, Callable[[], Any]] = {
    "torch.compile, by AOT autograd": lambda: torch.compile(Through(torch.tanh), backend="aot_eager"),
    "torch.compile, eager": lambda: torch.compile(Through(mixed), backend="eager"),
    "a compiled function": Compiled,
    "scripted": lambda: torch.jit.script(nn.Sequential(nn.Linear(4, 3), nn.Tanh()).double()),
    "graph": lambda: torch.fx.symbolic_trace(Through(torch.tanh)),
    "checkpoints": lambda: Checkpointed(torch.tanh),
    "torch.no_grad around": lambda: Through(lambda h: h + torch.no_grad()(remembered)(h)),
    "globals counted": lambda: Through(counted),
    "a cache": lambda: Through(remembered),
    "a cache that another function reads": lambda: Through(lambda h: read_of_cache(remembered(h))),
    "a list as argument": lambda: Through(lambda h: noted(HISTORY, h)),
    "a list by another name": lambda: Through(by_another_name),
    "one key of a dict": lambda: Through(mixed),
    "a tensor": lambda: Through(moved),
    "context, thread, log, random numbers, a ring": lambda: Through(recorded),
    "lru_cache": lambda: Through(cached),
    "an object's counters": lambda: Through(Tally()),
    "a global object's counters": lambda: Through(lambda h: TALLY(h)),
    "a class counted": lambda: Through(torch.tanh, Layer(4, 3).double()),
    "a closure's counters": lambda: Through(of_closure()),
    "a hook's list": hooked,
    "a library's": lambda: Through(lambda h: LIBRARY.call(h)),
    "spectral norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(4, 3).double()).eval(),
}


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "installed_library", LIBRARY)
    with warnings.catch_warnings():  # PyTorch's own, of what it deprecates and compiles
        warnings.simplefilter("ignore")
        yield
    torch.compiler.reset()


@pytest.mark.parametrize("name", KEPT_FOR_ITSELF)
def test_what_code_keeps_for_itself_is_no_change(name: str) -> None:
    """Products, calls by others with other samples and gradients, and products again."""
    torch.manual_seed(0)
    module = KEPT_FOR_ITSELF[name]()
    G = GaussNewton(module, None, X)
    v = np.ones(G.shape[0])
    before = G @ v
    for samples in (X, WIDER, WIDER[:2]):
        module(samples).sum().backward()
    module.zero_grad()
    with torch.no_grad():
        module(X)
    np.testing.assert_array_equal(G @ v, before)
    other = GaussNewton(Through(torch.tanh), None, X)  # which calls what is common to all
    other @ np.ones(other.shape[0])
    np.testing.assert_array_equal(G @ v, before)


# ------------------------------------------------------------------------------------------ what somebody may change
class Settings:
    slope, options = 0.3, {"gain": 1.0}


class Config:
    """Of a plain class, read by one method and by an attribute."""

    def __init__(self) -> None:
        self.slope, self.inner, self.unused = 0.3, types.SimpleNamespace(gain=1.0), [1]

    def bend(self, h: Any) -> Any:
        return F.leaky_relu(h, self.slope) * self.inner.gain


class Holder:
    """Called itself; what it holds is another such object."""

    def __init__(self) -> None:
        self.config = Config()

    def __call__(self, h: Any) -> Any:
        return self.config.bend(h)


CONFIG = Config()
GAINS = {0: 1.0}
PACKAGE = types.ModuleType("package")
PACKAGE.settings = types.ModuleType("package.settings")
PACKAGE.settings.slope = 0.3


def written_beside(h: Any) -> Any:
    """A line that writes to one thing and reads another."""
    out = h.clone()
    out[:, 0] = out[:, 0] * GAINS[0]
    return out


def one_key_of_two(h: Any) -> Any:
    MIXED["calls"] += 1
    return F.leaky_relu(h, MIXED["slope"])


@functools.lru_cache
def gain_of(n: int) -> float:
    return n * GAINS[0]


def slope_of_wrapped(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return F.leaky_relu(function(*args), CONFIG.slope)

    return wrapper


CONFIGS = {"module": Config(), "callable": Holder(), "bound": Config(), "partial": Config()}
NOTICED: dict[str, tuple[Callable[[], Any], Callable[[pytest.MonkeyPatch], None]]] = {
    "a class's number": (
        lambda: Through(lambda h: F.leaky_relu(h, Settings.slope)),
        lambda patch: patch.setattr(Settings, "slope", 0.4),
    ),
    "a class's dict": (
        lambda: Through(lambda h: h * Settings.options["gain"]),
        lambda patch: patch.setitem(Settings.options, "gain", 2.0),
    ),
    "a global object": (
        lambda: Through(lambda h: F.leaky_relu(h, CONFIG.slope)),
        lambda patch: patch.setattr(CONFIG, "slope", 0.4),
    ),
    "an object's object": (
        lambda: Through(CONFIGS["callable"]),
        lambda patch: patch.setattr(CONFIGS["callable"].config.inner, "gain", 2.0),
    ),
    "an object by its method": (
        lambda: Through(CONFIGS["bound"].bend),
        lambda patch: patch.setattr(CONFIGS["bound"], "slope", 0.4),
    ),
    "a class's method": (
        lambda: Through(lambda h: CONFIG.bend(h)),
        lambda patch: patch.setattr(Config, "bend", lambda self, h: 2 * h),
    ),
    "an object in a partial function": (
        lambda: Through(functools.partial(Config.bend, CONFIGS["partial"])),
        lambda patch: patch.setattr(CONFIGS["partial"], "slope", 0.4),
    ),
    "a module of modules": (
        lambda: Through(lambda h: F.leaky_relu(h, PACKAGE.settings.slope)),
        lambda patch: patch.setattr(PACKAGE.settings, "slope", 0.4),
    ),
    "what a line reads that writes elsewhere": (
        lambda: Through(written_beside),
        lambda patch: patch.setitem(GAINS, 0, 2.0),
    ),
    "the key that is only read": (
        lambda: Through(one_key_of_two),
        lambda patch: patch.setitem(MIXED, "slope", 0.4),
    ),
    "behind lru_cache": (lambda: Through(lambda h: h * gain_of(2)), lambda patch: patch.setitem(GAINS, 0, 3.0)),
    "in a decorator": (
        lambda: Through(slope_of_wrapped(torch.tanh)),
        lambda patch: patch.setattr(CONFIG, "slope", 0.4),
    ),
    "behind PyTorch's decorator": (
        lambda: Through(torch.enable_grad()(written_beside)),
        lambda patch: patch.setitem(GAINS, 0, 2.0),
    ),
    "in a compiled function": (
        lambda: Through(torch.compile(written_beside, backend="eager")),
        lambda patch: patch.setitem(GAINS, 0, 2.0),
    ),
    "in a compiled module": (
        lambda: torch.compile(Through(written_beside), backend="eager"),
        lambda patch: patch.setitem(GAINS, 0, 2.0),
    ),
    "in a hook": (
        lambda: (module := Through(torch.tanh), module.register_forward_hook(lambda *args: args[2] * GAINS[0]))[0],
        lambda patch: patch.setitem(GAINS, 0, 2.0),
    ),
    "a library's number": (
        lambda: Through(lambda h: LIBRARY.call(h)),
        lambda patch: patch.setattr(LIBRARY, "SCALE", 3.0),
    ),
    "a library's function": (
        lambda: Through(lambda h: LIBRARY.call(h)),
        lambda patch: patch.setattr(LIBRARY, "call", torch.tanh),
    ),
}


@pytest.mark.parametrize("name", NOTICED)
def test_what_somebody_may_change_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    make, change = NOTICED[name]
    module = make()
    before = module(X)
    G = GaussNewton(module, None, X)
    v = np.ones(G.shape[0])
    G @ v
    module(X)
    G @ v
    change(monkeypatch)
    gain_of.cache_clear()
    assert not torch.equal(module(X), before)
    with pytest.raises(RuntimeError, match="has been changed since this operator was made"):
        G @ v
