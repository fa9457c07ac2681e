"""The Gauss-Newton matrix of a network on data, its Jacobian and its duals, as SciPy LinearOperators."""

from __future__ import annotations

import copy
import math
import warnings
from functools import cached_property
from operator import methodcaller
from typing import TYPE_CHECKING, Any

import numpy as np

from gnfast import _arrays, _checks, _core
from gnfast._arrays import Array, Device, FreeMemory
from gnfast.factors import range_factor
from gnfast.losses import LossAt, loss_at, relative_rounding, saturation
from gnfast.networks import Network, check_network
from gnfast.networks.patches import Chain, chain
from gnfast.operators.jacobian import Jacobian
from gnfast.operators.linear_operator import check_finite
from gnfast.operators.masked import KeptGaussNewton, KeptGram, operator_of
from gnfast.operators.plan import BLOCK, Plan, check_memory, check_method, gram_costs, linear_dual_bytes, make_plan
from gnfast.operators.symmetric import SymmetricOperator
from gnfast.operators.wide_limit import Decoupling

if TYPE_CHECKING:
    from gnfast.operators.conv_dual import ConvDual
    from gnfast.operators.layer_blocks import Block, Layers, Part
    from gnfast.operators.preconditioners import Kfac, Preconditioned


class GaussNewton(SymmetricOperator):
    """The Gauss-Newton matrix G = (1/n) sum_i J_i^T H_i J_i of a network on data, as an operator (p, p).

    J_i (k, p) is the Jacobian of the outputs at sample i in the parameters, H_i (k, k) the Hessian of the loss in the
    outputs; neither needs targets for the losses here. Products keep the forward pass and never repeat it.

    Args:
        net: The network, p parameters.
        X: Samples (n, d), or (n, c, h, w) or (n, c, l) where the layers take such, of the network's dtype; referred to,
            not copied.
        loss: "mse" (1/2 |F - y|^2, H = I), "cross_entropy" (softmax), "binary_cross_entropy" (with logits), "poisson"
            (log-rates, H = diag(exp F)), or the Hessians H_i themselves, an array (n, k, k) of symmetric positive
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
            the outputs in every pre-activation kept: chains of dense layers), "stored" (two with the rows of the
            Jacobian, which are kept: networks with other layers), or "auto", by cost and memory.
        weights: (n,), not negative, of the network's dtype, one factor of H_i a sample; or (n, k), one a sample and
            output, for the losses whose H_i is diagonal: all but "cross_entropy" and given blocks. None for ones.

    Raises:
        TypeError: Wrong kinds or dtypes.
        ValueError: Wrong shapes, names, NaN or infinite values.
        MemoryError: `memory_limit` is too small for the forward pass, or for the factors of given blocks.
        RuntimeError: It is used after a training step has changed the PyTorch module that the network was read from.

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
    _looked = False  # whether products underflow

    def __init__(
        self,
        net: Network,
        X: Any,
        loss: Any = "mse",
        targets: object = None,
        reduction: str = "mean",
        device: str = "cpu",
        memory_limit: float | None = None,
        method: str = "auto",
        weights: Any = None,
    ) -> None:
        home = _arrays.device(device)
        self.net = check_network(net)
        self.X = home.upload(net.check_samples(X, home if _arrays.is_on_gpu(X) else _arrays.CPU))
        self.outputs = net.place(self.X.shape[1:], home).outputs
        self.reduction = _checks.choice(reduction, "reduction", ("mean", "sum"))
        self.method = check_method(method, net)
        self.memory_limit = home.free_memory if memory_limit is None else _checks.real(memory_limit, "memory_limit")
        if self.memory_limit is not None and self.memory_limit <= 0:
            raise ValueError(
                f"memory_limit is {memory_limit} but must be a positive number of bytes, or None for no limit"
            )
        n, k = len(self.X), self.outputs
        named = isinstance(loss, str) or (isinstance(loss, LossAt) and loss.blocks is None)
        if not named:
            check_memory(n * k**2 * 8, self.memory_limit, f"a factorisation of {n} blocks", "pass fewer samples")
        self.loss_at = loss_at(loss, weights, n, k, net.dtype)
        self._make(home)

    def _make(self, home: Device) -> None:
        net, n, k = self.net, len(self.X), self.outputs
        flat, given = self.X.reshape(n, -1), self.loss_at.for_core(self.scale, k, net.dtype, home)
        placed, limit = net.place(self.X.shape[1:], home), self.memory_limit or 0.0
        core = home.core.GaussNewton(placed.core, flat, self.loss, given, self.scale, self.method, limit)
        self.whole_core = core  # on all entries of the arrays
        self.products = core if net.kept is None else KeptGaussNewton(core, home.upload(net.kept))
        operator = core if net.kept is None else operator_of(self.products.apply, len(net.kept), net.dtype, home)
        super().__init__(operator, net.dtype, home)
        self._grams: dict[int, Gram] = {}
        self._linear_dual: LinearDual | ConvDual | None = None

    def enlarged(self) -> GaussNewton:
        """The same times a power of two, for entries too small for the dtype."""
        twin = copy.copy(self)
        twin.exponent = _arrays.ENLARGEMENT[str(self.dtype)]
        twin._make(self.device)
        return twin

    def _recipe(self) -> tuple[Any, ...]:
        if self.exponent:
            plain = copy.copy(self)
            plain.exponent = 0
            return methodcaller("enlarged"), (plain,)
        limit = None if isinstance(self.memory_limit, FreeMemory) else self.memory_limit
        options = (self.loss_at, None, self.reduction, str(self.device), limit, self.method)
        return type(self), (self.net, self.X, *options)

    def check_unchanged(self) -> None:
        """Raise a RuntimeError if the PyTorch module has changed since the network was read from it."""
        self.net.check_unchanged()

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
        """What multiplies the sum over samples: 1/n for the mean."""
        return math.ldexp(1 / len(self.X) if self.reduction == "mean" else 1.0, self.exponent)

    def saturation(self) -> str:
        """Why it underflows in its dtype, if the loss's Hessians do at all samples; else nothing."""
        return saturation(self.loss_at, self._host_outputs, self.dtype, self.exponent)

    def relative_rounding(self) -> float:
        """By how much of itself rounding may move any eigenvalue, besides that of the products."""
        return relative_rounding(self.loss_at, lambda: self._host_outputs, self.dtype)

    @cached_property
    def _host_outputs(self) -> Array:
        found: Array = _arrays.to_host(self.net(self.X))
        return found

    def _apply(self, rows: Array, out: Array) -> None:
        super()._apply(rows, out)
        if not self._looked:  # the first product tells whether all do
            self._looked = True
            if float(abs(out).max()) < _arrays.vanishing(self.dtype) * float(abs(rows).max()) and (
                why := self.saturation()
            ):
                warnings.warn(f"the product underflows: {why}", stacklevel=_checks.level_of_caller())

    def jacobian(self) -> Jacobian:
        """J (n k, p), the derivative of all outputs in all parameters; rows are ordered (sample, output)."""
        shape = (len(self.X) * self.outputs, self.shape[1])
        owner, check = self.without_duals(), self.net.check_unchanged
        return Jacobian(self.products, shape, self.dtype, self.device, check, owner)

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
            self._grams[rank] = Gram(self, rank)
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
        from gnfast.operators.conv_dual import ConvDual

        if self.net.kept is not None:
            raise ValueError("the linear dual needs all weights as parameters but the network is pruned; use gram()")
        if self._linear_dual is None:
            self._linear_dual = LinearDual(self) if self.net.is_chain else ConvDual(self)
        return self._linear_dual

    @cached_property
    def convolution(self) -> Chain | str:  # or why the layers are none
        """The network as a chain of linear convolutions on made-up patches."""
        return chain(self.net.layers, self.X.shape[1:])

    def dual(self) -> GaussNewton | Gram | LinearDual | ConvDual:
        """The cheapest of the three operators with G's non-zero spectrum: see `plan()`."""
        return {"parameters": lambda: self, "samples": lambda: self.gram(reduced=True), "linear map": self.linear_dual}[
            self.plan().space
        ]()

    def diagonal(self) -> Array:
        """diag G, (p,), exactly, in float64 and where products are: less than one product for chains of dense layers.

        Raises:
            MemoryError: What it is made of exceeds `memory_limit`; `gnfast.diagonal` estimates it then.
        """
        self.check_unchanged()
        costs, forward = gram_costs(self, self.loss_at.rank), self.products.plan(1)["bytes_forward"]
        check_memory(costs.kept + forward, self.memory_limit, "the exact diagonal", "use gnfast.diagonal")
        out = self.device.empty((1, self.shape[0]), self.dtype)
        self.products.diagonal(out)
        values: Array = out[0].astype(np.float64)
        return values

    def layers(self) -> Layers:
        """The layers with parameters: names, and which entries of G's vectors are theirs; `print(...)` shows a table.

        A layer's weight and bias belong together. `G.layers().cond()` and `.spectra()` give the condition number and
        the eigenvalues of each block; `gnfast.eigsh`, `trace`, `density` and so on take a `G.block(layer)`.
        """
        from gnfast.operators.layer_blocks import layers_of

        return layers_of(self)

    def block(self, layer: int | str | Part) -> Block:
        """G_l = (1/n) sum_i J_il^T H_i J_il (p_l, p_l), the diagonal block of one layer's parameters.

        Args:
            layer: An entry of `layers()`, its number there, or its name.

        Raises:
            TypeError, ValueError: No such layer, or one whose parameters are all pruned.
            MemoryError: `memory_limit` is too small for the rows that its products are made with.
        """
        from gnfast.operators.layer_blocks import Block, layers_of

        return Block(self, layers_of(self).find(layer))

    def kfac(self) -> Kfac:
        """The Kronecker-factored approximation of G's blocks (K-FAC), as an operator (p, p): see `Kfac`.

        Raises:
            ValueError: A pruned network, or one whose samples depend on each other.
        """
        from gnfast.operators.preconditioners import Kfac

        self.check_unchanged()
        return Kfac(self)

    def preconditioned(self, preconditioner: Any, damping: float = 0.0) -> Preconditioned:
        """(M + damping I)^(-1/2) G (M + damping I)^(-1/2), or its dual: the operator that `cond` is asked about.

        Args:
            preconditioner: "diagonal", "block", "kfac", the diagonal of M as an array (p,), float32 or float64, or an
                object of `gnfast.protocol.Preconditioner`; see `cond`.
            damping: At least 0; without it M is inverted on its range, which holds that of G.
        """
        from gnfast.operators.preconditioners import Preconditioned, preconditioner_of

        return Preconditioned(self, *preconditioner_of(self, preconditioner, damping))

    def without_duals(self) -> GaussNewton:
        """The same operator on the same core, with no duals kept.

        What a dual refers to: if each kept the other, both would hold their memory until Python looks for cycles.
        """
        twin = copy.copy(self)
        twin._grams, twin._linear_dual = {}, None
        return twin

    def plan(self, vectors: int = BLOCK) -> Plan:
        """Sizes, flops and memory of the three spaces and of the two ways to a product, what is chosen and why.

        Args:
            vectors: The block of vectors for which the product is planned, at least 1; more than 8 change nothing.
        """
        return make_plan(self, _checks.integer(vectors, "vectors"))

    def __repr__(self) -> str:
        p, n, method = self.shape[0], len(self.X), self.products.plan(BLOCK)["method"]
        loss = self.loss if self.weights is None else f"weighted {self.loss}"
        return f"GaussNewton({p} x {p}, {loss}, {n} samples, {method} product of the core, {self.dtype}, {self.device})"


