"""Explicit Jacobians, Gauss-Newton matrices and their duals in plain NumPy float64, to test the compiled core against.

Nothing here imports gnfast. A network is either an object with `.layers` (dense ones have `.weight`, `.bias`, `.skip`,
activations `.name`, `.slope`), or plain data: a sequence of

    W                 a dense layer without bias, W (out, in) the effective weight
    (W, b)            a dense layer, b (out,) or None
    "relu"            an activation
    ("leaky_relu", a) an activation with its slope

Parameters are flat in layer order, row-major, weight before bias, as `torch.nn.Module.parameters()`. Rows of a Jacobian
are ordered (sample, output). Everything is stored whole, so keep the problems small.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.special import erf, expit, softmax


class Dense(NamedTuple):
    weight: np.ndarray  # (out, in), skip included
    bias: np.ndarray | None


class Activation(NamedTuple):
    name: str
    slope: float


class LinearDual(NamedTuple):
    P: list[np.ndarray]  # (k, k) for each dense layer
    Q: list[np.ndarray]  # (d, d), or (d + 1, d + 1) where a layer has a bias
    S: np.ndarray  # square root of the second moment of the inputs, with a column of ones where a layer has a bias


def plain(network: Any) -> list[Dense | Activation]:
    """The layers of `network` in float64, each skip folded into its weight."""
    layers: list[Dense | Activation] = []
    for layer in getattr(network, "layers", network):
        if hasattr(layer, "skip"):
            weight = np.asarray(layer.weight, np.float64)
            layer = (weight + layer.skip * np.eye(*weight.shape), layer.bias)
        elif hasattr(layer, "slope"):
            layer = (layer.name, layer.slope)
        elif isinstance(layer, str):
            layer = (layer, 0.01)
        elif isinstance(layer, np.ndarray):
            layer = (layer, None)
        head, tail = layer
        if isinstance(head, str):
            layers.append(Activation(head, tail))
        else:
            layers.append(Dense(np.asarray(head, np.float64), None if tail is None else np.asarray(tail, np.float64)))
    return layers


# ------------------------------------------------------------------------------------------------------- activations
def activate(activation: Activation, z: np.ndarray) -> np.ndarray:
    match activation.name:
        case "identity":
            return z
        case "relu":
            return np.where(z > 0, z, 0.0)
        case "leaky_relu":
            return np.where(z > 0, z, activation.slope * z)
        case "tanh":
            return np.tanh(z)
        case "gelu":
            return z * (1 + erf(z / np.sqrt(2))) / 2
        case "sigmoid":
            return expit(z)
    raise ValueError(activation.name)


def derivative(activation: Activation, z: np.ndarray) -> np.ndarray:
    """The derivative of the activation at z; at the kinks, z = 0, that of the left side, as PyTorch has it."""
    match activation.name:
        case "identity":
            return np.ones_like(z)
        case "relu":
            return np.where(z > 0, 1.0, 0.0)
        case "leaky_relu":
            return np.where(z > 0, 1.0, activation.slope)
        case "tanh":
            return 1 - np.tanh(z) ** 2
        case "gelu":
            return (1 + erf(z / np.sqrt(2))) / 2 + z * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
        case "sigmoid":
            return expit(z) * expit(-z)
    raise ValueError(activation.name)


# ------------------------------------------------------------------------------------------------- forward, Jacobian
def _walk(network: Any, X: np.ndarray) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """Outputs; the input of every dense layer; the derivative of the activations that follow it (ones if none do)."""
    value, inputs, derivatives = np.asarray(X, np.float64), [], []
    for layer in plain(network):
        if isinstance(layer, Dense):
            inputs.append(value)
            value = value @ layer.weight.T + (0 if layer.bias is None else layer.bias)
            derivatives.append(np.ones_like(value))
        else:
            if derivatives:
                derivatives[-1] = derivatives[-1] * derivative(layer, value)
            value = activate(layer, value)
    return value, inputs, derivatives


def _dense(network: Any) -> list[Dense]:
    return [layer for layer in plain(network) if isinstance(layer, Dense)]


def forward(network: Any, X: np.ndarray) -> np.ndarray:
    """Outputs (n, k)."""
    return _walk(network, X)[0]


def linearize(network: Any, X: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """For each dense layer its input (n, m_{l-1}) and the derivative of what follows it (n, m_l)."""
    return _walk(network, X)[1:]


def backward(network: Any, X: np.ndarray) -> list[np.ndarray]:
    """For each dense layer B (n, k, m_l), the derivative of the outputs with respect to what the layer gives."""
    dense, derivatives = _dense(network), _walk(network, X)[2]
    k = dense[-1].weight.shape[0]
    rows = [np.eye(k) * derivatives[-1][:, None, :]]
    for layer, below in zip(dense[:0:-1], derivatives[-2::-1], strict=True):
        rows.append((rows[-1] @ layer.weight) * below[:, None, :])
    return rows[::-1]


def jacobian(network: Any, X: np.ndarray) -> np.ndarray:
    """J (n k, p): d output_a(x_i) / d W_l[r, c] = B_l[i, a, r] A_{l-1}[i, c], and B_l[i, a, r] for the bias."""
    blocks = []
    for layer, A, B in zip(_dense(network), linearize(network, X)[0], backward(network, X), strict=True):
        rows = B.shape[0] * B.shape[1]
        blocks.append(np.einsum("iar,ic->iarc", B, A).reshape(rows, -1))
        if layer.bias is not None:
            blocks.append(B.reshape(rows, -1))
    return np.concatenate(blocks, axis=1)


# ------------------------------------------------------------------------------------------------- losses, Gauss-Newton
def hessian(loss: str, outputs: np.ndarray) -> np.ndarray:
    """H (n, k, k), the Hessian in the outputs of each sample's loss: 1/2 |F - y|^2, softmax, or a sum of Bernoulli or
    Poisson likelihoods with logits or log-rates F; of Gaussian ones with pairs (mean, log-variance) its mean over y."""
    n, k = outputs.shape
    if loss == "mse":
        return np.tile(np.eye(k), (n, 1, 1))
    if loss == "cross_entropy":
        p = softmax(outputs, axis=1)
        return np.eye(k) * p[:, None, :] - p[:, :, None] * p[:, None, :]
    if loss == "binary_cross_entropy":
        return np.eye(k) * (expit(outputs) * expit(-outputs))[:, None, :]
    if loss == "poisson":
        return np.eye(k) * np.exp(outputs)[:, None, :]
    if loss == "gaussian_nll":
        precision = np.exp(-outputs[:, 1::2])
        return np.eye(k) * np.stack([precision, np.full_like(precision, 0.5)], axis=2).reshape(n, 1, k)
    raise ValueError(loss)


def hessian_root(loss: str, outputs: np.ndarray) -> np.ndarray:
    """R (n, k, k) with R R^T = H; for the softmax R = diag(sqrt p) - p sqrt(p)^T, not symmetric."""
    if loss == "cross_entropy":
        p = softmax(outputs, axis=1)
        return np.eye(outputs.shape[1]) * np.sqrt(p)[:, None, :] - p[:, :, None] * np.sqrt(p)[:, None, :]
    return np.sqrt(hessian(loss, outputs))  # diagonal


def _scale(X: np.ndarray, reduction: str) -> float:
    return {"mean": 1 / len(X), "sum": 1.0}[reduction]


def gauss_newton(network: Any, X: np.ndarray, loss: str = "mse", reduction: str = "mean") -> np.ndarray:
    """G (p, p) = sum_i J_i^T H_i J_i, over n for the mean."""
    H = hessian(loss, forward(network, X))
    J = jacobian(network, X).reshape(*H.shape[:2], -1)
    return np.einsum("iap,iab,ibq->pq", J, H, J, optimize=True) * _scale(X, reduction)


def gram(network: Any, X: np.ndarray, loss: str = "mse", reduction: str = "mean") -> np.ndarray:
    """K (n k, n k) = R^T J J^T R, over n for the mean: the non-zero spectrum of G."""
    R = hessian_root(loss, forward(network, X))
    J = jacobian(network, X)
    RJ = np.einsum("iab,iap->ibp", R, J.reshape(*R.shape[:2], -1)).reshape(J.shape)
    return RJ @ RJ.T * _scale(X, reduction)


def gram_factors(network: Any, X: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each dense layer A A^T (n, n), plus ones for a bias, and B B^T (n k, n k): J J^T is the sum over layers of
    (A A^T with each entry repeated k x k times) * (B B^T), elementwise."""
    factors = []
    for layer, A, B in zip(_dense(network), linearize(network, X)[0], backward(network, X), strict=True):
        rows = B.reshape(B.shape[0] * B.shape[1], -1)
        factors.append((A @ A.T + (layer.bias is not None), rows @ rows.T))
    return factors


