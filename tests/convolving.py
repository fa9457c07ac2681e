"""What the tests of linear convolutional networks share: networks that are one convolution, and some that are none."""

from __future__ import annotations

import numpy as np

import gnfast as gn


def draw(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def circular(weight, bias=None, **options):
    """A circular convolution that keeps the size."""
    kind = gn.Conv2d if weight.ndim == 4 else gn.Conv1d
    return kind(weight, bias, padding="same", padding_mode="circular", **options)


# name: (layers, shape of a sample); awkward on purpose: sizes that strides and windows do not divide, single channels.
CASES = {
    "1d": ([gn.Conv1d(draw(3, 2, 3)), gn.Conv1d(draw(2, 3, 4))], (2, 11)),
    "one filter": ([gn.Conv1d(draw(1, 1, 3)), gn.Conv1d(draw(1, 1, 4))], (1, 9)),
    "one pixel": ([gn.Conv1d(draw(2, 1, 1)), gn.Conv1d(draw(1, 2, 1))], (1, 1)),
    "strides and dilations": (
        [gn.Conv1d(draw(4, 2, 3), stride=2), gn.Conv1d(draw(2, 4, 2), dilation=2)],
        (2, 12),
    ),
    "biases": ([gn.Conv1d(draw(9, 2, 3), draw(9)), gn.Conv1d(draw(2, 9, 2), draw(2))], (2, 7)),
    "a bias above": ([gn.Conv1d(draw(3, 2, 3)), gn.Conv1d(draw(2, 3, 4), draw(2))], (2, 11)),
    "groups and a factor": (
        [
            gn.Conv1d(draw(4, 1, 3), draw(4), groups=2),
            gn.Scale(0.7),
            gn.Activation("identity"),
            gn.Conv1d(draw(2, 2, 2), groups=2),
            gn.Conv1d(draw(3, 2, 1)),
        ],
        (2, 8),
    ),
    "three layers": ([gn.Conv1d(draw(8, 1, 3)), gn.Conv1d(draw(8, 8, 2)), gn.Conv1d(draw(1, 8, 3))], (1, 9)),
    "circular": ([circular(draw(3, 2, 3), draw(3)), circular(draw(2, 3, 5))], (2, 7)),
    "circular, longer than the circle": ([circular(draw(2, 2, 5)), circular(draw(2, 2, 4))], (2, 5)),
    "circular with a stride": (
        [gn.Conv1d(draw(3, 2, 3), stride=2, padding=1, padding_mode="circular"), circular(draw(2, 3, 3))],
        (2, 8),
    ),
    "circular, then valid": ([circular(draw(2, 1, 3, 3)), gn.Conv2d(draw(2, 2, 3, 2))], (1, 4, 5)),
    "2d": ([gn.Conv2d(draw(12, 1, 3, 2), draw(12)), gn.Conv2d(draw(2, 12, 2, 2), stride=(2, 1))], (1, 7, 6)),
    "kernel as large as the image": ([gn.Conv2d(draw(3, 2, 3, 4))], (2, 3, 4)),
    "then dense": (
        [
            gn.Conv2d(draw(3, 1, 3, 2), draw(3)),
            gn.Pool("average", 2),
            gn.Flatten(),
            gn.Dense(draw(2, 12), draw(2), 0.5),
        ],
        (1, 7, 6),
    ),
    "then two dense": (
        [gn.Conv2d(draw(3, 2, 2, 2)), gn.Flatten(), gn.Dense(draw(5, 12), draw(5)), gn.Dense(draw(2, 5))],
        (2, 3, 3),
    ),
    "global average": (
        [gn.Conv2d(draw(3, 2, 2, 2)), gn.Pool("global_average"), gn.Flatten(), gn.Dense(draw(2, 3))],
        (2, 4, 3),
    ),
    "circular, then dense": ([circular(draw(2, 1, 3, 3), draw(2)), gn.Flatten(), gn.Dense(draw(2, 24))], (1, 3, 4)),
    "zeros around the data": (
        [gn.Scale(0.5), gn.Conv2d(draw(3, 2, 3, 2), draw(3), padding=1), gn.Conv2d(draw(2, 3, 2, 3))],
        (2, 4, 3),
    ),
}
# name: (layers, shape of a sample, why they are no convolution)
REFUSED = {
    "zeros inside": (
        [gn.Conv1d(draw(2, 1, 3), padding=1), gn.Conv1d(draw(1, 2, 3), padding=1)],
        (1, 5),
        "layers[1] pads with zeros what is no longer the data",
    ),
    "circular after valid": (
        [gn.Conv1d(draw(2, 1, 3)), circular(draw(1, 2, 3))],
        (1, 7),
        "layers[1] has circular padding, but what it pads is not a whole period",
    ),
    "a stride that does not divide": (
        [gn.Conv1d(draw(2, 1, 1), stride=2), circular(draw(1, 2, 3))],
        (1, 7),
        "layers[1] has circular padding",
    ),
    "max": ([gn.Conv1d(draw(2, 1, 3)), gn.Pool("max", 2)], (1, 7), "layers[1] is Pool(max, 2)"),
    "relu": (
        [gn.Conv1d(draw(2, 1, 3)), gn.Activation("relu"), gn.Conv1d(draw(2, 2, 2))],
        (1, 7),
        "layers[1] is Activation(relu)",
    ),
    "a block": ([gn.Residual([circular(draw(1, 1, 3))])], (1, 7), "layers[0] is Residual"),
}


def layers_of(name):
    layers = CASES[name][0]
    return gn.Network(layers if isinstance(layers[-1], gn.Dense) else [*layers, gn.Flatten()])


def images(name, n=6, dtype="float64"):
    return draw(n, *CASES[name][1], seed=1).astype(dtype)


def random_network(seed):
    """A network in which everything may happen, and few enough parameters for explicit Jacobians."""
    rng = np.random.default_rng(seed)
    axes = int(rng.integers(1, 3))
    kind = gn.Conv2d if axes == 2 else gn.Conv1d
    around = bool(rng.integers(2))
    c = c_in = int(rng.integers(1, 3))

    size = [int(rng.integers(2, 5) if axes == 2 else rng.integers(3, 8)) for _ in range(axes)]
    left, layers = np.array(size), []
    depth = int(rng.integers(1, 4))
    for index in range(depth):
        out = int(rng.integers(1, 7 if index < depth - 1 else 3))
        taps = [int(rng.integers(1, 1 + min(3, m))) for m in left]
        groups = int(rng.choice([g for g in (1, 2) if c % g == 0 and out % g == 0]))
        bias = rng.standard_normal(out) if rng.random() < 0.3 else None
        options = {"groups": groups, **({"padding": "same", "padding_mode": "circular"} if around else {})}
        layers.append(kind(rng.standard_normal((out, c // groups, *taps)), bias, **options))
        if not around:
            left = left - np.array(taps) + 1
        c = out
        if rng.random() < 0.2:
            layers.append(gn.Scale(float(rng.uniform(0.5, 2))))
    layers.append(gn.Flatten())
    if rng.random() < 0.3 and c * left.prod() <= 24:
        layers.append(gn.Dense(rng.standard_normal((int(rng.integers(1, 3)), int(c * left.prod())))))
    return gn.Network(layers), rng.standard_normal((int(rng.integers(1, 5)), c_in, *size))
