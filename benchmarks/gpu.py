"""On a GPU: block products against the same GPU's matrix products, torch.func and curvlinops; Gram matrices; kappa.

python benchmarks/gpu.py                          an H100 or H200, about three minutes; `gpu_check.sh` runs it and more
python benchmarks/gpu.py --quick                  tiny sizes, to see that it runs; nothing is written
python benchmarks/gpu.py --quick --emulated PATH  the same on the emulated GPU of the tests; its figures mean nothing

Questions: does a product reach 80 % of the rate at which cuBLAS makes the same matrix products, in each precision, and
is it 3 times faster than the others; does forming K reach 70 % of cuBLAS' SYRK, without a second matrix; does kappa of
a linear network take less than 0.2 s; how far are products and eigenvalues off in each precision?
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import itertools
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import gpu_report
import harness
import numpy as np
import peers

import gnfast as gn

PRECISIONS = ("highest", "high", "medium")


class Sizes(NamedTuple):
    widths: tuple[int, ...]  # of the ReLU network, whose products are made
    n: int
    s: int
    gram_widths: tuple[int, ...]
    gram_n: int
    linear_widths: tuple[int, ...]
    linear_n: int
    error_widths: tuple[int, ...]
    error_n: int
    channels: int  # of the first stage of a ResNet-20
    pixels: int
    images: int
    images_s: int
    law_widths: tuple[int, ...]  # of networks without weights
    law_n: int


FULL = Sizes(
    widths=(784, 8192, 8192, 10),
    n=1024,
    s=32,
    gram_widths=(784, 8192, 8192, 8),
    gram_n=2048,
    linear_widths=(784, 8192, 8192, 10),
    linear_n=8192,
    error_widths=(784, 2048, 10),
    error_n=256,
    channels=16,
    pixels=32,
    images=256,
    images_s=16,
    law_widths=(10**6, 10**7, 10**8),
    law_n=100,
)
QUICK = Sizes(
    widths=(20, 64, 64, 10),
    n=16,
    s=4,
    gram_widths=(20, 64, 64, 8),
    gram_n=16,
    linear_widths=(12, 32, 3),
    linear_n=40,
    error_widths=(20, 64, 10),
    error_n=16,
    channels=2,
    pixels=4,
    images=2,
    images_s=1,
    law_widths=(64, 256),
    law_n=7,
)


# ------------------------------------------------------------------------------------------------------------ the GPU
def gpu_of(args: Any) -> Any:
    """CuPy, or on request the tests' stand-in for it on the emulated GPU."""
    if args.emulated:
        sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "emulation"))
        importlib.import_module("cupy_stand_in").install(Path(args.emulated))
    return importlib.import_module("cupy")


def torch_of(args: Any) -> Any:
    """PyTorch on the same GPU, or None."""
    if args.emulated or importlib.util.find_spec("torch") is None:
        return None
    torch = importlib.import_module("torch")
    return torch if torch.cuda.is_available() else None


class Bench(NamedTuple):
    args: Any
    sizes: Sizes
    cupy: Any
    torch: Any

    def wait(self) -> None:
        if not self.args.emulated:
            self.cupy.cuda.Device().synchronize()

    def room(self, call: Callable[[], object]) -> int | None:
        """Bytes that CuPy's pool takes from the GPU for a call: its peak, for the pool keeps what is free again."""
        if self.args.emulated:
            call()
            return None
        pool = self.cupy.get_default_memory_pool()
        pool.free_all_blocks()
        before = pool.total_bytes()
        call()
        self.wait()
        return int(pool.total_bytes() - before)

    def seconds(self, contenders: dict[str, Callable[[], object]]) -> dict[str, float]:
        """Medians of alternating runs, each call to its end."""

        def whole(call: Callable[[], object]) -> None:
            call()
            self.wait()

        timed = {name: functools.partial(whole, call) for name, call in contenders.items()}
        timings = harness.alternate(timed, runs=self.args.runs, seconds=0.0 if self.args.quick else 0.1, pause=0.0)
        return {name: timing.median for name, timing in timings.items()}

    def normal(self, rows: int, columns: int, dtype: str = "float32") -> Any:
        """Random rows on the GPU, made by its own part of the core."""
        home = gn._arrays.device("cuda")
        out = home.empty((rows, columns), np.dtype(dtype))
        home.core.fill_normal(out, 0, 0, 1.0)
        return out


def error(found: Any, exact: Any) -> float:
    """Relative, in the norm of all entries."""
    found, exact = found.astype(np.float64), exact.astype(np.float64)
    return float(np.linalg.norm((found - exact).reshape(-1)) / np.linalg.norm(exact.reshape(-1)))


