"""How much the kernel of a network with one hidden layer varies from one draw of its weights to the next."""

from __future__ import annotations

from typing import Any

import numpy as np

from gnfast import _checks
from gnfast.limits import covariance
from gnfast.limits.covariance import Covariance, FloatArray
from gnfast.limits.kernels import PARAMETERIZATIONS, layer_factors, variances_of
from gnfast.limits.moments import Pointwise, hermite_nodes, hermite_series, rectified
from gnfast.networks.layers import SLOPE


def variance(
    X: Any,
    activation: str = "relu",
    parameterization: str = "standard",
    *,
    slope: float = SLOPE,
    variances: str | float | list[float] = "kaiming",
) -> FloatArray:
    """m times the variance of every entry of the kernel of `gram`, for one hidden layer of m units and one output.

    The neurons are independent: the kernel is the mean over them of f_2 phi(u) phi(v) + g w^2 phi'(u) phi'(v), w
    standard normal and g = f_1 c_2 <x, x'>, f_l the parameterization's factors. So the variance is that of one neuron
    over m, which takes the second moments of phi^2, phi phi' and phi'^2. Exact at every m for "ntk" and "mup"; for
    "standard", where layer 1 has a share of order 1/m, to leading order. Entries are then nearly Gaussian.

    The mean needs no correction: for "ntk" and "mup" the expected kernel is that of `gram` at every m, for "standard"
    it is that plus c_2 <x, x'> E phi'(u) phi'(v) / m, layer 1. With more hidden layers the mean is off by order 1/m,
    since the kernels of all layers vary together (Hanin & Nica 2020), which has no closed form for most activations:
    `gnfast.ensemble` draws such networks. Linear ones of any depth have their moments in `linear`.

    Args:
        X, activation, parameterization, slope, variances: As for `gram`, with two layers, one output and no biases.

    Returns:
        (n, n), symmetric.

    Raises:
        ValueError: Bad arguments.

    Reference: Hanin & Nica, "Finite depth and width corrections to the neural tangent kernel" (ICLR 2020).
    """
    data = _checks.array(X, "X", ("n", "d")).astype(np.float64)
    phi = Pointwise(activation, slope)
    name = _checks.choice(parameterization, "parameterization", PARAMETERIZATIONS)
    c = variances_of(variances, phi, 2)
    (first, second), _ = layer_factors(name, c, data.shape[1], False)
    samples = covariance.of_rows(data)
    z = samples.times(c[0] / data.shape[1])
    moments = phi.moments(z)
    squares, mixed, slopes = _fourth(phi, z)
    by_slopes = first * c[1] * samples.matrix
    mean = second * moments.values.matrix + by_slopes * moments.slopes
    return second**2 * squares + 2 * second * by_slopes * mixed + 3 * by_slopes**2 * slopes - mean**2


def _fourth(phi: Pointwise, z: Covariance) -> tuple[FloatArray, FloatArray, FloatArray]:
    """E f(u) f(v) for f = phi^2, phi phi' and phi'^2, (n, n) each."""
    a = phi.rectifier
    if a is None:
        values, slopes = phi(np.outer(z.scale, hermite_nodes()[0]))
        found = (hermite_series(f, z.cosine)[0] for f in (values**2, values * slopes, slopes**2))
        return next(found), next(found), next(found)
    # phi phi' and phi'^2 are the leaky relu of slope a^2 and its derivative.
    bent, t = rectified(z, a**2), z.angle
    power = (1 + a**4) * _second_order(t) + 2 * a**2 * _second_order(np.pi - t)
    return np.outer(z.scale, z.scale) ** 2 * power, bent.values.matrix, bent.slopes


def _second_order(t: FloatArray) -> FloatArray:
    """E relu(u)^2 relu(v)^2 for u, v of variance 1 at angle t (Cho & Saul 2009)."""
    return np.asarray(3 * np.sin(t) * np.cos(t) + (np.pi - t) * (1 + 2 * np.cos(t) ** 2)) / (2 * np.pi)
