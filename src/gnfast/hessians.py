"""Products with the Hessians of a loss in the outputs, H_i = R_i R_i^T, of arrays of NumPy, PyTorch and JAX alike.

Cotangents are (s, n, k), columns of the factors (s, n, r): r is k, and k - 1 for the softmax where its null direction
is left out (`reduced`), or the rank of given blocks.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from gnfast.losses import LossAt

Arrays: TypeAlias = Any  # of the library whose namespace is given: numpy, torch or jax.numpy


class Hessians:
    """The Hessians of a loss at some samples' outputs (n, k), times one factor.

    H = diag(d) P diag(d), d the loss's roots and those of weights; P the identity or, where the loss couples outputs,
    what projects q out, its roots. Given blocks have factors instead.

    Args:
        xp: The namespace of the arrays.
        samples: Which of the loss's samples these are.
        likeliest: Of the softmax the class that each sample's outputs are taken relative to, (n,), one of those with
            the largest probability: the reduced factors are in a basis that depends on it. None: the first of them.
    """

    def __init__(
        self,
        xp: Any,
        loss: LossAt,
        outputs: Arrays,
        scale: float = 1.0,
        samples: slice = slice(None),
        likeliest: Arrays = None,
    ) -> None:
        self._xp, self._scale = xp, scale
        place = {"device": outputs.device} if xp.__name__ == "torch" else {}

        def like(array: Any) -> Arrays:
            return xp.asarray(np.array(array[samples]), dtype=outputs.dtype, **place)

        self._factors = None if loss.factors is None else like(loss.factors)
        self._projector: _Projector | None = None
        self._d: Arrays = 1.0 if loss.weights is None else like(loss.weights).reshape(len(outputs), -1) ** 0.5
        if self._factors is not None:
            return
        top = outputs.argmax(-1) if likeliest is None else likeliest
        classes = xp.arange(outputs.shape[-1], **place)
        roots = loss.kind.roots(xp, outputs, classes == top[:, None])
        if loss.kind.couples:
            self._projector = _Projector(xp, roots, classes, top[:, None])
        self._d = self._d * roots

    def apply(self, U: Arrays) -> Arrays:
        """scale H U."""
        if self._factors is not None:
            return self.root(self.root_transposed(U, reduced=True), reduced=True)
        weigh = self._scale * self._d * self._d
        if self._projector is None:
            return weigh * U
        return self._projector.without_sum(weigh * self._projector.centred(U))

    def root(self, Y: Arrays, reduced: bool) -> Arrays:
        """sqrt(scale) R Y: (s, n, r) to (s, n, k)."""
        Y = Y * self._scale**0.5
        if self._factors is not None:
            return self._xp.einsum("nrk,snr->snk", self._factors, Y)
        if self._projector is not None:
            Y = self._projector.embed(Y) if reduced else self._projector.project(Y)
        return self._d * Y

    def root_transposed(self, U: Arrays, reduced: bool) -> Arrays:
        """sqrt(scale) R^T U: (s, n, k) to (s, n, r)."""
        U = U * self._scale**0.5
        if self._factors is not None:
            return self._xp.einsum("nrk,snk->snr", self._factors, U)
        if self._projector is None:
            return self._d * U
        if reduced:
            return self._projector.others(self._d * self._projector.centred(U, share=True))
        return self._d * self._projector.centred(U)


class _Projector:
    """Parts of products of the softmax's Hessians diag(q) (I - q q^T) diag(q), q (n, k) of norm 1.

    All is relative to a likeliest class t (n, 1), so that 1 - p_t, in which a confident sample would lose its digits,
    is only met as the sum of the other probabilities.
    """

    def __init__(self, xp: Any, q: Arrays, classes: Arrays, t: Arrays) -> None:
        self._xp, self._q, self._is_t = xp, q, classes == t
        last = q.shape[-1] - 2
        inner = classes[:-1]
        self._others = inner + (inner >= t)
        self._among_others = (classes - 1 * (classes > t)).clip(max=last)
        self._q_t = self._at_t(q)
        self._rest = xp.where(self._is_t, 0, q)  # q without q_t, whose squares are 1 - p_t

    def _at_t(self, U: Arrays) -> Arrays:
        return self._xp.where(self._is_t, U, 0).sum(-1, keepdims=True)

    def _taken(self, U: Arrays, indices: Arrays) -> Arrays:
        take = self._xp.take_along_dim if self._xp.__name__ == "torch" else self._xp.take_along_axis
        return take(U, indices[None], -1)

    def centred(self, U: Arrays, share: bool = False) -> Arrays:
        """U less its mean under p; `share`: 1 / (1 + q_t) of the mean of U - U_t from U - U_t, for the reflection."""
        U = U - self._at_t(U)
        mean = (self._rest * self._rest * U).sum(-1, keepdims=True)
        return U - (mean / (1 + self._q_t) if share else mean)

    def without_sum(self, U: Arrays) -> Arrays:
        """U with minus the sum of the others at t."""
        return self._xp.where(self._is_t, -self._xp.where(self._is_t, 0, U).sum(-1, keepdims=True), U)

    def project(self, Y: Arrays) -> Arrays:
        """(I - q q^T) Y."""
        at_t = self._at_t(Y)
        along = (self._rest * Y).sum(-1, keepdims=True)
        out = Y - self._q * (along + self._q_t * at_t)
        own = (self._rest * self._rest).sum(-1, keepdims=True) * at_t - self._q_t * along
        return self._xp.where(self._is_t, own, out)

    # An orthonormal basis Q (k, k - 1) of what is orthogonal to q: the columns but t of the reflection
    # I - v v^T / (1 + q_t), v = q + e_t, which takes e_t to -q.
    def embed(self, Y: Arrays) -> Arrays:
        """Q Y."""
        whole = self._xp.where(self._is_t, 0, self._taken(Y, self._among_others))
        along = (self._rest * whole).sum(-1, keepdims=True)
        return self._xp.where(self._is_t, -along, whole - self._q * (along / (1 + self._q_t)))

    def others(self, U: Arrays) -> Arrays:
        """The entries of U but those at t."""
        return self._taken(U, self._others)
