"""The small matrices P_l and Q_l of random linear networks without skips, in law, without their weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator, Philox

from gnfast.ensemble.random_weights import BackwardSketch, Weight, gram_of
from gnfast.ensemble.results import FloatArray

NEAR = 64  # see `shift_for`
FORWARD, BACKWARD = 0, 1


def generator(seed: int, sample: int, layer: int, direction: int) -> Generator:
    """Random numbers of their own for every sample, layer and direction: none depends on how many others are drawn."""
    key, counter = np.array([seed, sample], np.uint64), np.array([0, 0, direction, layer], np.uint64)
    return Generator(Philox(key=key, counter=counter))


@dataclass(frozen=True)
class Grams:
    """P_l = left_l (shift I + P[l]) and Q_l = right_l (shift I + Q[l]), l = 1..L, of one network.

    P_l = (W_L...W_{l+1}) (W_L...W_{l+1})^T (k, k); Q_l = (W_{l-1}...W_1 V)^T (W_{l-1}...W_1 V) (r, r) for a frame V (d,
    r) of the inputs. With shift 1 the arrays hold deviations from the identity, to their own last digit.

    Attributes:
        P: (L, k, k) float64.
        Q: (L, r, r) float64.
        left, right: (L,) float64.
        shift: 0 or 1.
    """

    P: FloatArray
    Q: FloatArray
    left: FloatArray
    right: FloatArray
    shift: float = 0.0

    def matrices(self) -> tuple[FloatArray, FloatArray]:
        """P_l and Q_l themselves, (L, k, k) and (L, r, r)."""
        k, r = self.P.shape[1], self.Q.shape[1]
        P, Q = self.P + self.shift * np.eye(k), self.Q + self.shift * np.eye(r)
        return self.left[:, None, None] * P, self.right[:, None, None] * Q


def shift_for(hidden: Sequence[int], size: int) -> float:
    """Whether all partial products are near a multiple of the identity: 1 if they are, 0 else.

    A Gaussian (m, size) matrix scaled by sqrt(m) has singular values 1 +- sqrt(size / m), and those of a product of L
    move by L times as much at most: by an eighth where m >= 64 L^2 size. In narrower networks little cancels.
    """
    return float(min(hidden) >= NEAR * (len(hidden) + 1) ** 2 * size)


def feedforward_grams(weights: Sequence[Weight], rank: int, seed: int, sample: int, shift: float) -> Grams:
    """One sample of all P_l and Q_l of W_L ... W_1 on an orthonormal frame of `rank` inputs, without skips.

    Forward X_l = W_l X_{l-1} = U_l C_l, C_l = T_l C_{l-1}: Q_{l+1} = C_l^T C_l. Backward Y_{l-1} = Y_l W_l from Y_{L-1}
    = W_L, in the frames of the X_l: P_l = Y_l Y_l^T. O(L (rank^3 + k^3)) flops and draws of every width.

    Args:
        weights: W_1 (m_1, d) to W_L (k, m_{L-1}), two at least.
        rank: At most d.
        seed, sample: The sample depends on these, and on what is asked for, alone.
        shift: 1 to hand on deviations from the identity (Gaussian weights, no bottleneck), 0 else.
    """
    *hidden, last = weights
    start, k = (0.0 if shift else 1.0), last.rows
    sketches, C = [], None
    Q, P = [start * np.eye(rank)], [start * np.eye(k)]
    for layer, weight in enumerate(hidden):
        sketch = weight.apply(generator(seed, sample, layer, FORWARD), rank, shift)
        C = sketch.T if C is None else sketch.before(C)
        Q.append(gram_of(C, shift))
        sketches.append(sketch)
        rank = sketch.rank
    rows: BackwardSketch = last.last_layer(generator(seed, sample, len(hidden), BACKWARD), rank, shift)
    P.append(rows.gram())
    for layer in reversed(range(1, len(hidden))):
        rows = hidden[layer].apply_transpose(generator(seed, sample, layer, BACKWARD), sketches[layer], rows)
        P.append(rows.gram())
    left = np.cumprod([1.0, *(weight.in_scale for weight in weights[:0:-1])], dtype=np.float64)[::-1]
    right = np.cumprod([1.0, *(weight.out_scale for weight in hidden)], dtype=np.float64)
    return Grams(np.stack(P[::-1]), np.stack(Q), left, right, shift)
