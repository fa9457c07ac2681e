"""How right are products and condition numbers of a trained softmax classifier, where it is sure of its samples?

python benchmarks/confident.py            seconds
python benchmarks/confident.py --quick    half of it, to see that it runs

scikit-learn's digits 0, 1 and 2 by their five principal features, softmax regression trained to 100 %; training on lets
its weights grow, which here are multiplied: the leads of the likeliest class over the next one are in the first column.
The Hessian diag(p) - p p^T of such a sample is about 1 - p_t small, and p_t rounds to 1. Others form G as its users do,
and are told its rank. The reference is the Hessian as the Laplacian of a graph, sum p_a p_b (e_a - e_b)(e_a - e_b)^T,
with roots of p_a p_b from log-probabilities, by singular values in float64: nothing cancels in it.
"""

from __future__ import annotations

import itertools
from typing import Any

import harness
import numpy as np
from scipy.special import log_softmax

import gnfast as gn

Array = np.ndarray[Any, Any]
GROWTH = (1.0, 2.0, 4.0, 8.0)


def trained(samples: int) -> tuple[Array, Array, Array]:
    """Weights (3, 5), biases and samples, in float64."""
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    images, digits = load_digits(n_class=3, return_X_y=True)
    centred = images - images.mean(axis=0)
    features = centred @ np.linalg.svd(centred, full_matrices=False)[2][:5].T
    X, y = features[:samples] / features.std(), digits[:samples]
    model = LogisticRegression(C=100, max_iter=1000).fit(X, y)
    if model.score(X, y) < 1:
        raise RuntimeError("the classifier was not trained to 100 %")
    return model.coef_, model.intercept_, X


def network(W: Array, b: Array, growth: float, dtype: str) -> gn.Network:
    return gn.Network([gn.Dense((growth * W).astype(dtype), (growth * b).astype(dtype))])


def module(net: gn.Network) -> Any:
    import torch

    made, layer = torch.nn.Linear(net.in_features, net.out_features), net.dense[0]
    made.weight.data, made.bias.data = torch.tensor(layer.weight), torch.tensor(layer.bias)
    return made


# ------------------------------------------------------------------------------------------------- the four ways
def reference(net: gn.Network, X: Array) -> tuple[Array, Array, Array]:
    """Eigenvalues of G, descending, the rows whose Gram G is, and the leads of the likeliest class."""
    F = net(X)
    logp = log_softmax(F, axis=1)
    t = F.argmax(axis=1)
    rest = np.exp(F - F.max(axis=1, keepdims=True))
    rest[np.arange(len(X)), t] = 0
    logp[np.arange(len(X)), t] = -np.log1p(rest.sum(axis=1))
    J = (gn.GaussNewton(net, X).jacobian() @ np.eye(net.num_parameters, order="F")).reshape(*F.shape, -1)
    pairs = itertools.combinations(range(F.shape[1]), 2)
    rows = [np.exp((logp[:, a] + logp[:, b]) / 2)[:, None] * (J[:, a] - J[:, b]) for a, b in pairs]
    edges = np.concatenate(rows) / np.sqrt(len(X))
    ordered = np.sort(F, axis=1)
    return np.linalg.svd(edges, compute_uv=False) ** 2, edges, ordered[:, -1] - ordered[:, -2]


def ours(net: gn.Network, X: Array, rank: int) -> tuple[float, Array]:
    G = gn.GaussNewton(net, X, "cross_entropy")
    found = gn.cond(G)
    return found.value if found.rank == rank else np.nan, G.to_dense()


def of_matrix(G: Array, rank: int) -> tuple[float, Array]:
    values = np.linalg.eigvalsh(G)[::-1]
    return float(values[0] / values[rank - 1]) if values[rank - 1] > 0 else np.nan, G


def by_curvlinops(net: gn.Network, X: Array, rank: int) -> tuple[float, Array]:
    import torch
    from curvlinops import GGNLinearOperator

    model = module(net)
    batch = (torch.tensor(X), torch.zeros(len(X), dtype=torch.long))
    operator = GGNLinearOperator(
        model, torch.nn.CrossEntropyLoss(), list(model.parameters()), [batch], check_deterministic=False
    )
    return of_matrix((operator @ torch.eye(net.num_parameters, dtype=batch[0].dtype)).numpy(), rank)


def by_torch_func(net: gn.Network, X: Array, rank: int) -> tuple[float, Array]:
    """J of each sample, diag(p) - p p^T, J^T H J."""
    import torch

    model, inputs = module(net), torch.tensor(X)
    values = {name: parameter.detach() for name, parameter in model.named_parameters()}
    jacobians = torch.func.jacrev(lambda parameters: torch.func.functional_call(model, parameters, (inputs,)))(values)
    J = torch.cat([part.flatten(2) for part in jacobians.values()], dim=2)
    p = torch.softmax(model(inputs).detach(), dim=1)
    H = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    return of_matrix((torch.einsum("nap,nab,nbq->pq", J, H, J) / len(X)).numpy(), rank)


WAYS = {"gnfast": ours, "curvlinops, eigvalsh": by_curvlinops, "torch.func, eigvalsh": by_torch_func}


def measure(growth: float, W: Array, b: Array, X: Array) -> list[dict[str, Any]]:
    found = []
    for dtype in ("float64", "float32"):
        net = network(W, b, growth, dtype)
        given = np.ascontiguousarray(X, dtype)
        double = net.with_parameters([array.astype(np.float64) for array in net.parameters()])
        values, edges, leads = reference(double, given.astype(np.float64))
        rank = 2 * (X.shape[1] + 1)  # of three classes' weights and biases, two are free
        v = np.random.default_rng(0).standard_normal(net.num_parameters)
        image = edges.T @ (edges @ v)
        row: dict[str, Any] = {"leads": [float(leads.min()), float(leads.max())], "dtype": dtype}
        row["exact"] = float(values[0] / values[rank - 1])
        for name, way in WAYS.items():
            kappa, G = way(net, given, rank)
            product = np.linalg.norm(G.astype(float) @ v - image) / np.linalg.norm(image)
            row[name] = {"kappa": kappa, "product": float(product)}
        found.append(row)
    return found


def table(rows: list[dict[str, Any]]) -> str:
    header = ["leads", "dtype", "exact kappa"]
    header += [f"{name}: {what}" for name in WAYS for what in ("kappa", "product off by")]
    lines = []
    for row in rows:
        line = [f"{row['leads'][0]:.1f} to {row['leads'][1]:.1f}", row["dtype"], f"{row['exact']:.6g}"]
        for name in WAYS:
            kappa = row[name]["kappa"]
            line += ["none" if np.isnan(kappa) else f"{kappa:.6g}", f"{row[name]['product']:.0e}"]
        lines.append(line)
    return harness.table(header, lines)


def main() -> None:
    args = harness.arguments(__doc__)
    W, b, X = trained(60)
    rows = [row for growth in (GROWTH[:2] if args.quick else GROWTH) for row in measure(growth, W, b, X)]
    harness.publish("confident", {"rows": rows}, table(rows), args)


if __name__ == "__main__":
    main()
