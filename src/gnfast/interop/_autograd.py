"""Products with a model's Jacobian by PyTorch's automatic differentiation, the forward pass kept between them."""

from __future__ import annotations

import contextlib
import copy
import math
import threading
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

import torch

from gnfast import _arrays, _checks
from gnfast._arrays import Array
from gnfast._memory import check_memory, megabytes
from gnfast.hessians import Hessians
from gnfast.interop._first_call import first_call
from gnfast.interop._models import Model
from gnfast.interop._plain import dense
from gnfast.interop._probes import (
    Fault,
    Probe,
    check_not_random,
    check_outputs,
    close,
    coupling,
    finite,
    raise_of_memory,
)
from gnfast.losses import loss_at, relative_rounding, saturation

Tensor: TypeAlias = Any  # torch.Tensor, which a type checker sees only where PyTorch is installed
# Work space of a block of vectors where no limit is given, and of the Jacobian's rows that a Gram is made of.
WORKSPACE, ROWS = 5e8, 1e9
VECTORS = 32  # at once at most: enough to fill any matrix product
SPARE = 1 / 16  # by how much blocks may be wider than need be, so that their width is one that has been tested


# ----------------------------------------------------------------------------------------------- one batch of samples
class FunctionalPass:
    """J V and J^T U at some samples by `torch.func`, the vectors of a block batched by vmap.

    J v is, by `way`, a linearization's ("linearize"), which keeps the forward pass; or jvp's ("jvp"), which makes it
    again: for one product that is less than tracing, and nothing that a later call changes can enter. J^T u is linear
    in u, so that J v is also the pullback of u -> J^T u (Townsend 2017; "transpose"): that serves where forward mode or
    its batching fails, or is not the adjoint of reverse mode.
    """

    engine, batched = "torch.func", True

    def __init__(self, model: Model, X: Tensor, way: str) -> None:
        def call(*parameters: Tensor) -> Tensor:
            out = model.call(list(parameters), X)
            return out.reshape(len(out), -1)

        self._model = model
        self.outputs, pull = torch.func.vjp(call, *model.parameters)
        self._pull = torch.vmap(pull)
        push = {"linearize": _linearized, "jvp": _forward, "transpose": _transposed}[way]
        self._push = torch.vmap(push(call, model, self.outputs))
        # Two vectors, both ways: layouts that a block of vectors gives to tensors do not suit every operation.
        self.pull(self.push(self._model.parameters[0].new_zeros((2, sum(self._model.numbers)))))

    def push(self, V: Tensor) -> Tensor:
        """(s, p) to (s, n, k)."""
        with self._model.kernels():
            return self._push(*self._model.split(V))

    def pull(self, U: Tensor) -> Tensor:
        """(s, n, k) to (s, p)."""
        with self._model.kernels():
            return torch.cat([dense(part).reshape(len(U), -1) for part in self._pull(U)], dim=1)


def _linearized(call: Any, model: Model, outputs: Tensor) -> Any:
    with warnings.catch_warnings():  # of its own way to fold constants, which nobody here can change
        warnings.filterwarnings("ignore", "Attempted to insert a get_attr Node")
        again, push = torch.func.linearize(call, *model.parameters)
    if bool(torch.isfinite(outputs).all()) and not close(outputs, again):
        raise RuntimeError("its outputs differ")
    return push


def _forward(call: Any, model: Model, outputs: Tensor) -> Any:
    return lambda *tangents: torch.func.jvp(call, tuple(model.parameters), tangents)[1]


def _transposed(call: Any, model: Model, outputs: Tensor) -> Any:
    _, push = torch.func.vjp(lambda u: torch.func.vjp(call, *model.parameters)[1](u), torch.zeros_like(outputs))
    return lambda *tangents: push(tangents)[0]


