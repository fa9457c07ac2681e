"""Operators of PyTorch models on tensors: a product stays on the model's device, where it is made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch

from gnfast import _arrays
from gnfast.interop._autograd import Products
from gnfast.interop._models import DTYPES
from gnfast.operators.jacobian import Jacobian, TransposedJacobian
from gnfast.operators.linear_operator import BlockOperator

Tensor: TypeAlias = Any  # torch.Tensor, which a type checker sees only where PyTorch is installed


class OnTensors(BlockOperator):
    """An operator whose products take tensors as they are; arrays of NumPy, the solvers' own, go the usual way."""

    _products: Products

    def _product(self, rows: Any, out: Any) -> None:
        """out (s, rows of the operator) <- the product with rows (s, columns): arrays or tensors."""
        raise NotImplementedError

    def matmat(self, V: Any, out: Any = None) -> Any:
        """Multiply vectors (N, s): tensors give tensors, anything else NumPy's arrays."""
        if not isinstance(V, torch.Tensor) or out is not None:
            return super().matmat(V, out)
        return self.by_rows(V, "V", self.shape[1], self.shape[0], self._product)

    def matvec(self, v: Any) -> Any:
        """Multiply one vector (N,) or (N, 1): a tensor gives a tensor, anything else a NumPy array."""
        if not isinstance(v, torch.Tensor):
            return super().matvec(v)
        self._check_vector(tuple(v.shape))
        return self.matmat(v.reshape(-1, 1)).reshape(-1, *v.shape[1:])

    def by_rows(
        self, V: Tensor, name: str, length: int, height: int, product: Callable[[Tensor, Tensor], None]
    ) -> Tensor:
        """Columns of V (length, s) to columns of (height, s)."""
        self.check_unchanged()
        home = self._products.model.parameters[0]
        self._check_block(tuple(V.shape), DTYPES.get(V.dtype, V.dtype), name, length, V)
        if V.device != home.device:
            raise ValueError(
                f"{name} is on {V.device} but the model is on {home.device}; pass {name}.to('{home.device}')"
            )
        rows = _arrays.without_gradient(V, name).T.contiguous()
        if not bool(torch.isfinite(rows).all()):
            raise ValueError(f"{name} has NaN or infinite values; pass finite vectors")
        with torch.inference_mode(False):  # whose tensors could not be written to, or differentiated later
            out = torch.empty((len(rows), height), dtype=home.dtype, device=home.device)
        product(rows, out)
        return out.T


class AutogradJacobian(OnTensors, Jacobian):
    """J (n k, p) of a PyTorch model."""

    _products: Products

    def _product(self, rows: Any, out: Any) -> None:
        self._products.jvp(rows, out)

    def _adjoint(self) -> BlockOperator:
        return _Transposed(self._products, self)

    _transpose = _adjoint


class _Transposed(OnTensors, TransposedJacobian):
    _products: Products

    def _product(self, rows: Any, out: Any) -> None:
        self._products.vjp(rows, out)
