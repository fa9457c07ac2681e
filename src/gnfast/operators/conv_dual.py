"""The structured dual of linear convolutional networks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gnfast import _arrays, _core
from gnfast._arrays import Array
from gnfast._memory import check_memory
from gnfast.operators.costs import conv_dual_bytes
from gnfast.operators.dual import Dual, check_scalar_loss
from gnfast.operators.problem import Problem
from gnfast.operators.symmetric import KnownDiagonal


class ConvDual(Dual):
    """(I (x) C^T) U U^T (I (x) C) of a linear convolutional network (c_out r, c_out r), stored.

    The network is one convolution with a kernel w_eff (c_out, c_in, s_eff); U (c_out c_in s_eff, p) is the derivative
    of w_eff in the parameters, and C C^T the second moment of the patches of the data that the outputs see, summed over
    the positions, mean over the samples; C (c_in s_eff, r) has full column rank. With biases w_eff has one more entry
    per output and a patch is (x, 1). G = U^T (I (x) C C^T) U has the same non-zero spectrum.

    The arithmetic of the kernel is NumPy's on every device; a GPU keeps the matrix and multiplies with it.

    Raises:
        ValueError: The network is not of this kind or the loss is not "mse".
        MemoryError: The matrix exceeds the `memory_limit`.

    Reference: Zhao, Singh & Lucchi (NeurIPS 2024), for the convolution of the whole; `networks.patches` for how.
    """

    space = "linear map"

    def __init__(self, problem: Problem) -> None:
        linear = problem.convolution
        if isinstance(linear, str):
            raise ValueError(
                f"the linear dual needs dense layers, or layers that together are one convolution, but {linear}; "
                "use gram() or dual()"
            )
        check_scalar_loss(problem)
        needed = conv_dual_bytes(linear, problem.dtype.itemsize)
        check_memory(needed, problem.memory_limit, "the linear dual, stored,", "use gram()")
        self._convolution = linear
        X = _arrays.to_host(problem.X)
        self._patches = linear.range_factor(X, problem.scale, problem.loss_at.weights)
        size = linear.channels * len(self._patches)
        total = np.zeros((size, size))
        for term in linear.grams(self._patches):
            total += term
        dense = _arrays.as_c_contiguous(total.astype(problem.dtype, copy=False))
        self._dense = _arrays.read_only(problem.device.upload(dense))
        core = problem.device.core.stored(self._dense)
        super().__init__(problem, core, len(self._patches), linear.channels, interleaved=False)

    def form(self, out: Array, progress: _core.Progress = None) -> int:
        """Write the lower triangle into `out` (N, N) in C order, and return the number of products made for it."""
        np.copyto(out, self._dense)
        return 0

    def to_dense(self) -> Array:
        """The matrix as an array (N, N), read-only, which products use."""
        self.check_unchanged()
        return self._dense

    def known_diagonal(self) -> KnownDiagonal:
        """The diagonal of the stored matrix."""
        return KnownDiagonal(self.to_dense().diagonal().astype(np.float64), "entries of the matrix")

    def lift_rows(self, rows: Array, out: Array) -> None:
        """Write J^T y for each y in `rows` (s, N) into `out` (s, p), up to the factor of `lift`."""
        self._by_numpy(self._convolution.lift, rows, out)

    def _restrict(self, rows: Array, out: Array) -> None:
        self._by_numpy(self._convolution.restrict, rows, out)

    def _by_numpy(self, f: Callable[[Array, Array, Array], None], rows: Array, out: Array) -> None:
        """f(rows, patches, out) in the machine's memory."""
        found = out if self.device is _arrays.CPU else np.empty(out.shape, out.dtype)
        f(_arrays.to_host(rows), self._patches, found)
        if found is not out:
            out[:] = self.device.upload(found)

    def _mean_over_outputs(self, out: Array) -> None:
        k, r = self._copies, self._block
        blocks = self._dense.reshape(k, r, k, r)
        out[:] = sum(blocks[a, :, a] for a in range(k)) / k

    def __repr__(self) -> str:
        N, c_in = self.shape[0], self._convolution.patches.shape[0]
        return (
            f"ConvDual({N} x {N}, {self._copies} channels of {c_in} x {self._convolution.sizes[0]}, "
            f"rank of the patches {self._block}, {self.dtype})"
        )
