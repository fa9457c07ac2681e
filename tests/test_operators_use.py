"""Operators in use: layouts, SciPy, the plan, and what is refused."""

from __future__ import annotations

import warnings
import weakref

import numpy as np
import oracles
import pytest
import scipy.sparse.linalg as sla
from problems import block, close, data, network, problem

import gnfast as gn
from gnfast import _core


# ------------------------------------------------------------------------------------------------- layouts and SciPy
def test_out_and_layouts():
    G = problem()
    rng = np.random.default_rng(0)
    for op in (G, G.jacobian(), G.jacobian().T, G.gram()):
        V = block(rng, op.shape[1], 5, G.dtype)
        expected = op @ V
        out = np.full((op.shape[0], 5), np.nan, order="F")
        assert op.matmat(V, out=out) is out
        np.testing.assert_array_equal(out, expected)
        wide = np.zeros((op.shape[1], 10))
        wide[:, ::2] = V
        frozen = V.copy(order="F")
        frozen.flags.writeable = False
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # small copies are not worth a word
            for view in (np.ascontiguousarray(V), wide[:, ::2], V[:, ::-1][:, ::-1], frozen, V.tolist()):
                np.testing.assert_array_equal(op @ view, expected)
        assert expected.flags.f_contiguous


def test_large_copies_are_told():
    G = problem((40, 100, 50, 4))
    V = np.random.default_rng(0).standard_normal((G.shape[0], 20))
    with pytest.warns(gn.CopyWarning, match=r"V of shape \(9354, 20\) is not in Fortran order and was copied") as found:
        product = G @ V
    assert found[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(G @ np.asfortranarray(V), product)
        np.testing.assert_array_equal(G @ np.ones(G.shape[0]), G @ np.ones((G.shape[0], 1))[:, 0])
    X = np.asfortranarray(np.ones((2000, 100)))
    with pytest.warns(gn.CopyWarning, match=r"X of shape \(2000, 100\) is not in C order"):
        gn.GaussNewton(gn.mlp([100, 2]), X)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_scipy_takes_the_operators(dtype):
    G = problem(dtype=dtype)
    dense, J = G.to_dense(), G.jacobian()
    slack = 300 * np.finfo(dtype).eps
    values, vectors = sla.eigsh(G, 3)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(dense)[-3:], rtol=slack)
    np.testing.assert_allclose(G @ np.asfortranarray(vectors), vectors * values, atol=slack * values[-1])
    left, s, _ = sla.svds(J, 3, v0=np.random.default_rng(0).standard_normal(min(J.shape)))
    np.testing.assert_allclose(s, np.linalg.svd(oracles.jacobian(G.net, G.X))[1][2::-1], rtol=10 * slack)
    assert left.dtype == np.dtype(dtype)
    v = np.random.default_rng(0).standard_normal(G.shape[0]).astype(dtype)
    combined = np.dtype(dtype).type(2) * G + G.T
    np.testing.assert_allclose(combined @ v, 3 * (dense @ v), rtol=0, atol=slack * np.abs(dense @ v).max())
    assert (G @ v).shape == v.shape
    assert (G @ v[:, None]).shape == (len(v), 1)
    u = J @ v
    np.testing.assert_allclose(J.rmatvec(u), J.T @ u, rtol=0)
    np.testing.assert_allclose(J.rmatmat(u[:, None])[:, 0], J.T @ u, rtol=0)
    np.testing.assert_allclose((J.H @ J) @ v, J.T @ u, rtol=0)
    assert G.dtype == J.dtype == J.T.dtype == np.dtype(dtype)


def test_large_matrices_are_made_in_blocks_and_symmetric():
    G = problem((19, 31, 6), 90)
    for op, expected in ((G, oracles.gauss_newton(G.net, G.X)), (G.gram(), oracles.gram(G.net, G.X))):
        dense = op.to_dense()
        assert len(dense) > 512  # rows that are mirrored at a time
        close(dense, expected, G.net)
        np.testing.assert_array_equal(dense, dense.T)


def test_a_stored_gram_needs_no_input_grams():
    G = problem((3, 4, 1), 40)
    limited = gn.GaussNewton(G.net, G.X, memory_limit=20_000).gram()
    with pytest.raises(MemoryError, match="a product with the Gram dual needs"):
        limited @ np.ones(40)
    K = limited.to_dense()
    assert limited.to_dense() is K
    assert not K.flags.writeable
    np.testing.assert_allclose(limited @ np.ones(40), K.sum(axis=1), rtol=1e-12)
    assert "not stored" not in repr(limited)


