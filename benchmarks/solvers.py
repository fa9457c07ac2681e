"""Eigenvalues at the top: gnfast against SciPy's ARPACK, on a stored dual and over curvlinops' operator.

python benchmarks/solvers.py            both questions, some minutes; 2 GB for the stored dual
python benchmarks/solvers.py --quick    tiny sizes, to see that it runs

Questions: how much faster are the 20 largest eigenvalues of a stored dual, to 1e-8, than with scipy.sparse.linalg.eigsh
on the same array; how much faster the 10 largest of the Gauss-Newton matrix of a ReLU network, to 1e-4, than with eigsh
over curvlinops' operator; and how do the vectors multiplied, which is what the algorithms cost, grow with the problem?
Both sides return eigenvalues only, both are checked against one another, and what either prepares is on its clock.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import harness
import numpy as np
import peers
import scipy.sparse.linalg

import gnfast as gn

PARTS = ("stored", "network")
STORED = {"size": (2_500, 5_000, 10_000), "k": 20, "tol": 1e-8}
NETWORK = {"n": (64, 256, 1000), "m": 1024, "k": 10, "tol": 1e-4}
QUICK_STORED = {"size": (150, 900), "k": 5, "tol": 1e-8}
QUICK_NETWORK = {"n": (16, 90), "m": 64, "k": 5, "tol": 1e-4}
DECAYS = {"i^-1.5": lambda i: i**-1.5, "0.98^i": lambda i: 0.98**i}


# ---------------------------------------------------------------------------------------------------- a stored dual
def with_decay(values: np.ndarray) -> np.ndarray:
    """A full symmetric matrix with these eigenvalues: three reflections of the diagonal one, O(N^2) each."""
    rng = np.random.default_rng(0)
    K = np.diag(values)
    for _ in range(3):
        v = rng.standard_normal(len(K))
        v /= np.linalg.norm(v)
        w = K @ v
        u = 2 * (w - (v @ w) * v)
        for rows in (slice(i, i + 512) for i in range(0, len(K), 512)):
            K[rows] -= np.outer(v[rows], u)
            K[rows] -= np.outer(u[rows], v)
    for i in range(0, len(K), 512):
        corner = K[i : i + 512, i : i + 512]
        corner[:] = (corner + corner.T) / 2
        K[i : i + 512, i + 512 :] = K[i + 512 :, i : i + 512].T
    return K


def stored(size: int, decay: str, k: int, tol: float, args: Any) -> dict[str, Any]:
    values = DECAYS[decay](np.arange(1.0, size + 1))
    K, exact = with_decay(values), np.sort(values)[-k:]
    found: dict[str, Any] = {}

    def ours() -> None:
        found["gnfast"] = gn.eigsh(K, k, tol=tol, return_eigenvectors=False, return_info=True)

    def theirs() -> None:
        found["scipy"] = scipy.sparse.linalg.eigsh(K, k, which="LA", tol=tol, return_eigenvectors=False)

    seconds = timed({"gnfast": ours, "scipy": theirs}, args)
    ours_found, info = found["gnfast"]
    count = peers.CountedProducts(K)
    scipy.sparse.linalg.eigsh(count.operator, k, which="LA", tol=tol, return_eigenvectors=False)
    compare("gnfast", ours_found, exact, 10 * tol)
    compare("scipy", np.sort(found["scipy"]), exact, 10 * tol)
    return {
        "problem": f"N = {size}, {decay}",
        "vectors": {"gnfast": info.products, "scipy": count.vectors},
        "passes": {"gnfast": info.passes, "scipy": count.vectors},
        "seconds": seconds,
        "ratio": seconds["scipy"] / seconds["gnfast"],
        "method": info.method,
        "residual": float(info.residuals.max()),
    }


# -------------------------------------------------------------------------------------------------------- a network
def network(n: int, m: int, k: int, tol: float, args: Any) -> dict[str, Any]:
    widths = (784, m, m, 10)
    X = np.random.default_rng(0).standard_normal((n, widths[0]), dtype=np.float32)
    net = gn.mlp(widths, activation="relu", seed=0, dtype="float32")
    found: dict[str, Any] = {}

    def ours() -> None:
        # The operator is made anew: its forward pass, backward rows and Gram factors are all on the clock.
        G = gn.GaussNewton(net, X)
        found["gnfast"] = gn.eigsh(G, k, tol=tol, return_eigenvectors=False, return_info=True)

    contenders: dict[str, Callable[[], None]] = {"gnfast": ours}
    if importlib.util.find_spec("curvlinops") is None:
        print("curvlinops is not installed: left out")
    else:
        ggn, scale = peers.curvlinops_ggn(peers.torch_network(net.parameters()), X)
        operator = ggn.to_scipy()
        count = peers.CountedProducts(operator)
        start = np.random.default_rng(1).standard_normal(operator.shape[0]).astype(np.float32)

        def theirs() -> None:
            count.vectors = 0
            found["curvlinops"] = scale * np.sort(
                scipy.sparse.linalg.eigsh(count.operator, k, which="LA", tol=tol, v0=start, return_eigenvectors=False)
            )

        contenders["curvlinops"] = theirs
    seconds = timed(contenders, args)
    values, info = found["gnfast"]
    row: dict[str, Any] = {
        "problem": f"n = {n}, {'-'.join(map(str, widths))}",
        "space": info.space,
        "method": info.method,
        "vectors": {"gnfast": info.products},
        "passes": {"gnfast": info.passes},
        "seconds": seconds,
        "residual": float(info.residuals.max()),
    }
    if "curvlinops" in found:
        compare("curvlinops", values, found["curvlinops"], 10 * tol)
        row["vectors"]["curvlinops"] = row["passes"]["curvlinops"] = count.vectors
        row["ratio"] = seconds["curvlinops"] / seconds["gnfast"]
    return row


# ------------------------------------------------------------------------------------------------------------ parts
def timed(contenders: dict[str, Callable[[], None]], args: Any) -> dict[str, float]:
    timings = harness.alternate(contenders, runs=args.runs, seconds=0.01)
    return {name: timing.median for name, timing in timings.items()}


def compare(name: str, found: np.ndarray, expected: np.ndarray, tol: float) -> None:
    error = float(np.abs(found / expected - 1).max())
    if not error <= tol:
        raise SystemExit(f"{name}: eigenvalues are off by {error:.1e}, more than {tol:.0e}: nothing to compare")


def lines(rows: list[dict[str, Any]], peer: str) -> str:
    header = ["", "method", "gnfast, s", f"{peer}, s", "times faster", "vectors", f"of {peer}", "passes", f"of {peer}"]
    table = []
    for row in rows:
        theirs = [row[what].get(peer, "") for what in ("vectors", "passes")]
        line = [row["problem"], " in ".join(filter(None, (row["method"], row.get("space"))))]
        line += [f"**{harness.digits(row['seconds']['gnfast'])}**"]
        line += [harness.digits(row["seconds"][peer]) if peer in row["seconds"] else ""]
        line += [f"{row['ratio']:.1f}" if "ratio" in row else "", row["vectors"]["gnfast"], theirs[0]]
        table.append([*line, row["passes"]["gnfast"], theirs[1]])
    return harness.table(header, table)


def main() -> None:
    args = harness.arguments(__doc__)
    for part in PARTS:
        if args.only not in part:
            continue
        rows = []
        if part == "stored":
            options = QUICK_STORED if args.quick else STORED
            for decay in DECAYS:
                for size in options["size"]:
                    print(f"stored: {size}, {decay} ...", flush=True)
                    rows.append(stored(size, decay, options["k"], options["tol"], args))
            text = (
                f"The {options['k']} largest eigenvalues of a stored dual, float64, to {options['tol']:.0e}, its "
                "eigenvalues falling as stated: seconds, vectors multiplied, and passes over the matrix. "
                "`scipy.sparse.linalg.eigsh` has the same array; ours counts the check that it is symmetric."
            )
            body = f"{text}\n\n{lines(rows, 'scipy')}"
        else:
            options = QUICK_NETWORK if args.quick else NETWORK
            for n in options["n"]:
                print(f"network: n = {n} ...", flush=True)
                rows.append(network(n, options["m"], options["k"], options["tol"], args))
            text = (
                f"The {options['k']} largest eigenvalues of the Gauss-Newton matrix, float32, to {options['tol']:.0e}, "
                "random data: `gn.eigsh(G)` with everything that it prepares, against SciPy's `eigsh` over curvlinops' "
                "`GGNLinearOperator`."
            )
            body = f"{text}\n\n{lines(rows, 'curvlinops')}"
        harness.publish_part("solvers", PARTS, part, rows, body, args)


if __name__ == "__main__":
    main()
