"""curvlinops after 3.0, as far as its Gauss-Newton operator goes: parameters by name, functions as models.

It has the signature, the attributes and the steps that `gnfast.interop.curvlinops` relies on; products are plain.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.func import functional_call, grad, jvp, vjp, vmap


class GGNLinearOperator:
    """J^T H J of a risk, column by column."""

    def __init__(
        self,
        model_func: Any,
        loss_func: Any,
        params: dict[str, torch.Tensor],
        data: Any,
        progressbar: bool = False,
        check_deterministic: bool = True,
        num_data: int | None = None,
        batch_size_fn: Any = None,
        mc_samples: int = 0,
        seed: int = 2147483647,
    ) -> None:
        if not isinstance(params, dict):
            raise TypeError("params must be a dict")
        is_module = isinstance(model_func, torch.nn.Module)
        self._model_func = (lambda p, X: functional_call(model_func, p, (X,))) if is_module else model_func
        self._loss_func, self._params, self._data, self._mc_samples = loss_func, params, data, mc_samples
        self._batch_size_fn = batch_size_fn or len
        self._N_data = num_data or sum(self._batch_size_fn(X) for X, _ in data)
        self.shape = (sum(p.numel() for p in params.values()),) * 2
        first = next(iter(params.values()))
        self.dtype, self.device = first.dtype, first.device
        self._mp = vmap(self._of_tuple, in_dims=(None, None, -1), out_dims=-1)

    def _of_tuple(self, X: Any, y: Any, v: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return tuple(self._matvec_batch(X, y, dict(zip(self._params, v, strict=True))).values())

    def _matvec_batch(self, X: Any, y: Any, v: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        def model(params: dict[str, torch.Tensor]) -> torch.Tensor:
            return self._model_func(params, X)

        scale = 3.0 if self._mc_samples else 1.0  # another matrix than the exact one
        outputs, tangents = jvp(model, (self._params,), (v,))
        _, image = jvp(grad(lambda out: self._loss_func(out, y)), (outputs,), (tangents,))
        return vjp(model, self._params)[1](scale * image)[0]

    def _loop_over_data(self, desc: str | None = None) -> Any:
        yield from self._data

    def _get_normalization_factor(self, X: Any, y: Any) -> float:
        return {"sum": 1.0, "mean": self._batch_size_fn(X) / self._N_data}[self._loss_func.reduction]

    def _matmat_batch(self, X: Any, y: Any, M: list[torch.Tensor]) -> list[torch.Tensor]:
        return list(self._mp(X, y, tuple(M)))

    def _matmat(self, M: list[torch.Tensor]) -> list[torch.Tensor]:
        total = [torch.zeros_like(part) for part in M]
        for X, y in self._loop_over_data():
            for into, part in zip(total, self._matmat_batch(X, y, M), strict=True):
                into.add_(part, alpha=self._get_normalization_factor(X, y))
        return total

    def _parts(self, X: torch.Tensor) -> list[torch.Tensor]:
        sizes = [p.numel() for p in self._params.values()]
        parts = X.reshape(len(X), -1).split(sizes)
        return [part.reshape(*p.shape, -1) for part, p in zip(parts, self._params.values(), strict=True)]

    def __matmul__(self, X: torch.Tensor) -> torch.Tensor:
        found = self._matmat(self._parts(X))
        return torch.cat([part.reshape(-1, part.shape[-1]) for part in found]).reshape(X.shape)
