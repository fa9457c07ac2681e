"""What a random start proves with a stated probability: the theorem's constants, and 200 draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from spectra import with_spectrum

import gnfast as gn
from gnfast import _core
from gnfast.spectrum.certificates import intervals, inverse_intervals, randomized_error, randomized_upper


@pytest.mark.parametrize("size", [100, 10_000, 10**8])
@pytest.mark.parametrize("steps", [10, 45])
@pytest.mark.parametrize("failure", [0.05, 1e-6])
def test_the_error_is_the_one_whose_failure_is_that_probability(size, steps, failure):
    for block in (1, 3):
        e = randomized_error(size, steps, block, failure)
        if e == 1:
            assert 1.648 * math.sqrt(size) * math.exp(-(2 * steps - 1)) > failure ** (1 / block)
        elif steps * block < size:
            assert (1.648 * math.sqrt(size) * math.exp(-math.sqrt(e) * (2 * steps - 1))) ** block == pytest.approx(
                failure
            )
    assert randomized_error(size, size) == 0
    assert randomized_error(size, 0) == 1
    with pytest.raises(ValueError, match="failure is 2 but must be a probability"):
        randomized_error(size, steps, 1, 2)


@pytest.mark.parametrize("block", [1, 2])
def test_upper_ends_hold_at_the_stated_rate(block):
    """200 seeds, on spectra that hide their largest eigenvalue: failures at most as often as was stated."""
    size, steps, failure = 120, 8, 0.1
    for spectrum in (np.append(np.linspace(0, 1, size - 1), 1.15), np.linspace(0, 1, size) ** 0.25, np.eye(size)[0]):
        M = with_spectrum(spectrum)
        top, failed, below = spectrum.max(), 0, 0
        for seed in range(200):
            options = _core.SearchOptions(
                block=block, max_basis=steps * block, max_products=steps * block, tol=1e-15, seed=seed
            )
            raw = _core.lanczos(_core.stored(M), np.zeros((1, size)), options)
            upper = randomized_upper(raw.values[0], size, raw.steps, block, M.dtype, failure)
            failed += upper < top
            below += raw.values[0] < top * (1 - 1e-9)
            assert raw.steps <= steps
        assert failed <= 0.1 * 200
        assert below > 100 or spectrum.sum() == 1  # the Ritz value alone would not do
    assert randomized_upper(1.0, 10**6, 1, 1, M.dtype) == math.inf


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_intervals_are_never_narrower_than_rounding(dtype):
    found = intervals(np.array([1.0, 2.0]), np.array([0.0, 1e-3]), 2.0, np.dtype(dtype))
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(np.ptp(found, axis=1), [32 * eps, 2e-3 + 32 * eps], rtol=1e-6)
    low = inverse_intervals(np.array([4.0, 0.5]), np.array([1.0, 0.5]), 0.0, 1.0, np.dtype(dtype))
    np.testing.assert_allclose(low, [[1 / 5, 1 / 3], [1, np.inf]], atol=10 * eps)


def test_steps_end_at_a_restart_and_are_none_for_a_given_start():
    M = with_spectrum(np.linspace(1, 2, 400))
    info = gn.eigsh(M, 1, method="lanczos", block_size=4, return_info=True)[2]
    assert info.passes > info.steps == 15  # of 4 vectors in a basis of 60
    assert gn.eigsh(M, 1, method="lanczos", v0=np.ones(400), return_info=True)[2].steps == 0
