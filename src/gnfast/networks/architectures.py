"""Networks of the literature, with random weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from gnfast import _checks
from gnfast._arrays import Array
from gnfast.networks import initializers
from gnfast.networks.convolutions import Conv2d, Pool
from gnfast.networks.layers import Activation, Dense, Flatten, Layer, Residual
from gnfast.networks.network import Network
from gnfast.networks.norms import BatchNorm

BLOCKS = 3  # residual blocks of each of the three stages: 6 * 3 + 2 = 20 layers


def resnet20(
    classes: int = 10,
    width: int = 16,
    batch_norm: bool = True,
    seed: _checks.Seed = 0,
    dtype: Any = "float32",
    *,
    channels: int = 3,
    training: bool = False,
) -> Network:
    """ResNet-20 for images of 32 x 32 pixels: a convolution, three stages of three residual blocks, a dense layer.

    The stages have `width`, 2 `width` and 4 `width` channels; the second and the third begin with a stride of 2. There
    the shortcut is a convolution with a 1 x 1 kernel and that stride, followed by batch norm as the others: option B of
    the paper, as torchvision has it. (Option A, which pads with zero channels, has no parameters there and is what the
    paper took for CIFAR.) Behind the last stage the mean over all pixels; samples may have any size.

    Args:
        classes: k, the number of outputs.
        width: Channels of the first stage.
        batch_norm: False leaves the normalisations out and gives the convolutions biases, zero, instead.
        seed: For the weights, as in `gnfast.mlp`: kaiming_normal (fan_in, relu); normalisations start as 1 and 0.
        dtype: "float32" or "float64".
        channels: Of the samples.
        training: Whether batch norm takes the statistics of the batch, which couples the samples; else it has mean 0
            and variance 1.

    Returns:
        A `Network` with 272,474 parameters by default, in the order of the usual PyTorch module.

    References:
        He, Zhang, Ren & Sun, "Deep residual learning for image recognition", CVPR 2016.
    """
    classes, width = _checks.integer(classes, "classes"), _checks.integer(width, "width")
    batch_norm, training = _checks.boolean(batch_norm, "batch_norm"), _checks.boolean(training, "training")
    if training and not batch_norm:
        raise ValueError("training is True but batch_norm is False, so that nothing is trained; leave training out")
    kind, inputs = _checks.float_dtype(dtype), _checks.integer(channels, "channels")
    stages = [width, 2 * width, 4 * width]
    shapes = [(width, inputs * 9)]
    for before, out in zip([width, *stages], stages, strict=False):
        shapes += [(out, before * 9), (out, out * 9)] + [(out, before)] * (out != before)
        shapes += [(out, out * 9)] * (2 * BLOCKS - 2)
    shapes.append((classes, stages[-1]))
    seed = _checks.seed(seed)
    weights = iter(initializers.weights("kaiming_normal", shapes, "relu", 0.0, seed, kind))

    def convolution(size: int, stride: int = 1) -> Iterator[Layer]:
        weight = next(weights)
        out = len(weight)
        bias = None if batch_norm else np.zeros(out, kind)
        yield Conv2d(weight.reshape(out, -1, size, size), bias, stride, size // 2)
        if batch_norm:
            ones, zeros = np.ones(out, kind), np.zeros(out, kind)
            moments: tuple[Array | None, Array | None] = (None, None) if training else (zeros.copy(), ones.copy())
            yield BatchNorm(ones, zeros, *moments, training=training)

    relu = Activation("relu")
    layers: list[Layer] = [*convolution(3), relu]
    for stage in range(len(stages)):
        for block in range(BLOCKS):
            down = stage > 0 and block == 0
            body = [*convolution(3, 2 if down else 1), relu, *convolution(3)]
            layers += [Residual(body, [*convolution(1, 2)] if down else None), relu]
    return Network([*layers, Pool("global_average"), Flatten(), Dense(next(weights), np.zeros(classes, kind))])
