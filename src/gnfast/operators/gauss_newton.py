"""The Gauss-Newton matrix of a network on data, as a SciPy LinearOperator."""

from __future__ import annotations

from typing import Any

from gnfast import _arrays, _checks
from gnfast._arrays import Array
from gnfast.losses import LossName
from gnfast.networks.network import Network
from gnfast.operators.conv_dual import ConvDual
from gnfast.operators.costs import BLOCK, MEMORY_BOUND, gram_costs
from gnfast.operators.diagonal import diagonal_of, rows_fit
from gnfast.operators.dual import Dual
from gnfast.operators.gram import Gram
from gnfast.operators.jacobian import Jacobian, jacobian_of
from gnfast.operators.layer_blocks import Block
from gnfast.operators.layer_slices import Layers, LayerSlice, layers_of
from gnfast.operators.linear_dual import LinearDual
from gnfast.operators.masked import operator_of
from gnfast.operators.plan import Plan, make_plan
from gnfast.operators.preconditioners import Kfac, Preconditioned, preconditioner_of
from gnfast.operators.problem import Problem, ProductMethod, Reduction
from gnfast.operators.symmetric import KnownDiagonal, SymmetricOperator


class GaussNewton(SymmetricOperator):
    """The Gauss-Newton matrix G = (1/n) sum_i J_i^T H_i J_i of a network on data, as an operator (p, p).

    J_i (k, p) is the Jacobian of the outputs at sample i in the parameters, H_i (k, k) the Hessian of the loss in the
    outputs; neither needs targets for the losses here. Products keep the forward pass and never repeat it.

    Args:
        net: The network, p parameters.
        X: Samples (n, d), or (n, c, h, w) or (n, c, l) where the layers take such, of the network's dtype; referred to,
            not copied.
        loss: "mse" (1/2 |F - y|^2, H = I), "cross_entropy" (softmax), "binary_cross_entropy" (with logits), "poisson"
            (log-rates, H = diag(exp F)), "gaussian_nll" (pairs of outputs, a mean and a log-variance s; H is the Fisher
            information diag(exp(-s), 1/2)), or the Hessians H_i themselves, an array (n, k, k) of symmetric positive
            semi-definite blocks of the network's dtype, of any rank.
        targets: Unused: the Gauss-Newton matrix does not depend on them. Accepted so that calls read as elsewhere.
        reduction: "mean" over samples, or "sum", which drops the factor 1/n. It is 1/n with weights too; PyTorch's
            class-weighted cross_entropy divides by the sum of the weights instead: divide yours by their mean for that.
        device: "cpu", or "cuda" (CuPy's current GPU) or "cuda:<number>", where X, the weights and all that is kept are
            copied unless they are there. Vectors are then CuPy's arrays, or others on that GPU such as PyTorch's, and
            so are products; numbers about the spectrum are NumPy's. See docs/gpu.md.
        memory_limit: Bytes that one operation of this operator and its duals may use; None sets no limit on the CPU,
            and what is free when the operator is made on a GPU.
        method: How a product is made: "usual" (four matrix products a layer), "factored" (two, with the derivative of
            the outputs in every pre-activation kept: plain dense networks), "stored" (two with the rows of the
            Jacobian, which are kept: networks with other layers), or "auto", by cost and memory.
        weights: (n,), not negative, of the network's dtype, one factor of H_i a sample; or (n, k), one a sample and
            output, for the losses whose H_i is diagonal: all but "cross_entropy" and given blocks. None for ones.

    Raises:
        TypeError: Wrong kinds or dtypes.
        ValueError: Wrong shapes, names, NaN or infinite values.
        MemoryError: `memory_limit` is too small for the forward pass, or for the factors of given blocks.
        RuntimeError: It is used after X, weights or the network's arrays have been changed in place, as a training step
            changes those of a PyTorch module that the network was read from.

    References:
        Schraudolph, "Fast curvature matrix-vector products for second-order gradient descent", Neural Computation 2002.

    Examples:
        >>> import gnfast as gn
        >>> X = gn.datasets.digits()[0][:50]
        >>> G = gn.GaussNewton(gn.mlp([64, 256, 10], seed=0), X, "cross_entropy")
        >>> G.shape, G.gram().shape, G.dual().shape  # the last of full rank
        ((18944, 18944), (500, 500), (450, 450))
    """

    space = "parameters"
    problem: Problem

    def __init__(
        self,
        net: Network,
        X: Any,
        loss: LossName | Any = "mse",
        targets: object = None,
        reduction: Reduction | str = "mean",
        device: str = "cpu",
        memory_limit: float | None = None,
        method: ProductMethod | str = "auto",
        weights: Any = None,
    ) -> None:
        self._take(Problem(net, X, loss, reduction, device, memory_limit, method, weights))

    def _take(self, problem: Problem) -> None:
        self.problem, self.exponent, self.memory_limit = problem, problem.exponent, problem.memory_limit
        self.net, self.X, self.outputs, self.loss_at = problem.net, problem.X, problem.outputs, problem.loss_at
        self.reduction, self.method = problem.reduction, problem.method
        dtype, home, core = problem.dtype, problem.device, problem.core
        if problem.net.kept is not None:
            core = operator_of(problem.products.apply, problem.parameters, dtype, home)
        super().__init__(core, dtype, home)
        self._grams: dict[int, Gram] = {}
        self._linear_dual: LinearDual | ConvDual | None = None

    @classmethod
    def _of(cls, problem: Problem) -> GaussNewton:
        made = cls.__new__(cls)
        made._take(problem)
        return made

    def _recipe(self) -> tuple[Any, ...]:
        return type(self)._of, (self.problem,)

    def enlarged(self) -> GaussNewton:
        """The same times a power of two, for entries too small for the dtype."""
        return self._of(self.problem.enlarged())

    @property
    def loss(self) -> str:
        """The name of the loss, "blocks" where its Hessians are given."""
        return self.loss_at.name

    @property
    def weights(self) -> Array | None:
        """The weights of the samples, (n,) or (n, k), or None for ones."""
        return self.loss_at.weights

    @property
    def scale(self) -> float:
        """The factor of the sum over samples: 1/n for the mean."""
        return self.problem.scale

    def _apply(self, rows: Array, out: Array) -> None:
        super()._apply(rows, out)
        self._look_at_first_product(rows, out)

    def jacobian(self) -> Jacobian:
        """J (n k, p), the derivative of all outputs in all parameters; rows are ordered (sample, output)."""
        return jacobian_of(self.problem)

    def gram(self, reduced: bool = False) -> Gram:
        """The Gram (NTK) dual K = (1/n) R^T J J^T R (n k, n k), H_i = R_i R_i^T, with G's non-zero spectrum.

        Args:
            reduced: R_i (k, q) instead, q the largest rank of an H_i, so that K (n q, n q) is without the null
                directions that are known beforehand: q = k - 1 for the softmax, the rank of the blocks where they are
                given, and k, which changes nothing, for the other losses.
        """
        k = self.outputs
        rank = self.loss_at.rank if _checks.boolean(reduced, "reduced") else k
        if rank not in self._grams:
            self._grams[rank] = Gram(self.problem, rank)
        return self._grams[rank]

    def linear_dual(self) -> LinearDual | ConvDual:
        """The dual of a linear network in the space of its linear map; mean squares only.

        Of dense layers sum_l P_l (x) S Q_l S (k r, k r), r the rank of the data; of convolutions that together are one
        (dense layers after a `Flatten` included) that of its kernel, (c_out r, c_out r), r the rank of the patches.

        Weights of the samples go into S.

        Raises:
            ValueError: The network is not linear, no convolution as a whole, the loss is not "mse", or weights differ
                between outputs.
        """
        if self.net.kept is not None:
            raise ValueError("the linear dual needs all weights as parameters but the network is pruned; use gram()")
        if self._linear_dual is None:
            self._linear_dual = (LinearDual if self.net.is_feedforward_dense else ConvDual)(self.problem)
        return self._linear_dual

    def dual(self) -> GaussNewton | Gram | LinearDual | ConvDual:
        """The cheapest of the three operators with G's non-zero spectrum: see `plan()`."""
        return {"parameters": lambda: self, "samples": lambda: self.gram(reduced=True), "linear map": self.linear_dual}[
            self.plan().space
        ]()

    def dual_for_largest(self, k: int, dense: int) -> Dual | None:
        """The dual that gives the k largest eigenvalues for fewer flops, setting up included; else None.

        Up to the size `dense` a whole spectrum by LAPACK costs next to nothing.
        """
        n, plan = len(self.X), self.plan(1)
        spaces = {space.name: space for space in plan.spaces}
        vectors = 2 * k + 10
        cost = {"parameters": vectors * plan.flops}
        linear, samples = spaces["linear map"], spaces["samples"]
        if not linear.excluded and k < linear.size:
            cost["linear map"] = linear.flops  # dominated by forming the small matrices
        forms = False
        costs, size = gram_costs(self.problem, samples.size // n), samples.size
        if k < size and (self.memory_limit is None or costs.kept + costs.more <= self.memory_limit):
            loose = costs.start + vectors * costs.product
            stored = costs.forming + vectors * MEMORY_BOUND * size**2
            cost["samples"] = min(loose, stored)
            forms = stored < loose and not samples.excluded and size > dense
        best = min(cost, key=lambda name: cost[name])
        if best == "linear map":
            return self.linear_dual()
        if best == "parameters":
            return None
        dual = self.gram(reduced=True)
        if forms and not dual.stored:
            dual.to_dense()
        return dual

    def dual_for_systems(self, asked: bool) -> Gram | None:
        """Its Gram, where vectors are less than a quarter as long or it is `asked` for."""
        # The linear map's dual has no cheap way from parameters; its networks are solved in the space of samples too.
        shorter = len(self.X) * self.outputs < self.shape[0] // 4
        wide = shorter and self.plan().space != "parameters" and rows_fit(self.problem)
        return self.gram(reduced=True) if asked or wide else None

    def diagonal(self) -> Array:
        """diag G, (p,), exactly, in float64 and where products are: less than one product for plain dense networks.

        Raises:
            MemoryError: What it is made of exceeds `memory_limit`; `gnfast.diagonal` estimates it then.
        """
        return diagonal_of(self.problem)

    def known_diagonal(self) -> KnownDiagonal | None:
        """The diagonal, where the derivatives that it is made of are within `memory_limit`."""
        if not rows_fit(self.problem):
            return None
        return KnownDiagonal(self.diagonal(), "squares of the Jacobian, one product a layer")

    def trace_operator(self) -> SymmetricOperator:
        """The dual whose diagonal is free; itself if that is its own, or if none is within `memory_limit`."""
        if self.net.kept is not None:
            return self
        if self.plan().space == "linear map":
            return self.linear_dual()
        return self.gram(reduced=True) if rows_fit(self.problem) else self

    def layers(self) -> Layers:
        """The layers with parameters: names, and which entries of G's vectors are theirs; `print(...)` shows a table.

        A layer's weight and bias belong together. `gnfast.by_layer.cond(G)` and `.spectra(G)` give the condition number
        and the eigenvalues of each block; `gnfast.eigsh`, `trace`, `density` and so on take a `G.block(layer)`.
        """
        return layers_of(self.net)

    def block(self, layer: int | str | LayerSlice) -> Block:
        """G_l = (1/n) sum_i J_il^T H_i J_il (p_l, p_l), the diagonal block of one layer's parameters.

        Args:
            layer: An entry of `layers()`, its number there, or its name.

        Raises:
            TypeError, ValueError: No such layer, or one whose parameters are all pruned.
            MemoryError: `memory_limit` is too small for the rows that its products are made with.
        """
        return Block(self.problem, layers_of(self.net).find(layer))

    def kfac(self) -> Kfac:
        """The Kronecker-factored approximation of G's blocks (K-FAC), as an operator (p, p): see `Kfac`.

        Raises:
            ValueError: A pruned network, or one whose samples depend on each other.
        """
        self.check_unchanged()
        found = Kfac(self.problem)
        largest = max(float(abs(factor.B).max()) for factor in found.factors)
        self.warn_of_underflow("the factors B of K-FAC underflow", largest, _arrays.vanishing(self.dtype))
        return found

    def preconditioned(self, preconditioner: Any, damping: float = 0.0) -> Preconditioned:
        """(M + damping I)^(-1/2) G (M + damping I)^(-1/2), or its dual: the operator that `cond` is asked about.

        Args:
            preconditioner: "diagonal", "block", "kfac", the diagonal of M as an array (p,), float32 or float64, or an
                object of `gnfast.protocol.Preconditioner`; see `cond`.
            damping: At least 0; without it M is inverted on its range, which holds that of G.
        """
        root, name = preconditioner_of(self.problem, preconditioner, damping)
        return Preconditioned(self.gram(reduced=True), root, name)

    def with_preconditioner(self, preconditioner: Any, damping: float) -> Preconditioned:
        """See `preconditioned`."""
        return self.preconditioned(preconditioner, damping)

    def plan(self, vectors: int = BLOCK) -> Plan:
        """Sizes, flops and memory of the three spaces and of the two ways to a product, what is chosen and why.

        Args:
            vectors: The block of vectors for which the product is planned, at least 1; more than 8 change nothing.
        """
        return make_plan(self.problem, _checks.integer(vectors, "vectors"))

    def __repr__(self) -> str:
        p, n, method = self.shape[0], len(self.X), self.problem.products.plan(BLOCK).method
        loss = self.loss if self.weights is None else f"weighted {self.loss}"
        return f"GaussNewton({p} x {p}, {loss}, {n} samples, {method} product of the core, {self.dtype}, {self.device})"