class Dual(Decoupling):
    """What the two duals share beyond that: vectors that can be taken to parameters."""

    owner: GaussNewton
    _dual: _core.Dual | KeptGram  # where the core holds the dual

    def __init__(
        self, owner: GaussNewton, core: _core.Operator | KeptGram, block: int, copies: int, interleaved: bool
    ) -> None:
        operator = (
            operator_of(core.apply, block * copies, owner.dtype, owner.device) if isinstance(core, KeptGram) else core
        )
        super().__init__(operator, owner.dtype, owner.device, block, copies, interleaved)
        self.owner = owner.without_duals()
        self.parameters = owner.shape[0]  # entries of what a vector is lifted to
        self.memory_limit = owner.memory_limit

    def _recipe(self) -> tuple[Any, ...]:
        return type(self), (self.owner,)

    def check_unchanged(self) -> None:
        """Raise a RuntimeError if the PyTorch module has changed since the network was read from it."""
        self.owner.check_unchanged()

    def _apply(self, rows: Array, out: Array) -> None:
        check_finite(rows, "V")
        self.core.apply(rows, out)

    def lift(self, Y: Any) -> Array:
        """Vectors of the dual taken to parameters: columns of (N, s) to columns of (p, s).

        An eigenvector y of the dual with eigenvalue lambda becomes one of G with the same eigenvalue and the norm
        sqrt(lambda) |y| (divide by it).
        """
        self.check_unchanged()
        given = self._rows_of(Y, "Y", self.shape[0])
        check_finite(given.rows, "Y")
        out = self.device.empty((len(given.rows), self.parameters), self.dtype)
        self.lift_rows(given.rows, out)
        return _arrays.like(given.back(out).T, Y)  # type: ignore[no-any-return]  # a tensor of a tensor

    def restrict(self, rows: Array) -> Array:
        """Each row v of `rows` (s, p) taken to the dual, (s, N): the adjoint of `lift`.

        An eigenvector of norm one with eigenvalue lambda becomes one of the dual, of norm sqrt(lambda).
        """
        out = self.device.empty((len(rows), self.shape[0]), self.dtype)
        self._restrict(rows, out)
        return out

    def lift_rows(self, rows: Array, out: Array) -> None:
        """Write `lift` of each row (s, N) into `out` (s, p), up to its factor."""
        self._dual.lift(rows, out, self.parameters)

    def _restrict(self, rows: Array, out: Array) -> None:
        self._dual.restrict(rows, out, self.parameters)

    def _mean_over_outputs(self, out: Array) -> None:
        self._dual.mean_over_outputs(out)


