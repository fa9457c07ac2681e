"""Traces of functions: probes are drawn until the error asked for is reached."""

from __future__ import annotations

import numpy as np
import pytest
from spectra import N, as_operator, with_spectrum

import gnfast as gn

VALUES = np.linspace(0.5, 3, N)
CALLS = {
    "logdet": (lambda op, **more: gn.logdet(op, 0.1, "lanczos", **more), np.log(VALUES + 0.1).sum()),
    "effective": (lambda op, **more: gn.effective_dimension(op, 2.0, "lanczos", **more), (VALUES / (VALUES + 2)).sum()),
}


@pytest.mark.parametrize("name", CALLS)
def test_tol_is_met(name):
    call, exact = CALLS[name]
    op = as_operator(with_spectrum(VALUES))
    first = call(op, probes=3, steps=25)
    tol = 0.3 * first.error / abs(first.value)
    found = call(op, probes=3, steps=25, tol=tol, max_products=10**6)
    assert found.converged
    assert found.products > first.products
    assert found.error <= tol * abs(found.value)
    assert abs(found.value - exact) <= 3 * found.error
    # drawn at once, the same
    again = call(op, probes=found.products // 25, steps=25)
    np.testing.assert_allclose([again.value, again.error], [found.value, found.error], rtol=1e-9)
    with pytest.warns(gn.ConvergenceWarning, match="raise max_products"):
        short = call(op, probes=3, steps=25, tol=tol, max_products=90)
    assert not short.converged
    assert short.products == 75


def test_steps_that_are_too_few_are_told():
    op = as_operator(with_spectrum(np.logspace(0, -8, N)))
    with pytest.warns(gn.ConvergenceWarning, match="raise steps"):
        found = gn.logdet(op, 1e-9, "lanczos", steps=6, tol=1e-3, max_products=10**6)
    assert not found.converged


def test_a_bad_tol_is_named():
    with pytest.raises(ValueError, match="tol is 0 but must be positive"):
        gn.logdet(as_operator(np.eye(N)), method="lanczos", tol=0)
