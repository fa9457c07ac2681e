"""What does certainty cost: the same calls with and without the checks that make an answer right or refused.

python benchmarks/certainty.py            some minutes
python benchmarks/certainty.py --quick    tiny sizes, to see that it runs

Three checks: the product that confirms the residuals of `eigsh` and the look for missed eigenvalues; the comparison of
a PyTorch model with plain reverse mode at first use; the comparison of what was kept from a PyTorch model with the
model as it is now, before each use. Sizes are those of the tables of solvers.py, condition.py and dropin.py.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import harness
import numpy as np
import solvers
import torch

import gnfast as gn
from gnfast.spectrum import methods


@contextlib.contextmanager
def unconfirmed() -> Iterator[None]:
    """`eigsh` as the search of the core leaves it."""
    with mock.patch.object(methods, "complete", lambda task, run: run(task)):
        yield


def stored(size: int, decay: str) -> Callable[[bool], object]:
    K = solvers.with_decay(solvers.DECAYS[decay](np.arange(1.0, size + 1)))
    return eigenvalues(lambda: K, k=min(20, size // 8), tol=1e-8)


def network(n: int, m: int) -> Callable[[bool], object]:
    X = np.random.default_rng(0).standard_normal((n, 784), dtype=np.float32)
    net = gn.mlp((784, m, m, 10), activation="relu", seed=0, dtype="float32")
    return eigenvalues(lambda: gn.GaussNewton(net, X), k=10, tol=1e-4)


def eigenvalues(operator: Callable[[], Any], **options: Any) -> Callable[[bool], object]:
    def call(check: bool) -> object:
        with contextlib.nullcontext() if check else unconfirmed():
            return gn.eigsh(operator(), **options, return_eigenvectors=False)

    return call


def module(*widths: int) -> torch.nn.Module:
    torch.manual_seed(0)
    pairs = itertools.pairwise(widths)
    layers = [layer for d, m in pairs for layer in (torch.nn.Linear(d, m), torch.nn.ReLU())]
    return torch.nn.Sequential(*layers[:-1])


def read(n: int, *widths: int, condition: bool) -> Callable[[bool], object]:
    """A model that `from_torch` reads, read anew each time."""
    model, X = module(*widths), np.random.default_rng(0).standard_normal((n, widths[0])).astype(np.float32)

    def call(check: bool) -> object:
        G = gn.GaussNewton(gn.from_torch(model, check=check), X)
        return gn.cond(G) if condition else gn.eigsh(G, 10, return_eigenvectors=False)

    return call


def autograd(n: int, *widths: int, condition: bool) -> Callable[[bool], object]:
    """The same model by PyTorch's autograd."""
    model, X = module(*widths), torch.randn(n, widths[0], generator=torch.Generator().manual_seed(0))

    def call(check: bool) -> object:
        G = gn.interop.torch.GaussNewton(model, X=X, check=check)
        return gn.cond(G) if condition else gn.eigsh(G, 10, return_eigenvectors=False)

    return call


def watched(n: int, *widths: int) -> Callable[[bool], object]:
    """One product from Python, with the comparison of all values and with operators of the same arrays without it."""
    model, X = module(*widths), np.random.default_rng(0).standard_normal((n, widths[0])).astype(np.float32)
    net = gn.from_torch(model)
    G, plain = gn.GaussNewton(net, X), gn.GaussNewton(net.with_parameters([p.copy() for p in net.parameters()]), X)
    v = np.random.default_rng(1).standard_normal(G.shape[0]).astype(np.float32)
    return lambda check: (G if check else plain) @ v


def contenders(quick: bool) -> dict[str, Callable[[bool], object]]:
    sizes, samples, m = ((900,), (16, 90), 32) if quick else ((2_500, 5_000, 10_000), (64, 256, 1_000), 1_024)
    found = {f"eigsh, stored, N = {N}, {decay}": stored(N, decay) for decay in solvers.DECAYS for N in sizes}
    found |= {f"eigsh, n = {n}, 784-{m}-{m}-10": network(n, m) for n in samples}
    n, shape = samples[1], (784, m // 2, m // 2, 10)
    name = f"n = {n}, {'-'.join(map(str, shape))}"
    for text, condition in (("eigsh", False), ("cond", True)):
        found[f"{text}, from_torch, {name}"] = read(n, *shape, condition=condition)
        found[f"{text}, autograd, {name}"] = autograd(min(n, 64), *shape, condition=condition)
    found[f"one product, from_torch, {name}"] = watched(n, *shape)
    return found


def main() -> None:
    args = harness.arguments(__doc__)
    rows = []
    for name, call in contenders(args.quick).items():
        if args.only not in name:
            continue
        print(f"{name} ...", flush=True)
        by_check = {"with": lambda call=call: call(True), "without": lambda call=call: call(False)}
        timings = harness.alternate(by_check, runs=args.runs, seconds=0.01 if args.quick else 0.2)
        with_, without = timings["with"].median, timings["without"].median
        rows.append({"call": name, "with": with_, "without": without, "cost": with_ / without - 1})
    lines = [
        [row["call"], *(harness.digits(row[key]) for key in ("with", "without")), f"{row['cost']:+.1%}"] for row in rows
    ]
    body = harness.table(["float32 networks, stored float64", "with checks, s", "without, s", "cost"], lines)
    harness.publish("certainty", {"rows": rows}, body, args)


if __name__ == "__main__":
    main()
