"""A SciPy LinearOperator whose products take blocks of vectors: checks of what comes in, and who owns what goes out."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from scipy.sparse.linalg import LinearOperator

from gnfast import _arrays, _checks
from gnfast._arrays import Array, Device


class BlockOperator(LinearOperator):  # type: ignore[misc]
    """A LinearOperator whose products take all vectors of a block at once.

    Vectors of a block are contiguous in memory: pass Fortran-ordered blocks to avoid a copy. An operator on a GPU takes
    arrays on that GPU, CuPy's or what CuPy reads without a copy, and gives CuPy's. Of PyTorch's tensors a product is a
    tensor, in memory that is not copied.

    Attributes:
        device: Where it multiplies, "cpu" or "cuda:0" and so on.
    """

    def __init__(self, shape: tuple[int, int], dtype: np.dtype[Any], device: Device) -> None:
        super().__init__(dtype, shape)
        self.device = device

    def matmat(self, V: Any, out: Array | None = None) -> Array:
        """The product with a block of vectors.

        Args:
            V: (columns of the operator, s), of the operator's dtype; Fortran order avoids a copy.
            out: (rows, s), Fortran-ordered, of the operator's dtype, not overlapping `V`; None allocates one.

        Returns:
            `out`, or a new Fortran-ordered (rows, s), a tensor if `V` is one.

        Raises:
            TypeError: Another dtype, an `out` that is no array, an array in the other kind of memory, or a tensor that
                requires a gradient while PyTorch records them.
            ValueError: Another shape, layout or GPU, NaN or infinite values, or an `out` that overlaps `V`.
        """
        self.check_unchanged()
        rows = self._rows_of(V, "V", self.shape[1])
        if out is None:
            target = self.device.empty((len(rows), self.shape[0]), self.dtype)
        else:
            target = self._output(out, len(rows))
            if np.may_share_memory(rows, target):
                raise ValueError("out overlaps V; pass an array of its own")
        self.device.enter()
        self._apply(rows, target)
        return _arrays.like(target.T, V) if out is None else out

    def matvec(self, v: Any) -> Array:
        """The product with one vector, (columns,) or (columns, 1), of the operator's dtype."""
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
        x = self._with_shape(x)
        if _arrays.is_on_gpu(x) or hasattr(x, "__dlpack__"):  # which SciPy would have NumPy read as it can
            return self.matvec(x) if x.ndim == 1 else self.matmat(x)
        return super().dot(x)

    def _rdot(self, x: Any) -> Any:
        """x @ operator."""
        x = self._with_shape(x)
        if _arrays.is_on_gpu(x) or _arrays.is_tensor(x):
            return self._transpose().dot(x) if x.ndim == 1 else self._transpose().dot(x.T).T
        return super()._rdot(x)

    def _with_shape(self, x: Any) -> Any:
        """What has DLPack and nothing else, as an array: an array's attributes are not asked of it."""
        alone = hasattr(x, "__dlpack__") and not hasattr(x, "ndim")
        return _arrays.as_array(x, "V", self.device, "the operator") if alone else x

    def check_unchanged(self) -> None:
        """Raise if what the operator was made of has been changed since: what it keeps would be out of date."""

    def _matmat(self, V: Any) -> Array:
        return self.matmat(V)

    def _apply(self, rows: Array, out: Array) -> None:
        """out (s, rows of the operator) <- the product with rows (s, columns), one vector a row, both in C order."""
        raise NotImplementedError

    def _rows_of(self, V: Any, name: str, length: int) -> Array:
        found = _arrays.as_array(V, name, self.device, "the operator")
        self._check_block(found.shape, found.dtype, name, length, V)
        if not found.T.flags.c_contiguous and found.nbytes >= _checks.COPY_WARNING_BYTES:
            fortran = f"{self.device.library}.asfortranarray({name})"
            cure = f"{name}.T.contiguous().T" if _arrays.is_tensor(V) else fortran
            warnings.warn(
                f"{name} of shape {found.shape} is not in Fortran order and was copied; pass {cure} where it is "
                "used more than once",
                _checks.CopyWarning,
                stacklevel=_checks.level_of_caller(),
            )
        return _arrays.as_c_contiguous(found.T)

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
        if dtype != self.dtype:
            cure = f"to(torch.{self.dtype})" if _arrays.is_tensor(V) else f"astype('{self.dtype}')"
            raise TypeError(
                f"{name} has dtype {dtype} but the operator has {self.dtype}; convert it with {name}.{cure}"
            )

    def _output(self, out: Any, s: int) -> Array:
        if not self.device.owns(out) or out.dtype != self.dtype:
            got = f"has dtype {out.dtype}" if self.device.owns(out) else f"is of type {type(out).__name__}"
            raise TypeError(
                f"out {got} but must be an array of {self.dtype}, the operator's dtype, on {self.device}, its device"
            )
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
    if not np.isfinite(values).all():
        raise ValueError(f"{name} has NaN or infinite values, or overflows in the product; pass finite vectors")
