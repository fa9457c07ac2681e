"""How windows lie on an image: kernels of one tap and others, with strides, dilations and paddings of one side.

Outputs, Jacobians and duals against loops that pad and slide for themselves, in NumPy.
"""

from __future__ import annotations

import layer_oracles
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gnfast as gn

many_examples = settings(max_examples=150, deadline=None, derandomize=True, database=None)


def conv(kernel, taps, stride=1, padding=0, mode="zeros", dilation=1, groups=1, bias=False, out=1, channels=1):
    """A convolution with made-up weights along as many axes as `taps` has."""
    rng = np.random.default_rng([len(taps), out, channels, *taps])
    b = rng.standard_normal(out) if bias else None
    return kernel(rng.standard_normal((out, channels // groups, *taps)), b, stride, padding, mode, dilation, groups)


# As many positions as pixels although the stride is not 1, and pixels repeated by one tap: layers, a sample's shape.
ONE_TAP = {
    "behind": ([conv(gn.Conv1d, (1,), 2, [(0, 1)])], (1, 2)),
    "behind, longer": ([conv(gn.Conv1d, (1,), 2, [(0, 4)], bias=True)], (1, 5)),
    "stride 3": ([conv(gn.Conv1d, (1,), 3, [(0, 6)])], (1, 4)),
    "circular behind": ([conv(gn.Conv1d, (1,), 2, [(0, 3)], "circular")], (1, 4)),
    "circular before": ([conv(gn.Conv1d, (1,), 2, [(3, 0)], "circular")], (1, 4)),
    "dilated": ([conv(gn.Conv1d, (1,), 2, [(0, 1)], dilation=3)], (1, 2)),
    "groups": ([conv(gn.Conv1d, (1,), 2, [(0, 2)], groups=2, out=4, channels=2)], (2, 3)),
    "rows": ([conv(gn.Conv2d, (1, 1), (2, 1), [(0, 1), 0])], (1, 2, 1)),
    "columns": ([conv(gn.Conv2d, (1, 1), (1, 2), [0, (0, 2)], out=2)], (1, 2, 3)),
    "both": ([conv(gn.Conv2d, (1, 1), 2, [(0, 1), (0, 2)], "circular", bias=True)], (1, 2, 3)),
    "one pixel": ([conv(gn.Conv2d, (1, 1), 5, out=3, channels=2)], (2, 1, 1)),
    "a row": ([conv(gn.Conv2d, (1, 1), (4, 1), out=2)], (1, 1, 3)),
    "twice": ([conv(gn.Conv1d, (1,), 2, [(0, 1)]), conv(gn.Conv1d, (1,), 2, [(0, 1)])], (1, 2)),
    "then three": ([conv(gn.Conv1d, (1,), 2, [(0, 3)], out=2), conv(gn.Conv1d, (3,), 2, 1, channels=2)], (1, 4)),
    "circular, then zeros": (
        [conv(gn.Conv1d, (1,), 1, [(0, 1)], "circular"), conv(gn.Conv1d, (2,), 1, [(0, 1)])],
        (1, 3),
    ),
    "circular before, then zeros": (
        [conv(gn.Conv1d, (1,), 1, [(2, 0)], "circular"), conv(gn.Conv1d, (1,), 1, [(1, 1)])],
        (1, 3),
    ),
    "circular, then circular": (
        [conv(gn.Conv1d, (1,), 1, [(0, 1)], "circular"), conv(gn.Conv1d, (3,), 1, 1, "circular")],
        (1, 3),
    ),
    "circular, then valid": (
        [conv(gn.Conv1d, (1,), 1, [(0, 1)], "circular"), conv(gn.Conv1d, (2,), 1)],
        (1, 3),
    ),
    "circular rows, then zeros for columns": (
        [conv(gn.Conv2d, (1, 1), 1, [(1, 0), 0], "circular"), conv(gn.Conv2d, (1, 2), 1, [0, (0, 1)])],
        (1, 2, 2),
    ),
    "zeros, then circular": (
        [conv(gn.Conv1d, (1,), 1, [(0, 2)]), conv(gn.Conv1d, (3,), 1, 1, "circular", out=2)],
        (1, 3),
    ),
    "zeros, then a circle as large as it": (
        [conv(gn.Conv1d, (1,), 1, [(1, 0)]), conv(gn.Conv1d, (4,), 1, "same", "circular")],
        (1, 3),
    ),
    "zeros, circular, zeros": (
        [
            conv(gn.Conv1d, (1,), 1, [(1, 0)]),
            conv(gn.Conv1d, (1,), 1, [(0, 1)], "circular"),
            conv(gn.Conv1d, (2,), 1, 1),
        ],
        (1, 2),
    ),
    "stride, then zeros": ([conv(gn.Conv1d, (1,), 2, [(0, 1)]), conv(gn.Conv1d, (2,), 1, [(0, 1)])], (1, 2)),
    "circular with a stride, then circular": (
        [conv(gn.Conv1d, (1,), 2, [(0, 3)], "circular"), conv(gn.Conv1d, (3,), 1, 1, "circular")],
        (1, 4),
    ),
}


@st.composite
def windows(draw):
    """Up to three layers, mostly of one tap, of any strides, dilations, groups and paddings that fit; samples too."""
    axes = draw(st.sampled_from([1, 1, 2]))
    kind = gn.Conv1d if axes == 1 else gn.Conv2d
    channels, size = draw(st.integers(1, 2)), [draw(st.integers(1, 5 if axes == 1 else 3)) for _ in range(axes)]
    shape, layers = (channels, *size), []
    for _ in range(draw(st.integers(1, 3))):
        taps = [draw(st.sampled_from([1, 1, 1, 2, 3])) for _ in size]
        dilation = [draw(st.sampled_from([1, 1, 2])) for _ in size]
        stride = [draw(st.sampled_from([1, 1, 2, 3])) for _ in size]
        mode = draw(st.sampled_from(["zeros", "circular"]))
        pads = []
        for m, k, d in zip(size, taps, dilation, strict=True):
            most = min(m, 3) if mode == "circular" else 3
            before, after = draw(st.integers(0, most)), draw(st.integers(0, most))
            missing = d * (k - 1) + 1 - m - before - after
            if missing > 0:
                mode, after = "zeros", after + missing
            pads.append((before, after))
        out = draw(st.integers(1, 2))
        groups = draw(st.sampled_from([g for g in (1, 2) if channels % g == 0 and out % g == 0]))
        rng = np.random.default_rng(draw(st.integers(0, 2**16)))
        bias = rng.standard_normal(out) if draw(st.booleans()) else None
        layers.append(
            kind(rng.standard_normal((out, channels // groups, *taps)), bias, stride, pads, mode, dilation, groups)
        )
        channels, *size = layers[-1].output_shape((channels, *size))
        if channels * np.prod(size) > 40:
            break
    samples = draw(st.integers(1, 3))
    return layers, np.random.default_rng(draw(st.integers(0, 2**16))).standard_normal((samples, *shape))


def check(layers, X, device):
    """Outputs, products both ways, the Gram and, where there is one, the linear dual and its bounds."""
    net = gn.Network([*layers, gn.Flatten()])
    J = layer_oracles.jacobian(net.layers, X)
    n, scale = len(X), max(1e-3, np.abs(J).max())
    close = {"rtol": 0, "atol": 1e-11 * scale}
    outputs = layer_oracles.forward(net.layers, X)
    np.testing.assert_allclose(device.dressed(net)(X), outputs, rtol=0, atol=1e-11 * max(1.0, np.abs(outputs).max()))
    G = device.on(gn.GaussNewton(net, X))
    np.testing.assert_allclose(G.jacobian() @ np.eye(J.shape[1]), J, **close)
    np.testing.assert_allclose(G.jacobian().T @ np.eye(J.shape[0]), J.T, **close)
    np.testing.assert_allclose(G.gram().to_dense(), J @ J.T / n, rtol=0, atol=1e-10 * scale**2 * J.shape[1])
    rest = gn.GaussNewton(net, X)
    if isinstance(rest.problem.convolution, str):
        return rest.problem.convolution
    exact = np.linalg.eigvalsh(J.T @ J / n)
    kept = exact[exact > 1e-9 * exact[-1]]
    if exact[-1] == 0:
        return "zero"
    found = oracles.spectrum(rest.linear_dual().to_dense())
    found = found[found > 1e-9 * found[-1]]
    np.testing.assert_allclose(found, kept, rtol=1e-6, atol=1e-11 * exact[-1])
    for form in ("jacobian", "convex", "joint", "fourier"):
        bound = gn.bounds.conv(net, X, form)
        assert bound.value >= kept[-1] / kept[0] * (1 - 1e-6), form
    return "dual"


@pytest.mark.parametrize("name", ONE_TAP)
def test_one_tap(name, device):
    layers, shape = ONE_TAP[name]
    X = np.random.default_rng(3).standard_normal((4, *shape))
    check(layers, X, device)


@given(windows())
@many_examples
def test_any_windows(device, case):
    check(*case, device)


def test_zeros_behind_repeated_pixels_are_no_convolution():
    layers, shape = ONE_TAP["circular, then zeros"]
    G = gn.GaussNewton(gn.Network([*layers, gn.Flatten()]), np.ones((2, *shape)))
    with pytest.raises(ValueError, match=r"layers\[1\] pads with zeros what is no longer the data"):
        G.linear_dual()
    assert not np.isfinite(gn.bounds.conv(G.net, np.ones((2, *shape))).value)
