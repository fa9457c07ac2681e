"""Costs of the duals: bytes and flops, from the sizes alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gnfast._memory import machine_bytes
from gnfast.networks.patches import ComposedConvolution
from gnfast.operators.problem import Problem

# The least block of vectors that shares one pass over the backward rows: what a plan is made for unless told otherwise.
BLOCK = 8
# An extreme eigenvalue needs about this many products: what the spaces are compared by.
PRODUCTS = 200
# A pass over stored memory against a matrix product: bytes are dear to a single-precision multiply-add. Measured on two
# cores: 130 GF/s in products, 10 GB/s from memory, which is 4 flops (float32) a number read once for a narrow block.
MEMORY_BOUND = 10.0


@dataclass(frozen=True)
class GramCosts:
    """Costs of the Gram dual, N = n rank."""

    kept: float  # bytes of backward rows; of layers that are not plain and dense, of one sample's rows of the Jacobian
    start: float  # flops before the first product
    forming: float  # flops of the matrix
    product: float  # flops of a product without it, a vector
    more: float  # bytes that such products keep besides
    room: float  # bytes that forming the matrix takes besides
    least: float  # bytes beside the matrix without which it cannot be formed


def gram_costs(problem: Problem, rank: int, parameters: int | None = None) -> GramCosts:
    """The costs of the Gram dual with `rank` rows a sample, in all parameters or so many of one layer."""
    net, n, item = problem.net, len(problem.X), problem.dtype.itemsize
    if net.is_feedforward_dense:
        shapes = [layer.weight.shape for layer in net.dense]
        return dense_gram_costs(shapes, n, rank, item, problem.products.plan(BLOCK).bytes_forward)
    p, core = parameters or problem.parameters, problem.products.plan(BLOCK)
    each, rest = float(rank * p * item), core.bytes_rows + core.bytes_workspace  # bytes of a sample's rows
    rows = core.flops_rows * rank / problem.loss_at.rank
    stored = core.method == "stored"
    product = core.flops_stored if stored else core.flops_usual
    at_least = 0.0 if stored else min(n, 2) * each
    return GramCosts(
        kept=each,
        start=rows if stored else 0.0,
        forming=float(n * rank) ** 2 * p + rows,
        product=product,
        more=0.0,
        room=max(each, 0.0 if stored else min(n * each, _left(problem, n * rank, rest + core.bytes_forward)) - each)
        + rest,
        least=at_least + rest + core.bytes_forward,
    )


def dense_gram_costs(
    shapes: Sequence[tuple[int, ...]], n: int, rank: int, item: int, bytes_forward: float
) -> GramCosts:
    """The same for plain dense layers of weights of these shapes (out, in), each number of `item` bytes."""
    widths, weights = sum(out for out, _ in shapes), sum(out * into for out, into in shapes)
    grams = [(out, into) for out, into in shapes if 2 * into >= n]  # others: by their inputs, in two steps
    through = weights - sum(out * into for out, into in grams)
    return GramCosts(
        kept=n * rank * widths * item,
        start=2.0 * n * (rank + 1) * weights + 2.0 * n**2 * sum(map(sum, shapes)),
        forming=float(n * rank) ** 2 * widths + 2.0 * n * (rank + 1) * weights,
        product=2.0 * n**2 * sum(out for out, _ in grams) + 4.0 * n * (through + rank * widths),
        more=n**2 * (len(grams) + 2) * item,
        room=0.0,
        least=n * rank * widths * item + bytes_forward,
    )


def _left(problem: Problem, size: int, taken: float) -> float:
    """Bytes that rows of the Jacobian may take while a Gram matrix (size, size) is formed, as the core has it."""
    if problem.memory_limit is None:
        return (machine_bytes() or math.inf) / 4
    return float(problem.memory_limit - taken - size**2 * problem.dtype.itemsize) * (1 - 1e-9)


def linear_dual_bytes(depth: int, k: int, rank: int, item: int) -> int:
    """Bytes of the linear dual's factors P_l (k, k) and R_l (rank, rank), packed too, and of a solver's 60 vectors."""
    return (depth * (k**2 + 2 * rank**2) + 60 * k * rank) * item


def linear_dual_flops(shapes: Sequence[tuple[int, ...]], rank: int) -> float:
    """Flops of a condition number on the linear dual: products of all weights from either side, and with the dual."""
    k = shapes[-1][0]
    products = 2.0 * (rank + k) * sum(out * into for out, into in shapes)
    return products + PRODUCTS * 2.0 * len(shapes) * k * rank * (k + rank)


def conv_dual_bytes(linear: ComposedConvolution, itemsize: int) -> float:
    """Bytes of the stored dual of convolutions, of what it is formed in, and of the moment of the patches."""
    size = linear.channels * linear.columns
    return size**2 * (itemsize + 3 * 8.0) + 2 * 8.0 * linear.columns**2


def conv_dual_flops(linear: ComposedConvolution, n: int) -> float:
    """Flops of forming it: the moment of the patches, a factor of that, and the Grams of the Jacobian."""
    D = linear.columns
    return linear.moment_flops(n) + D**3 / 3 + linear.gram_flops(D)
