"""Linear networks of finite width: closed forms against drawn weights, and Bartlett's factors at large widths."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

import gnfast as gn


def drawn(rng, widths, c):
    """Ghat = sum_l P_l (x) Q_l of one network."""
    W = [
        rng.standard_normal((b, a)) * math.sqrt(v / a) for (a, b), v in zip(itertools.pairwise(widths), c, strict=True)
    ]
    k, d = widths[-1], widths[0]
    left, right = [np.eye(k)], [np.eye(d)]
    for w in W[:0:-1]:
        left.insert(0, left[0] @ w)
    for w in W[:-1]:
        right.append(w @ right[-1])
    return sum(np.kron(a @ a.T, b.T @ b) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize(
    ("hidden", "d", "k", "c"),
    [
        ([5], 3, 2, [1.0, 1.0]),
        ([4, 7], 3, 2, [0.7, 1.4, 1.2]),
        ([6, 3, 5], 2, 1, [1.0] * 4),
        ([4, 4, 4, 4], 1, 3, [1.1] * 5),
    ],
)
def test_moments(hidden, d, k, c):
    rng, samples = np.random.default_rng(1), 10_000
    found = gn.limits.linear(hidden, len(hidden) + 1, d, k, variances=c)
    G = np.array([drawn(rng, [d, *hidden, k], c) for _ in range(samples)])
    mean = G.mean(axis=0)
    error = G.std(axis=0) / math.sqrt(samples)
    assert (np.abs(mean - found.mean * np.eye(k * d)) < 5 * error + 1e-12).all()
    traces, squares = np.trace(G, axis1=1, axis2=2), np.sum(G**2, axis=(1, 2))
    size = k * d
    for value, draws in (
        (found.spread**2 * found.mean**2, squares / size - (traces / size) ** 2),
        ((1 + found.trace_deviation**2) * (size * found.mean) ** 2, traces**2),
    ):
        assert abs(value - draws.mean()) < 5 * draws.std() / math.sqrt(samples) + 1e-12
    assert found.shares.sum() == pytest.approx(1)


def test_one_width_for_all():
    several, one = gn.limits.linear([9, 9, 9], 4, 5, 2), gn.limits.linear(9, 4, 5, 2)
    assert several == one
    np.testing.assert_array_equal(several.shares, one.shares)
    np.testing.assert_allclose(one.mean, 1 + 3 * 9 / 5)


@pytest.mark.parametrize(("d", "k", "m"), [(150, 100, 400), (200, 50, 1000)])
def test_marchenko_pastur(d, k, m):
    rng = np.random.default_rng(0)
    V, W = rng.standard_normal((m, d)) * math.sqrt(1.5 / d), rng.standard_normal((k, m)) * math.sqrt(0.8 / m)
    found = gn.limits.marchenko_pastur(m, d, k, variances=[1.5, 0.8])
    for edges, M in ((found.first, V), (found.last, W)):
        s = np.linalg.svd(M, compute_uv=False) ** 2
        np.testing.assert_allclose(edges, (s[-1], s[0]), rtol=0.12)
    s, t = (np.linalg.svd(M, compute_uv=False) ** 2 for M in (V, W))
    assert found.kappa == pytest.approx((s[0] + t[0]) / (s[-1] + t[-1]), rel=0.15)


def test_bottlenecks():
    assert gn.limits.marchenko_pastur(5, 9, 7).kappa == math.inf
    assert gn.limits.marchenko_pastur(8, 9, 7).kappa < math.inf  # W W^T has full rank, and (x) I so has the first part
    assert gn.limits.marchenko_pastur(8, 9, 7).first[0] == 0


def bartlett(rng, m, p):
    """A factor of a Wishart matrix of m degrees of freedom, over m."""
    T = np.tril(rng.standard_normal((p, p)), -1)
    T[np.diag_indices(p)] = np.sqrt(rng.chisquare(m - np.arange(p)))
    return T / math.sqrt(m)


def test_first_order_of_kappa():
    """At m = 10^8, from products of Bartlett factors; edges of Gaussian orthogonal matrices are 5 % inside at 100."""
    rng, m, d, k, depth = np.random.default_rng(2), 10**8, 120, 80, 4
    C = [np.eye(d)]
    T = [bartlett(rng, m, d) for _ in range(depth - 1)]
    for t in T:
        C.append(C[-1] @ t)
    F = rng.standard_normal((k, d)) / math.sqrt(m)  # W_L on the span of what layer L - 1 gives
    first = bartlett(rng, m - d, k)
    P = [np.eye(k), F @ F.T + first @ first.T]
    for t in T[:0:-1]:
        F = F @ t.T
        c, w = np.linalg.cholesky(P[-1]), bartlett(rng, m - d, k)
        P.append(F @ F.T + c @ w @ w.T @ c.T)
    found = gn.limits.linear(m, depth, d, k)
    Q = [c @ c.T for c in C]
    w = found.shares
    # To first order the sum separates into one over P and one over Q.
    over_p = np.linalg.eigvalsh(sum(a * p for a, p in zip(w, P[::-1], strict=True)))
    over_q = np.linalg.eigvalsh(sum(a * q for a, q in zip(w, Q, strict=True)))
    excess = (over_p[-1] - over_p[0]) + (over_q[-1] - over_q[0])
    assert found.kappa - 1 == pytest.approx(excess, rel=0.1)
    assert gn.limits.linear(m, 2, d, 1).kappa == pytest.approx(gn.limits.marchenko_pastur(m, d, 1).kappa, rel=1e-5)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: gn.limits.linear(5, 1, 2, 2), "depth is 1 but must be at least 2"),
        (lambda: gn.limits.linear([5, 6, 7], 3, 2, 2), "m has 3 entries but 3 layers have 2 hidden ones"),
        (lambda: gn.limits.linear(5, 3, 2, 2, variances=[1.0, 0.0, 1.0]), "variances[1] is 0 but must be positive"),
        (lambda: gn.limits.marchenko_pastur(0, 2, 2), "m is 0 but must be at least 1"),
    ],
)
def test_mistakes(call, words):
    with pytest.raises(ValueError) as error:
        call()
    assert words in str(error.value)
