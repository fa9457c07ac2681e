"""Vectors and samples of every kind: products as NumPy's `@` makes them, in the wider dtype, or one sentence."""

from __future__ import annotations

import re

import numpy as np
import oracles
import pandas as pd
import pytest
import scipy.sparse
import scipy.sparse.linalg as sla
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gnfast as gn

RNG = np.random.default_rng(0)
NET = gn.mlp([4, 5, 3], "tanh", seed=1, bias=True)
X = RNG.standard_normal((6, 4))


def in_dtype(net, dtype):
    return net.with_parameters([array.astype(dtype) for array in net.parameters()])


def operators(dtype):
    """Operators of every class with their matrices, from explicit Jacobians."""
    net, data = in_dtype(NET, dtype), X.astype(dtype)
    linear = in_dtype(gn.mlp([4, 5, 3], "identity", seed=1), dtype)
    G, L = gn.GaussNewton(net, data), gn.GaussNewton(linear, data)
    J = oracles.jacobian(net, data)
    A, K = J.T @ J / 6, J @ J.T / 6
    M = RNG.standard_normal((7, 7))
    M = (M @ M.T).astype(dtype)
    own = G.layers()[1].own
    dual = L.linear_dual()
    return [
        (G, A),
        (gn.GaussNewton(net, data, reduction="sum"), 6 * A),
        (G.gram(), K),
        (G.jacobian(), J),
        (G.jacobian().T, J.T),
        (G.block(1), A[own, own]),
        (gn.ShardedGaussNewton(net, data, ["cpu"] * 2), A),
        (gn.GaussNewton(gn.prune(net, 0.5), data), None),
        (dual, dual.to_dense().astype(float)),
        (dual.preconditioner(), None),
        (G.kfac(), None),
        (G.kfac().inverse(0.1), None),
        (G.preconditioned("diagonal", 0.1), None),
        (gn.operator(lambda V: M @ V, 7, dtype), M.astype(float)),
    ]


GIVEN = {
    "float64": lambda V: V,
    "float32": lambda V: V.astype("float32"),
    "float16": lambda V: V.astype("float16"),
    "longdouble": lambda V: V.astype(np.longdouble),
    "big-endian": lambda V: V.astype(">f8"),
    "big-endian float32": lambda V: V.astype(">f4"),
    "int8": lambda V: np.round(30 * V).astype("int8"),
    "int64": lambda V: np.round(30 * V).astype("int64"),
    "uint16": lambda V: np.round(np.abs(30 * V)).astype("uint16"),
    "bool": lambda V: V > 0,
    "complex128": lambda V: V + 1j * V[::-1],
    "complex64": lambda V: (V - 2j * V[::-1]).astype("complex64"),
    "negative strides": lambda V: np.ascontiguousarray(V[::-1])[::-1],
    "every second": lambda V: np.repeat(V, 2, axis=0)[::2],
    "Fortran": np.asfortranarray,
    "unaligned": lambda V: unaligned(V),
    "read-only": lambda V: np.broadcast_to(V, V.shape),
    "list": lambda V: V.tolist(),
    "integers in lists": lambda V: np.round(3 * V).astype(int).tolist(),
    "frame": lambda V: pd.DataFrame(V) if V.ndim == 2 else pd.Series(V),
    "matrix": lambda V: np.matrix(V) if V.ndim == 2 else V,
    "tiny": lambda V: 1e-200 * V,
    "huge": lambda V: 1e200 * V,
    "of all sizes": lambda V: V * np.logspace(-250, 250, V.shape[-1] if V.ndim == 2 else 1),
}


def unaligned(V):
    out = np.empty(V.nbytes + 1, np.uint8)[1:].view(V.dtype).reshape(V.shape)
    out[...] = V
    return out


def check(found, op, matrix, given):
    """Relative to what the operator's precision makes of each column."""
    V = np.asarray(given)
    assert found.dtype == np.result_type(op.dtype, V.dtype)
    wide = V.astype(np.result_type(V.dtype, np.float64))
    expected, size = matrix @ wide, np.abs(matrix).sum(axis=1).max() * np.abs(wide).max(axis=0)
    assert (np.abs(found - expected) <= 50 * np.finfo(op.dtype).eps * size).all()


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_products_with_vectors_of_every_kind(dtype):
    for op, matrix in operators(dtype):
        if matrix is None:  # products in its own dtype are tested elsewhere
            matrix = np.asarray(op @ np.eye(op.shape[1], dtype=dtype), float)
        V = np.random.default_rng(3).standard_normal((op.shape[1], 3))
        for name, make in GIVEN.items():
            if dtype == "float64" and name in ("huge", "of all sizes"):
                continue  # nothing is converted
            block, vector = make(V), make(np.ascontiguousarray(V[:, 0]))
            check(op @ block, op, matrix, block)
            check(op.matmat(np.asarray(block)), op, matrix, block)
            check(op.matvec(np.asarray(vector)), op, matrix, vector)
            given = make(matrix @ V)
            check(op.rmatmat(np.asarray(given)), op, matrix.T, given)
            if isinstance(block, np.ndarray):
                rows = make(np.random.default_rng(4).standard_normal((op.shape[0], 3)))
                check((rows.T @ op).T, op, matrix.T, rows)


