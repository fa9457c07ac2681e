"""How a study runs: one point at a time, each kept before the next begins."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnfast import bounds, datasets
from gnfast.bounds import Bound
from gnfast.bounds.linear import linear_forms
from gnfast.networks import Network, mlp
from gnfast.operators import GaussNewton
from gnfast.spectrum import cond
from gnfast.study.grid import Point
from gnfast.study.store import Outcome, Record, Store

# Those of Zhao, Singh & Lucchi (NeurIPS 2024); a residual network is a linear one here, with its effective weights.
PAPER = ("linear.convex", "relu.paper")


@lru_cache(maxsize=4)
def _inputs(data: str, samples: int | None, whiten: bool, dtype: str) -> tuple[NDArray[Any], float]:
    """Return X and the condition number of X^T X / n over its non-zero spectrum."""
    X = datasets.load(data, samples)
    if np.issubdtype(X.dtype, np.floating):
        X = X.astype(dtype)
    if whiten:
        X = datasets.whiten(X)
    s = np.linalg.svd(X, compute_uv=False)
    s = s[s > max(X.shape) * np.finfo(s.dtype).eps * s[0]]
    return X, float(s[0] / s[-1]) ** 2


def _bounds(net: Network, X: NDArray[Any], loss: str) -> list[Bound]:
    """Return the bounds that apply, of those worth their time.

    Not ``bounds.all``: for a linear network "joint" is never looser than the other forms, and the deep bound takes far
    longer than the condition number itself.
    """
    if loss == "mse" and net.is_linear:
        found = linear_forms(net, X, ("convex", "joint"))
    else:
        found = [bounds.deep(net, X, loss)] + [bounds.relu(net, X)] * (loss == "mse")
    return [bound for bound in found if bound.applies]


def compute(point: Point) -> Outcome:
    """Build the network of a point and find its condition number and bounds.

    Raises whatever the data, the network or the solver raises; ``run`` records it.
    """
    start = time.perf_counter()
    X, kappa_data = _inputs(point.data, point.samples, point.whiten, point.dtype)
    net = mlp(
        [X.shape[1], *[point.width] * (point.depth - 1), point.outputs],
        activation=point.activation,
        slope=point.slope,
        skip=point.beta,
        bias=point.bias,
        init=point.init,
        seed=point.seed,
        dtype=point.dtype,
    )
    found = cond(GaussNewton(net, X, loss=point.loss))
    limits = _bounds(net, X, point.loss)
    paper = next((bound for bound in limits if bound.name in PAPER), None)
    tightest = min(limits, key=lambda bound: bound.value, default=None)
    return Outcome(
        kappa=float(found.value),
        lower=float(found.lower),
        upper=float(found.upper),
        lambda_max=float(found.lambda_max),
        lambda_min=float(found.lambda_min),
        rank=int(found.rank),
        dimension=int(found.dimension),
        space=found.space,
        method=found.method,
        products=int(found.products),
        parameters=int(net.num_parameters),
        kappa_data=kappa_data,
        paper=paper.value if paper else np.inf,
        paper_name=paper.name if paper else "",
        tightest=tightest.value if tightest else np.inf,
        tightest_name=tightest.name if tightest else "",
        seconds=time.perf_counter() - start,
    )


def run(points: Iterable[Point], store: Store, compute: Callable[[Point], Outcome] = compute) -> Iterator[Record]:
    """Compute the points that have no outcome in the store yet, and yield each once it is kept there.

    A point that fails is kept with its error and the rest go on; the next run tries it again. An interruption loses
    the point being computed and no other.
    """
    points = list(points)
    done = {record.point for record in store.read(points) if record.outcome}
    for point in points:
        if point in done:
            continue
        try:
            record = Record(point, compute(point))
        except Exception as error:  # whatever one point raises must not cost the others
            record = Record(point, None, f"{type(error).__name__}: {error}")
        store.write(record)
        yield record