class Gram(Dual):
    """The Gram (NTK) dual, applied without being stored, until `to_dense()` forms and keeps it.

    With J that in one layer's parameters if it is a layer's: `part`, whose vectors it lifts to.
    """

    _dual: _core.Gram | KeptGram
    space = "samples"

    def __init__(self, owner: GaussNewton, rank: int, part: Part | None = None) -> None:
        n = len(owner.X)
        costs = gram_costs(owner, rank, None if part is None else part.size)
        check_memory(costs.kept, owner.memory_limit, "the Gram dual with its backward rows", "pass fewer samples")
        first, last, own = (0, owner.whole_core.size, slice(None)) if part is None else (*part.entries, part.own)
        whole, kept = owner.device.core.Gram(owner.whole_core, rank < owner.outputs, first, last), owner.net.kept
        if kept is None:
            core = whole
        else:
            inside = owner.device.upload(kept[own] - first)
            core = KeptGram(whole, inside, last - first, owner.dtype, owner.device)
        super().__init__(owner, core, n, rank, interleaved=True)
        self._dual, self.part, self.exponent = core, part, owner.exponent
        self.parameters = owner.shape[0] if part is None else part.size
        self._rank = rank
        self._beside_bytes = costs.least
        self._dense: Array | None = None

    def _recipe(self) -> tuple[Any, ...]:
        return _gram, (self.owner, self._rank, None if self.part is None else self.part.index, self._dense)

    def form(self, out: Array, progress: _core.Progress = None) -> int:
        """Write the lower triangle into `out` (N, N) in C order, and return the number of products made for it."""
        if self._dense is not None:
            np.copyto(out, self._dense)
        else:
            self._dual.form(out, progress)
        return 0

    def enlarged(self) -> Gram:
        """The same times a power of two, for entries too small for the dtype."""
        return Gram(self.owner.enlarged(), self._copies, self.part)

    def diagonal(self) -> Array:
        """The diagonal (N,), exactly, in float64 and NumPy's: norms of the Jacobian's rows, without a product."""
        self.check_unchanged()
        self.device.enter()
        return self._dual.diagonal()

    @property
    def stored(self) -> bool:
        """Whether products use the matrix that `to_dense()` has formed."""
        return self._dense is not None

    def to_dense(self) -> Array:
        """K as an array (N, N), not to be written to; it is kept, and products use it from then on."""
        self.check_unchanged()
        if self._dense is None:
            self._store(super().to_dense())
        return self._dense  # type: ignore[return-value]  # which is there now

    def _store(self, dense: Array) -> None:
        self._dense = _arrays.read_only(dense)
        self.core = self.device.core.stored(self._dense)

    def __repr__(self) -> str:
        state = "stored" if self.stored else "not stored"
        whose = "" if self.part is None else f" of {self.part.name}"
        return f"Gram({self.shape[0]} x {self.shape[0]}{whose}, {state}, {self.dtype})"


