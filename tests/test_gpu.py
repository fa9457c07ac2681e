"""Operators and solvers on a GPU: the CPU's results, CuPy in and out, and what is refused."""

from __future__ import annotations

import importlib
import types
import warnings

import numpy as np
import pytest
from problems import block, data, network, problem
from spectra import limits, with_spectrum

import gnfast as gn
from gnfast import _arrays, _core

DTYPES = ["float64", "float32"]


def images(n=5, dtype="float64"):
    """A small network of every kind of layer, and samples for it."""
    rng = np.random.default_rng(0)

    def draw(*shape):
        return rng.standard_normal(shape).astype(dtype)

    body = [gn.Conv2d(draw(4, 4, 3, 3) / 6, draw(4), padding=1), gn.BatchNorm(draw(4), draw(4), training=True)]
    layers = [
        gn.Conv2d(draw(4, 1, 3, 3) / 3, padding=1, padding_mode="circular"),
        gn.BatchNorm(draw(4), draw(4), draw(4), draw(4) ** 2 + 1),
        gn.Activation("gelu"),
        gn.Residual(body),
        gn.Pool("max", 2),
        gn.Pool("average", 2),
        gn.Flatten(),
        gn.LayerNorm(draw(8), draw(8)),
        gn.Dense(draw(3, 8), draw(3)),
    ]
    return gn.Network(layers), draw(n, 1, 8, 5)


def several(dtype):
    """Gauss-Newton operators of every kind."""
    relu, linear = problem(dtype=dtype), problem((6, 40, 30, 3), 20, activation="identity", dtype=dtype)
    weights = np.random.default_rng(0).uniform(0.5, 2, len(relu.X)).astype(dtype)
    roots = np.random.default_rng(1).standard_normal((len(relu.X), 4, 2)).astype(dtype)
    net, X = images(dtype=dtype)
    convolution = gn.Network([gn.Conv1d(np.ones((3, 2, 3), dtype)), gn.Conv1d(np.eye(3, dtype=dtype)[:2, :, None])])
    convolution = gn.Network([*convolution.layers, gn.Flatten()])
    return {
        "relu": relu,
        "linear": linear,
        "weighted": gn.GaussNewton(relu.net, relu.X, "poisson", weights=weights),
        "uncertain": gn.GaussNewton(relu.net, relu.X, "gaussian_nll", weights=weights),
        "blocks": gn.GaussNewton(relu.net, relu.X, roots @ roots.transpose(0, 2, 1)),
        "images": gn.GaussNewton(net, X, "cross_entropy"),
        "convolution": gn.GaussNewton(convolution, data(6, 18, dtype=dtype).reshape(6, 2, 9)),
        "pruned": gn.GaussNewton(gn.prune(relu.net, 0.3), relu.X),
    }


def agree(found, expected, dtype, size=None):
    """As near as rounding of sums over some hundred terms in another order leaves it."""
    expected = np.asarray(expected)
    scale = max(float(np.abs(expected).max(initial=0)), size or 0)
    np.testing.assert_allclose(np.asarray(found), expected, rtol=0, atol=500 * np.finfo(dtype).eps * scale)


# ---------------------------------------------------------------------------------------------------- as on the CPU
@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", several("float64"))
def test_operators_are_those_of_the_cpu(gpu, name, dtype):
    G = several(dtype)[name]
    D, rng = gpu.on(G), np.random.default_rng(0)
    for of in (lambda G: G, lambda G: G.jacobian(), lambda G: G.jacobian().T, lambda G: G.gram(reduced=True)):
        V = block(rng, of(G).shape[1], 5, dtype)
        agree(of(D) @ V, of(G) @ V, dtype)
        agree(of(D) @ V[:, 0], of(G) @ V[:, 0], dtype)
    K, L = G.gram(), D.gram()
    agree(L.diagonal(), K.diagonal(), dtype)
    agree(L.lift(V := block(rng, K.shape[0], 2, dtype)), K.lift(V), dtype)
    agree(L.to_dense(), K.to_dense(), dtype)
    agree(L @ V, K @ V, dtype)
    agree(gpu.dressed(gn.diagonal)(D).values, gn.diagonal(G).values, dtype)
    assert str(D.plan().space) == G.plan().space
    if name in ("linear", "convolution"):
        dual, other = G.linear_dual(), D.linear_dual()
        V = block(rng, dual.shape[0], 3, dtype)
        agree(other @ V, dual @ V, dtype)
        agree(other.lift(V), dual.lift(V), dtype)
        agree(other.restrict(np.ascontiguousarray(dual.lift(V).T)), dual.restrict(dual.lift(V).T.copy()), dtype)


