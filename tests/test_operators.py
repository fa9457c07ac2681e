"""Operators against explicit Jacobians and PyTorch, their identities, and what must not change their results."""

from __future__ import annotations

import itertools
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import block, close, network, problem

import gnfast as gn

ACTIVATIONS = ["identity", "relu", "leaky_relu", "tanh", "gelu", "sigmoid"]
LOSSES = ["mse", "cross_entropy", "binary_cross_entropy", "poisson"]
# no example database and the same examples in every run: a failure is the code's, not the day's
same_examples = settings(max_examples=50, deadline=None, derandomize=True, database=None)


@st.composite
def problems(draw, activations=ACTIVATIONS, losses=LOSSES):
    """Layers in any order, any sizes (bottlenecks, one unit, one sample), zero and duplicate samples, both dtypes."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    dtype = draw(st.sampled_from(["float64", "float32"]))
    widths = draw(st.lists(st.sampled_from([1, 2, 3, 5, 9, 17]), min_size=2, max_size=4))
    slopes = {"leaky_relu": st.sampled_from([0.0, 0.1, -0.5])}  # no other has any
    activation = st.sampled_from(activations).flatmap(
        lambda name: st.builds(gn.Activation, st.just(name), slopes.get(name, st.just(0.01)))
    )
    between = st.lists(activation, max_size=2)
    layers = draw(between)
    for d, m in itertools.pairwise(widths):
        weight = (rng.standard_normal((m, d)) / math.sqrt(d)).astype(dtype)
        bias = rng.standard_normal(m).astype(dtype) if draw(st.booleans()) else None
        layers += [gn.Dense(weight, bias, draw(st.sampled_from([0.0, 0.5, -2.0]))), *draw(between)]
    X = rng.standard_normal((draw(st.sampled_from([1, 2, 7, 13])), widths[0])).astype(dtype)
    if draw(st.booleans()):
        X[-1] = 0
        X[0] = X[len(X) // 2]
    loss = draw(st.sampled_from(losses if widths[-1] > 1 else [loss for loss in losses if loss != "cross_entropy"]))
    options = {
        "reduction": draw(st.sampled_from(["mean", "sum"])),
        "method": draw(st.sampled_from(["usual", "factored"])),
    }
    return gn.GaussNewton(gn.Network(layers), X, loss, **options), draw(st.sampled_from([1, 2, 4, 5, 9])), rng


def duals_of(G):
    """All that G has: no linear dual where nothing reaches the weights."""
    linear = G.net.is_linear and G.loss == "mse" and (G.X.any() or any(d.bias is not None for d in G.net.dense))
    return [G.gram(reduced=True), G.gram(), *([G.linear_dual()] if linear else [])]


# ------------------------------------------------------------------------------------------ against explicit Jacobians
@given(problems())
@same_examples
def test_products_are_those_of_the_explicit_jacobian(device, case):
    G, s, rng = case
    G = device.on(G)
    J, dense = oracles.jacobian(G.net, G.X), oracles.gauss_newton(G.net, G.X, G.loss, G.reduction)
    V, U = block(rng, G.shape[0], s, G.dtype), block(rng, len(J), s, G.dtype)
    size = math.sqrt(G.shape[0]) * np.abs(J).max(initial=0)
    close(G.jacobian() @ V, J @ V, G.net, size)
    close(G.jacobian().T @ U, J.T @ U, G.net, math.sqrt(len(J)) * np.abs(J).max(initial=0))
    # H is not formed by the core: G is compared at the size of J^T J, since probabilities near 0 or 1 lose digits
    close(G @ V, dense @ V, G.net, size**2 * G.scale * math.sqrt(len(J)))
    assert G.jacobian().shape == J.shape
    assert G.shape == dense.shape


@given(problems())
@same_examples
def test_gram_is_that_of_the_explicit_jacobian(device, case):
    G, s, rng = case
    G = device.on(G)
    expected = oracles.gram(G.net, G.X, G.loss, G.reduction)
    J = oracles.jacobian(G.net, G.X)
    size = np.square(J).sum(axis=1).max(initial=0) * G.scale
    K = G.gram()
    Y = block(rng, len(expected), s, G.dtype)
    close(K @ Y, expected @ Y, G.net, size * math.sqrt(len(J)))
    close(K.to_dense(), expected, G.net, size)
    np.testing.assert_array_equal(K.to_dense(), K.to_dense().T)
    close(K @ Y, expected @ Y, G.net, size * math.sqrt(len(J)))  # stored now
    assert G.gram().stored


@given(problems())
@same_examples
def test_lift_is_a_square_root_of_both_sides(device, case):
    """K = L^T L and G = L L^T for L = lift: each dual has the non-zero spectrum of G, and its vectors lift to G's."""
    G, _, _ = case
    G = device.on(G)
    dense = oracles.gauss_newton(G.net, G.X, G.loss, G.reduction)
    J = oracles.jacobian(G.net, G.X)
    for dual in duals_of(G):
        L = dual.lift(np.eye(dual.shape[0], dtype=G.dtype))
        close(L @ L.T, dense, G.net, np.square(J).sum() * G.scale)
        close(dual.to_dense(), L.T @ L, G.net, np.square(J).sum() * G.scale)
    n, k = len(G.X), G.net.out_features
    assert G.gram(reduced=True).shape[0] == n * (k - (G.loss == "cross_entropy"))


