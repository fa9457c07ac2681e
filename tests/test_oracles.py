"""The oracles themselves: against PyTorch's autograd, finite differences, and one another."""

from __future__ import annotations

import itertools

import numpy as np
import oracles
import pytest

ACTIVATIONS = ["identity", "relu", ("leaky_relu", 0.2), ("leaky_relu", -1.0), "tanh", "gelu", "sigmoid"]
SHAPES = [  # n, widths: n < d, a bottleneck, one sample, one output, one input, k > n, one dense layer
    (3, [5, 4, 2]),
    (6, [4, 2, 5, 3]),
    (1, [3, 4, 2]),
    (4, [3, 6, 1]),
    (5, [1, 3, 2]),
    (2, [2, 3, 7]),
    (5, [3, 2]),
]
# float64 rounding of sums of a few hundred terms of order one
CLOSE = {"rtol": 1e-11, "atol": 1e-12}


def random_network(rng, widths, activation, bias=False, after=False):
    layers = []
    for d, m in itertools.pairwise(widths):
        layers += [(rng.standard_normal((m, d)), rng.standard_normal(m) if bias else None), activation]
    return layers if after else layers[:-1]


def flat(network):
    """The parameters of a network as one vector, and the network of another vector."""
    layers = oracles.plain(network)
    arrays = [a for layer in layers if isinstance(layer, oracles.Dense) for a in layer if a is not None]
    cuts = np.cumsum([a.size for a in arrays])[:-1]

    def build(vector):
        values = iter(v.reshape(a.shape) for v, a in zip(np.split(vector, cuts), arrays, strict=True))
        return [
            oracles.Dense(*(None if a is None else next(values) for a in layer))
            if isinstance(layer, oracles.Dense)
            else layer
            for layer in layers
        ]

    return np.concatenate([a.ravel() for a in arrays]), build


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@pytest.mark.parametrize(("n", "widths"), SHAPES)
def test_jacobian_is_that_of_finite_differences(n, widths, activation, bias):
    rng = np.random.default_rng(1)
    X, network = rng.standard_normal((n, widths[0])), random_network(rng, widths, activation, bias, after=n % 2 == 0)
    point, build = flat(network)
    step = 1e-6
    columns = [
        (oracles.forward(build(point + step * e), X) - oracles.forward(build(point - step * e), X)).ravel() / (2 * step)
        for e in np.eye(len(point))
    ]
    # central differences: step^2 times third derivatives, and rounding of eps |F| / step ~ 1e-9
    np.testing.assert_allclose(oracles.jacobian(network, X), np.stack(columns, axis=1), rtol=1e-6, atol=1e-7)


def torch_module(torch, network):
    modules = {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh, "gelu": torch.nn.GELU, "sigmoid": torch.nn.Sigmoid}
    layers = []
    for layer in oracles.plain(network):
        if isinstance(layer, oracles.Dense):
            dense = torch.nn.Linear(*layer.weight.shape[::-1], bias=layer.bias is not None, dtype=torch.float64)
            with torch.no_grad():
                for own, value in zip(dense.parameters(), layer, strict=False):
                    own.copy_(torch.tensor(value))
            layers.append(dense)
        elif layer.name == "leaky_relu":
            layers.append(torch.nn.LeakyReLU(layer.slope))
        else:
            layers.append(modules.get(layer.name, torch.nn.Identity)())
    return torch.nn.Sequential(*layers)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@pytest.mark.parametrize(("n", "widths"), SHAPES)
