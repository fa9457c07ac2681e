"""The Gauss-Newton matrix of a network on data, its Jacobian and its duals, as SciPy LinearOperators."""

from gnfast.operators.gauss_newton import Dual, GaussNewton, Gram, LinearDual
from gnfast.operators.symmetric import SymmetricOperator
from gnfast.operators.wide_limit import Decoupling

__all__ = ["Decoupling", "Dual", "GaussNewton", "Gram", "LinearDual", "SymmetricOperator"]