class GraphPass:
    """The same from one autograd graph of the model as it stands, vector by vector: for what `torch.func` cannot do.

    J v is the gradient of v^T (J^T u) in u: no forward mode is needed.
    """

    engine, batched = "torch.autograd.grad", False

    def __init__(self, model: Model, X: Tensor) -> None:
        self._model, self._plain = model, model.plain
        with self._working():
            self._outputs = self._plain.graph(model.given(X))
            if not self._outputs.requires_grad:
                raise ValueError("the outputs do not depend on the parameters, or the model detaches them")
            self._cotangent = torch.zeros_like(self._outputs, requires_grad=True)
            found = torch.autograd.grad(
                self._outputs, self._plain.leaves, self._cotangent, create_graph=True, allow_unused=True
            )
        self._used = [(i, part) for i, part in enumerate(found) if part is not None and part.requires_grad]
        self.outputs = self._outputs.detach()

    @contextlib.contextmanager
    def _working(self) -> Iterator[None]:
        with self._plain.working(), self._model.kernels():
            yield

    def push(self, V: Tensor) -> Tensor:
        """J v for each row v of V (s, p): (s, n, k)."""
        rows = []
        with self._working():
            for parts in zip(*self._model.split(V), strict=True):
                (gradient,) = torch.autograd.grad(
                    [part for _, part in self._used],
                    self._cotangent,
                    [parts[i] for i, _ in self._used],
                    retain_graph=True,
                    allow_unused=True,
                    materialize_grads=True,
                )
                rows.append(gradient.detach())
        return torch.stack(rows)

    def pull(self, U: Tensor) -> Tensor:
        """J^T u for each u of U (s, n, k): rows (s, p)."""
        with self._working():
            rows = [torch.cat([part.reshape(-1) for part in self._plain.pull(self._outputs, u)]) for u in U]
        return torch.stack(rows)


class RowsTooLargeError(ValueError):
    """The rows of J at these samples exceed the room that they may take."""


class RowsPass:
    """The same from J itself, made row by row by plain reverse mode: for what is differentiated once and no more."""

    engine, batched = "rows of torch.autograd.grad", False

    def __init__(self, model: Model, X: Tensor, room: float) -> None:
        plain = model.plain
        with plain.working():
            outputs = plain.graph(model.given(X))
            size = float(outputs.numel()) * sum(model.numbers) * outputs.itemsize
            if size > room:
                raise RowsTooLargeError(f"the Jacobian's rows, which would serve, are {megabytes(size)}")
            units = torch.eye(outputs.numel(), dtype=outputs.dtype, device=outputs.device)
            rows = [torch.cat([part.reshape(-1) for part in plain.pull(outputs, u.view_as(outputs))]) for u in units]
        self._J, self.outputs = torch.stack(rows), outputs.detach()

    def push(self, V: Tensor) -> Tensor:
        """J v for each row v of V (s, p): (s, n, k)."""
        return (V @ self._J.T).reshape(len(V), *self.outputs.shape)

    def pull(self, U: Tensor) -> Tensor:
        """J^T u for each u of U (s, n, k): rows (s, p)."""
        return U.reshape(len(U), -1) @ self._J


Pass: TypeAlias = FunctionalPass | GraphPass | RowsPass


# --------------------------------------------------------------------------------------------------------- batches
WAYS = ("linearize", "jvp", "transpose", "graph", "rows")  # from the fastest to what serves the most
ENGINES: dict[str, Any] = {"graph": GraphPass, "rows": RowsPass}


class Blocks(NamedTuple):
    """How much is worked on at once."""

    samples: int
    vectors: int
    kept: bool  # whether the forward passes of all samples stay between products
    memory: float  # bytes


