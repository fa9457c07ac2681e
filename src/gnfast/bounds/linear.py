"""Bounds for linear networks of any depth and width: `linear`, and `joint_from_factors` for a dual already at hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from gnfast import _checks
from gnfast.bounds import brackets
from gnfast.bounds.bound import Bound, FloatArray, Parts, product, quotient, silent
from gnfast.bounds.brackets import Apply, inner_values, largest_end, smallest_end
from gnfast.bounds.inputs import as_data, nonlinearity
from gnfast.bounds.partial_products import PartialProducts, has_bias, input_range, partial_products
from gnfast.bounds.paths import dense_layers, effective
from gnfast.bounds.single_layers import first_layer, from_single_layers
from gnfast.bounds.spectra import Ends, eigen_ends, scaled_ends, singular_ends
from gnfast.networks import Network

STATEMENTS = {
    "equality": "kappa(G) <= kappa(Sigma) kappa(Ghat) for F = W V x, where kappa(Ghat) = "
    "(s_max^2(W) + s_max^2(V)) / (s_min^2(W) + s_min^2(V))",
    "convex": "kappa(G) <= kappa(Sigma) sum_l g_l kappa^2(W_L...W_{l+1}) kappa^2(W_{l-1}...W_1), sum_l g_l = 1",
    "loose": "kappa(G) <= kappa(Sigma) max_l kappa^2(W_L...W_{l+1}) kappa^2(W_{l-1}...W_1)",
    "layers": "kappa(G) <= kappa(Sigma) sum_l prod_{j != l} s_max^2(W_j) / sum_l prod_{j != l} s_min^2(W_j)",
    "matrix": "kappa(G) <= kappa(Sigma) lambda_max(sum_l s_max^2(W_L...W_{l+1}) Q_l) / "
    "lambda_min(sum_l s_min^2(W_L...W_{l+1}) Q_l), either end also with the roles of P and Q exchanged",
    "joint": "kappa(G) <= lambda_max(sum_l s_max^2(W_L...W_{l+1}) S Q_l S) / "
    "lambda_min(sum_l s_min^2(W_L...W_{l+1}) S Q_l S), either end also with the roles of P and S Q S exchanged",
}
FORMS = tuple(STATEMENTS)
GRAM_FORMS = tuple(form for form in FORMS if form != "layers")  # those that P_l, Q_l and the widths are enough for


def linear(net: Network, X: npt.ArrayLike, form: str = "joint") -> Bound:
    """An upper bound on kappa(G) for a linear network of any depth and widths and the squared error.

    G has the non-zero spectrum of sum_l P_l (x) S Q_l S, where P_l = (W_L...W_{l+1}) (W_L...W_{l+1})^T,
    Q_l = (W_{l-1}...W_1)^T (W_{l-1}...W_1), S^2 = Sigma = X^T X / n, and the W_l are effective weights, skips included.
    All forms but "joint" are kappa(Sigma) times a bound on kappa(Ghat), Ghat = sum_l P_l (x) Q_l. Where Sigma is
    singular, both are restricted to its range. With biases the input is (x, 1), and so is the input of every layer that
    has one.

    Args:
        net: Dense layers without activations, or with identities.
        X: Data (n, d), of the network's dtype; the bound is computed in float64.
        form: "joint": bounds kappa(G) itself, and is kappa(G) for one hidden layer; never looser than the others.
            "matrix": two r x r and two k x k eigenproblems, r the rank of Sigma; never looser than "convex".
            "convex": a convex combination of products of squared condition numbers.
            "loose": the largest of these products.
            "layers": from the singular values of the single layers, O(m^3) flops each; very loose.
            "equality": kappa(Ghat) itself, for one hidden layer.

    Returns:
        A Bound; its value is inf, with the reason, where the form does not apply or its lower end is zero. Parts:
        "kappa_sigma", "kappa_ghat" (its bound), "rank" of Sigma, "rank_cut" (singular values of X below it, relative to
        the largest, count as zero), "left_max", "left_min", "right_max", "right_min" (squared singular values of
        W_L...W_{l+1} and W_{l-1}...W_1), "u" and "v" (products of the largest and of the smallest ones), "gammas"
        (v_l / sum v), "lambda_max_upper" and "lambda_min_lower".

    Raises:
        ValueError: An unknown form, or data that do not fit the network.
        TypeError: Data of another dtype than the network's.

    Reference: Zhao, Singh & Lucchi (NeurIPS 2024); the matrix and joint forms go beyond it.

    Examples:
        >>> import numpy as np
        >>> import gnfast as gn
        >>> X = np.random.default_rng(0).standard_normal((100, 8))
        >>> net = gn.mlp([8, 64, 64, 4], activation="identity", seed=0)
        >>> gn.bounds.linear(net, X, "convex").value >= gn.bounds.linear(net, X, "joint").value
        True
    """
    return linear_forms(net, X, (_checks.choice(form, "form", FORMS),))[0]


def linear_forms(net: Network, X: npt.ArrayLike, forms: Sequence[str], family: str = "linear") -> list[Bound]:
    """Several forms from one computation of the partial products; their names are family.form."""
    data = as_data(net, X)
    reason = nonlinearity(net)
    if not reason:
        inputs = input_range(data, has_bias(dense_layers(net.layers)))
        reason = "" if inputs.rank else "X is zero, and so is G"
    if reason:
        return [silent(f"{family}.{form}", STATEMENTS[form], reason) for form in forms]
    partial = partial_products(net, inputs)
    return [
        _layers(f"{family}.{form}", net, partial) if form == "layers" else gram_form(partial, form, family)
        for form in forms
    ]


def gram_form(partial: PartialProducts, form: str, family: str = "linear") -> Bound:
    """One of `GRAM_FORMS` from the Grams of partial products, wherever these come from."""
    return _FORMS[form](f"{family}.{form}", partial)


def joint_from_factors(P: npt.NDArray[np.floating], R: npt.NDArray[np.floating]) -> Bound:
    """The joint bound from the factors of sum_l P_l (x) R_l, which has the non-zero spectrum of G.

    With a_l and b_l the smallest and largest eigenvalue of P_l, the spectrum lies between lambda_min(sum_l a_l R_l) and
    lambda_max(sum_l b_l R_l), and likewise with P and R exchanged: each end is the tighter of the two.

    Args:
        P: (L, k, k), symmetric positive semi-definite. The dtype says how far small eigenvalues are resolved.
        R: (L, r, r), symmetric positive semi-definite, on the range of Sigma.

    Returns:
        The Bound "linear.joint", with the parts "lambda_max_upper" and "lambda_min_lower".
    """
    eps = float(np.finfo(np.result_type(P, R)).eps)
    P64, R64 = np.asarray(P, np.float64), np.asarray(R, np.float64)
    if len(R64[0]) < brackets.SIZE:
        left, right = [eigen_ends(p, eps=eps) for p in P64], [eigen_ends(r, eps=eps) for r in R64]
        ends = _sum_ends(P64, R64, left, right, lambda M: eigen_ends(M, eps=eps))
    else:
        ends = Ends(_largest_of_sum(P64, R64, eps), _smallest_of_sum(P64, R64, eps))
    return _joint_bound("linear.joint", ends, {})


def _largest_of_sum(P: FloatArray, R: FloatArray, eps: float) -> float:
    """The upper end of `_sum_ends` where the R_l are large: their own ends only if these could make it tighter."""
    by_left, vector = largest_end(np.tensordot([eigen_ends(p, eps=eps).largest for p in P], R, 1), eps)
    if vector is not None:
        below = [inner_values(r, vector, r.__matmul__)[-1] for r in R]
        if np.linalg.eigvalsh(np.tensordot(below, P, 1))[-1] >= by_left:
            return by_left
    by_right = np.tensordot([largest_end(r, eps).value for r in R], P, 1)
    return min(by_left, eigen_ends(by_right, eps=eps).largest)


def _smallest_of_sum(P: FloatArray, R: FloatArray, eps: float) -> float:
    """The lower end likewise; steps towards the low end of an R_l go through the inverse of the sum."""
    (by_left, vector), solve = smallest_end(np.tensordot([eigen_ends(p, eps=eps).smallest for p in P], R, 1), eps)
    if vector is not None and solve is not None:
        above = [inner_values(r, vector, partial(_through, solve, r))[0] for r in R]
        if np.linalg.eigvalsh(np.tensordot(above, P, 1))[0] <= by_left:
            return by_left
    by_right = np.tensordot([smallest_end(r, eps)[0].value for r in R], P, 1)
    return max(by_left, eigen_ends(by_right, eps=eps).smallest)


def _sum_ends(
    P: FloatArray, R: FloatArray, left: Sequence[Ends], right: Sequence[Ends], ends_of_sum: Callable[[FloatArray], Ends]
) -> Ends:
    """Ends of the spectrum of sum_l P_l (x) R_l from those of P_l and R_l, one factor replaced by its ends.

    a I <= P_l <= b I gives a I (x) R_l <= P_l (x) R_l <= b I (x) R_l, and sum_l c_l I (x) R_l has the spectrum of
    sum_l c_l R_l.
    """
    largest, smallest = np.array(left).T
    by_left = ends_of_sum(np.tensordot(largest, R, 1)).largest, ends_of_sum(np.tensordot(smallest, R, 1)).smallest
    largest, smallest = np.array(right).T
    by_right = eigen_ends(np.tensordot(largest, P, 1)).largest, eigen_ends(np.tensordot(smallest, P, 1)).smallest
    return Ends(min(by_left[0], by_right[0]), max(by_left[1], by_right[1]))


def _through(solve: Apply, r: FloatArray, v: FloatArray) -> FloatArray:
    return solve(r @ v)


def _joint_bound(name: str, ends: Ends, parts: Parts, reason: str = "") -> Bound:
    parts = parts | {"lambda_max_upper": ends.largest, "lambda_min_lower": ends.smallest}
    return quotient(name, STATEMENTS["joint"], *ends, parts, reason)


def _joint(name: str, c: PartialProducts) -> Bound:
    scale = c.inputs.scale
    right = [scaled_ends(q, scale, c.terms) for q in c.Q]
    ends = _sum_ends(c.P, c.Q, c.left, right, lambda M: scaled_ends(M, scale, c.terms))
    return _joint_bound(name, ends, _parts(c), c.narrowness)


def _matrix(name: str, c: PartialProducts) -> Bound:
    ghat = _sum_ends(c.P, c.Q, c.left, c.right, lambda M: eigen_ends(M, c.terms))
    return product(name, STATEMENTS["matrix"], c.inputs.ends, ghat, _parts(c), c.narrowness)


def _convex(name: str, c: PartialProducts, form: str = "convex") -> Bound:
    u, v = _extreme_products(c)
    ghat = float(u.sum()), float(v.sum())
    return product(name, STATEMENTS[form], c.inputs.ends, ghat, _parts(c), c.narrowness)


def _equality(name: str, c: PartialProducts) -> Bound:
    reason, depth = _blocks(c), len(c.P)
    if not reason and depth != 2:
        reason = f"this form is for two dense layers and the network has {depth}; use another form"
    elif not reason and c.inputs.ones and not c.biased[0]:
        reason = "layer 2 has a bias and layer 1 has none, so that kappa(Ghat) has no closed form; use another form"
    if reason:
        return silent(name, STATEMENTS["equality"], reason, _parts(c))
    return _convex(name, c, "equality")  # with P_2 = I and Q_1 = I Weyl's inequality is an equality


def _loose(name: str, c: PartialProducts) -> Bound:
    k, r = c.outputs, c.inputs.rank - c.inputs.ones
    hidden = c.hidden or []
    narrow = next((j for j, m in enumerate(hidden, 1) if m < max(k, r)), None)
    reason = ""
    if narrow is not None:
        short = f"{k} outputs" if k >= r else f"rank {r} of the inputs"
        reason = f"layer {narrow} has {hidden[narrow - 1]} units, fewer than the {short}; use another form"
    # A layer without any effect, u = 0, adds nothing to either end.
    ratios = [a / b if b > 0 else np.inf for a, b in zip(*_extreme_products(c), strict=True) if a > 0]
    upper, lower = c.inputs.ends
    kappa_ghat = float(max(ratios, default=np.inf))
    return quotient(
        name, STATEMENTS["loose"], upper * kappa_ghat, lower, _parts(c) | {"kappa_ghat": kappa_ghat}, reason
    )


def _layers(name: str, net: Network, c: PartialProducts) -> Bound:
    if reason := _blocks(c):
        return silent(name, STATEMENTS["layers"], reason, _parts(c))
    singles = [singular_ends(effective(layer)) for layer in net.dense[1:]]
    first = first_layer(net, c.inputs)
    return from_single_layers(name, STATEMENTS["layers"], net, c.inputs, first, singles, _parts(c))


def _blocks(c: PartialProducts) -> str:
    """Why a form that reads one layer after the other does not apply; empty if it does."""
    return "" if c.hidden is not None else "the network has residual blocks or factors; use another form"


def _extreme_products(c: PartialProducts) -> tuple[FloatArray, FloatArray]:
    """u_l and v_l: largest and smallest eigenvalues of P_l (x) Q_l."""
    left, right = np.array(c.left), np.array(c.right)
    return left[:, 0] * right[:, 0], left[:, 1] * right[:, 1]


def _parts(c: PartialProducts) -> Parts:
    left, right = np.array(c.left), np.array(c.right)
    u, v = _extreme_products(c)
    largest, smallest = c.inputs.ends
    return {
        "kappa_sigma": largest / smallest if smallest > 0 else np.inf,
        "rank": c.inputs.rank,
        "rank_cut": c.inputs.cut,
        "left_max": left[:, 0],
        "left_min": left[:, 1],
        "right_max": right[:, 0],
        "right_min": right[:, 1],
        "u": u,
        "v": v,
        "gammas": v / v.sum() if v.any() else v,
    }


_FORMS: dict[str, Callable[[str, PartialProducts], Bound]] = {
    "equality": _equality,
    "convex": _convex,
    "loose": _loose,
    "matrix": _matrix,
    "joint": _joint,
}
