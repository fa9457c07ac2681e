"""The bound of Zhao, Singh & Lucchi for networks of one hidden layer with a (leaky) ReLU."""

from __future__ import annotations

import numpy.typing as npt

from gnfast.bounds.bound import Bound, Parts, quotient, silent
from gnfast.bounds.inputs import activations, as_data, in_float64, with_ones
from gnfast.bounds.paths import effective
from gnfast.bounds.spectra import gram_ends, singular_ends
from gnfast.networks import Network
from gnfast.networks.layers import Activation

STATEMENT = (
    "kappa(G) <= (s_max^2(X) s_max^2(W) + s_max^2(Gam)) / (a^2 s_min^2(X) s_min^2(W) + s_min^2(Gam)), "
    "Gam = phi(X V^T), s_min of X and Gam over n values"
)


def relu(net: Network, X: npt.ArrayLike) -> Bound:
    """An upper bound on kappa(G) for F(x) = W phi(V x), phi a (leaky) ReLU of slope a, and the squared error.

    On the Gram side, (n k, n k), with Gam = phi(X V^T) (n, m) and s_min of X and Gam the n-th singular value, of W the
    k-th, 0 where there are fewer:

        kappa(G) <= (s_max^2(X) s_max^2(W) + s_max^2(Gam)) / (a^2 s_min^2(X) s_min^2(W) + s_min^2(Gam))

    V and W are effective weights, skips included; the input X or Gam of a layer that has a bias gets a column of ones.
    With |a| > 1 it is the upper end that carries a^2.

    Args:
        net: Two dense layers with a ReLU or a leaky ReLU between them.
        X: Data (n, d), of the network's dtype; the bound is computed in float64.

    Returns:
        A Bound; its value is inf, with the reason, for other networks and where the lower end is zero, as for a hidden
        layer narrower than n (unless a > 0 and d >= n). Parts, all squared singular values: "inputs_max" and
        "inputs_min" of X, "hidden_max" and "hidden_min" of Gam, "weights_max" and "weights_min" of W; and
        "lambda_max_upper", "lambda_min_lower".

    Raises:
        ValueError: Data that do not fit the network.
        TypeError: Data of another dtype than the network's.

    Reference: Zhao, Singh & Lucchi (NeurIPS 2024).

    Examples:
        >>> import gnfast as gn
        >>> X = gn.datasets.digits()[0][:20]
        >>> net = gn.mlp([64, 512, 10], activation="leaky_relu", slope=0.1, seed=0)
        >>> gn.bounds.relu(net, X).value >= gn.cond(gn.GaussNewton(net, X)).lower
        True
    """
    name, data = "relu.paper", as_data(net, X)
    if reason := _other(net):
        return silent(name, STATEMENT, reason)
    (activation,) = activations(net)
    slope = activation.slope if activation.name == "leaky_relu" else 0.0
    inputs = in_float64(net).linearize(data).inputs
    samples, hidden = (gram_ends(with_ones(A, layer)) for A, layer in zip(inputs, net.dense, strict=True))
    weights = singular_ends(effective(net.dense[1]))
    n = len(data)
    upper = max(1.0, slope**2) * samples.largest * weights.largest + hidden.largest
    lower = min(1.0, slope**2) * samples.smallest * weights.over_rows + hidden.smallest
    parts: Parts = {
        "inputs_max": samples.largest,
        "inputs_min": samples.smallest,
        "hidden_max": hidden.largest,
        "hidden_min": hidden.smallest,
        "weights_max": weights.largest,
        "weights_min": weights.over_rows,
        "lambda_max_upper": upper / n,
        "lambda_min_lower": lower / n,
    }
    units = [A.shape[1] + (layer.bias is not None) for A, layer in zip(inputs, net.dense, strict=True)]
    reason = ""
    if units[1] < n and (slope == 0 or units[0] < n):
        reason = f"the hidden layer gives {units[1]} features, fewer than the {n} samples"
    return quotient(name, STATEMENT, upper, lower, parts, reason)


def _other(net: Network) -> str:
    """Why the network is not one hidden layer with a (leaky) ReLU; empty if it is."""
    if net.is_linear:
        return "the network is linear; use bounds.linear"
    if not net.is_feedforward_dense:
        return "this bound is for dense, relu, dense and the network has other layers; use bounds.deep"
    if odd := [activation.name for activation in activations(net) if activation.name not in ("relu", "leaky_relu")]:
        return f"activation {odd[0]} is not a ReLU or leaky ReLU; use bounds.deep"
    kinds = [layer.name if isinstance(layer, Activation) else layer.kind for layer in net.layers]
    kinds = [kind for kind in kinds if kind not in ("identity", "flatten")]
    if len(kinds) != 3 or kinds[::2] != ["dense", "dense"]:
        return f"the layers are {', '.join(kinds)} and this bound is for dense, relu, dense; use bounds.deep"
    return ""
