"""The losses: their names, what they ask of the outputs, their weights, and the rank of their Hessians.

F (k,) are the outputs for one sample and H (k, k) the Hessian in them, positive semi-definite and free of targets y;
`LOSSES` has their formulas. PyTorch's MSELoss has a factor 2 / k besides, "poisson" is its
PoissonNLLLoss(log_input=True, full=False). Any other loss is given by its Hessians, an array (n, k, k). Weights
multiply H_i, or, where H_i is diagonal, its entries.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np

from gnfast import _arrays, _checks
from gnfast._arrays import Array, Device
from gnfast.factors import block_factors


@dataclass(frozen=True)
class Loss:
    """How Hessians are made of the outputs F (n, k): H = diag(d) P diag(d), P the identity or I - d d^T.

    Attributes:
        name: As users write it.
        roots: From a namespace of arrays (numpy, torch, jax.numpy), F and where one of each row's largest F is, (n, k)
            each, to d (n, k). Roots, since factors of H are made of them, and reach twice as far before they underflow.
        log_largest: From F to the logarithm of the largest entry of each H, (n, 1), or of each of its diagonal, (n, k).
        couples: Whether P is I - d d^T, |d| = 1: H has entries off its diagonal, and the rank k - 1.
        exponential: Whether H is made of exp(F), and so rounded relatively as F is absolutely.
        saturated: What has happened where H vanishes.
        paired: Whether outputs belong together by two.
    """

    name: str
    roots: Callable[[Any, Any, Any], Any]
    log_largest: Callable[[Array], Array]
    couples: bool = False
    exponential: bool = True
    saturated: str = ""
    paired: bool = False

    def rank(self, outputs: int) -> int:
        """The rank of one sample's Hessian."""
        return outputs - self.couples


def _squares(xp: Any, F: Any, is_top: Any) -> Any:
    """1/2 |F - y|^2: H = I."""
    return xp.ones_like(F)


def _softmax(xp: Any, F: Any, is_top: Any) -> Any:
    """-log softmax(F)[y]: H = diag(p) - p p^T, d = sqrt(p)."""
    roots = xp.exp((F - xp.where(is_top, F, 0).sum(-1, keepdims=True)) / 2)
    return roots / (roots * roots).sum(-1, keepdims=True) ** 0.5


def _log_softmax(F: Array) -> Array:
    apart = np.sort(F - F.max(axis=1, keepdims=True), axis=1)[:, :-1]
    rest = apart[:, -1:] + np.log(np.exp(apart - apart[:, -1:]).sum(axis=1, keepdims=True))  # of (1 - p_t) / p_t
    found: Array = rest - 2 * np.log1p(np.exp(rest))
    return found


def _logistic(xp: Any, F: Any, is_top: Any) -> Any:
    """The sum over a of log(1 + exp(F_a)) - y_a F_a: H = diag(s (1 - s)), s the sigmoid of F."""
    decay = xp.exp(-xp.abs(F) / 2)
    return decay / (1 + decay * decay)


def _log_logistic(F: Array) -> Array:
    found: Array = -np.abs(F) - 2 * np.log1p(np.exp(-np.abs(F)))
    return found


def _rates(xp: Any, F: Any, is_top: Any) -> Any:
    """The sum over a of exp(F_a) - y_a F_a, F log-rates: H = diag(exp F)."""
    _refuse_overflow(xp, F, "the Hessian exp(F) of loss='poisson'", ", which are log-rates")
    return xp.exp(F / 2)


def _gaussian(xp: Any, F: Any, is_top: Any) -> Any:
    """The sum over pairs (mu, s) of (s + exp(-s) (y - mu)^2) / 2, of Gaussians of log-variance s.

    Its Hessian depends on y and need not be positive. H is its mean over the y that are distributed so, the Fisher
    information diag(exp(-s), 1/2).
    """
    s = F[..., 1::2]
    _refuse_overflow(xp, -s, "the Fisher information exp(-s) of loss='gaussian_nll'", " s, which are log-variances")
    return xp.stack([xp.exp(s / -2), xp.full_like(s, math.sqrt(0.5))], -1).reshape(F.shape)


def _log_gaussian(F: Array) -> Array:
    return np.stack([-F[:, 1::2], np.full_like(F[:, 1::2], math.log(0.5))], -1).reshape(F.shape)


def _refuse_overflow(xp: Any, logarithms: Any, what: str, where: str) -> None:
    """Raise in the core's words if exponentials overflow."""
    if not float(logarithms.max()) < math.log(float(xp.finfo(logarithms.dtype).max)):
        raise ValueError(f"{what} overflows at the network's outputs{where}; scale the network down")


def _none(*given: Any) -> Any:
    raise NotImplementedError("given Hessians have factors")


