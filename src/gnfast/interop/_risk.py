"""An empirical risk of PyTorch, (module, loss, parameters, batches), as a sum of operators of the core."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

import gnfast as gn
from gnfast._arrays import Array
from gnfast.interop._models import version
from gnfast.networks import Network
from gnfast.plan import megabytes

Tensor: TypeAlias = Any  # torch.Tensor, which a type checker sees only where PyTorch is installed
# Of the forward passes that stay between products; beyond, each product makes them again, as other libraries do.
KEPT_BYTES = 2e9


class UnsupportedError(ValueError):
    """Why the core does not take a model, a loss or its data."""


def state_of(module: Any) -> object:
    """What changes when the function that a module computes may have changed."""
    if not isinstance(module, torch.nn.Module):
        return ()
    tensors = [*module.parameters(), *module.buffers()]
    return [(id(t), version(t)) for t in tensors], [m.training for m in module.modules()]


@dataclass(frozen=True)
class _Batch:
    """Samples whose share of the matrix is sum_i w_i J_i^T H_i J_i."""

    X: Array
    weights: Array


class Risk:
    """The matrix as a sum over batches, each an operator of the core."""

    def __init__(
        self, module: Any, loss: Any, params: list[Tensor], data: Iterable[tuple[Tensor, Tensor]], n: int
    ) -> None:
        if not isinstance(module, torch.nn.Module):
            raise UnsupportedError(f"the model is a {type(module).__name__}, not a torch.nn.Module")
        self.order = _order(list(module.parameters()), params)
        try:
            self.net: Network = gn.from_torch(module)
        except (TypeError, ValueError) as error:
            raise UnsupportedError(str(error)) from None
        self.loss, self.batches = "", []
        for X, y in data:
            if not isinstance(X, torch.Tensor) or X.dtype != params[0].dtype:
                raise UnsupportedError(f"the inputs are a {getattr(X, 'dtype', type(X).__name__)}")
            self.loss, weights = _hessians(loss, X, y)
            share = len(X) / n if loss.reduction == "mean" else 1.0
            self.batches.append(_Batch(X.numpy(), (share * weights.expand(len(X))).to(X.dtype).numpy()))
        self._kept: list[gn.GaussNewton] = []
        self._rows = torch.empty(0, dtype=params[0].dtype)  # (s, p), room for vectors: new pages cost more than a copy
        try:
            first = self._operator(self.batches[0])
        except (TypeError, ValueError) as error:  # samples that the network does not take, or outputs not (n, k)
            raise UnsupportedError(str(error)) from None
        samples = sum(len(batch.X) for batch in self.batches)
        self.bytes = first.plan().memory * samples / len(self.batches[0].X)
        if self.bytes <= KEPT_BYTES:
            self._kept = [first, *(self._operator(batch) for batch in self.batches[1:])]

    def _operator(self, batch: _Batch) -> gn.GaussNewton:
        return gn.GaussNewton(self.net, batch.X, self.loss, reduction="sum", weights=batch.weights)

    def product(self, M: list[Tensor]) -> list[Tensor]:
        """G times a block of s vectors, each given as one tensor (*shape, s) a parameter in the caller's order."""
        columns = M[0].shape[-1]
        sizes = [M[i].numel() // columns for i in self.order]
        if self._rows.shape != (columns, sum(sizes)):
            self._rows = self._rows.new_empty((columns, sum(sizes)))
        for i, room in zip(self.order, torch.split(self._rows, sizes, dim=1), strict=True):
            room.copy_(M[i].detach().reshape(-1, columns).T)
        parts = torch.split(self.multiplied(self._rows.T).T, sizes, dim=1)
        found = dict(zip(self.order, parts, strict=True))
        return [found[i].T.reshape(M[i].shape) for i in range(len(M))]

    @property
    def is_in_order(self) -> bool:
        """Whether the caller's parameters are in the module's order."""
        return self.order == list(range(len(self.order)))

    def multiplied(self, V: Tensor) -> Tensor:
        """G V, V (p, s) in the module's order."""
        total: Tensor = None
        for i, batch in enumerate(self.batches):
            operator = self._kept[i] if self._kept else self._operator(batch)
            part = operator.matmat(V)
            total = part if total is None else total.add_(part)
        return total

    def describe(self) -> str:
        samples = sum(len(batch.X) for batch in self.batches)
        forward = "" if self._kept else f", forward passes of {megabytes(self.bytes)} made again for each product"
        return f"gnfast's engine, {self.loss}, {samples} samples in {len(self.batches)} batches{forward}"


def _order(own: list[Tensor], params: list[Tensor]) -> list[int]:
    """For each parameter of the module its place in the caller's list."""
    places = {id(tensor): i for i, tensor in enumerate(params)}
    if len(places) != len(params) or sorted(places) != sorted(id(tensor) for tensor in own):
        raise UnsupportedError("params are not all parameters of the module")
    return [places[id(tensor)] for tensor in own]


def _hessians(loss: Any, X: Tensor, y: Tensor) -> tuple[str, Tensor]:
    """A mini-batch loss of PyTorch as a loss of ours and weights of the samples, (n,) or one for all, (1,)."""
    mean = loss.reduction == "mean"
    if type(loss) is torch.nn.MSELoss:  # sum of squares, without a half; the mean is over entries
        return "mse", _weight(2.0 / (y.numel() if mean else 1))
    if type(loss) is torch.nn.BCEWithLogitsLoss and loss.weight is None and loss.pos_weight is None:
        return "binary_cross_entropy", _weight(1.0 / (y.numel() if mean else 1))
    if type(loss) is torch.nn.CrossEntropyLoss and not y.is_floating_point() and y.ndim == 1:
        if bool((y == loss.ignore_index).any()):
            raise UnsupportedError("some targets are ignored")
        if loss.weight is None:
            return "cross_entropy", _weight(1.0 / (len(X) if mean else 1))
        if loss.label_smoothing == 0:
            weights = loss.weight.detach().double()[y]
            return "cross_entropy", weights / weights.sum() if mean else weights
    raise UnsupportedError(f"the loss {loss} or its targets")


def _weight(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float64)