@pytest.mark.filterwarnings("ignore:.* are known to .* only:gnfast.ConvergenceWarning")  # low ends in float32
@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dense", [5, 800])
def test_spectra_are_those_of_the_cpu(gpu, dense, dtype, monkeypatch):
    limits(monkeypatch, dense=dense)
    tol = {"rtol": 1e-8 if dtype == "float64" else 2e-3}
    for name, G in several(dtype).items():
        D = gpu.on(G)
        for which in ("LA", "SA", "BE"):
            op, other = (G, D) if which == "LA" else (G.dual(), D.dual())
            scale = np.abs(expected := gn.eigsh(op, 2, which)[0]).max()
            rounding = 16 * np.finfo(dtype).eps * float(gn.eigsh(op, 1)[0][0])  # 8 eps |A| in each of the two
            values, vectors = gpu.dressed(gn.eigsh)(other, 2, which)
            np.testing.assert_allclose(values, expected, **tol, atol=max(1000 * np.finfo(dtype).eps * scale, rounding))
            error = np.linalg.norm(op @ np.asfortranarray(vectors) - vectors * values, axis=0)
            assert error.max() <= (1e-5 if dtype == "float64" else 3e-2) * scale, name
        if dtype == "float64" or name in ("relu", "linear"):
            kappa, other = gn.cond(G), gpu.dressed(gn.cond)(D)
            np.testing.assert_allclose(other.value, kappa.value, rtol=1e-6 if dtype == "float64" else 0.05)
            assert (other.rank, other.dimension, other.method) == (kappa.rank, kappa.dimension, kappa.method), name
        assert int(gpu.dressed(gn.rank)(D, cut=1e-3)) == int(gn.rank(G, cut=1e-3))


