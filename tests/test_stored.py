"""Products with a matrix given by its lower triangle, and the check that one is symmetric: against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from spectra import with_spectrum

import gnfast as gn
from gnfast import _core


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("size", [1, 5, 256, 257, 321, 577, 1091])
def test_thin_and_wide_products_read_the_lower_triangle_only(size, threads, dtype):
    rng = np.random.default_rng(size)
    K = rng.standard_normal((size, size)).astype(dtype)
    whole = np.tril(K).astype(float) + np.tril(K, -1).astype(float).T
    lower = np.tril(K) + np.triu(np.full_like(K, np.nan), 1)
    op = _core.stored(lower)
    before = gn.get_num_threads()
    gn.set_num_threads(threads)
    try:
        for s in (1, 2, 3, 4, 7, 16, 17, 31):
            v = rng.standard_normal((s, size)).astype(dtype)
            out = np.full((s, size), np.nan, dtype)
            op.apply(v, out)
            # sums of `size` terms, each rounded
            slack = 4 * np.finfo(dtype).eps * (np.abs(v).astype(float) @ np.abs(whole))
            assert np.all(np.abs(out - v.astype(float) @ whole) <= slack)
    finally:
        gn.set_num_threads(before)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("size", [1, 31, 32, 33, 97, 130])
def test_asymmetry_sees_every_entry(size, dtype):
    M = with_spectrum(np.linspace(-1, 2, size), dtype)
    scale, difference, finite = _core.asymmetry(M)
    assert (scale, difference, finite) == (np.abs(M).max(), 0, True)
    rng = np.random.default_rng(0)
    for _ in range(40):
        i, j = rng.integers(size, size=2)
        changed = M.copy()
        changed[i, j] = 7
        scale, difference, finite = _core.asymmetry(changed)
        assert scale == 7
        assert difference == np.abs(changed - changed.T).max()
        assert finite
        for bad in (np.nan, np.inf, -np.inf):
            changed[i, j] = bad
            assert not _core.asymmetry(changed)[2]


def test_what_is_returned_is_what_was_asked_for():
    M = with_spectrum(np.linspace(1, 2, 30))
    G = gn.GaussNewton(gn.mlp([5, 9, 3], activation="relu"), np.random.default_rng(0).standard_normal((8, 5)))
    for op, size in ((M, 30), (G, G.shape[0])):
        values, vectors, info = gn.eigsh(op, 3, return_info=True)
        assert vectors.shape == (size, 3)
        np.testing.assert_array_equal(gn.eigsh(op, 3)[0], values)
        np.testing.assert_array_equal(gn.eigsh(op, 3, return_eigenvectors=False), values)
        again, same = gn.eigsh(op, 3, return_eigenvectors=False, return_info=True)
        np.testing.assert_array_equal(again, values)
        np.testing.assert_array_equal(same.residuals, info.residuals)
    with pytest.raises(TypeError, match="return_eigenvectors is 0 but must be True or False"):
        gn.eigsh(M, 3, return_eigenvectors=0)
