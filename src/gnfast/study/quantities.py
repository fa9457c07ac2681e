"""What a study can find at a point: each quantity with its columns, and how it is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnfast import _checks, bounds, data_files, datasets, thresholds
from gnfast.bounds import Bound
from gnfast.bounds.linear import linear_forms
from gnfast.bounds.paths import after, before
from gnfast.estimators import trace
from gnfast.networks import Network
from gnfast.operators import GaussNewton
from gnfast.spectrum import cond
from gnfast.study.jobs import INTEGER, REAL, SERIES, TEXT, Value

# Those of Zhao, Singh & Lucchi (NeurIPS 2024); a residual network is a linear one here, with its effective weights.
PAPER_FORMS = ("linear.convex", "relu.paper")
LINEAR_FORMS = ("convex", "loose", "matrix", "joint")


@dataclass(frozen=True)
class Subject:
    """What quantities are measured of: a network on data."""

    net: Network
    X: NDArray[Any]
    loss: str
    kappa_data: float

    @cached_property
    def G(self) -> GaussNewton:
        """The Gauss-Newton matrix of the point."""
        return GaussNewton(self.net, self.X, loss=self.loss)


@dataclass(frozen=True)
class Quantity:
    """Columns with their types, and the function that finds them."""

    about: str
    columns: Mapping[str, str]
    measure: Callable[[Subject], dict[str, Value]]


def read(data: str, samples: int | None, dtype: str) -> NDArray[Any]:
    """Return the samples in a dtype, checked."""
    X = data_files.cast(datasets.load(data, samples), dtype, f"data {data!r}")
    X = _checks.array(X, f"data {data!r}", ("n", "d"))
    if not X.any():
        raise ValueError(f"data {data!r} are zero everywhere, with nothing to tell; pass samples that are not all zero")
    return X


@lru_cache(maxsize=4)
def inputs(data: str, samples: int | None, whiten: bool, dtype: str) -> tuple[NDArray[Any], float]:
    """Return X and the condition number of X^T X / n over its non-zero spectrum."""
    X = read(data, samples, dtype)
    if whiten:
        X = datasets.whiten(X)
    s = np.linalg.svd(X, compute_uv=False)
    s = s[s > thresholds.data_threshold(s[0], X.shape, s.dtype)]
    return X, float(s[0] / s[-1]) ** 2


def _condition(subject: Subject) -> dict[str, Value]:
    found = cond(subject.G)
    return {
        "kappa": float(found.value),
        "lower": float(found.lower),
        "upper": float(found.upper),
        "lambda_max": float(found.lambda_max),
        "lambda_min": float(found.lambda_min),
        "rank": int(found.rank),
        "dimension": int(found.dimension),
        "space": found.space,
        "method": found.method,
        "products": int(found.products),
        "parameters": int(subject.net.num_parameters),
    }


def _is_linear(subject: Subject) -> bool:
    return subject.loss == "mse" and subject.net.is_linear


def _bounds(subject: Subject) -> dict[str, Value]:
    """Not ``bounds.all``: for a linear network "joint" is never looser than the other forms, and the deep bound takes
    far longer than the condition number itself.
    """
    net, X = subject.net, subject.X
    if _is_linear(subject):
        found = linear_forms(net, X, ("convex", "joint"))
    else:
        found = [bounds.deep(net, X, subject.loss)] + [bounds.relu(net, X)] * (subject.loss == "mse")
    found = [bound for bound in found if bound.applies]
    paper = next((bound for bound in found if bound.name in PAPER_FORMS and has_papers_bound(net)), None)
    tightest = min(found, key=lambda bound: bound.value, default=None)
    return _named("paper", paper) | _named("tightest", tightest)


def has_papers_bound(net: Network) -> bool:
    """Whether a bound of the paper covers the network: no biases, skips over one layer, and linear with skips."""
    plain = net.is_feedforward_dense and all(layer.bias is None for layer in net.dense)
    return plain and (net.is_linear or not any(layer.skip for layer in net.dense))


def _named(column: str, bound: Bound | None) -> dict[str, Value]:
    return {column: bound.value if bound else np.inf, f"{column}_name": bound.name if bound else ""}


def _forms(subject: Subject) -> dict[str, Value]:
    values = dict.fromkeys((*LINEAR_FORMS, "relu", "deep"), np.inf)
    if _is_linear(subject):
        values |= {b.name.partition(".")[2]: b.value for b in linear_forms(subject.net, subject.X, LINEAR_FORMS)}
    else:
        values["deep"] = bounds.deep(subject.net, subject.X, subject.loss).value
        if subject.loss == "mse":
            values["relu"] = bounds.relu(subject.net, subject.X).value
    return dict(values)


def _partial_products(subject: Subject) -> dict[str, Value]:
    net = subject.net
    if not (net.is_linear and net.is_feedforward_dense):
        raise ValueError("partial products are of linear networks; leave 'partial_products' out of quantities")
    sides = {
        "after": after(net.layers, net.out_features)[:-1],
        "before": before(net.layers, np.eye(net.in_features), np.zeros(net.in_features))[1:],
    }
    found: dict[str, Value] = {"layer": list(range(1, net.depth))}
    for side, products in sides.items():
        spectra = [np.linalg.svd(product, compute_uv=False) for product in products]
        found[f"kappa_{side}"] = [float(s[0] / s[-1]) if s[-1] > 0 else np.inf for s in spectra]
        found[f"smallest_{side}"] = [float(s[-1]) for s in spectra]
    return found


def _eigenvalues(subject: Subject) -> dict[str, Value]:
    values = np.linalg.eigvalsh(subject.G.dual().to_dense())[::-1]
    return {"eigenvalue": [float(value) for value in values]}


def _trace(subject: Subject) -> dict[str, Value]:
    found = trace(subject.G)
    return {"trace": float(found.value), "trace_error": float(found.error)}


QUANTITIES: dict[str, Quantity] = {
    "condition": Quantity(
        "kappa(G) over the non-zero spectrum, its interval, its ends, the rank, and how it was found",
        dict.fromkeys(("kappa", "lower", "upper", "lambda_max", "lambda_min"), REAL)
        | {"rank": INTEGER, "dimension": INTEGER, "space": TEXT, "method": TEXT}
        | dict.fromkeys(("products", "parameters"), INTEGER),
        _condition,
    ),
    "bounds": Quantity(
        "the bound of Zhao, Singh & Lucchi and the tightest one, with their names; infinite where none applies",
        {"paper": REAL, "paper_name": TEXT, "tightest": REAL, "tightest_name": TEXT},
        _bounds,
    ),
    "data": Quantity(
        "kappa of X^T X / n, which kappa(G) of a linear network tends to as its width grows",
        {"kappa_data": REAL},
        lambda subject: {"kappa_data": subject.kappa_data},
    ),
    "forms": Quantity(
        "the bounds of a dense network on its data by themselves, infinite where one does not apply",
        dict.fromkeys((*LINEAR_FORMS, "relu", "deep"), REAL),
        _forms,
    ),
    "partial_products": Quantity(
        "kappa and smallest singular value of W_L...W_{l+1} (after) and W_l...W_1 (before) of linear networks",
        {"layer": SERIES}
        | {f"{what}_{side}": SERIES for side in ("after", "before") for what in ("kappa", "smallest")},
        _partial_products,
    ),
    "eigenvalues": Quantity(
        "the whole spectrum of the dual, largest first; the dual is stored", {"eigenvalue": SERIES}, _eigenvalues
    ),
    "trace": Quantity("the trace of G with its error", {"trace": REAL, "trace_error": REAL}, _trace),
}
DEFAULT = ("condition", "bounds", "data")
