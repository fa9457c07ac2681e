"""Operators that are functions: every solver and estimator takes one, and asks for one block product only."""

from __future__ import annotations

import numpy as np
import pytest
from spectra import N, with_spectrum

import gnfast as gn

VALUES = np.linspace(0.5, 3, N)
CALLS = {
    "eigsh": lambda op: gn.eigsh(op, 3, method="lanczos", return_eigenvectors=False),
    "low end": lambda op: gn.eigsh(op, 3, "SA", "davidson", return_eigenvectors=False),
    "cond": lambda op: gn.cond(op).value,
    "rank": lambda op: gn.rank(op, 1.0, "lanczos", probes=4, steps=20).value,
    "trace": lambda op: gn.trace(op, "xtrace", 20).value,
    "diagonal": lambda op: gn.diagonal(op, "xdiag", 20).values,
    "density": lambda op: gn.density(op, steps=20).values,
    "logdet": lambda op: gn.logdet(op, method="lanczos", steps=20).value,
    "effective_dimension": lambda op: gn.effective_dimension(op, 0.1, "lanczos", steps=20).value,
    "solve": lambda op: gn.solve(op, np.ones(N, op.dtype), 0.1)[0],
}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", CALLS)
def test_a_function_gives_what_its_matrix_gives(name, dtype):
    M = with_spectrum(VALUES, dtype)
    blocks = []

    def function(V):
        assert V.dtype == M.dtype
        assert V.flags.f_contiguous
        blocks.append(V.shape)
        out = M @ V
        V[:] = np.nan  # the block is the function's own
        return out

    found = CALLS[name](gn.operator(function, N, dtype))
    assert all(len(shape) == 2 and shape[0] == N for shape in blocks)
    # products by another BLAS, and iterations that amplify rounding up to their tolerance
    np.testing.assert_allclose(found, CALLS[name](M), rtol=1e-6 if dtype == "float64" else 5e-3, atol=1e-4)


def test_lists_and_other_precisions_are_read():
    M = with_spectrum(VALUES)
    op = gn.operator(lambda V: (M @ V).tolist(), N, np.float32)
    np.testing.assert_allclose(op @ np.ones(N, np.float32), M @ np.ones(N), rtol=1e-4, atol=1e-5)
    assert repr(op).startswith(f"<{N}x{N}")


@pytest.mark.parametrize("name", CALLS)
def test_what_a_function_raises_comes_out(name):
    M, calls = with_spectrum(VALUES), []

    def function(V):
        calls.append(V)
        if len(calls) > 2:
            raise LookupError("from the function")
        return M @ V

    op = gn.operator(function, N)
    with pytest.raises(LookupError, match="from the function"):
        CALLS[name](op)
        CALLS[name](op)  # the condition number forms a small matrix in one block


def test_what_is_refused():
    for call, error, text in (
        (lambda: gn.eigsh(lambda V: V), TypeError, r"op is a function, .* no size; pass gnfast.operator\(op, size\)"),
        (lambda: gn.trace(np.sin), TypeError, r"op is a ufunc, .* pass gnfast.operator"),
        (lambda: gn.operator(np.eye(3), 3), TypeError, "function is of type ndarray .* taken as they are"),
        (lambda: gn.operator(gn.operator(lambda V: V, 3), 3), TypeError, "function is of type Foreign"),
        (lambda: gn.operator(lambda V: V, 0), ValueError, "size is 0 but must be at least 1"),
        (lambda: gn.operator(lambda V: V, 3, "int8"), ValueError, "dtype is 'int8'"),
        (
            lambda: gn.operator(lambda V: V[:2], 3),
            ValueError,
            r"of shape \(2, 2\) for a block of vectors of shape \(3, 2\)",
        ),
        (lambda: gn.operator(lambda V: 1j * V, 3), TypeError, "complex product"),
        (lambda: gn.operator(lambda V: np.triu(np.ones((3, 3))) @ V, 3), ValueError, "not symmetric"),
    ):
        with pytest.raises(error, match=text):
            call()
    with pytest.raises(ValueError, match="NaN or infinite"):
        gn.trace(gn.operator(lambda V: V * np.nan, 70), "hutchinson")