def linear_dual(network: Any, X: np.ndarray, reduction: str = "mean") -> LinearDual:
    """P_l, Q_l and S of a linear network: sum_l P_l (x) S Q_l S has the non-zero spectrum of G for the mse.

    With biases the input is (x, 1), and that of a layer C (x, 1), with a row (0, 1) below C where the layer has a bias.
    """
    dense = _dense(network)
    biased = any(layer.bias is not None for layer in dense)
    d, k = dense[0].weight.shape[1], dense[-1].weight.shape[0]
    left = [np.eye(k)]
    for layer in dense[:0:-1]:
        left.append(left[-1] @ layer.weight)
    C, Q = np.eye(d, d + biased), []
    for layer in dense:
        one = np.eye(1, d + 1, d) if layer.bias is not None else np.zeros((0, d + biased))
        Q.append(C.T @ C + one.T @ one)
        C = layer.weight @ C
        if layer.bias is not None:
            C[:, d] += layer.bias
    inputs = np.hstack([X, np.ones((len(X), 1))]) if biased else np.asarray(X, np.float64)
    w, V = np.linalg.eigh(inputs.T @ inputs * _scale(X, reduction))
    return LinearDual([B @ B.T for B in left[::-1]], Q, (V * np.sqrt(np.clip(w, 0, None))) @ V.T)


def linear_dual_matrix(network: Any, X: np.ndarray, reduction: str = "mean") -> np.ndarray:
    """The (k d, k d) matrix sum_l P_l (x) S Q_l S; d + 1 for d where a layer has a bias."""
    dual = linear_dual(network, X, reduction)
    return sum(np.kron(P, dual.S @ Q @ dual.S) for P, Q in zip(dual.P, dual.Q, strict=True))


# ------------------------------------------------------------------------------------------------------ spectra
def spectrum(M: np.ndarray) -> np.ndarray:
    """Eigenvalues of a symmetric matrix, ascending."""
    return np.linalg.eigvalsh((M + M.T) / 2)


def nonzero(M: np.ndarray, cut: float = 1e-10) -> np.ndarray:
    """The eigenvalues above `cut` times the largest, ascending."""
    values = spectrum(M)
    return values[values > cut * values[-1]]


def rank(M: np.ndarray, cut: float = 1e-10) -> int:
    return len(nonzero(M, cut))


def kappa(M: np.ndarray, cut: float = 1e-10) -> float:
    """Largest over smallest non-zero eigenvalue."""
    values = nonzero(M, cut)
    return float(values[-1] / values[0])
