"""Block-diagonal approximations of a Gauss-Newton matrix, and the matrix that they precondition.

Each is known by the spectral decompositions of its blocks, so that any power of it, damped or not, is exact: the
diagonal, the blocks of the layers, and the Kronecker factors of K-FAC.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from gnfast import _arrays, _checks, thresholds
from gnfast._arrays import Array, Device
from gnfast._memory import check_memory
from gnfast._runtime import blas_threads
from gnfast.networks.convolutions import Conv1d, Conv2d
from gnfast.networks.layers import Dense
from gnfast.networks.traversal import walk
from gnfast.operators.costs import gram_costs
from gnfast.operators.diagonal import diagonal_of
from gnfast.operators.gram import Gram
from gnfast.operators.layer_blocks import Block
from gnfast.operators.layer_slices import LayerSlice, layers_of
from gnfast.operators.masked import operator_of
from gnfast.operators.problem import Problem
from gnfast.operators.symmetric import SymmetricOperator
from gnfast.protocol import Operator, Preconditioner

NAMES = ("diagonal", "block", "kfac")
ROWS_BYTES = 1 << 30  # of preconditioned rows of the Jacobian that are made at once, where no limit says less
UNITS = 64  # rows that are lifted at once


@dataclass(frozen=True)
class Power:
    """(value + damping)^exponent of eigenvalues, elementwise, in float64 and NumPy's, and 0 for 0."""

    exponent: float
    damping: float = 0.0

    def __call__(self, values: Array) -> Array:
        shifted = values + self.damping
        with np.errstate(divide="ignore"):
            return np.where(shifted > 0, shifted**self.exponent, 0.0)


class Piece(Protocol):
    """A block by its spectral decomposition."""

    def apply(self, f: Power, rows: Array) -> Array:
        """The rows (s, p_l) times the block with f taken of its eigenvalues."""

    def mixed(self, f: Power) -> float:
        """The largest f that multiplies entries once they have been added up, rounding errors included; 0 for none."""


class Scaling:
    """A diagonal block, from its entries (p,) in float64."""

    def __init__(self, entries: Array) -> None:
        self._entries = _arrays.to_host(entries)

    def apply(self, f: Power, rows: Array) -> Array:
        """The rows (s, p_l) times the block with f taken of its eigenvalues."""
        out: Array = rows * _arrays.device_of(rows).upload(f(self._entries).astype(rows.dtype))
        return out

    def mixed(self, f: Power) -> float:
        """The largest f that multiplies entries once they have been added up; 0 for none."""
        return 0.0


class Thin:
    """V diag(values) V^T with orthonormal columns V (p_l, r), given as rows (r, p_l), and zero beyond."""

    def __init__(self, rows: Array, values: Array) -> None:
        self._rows, self._values = rows, values

    def apply(self, f: Power, rows: Array) -> Array:
        """The rows (s, p_l) times the block with f taken of its eigenvalues."""
        beyond = float(f(np.zeros(1))[0])
        factors = _arrays.device_of(rows).upload((f(self._values) - beyond).astype(rows.dtype))
        out: Array = rows * rows.dtype.type(beyond) + ((rows @ self._rows.T) * factors) @ self._rows
        return out

    def mixed(self, f: Power) -> float:
        """The largest f that multiplies entries once they have been added up; 0 for none."""
        beyond = 0.0 if len(self._rows) == self._rows.shape[1] else float(f(np.zeros(1))[0])
        return max(beyond, float(f(self._values).max(initial=0.0)))


class Kronecker:
    """A (x) B as X -> B X A of matrices X (m, d): U_B and U_A, orthogonal, and the eigenvalues' products (m, d)."""

    def __init__(self, A: Array, B: Array, dtype: np.dtype[Any], home: Device) -> None:
        a, U = _eigh(A, dtype)
        b, W = _eigh(B, dtype)
        self._values = b[:, None] * a
        self._inner, self._outer = (home.upload(np.ascontiguousarray(V).astype(dtype)) for V in (U, W))

    def apply(self, f: Power, rows: Array) -> Array:
        """The rows (s, p_l) times the block with f taken of its eigenvalues."""
        X = rows.reshape(-1, *self._values.shape)
        factors = _arrays.device_of(rows).upload(f(self._values).astype(rows.dtype))
        turned = (self._outer.T @ X @ self._inner) * factors
        out: Array = self._outer @ turned @ self._inner.T
        return out.reshape(len(rows), -1)

    def mixed(self, f: Power) -> float:
        """The largest f that multiplies entries once they have been added up; 0 for none."""
        return float(f(self._values).max())


