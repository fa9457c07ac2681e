"""Losses with weights and given by their Hessians, in all three spaces, against explicit Jacobians and PyTorch."""

from __future__ import annotations

import math

import numpy as np
import oracles
import pytest
from problems import block, close, data, network

import gnfast as gn
from gnfast import factors, losses
from gnfast._arrays import CPU

N, K = 7, 4  # samples and outputs of every problem here
NAMES = ["mse", "cross_entropy", "binary_cross_entropy", "poisson", "gaussian_nll"]
LAST_IS_ZERO = np.array([0.5, 2.0, 1.0, 1e-3, 3.0, 0.7, 0.0])


def blocks(ranks, seed=0):
    """Positive semi-definite (n, K, K) of these ranks, in float64."""
    rng = np.random.default_rng(seed)
    roots = [rng.standard_normal((K, rank)) for rank in ranks]
    return np.stack([root @ root.T for root in roots])


def weights_of(kind, seed=1):
    return {"none": None, "sample": LAST_IS_ZERO, "output": np.random.default_rng(seed).uniform(0, 2, (N, K))}[kind]


CASES = {
    **{f"{name}-{kind}": (name, kind) for name in NAMES for kind in ("sample", "output")},
    "blocks": (blocks([4] * N), "none"),
    "low": (blocks([2, 1, 0, 2, 2, 1, 2]), "none"),
    "low-sample": (blocks([3, 1, 0, 2, 2, 1, 4]), "sample"),  # the one of full rank has weight 0
}
del CASES["cross_entropy-output"]


def weighted_hessian(loss, weights, outputs):
    """H (n, K, K) in float64 from the definition: the weights multiply H_i, or its rows where it is diagonal."""
    H = oracles.hessian(loss, outputs) if isinstance(loss, str) else np.asarray(loss, np.float64)
    return H if weights is None else H * np.asarray(weights, np.float64).reshape(N, -1, 1)


def make(loss, kind, dtype="float64", activation="tanh", **options):
    net, X = network((5, 9, 8, K), activation, bias=True, dtype=dtype), data(N, 5, dtype=dtype)
    weights = weights_of(kind)
    given = loss if isinstance(loss, str) else loss.astype(dtype)
    weights = None if weights is None else weights.astype(dtype)
    G = gn.GaussNewton(net, X, given, weights=weights, **options)
    H = weighted_hessian(given, weights, oracles.forward(net, X)) * G.scale
    return G, oracles.jacobian(net, X).reshape(N, K, -1), H


