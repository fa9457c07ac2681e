"""Symmetric operators of any origin, and what can be done with their matrices where they are stored.

A stored matrix is the lower triangle, with the diagonal, of an array (N, N) in C order; the rest may hold anything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from gnfast import _arrays, _checks, _core, thresholds
from gnfast._arrays import CPU, Array, Device
from gnfast.factors import pivoted_cholesky, unit_of
from gnfast.networks.network import Network
from gnfast.operators.linear_operator import BlockOperator
from gnfast.operators.symmetric import KnownDiagonal, SymmetricOperator
from gnfast.protocol import Operator

DENSE_SIZE = 800  # up to here LAPACK's whole spectrum takes less than a tenth of a second
SPECTRUM_SIZE = 3_200  # and up to here some seconds
STORED_SIZE = 20_000  # 3.2 GB in float64: up to here a Cholesky factorisation beats thousands of products
BLOCK = 512  # rows at a time, for what would otherwise need a second matrix


class Stored(SymmetricOperator):
    """A symmetric matrix given by its lower triangle, which is referred to, not copied."""

    stored = True

    def __init__(self, lower: Array) -> None:
        home = _arrays.device_of(lower)
        super().__init__(home.core.stored(lower), lower.dtype, home)
        self.lower = lower

    def _recipe(self) -> tuple[Any, ...]:
        return type(self), (self.lower,)

    def form(self, out: Array, progress: _core.Progress = None) -> int:
        """Write the lower triangle into `out` (N, N) in C order, and return the number of products made for it."""
        np.copyto(out, self.lower)
        return 0

    @property
    def size_seen(self) -> float:
        """The largest entry of the diagonal, which has that of a semi-definite matrix."""
        return float(abs(self.lower.diagonal()).max())

    def known_diagonal(self) -> KnownDiagonal:
        """The matrix's."""
        return KnownDiagonal(self.lower.diagonal().astype(np.float64), "entries of the matrix")


class Foreign(SymmetricOperator):
    """A symmetric operator of somebody else's, known by its products with blocks of vectors, (N, s) to (N, s)."""

    def __init__(
        self,
        function: Callable[[Array], Any],
        size: int,
        dtype: np.dtype[Any],
        device: Device = CPU,
        name: str = "op",
    ) -> None:
        def product(block: Array) -> Array:
            out = _arrays.as_array(function(block.T), f"the product with {name}", device, "the operator")
            if out.dtype.kind == "c":
                raise TypeError(f"{name} gave a complex product but must be real symmetric")
            if out.shape != block.T.shape:
                raise ValueError(
                    f"{name} gave a product of shape {out.shape} for a block of vectors of shape {block.T.shape}; "
                    "return one product a column, in an array of the block's shape"
                )
            return _arrays.as_c_contiguous(out.T.astype(dtype, copy=False))

        super().__init__(device.core.callback(product, size, dtype.name), dtype, device)
        self._function, self._name = function, name
        self._check_symmetry()

    def _recipe(self) -> tuple[Any, ...]:
        return type(self), (self._function, self.shape[0], self.dtype, self.device, self._name)

    @property
    def size_seen(self) -> float:
        """The largest entry of its product with two random vectors."""
        return self._size_seen

    def _check_symmetry(self) -> None:
        """u^T A v = v^T A u for two random vectors: one that is not symmetric passes with probability zero."""
        probe = np.asfortranarray(np.random.default_rng(0).standard_normal((self.shape[0], 2)), self.dtype)
        image = _arrays.to_host(self.matmat(self.device.upload(probe.T).T)).astype(np.float64)
        self._size_seen = float(np.abs(image).max())
        image = image / unit_of(self._size_seen)
        both = probe.T @ image
        size = float(np.linalg.norm(probe) * np.linalg.norm(image))
        rounding = thresholds.asymmetry(size, _arrays.eps(self.dtype))
        skew = abs(both[0, 1] - both[1, 0])
        if skew > rounding:
            if self.dtype == np.float64 and skew <= rounding * np.finfo(np.float32).eps / np.finfo(np.float64).eps:
                raise ValueError(
                    f"{self._name} is symmetric to the rounding of float32 only but has dtype float64; give it dtype "
                    f"float32, or pass {_halves(self._name)} if its products are in float64 and its symmetric part is "
                    "meant"
                )
            raise ValueError(_asymmetric(self._name))


