"""What a study says of a network: which bounds are the paper's."""

from __future__ import annotations

import numpy as np

import gnfast as gn
from gnfast.study.quantities import has_papers_bound


def test_what_the_paper_bounds():
    wide, block = gn.mlp([3, 5, 2], "identity", seed=0), [gn.Dense(np.eye(5)), gn.Dense(np.eye(5))]
    nets = {
        "linear": (wide, True),
        "skips over one layer": (gn.mlp([3, 5, 2], "identity", skip=1.0, seed=0), True),
        "leaky relu": (gn.mlp([3, 5, 2], "leaky_relu", seed=0), True),
        "biases": (gn.mlp([3, 5, 2], "identity", bias=True, seed=0), False),
        "skips around leaky relu": (gn.mlp([3, 5, 2], "leaky_relu", skip=1.0, seed=0), False),
        "skips over two layers": (gn.Network([wide.layers[0], gn.Residual(block), wide.layers[-1]]), False),
        "factors": (gn.Network([wide.layers[0], gn.Scale(2.0), wide.layers[-1]]), False),
    }
    for name, (net, expected) in nets.items():
        assert has_papers_bound(net) == expected, name
