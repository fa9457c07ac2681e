"""The Gram matrix of infinitely wide networks: its kernel, spectrum and condition number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from gnfast import _checks, thresholds
from gnfast.limits import covariance
from gnfast.limits.covariance import Covariance, FloatArray
from gnfast.limits.moments import Pointwise
from gnfast.limits.neurons import BATCHES, sampled
from gnfast.networks import initializers
from gnfast.networks.layers import SLOPE

PARAMETERIZATIONS = ("standard", "ntk", "mup")
SHOWN_ERROR = 1e-9  # smaller errors are not shown: eigenvalues have six digits there
SQUARES = 400  # binary digits of X, up or down, whose squares and their products with variances are safe in float64
NEURONS = 32_768  # standard errors below a percent; at 100 samples 26 MB for each layer


@dataclass(frozen=True, repr=False)
class Limit:
    """The infinitely wide network at given samples; made by `gram`.

    With mean squares the Gram matrix K = J J^T / n, in the scale of the parameterization, tends to kernel (x) I_k / n:
    the spectrum of the Gauss-Newton matrix, each eigenvalue k times. The outputs themselves become independent Gaussian
    processes with covariance nngp over the samples.

    Attributes:
        kernel: (n, n), float64, the neural tangent kernel (NTK).
        nngp: (n, n), float64, E f(x) f(x') of an output f over the weights (biases are zero): the kernel of the neural
            network Gaussian process. In "mup", where outputs vanish like 1 / sqrt(m), that of sqrt(m) f.
        shares: (L,), what each dense layer contributes to the trace of the kernel; they add up to 1.
        eigenvalues: (n,), of kernel / n, ascending.
        rank: How many are above `cut`, up to which they count as zero.
        kappa: lambda_max / lambda_min, over those.
        error: The kernels' relative error beyond rounding: 0 from closed forms, what is left out of Hermite expansions,
            the standard error of the whole kernel in the Frobenius norm where neurons are drawn.
        exponent: Other than 0 where the squares of X leave the range of float64 and the activation is positively
            homogeneous: kernel, nngp, eigenvalues and cut are then those of X / 2^exponent, those of X 4^exponent times
            as large. Shares, rank and kappa are the same.
    """

    activation: str
    parameterization: str
    depth: int
    kernel: FloatArray = field(compare=False)
    nngp: FloatArray = field(compare=False)
    shares: FloatArray = field(compare=False)
    eigenvalues: FloatArray = field(compare=False)
    rank: int
    cut: float
    error: float
    exponent: int = 0

    @property
    def lambda_max(self) -> float:
        """The largest eigenvalue."""
        return float(self.eigenvalues[-1])

    @property
    def lambda_min(self) -> float:
        """The smallest above the cut."""
        return float(self.eigenvalues[len(self.eigenvalues) - self.rank])

    @property
    def kappa(self) -> float:
        """The condition number over the non-zero spectrum."""
        return self.lambda_max / self.lambda_min

    def __repr__(self) -> str:
        notes = [f"kernel known to {self.error:.1g} of itself"] if self.error > SHOWN_ERROR else []
        notes += [f"kernel and eigenvalues of X / 2^{self.exponent}"] if self.exponent else []
        return (
            f"<Limit of {self.activation} networks, {self.depth} layers, {self.parameterization}: "
            f"{', '.join([f'kappa {self.kappa:.6g}', f'rank {self.rank} of {len(self.eigenvalues)}', *notes])}>"
        )


def gram(
    X: Any,
    depth: int,
    activation: str = "relu",
    parameterization: str = "standard",
    *,
    slope: float = SLOPE,
    skip: float | Sequence[float] = 0.0,
    bias: bool = False,
    variances: str | float | Sequence[float] = "kaiming",
    neurons: int = NEURONS,
    seed: _checks.Seed = 0,
) -> Limit:
    """The limits of the Gram matrix (NTK) and of the outputs' covariance (NNGP) as all hidden widths m grow together.

    Networks are those of `gnfast.mlp`, with Gaussian weights of variance c_l / fan_in. Layer l adds <a_{l-1}, a_{l-1}'>
    <b_l, b_l'> to J J^T, a_{l-1} its input and b_l the derivative of an output in its pre-activation. With E_l the
    limit of <a_l, a_l'> / m and B_l that of <b_l, b_l'>,

        E_l = E phi(u) phi(v) under c_l E_{l-1},    B_l = c_{l+1} B_{l+1} E phi'(u) phi'(v),    B_L = 1,

    starting from c_1 X X^T / d, products elementwise. c_L E_{L-1} is the covariance of an output (NNGP), in all
    parameterizations. What they make of the rest:

        standard    lim J J^T / m = sum_{l >= 2} E_{l-1} B_l: of our networks, by their own weights. The shares of layer
                    1 and of biases are of order 1/m.
        ntk         lim J J^T = c_1 X X^T B_1 / d + sum_{l >= 2} c_l E_{l-1} B_l: the parameters are standard normal,
                    the weights sqrt(c_l / fan_in) times them (Jacot et al. 2018). Biases add B_l.
        mup         X X^T B_1 + sum_{l >= 2} E_{l-1} B_l: the last layer's weights are smaller by sqrt(m), and before
                    the layers' parts stand learning rates, m for layer 1 and hidden biases, 1 for hidden weights and
                    1/m for the last ones, so that all of them learn (maximal update, Yang & Hu 2021). Biases add B_l.

    Skips as in `gnfast.mlp`, W_l + b_l I. Those of the first layer reach d of m neurons and vanish. In linear networks
    c_l becomes c_l + b_l^2 in E and B. In others pre-activations are not Gaussian any more, and the expectations are
    taken over neurons drawn (`gnfast.limits.neurons`), with an error. A skip of the last layer behind a nonlinear one
    would make each output see one neuron more than all others: its limit is random, and it must be 0.

    Args:
        X: (n, d), float32 or float64; computed in float64. Duplicates and rows of zeros are welcome.
        depth: Dense layers L, at least 2.
        activation: A name of `gnfast.Activation`, or "erf".
        parameterization: "standard", "ntk" or "mup".
        slope: Of leaky_relu for negative arguments, 0.01 by default; given for no other.
        skip: Strength, one number for all layers or one each.
        bias: Whether there are biases, zero at initialisation, but parameters.
        variances: c_l, fan_in times the variance of the entries that `gnfast.ensemble` takes: "kaiming" is the squared
            gain of the activation, "lecun" 1, "pytorch" 1/3; or numbers, one for all or one each.
        neurons: How many neurons are drawn where some are, 16 at least; their memory is 8 n (L + 1) `neurons` bytes.
        seed: For these neurons: an integer from 0 to 2^64 - 1, or a `numpy.random.Generator`.

    Returns:
        A `Limit`.

    Raises:
        ValueError: Bad arguments, X zero everywhere, a skip without a limit, X or variances at which the kernel leaves
            the range of float64 or the moments of the activation are not resolved.

    References: Jacot, Gabriel & Hongler (NeurIPS 2018); Lee et al. (ICLR 2018) for the NNGP; Cho & Saul (NeurIPS 2009);
    Yang & Hu (ICML 2021).

    Examples:
        >>> import gnfast as gn
        >>> X = gn.datasets.digits()[0][:10]
        >>> limit = gn.limits.gram(X, depth=3, activation="relu")
        >>> limit.kernel.shape, limit.kappa > 1
        ((10, 10), True)
    """
    data = _checks.array(X, "X", ("n", "d")).astype(np.float64)
    if not data.any():
        raise ValueError("X is zero everywhere and so is the kernel; pass samples that are not all zero")
    depth = _checks.integer(depth, "depth", 2)
    phi = Pointwise(activation, slope)
    parameterization = _checks.choice(parameterization, "parameterization", PARAMETERIZATIONS)
    skips = _checks.reals(skip, "skip", depth, each="dense layer")
    c = variances_of(variances, phi, depth)
    biased = _checks.boolean(bias, "bias")
    _check_last(skips[-1], phi, parameterization)
    neurons, seed = _checks.integer(neurons, "neurons", BATCHES), _checks.seed(seed)

    exponent = 0
    largest = int(np.frexp(np.abs(data).max())[1])
    own, ones = layer_factors(parameterization, c, data.shape[1], biased)
    if phi.rectifier is not None and abs(largest) > SQUARES:
        data = np.ldexp(data, -largest)
        if ones and largest < 0:  # beside the biases, which do not grow with X, the weights' parts are next to nothing
            own = [float(np.ldexp(f, 2 * largest)) for f in own]
        else:
            ones, exponent = float(np.ldexp(ones, -2 * largest)), largest

    is_drawn, gains = any(skips[1:-1]) and not phi.is_linear, _gains(c, skips) if phi.is_linear else c

    def parts(samples: Covariance, count: int, stream: int = 0) -> _Parts:
        first, error = samples.times(c[0] / data.shape[1]), 0.0
        if is_drawn:
            inputs, backward = sampled(first.matrix, phi, c, skips, count, seed, stream)
        else:
            inputs, backward, error = _recursion(first, phi, gains)
        layers = zip(own, [samples.matrix, *inputs], backward, strict=True)
        weights = [f * A * B for f, A, B in layers]
        return _Parts(weights, [ones * B for B in backward], gains[-1] * inputs[-1], error)

    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        samples = covariance.of_rows(data)
        found = parts(samples, neurons)
        kernel, nngp, error = found.kernel, found.nngp, found.error
    tiny = float(np.finfo(np.float64).tiny / np.finfo(np.float64).eps)
    if not (np.isfinite(kernel).all() and np.isfinite(nngp).all() and kernel.diagonal().max() > tiny):
        raise ValueError(
            f"X, with entries up to {np.abs(X).max():.1e}, and variances give a kernel beyond the range of float64; "
            "pass X and variances of usual size"
        )
    traces = np.array([np.trace(a) + np.trace(b) for a, b in zip(found.weights, found.biases, strict=True)])
    if is_drawn:
        streams = range(depth, depth * (BATCHES + 1), depth)
        error = _standard_error([parts(samples, neurons // BATCHES, stream).kernel for stream in streams])
    if phi.is_linear:
        one = parts(Covariance(np.ones(1), np.zeros((1, 1))), neurons)
        shift = np.full((len(data), 1), np.sqrt(np.sum(one.biases)))
        values, cut = _squares(np.hstack([np.sqrt(np.sum(one.weights)) * data, shift]))
    else:
        values = np.asarray(np.linalg.eigvalsh(kernel), np.float64)
        cut = thresholds.zero_threshold(values[-1], len(kernel), kernel.dtype)
    rank = int((values > cut).sum())
    scale = 1 / len(data)
    return Limit(
        phi.name,
        parameterization,
        depth,
        kernel,
        nngp,
        traces / traces.sum(),
        scale * values,
        rank,
        scale * cut,
        error,
        exponent,
    )


class _Parts(NamedTuple):
    """The parts of the kernel by the weights and the bias of each layer, and the covariance of an output."""

    weights: list[FloatArray]
    biases: list[FloatArray]
    nngp: FloatArray
    error: float

    @property
    def kernel(self) -> FloatArray:
        return np.asarray(np.sum([*self.weights, *self.biases], axis=0))


def _recursion(
    first: Covariance, phi: Pointwise, gains: Sequence[float]
) -> tuple[list[FloatArray], list[FloatArray], float]:
    """E_l for l = 1..L-1 and B_l for l = 1..L from the first pre-activations; `gains` are the c_l."""
    inputs, slopes, error = [], [], 0.0
    for gain in gains[1:]:
        found = phi.moments(first)
        inputs.append(found.values.matrix)
        slopes.append(found.slopes)
        error = max(error, found.error)
        first = found.values.times(gain)
    backward = [np.ones_like(first.angle)]
    for gain, slope in zip(reversed(gains[1:]), reversed(slopes), strict=True):
        backward.insert(0, gain * backward[0] * slope)
    return inputs, backward, error


def _standard_error(batches: Sequence[FloatArray]) -> float:
    """The relative standard error of the mean of independent matrices, in the Frobenius norm."""
    mean = np.mean(batches, axis=0)
    squares = sum(float(np.sum((batch - mean) ** 2)) for batch in batches)
    return math.sqrt(squares / (len(batches) * (len(batches) - 1))) / float(np.linalg.norm(mean))


def _gains(c: Sequence[float], skips: Sequence[float]) -> list[float]:
    """The gains of linear layers: those above the first pass c_l by their weights and b_l^2 by their skips."""
    return [c[0], *(a + b**2 for a, b in zip(c[1:], skips[1:], strict=True))]


def layer_factors(parameterization: str, c: Sequence[float], features: int, bias: bool) -> tuple[list[float], float]:
    """The factors before the layers' own parts, and the one before B_l for the biases."""
    if parameterization == "standard":
        return [0.0, *[1.0] * (len(c) - 1)], 0.0
    return [c[0] / features, *c[1:]] if parameterization == "ntk" else [1.0] * len(c), float(bias)


def _squares(factor: FloatArray) -> tuple[FloatArray, float]:
    """The eigenvalues of F F^T, ascending, to the accuracy of singular values, and their threshold of zero."""
    s = np.linalg.svd(factor, compute_uv=False)
    values = np.zeros(len(factor))
    kept = min(len(s), len(values))
    values[len(values) - kept :] = s[:kept][::-1] ** 2
    return values, thresholds.data_threshold(s[0], factor.shape) ** 2


def variances_of(given: Any, phi: Pointwise, depth: int) -> list[float]:
    """The factors c_l of the layers, from a name, a number or a list."""
    if isinstance(given, str):
        family = initializers.family_name(given, "variances", ("kaiming", "lecun", "pytorch"))
        if family != "kaiming":
            return [1.0 if family == "lecun" else 1 / 3] * depth
        if phi.name not in (*initializers.GAINS, "leaky_relu"):
            raise ValueError(f"variances is 'kaiming', which has no gain for {phi.name}; pass 'lecun' or numbers")
        return [initializers.gain(phi.name, phi.slope) ** 2] * depth
    found = _checks.reals(given, "variances", depth, each="dense layer")
    return [_checks.positive(value, f"variances[{i}]") for i, value in enumerate(found)]


def _check_last(skip: float, phi: Pointwise, parameterization: str) -> None:
    if skip and not phi.is_linear:
        raise ValueError(
            f"the skip of the last layer is {skip:g}, but behind {phi.name} the limit is then random, "
            "since each output sees one neuron more than all others; pass one skip per layer, 0 for the last"
        )
    if skip and parameterization == "mup":
        raise ValueError(
            f"the skip of the last layer is {skip:g}, but its weights vanish beside it in 'mup'; "
            "pass one skip per layer, 0 for the last"
        )
