"""Bounds on all partial products from the singular values of single layers, or from bounds on these."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gnfast.bounds.bound import Bound, Parts, product
from gnfast.bounds.partial_products import InputRange, augmented, narrowness
from gnfast.bounds.paths import effective
from gnfast.bounds.spectra import Ends, Singular, singular_ends
from gnfast.networks import Network


def first_layer(net: Network, inputs: InputRange) -> Singular:
    """Squared singular values of the first layer on the range of the inputs."""
    layer = net.dense[0]
    return singular_ends((augmented(layer) if inputs.ones else effective(layer)) @ inputs.basis)


def from_single_layers(
    name: str,
    statement: str,
    net: Network,
    inputs: InputRange,
    first: Singular,
    singles: Sequence[Singular],
    parts: Parts,
    reason: str = "",
) -> Bound:
    """kappa(Sigma) sum_l u_l / sum_l v_l, u_l and v_l products over the layers other than l.

    s_min(A B) >= s_min(A) s_min(B) needs full column rank of every layer below l and full row rank of every layer above
    it: v_l = 0 where the widths shrink below l or grow above it. Equal hidden widths do neither.

    Args:
        name, statement, parts, reason: As in the bound; "u", "v" and "gammas" are added to the parts.
        net, inputs: The linear network and the range of its inputs.
        first: Squared singular values of the first layer on that range.
        singles: The same for the effective weights of the other layers.
    """
    above = [Ends(1.0, 1.0)]
    for single in reversed(singles):
        above.append(Ends(above[-1].largest * single.largest, above[-1].smallest * single.over_rows))
    # What layer l sees of (x, 1): without a bias not the one, which may be all there is to see of some direction.
    one_unseen = [inputs.ones and layer.bias is None for layer in net.dense]
    start = singular_ends(inputs.basis[: net.dense[0].in_features] if one_unseen[0] else np.eye(1))
    below = [Ends(start.largest, start.over_columns)]
    product_below = Ends(first.largest, first.over_columns)
    for layer, single, unseen in zip(net.dense[1:], singles, one_unseen[1:], strict=True):
        below.append(Ends(product_below.largest, 0.0 if unseen else product_below.smallest))
        step = singular_ends(augmented(layer)) if inputs.ones else single
        product_below = Ends(product_below.largest * step.largest, product_below.smallest * step.over_columns)
    u, v = (np.array(above[::-1]) * np.array(below)).T
    parts = parts | {"u": u, "v": v, "gammas": v / v.sum() if v.any() else v}
    hidden, k = net.widths[1:-1], net.out_features
    reason = narrowness(hidden, k, inputs) or _order(hidden, inputs.rank - inputs.ones, k) or reason
    if not reason and any(one_unseen):
        reason = "some layers have a bias and some have none, which this form cannot use; use another form"
    return product(name, statement, inputs.ends, (float(u.sum()), float(v.sum())), parts, reason)


def _order(hidden: Sequence[int], r: int, k: int) -> str:
    """Why every v_l is zero, judged by the order of the widths; empty if one may not be."""
    for split in range(len(hidden) + 1):
        up, down = [r, *hidden[:split]], [*hidden[split:], k]
        if up == sorted(up) and down == sorted(down, reverse=True):
            return ""
    return (
        f"the hidden widths {list(hidden)} do not grow from the rank {r} of the inputs, then shrink to the {k} "
        "outputs; use another form"
    )
