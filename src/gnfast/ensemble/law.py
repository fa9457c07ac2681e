"""The law of random linear networks: its parameters, and the way to a sample."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from gnfast import _checks, thresholds
from gnfast._runtime import blas_threads
from gnfast.bounds.partial_products import InputRange, input_range
from gnfast.ensemble.grams import Grams, feedforward_grams, shift_for
from gnfast.ensemble.random_weights import Gaussian, Orthogonal, Weight
from gnfast.ensemble.skips import skip_grams
from gnfast.ensemble.stored import stored_bytes, uniform_grams
from gnfast.factors import factor_of_moment
from gnfast.networks.initializers import family_name, variance

INITS = {"gaussian": "Gaussian", "orthogonal": "Orthogonal (Haar)", "uniform": "Uniform"}
VARIANCES = ("kaiming", "xavier", "lecun", "ntk", "pytorch")
MEMORY = 2.0**30  # bytes of stored weights, where they have to be stored
WIDEST = 2**53  # a width is a number of degrees of freedom, in float64


class LinearLaw:
    """The law of P_l and Q_l of random linear networks F(x) = (W_L + b_L I) ... (W_1 + b_1 I) x.

    P_l = (W_L...W_{l+1}) (W_L...W_{l+1})^T (k, k) and Q_l = (W_{l-1}...W_1 V)^T (W_{l-1}...W_1 V) (r, r), skips
    included: all that the Gauss-Newton matrix of the squared error knows of the weights. V (d, r) is an orthonormal
    basis of the range of Sigma, the identity without Sigma.

    Args:
        widths, depth, d, k, Sigma, skip, variances, init, memory_limit: See `gnfast.ensemble.linear`.

    Attributes:
        shapes: (out, in) of W_1 ... W_L.
        skips, variances: One for each layer.
        inputs: The range of Sigma: its basis V (d, r) and the roots of its eigenvalues, (r,), descending.
    """

    def __init__(
        self,
        widths: int | Sequence[int],
        *,
        depth: int | None = None,
        d: int | None = None,
        k: int,
        Sigma: npt.ArrayLike | None = None,
        skip: float | Sequence[float] = 0.0,
        variances: str | Sequence[float] | None = None,
        init: str = "gaussian",
        memory_limit: float = MEMORY,
    ) -> None:
        self.inputs = _inputs(Sigma, d)
        self.hidden = hidden_widths(widths, depth, WIDEST)
        dims = [len(self.inputs.basis), *self.hidden, _checks.integer(k, "k")]
        self.shapes = list(zip(dims[1:], dims[:-1], strict=True))
        self.skips = _checks.reals(skip, "skip", len(self.shapes), each="layer")
        self.init = _checks.choice(init, "init", INITS)
        self.variances = self._read_variances(variances)
        self.memory_limit = _checks.positive(memory_limit, "memory_limit")

    @property
    def is_stored(self) -> bool:
        """Whether whole weights are drawn."""
        return self.init == "uniform" and stored_bytes(self.shapes) <= self.memory_limit

    @property
    def is_exact(self) -> bool:
        """Whether samples have the law that was asked for."""
        return self.init != "uniform" or self.is_stored

    @property
    def shift(self) -> float:
        """1 where samples hold deviations from the identity, which their matrices are near to."""
        near = self.init != "orthogonal" and not any(self.skips)
        return shift_for(self.hidden, max(self.inputs.rank, self.shapes[-1][0])) if near else 0.0

    @cached_property
    def weights(self) -> list[Weight]:
        """The law of each weight."""
        pairs = list(zip(self.shapes, self.variances, strict=True))
        if self.init == "orthogonal":
            return [Orthogonal(*shape, math.sqrt(v * max(shape))) for shape, v in pairs]
        return [Gaussian(*shape, v) for shape, v in pairs]

    def draw(self, seed: _checks.Seed, sample: int) -> Grams:
        """P_l and Q_l of one network, from (seed, sample) alone; other samples and other seeds are independent.

        Args:
            seed: An integer from 0 to 2^64 - 1, or a `numpy.random.Generator`.
            sample: From 0 to 2^64 - 1.
        """
        seed, sample = _checks.seed(seed), _checks.integer(sample, "sample", 0, 2**64 - 1)
        with blas_threads(self.inputs.rank):
            if self.is_stored:
                return uniform_grams(self.shapes, self.variances, self.skips, self.inputs.basis, seed, sample)
            if any(self.skips):
                return skip_grams(self.weights, self.skips, self.inputs.basis, seed, sample)
            return feedforward_grams(self.weights, self.inputs.rank, seed, sample, self.shift)

    def __str__(self) -> str:
        if self.is_stored:
            return f"{INITS[self.init]} weights, drawn whole and multiplied: exact in law."
        if not self.is_exact:
            gigabytes = stored_bytes(self.shapes) / 1e9
            return (
                f"Gaussian weights in place of uniform ones of the same variance, which would take {gigabytes:.3g} GB: "
                "exact in law for Gaussian weights; of uniform ones the diagonals of W_1^T W_1 and W_L W_L^T in the "
                "given coordinates vary 0.4 times as much (variance 0.8 m v^2 in place of 2 m v^2), all else agrees to "
                "leading order in the width."
            )
        how = "their coordinates in growing bases" if any(self.skips) else "Bartlett's triangular factors"
        if self.init == "orthogonal":
            how = how.replace("Bartlett's triangular factors", "blocks of Haar matrices")
        return f"{INITS[self.init]} weights, seen through {how} instead of being drawn: exact in law at every width."

    def _read_variances(self, given: str | Sequence[float] | None) -> list[float]:
        if given is None and self.init == "orthogonal":
            return [1 / max(shape) for shape in self.shapes]
        return entry_variances("kaiming" if given is None else given, self.shapes)


def entry_variances(given: str | Sequence[float], shapes: Sequence[tuple[int, int]], gain: float = 1.0) -> list[float]:
    """The variance of the entries of each weight (out, in): by a name of `VARIANCES`, or one number each."""
    if isinstance(given, str):
        family = family_name(given, "variances", VARIANCES)
        return [variance(family, shape, gain) for shape in shapes]
    if isinstance(given, numbers.Real):
        raise TypeError(
            f"variances is {given}, one number for layers of any fan-in; pass a name, or a list with the variance of "
            "the entries of each weight: [c / fan_in, ...] for the c that gn.limits takes"
        )
    found = _checks.reals(given, "variances", len(shapes), each="layer")
    return [_checks.positive(value, f"variances[{i}]") for i, value in enumerate(found)]


def hidden_widths(widths: int | Sequence[int], depth: int | None, widest: int) -> list[int]:
    """Widths of the hidden layers, one at least, up to `widest`."""
    if depth is not None:
        depth = _checks.integer(depth, "depth", 2)
    if isinstance(widths, Sequence | np.ndarray) and not isinstance(widths, str):
        found = _checks.integers(widths, "widths", at_least=1)
        if depth not in (None, len(found) + 1):
            raise ValueError(
                f"depth is {depth} but widths has {len(found)} entries, one for each of depth - 1 hidden layers; leave "
                "depth out, or pass one number for all"
            )
        return [_checks.integer(width, f"widths[{i}]", 1, widest) for i, width in enumerate(found)]
    if depth is None:
        raise ValueError("depth is missing; pass the number of layers, or the width of every hidden layer")
    return [_checks.integer(widths, "widths", 1, widest)] * (depth - 1)


def _inputs(Sigma: npt.ArrayLike | None, d: int | None) -> InputRange:
    """The range of Sigma, by a pivoted Cholesky factorisation: graded matrices keep their small directions."""
    if Sigma is None:
        if d is None:
            raise ValueError("d is missing; pass the number of inputs, or Sigma (d, d)")
        size = _checks.integer(d, "d")
        return InputRange(np.eye(size), np.ones(size), 0.0, ones=False, samples=size)
    given = _checks.array(Sigma, "Sigma", ("d", "d") if d is None else (d, d), owner="d")
    if given.shape[0] != given.shape[1]:
        raise ValueError(f"Sigma has shape {given.shape} but must be square, (d, d)")
    moment = given.astype(np.float64)
    largest = float(np.abs(moment).max())
    rounding = thresholds.pivot_threshold(largest, len(moment), given.dtype)  # that of what it was computed in
    if np.abs(moment - moment.T).max() > 10 * rounding:
        raise ValueError("Sigma is not symmetric; pass (Sigma + Sigma.T) / 2 if its symmetric part is meant")
    if largest == 0:
        raise ValueError("Sigma is zero, and so is the Gauss-Newton matrix; pass the second moment of some data")
    if np.linalg.eigvalsh(moment)[0] < -10 * rounding:
        raise ValueError("Sigma has negative eigenvalues but must be positive semi-definite; pass X.T @ X / n")
    factor = factor_of_moment(moment, rounding)
    return input_range(math.sqrt(len(factor)) * factor, ones=False)  # C^T has the rows of r samples of their own
