"""Models and parameters as curvlinops takes them: modules with lists of their parameters, functions of named values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch

from gnfast.interop._risk import unwrapped

Tensor: TypeAlias = Any  # torch.Tensor, which a type checker sees only where PyTorch is installed
Values: TypeAlias = "Mapping[str, Tensor]"
_Module: Any = torch.nn.Module  # of which a type checker knows nothing where PyTorch is not installed


class Called(_Module):  # type: ignore[misc]  # see _Module
    """A function (values by name, inputs) -> outputs as a module, whose parameters share the memory of the values."""

    def __init__(self, function: Callable[[Values, Any], Tensor], values: Values, why: str) -> None:
        super().__init__()
        self.function, self.names, self.why = function, list(values), why
        seen: set[int] = set()
        for i, value in enumerate(values.values()):
            is_own = isinstance(value, torch.nn.Parameter) and id(value) not in seen
            seen.add(id(value))
            self.register_parameter(f"value{i}", value if is_own else torch.nn.Parameter(value.detach()))

    def forward(self, X: Any) -> Tensor:
        """The function at the parameters by name and the inputs."""
        return self.function(dict(zip(self.names, self._parameters.values(), strict=True)), X)


def forms(model: Any, params: Any) -> tuple[Any, list[Tensor], tuple[Any, Values]]:
    """A model and its parameters in either form.

    Args:
        model: A module, or a function (values by name, inputs) -> outputs.
        params: Of a module, the list of its parameters or their dict by name; in the dict, values may be others than
            the module's own. Of a function, the dict.

    Returns:
        The module and the list of its parameters, and (model, dict), which mean the same. A function's module, or that
        of values which are not the module's own, is a `Called`.

    Raises:
        TypeError: A function without names, or what is neither a list nor a dict of tensors.
        ValueError: A list with a tensor that is no parameter of the module.
    """
    if not isinstance(params, Mapping):
        params = list(params)
    values = list(params.values()) if isinstance(params, Mapping) else params
    if not values or not all(isinstance(value, torch.Tensor) for value in values):
        kinds = ", ".join(sorted({type(value).__name__ for value in values})) or "nothing"
        raise TypeError(
            f"params is a {type(params).__name__} of {kinds} but must hold tensors; pass "
            "dict(model.named_parameters()) or list(model.parameters())"
        )
    module = unwrapped(model)
    if not isinstance(module, torch.nn.Module):
        if not isinstance(params, Mapping):
            raise TypeError(
                "params is a list but must be a dict where model_func is a function of named values; pass "
                "{name: tensor} with the names that it reads"
            )
        called = Called(model, params, "the model is a function of its parameters")
        return called, list(called.parameters()), (model, params)
    own = dict(module.named_parameters(remove_duplicate=False))
    if isinstance(params, Mapping):
        inner = {name if name in own else name.removeprefix("module."): value for name, value in params.items()}
        if all(own.get(name) is value for name, value in inner.items()):
            return module, values, (module, inner)
        function = functional(module)
        called = Called(function, inner, "params are not the module's own values")
        return called, list(called.parameters()), (function, inner)
    names = {id(value): name for name, value in reversed(own.items())}
    for i, value in enumerate(params):
        if id(value) not in names:
            raise ValueError(f"params[{i}] is no parameter of the module; pass those of module.parameters()")
    return module, params, (module, {names[id(value)]: value for value in params})


def functional(model: Any) -> Callable[[Values, Any], Tensor]:
    """A module as a function of values by name and inputs; a function as it is."""
    if not isinstance(model, torch.nn.Module):
        found: Callable[[Values, Any], Tensor] = model
        return found

    def function(values: Values, X: Any) -> Tensor:
        return torch.func.functional_call(model, dict(values), (X,))

    return function


def block_product(
    outputs: Callable[..., Tensor], loss: Callable[[Tensor], Tensor], at: list[Tensor], M: list[Tensor]
) -> list[Tensor]:
    """J^T H J M by forward and reverse mode, J of the outputs in all of `at`, H of the loss in the outputs.

    M holds one tensor (*shape, s) for each tensor (*shape) of `at`.
    """

    def of_vector(*v: Tensor) -> tuple[Tensor, ...]:
        out, tangent = torch.func.jvp(outputs, tuple(at), v)
        _, image = torch.func.jvp(torch.func.grad(loss), (out,), (tangent,))
        found: tuple[Tensor, ...] = torch.func.vjp(outputs, *at)[1](image)
        return found

    with torch.no_grad():
        return list(torch.func.vmap(of_vector, in_dims=-1, out_dims=-1)(*M))