def _gram(owner: GaussNewton, rank: int, part: int | None, dense: Array | None) -> Gram:
    """One that was pickled, with its matrix where it had been formed."""
    made = Gram(owner, rank, None if part is None else owner.layers()[part])
    if dense is not None:
        made._store(dense)
    return made


class LinearDual(Dual):
    """sum_l P_l (x) R_l of a linear network: P_l (k, k) and R_l (r, r) hold all of the data and of the widths.

    P_l = A_l A_l^T with A_l = W_L ... W_{l+1}; R_l = C^T (W_{l-1} ... W_1)^T (W_{l-1} ... W_1) C with C C^T = Sigma the
    second moment of the data, C (d, r) of full column rank. A bias adds its column of ones to the data.
    """

    _dual: _core.LinearDual
    space = "linear map"
    cheap_products = True

    def __init__(self, owner: GaussNewton) -> None:
        net = owner.net
        if not net.is_linear:
            raise ValueError(
                f"the linear dual needs a linear network but this one is not: {net!r}; use gram() or dual()"
            )
        if not owner.loss_at.is_scalar:
            got = "with weights (n, k)" if owner.loss == "mse" else repr(owner.loss)
            raise ValueError(
                f"the linear dual needs loss='mse', whose Hessian is a multiple of I at all samples, not {got}; "
                "use gram()"
            )
        affine = any(layer.bias is not None for layer in net.dense)
        data_range = range_factor(owner.X, owner.scale, affine, owner.weights)
        needed = linear_dual_bytes(net, len(data_range))
        check_memory(needed, owner.memory_limit, "the linear dual with its factors P_l and R_l", "use gram()")
        core = owner.device.core.LinearDual(net.place(owner.X.shape[1:], owner.device).core, data_range, affine)
        super().__init__(owner, core, len(data_range), net.out_features, interleaved=False)
        self._dual = core

    def factors(self) -> tuple[Array, Array]:
        """P (L, k, k) and R (L, r, r), copies."""
        self.check_unchanged()
        depth = self.owner.net.depth
        P = self.device.empty((depth * self._copies, self._copies), self.dtype)
        R = self.device.empty((depth * self._block, self._block), self.dtype)
        self._dual.factors(P, R)
        return P.reshape(depth, self._copies, -1), R.reshape(depth, self._block, -1)

    def __repr__(self) -> str:
        N = self.shape[0]
        return f"LinearDual({N} x {N}, k {self._copies}, rank of the data {self._block}, {self.dtype})"
