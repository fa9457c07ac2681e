"""Networks: forward and linearization against the oracles and PyTorch, parameters, initialisations, files."""

from __future__ import annotations

import copy
import itertools
import math
import pickle

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gnfast as gn
from gnfast.networks import initializers

ACTIVATIONS = ["identity", "relu", "leaky_relu", "tanh", "gelu", "sigmoid"]
# no example database and the same examples in every run: a failure is the code's, not the day's
same_examples = settings(max_examples=60, deadline=None, derandomize=True, database=None)


@st.composite
def networks(draw):
    """A network and samples: layers in any order, any sizes, zero and duplicate samples, both dtypes."""
    dtype = draw(st.sampled_from(["float64", "float32"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    widths = draw(st.lists(st.sampled_from([1, 2, 3, 5, 8, 17, 33]), min_size=2, max_size=5))
    others = st.sampled_from([name for name in ACTIVATIONS if name != "leaky_relu"])
    leaky = st.builds(gn.Activation, st.just("leaky_relu"), st.sampled_from([0.0, 0.1, 1.0, -0.5]))
    activation = st.builds(gn.Activation, others) | leaky
    between = st.lists(activation, max_size=2)
    layers = draw(between)
    for d, m in itertools.pairwise(widths):
        weight = (rng.standard_normal((m, d)) / math.sqrt(d)).astype(dtype)
        bias = rng.standard_normal(m).astype(dtype) if draw(st.booleans()) else None
        layers += [gn.Dense(weight, bias, draw(st.sampled_from([0.0, 0.5, 1.0, -2.0]))), *draw(between)]
    X = rng.standard_normal((draw(st.sampled_from([1, 2, 7, 19])), widths[0])).astype(dtype)
    X[-1] = 0
    X[0] = X[len(X) // 2]
    return gn.Network(layers), X


def rounding(net, X):
    """A bound on the rounding errors of a forward pass: eps times the length of sums and the size of their terms."""
    size, largest = np.abs(X).astype(float), 1.0
    for layer in oracles.plain(net):
        if isinstance(layer, oracles.Dense):
            size = size @ np.abs(layer.weight).T + (0 if layer.bias is None else np.abs(layer.bias))
        else:
            size = 1.13 * size + 0.5  # the largest slope (gelu) and value at 0 (sigmoid)
        largest = max(largest, size.max())
    return np.finfo(net.dtype).eps * (8 + sum(net.widths)) * largest


@given(networks())
@same_examples
def test_forward_is_the_oracle_s(case):
    net, X = case
    outputs = net(X)
    assert outputs.dtype == net.dtype
    assert outputs.shape == (len(X), net.out_features)
    np.testing.assert_allclose(outputs, oracles.forward(net, X), rtol=0, atol=rounding(net, X))


@given(networks())
@same_examples
def test_linearization_is_the_oracle_s(case):
    net, X = case
    found = net.linearize(X)
    inputs, derivatives = oracles.linearize(net, X)
    assert len(found.inputs) == len(found.derivatives) == net.depth
    for A, expected in zip(found.inputs, inputs, strict=True):
        assert A.dtype == net.dtype
        np.testing.assert_allclose(A, expected, rtol=0, atol=rounding(net, X))
    for D, expected in zip(found.derivatives, derivatives, strict=True):
        value = np.ones_like(expected) if D is None else D
        np.testing.assert_allclose(value, expected, rtol=0, atol=rounding(net, X))
    if net.is_linear:
        assert all(D is None for D in found.derivatives)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_forward_and_order_of_parameters_are_those_of_torch(activation, bias):
    torch = pytest.importorskip("torch")
    kinds = {
        "identity": torch.nn.Identity,
        "relu": torch.nn.ReLU,
        "leaky_relu": lambda: torch.nn.LeakyReLU(0.2),
        "tanh": torch.nn.Tanh,
        "gelu": torch.nn.GELU,
        "sigmoid": torch.nn.Sigmoid,
    }
    widths = [5, 9, 4, 3]
    modules = [torch.nn.Linear(d, m, bias=bias, dtype=torch.float64) for d, m in itertools.pairwise(widths)]
    module = torch.nn.Sequential(*[part for linear in modules for part in (linear, kinds[activation]())][:-1])
    values = [value.detach().numpy() for value in module.parameters()]
    net = gn.mlp(widths, activation, slope=0.2 if activation == "leaky_relu" else 0.01, bias=bias, init=values)
    X = np.random.default_rng(0).standard_normal((7, 5))
    assert [a.shape for a in net.parameters()] == [tuple(a.shape) for a in module.parameters()]
    np.testing.assert_allclose(net(X), module(torch.tensor(X)).detach().numpy(), rtol=0, atol=rounding(net, X))


# ---------------------------------------------------------------------------------------------------- the object
def test_a_network_says_what_it_is():
    W, b, V = np.ones((4, 3)), np.zeros(4), np.ones((2, 4))
    first, relu, last = gn.Dense(W, b, skip=0.5), gn.Activation("relu"), gn.Dense(V)
    net = gn.Network([first, relu, last])
    assert net.layers == (first, relu, last)
    assert net.dense == (first, last)
    assert net.widths == [3, 4, 2]
    assert (net.in_features, net.out_features, net.depth, net.num_parameters) == (3, 2, 2, 12 + 4 + 8)
    assert net.dtype == np.float64
    assert not net.is_linear
    assert gn.Network([first, gn.Activation("identity"), last]).is_linear
    for found, given_ in zip(net.parameters(), [W, b, V], strict=True):
        assert found.base is given_  # no copy
        assert not found.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            found[0] = 7
    assert W.flags.writeable  # the caller's own array stays as it was


def test_layers_and_networks_cannot_be_changed():
    net = gn.mlp([3, 4, 2])
    for owner, name in [(net, "layers"), (net, "widths"), (net.layers[0], "weight"), (net.layers[1], "slope")]:
        with pytest.raises(AttributeError):
            setattr(owner, name, None)


def test_weights_in_another_order_are_copied_to_c_order():
    W = np.asfortranarray(np.arange(12.0).reshape(3, 4))
    dense = gn.Dense(W)
    assert dense.weight.flags.c_contiguous
    np.testing.assert_array_equal(dense.weight, W)


@pytest.mark.parametrize("bias", [False, True])
def test_with_parameters_keeps_the_layers(bias):
    net = gn.mlp([3, 5, 5, 2], "leaky_relu", slope=0.3, skip=[0, 1, 0.5], bias=bias)
    values = [np.full(a.shape, 1.0 + i, "float32") for i, a in enumerate(net.parameters())]
    other = net.with_parameters(values)
    assert other.dtype == np.float32
    assert [layer.skip for layer in other.dense] == [0, 1, 0.5]
    assert other.layers[1] == gn.Activation("leaky_relu", 0.3)
    for found, value in zip(other.parameters(), values, strict=True):
        np.testing.assert_array_equal(found, value)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_compute_the_same(duplicate):
    net = gn.mlp([4, 6, 3], "gelu", skip=0.5, bias=True)
    X = np.random.default_rng(0).standard_normal((5, 4))
    other = duplicate(net)
    np.testing.assert_array_equal(other(X), net(X))
    assert not any(a.flags.writeable for a in other.parameters())


def test_repr_names_widths_activation_size_and_dtype():
    net = gn.mlp([64, 1024, 1024, 10], "leaky_relu", slope=0.1, skip=[0, 0.5, 0], bias=True, dtype="float32")
    assert repr(net).splitlines() == [
        "Network(64 -> 1024 -> 1024 -> 10, leaky_relu 0.1, 1,126,410 parameters, float32)",
        "   0  Dense(64 -> 1024, bias, float32)",
        "   1  Activation(leaky_relu 0.1)",
        "   2  Dense(1024 -> 1024, bias, skip 0.5, float32)",
        "   3  Activation(leaky_relu 0.1)",
        "   4  Dense(1024 -> 10, bias, float32)",
    ]
    deep = gn.mlp([3, *[8] * 20, 1], "identity")
    assert repr(deep) == "Network(3 -> 8 x 20 -> 1, linear, 1,248 parameters, float64)"
    assert repr(gn.Network([gn.Dense(np.ones((1, 1)))])).startswith("Network(1 -> 1, linear, 1 parameter, float64)")


# ------------------------------------------------------------------------------------------------ initialisations
def standard_deviation(name, fan_in, fan_out, gain):
    return {
        "kaiming_normal": gain / math.sqrt(fan_in),
        "kaiming_uniform": gain / math.sqrt(fan_in),
        "xavier_normal": math.sqrt(2 / (fan_in + fan_out)),
        "xavier_uniform": math.sqrt(2 / (fan_in + fan_out)),
        "lecun_normal": 1 / math.sqrt(fan_in),
        "pytorch_uniform": 1 / math.sqrt(3 * fan_in),
        "ntk": 1 / math.sqrt(fan_in),
        "orthogonal": 1 / math.sqrt(max(fan_in, fan_out)),
    }[name]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("activation", "gain"), [("relu", math.sqrt(2)), ("identity", 1), ("tanh", 5 / 3)])
@pytest.mark.parametrize("name", initializers.NAMES)
def test_initial_weights_have_the_named_distribution(name, activation, gain, dtype):
    net = gn.mlp([150, 90, 260], activation, init=name, bias=True, dtype=dtype, seed=3)
    assert net.dtype == dtype
    for layer in net.dense:
        W = layer.weight.astype(float)
        fan_out, fan_in = W.shape
        z = W / standard_deviation(name, fan_in, fan_out, gain)
        # of N samples the mean strays by 1 / sqrt(N), the second moment by at most sqrt(2 / N): five of these
        assert abs(z.mean()) < 5 / math.sqrt(z.size)
        assert abs((z**2).mean() - 1) < 5 * math.sqrt(2 / z.size)
        if name.endswith("uniform"):
            assert 0.99 * math.sqrt(3) < np.abs(z).max() <= math.sqrt(3) * (1 + 1e-6)
            assert abs((z**4).mean() - 9 / 5) < 0.1
        else:
            assert abs((z**4).mean() - 3) < 0.2
        np.testing.assert_array_equal(layer.bias, 0)


@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (5, 5), (1, 6)])
def test_orthogonal_weights_are_orthonormal(shape):
    (W,) = gn.mlp(shape[::-1], init="orthogonal", seed=11).parameters()
    small = W @ W.T if shape[0] <= shape[1] else W.T @ W
    np.testing.assert_allclose(small, np.eye(min(shape)), atol=1e-14)


def test_orthogonal_weights_have_no_preferred_sign():
    signs = [gn.mlp([2, 2], init="orthogonal", seed=seed).parameters()[0][0, 0] > 0 for seed in range(400)]
    assert 150 < sum(signs) < 250  # five standard deviations of a fair coin


def test_gains_are_those_of_torch():
    torch = pytest.importorskip("torch")
    gain = torch.nn.init.calculate_gain
    for name in ("relu", "tanh", "sigmoid"):
        assert initializers.gain(name, 0.01) == pytest.approx(gain(name))
    assert initializers.gain("identity", 0.01) == gain("linear")
    assert initializers.gain("leaky_relu", 0.3) == pytest.approx(gain("leaky_relu", 0.3))
    assert initializers.gain("gelu", 0.01) == pytest.approx(gain("relu"))


def test_the_default_of_torch_has_its_name():
    torch = pytest.importorskip("torch")
    theirs = torch.nn.Linear(300, 500).weight.detach().numpy()
    (ours,) = gn.mlp([300, 500], init="pytorch_uniform").parameters()
    assert np.abs(ours).max() == pytest.approx(np.abs(theirs).max(), rel=1e-3) == pytest.approx(300**-0.5, rel=1e-3)
    assert ours.var() == pytest.approx(theirs.var(), rel=0.02)


@pytest.mark.parametrize("init", ["kaiming_normal", "kaiming_uniform", "orthogonal"])
def test_weights_depend_on_seed_and_layer_alone(init):
    def first_and_second(seed):
        return gn.mlp([6, 6, 6], init=init, seed=seed).parameters()

    (a, b), (c, _), (e, _) = first_and_second(5), first_and_second(5), first_and_second(2**64 - 1)
    np.testing.assert_array_equal(a, c)
    assert not np.any(a == b)
    assert not np.any(a == e)


@pytest.mark.parametrize("init", ["kaiming_normal", "kaiming_uniform"])
def test_weights_do_not_depend_on_the_number_of_threads(init):
    before, drawn = gn.get_num_threads(), []
    try:
        for threads in (1, 2):
            gn.set_num_threads(threads)
            drawn.append(gn.mlp([301, 703, 5], init=init, dtype="float32").parameters())
    finally:
        gn.set_num_threads(before)
    for one, two in zip(*drawn, strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_wider_network_contains_the_numbers_of_a_narrower_one():
    small, large = gn.mlp([5, 7, 3], init="lecun_normal"), gn.mlp([9, 11, 4], init="lecun_normal")
    for V, W in zip(small.parameters(), large.parameters(), strict=True):
        rows, columns = V.shape
        ours, theirs = V * math.sqrt(columns), W[:rows, :columns] * math.sqrt(W.shape[1])
        np.testing.assert_allclose(ours, theirs, rtol=1e-14)


def test_init_by_a_function_sees_shapes_and_another_seed_per_layer():
    calls = []

    def init(shape, seed):
        calls.append((shape, seed))
        return np.random.default_rng(seed).standard_normal(shape)

    net = gn.mlp([3, 4, 2], init=init, seed=9, dtype="float32")
    assert [shape for shape, _ in calls] == [(4, 3), (2, 4)]
    assert calls[0][1] != calls[1][1]
    np.testing.assert_array_equal(
        net.parameters()[0], np.random.default_rng(calls[0][1]).standard_normal((4, 3)).astype("float32")
    )
    again = gn.mlp([3, 4, 2], init=init, seed=9, dtype="float32")
    np.testing.assert_array_equal(again.parameters()[1], net.parameters()[1])


@pytest.mark.parametrize("bias", [False, True])
def test_init_by_arrays_takes_them_in_flat_order(bias):
    rng = np.random.default_rng(0)
    shapes = [(4, 3), (4,), (2, 4), (2,)] if bias else [(4, 3), (2, 4)]
    values = [rng.standard_normal(shape) for shape in shapes]
    net = gn.mlp([3, 4, 2], bias=bias, init=values)
    for found, value in zip(net.parameters(), values, strict=True):
        assert found.base is value


# ---------------------------------------------------------------------------------------------------------- files
@given(networks())
@settings(same_examples, max_examples=25)
def test_saved_networks_load_the_same(tmp_path_factory, case):
    pytest.importorskip("safetensors")
    net, X = case
    path = tmp_path_factory.mktemp("net") / "weights.safetensors"
    net.save(path)
    again = gn.load(str(path))
    np.testing.assert_array_equal(again(X), net(X))
    assert repr(again) == repr(net)
    assert [p.tobytes() for p in again.parameters()] == [p.tobytes() for p in net.parameters()]
    assert [getattr(a, "skip", a) for a in again.layers] == [getattr(a, "skip", a) for a in net.layers]


def test_a_weights_file_is_plain_safetensors(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    net = gn.mlp([3, 4, 2], bias=True)
    net.save(tmp_path / "weights.safetensors")
    found = safetensors.load_file(tmp_path / "weights.safetensors")
    names = ["layers.0.weight", "layers.0.bias", "layers.2.weight", "layers.2.bias"]
    assert sorted(found) == sorted(names)
    for name, value in zip(names, net.parameters(), strict=True):
        np.testing.assert_array_equal(found[name], value)


def test_saving_replaces_a_file_whole_or_not_at_all(tmp_path, monkeypatch):
    pytest.importorskip("safetensors")
    path = tmp_path / "weights.safetensors"
    gn.mlp([3, 4, 2]).save(path)
    gn.mlp([3, 5, 2]).save(path)
    assert gn.load(path).widths == [3, 5, 2]

    def full_disk(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space left on device"):
        gn.mlp([3, 6, 2]).save(path)
    assert gn.load(path).widths == [3, 5, 2]
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
