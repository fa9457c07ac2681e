"""The module that a network was read from, until the first samples have shown that both are the same function."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from gnfast import _arrays
from gnfast._arrays import Array
from gnfast.interop._compare import difference, spaced
from gnfast.interop._plain import Plain
from gnfast.networks import Network


class ModuleSource:
    """The source that a network compares itself with at its first samples: see `gnfast.Network.source`.

    The module computes as it stood when it was read, with the network's own values: those of a network that
    `with_parameters` or `gnfast.prune` has made take the place of the module's for the comparison.
    """

    def __init__(self, module: Any) -> None:
        self.module = module
        self._named = list(module.named_parameters())
        self._modes = [(child, child.training) for child in module.modules()]

    def __call__(self, net: Network, X: Array) -> bool:
        """Whether the comparison could be made.

        Raises:
            ValueError: The module is another function than the network.
            RuntimeError: The module has other parameters by now.
        """
        now = list(self.module.parameters())
        if len(now) != len(self._named) or any(a is not b for a, (_, b) in zip(now, self._named, strict=True)):
            raise RuntimeError(
                "module has other parameters than when it was read, so that the network cannot be compared with it; "
                "read it again with gnfast.from_torch(module)"
            )
        kind = _numpy(now[0]).dtype
        values = [array.astype(kind, copy=False) for array in net.parameters()]
        if kind != net.dtype:
            net = Network(net.layers).with_parameters(values)
        samples = _arrays.to_host(X)[spaced(len(X))].astype(kind)
        names = [name for name, _ in self._named]
        with _ordinary():
            found = difference(
                net,
                samples,
                names,
                lambda cotangent: self._pulled(values, samples, cotangent),
                lambda cotangent: self._pulled(_doubles(values), samples.astype(np.float64), cotangent),
            )
        if found:
            raise ValueError(
                f"module {type(self.module).__name__} gives {found}, compared with the network that was read from it; "
                "use gnfast.interop.torch.GaussNewton(module, X=X), which takes any module that PyTorch differentiates"
            )
        return found is not None

    def __deepcopy__(self, memo: dict[int, Any]) -> ModuleSource:
        """With the module as it is now; itself where parameters have hooks, which copies of them have not."""
        if any(tensor._backward_hooks for _, tensor in self._named):
            return self
        twin = copy.copy(self)
        memo[id(self)] = twin
        vars(twin).update({key: copy.deepcopy(value, memo) for key, value in vars(self).items()})
        return twin

    def _pulled(
        self, values: list[Array], samples: Array, cotangent: Callable[[Array], Array]
    ) -> tuple[Array, Sequence[Array | None]]:
        leaves, instead = [], {}
        for (_, tensor), value in zip(self._named, values, strict=True):
            if tensor.requires_grad and not tensor.is_inference() and _is_memory_of(tensor, value):
                leaves.append(tensor)
            else:
                leaves.append(torch.from_numpy(value.copy()).requires_grad_())
                instead[id(tensor)] = leaves[-1]
                for hook in (tensor._backward_hooks or {}).values():
                    leaves[-1].register_hook(hook)
        if values[0].dtype != _numpy(self._named[0][1]).dtype:
            if any(tensor._backward_hooks for _, tensor in self._named):
                raise ValueError("hooks of parameters do not see those that take their place")
            buffers = [buffer for buffer in self.module.buffers() if buffer.is_floating_point()]
            instead |= {id(buffer): buffer.to(leaves[0].dtype) for buffer in buffers}

        def forward(X: Any) -> Any:
            for child, mode in self._modes:
                child.training = mode
            out = self.module(X)
            if not isinstance(out, torch.Tensor):
                raise TypeError(f"it gives a {type(out).__name__}")
            return out

        plain = Plain(forward, leaves, self.module, instead)
        X = torch.from_numpy(np.array(samples))  # a copy, which the module may write to
        try:
            outputs, (parts,) = plain.pulled(X, lambda out: [torch.from_numpy(cotangent(_numpy(out))).to(out)])
        except Exception as error:  # whatever the module's own code raises
            reason = (str(error).strip().splitlines() or [repr(error)])[0]
            raise ValueError(
                f"module {type(self.module).__name__} fails at samples of shape {samples.shape}, so that the network "
                f"that was read from it cannot be compared with it ({reason}); pass X as the module takes it, or use "
                "gnfast.interop.torch.GaussNewton(module, X=X)"
            ) from error
        return _numpy(outputs), [_numpy(part) for part in parts]


@contextlib.contextmanager
def _ordinary() -> Iterator[None]:
    """Without the modes that the caller may be in, which the module was not read in."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.inference_mode(False), torch.autocast("cpu", enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


def _doubles(values: list[Array]) -> list[Array]:
    return [value.astype(np.float64) for value in values]


def _is_memory_of(tensor: Any, value: Array) -> bool:
    own = _numpy(tensor)
    return own.dtype == value.dtype and own.ctypes.data == value.ctypes.data and own.strides == value.strides


def _numpy(tensor: Any) -> Array:
    found: Array = tensor.detach()
    if tensor.dtype not in (torch.float32, torch.float64):
        found = found.float()  # type: ignore[attr-defined]
    return found.numpy()  # type: ignore[attr-defined,no-any-return]
