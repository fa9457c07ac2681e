"""The policy of docs/arrays.md: what is taken as an array, what comes out, what is refused."""

from __future__ import annotations

import array_api_strict as xp
import numpy as np
import pytest
import torch

import gnfast as gn


class Dlpack:
    """An array of a library that knows DLPack and nothing of NumPy."""

    def __init__(self, array):
        self._array = array

    def __dlpack__(self, **options):
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()


MAKERS = {"array-api-strict": xp.asarray, "torch": torch.from_numpy, "DLPack": Dlpack}


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture(params=MAKERS)
def make(request):
    """An array of another library in the same memory."""
    return MAKERS[request.param]


def problem(make=lambda array: array):
    weights = [rng(i).standard_normal(shape) for i, shape in enumerate([(6, 4), (6,), (3, 6), (3,)])]
    W, b, V, c = map(make, weights)
    net = gn.Network([gn.Dense(W, b), gn.Activation("tanh"), gn.Dense(V, c)])
    X = rng(5).standard_normal((8, 4))
    return gn.GaussNewton(net, make(X)), X, weights


def test_samples_and_weights_are_referred_to(make):
    G, X, weights = problem(make)
    assert np.shares_memory(G.X, X)
    assert all(np.shares_memory(found, given) for found, given in zip(G.net.parameters(), weights, strict=True))
    out = G.net(make(X))
    assert type(out) is kind_of(make)
    np.testing.assert_array_equal(out, problem()[0].net(X))


def kind_of(make):
    """Of products: PyTorch gets tensors back, all else NumPy's arrays."""
    return torch.Tensor if make is torch.from_numpy else np.ndarray


def test_vectors_in_and_out(make):
    G, plain = problem(make)[0], problem()[0]
    v, V = rng(6).standard_normal(51), np.asfortranarray(rng(7).standard_normal((51, 3)))
    for found, expected in [
        (G @ make(v), plain @ v),
        (G @ make(V), plain @ V),
        (G.matmat(make(V)), plain @ V),
        (G.jacobian() @ make(v), plain.jacobian() @ v),
        (G.jacobian().T @ make(v[:24]), plain.jacobian().T @ v[:24]),
        (G.gram() @ make(v[:24]), plain.gram() @ v[:24]),
        (G.gram().lift(make(V[:24])), plain.gram().lift(V[:24])),
        (gn.solve(G, make(v), 0.1)[0], gn.solve(plain, v, 0.1)[0]),
    ]:
        assert type(found) is kind_of(make) and np.asarray(found).dtype == np.float64
        np.testing.assert_array_equal(found, expected)
    found, expected = (gn.eigsh(op, k=1, v0=start)[0] for op, start in ((G, make(v)), (plain, v)))
    assert type(found) is np.ndarray
    np.testing.assert_array_equal(found, expected)
    if make is Dlpack:
        np.testing.assert_array_equal(make(v) @ G, plain @ v)
        np.testing.assert_array_equal(make(V.T) @ G, (plain @ V).T)
    back = xp.from_dlpack(G @ make(v))
    assert back.shape == (51,)


def test_all_other_array_arguments(make):
    X, net = rng(5).standard_normal((8, 4)), problem()[0].net
    H, weights = np.tile(np.eye(3), (8, 1, 1)), rng(8).uniform(1, 2, 8)
    G = gn.GaussNewton(net, make(X), make(H), weights=make(weights))
    np.testing.assert_allclose(G.diagonal(), gn.GaussNewton(net, X, weights=weights).diagonal(), rtol=1e-12)
    M = X.T @ X
    assert gn.cond(make(M)).value == gn.cond(M).value
    assert gn.trace(make(M)).value == pytest.approx(M.trace())
    entries = rng(9).uniform(1, 2, 51)
    assert gn.cond(G, preconditioner=make(entries)).value == gn.cond(G, preconditioner=entries).value
    same = net.with_parameters([make(np.array(array)) for array in net.parameters()])
    np.testing.assert_array_equal(same(X), net(X))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.ones(51, requires_grad=True), "detach"),
        (torch.ones(51, dtype=torch.bfloat16), "cannot read"),
        (torch.ones(51, dtype=torch.float32), r"V has dtype .*float32 .* convert it with V\.to\(torch\.float64\)"),
        (xp.asarray([1.0] * 51, device=xp.Device("device1")), "v is of type Array"),
        (np.ma.masked_array(np.ones(51)), "masked array"),
        ("words", "dtype <U5"),
    ],
)
def test_nothing_is_converted_silently(value, message):
    with pytest.raises(TypeError, match=message):
        problem()[0].matvec(value)


@pytest.mark.parametrize("dtype", [xp.float32, xp.complex128, xp.int64, xp.bool])
def test_vectors_of_another_dtype_are_multiplied_as_numpy_does(dtype):
    G, v = problem()[0], xp.ones(51, dtype=dtype)
    found, expected = G @ v, G.to_dense() @ np.asarray(v)
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_out_is_the_machines_own_array(make):
    G, V = problem()[0], np.asfortranarray(rng(7).standard_normal((51, 3)))
    with pytest.raises(TypeError, match=r"out is of type"):
        G.matmat(V, out=make(np.empty((51, 3), order="F")))
    out = np.empty((51, 3), order="F")
    assert G.matmat(make(V), out=out) is out
