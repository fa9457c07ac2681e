"""Hessians of the losses in a model's outputs, H_i = R_i R_i^T, as products with PyTorch tensors.

Tensors of cotangents are (s, n, k), those of the factors' columns (s, n, r): r is k, and k - 1 for the softmax where
its null direction is left out (`reduced`), or the rank of given blocks.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import torch

from gnfast.losses import LossAt

Tensor: TypeAlias = Any  # torch.Tensor, which a type checker sees only where PyTorch is installed


class Hessian:
    """The Hessians of a loss at some samples' outputs (n, k), times one factor.

    H = diag(d) P diag(d), P the identity or, for the softmax, what projects q = sqrt(p) out, |q| = 1; d holds roots of
    weights too. Given blocks have factors instead.
    """

    def __init__(self, loss: LossAt, outputs: Tensor, scale: float, samples: slice) -> None:
        self.scale = scale
        self._factors = None if loss.factors is None else _like(outputs, loss.factors[samples])
        weights = None if loss.weights is None else _like(outputs, loss.weights[samples]).reshape(len(outputs), -1)
        self._q = torch.softmax(outputs, dim=1).sqrt() if loss.name == "cross_entropy" else None
        roots = [self._q, None if weights is None else weights.sqrt()]
        if loss.name == "binary_cross_entropy":
            roots.append((torch.sigmoid(outputs) * torch.sigmoid(-outputs)).sqrt())
        elif loss.name == "poisson":
            roots.append(torch.exp(outputs / 2))
        self._d: Tensor = 1.0
        for root in roots:
            self._d = self._d if root is None else self._d * root

    def apply(self, U: Tensor) -> Tensor:
        """scale H U."""
        if self._factors is not None:
            return self.root(self.root_transposed(U, reduced=True), reduced=True)
        U = self._d * U * self.scale
        return self._d * (U if self._q is None else U - self._q * (self._q * U).sum(-1, keepdim=True))

    def root(self, Y: Tensor, reduced: bool) -> Tensor:
        """sqrt(scale) R Y: (s, n, r) to (s, n, k)."""
        Y = Y * self.scale**0.5
        if self._factors is not None:
            return torch.einsum("nrk,snr->snk", self._factors, Y)
        q = self._q
        if q is not None:
            Y = _embed(q, Y) if reduced else Y - q * (q * Y).sum(-1, keepdim=True)
        return self._d * Y

    def root_transposed(self, U: Tensor, reduced: bool) -> Tensor:
        """sqrt(scale) R^T U: (s, n, k) to (s, n, r)."""
        U = U * self.scale**0.5
        if self._factors is not None:
            return torch.einsum("nrk,snk->snr", self._factors, U)
        U, q = self._d * U, self._q
        if q is not None:
            U = _project(q, U) if reduced else U - q * (q * U).sum(-1, keepdim=True)
        return U


def _like(outputs: Tensor, array: Any) -> Tensor:
    return torch.tensor(array, dtype=outputs.dtype, device=outputs.device)


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
