"""Second moments of an activation and of its derivative, by which an infinitely wide layer maps a covariance.

For (u, v) Gaussian with the covariance of two samples: E phi(u) phi(v) and E phi'(u) phi'(v), in closed form
for identity, relu, leaky_relu (Cho & Saul 2009), erf (Williams 1997) and gelu, by Hermite expansions for the others.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import erf, spherical_jn

from gnfast import _checks
from gnfast.limits.covariance import Covariance, FloatArray, of_matrix
from gnfast.networks import Network
from gnfast.networks.layers import ACTIVATIONS, Activation, Dense, slope_of

NAMES = (*ACTIVATIONS, "erf")  # erf is no layer of networks, but the field's kernels are known by it

# Hermite expansions. The integrand is phi times a Hermite function times exp(-x^2 / 4), below 1e-16 from here on.
REACH = 12.5
PANELS, POINTS = 64, 16  # an even number: one panel ends at 0, where activations may have kinks
TERMS = 2048  # Hermite functions oscillate with sqrt(2,048) = 45 radians a unit, 18 a panel: 16 points resolve them
LARGEST = 1e12  # scale of pre-activations whose features the graded panels resolve, with some digits to spare
TAIL = 1e-14  # of the second moment: near what sums of 1,000 numbers lose anyway


class Moments(NamedTuple):
    """The second moments of an activation and of its derivative, for pre-activations of one covariance."""

    values: Covariance
    """E phi(u) phi(v), as a covariance."""
    slopes: FloatArray
    """E phi'(u) phi'(v), (n, n)."""
    error: float = 0.0
    """The error of both, relative to the diagonal, beyond rounding."""


class Pointwise:
    """An activation of the package, or erf, as a function of arrays.

    Args:
        name: One of `NAMES`.
        slope: Of leaky_relu for negative arguments, and given for no other.
    """

    def __init__(self, name: str, slope: float) -> None:
        self.name = _checks.choice(name, "activation", NAMES)
        self.slope = slope_of(self.name, slope)
        if self.name != "erf":
            # The formulas have one owner, in the core: a network of one unit evaluates them.
            one = [Dense(np.ones((1, 1))) for _ in range(2)]
            self._network = Network([one[0], Activation(self.name, slope), one[1]])

    @property
    def is_linear(self) -> bool:
        """Whether it is the identity."""
        return self.rectifier == 1

    @property
    def rectifier(self) -> float | None:
        """The slope for negative arguments of a leaky relu, which the identity and relu are too; None of others."""
        return {"identity": 1.0, "relu": 0.0, "leaky_relu": self.slope}.get(self.name)

    def __call__(self, z: FloatArray) -> tuple[FloatArray, FloatArray]:
        """phi(z) and phi'(z), of the shape of z."""
        if self.name == "erf":
            return erf(z), 2 / np.sqrt(np.pi) * np.exp(-(z**2))
        found = self._network.linearize(z.reshape(-1, 1))
        slopes = found.derivatives[0]
        assert slopes is not None or self.name == "identity"
        return found.inputs[1].reshape(z.shape), np.ones_like(z) if slopes is None else slopes.reshape(z.shape)

    def moments(self, z: Covariance) -> Moments:
        """The second moments for pre-activations of covariance z."""
        if self.rectifier is not None:
            return rectified(z, self.rectifier)
        closed: dict[str, Callable[[Covariance], Moments]] = {"erf": error_function, "gelu": gelu}
        return closed.get(self.name, functools.partial(expanded, self))(z)


# ------------------------------------------------------------------------------------------------------- closed forms
def rectified(z: Covariance, slope: float) -> Moments:
    """leaky_relu: q ((1 + a^2) k1 - 2 a k1m) and (1 + a^2) k0 + 2 a k0m, without a difference of near numbers.

    With t the angle and g = (sin t - t cos t) / (2 pi), the new angle t' has
    sin^2(t' / 2) = sin^2(t / 2) - g (1 - a)^2 / (1 + a^2), and g is about t^3 / (6 pi).
    """
    both, t = 1 + slope**2, z.angle
    bent = t**2 * spherical_jn(1, t) / (2 * np.pi)  # sin t - t cos t = t^2 j_1(t)
    half = np.clip(np.sin(t / 2) ** 2 - (1 - slope) ** 2 / both * bent, 0.0, 1.0)
    angle = 2 * np.arctan2(np.sqrt(half), np.sqrt(1 - half))
    slopes = both / 2 - (1 - slope) ** 2 * t / (2 * np.pi)
    silent = z.scale == 0  # pre-activations that are 0, where the derivative is that of the left side
    mean = np.where(silent, slope, (1 + slope) / 2)
    apart = silent[:, None] | silent
    return Moments(Covariance(np.sqrt(both / 2) * z.scale, angle), np.where(apart, np.outer(mean, mean), slopes))


def error_function(z: Covariance) -> Moments:
    """erf: (2/pi) arcsin(2 s / r) and (4/pi) / sqrt(r^2 - 4 s^2), r^2 = (1 + 2 a)(1 + 2 b), for [[a, s], [s, b]]."""
    a, s = z.scale**2, z.matrix
    rest = np.sqrt(1 + 2 * np.add.outer(a, a) + 4 * np.outer(a, a) * np.sin(z.angle) ** 2)  # sqrt(r^2 - 4 s^2)
    return Moments(of_matrix(2 / np.pi * np.arctan2(2 * s, rest)), 4 / (np.pi * rest))


