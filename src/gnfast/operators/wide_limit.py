"""Operators that fall apart in the wide limit, and the preconditioner that this gives them."""

from __future__ import annotations

from typing import Any

import numpy as np

from gnfast import _core, thresholds
from gnfast._arrays import Array, Device
from gnfast.operators.symmetric import SymmetricOperator


class Decoupling(SymmetricOperator):
    """An operator on `copies` vectors of size `block`; the wide limit, where they decouple, preconditions it."""

    decouples = True

    def __init__(
        self,
        core: _core.Operator,
        dtype: np.dtype[Any],
        device: Device,
        block: int,
        copies: int,
        interleaved: bool,
    ) -> None:
        super().__init__(core, dtype, device)
        self._block, self._copies, self._interleaved = block, copies, interleaved

    def _mean_over_outputs(self, out: Array) -> None:
        raise NotImplementedError

    def preconditioner(self) -> WideLimitInverse | None:
        """The inverse of the wide limit of this operator, I_k (x) its mean over outputs, or None if that is singular.

        In the wide limit the outputs decouple, so that one small Cholesky factorisation makes the low end of the
        spectrum easy whatever the data: docs/mathematics.md#the-low-end-by-the-wide-limit.
        """
        factor = self.device.empty((self._block, self._block), self.dtype)
        self._mean_over_outputs(factor)
        largest = float(factor.diagonal().max())
        if self.device.core.cholesky(factor):
            return None
        # Pivots of a singular matrix are zero up to rounding: where all are positive, the inverse may be anything.
        if float(factor.diagonal().min()) ** 2 <= thresholds.rounding_error(largest, self.dtype):
            return None
        return WideLimitInverse(factor, self._copies, self._interleaved, self.device)


class WideLimitInverse(SymmetricOperator):
    """(I_k (x) C C^T)^-1, or (C C^T (x) I_k)^-1 when interleaved, from a Cholesky factor C in a lower triangle."""

    def __init__(self, factor: Array, copies: int, interleaved: bool, device: Device) -> None:
        super().__init__(device.core.cholesky_inverse(factor, copies, interleaved), factor.dtype, device)
        self._parts = factor, copies, interleaved, device

    def _recipe(self) -> tuple[Any, ...]:
        return type(self), self._parts