def test_forward_and_jacobian_are_those_of_torch(n, widths, activation, bias):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(2)
    X, network = rng.standard_normal((n, widths[0])), random_network(rng, widths, activation, bias, after=n % 2 == 0)
    X[0] = 0  # without biases every pre-activation of this sample is exactly 0: the kinks must be PyTorch's
    module = torch_module(torch, network)
    outputs = module(torch.tensor(X))
    np.testing.assert_allclose(oracles.forward(network, X), outputs.detach().numpy(), **CLOSE)
    rows = [
        torch.cat([g.ravel() for g in torch.autograd.grad(value, module.parameters(), retain_graph=True)]).numpy()
        for value in outputs.ravel()
    ]
    np.testing.assert_allclose(oracles.jacobian(network, X), np.stack(rows), **CLOSE)


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("loss", ["mse", "cross_entropy", "binary_cross_entropy", "poisson"])
def test_hessian_is_that_of_torch(loss, k):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    outputs = np.random.default_rng(3).standard_normal((4, k)) * 3
    target = torch.linspace(0, 1, k, dtype=torch.float64)
    losses = {
        "mse": lambda f: functional.mse_loss(f, target, reduction="sum") / 2,
        "cross_entropy": lambda f: functional.cross_entropy(f, torch.tensor(k - 1)),
        "binary_cross_entropy": lambda f: functional.binary_cross_entropy_with_logits(f, target, reduction="sum"),
        "poisson": lambda f: functional.poisson_nll_loss(f, target, reduction="sum"),
    }
    expected = [torch.autograd.functional.hessian(losses[loss], torch.tensor(f)).numpy() for f in outputs]
    H, R = oracles.hessian(loss, outputs), oracles.hessian_root(loss, outputs)
    np.testing.assert_allclose(H, np.stack(expected), **CLOSE)
    np.testing.assert_allclose(R @ R.transpose(0, 2, 1), H, **CLOSE)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("loss", ["mse", "cross_entropy", "binary_cross_entropy", "poisson"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("n", "widths"), SHAPES)
def test_gram_has_the_spectrum_of_gauss_newton(n, widths, bias, loss, reduction):
    rng = np.random.default_rng(4)
    X, network = rng.standard_normal((n, widths[0])), random_network(rng, widths, "tanh", bias)
    G = oracles.spectrum(oracles.gauss_newton(network, X, loss, reduction))
    K = oracles.spectrum(oracles.gram(network, X, loss, reduction))
    size = min(len(G), len(K))
    np.testing.assert_allclose(G[-size:], K[-size:], atol=1e-12 * K[-1])
    np.testing.assert_allclose(np.concatenate([G[:-size], K[:-size]]), 0, atol=1e-12 * K[-1])


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("n", "widths"), SHAPES)
def test_gram_is_a_sum_of_hadamard_products(n, widths, bias):
    rng = np.random.default_rng(5)
    X, network = rng.standard_normal((n, widths[0])), random_network(rng, widths, "gelu", bias, after=True)
    repeat = np.ones((widths[-1], widths[-1]))
    total = sum(np.kron(A, repeat) * B for A, B in oracles.gram_factors(network, X))
    J = oracles.jacobian(network, X)
    np.testing.assert_allclose(total, J @ J.T, **CLOSE)


@pytest.mark.parametrize("biases", ["none", "all", "first", "last"])
@pytest.mark.parametrize(("n", "widths"), SHAPES)
def test_linear_dual_has_the_spectrum_of_gauss_newton(n, widths, biases):
    rng = np.random.default_rng(6)
    X, layers = rng.standard_normal((n, widths[0])), random_network(rng, widths, "identity", bias=True)[::2]
    kept = {"none": [], "all": layers, "first": layers[:1], "last": layers[-1:]}[biases]
    network = [(W, b if any(W is V for V, _ in kept) else None) for W, b in layers]
    G = oracles.spectrum(oracles.gauss_newton(network, X))
    M = oracles.spectrum(oracles.linear_dual_matrix(network, X))
    size = min(len(G), len(M))
    np.testing.assert_allclose(G[-size:], M[-size:], atol=1e-12 * M[-1])
    np.testing.assert_allclose(np.concatenate([G[:-size], M[:-size]]), 0, atol=1e-12 * M[-1])


def test_objects_with_skips_are_the_same_as_plain_data():
    class Layer:
        def __init__(self, **fields):
            self.__dict__ |= fields

    rng = np.random.default_rng(7)
    V, W, b = rng.standard_normal((5, 3)), rng.standard_normal((2, 5)), rng.standard_normal(2)
    network = Layer(
        layers=(
            Layer(weight=V, bias=None, skip=0.5),
            Layer(name="leaky_relu", slope=0.3),
            Layer(weight=W.astype(np.float32), bias=b, skip=-2),
        )
    )
    X = rng.standard_normal((4, 3))
    same = [V + 0.5 * np.eye(5, 3), ("leaky_relu", 0.3), (W.astype(np.float32) - 2 * np.eye(2, 5), b)]
    np.testing.assert_array_equal(oracles.jacobian(network, X), oracles.jacobian(same, X))
    hidden = X @ same[0].T
    hidden[hidden < 0] *= 0.3
    np.testing.assert_allclose(oracles.forward(network, X), hidden @ same[2][0].T + b, **CLOSE)


def test_spectral_helpers_count_only_what_is_not_zero():
    Q = np.linalg.qr(np.random.default_rng(8).standard_normal((6, 6)))[0]
    M = Q @ np.diag([0, 0, 1e-14, 0.5, 2, 8]) @ Q.T
    assert oracles.rank(M) == 3
    assert oracles.kappa(M) == pytest.approx(16, rel=1e-12)
    np.testing.assert_allclose(oracles.nonzero(M), [0.5, 2, 8], rtol=1e-12)
