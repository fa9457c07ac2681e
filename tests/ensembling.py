"""Random linear networks drawn whole, in plain NumPy, and what tells their law from another's."""

from __future__ import annotations

import numpy as np


def haar(rng, count, size):
    Q, R = np.linalg.qr(rng.standard_normal((count, size, size)))
    return Q * np.sign(np.diagonal(R, axis1=1, axis2=2))[:, None, :]


def drawn_weights(rng, count, shape, variance, skip, init):
    """(count, out, in), skips included."""
    rows, columns = shape
    if init == "orthogonal":
        W = haar(rng, count, max(shape))[:, :rows, :columns] * np.sqrt(variance * max(shape))
    elif init == "uniform":
        W = rng.uniform(-np.sqrt(3 * variance), np.sqrt(3 * variance), (count, rows, columns))
    else:
        W = rng.standard_normal((count, rows, columns)) * np.sqrt(variance)
    return W + skip * np.eye(rows, columns)


def drawn_grams(count, dims, variances, skips, init, seed=1):
    """P (count, L, k, k) and Q (count, L, d, d) of networks with weights."""
    rng = np.random.default_rng(seed)
    shapes = list(zip(dims[1:], dims[:-1], strict=True))
    weights = [drawn_weights(rng, count, *parts, init) for parts in zip(shapes, variances, skips, strict=True)]
    rights, lefts = [np.eye(dims[0])[None].repeat(count, 0)], [np.eye(dims[-1])[None].repeat(count, 0)]
    for W in weights[:-1]:
        rights.append(W @ rights[-1])
    for W in weights[:0:-1]:
        lefts.append(lefts[-1] @ W)
    P = np.stack([Y @ Y.transpose(0, 2, 1) for Y in lefts[::-1]], axis=1)
    return P, np.stack([X.transpose(0, 2, 1) @ X for X in rights], axis=1)


def statistics(P, Q):
    """Numbers of every network, by name: of the spectrum of sum_l P_l (x) Q_l, of entries, and joint ones."""
    count, depth, k = P.shape[:3]
    d = Q.shape[2]
    dual = np.einsum("nlab,nlij->naibj", P, Q).reshape(count, k * d, k * d)
    values = np.linalg.eigvalsh(dual)
    low = np.maximum(values[:, 0], 1e-9 * values[:, -1])  # of singular duals nothing but rounding is left
    found = {
        "lambda_min": low,
        "lambda_max": values[:, -1],
        "trace": values.sum(1),
        "kappa": values[:, -1] / low,
        "lambda_max / trace": values[:, -1] / values.sum(1),
    }
    p, q = np.trace(P.transpose(2, 3, 0, 1)), np.trace(Q.transpose(2, 3, 0, 1))  # (count, depth)
    for i in range(depth - 1):
        found |= {f"P{i}[0,0]": P[:, i, 0, 0], f"P{i}[0,-1]": P[:, i, 0, -1], f"tr P{i}": p[:, i]}
    for i in range(1, depth):
        found |= {f"Q{i}[0,0]": Q[:, i, 0, 0], f"Q{i}[0,-1]": Q[:, i, 0, -1], f"tr Q{i}": q[:, i]}
        for j in range(i):  # joint: layers above see the same weights as layers below
            found |= {f"tr P{j} / tr Q{i}": p[:, j] / q[:, i], f"tr P{j} tr Q{i}": p[:, j] * q[:, i]}
            found[f"P{j} Q{i}"] = P[:, j, 0, -1] * Q[:, i, 0, -1]
    return found


def distance(x, y):
    """Two-sample Kolmogorov-Smirnov distance."""
    both = np.concatenate([x, y])
    shares = [np.searchsorted(np.sort(z), both, side="right") / len(z) for z in (x, y)]
    return float(np.abs(shares[0] - shares[1]).max())


def differences(first, second, failure=1e-5):
    """Names of statistics whose laws differ: none, but for a probability of `failure` in all, if they are the same."""
    n, m = (len(next(iter(s.values()))) for s in (first, second))
    limit = np.sqrt(-np.log(failure / len(first) / 2) / 2 * (n + m) / (n * m))
    # Rounding tells constants apart that are the same: what varies by less is not compared, in numbers of order one.
    varying = [name for name, x in first.items() if np.ptp(x) > 1e-9]
    assert varying
    return {name: d for name in varying if (d := distance(first[name], second[name])) > limit}
