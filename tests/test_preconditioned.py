"""Preconditioned condition numbers against dense generalised eigenvalues in NumPy."""

from __future__ import annotations

import numpy as np
import oracles
import pytest
import scipy.linalg
from scipy.sparse.linalg import aslinearoperator
from spectra import limits

import gnfast as gn
from gnfast.operators import preconditioners

NAMES = ("diagonal", "block", "kfac")


def rng(seed=0):
    return np.random.default_rng(seed)


def duplicated():
    X = rng(3).standard_normal((6, 4))
    return np.vstack([X, X[:2]])


def dead():
    """A ReLU network of which two units see no sample."""
    net = gn.mlp([4, 6, 3], "relu", bias=True, seed=2)
    W, b, V, c = (array.copy() for array in net.parameters())
    b[:2] = -100
    return net.with_parameters([W, b, V, c])


CASES = {
    "wide": (lambda: gn.mlp([4, 9, 3], "tanh", bias=True, seed=1), rng(1).standard_normal((7, 4))),
    "few parameters": (lambda: gn.mlp([3, 2, 2], "tanh", bias=True, seed=1), rng(1).standard_normal((25, 3))),
    "n below d": (lambda: gn.mlp([9, 5, 2], "gelu", seed=1), rng(1).standard_normal((4, 9))),
    "duplicates": (lambda: gn.mlp([4, 9, 3], "tanh", bias=True, seed=1), duplicated()),
    "dead units": (dead, rng(1).standard_normal((9, 4))),
    "one sample": (lambda: gn.mlp([4, 6, 3], "tanh", bias=True, seed=2), rng(1).standard_normal((1, 4))),
    "linear": (lambda: gn.mlp([4, 6, 3], "identity", seed=2), rng(1).standard_normal((12, 4))),
    "one output": (lambda: gn.mlp([5, 8, 8, 1], "leaky_relu", slope=0.2, seed=2), rng(1).standard_normal((10, 5))),
}


def dense_problem(name, loss):
    make, X = CASES[name]
    net = make()
    return gn.GaussNewton(net, X, loss), oracles.gauss_newton(net, X, loss)


def dense_preconditioner(kind, G, D):
    """M as a matrix: that of K-FAC is compared with NumPy's in test_kfac.py."""
    if kind == "diagonal":
        return np.diag(D.diagonal())
    if kind == "kfac":
        return G.kfac() @ np.asfortranarray(np.eye(len(D)))
    M = np.zeros_like(D)
    for part in G.layers():
        M[part.own, part.own] = D[part.own, part.own]
    return M


def generalised(D, M, damping):
    """The non-zero eigenvalues of G against M + damping I, on the range of that, ascending."""
    values, V = np.linalg.eigh(M + damping * np.eye(len(M)))
    V, values = V[:, values > 1e-11 * values[-1]], values[values > 1e-11 * values[-1]]
    return oracles.nonzero(
        scipy.linalg.eigh(V.T @ D @ V, np.diag(values), eigvals_only=True)[:, None] * np.eye(len(values)), 1e-9
    )


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("name", CASES)
def test_against_generalised_eigenvalues(name, kind, loss):
    if (name, loss) == ("one output", "cross_entropy"):
        pytest.skip("the softmax of one output is constant")
    G, D = dense_problem(name, loss)
    M = dense_preconditioner(kind, G, D)
    for damping in (0.0, 0.05):
        values = generalised(D, M, damping)
        found = gn.cond(G, preconditioner=kind, damping=damping)
        assert found.rank == len(values)
        assert found.lambda_max == pytest.approx(values[-1], rel=1e-6)
        assert found.value == pytest.approx(values[-1] / values[0], rel=1e-5)
        assert found.lower <= found.value <= found.upper
        assert found.dimension == min(G.shape[0], G.gram(reduced=True).shape[0])
        assert any(kind in note for note in found.notes)


