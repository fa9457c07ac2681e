"""The first call of a model: what it gives, what it changes, and what autograd keeps of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch

from gnfast.interop._models import Model
from gnfast.interop._probes import close, raise_of_memory

Tensor: TypeAlias = Any  # torch.Tensor, which a type checker sees only where PyTorch is installed


def first_call(model: Model, X: Tensor) -> tuple[Tensor, float]:
    """The outputs (n, ...) at samples, and the bytes that autograd keeps for them; sets `model.writes` and `fused`.

    Raises:
        TypeError, ValueError: It does not take the samples or gives no outputs of a kind that is taken, or changes a
            parameter.
    """
    given, leaves = X.clone(), [tensor.clone().requires_grad_() for tensor in model.parameters]
    own = {tensor.data_ptr() for tensor in [*model.parameters, *leaves, model.X, given]}
    with torch.enable_grad():
        try:
            outputs, saved = saved_by(lambda: model.call(leaves, given), own)
        except RuntimeError as error:  # PyTorch's own where other tensors cannot take the parameters' place
            raise_of_memory(error)
            outputs, saved = _called_plainly(model, given, own)
        called = zip(model.names, leaves, model.parameters, strict=True)
        changed = [name for name, leaf, before in called if leaf._version or not torch.equal(leaf, before)]
        if changed:
            raise ValueError(
                f"the model changes its parameter {changed[0]} in place when it is called (an embedding with max_norm "
                "does), so that no derivative belongs to it; do that outside of forward"
            )
        model.writes = given._version > 0
        model.check_outputs(outputs, X)
        plain, _ = model.plain.pulled(model.given(X), ())
        model.check_caches(X)
    # Taken apart, attention may treat what is masked in another way; training sees what is not.
    flat = outputs.detach().reshape(len(X), -1)
    model.fused = bool(torch.isfinite(flat).all()) and not close(flat, plain)
    return outputs.detach(), saved


def _called_plainly(model: Model, X: Tensor, but: set[int]) -> tuple[Tensor, float]:
    try:
        with model.plain.working():
            return saved_by(lambda: model.plain.call(X), but)
    except RuntimeError as error:
        raise_of_memory(error)
        if X.is_floating_point():
            raise
        raise TypeError(
            f"the model does not take X of dtype {str(X.dtype).removeprefix('torch.')} "
            f"({str(error).splitlines()[0]}); convert it with .to() to the dtype of the parameters"
        ) from None


def saved_by(call: Callable[[], Tensor], but: set[int]) -> tuple[Tensor, float]:
    """The outputs of a call, and the bytes that autograd keeps for it, but for memory at some addresses."""
    saved: dict[int, Tensor] = {}  # alive until counted, or their memory would be given out again

    def pack(tensor: Tensor) -> Tensor:
        saved.setdefault(_address(tensor), tensor)
        return tensor

    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, _same):
            outputs = call()
    except RuntimeError as error:  # torch.func in forward takes no hooks
        raise_of_memory(error)
        outputs = call()
        for node in _nodes(outputs) if isinstance(outputs, torch.Tensor) else ():
            parts = [getattr(node, name) for name in dir(node) if name.startswith("_saved_")]
            for tensor in parts:
                if isinstance(tensor, torch.Tensor):
                    pack(tensor)
    kept = [tensor for at, tensor in saved.items() if at not in but]
    return outputs, float(sum(_bytes(tensor) for tensor in [*kept, outputs] if isinstance(tensor, torch.Tensor)))


def _address(tensor: Tensor) -> int:
    """An id of its memory, or of itself where its memory is that of several others, as in sparse ones."""
    return int(tensor.data_ptr()) if tensor.layout is torch.strided else -id(tensor)


def _bytes(tensor: Tensor) -> int:
    """Bytes; of a sparse one those of its numbers and about as many for their places."""
    return int(tensor.nbytes if tensor.layout is torch.strided else 2 * tensor._nnz() * tensor.itemsize)


def _nodes(outputs: Tensor) -> set[Any]:
    """All nodes of autograd's graph behind a tensor."""
    found: set[Any] = set()
    open_ = [outputs.grad_fn] if outputs.requires_grad else []
    while open_:
        node = open_.pop()
        if node is not None and node not in found:
            found.add(node)
            open_ += [before for before, _ in node.next_functions]
    return found


def _same(tensor: Tensor) -> Tensor:
    return tensor
