"""Sums of Kronecker products of small symmetric matrices, as operators."""

from __future__ import annotations

from typing import Any

import numpy as np

from gnfast import _arrays, _core
from gnfast._arrays import Array
from gnfast._runtime import blas_threads
from gnfast.bounds import Bound
from gnfast.bounds.linear import joint_from_factors
from gnfast.operators.symmetric import KnownDiagonal
from gnfast.operators.wide_limit import Decoupling


class SumOfProducts(Decoupling):
    """sum_l P_l (x) R_l (k r, k r), with what is known from its factors."""

    space = "linear map"
    cheap_products = True

    def factors(self) -> tuple[Array, Array]:
        """P (L, k, k) and R (L, r, r)."""
        raise NotImplementedError

    @property
    def vectors_at_once(self) -> int:
        """The block for one eigenvalue: a vector is k rows by itself, which fill a matrix product from some rows on."""
        return min(4, -(-8 // self._copies))

    def known_diagonal(self) -> KnownDiagonal:
        """The diagonal, from those of the factors."""
        P, R = (np.diagonal(factor, axis1=1, axis2=2).astype(np.float64) for factor in self.factors())
        return KnownDiagonal(np.einsum("la,lr->ar", P, R).ravel(), "diagonals of the factors P_l and R_l")

    def analytic_bound(self) -> Bound:
        """The bound of linear networks."""
        P, R = map(_arrays.to_host, self.factors())
        with blas_threads(R.shape[1]):
            return joint_from_factors(P, R)


class KroneckerSum(SumOfProducts):
    """sum_l P_l (x) R_l (k r, k r), which a dual of a linear network is, from its factors: no network, no data.

    Args:
        P: (L, k, k), symmetric.
        R: (L, r, r), symmetric, of the same dtype and on the same device.
    """

    def __init__(self, P: Array, R: Array) -> None:
        self._P, self._R = P, R
        home = _arrays.device_of(P)
        self._core = home.core.KroneckerSum(P.reshape(-1, P.shape[1]), R.reshape(-1, R.shape[1]))
        super().__init__(self._core, P.dtype, home, R.shape[1], P.shape[1], interleaved=False)

    def _recipe(self) -> tuple[Any, ...]:
        return type(self), (self._P, self._R)

    def factors(self) -> tuple[Array, Array]:
        """P (L, k, k) and R (L, r, r)."""
        return self._P, self._R

    def form(self, out: Array, progress: _core.Progress = None) -> int:
        """Write the lower triangle into `out` (N, N) in C order, and return the number of products made for it."""
        k, r = self._copies, self._block
        np.einsum("lab,lij->aibj", self._P, self._R, out=out.reshape(k, r, k, r), optimize=True)
        return 0

    def _mean_over_outputs(self, out: Array) -> None:
        self._core.mean_over_outputs(out)

    def __repr__(self) -> str:
        return f"KroneckerSum({self.shape[0]} x {self.shape[0]}, {len(self._P)} terms, {self.dtype})"
