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
from gnfast.interop._losses import Hessian
from gnfast.interop._models import Model
from gnfast.losses import SATURATED, loss_at, relative_rounding, saturation
from gnfast.plan import check_memory, megabytes

Tensor: TypeAlias = Any  # torch.Tensor, which a type checker sees only where PyTorch is installed
# Work space of a block of vectors where no limit is given, and of the Jacobian's rows that a Gram is made of.
WORKSPACE, ROWS = 5e8, 1e9
VECTORS = 32  # at once at most: enough to fill any matrix product


# ----------------------------------------------------------------------------------------------- one batch of samples
class FunctionalPass:
    """J V and J^T U at some samples by `torch.func`, the vectors of a block batched by vmap.

    J v is a linearization's where the forward pass is to be kept, and jvp's where not, since tracing takes longer than
    the one forward pass it saves. J^T u is linear in u, so that J v is also the pullback of u -> J^T u (Townsend 2017):
    that serves where forward mode or its batching fails.
    """

    engine = "torch.func"

    def __init__(self, model: Model, X: Tensor, kept: bool) -> None:
        def call(*parameters: Tensor) -> Tensor:
            out = model.call(list(parameters), X)
            return out.reshape(len(out), -1)

        self._model = model
        self.outputs, pull = torch.func.vjp(call, *model.parameters)
        self._pull = torch.vmap(pull)
        try:
            self._push = torch.vmap(_linearized(call, model, self.outputs) if kept else _forward(call, model))
            self._try()
        except (RuntimeError, NotImplementedError) as error:
            _raise_of_memory(error)
            self._push = torch.vmap(_transposed(call, model, self.outputs))
            self._try()

    def _try(self) -> None:
        """Two vectors, both ways: layouts that a block of vectors gives to tensors do not suit every operation."""
        self.pull(self.push(self._model.parameters[0].new_zeros((2, sum(self._model.numbers)))))

    def push(self, V: Tensor) -> Tensor:
        """(s, p) to (s, n, k)."""
        return self._push(*self._model.split(V))

    def pull(self, U: Tensor) -> Tensor:
        """(s, n, k) to (s, p)."""
        return torch.cat([part.reshape(len(U), -1) for part in self._pull(U)], dim=1)


def _linearized(call: Any, model: Model, outputs: Tensor) -> Any:
    with warnings.catch_warnings():  # of its own way to fold constants, which nobody here can change
        warnings.filterwarnings("ignore", "Attempted to insert a get_attr Node")
        again, push = torch.func.linearize(call, *model.parameters)
    if bool(torch.isfinite(outputs).all()) and not _agree(outputs, again):
        raise ValueError("the model gives other outputs when it is called again; remove what is random, or call eval()")
    return push


def _forward(call: Any, model: Model) -> Any:
    return lambda *tangents: torch.func.jvp(call, tuple(model.parameters), tangents)[1]


def _transposed(call: Any, model: Model, outputs: Tensor) -> Any:
    _, push = torch.func.vjp(lambda u: torch.func.vjp(call, *model.parameters)[1](u), torch.zeros_like(outputs))
    return lambda *tangents: push(tangents)[0]