class Sparse(Foreign):
    """A sparse matrix of SciPy's."""

    def __init__(self, matrix: Any, name: str = "op") -> None:
        super().__init__(aslinearoperator(matrix).matmat, matrix.shape[0], _real_dtype(matrix.dtype, name), name=name)
        self._matrix = matrix

    def _recipe(self) -> tuple[Any, ...]:
        return type(self), (self._matrix, self._name)

    def known_diagonal(self) -> KnownDiagonal:
        """The matrix's."""
        values = np.asarray(self._matrix.diagonal(), np.float64)
        if not np.isfinite(values).all():
            raise ValueError(f"{self._name} has NaN or infinite values on its diagonal; replace them by finite numbers")
        return KnownDiagonal(values, "entries of the matrix")


class InUnits(SymmetricOperator):
    """2^-taken A: an operator of any size as one of about 1, whose squares neither vanish nor overflow.

    What is taken is settled by the first product that is not zero, and is 0 for operators of an ordinary size; what is
    found of this one, times 2^taken, is found of A, to the last digit.
    """

    def __init__(self, op: SymmetricOperator, name: str = "op") -> None:
        self._core, self._name = op.device.core.InUnits(op.core), name
        super().__init__(self._core, op.dtype, op.device)
        self.op, self.space, self.memory_limit = op, op.space, op.memory_limit

    @property
    def taken(self) -> int:
        """The power of two that has been taken out."""
        return int(self._core.exponent)

    def settled(self, at_least: float = 0.0) -> int:
        """The power that is taken, by a product of its own where none was made; that of `at_least` if it is larger."""
        self._core.settle(at_least)
        return self.taken

    def out_of(self, values: Any) -> Any:
        """The value for A of what was found of this operator: the same times 2^taken.

        Raises:
            ValueError: It is larger than its dtype can hold.
        """
        if not self.taken:
            return values
        with np.errstate(over="ignore", under="ignore"):
            found = np.ldexp(values, self.taken)
        if (np.isinf(found) & ~np.isinf(values)).any():
            raise ValueError(
                f"{self._name} is so large that what is asked for is beyond {found.dtype}; pass {self._name} "
                + ("in float64, or precision='float64'" if found.dtype == np.float32 else "divided by its size")
            )
        return found

    def form(self, out: Array, progress: _core.Progress = None) -> int:
        """Write the lower triangle into `out` (N, N) in C order, and return the number of products made for it."""
        products = self.op.form(out, progress)
        if taken := self.settled():
            with np.errstate(all="ignore"):  # the other triangle may hold anything
                out[:] = np.ldexp(out, -taken)
        return products


class Wide(SymmetricOperator):
    """An operator in float32 whose vectors are float64: its products round, what is done with the vectors does not."""

    def __init__(self, op: SymmetricOperator) -> None:
        super().__init__(op.device.core.widened(op.core), np.dtype(np.float64), op.device)
        self.op, self.space, self.memory_limit = op, op.space, op.memory_limit

    def _recipe(self) -> tuple[Any, ...]:
        return type(self), (self.op,)

    @property
    def product_dtype(self) -> np.dtype[Any]:
        """The operator's own."""
        found: np.dtype[Any] = self.op.dtype
        return found

    def form(self, out: Array, progress: _core.Progress = None) -> int:
        """Write the lower triangle into `out` (N, N) in C order, and return the number of products made for it."""
        # In float32 in the second half of the memory; row i, made wide, ends before the narrow row i + 1 begins.
        size = self.shape[0]
        narrow = out.reshape(-1).view(np.float32)[size**2 :].reshape(size, size)
        products = self.op.form(narrow, progress)
        for i in range(size):
            out[i, : i + 1] = narrow[i, : i + 1].copy()
        return products


def in_precision(A: SymmetricOperator, precision: Any, name: str = "op") -> SymmetricOperator:
    """The operator that solvers work on: A, or in float64 where that is asked for and its products are in float32."""
    wanted = A.dtype if precision is None else _checks.float_dtype(precision, "precision")
    if wanted == A.dtype:
        return A
    if wanted == np.float32:
        raise ValueError(
            f"precision is 'float32' but {name} has float64; leave precision out, or pass {name} in float32"
        )
    return Wide(A)


