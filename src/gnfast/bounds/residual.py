"""Bounds for residual linear networks: those of linear networks with W_l + b_l I, and one from W_l and b_l alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gnfast import _checks
from gnfast.bounds.bound import Bound, Parts, silent
from gnfast.bounds.inputs import as_data, nonlinearity
from gnfast.bounds.linear import FORMS, STATEMENTS, linear_forms
from gnfast.bounds.partial_products import has_bias, input_range
from gnfast.bounds.paths import effective, has_blocks
from gnfast.bounds.single_layers import first_layer, from_single_layers
from gnfast.bounds.spectra import Singular, singular_ends
from gnfast.networks import Network
from gnfast.networks.layers import Dense

APRIORI = (
    "kappa(G) <= kappa(Sigma) sum_l prod_{j != l} (s_max(W_j) + b_j)^2 / sum_l prod_{j != l} (b_j - s_max(W_j))^2 "
    "for square layers with b_j > s_max(W_j); for the others the singular values themselves"
)


def residual(net: Network, X: npt.ArrayLike, form: str = "joint") -> Bound:
    """An upper bound on kappa(G) for linear networks with skips over one layer or several, and the squared error.

    Over one layer, F(x) = (W_L + b_L I) ... (W_1 + b_1 I) x: the derivative in W_l is that in W_l + b_l I, so every
    form of `bounds.linear` holds with these effective weights.

    Over several, F(x) = (I + s_T V_T) ... (I + s_1 V_1) x with bodies V_t = W_q ... W_1, each block with its own
    layers: the derivative in layer j of block t is A dW B with

        A = (I + s_T V_T) ... (I + s_{t+1} V_{t+1}) s_t W_q ... W_{j+1}
        B = W_{j-1} ... W_1 (I + s_{t-1} V_{t-1}) ... (I + s_1 V_1)

    so that the forms "joint", "matrix", "convex" and "loose" hold with P = A A^T and Q = B^T B: partial products
    include the skips of all other blocks and none of the layer's own. Likewise with layers in a shortcut and with
    nested blocks.

    The form "apriori" shows what skips alone do: for a square layer s_max(W + b I) <= s_max(W) + |b| and
    s_min(W + b I) >= |b| - s_max(W), put into the form "layers". It says something where the skip of every square layer
    that has one is larger than s_max(W), the hidden widths are equal (or grow, then shrink), and no layer has a bias.

    Args:
        net: A linear network of dense layers with a skip over one or more of them: a `Dense` with skip, or `Residual`.
        X: Data (n, d), of the network's dtype; the bound is computed in float64.
        form: "apriori", or a form of `bounds.linear`.

    Returns:
        A Bound, as from `bounds.linear`. The parts of "apriori" are "skips", "weights_max" (s_max^2(W_l); nan for
        layers that are not square or have no skip), "u", "v", "gammas", "kappa_ghat", "lambda_max_upper" and
        "lambda_min_lower".

    Raises:
        ValueError: An unknown form, or data that do not fit the network.
        TypeError: Data of another dtype than the network's.

    Reference: Zhao, Singh & Lucchi (NeurIPS 2024).

    Examples:
        >>> import numpy as np
        >>> import gnfast as gn
        >>> X = np.random.default_rng(0).standard_normal((100, 8))
        >>> net = gn.mlp([8, 8, 8], activation="identity", skip=4.0, seed=0)
        >>> gn.bounds.residual(net, X, "apriori").value >= gn.bounds.residual(net, X).value >= 1
        True
    """
    form = _checks.choice(form, "form", (*FORMS, "apriori"))
    statement = APRIORI if form == "apriori" else STATEMENTS[form]
    reason = nonlinearity(net)
    skips = has_blocks(net.layers) or any(layer.skip for layer in net.dense)
    if not reason and not skips:
        reason = "no layer has a skip; use bounds.linear"
    if reason:
        as_data(net, X)
        return silent(f"residual.{form}", statement, reason)
    return _apriori(net, X) if form == "apriori" else linear_forms(net, X, (form,), "residual")[0]


def _apriori(net: Network, X: npt.ArrayLike) -> Bound:
    name, dense = "residual.apriori", net.dense
    data = as_data(net, X)
    if not net.is_feedforward_dense:
        return silent(name, APRIORI, "this form is for dense layers with skips over one; use another form")
    known = [_known(layer) for layer in dense]
    if has_bias(dense):
        return silent(name, APRIORI, "a layer has a bias; use another form")
    if not any(known):
        return silent(name, APRIORI, "no layer with a skip is square; use another form")
    inputs = input_range(data, ones=False)
    if inputs.rank == 0:
        return silent(name, APRIORI, "X is zero, and so is G")
    parts: Parts = {
        "skips": np.array([float(layer.skip) for layer in dense]),
        "weights_max": np.array([np.nan if single is None else single[0] ** 2 for single in known]),
    }
    bounded = [single and single[1] for single in known]
    first = bounded[0] or first_layer(net, inputs)
    singles = [single or singular_ends(effective(layer)) for single, layer in zip(bounded[1:], dense[1:], strict=True)]
    weak = next((j for j, single in enumerate(known, 1) if single and abs(dense[j - 1].skip) <= single[0]), None)
    reason = "" if weak is None else f"layer {weak} has the skip {dense[weak - 1].skip:g}, no more than its s_max(W)"
    return from_single_layers(name, APRIORI, net, inputs, first, singles, parts, reason)


def _known(layer: Dense) -> tuple[float, Singular] | None:
    """s_max(W) and what it and the skip say of the singular values of W + b I, for a square layer with a skip."""
    rows, columns = layer.weight.shape
    if rows != columns or not layer.skip:
        return None
    top, b = singular_ends(np.asarray(layer.weight, np.float64)).largest ** 0.5, abs(layer.skip)
    smallest = max(b - top, 0.0) ** 2
    return top, Singular((top + b) ** 2, smallest, smallest)
