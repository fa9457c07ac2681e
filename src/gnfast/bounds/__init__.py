"""Analytic upper bounds on the condition number of the Gauss-Newton matrix.

Those of Zhao, Singh & Lucchi (NeurIPS 2024), and sharper and more general ones.
"""

from __future__ import annotations

import warnings

import numpy.typing as npt

from gnfast import _checks
from gnfast.bounds.bound import Bound, Bounds, NoBoundWarning
from gnfast.bounds.conv import FORMS as CONV_FORMS
from gnfast.bounds.conv import conv, conv_forms
from gnfast.bounds.deep import LAYERS, deep
from gnfast.bounds.inputs import is_dense, nonlinearity
from gnfast.bounds.linear import linear, linear_forms
from gnfast.bounds.relu import relu
from gnfast.bounds.residual import residual
from gnfast.losses import LossName, check_loss
from gnfast.networks import Network, check_network

__all__ = ["Bound", "Bounds", "NoBoundWarning", "all", "conv", "deep", "linear", "relu", "residual"]

SINGLE_LAYER_WIDTH = 1024  # the singular values of a square layer of this width take about a second

CONV_SIZE = 2000  # the eigenvalues of one U_l U_l^T of this size take about a second


def all(net: Network, X: npt.ArrayLike, loss: LossName | str = "mse") -> Bounds:
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
        Bounds with a finite value, a list whose `left_out` says of each other bound why it is not there.

    Raises:
        ValueError: An unknown loss, or data that do not fit the network.
        TypeError: Data of another dtype than the network's.

    Warns:
        NoBoundWarning: The list is empty, with the reason of each bound.

    Examples:
        >>> import gnfast as gn
        >>> X = gn.datasets.digits()[0]
        >>> net = gn.mlp([64, 128, 10], activation="identity", seed=0)
        >>> kappa = gn.cond(gn.GaussNewton(net, X))
        >>> [bound.name for bound in gn.bounds.all(net, X) if bound.value >= kappa.lower]
        ['linear.joint', 'linear.layers', 'linear.matrix', 'linear.convex', 'linear.equality', 'linear.loose']
    """
    outputs = check_network(net).output_shape(net.check_samples(X).shape[1:])
    loss = check_loss(loss, outputs[-1])
    found: list[Bound] = []
    if net.kept is not None:
        pruned = "the network is pruned, and the bound is for one whose weights are all parameters"
        left_out = dict.fromkeys(("linear", "residual", "relu", "deep", "conv"), pruned)
    else:
        found, left_out = _computed(net, X, loss)
    applying = sorted((bound for bound in found if bound.applies), key=lambda bound: bound.value)
    left_out |= {bound.name: bound.reason for bound in found if not bound.applies}
    all_of_them = Bounds(applying, left_out)
    if not all_of_them:
        warnings.warn(
            f"no bound applies to net at X with loss {loss!r}: {all_of_them.reason}; kappa(G) itself is "
            f"gnfast.cond(gnfast.GaussNewton(net, X, {loss!r}))",
            NoBoundWarning,
            stacklevel=_checks.level_of_caller(),
        )
    return all_of_them


def _computed(net: Network, X: npt.ArrayLike, loss: str) -> tuple[list[Bound], dict[str, str]]:
    """The bounds that are worth computing, whether they say anything or not, and why the others are not."""
    others = dict.fromkeys(("linear", "residual", "relu", "conv"), f"it is for loss 'mse', not {loss!r}")
    if not is_dense(net):
        others["deep"] = LAYERS
        if loss != "mse":
            return [], others
        others |= dict.fromkeys(("linear", "residual", "relu"), nonlinearity(net))
        del others["conv"]
        forms = conv_forms(net, X, CONV_FORMS, CONV_SIZE)
        return forms, others if forms else others | {"conv": f"w_eff has more than {CONV_SIZE:,} entries"}
    if loss != "mse":
        return [deep(net, X, loss)], others
    if not net.is_linear:
        others |= dict.fromkeys(("linear", "residual"), nonlinearity(net)) | {"conv": "there are no convolutions"}
        del others["relu"]
        return [deep(net, X, loss), relu(net, X)], others
    narrow = net.is_feedforward_dense and max(net.widths) <= SINGLE_LAYER_WIDTH
    forms = linear_forms(net, X, ["joint", "matrix", "convex", "equality", "loose", *["layers"] * narrow])
    wide = {} if narrow else dict.fromkeys(("linear.layers", "residual.apriori"), "it takes the SVD of every layer")
    never = {"relu": "the network is linear", "deep": "the network is linear", "conv": "there are no convolutions"}
    return [*forms, *[residual(net, X, "apriori")] * narrow], never | wide


def __dir__() -> list[str]:
    return __all__