@given(problems(activations=["identity"], losses=["mse"]))
@same_examples
def test_linear_dual_is_the_kronecker_sum(device, case):
    G, s, rng = case
    G = device.on(G)
    *grams, dual = duals_of(G)
    if len(grams) == 1:
        with pytest.raises(ValueError, match="X is zero at all samples"):
            G.linear_dual()
        return
    P, R = dual.factors()
    expected = sum(np.kron(p, r) for p, r in zip(P.astype(float), R.astype(float), strict=True))
    close(dual.to_dense(), expected, G.net)
    Y = block(rng, len(expected), s, G.dtype)
    close(dual @ Y, expected @ Y, G.net, np.linalg.norm(expected, 2) * math.sqrt(len(expected)))
    for p, q in zip(P, oracles.linear_dual(G.net, G.X, G.reduction).P, strict=True):
        close(p, q, G.net)
    exact = oracles.nonzero(oracles.linear_dual_matrix(G.net, G.X, G.reduction))
    found = oracles.spectrum(dual.to_dense().astype(float))[-len(exact) :]
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e3 * np.finfo(G.dtype).eps * exact[-1])


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("n", [1, 4, 30])
def test_three_spaces_have_the_same_non_zero_spectrum(device, n, bias, reduction):
    rng = np.random.default_rng(n)
    net = network([6, 8, 7, 3], "identity", n, bias)
    G = device.on(gn.GaussNewton(net, rng.standard_normal((n, 6)), reduction=reduction))
    spectra = [oracles.nonzero(op.to_dense()) for op in (G, G.gram(), G.linear_dual())]
    assert len(spectra[0]) == min(n, 6 + bias) * 3
    for other in spectra[1:]:
        np.testing.assert_allclose(other, spectra[0], rtol=1e-9)  # kappa 1e4 in float64, with four digits to spare
    assert G.linear_dual().shape[0] == len(spectra[0])  # of full rank: the range of the data is known


def test_linear_dual_of_zero_pixels_and_duplicates_has_full_rank(device):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((40, 9))
    X[:, [1, 7]] = 0
    X[20:] = X[:20]
    G = device.on(gn.GaussNewton(network([9, 12, 3]), X))
    exact = oracles.nonzero(oracles.gauss_newton(G.net, X))
    np.testing.assert_allclose(oracles.spectrum(G.linear_dual().to_dense()), exact, rtol=1e-9)


