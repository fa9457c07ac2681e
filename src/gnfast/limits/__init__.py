"""Infinitely wide networks: kernels and condition numbers, and what is known in closed form on the way there."""

from gnfast.limits.fluctuations import variance
from gnfast.limits.kernels import Limit, gram
from gnfast.limits.linear import LinearMoments, MarchenkoPastur, linear, marchenko_pastur

__all__ = ["Limit", "LinearMoments", "MarchenkoPastur", "gram", "linear", "marchenko_pastur", "variance"]


def __dir__() -> list[str]:
    return __all__
