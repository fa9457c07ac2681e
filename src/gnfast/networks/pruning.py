"""Networks without their smallest weights."""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike
from typing import Any

import numpy as np

from gnfast import _arrays, _checks
from gnfast._arrays import Array
from gnfast.networks.layers import Layer
from gnfast.networks.network import Network
from gnfast.networks.norms import BatchNorm, LayerNorm
from gnfast.networks.traversal import flat_layers


class PrunedNetwork(Network):
    """A network of which some weights are zero and no parameters: `prune` makes it.

    `parameters()` are the whole arrays, zeros included; operators act on those that are kept, in their order, so that a
    vector of parameters has `num_parameters` entries.

    Args:
        layers: Those of a `Network`.
        kept: Positions of the parameters in the flat order of all entries, ascending; the others must be zero.
    """

    def __init__(self, layers: Iterable[Layer], kept: Any) -> None:
        super().__init__(layers)
        positions = np.array(kept, np.int64)
        size = super().num_parameters
        if positions.ndim != 1 or len(positions) == 0 or positions[0] < 0 or positions[-1] >= size:
            raise ValueError(f"kept must be at least one position from 0 to {size - 1}")
        if (np.diff(positions) <= 0).any():
            raise ValueError("kept must be ascending, each position once")
        flat = np.concatenate([array.ravel() for array in self.parameters()])
        flat[positions] = 0
        if flat.any():
            raise ValueError("a weight that is not kept is not zero; use gnfast.prune")
        self._kept = _arrays.read_only(positions)

    @property
    def kept(self) -> Array:
        """The places of the parameters among all entries, (p,), ascending."""
        return self._kept

    @property
    def num_parameters(self) -> int:
        """p, the entries that are kept."""
        return len(self._kept)

    def with_parameters(self, parameters: Iterable[Any]) -> PrunedNetwork:
        """The same layers with other values, whole arrays; what is pruned stays zero."""
        return _masked(super().with_parameters(parameters), self._kept)

    def save(self, path: str | PathLike[str]) -> None:
        """Refused: the file has no place for which weights are kept."""
        raise ValueError("a pruned network cannot be saved; save gn.Network(net.layers), whose pruned weights are zero")

    def __reduce__(self) -> tuple[Any, ...]:
        return PrunedNetwork, (self.layers, self._kept)


def prune(net: Any, fraction: float, scope: str = "global") -> PrunedNetwork:
    """The network without the weights that are smallest in magnitude.

    They are set to zero and are no parameters any more, for all operators and duals. Biases and the scales of
    normalisations stay.

    Args:
        net: A `Network` with a dense layer or a convolution; of a pruned one the fraction is of the weights that are
            left.
        fraction: Of the weights, from 0 to 1, rounded to a number of them; one weight at least stays.
        scope: "global": the smallest of all weights; "layer": of each weight array by itself.

    Returns:
        A `PrunedNetwork`; the arrays are copies.

    References:
        Han, Pool, Tran & Dally, "Learning both weights and connections for efficient neural networks", NeurIPS 2015.

    Examples:
        >>> import gnfast as gn
        >>> net = gn.mlp([8, 16, 4], seed=0)
        >>> gn.prune(net, 0.75).num_parameters, net.num_parameters
        (48, 192)
    """
    if not isinstance(net, Network):
        raise TypeError(f"net is of type {type(net).__name__} but must be a gnfast.Network; make one with gnfast.mlp")
    share = _checks.at_least_zero(fraction, "fraction")
    if share >= 1:
        raise ValueError(f"fraction is {fraction} but must be below 1, or nothing is left")
    scope = _checks.choice(scope, "scope", ("global", "layer"))
    arrays = net.parameters()
    ends = np.cumsum([array.size for array in arrays])
    alive = np.zeros(ends[-1], bool)
    alive[slice(None) if net.kept is None else net.kept] = True
    scales = [isinstance(layer, BatchNorm | LayerNorm) for layer in flat_layers(net.layers) for _ in layer.parameters()]
    weights = [
        first + np.flatnonzero(alive[first : first + array.size])
        for array, first, scale in zip(arrays, ends - [array.size for array in arrays], scales, strict=True)
        if array.ndim > 1 and not scale
    ]
    if not weights:
        raise ValueError(
            "net has normalisations only, whose scales and biases are never pruned; pass a network with a dense layer "
            "or a convolution"
        )
    magnitudes = np.abs(np.concatenate([array.ravel() for array in arrays]))
    for group in [np.concatenate(weights)] if scope == "global" else weights:
        count = min(round(share * len(group)), len(group) - 1)
        order = np.argsort(magnitudes[group], kind="stable")
        alive[group[order[: max(count, 0)]]] = False
    return _masked(net, np.flatnonzero(alive))


def _masked(net: Network, kept: Array) -> PrunedNetwork:
    """The network with all but these entries set to zero."""
    values, first = [], 0
    for array in net.parameters():
        inside = kept[np.searchsorted(kept, first) : np.searchsorted(kept, first + array.size)] - first
        masked = np.zeros(array.size, array.dtype)
        masked[inside] = array.ravel()[inside]
        values.append(masked.reshape(array.shape))
        first += array.size
    found = PrunedNetwork(Network(net.layers).with_parameters(values).layers, kept)
    found.source = net.source
    return found
