"""Bounds by Schur's product theorem, for dense and residual networks of any depth, activation, bias and loss."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

from gnfast import thresholds
from gnfast.bounds.bound import Bound, FloatArray, Parts, quotient, silent
from gnfast.bounds.forward_record import ForwardRecord
from gnfast.bounds.inputs import as_data, in_float64, is_dense, with_ones
from gnfast.bounds.spectra import Ends, gram_ends
from gnfast.hessians import Hessians
from gnfast.losses import LossAt, loss_at
from gnfast.networks import Network

NAME = "deep.schur"
LAYERS = "the network has other layers than dense ones, activations and residual blocks"
STATEMENT = (
    "kappa(G) <= max_i lambda_max(sum_l U_li) / min_i lambda_min(sum_l L_li) with U_li = lambda_max(A_l) (B_l)_ii or "
    "lambda_max(B_l) (A_l)_ii I, L_li the same with lambda_min, A_l and B_l Grams of layer l's inputs and backward rows"
)
BACKWARD_GRAM_ROWS = 2000  # a Gram of this size takes 32 MB and its eigenvalues about a second
BLOCK_NUMBERS = 1 << 23  # in a block of backward rows: 64 MB


def deep(
    net: Network,
    X: npt.ArrayLike,
    loss: str | npt.ArrayLike = "mse",
    backward_gram: bool | None = None,
    weights: npt.ArrayLike | None = None,
) -> Bound:
    """An upper bound on kappa(G) for dense layers and residual blocks of any depth, activation, bias and loss.

    G has the non-zero spectrum of a sum over layers of Hadamard products of two Grams, each over n,
    K[(i,a),(j,b)] = (1/n) sum_l A_l[i,j] B_l[(i,a),(j,b)]: A_l (n, n) of the layer's inputs, plus 1 1^T for a bias, B_l
    (n q, n q) of the backward rows R_i^T dF_i/dz_l, R_i R_i^T = H_i the loss's Hessian, q its rank. By Schur's product
    theorem lambda_min(A) blockdiag(B_ii) and lambda_min(B) diag(A_ii) (x) I_q lie below a layer's term in the Loewner
    order, and the same with lambda_max above it. The better one is taken for each layer, the blocks are added over the
    layers, and the extreme eigenvalue over the samples is the bound.

    Args:
        net: Dense layers, activations, factors and residual blocks of these, nested at will. A convolution would need
            as many independent patches as there are samples times positions, which its channels hardly ever give.
        X: Data (n, d), of the network's dtype; the bound is computed in float64.
        loss: "mse", "cross_entropy" (q = k - 1, so that K can have full rank), "binary_cross_entropy", "poisson",
            "gaussian_nll", or the Hessians (n, k, k) themselves, q the largest rank of one.
        backward_gram: Whether the eigenvalues of B_l are used, which takes (n q)^2 numbers of memory; None: while
            n q <= 2000. Without them only the side of lambda(A) is.
        weights: (n,) or (n, k), as `GaussNewton` takes them.

    Returns:
        A Bound; its value is inf, with the reason, where no layer has n independent inputs (nor n q independent
        backward rows). Parts per layer: "inputs_max" and "inputs_min" (ends of A_l), "backward_max" and "backward_min"
        (of B_l, nan where not used), "upper_side" and "lower_side" ("inputs" or "backward"); and "lambda_max_upper",
        "lambda_min_lower".

    Raises:
        ValueError: An unknown loss, or data that do not fit the network.
        TypeError: Data of another dtype than the network's.

    Reference: Horn & Johnson (1991), Topics in Matrix Analysis, section 5.3, for Schur's theorem.

    Examples:
        >>> import gnfast as gn
        >>> X = gn.datasets.digits()[0][:20]
        >>> net = gn.mlp([64, 256, 256, 10], activation="gelu", init="lecun_normal", seed=0)
        >>> gn.bounds.deep(net, X).value >= gn.cond(gn.GaussNewton(net, X)).lower
        True
    """
    data = as_data(net, X)
    k = net.output_shape(data.shape[1:])[-1]
    at = loss_at(loss, weights, len(data), k, net.dtype)
    n, q = len(data), at.rank
    whole = n * q <= BACKWARD_GRAM_ROWS if backward_gram is None else backward_gram
    if not is_dense(net):
        return silent(NAME, STATEMENT, LAYERS)
    if net.is_feedforward_dense and (reason := _narrowness(net, n, q, whole)):
        return silent(NAME, STATEMENT, reason)
    record = ForwardRecord.of(in_float64(net), data)
    extended = [with_ones(A, layer) for A, layer in zip(record.inputs, record.dense, strict=True)]
    forward = [gram_ends(A) for A in extended]
    if not whole and not any(ends.smallest > 0 for ends in forward):
        return silent(NAME, STATEMENT, f"no layer has {n} inputs that are independent to float64's precision")
    blocks, backward = _backward_grams(record, hessian_factor(at, record.outputs), whole)
    upper, lower, sides = np.zeros((n, q, q)), np.zeros((n, q, q)), []
    for index, A in enumerate(extended):
        options = {"inputs": (forward[index], blocks[index])}
        if whole:
            options["backward"] = (backward[index], np.einsum("ij,ij->i", A, A)[:, None, None] * np.eye(q))
        high, low = _tighter(options)
        upper += options[high][0].largest * options[high][1]
        lower += options[low][0].smallest * options[low][1]
        sides.append((high, low))
    largest, smallest = _block_ends(upper).largest / n, _block_ends(lower).smallest / n
    unknown = [Ends(np.nan, np.nan)] * len(forward)
    columns = np.array(forward), np.array(backward or unknown), np.array(sides)
    names = ("inputs_max", "inputs_min"), ("backward_max", "backward_min"), ("upper_side", "lower_side")
    parts: Parts = {"lambda_max_upper": largest, "lambda_min_lower": smallest}
    for pair, column in zip(names, columns, strict=True):
        parts |= dict(zip(pair, column.T, strict=True))
    return quotient(NAME, STATEMENT, largest, smallest, parts)


def _tighter(options: dict[str, tuple[Ends, FloatArray]]) -> tuple[str, str]:
    """The names of the options whose largest eigenvalue is the smallest, and whose smallest is the largest."""
    spectra = {name: _block_ends(block) for name, (_, block) in options.items()}
    return (
        min(options, key=lambda name: options[name][0].largest * spectra[name].largest),
        max(options, key=lambda name: options[name][0].smallest * spectra[name].smallest),
    )


def hessian_factor(loss: LossAt, outputs: FloatArray) -> FloatArray:
    """R (n, k, q) with R R^T = H, the loss's Hessian in the outputs (n, k), q the largest rank of an H_i."""
    units = np.broadcast_to(np.eye(loss.rank)[:, None], (loss.rank, len(outputs), loss.rank))
    R: FloatArray = Hessians(np, loss, outputs).root(units, reduced=True).transpose(1, 2, 0)
    return R


