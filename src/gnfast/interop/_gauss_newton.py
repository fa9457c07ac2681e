"""Gauss-Newton operators of any PyTorch module or function, by automatic differentiation."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gnfast import _arrays, _checks, _core
from gnfast._arrays import Array
from gnfast._memory import megabytes
from gnfast.interop._autograd import ROWS, Products
from gnfast.interop._models import model_of
from gnfast.interop._probes import raise_of_memory
from gnfast.interop._rows import each_rows
from gnfast.interop._tensors import AutogradJacobian, OnTensors
from gnfast.losses import LossName
from gnfast.operators import SymmetricOperator
from gnfast.operators.costs import GramCosts
from gnfast.operators.jacobian import Jacobian
from gnfast.operators.masked import operator_of
from gnfast.operators.plan import Space
from gnfast.operators.problem import Reduction
from gnfast.operators.symmetric import KnownDiagonal, Lifting
from gnfast.operators.wide_limit import Decoupling


class GaussNewton(OnTensors, SymmetricOperator):
    """The Gauss-Newton matrix G = (1/n) sum_i J_i^T H_i J_i (p, p) of any PyTorch model, by PyTorch's autograd.

    A `LinearOperator` that every function of gnfast takes: `cond`, `rank`, `density` work on its `dual()`. Vectors are
    NumPy's or tensors on the model's device, where products of tensors stay. For models that `gnfast.from_torch` can
    read, `gnfast.GaussNewton` is faster. A product linearizes the model once (`torch.func.linearize` and `vjp`) and
    multiplies blocks of vectors by vmap; what these cannot transform goes through `torch.autograd.grad`, vector by
    vector.

    Args:
        module: A `torch.nn.Module`, called with X, or a function of (params, X); the outputs are (n, ...), everything
            behind the samples one output each. It must not be random. Batch norm in training mode couples the
            samples, which is taken into account; its running averages are left alone.
        params: Of a module: None for all parameters that require a gradient, in the order of `module.parameters()`, or
            a list of parameters or of their names, or a dict of names and tensors. Of a function: a tensor, or
            lists, tuples and dicts of tensors, flat in that order. float32 or float64, one dtype and device; shared
            parameters are one. Memory is shared: a training step makes this operator out of date, and so does a
            change of buffers, of other parameters or of the module's modes; using it then is an error.
        X: Samples, a tensor (n, ...) or an array, of the parameters' dtype, or integers for models that take them.
        loss: A name or Hessians (n, k, k), as in `gnfast.GaussNewton`.
        weights: (n,) or (n, k), as there, arrays or tensors of the parameters' dtype; None for ones.
        reduction: "mean" over samples, or "sum".
        memory_limit: Bytes that one operation may use, judged by what autograd saves for a forward pass; samples are
            taken in batches where it asks for it and the model allows it. None sets no limit.
        check: Compare each way of differentiating with plain reverse mode (`torch.autograd.grad` of the model as it
            stands, whose gradients training follows) before it is used: outputs, J^T u for two random vectors,
            parameter by parameter, and <u, J v> = <J^T u, v>. What disagrees is made in a slower way that agrees, or
            refused. About two products at the first use, and one at the first block of another width.

    Raises:
        ImportError: PyTorch is not installed.
        TypeError: Wrong kinds or dtypes.
        ValueError: Wrong shapes or names, NaN or infinite values or derivatives, a random model, or one for which
            no way of differentiating agrees with its gradients.
        MemoryError: One sample, or all of them where they are coupled, exceed `memory_limit`.
        RuntimeError: It is used when it is out of date.

    References:
        Schraudolph, "Fast curvature matrix-vector products for second-order gradient descent", Neural Computation 2002.

    Examples:
        >>> import torch
        >>> import gnfast as gn
        >>> module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Softmax(-1), torch.nn.Linear(8, 3))
        >>> G = gn.interop.torch.GaussNewton(module, X=torch.ones(5, 4), loss="mse")
        >>> (G @ torch.ones(G.shape[1])).shape
        torch.Size([67])
    """

    __module__ = "gnfast.interop.torch"
    space = "parameters"
    preconditioning_hint = "; read the module with gnfast.from_torch"

    def __init__(
        self,
        module: Any,
        params: Any = None,
        X: Any = None,
        loss: LossName | Any = "mse",
        *,
        weights: Any = None,
        reduction: Reduction | str = "mean",
        memory_limit: float | None = None,
        check: bool = True,
    ) -> None:
        self.reduction = _checks.choice(reduction, "reduction", ("mean", "sum"))
        self.memory_limit = None if memory_limit is None else _checks.positive(memory_limit, "memory_limit")
        with torch.inference_mode(False):  # in which what is made could not be differentiated
            self.model = model_of(module, params, X)
            scale = 1 / len(self.model.X) if self.reduction == "mean" else 1.0
            checked = _checks.boolean(check, "check")
            self._products = Products(self.model, loss, weights, scale, self.memory_limit, checked)
        self.loss = self._products.loss.name
        self._make()

    def _make(self) -> None:
        dtype, self.problem = self.model.dtype, self._products
        super().__init__(operator_of(self._products.apply, self._products.p, dtype, _arrays.CPU), dtype, _arrays.CPU)
        self._grams: dict[int, Gram] = {}

    def _product(self, rows: Any, out: Any) -> None:
        self._products.apply(rows, out)

    def enlarged(self) -> GaussNewton:
        """The same times a power of two, for entries too small for the dtype."""
        twin = copy.copy(self)
        twin._products, twin.exponent = self._products.enlarged(), _arrays.ENLARGEMENT[str(self.dtype)]
        twin._make()
        return twin

    def jacobian(self) -> Jacobian:
        """J (n k, p), the derivative of all outputs in all parameters; rows are ordered (sample, output)."""
        shape = (self._products.n * self._products.k, self.shape[1])
        return AutogradJacobian(self._products, shape, self.dtype, self.device, self.check_unchanged)

    def _apply(self, rows: Array, out: Array) -> None:
        self._product(rows, out)
        self._look_at_first_product(rows, out)

    def gram(self, reduced: bool = False) -> Gram:
        """The Gram (NTK) dual K = (1/n) R^T J J^T R (n r, n r), with G's non-zero spectrum.

        Args:
            reduced: For the softmax: without its null direction, r = k - 1 for k.
        """
        rank = self._products.rank(_checks.boolean(reduced, "reduced"))
        if rank not in self._grams:
            self._grams[rank] = Gram(self._products, rank < self._products.k)
        return self._grams[rank]

    def dual(self) -> SymmetricOperator:
        """The smaller of G and its Gram dual, unless memory decides: see `plan()`."""
        return self.gram(reduced=True) if self.plan().space == "samples" else self

    def dual_for_systems(self, asked: bool) -> Gram | None:
        """Its Gram, where vectors are less than a quarter as long and it may be stored, or it is `asked` for."""
        shorter = self._products.n * self._products.k < self.shape[0] // 4
        return self.gram(reduced=True) if asked or (shorter and self.plan().space == "samples") else None

    def plan(self) -> AutogradPlan:
        """Both spaces, which is taken, and how a product is made."""
        products, n = self._products, len(self.model.X)
        p, size = self.shape[0], n * products.rank(reduced=True)
        forward = products.blocks.memory
        spaces = []
        for name, length in (("parameters", p), ("samples", size)):
            memory = float(length) ** 2 * self.dtype.itemsize + forward
            too_large = self.memory_limit is not None and memory > self.memory_limit
            spaces.append(
                Space(name, length, float(length) ** 3, memory, "more than memory_limit" if too_large else "")
            )
        allowed = [space for space in spaces if not space.excluded] or spaces
        return AutogradPlan(
            space=min(allowed, key=lambda space: space.size).name,
            spaces=tuple(spaces),
            sample_block=products.blocks.samples,
            vector_block=products.blocks.vectors,
            keeps_forward=products.blocks.kept,
            memory=forward,
            product=products.describe(),
        )

    def __repr__(self) -> str:
        p, n = self.shape[0], len(self.model.X)
        return f"GaussNewton({p} x {p}, {self.loss}, {n} samples, autograd engine of PyTorch, {self.dtype})"


class Gram(OnTensors, Decoupling, Lifting):
    """The Gram (NTK) dual of a PyTorch model: applied by a product with J^T and one with J, until it is stored."""

    __module__ = "gnfast.interop.torch"
    space = "samples"

    def __init__(self, products: Products, reduced: bool) -> None:
        self._products, self._reduced, self.exponent = products, reduced, products.exponent
        size, dtype = products.n * products.rank(reduced), products.model.dtype

        def product(rows: Any, out: Any) -> None:  # arrays or tensors
            shape = (len(rows), products.p)
            lifted = np.empty(shape, dtype) if isinstance(rows, np.ndarray) else rows.new_empty(shape)
            products.lift(rows, lifted, reduced)
            products.restrict(lifted, out, reduced)

        self._by_products = product
        operator, r = operator_of(product, size, dtype, _arrays.CPU), products.rank(reduced)
        super().__init__(operator, dtype, _arrays.CPU, products.n, r, interleaved=True)
        self.memory_limit, self.problem, self.parameters = products.limit, products, products.p
        self._dense: Array | None = None

    @property
    def stored(self) -> bool:
        """Whether products use the matrix that `to_dense()` has formed."""
        return self._dense is not None

    def _product(self, rows: Any, out: Any) -> None:
        if self.stored and rows.device.type == "cpu":
            self.core.apply(rows.numpy(), out.numpy())
        else:
            self._by_products(rows, out)

    def _apply(self, rows: Array, out: Array) -> None:
        if not np.isfinite(rows).all():
            raise _core.NonFiniteError("V has NaN or infinite values; pass finite vectors")
        self.core.apply(rows, out)

    def enlarged(self) -> Gram:
        """The same times a power of two, for entries too small for the dtype."""
        return Gram(self._products.enlarged(), self._reduced)

    def to_dense(self) -> Array:
        """K as an array (N, N), read-only; it is kept, and products use it from then on."""
        self.check_unchanged()
        if self._dense is None:
            self._dense = _arrays.read_only(super().to_dense())
            self.core = _core.stored(self._dense)
        return self._dense

    def form(self, out: Array, progress: _core.Progress = None) -> int:
        """Rows of R^T J, sample by sample, and their products; all at once where they fit, or a block by one of J.

        Rows that vmap does not give, or gives wrong, are made sample by sample. Samples that are coupled have no rows
        of their own: then by products with unit vectors.
        """
        if self._dense is not None:
            np.copyto(out, self._dense)
            return 0
        products = self._products

        def use(first: int, rows: Any) -> None:
            if len(rows) == len(out):
                out[:] = (rows @ rows.T).numpy(force=True)
            else:
                products.restrict(rows.numpy(force=True), out[first : first + len(rows)], self._reduced)
            if progress:
                progress("forming the Gram matrix", (first + len(rows)) // self._copies, products.n)

        return 0 if self._rows(use, self._square_bytes) else super().form(out, progress)

    def known_diagonal(self) -> KnownDiagonal | None:
        """The diagonal, from the rows of R^T J, where samples have rows of their own."""
        values = np.empty(self.shape[0])

        def use(first: int, rows: Any) -> None:
            norms = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
            values[first : first + len(rows)] = norms.square().numpy(force=True)

        self.check_unchanged()
        return KnownDiagonal(values, "norms of the Jacobian's rows") if self._rows(use) else None

    def costs(self) -> GramCosts:
        """Costs of products as they are, and stored, of a model that uses each parameter once a sample.

        Others reuse them, so that products cost more than is said here, and storing pays earlier.
        """
        size, p, n = float(self.shape[0]), self._products.p, self._products.n
        product = 6.0 * n * p  # J^T and J: 2 p each a sample, and 2 p for the derivatives in the inputs of layers
        rows = size * product if self._products.samples_are_coupled() else size**2 * p + 4 * size * p
        return GramCosts(kept=0.0, start=0.0, forming=rows, product=product, more=0.0, room=0.0, least=0.0)

    def _rows(self, use: Callable[[int, Any], None], taken: float = 0.0) -> bool:
        """`each_rows` beside so many bytes, by vmap or sample by sample; False where neither way gives them."""
        products = self._products
        if products.samples_are_coupled():
            return False
        room = ROWS if products.limit is None else max(0.0, products.limit - taken) / 2
        step = max(1, min(products.n, int(room / (self._copies * products.p * products.itemsize))))
        for one_by_one in (False, True):
            try:
                if each_rows(products, self._reduced, one_by_one, step, use):
                    return True
            except (RuntimeError, NotImplementedError, ValueError, TypeError) as error:
                raise_of_memory(error)
        return False

    def _mean_over_outputs(self, out: Array) -> None:
        """By the rows of R^T J, or by products with all unit vectors."""
        n, r = self._block, self._copies

        def use(first: int, rows: Any) -> None:
            if len(rows) == n * r:
                flat = rows.reshape(n, -1)
                out[:] = (flat @ flat.T / r).numpy(force=True)
            else:
                add(first, rows.numpy(force=True), self._products.restrict)

        def add(first: int, rows: Array, multiply: Callable[[Array, Array, bool], None]) -> None:
            image = np.empty((len(rows), n * r), self.dtype)
            multiply(rows, image, self._reduced)
            out[first // r : (first + len(rows)) // r] = np.einsum("iaja->ij", image.reshape(-1, r, n, r)) / r

        if not self._rows(use, out.nbytes):
            for i in range(n):
                units = self.device.unit_rows(i * r, r, n * r, self.dtype)
                add(i * r, units, lambda rows, image, _: self.core.apply(rows, image))

    def lift(self, Y: Any) -> Any:
        """Vectors of the dual taken to parameters: columns of (N, s) to columns of (p, s)."""

        def product(rows: Any, out: Any) -> None:
            self._products.lift(rows, out, self._reduced)

        if isinstance(Y, torch.Tensor):
            return self.by_rows(Y, "Y", self.shape[0], self._products.p, product)
        self.check_unchanged()
        given = self._rows_of(Y, "Y", self.shape[0])
        out = np.empty((len(given.rows), self._products.p), self.dtype)
        product(given.rows, out)
        return given.back(out).T

    def restrict(self, rows: Array) -> Array:
        """Each row v of `rows` (s, p) taken to the dual, (s, N): the adjoint of `lift`."""
        out = np.empty((len(rows), self.shape[0]), self.dtype)
        self._products.restrict(rows, out, self._reduced)
        return out

    def __repr__(self) -> str:
        state = "stored" if self.stored else "not stored"
        return f"Gram({self.shape[0]} x {self.shape[0]}, {state}, autograd engine of PyTorch, {self.dtype})"


@dataclass(frozen=True)
class AutogradPlan:
    """The space that `GaussNewton.dual()` takes and how a product is made.

    Attributes:
        space: "parameters" or "samples".
        spaces: Both, with size and memory, the flops those of a whole spectrum but for a factor.
        sample_block, vector_block: How much of the data and of a block of vectors is worked on at once.
        keeps_forward: Whether the forward pass stays between products.
        memory: Bytes that products keep and use, estimated.
        product: How a product is made, in words.
    """

    space: str
    spaces: tuple[Space, ...]
    sample_block: int
    vector_block: int
    keeps_forward: bool
    memory: float
    product: str

    def __str__(self) -> str:
        lines = ["space            size     memory"]
        for space in self.spaces:
            mark = "<- taken" if space.name == self.space else space.excluded
            lines.append(f"{space.name:12} {space.size:>8} {megabytes(space.memory):>10}  {mark}".rstrip())
        return "\n".join([*lines, self.product])