def gelu(z: Covariance) -> Moments:
    """x Phi(x), by parts: s F + N (D1 + s^2 h), and its derivative in s, F + s N (2 h - 1 + (D1 + s^2 h) / D).

    F = E Phi(u) Phi(v), N = E Phi'(u) Phi'(v) = 1 / (2 pi sqrt D), D = (1 + a)(1 + b) - s^2, D1 = a b - s^2,
    h = 1/(1 + a) + 1/(1 + b); that E phi'(u) phi'(v) is the derivative of E phi(u) phi(v) in s is Price's theorem.
    """
    a, s = z.scale**2, z.matrix
    inner = np.outer(a, a) * np.sin(z.angle) ** 2
    outer = 1 + np.add.outer(a, a) + inner
    halves = np.add.outer(1 / (1 + a), 1 / (1 + a))
    both = np.arctan2(np.sqrt(outer), -s) / (2 * np.pi)
    density = 1 / (2 * np.pi * np.sqrt(outer))
    part = inner + s**2 * halves
    slopes = both + s * density * (2 * halves - 1 + part / outer)
    return Moments(of_matrix(s * both + density * part), slopes)


# ------------------------------------------------------------------------------------------------ Hermite expansions
def expanded(phi: Pointwise, z: Covariance) -> Moments:
    """Any activation: E f(u) f(v) = sum_j c_j(u) c_j(v) cos^j t, c_j the Hermite coefficients of f(scale x).

    Every term is positive semi-definite, and Parseval's equality says what the terms left out amount to: rounding for
    analytic activations of usual scales, some 1e-6 of the derivative's moments for elu, whose second derivative jumps.
    """
    largest = float(z.scale.max())
    if not largest <= LARGEST:
        raise ValueError(
            f"X and variances give pre-activations of standard deviation {largest:.1e}, at which the moments of "
            f"{phi.name} are not resolved; they may be up to {LARGEST:g}"
        )
    values, slopes = phi(np.outer(z.scale, hermite_nodes()[0]))
    x, weights = graded_nodes()
    totals = [np.square(f) @ weights for f in phi(np.outer(z.scale, x))]
    second, lost = hermite_series(values, z.cosine, totals[0])
    first, lost_too = hermite_series(slopes, z.cosine, totals[1])
    return Moments(of_matrix(second), first, max(lost, lost_too))


def hermite_series(f: FloatArray, cosine: FloatArray, total: FloatArray | None = None) -> tuple[FloatArray, float]:
    """sum_j c_j c_j^T cos^j for f (n, nodes), and the largest share of a second moment that is missing.

    `total` has the second moments (n,), where they are known better than from the nodes.
    """
    x, weights = hermite_nodes()
    if total is None:
        total = np.square(f) @ (weights * np.exp(-(x**2) / 4))
    weighted, missing = f * weights, total.copy()
    before, here, power = np.zeros_like(x), np.exp(-(x**2) / 4), np.ones_like(cosine)
    found = np.zeros_like(cosine)
    for j in range(TERMS):
        c = weighted @ here
        found += np.outer(c, c) * power
        missing -= c**2
        if (missing <= TAIL * total).all():
            break
        power *= cosine
        before, here = here, (x * here - np.sqrt(j) * before) / np.sqrt(j + 1)
    share = np.divide(np.abs(missing), total, out=np.zeros_like(total), where=total > 0)  # negative by quadrature only
    return found, float(np.max(share, initial=0.0))


@functools.cache
def hermite_nodes() -> tuple[FloatArray, FloatArray]:
    """Nodes x and weights of Gauss-Legendre panels, the latter times exp(-x^2 / 4) / sqrt(2 pi).

    Panels and not Gauss-Hermite: its error falls like exp(-d sqrt(2 q)) only, for a pole at distance d.
    """
    points, weights = np.polynomial.legendre.leggauss(POINTS)
    half = REACH / PANELS
    centres = half * (2 * np.arange(PANELS) - PANELS + 1)
    x = np.add.outer(centres, half * points).ravel()
    return x, np.tile(half * weights, PANELS) * np.exp(-(x**2) / 4) / np.sqrt(2 * np.pi)


@functools.cache
def graded_nodes() -> tuple[FloatArray, FloatArray]:
    """Nodes and weights for E f(x), x standard normal: panels halve towards 0, where f(scale x) has its features."""
    points, weights = np.polynomial.legendre.leggauss(POINTS)
    ends = np.union1d(REACH * 2.0 ** np.arange(-60, 1), np.linspace(0, REACH, PANELS // 2 + 1))
    half = np.diff(ends) / 2
    x = np.add.outer((ends[1:] + ends[:-1]) / 2, np.zeros(POINTS)) + np.outer(half, points)
    w = np.outer(half, weights) * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    return np.concatenate([-x.ravel()[::-1], x.ravel()]), np.concatenate([w.ravel()[::-1], w.ravel()])
