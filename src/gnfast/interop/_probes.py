"""Tests of products by automatic differentiation, and of samples that see each other, against plain reverse mode.

Two cotangents u, one of all samples and one of a part of them, are pulled back by plain autograd: g = J^T u. What a
route gives for J^T u is compared with g, parameter by parameter; what it gives for J v with <u, J v> = <g, v>, v scaled
so that each parameter has about the same share of both sides, and once more, since products may drift. Rounding differs
between routes: see `tolerance` and `FLOOR`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

import torch

from gnfast import _core
from gnfast.interop._compare import SQUARES_FIT
from gnfast.interop._models import Model

Tensor: TypeAlias = Any  # torch.Tensor, which a type checker sees only where PyTorch is installed
# A parameter's share below so many eps of the largest is rounding of sums that cancel: a bias before batch norm.
FLOOR = 100
# Where even rows of J by plain reverse mode fail, of which sums are made.
NOT_LINEAR = (
    "its gradients are no linear function of those of its outputs: compute in one dtype throughout, without "
    "torch.autocast, and without gradients that are clipped or rounded"
)


class Products(Protocol):
    """Products that are tested: J (n k, p) times vectors, and its adjoint."""

    outputs: Tensor
    batched: bool

    def push(self, V: Tensor) -> Tensor:
        """(s, p) to (s, n, k)."""

    def pull(self, U: Tensor) -> Tensor:
        """(s, n, k) to (s, p)."""


class Fault(NamedTuple):
    """Why a way to products is not taken, and what to do where no other is left."""

    words: str
    cure: str = "change the operation"


class Probe:
    """Outputs (n, k) at some samples and J^T u for two random cotangents, by plain autograd.

    Raises:
        ValueError: The outputs or their derivatives are not finite, or nothing depends on the parameters.
    """

    def __init__(self, model: Model, X: Tensor, first: int = 0) -> None:
        self._model, n = model, len(X)
        self._generator = torch.Generator(device=X.device).manual_seed(first + 1)

        def cotangents(outputs: Tensor) -> list[Tensor]:
            check_outputs(outputs, first)
            u = [self._signs(outputs) for _ in range(2)]
            if n > 1:
                some = torch.randperm(n, generator=self._generator, device=X.device)[: n // 2]
                u[1][some] = 0
            return u

        with model.plain.working():
            outputs = model.plain.graph(model.given(X))
            if not outputs.requires_grad:
                raise ValueError("the outputs do not depend on the parameters, or the model detaches them")
            self._u = cotangents(outputs.detach())
            pulled = [model.plain.pull(outputs, u) for u in self._u]
            self.outputs = outputs.detach()
        for parts in pulled:
            for name, part in zip(model.names, parts, strict=True):
                if not bool(torch.isfinite(part).all()):
                    raise ValueError(
                        f"the derivative of the outputs in {name} is NaN or infinite (a root, norm or logarithm at 0, "
                        "for example); change the model or leave out the samples where it is"
                    )
        self._g = [torch.cat([part.reshape(-1) for part in parts]) for parts in pulled]
        self._sizes = [_sizes(model, g) for g in self._g]
        self._unit = max(float(g.abs().max()) for g in self._g) or 1.0
        self._v = self._tangent()
        right = [(g.double() / self._unit) * self._v.double() for g in self._g]
        self._right = [(float(products.sum()), _norm(products)) for products in right]

    def _signs(self, like: Tensor) -> Tensor:
        return torch.randint(0, 2, like.shape, generator=self._generator, device=like.device).to(like.dtype) * 2 - 1

    def _tangent(self) -> Tensor:
        """Random signs, each parameter's over the size of its part of g, within what rounding leaves of that."""
        sizes = self._sizes[0]
        largest = max(sizes)
        least = torch.finfo(self._g[0].dtype).eps ** (1 / 3)
        weights = [1 / max(size / largest, least) if largest else 1.0 for size in sizes]
        parts = torch.split(self._signs(self._g[0]), self._model.numbers)
        return torch.cat([part * weight for part, weight in zip(parts, weights, strict=True)])

    def difference(self, made: Products, width: int) -> Fault | None:
        """The fault of products of blocks of so many vectors, if there is one."""
        if not close(made.outputs, self.outputs):
            return Fault("its outputs differ")
        width = width if made.batched else 1
        factors = torch.tensor([2.0 ** (i % 3) * (-1) ** i for i in range(width)], dtype=self._v.dtype)
        factors = factors.to(self._v.device)
        for which in [[i % 2 for i in range(width)]] if width > 1 else [[0], [1]]:
            U = torch.stack([self._u[i] for i in which]) * factors[:, None, None]
            for i, factor, row in zip(which, factors, made.pull(U), strict=True):
                name = worst(self._model, row / factor, self._g[i], self._sizes[i])
                if name:
                    return Fault(f"its J^T u differs in {name}", NOT_LINEAR)
        V = self._v * factors[:, None]
        for _ in range(2):
            for factor, row in zip(factors, made.push(V), strict=True):
                if self._is_wrong(row / factor):
                    return Fault("its J v is not the adjoint of J^T u", NOT_LINEAR)
        return None

    def _is_wrong(self, w: Tensor) -> bool:
        if not bool(torch.isfinite(w).all()):
            return True
        for u, (total, size) in zip(self._u, self._right, strict=True):
            left = (u.double() * (w.double() / self._unit)).reshape(-1)
            if abs(float(left.sum()) - total) > tolerance(w) * max(_norm(left), size):
                return True
        return False


