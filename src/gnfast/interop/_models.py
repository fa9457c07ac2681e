"""What is differentiated: a module or a function of PyTorch, its parameters and its inputs, checked once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from gnfast.interop._watch import Watch

Tensor: TypeAlias = Any  # torch.Tensor, which a type checker sees only where PyTorch is installed
DTYPES: dict[Any, np.dtype[Any]] = {torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64)}


@contextlib.contextmanager
def left_alone(module: Any) -> Iterator[None]:
    """Put back what forward or a hook assigns to modules, such as a pruned weight: in here a value of a transform."""
    before = [(vars(child), dict(vars(child))) for child in module.modules()]
    try:
        yield
    finally:
        for now, then in before:
            now.clear()
            now.update(then)


class Model:
    """F(parameters) -> outputs at given samples, a pure function of a list of tensors.

    Attributes:
        call: (list of tensors, X) -> outputs.
        parameters: The tensors that are differentiated, detached, sharing their memory with the caller's.
        names: One for each.
        X: The samples, first dimension n.
        couples: Why the output at one sample depends on the others; empty if nothing says so.

    `module` is what `call` calls, and `fixed` are the tensors besides the parameters that it then uses.
    """

    def __init__(
        self,
        call: Callable[[list[Tensor], Tensor], Tensor],
        names: list[str],
        parameters: list[Tensor],
        X: Any,
        fixed: Iterable[tuple[str, Tensor]] = (),
        module: Any = None,
    ) -> None:
        self.call, self.names, self.couples = call, names, ""
        _check_parameters(names, parameters)
        self.parameters = [tensor.detach() for tensor in parameters]
        self.X = _inputs(X, self.parameters[0])
        self.numbers = [tensor.numel() for tensor in self.parameters]
        self._watch = Watch([*zip(names, parameters, strict=True), ("X", self.X), *fixed], module)

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float64."""
        return DTYPES[self.parameters[0].dtype]

    def check_unchanged(self) -> None:
        """Raise after a training step, or a change of X, of what is fixed or of modes: passes are made when needed."""
        self._watch.check()

    def outputs(self, X: Tensor) -> Tensor:
        """The outputs at X, checked."""
        found = self.call(self.parameters, X)
        self.check_outputs(found, X)
        return found

    def check_outputs(self, found: Any, X: Tensor) -> None:
        """One tensor in the parameters' dtype, whose first dimension is the samples."""
        if not isinstance(found, torch.Tensor):
            raise TypeError(f"the model gives a {type(found).__name__} but must give one tensor (n, k)")
        if found.ndim == 0 or found.shape[0] != len(X) or found.numel() == 0:
            raise ValueError(
                f"the model gives outputs of shape {tuple(found.shape)} for {len(X)} samples; their first dimension "
                "must be the samples"
            )
        if found.dtype != self.parameters[0].dtype:
            raise TypeError(
                f"the model gives outputs in {_name(found.dtype)} but its parameters are in "
                f"{_name(self.parameters[0].dtype)}; compute in one dtype"
            )

    def split(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Vectors (s, p) as one tensor (s, *shape) a parameter; views."""
        parts = torch.split(rows, self.numbers, dim=1)
        return tuple(part.reshape(-1, *tensor.shape) for part, tensor in zip(parts, self.parameters, strict=True))


def model_of(module: Any, params: Any, X: Any) -> Model:
    """A module with its named parameters, or a function (params, X) with a tensor, list, tuple or dict of them."""
    if isinstance(module, torch.nn.Module):
        return _of_module(module, params, X)
    if not callable(module):
        raise TypeError(
            f"module is of type {type(module).__name__} but must be a torch.nn.Module or a function of (params, X)"
        )
    if params is None:
        raise TypeError("params is None but a function needs its parameters: a tensor, or a list or dict of tensors")
    names, tensors, rebuild = _flatten(params)
    return Model(lambda values, x: module(rebuild(values), x), names, tensors, X, [("", module)])


def _of_module(module: Any, params: Any, X: Any) -> Model:
    for name, child in module.named_modules():
        if isinstance(child, _DropoutNd) and child.training and child.p > 0:
            raise ValueError(
                f"module has dropout in training mode ({name or 'itself'}), so that it is random; call eval()"
            )
    own = dict(module.named_parameters())
    chosen = _chosen(own, params)
    fixed = {name: tensor for name, tensor in own.items() if name not in chosen}
    names, couples = list(chosen), coupling_layers(module)
    # Running averages do not enter the outputs in training mode, and a product must not move them.
    averaging = [module.get_submodule(name) for name in couples]
    unused = {id(buffer) for child in averaging for buffer in child.buffers()}
    buffers = {name: buffer for name, buffer in module.named_buffers() if id(buffer) not in unused}

    def call(values: list[Tensor], x: Tensor) -> Tensor:
        tensors = {name: tensor.detach() for name, tensor in fixed.items()} | dict(zip(names, values, strict=True))
        with left_alone(module):
            for child in averaging:
                child.track_running_stats = False
            # Of buffers a copy: each call begins with the same ones, and those that it changes are not the caller's.
            tensors |= {name: buffer.clone() for name, buffer in buffers.items()}
            return torch.func.functional_call(module, tensors, (x,))

    model = Model(call, names, list(chosen.values()), X, [*fixed.items(), *buffers.items()], module)
    if couples:
        model.couples = f"batch norm with statistics of the batch ({couples[0] or 'itself'}) couples the samples"
    return model


def coupling_layers(module: Any) -> list[str]:
    """Layers whose output at one sample depends on the others: batch norm with statistics of the batch."""
    return [
        name
        for name, child in module.named_modules()
        if isinstance(child, _BatchNorm) and (child.training or child.running_mean is None)
    ]


def _chosen(own: dict[str, Tensor], params: Any) -> dict[str, Tensor]:
    """The parameters by name, in the order of `module.parameters()` unless a list says otherwise."""
    if params is None:
        chosen = {name: tensor for name, tensor in own.items() if tensor.requires_grad}
        if not chosen:
            raise ValueError("module has no parameter that requires a gradient; name some in params")
        return chosen
    if isinstance(params, Mapping):
        chosen = dict(params)
    elif isinstance(params, torch.Tensor | str):
        raise TypeError("params must be None, or a list of a module's parameters or of their names, or a dict")
    else:
        by_id = {id(tensor): name for name, tensor in own.items()}
        given = [by_id.get(id(entry), entry) for entry in params]
        chosen = {name: own[name] for name in given if isinstance(name, str) and name in own}
        if len(chosen) != len(given):
            odd = next((entry for entry in given if not (isinstance(entry, str) and entry in own)), "one of them twice")
            raise ValueError(
                f"params has {odd if isinstance(odd, str) else type(odd).__name__!r}, which is no parameter of the "
                f"module; it has {', '.join(list(own)[:6])}{', ...' * (len(own) > 6)}"
            )
    for name in chosen:
        if name not in own:
            raise ValueError(f"params has {name!r}, which is no parameter of the module; it has {', '.join(own)}")
    if not chosen:
        raise ValueError("params is empty; name at least one parameter")
    return chosen


# ------------------------------------------------------------------------------------------------------- arguments
def _flatten(params: Any) -> tuple[list[str], list[Tensor], Callable[[list[Tensor]], Any]]:
    """Names and tensors of a nest of lists, tuples and dicts, and the way back."""
    names: list[str] = []
    tensors: list[Tensor] = []

    def walk(node: Any, path: str) -> Callable[[list[Tensor]], Any]:
        if isinstance(node, torch.Tensor):
            at = len(tensors)
            names.append(path)
            tensors.append(node)
            return lambda values: values[at]
        if isinstance(node, Mapping):
            inner = {key: walk(value, f"{path}[{key!r}]") for key, value in node.items()}
            return lambda values: {key: build(values) for key, build in inner.items()}
        if isinstance(node, list | tuple):
            kind = list if isinstance(node, list) else tuple
            parts = [walk(value, f"{path}[{i}]") for i, value in enumerate(node)]
            return lambda values: kind(build(values) for build in parts)
        raise TypeError(f"{path} is of type {type(node).__name__} but must be a tensor, or a list or dict of tensors")

    rebuild = walk(params, "params")
    if not tensors:
        raise ValueError("params is empty; pass at least one tensor")
    return names, tensors, rebuild


def _check_parameters(names: list[str], tensors: list[Tensor]) -> None:
    first = tensors[0]
    for name, tensor in zip(names, tensors, strict=True):
        if not isinstance(tensor, torch.Tensor):
            raise TypeError(f"{name} is of type {type(tensor).__name__} but must be a tensor")
        if tensor.is_inference():
            raise ValueError(
                f"{name} was made in torch.inference_mode(), which nothing can be differentiated in; make the model "
                "outside of it"
            )
        if tensor.dtype not in DTYPES:
            raise TypeError(
                f"{name} has dtype {_name(tensor.dtype)} but must be float32 or float64; convert the model with "
                ".float() or .double()"
            )
        if tensor.dtype != first.dtype or tensor.device != first.device:
            raise TypeError(
                f"{name} is {_name(tensor.dtype)} on {tensor.device} but {names[0]} is {_name(first.dtype)} on "
                f"{first.device}; bring all parameters to one dtype and device"
            )
        if tensor.numel() == 0:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, which is empty; leave it out of params")
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{name} has NaN or infinite values; replace them")


def _inputs(X: Any, like: Tensor) -> Tensor:
    if isinstance(X, np.ndarray):
        X = torch.from_numpy(X if X.flags.writeable else X.copy())
    if not isinstance(X, torch.Tensor):
        got = "missing" if X is None else f"of type {type(X).__name__}"
        raise TypeError(f"X is {got} but must be a tensor of samples (n, ...)")
    if X.ndim == 0 or X.numel() == 0:
        raise ValueError(f"X has shape {tuple(X.shape)} but must be (n, ...) with at least one sample")
    if X.is_complex() or (X.is_floating_point() and X.dtype != like.dtype):
        raise TypeError(
            f"X has dtype {_name(X.dtype)} but the parameters have {_name(like.dtype)}; convert one of them with .to()"
        )
    if X.device != like.device:
        raise ValueError(f"X is on {X.device} but the parameters are on {like.device}; move one of them with .to()")
    if X.is_floating_point() and not bool(torch.isfinite(X).all()):
        raise ValueError("X has NaN or infinite values; replace them")
    return X.clone() if X.is_inference() else X.detach()


def _name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")
