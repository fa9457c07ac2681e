"""Networks of any layers: forward, products, Jacobians and duals against PyTorch's Jacobian and plain loops."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import oracles
import places
import pytest
import torch_layers
from hypothesis import given, settings
from hypothesis import strategies as st

import gnfast as gn

same_examples = settings(max_examples=60, deadline=None, derandomize=True, database=None)
few_examples = settings(max_examples=25, deadline=None, derandomize=True, database=None)
TOLERANCE = 1e-10  # relative, in float64: sums of some hundred terms of order one


def close(found, expected, tolerance=TOLERANCE):
    scale = max(1e-3, float(np.abs(expected).max(initial=0)))
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * scale)


def root(loss, F):
    """R (n, k, k) of the loss at the outputs F."""
    return oracles.hessian_root(loss, F)


def weighted(J, loss, F):
    """The rows R^T J."""
    R = root(loss, F)
    return np.einsum("iab,iap->ibp", R, J.reshape(*R.shape[:2], -1)).reshape(J.shape)


def random_block(rows, s, seed=0, dtype="float64"):
    return np.asfortranarray(np.random.default_rng(seed).standard_normal((rows, s)).astype(dtype))


def check_all(net, X, loss="mse", device=places.CPU, **options):
    """Everything that an operator gives, against the Jacobian of PyTorch."""
    F, J = torch_layers.forward(net, X), torch_layers.jacobian(net, X)
    close(device.dressed(net)(X), F)
    S = weighted(J, loss, F) / np.sqrt(len(X))
    G = device.on(gn.GaussNewton(net, X, loss, **options))
    V, U = random_block(J.shape[1], 3), random_block(J.shape[0], 2, 1)
    close(G @ V, S.T @ (S @ V))
    close(G.jacobian() @ V, J @ V)
    close(G.jacobian().T @ U, J.T @ U)
    K = G.gram()
    close(K @ U, S @ (S.T @ U))
    close(K.lift(U), S.T @ U)
    close(K.restrict(np.ascontiguousarray(V.T)), (S @ V).T)
    close(K.diagonal(), (S**2).sum(1))
    close(K.to_dense(), S @ S.T)
    close(device.dressed(gn.diagonal)(G).values, (S**2).sum(0))
    return G, S


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")  # PyTorch's
@given(torch_layers.networks(), st.sampled_from(["mse", "cross_entropy", "binary_cross_entropy"]))
@same_examples
def test_random_networks_are_those_of_torch(device, case, loss):
    net, X = case
    if loss == "cross_entropy" and net.out_features == 1:
        loss = "mse"
    check_all(net, X, loss, device, method="auto")


@given(torch_layers.networks(), st.sampled_from(["usual", "stored"]), st.floats(0, 1))
@few_examples
def test_methods_and_block_sizes_change_nothing_but_rounding(case, method, share):
    net, X = case
    if net.is_feedforward_dense:
        return
    free = gn.GaussNewton(net, X, method=method)
    V = random_block(free.shape[0], 9)
    expected = free @ V
    plan = free.plan()
    limit = int(plan.memory + (net.num_parameters * net.dtype.itemsize * net.out_features * (1 + share * len(X))))
    for bytes_ in (limit, least_limit(net, X, method)):
        tight = gn.GaussNewton(net, X, method=method, memory_limit=bytes_)
        close(tight @ V, expected, 1e-12)
        close(tight.jacobian() @ V, free.jacobian() @ V, 1e-12)
    k = net.out_features  # of what is left, half is work space: two samples' rows and the matrix need the other
    beside = 8 * (3 * k * net.num_parameters + (len(X) * k) ** 2)
    few = 1024  # bytes of the kept pass, which count where a network has two parameters
    tight = gn.GaussNewton(net, X, memory_limit=least_limit(net, X, "usual") + 2 * beside + few)
    close(tight.gram().to_dense(), free.gram().to_dense(), 1e-12)


def least_limit(net, X, method):
    """The least memory_limit that is not refused, to a percent."""
    low, high = 1.0, 1e9
    while high / low > 1.01:
        middle = np.sqrt(low * high)
        try:
            gn.GaussNewton(net, X, method=method, memory_limit=middle)
            high = middle
        except MemoryError:
            low = middle
    return high


def convolve(x, weight, stride, padding, dilation, groups, circular):
    """A convolution of one image by plain loops."""
    o, per, kh, kw = weight.shape
    h, w = x.shape[1:]
    oh, ow = (
        (size + 2 * p - d * (k - 1) - 1) // s + 1
        for size, p, d, k, s in zip((h, w), padding, dilation, (kh, kw), stride, strict=True)
    )
    out = np.zeros((o, oh, ow))
    for q in np.ndindex(o, oh, ow, per, kh, kw):
        k, y, z, j, a, b = q
        row, col = y * stride[0] + a * dilation[0] - padding[0], z * stride[1] + b * dilation[1] - padding[1]
        if circular:
            row, col = row % h, col % w
        if 0 <= row < h and 0 <= col < w:
            out[k, y, z] += weight[k, j, a, b] * x[k // (o // groups) * per + j, row, col]
    return out


@pytest.mark.parametrize(
    ("shape", "kernel", "stride", "padding", "dilation", "groups", "circular"),
    [
        ((3, 7, 6), (3, 3), (1, 1), (1, 1), (1, 1), 1, False),
        ((4, 7, 6), (3, 2), (2, 3), (1, 2), (1, 1), 2, False),  # stride and padding that do not divide
        ((1, 5, 5), (2, 2), (3, 3), (0, 0), (2, 2), 1, False),
        ((2, 1, 1), (1, 1), (1, 1), (0, 0), (1, 1), 1, False),  # one pixel
        ((2, 1, 1), (3, 3), (1, 1), (1, 1), (1, 1), 2, False),  # a kernel that mostly sees padding
        ((2, 4, 5), (4, 5), (1, 1), (0, 0), (1, 1), 1, False),  # a kernel as large as the image
        ((3, 4, 5), (3, 3), (1, 1), (1, 1), (1, 1), 3, True),
        ((2, 3, 4), (3, 3), (2, 1), (3, 4), (1, 2), 1, True),  # all the way around
        ((3, 4, 4), (1, 1), (2, 2), (0, 0), (1, 1), 1, False),
    ],
)
def test_convolutions_are_plain_loops(shape, kernel, stride, padding, dilation, groups, circular):
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((6, shape[0] // groups, *kernel))
    X = rng.standard_normal((3, *shape))
    layer = gn.Conv2d(weight, None, stride, padding, "circular" if circular else "zeros", dilation, groups)
    net = gn.Network([layer, gn.Flatten()])
    expected = [convolve(x, weight, stride, padding, dilation, groups, circular) for x in X]
    assert layer.output_shape(shape) == expected[0].shape
    close(net(X), np.reshape(expected, (3, -1)))
    # Linear in the weight: its Jacobian column by column.
    columns = []
    for at in np.ndindex(weight.shape):
        unit = np.zeros_like(weight)
        unit[at] = 1
        columns.append(np.reshape([convolve(x, unit, stride, padding, dilation, groups, circular) for x in X], -1))
    J = np.transpose(columns)
    G = gn.GaussNewton(net, X)
    close(G.jacobian() @ np.eye(J.shape[1]), J)
    close(G.gram().to_dense(), J @ J.T / 3)


def example(seed=0, dtype="float64", activation="tanh"):
    """A residual network of some size, and samples for it."""
    rng = np.random.default_rng(seed)

    def array(*shape):
        return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(dtype)

    net = gn.Network(
        [
            gn.Conv2d(array(4, 2, 3, 3), array(4), padding=1),
            gn.Activation(activation),
            gn.Residual([gn.Conv2d(array(4, 4, 3, 3), padding="same"), gn.Activation(activation)], scale=0.5),
            gn.Residual(
                [gn.Conv2d(array(6, 4, 3, 3), stride=2, padding=1), gn.Activation(activation)],
                [gn.Conv2d(array(6, 4, 1, 1), array(6), stride=2)],
            ),
            gn.Pool("max", 2, stride=1),
            gn.Flatten(),
            gn.Dense(array(3, 24), array(3)),
        ]
    )
    return net, rng.standard_normal((7, 2, 6, 5)).astype(dtype)


def test_finite_differences_of_a_residual_network():
    net, X = example()
    direction = random_block(net.num_parameters, 1)[:, 0]
    step, splits = 1e-6, np.cumsum([a.size for a in net.parameters()])[:-1]

    def moved(by):
        shifts = np.split(by * direction, splits)
        arrays = [a + d.reshape(a.shape) for a, d in zip(net.parameters(), shifts, strict=True)]
        return net.with_parameters(arrays)(X).ravel()

    difference = (moved(step) - moved(-step)) / (2 * step)
    close(gn.GaussNewton(net, X).jacobian() @ direction, difference, 1e-8)


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize("method", ["usual", "stored"])
def test_spectra_agree_in_both_spaces(method, loss):
    net, X = example()
    G, S = check_all(net, X, loss, method=method)
    K = S @ S.T
    expected = np.linalg.eigvalsh(K)
    kept = expected[expected > 1e-10 * expected[-1]]
    close(gn.eigsh(G, 3)[0], expected[-3:], 1e-7)
    found = gn.cond(G)
    assert found.space == "samples"
    assert found.rank == len(kept)
    np.testing.assert_allclose(found.value, kept[-1] / kept[0], rtol=1e-6)
    np.testing.assert_allclose(gn.trace(G).value, np.trace(K), rtol=1e-10)
    reduced = G.gram(reduced=True)
    np.testing.assert_allclose(np.linalg.eigvalsh(reduced.to_dense())[-len(kept) :], kept, rtol=1e-8)


def test_the_jacobian_and_its_adjoint():
    net, X = example(activation="relu")
    J = gn.GaussNewton(net, X).jacobian()
    V, U = random_block(J.shape[1], 4), random_block(J.shape[0], 4, 1)
    close(np.sum((J @ V) * U, 0), np.sum(V * (J.T @ U), 0), 1e-13)


def test_the_preconditioner_is_the_mean_over_outputs():
    net, X = example()
    K = gn.GaussNewton(net, X).gram()
    blocks = K.to_dense().reshape(7, 3, 7, 3)
    mean = np.einsum("iaja->ij", blocks) / 3
    M = K.preconditioner()
    V = random_block(21, 2)
    close(M @ V, np.kron(np.linalg.inv(mean), np.eye(3)) @ V, 1e-8)


def test_single_precision():
    net, X = example(dtype="float32")
    J = torch_layers.jacobian(net, X)
    for method in ("usual", "stored"):
        G = gn.GaussNewton(net, X, method=method)
        V = random_block(J.shape[1], 3, dtype="float32")
        found = G @ V
        assert found.dtype == np.float32
        close(found, J.T @ (J @ V) / 7, 1e-5)
    close(G.gram().to_dense(), J @ J.T / 7, 1e-5)


@pytest.mark.parametrize("padding", [0, 1])
def test_ties_of_max_pooling_are_those_of_torch(padding):
    X = np.round(np.random.default_rng(0).standard_normal((4, 2, 5, 6)))
    X[0] = 0
    net = gn.Network([gn.Conv2d(np.ones((2, 1, 1, 1)), groups=2), gn.Pool("max", 3, 2, padding), gn.Flatten()])
    check_all(net, X)


def test_kinks_are_those_of_torch():
    X = np.array([[0.0, -0.0, 1.0, -1.0, 30.0, -800.0, 800.0]])
    for name in torch_layers.ACTIVATIONS:
        activation = gn.Activation(name, 0.3) if name == "leaky_relu" else gn.Activation(name)
        net = gn.Network([gn.Dense(np.eye(7)), activation, gn.Dense(np.ones((1, 7)))])
        check_all(net, X)


def test_a_chain_behind_a_flatten_is_a_chain():
    rng = np.random.default_rng(0)
    layers = [gn.Dense(rng.standard_normal((5, 12))), gn.Activation("relu"), gn.Dense(rng.standard_normal((2, 5)))]
    X = rng.standard_normal((4, 3, 2, 2))
    net, flat = gn.Network([gn.Flatten(), *layers]), gn.Network(layers)
    assert net.is_feedforward_dense
    assert net.widths == [12, 5, 2]
    np.testing.assert_array_equal(net(X), flat(X.reshape(4, 12)))
    G, H = gn.GaussNewton(net, X, method="factored"), gn.GaussNewton(flat, X.reshape(4, 12), method="factored")
    V = random_block(G.shape[0], 3)
    np.testing.assert_array_equal(G @ V, H @ V)
    np.testing.assert_array_equal(G.gram().to_dense(), H.gram().to_dense())
    assert [bound.value for bound in gn.bounds.all(net, X)] == [b.value for b in gn.bounds.all(flat, X.reshape(4, 12))]


# ------------------------------------------------------------------------------------------------------- the plan
def test_the_plan_stores_rows_where_weights_are_shared_widely():
    rng = np.random.default_rng(0)
    layers = [gn.Conv2d(rng.standard_normal((8, 8, 3, 3)) / 9, padding=1) for _ in range(3)]
    net = gn.Network([*layers, gn.Pool("global_average"), gn.Flatten()])
    X = rng.standard_normal((4, 8, 24, 24))
    G = gn.GaussNewton(net, X)
    plan = G.plan()
    assert plan.method == "stored"
    assert plan.flops == plan.flops_stored == 4 * (4 * 8) * net.num_parameters
    assert plan.flops_stored < plan.flops_usual
    assert "stored (cheapest)" in str(plan)
    assert "stored product" in repr(G)
    kept = G.core.plan(8)
    tight = gn.GaussNewton(net, X, memory_limit=kept.bytes_forward + kept.bytes_rows)  # no tangent fits beside
    assert tight.plan().method == "usual"
    assert tight.plan().memory <= tight.memory_limit
    with pytest.raises(MemoryError, match="stored"):
        gn.GaussNewton(net, X, method="stored", memory_limit=tight.memory_limit)


# ------------------------------------------------------------------------------------------------------- the object
def test_a_network_says_what_it_is_is_pickled_and_saved(tmp_path):
    net, X = example()
    assert not net.is_feedforward_dense
    assert not net.is_linear
    assert net.output_shape(X.shape[1:]) == (3,)
    assert net.num_parameters == sum(a.size for a in net.parameters())
    assert "Residual([Conv2d(4 -> 4, 3x3, padding same, float64), tanh]" in repr(net).replace(
        "Activation(tanh)", "tanh"
    )
    net.save(tmp_path / "net.safetensors")
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net)), gn.load(tmp_path / "net.safetensors")):
        assert repr(twin) == repr(net)
        np.testing.assert_array_equal(twin(X), net(X))
        assert not twin.parameters()[0].flags.writeable
    twin = net.with_parameters([2 * a for a in net.parameters()])
    assert [a.shape for a in twin.parameters()] == [a.shape for a in net.parameters()]
    np.testing.assert_array_equal(twin.parameters()[4], 2 * net.parameters()[4])
    with pytest.raises(ValueError, match="any shape"):
        _ = net.widths


def test_series_and_all_layers_are_saved(tmp_path):
    rng = np.random.default_rng(0)
    net = gn.Network(
        [
            gn.Conv1d(rng.standard_normal((4, 1, 3)), rng.standard_normal(4), 2, 1, "circular", 2, groups=2),
            gn.Scale(0.5),
            gn.Activation("elu"),
            gn.Pool("average", 2, 1, 1),
            gn.Pool("max", [2]),
            gn.Pool("global_average"),
            gn.Flatten(),
            gn.Residual(
                [gn.Residual([gn.Dense(rng.standard_normal((4, 4)))])], [gn.Dense(rng.standard_normal((4, 4)))]
            ),
        ]
    )
    X = rng.standard_normal((3, 2, 9))
    check_all(net, X)
    net.save(tmp_path / "net.safetensors")
    twin = gn.load(tmp_path / "net.safetensors")
    assert repr(twin) == repr(net)
    np.testing.assert_array_equal(twin(X), net(X))


W = np.ones((4, 2, 3, 3))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: gn.Conv2d(np.ones((4, 3))), ValueError, "weight has shape .4, 3. but must be 4-dimensional"),
        (lambda: gn.Conv2d(W.astype(int)), TypeError, "weight has dtype int64"),
        (lambda: gn.Conv2d(W, np.ones(3)), ValueError, "bias has shape .3,. but the weight needs .4,."),
        (lambda: gn.Conv2d(W, stride=0), ValueError, "stride is 0 but must be at least 1"),
        (lambda: gn.Conv2d(W, stride=(1, 2, 3)), ValueError, "stride is .1, 2, 3. but must be an integer or 2"),
        (lambda: gn.Conv2d(W, padding=-1), ValueError, "padding is -1 but must be at least 0"),
        (lambda: gn.Conv2d(W, padding="full"), ValueError, "padding is 'full' but must be one of 'valid', 'same'"),
        (lambda: gn.Conv2d(W, padding="same", stride=2), ValueError, "for stride 1 only"),
        (lambda: gn.Conv2d(W, padding_mode="reflect"), ValueError, "padding_mode is 'reflect'"),
        (lambda: gn.Conv2d(W, groups=3), ValueError, "groups is 3 but must divide the 4 output channels"),
        (lambda: gn.Pool("min", 2), ValueError, "mode is 'min' but must be one of"),
        (lambda: gn.Pool("max"), ValueError, "needs a kernel_size"),
        (lambda: gn.Pool("global_average", 2), ValueError, "must not have a kernel_size"),
        (lambda: gn.Residual([]), ValueError, "layers is empty"),
        (lambda: gn.Residual([1]), TypeError, r"layers\[0\] is of type int"),
        (lambda: gn.Scale("2"), TypeError, "factor"),
        (lambda: gn.Network([gn.Flatten()]), ValueError, "layers has none with parameters"),
    ],
)
def test_layers_are_checked_when_they_are_made(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("layers", "shape", "message"),
    [
        ([gn.Conv2d(W)], (3, 6, 6), r"layers\[0\], Conv2d, takes samples of shape .2, h, w. but gets .3, 6, 6."),
        ([gn.Conv2d(W)], (2, 6), r"layers\[0\], Conv2d, takes samples of shape"),
        ([gn.Conv2d(W)], (2, 2, 6), r"layers\[0\], Conv2d, has a kernel that spans 3 but gets 2"),
        ([gn.Conv2d(W)], (2, 6, 6), "gives .4, 4, 4. for samples of shape .2, 6, 6. but must give vectors"),
        ([gn.Conv2d(W), gn.Dense(np.ones((2, 64)))], (2, 6, 6), r"layers\[1\], Dense, .*put a gn.Flatten"),
        ([gn.Conv2d(W), gn.Flatten(), gn.Dense(np.ones((2, 60)))], (2, 6, 6), r"layers\[2\], Dense, takes 60 features"),
        (
            [gn.Conv2d(W), gn.Residual([gn.Activation("relu"), gn.Conv2d(W.copy())]), gn.Flatten()],
            (2, 6, 6),
            r"layers\[1\], Residual, its layers\[1\], Conv2d, takes",
        ),
        (
            [gn.Residual([gn.Conv2d(W, padding=1)]), gn.Flatten()],
            (2, 6, 6),
            "adds a body that gives .4, 6, 6. to a shortcut",
        ),
        ([gn.Conv2d(W, padding=7, padding_mode="circular")], (2, 6, 6), "around a circle of 6"),
        ([gn.Conv2d(W), gn.Pool("max", 5)], (2, 6, 6), r"layers\[1\], Pool, has a kernel that spans 5 but gets 4"),
        ([gn.Conv2d(W), gn.Pool("max", 2, padding=2)], (2, 6, 6), "more than half"),
    ],
)
def test_layers_that_do_not_fit_are_named(layers, shape, message):
    net = gn.Network(layers)
    with pytest.raises(ValueError, match=message):
        net(np.ones((2, *shape)))
    with pytest.raises(ValueError, match=message):
        gn.GaussNewton(net, np.ones((2, *shape)))


def test_shared_parameters_are_refused():
    layer = gn.Conv2d(np.ones((2, 2, 3, 3)), padding=1)
    with pytest.raises(ValueError, match=r"layers\[0\] and layers\[2\] use the same memory"):
        gn.Network([layer, gn.Activation("relu"), layer, gn.Flatten()])
    with pytest.raises(ValueError, match=r"layers\[0\] uses the same memory"):
        gn.Network([gn.Residual([layer], [layer])])
    flat = np.random.default_rng(0).standard_normal(2 * 9)  # pieces of one array are no sharing
    gn.Network([gn.Dense(flat[:9].reshape(3, 3)), gn.Dense(flat[9:].reshape(3, 3))])


def test_what_chains_have_and_others_do_not():
    net, X = example()
    with pytest.raises(ValueError, match="method is 'factored'"):
        gn.GaussNewton(net, X, method="factored")
    with pytest.raises(ValueError, match="method is 'stored'"):
        gn.GaussNewton(gn.mlp([3, 2, 2]), np.ones((2, 3)), method="stored")
    with pytest.raises(ValueError, match="only networks of dense"):
        net.linearize(X)
    with pytest.raises(ValueError, match="needs dense layers, or layers that together are one convolution"):
        gn.GaussNewton(net, X).linear_dual()
    with pytest.warns(gn.bounds.NoBoundWarning, match=r"deep \(the network has other layers"):
        assert gn.bounds.all(net, X) == []
    assert "other layers" in gn.bounds.deep(net, X).reason
    with pytest.raises(ValueError, match=r"X has shape .7,."):
        net(np.ones(7))
    with pytest.raises(TypeError, match="X has dtype float32"):
        net(X.astype("float32"))


def test_vectors_that_are_not_finite_are_refused():
    net, X = example()
    for method in ("usual", "stored"):
        G = gn.GaussNewton(net, X, method=method)
        V = random_block(G.shape[0], 2)
        V[5, 1] = np.nan
        with pytest.raises(ValueError, match="NaN or infinite"):
            G @ V
