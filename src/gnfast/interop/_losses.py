"""Hessians of the losses in a model's outputs, H_i = R_i R_i^T, as products with PyTorch tensors.

Tensors of cotangents are (s, n, k), those of the factors' columns (s, n, r): r is k, and k - 1 for the softmax where
its null direction is left out (`reduced`).
"""

from __future__ import annotations

from typing import Any, TypeAlias

import torch

from gnfast import _checks
from gnfast.losses import LOSSES, hessian_rank

Tensor: TypeAlias = Any  # torch.Tensor, which a type checker sees only where PyTorch is installed


class Hessian:
    """The Hessian of one loss at the outputs (n, k), scaled by one factor for all samples."""

    def __init__(self, loss: str, outputs: Tensor, scale: float) -> None:
        self.loss, self.outputs, self.scale = loss, outputs, scale
        self.n, self.k = outputs.shape
        if loss == "cross_entropy":
            self._root = torch.softmax(outputs, dim=1).sqrt()  # q: H = diag(q) (I - q q^T) diag(q), |q| = 1
        elif loss == "binary_cross_entropy":
            self._root = (torch.sigmoid(outputs) * torch.sigmoid(-outputs)).sqrt()

    def rank(self, reduced: bool) -> int:
        """Columns of R_i."""
        return hessian_rank(self.loss, self.k) if reduced else self.k

    def apply(self, U: Tensor) -> Tensor:
        """scale H U."""
        if self.loss == "mse":
            return U * self.scale
        q = self._root
        scaled = q * U * self.scale
        if self.loss == "cross_entropy":
            scaled = scaled - q * (scaled * q).sum(-1, keepdim=True)
        return q * scaled

    def root(self, Y: Tensor, reduced: bool, samples: slice = slice(None)) -> Tensor:
        """sqrt(scale) R Y: (s, n, r) to (s, n, k), of these samples only."""
        Y = Y * self.scale**0.5
        if self.loss == "mse":
            return Y
        q = self._root[samples]
        if self.loss == "cross_entropy":
            Y = _embed(q, Y) if reduced else Y - q * (q * Y).sum(-1, keepdim=True)
        return q * Y

    def root_transposed(self, U: Tensor, reduced: bool) -> Tensor:
        """sqrt(scale) R^T U: (s, n, k) to (s, n, r)."""
        U = U * self.scale**0.5
        if self.loss == "mse":
            return U
        q = self._root
        U = q * U
        if self.loss == "cross_entropy":
            U = _project(q, U) if reduced else U - q * (q * U).sum(-1, keepdim=True)
        return U


# An orthonormal basis Q (k, k - 1) of what is orthogonal to q, |q| = 1, q >= 0: the last columns of the reflection
# I - v v^T / (1 + q_0), v = q + e_0, whose first one is -q.
def _embed(q: Tensor, Y: Tensor) -> Tensor:
    """Q Y."""
    weights = (q[..., 1:] * Y).sum(-1, keepdim=True) / (1 + q[..., :1])
    return torch.cat([-weights * (1 + q[..., :1]), Y - weights * q[..., 1:]], dim=-1)


def _project(q: Tensor, U: Tensor) -> Tensor:
    """Q^T U."""
    weights = ((q * U).sum(-1, keepdim=True) + U[..., :1]) / (1 + q[..., :1])
    return U[..., 1:] - weights * q[..., 1:]


def check_loss(loss: Any, outputs: Tensor) -> str:
    """The name of a loss that makes sense for outputs of this shape."""
    name = _checks.choice(loss, "loss", LOSSES)
    if name == "cross_entropy" and (outputs.ndim != 2 or outputs.shape[1] == 1):
        raise ValueError(
            f"loss is 'cross_entropy' but the model gives outputs of shape {tuple(outputs.shape)}; it needs (n, k) "
            "with k at least 2"
        )
    return name
