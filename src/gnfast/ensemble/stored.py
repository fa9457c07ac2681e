"""P_l and Q_l from weights that are drawn whole, for laws that have no shorter way."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gnfast.ensemble.dice import orthonormal
from gnfast.ensemble.grams import FORWARD, Grams, generator
from gnfast.ensemble.results import FloatArray


def stored_bytes(shapes: Sequence[tuple[int, int]]) -> int:
    """Of the weights of one network in float64."""
    return 8 * sum(rows * columns for rows, columns in shapes)


def drawn_weights(
    init: str, shapes: Sequence[tuple[int, int]], variances: Sequence[float], seed: int, sample: int
) -> list[FloatArray]:
    """Weights (out, in) of one network; init is "uniform", or "orthogonal": a Haar frame times sqrt(v max(out, in))."""
    weights = []
    for layer, (shape, v) in enumerate(zip(shapes, variances, strict=True)):
        rng = generator(seed, sample, layer, FORWARD)
        if init == "uniform":
            limit = np.sqrt(3 * v)
            weights.append(rng.uniform(-limit, limit, shape))
        else:
            frame = orthonormal(rng.standard_normal((max(shape), min(shape)))) * np.sqrt(v * max(shape))
            weights.append(np.ascontiguousarray(frame if shape[0] >= shape[1] else frame.T))
    return weights


def uniform_grams(
    shapes: Sequence[tuple[int, int]],
    variances: Sequence[float],
    skips: Sequence[float],
    frame: FloatArray,
    seed: int,
    sample: int,
) -> Grams:
    """One sample with independent entries of each weight, uniform on [-sqrt(3 v), sqrt(3 v)].

    Args:
        shapes, variances, skips: Of W_1 ... W_L, (out, in) each.
        frame: (d, r), the inputs that are looked at.
        seed, sample: As for `chain_grams`.
    """
    weights = drawn_weights("uniform", shapes, variances, seed, sample)
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
