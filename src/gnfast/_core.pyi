from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating[Any]]
Progress = Callable[..., object] | None  # (stage, done, total), and the residual where a solver knows it

class MemoryLimitError(MemoryError): ...

class Network:
    def __init__(self, layers: list[tuple[Any, ...]], inputs: int, dtype: str) -> None: ...
    @property
    def parameters(self) -> int: ...
    def forward(self, x: Array, out: Array) -> None: ...
    def linearize(self, x: Array) -> tuple[list[Array], list[Array | None]]: ...

class Operator:
    @property
    def size(self) -> int: ...
    def apply(self, v: Array, out: Array) -> None: ...

class GaussNewton(Operator):
    def __init__(
        self,
        network: Network,
        x: Array,
        loss: str,
        given: Array | None,
        scale: float,
        method: str,
        memory_limit: float,
    ) -> None: ...
    def plan(self, vectors: int) -> dict[str, Any]: ...
    def diagonal(self, out: Array) -> None: ...
    def kronecker_factors(self, all: list[tuple[int, Array, Array]]) -> None: ...
    def jvp(self, v: Array, u: Array) -> None: ...
    def vjp(self, u: Array, v: Array) -> None: ...

class Dual(Operator):
    def lift(self, v: Array, out: Array, parameters: int) -> None: ...
    def restrict(self, v: Array, out: Array, parameters: int) -> None: ...
    def mean_over_outputs(self, out: Array) -> None: ...

class Gram(Dual):
    def __init__(self, owner: GaussNewton, reduced: bool, first: int, last: int) -> None: ...
    def form(self, out: Array, progress: Progress) -> None: ...
    def diagonal(self) -> Array: ...

class LinearDual(Dual):
    def __init__(self, network: Network, range: Array, affine: bool) -> None: ...
    def factors(self, p: Array, r: Array) -> None: ...

class KroneckerSum(Operator):
    def __init__(self, p: Array, r: Array) -> None: ...
    def mean_over_outputs(self, out: Array) -> None: ...

def set_blas(capsules: dict[str, Any]) -> None: ...
def set_num_threads(count: int) -> None: ...
def get_num_threads() -> int: ...
def checksums(arrays: list[Any]) -> list[int]: ...

class OneBlasThread:
    def __enter__(self) -> None: ...
    def __exit__(self, *error: object) -> None: ...

def build_info() -> dict[str, Any]: ...
def fill_normal(out: Array, seed: int, stream: int, scale: float) -> None: ...
def fill_uniform(out: Array, seed: int, stream: int, low: float, high: float) -> None: ...
def permute_rows(rows: Array, out: Array, arrays: list[tuple[int, int, tuple[int, ...], tuple[int, ...]]]) -> None: ...
def sample_network(
    x: Array,
    gram: Array,
    activation: str,
    slope: float,
    widths: list[int],
    variances: list[float],
    skips: list[float],
    orthogonal: bool,
    bias: bool,
    loss: str,
    scale: float,
    seed: int,
    sample: int,
    tile: int,
    k: Array,
    outputs: Array,
    progress: Progress,
) -> None: ...
def cholesky(a: Array) -> int: ...
def stored(lower: Array) -> Operator: ...
def cholesky_inverse(lower: Array, copies: int, interleaved: bool) -> Operator: ...
def widened(op: Operator) -> Operator: ...

class InUnits(Operator):
    def __init__(self, op: Operator) -> None: ...
    @property
    def exponent(self) -> int: ...
    def settle(self, at_least: float) -> None: ...

def callback(f: Callable[[Array], Array], size: int, dtype: str) -> Operator: ...
def lanczos(
    op: Operator,
    vectors: Array,
    largest: bool,
    block: int,
    max_basis: int,
    max_products: int,
    tol: float,
    norm: float,
    seed: int,
    progress: Progress,
    *,
    both: bool = False,
    min_steps: int = 0,
    bars: list[float] | None = None,
    keep: bool = False,
    start: Array | None = None,
    restore: dict[str, Array] | None = None,
    save: Callable[[dict[str, Array], bool], object] | None = None,
) -> dict[str, Any]: ...
def ritz_errors(values: list[float], residuals: list[float]) -> list[float]: ...
def asymmetry(a: Array) -> tuple[float, float, bool]: ...
def davidson(
    op: Operator,
    preconditioner: Operator | None,
    vectors: Array,
    block: int,
    max_basis: int,
    max_products: int,
    tol: float,
    norm: float,
    seed: int,
    progress: Progress,
    largest: bool = False,
    *,
    both: bool = False,
    min_steps: int = 0,
    bars: list[float] | None = None,
    keep: bool = False,
    start: Array | None = None,
    restore: dict[str, Array] | None = None,
    save: Callable[[dict[str, Array], bool], object] | None = None,
) -> dict[str, Any]: ...
def cg_inverse(
    op: Operator, preconditioner: Operator | None, damping: float, tol: float, max_iterations: int
) -> Operator: ...
def nystrom(
    op: Operator, vectors: Array, seed: int, progress: Progress, *, start: Array | None = None
) -> dict[str, Any]: ...
def trace(
    op: Operator,
    method: str,
    samples: int,
    max_products: int,
    tol: float,
    block: int,
    seed: int,
    progress: Progress,
) -> tuple[float, float, int, bool]: ...
def diagonal(
    op: Operator,
    method: str,
    samples: int,
    max_products: int,
    tol: float,
    block: int,
    seed: int,
    progress: Progress,
    mean: Array,
    squares: Array,
    without: Array,
) -> tuple[int, float, int, bool]: ...
def lanczos_quadrature(
    op: Operator,
    probes: int,
    steps: int,
    block: int,
    reorthogonalize: bool,
    seed: int,
    progress: Progress,
    first: int = 0,
) -> tuple[Array, Array, Array, Array, Array, int]: ...
def chebyshev_moments(
    op: Operator, centre: float, half: float, probes: int, moments: int, block: int, seed: int, progress: Progress
) -> Array: ...
def nystrom_factors(op: Operator, seed: int, vectors: Array) -> list[float]: ...
def low_rank_update(vectors: Array, factors: list[float]) -> Operator: ...
def solve(
    op: Operator,
    preconditioner: Operator | None,
    damping: float,
    tol: float,
    max_iterations: int,
    progress: Progress,
    b: Array,
    x: Array,
    from_zero: bool,
) -> dict[str, Any]: ...
