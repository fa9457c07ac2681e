"""Skips around nonlinear layers: pre-activations are no longer Gaussian, but the neurons are still independent.

With a skip b, neuron r of layer l has z_l[r] = g_l[r] + b a_{l-1}[r], where g_l is Gaussian across samples with the
second moment of layer l - 1, independent from neuron to neuron. The law of one neuron is therefore a chain of
Gaussians, one per layer, and what a layer of infinite width averages is an expectation over it, for n samples in
(L - 1) n dimensions: taken from many neurons drawn. Backwards, the derivative of an output with respect to z_l[r] is
phi'(z_l[r]) (h_l[r] + b_{l+1} times that with respect to z_{l+1}[r]), h_l Gaussian and independent of all that went
forward; its second moment adds up the ways over skips, an expectation over the same chains.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gnfast import _core
from gnfast.limits.covariance import FloatArray
from gnfast.limits.moments import Pointwise

BATCHES = 16  # of neurons, that tell the standard error of what all of them give up to a sixth


def sampled(
    first: FloatArray,
    phi: Pointwise,
    variances: Sequence[float],
    skips: Sequence[float],
    neurons: int,
    seed: int,
    stream: int = 0,
) -> tuple[list[FloatArray], list[FloatArray]]:
    """Second moments of activations and of backward rows, all layers.

    Args:
        first: (n, n), the covariance of the first layer's pre-activations.
        phi: The activation.
        variances: fan_in times the variance of the weights of each layer, L of them.
        skips: The skips of the layers; those of the first and the last are not read.
        neurons: How many are drawn.
        seed: The seed of the draws.
        stream: The stream of the first layer's numbers; the others have the next ones.

    Returns:
        E a_l a_l' for l = 1..L-1 and that of the backward rows for l = 1..L, each (n, n).
    """
    moments: list[FloatArray] = []
    slopes: list[FloatArray] = []
    values = np.zeros((neurons, len(first)))
    for layer, variance in enumerate(variances[:-1]):
        w, V = np.linalg.eigh(variance * moments[-1] if moments else first)
        pre = np.empty_like(values)
        _core.fill_normal(pre, seed, stream + layer, 1.0)
        pre = pre @ (V * np.sqrt(np.maximum(w, 0.0))).T
        if layer:
            pre += skips[layer] * values
        values, slope = phi(pre)
        moments.append(values.T @ values / neurons)
        slopes.append(slope)
    backward = [np.ones_like(first)]
    for layer in reversed(range(len(slopes))):
        path, found = slopes[layer], np.zeros_like(first)
        for end in range(layer, len(slopes)):
            if end > layer:
                path = path * (skips[end] * slopes[end])
            found += variances[end + 1] * backward[end - layer] * (path.T @ path / neurons)
        backward.insert(0, found)
    return moments, backward
