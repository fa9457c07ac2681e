"""The losses: their names, what they ask of the outputs, and the rank of their Hessians.

F (k,) are the outputs for one sample and H (k, k) the Hessian in them, positive semi-definite and free of targets y:

    mse                   1/2 |F - y|^2                          H = I            (PyTorch's MSELoss has a factor 2/k)
    cross_entropy         -log softmax(F)[y]                     H = diag(p) - p p^T,  p = softmax(F)
    binary_cross_entropy  sum_a log(1 + exp(F_a)) - y_a F_a      H = diag(s (1 - s)),  s = sigmoid(F)
"""

from __future__ import annotations

from typing import Any

from gnfast import _checks

LOSSES = ("mse", "cross_entropy", "binary_cross_entropy")


def check_loss(loss: Any, outputs: int) -> str:
    """The name of a loss that makes sense for a network with so many outputs."""
    name = _checks.choice(loss, "loss", LOSSES)
    if name == "cross_entropy" and outputs == 1:
        raise ValueError(
            "loss is 'cross_entropy' but the network has 1 output, whose softmax is always 1; "
            "use 'binary_cross_entropy' or a network with 2 or more outputs"
        )
    return name


def hessian_rank(loss: str, outputs: int) -> int:
    """Rank of one sample's Hessian: k, and k - 1 for the softmax, which does not see a shift of all outputs."""
    return outputs - 1 if loss == "cross_entropy" else outputs
