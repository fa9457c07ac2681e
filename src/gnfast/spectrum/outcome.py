"""The answer of a search for eigenpairs, which checks after it may correct."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gnfast import _core
from gnfast._arrays import Array


@dataclass
class Outcome:
    """The finds of one search, or of several after each other.

    Attributes:
        values: Ritz values of the pairs, from the end that was asked for inwards; of both ends by turns.
        residuals: |A y - value y| of each.
        others: The other Ritz values of the last basis.
        products: Vectors multiplied.
        passes: Products of a block.
        norm: The largest |Ritz value| that was seen.
        converged: Whether the tolerance was met.
        reason: Why the search ended, in words.
        steps: Block steps that span a whole Krylov space of a random start.
        interrupted: Whether the caller ended it.
    """

    values: Array
    residuals: Array
    others: Array
    products: int
    passes: int
    norm: float
    converged: bool
    reason: str
    steps: int = 0
    interrupted: bool = False

    @classmethod
    def of(cls, result: _core.SearchResult) -> Outcome:
        """The core's result."""
        return cls(
            np.array(result.values),
            np.array(result.residuals),
            np.array(result.others),
            result.products,
            result.passes,
            result.norm,
            result.converged,
            result.reason,
            result.steps,
            result.ended is _core.Ended.INTERRUPTED,
        )
