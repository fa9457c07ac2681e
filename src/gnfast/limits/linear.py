"""Linear networks of finite width in closed form: Ghat = sum_l P_l (x) Q_l of random Gaussian weights."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from gnfast import _checks
from gnfast.limits.covariance import FloatArray


@dataclass(frozen=True)
class MarchenkoPastur:
    """The ends of the spectra of a linear network with one hidden layer, F = W V x.

    Attributes:
        first: (smallest, largest) eigenvalue of V^T V, (d, d).
        last: (smallest, largest) eigenvalue of W W^T, (k, k).
        kappa: The condition number of Ghat = W W^T (x) I + I (x) V^T V, the sum of the largest over that of the
            smallest; inf if that is 0.
    """

    first: tuple[float, float]
    last: tuple[float, float]

    @property
    def kappa(self) -> float:
        """The upper edge over the lower one; infinite where the lower one is 0."""
        lower = self.first[0] + self.last[0]
        return (self.first[1] + self.last[1]) / lower if lower > 0 else math.inf


def marchenko_pastur(m: int, d: int, k: int, *, variances: float | Sequence[float] = 1.0) -> MarchenkoPastur:
    """The condition number of Ghat for one hidden layer of m linear units, as d, k and m grow in proportion.

    V (m, d) and W (k, m) are Gaussian of variances c_1 / d and c_2 / m. The eigenvalues of V^T V fill the interval
    c_1 (sqrt(m / d) +- 1)^2 and those of W W^T the interval c_2 (1 +- sqrt(k / m))^2. kappa(G) is at most kappa(Sigma)
    times this, and tends to kappa(Sigma).

    Args:
        m, d, k: Units, inputs, outputs. Edges of finite matrices lie inside of these by terms of order d^(-2/3),
            k^(-2/3): the formula is for many inputs, and for k = 1, say, an upper estimate.
        variances: c_1 and c_2, one number for both or one each.

    References: Marchenko & Pastur (1967); Zhao, Singh & Lucchi (NeurIPS 2024) for kappa(Ghat).
    """
    m, d, k = _checks.integer(m, "m"), _checks.integer(d, "d"), _checks.integer(k, "k")
    c = _variances(variances, 2)
    first, last = ((_edge(m / d, -1, m < d), _edge(m / d, 1)), (_edge(k / m, -1, m < k), _edge(k / m, 1)))
    return MarchenkoPastur((c[0] * first[0], c[0] * first[1]), (c[1] * last[0], c[1] * last[1]))


def _edge(ratio: float, sign: int, singular: bool = False) -> float:
    return 0.0 if singular else (1 + sign * math.sqrt(ratio)) ** 2


@dataclass(frozen=True)
class LinearMoments:
    """Moments of Ghat in closed form, at any widths; made by `linear`.

    Attributes:
        mean: E Ghat = mean times the identity, exactly.
        shares: (L,), what each layer contributes to it.
        spread: sqrt(E (mean square of the eigenvalues around their mean)) / mean, exactly: of order 1 / sqrt(m).
        trace_deviation: The standard deviation of the trace, relative to its mean, exactly.
        kappa: 1 + 4 (t_Q sqrt d + t_P sqrt k), the condition number to first order in 1 / sqrt(m); see `linear`.
    """

    mean: float
    shares: FloatArray = field(compare=False)
    spread: float
    trace_deviation: float
    kappa: float


class _Squares(NamedTuple):
    """E tr C^2 and E (tr C)^2 of a random positive semi-definite C."""

    trace_of_square: float
    square_of_trace: float

    def step(self, m: int, v: float) -> _Squares:
        """The same of C^(1/2) S C^(1/2), S Wishart with m degrees of freedom and scale v."""
        square, trace = self
        return _Squares(v**2 * m * ((m + 1) * square + trace), v**2 * m * (m * trace + 2 * square))


def linear(
    m: int | Sequence[int], depth: int, d: int, k: int, *, variances: float | Sequence[float] = 1.0
) -> LinearMoments:
    """Mean and spread of the spectrum of Ghat for linear networks with Gaussian weights of variances c_l / fan_in.

    Products of Wishart matrices have their moments in closed form: E P_l (x) Q_l = p_l q_l I, P_l and Q_l being
    independent, and the second moments follow from a recursion over the layers. To first order the fluctuations of
    sum_l w_l Q_l / q_l, w_l the layers' shares, are a Gaussian orthogonal matrix of variance
    t_Q^2 = sum_j (sum_{l > j} w_l)^2 / m_j, whose eigenvalues end at +- 2 t_Q sqrt d, and likewise
    t_P^2 = sum_j (sum_{l < j} w_l)^2 / m_{j-1}: so much for kappa. That is for d and k much larger than 1 and m much
    larger than both; one output or one input contributes nothing. For k = 1 and two layers it is 1 + 4 sqrt(d / m).

    Args:
        m: Width of all hidden layers, or one number each.
        depth: Dense layers L, at least 2.
        d, k: Inputs and outputs.
        variances: c_l, one number for all layers or one each.
    """
    depth = _checks.integer(depth, "depth", 2)
    d, k = _checks.integer(d, "d"), _checks.integer(k, "k")
    hidden = _hidden(m, depth)
    widths = [d, *hidden, k]
    v = [c / fan_in for c, fan_in in zip(_variances(variances, depth), widths, strict=False)]

    left = list(
        itertools.accumulate(zip(hidden[::-1], v[:0:-1], strict=True), lambda C, s: C.step(*s), initial=_one(k))
    )
    left.reverse()
    right = list(itertools.accumulate(zip(hidden, v, strict=False), lambda C, s: C.step(*s), initial=_one(d)))
    p = np.cumprod([1.0, *(a * b for a, b in zip(hidden[::-1], v[:0:-1], strict=True))])[::-1]
    q = np.cumprod([1.0, *(a * b for a, b in zip(hidden, v, strict=False))])
    square = sum(P.trace_of_square * Q.trace_of_square for P, Q in zip(left, right, strict=True))
    trace = sum(P.square_of_trace * Q.square_of_trace for P, Q in zip(left, right, strict=True))
    for i in range(depth):
        between = _one(widths[i + 1])
        for j in range(i + 1, depth):
            # P_i and Q_j share the layers between; the layers i and j enter only one of them each, by their means.
            shared = 2 * v[i] * v[j] * between.square_of_trace
            square += shared * left[j].trace_of_square * right[i].trace_of_square
            trace += shared * left[j].square_of_trace * right[i].square_of_trace
            between = between.step(widths[j + 1], v[j])
    mean, size = float(p @ q), k * d
    shares = p * q / mean
    inverse = 1 / np.array(hidden, float)
    behind, before = 1 - np.cumsum(shares)[:-1], np.cumsum(shares)[:-1]
    t_q, t_p = math.sqrt(inverse @ behind**2), math.sqrt(inverse @ before**2)
    return LinearMoments(
        mean,
        shares,
        math.sqrt(max(square / size - trace / size**2, 0.0)) / mean,
        math.sqrt(max(trace / size**2 - mean**2, 0.0)) / mean,
        1 + 4 * (t_q * math.sqrt(d) * (d > 1) + t_p * math.sqrt(k) * (k > 1)),
    )


def _one(size: int) -> _Squares:
    return _Squares(float(size), float(size) ** 2)


def _hidden(m: Any, depth: int) -> list[int]:
    if not isinstance(m, Sequence | np.ndarray):
        return [_checks.integer(m, "m")] * (depth - 1)
    found = _checks.integers(m, "m", depth - 1)
    if len(found) != depth - 1:
        raise ValueError(
            f"m has {len(found)} entries but {depth} layers have {depth - 1} hidden ones; pass one for each"
        )
    return found


def _variances(given: Any, count: int) -> list[float]:
    found = _checks.reals(given, "variances", count, each="dense layer")
    return [_checks.positive(c, f"variances[{i}]") for i, c in enumerate(found)]
