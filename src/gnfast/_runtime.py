"""Loads the compiled core: hands it SciPy's BLAS and LAPACK and keeps OpenMP's threads from spinning."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy
import scipy.linalg.cython_blas
import scipy.linalg.cython_lapack

from gnfast import _arrays, _checks


@contextlib.contextmanager
def _passive_waiting() -> Iterator[None]:
    """OpenMP reads its settings when it is loaded: idle threads should sleep, not spin on other libraries' cores."""
    name = "OMP_WAIT_POLICY"
    given = os.environ.get(name)
    if given is None:
        os.environ[name] = "passive"
    try:
        yield
    finally:
        if given is None:
            del os.environ[name]


with _passive_waiting():
    from gnfast import _core


def _routines() -> dict[str, Any]:
    capsules = {**scipy.linalg.cython_blas.__pyx_capi__, **scipy.linalg.cython_lapack.__pyx_capi__}
    names = ("gemm", "symm", "trsm", "syrk", "potrf", "syevd", "syev")
    return {p + name: capsules[p + name] for p in "sd" for name in names}


def _prepare(core: Any) -> None:
    core.set_blas(_routines())


_arrays.prepare_core(_core, _prepare)


def set_num_threads(n: int) -> None:
    """Use `n` threads in gnfast's own loops and products from now on, at least 1; results may differ by rounding.

    Examples:
        >>> import gnfast as gn
        >>> before = gn.get_num_threads()
        >>> gn.set_num_threads(1)
        >>> gn.get_num_threads()
        1
        >>> gn.set_num_threads(before)
    """
    _core.set_num_threads(_checks.integer(n, "n"))


def get_num_threads() -> int:
    """How many threads gnfast uses: as many as OpenMP would, unless `set_num_threads` said otherwise."""
    return _core.get_num_threads()


def set_float32_matmul_precision(precision: str) -> None:
    """How GPUs make products of float32 matrices from now on, named and meant as in PyTorch.

    Results of operators in float32 on a GPU carry the error of their products, and no eigenvalue, interval or rank is
    then claimed to be known better, on the CPU either. Products on the CPU, and all in float64, stay as they are.

    Args:
        precision: "highest": float32 throughout, the default; "high": factors rounded to TF32 (10 bits, relative errors
            of some 1e-3), sums in float32; "medium": factors rounded to bfloat16 (7 bits), sums in float32.
    """
    _arrays.set_precision(_checks.choice(precision, "precision", tuple(_arrays.PRECISIONS)))


def get_float32_matmul_precision() -> str:
    """The precision that `set_float32_matmul_precision` was last told, "highest" before."""
    return _arrays.get_precision()


def blas_threads(size: int) -> contextlib.AbstractContextManager[None]:
    """BLAS and LAPACK of SciPy and NumPy on one thread while matrices of this size are worked on, if that is small.

    The two libraries have their own threads, which wait for work by spinning on each other's cores: matrices of 784
    rows went through SciPy's factorisations and NumPy's products in a third of the time on one thread.
    """
    return _core.OneBlasThread() if size < 1500 else contextlib.nullcontext()


def build_info() -> dict[str, Any]:
    """The parts of this installation.

    Returns:
        A dict with "version", "compiler", "openmp" (date of the standard), "cuda" (what the module for GPUs was built
        with, or False), "blas" (SciPy's, with its version), "blas_thread_control" (the function that keeps BLAS on one
        thread inside our loops, "" if this BLAS has none), "numpy", "scipy", "threads".
    """
    blas = scipy.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return _core.build_info() | {
        "blas": f"{blas['name']} {blas['version']}",
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "threads": get_num_threads(),
    }
