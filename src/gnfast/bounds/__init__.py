"""Analytic upper bounds on the condition number of the Gauss-Newton matrix.

Those of Zhao, Singh & Lucchi (NeurIPS 2024), and sharper and more general ones.
"""

from __future__ import annotations

import numpy.typing as npt

from gnfast.bounds.bound import Bound
from gnfast.bounds.conv import FORMS as CONV_FORMS
from gnfast.bounds.conv import conv, conv_forms
from gnfast.bounds.deep import deep
from gnfast.bounds.inputs import is_dense
from gnfast.bounds.linear import linear, linear_forms
from gnfast.bounds.relu import relu
from gnfast.bounds.residual import residual
from gnfast.losses import LossName, check_loss
from gnfast.networks import Network, check_network

__all__ = ["Bound", "all", "conv", "deep", "linear", "relu", "residual"]

SINGLE_LAYER_WIDTH = 1024  # the singular values of a square layer of this width take about a second

CONV_SIZE = 2000  # the eigenvalues of one U_l U_l^T of this size take about a second


def all(net: Network, X: npt.ArrayLike, loss: LossName | str = "mse") -> list[Bound]:
    """Every bound that says something, the tightest first.

    Networks with skips are among those of `linear`. The forms "layers" and "apriori" are left out beyond a width of
    1,024: they need the singular values of every weight and are never tighter than the others. So is `deep` for linear
    networks and mean squares, where it costs most and sees least; and those of convolutions where w_eff has more than
    2,000 entries.

    Args:
        net: Any network; there are bounds for dense layers, activations and residual blocks, and for linear networks of
            convolutions.
        X: Data (n, d), of the network's dtype.
        loss: "mse", "cross_entropy", "binary_cross_entropy", "poisson" or "gaussian_nll"; for all
            but "mse" there is only `deep`.

    Returns:
        Bounds with a finite value. None at all means that no bound applies: each function gives its reason.

    Raises:
        ValueError: An unknown loss, or data that do not fit the network.
        TypeError: Data of another dtype than the network's.

    Examples:
        >>> import gnfast as gn
        >>> X = gn.datasets.digits()[0]
        >>> net = gn.mlp([64, 128, 10], activation="identity", seed=0)
        >>> kappa = gn.cond(gn.GaussNewton(net, X))
        >>> [bound.name for bound in gn.bounds.all(net, X) if bound.value >= kappa.lower]
        ['linear.joint', 'linear.layers', 'linear.matrix', 'linear.convex', 'linear.equality', 'linear.loose']
    """
    if check_network(net).kept is not None:
        return []  # each function refuses such a network with the reason
    outputs = net.output_shape(net.check_samples(X).shape[1:])
    loss = check_loss(loss, outputs[-1])
    if loss == "mse" and is_dense(net) and net.is_linear:
        narrow = net.is_feedforward_dense and max(net.widths) <= SINGLE_LAYER_WIDTH
        forms = ["joint", "matrix", "convex", "equality", "loose", *["layers"] * narrow]
        found = [*linear_forms(net, X, forms), *[residual(net, X, "apriori")] * narrow]
    elif not is_dense(net):
        found = conv_forms(net, X, CONV_FORMS, CONV_SIZE) if loss == "mse" else []
    else:
        found = [deep(net, X, loss), *[relu(net, X)] * (loss == "mse")]
    return sorted((bound for bound in found if bound.applies), key=lambda bound: bound.value)


def __dir__() -> list[str]:
    return __all__