# ----------------------------------------------------------------------------------------------------------- the plan
def test_dual_is_the_cheapest_space():
    wide = problem((20, 400, 3), 5)
    assert wide.plan().space == "samples"
    assert isinstance(wide.dual(), gn.Gram)
    many = problem((2, 3, 1), 300)
    assert many.plan().space == "parameters"
    assert many.dual() is many
    linear = problem((20, 400, 3), 200, activation="identity")
    assert linear.plan().space == "linear map"
    assert isinstance(linear.dual(), gn.LinearDual)
    assert linear.dual() is linear.linear_dual()
    softmax = gn.GaussNewton(linear.net, linear.X[:5], "cross_entropy")
    assert softmax.dual().shape[0] == 5 * 2
    excluded = {space.name: space.excluded for space in softmax.plan().spaces}
    assert excluded == {"parameters": "", "samples": "", "linear map": "the loss is cross_entropy"}
    assert "the network is not linear" in str(wide.plan())
    for op in (wide, wide.gram(), linear.linear_dual(), wide.jacobian()):
        assert f"{op.shape[0]} x {op.shape[1]}" in repr(op)


def test_sizes_in_the_plan_are_those_of_the_operators():
    G = problem((6, 30, 20, 3), 9, activation="identity", bias=True)
    sizes = {space.name: space.size for space in G.plan().spaces}
    assert sizes == {"parameters": G.shape[0], "samples": G.gram().shape[0], "linear map": G.linear_dual().shape[0]}


def test_a_space_beyond_memory_limit_is_not_taken():
    free = problem((100, 1, 3), 2000, activation="identity", bias=False)
    memory = {space.name: space.memory for space in free.plan().spaces}
    assert free.plan().space == "linear map"
    assert memory["parameters"] < 200_000 < memory["linear map"]
    limited = gn.GaussNewton(free.net, free.X, memory_limit=200_000)
    assert limited.dual() is limited
    assert "more than memory_limit" in str(limited.plan())


def test_memory_limit_moves_the_plan():
    free = problem((20, 400, 3), 40)
    stored = {space.name: space.memory for space in free.plan().spaces}
    assert stored["parameters"] > stored["samples"]
    G = gn.GaussNewton(free.net, free.X, memory_limit=stored["samples"] - 1)
    plan = G.plan()
    assert [space.excluded for space in plan.spaces][:2] == ["more than memory_limit"] * 2
    assert plan.space == "samples"
    assert "none fits in memory_limit" in str(plan)
    V = np.asfortranarray(np.eye(G.gram().shape[0])[:, :3])
    close(G.gram() @ V, free.gram().to_dense()[:, :3], G.net)


# ---------------------------------------------------------------------------------------------------------- bad input
def test_bad_blocks():
    G = problem()
    p, nk = G.shape[0], G.jacobian().shape[0]
    good = np.zeros((p, 2), order="F")
    for op, rows in ((G, p), (G.jacobian(), p), (G.jacobian().T, nk), (G.gram(), nk)):
        with pytest.raises(ValueError, match=rf"V has shape \({rows + 1}, 2\) but must be \({rows}, s\)"):
            op @ np.zeros((rows + 1, 2))
        with pytest.raises(ValueError, match=rf"v has shape \({rows + 1},\) but must be \({rows},\)"):
            op @ np.zeros(rows + 1)
        with pytest.raises(ValueError, match="s at least 1"):
            op.matmat(np.zeros((rows, 0)))
        with pytest.raises(ValueError, match=r"V has shape \(\d+,\)"):
            op.matmat(np.zeros(rows))
        with pytest.raises(TypeError, match="NumPy"):
            op @ np.array([["a"] * 2] * rows)
    with pytest.raises(TypeError, match="out is of type list"):
        G.matmat(good, out=[[0.0]])
    with pytest.raises(TypeError, match="out has dtype float32 but must be an array of float64"):
        G.matmat(good, out=np.zeros((p, 2), np.float32, order="F"))
    with pytest.raises(ValueError, match=rf"out has shape \({p}, 3\) but must be \({p}, 2\)"):
        G.matmat(good, out=np.zeros((p, 3), order="F"))
    with pytest.raises(ValueError, match="Fortran order"):
        G.matmat(good, out=np.zeros((p, 2)))
    frozen = np.zeros((p, 2), order="F")
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="out must be writeable"):
        G.matmat(good, out=frozen)
    with pytest.raises(ValueError, match="out overlaps V"):
        G.matmat(good, out=good)
    both = np.zeros((p, 3), order="F")
    with pytest.raises(ValueError, match="out overlaps V"):
        G.matmat(both[:, :2], out=both[:, 1:])


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused(value, dtype):
    """Wherever they are: also behind a dead unit, and in one vector of many."""
    linear = problem((5, 9, 3), 4, activation="identity", dtype=dtype)
    relu = gn.Network([linear.net.dense[0], gn.Activation("relu"), linear.net.dense[1]])
    operators = [linear.linear_dual(), linear.gram(), linear.jacobian(), linear.jacobian().T]
    operators += [gn.GaussNewton(relu, linear.X, "cross_entropy", method=m) for m in ("usual", "factored")]
    operators.append(gn.GaussNewton(relu, linear.X).gram(reduced=True))
    for op in operators:
        for row in range(0, op.shape[1], 3):
            V = np.ones((op.shape[1], 5), dtype, order="F")
            V[row, 3] = value
            with pytest.raises(ValueError, match="V has NaN or infinite values"):
                op @ V
    Y = np.ones((linear.gram().shape[0], 2), dtype)
    Y[1, 1] = value
    with pytest.raises(ValueError, match="Y has NaN or infinite values"):
        linear.gram().lift(Y)