def tolerance(like: Tensor) -> float:
    """The tolerance of comparisons, relative to the size: the root of eps, 1.5e-8 in float64 and 3.5e-4 in float32.

    Another order of the same sums changes far less, a wrong formula far more. Where a unit at the kink of a ReLU falls
    to its other side by rounding, a slower way is taken in the end, whose forward pass is the plain one.
    """
    return math.sqrt(torch.finfo(like.dtype).eps)


def close(first: Tensor, again: Tensor) -> bool:
    """Outputs up to what another order of the same sums may change."""
    if first.shape != again.shape:
        return False
    scale = max(float(first.abs().max()), float(again.abs().max()), torch.finfo(first.dtype).tiny)
    return bool((first - again).abs().max() <= math.sqrt(torch.finfo(first.dtype).eps) * scale)


def worst(model: Model, found: Tensor, right: Tensor, sizes: Sequence[float] | None = None) -> str:
    """The name of a parameter in which two vectors (p,) differ by more than rounding; empty if there is none.

    `sizes` are the norms of the parameters' parts of what is right, where they are known.
    """
    sizes = _sizes(model, right) if sizes is None else sizes
    floor = FLOOR * torch.finfo(right.dtype).eps * max(sizes)
    errors = _sizes(model, found - right)
    for name, size, error in zip(model.names, sizes, errors, strict=True):
        if not error <= tolerance(right) * size + floor:  # nor where it is NaN
            return name
    return ""


def check_outputs(outputs: Tensor, first: int) -> None:
    """Raise if those (n, k) of some sample are not finite, the first sample being X[first]."""
    bad = ~torch.isfinite(outputs).all(dim=1)
    if bool(bad.any()):
        raise ValueError(
            f"the model gives NaN or infinite outputs at {int(bad.sum())} of the samples, the first at "
            f"X[{first + int(bad.nonzero()[0])}]; check the inputs and the parameters"
        )


def finite(U: Tensor, at: Products, V: Tensor) -> Tensor:
    """NaN and infinity of a vector reach the outputs' tangents, which are much smaller to look through."""
    if bool(torch.isfinite(U).all()):
        return U
    if not bool(torch.isfinite(V).all()):
        raise _core.NonFiniteError("V has NaN or infinite values; pass finite vectors")
    if bool(torch.isfinite(at.push(V / V.abs().max())).all()):
        raise ValueError("V overflows in the product; pass vectors of smaller entries")
    raise _core.NonFiniteError(
        "the derivative of the model is NaN or infinite (a root, norm or logarithm at 0, for example)"
    )