class GraphPass:
    """The same from one autograd graph, vector by vector: for what `torch.func` cannot transform.

    J v is the gradient of v^T (J^T u) in u: no forward mode is needed.
    """

    engine = "torch.autograd.grad"

    def __init__(self, model: Model, X: Tensor) -> None:
        self._model = model
        with torch.enable_grad():
            self._parameters = [tensor.detach().requires_grad_() for tensor in model.parameters]
            out = model.call(self._parameters, X)
            self._outputs = out.reshape(len(out), -1)
            if not self._outputs.requires_grad:
                raise ValueError("the outputs do not depend on the parameters, or the model detaches them")
            self._cotangent = torch.zeros_like(self._outputs, requires_grad=True)
            found = torch.autograd.grad(
                self._outputs, self._parameters, self._cotangent, create_graph=True, allow_unused=True
            )
        self._used = [(i, part) for i, part in enumerate(found) if part is not None and part.requires_grad]
        self.outputs = self._outputs.detach()

    def push(self, V: Tensor) -> Tensor:
        rows = []
        for parts in zip(*self._model.split(V), strict=True):
            gradients = torch.autograd.grad(
                [part for _, part in self._used],
                self._cotangent,
                [parts[i] for i, _ in self._used],
                retain_graph=True,
            )
            rows.append(gradients[0])
        return torch.stack(rows)

    def pull(self, U: Tensor) -> Tensor:
        rows = []
        for u in U:
            gradients = torch.autograd.grad(
                self._outputs, self._parameters, u, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            rows.append(torch.cat([part.reshape(-1) for part in gradients]))
        return torch.stack(rows)


Pass: TypeAlias = FunctionalPass | GraphPass


def _raise_of_memory(error: Exception) -> None:
    """Memory that has run out says nothing of what can be transformed; the CPU's allocator has no class for it."""
    if isinstance(error, torch.cuda.OutOfMemoryError) or "DefaultCPUAllocator" in str(error):
        raise error


def _agree(first: Tensor, again: Tensor) -> bool:
    """Up to what another order of the same sums may change."""
    scale = max(float(first.abs().max()), float(again.abs().max()), torch.finfo(first.dtype).tiny)
    return bool((first - again).abs().max() <= math.sqrt(torch.finfo(first.dtype).eps) * scale)


# --------------------------------------------------------------------------------------------------------- batches
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

    def __init__(self, model: Model, loss: Any, weights: Any, scale: float, limit: float | None) -> None:
        self.model, self.scale, self.limit = model, scale, limit
        self.exponent = 0
        self.n, self.p = len(model.X), sum(model.numbers)
        self.itemsize = model.dtype.itemsize
        outputs, saved = self._probe()
        self.k = outputs[0].numel()
        if isinstance(loss, str) and loss == "cross_entropy" and outputs.ndim != 2:
            raise ValueError(
                f"loss is 'cross_entropy' but the model gives outputs of shape {tuple(outputs.shape)}; it needs (n, k)"
            )
        self.loss = loss_at(loss, weights, self.n, self.k, model.dtype)
        self.blocks = self._plan(saved / len(outputs))
        self.fallback = ""  # why torch.func does not serve
        self._passes: dict[int, tuple[Pass, Hessian]] = {}
        # The class that each sample's softmax is taken relative to, -1 where it was not yet met: outputs that tie may
        # differ in rounding from batch to batch, and the rows of a Gram must be in one basis.
        self._likeliest = torch.full((self.n,), -1, device=model.X.device)
        self._lock = threading.Lock()

    def apply(self, rows: Array, out: Array) -> None:
        """out (s, p) <- G v for each row."""
        self._sum_over_samples(rows, out, lambda at, hessian, V: at.pull(_finite(hessian.apply(at.push(V)))))

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

    def gram_rows(self, first: int, count: int, reduced: bool) -> Tensor:
        """R_i^T J_i (count r, p), scaled, of samples from `first` on, which must not be coupled."""
        X, r = self.model.X[first : first + count], self.rank(reduced)
        with torch.no_grad():
            outputs = self.model.outputs(X).reshape(count, -1)
        identity = torch.eye(r, dtype=outputs.dtype, device=outputs.device)[:, None].expand(r, count, r)
        hessian = self._hessian(outputs, first)
        starts = hessian.root(identity, reduced).transpose(0, 1)

        def rows_of(x: Tensor, start: Tensor) -> tuple[Tensor, ...]:
            def call(*parameters: Tensor) -> Tensor:
                return self.model.call(list(parameters), x[None]).reshape(-1)

            _, pull = torch.func.vjp(call, *self.model.parameters)
            found: tuple[Tensor, ...] = torch.vmap(pull)(start)
            return found

        parts = torch.vmap(rows_of)(X, starts)
        return torch.cat([part.reshape(count * r, -1) for part in parts], dim=1)

    def enlarged(self) -> Products:
        """The same times a power of two."""
        twin = copy.copy(self)
        twin.exponent = _arrays.ENLARGEMENT[str(self.model.dtype)]
        twin.scale = math.ldexp(self.scale, twin.exponent)
        twin._passes = {}
        return twin

    def saturation(self) -> str:
        """Where the loss's Hessians underflow at all samples: why, else nothing."""
        return saturation(self.loss, self._host_outputs(), self.model.dtype, self.exponent)

    def relative_rounding(self) -> float:
        """See `gnfast.losses.relative_rounding`."""
        name = self.loss.name
        return relative_rounding(name, self._host_outputs(), self.model.dtype) if name in SATURATED else 0.0

    def _host_outputs(self) -> Array:
        with torch.no_grad():
            parts = [
                self.model.outputs(self.model.X[i : i + self.blocks.samples])
                for i in range(0, self.n, self.blocks.samples)
            ]
        found: Array = torch.cat(parts).reshape(self.n, self.k).numpy(force=True)
        return found

    def can_batch_rows(self) -> bool:
        """Whether vmap serves over samples too."""
        try:
            self.gram_rows(0, 1, reduced=False)
        except (RuntimeError, NotImplementedError) as error:
            _raise_of_memory(error)
            return False
        return True

    @property
    def engine(self) -> str:
        """What differentiates."""
        return GraphPass.engine if self.fallback else FunctionalPass.engine

    # ------------------------------------------------------------------------------------------------------ passes
    def samples_are_coupled(self) -> str:
        """Why the samples cannot be taken in batches; empty if they can: a sentence, or a test of the outputs."""
        if self.model.couples or self.n == 1:
            return self.model.couples
        half = (self.n + 1) // 2
        with torch.no_grad():
            whole = self.model.outputs(self.model.X)
            try:
                part = self.model.outputs(self.model.X[:half])
            except (RuntimeError, ValueError) as error:
                _raise_of_memory(error)
                return "the model does not take fewer samples"
        same = part.shape[1:] == whole.shape[1:] and _agree(whole[:half], part)
        return "" if same else "the output at one sample depends on the others"

    def _batches(self) -> Iterator[tuple[slice, Pass, Hessian]]:
        self.model.check_unchanged()
        step = self.blocks.samples
        for first in range(0, self.n, step):
            found = self._passes.get(first)
            if found is None:
                found = self._new_pass(first, self.model.X[first : first + step])
                if self.blocks.kept:
                    self._passes[first] = found
            yield slice(first, min(self.n, first + step)), *found

    def _new_pass(self, first: int, X: Tensor) -> tuple[Pass, Hessian]:
        made = self._differentiate(X)
        bad = ~torch.isfinite(made.outputs).all(dim=1)
        if bool(bad.any()):
            raise ValueError(
                f"the model gives NaN or infinite outputs at {int(bad.sum())} of the samples, the first at "
                f"X[{first + int(bad.nonzero()[0])}]; check the inputs and the parameters"
            )
        return made, self._hessian(made.outputs, first)

    def _hessian(self, outputs: Tensor, first: int) -> Hessian:
        samples = slice(first, first + len(outputs))
        known = self._likeliest[samples]
        known.copy_(torch.where(known < 0, outputs.argmax(dim=1), known))
        return Hessian(self.loss, outputs, self.scale, samples, known)

    def _differentiate(self, X: Tensor) -> Pass:
        if not self.fallback:
            try:
                return FunctionalPass(self.model, X, self.blocks.kept)
            except (RuntimeError, NotImplementedError) as error:  # no rule for forward mode, for vmap, or for neither
                _raise_of_memory(error)
                self.fallback = str(error).strip().splitlines()[0]
        return GraphPass(self.model, X)

    def _sum_over_samples(self, rows: Array, out: Array, product: Any, width: int = 0) -> None:
        """out (s, p) <- the sum of the batches' parts; rows hold `width` numbers a sample, or 0: a vector for all."""
        with self._lock, _untracked(), self._tensors(rows, out) as (given, target):
            for samples, at, hessian in self._batches():
                part = given.reshape(len(rows), self.n, width)[:, samples] if width else given
                for j in range(0, len(rows), self.blocks.vectors):
                    vectors = slice(j, j + self.blocks.vectors)
                    found = product(at, hessian, part[vectors])
                    if samples.start == 0:
                        target[vectors] = found
                    else:
                        target[vectors] += found

    def _by_samples(self, rows: Array, out: Array, width: int, product: Any) -> None:
        """out (s, n width), each batch's part where it belongs."""
        with self._lock, _untracked(), self._tensors(rows, out) as (given, target):
            by_sample = target.view(len(rows), self.n, width)
            for samples, at, hessian in self._batches():
                for j in range(0, len(rows), self.blocks.vectors):
                    vectors = slice(j, j + self.blocks.vectors)
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
    def _probe(self) -> tuple[Tensor, float]:
        """Outputs, and the bytes that autograd keeps for them: of all samples, or of some where memory is scarce."""
        few = self.limit is not None and not self.model.couples and self.n > 8
        X = self.model.X[:8] if few else self.model.X
        shared = {tensor.data_ptr() for tensor in [*self.model.parameters, self.model.X]}
        saved: dict[int, Tensor] = {}  # alive until counted, or their memory would be given out again

        def pack(tensor: Tensor) -> Tensor:
            saved.setdefault(tensor.data_ptr(), tensor)
            return tensor

        leaves = [tensor.detach().requires_grad_() for tensor in self.model.parameters]
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, _same):
            outputs = self.model.call(leaves, X)
        self.model.check_outputs(outputs, X)
        kept = [tensor for at, tensor in saved.items() if at not in shared]
        return outputs.detach(), float(sum(tensor.nbytes for tensor in [*kept, outputs]))

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
        reason = self.samples_are_coupled()
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
        how = f"by {self.engine}" + (f", vector by vector ({self.fallback})" if self.fallback else "")
        return (
            f"product with G: autograd engine of PyTorch, {how}; {_checks.counted(b.samples, 'sample')} x "
            f"{_checks.counted(b.vectors, 'vector')} at a time, {kept}, about {megabytes(b.memory)}"
        )


@contextlib.contextmanager
def _untracked() -> Iterator[None]:
    """Nothing is recorded for the caller's gradients, and in their inference mode, too, we can differentiate."""
    with torch.inference_mode(False), torch.no_grad():
        yield


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _finite(U: Tensor) -> Tensor:
    """NaN and infinity of a vector reach the outputs' tangents, which are much smaller to look through."""
    if not bool(torch.isfinite(U).all()):
        raise ValueError("V has NaN or infinite values, or overflows in the product; pass finite vectors")
    return U