# ----------------------------------------------------------------------------------------------------------- products
def products(bench: Bench) -> dict[str, Any]:
    sizes, rows = bench.sizes, []
    X = bench.normal(sizes.n, sizes.widths[0])
    net = gn.mlp(sizes.widths, "relu", dtype="float32")
    block = bench.normal(sizes.s, net.num_parameters).T
    operators = {way: gn.GaussNewton(net, X, device="cuda", method=way) for way in ("auto", "usual", "factored")}
    out = bench.cupy.empty(block.shape, np.float32, order="F")
    for precision in PRECISIONS[:2]:
        gn.set_float32_matmul_precision(precision)
        contenders: dict[str, Callable[[], object]] = {
            way: lambda way=way: operators[way].matmat(block, out=out) for way in operators
        }
        plan = operators["auto"].plan(sizes.s)
        multiplications, flops = same_products(bench, plan.method, precision)
        failed: dict[str, str] = {}
        if multiplications is not None:
            contenders["cuBLAS"] = multiplications
            module = peers.torch_network(net.parameters()).cuda()
            contenders |= others(bench, module, X, block, operators["auto"].matmat(block), failed)
        seconds = bench.seconds(contenders)
        row = {"precision": precision, "chosen": plan.method, "seconds": seconds, "left_out": failed}
        row["teraflops"] = plan.flops * sizes.s / seconds["auto"] / 1e12
        if "cuBLAS" in seconds:
            row["cublas_teraflops"] = flops / seconds["cuBLAS"] / 1e12
            row["share"] = row["teraflops"] / row["cublas_teraflops"]
        rows.append(row)
    gn.set_float32_matmul_precision("highest")
    shape = f"ReLU {'-'.join(map(str, sizes.widths))}, n = {sizes.n}, s = {sizes.s}"
    return {"shape": shape, "rows": rows}


def same_products(bench: Bench, method: str, precision: str) -> tuple[Callable[[], object] | None, float]:
    """The matrix products of one block product with G by that method, each as one call of cuBLAS, and their flops.

    Of each layer A dW^T for all vectors at once and U^T A likewise; of the usual product also dA W^T and U W, but for
    the first layer.
    """
    torch, sizes = bench.torch, bench.sizes
    if torch is None:
        return None, 0.0
    torch.set_float32_matmul_precision(precision)
    n, s, shapes = sizes.n, sizes.s, []
    for layer, (into, out) in enumerate(itertools.pairwise(sizes.widths)):
        shapes += [(n, into, s * out), (s * out, n, into)]
        shapes += [(s * n, into, out), (s * n, out, into)] if layer and method == "usual" else []
    pairs = [(torch.randn(a, b, device="cuda"), torch.randn(b, c, device="cuda")) for a, b, c in shapes]
    outs = [torch.empty(a, c, device="cuda") for a, _, c in shapes]

    def call() -> None:
        for (a, b), c in zip(pairs, outs, strict=True):
            torch.matmul(a, b, out=c)

    return call, sum(2.0 * a * b * c for a, b, c in shapes)


def others(
    bench: Bench, module: Any, X: Any, block: Any, ours: Any, failed: dict[str, str]
) -> dict[str, Callable[[], object]]:
    """torch.func, compiled and not, and curvlinops on the same numbers, each compared with ours first."""
    torch, found = bench.torch, {}
    parts, flat = [], torch.from_dlpack(block.T)
    for parameter in module.parameters():
        parts.append(flat[:, : parameter.numel()].reshape(-1, *parameter.shape))
        flat = flat[:, parameter.numel() :]
    inputs = torch.from_dlpack(X)
    outputs = module(inputs).shape[1]
    builders = {
        "torch.func": (lambda: peers.torch_func_of(module, inputs, parts), 0, 1.0),
        "torch.func, compiled": (lambda: peers.torch_func_of(module, inputs, parts, compiled=True), 0, 1.0),
        "curvlinops": (lambda: peers.curvlinops_of(module, inputs, parts), -1, outputs / 2),
    }
    exact = torch.from_dlpack(ours.T)
    for name, (build, axis, scale) in builders.items():
        try:
            call = build()
            theirs = torch.cat([part.detach().movedim(axis, 0).reshape(len(exact), -1) for part in call()], 1) * scale
            off = float(torch.linalg.norm(theirs - exact) / torch.linalg.norm(exact))
            if not off < 1e-2:  # TF32 on both sides
                raise SystemExit(f"gnfast and {name} disagree by {off:.1e}: these products are not the same")
            found[name] = call
        except (ImportError, RuntimeError, NotImplementedError) as error:
            failed[name] = f"{type(error).__name__}: {error}".splitlines()[0]
    return found


