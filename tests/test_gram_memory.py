"""What forming a Gram matrix of convolutions takes: the peak of a process beside its plan and its limit."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

import gnfast as gn

CODE = """
import sys
import numpy as np
import gnfast as gn

peak = lambda: 1024 * int(open('/proc/self/status').read().partition('VmHWM:')[2].split()[0])
name, loss, dtype, method, limit = sys.argv[1:]
rng = np.random.default_rng(0)
channels, side, n = (24, 12, 260) if limit == "0" else (12, 8, 150)

def weight(*shape):
    return rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))

def conv(before):
    return gn.Conv2d(weight(channels, before, 3, 3), rng.standard_normal(channels), padding=1)

def batch_norm():
    return gn.BatchNorm(*(rng.uniform(1, 2, channels) for _ in range(4)))

relu, layer_norm = gn.Activation("relu"), gn.LayerNorm(normalized_shape=(channels, side, side))
inner = {
    "plain": [conv(3), relu, conv(channels), relu, conv(channels)],
    "residual": [
        conv(3),
        gn.Residual([conv(channels), relu, conv(channels)]),
        gn.Residual([relu, conv(channels)], [conv(channels)]),
    ],
    "normed": [conv(3), batch_norm(), relu, conv(channels), layer_norm, relu, conv(channels)],
}[name]
net = gn.Network([*inner, gn.Pool("global_average"), gn.Flatten(), gn.Dense(weight(4, channels))])
net = net.with_parameters([array.astype(dtype) for array in net.parameters()])
X = rng.standard_normal((n, 3, side, side)).astype(dtype)
gn.GaussNewton(net, X[:2], loss).gram(reduced=True).to_dense()  # what the first call loads
before = peak()
G = gn.GaussNewton(net, X, loss, method=method, memory_limit=float(limit) or None)
said = {space.name: space.memory for space in G.plan().spaces}["samples"]
G.gram(reduced=True).to_dense()
print(peak() - before, said)
"""


def measured(*case: str) -> tuple[float, float]:
    """The peak in bytes and what the plan says.

    The C library gives blocks back at once here, and none is of a size that the core keeps; one thread, whose work
    space is counted in the plan.
    """
    env = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    found = subprocess.run([sys.executable, "-c", CODE, *case], capture_output=True, text=True, check=True, env=env)
    peak, said = found.stdout.split()
    return float(peak), float(said)


no_peak = pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="the peak of memory is read in /proc")


@no_peak
@pytest.mark.parametrize(
    "case",
    [
        ("plain", "mse", "float64", "stored", "0"),
        ("residual", "cross_entropy", "float64", "usual", "0"),
        ("normed", "mse", "float32", "usual", "0"),
    ],
    ids=" ".join,
)
def test_the_peak_is_what_the_plan_says(case: tuple[str, ...]) -> None:
    """In large problems: 3 to 17 % off were measured, since work space is not always used to its end."""
    peak, said = measured(*case)
    assert 0.78 < peak / said < 1.1


@no_peak
@pytest.mark.parametrize(
    "case",
    [
        ("plain", "mse", "float64", "usual", "17e6"),
        ("residual", "cross_entropy", "float64", "usual", "22e6"),
        ("normed", "mse", "float64", "usual", "19e6"),
    ],
    ids=" ".join,
)
def test_the_limit_holds_with_the_matrix_in_it(case: tuple[str, ...]) -> None:
    """All of it, but for half a megabyte of stacks and small objects; and rows take what is left."""
    peak, said = measured(*case)
    limit = float(case[-1])
    assert said <= limit
    assert 0.75 * limit < peak < limit + 5e5


def test_a_limit_without_room_for_the_matrix_is_refused() -> None:
    """Before anything is made; whatever is refused, solvers then go by products."""
    rng = np.random.default_rng(0)
    layers = [gn.Conv2d(rng.standard_normal((6, 2, 3, 3)), padding=1), gn.Activation("tanh")]
    layers += [gn.Conv2d(rng.standard_normal((4, 6, 3, 3))), gn.Pool("global_average"), gn.Flatten()]
    net, X = gn.Network(layers), rng.standard_normal((120, 2, 6, 6))
    free = gn.GaussNewton(net, X).gram()
    square = 8 * len(X) ** 2 * 16
    core = gn.GaussNewton(net, X, method="usual", memory_limit=square).problem.products.plan(8)
    held = core.bytes_forward + core.bytes_workspace
    assert held < square
    tight = gn.GaussNewton(net, X, method="usual", memory_limit=square + held / 2).gram()
    with pytest.raises(
        MemoryError, match=r"the 480 x 480 matrix with what it is formed of needs .* but memory_limit is"
    ):
        tight.to_dense()
    with pytest.raises(MemoryError, match=r"memory_limit leaves .* beside the forward pass and the matrix of 1\.8 MB"):
        tight.form(np.empty(tight.shape))
    v = rng.standard_normal(len(X) * 4)
    np.testing.assert_allclose(tight @ v, free @ v, rtol=1e-9, atol=1e-9)
    assert not tight.fits_in_memory
    assert gn.eigsh(tight, 2)[0] == pytest.approx(gn.eigsh(free, 2)[0], rel=1e-9)
