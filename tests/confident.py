"""Losses at samples of which a network is sure, without a difference that cancels: what the tests of them compare with.

The softmax's Hessian is the Laplacian of a complete graph, diag(p) - p p^T = sum_{a < b} p_a p_b (e_a - e_b)
(e_a - e_b)^T, of which every edge's root is known to all digits from the log-probabilities.
"""

from __future__ import annotations

import itertools

import numpy as np
import oracles
from scipy.special import log_softmax


def log_roots(loss, outputs):
    """The logarithms of the roots of H's terms (n, q), and their directions (q, k)."""
    outputs = np.asarray(outputs, np.float64)
    k = outputs.shape[1]
    if loss == "cross_entropy":
        lp = _log_softmax(outputs)
        pairs = list(itertools.combinations(range(k), 2))
        directions = np.zeros((len(pairs), k))
        for row, (a, b) in enumerate(pairs):
            directions[row, [a, b]] = 1, -1
        return np.stack([(lp[:, a] + lp[:, b]) / 2 for a, b in pairs], axis=1), directions
    if loss == "binary_cross_entropy":
        return -np.abs(outputs) / 2 - np.log1p(np.exp(-np.abs(outputs))), np.eye(k)
    if loss == "gaussian_nll":
        s = outputs[:, 1::2]
        return np.stack([-s / 2, np.full_like(s, np.log(0.5) / 2)], axis=2).reshape(len(s), k), np.eye(k)
    return outputs / 2 if loss == "poisson" else np.zeros_like(outputs), np.eye(k)


def _log_softmax(outputs):
    """Of the likeliest class by log1p: -(1 - p_t) to all digits."""
    lp = log_softmax(outputs, axis=1)
    t = outputs.argmax(axis=1)
    rest = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    rest[np.arange(len(t)), t] = 0
    lp[np.arange(len(t)), t] = -np.log1p(rest.sum(axis=1))
    return lp


def hessian(loss, outputs):
    """H (n, k, k), every entry to all digits where it is no less than 1e-308."""
    roots, directions = log_roots(loss, outputs)
    return np.einsum("nq,qa,qb->nab", np.exp(2 * roots), directions, directions)


def gauss_newton(network, X, loss, weights=None, reduction="mean"):
    """G (p, p) in float64."""
    H, J = hessian(loss, oracles.forward(network, X)), oracles.jacobian(network, X)
    H = H if weights is None else H * np.asarray(weights, np.float64).reshape(len(H), -1, 1)
    J = J.reshape(*H.shape[:2], -1)
    return np.einsum("iap,iab,ibq->pq", J, H, J, optimize=True) / (len(X) if reduction == "mean" else 1)


def spectrum(network, X, loss, weights=None):
    """The eigenvalues of G, descending, by the singular values of the terms' roots, and the logarithm of a factor that
    they all have: (values, log). Values down to 1e-30 of the largest have digits."""
    roots, directions = log_roots(loss, oracles.forward(network, X))
    if weights is not None:
        with np.errstate(divide="ignore"):
            roots = roots + np.log(np.asarray(weights, np.float64)).reshape(len(roots), -1) / 2
    top = roots.max()
    J = oracles.jacobian(network, X).reshape(len(X), directions.shape[1], -1)
    rows = np.einsum("nq,qa,nap->nqp", np.exp(roots - top), directions, J, optimize=True)
    values = np.linalg.svd(rows.reshape(-1, rows.shape[-1]), compute_uv=False)
    return values**2 / len(X), 2 * top
