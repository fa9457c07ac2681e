"""Sums of Kronecker products against the same matrices in NumPy."""

import numpy as np
import pytest

import gnfast as gn
from gnfast.operators.kronecker_sum import KroneckerSum


def factors(terms, k, r, dtype):
    rng = np.random.default_rng(k)
    P, R = (rng.standard_normal((terms, size, size + 2)) for size in (k, r))
    return tuple((A @ A.transpose(0, 2, 1)).astype(dtype) for A in (P, R))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("terms", "k", "r"), [(3, 4, 7), (1, 1, 5), (2, 37, 33)])
def test_a_sum_of_kronecker_products_is_an_operator(dtype, terms, k, r):
    P, R = factors(terms, k, r, dtype)
    op, dense = KroneckerSum(P, R), sum(np.kron(p, q) for p, q in zip(P.astype(float), R.astype(float), strict=True))
    tol = 1e3 * float(np.finfo(dtype).eps)
    V = np.random.default_rng(0).standard_normal((k * r, 3)).astype(dtype)
    np.testing.assert_allclose(op @ V, dense @ V, atol=tol * np.abs(dense @ V).max())
    np.testing.assert_allclose(op.to_dense(), dense, rtol=tol, atol=tol)
    assert gn.trace(op).value == pytest.approx(np.trace(dense), rel=tol)
    mean = np.mean([dense[a * r : a * r + r, a * r : a * r + r] for a in range(k)], axis=0)
    np.testing.assert_allclose(mean @ (op.preconditioner() @ V)[:r], V[:r], atol=np.linalg.cond(mean) * tol)
    values = np.linalg.eigvalsh(dense)
    assert gn.cond(op).value == pytest.approx(values[-1] / values[0], rel=1e-4 + tol * values[-1] / values[0])