def test_each_given_form_is_the_same_matrix():
    G, D = dense_problem("wide", "mse")
    entries = rng(5).uniform(0.5, 3, len(D))
    by_array = gn.cond(G, preconditioner=entries, damping=0.1)

    class Mine:
        """As the protocol has it, of SciPy's parts."""

        def inverse_root(self, damping):
            return aslinearoperator(np.diag((entries + damping) ** -0.5))

    assert gn.cond(G, preconditioner=Mine(), damping=0.1).value == pytest.approx(by_array.value, rel=1e-9)
    values = generalised(D, np.diag(entries), 0.1)
    assert by_array.value == pytest.approx(values[-1] / values[0], rel=1e-8)
    by_name = gn.cond(G, preconditioner="kfac", damping=0.2)
    assert gn.cond(G, preconditioner=G.kfac(), damping=0.2).value == pytest.approx(by_name.value, rel=1e-12)


class Root:
    """An operator of the protocol and nothing else, a diagonal: its products in any layout and dtype."""

    def __init__(self, entries, order="C", dtype=None):
        self.shape, self.dtype = (len(entries), len(entries)), entries.dtype
        self._entries, self._order, self._given = entries[:, None], order, dtype or entries.dtype

    def matmat(self, V):
        return np.array(self._entries * V, dtype=self._given, order=self._order)


class Given:
    def __init__(self, root):
        self._root = root

    def inverse_root(self, damping):
        return self._root