def operator(
    function: Callable[[Array], Any], size: int, dtype: Any = "float64", device: str = "cpu"
) -> SymmetricOperator:
    """A function that multiplies by a symmetric matrix, as an operator that all solvers and estimators take.

    Args:
        function: Takes a block of vectors (N, s) of `dtype`, one a column and contiguous each, which it may keep or
            overwrite, and returns the products, (N, s), as an array or what NumPy reads as one. What it raises comes
            out of the solver that called it, as it is.
        size: N, which a function does not tell.
        dtype: "float32" or "float64", of the vectors; products in another precision are converted.
        device: "cpu", or "cuda" or "cuda:<number>" for a function of CuPy's arrays, made on CuPy's current stream.

    Returns:
        A `scipy.sparse.linalg.LinearOperator` (N, N).

    Raises:
        TypeError: Bad kinds, or complex products.
        ValueError: A bad size, products of another shape, or a matrix that is not symmetric: one block of two random
            vectors is multiplied to see.

    Examples:
        >>> import numpy as np
        >>> import gnfast as gn
        >>> A = gn.operator(lambda V: np.arange(1.0, 101.0)[:, None] * V, 100)
        >>> f"{gn.cond(A).value:.6g}"
        '100'
    """
    if isinstance(function, LinearOperator) or not callable(function):
        raise TypeError(
            f"function is of type {type(function).__name__} but must be a function of a block of vectors (N, s); "
            "operators and arrays are taken as they are"
        )
    return Foreign(function, _checks.integer(size, "size"), _checks.float_dtype(dtype), _arrays.device(device))


def as_symmetric(op: Any, name: str = "op") -> SymmetricOperator:
    """An operator of gnfast as it is, any other `gnfast.protocol.Operator`, array or sparse matrix once it fits.

    `name` is that of the argument, for the messages.
    """
    if isinstance(op, SymmetricOperator):
        op.check_unchanged()
        return op
    if scipy.sparse.issparse(op):
        _check_square(tuple(op.shape), name)
        return Sparse(op, name)
    if not isinstance(op, Operator):
        _refuse_others(op, name)
        home = _arrays.device_of(op)
        matrix = _arrays.as_array(op, name, home)
        _check_square(matrix.shape, name)
        matrix = matrix.T if matrix.flags.f_contiguous else matrix  # nobody can tell them apart, once it is symmetric
        plain = _arrays.is_float(matrix.dtype) and _arrays.as_c_contiguous(matrix) is matrix
        if not (plain and _check_symmetric(matrix, name)):
            _check_symmetric(matrix := _checks.array(matrix, name, ("N", "N"), owner="gnfast", device=home), name)
        return Stored(matrix)
    _check_square(tuple(op.shape), name)
    dtype = np.dtype(np.float32) if _multiplies_in_single(op) else _real_dtype(op.dtype, name)
    return Foreign(op.matmat, op.shape[0], dtype, name=name)


def _refuse_others(op: Any, name: str) -> None:
    """Raise for what a matrix is made of, such as a network, with the call that makes one; and for what has none."""
    kind = type(op).__name__
    if isinstance(op, Network):
        raise TypeError(
            f"{name} is a network, whose curvature depends on data; pass gnfast.GaussNewton({name}, X), X its samples"
        )
    if _arrays.is_module(op):
        raise TypeError(
            f"{name} is a {kind} of PyTorch, whose curvature depends on data; pass "
            f"gnfast.GaussNewton(gnfast.from_torch({name}), X), X its samples"
        )
    if isinstance(getattr(op, "operator", None), SymmetricOperator):  # that of JAX's pytrees
        raise TypeError(f"{name} is a {kind} of pytrees but must be one of vectors; pass {name}.operator")
    if callable(op) and not hasattr(op, "__array__"):
        raise TypeError(
            f"{name} is a {kind}, which is called but has no size; pass gnfast.operator({name}, size), size the number "
            "of rows of the blocks that it multiplies"
        )
    if op is None or isinstance(op, str | bytes | dict | set):
        raise TypeError(
            f"{name} is of type {kind} but must be a symmetric matrix, such as gnfast.GaussNewton(net, X), an array "
            "(N, N) of NumPy or a SciPy LinearOperator"
        )


def _real_dtype(given: Any, name: str) -> np.dtype[Any]:
    """The dtype in which an operator that names one, or none, is worked on."""
    dtype = np.dtype(np.float64 if given is None else given)
    if dtype.kind not in "biuf":
        raise TypeError(f"{name} has dtype {dtype} but must be real symmetric, such as of float64")
    return dtype if _arrays.is_float(dtype) else np.dtype(np.float64)


def _multiplies_in_single(op: Any) -> bool:
    """Whether one of our operators in float32 is a part of SciPy's sums, products and multiples, which may say float64.

    It takes vectors in float64, but what it makes of them is no better than float32.
    """
    if isinstance(op, BlockOperator):
        return bool(op.dtype == np.float32)
    return any(_multiplies_in_single(part) for part in getattr(op, "args", ()) if isinstance(part, LinearOperator))


