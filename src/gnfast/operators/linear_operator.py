"""A SciPy LinearOperator whose products take blocks of vectors: checks of what comes in, and who owns what goes out."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Self

import numpy as np
from scipy.sparse.linalg import LinearOperator

from gnfast import _arrays, _checks, _core
from gnfast._arrays import Array, Device
from gnfast._vectors import Rows, converted


class BlockOperator(LinearOperator):  # type: ignore[misc]
    """A LinearOperator whose products take all vectors of a block at once.

    Vectors of a block are contiguous in memory: pass Fortran-ordered blocks to avoid a copy. An operator on a GPU takes
    arrays on that GPU, CuPy's or what CuPy reads without a copy, and gives CuPy's. Of PyTorch's tensors a product is a
    tensor, in memory that is not copied.

    Vectors of another dtype are taken as NumPy's `@` takes them: integers, booleans, any precision, complex numbers.
    The product is made in the operator's precision and has the wider of the two dtypes, `numpy.result_type`'s. Tensors
    must have the operator's dtype, as PyTorch's own products ask.

    Attributes:
        device: Where it multiplies, "cpu" or "cuda:0" and so on.
    """

    def __init__(self, shape: tuple[int, int], dtype: np.dtype[Any], device: Device) -> None:
        super().__init__(dtype, shape)
        self.device = device

    def matmat(self, V: Any, out: Array | None = None) -> Array:
        """The product with a block of vectors.

        Args:
            V: (columns of the operator, s); one of the operator's dtype in Fortran order is not copied.
            out: (rows, s), Fortran-ordered, of the product's dtype, not overlapping `V`; None allocates one.

        Returns:
            `out`, or a new Fortran-ordered (rows, s), a tensor if `V` is one.

        Raises:
            TypeError: No numbers, a tensor of another dtype, an `out` of another dtype or that is no array, an array in
                the other kind of memory, or a tensor that requires a gradient while PyTorch records them.
            ValueError: Another shape, layout or GPU, NaN or infinite values, or an `out` that overlaps `V`.
        """
        self.check_unchanged()
        given = self._rows_of(V, "V", self.shape[1])
        target = None if out is None else self._output(out, given)
        if target is not None and np.may_share_memory(given.rows, target):
            raise ValueError("out overlaps V; pass an array of its own")
        made = target
        if made is None or made.dtype != self.dtype:
            made = self.device.empty((len(given.rows), self.shape[0]), self.dtype)
        self.device.enter()
        self._apply(given.rows, made)
        if target is None:
            return _arrays.like(given.back(made).T, V)  # type: ignore[no-any-return]  # a tensor of a tensor
        if made is not target:
            target[:] = given.back(made)
        return out  # type: ignore[return-value]  # which is the caller's

    def matvec(self, v: Any) -> Array:
        """The product with one vector, (columns,) or (columns, 1), as `matmat` makes it."""
        found = _arrays.as_array(v, "v", self.device, "the operator")
        self._check_vector(found.shape)
        self._check_dtype(found.dtype, "V", v)
        product = self.matmat(found.reshape(-1, 1)).reshape(-1, *found.shape[1:])
        return _arrays.like(product, v)  # type: ignore[no-any-return]  # a tensor of a tensor

    def rmatvec(self, v: Any) -> Array:
        """The adjoint's product with one vector."""
        return self._adjoint().matvec(v)  # type: ignore[no-any-return]  # SciPy's method, which has no types

    def rmatmat(self, V: Any) -> Array:
        """The adjoint's product with a block of vectors."""
        return self._adjoint().matmat(V)  # type: ignore[no-any-return]

    def dot(self, x: Any) -> Any:
        """The product with an array, as `@` makes it, or with another operator or a number, as SciPy makes it."""
        if isinstance(x, LinearOperator) or np.isscalar(x):
            return super().dot(x)
        x = self._with_shape(x)
        return self.matvec(x) if x.ndim == 1 else self.matmat(x)

    def _rdot(self, x: Any) -> Any:
        """x @ operator."""
        if isinstance(x, LinearOperator) or np.isscalar(x):
            return super()._rdot(x)
        x = self._with_shape(x)
        return self._transpose().dot(x) if x.ndim == 1 else self._transpose().dot(x.T).T

    def _with_shape(self, x: Any) -> Any:
        """An array of what is none of some library; one with other things to say keeps them until checked."""
        known = isinstance(x, np.ndarray) or _arrays.is_tensor(x) or _arrays.is_on_gpu(x)
        return x if known and hasattr(x, "ndim") else _arrays.as_array(x, "V", self.device, "the operator")

    def check_unchanged(self) -> None:
        """Raise if what the operator was made of has been changed since: what it keeps would be out of date."""

    def _matmat(self, V: Any) -> Array:
        return self.matmat(V)

    def __copy__(self) -> Self:
        """Another of the same parts, which are not copied."""
        twin = type(self).__new__(type(self))
        twin.__dict__.update(self.__dict__)
        return twin

    def __reduce__(self) -> tuple[Any, ...]:
        function, arguments = self._recipe()
        return function, arguments

    def _recipe(self) -> tuple[Callable[..., BlockOperator], tuple[Any, ...]]:
        """A function and its arguments, which make the operator again: what is pickled and copied deeply."""
        raise TypeError(
            f"{type(self).__module__}.{type(self).__qualname__} is neither pickled nor deeply copied; pickle what it "
            "was made of, such as the model and the samples, and make it again"
        )

    def _apply(self, rows: Array, out: Array) -> None:
        """out (s, rows of the operator) <- the product with rows (s, columns), one vector a row, both in C order."""
        raise NotImplementedError

    def _rows_of(self, V: Any, name: str, length: int) -> Rows:
        found = _arrays.as_array(V, name, self.device, "the operator")
        self._check_block(found.shape, found.dtype, name, length, V)
        if found.dtype != self.dtype:
            return converted(found.T, self.dtype)
        if not found.T.flags.c_contiguous and found.nbytes >= _checks.COPY_WARNING_BYTES:
            fortran = f"{self.device.library}.asfortranarray({name})"
            cure = f"{name}.T.contiguous().T" if _arrays.is_tensor(V) else fortran
            warnings.warn(
                f"{name} of shape {found.shape} is not in Fortran order and was copied; pass {cure} where it is "
                "used more than once",
                _checks.CopyWarning,
                stacklevel=_checks.level_of_caller(),
            )
        return Rows(_arrays.as_c_contiguous(found.T), self.dtype)

    def _check_vector(self, shape: tuple[int, ...]) -> None:
        length = self.shape[1]
        if shape not in ((length,), (length, 1)):
            raise ValueError(f"v has shape {shape} but must be ({length},), or ({length}, s) for a block of s vectors")

    def _check_block(self, shape: tuple[int, ...], dtype: Any, name: str, length: int, V: Any) -> None:
        if len(shape) != 2 or shape[0] != length or shape[1] == 0:
            raise ValueError(
                f"{name} has shape {shape} but must be ({length}, s) with s at least 1, one vector a column"
            )
        self._check_dtype(dtype, name, V)

    def _check_dtype(self, dtype: Any, name: str, V: Any) -> None:
        if dtype != self.dtype and _arrays.is_tensor(V):
            cure = _arrays.conversion(V, name, self.dtype)
            raise TypeError(f"{name} has dtype {dtype} but the operator has {self.dtype}; convert it with {cure}")

    def _output(self, out: Any, given: Rows) -> Array:
        s, wanted = given.count, given.dtype
        if not self.device.owns(out) or out.dtype != wanted:
            got = f"has dtype {out.dtype}" if self.device.owns(out) else f"is of type {type(out).__name__}"
            whose = "the operator's dtype" if wanted == self.dtype else "the wider of the operator's and V's dtypes"
            raise TypeError(f"out {got} but must be an array of {wanted}, {whose}, on {self.device}, its device")
        if out.shape != (self.shape[0], s):
            raise ValueError(f"out has shape {out.shape} but must be {(self.shape[0], s)}, one product a column")
        if not out.T.flags.c_contiguous or not _arrays.is_writeable(out):
            raise ValueError(
                "out must be writeable and in Fortran order; "
                f"make it with {self.device.library}.empty(shape, dtype, order='F')"
            )
        columns: Array = out.T
        return columns


def check_finite(values: Array, name: str) -> None:
    """Raise a ValueError that names the values if any is NaN or infinite."""
    if not np.isfinite(values).all():
        raise _core.NonFiniteError(
            f"{name} has NaN or infinite values, or overflows in the product; pass finite vectors"
        )