@given(st.integers(0, 2**32 - 1), st.sampled_from(["float32", "float64"]), st.integers(-290, 290), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_no_range_is_lost_on_the_way(seed, dtype, decade, s):
    rng = np.random.default_rng(seed)
    M = rng.standard_normal((9, 9))
    M = (M + M.T).astype(dtype)
    op = gn.operator(lambda V: M @ V, 9, dtype)
    V = rng.standard_normal((9, s)) * 10.0**decade * 10.0 ** rng.uniform(-10, 10, s)
    check(op @ V, op, M.astype(float), V)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_lift_takes_them_too(dtype):
    G = gn.GaussNewton(in_dtype(NET, dtype), X.astype(dtype))
    K, J = G.gram(), oracles.jacobian(G.net, G.X)
    Y = RNG.standard_normal((18, 2))
    for name in ("float64", "float32", "int64", "complex128", "tiny", "bool"):
        given = GIVEN[name](Y)
        found, wide = K.lift(given), np.asarray(given).astype(np.result_type(given.dtype, float))
        assert found.dtype == np.result_type(dtype, given.dtype)
        expected = J.T @ wide / np.sqrt(6)
        assert np.abs(found - expected).max() <= 50 * np.finfo(dtype).eps * np.abs(expected).max()


def test_out_has_the_dtype_of_the_product():
    op = gn.GaussNewton(in_dtype(NET, "float32"), X.astype("float32"))
    V = RNG.standard_normal((op.shape[0], 2))
    out = np.empty(V.shape, order="F")
    assert op.matmat(V, out=out) is out
    np.testing.assert_array_equal(out, op @ V)
    with pytest.raises(TypeError, match="out has dtype float32 but must be an array of float64, the wider"):
        op.matmat(V, out=np.empty(V.shape, "float32", order="F"))
    whole = np.zeros((op.shape[0], 4), "float32", order="F")
    given = whole[:, :2]
    with pytest.raises(ValueError, match="out overlaps V"):
        op.matmat(given, out=whole[:, 1:3])


def test_what_is_no_vector_is_refused_by_name():
    G = gn.GaussNewton(NET, X)
    V = RNG.standard_normal((G.shape[0], 3))
    fields = np.zeros(G.shape[0], [("a", float), ("b", float)])
    cases = {
        "masked": (np.ma.masked_array(V, V > 1), r"V is a masked array; pass a plain array, for instance V\.filled"),
        "object": (V.astype(object), r"dtype object; pass numpy\.asarray\(V, dtype='float64'\)"),
        "structured": (fields, r"structured_to_unstructured\(v\)"),
        "sparse": (scipy.sparse.csr_matrix(V), r"V is of type csr_matrix, which is sparse; pass V\.toarray\(\)"),
        "sparse array": (scipy.sparse.coo_array(V), r"sparse; pass V\.toarray\(\)"),
        "sparse tensor": (torch.tensor(V).to_sparse(), r"pass V\.to_dense\(\)"),
        "bfloat16": (torch.tensor(V).bfloat16(), r"pass V\.double\(\)"),
        "words": (V.astype(str), r"V is of type ndarray with dtype <U\d+; pass a NumPy array of numbers"),
        "dates": (np.zeros(V.shape, "M8[s]"), "pass a NumPy array of numbers"),
        "tensor of float32": (torch.tensor(V).float(), r"convert it with V\.to\(torch\.float64\)"),
        "nothing": (None, "V is of type NoneType"),
    }
    for name, (value, message) in cases.items():
        for product in (lambda V: G @ V, lambda V: G.dot(V), lambda V: G.jacobian() @ V, lambda V: G.jacobian().H @ V):
            with pytest.raises((TypeError, ValueError)) as caught:
                product(value)
            assert re.search(message, str(caught.value)) or "has shape" in str(caught.value), (name, caught.value)
    with pytest.raises(TypeError, match="masked"):
        np.ma.masked_array(V.T, V.T > 1) @ G
    negated = torch._neg_view(torch.tensor(-V))
    np.testing.assert_array_equal(np.asarray(G @ negated), G @ V)


def sample_kinds(data):
    """What X may be, and by what message it is refused, or None."""
    return {
        "negative strides": (np.ascontiguousarray(data[::-1])[::-1], None),
        "Fortran": (np.asfortranarray(data), None),
        "read-only": (np.broadcast_to(data, data.shape), None),
        "unaligned": (unaligned(data), None),
        "list": (data.tolist(), None),
        "memoryview": (memoryview(data), None),
        "negated tensor": (torch._neg_view(torch.tensor(-data)), None),
        "big-endian": (data.astype(">f8"), r"byte order; convert it with X\.astype\('float64'\)"),
        "float16": (data.astype("float16"), r"float16 .* X\.astype\('float64'\)"),
        "longdouble": (data.astype(np.longdouble), r"X\.astype\('float64'\)"),
        "integers in lists": (np.ones(data.shape, int).tolist(), r"numpy\.asarray\(X, 'float64'\)|X\.astype"),
        "tensor of float32": (torch.tensor(data).float(), r"X\.to\(torch\.float64\)|X\.astype"),
        "object": (data.astype(object), r"pass numpy\.asarray\(X, dtype='float64'\)"),
        "masked": (np.ma.masked_array(data, data > 1), r"X\.filled\(0\)"),
        "complex": (data + 0j, r"pass X\.real"),
        "no array": (None, "X is of type NoneType with dtype object; pass a NumPy array of numbers"),
        "number": (1.0, r"X has shape \(\) but must be"),
        "empty": (data[:0], r"X has shape \(0, .*\)"),
        "not finite": (np.where(data > 1, np.nan, data), "X has .* NaN or infinite value"),
        "too deep": (data[None, None, None], "X has shape .* but must be"),
    }


@pytest.mark.parametrize("kind", ["chain", "flatten", "convolution"])
def test_samples_of_every_kind(kind):
    data, net = X, NET
    if kind == "flatten":
        data, net = X.reshape(6, 1, 2, 2), gn.Network([gn.Flatten(), *NET.layers])
    elif kind == "convolution":
        head = gn.Dense(RNG.standard_normal((3, 6)))
        data, net = X.reshape(6, 1, 4), gn.Network([gn.Conv1d(RNG.standard_normal((2, 1, 2))), gn.Flatten(), head])
    v = np.ones(net.num_parameters)
    expected = gn.GaussNewton(net, data) @ v
    kinds = sample_kinds(data)
    if data.ndim == 2:
        kinds["frame"] = (pd.DataFrame(data), None)
        kinds["sparse"] = (scipy.sparse.csr_array(data), r"X is of type csr_array, which is sparse; pass X\.toarray")
    for name, (samples, message) in kinds.items():
        if message is None:
            np.testing.assert_array_equal(gn.GaussNewton(net, samples) @ v, expected, err_msg=name)
            np.testing.assert_array_equal(np.asarray(net(samples)), net(data), err_msg=name)
            continue
        for call in (lambda X: gn.GaussNewton(net, X), net):
            with pytest.raises((TypeError, ValueError), match=message):
                call(samples)


@pytest.mark.parametrize("n", [6, 300])
def test_what_is_changed_in_place_is_noticed(n):
    """Whole arrays at any number of samples, single entries of samples always, of a network's arrays from 256 on."""
    norm, head, norm_mean = (
        [RNG.uniform(1, 2, 5) for _ in range(4)],
        RNG.standard_normal((3, 5)),
        RNG.standard_normal(5),
    )
    for where in ("X", "first weight", "bias", "head", "mean", "residual", "weights"):
        data, inner, weights = RNG.standard_normal((n, 4)), RNG.standard_normal((5, 5)), RNG.uniform(1, 2, (n, 3))
        first, bias = RNG.standard_normal((5, 4)), RNG.standard_normal(5)
        mean, last = norm_mean.copy(), head.copy()
        tail = [gn.BatchNorm(norm[0], norm[1], mean, norm[3]), gn.Residual([gn.Dense(inner)]), gn.Dense(last)]
        net = gn.Network([gn.Dense(first, bias), gn.Activation("tanh"), *tail])
        G = gn.GaussNewton(net, data, weights=weights)
        users = [G, G.gram(), G.jacobian(), G.jacobian().T, G.block(0), gn.ShardedGaussNewton(net, data, ["cpu"] * 2)]
        users = users[:5] if where == "weights" else users
        places = {"X": data, "first weight": first, "bias": bias, "head": last, "mean": mean, "residual": inner}
        array = (places | {"weights": weights})[where]
        before = [op @ np.ones(op.shape[1]) for op in users]
        kept = array.copy()
        one = where in ("X", "weights") or n == 300
        if one:
            array.flat[array.size // 2] = np.nextafter(array.flat[array.size // 2], np.inf)
        else:
            array *= 1.1
        for op in users:
            if not one or not isinstance(op, gn.ShardedGaussNewton) or where == "X":
                with pytest.raises(RuntimeError, match="were changed in place"):
                    op @ np.ones(op.shape[1])
        with pytest.raises(RuntimeError, match="were changed in place"):
            gn.cond(G)
        array[...] = kept
        for op, product in zip(users, before, strict=True):
            np.testing.assert_array_equal(op @ np.ones(op.shape[1]), product)


# ------------------------------------------------------------------------------------------------- SciPy's functions
def test_what_scipy_makes_of_float32_stays_float32():
    G = gn.GaussNewton(in_dtype(NET, "float32"), X.astype("float32"))
    exact = np.linalg.eigvalsh(oracles.gauss_newton(G.net, G.X))[-1]
    eye = sla.aslinearoperator(np.eye(G.shape[0]))
    for op, value in [(2 * G, 2 * exact), (G + eye, exact + 1), (G @ G, exact**2), (-(3 * (-G)), 3 * exact)]:
        assert op.dtype == np.float64 or op.dtype == np.float32
        values, _, info = gn.eigsh(op, 1, return_info=True)
        assert values.dtype == np.float32, "its interval would be that of float64"
        assert info.intervals[0, 0] <= value <= info.intervals[0, 1]
    with pytest.raises(ValueError, match="rounding of float32 only but has dtype float64; give it dtype float32"):
        gn.eigsh(sla.LinearOperator(G.shape, matvec=lambda v: G @ v, dtype=np.float64), 1)


@pytest.mark.filterwarnings("ignore:Exited (at iteration|postprocessing):UserWarning")  # lobpcg's, in float32
def test_scipy_on_an_operator_in_float32():
    net, data = in_dtype(NET, "float32"), X.astype("float32")
    G, J = gn.GaussNewton(net, data), oracles.jacobian(net, data)
    A, p = J.T @ J / 6, G.shape[0]
    damped = G + 0.5 * sla.aslinearoperator(np.eye(p, dtype="float32"))
    B = A + 0.5 * np.eye(p)
    b = np.random.default_rng(5).standard_normal(p)
    x = np.linalg.solve(B, b)
    for solver in (sla.cg, sla.minres, sla.gmres, sla.bicgstab):
        found, info = solver(damped, b, rtol=1e-5, maxiter=500)
        assert info == 0
        np.testing.assert_allclose(found, x, atol=1e-3)
    np.testing.assert_allclose(sla.lsqr(damped, b)[0], x, atol=1e-3)
    np.testing.assert_allclose(sla.lsmr(damped, b)[0], x, atol=1e-3)
    y = J @ np.random.default_rng(6).standard_normal(p)
    small = sla.lsqr(G.jacobian(), y)[0]
    np.testing.assert_allclose(J @ small, y, atol=1e-3 * np.abs(y).max())
    values, vectors = np.linalg.eigh(A)
    flow = vectors @ (np.exp(-values) * (vectors.T @ b))
    np.testing.assert_allclose(sla.expm_multiply(-1.0 * G, b, traceA=-np.trace(A)), flow, atol=1e-4)
    turned = vectors @ (np.exp(1j * values) * (vectors.T @ b))
    np.testing.assert_allclose(sla.expm_multiply(1j * G, b, traceA=1j * np.trace(A)), turned, atol=1e-4)
    assert sla.onenormest(G) == pytest.approx(np.abs(A).sum(axis=0).max(), rel=1e-4)
    start = np.random.default_rng(7).standard_normal((p, 3))
    top, _ = sla.lobpcg(G, start, maxiter=100, tol=1e-4)
    np.testing.assert_allclose(np.sort(top), values[-3:], rtol=1e-3)
    for solver in ("lobpcg", "arpack", "propack"):
        singular = sla.svds(G.jacobian(), 2, solver=solver, return_singular_vectors=False)
        np.testing.assert_allclose(np.sort(singular), np.linalg.svd(J)[1][1::-1], rtol=1e-3)
    inverse = sla.LinearOperator((p, p), lambda v: np.linalg.solve(A - 0.3 * np.eye(p), v), dtype=float)
    near = sla.eigsh(G, 2, sigma=0.3, OPinv=inverse, return_eigenvectors=False)
    expected = values[np.argsort(np.abs(values - 0.3))[:2]]
    np.testing.assert_allclose(np.sort(near), np.sort(expected), rtol=1e-3)
    assert np.allclose(sla.eigsh(G, 2, return_eigenvectors=False), values[-2:], rtol=1e-3)
