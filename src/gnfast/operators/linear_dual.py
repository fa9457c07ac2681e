"""The structured dual of linear networks of dense layers."""

from __future__ import annotations

from gnfast import _core
from gnfast._arrays import Array
from gnfast._memory import check_memory
from gnfast.factors import range_factor
from gnfast.operators.costs import linear_dual_bytes
from gnfast.operators.dual import Dual, check_scalar_loss
from gnfast.operators.kronecker_sum import SumOfProducts
from gnfast.operators.problem import Problem


class LinearDual(SumOfProducts, Dual):
    """sum_l P_l (x) R_l of a linear network: P_l (k, k) and R_l (r, r) hold all of the data and of the widths.

    P_l = A_l A_l^T with A_l = W_L ... W_{l+1}; R_l = C^T (W_{l-1} ... W_1)^T (W_{l-1} ... W_1) C with C C^T = Sigma the
    second moment of the data, C (d, r) of full column rank. A bias adds its column of ones to the data.
    """

    _dual: _core.LinearDual

    def __init__(self, problem: Problem) -> None:
        net = problem.net
        if not net.is_linear:
            raise ValueError(
                f"the linear dual needs a linear network but this one is not: {net!r}; use gram() or dual()"
            )
        check_scalar_loss(problem)
        affine = any(layer.bias is not None for layer in net.dense)
        data_range = range_factor(problem.X, problem.scale, affine, problem.loss_at.weights)
        needed = linear_dual_bytes(net.depth, net.out_features, len(data_range), net.dtype.itemsize)
        check_memory(needed, problem.memory_limit, "the linear dual with its factors P_l and R_l", "use gram()")
        core = problem.device.core.LinearDual(net.place(problem.X.shape[1:], problem.device).core, data_range, affine)
        super().__init__(problem, core, len(data_range), net.out_features, interleaved=False)
        self._dual = core

    def factors(self) -> tuple[Array, Array]:
        """P (L, k, k) and R (L, r, r), copies."""
        self.check_unchanged()
        depth = self.problem.net.depth
        P = self.device.empty((depth * self._copies, self._copies), self.dtype)
        R = self.device.empty((depth * self._block, self._block), self.dtype)
        self._dual.factors(P, R)
        return P.reshape(depth, self._copies, -1), R.reshape(depth, self._block, -1)

    def __repr__(self) -> str:
        N = self.shape[0]
        return f"LinearDual({N} x {N}, k {self._copies}, rank of the data {self._block}, {self.dtype})"