def images(bench: Bench) -> dict[str, Any]:
    """Products with a ResNet-20: "highest" reads the images of its first two stages, "high" makes all patches."""
    sizes, rows = bench.sizes, []
    X = bench.normal(sizes.images, 3 * sizes.pixels**2).reshape(sizes.images, 3, sizes.pixels, sizes.pixels)
    net, module = gn.resnet20(width=sizes.channels), None
    if bench.torch is not None:
        module = peers.torch_resnet20(width=sizes.channels)
        net = gn.from_torch(module)
        module = module.cuda()
    G = gn.GaussNewton(net, X, device="cuda")
    block = bench.normal(sizes.images_s, net.num_parameters).T
    out = bench.cupy.empty(block.shape, np.float32, order="F")
    for precision in PRECISIONS[:2]:
        gn.set_float32_matmul_precision(precision)
        contenders: dict[str, Callable[[], object]] = {"gnfast": lambda: G.matmat(block, out=out)}
        failed: dict[str, str] = {}
        if bench.torch is not None:
            bench.torch.set_float32_matmul_precision(precision)
            bench.torch.backends.cudnn.allow_tf32 = precision != "highest"
            contenders |= others(bench, module, X, block, G.matmat(block), failed)
        rows.append({"precision": precision, "seconds": bench.seconds(contenders), "left_out": failed})
    gn.set_float32_matmul_precision("highest")
    shape = f"ResNet-20 of {sizes.channels} channels, {sizes.images} images, s = {sizes.images_s}"
    return {"shape": shape, "rows": rows}


# --------------------------------------------------------------------------------------------------------------- Gram
def gram(bench: Bench) -> dict[str, Any]:
    sizes, rows = bench.sizes, []
    X = bench.normal(sizes.gram_n, sizes.gram_widths[0])
    net = gn.mlp(sizes.gram_widths, "relu", dtype="float32")
    N, widths = sizes.gram_n * sizes.gram_widths[-1], sizes.gram_widths
    K = bench.cupy.empty((N, N), np.float32)
    for precision in PRECISIONS[:2]:
        gn.set_float32_matmul_precision(precision)
        contenders: dict[str, Callable[[], object]] = {
            "form": lambda: gn.GaussNewton(net, X, device="cuda").gram().form(K)
        }
        if bench.torch is not None:
            contenders["SYRK"] = syrk(bench, N, widths[1], precision)
        seconds = bench.seconds(contenders)
        # lower triangles of both Grams of each layer, and the backward rows, as gram.py counts them
        flops = sizes.gram_n**2 * sum(widths[:-1]) + float(N) ** 2 * sum(widths[1:-1])
        flops += 2.0 * N * sum(a * b for a, b in itertools.pairwise(widths[1:-1]))
        row = {"precision": precision, "N": N, "seconds": seconds, "teraflops": flops / seconds["form"] / 1e12}
        if "SYRK" in seconds:
            row["syrk_teraflops"] = float(N) ** 2 * widths[1] / seconds["SYRK"] / 1e12
            row["share"] = row["teraflops"] / row["syrk_teraflops"]
        room = bench.room(lambda: gn.GaussNewton(net, X, device="cuda").gram().form(K))
        rows.append(row | {"matrices": None if room is None else room / K.nbytes})  # kept backward rows included
    gn.set_float32_matmul_precision("highest")
    return {"shape": f"ReLU {'-'.join(map(str, widths))}, n = {sizes.gram_n}", "rows": rows}


