"""Hessians of the losses in a model's outputs, H_i = R_i R_i^T, as products with PyTorch tensors.

Tensors of cotangents are (s, n, k), those of the factors' columns (s, n, r): r is k, and k - 1 for the softmax where
its null direction is left out (`reduced`), or the rank of given blocks.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import torch

from gnfast.losses import POISSON_OVERFLOWS, LossAt

Tensor: TypeAlias = Any  # torch.Tensor, which a type checker sees only where PyTorch is installed


class Hessian:
    """The Hessians of a loss at some samples' outputs (n, k), times one factor.

    H = diag(d) P diag(d), P the identity or, for the softmax, what projects q = sqrt(p) out, |q| = 1; d holds roots of
    weights too. Given blocks have factors instead.

    Args:
        likeliest: Of the softmax the class that each sample's outputs are taken relative to, (n,), one of those with
            the largest probability: the reduced factors are in a basis that depends on it. None: `torch.argmax`.
    """

    def __init__(
        self, loss: LossAt, outputs: Tensor, scale: float, samples: slice, likeliest: Tensor | None = None
    ) -> None:
        self.scale = scale
        self._factors = None if loss.factors is None else _like(outputs, loss.factors[samples])
        self._softmax: Softmax | None = None
        roots = [] if loss.weights is None else [_like(outputs, loss.weights[samples]).reshape(len(outputs), -1).sqrt()]
        if loss.name == "cross_entropy":
            self._softmax = Softmax(outputs, outputs.argmax(dim=1) if likeliest is None else likeliest)
            roots.append(self._softmax.q)
        elif loss.name == "binary_cross_entropy":
            decay = torch.exp(-outputs.abs() / 2)
            roots.append(decay / (1 + decay**2))
        elif loss.name == "poisson":
            if not bool(torch.isfinite(torch.exp(outputs)).all()):
                raise ValueError(POISSON_OVERFLOWS)
            roots.append(torch.exp(outputs / 2))
        self._d: Tensor = 1.0
        for root in roots:
            self._d = self._d * root

    def apply(self, U: Tensor) -> Tensor:
        """scale H U."""
        if self._factors is not None:
            return self.root(self.root_transposed(U, reduced=True), reduced=True)
        weigh = self.scale * self._d * self._d
        if self._softmax is None:
            return weigh * U
        return self._softmax.without_sum(weigh * self._softmax.centred(U))

    def root(self, Y: Tensor, reduced: bool) -> Tensor:
        """sqrt(scale) R Y: (s, n, r) to (s, n, k)."""
        Y = Y * self.scale**0.5
        if self._factors is not None:
            return torch.einsum("nrk,snr->snk", self._factors, Y)
        if self._softmax is not None:
            Y = self._softmax.embed(Y) if reduced else self._softmax.project(Y)
        return self._d * Y

    def root_transposed(self, U: Tensor, reduced: bool) -> Tensor:
        """sqrt(scale) R^T U: (s, n, k) to (s, n, r)."""
        U = U * self.scale**0.5
        if self._factors is not None:
            return torch.einsum("nrk,snk->snr", self._factors, U)
        if self._softmax is None:
            return self._d * U
        if reduced:
            return self._softmax.others(self._d * self._softmax.centred(U, share=True))
        return self._d * self._softmax.centred(U)


class Softmax:
    """What the products of the softmax's Hessians diag(q) (I - q q^T) diag(q) are made of, (n, k).

    All is relative to a likeliest class t, so that 1 - p_t, in which a confident sample would lose its digits, is only
    met as the sum of the other probabilities.
    """

    def __init__(self, outputs: Tensor, likeliest: Tensor) -> None:
        roots = torch.exp((outputs - outputs.amax(dim=1, keepdim=True)) / 2)
        self.q = roots / roots.norm(dim=1, keepdim=True)
        self._t = likeliest[:, None]
        self._is_t = torch.zeros_like(self.q, dtype=torch.bool).scatter_(1, self._t, True)
        classes = torch.arange(outputs.shape[1] - 1, device=outputs.device)
        self._others = classes + (classes >= self._t).long()
        self._q_t = self.q.gather(1, self._t)
        self._rest = torch.where(self._is_t, 0, self.q)  # q without q_t, whose squares are 1 - p_t

    def centred(self, U: Tensor, share: bool = False) -> Tensor:
        """U less its mean under p; `share`: 1 / (1 + q_t) of the mean of U - U_t from U - U_t, for the reflection."""
        U = U - U.gather(-1, self._t.expand(len(U), -1, -1))
        mean = (self._rest * self._rest * U).sum(-1, keepdim=True)
        return U - (mean / (1 + self._q_t) if share else mean)

    def without_sum(self, U: Tensor) -> Tensor:
        """U with minus the sum of the others at t."""
        return torch.where(self._is_t, -torch.where(self._is_t, 0, U).sum(-1, keepdim=True), U)

    def project(self, Y: Tensor) -> Tensor:
        """(I - q q^T) Y."""
        at_t = Y.gather(-1, self._t.expand(len(Y), -1, -1))
        along = (self._rest * Y).sum(-1, keepdim=True)
        out = Y - self.q * (along + self._q_t * at_t)
        own = (self._rest * self._rest).sum(-1, keepdim=True) * at_t - self._q_t * along
        return torch.where(self._is_t, own, out)

    # An orthonormal basis Q (k, k - 1) of what is orthogonal to q: the columns but t of the reflection
    # I - v v^T / (1 + q_t), v = q + e_t, which takes e_t to -q.
    def embed(self, Y: Tensor) -> Tensor:
        """Q Y."""
        whole = Y.new_zeros((len(Y), *self.q.shape)).scatter_(-1, self._others.expand(len(Y), -1, -1), Y)
        along = (self._rest * whole).sum(-1, keepdim=True)
        return torch.where(self._is_t, -along, whole - self.q * (along / (1 + self._q_t)))

    def others(self, U: Tensor) -> Tensor:
        """The entries of U but those at t."""
        return U.gather(-1, self._others.expand(len(U), -1, -1))


def _like(outputs: Tensor, array: Any) -> Tensor:
    return torch.tensor(array, dtype=outputs.dtype, device=outputs.device)
