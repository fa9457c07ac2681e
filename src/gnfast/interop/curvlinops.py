"""curvlinops: its Gauss-Newton operator on our engine, so that changing one import is enough."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

import gnfast as gn
from gnfast import _checks
from gnfast.networks import Network
from gnfast.plan import megabytes

torch: Any = _checks.optional_import("torch", "gnfast.interop.curvlinops", "torch")
_theirs: Any = _checks.optional_import("curvlinops", "gnfast.interop.curvlinops", "curvlinops")
# A class of a library that need not be there: to a type checker its subclasses have no base.
_Base: Any = _theirs.GGNLinearOperator

__all__ = ["GGNLinearOperator"]

Tensor: TypeAlias = Any  # torch.Tensor
KEPT_BYTES = (
    2e9  # of the forward passes that stay between products; beyond, each product makes them again, as theirs do
)


class _TheirRouteError(Exception):
    """Why the engine does not take a model, a loss or its data."""


class GGNLinearOperator(_Base):  # type: ignore[misc]  # see _Base
    """The generalized Gauss-Newton matrix of an empirical risk, with the constructor of `curvlinops.GGNLinearOperator`.

    Products are made by gnfast's engine where it takes the model (`gnfast.from_torch`: on the CPU, all parameters of
    the module) and the loss (`MSELoss`, `CrossEntropyLoss` with class indices, `BCEWithLogitsLoss`); else by
    curvlinops' own, which is the base class. `repr` says which and why. Everything of curvlinops that takes one of its
    operators takes this one.

    The data are read once more than theirs' constructor reads them, at the first product, and kept: they must be the
    same at every pass, which `check_deterministic` tests. After a training step or a change of mode the engine reads
    the module again.

    Args:
        *args, **kwargs: Those of `curvlinops.GGNLinearOperator`.

    Raises:
        ImportError: PyTorch or curvlinops is not installed.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._engine: _Engine | None = None
        self._reason = ""
        self._state: object = None
        super().__init__(*args, **kwargs)

    def _matmat(self, M: list[Tensor]) -> list[Tensor]:
        engine = self._current()
        if engine is None:
            found: list[Tensor] = super()._matmat(M)
            return found
        columns = M[0].shape[-1]
        rows = torch.cat([M[i].reshape(-1, columns) for i in engine.order]).detach().T.contiguous()
        out = torch.from_numpy(engine.product(rows.numpy()))
        parts = torch.split(out, [M[i].numel() // columns for i in engine.order], dim=1)
        results: list[Tensor] = [None] * len(M)
        for i, part in zip(engine.order, parts, strict=True):
            results[i] = part.T.reshape(M[i].shape)
        return results

    def _current(self) -> _Engine | None:
        """The engine for the module as it is now, or None where theirs is used."""
        module = self._model_func
        state = _state_of(module)
        if self._state is None or state != self._state:
            self._engine, self._reason = None, ""
            try:
                self._engine = _Engine(module, self._loss_func, self._params, self._loop_over_data(), self._N_data)
            except _TheirRouteError as reason:
                self._reason = str(reason)
            self._state = state
        return self._engine

    def __repr__(self) -> str:
        engine = self._current()
        how = f"curvlinops' own products: {self._reason}" if engine is None else engine.describe()
        return f"GGNLinearOperator({self.shape[0]} x {self.shape[1]}, {how})"


def _state_of(module: Any) -> object:
    """What changes when the function that a module computes may have changed."""
    if not isinstance(module, torch.nn.Module):
        return ()
    tensors = [*module.parameters(), *module.buffers()]
    return [(id(t), t._version) for t in tensors], [m.training for m in module.modules()]


@dataclass(frozen=True)
class _Batch:
    """Samples whose share of the matrix is factor * sum_i w_i J_i^T H_i J_i."""

    X: np.ndarray[Any, Any]
    weights: np.ndarray[Any, Any] | None
    factor: float


class _Engine:
    """The matrix as a sum over batches, each an operator of the core."""

    def __init__(self, module: Any, loss: Any, params: list[Tensor], data: Iterator[Any], n: int) -> None:
        if not isinstance(module, torch.nn.Module):
            raise _TheirRouteError(f"the model is a {type(module).__name__}, not a torch.nn.Module")
        self.order = _order(list(module.parameters()), params)
        try:
            self.net: Network = gn.from_torch(module)
        except (TypeError, ValueError) as error:
            raise _TheirRouteError(str(error)) from None
        self.loss, self.batches = "", []
        for X, y in data:
            if not isinstance(X, torch.Tensor) or X.dtype != params[0].dtype:
                raise _TheirRouteError(f"the inputs are a {getattr(X, 'dtype', type(X).__name__)}")
            self.loss, weights, factor = _hessians(loss, X, y)
            self.batches.append(_Batch(X.numpy(), weights, factor * (len(X) / n if loss.reduction == "mean" else 1.0)))
        self._kept: list[gn.GaussNewton] = []
        try:
            first = self._operator(self.batches[0])
        except (
            TypeError,
            ValueError,
        ) as error:  # shapes that the network does not take, or outputs that are not (n, k)
            raise _TheirRouteError(str(error)) from None
        samples = sum(len(batch.X) for batch in self.batches)
        self.bytes = first.plan().memory * samples / len(self.batches[0].X)
        if self.bytes <= KEPT_BYTES:
            self._kept = [first, *(self._operator(batch) for batch in self.batches[1:])]

    def _operator(self, batch: _Batch) -> gn.GaussNewton:
        return gn.GaussNewton(self.net, batch.X, self.loss, reduction="sum", weights=batch.weights)

    def product(self, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """G v for each row v (s, p), parameters in the module's order."""
        total = np.zeros_like(rows)
        for i, batch in enumerate(self.batches):
            operator = self._kept[i] if self._kept else self._operator(batch)
            total += batch.factor * (operator @ rows.T).T
        return total

    def describe(self) -> str:
        samples = sum(len(batch.X) for batch in self.batches)
        forward = "" if self._kept else f", forward passes of {megabytes(self.bytes)} made again for each product"
        return f"gnfast's engine, {self.loss}, {samples} samples in {len(self.batches)} batches{forward}"


def _order(own: list[Tensor], params: list[Tensor]) -> list[int]:
    """For each parameter of the module its place in the caller's list."""
    places = {id(tensor): i for i, tensor in enumerate(params)}
    if len(places) != len(params) or sorted(places) != sorted(id(tensor) for tensor in own):
        raise _TheirRouteError("params are not all parameters of the module")
    return [places[id(tensor)] for tensor in own]


def _hessians(loss: Any, X: Tensor, y: Tensor) -> tuple[str, np.ndarray[Any, Any] | None, float]:
    """A mini-batch loss of PyTorch as (a loss of ours, weights of the samples, factor)."""
    mean = loss.reduction == "mean"
    if type(loss) is torch.nn.MSELoss:  # sum of squares, without a half; the mean is over entries
        return "mse", None, 2.0 / (y.numel() if mean else 1)
    if type(loss) is torch.nn.BCEWithLogitsLoss and loss.weight is None and loss.pos_weight is None:
        return "binary_cross_entropy", None, 1.0 / (y.numel() if mean else 1)
    if type(loss) is torch.nn.CrossEntropyLoss and not y.is_floating_point() and y.ndim == 1:
        if bool((y == loss.ignore_index).any()):
            raise _TheirRouteError("some targets are ignored")
        if loss.weight is None:
            return "cross_entropy", None, 1.0 / (len(X) if mean else 1)
        if loss.label_smoothing == 0:
            weights = loss.weight.detach()[y].to(X.dtype)
            return "cross_entropy", weights.numpy(), 1.0 / (float(weights.sum()) if mean else 1)
    raise _TheirRouteError(f"the loss {loss} or its targets")