def _backward_grams(record: ForwardRecord, R: FloatArray, whole: bool) -> tuple[FloatArray, list[Ends]]:
    """Diagonal blocks B_ii (L, n, q, q) and, if `whole`, the ends of every B_l; else samples come in blocks."""
    n, _, q = R.shape
    blocks = np.empty((len(record.dense), n, q, q))
    ends = [Ends(0.0, 0.0)] * (len(record.dense) if whole else 0)
    step = n if whole else max(1, BLOCK_NUMBERS // (q * max(layer.out_features for layer in record.dense)))
    for start in range(0, n, step):
        rows = slice(start, start + step)
        for index, B in record.rows(R, rows):
            blocks[index, rows] = B @ B.transpose(0, 2, 1)
            if whole:
                ends[index] = gram_ends(B.reshape(n * q, -1))
    return blocks, ends


def _block_ends(blocks: FloatArray) -> Ends:
    """Ends of the spectrum of blockdiag(blocks), blocks (n, q, q)."""
    w = np.linalg.eigvalsh(blocks)
    margin = thresholds.decomposition_error(blocks.shape[-1]) * w[:, -1]
    return Ends(float((w[:, -1] + margin).max()), float(max((w[:, 0] - margin).min(), 0.0)))


def _narrowness(net: Network, n: int, q: int, whole: bool) -> str:
    """Why the lower end must be zero, judged by the widths alone; empty if it may not be."""
    biases = [layer.bias is not None for layer in net.dense]
    inputs, units = net.widths[:-1], net.widths[1:]
    if net.is_linear:  # then inputs span no more than the narrowest layer below, and backward rows than the outputs
        inputs = list(itertools.accumulate(inputs, min))
        units = [min(m, net.out_features) for m in units]
    seen = max(m + bias for m, bias in zip(inputs, biases, strict=True))
    if seen >= n or (whole and max(units) >= n * q):
        return ""
    also = f", and none has as many units as n q = {n * q}" if whole else ""
    return f"no layer has as many independent inputs, {seen} at most, as there are samples, {n}{also}"
