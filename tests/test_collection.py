"""Objects that keep an operator whose product leads back to them are freed by Python's collector, as SciPy's are."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

import gnfast as gn
from gnfast import _core

NET, X = gn.mlp([4, 5, 3], "tanh", seed=1), np.random.default_rng(0).standard_normal((6, 4))


class Base:
    """What keeps operators; a product leads back to it."""

    def product(self, V):
        return 2 * V


class ByMethod(Base):
    def __init__(self):
        self.op = gn.operator(self.product, 50)


class ByClosure(Base):
    def __init__(self):
        self.op = gn.operator(lambda V: self.product(V), 50)


class ByList(Base):
    def __init__(self):
        self.ops = [gn.operator(self.product, 50) for _ in range(3)]
        self.op = self.ops[0]


class ByProtocol(Base):
    """An Operator of its own that keeps what solvers make of it."""

    shape, dtype = (50, 50), "float64"
    matmat = Base.product

    def __init__(self):
        self.op = gn.spectrum.matrices.as_symmetric(self)


class ByWide(Base):
    def __init__(self):
        self.single = gn.operator(self.product, 50, "float32")
        self.op = gn.spectrum.matrices.Wide(self.single)


class ByOperatorOfOperator(Base):
    def __init__(self):
        self.inner = gn.operator(self.product, 50)
        self.op = gn.operator(self.through, 50)

    def through(self, V):
        return self.inner @ V


class ByPreconditioner(Base):
    def __init__(self):
        self.G = gn.GaussNewton(NET, X)
        self.op = self.G.preconditioned(self)

    def inverse_root(self, damping):
        return gn.operator(self.product, self.G.shape[0])


class ByNetwork(Base):
    """A GaussNewton, its duals and a callable beside them."""

    def __init__(self):
        self.G = gn.GaussNewton(gn.prune(NET, 0.3), X)
        self.op = self.G.gram()
        self.more = [self.G.block(0), self.G.jacobian().T, gn.operator(self.product, 4)]


class BySharded(Base):
    def __init__(self):
        self.op = gn.ShardedGaussNewton(NET, X, ["cpu"] * 2)
        self.op.back = self


class ByTwoObjects(Base):
    def __init__(self, other=None):
        self.other = other or ByTwoObjects(self)
        self.op = gn.operator(self.other.product, 50)


class ByException(Base):
    """The product raises, and the traceback refers to its frames."""

    def __init__(self):
        self.op = gn.operator(self.product, 50)
        self.fail = True
        try:
            gn.eigsh(self.op, 1)
        except RuntimeError as error:
            self.error = error
        self.fail = False

    def product(self, V):
        if getattr(self, "fail", False):
            raise RuntimeError("no")
        return V


class ByProgress(Base):
    def __init__(self):
        self.op = gn.operator(self.product, 50)
        gn.trace(self.op, progress=self.report)
        gn.eigsh(self.op, 1, method="lanczos", progress=self.report)
        gn.solve(self.op, np.ones(50), 0.1, progress=self.report)

    def report(self, *_):
        pass


class ByTracker(Base):
    def __init__(self):
        self.op, self.tracker = gn.operator(self.product, 50), gn.Tracker(1)
        self.tracker.update(self.op)


KINDS = [kind for kind in Base.__subclasses__() if kind is not Base]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_cycles_are_collected(kind):
    gc.collect()
    refs = []
    for _ in range(5):
        made = kind()
        gc.collect()  # while it is alive nothing is taken from it
        op = made.op
        assert np.isfinite(op @ np.ones(op.shape[1])).all()
        refs.append(weakref.ref(made))
    del made, op
    gc.collect()
    assert [ref() for ref in refs] == [None] * 5


def test_without_a_cycle_memory_is_free_at_once():
    gc.collect()
    gc.disable()
    try:
        G = gn.GaussNewton(NET, X)
        refs = [weakref.ref(G), weakref.ref(G.gram()), weakref.ref(G.jacobian()), weakref.ref(G.kfac())]
        G.preconditioned("kfac", 0.1) @ np.ones(18)
        del G
        assert [ref() for ref in refs] == [None] * 4
    finally:
        gc.enable()


def test_the_core_shows_the_collector_its_function():
    def function(rows):
        return rows

    op = _core.callback(function, 3, "float64")
    assert gc.is_tracked(op) and function in gc.get_referents(op)
    out = np.empty((1, 3))
    op.apply(np.ones((1, 3)), out)
    np.testing.assert_array_equal(out, 1)


def test_an_operator_that_outlives_its_function_says_so():
    """A finaliser that uses an operator whose cycle is being taken apart meets an error, not freed memory."""
    seen = []

    class Last(Base):
        def __init__(self):
            self.op = gn.operator(self.product, 3)
            self.keeper = Keeper(self.op.core)

    class Keeper:
        def __init__(self, core):
            self.core = core

        def __del__(self):
            out = np.empty((1, 3))
            try:
                self.core.apply(np.ones((1, 3)), out)
                seen.append("fine")
            except ValueError as error:
                seen.append(str(error))

    Last()
    gc.collect()
    assert len(seen) == 1 and (seen[0] == "fine" or "collected its function" in seen[0])
