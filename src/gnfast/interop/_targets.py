"""Losses and data as the tools take them: functions as loss modules, and what can be watched of batches."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.utils import data as loading

F = nn.functional
Tensor: TypeAlias = Any  # torch.Tensor, which a type checker sees only where PyTorch is installed
_Module: Any = nn.Module  # of which a type checker knows nothing where PyTorch is not installed
# Functions of PyTorch, and the modules that are the same with the same arguments.
MODULES: dict[Any, Any] = {
    F.mse_loss: nn.MSELoss,
    F.cross_entropy: nn.CrossEntropyLoss,
    F.nll_loss: nn.NLLLoss,
    F.binary_cross_entropy_with_logits: nn.BCEWithLogitsLoss,
    F.binary_cross_entropy: nn.BCELoss,
    F.smooth_l1_loss: nn.SmoothL1Loss,
    F.huber_loss: nn.HuberLoss,
    F.poisson_nll_loss: nn.PoissonNLLLoss,
    F.kl_div: nn.KLDivLoss,
}


ALWAYS_CURVED = (nn.MSELoss, nn.CrossEntropyLoss, nn.BCEWithLogitsLoss)


class LossFunction(_Module):  # type: ignore[misc]  # see _Module
    """Any function (outputs, targets) -> loss as a loss module, whose `reduction` is "mean" or "sum"."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], reduction: str) -> None:
        super().__init__()
        self.function, self.reduction = function, reduction

    def forward(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The function's value."""
        return self.function(outputs, y)

    def extra_repr(self) -> str:
        """The function, for `repr`."""
        return repr(self.function)


class CrossEntropyOf(_Module):  # type: ignore[misc]  # see _Module
    """The cross-entropy whose loss and gradient at log-probabilities are those of an `NLLLoss`.

    NLLLoss is linear in log-probabilities, so that its own Gauss-Newton matrix is zero: the curvature is that of
    LogSoftmax. At logits both are the same function, and log-softmax of log-probabilities changes nothing: so is the
    Gauss-Newton matrix in the logits, J^T (diag(p) - p p^T) J, whether J is that of logits or of log-probabilities.
    """

    def __init__(self, loss: nn.NLLLoss) -> None:
        super().__init__()
        self.loss = loss

    @property
    def reduction(self) -> str:
        """The reduction of the loss."""
        return str(self.loss.reduction)

    def as_module(self) -> nn.CrossEntropyLoss:
        """A loss module of PyTorch, with the options as they are now."""
        own = self.loss
        return nn.CrossEntropyLoss(own.weight, ignore_index=own.ignore_index, reduction=own.reduction)

    def forward(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The cross-entropy with the loss's own options."""
        own = self.loss
        return F.cross_entropy(outputs, y, own.weight, ignore_index=own.ignore_index, reduction=own.reduction)


def loss_module(loss: Any) -> Any:
    """A function of PyTorch, or a `functools.partial` of one, as its loss module; anything else as it is."""
    options: dict[str, Any] = {}
    function = loss
    if isinstance(loss, functools.partial) and not loss.args:
        function, options = loss.func, loss.keywords
    kind = MODULES.get(function) if callable(function) and _is_hashable(function) else None
    if kind is None or not options.keys() <= set(inspect.signature(kind).parameters) - {"size_average", "reduce"}:
        return loss
    return kind(**options)


def _is_hashable(function: Any) -> bool:
    return isinstance(function, type(F.mse_loss)) or inspect.isbuiltin(function)


def reduction_of(loss: Any, model: Any, batch: tuple[Any, Tensor]) -> str:
    """Whether a function of (outputs, targets) is a mean or a sum over samples: its value at a batch taken twice."""
    outputs, y = _outputs_of(model, batch[0]), batch[1]
    with torch.no_grad():
        once = float(loss(outputs, y))
        twice = float(loss(torch.cat([outputs, outputs]), torch.cat([y, y])))
    for reduction, factor in (("mean", 1), ("sum", 2)):
        if once != 0 and abs(twice - factor * once) <= 1e-3 * abs(once):
            return reduction
    raise ValueError(
        f"the loss {loss!r} is {once:g} at the first batch and {twice:g} at that batch taken twice, so that it is "
        "neither a mean nor a sum over samples; pass a loss module of torch.nn, or set its attribute reduction"
    )


def curved(loss: Any, model: Any, batch: tuple[Any, Tensor]) -> Any:
    """The loss, or for `NLLLoss` of log-probabilities the cross-entropy whose Gauss-Newton matrix is not zero.

    Raises:
        ValueError: The loss is linear in other outputs, so that the Gauss-Newton matrix would be zero.
    """
    outputs, y = _outputs_of(model, batch[0]), batch[1]
    if not _is_linear(loss, outputs, y):
        return loss
    if type(loss) is nn.NLLLoss and outputs.ndim > 1 and bool((outputs.logsumexp(dim=1).abs() < 1e-3).all()):
        return CrossEntropyOf(loss)
    raise ValueError(
        f"the loss {loss!r} has no second derivative in the model's outputs, so that the Gauss-Newton matrix is zero; "
        "pass one that has, such as CrossEntropyLoss, or NLLLoss for a model that ends with LogSoftmax"
    )


def _is_linear(loss: Any, outputs: Tensor, y: Tensor) -> bool:
    """Whether second derivatives of the loss in the outputs are zero, or not there."""
    with torch.enable_grad():
        leaf = outputs.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(leaf, y).sum(), leaf, create_graph=True)
        if not gradient.requires_grad:
            return True
        direction = torch.arange(1.0, gradient.numel() + 1).cos().to(gradient).reshape(gradient.shape)
        try:
            (found,) = torch.autograd.grad(gradient, leaf, direction, allow_unused=True)
        except RuntimeError:  # no rule for them: the product will say so
            return False
    return found is None or not bool(found.any())


def _outputs_of(model: Any, X: Any) -> Tensor:
    """Outputs at a batch without a trace: in evaluation mode, in which no running average moves."""
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    modes = [(module, module.training) for module in modules]
    try:
        for module in modules:
            module.training = False
        with torch.no_grad():
            return model(X)
    finally:
        for module, training in modes:
            module.training = training


def source_of(batches: Any) -> Any:
    """The parts of batches to watch, if these are the same at every pass; None where each pass makes them anew.

    Lists of tensors; loaders of such and of TensorDataset, whole and in an order that matters not.
    """
    if isinstance(batches, list | tuple):
        return batches if _is_made_of_tensors(batches) else None
    if type(batches) is not loading.DataLoader or batches.collate_fn is not loading.default_collate:
        return None
    sampler, kind = batches.sampler, type(batches.sampler)
    if type(batches.batch_sampler) is not loading.BatchSampler:
        return None
    if kind is loading.RandomSampler:
        whole = sampler.num_samples == len(batches.dataset) and not sampler.replacement
        if not whole or (batches.drop_last and len(batches.dataset) % batches.batch_size):
            return None
    elif kind is not loading.SequentialSampler:
        return None
    return _source_of_dataset(batches.dataset)


def _source_of_dataset(dataset: Any) -> Any:
    kind = type(dataset)
    if kind is loading.TensorDataset:
        return vars(dataset)
    if kind is loading.Subset:
        inner = _source_of_dataset(dataset.dataset)
        return None if inner is None else (vars(dataset), inner)
    if kind is loading.ConcatDataset:
        parts = [_source_of_dataset(part) for part in dataset.datasets]
        return None if any(part is None for part in parts) else (vars(dataset), parts)
    return dataset if kind in (list, tuple) and _is_made_of_tensors(dataset) else None


def _is_made_of_tensors(value: Any) -> bool:
    if isinstance(value, torch.Tensor | bool | int | float | str):
        return True
    if isinstance(value, Mapping):
        return all(map(_is_made_of_tensors, value.values()))
    return type(value) in (list, tuple) and all(map(_is_made_of_tensors, value))