def nonzero_spectrum(net, X, H):
    """The non-zero eigenvalues of sum_i J_i^T H_i J_i, ascending, by its (n k, n k) dual."""
    w, V = np.linalg.eigh(H)
    R = np.sqrt(np.clip(w, 0, None))[:, None, :] * V
    RJ = np.einsum("iab,iap->ibp", R, oracles.jacobian(net, X).reshape(*H.shape[:2], -1)).reshape(len(X) * K, -1)
    return oracles.nonzero(RJ @ RJ.T, 1e-9)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("method", ["usual", "factored"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("case", CASES)
def test_all_spaces_are_those_of_the_explicit_hessian(case, reduction, method, dtype):
    G, J, H = make(*CASES[case], dtype, reduction=reduction, method=method)
    expected = np.einsum("iap,iab,ibq->pq", J, H, J, optimize=True)
    size = np.abs(expected).max() * math.sqrt(len(expected))
    V = block(np.random.default_rng(3), len(expected), 5, dtype)
    close(G @ V, expected @ V, G.net, size)
    close(G @ V[:, :1], expected @ V[:, :1], G.net, size)
    for reduced in (False, True):
        K_ = G.gram(reduced)
        assert K_.shape[0] == N * (G.loss_at.rank if reduced else K)
        L = K_.lift(np.eye(K_.shape[0], dtype=dtype))
        close(L @ L.T, expected, G.net, size)
        Y = block(np.random.default_rng(4), K_.shape[0], 3, dtype)
        close(K_ @ Y, L.T.astype(float) @ (L.astype(float) @ Y), G.net, size * math.sqrt(len(Y)))
        close(K_.to_dense(), L.T @ L, G.net, size)
        close(K_.restrict(V.T.copy()), V.T @ L, G.net, size * math.sqrt(len(V)))
    tolerance = 2000 * float(np.finfo(dtype).eps)
    assert gn.trace(G).exact
    assert gn.trace(G).value == pytest.approx(np.trace(expected), rel=tolerance)
    diagonal = gn.diagonal(G)
    assert diagonal.exact
    np.testing.assert_allclose(diagonal.values, expected.diagonal(), rtol=0, atol=tolerance * expected.diagonal().max())
    plan = G.plan()
    assert plan.spaces[1].size == N * G.loss_at.rank
    assert plan.method == method


def test_hessians_are_those_of_torch_with_weights():
    """Every loss as PyTorch has it, times the weights, by torch.func.hessian."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    target = torch.linspace(0, 1, K, dtype=torch.float64)
    values = {
        "mse": lambda f, w: functional.mse_loss(f, target, weight=w, reduction="sum") / 2,
        "cross_entropy": lambda f, w: w[0] * functional.cross_entropy(f, torch.tensor(1)),
        "binary_cross_entropy": lambda f, w: functional.binary_cross_entropy_with_logits(f, target, w, reduction="sum"),
        "poisson": lambda f, w: (w * functional.poisson_nll_loss(f, target, full=False, reduction="none")).sum(),
    }

    def gaussian(f, w):
        """The mean over y = mu + sigma and mu - sigma, where what depends on y in the Hessian has its mean."""
        mean, s = f[0::2], f[1::2]
        fixed, deviation, total = mean.detach(), torch.exp(s.detach() / 2), 0
        for y in (fixed + deviation, fixed - deviation):
            for weights, mu, variance in ((w[0::2], mean, torch.exp(s.detach())), (w[1::2], fixed, torch.exp(s))):
                total = total + (weights * functional.gaussian_nll_loss(mu, y, variance, reduction="none")).sum() / 2
        return total

    values["gaussian_nll"] = gaussian
    for loss, kind in (CASES[case] for case in CASES if isinstance(CASES[case][0], str)):
        G, J, H = make(loss, kind, reduction="sum")
        outputs = torch.tensor(G.net(G.X))
        spread = torch.tensor(np.broadcast_to(weights_of(kind).reshape(N, -1), (N, K)).copy())
        pairs = zip(outputs, spread, strict=True)
        found = [torch.func.hessian(lambda f, w=w, value=values[loss]: value(f, w))(f) for f, w in pairs]
        np.testing.assert_allclose(H, torch.stack(found).numpy(), rtol=0, atol=1e-13)
        expected = sum(np.einsum("ap,ab,bp", j, h.numpy(), j) for j, h in zip(J, found, strict=True))
        assert gn.trace(G).value == pytest.approx(expected, rel=1e-12)


def test_blocks_of_a_named_loss_are_that_loss():
    """The softmax's own Hessians, which have rank k - 1 only up to rounding, give its reduced Gram's spectrum."""
    named, _, H = make("cross_entropy", "none", reduction="sum")
    given = gn.GaussNewton(named.net, named.X, H, reduction="sum")
    assert given.loss == "blocks"
    assert "blocks" in repr(given)
    assert given.gram(reduced=True).shape == named.gram(reduced=True).shape
    close(given.to_dense(), named.to_dense(), named.net)
    spectra = [oracles.spectrum(G.gram(reduced=True).to_dense()) for G in (given, named)]
    np.testing.assert_allclose(*spectra, rtol=0, atol=1e-13 * spectra[0][-1])
    whole = gn.GaussNewton(named.net, named.X, np.tile(np.eye(K), (N, 1, 1)))
    np.testing.assert_allclose(whole.to_dense(), gn.GaussNewton(named.net, named.X).to_dense(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("case", CASES)
def test_results_do_not_depend_on_sample_blocks(case):
    G, J, H = make(*CASES[case])
    expected = np.einsum("iap,iab,ibq->pq", J, H, J, optimize=True)
    least = next(limit for limit in range(1_000, 10_000, 50) if _fits(*CASES[case], limit))
    V = block(np.random.default_rng(3), len(expected), 5, "float64")
    for limit in (least, least + 400):
        small, _, _ = make(*CASES[case], memory_limit=limit, method="usual")
        assert small.plan().sample_block < N
        close(small @ V, expected @ V, G.net, np.abs(expected).max() * math.sqrt(len(V)))


def _fits(loss, kind, limit):
    try:
        make(loss, kind, memory_limit=limit, method="usual")
    except MemoryError:
        return False
    return True


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("n", [3, 40])
def test_weights_of_samples_go_into_the_linear_dual(n, bias):
    net, X = network((6, 40, 30, 3), bias=bias), data(n, 6)
    weights = np.random.default_rng(0).uniform(0, 2, n)
    weights[1] = 0
    G = gn.GaussNewton(net, X, weights=weights)
    J = np.sqrt(np.repeat(weights, 3) / n)[:, None] * oracles.jacobian(net, X)
    exact = oracles.spectrum(J @ J.T)
    dual = G.linear_dual()
    found = oracles.spectrum(dual.to_dense())
    size = min(len(found), len(exact))
    np.testing.assert_allclose(found[-size:], exact[-size:], rtol=0, atol=1e-12 * exact[-1])
    assert np.abs(np.concatenate([found[:-size], exact[:-size]])).max(initial=0) <= 1e-12 * exact[-1]
    assert n < 40 or (G.plan().space == "linear map" and gn.trace(G).value == pytest.approx(exact.sum()))
    lifted = dual.lift(np.eye(len(found)))
    np.testing.assert_allclose(oracles.spectrum(lifted.T @ lifted), found, rtol=0, atol=1e-12 * exact[-1])


def test_no_linear_dual_where_weights_differ_between_outputs():
    G, _, _ = make("mse", "output", activation="identity")
    assert "weights differ between outputs" in str(G.plan())
    with pytest.raises(ValueError, match=r"not with weights \(n, k\); use gram"):
        G.linear_dual()
    with pytest.raises(ValueError, match="not 'blocks'; use gram"):
        make(*CASES["blocks"], activation="identity")[0].linear_dual()


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_condition_numbers(case, dense, monkeypatch):
    """Rank and interval where weights and blocks make the dual singular, and where they do not."""
    loss, kind = CASES[case]
    net, X = network((5, 40, 30, K), "tanh"), data(N, 5)
    weights = weights_of(kind)
    H = weighted_hessian(loss, weights, oracles.forward(net, X))
    exact = nonzero_spectrum(net, X, H)
    G = gn.GaussNewton(net, X, loss, weights=weights)
    found = gn.cond(G, certify=dense)
    assert found.rank == len(exact) == sum(np.linalg.matrix_rank(h) for h in H)
    kappa = exact[-1] / exact[0]
    assert found.lower <= kappa * (1 + 1e-8)
    assert found.upper >= kappa * (1 - 1e-8)
    assert found.value == pytest.approx(kappa, rel=1e-6)


@pytest.mark.parametrize("backward_gram", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_deep_bound(case, backward_gram):
    loss, kind = CASES[case]
    net, X = network((5, 40, 90, K), "tanh", bias=True), data(N, 5)
    weights = weights_of(kind)
    H = weighted_hessian(loss, weights, oracles.forward(net, X))
    exact = nonzero_spectrum(net, X, H)
    bound = gn.bounds.deep(net, X, loss, backward_gram, weights)
    assert bound.value >= exact[-1] / exact[0] * (1 - 1e-9)
    full = len({np.linalg.matrix_rank(h) for h in H}) == 1
    assert bound.applies == full  # samples of lower rank leave null directions in the reduced dual


def test_factors_reveal_the_rank():
    H = blocks([0, 1, 4, 2])
    R = factors.block_factors(H, "loss", np.array([1.0, 2.0, 0.0, 0.5]))
    assert R.shape == (4, 2, K)
    np.testing.assert_allclose(R.transpose(0, 2, 1) @ R, H * np.array([1, 2, 0, 0.5])[:, None, None], atol=1e-13)
    assert not R[0].any() and not R[1, 1].any()


def test_poisson_rates_that_overflow_are_told():
    net = gn.Network([gn.Dense(np.full((1, 1), 800.0))])
    G = gn.GaussNewton(net, np.ones((2, 1)), "poisson")
    with pytest.raises(ValueError, match="loss='poisson' overflows"):
        G @ np.ones(1)


X5 = np.ones((5, 3))
NET2 = gn.mlp([3, 4, 2])
SKEW = np.array([[1.0, 0.5], [0.25, 1.0]])
MISTAKES = {
    "weights shape": ({"weights": np.ones(4)}, ValueError, ["weights has shape (4,)", "the network at X needs (5,)"]),
    "weights outputs": ({"weights": np.ones((5, 3))}, ValueError, ["weights has shape (5, 3)", "(5, 2)"]),
    "weights dtype": ({"weights": np.ones(5, np.float32)}, TypeError, ["weights has dtype float32", "astype"]),
    "weights sign": ({"weights": np.array([1, 1, -2, 0, 1.0])}, ValueError, ["weights[2] is -2", "at least 0"]),
    "weights sign outputs": ({"weights": X5[:, :2] - 2}, ValueError, ["weights[0, 0] is -1", "at least 0"]),
    "weights nan": ({"weights": np.full(5, np.nan)}, ValueError, ["weights has 5 NaN"]),
    "weights zero": ({"weights": np.zeros(5)}, ValueError, ["weights is zero everywhere"]),
    "weights coupled": (
        {"weights": np.ones((5, 2)), "loss": "cross_entropy"},
        ValueError,
        ["weights has shape (5, 2)", "'cross_entropy'", "(5,), one weight per sample"],
    ),
    "weights blocks": (
        {"weights": np.ones((5, 2)), "loss": np.tile(np.eye(2), (5, 1, 1))},
        ValueError,
        ["'blocks'", "one weight per sample"],
    ),
    "loss kind": ({"loss": 3}, TypeError, ["loss is 3", "'poisson'"]),
    "loss none": ({"loss": None}, TypeError, ["loss is None", "'poisson'"]),
    "loss near": ({"loss": "poison"}, ValueError, ["did you mean 'poisson'?"]),
    "blocks shape": ({"loss": np.ones((5, 3, 3))}, ValueError, ["loss has shape (5, 3, 3)", "(5, 2, 2)"]),
    "blocks dtype": ({"loss": np.ones((5, 2, 2), np.float32)}, TypeError, ["loss has dtype float32"]),
    "blocks nan": ({"loss": np.full((5, 2, 2), np.inf)}, ValueError, ["loss has 20 NaN or infinite"]),
    "blocks skew": (
        {"loss": np.stack([np.eye(2)] * 4 + [SKEW])},
        ValueError,
        ["loss[4] is not symmetric", "[0, 1] and [1, 0] are 0.5 and 0.25", "transpose(0, 2, 1)"],
    ),
    "blocks indefinite": (
        {"loss": np.stack([np.eye(2), np.diag([-1.0, 2.0])] + [np.eye(2)] * 3)},
        ValueError,
        ["loss[1] is not positive semi-definite", "from -1 to 2", "convex"],
    ),
    "blocks zero": ({"loss": np.zeros((5, 2, 2))}, ValueError, ["loss is zero at all samples of positive weight"]),
    "blocks memory": ({"loss": np.ones((5, 2, 2)), "memory_limit": 100}, MemoryError, ["a factorisation of 5 blocks"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_told(name):
    options, kind, words = MISTAKES[name]
    with pytest.raises(kind) as error:
        gn.GaussNewton(NET2, X5, **options)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_what_is_accepted():
    """Integers are no weights of their own dtype; (n, 1) is (n,) for one output; rounding below zero is no mistake."""
    one = gn.mlp([3, 4, 1])
    assert gn.GaussNewton(one, X5, weights=np.ones((5, 1))).weights.shape == (5,)
    nearly = np.tile(np.diag([1.0, -1e-17]), (5, 1, 1))
    assert gn.GaussNewton(NET2, X5, nearly).loss_at.rank == 1
    G = gn.GaussNewton(NET2, X5, weights=np.ones(5))
    assert "weighted mse" in repr(G)
    np.testing.assert_array_equal(G.to_dense(), gn.GaussNewton(NET2, X5).to_dense())
    assert losses.loss_at("mse", None, 5, 2, NET2.dtype).for_core(1.0, 2, NET2.dtype, CPU) is None
    with pytest.raises(ValueError, match="read-only"):
        G.weights[0] = 2