@pytest.mark.parametrize("name", ["wide", "few parameters"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_roots_of_other_people_may_have_any_layout(name, dtype):
    """In products, which large matrices are known by: in the space of samples and in that of parameters."""
    net, X = CASES[name][0](), CASES[name][1].astype(dtype)
    net = net.with_parameters([w.astype(dtype) for w in net.parameters()])
    G, tol = gn.GaussNewton(net, X), 1e-11 if dtype == "float64" else 1e-4
    d = rng(5).uniform(0.5, 2, G.shape[0]).astype(dtype)
    expected = G.preconditioned((d**-2).astype(dtype)).to_dense()
    V = np.asfortranarray(rng(6).standard_normal((len(expected), 3)), dtype)
    roots = [
        Root(d),
        Root(d, "F"),
        Root(d, dtype="float64"),
        aslinearoperator(np.diag(d)),
        gn.operator(Root(d).matmat, len(d), dtype),
    ]
    for root in roots:
        op = G.preconditioned(Given(root))
        found = op @ V
        assert found.dtype == dtype
        np.testing.assert_allclose(found, expected @ V, atol=tol * np.abs(expected).max())
        np.testing.assert_allclose(op.to_dense(), expected, atol=tol * np.abs(expected).max())
    assert gn.eigsh(op, k=1, method="lanczos", return_eigenvectors=False) == pytest.approx(
        np.linalg.eigvalsh(expected)[-1:], rel=max(tol, 1e-9)
    )


def test_a_root_of_another_dtype_or_with_products_of_another_shape_is_named():
    net = gn.mlp([4, 9, 3], "tanh", seed=1, dtype="float32")
    G = gn.GaussNewton(net, rng(1).standard_normal((7, 4)).astype("float32"))
    with pytest.raises(TypeError, match=r"inverse_root gave an operator in float64 but the network has float32; give"):
        gn.cond(G, preconditioner=Given(aslinearoperator(np.eye(63))))
    root = Root(np.ones(63, "float32"))
    root.matmat = lambda V: V[:5]
    with pytest.raises(
        ValueError, match=r"product with preconditioner.inverse_root has shape \(5, .* but must be \(63"
    ):
        gn.cond(G, preconditioner=Given(root))


def test_diagonals_in_double_precision_of_single_precision_networks():
    net = gn.mlp([4, 9, 3], "tanh", bias=True, seed=1, dtype="float32")
    G = gn.GaussNewton(net, rng(1).standard_normal((7, 4)).astype("float32"))
    assert G.diagonal().dtype == np.float64
    by_name = gn.cond(G, preconditioner="diagonal", damping=0.1)
    for given in (G.diagonal(), gn.diagonal(G), gn.diagonal(G).values):
        found = gn.cond(G, preconditioner=given, damping=0.1)
        assert found.value == pytest.approx(by_name.value, rel=1e-4)
    with pytest.raises(TypeError, match="preconditioner has dtype int64 but must be float32 or float64"):
        gn.cond(G, preconditioner=np.ones(75, int))


def test_a_multiple_of_the_identity_changes_nothing_but_the_scale():
    for name in ("wide", "few parameters", "duplicates"):
        G, D = dense_problem(name, "mse")
        plain, found = gn.cond(G), gn.cond(G, preconditioner=np.full(len(D), 4.0))
        assert found.value == pytest.approx(plain.value, rel=1e-7)
        assert found.lambda_max == pytest.approx(plain.lambda_max / 4, rel=1e-9)
        assert found.rank == plain.rank


@pytest.mark.parametrize("kind", NAMES)
def test_scales_of_the_data_are_mended_exactly(kind):
    """Features times D and first weights times D^-1 are the same network, and all three M follow G without damping."""
    net, X = CASES["duplicates"][0](), CASES["duplicates"][1]
    scales = np.logspace(0, -4, 4)
    first, *others = net.parameters()
    scaled = gn.GaussNewton(net.with_parameters([first / scales, *others]), X * scales)
    plain, found = (gn.cond(each, preconditioner=kind) for each in (gn.GaussNewton(net, X), scaled))
    assert abs(gn.cond(scaled).value / gn.cond(gn.GaussNewton(net, X)).value - 1) > 0.1
    assert found.rank == plain.rank == 6 * 3
    assert found.value == pytest.approx(plain.value, rel=1e-6)


def test_products_and_the_formed_matrix_agree(monkeypatch):
    for name in ("wide", "few parameters"):
        G, D = dense_problem(name, "cross_entropy")
        op = G.preconditioned("block", 0.01)
        dense = op.to_dense()
        V = np.asfortranarray(rng(6).standard_normal((len(dense), 4)))
        np.testing.assert_allclose(op @ V, dense @ V, atol=1e-11)
        monkeypatch.setattr(preconditioners, "ROWS_BYTES", 2 * len(D) * 8 * 5)  # five rows at a time
        np.testing.assert_allclose(op.to_dense(), dense, atol=1e-12)
        values = generalised(D, dense_preconditioner("block", G, D), 0.01)
        assert gn.eigsh(op, k=2, return_eigenvectors=False) == pytest.approx(values[-2:], rel=1e-9)


def test_stored_routes_and_certificates(monkeypatch):
    G, D = dense_problem("wide", "mse")
    values = generalised(D, np.diag(D.diagonal()), 0.0)
    limits(monkeypatch)
    found = gn.cond(G, certify=True, preconditioner="diagonal")
    assert found.method.startswith("stored") and found.upper_from.startswith("inertia")
    assert found.value == pytest.approx(values[-1] / values[0], rel=1e-7)
    assert found.lower <= values[-1] / values[0] <= found.upper


def test_convolutions_pruned_and_coupled_networks():
    draw = rng(7)
    conv = [gn.Conv2d(draw.standard_normal((3, 1, 2, 2)), draw.standard_normal(3)), gn.Activation("tanh"), gn.Flatten()]
    net = gn.Network([*conv, gn.Dense(draw.standard_normal((2, 36)))])
    X = draw.standard_normal((6, 1, 4, 5))
    coupled = gn.Network(
        [gn.Dense(draw.standard_normal((6, 4))), gn.BatchNorm(training=True), gn.Dense(np.ones((2, 6)))]
    )
    cases = [(net, X, NAMES), (gn.prune(net, 0.4), X, NAMES[:2]), (coupled, draw.standard_normal((7, 4)), NAMES[:2])]
    for each, samples, kinds in cases:
        G = gn.GaussNewton(each, samples, "cross_entropy")
        D = G.to_dense()
        for kind in kinds:
            values = generalised(D, dense_preconditioner(kind, G, D), 0.01)
            found = gn.cond(G, preconditioner=kind, damping=0.01)
            assert found.rank == len(values)
            assert found.value == pytest.approx(values[-1] / values[0], rel=1e-5)


@pytest.mark.parametrize("decades", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", NAMES)
def test_intervals_in_single_precision_hold_the_truth(kind, decades):
    """Features that are correlated and of very different sizes: rounding grows with the condition number of M."""
    draw = rng(decades)
    Q = np.linalg.qr(draw.standard_normal((8, 8)))[0]
    X = ((draw.standard_normal((20, 8)) * np.logspace(0, -decades, 8)) @ Q).astype(np.float32)
    single = gn.mlp([8, 12, 3], "tanh", bias=True, seed=1, dtype="float32")
    double = single.with_parameters([w.astype(np.float64) for w in single.parameters()])
    for damping in (0.0, 1e-4, 0.05):
        found = gn.cond(gn.GaussNewton(single, X), preconditioner=kind, damping=damping)
        truth = gn.cond(gn.GaussNewton(double, X.astype(np.float64)), preconditioner=kind, damping=damping)
        assert found.lower <= truth.value <= found.upper
        assert found.upper < 1.5 * found.lower or decades > 2


@pytest.mark.parametrize(
    ("given", "damping", "kind", "message"),
    [
        ("adam", 0.0, ValueError, "preconditioner is 'adam'"),
        (np.ones(5), 0.0, ValueError, "preconditioner has shape"),
        (-np.ones(75), 0.5, ValueError, "preconditioner has the entry -1"),
        (aslinearoperator(np.eye(75)), 0.0, TypeError, "without inverse_root"),
        ("kfac", -1.0, ValueError, "damping is -1 but"),
        (None, 1.0, ValueError, "damping is 1.0 but is a preconditioner's"),
    ],
)
def test_wrong_arguments(given, damping, kind, message):
    G = dense_problem("wide", "mse")[0]
    with pytest.raises(kind, match=message):
        gn.cond(G, preconditioner=given, damping=damping)


def test_other_operators_and_roots_of_another_size():
    class Small:
        def inverse_root(self, damping):
            return aslinearoperator(np.eye(3))

    with pytest.raises(ValueError, match="inverse_root gave"):
        gn.cond(dense_problem("wide", "mse")[0], preconditioner=Small())
    with pytest.raises(TypeError, match=r"needs a gnfast\.GaussNewton"):
        gn.cond(np.eye(3), preconditioner=np.ones(3))


def test_on_a_device(device):
    draw = rng(7)
    conv = gn.Conv2d(draw.standard_normal((4, 1, 2, 2)), draw.standard_normal(4), groups=2)
    images = gn.Network([conv, gn.Activation("tanh"), gn.Flatten(), gn.Dense(draw.standard_normal((2, 48)))])
    for net, X in ((CASES["wide"][0](), CASES["wide"][1]), (images, draw.standard_normal((6, 2, 4, 5)))):
        G = gn.GaussNewton(net, X, "cross_entropy")
        there = device.on(G)
        V = np.asfortranarray(draw.standard_normal((G.shape[0], 3)))
        np.testing.assert_allclose(there.kfac() @ V, G.kfac() @ V, atol=1e-12)
        op, dual = there.preconditioned("block", 0.01), G.preconditioned("block", 0.01)
        U = np.asfortranarray(draw.standard_normal((dual.shape[0], 2)))
        np.testing.assert_allclose(op @ U, dual @ U, atol=1e-10)
        for kind in NAMES:
            found = device.dressed(gn.cond)(there, preconditioner=kind, damping=0.01)
            assert found.value == pytest.approx(gn.cond(G, preconditioner=kind, damping=0.01).value, rel=1e-7)