class Products:
    """All products with J (n k, p) and G, batch of samples by batch of samples; what the operators share.

    Arrays hold one vector a row, in C order, as the compiled core hands them over; rows and products may both be
    tensors on the model's device instead, which stay there.
    """

    def __init__(
        self, model: Model, loss: Any, weights: Any, scale: float, limit: float | None, check: bool = True
    ) -> None:
        self.model, self.scale, self.limit, self.check = model, scale, limit, check
        self.exponent = 0
        self.n, self.p = len(model.X), sum(model.numbers)
        self.itemsize = model.dtype.itemsize
        self._coupling: str | None = None
        # Memory for all samples, or for some where it is scarce.
        few = limit is not None and not model.couples and self.n > 8
        with untracked():
            outputs, saved = first_call(model, model.X[:8] if few else model.X)
        model.settle()
        self.k = outputs[0].numel()
        self.loss = loss_at(loss, weights, self.n, self.k, model.dtype)
        if self.loss.name == "cross_entropy" and outputs.ndim != 2:
            raise ValueError(
                f"loss is 'cross_entropy' but the model gives outputs of shape {tuple(outputs.shape)}; it needs (n, k)"
            )
        self.blocks = self._plan(saved / len(outputs))
        self._ways = WAYS[not self.blocks.kept :]  # the first is taken; those before it have been refused
        self._refused: list[str] = []
        self._passes: dict[int, tuple[Pass, Hessians]] = {}
        # The class that each sample's softmax is taken relative to, -1 where it was not yet met: outputs that tie may
        # differ in rounding from batch to batch, and the rows of a Gram must be in one basis.
        self._likeliest = torch.full((self.n,), -1, device=model.X.device)
        self._tested: set[tuple[int, int]] = set()  # first samples of batches, and widths of blocks of vectors
        self._lock = threading.Lock()

    def apply(self, rows: Array, out: Array) -> None:
        """out (s, p) <- G v for each row."""
        self._sum_over_samples(rows, out, lambda at, hessian, V: at.pull(finite(hessian.apply(at.push(V)), at, V)))

    def jvp(self, rows: Array, out: Array) -> None:
        """out (s, n k) <- J v for each row v (s, p)."""
        self._by_samples(rows, out, self.k, lambda at, _, V: at.push(V))

    def vjp(self, rows: Array, out: Array) -> None:
        """out (s, p) <- J^T u for each row u (s, n k)."""
        self._sum_over_samples(rows, out, lambda at, _, U: at.pull(U), self.k)

    def restrict(self, rows: Array, out: Array, reduced: bool) -> None:
        """out (s, n r) <- R^T J v, scaled, for each row v (s, p)."""
        self._by_samples(
            rows, out, self.rank(reduced), lambda at, hessian, V: hessian.root_transposed(at.push(V), reduced)
        )

    def lift(self, rows: Array, out: Array, reduced: bool) -> None:
        """out (s, p) <- J^T R y, scaled, for each row y (s, n r)."""
        self._sum_over_samples(rows, out, lambda at, hessian, Y: at.pull(hessian.root(Y, reduced)), self.rank(reduced))

    def rank(self, reduced: bool) -> int:
        """Rows of R_i^T J_i that each sample has."""
        return self.loss.rank if reduced or self.loss.factors is not None else self.k

    def enlarged(self) -> Products:
        """The same times a power of two."""
        twin = copy.copy(self)
        twin.exponent = _arrays.ENLARGEMENT[str(self.model.dtype)]
        twin.scale = math.ldexp(self.scale, twin.exponent)
        twin._passes, twin._tested, twin._refused = {}, set(), list(self._refused)
        return twin

    def check_unchanged(self) -> None:
        """Raise a RuntimeError if the model has changed since it was read."""
        self.model.check_unchanged()

    def saturation(self) -> str:
        """The reason where the loss's Hessians underflow at all samples, else nothing."""
        return saturation(self.loss, self._host_outputs(), self.model.dtype, self.exponent)

    def relative_rounding(self) -> float:
        """See `gnfast.losses.relative_rounding`."""
        return relative_rounding(self.loss, self._host_outputs, self.model.dtype)

    def _host_outputs(self) -> Array:
        with torch.no_grad():
            parts = [
                self.model.outputs(self.model.X[i : i + self.blocks.samples])
                for i in range(0, self.n, self.blocks.samples)
            ]
        found: Array = torch.cat(parts).reshape(self.n, self.k).numpy(force=True)
        return found

    @property
    def engine(self) -> str:
        """The engine that differentiates."""
        engine: str = ENGINES.get(self._ways[0], FunctionalPass).engine
        return engine

    # ------------------------------------------------------------------------------------------------------ passes
    def samples_are_coupled(self, saved: float = math.inf) -> str:
        """Why the samples cannot be taken in batches; empty if they can: a sentence, or a test.

        Where rows of the Gram are tested later, outputs serve; products of batches are only as good as the test, which
        looks at derivatives, too, of as many samples as the limit has room for, so many bytes each.
        """
        if self.n == 1:
            return ""
        if self._coupling is None and self.model.couples:
            self._coupling = self.model.couples
        if self._coupling is None:
            room = 0 if self.limit is None or not self.check else int(self.limit / (3 * max(saved, 1.0)))
            with untracked():
                self._coupling = coupling(self.model, room, self.check)
        return self._coupling

    def _batches(self, width: int) -> Iterator[tuple[slice, Pass, Hessians]]:
        """All batches of samples, for blocks of so many vectors."""
        self.model.check_unchanged()
        step = self.blocks.samples
        for first in range(0, self.n, step):
            samples = slice(first, min(self.n, first + step))
            found = self._passes.get(first)
            if found is None or (self.check and (first, width) not in self._tested):
                found = self._pass(samples, width, found)
                if self.blocks.kept:
                    self._passes[first] = found
            yield samples, *found

    def _width(self, vectors: int) -> int:
        """Vectors at a time, the same for all blocks since each width is tested; one that has been, if it is near."""
        count = math.ceil(vectors / self.blocks.vectors)
        least = math.ceil(vectors / count)
        most = min(self.blocks.vectors, least * (1 + SPARE)) if count > 1 else least
        return min((width for _, width in self._tested if least <= width <= most), default=least)

    def _pass(self, samples: slice, width: int, found: tuple[Pass, Hessians] | None) -> tuple[Pass, Hessians]:
        """One that has passed the test for blocks of this width: at first use, and at that of another width.

        A test costs plain autograd's forward pass and two backward ones, and a product with a block as wide.
        """
        first, X = samples.start, self.model.X[samples]
        made = None if found is None else found[0]
        probe = Probe(self.model, X, first) if self.check and (first, width) not in self._tested else None
        if self.model.plain.draws:
            check_not_random(self.model, X)
        while True:
            fault: Fault | None = None
            try:
                made = self._differentiate(X) if made is None else made
                if probe is None:
                    check_outputs(made.outputs, first)
                else:
                    fault = probe.difference(made, width)
            except Exception as error:  # whatever transforms raise of an operation for which they have no rule
                raise_of_memory(error)
                words = (str(error).strip() or type(error).__name__).splitlines()[0]
                fewer = ", or pass fewer samples" if isinstance(error, RowsTooLargeError) else ""
                fault = Fault(words, f"change the operation{fewer}")
            if fault is None:
                break
            made = None
            self._tested = {pair for pair in self._tested if pair[0] != first}
            check_not_random(self.model, X)
            self._refuse(fault)
        assert made is not None
        if probe is not None:
            self._tested.add((first, width))
        return made, self.hessian(made.outputs, first)

    def _refuse(self, fault: Fault) -> None:
        self._refused.append(f"{self._ways[0]}: {fault.words}")
        if len(self._ways) == 1:
            raise ValueError(
                "PyTorch gives no products with this model's Jacobian that agree with its gradients "
                f"({'; '.join(self._refused)}); {fault.cure}"
            )
        self._ways = self._ways[1:]

    def hessian(self, outputs: Tensor, first: int) -> Hessians:
        """At samples from `first` on."""
        samples = slice(first, first + len(outputs))
        known = self._likeliest[samples]
        known.copy_(torch.where(known < 0, outputs.argmax(dim=1), known))
        return Hessians(torch, self.loss, outputs, self.scale, samples, known)

    def _differentiate(self, X: Tensor) -> Pass:
        way = self._ways[0]
        if way == "graph":
            return GraphPass(self.model, X)
        if way == "rows":
            return RowsPass(self.model, X, ROWS if self.limit is None else self.limit)
        return FunctionalPass(self.model, X, way)

    def _sum_over_samples(self, rows: Array, out: Array, product: Any, width: int = 0) -> None:
        """out (s, p) <- the sum of the batches' parts; rows hold `width` numbers a sample, or 0: a vector for all."""
        with self._lock, untracked(), self._tensors(rows, out) as (given, target):
            at_once = self._width(len(rows))
            for samples, at, hessian in self._batches(at_once):
                part = given.reshape(len(rows), self.n, width)[:, samples] if width else given
                for vectors, done in _blocks(len(rows), at_once):
                    found = product(at, hessian, part[vectors])[done:]
                    if samples.start == 0:
                        target[vectors][done:] = found
                    else:
                        target[vectors][done:] += found

    def _by_samples(self, rows: Array, out: Array, width: int, product: Any) -> None:
        """out (s, n width), each batch's part where it belongs."""
        with self._lock, untracked(), self._tensors(rows, out) as (given, target):
            by_sample, at_once = target.view(len(rows), self.n, width), self._width(len(rows))
            for samples, at, hessian in self._batches(at_once):
                for vectors, _ in _blocks(len(rows), at_once):
                    by_sample[vectors, samples] = product(at, hessian, given[vectors])

    @contextlib.contextmanager
    def _tensors(self, rows: Any, out: Any) -> Iterator[tuple[Tensor, Tensor]]:
        """Both as tensors on the model's device: their own memory, but for arrays of models on a GPU."""
        if isinstance(rows, torch.Tensor):
            yield rows, out
            return
        device = self.model.X.device
        # PyTorch has no read-only tensors and warns of an array that is.
        given = torch.from_numpy(rows if rows.flags.writeable else rows.copy()).to(device)
        host = torch.from_numpy(out)
        target = host if device == host.device else torch.empty_like(host, device=device)
        yield given, target
        if target is not host:
            host.copy_(target)

    # ------------------------------------------------------------------------------------------------------ memory
    def _plan(self, saved: float) -> Blocks:
        """Batches whose linearization and pullback (each about what autograd saves) and tangents fit together."""
        vector = 2.0 * self.p * self.itemsize  # in and out
        passes = 2 * saved
        n, limit = self.n, self.limit
        if limit is None:
            s = max(1, min(VECTORS, int(WORKSPACE / (n * saved + vector))))
            return Blocks(n, s, True, n * (passes + s * saved) + s * vector)
        whole = int((limit - n * passes) / (n * saved + vector))
        if whole >= 1:
            s = min(VECTORS, whole)
            return Blocks(n, s, True, n * (passes + s * saved) + s * vector)
        least = n * (passes + saved) + vector
        reason = self.samples_are_coupled(saved)
        if reason:
            check_memory(least, limit, f"a product over all samples at once ({reason})", "pass fewer samples")
        kept = int((limit - n * passes - vector) / saved)  # the passes stay, tangents are taken by batches
        if kept >= 1 and n * passes <= limit / 2:
            return Blocks(kept, 1, True, n * passes + kept * saved + vector)
        batch = int((limit - vector) / (passes + saved))
        check_memory(vector + passes + saved, limit, "a product of one vector at one sample", "use a smaller model")
        return Blocks(min(n, batch), 1, False, batch * (passes + saved) + vector)

    def describe(self) -> str:
        """How a product is made, in a line."""
        b = self.blocks
        kept = "forward pass kept" if b.kept else "forward pass repeated for each product, for want of memory"
        slow = self._ways[0] in ENGINES
        how = f"by {self.engine}" + (f", vector by vector ({self._refused[-1]})" if slow else "")
        return (
            f"product with G: autograd engine of PyTorch, {how}; {_checks.counted(b.samples, 'sample')} x "
            f"{_checks.counted(b.vectors, 'vector')} at a time, {kept}, about {megabytes(b.memory)}"
        )


def _blocks(vectors: int, width: int) -> Iterator[tuple[slice, int]]:
    """Blocks of one width, the last of which may begin before the one before it ends: by so many vectors."""
    for j in range(0, vectors, width):
        start = max(0, min(j, vectors - width))
        yield slice(start, start + width), j - start


@contextlib.contextmanager
def untracked() -> Iterator[None]:
    """Leave the caller's gradients and random numbers alone, and differentiate even in their inference mode."""
    state = torch.get_rng_state()
    try:
        with torch.inference_mode(False), torch.no_grad():
            yield
    finally:
        torch.set_rng_state(state)