def test_bad_arguments():
    G = problem()
    net, X = G.net, G.X
    with pytest.raises(TypeError, match=r"net is of type ndarray but must be a gnfast\.Network"):
        gn.GaussNewton(X, X)
    with pytest.raises(ValueError, match="X has 6 columns but the network takes 7 features"):
        gn.GaussNewton(net, X[:, :6])
    with pytest.raises(TypeError, match="X has dtype float32 but the network has float64"):
        gn.GaussNewton(net, X.astype(np.float32))
    with pytest.raises(ValueError, match="NaN"):
        gn.GaussNewton(net, np.where(X > 0, np.nan, X))
    with pytest.raises(ValueError, match="empty"):
        gn.GaussNewton(net, X[:0])
    with pytest.raises(ValueError, match="did you mean 'cross_entropy'"):
        gn.GaussNewton(net, X, "crossentropy")
    with pytest.raises(ValueError, match="1 output, whose softmax is always 1"):
        gn.GaussNewton(gn.mlp([7, 1]), X, "cross_entropy")
    with pytest.raises(ValueError, match="did you mean 'mean'"):
        gn.GaussNewton(net, X, reduction="means")
    with pytest.raises(ValueError, match="did you mean 'factored'"):
        gn.GaussNewton(net, X, method="factor")
    with pytest.raises(ValueError, match="device is 'tpu'"):
        gn.GaussNewton(net, X, device="tpu")
    with pytest.raises(ValueError, match="the linear dual needs a linear network"):
        G.linear_dual()
    with pytest.raises(ValueError, match="the linear dual needs loss='mse'"):
        gn.GaussNewton(gn.mlp([7, 3], "identity"), X, "cross_entropy").linear_dual()
    with pytest.raises(TypeError, match="reduced is 1 but must be True or False"):
        G.gram(reduced=1)
    with pytest.raises(ValueError, match=r"Y has shape \(3, 1\)"):
        G.gram().lift(np.zeros((3, 1)))
    with pytest.raises(ValueError, match="X is zero at all samples"):
        gn.GaussNewton(gn.mlp([7, 9, 2], "identity"), np.zeros((4, 7))).linear_dual()


