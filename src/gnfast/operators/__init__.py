"""The Gauss-Newton matrix of a network on data, its Jacobian and its duals, as SciPy LinearOperators."""

from gnfast.operators.conv_dual import ConvDual
from gnfast.operators.dual import Dual
from gnfast.operators.gauss_newton import GaussNewton
from gnfast.operators.gram import Gram
from gnfast.operators.layer_blocks import Block
from gnfast.operators.linear_dual import LinearDual
from gnfast.operators.symmetric import SymmetricOperator

__all__ = ["Block", "ConvDual", "Dual", "GaussNewton", "Gram", "LinearDual", "SymmetricOperator"]
