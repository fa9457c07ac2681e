"""P_l and Q_l from weights that are drawn whole, for laws that have no shorter way."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gnfast.ensemble.grams import FORWARD, Grams, generator
from gnfast.ensemble.results import FloatArray


def stored_bytes(shapes: Sequence[tuple[int, int]]) -> int:
    """Bytes of the weights of one network in float64."""
    return 8 * sum(rows * columns for rows, columns in shapes)


def uniform_weights(
    shapes: Sequence[tuple[int, int]], variances: Sequence[float], seed: int, sample: int
) -> list[FloatArray]:
    """Weights (out, in) of one network, with independent entries uniform on [-sqrt(3 v), sqrt(3 v)]."""
    limits = [np.sqrt(3 * v) for v in variances]
    return [
        generator(seed, sample, layer, FORWARD).uniform(-limit, limit, shape)
        for layer, (shape, limit) in enumerate(zip(shapes, limits, strict=True))
    ]


def uniform_grams(
    shapes: Sequence[tuple[int, int]],
    variances: Sequence[float],
    skips: Sequence[float],
    frame: FloatArray,
    seed: int,
    sample: int,
) -> Grams:
    """One sample of the small matrices, by the weights of `uniform_weights`.

    Args:
        shapes, variances, skips: The shapes (out, in), variances and skips of W_1 ... W_L.
        frame: (d, r), the inputs that are looked at.
        seed, sample: As for `feedforward_grams`.
    """
    weights = uniform_weights(shapes, variances, seed, sample)
    for W, skip in zip(weights, skips, strict=True):
        diagonal = np.arange(min(W.shape))
        W[diagonal, diagonal] += skip
    rights, lefts = [frame], [np.eye(len(weights[-1]))]
    for W in weights[:-1]:
        rights.append(W @ rights[-1])
    for W in weights[:0:-1]:
        lefts.append(lefts[-1] @ W)
    ones = np.ones(len(weights))
    return Grams(np.stack([Y @ Y.T for Y in lefts[::-1]]), np.stack([X.T @ X for X in rights]), ones, ones)
