"""Spectral densities with 10 probes and 100 Lanczos steps: gnfast against curvlinops and matfree, on one network.

python benchmarks/density.py            two sizes, ten minutes or so: curvlinops multiplies vector by vector
python benchmarks/density.py --quick    tiny sizes, to see that it runs

Questions: how much faster is a density than what users run today; how much of that comes from the smaller space, and
how much from probes that advance together? So the same quadrature is also run in parameters, and in sample space probe
by probe from Python.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import harness
import numpy as np
import peers
import scipy.linalg

import gnfast as gn
from gnfast.spectrum.quadrature import measure


class Problem(NamedTuple):
    n: int
    widths: tuple[int, ...]
    probes: int = 10
    steps: int = 100

    def __str__(self) -> str:
        return f"n = {self.n}, {'-'.join(map(str, self.widths))}, {self.probes} probes, {self.steps} steps"


PROBLEMS = [Problem(256, (784, 1024, 1024, 10)), Problem(1000, (784, 256, 256, 10))]
QUICK = [Problem(16, (20, 64, 64, 3), 3, 12)]
NAMES = {
    "gnfast": "gnfast",
    "parameters": "gnfast, in parameters",
    "single": "probe by probe, in sample space",
    "curvlinops": "curvlinops",
    "matfree": "matfree",
}


def single_probe(operator: Any, steps: int, seed: int) -> float:
    """One probe's quadrature by vectors of NumPy, reorthogonalised: its largest node."""
    size = operator.shape[0]
    basis = np.zeros((steps, size), operator.dtype)
    alphas, betas = np.zeros(steps), np.zeros(steps)
    v = np.random.default_rng(seed).standard_normal(size).astype(operator.dtype)
    basis[0] = v / np.linalg.norm(v)
    for j in range(steps):
        w = operator @ basis[j]
        alphas[j] = basis[j] @ w
        for _ in range(2):  # once is not enough in float32
            w -= basis[: j + 1].T @ (basis[: j + 1] @ w)
        betas[j] = np.linalg.norm(w)
        if j + 1 < steps:
            basis[j + 1] = w / betas[j]
    return float(scipy.linalg.eigh_tridiagonal(alphas, betas[:-1])[0][-1])


def curvlinops_probe(weights: list[np.ndarray], X: np.ndarray, steps: int) -> Callable[[], float]:
    """One probe's density with curvlinops' own Lanczos iteration; the interval that it asks for is not charged."""
    from curvlinops.papyan2020traces.spectrum import fast_lanczos, lanczos_approximate_spectrum_from_iter

    operator, scale = peers.curvlinops_ggn(peers.torch_network(weights), X)

    def call() -> float:
        nodes, vectors = fast_lanczos(operator, steps)
        ends = (float(nodes.min()), float(nodes.max()))
        lanczos_approximate_spectrum_from_iter((nodes, vectors), ends, 400, 3.0, 0.05)
        return ends[1] * scale

    return call


def matfree_probe(weights: list[np.ndarray], X: np.ndarray, steps: int) -> Callable[[], float]:
    """One probe's tridiagonalisation with matfree, the product linearised once by JAX."""
    import jax
    from jax.flatten_util import ravel_pytree
    from matfree import decomp

    parameters = [jax.numpy.asarray(weight) for weight in weights]

    def outputs(values: list[Any]) -> Any:
        z = jax.numpy.asarray(X)
        for weight in values[:-1]:
            z = jax.nn.relu(z @ weight.T)
        return z @ values[-1].T

    flat, unflatten = ravel_pytree(parameters)

    _, forward = jax.linearize(outputs, parameters)
    _, backward = jax.vjp(outputs, parameters)

    def product(v: Any) -> Any:
        return ravel_pytree(backward(forward(unflatten(v)))[0])[0] / len(X)

    tridiagonalize = decomp.tridiag_sym(steps, reortho="none", materialize=True)
    decompose = jax.jit(lambda v: tridiagonalize(product, v).J_small)
    start = np.random.default_rng(0).standard_normal(flat.size).astype(X.dtype)
    start /= np.linalg.norm(start)
    return lambda: float(np.linalg.eigvalsh(np.asarray(decompose(start)))[-1])


def solve(problem: Problem, args: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((problem.n, problem.widths[0]), dtype=np.float32)
    net = gn.mlp(problem.widths, activation="relu", seed=0, dtype="float32")
    weights = list(net.parameters())
    probes, steps = problem.probes, problem.steps
    owner = gn.GaussNewton(net, X)

    def dual() -> float:
        # A new operator: forward pass, backward rows and the dual itself are made anew and charged.
        return float(gn.density(gn.GaussNewton(net, X), probes=probes, steps=steps).nodes.max())

    def in_parameters() -> float:
        return float(measure(owner, probes, steps, 0, None, None).nodes.max())

    def one_by_one() -> float:
        gram = gn.GaussNewton(net, X).gram()
        gram.to_dense()
        return max(single_probe(gram, steps, seed) for seed in range(probes))

    contenders: dict[str, Callable[[], float]] = {"gnfast": dual, "parameters": in_parameters, "single": one_by_one}
    charged = dict.fromkeys(contenders, 1)
    for name, build in (("curvlinops", curvlinops_probe), ("matfree", matfree_probe)):
        if importlib.util.find_spec(name) is None:
            print(f"{name} is not installed: left out")
            continue
        # These go through their probes one after another: one is timed, all are charged.
        contenders[name], charged[name] = build(weights, X, steps), probes
    tops = {name: call() for name, call in contenders.items()}
    for name, top in tops.items():
        # Largest nodes: converged long before the steps are over, to float32's rounding or the gap that steps leave.
        if not abs(top - tops["gnfast"]) < 2e-2 * tops["gnfast"]:
            raise SystemExit(f"{NAMES[name]} finds {top:.6g} and gnfast {tops['gnfast']:.6g}: not the same operator")
    timings = harness.alternate(contenders, runs=args.runs, warmup=0, seconds=0.0)
    seconds = {name: charged[name] * timing.median for name, timing in timings.items()}
    return {
        "problem": str(problem),
        "dimension": owner.dual().shape[0],
        "parameters": owner.shape[0],
        "seconds": seconds,
        "ratio": {name: value / seconds["gnfast"] for name, value in seconds.items()},
        "runs": {name: timing.runs for name, timing in timings.items()},
    }


def tables(rows: list[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        for name, value in row["seconds"].items():
            ratio = "" if name == "gnfast" else f"{row['ratio'][name]:.1f}"
            size = row["parameters"] if name in ("parameters", "curvlinops", "matfree") else row["dimension"]
            lines.append([row["problem"], NAMES[name], f"{size:,}", harness.digits(value), ratio])
    text = (
        "Seconds for a spectral density, float32, medians of alternating runs; gnfast's include the forward pass and "
        "forming the dual. curvlinops and matfree multiply vector by vector: one probe is timed and charged for all."
    )
    return f"{text}\n\n{harness.table(['density', 'by', 'length of a vector', 'seconds', 'times gnfast'], lines)}"


def main() -> None:
    args = harness.arguments(__doc__)
    rows = []
    for problem in QUICK if args.quick else PROBLEMS:
        if args.only in str(problem):
            print(f"{problem} ...", flush=True)
            rows.append(solve(problem, args))
    harness.publish("density", {"rows": rows}, tables(rows), args)


if __name__ == "__main__":
    main()