LossName: TypeAlias = Literal["mse", "cross_entropy", "binary_cross_entropy", "poisson", "gaussian_nll"]
# Each has its formula for the GPU and the CPU in the core, too.
LOSSES = {
    loss.name: loss
    for loss in (
        Loss("mse", _squares, np.zeros_like, exponential=False),
        Loss("cross_entropy", _softmax, _log_softmax, couples=True, saturated="the softmax is saturated"),
        Loss("binary_cross_entropy", _logistic, _log_logistic, saturated="the sigmoid is saturated"),
        Loss("poisson", _rates, np.asarray, saturated="the rates exp(F) vanish"),
        Loss("gaussian_nll", _gaussian, _log_gaussian, paired=True),
    )
}
BLOCKS = Loss("blocks", _none, np.zeros_like, couples=True, exponential=False)
# PyTorch's losses by class and function: our name, the factor of their Hessian in one output's, whether their mean is
# over all outputs of a sample, too, and what else differs.
_FOREIGN = {
    ("MSELoss", "mse_loss"): ("mse", 2, True, ""),
    ("CrossEntropyLoss", "cross_entropy"): ("cross_entropy", 1, False, ""),
    ("NLLLoss", "nll_loss"): ("cross_entropy", 1, False, " and a model without its log_softmax"),
    ("BCEWithLogitsLoss", "binary_cross_entropy_with_logits"): ("binary_cross_entropy", 1, True, ""),
    ("BCELoss", "binary_cross_entropy"): ("binary_cross_entropy", 1, True, " and a model without its sigmoid"),
    ("PoissonNLLLoss", "poisson_nll_loss"): ("poisson", 1, True, " for log_input=True"),
    ("GaussianNLLLoss", "gaussian_nll_loss"): (
        "gaussian_nll",
        2,
        True,
        " and a model of pairs of mean and log-variance",
    ),
}


def check_loss(loss: Any, outputs: int) -> str:
    """The name of a loss that makes sense for a network with so many outputs."""
    _refuse_function(loss)
    name = _checks.choice(loss, "loss", tuple(LOSSES))
    if LOSSES[name].rank(outputs) == 0:
        raise ValueError(
            "loss is 'cross_entropy' but the network has 1 output, whose softmax is always 1; "
            "use 'binary_cross_entropy' or a network with 2 or more outputs"
        )
    if LOSSES[name].paired and outputs % 2:
        raise ValueError(
            f"loss is {name!r} but the network has {_checks.counted(outputs, 'output')}; use a network with an even "
            "number of outputs, pairs of a mean and a log-variance"
        )
    return name


def _refuse_function(loss: Any, samples: int | str = "n", outputs: int | str = "k", dtype: str = "float64") -> None:
    """Raise for a loss that is a class, a function or a module, of PyTorch or another library, with its equivalent."""
    if not callable(loss):
        return
    kind = getattr(loss, "__name__", type(loss).__name__)
    found = next((ours for theirs, ours in _FOREIGN.items() if kind in theirs), None)
    cure = "its Hessians in the outputs, an array (n, k, k)"
    if found is not None:
        name, factor, over_outputs, besides = found
        total = getattr(loss, "reduction", "mean") == "sum"
        value = f"{factor} / {outputs}" if over_outputs and not total else str(factor)
        weighted = getattr(loss, "weight", None) is not None
        weights = "" if value == "1" else f" with weights=numpy.full({samples}, {value}, {dtype!r})"
        if weighted and name == "cross_entropy":
            weights = " with weights=w[y]" + ("" if total else " / w[y].sum()")
            total = True
        elif weighted or getattr(loss, "pos_weight", None) is not None:
            weights = " with its weights as weights (n, k)"
        cure = f"loss={name!r}" + (' and reduction="sum"' if total else "") + weights + besides
    what = "the class" if isinstance(loss, type) else "the function" if hasattr(loss, "__name__") else "a"
    raise TypeError(
        f"loss is {what} {kind} but must be one of {', '.join(map(repr, LOSSES))}, or Hessians; pass {cure}"
    )


@dataclass(frozen=True, eq=False)
class LossAt:
    """A loss at the samples of one problem, as `loss_at` checked it.

    Attributes:
        name: One of `LOSSES`, or "blocks".
        rank: The largest rank of an H_i.
        weights: (n,) or (n, k), or None for ones.
        blocks: The Hessians (n, k, k) as they were given, without the weights; None for a loss with a name.
        factors: R_i^T (n, rank, k) of the weighted blocks, float64; None for a loss with a name.
    """

    name: str
    rank: int
    weights: Array | None = None
    blocks: Array | None = None
    factors: Array | None = None

    @property
    def kind(self) -> Loss:
        """The loss itself."""
        return LOSSES[self.name] if self.factors is None else BLOCKS

    @property
    def is_scalar(self) -> bool:
        """Whether every H_i is a multiple of the identity: what the linear dual needs."""
        return self.name == "mse" and (self.weights is None or self.weights.ndim == 1)

    def share(self, samples: slice) -> LossAt:
        """The same loss at some of the samples, of the same rank."""
        parts = {name: getattr(self, name) for name in ("weights", "blocks", "factors")}
        return replace(self, **{name: part[samples] for name, part in parts.items() if part is not None})

    def for_core(self, scale: float, outputs: int, dtype: np.dtype[Any], device: Device) -> Array | None:
        """The core's argument beside the name: sqrt(scale) R_i^T (n rank, k), roots of weights (n, k) or None."""
        if self.factors is not None:
            return device.upload((math.sqrt(scale) * self.factors).astype(dtype).reshape(-1, outputs))
        if self.weights is None:
            return None
        return device.upload(np.broadcast_to(np.sqrt(_column(self.weights)), (len(self.weights), outputs)))


