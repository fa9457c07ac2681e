"""Sums of Kronecker products of small symmetric matrices, as operators."""

from __future__ import annotations

from typing import Any

import numpy as np

from gnfast import _arrays, _core
from gnfast._arrays import Array
from gnfast.operators.wide_limit import Decoupling


class KroneckerSum(Decoupling):
    """sum_l P_l (x) R_l (k r, k r), which a dual of a linear network is, from its factors: no network, no data.

    Args:
        P: (L, k, k), symmetric.
        R: (L, r, r), symmetric, of the same dtype and on the same device.
    """

    space = "linear map"
    cheap_products = True

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
