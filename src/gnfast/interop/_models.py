"""The function that is differentiated: a module or a function of PyTorch, with parameters and inputs, checked once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from gnfast.interop._plain import Plain, at_rest, eagerly
from gnfast.interop._plain import left_alone as left_alone
from gnfast.interop._watch import Watch

Tensor: TypeAlias = Any  # torch.Tensor, which a type checker sees only where PyTorch is installed
DTYPES: dict[Any, np.dtype[Any]] = {torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64)}


@contextlib.contextmanager
def differentiable() -> Iterator[None]:
    """Fused attention, which has no forward and no second derivatives, is taken apart."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


class Model:
    """F(parameters) -> outputs at given samples, a pure function of a list of tensors.

    Attributes:
        call: (list of tensors, X) -> outputs. RuntimeError where no other tensors can take the parameters' place.
        plain: The same as it stands, which decides what J is.
        parameters: The tensors that are differentiated, detached, sharing their memory with the caller's.
        names: One for each.
        X: The samples, first dimension n.
        couples: Why the output at one sample depends on the others; empty if nothing says so.
        writes: Whether a call writes to the samples that it is given: it is given a copy.
        fused: Whether fused attention stays as it is, since taking it apart gives other outputs.

    `module` is what `call` calls, and `fixed` are the tensors besides the parameters that it then uses.
    """

    def __init__(
        self,
        call: Callable[[list[Tensor], Tensor], Tensor],
        plain: Plain,
        names: list[str],
        parameters: list[Tensor],
        X: Any,
        fixed: Iterable[tuple[str, Tensor]] = (),
        module: Any = None,
    ) -> None:
        self._call, self.names, self.couples = call, names, ""
        self.plain, self.writes, self.fused = plain, False, False
        self.parameters = [tensor.detach() for tensor in parameters]
        self.X = _inputs(X, self.parameters[0])
        self.numbers = [tensor.numel() for tensor in self.parameters]
        self._watch = Watch([*zip(names, parameters, strict=True), ("X", self.X), *fixed], module)

    def call(self, values: list[Tensor], X: Tensor) -> Tensor:
        """The outputs (n, ...) with other values of the parameters."""
        with self.kernels(), eagerly():
            return self._call(values, self.given(X))

    def kernels(self) -> contextlib.AbstractContextManager[None]:
        """Around what is differentiated forwards or twice."""
        return contextlib.nullcontext() if self.fused else differentiable()

    def given(self, X: Tensor) -> Tensor:
        """The samples that a call is given: it may ask for gradients in X, or write to it."""
        return X.clone() if self.writes else X.detach()

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float64."""
        return DTYPES[self.parameters[0].dtype]

    def check_unchanged(self) -> None:
        """Raise after a training step, or a change of X, of what is fixed or of modes: passes are made when needed."""
        self._watch.check()

    def settle(self) -> None:
        """After first calls: what these changed is no input, as no state is that a model keeps for itself."""
        self._watch.settle()

    def check_caches(self, X: Tensor) -> None:
        """Raise if a call reads what an earlier one has computed of the parameters and left, with its derivatives."""
        left = [(tensor, tensor.grad_fn) for tensor in self._watch.left_over()]
        if not left:
            return
        with self.plain.working({id(tensor): tensor for tensor, _ in left}):
            outputs = self.plain.graph(self.given(X))
            tensors = [tensor for tensor, node in left if tensor.grad_fn is node]  # others are written to anew
            if not outputs.requires_grad or not tensors:
                return
            ones = torch.ones_like(outputs)
            found = torch.autograd.grad(outputs, tensors, ones, retain_graph=True, allow_unused=True)
        for tensor, part in zip(tensors, found, strict=True):
            if part is not None:
                raise ValueError(
                    f"the model reads a tensor of shape {tuple(tensor.shape)} that an earlier call has computed with "
                    "gradients and left, so that its derivatives are another call's; clear it, or compute it anew"
                )

    def outputs(self, X: Tensor) -> Tensor:
        """The outputs at X, checked."""
        try:
            with torch.no_grad():
                found = self.call(self.parameters, X)
        except RuntimeError:  # there may be derivatives in it, or a compiled part with parameters of its own
            found, _ = self.plain.pulled(self.given(X), ())
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
    _check_parameters(names, tensors)
    leaves = [tensor.detach() for tensor in tensors]
    plain = Plain(lambda x: module(rebuild(leaves), x), leaves)
    return Model(lambda values, x: module(rebuild(values), x), plain, names, tensors, X, [("", module)])


def _of_module(module: Any, params: Any, X: Any) -> Model:
    for name, child in module.named_modules():
        if isinstance(child, _DropoutNd) and child.training and child.p > 0:
            raise ValueError(
                f"module has dropout in training mode ({name or 'itself'}), so that it is random; call eval()"
            )
    own = dict(module.named_parameters())
    check_some(own)
    chosen = _chosen(own, params)
    fixed = {name: tensor for name, tensor in own.items() if name not in chosen}
    names, couples = list(chosen), coupling_layers(module)
    # Running averages do not enter the outputs in training mode, and a product must not move them.
    averaging = [module.get_submodule(name) for name in couples]
    unused = {id(buffer) for child in averaging for buffer in child.buffers()}
    buffers = {name: buffer for name, buffer in module.named_buffers() if id(buffer) not in unused}

    _check_parameters(names, list(chosen.values()))
    scripted = any(isinstance(child, torch.jit.ScriptModule) for child in module.modules())

    def call(values: list[Tensor], x: Tensor) -> Tensor:
        if scripted:
            raise RuntimeError("a scripted module keeps its parameters where no others can be put")
        instead = {id(tensor): tensor.detach() for tensor in fixed.values()}
        instead |= {id(own[name]): value for name, value in zip(names, values, strict=True)}
        with at_rest(module, instead):
            for child in averaging:
                child.track_running_stats = False
            return module(x)

    leaves = [tensor if tensor is own[name] else tensor.detach() for name, tensor in chosen.items()]
    others = {id(own[name]): leaf for name, leaf in zip(names, leaves, strict=True) if leaf is not own[name]}
    plain = Plain(lambda x: module(x), leaves, module, others)
    model = Model(call, plain, names, list(chosen.values()), X, [*fixed.items(), *buffers.items()], module)
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
            raise ValueError(
                f"module has no parameter that requires a gradient; name some in params, such as {next(iter(own))!r}"
            )
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
def check_some(own: Mapping[str, Tensor]) -> None:
    """Raise if a module has no parameters."""
    if not own:
        raise ValueError(
            "module has no parameters, in which its outputs could be differentiated; if it is quantized, frozen or "
            "scripted for inference, pass the module that it was made of"
        )


def check_values(name: str, tensor: Tensor) -> None:
    """Raise if a parameter has no values, or none that are taken."""
    if torch.nn.parameter.is_lazy(tensor):
        raise ValueError(f"{name} has no shape yet, being of a lazy module; call the module once with samples")
    if tensor.is_meta:
        raise ValueError(
            f"{name} has no values, being on the device 'meta'; call module.to_empty(device='cpu') and load its state"
        )
    if tensor.is_complex():
        raise TypeError(
            f"{name} has dtype {_name(tensor.dtype)} but must be float32 or float64; keep torch.view_as_real of it as "
            "the parameter and call torch.view_as_complex in forward"
        )
    if tensor.dtype not in DTYPES:
        raise TypeError(
            f"{name} has dtype {_name(tensor.dtype)} but must be float32 or float64; convert the model with "
            ".float() or .double()"
        )


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
        check_values(name, tensor)
        if tensor.layout is not torch.strided:
            raise TypeError(f"{name} has layout {_name(tensor.layout)} but must be dense; convert it with .to_dense()")
        if tensor.is_inference():
            raise ValueError(
                f"{name} was made in torch.inference_mode(), which nothing can be differentiated in; make the model "
                "outside of it"
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
        X = _of_array(X)
    if not isinstance(X, torch.Tensor):
        got = "missing" if X is None else f"of type {type(X).__name__}"
        raise TypeError(f"X is {got} but must be a tensor of samples (n, ...)")
    if X.layout is not torch.strided or X.is_nested:
        kind = "nested" if X.is_nested else f"of layout {_name(X.layout)}"
        raise TypeError(f"X is {kind} but must be a dense tensor (n, ...); pass X.to_dense(), or samples of one shape")
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


def _of_array(X: np.ndarray[Any, Any]) -> Tensor:
    """A tensor of an array's memory where PyTorch takes it: writeable, in the machine's byte order, strides upwards."""
    if isinstance(X, np.ma.MaskedArray):
        raise TypeError("X is a masked array, whose mask no model knows; pass X.filled(...), or leave samples out")
    plain = X.astype(X.dtype.newbyteorder("="), copy=False)
    if not plain.flags.writeable or any(stride < 0 for stride in plain.strides):
        plain = plain.copy()
    try:
        return torch.from_numpy(plain)
    except TypeError:
        raise TypeError(
            f"X is an array of dtype {X.dtype} but must hold numbers that PyTorch has; convert it with .astype()"
        ) from None


def _name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")