def _check_square(shape: tuple[int, ...], name: str) -> None:
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] == 0:
        gram = len(shape) == 2 and min(shape) > 0
        cure = f"; pass {name}.T @ {name} for that of a matrix of samples" if gram else ""
        raise ValueError(f"{name} has shape {shape} but must be square and symmetric, (N, N){cure}")


def _check_symmetric(matrix: Array, name: str) -> bool:
    """False where an entry is not finite, else True, or an error: one pass over the matrix."""
    scale, difference, finite = _arrays.device_of(matrix).core.asymmetry(matrix)
    if finite and difference > thresholds.asymmetry(scale, float(np.finfo(matrix.dtype).eps)):
        raise ValueError(_asymmetric(name))
    return bool(finite)


def _asymmetric(name: str) -> str:
    return f"{name} is not symmetric; pass {_halves(name)} if its symmetric part is meant"


def _halves(name: str) -> str:
    return f"({name} + {name}.T) / 2"


def is_ordinary(size: float, dtype: np.dtype[Any]) -> bool:
    """Whether an operator of this size is worked on as it is: see `InUnits`."""
    most = 1e60 if dtype == np.float64 else 1e8
    return 1 / most < size < most


def times_powers(rows: Array, exponents: Array) -> Array:
    """Each row of (s, N) times its power of two; (s,) exponents."""
    powers = _arrays.device_of(rows).upload(exponents.astype(np.int32)[:, None])
    with np.errstate(over="ignore", under="ignore"):
        found: Array = np.ldexp(rows, powers)
    return found


# ------------------------------------- stored matrices, which are overwritten: LAPACK's work, in the machine's memory
def semidefinite_eigenvalues(K: Array, dtype: np.dtype[Any], name: str = "op") -> Array:
    """All eigenvalues of a positive semi-definite matrix, ascending; `dtype` is what its entries were computed in."""
    check_finite(K, name)
    values: Array = scipy.linalg.eigvalsh(_arrays.to_host(K).T, lower=False, overwrite_a=True, check_finite=False)
    if values[0] < -10 * thresholds.zero_threshold(float(np.abs(values).max()), len(values), dtype):
        raise ValueError(
            f"{name} must be positive semi-definite but has the eigenvalue {values[0]:.6g}; pass one that is, or find "
            f"the ends of its spectrum by gnfast.eigsh({name}, {min(len(values), 2)}, 'BE')"
        )
    return values


def eigenpairs(K: Array, first: int, last: int, form: Callable[[], object]) -> tuple[Array, Array]:
    """The pairs from first to last, counted from 0 at the lowest: values ascending, vectors in columns, where K is.

    K is overwritten. LAPACK's bisection loses eigenvalues where many agree to rounding; then `form` writes K again, and
    all of its eigenvalues are computed, as LAPACK's manual advises.
    """
    check_finite(K)
    values, vectors = _eigh(K, subset_by_index=(first, last))
    if len(values) <= last - first:
        form()
        values, vectors = (pairs[..., first : last + 1] for pairs in _eigh(K, driver="evd"))
    return values, _arrays.device_of(K).upload(vectors.T).T


def _eigh(K: Array, **options: Any) -> tuple[Array, Array]:
    values, vectors = scipy.linalg.eigh(
        _arrays.to_host(K).T, lower=False, overwrite_a=True, check_finite=False, **options
    )
    return values, vectors


def compress(K: Array, cut: float) -> Array:
    """U U^T (r, r) of a pivoted Cholesky factorisation K = U^T U cut at `cut`: K's non-zero spectrum, of full rank."""
    factor, _, rank = pivoted_cholesky(_arrays.to_host(K), cut)
    for i in range(0, rank, BLOCK):
        factor[i : i + BLOCK, :i] = 0
        corner = factor[i : i + BLOCK, i : i + BLOCK]
        corner[:] = np.triu(corner)
    U = factor[:rank]
    return _arrays.as_c_contiguous(U @ U.T)


def check_finite(K: Array, name: str = "op") -> None:
    """The other triangle is not looked at: it may never have been written."""
    blocks = ((i, K[i : i + BLOCK, : i + BLOCK]) for i in range(0, len(K), BLOCK))
    if not all(np.isfinite(np.tril(rows, i)).all() for i, rows in blocks):
        raise _core.NonFiniteError(
            f"{name} has NaN or infinite entries: a product gave them, or overflowed; pass one of finite entries"
        )
