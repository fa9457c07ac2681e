"""P_l and Q_l of random linear networks with skips, in law, without their weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.random import Generator

from gnfast.ensemble.grams import BACKWARD, FORWARD, Grams, generator
from gnfast.ensemble.random_weights import BackwardSketch, Weight, bartlett, orthonormal
from gnfast.ensemble.results import FloatArray, IntArray


class Coordinates:
    """Vectors of every layer by their coordinates in one orthonormal basis that grows as directions are seen.

    A skip adds the first m entries of a vector of one layer to one of the next, so that R^m is meant with its axes. The
    axes are split where a layer ends, and every part has a basis of its own: to cut a vector to R^m is to drop whole
    parts. The axes below `given` are basis vectors from the beginning; of the others only random directions matter.

    Vectors are columns of arrays (size, count), zero where a basis vector is not known yet.

    Args:
        dims: The widths of all layers.
        given: The widths of the inputs and outputs, whose axes mean something.
        growth: How many directions will be seen at most.
    """

    def __init__(self, dims: Sequence[int], given: int, growth: int) -> None:
        self._ends = sorted({*dims, given})
        sizes = np.diff([0, *self._ends])
        self._known = [int(size) if end <= given else 0 for size, end in zip(sizes, self._ends, strict=True)]
        self._unknown = [int(size) - known for size, known in zip(sizes, self._known, strict=True)]
        room = [known + min(more, growth) for known, more in zip(self._known, self._unknown, strict=True)]
        self._starts = np.cumsum([0, *room[:-1]])
        self.size = sum(room)

    def rows(self, m: int) -> IntArray:
        """The places of the known coordinates of R^m."""
        return np.concatenate([self._starts[i] + np.arange(self._known[i]) for i in self._parts(m)])

    def axes(self, vectors: FloatArray) -> FloatArray:
        """Vectors (given, count) by their own entries."""
        out = np.zeros((self.size, vectors.shape[1]))
        out[: len(vectors)] = vectors
        return out

    def cut(self, vectors: FloatArray, m: int) -> FloatArray:
        """The rectangular identity to R^m: entries from m on are dropped."""
        out = np.zeros_like(vectors)
        rows = self.rows(m)
        out[rows] = vectors[rows]
        return out

    def factor(self, vectors: FloatArray, m: int) -> tuple[FloatArray, FloatArray]:
        """F R = vectors of R^m, F (size, p) orthonormal in R^m whatever the rank."""
        rows = self.rows(m)
        Q, R = np.linalg.qr(vectors[rows])
        return self._spread(Q, rows), R

    def frame(self, rng: Generator, m: int, count: int, beside: FloatArray | None = None) -> FloatArray:
        """A uniformly random frame (size, count) in R^m, orthogonal to the frame `beside`.

        Gaussian coordinates: N(0, 1) in the known span, and outside of it a triangular factor along new basis vectors.
        """
        G = np.zeros((self.size, count))
        if count == 0:
            return G
        known = self.rows(m)
        G[known] = rng.standard_normal((len(known), count))
        if beside is not None:
            G -= beside @ (beside.T @ G)
        for i in self._parts(m):
            if not self._unknown[i]:
                continue
            outside = bartlett(rng, self._unknown[i], count, 1.0)
            first = self._starts[i] + self._known[i]
            G[first : first + len(outside)] = outside
            self._known[i] += len(outside)
            self._unknown[i] -= len(outside)
        rows = self.rows(m)
        return self._spread(orthonormal(G[rows]), rows)

    def _parts(self, m: int) -> range:
        return range(self._ends.index(m) + 1)

    def _spread(self, values: FloatArray, rows: IntArray) -> FloatArray:
        out = np.zeros((self.size, values.shape[1]))
        out[rows] = values
        return out


def skip_grams(weights: Sequence[Weight], skips: Sequence[float], inputs: FloatArray, seed: int, sample: int) -> Grams:
    """One sample of all P_l and Q_l of (W_L + b_L I) ... (W_1 + b_1 I) on the columns of `inputs`.

    The steps are those of `feedforward_grams`, with the frames in coordinates, since skips carry vectors past the
    weights: O(L^2 (rank + k)^3) flops whatever the widths.

    Args:
        weights: W_1 (m_1, d) to W_L (k, m_{L-1}), two at least.
        skips: b_1 ... b_L.
        inputs: (d, rank), orthonormal columns.
        seed, sample: The sample depends on these, and on what is asked for, alone.
    """
    d, k, rank, depth = weights[0].columns, weights[-1].rows, inputs.shape[1], len(weights)
    given = max(d, k)
    space = Coordinates([d, *(weight.rows for weight in weights)], given, depth * (rank + k))
    X, Q, seen = space.axes(inputs), [], []
    for layer, (weight, skip) in enumerate(zip(weights, skips, strict=True)):
        F, R = space.factor(X, weight.columns)
        Q.append(R.T @ R)
        rng = generator(seed, sample, layer, FORWARD)
        sketch = weight.apply(rng, F.shape[1], 0.0)
        U = space.frame(rng, weight.rows, sketch.rank)
        seen.append((F, U, sketch))
        if layer < depth - 1:
            X = U @ (np.sqrt(weight.out_scale) * sketch.T @ R) + skip * space.cut(X, weight.rows)
    Y, P = space.axes(np.eye(k)), [np.eye(k)]
    for layer in reversed(range(1, depth)):
        weight, (F, U, sketch) = weights[layer], seen[layer]
        rng = generator(seed, sample, layer, BACKWARD)
        V, R = space.factor(Y, weight.rows)
        f = V.T @ U
        _, s, directions = np.linalg.svd(V - U @ f.T, full_matrices=False)
        h = (directions.T * s)[:, : weight.rows - sketch.rank]
        moved = weight.apply_transpose(rng, sketch, BackwardSketch(f, h))
        beyond = space.frame(rng, weight.columns, moved.h.shape[1], beside=F)
        through = np.sqrt(weight.in_scale) * (F @ moved.f.T + beyond @ moved.h.T) @ R
        Y = through + skips[layer] * space.cut(Y, weight.columns)
        P.append(Y.T @ Y)
    ones = np.ones(depth)
    return Grams(np.stack(P[::-1]), np.stack(Q), ones, ones)