P = TypeVar("P", bound="PowerOfBlocks")
Pieces = Sequence[tuple[Array | slice, Piece]]  # entries of vectors, and the block that they belong to


class PowerOfBlocks(SymmetricOperator):
    """A power (p, p) of a block-diagonal matrix, block by block."""

    def __init__(self, pieces: Pieces, f: Power, p: int, dtype: np.dtype[Any], device: Device) -> None:
        def product(rows: Array, out: Array) -> None:
            for own, piece in pieces:
                out[:, own] = piece.apply(f, rows[:, own])

        super().__init__(operator_of(product, p, dtype, device), dtype, device)
        self._pieces, self._f = pieces, f

    def _recipe(self) -> tuple[Any, ...]:
        more = {name: value for name, value in vars(self).items() if name in ("memory_limit", "factors")}
        return _again, (type(self), self._pieces, (self._f, self.shape[0], self.dtype, self.device), more)

    def _power(self, kind: type[P], exponent: float, damping: float) -> P:
        f = Power(exponent, _checks.at_least_zero(damping, "damping"))
        options = (f, self.shape[0], self.dtype, self.device)
        return _again(kind, self._pieces, options, {"memory_limit": self.memory_limit})


def _again(kind: type[P], pieces: Pieces, options: tuple[Any, ...], more: dict[str, Any]) -> P:
    made = kind.__new__(kind)
    PowerOfBlocks.__init__(made, pieces, *options)
    made.__dict__.update(more)
    return made


class Root(PowerOfBlocks):
    """M^(-1/2) of a block-diagonal M."""

    def rounding(self, problem: Problem) -> float:
        """The rounding of T = S M^(-1/2), in the norm, G = S^T S: 8 eps |S_l| |M_l^(-1/2)|, over all blocks.

        As for eigenvalues (`thresholds.rounding_error`); see docs/decisions/0022-blocks-and-preconditioners.md.
        """
        mixed = [(own, piece.mixed(self._f)) for own, piece in self._pieces]
        if not any(norm for _, norm in mixed):
            return 0.0
        diagonal = diagonal_of(problem)
        total = sum(norm**2 * float(diagonal[own].sum()) for own, norm in mixed)
        return thresholds.rounding_error(math.sqrt(total), self.dtype)


class BlockDiagonal(PowerOfBlocks):
    """M (p, p), block by block: an operator that multiplies by it, and its inverses."""

    space = "parameters"

    def __init__(self, problem: Problem, pieces: Pieces) -> None:
        placed = [(own if isinstance(own, slice) else problem.device.upload(own), piece) for own, piece in pieces]
        super().__init__(placed, Power(1.0), problem.parameters, problem.dtype, problem.device)
        self.memory_limit = problem.memory_limit

    def inverse(self, damping: float = 0.0) -> PowerOfBlocks:
        """(M + damping I)^-1, or without damping the pseudo-inverse: what `gnfast.solve` takes as a preconditioner."""
        return self._power(PowerOfBlocks, -1.0, damping)

    def inverse_root(self, damping: float = 0.0) -> Root:
        """(M + damping I)^(-1/2), or without damping that of the pseudo-inverse."""
        return self._power(Root, -0.5, damping)

    def __repr__(self) -> str:
        p = self.shape[0]
        return f"{type(self).__name__}({p} x {p}, {len(self._pieces)} blocks, {self.dtype}, {self.device})"