def syrk(bench: Bench, N: int, width: int, precision: str) -> Callable[[], object]:
    """One triangle of a factor's product with itself: cuBLAS' own in float32; in TF32, which that has not, as many
    flops of a whole product."""
    A = bench.normal(N, width)
    if precision == "highest":
        return lambda: bench.cupy.cublas.syrk("N", A, lower=True)
    factor = bench.torch.from_dlpack(A)
    half = factor[: N // 2]
    bench.torch.set_float32_matmul_precision(precision)
    return lambda: bench.torch.matmul(half, factor.T)


# -------------------------------------------------------------------------------------------------------------- kappa
def kappa(bench: Bench) -> dict[str, Any]:
    sizes = bench.sizes
    rows = []
    for dtype in ("float32", "float64"):
        X = bench.normal(sizes.linear_n, sizes.linear_widths[0], dtype)
        net = gn.mlp(sizes.linear_widths, "identity", dtype=dtype)
        found = gn.cond(gn.GaussNewton(net, X, device="cuda"))
        spent = bench.seconds({"kappa": lambda net=net, X=X: gn.cond(gn.GaussNewton(net, X, device="cuda"))})
        rows.append({"dtype": dtype, "kappa": found.value, "seconds": spent["kappa"], "method": found.method})
    return {"shape": f"linear {'-'.join(map(str, sizes.linear_widths))}, n = {sizes.linear_n}", "rows": rows}


# -------------------------------------------------------------------------------------------------------------- width
def width(bench: Bench) -> dict[str, Any]:
    """One sample of kappa in law, and the memory that it takes."""
    sizes, rows = bench.sizes, []
    X = np.random.default_rng(0).standard_normal((sizes.law_n, 2 * sizes.law_n))

    def sample(m: int) -> Any:
        return gn.ensemble.network(m, activation="leaky_relu", X=X, k=1, depth=3, samples=1, device="cuda")

    sample(sizes.law_widths[0])
    for m in sizes.law_widths:
        timed: list[tuple[Any, float]] = []
        room = bench.room(lambda m=m, timed=timed: timed.append(harness.stopwatch(lambda: sample(m))))
        [(law, seconds)] = timed
        rows.append({"m": m, "kappa": float(law.kappa[0]), "seconds": seconds, "bytes": room})
    return {"shape": f"leaky ReLU, n = {sizes.law_n}, k = 1, depth 3", "rows": rows}


# ------------------------------------------------------------------------------------------------------------- errors
def errors(bench: Bench) -> dict[str, Any]:
    """Of products, K and its largest eigenvalue, against float64 on the same GPU."""
    sizes, rows = bench.sizes, []
    X = bench.normal(sizes.error_n, sizes.error_widths[0])
    net = gn.mlp(sizes.error_widths, "relu", dtype="float32")
    wide = net.with_parameters(array.astype(np.float64) for array in net.parameters())
    V = bench.normal(8, net.num_parameters).T
    exact = gn.GaussNewton(wide, X.astype(np.float64), device="cuda")
    top = gn.eigsh(exact, 1, return_eigenvectors=False)[0]
    for precision in PRECISIONS:
        gn.set_float32_matmul_precision(precision)
        G = gn.GaussNewton(net, X, device="cuda")
        row = {"precision": precision, "products": error(G @ V, exact @ V.astype(np.float64))}
        row["gram"] = error(G.gram().to_dense(), exact.gram().to_dense())
        row["largest eigenvalue"] = abs(gn.eigsh(G, 1, return_eigenvectors=False)[0] - top) / top
        rows.append(row)
    gn.set_float32_matmul_precision("highest")
    return {"shape": f"ReLU {'-'.join(map(str, sizes.error_widths))}, n = {sizes.error_n}", "rows": rows}


def describe_gpu(bench: Bench) -> dict[str, Any]:
    core = gn._arrays.device("cuda").core.build_info()
    if bench.args.emulated:
        return {"name": "emulated", "core": {key: str(value) for key, value in core.items()}}
    runtime = bench.cupy.cuda.runtime
    properties = runtime.getDeviceProperties(0)
    return {
        "name": properties["name"].decode(),
        "memory_gib": round(properties["totalGlobalMem"] / 2**30, 1),
        "driver": runtime.driverGetVersion(),
        "runtime": runtime.runtimeGetVersion(),
        "cupy": bench.cupy.__version__,
        "torch": bench.torch.__version__ if bench.torch else "absent",
        "core": {key: str(value) for key, value in core.items()},
    }


def main() -> None:
    args = harness.arguments(__doc__, extra={"--emulated": "the tests' emulated GPU: the module or its folder"})
    if args.emulated and not args.quick:
        raise SystemExit("--emulated goes with --quick: times of an emulated GPU mean nothing")
    bench = Bench(args, QUICK if args.quick else FULL, gpu_of(args), torch_of(args))
    found: dict[str, Any] = {}
    for part in (products, images, gram, kappa, width, errors):
        if args.only in part.__name__:
            print(part.__name__, "...", flush=True)
            start = time.perf_counter()
            found[part.__name__] = part(bench)
            found[part.__name__]["took"] = time.perf_counter() - start
    gpu = describe_gpu(bench)
    versions = ", ".join(f"{key} {value}" for key, value in gpu.items() if key not in ("name", "core"))
    body = f"{gpu_report.tables(found)}\n\nOn {gpu['name']}: {versions}."
    if not args.only and not args.quick:
        print("\n".join(["", *gpu_report.verdicts(found)]))
    harness.publish("gpu", {"gpu": gpu, **found}, body, args)
    out = os.environ.get("OUT")
    if out and not args.quick and not args.only:
        (Path(out) / "gpu.md").write_text("\n".join([body, "", *gpu_report.verdicts(found), ""]))
        shutil.copy(Path(__file__).parent / "results" / "gpu.json", out)


if __name__ == "__main__":
    main()
