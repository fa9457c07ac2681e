"""Arrays in one vector with their axes in another order, as NumPy's transpositions have them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gnfast import _core

# Scalars, biases, kernels of dense layers and of convolutions; longer and shorter than a tile of 64 x 16.
SHAPES = [(1,), (70,), (5, 7), (130, 65), (16, 64), (3, 2, 5, 67), (4, 1, 1, 9), (1, 1), (2, 3, 66)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("vectors", [1, 3])
def test_permuted_rows(dtype, vectors):
    rng = np.random.default_rng(0)
    for turn in range(4):
        orders = [list(itertools.permutations(range(len(shape)))) for shape in SHAPES]
        axes = [order[turn * 5 % len(order)] for order in orders]
        parts = [rng.standard_normal((vectors, *shape)).astype(dtype) for shape in SHAPES]
        places = rng.permutation(len(SHAPES))  # the arrays follow each other in another order, too
        sizes = np.array([part[0].size for part in parts])
        starts = np.concatenate([[0], np.cumsum(sizes)])
        to, at = {}, 0
        for i in places:
            to[i], at = at, at + sizes[i]
        moves = [(int(starts[i]), int(to[i]), SHAPES[i], axes[i]) for i in range(len(SHAPES))]
        rows = np.concatenate([part.reshape(vectors, -1) for part in parts], axis=1)
        out = np.full_like(rows, np.nan)
        _core.permute_rows(rows, out, moves)
        turned = [parts[i].transpose(0, *(axis + 1 for axis in axes[i])).reshape(vectors, -1) for i in places]
        np.testing.assert_array_equal(out, np.concatenate(turned, axis=1))


def test_arrays_that_do_not_fit_are_refused():
    rows = np.zeros((2, 6))
    for move in [(0, 1, (2, 3), (1, 0)), (1, 0, (2, 3), (1, 0)), (0, 0, (2, 3), (0,)), (-1, 0, (2,), (0,))]:
        with pytest.raises(ValueError, match="does not fit its vector"):
            _core.permute_rows(rows, rows.copy(), [move])