def test_memory_limit_refuses_with_sizes_before_allocating():
    net, X = gn.mlp([30, 200, 5], "relu"), np.random.default_rng(0).standard_normal((50, 30))
    for wrong in (0, -1.5):
        with pytest.raises(ValueError, match=r"memory_limit is .* but must be a positive number of bytes"):
            gn.GaussNewton(net, X, memory_limit=wrong)
    with pytest.raises(TypeError, match="memory_limit is '1 GB' but must be a real number"):
        gn.GaussNewton(net, X, memory_limit="1 GB")
    sizes = r"needs (at least )?[\d.]+ [kMG]B.* but memory_limit is [\d.]+ [kMG]B; raise memory_limit or"
    with pytest.raises(MemoryError, match=sizes):
        gn.GaussNewton(net, X, memory_limit=10_000)
    with pytest.raises(MemoryError, match=r"method=\"factored\" keeps .* of backward rows"):
        gn.GaussNewton(net, X, memory_limit=200_000, method="factored")
    G = gn.GaussNewton(net, X, memory_limit=200_000)
    with pytest.raises(MemoryError, match="the Gram dual with its backward rows " + sizes):
        G.gram()
    with pytest.raises(MemoryError, match=f"the {G.shape[0]} x {G.shape[0]} matrix " + sizes):
        G.to_dense()
    few = gn.GaussNewton(gn.mlp([3, 4, 5], "relu"), np.ones((300, 3)), memory_limit=300_000)
    with pytest.raises(MemoryError, match="the 1500 x 1500 matrix with what it is formed of " + sizes):
        few.gram().to_dense()
    with pytest.raises(MemoryError, match="a product with the Gram dual " + sizes):
        few.gram() @ np.ones(1500)
    with pytest.raises(MemoryError, match="a product with the Gram dual " + sizes):
        few.gram().preconditioner()
    wide = gn.GaussNewton(gn.mlp([200, 200, 2], "identity"), np.eye(200), memory_limit=500_000)
    with pytest.raises(MemoryError, match="the linear dual with its factors P_l and R_l " + sizes):
        wide.linear_dual()
    large = gn.GaussNewton(gn.mlp([1000, 3000, 10], "relu"), np.ones((3, 1000)), memory_limit=1e9)
    with pytest.raises(MemoryError, match=r"the 3030000 x 3030000 matrix needs 73447\.2 GB"):
        large.to_dense()


@pytest.mark.parametrize(("n", "d"), [(400, 261), (290, 320)])
def test_linear_dual_of_many_features_is_formed_by_blocks(n, d):
    """From 256 features on the R_l are formed by block rows; the last one is shorter than the others."""
    net, X = network([d, 20, 17, 3], bias=True), data(n, d)
    dual = gn.GaussNewton(net, X).linear_dual()
    P, R = dual.factors()
    np.testing.assert_allclose(R, R.transpose(0, 2, 1), atol=4 * np.finfo(float).eps * np.abs(R).max())
    full = np.hstack([X, np.ones((n, 1))])
    ranges = np.linalg.matrix_rank(full)
    assert R.shape == (3, ranges, ranges)
    # R_l = C^T Z^T Z C with C C^T = full^T full / n has the non-zero spectrum of the inputs' Gram Y_l Y_l^T / n.
    inputs, _ = net.linearize(X)
    for r, Y, layer in zip(R, inputs, net.dense, strict=True):
        gram = (Y @ Y.T + (layer.bias is not None)) / n
        np.testing.assert_allclose(np.linalg.eigvalsh(r)[-15:], np.linalg.eigvalsh(gram)[-15:], rtol=1e-10)
    # A product reads one triangle of each R_l.
    rng = np.random.default_rng(0)
    V = np.asfortranarray(rng.standard_normal((dual.shape[0], 5)))
    expected = sum(np.kron(p, r) @ V for p, r in zip(P, R, strict=True))
    np.testing.assert_allclose(dual @ V, expected, rtol=1e-10, atol=1e-10 * np.abs(expected).max())


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_cholesky_in_panels_of_every_width(dtype):
    """2,085 unknowns: wide panels, whose diagonal blocks are factored in narrower ones; and where it must fail."""
    rng = np.random.default_rng(0)
    A = rng.standard_normal((2085, 2085)).astype(dtype) / np.sqrt(2085)
    K = A @ A.T + np.eye(2085, dtype=dtype)
    factor = np.tril(K)
    assert _core.cholesky(factor) == 0
    expected = np.linalg.cholesky(K.astype(np.float64))
    np.testing.assert_allclose(np.tril(factor), expected, atol=200 * np.finfo(dtype).eps)
    for bad in (0, 700, 2080):
        broken = K.copy()
        broken[bad, bad] = -1
        assert _core.cholesky(broken) == bad + 1


@pytest.mark.parametrize("make", [lambda G: G.gram(), lambda G: G.linear_dual()], ids=["gram", "linear"])
def test_an_operator_and_its_dual_are_freed_without_a_search_for_cycles(make):
    G = gn.GaussNewton(gn.mlp([5, 9, 3], activation="identity", seed=0), np.ones((4, 5)))
    dual = make(G)
    assert make(G) is dual
    alive = weakref.ref(dual), weakref.ref(G)
    del G, dual
    assert [reference() for reference in alive] == [None, None]
