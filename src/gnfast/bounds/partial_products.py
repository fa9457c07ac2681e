"""Parts of the bounds of linear networks: the range of the data, effective weights, Grams of partial products.

With W_l the effective weights (skips included), a linear network without biases has
P_l = (W_L...W_{l+1}) (W_L...W_{l+1})^T (k, k) and Q_l = (W_{l-1}...W_1)^T (W_{l-1}...W_1) (d, d). With a bias anywhere
the input is (x, 1), every layer's input is B_l (x, 1), and Q_l = B_l^T B_l + e e^T for a layer that has a bias, e the
last unit vector. Only d x d and k x k matrices and products as thin as d or k are formed, in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gnfast import thresholds
from gnfast.bounds.bound import FloatArray
from gnfast.bounds.paths import after, before, dense_layers, effective
from gnfast.bounds.spectra import Ends, eigen_ends
from gnfast.networks import Network
from gnfast.networks.layers import Dense


@dataclass(frozen=True)
class InputRange:
    """The range of Sigma = X^T X / n (of (x, 1) where the network has a bias).

    basis (d or d + 1, r) orthonormal and scale (r,), descending: Sigma = basis diag(scale^2) basis^T. Singular values
    of X below `cut` times the largest count as zero.
    """

    basis: FloatArray
    scale: FloatArray
    cut: float
    ones: bool
    samples: int

    @property
    def rank(self) -> int:
        """Directions of the data."""
        return len(self.scale)

    @property
    def ends(self) -> Ends:
        """Ends of the non-zero spectrum of Sigma."""
        margin = thresholds.decomposition_error(self.rank) * self.scale[0]
        return Ends(float((self.scale[0] + margin) ** 2), float(max(self.scale[-1] - margin, 0.0) ** 2))


def input_range(X: FloatArray, ones: bool) -> InputRange:
    """Range of the second moment of the rows of X (n, d), with a column of ones if `ones`."""
    if ones:
        X = np.hstack([X, np.ones((len(X), 1))])
    n, columns = X.shape
    cut = thresholds.data_threshold(1.0, X.shape)
    # Triangular first: the singular values are those of X without squaring, at the cost of X^T X for tall X.
    R = np.linalg.qr(X, mode="r") if n > columns else X
    _, s, Vt = np.linalg.svd(R, full_matrices=False)
    rank = int(np.count_nonzero(s > cut * s[0]))
    return InputRange(np.ascontiguousarray(Vt[:rank].T), s[:rank] / np.sqrt(n), cut, ones, n)


def has_bias(dense: Sequence[Dense]) -> bool:
    """Whether any of the layers has a bias."""
    return any(layer.bias is not None for layer in dense)


def augmented(layer: Dense) -> FloatArray:
    """[[W, b], [0, 1]]: the layer as a linear map of (a, 1)."""
    weight = effective(layer)
    out = np.zeros((weight.shape[0] + 1, weight.shape[1] + 1))
    out[:-1, :-1] = weight
    out[-1, -1] = 1.0
    if layer.bias is not None:
        out[:-1, -1] = layer.bias
    return out


@dataclass(frozen=True)
class PartialProducts:
    """The Grams of partial products, which are all that most bounds know of a network.

    Args:
        P: (L, k, k).
        Q: (L, r, r), restricted to the range of Sigma.
        inputs: The range of Sigma.
        hidden: Widths of the hidden layers, None where residual blocks or factors lead around them.
        biased: Whether each layer has a bias; empty for none.
        terms: How many products the longest sum behind an entry has.
    """

    P: FloatArray
    Q: FloatArray
    inputs: InputRange
    hidden: Sequence[int] | None
    biased: Sequence[bool] = ()
    terms: int = 0

    @property
    def outputs(self) -> int:
        """Outputs of the network, k."""
        return int(self.P.shape[1])

    @cached_property
    def left(self) -> list[Ends]:
        """The ends of the spectrum of each P_l."""
        return [eigen_ends(p, self.terms) for p in self.P]

    @cached_property
    def right(self) -> list[Ends]:
        """The ends of the spectrum of each Q_l."""
        return [eigen_ends(q, self.terms) for q in self.Q]

    @property
    def narrowness(self) -> str:
        """Why no layer's term can have full rank, judged by the widths alone; empty if one can."""
        return "" if self.hidden is None else narrowness(self.hidden, self.outputs, self.inputs)


def partial_products(net: Network, inputs: InputRange) -> PartialProducts:
    """All partial products of a linear network, O(sum_l m_l m_{l-1} (k + r)) flops."""
    dense, one = dense_layers(net.layers), inputs.basis[-1]  # `one` is read only where there are biases
    rights = before(net.layers, inputs.basis[: len(inputs.basis) - inputs.ones], one)
    P = np.stack([A @ A.T for A in after(net.layers, net.out_features)])
    Q = np.stack([B.T @ B + _ones(layer, one) for layer, B in zip(dense, rights, strict=True)])
    terms = max(inputs.samples, *(max(layer.weight.shape) for layer in dense))
    hidden = net.widths[1:-1] if net.is_feedforward_dense else None
    return PartialProducts(P, Q, inputs, hidden, [layer.bias is not None for layer in dense], terms)


def _ones(layer: Dense, one: FloatArray) -> FloatArray | float:
    """The part e e^T of Q that a bias adds."""
    return 0.0 if layer.bias is None else np.outer(one, one)


def narrowness(hidden: Sequence[int], k: int, inputs: InputRange) -> str:
    """Why no layer's term P_l (x) Q_l can have full rank, judged by the widths alone; empty if one can.

    Layer l's term needs r units in every hidden layer below it and k in every one above it (rank r of the inputs).
    """
    r = inputs.rank - inputs.ones
    low = next((j for j, m in enumerate(hidden) if m < r), None)
    high = next((j for j in reversed(range(len(hidden))) if hidden[j] < k), None)
    if low is None or high is None or high < low:
        return ""
    if hidden[high] < r:
        return f"layer {high + 1} has {hidden[high]} units, fewer than the {k} outputs and the rank {r} of the inputs"
    return (
        f"layer {low + 1} has {hidden[low]} units, fewer than the rank {r} of the inputs, "
        f"and layer {high + 1} has {hidden[high]}, fewer than the {k} outputs"
    )