def _sizes(model: Model, vector: Tensor) -> list[float]:
    """The norm of each parameter's part of a vector (p,)."""
    return [_norm(part) for part in torch.split(vector, model.numbers)]


def _norm(vector: Tensor) -> float:
    """The norm, where squares may leave the range: memory that nobody wrote may hold any number."""
    quick = float(vector.norm())
    if SQUARES_FIT[0] < quick < SQUARES_FIT[1]:
        return quick
    vector = vector.double()
    unit = float(vector.abs().max())
    return unit * float((vector / unit).norm()) if unit else 0.0


# --------------------------------------------------------------------------------------------------- coupled samples
def coupling(model: Model, room: int, derivatives: bool) -> str:
    """Why the output at one sample depends on the others; empty if it does not.

    The outputs of subsets are compared with those of all samples: the halves by each binary digit of the samples'
    numbers, so that of any two samples one is without the other once. So are, where asked for, vector-Jacobian products
    of the first `room` samples and of two of their halves.
    """
    n = len(model.X)
    whole = model.outputs(model.X)
    numbers = torch.arange(n, device=model.X.device)
    for digit in reversed(range((n - 1).bit_length())):
        for value in (0, 1):
            chosen = numbers[(numbers >> digit) % 2 == value]
            try:
                part = model.outputs(model.X[chosen])
            except Exception as error:  # whatever the model's own code raises, guards of exported modules among it
                raise_of_memory(error)
                return "the model does not take fewer samples"
            if part.shape[1:] != whole.shape[1:] or not close(whole[chosen], part):
                return "the output at one sample depends on the others"
    return _derivatives_couple(model, min(n, room)) if derivatives else ""


def _derivatives_couple(model: Model, count: int) -> str:
    if count < 2:
        return ""
    numbers = torch.arange(count, device=model.X.device)
    generator = torch.Generator(device=model.X.device).manual_seed(0)
    mixed = torch.randperm(count, generator=generator, device=model.X.device)
    halves = [numbers[: count // 2], numbers[count // 2 :], mixed[: count // 2].sort().values]
    u: list[Tensor] = []

    def cotangents(outputs: Tensor) -> Sequence[Tensor]:
        signs = torch.randint(0, 2, outputs.shape, generator=generator, device=outputs.device) * 2.0 - 1
        u.append(signs.to(outputs.dtype))
        masks = [torch.zeros(count, 1, dtype=outputs.dtype, device=outputs.device) for _ in halves]
        return [u[0] * mask.index_fill_(0, half, 1) for mask, half in zip(masks, halves, strict=True)]

    _, whole = model.plain.pulled(model.given(model.X[:count]), cotangents)
    for half, right in zip(halves, whole, strict=True):
        _, (part,) = model.plain.pulled(model.given(model.X[half]), [u[0][half]])
        found, wanted = (torch.cat([tensor.reshape(-1) for tensor in parts]) for parts in (part, right))
        if worst(model, found, wanted):
            return "the derivative at one sample depends on the others"
    return ""


def raise_of_memory(error: Exception) -> None:
    """Memory that has run out says nothing of what can be transformed; the CPU's allocator has no class for it."""
    if isinstance(error, torch.cuda.OutOfMemoryError) or "DefaultCPUAllocator" in str(error):
        raise error


def check_not_random(model: Model, X: Tensor) -> None:
    """Raise if further calls give other outputs, each with other random numbers."""
    first, *again = (model.plain.pulled(model.given(X), ())[0] for _ in range(2))
    if model.plain.draws:
        with torch.random.fork_rng([X.device] if X.device.type == "cuda" else []):
            for seed in range(4):
                torch.manual_seed(seed)
                again.append(model.plain.pulled(model.given(X), ())[0])
    if not all(close(first, other) for other in again):
        raise ValueError("the model gives other outputs when it is called again; remove what is random, or call eval()")
