"""Random networks drawn whole, in plain NumPy and many at a time: what ensembles without weights must agree with."""

from __future__ import annotations

import numpy as np
import scipy.special

ACTIVATIONS = {
    "identity": lambda z, a: (z, np.ones_like(z)),
    "relu": lambda z, a: (np.maximum(z, 0), 1.0 * (z > 0)),
    "leaky_relu": lambda z, a: (np.where(z > 0, z, a * z), np.where(z > 0, 1, a)),
    "tanh": lambda z, a: (np.tanh(z), 1 - np.tanh(z) ** 2),
    "sigmoid": lambda z, a: (scipy.special.expit(z), scipy.special.expit(z) * scipy.special.expit(-z)),
    "gelu": lambda z, a: (
        z * scipy.special.ndtr(z),
        scipy.special.ndtr(z) + z * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi),
    ),
}


def drawn_weights(rng, count, widths, variances, skips):
    """One array (count, out, in) a layer, with the skips' identities; widths [d, m_1, ..., k]."""
    shapes = zip(widths[1:], widths[:-1], strict=True)
    return [
        rng.standard_normal((count, *shape)) * np.sqrt(v) + b * np.eye(*shape)
        for shape, v, b in zip(shapes, variances, skips, strict=True)
    ]


def roots(loss, F):
    """R_i^T with H_i = R_i R_i^T, (count, n, k, k)."""
    count, n, k = F.shape
    if loss == "mse":
        return np.broadcast_to(np.eye(k), (count, n, k, k))
    if loss == "cross_entropy":
        p = scipy.special.softmax(F, axis=-1)
        return np.sqrt(p)[..., None] * np.eye(k) - np.sqrt(p)[..., :, None] * p[..., None, :]
    precision = np.exp(-F[..., 1::2])
    diagonal = {
        "binary_cross_entropy": scipy.special.expit(F) * scipy.special.expit(-F),
        "poisson": np.exp(F),
        "gaussian_nll": np.stack([precision, np.full_like(precision, 0.5)], -1).reshape(*F.shape[:-1], -1),
    }[loss]
    return np.sqrt(diagonal)[..., None] * np.eye(k)


def gram_duals(weights, X, activation, slope=0.01, loss="mse", bias=False):
    """K (count, n k, n k), mean over samples, and the outputs (count, n, k)."""
    phi, n = ACTIVATIONS[activation], len(X)
    a, inputs, derivatives = np.broadcast_to(X, (len(weights[0]), *X.shape)), [], []
    for layer, W in enumerate(weights):
        inputs.append(a)
        a, d = phi(a @ W.transpose(0, 2, 1), slope) if layer + 1 < len(weights) else (a @ W.transpose(0, 2, 1), None)
        derivatives.append(d)
    F, B, K = a, roots(loss, a), 0
    k = F.shape[-1]
    for layer in range(len(weights) - 1, -1, -1):
        A = inputs[layer] @ inputs[layer].transpose(0, 2, 1) + bias
        rows = B.reshape(len(B), n * k, -1)
        K = K + np.repeat(np.repeat(A, k, 1), k, 2) * (rows @ rows.transpose(0, 2, 1)) / n
        if layer:
            B = (B @ weights[layer][:, None]) * derivatives[layer - 1][:, :, None, :]
    return K, F


def statistics(K, F, rank, entries):
    """Numbers of every network by name: of the spectrum (its `rank` largest eigenvalues), of blocks, and joint ones.

    `entries`: whether single entries of K mean anything, which they do not where R_i may be turned.
    """
    n = F.shape[1]
    values = np.linalg.eigvalsh(K)[:, -rank:]
    low, high, trace = np.maximum(values[:, 0], 1e-9 * values[:, -1]), values[:, -1], values.sum(1)
    r = K.shape[1] // n
    blocks = K.reshape(-1, n, r, n, r)
    tr0 = np.trace(blocks[:, 0, :, 0], axis1=1, axis2=2)
    across = (blocks[:, 0, :, 1] ** 2).sum((1, 2))
    found = {
        "lambda_min": low,
        "lambda_max": high,
        "trace": trace,
        "kappa": high / low,
        "lambda_max / trace": high / trace,
        "lambda_min lambda_max": low * high,
        "tr K_00": tr0,
        "|K_01|": across,
        "tr K_00 / tr K": tr0 / trace,
        "F_00": F[:, 0, 0],
        "F_00 F_1k": F[:, 0, 0] * F[:, 1, -1],
        "F_00^2 / tr K_00": F[:, 0, 0] ** 2 / tr0,
        "F_00^2 tr K_00": F[:, 0, 0] ** 2 * tr0,
    }
    if entries:
        found |= {"K[0,0]": K[:, 0, 0], "K[0,-1]": K[:, 0, -1], "K[2,1]": K[:, 2, 1], "F K": F[:, 0, 0] * K[:, 0, -1]}
    return found