class Jacobi(BlockDiagonal):
    """M = diag G."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem, [(slice(None), Scaling(diagonal_of(problem)))])


class BlockJacobi(BlockDiagonal):
    """M = the diagonal blocks G_l of all layers, each by a singular value decomposition of its rows S_l (n q, p_l).

    n q sum(p_l) numbers, as many as the Jacobian has, and about 6 n q p_l min(n q, p_l) flops a layer.
    """

    def __init__(self, problem: Problem) -> None:
        rows = len(problem.X) * problem.loss_at.rank
        needed = 3.0 * rows * problem.parameters * problem.dtype.itemsize
        check_memory(needed, problem.memory_limit, "the decomposition of all blocks", "use 'kfac' or 'diagonal'")
        super().__init__(
            problem, [(part.own, self._piece(Block(problem, part))) for part in layers_of(problem.net) if part.size]
        )

    @staticmethod
    def _piece(block: Block) -> Thin:
        gram = block.gram()
        S = _arrays.to_host(_rows(gram.parameters, gram.lift_rows, 0, gram.shape[0], gram))
        with blas_threads(min(S.shape)):
            _, singular, V = np.linalg.svd(S, full_matrices=False)
        values = singular.astype(np.float64) ** 2
        # Singular values that rounding cannot tell from zero: those of the rows are resolved to eps, values to eps^2.
        alive = singular > thresholds.zero_threshold(float(singular.max(initial=0.0)), len(S), S.dtype)
        return Thin(block.device.upload(V[alive]), values[alive])


@dataclass(frozen=True)
class KroneckerFactors:
    """The two factors of one layer, or of one group of a convolution's channels, in float64 and NumPy's.

    Attributes:
        part: The layer.
        A: (d, d), or (d + 1, d + 1) where the layer has a bias, whose coordinate is the last.
        B: (m, m).
    """

    part: LayerSlice
    A: Array
    B: Array


class Kfac(BlockDiagonal):
    """M = blockdiag(A_l (x) B_l), the Kronecker-factored approximation of a Gauss-Newton matrix (K-FAC).

    Dense layer: A = (1/n) sum_i a_i a_i^T of its inputs a_i, with a 1 below where it has a bias, and B = c sum_i b_i
    H_i b_i^T, b_i (m, k) the derivative of the outputs in what the layer gives; c = 1/n, or 1 for the reduction "sum".
    B is exact, a sum over the columns of H_i's square root: nothing is sampled. A_l (x) B_l acts on the layer's
    parameters as X -> B X A, X (m, d + 1) the weight with the bias behind it; with one sample it is G's block.

    Convolution (KFC, expanding positions): A = (1/n) sum_i sum_t a_it a_it^T of the patches at the positions t, and B =
    (c / T) sum_i sum_t b_it H_i b_it^T, T positions. Each group of channels has factors of its own.

    Normalisation: B = G's block and A = 1, nothing approximated.

    Attributes:
        factors: `KroneckerFactors` in the order of the parameters.

    References:
        Martens & Grosse, "Optimizing neural networks with Kronecker-factored approximate curvature", ICML 2015; Grosse
        & Martens, "A Kronecker-factored approximate Fisher matrix for convolution layers", ICML 2016.

    Examples:
        >>> import numpy as np
        >>> import gnfast as gn
        >>> net, X = gn.mlp([4, 8, 2], "tanh", seed=0), np.random.default_rng(0).standard_normal((50, 4))
        >>> G = gn.GaussNewton(net, X)
        >>> M = gn.GaussNewton(net, X[:25]).kfac()  # of other samples
        >>> gn.cond(G, preconditioner=M, damping=1e-3).value < gn.cond(G).value
        True
    """

    def __init__(self, problem: Problem) -> None:
        if problem.net.kept is not None:
            raise ValueError("K-FAC needs all weights as parameters but the network is pruned; use 'diagonal'")
        if problem.products.plan(1).coupled:
            raise ValueError(
                "K-FAC needs samples that do not depend on each other but the network normalises over the batch; give "
                "gn.BatchNorm its statistics, or use 'diagonal'"
            )
        check_memory(
            _factor_bytes(problem), problem.memory_limit, "K-FAC with its factors A_l and B_l", "use 'diagonal'"
        )
        found = list(_kronecker_factors(problem))
        self.factors = tuple(factors for factors, _ in found)
        super().__init__(
            problem, [(places, Kronecker(one.A, one.B, problem.dtype, problem.device)) for one, places in found]
        )


class Preconditioned(SymmetricOperator):
    """T^T T (p, p), which is M^(-1/2) G M^(-1/2), or T T^T (n q, n q), T = R^T J M^(-1/2) / sqrt(n): the smaller one.

    T is formed, never a product with M^-1 in the middle: rounding then moves the singular values of T by some
    eps |S| |M^(-1/2)|, S = R^T J / sqrt(n), and what is zero comes out as the square of that.
    """

    def __init__(self, gram: Gram, root: Operator, name: str) -> None:
        self._gram, self._root, self.name = gram, root, name
        rows, p = gram.shape[0], gram.parameters
        self.space = "samples" if rows <= p else "parameters"
        self.memory_limit = gram.memory_limit
        self.root_rounding = root.rounding(gram.problem) if isinstance(root, Root) else 0.0
        samples = rows <= p

        def product(given: Array, out: Array) -> None:
            lifted = np.empty_like(given, shape=(len(given), p))
            if samples:
                gram.lift_rows(given, lifted)
                out[:] = gram.restrict(_times(root, _times(root, lifted)))
            else:
                gram.lift_rows(gram.restrict(_times(root, given)), lifted)
                out[:] = _times(root, lifted)

        super().__init__(operator_of(product, min(rows, p), gram.dtype, gram.device), gram.dtype, gram.device)

    def _recipe(self) -> tuple[Any, ...]:
        return type(self), (self._gram, self._root, self.name)

    def check_unchanged(self) -> None:
        """Raise a RuntimeError if the PyTorch module has changed since the network was read from it."""
        self._gram.check_unchanged()

    def form(self, out: Array, progress: Any = None) -> int:
        """Write the lower triangle into `out` (N, N) in C order, and return the number of products made for it."""
        rows, p = self._gram.shape[0], self._gram.parameters
        bytes_left = ROWS_BYTES if self.memory_limit is None else self.memory_limit - self._square_bytes
        step = min(rows, max(1, int(bytes_left / (2 * p * self.dtype.itemsize))))
        made = 0
        if self.space == "parameters":
            out[:] = 0
        for i in range(0, rows, step):
            mine = self._preconditioned_rows(i, min(step, rows - i))
            made += len(mine)
            if self.space == "parameters":
                out += mine.T @ mine
            else:
                band = slice(i, i + len(mine))
                for j in range(0, i, step):
                    out[band, j : j + step] = mine @ self._preconditioned_rows(j, step).T
                    made += step
                out[band, band] = mine @ mine.T
            if progress:
                progress("forming the matrix", i + len(mine), rows)
        return made

    def _preconditioned_rows(self, first: int, count: int) -> Array:
        """Rows of T."""

        def lift(units: Array, out: Array) -> None:
            self._gram.lift_rows(units, out)
            out[:] = _times(self._root, out)

        return _rows(self._gram.parameters, lift, first, count, self._gram)

    def __repr__(self) -> str:
        return f"Preconditioned({self.shape[0]} x {self.shape[0]}, by {self.name}, in {self.space}, {self.dtype})"


def preconditioner_of(problem: Problem, given: Any, damping: float) -> tuple[Operator, str]:
    """(M + damping I)^(-1/2), and a name for it."""
    problem.check_unchanged()
    damping = _checks.at_least_zero(damping, "damping")
    p = problem.parameters
    note = f" + {damping:g} I" if damping else ""
    if isinstance(given, str):
        name = _checks.choice(given, "preconditioner", NAMES)
        made = {"diagonal": Jacobi, "block": BlockJacobi, "kfac": Kfac}[name](problem)
        return made.inverse_root(damping), name + note
    if isinstance(given, Preconditioner):
        root: object = given.inverse_root(damping)  # of others, who may give anything
        if not isinstance(root, Operator) or tuple(root.shape) != (p, p):
            raise ValueError(
                f"preconditioner.inverse_root gave {root!r} but must give a symmetric operator ({p}, {p}), with shape, "
                "dtype and matmat"
            )
        dtype = np.dtype(np.float64 if root.dtype is None else root.dtype)
        if dtype != problem.dtype:
            raise TypeError(
                f"preconditioner.inverse_root gave an operator in {dtype} but the network has {problem.dtype}; give "
                f"one in {problem.dtype}, such as gnfast.operator(function, {p}, '{problem.dtype}')"
            )
        return root, type(given).__name__ + note
    if isinstance(given, Operator):
        raise TypeError(
            f"preconditioner is a {type(given).__name__} without inverse_root; pass an object that has it, see "
            "gnfast.protocol.Preconditioner, the diagonal as an array, or one of 'diagonal', 'block' and 'kfac'"
        )
    # Of either dtype: of a network in float32 G.diagonal() is in float64 all the same.
    entries = _checks.array(given, "preconditioner", (p,), None, "the operator", problem.device).astype(np.float64)
    if float(entries.min()) + damping <= 0:
        raise ValueError(
            f"preconditioner has the entry {float(entries.min()):g} but must be positive, damping included; "
            "raise damping"
        )
    return BlockDiagonal(problem, [(slice(None), Scaling(entries))]).inverse_root(damping), "an array" + note


# ------------------------------------------------------------------------------------------------------------- steps
def _eigh(M: Array, dtype: np.dtype[Any]) -> tuple[Array, Array]:
    """Eigenvalues and eigenvectors in float64 of a sum M of outer products of vectors in `dtype`, its zeros zero."""
    with blas_threads(len(M)):
        values, vectors = np.linalg.eigh(M)
    cut = thresholds.moment_threshold(float(values[-1]), len(M), dtype)
    return np.where(values > cut, values, 0.0), vectors


def _times(root: Operator, rows: Array) -> Array:
    """The product with each row (s, p), in C order, whatever array in whatever order the root gives."""
    name = "the product with preconditioner.inverse_root"
    out = _arrays.as_array(root.matmat(rows.T), name, _arrays.device_of(rows), "the operator").T
    if out.shape != rows.shape:
        raise ValueError(f"{name} has shape {out.T.shape} but must be {rows.T.shape}, that of the block")
    return _arrays.as_c_contiguous(out.astype(rows.dtype, copy=False))


def _rows(width: int, lift: Callable[[Array, Array], object], first: int, count: int, gram: Any) -> Array:
    """The images under `lift` of unit vectors from number `first` on, (count, width)."""
    out: Array = gram.device.empty((count, width), gram.dtype)
    for i in range(0, count, UNITS):
        some = min(UNITS, count - i)
        lift(gram.device.unit_rows(first + i, some, gram.shape[0], gram.dtype), out[i : i + some])
    return out


def _factor_bytes(problem: Problem) -> float:
    """Bytes of K-FAC: factors in float64, their eigenvectors and eigenvalues, and what is there meanwhile.

    LAPACK keeps a matrix, its eigenvectors and twice as much work space; the passes through the network are over then.
    """
    sides = np.concatenate([_sides(part) for part in layers_of(problem.net)]).astype(np.float64)
    costs, plan = gram_costs(problem, problem.loss_at.rank), problem.products.plan(1)
    passes = plan.bytes_forward + (costs.kept if problem.net.is_feedforward_dense else plan.bytes_workspace)
    kept = 8.0 * problem.parameters + (8 + problem.dtype.itemsize) * float((sides**2).sum())
    return float(kept + passes + 4 * 8 * sides.max() ** 2)


def _sides(part: LayerSlice) -> list[int]:
    """The sizes of a layer's factors, A and B for each group of channels."""
    layer = part.layer
    if not isinstance(layer, Dense | Conv1d | Conv2d):
        return [1, part.size]
    groups = _groups(layer)
    return [layer.weight[0].size + (layer.bias is not None), len(layer.weight) // groups] * groups


def _kronecker_factors(problem: Problem) -> Iterator[tuple[KroneckerFactors, Array | slice]]:
    """The core's sums of outer products as means, group by group, and where the parameters of X (m, d) are."""
    n, home, sums, double = len(problem.X), problem.device, {}, np.dtype(np.float64)
    parts = layers_of(problem.net)
    for part in parts:
        if isinstance(layer := part.layer, Dense | Conv1d | Conv2d):
            (d, m), groups = _sides(part)[:2], _groups(layer)
            sums[part.index] = home.zeros((groups * d, d), double), home.zeros((groups * m, m), double)
    problem.core.kronecker_factors([(parts[i].entries[0], *pair) for i, pair in sums.items()])
    steps = (step for step in walk(problem.net.layers, problem.X.shape[1:]) if step.size)
    for part, step in zip(parts, steps, strict=True):
        layer, positions = part.layer, math.prod((step.outputs or ())[1:])  # where it gives its channels
        if not isinstance(layer, Dense | Conv1d | Conv2d):
            block = _arrays.to_host(Block(problem, part).to_dense()).astype(np.float64)
            yield KroneckerFactors(part, np.ones((1, 1)), block), part.own
            continue
        groups = _groups(layer)
        inner, outer = map(_arrays.to_host, sums[part.index])
        for g, (A, B) in enumerate(zip(np.split(inner, groups), np.split(outer, groups), strict=True)):
            if layer.bias is not None:
                A[:-1, -1] = A[-1, :-1]
                A[-1, -1] = n * positions
            A /= n
            B /= positions
            yield KroneckerFactors(part, A, B), _places(layer, int(part.own.start), g * len(B), len(B))


def _groups(layer: Dense | Conv1d | Conv2d) -> int:
    return 1 if isinstance(layer, Dense) else layer.groups


def _places(layer: Dense | Conv1d | Conv2d, start: int, row: int, m: int) -> Array | slice:
    """The places of m rows of the weight from `row` on, the bias behind each, in the order of X."""
    d = layer.weight[0].size
    if layer.bias is None:
        return slice(start + row * d, start + (row + m) * d)
    rows = row + np.arange(m)[:, None]
    return np.hstack([start + rows * d + np.arange(d), start + len(layer.weight) * d + rows]).ravel()