# ------------------------------------------------------------------------------------------------ against PyTorch
@pytest.mark.parametrize("method", ["usual", "factored"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_products_are_those_of_torch(activation, loss, method):
    torch = pytest.importorskip("torch")
    phi = {
        "identity": lambda z: z,
        "relu": torch.relu,
        "leaky_relu": lambda z: torch.nn.functional.leaky_relu(z, 0.1),
        "tanh": torch.tanh,
        "gelu": torch.nn.functional.gelu,
        "sigmoid": torch.sigmoid,
    }[activation]
    rng = np.random.default_rng(1)
    net = network([5, 8, 6, 3], activation, bias=True)
    X, V = rng.standard_normal((7, 5)), rng.standard_normal((net.num_parameters, 4))
    values = [torch.tensor(a) for a in net.parameters()]

    def forward(parameters, x):
        for i in range(0, len(parameters), 2):
            x = torch.nn.functional.linear(x if i == 0 else phi(x), parameters[i], parameters[i + 1])
        return x

    y = torch.tensor(rng.integers(0, 3, 7))
    hot = torch.nn.functional.one_hot(y, 3).double()
    losses = {
        "mse": lambda f, i: (f - hot[i]).square().sum() / 2,
        "cross_entropy": lambda f, i: torch.nn.functional.cross_entropy(f, y[i]),
        "binary_cross_entropy": lambda f, i: torch.nn.functional.binary_cross_entropy_with_logits(
            f, hot[i], reduction="sum"
        ),
        "poisson": lambda f, i: torch.nn.functional.poisson_nll_loss(f, hot[i], reduction="sum"),
    }
    inputs = torch.tensor(X)
    parts = torch.func.jacrev(lambda parameters: forward(parameters, inputs))(values)
    J = torch.cat([part.reshape(7, 3, -1) for part in parts], dim=2).detach().numpy()
    outputs = forward(values, inputs)
    H = np.stack([torch.func.hessian(lambda f, i=i: losses[loss](f, i))(outputs[i]).numpy() for i in range(7)])
    G = gn.GaussNewton(net, X, loss, method=method)
    expected = np.einsum("iap,iab,ibq,qs->ps", J, H, J, V, optimize=True) / 7
    np.testing.assert_allclose(G @ np.asfortranarray(V), expected, rtol=0, atol=1e-12 * np.abs(expected).max())
    found = G.jacobian() @ np.asfortranarray(V)
    np.testing.assert_allclose(found, J.reshape(21, -1) @ V, rtol=0, atol=1e-12 * np.abs(found).max())


# ------------------------------------------------------------------------------------------------------- identities
@given(problems())
@same_examples
def test_symmetry_semidefiniteness_and_adjointness(case):
    G, s, rng = case
    eps = np.finfo(G.dtype).eps * 100
    for op in [G, *duals_of(G)]:
        U, V = block(rng, op.shape[0], s, G.dtype), block(rng, op.shape[0], s, G.dtype)
        UA, AV = op @ U, op @ V
        size = np.linalg.norm(U) * np.linalg.norm(AV) + np.linalg.norm(V) * np.linalg.norm(UA)
        np.testing.assert_allclose(U.T @ AV, UA.T @ V, rtol=0, atol=eps * size + np.finfo(G.dtype).tiny)
        squares = np.einsum("ij,ij->j", V, AV)
        assert squares.min() >= -eps * size
        assert op.T is op
        assert op.H is op
    J = G.jacobian()
    V, U = block(rng, J.shape[1], s, G.dtype), block(rng, J.shape[0], s, G.dtype)
    JV, JU = J @ V, J.T @ U
    size = np.linalg.norm(U) * np.linalg.norm(JV) + np.linalg.norm(V) * np.linalg.norm(JU)
    np.testing.assert_allclose(U.T @ JV, JU.T @ V, rtol=0, atol=eps * size)
    assert J.T.T is J
    assert J.H.H is J


@pytest.mark.parametrize("method", ["usual", "factored"])
@pytest.mark.parametrize("loss", LOSSES)
def test_reduction_and_losses(device, loss, method):
    mean = device.on(problem(loss=loss))
    total = device.on(gn.GaussNewton(mean.net, mean.X, loss, reduction="sum", method=method))
    np.testing.assert_allclose(total.to_dense(), len(mean.X) * mean.to_dense(), rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(total.gram().to_dense(), len(mean.X) * mean.gram().to_dense(), rtol=1e-11, atol=1e-13)
    np.testing.assert_array_equal(total.jacobian() @ np.ones(total.shape[1]), mean.jacobian() @ np.ones(mean.shape[1]))
    assert gn.GaussNewton(mean.net, mean.X, loss, targets=np.zeros(6)).shape == mean.shape


# --------------------------------------------------------------------------------------- what must not change results
def smallest_limit(G):
    """The least memory_limit at which the usual product of G works, found from its own refusal."""
    low, high = 1.0, 1e9
    while high - low > 1:
        middle = (low + high) / 2
        try:
            gn.GaussNewton(G.net, G.X, G.loss, memory_limit=middle, method="usual")
            high = middle
        except MemoryError:
            low = middle
    return high


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("loss", LOSSES)
def test_results_do_not_depend_on_blocks(loss, dtype):
    rng = np.random.default_rng(0)
    free = problem((7, 12, 33, 4), 53, loss, dtype=dtype)
    V, U = block(rng, free.shape[0], 11, dtype), block(rng, free.jacobian().shape[0], 11, dtype)
    least = smallest_limit(free)
    blocks = set()
    for extra in (0, 600, 5_000, 50_000, 10**6):
        for method in ("usual", "factored"):
            try:
                G = gn.GaussNewton(free.net, free.X, loss, memory_limit=least + extra, method=method)
            except MemoryError as error:
                assert method == "factored"
                assert "backward rows" in str(error)
                continue
            plan = G.plan()
            assert plan.memory <= least + extra
            blocks.add((plan.sample_block, plan.vector_block))
            close(G @ V, free @ V, free.net)
            close(G.jacobian() @ V, free.jacobian() @ V, free.net)
            close(G.jacobian().T @ U, free.jacobian().T @ U, free.net)
    assert min(blocks) in ((1, 1), (2, 1))  # float32 has room for one sample in float64
    assert len(blocks) > 3  # or nothing was tested


@pytest.fixture
def threads():
    before = gn.get_num_threads()
    yield gn.set_num_threads
    gn.set_num_threads(before)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("method", ["usual", "factored"])
def test_threads_change_rounding_only_and_repeated_runs_nothing(threads, method, dtype):
    rng = np.random.default_rng(0)
    relu = problem((31, 130, 70, 5), 67, dtype=dtype)
    linear = problem((31, 130, 70, 5), 67, dtype=dtype, activation="identity")
    Y = {}

    def products(count):
        threads(count)
        out = []
        for G in (
            gn.GaussNewton(relu.net, relu.X, "cross_entropy", method=method),
            gn.GaussNewton(linear.net, linear.X, method=method),
        ):
            duals = [G.gram(reduced=True)] + ([G.linear_dual()] if G.net.is_linear else [])
            for op in (G, G.jacobian(), G.jacobian().T, *duals):
                V = Y.setdefault(op.shape, block(rng, op.shape[1], 9, dtype))
                out.append(op @ V)
            out += [dual.to_dense() for dual in duals]
            out += [dual.lift(Y[dual.shape]) for dual in duals]
        return out

    one, two = products(1), products(2)
    for a, b, again_one, again_two in zip(one, two, products(1), products(2), strict=True):
        np.testing.assert_array_equal(a, again_one)
        np.testing.assert_array_equal(b, again_two)
        close(a, b, relu.net)


def test_products_from_several_threads_do_not_disturb_each_other():
    G = problem((60, 60, 50, 12), 80, activation="identity")
    rng = np.random.default_rng(0)
    for op in (G, G.jacobian(), G.jacobian().T, G.gram(), G.linear_dual()):
        blocks = [block(rng, op.shape[1], s, G.dtype) for s in (1, 9, 3, 17, 8, 2)]
        expected = [op @ V for V in blocks]
        with ThreadPoolExecutor(4) as pool:
            for found, right in zip(pool.map(op.matmat, blocks * 5), expected * 5, strict=True):
                np.testing.assert_array_equal(found, right)


@pytest.mark.parametrize("s", [1, 2, 3, 4, 5, 8, 9, 17])
@pytest.mark.parametrize("method", ["usual", "factored"])
def test_a_block_is_its_columns(device, method, s):
    G = device.on(gn.GaussNewton(*(lambda G: (G.net, G.X))(problem()), "cross_entropy", method=method))
    for op in (G, G.jacobian(), G.jacobian().T, G.gram(), G.gram(reduced=True)):
        V = block(np.random.default_rng(s), op.shape[1], s, G.dtype)
        columns = np.stack([op @ V[:, j] for j in range(s)], axis=1)
        np.testing.assert_allclose(op @ V, columns, rtol=0, atol=1e-13 * np.abs(columns).max())


@pytest.mark.parametrize("bias", [False, True])
def test_gram_products_through_few_inputs(bias):
    """With n > 2 fan_in in the first layer only: A (A^T C) there, the Gram of the inputs in the others."""
    net, X = gn.mlp([3, 9, 5, 2], "tanh", bias=bias, seed=1), np.random.default_rng(2).standard_normal((13, 3))
    V = np.asfortranarray(np.random.default_rng(3).standard_normal((26, 5)))
    expected = gn.GaussNewton(net, X).gram().to_dense() @ V
    np.testing.assert_allclose(gn.GaussNewton(net, X).gram() @ V, expected, rtol=1e-12, atol=1e-13)