def loss_at(loss: Any, weights: Any, samples: int, outputs: int, dtype: np.dtype[Any]) -> LossAt:
    """The checked loss, a name or Hessians (n, k, k), with its weights (n,), (n, k) or None, kept as NumPy's.

    One that has been checked is taken as it is.
    """
    if isinstance(loss, LossAt):
        return loss
    loss, weights = _arrays.to_host(loss), _arrays.to_host(weights)
    _refuse_function(loss, samples, outputs, np.dtype(dtype).name)
    named = loss is None or isinstance(loss, str | numbers.Number)  # the latter two as mistakes of a name
    name = check_loss(loss, outputs) if named else "blocks"
    kind = LOSSES[name] if named else BLOCKS
    found = None if weights is None else _check_weights(weights, kind, samples, outputs, dtype)
    if named:
        return LossAt(name, kind.rank(outputs), found)
    _refuse_labels(loss, samples)
    blocks = _checks.array(loss, "loss", (samples, outputs, outputs), dtype, owner="the network at X")
    factors = block_factors(blocks, "loss", np.ones(samples) if found is None else found.astype(np.float64))
    if not factors.shape[1]:
        raise ValueError("loss is zero at all samples of positive weight, and so is the Gauss-Newton matrix")
    return LossAt("blocks", factors.shape[1], found, _arrays.read_only(blocks), factors)


def _refuse_labels(loss: Any, samples: int) -> None:
    """Raise for what has one label, or one row of targets, a sample, which no third argument takes here."""
    shape = np.shape(loss)
    if len(shape) in (1, 2) and shape[0] == samples:
        raise ValueError(
            f"loss has shape {shape}, as targets have, which the Gauss-Newton matrix does not depend on; pass "
            "loss='cross_entropy' for labels or loss='mse' for real values, and leave them out"
        )


def saturation(at: LossAt, outputs: Array, dtype: np.dtype[Any], exponent: int) -> str:
    """Why, where all Hessians at the outputs (n, k), host memory, underflow times 2^exponent; else nothing."""
    tops = at.kind.log_largest(outputs.astype(np.float64))
    if at.weights is not None:
        with np.errstate(divide="ignore"):
            tops = tops + np.log(_column(at.weights))
    top = float(tops.max())
    if top > math.log(_arrays.vanishing(dtype)) - exponent * math.log(2) or not at.kind.saturated:
        return ""
    cure = "use float64" if top > math.log(np.finfo(np.float64).tiny) else "scale the network's last layer down"
    return (
        f"{at.kind.saturated} at all {len(outputs)} samples, where the loss's Hessians are exp({top:.0f}) at most, "
        f"below what {dtype} holds; {cure}"
    )


def relative_rounding(at: LossAt, outputs: Callable[[], Array], dtype: np.dtype[Any]) -> float:
    """By how much of itself rounding of outputs (n, k), host memory, may move any eigenvalue of a Gauss-Newton matrix.

    Hessians made of exp(F) change relatively as F does absolutely, by some eps |F|, and with them every eigenvalue
    (Ostrowski). Measured in float32 for tanh and ReLU networks with |F| up to 70: 0.7 eps max |F| at most.
    """
    return 2 * _arrays.eps(dtype) * float(np.abs(outputs()).max()) if at.kind.exponential else 0.0


def _check_weights(weights: Any, kind: Loss, samples: int, outputs: int, dtype: np.dtype[Any]) -> Array:
    single = _arrays.as_array(weights, "weights").ndim == 1
    found = _checks.array(weights, "weights", (samples,) if single else (samples, outputs), dtype, "the network at X")
    if not single and kind.couples:
        raise ValueError(
            f"weights has shape {found.shape} but with loss {kind.name!r}, whose Hessian couples the outputs, "
            f"it must be ({samples},), one weight per sample"
        )
    if (found < 0).any():
        bad = np.argwhere(found < 0)[0].tolist()
        raise ValueError(f"weights{bad} is {found[tuple(bad)]:g} but must be at least 0")
    if not found.any():
        raise ValueError("weights is zero everywhere, and so is the Gauss-Newton matrix; pass a positive weight")
    return _arrays.read_only(found[:, 0] if outputs == 1 and not single else found)


def _column(weights: Array) -> Array:
    return weights[:, None] if weights.ndim == 1 else weights
