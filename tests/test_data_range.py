"""The range of the data of linear networks: singular values count down to rounding of the data, not of squares."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gnfast as gn
from gnfast.factors import range_factor
from gnfast.networks.patches import composed_convolution

EPS = np.finfo(float).eps


def with_singular_values(n, s, seed, dtype="float64"):
    """X (n, d), d = len(s), with these singular values up to eps times the largest."""
    rng = np.random.default_rng(seed)
    U = np.linalg.qr(rng.standard_normal((n, len(s))))[0] if n >= len(s) else None
    if U is None:  # the first n alone
        V = np.linalg.qr(rng.standard_normal((len(s), n)))[0]
        return np.ascontiguousarray(np.linalg.qr(rng.standard_normal((n, n)))[0] * np.array(s[:n]) @ V.T, dtype)
    V = np.linalg.qr(rng.standard_normal((len(s), len(s))))[0]
    return np.ascontiguousarray(U * np.array(s) @ V.T, dtype)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(1, 40),
    st.lists(st.sampled_from([1.0, 0.3, 1e-3, 1e-6, 3e-8, 1e-9, 1e-11, 1e-13, 0.0]), min_size=1, max_size=9),
    st.integers(0, 10**6),
    st.booleans(),
    st.sampled_from([1.0, 1e-150, 1e150]),
)
def test_factor_keeps_what_the_data_have(n, s, seed, affine, size):
    s = sorted([1.0, *s], reverse=True)
    X = with_singular_values(n, s, seed) * size
    full = np.hstack([X, np.ones((n, 1))]) if affine else X
    factor = range_factor(X, 1.0, affine)
    expected = np.linalg.svd(full, compute_uv=False)
    found = np.linalg.svd(factor, compute_uv=False)
    cut = max(16, *full.shape) * EPS * expected[0]
    kept = np.count_nonzero(expected > 30 * cut)
    assert kept <= len(found) <= np.count_nonzero(expected > cut / 30)
    # those that the second moment resolves it has to the accuracy of the moment, of size^2 eps; the others are exact
    slack = np.minimum(100 * EPS * expected[0] ** 2 / np.maximum(expected[:kept], cut), np.sqrt(EPS) * expected[0])
    np.testing.assert_array_less(np.abs(found[:kept] - expected[:kept]), np.maximum(slack, 30 * cut))


@pytest.mark.parametrize("n", [3, 20, 57])
@pytest.mark.parametrize("small", [1e-5, 1e-6, 1e-7, 3e-8, 1e-8, 1e-10, 1e-12])
def test_one_layer_has_the_condition_number_of_the_data_or_says_what_it_cut(n, small):
    X = with_singular_values(n, [1.0, 1e-2, small], seed=n)
    true = np.divide(*np.linalg.svd(X, compute_uv=False)[[0, 2]]) ** 2
    found = gn.cond(gn.GaussNewton(gn.mlp([3, 1], "identity", seed=1), X))
    assert gn.bounds.linear(gn.mlp([3, 1], "identity", seed=1), X).parts["rank"] == 3
    if found.rank == 3:
        assert found.lower <= true <= found.upper
    else:
        assert found.rank == 2
        assert true >= found.lambda_max / found.cut / 4
        assert "1 of 3 eigenvalues are at or below the cut" in found.upper_from
        assert f"at least {found.lambda_max / found.cut:.1e}" in found.upper_from


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("small", [3e-2, 1e-3, 1e-5, 1e-7, 3e-9])
def test_duals_of_linear_networks_have_the_rank_of_the_data(dtype, small):
    """A deep network, biases, weights and few samples: the dual has all directions, and `cond` says what it cuts."""
    X = with_singular_values(12, [1.0, 0.5, small], 3, dtype)
    weights = np.linspace(0.5, 2, 12).astype(dtype)
    for bias in (False, True):
        net = gn.mlp([3, 6, 2], "identity", bias=bias, seed=2, dtype=dtype)
        G = gn.GaussNewton(net, X, weights=weights)
        assert G.linear_dual().shape[0] == 2 * (3 + bias)
        found, top = gn.cond(G.linear_dual()), gn.cond(G.gram(reduced=True))
        if found.rank == found.dimension:
            values = np.linalg.eigvalsh(G.gram().to_dense().astype(float))
            slack = 40 * np.finfo(dtype).eps * values[-1]
            assert abs(found.lambda_min - values[-found.rank]) <= slack
            assert abs(found.lambda_min - top.lambda_min) <= slack or top.rank < found.rank
        else:
            assert "count as zero" in found.upper_from or "no clear gap" in found.notes[0]


def test_patches_of_convolutions_likewise():
    """One-dimensional images whose patches have a tiny direction: alternating signs of 1e-9."""
    rng = np.random.default_rng(0)
    smooth = np.repeat(rng.standard_normal((5, 1, 1)), 8, 2)
    X = smooth + 1e-9 * rng.standard_normal((5, 1, 1)) * (-1.0) ** np.arange(8)
    net = gn.Network([gn.Conv1d(rng.standard_normal((2, 1, 2))), gn.Flatten()])
    linear = composed_convolution(net.layers, X.shape[1:])
    factor = linear.range_factor(X, 1 / 5)
    rows = np.concatenate([X[:, 0, t : t + 2] for t in range(7)])
    expected = np.linalg.svd(rows, compute_uv=False) / np.sqrt(5)
    np.testing.assert_allclose(np.linalg.svd(factor, compute_uv=False), expected, rtol=1e-5)
    assert gn.GaussNewton(net, X).linear_dual().shape == (4, 4)
    found, bound = gn.cond(gn.GaussNewton(net, X)), gn.bounds.conv(net, X, "jacobian")
    true = (expected[0] / expected[1]) ** 2
    assert bound.parts["rank"] == 2
    assert bound.value >= true * (1 - 1e-5)
    assert found.rank == 2  # twice the large one; kappa is 1e17 and said to be beyond
    assert "2 of 4 eigenvalues" in found.upper_from


def test_nothing_resolved_is_said():
    """Squared weights of 300 and five samples: eigenvalues below 1e-40 are no condition number of 1."""
    rng = np.random.default_rng(5)
    X = rng.standard_normal((5, 4))
    rng = np.random.default_rng(0)
    W = [rng.standard_normal((6, 4)) / 2, 300 * rng.standard_normal((3, 6)) / 6**0.5]
    found = gn.cond(gn.GaussNewton(gn.Network([gn.Dense(W[0]), gn.Activation("tanh"), gn.Dense(W[1])]), X, "mse"))
    assert "the whole spectrum" in found.upper_from
    A = np.diag([1.0, 1e-18, 1e-40, 1e-60])
    said = gn.cond(A)
    assert (said.rank, said.dimension) == (1, 4)
    assert "the whole spectrum" not in said.upper_from
    assert "3 of 4 eigenvalues are at or below the cut" in said.upper_from
    assert said.lambda_max / said.cut <= 1e60