@pytest.mark.gpu
@pytest.mark.parametrize("certify", [False, True])
def test_singular_and_certified_condition_numbers(gpu, certify, monkeypatch):
    limits(monkeypatch, dense=5, spectrum=10)
    twice = problem((6, 30, 20, 3), 9)
    twice = gn.GaussNewton(twice.net, np.concatenate([twice.X, twice.X[:2]]))
    for G in (problem((6, 30, 20, 3), 9), twice):
        found, expected = gpu.dressed(gn.cond)(gpu.on(G), certify=certify), gn.cond(G, certify=certify)
        np.testing.assert_allclose(found.value, expected.value, rtol=1e-6)
        assert (found.rank, found.method, found.upper_from) == (expected.rank, expected.method, expected.upper_from)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_random_numbers_are_the_cpu_s_bit_for_bit(gpu, dtype):
    home = _arrays.device(gpu)
    for rows, columns in ((1, 1), (3, 1001), (37, 129)):
        for fill, arguments in (("fill_uniform", (7, 3, -1.0, 2.0)), ("fill_normal", (2**64 - 1, 0, 1.5))):
            ours, theirs = np.empty((rows, columns), dtype), home.empty((rows, columns), np.dtype(dtype))
            getattr(_core, fill)(ours, *arguments)
            getattr(home.core, fill)(theirs, *arguments)
            if fill == "fill_uniform":
                np.testing.assert_array_equal(_arrays.to_host(theirs), ours)
            else:  # logarithms and cosines of the same bits, by another library
                np.testing.assert_allclose(_arrays.to_host(theirs), ours, rtol=20 * np.finfo(dtype).eps, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_estimates_are_those_of_the_cpu(gpu, dtype):
    """From the same random signs: the estimates agree, not only what they estimate."""
    M = with_spectrum(np.logspace(0, -3, 61), dtype)
    tol = {"rtol": 1e-9 if dtype == "float64" else 1e-2}
    op = gpu.dressed(gn.operator)(lambda V: gpu.put(M) @ V, 61, dtype, device=gpu)
    here = gn.operator(lambda V: M @ V, 61, dtype)
    for method in ("hutchinson", "hutch++", "xtrace"):
        found, expected = gpu.dressed(gn.trace)(op, method, 30), gn.trace(here, method, 30)
        np.testing.assert_allclose((found.value, found.error), (expected.value, expected.error), **tol)
    for method in ("hutchinson", "xdiag", "exact"):
        found, expected = gpu.dressed(gn.diagonal)(op, method, 30), gn.diagonal(here, method, 30)
        np.testing.assert_allclose(found.values, expected.values, **tol, atol=1e-3 * M.max())
    for function, options in (
        (gn.logdet, {"damping": 0.1, "method": "lanczos", "steps": 20}),
        (gn.logdet, {"damping": 0.1, "method": "exact"}),
        (gn.effective_dimension, {"damping": 0.1, "method": "lanczos", "steps": 20}),
        (gn.effective_dimension, {"damping": 0.1, "method": "exact"}),
    ):
        np.testing.assert_allclose(gpu.dressed(function)(op, **options).value, function(here, **options).value, **tol)
    for method in ("lanczos", "kpm"):
        options = {"method": method, "steps": 10, "grid": np.linspace(0.01, 1, 9)}
        given = [gpu.dressed(gn.density)._thing(op._thing, **options), gn.density(here, **options)]
        np.testing.assert_allclose(given[0].values, given[1].values, rtol=1e-2, atol=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("space", ["parameters", "dual"])
def test_systems_are_solved(gpu, space, dtype):
    G = problem((6, 30, 20, 3), 9, dtype=dtype)
    b = block(np.random.default_rng(0), G.shape[0], 3, dtype)
    for right in (b, b[:, 0].copy()):
        x, info = gpu.dressed(gn.solve)(gpu.on(G), right, 0.1, space=space)
        assert info.converged
        assert x.shape == right.shape
        left = G @ x + np.asarray(0.1, dtype) * x - right
        assert np.linalg.norm(left) <= (3e-4 if dtype == "float32" else 1e-7) * np.linalg.norm(right)


@pytest.mark.gpu
def test_searches_go_on(gpu, tmp_path):
    """From starting vectors, through training and from a checkpoint."""
    M = with_spectrum(np.linspace(1, 2, 97))
    path = tmp_path / "state.npz"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", gn.ConvergenceWarning)
        gpu.dressed(gn.eigsh)(M, 3, method="lanczos", checkpoint=path, max_products=40)
    assert path.exists()
    values, vectors, info = gpu.dressed(gn.eigsh)(M, 3, method="lanczos", checkpoint=path, return_info=True)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(M)[-3:], rtol=1e-9)
    again = gpu.dressed(gn.eigsh)(M, 3, method="lanczos", v0=vectors, return_info=True)[2]
    assert again.products < info.products
    tracker = gn.Tracker(top=2, low=1)
    for seed in (0, 1):
        G = problem((6, 30, 20, 3), 9, seed=seed)
        values = tracker.update(gpu.on(G)._thing)
        exact = np.linalg.eigvalsh(G.dual().to_dense())
        np.testing.assert_allclose(values, exact[[0, -2, -1]], rtol=1e-5)


@pytest.mark.gpu
def test_float64_around_products_in_float32(gpu):
    M = with_spectrum(np.linspace(0.5, 3, 97), "float32")
    for which, method in (("LA", "lanczos"), ("SA", "inverse"), ("SA", "dense")):
        vectors = gpu.dressed(gn.eigsh)(M, 4, which, method, precision="float64")[1]
        assert vectors.dtype == np.float64
        assert np.abs(vectors.T @ vectors - np.eye(4)).max() < 1e-12


# -------------------------------------------------------------------------------------------------- arrays and devices
@pytest.mark.gpu
def test_cupy_in_cupy_out(gpu):
    cupy = importlib.import_module("cupy")
    net, X = network([5, 9, 3], "tanh"), data(7, 5)
    there = cupy.asarray(X)
    out = net(there)
    assert isinstance(out, cupy.ndarray)
    agree(out.get(), net(X), "float64")
    G = gn.GaussNewton(net, there, device="cuda")
    assert G.X is there
    assert G.device == "cuda:0"
    assert "cuda:0" in repr(G)
    v = cupy.asarray(np.ones(G.shape[1]))
    for op in (G, G.gram(), G.jacobian(), G.jacobian().T):
        product = op @ cupy.asarray(np.ones(op.shape[1]))
        assert isinstance(product, cupy.ndarray)
        assert product.shape == (op.shape[0],)
    target = cupy.empty((G.shape[0], 1), order="F")
    assert G.matmat(v.reshape(-1, 1), out=target) is target
    agree(target.get()[:, 0], (G @ v).get(), "float64")
    values, vectors = gn.eigsh(G, 2)
    assert isinstance(values, np.ndarray)
    assert isinstance(vectors, cupy.ndarray)
    assert isinstance(G.gram().to_dense(), cupy.ndarray)
    assert isinstance(gn.diagonal(G).values, cupy.ndarray)
    assert np.asarray(gn.diagonal(G)).shape == (G.shape[0],)
    hessians = cupy.asarray(np.tile(np.eye(3), (7, 1, 1)))
    agree((gn.GaussNewton(net, there, hessians, device="cuda") @ v).get(), (G @ v).get(), "float64")


class Foreign:
    """Memory of a GPU that belongs to another library."""

    def __init__(self, array):
        self.array = array

    @property
    def __cuda_array_interface__(self):
        return self.array.__cuda_array_interface__


@pytest.mark.gpu
def test_arrays_of_other_libraries_are_not_copied(gpu):
    cupy = importlib.import_module("cupy")
    G = gpu.on(problem())._thing
    v = cupy.asarray(np.ones(G.shape[1]))
    read = _arrays.as_array(Foreign(v), "v", G.device)
    assert read.__cuda_array_interface__["data"] == v.__cuda_array_interface__["data"]
    agree((G @ v).get(), G.matvec(Foreign(v)).get(), "float64")
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        tensor = torch.ones(G.shape[1], dtype=torch.float64, device="cuda")
        product = G @ tensor
        assert product.device == tensor.device
        agree(product.cpu().numpy(), (G @ v).get(), "float64")
        with pytest.raises(TypeError, match="v requires a gradient"):
            G @ tensor.requires_grad_()


@pytest.mark.gpu
def test_work_is_done_on_the_caller_s_stream(gpu, monkeypatch):
    cupy = importlib.import_module("cupy")
    G = gpu.on(problem())._thing
    v, core, asked = cupy.asarray(np.ones(G.shape[1])), G.device._core, []
    spy = types.SimpleNamespace(set_device=core.set_device)
    spy.set_stream = lambda handle: (asked.append(handle), core.set_stream(handle))
    monkeypatch.setattr(G.device, "_core", spy)
    stream = cupy.cuda.Stream()
    with stream:
        found = G @ v
        stream.synchronize()
    assert set(asked) == {stream.ptr}
    agree(found.get(), (G @ v).get(), "float64")


@pytest.mark.gpu
def test_what_is_on_the_wrong_device_is_named(gpu):
    cupy = importlib.import_module("cupy")
    net, X = network([5, 9, 3], "tanh"), data(7, 5)
    G, here = gn.GaussNewton(net, X, device="cuda"), gn.GaussNewton(net, X)
    v = np.ones(G.shape[1])
    host, there = "in the machine's memory but", "on cuda:0 but"
    cases = [
        (lambda: G @ v, TypeError, rf"v is of type ndarray {host} the operator is on cuda:0; pass cupy.asarray\(v\)"),
        (lambda: G @ np.stack([v, v], 1), TypeError, f"V is of type ndarray {host} the operator"),
        (lambda: here @ cupy.asarray(v), TypeError, f"v is of type ndarray {there} the operator takes"),
        (lambda: gn.GaussNewton(net, cupy.asarray(X)), TypeError, f"X is of type ndarray {there} the network takes"),
        (lambda: gn.solve(G, v, 0.1), TypeError, f"b is of type ndarray {host} op is on cuda:0"),
        (lambda: gn.eigsh(G, 1, v0=v), TypeError, f"v0 is of type ndarray {host} the operator is on cuda:0"),
        (lambda: G.matmat(cupy.asarray(v[:, None]), out=v[:, None]), TypeError, "out is of type ndarray but must be"),
        (lambda: gn.GaussNewton(net, X, device="cuda:99"), ValueError, "device is 'cuda:99' but the GPUs are numbered"),
        (lambda: gn.bounds.deep(net, cupy.asarray(X)), TypeError, f"X is of type ndarray {there} the network takes"),
        (lambda: net(cupy.asarray(np.where(X > 1, np.nan, X))), ValueError, r"X has \d+ NaN or infinite values?, the"),
        (lambda: G.jacobian() @ cupy.asarray(v * np.inf), ValueError, "V has NaN or infinite values, or overflows"),
    ]
    for call, kind, message in cases:
        with pytest.raises(kind, match=message):
            call()
    assert (G @ cupy.asarray(v.astype("f4"))).dtype == np.float64  # any dtype is taken, where the operator is


@pytest.mark.gpu
def test_another_gpu_is_named(gpu):
    cupy, home = importlib.import_module("cupy"), _arrays.device(gpu)
    if home._core.device_count() < 2:
        pytest.skip("there is one GPU only")
    net, X = network([5, 9, 3], "tanh"), data(7, 5)
    G = gn.GaussNewton(net, X, device="cuda:0")
    with cupy.cuda.Device(1):
        v = cupy.asarray(np.ones(G.shape[1]))
        with pytest.raises(ValueError, match="the operator is on cuda:0 but CuPy's current device is cuda:1; call it"):
            G.gram()
        other = gn.GaussNewton(net, X, device="cuda")
        assert other.device == "cuda:1"
        product = (other @ v).get()
    with pytest.raises(ValueError, match="v is on cuda:1 but the operator is on cuda:0; copy it inside"):
        G @ v
    agree((G @ cupy.asarray(np.ones(G.shape[1]))).get(), product, "float64")


@pytest.mark.gpu
def test_memory_is_the_device_s(gpu, monkeypatch):
    net, X = gn.mlp([30, 200, 5], "relu"), np.random.default_rng(0).standard_normal((50, 30))
    free = gn.GaussNewton(net, X, device="cuda")
    assert free.memory_limit == pytest.approx(float(_arrays.device("cuda").free_memory), rel=0.5)
    with pytest.raises(MemoryError, match=r"needs at least [\d.]+ kB .* but memory_limit is"):
        gn.GaussNewton(net, X, device="cuda", memory_limit=10_000)
    V = block(np.random.default_rng(0), free.shape[0], 9, "float64")
    tight = gn.GaussNewton(net, X, device="cuda", memory_limit=200_000)
    agree((tight @ gpu.put(V)).get(), (free @ gpu.put(V)).get(), "float64")
    core = free.device._core
    few = types.SimpleNamespace(**{name: getattr(core, name) for name in dir(core) if not name.startswith("__")})
    few.memory_info = lambda: (200_000, 10**9)
    monkeypatch.setattr(free.device, "_core", few)
    small = gn.GaussNewton(net, X, device="cuda")
    with pytest.raises(MemoryError, match=r"with its backward rows needs [\d.]+ kB but cuda:0 has 200.0 kB free; pass"):
        small.gram()
    assert "more than memory_limit" in str(small.plan())


@pytest.mark.gpu
def test_precision_of_products_limits_what_is_claimed(gpu):
    G = problem((6, 30, 20, 3), 9, dtype="float32")
    narrow = gpu.dressed(gn.eigsh)(gpu.on(G), 1, return_info=True)[2]
    try:
        gn.set_float32_matmul_precision("high")
        wide = gpu.dressed(gn.eigsh)(gpu.on(G), 1, return_info=True)[2]
        double = G.net.with_parameters(array.astype(float) for array in G.net.parameters())
        exact = gn.eigsh(gn.GaussNewton(double, G.X.astype(float)), 1)[0]
        assert wide.intervals[0, 0] <= exact[0] <= wide.intervals[0, 1]
        assert np.ptp(wide.intervals) > 100 * np.ptp(narrow.intervals)
    finally:
        gn.set_float32_matmul_precision("highest")


# ------------------------------------------------------------------------------------------------ without a GPU
def test_what_is_missing_is_said_in_one_sentence(monkeypatch):
    """No module, no CuPy, no driver, no GPU."""
    net, X = network([5, 9, 3]), data(7, 5)
    present = types.SimpleNamespace(device_count=lambda: 0)
    real = importlib.import_module

    def arrangement(core, cupy):
        def find(name, *arguments):
            given = {"gnfast._core_cuda": core, "cupy": cupy}.get(name, "")
            if given is None:
                raise ImportError(f"No module named {name}", name=name)
            return given or real(name, *arguments)

        _arrays._cuda.cache_clear()
        monkeypatch.setattr(importlib, "import_module", find)

    def broken():
        raise RuntimeError("counting the devices: unknown error")

    failing = types.SimpleNamespace(device_count=broken)
    cases = [
        (None, None, ValueError, "device is 'cuda' but this build of gnfast has no CUDA; build it where nvcc is"),
        (present, None, ImportError, r"device='cuda' needs cupy; install it with: pip install '"),
        (present, types, RuntimeError, "device is 'cuda' but there is no GPU, or no NVIDIA driver; pass device='cpu'"),
        (failing, types, RuntimeError, r"device is 'cuda' but CUDA does not start \(counting the devices"),
    ]
    try:
        for core, cupy, kind, message in cases:
            arrangement(core, cupy)
            with pytest.raises(kind, match=message) as caught:
                gn.GaussNewton(net, X, device="cuda")
            assert "\n" not in str(caught.value)
    finally:
        monkeypatch.undo()
        _arrays._cuda.cache_clear()


def test_precision_names():
    assert gn.get_float32_matmul_precision() == "highest"
    with pytest.raises(ValueError, match="precision is 'tf32' but must be one of 'highest', 'high', 'medium'"):
        gn.set_float32_matmul_precision("tf32")


@pytest.mark.gpu
@pytest.mark.parametrize("init", ["gaussian", "orthogonal"])
def test_networks_without_weights_are_the_same_ones(gpu, init):
    X = data(5, 6)
    options = dict(activation="gelu", X=X, k=2, depth=3, skip=0.5, loss="cross_entropy", bias=True, init=init)
    there = gn.ensemble.NetworkLaw([30, 17], **options, device="cuda").draw(3, 1)
    here = gn.ensemble.NetworkLaw([30, 17], **options).draw(3, 1)
    # The draws agree but for their last digits in float32.
    np.testing.assert_allclose(there.gram, here.gram, rtol=0, atol=1e-5 * np.abs(here.gram).max())
    np.testing.assert_allclose(there.outputs, here.outputs, atol=1e-5)
