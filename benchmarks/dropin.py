"""Products of other tools by their own engine and by ours: how many times faster is the changed import?

python benchmarks/dropin.py                      every case, some minutes
python benchmarks/dropin.py --only convolutional the cases whose kind contains this
python benchmarks/dropin.py --quick              tiny sizes, to see that it runs

A case makes two calls that do the same and the ratio that is aimed at; a tool adds its own to CASES. Both operators are
made, and the first product with each is, before the clock starts: what a product repeats is what is compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import harness
import jax_peers
import peers

LEAST = 0.9  # times their speed, anywhere
BLOCKS = (1, 16, 64)
Call = Callable[[], Any]


class Case(NamedTuple):
    """One row of the table."""

    tool: str
    kind: str
    what: str
    target: float  # times faster
    make: Callable[[], tuple[Call, Call, Callable[[], float]]]  # ours, theirs, and how far their results are apart


# ------------------------------------------------------------------------------------------------------- curvlinops
def curvlinops_cases(quick: bool) -> Iterator[Case]:
    """GGNLinearOperator times a block, as a list of tensors and as one tensor."""
    dense = [((784, 256, 10), (128,)), ((784, 512, 512, 10), (256,)), ((784, 1024, 1024, 10), (8,))]
    shapes = [((20, 16, 3), (6, 5))] if quick else [*dense, ((64, 1024, 10), (100, 100))]
    for widths, batches in shapes:
        for s in BLOCKS[:2] if quick else BLOCKS:
            name = f"{'-'.join(map(str, widths))}, n = {' + '.join(map(str, batches))}"
            yield from both(
                "dense", name, 3.0 if s >= 16 else LEAST, s, lambda w=widths: mlp(w), batches, widths[:1], widths[-1]
            )
    # The models of curvlinops' own documentation.
    yield from both("documented", "10-5-5-1, n = 4 + 4", LEAST, 1, lambda: mlp((10, 5, 5, 1)), (4, 4), (10,), 1)
    yield from both("documented", "convolutional, n = 16", LEAST, 1, small_convolutional, (16,), (3, 12, 12), 5)
    images = [("LeNet", lenet, (1, 28, 28), 64)]
    if not quick:
        images.append(("ResNet-20, width 8", lambda: peers.torch_resnet20(width=8), (3, 32, 32), 32))
    for name, build, shape, n in images:
        n = 3 if quick else n
        for s in BLOCKS[:1] if quick else BLOCKS[:2]:
            yield from both("convolutional", f"{name}, n = {n}", 1.5, s, build, (n,), shape, 10)


def both(kind: str, name: str, target: float, s: int, *problem: Any) -> Iterator[Case]:
    for form in ("list", "tensor"):
        what = f"{name}, s = {s}, {form}"
        yield Case("curvlinops", kind, what, target, lambda form=form: curvlinops_calls(form, s, *problem))


def curvlinops_calls(
    form: str, s: int, build: Callable[[], Any], batches: tuple[int, ...], shape: tuple[int, ...], k: int
) -> tuple[Call, Call, Callable[[], float]]:
    import curvlinops
    import torch

    from gnfast.interop.curvlinops import GGNLinearOperator

    torch.manual_seed(0)
    module = build()
    loss = torch.nn.CrossEntropyLoss() if k > 1 else torch.nn.MSELoss()
    targets = [torch.randint(0, k, (n,)) if k > 1 else torch.randn(n, 1) for n in batches]
    data = [(torch.randn(n, *shape), y) for n, y in zip(batches, targets, strict=True)]
    parameters = list(module.parameters())
    ours, theirs = (
        operator(module, loss, parameters, data, check_deterministic=False)
        for operator in (GGNLinearOperator, curvlinops.GGNLinearOperator)
    )
    # Vectors contiguous: the layout in which both are fastest.
    rows = torch.randn(s, ours.shape[1])
    parts = torch.split(rows, [parameter.numel() for parameter in parameters], dim=1)
    listed = [part.reshape(s, *p.shape).movedim(0, -1) for part, p in zip(parts, parameters, strict=True)]
    block: Any = listed if form == "list" else rows.T

    def error() -> float:
        flat = [
            torch.cat([part.reshape(-1) for part in (f if form == "list" else [f])])
            for f in (ours @ block, theirs @ block)
        ]
        return float((flat[0] - flat[1]).norm() / flat[1].norm())

    return lambda: ours @ block, lambda: theirs @ block, error


def mlp(widths: tuple[int, ...]) -> Any:
    from torch import nn

    layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def lenet() -> Any:
    from torch import nn

    body = [nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)]
    head = [nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)]
    return nn.Sequential(*body, nn.Flatten(), *head)


def small_convolutional() -> Any:
    from torch import nn

    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(100, 5))


# -------------------------------------------------------------------------------------------------------------- JAX
def jax_cases(quick: bool) -> Iterator[Case]:
    """Products of pytrees under jit and vmap against jvp and vjp compiled by XLA."""
    return (Case("JAX", *case) for case in jax_peers.cases(quick))


CASES: list[Callable[[bool], Iterator[Case]]] = [curvlinops_cases, jax_cases]


# ------------------------------------------------------------------------------------------------------------ table
def measure(case: Case, args: Any) -> dict[str, Any]:
    ours, theirs, error = case.make()
    apart = error()
    if not apart < 1e-4:  # float32 through some 20 layers
        raise SystemExit(f"{case.tool}, {case.what}: the two disagree by {apart:.1e}, so there is nothing to compare")
    timings = harness.alternate({"ours": ours, "theirs": theirs}, runs=args.runs, seconds=0.01 if args.quick else 0.3)
    seconds = {name: timing.median for name, timing in timings.items()}
    ratio = seconds["theirs"] / seconds["ours"]
    return {**case._asdict(), "make": None, "seconds": seconds, "ratio": ratio}


def table(rows: list[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        verdict = "" if row["ratio"] >= row["target"] else ("missed" if row["ratio"] >= LEAST else "slower")
        times = [harness.digits(1e3 * row["seconds"][name]) for name in ("ours", "theirs")]
        lines.append(
            [f"{row['tool']}, {row['kind']}: {row['what']}", *times, f"{row['ratio']:.2f}", row["target"], verdict]
        )
    text = (
        "Milliseconds a product, float32, medians of alternating runs: ours after the changed import, theirs before. "
        f"Anywhere at least {LEAST} times their speed is aimed at."
    )
    return f"{text}\n\n" + harness.table(["", "ours", "theirs", "times faster", "aim", ""], lines)


def main() -> None:
    args = harness.arguments(__doc__)
    rows = []
    for cases in CASES:
        for case in cases(args.quick):
            if args.only in f"{case.tool} {case.kind}":
                print(f"{case.tool}, {case.what} ...", flush=True)
                rows.append(measure(case, args))
    harness.publish("dropin", {"rows": rows}, table(rows), args)


if __name__ == "__main__":
    main()
