"""Diagonals, and with them traces, that are known for less than a product."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse

from gnfast import _arrays, _checks
from gnfast._arrays import Array
from gnfast.operators import GaussNewton, Gram, LinearDual, SymmetricOperator
from gnfast.operators.conv_dual import ConvDual
from gnfast.operators.kronecker_sum import KroneckerSum
from gnfast.operators.layer_blocks import Block
from gnfast.operators.plan import gram_costs
from gnfast.spectrum import matrices


class Known(NamedTuple):
    """A diagonal (N,) in float64, what it is made of, and the vectors that were multiplied for it."""

    values: Array
    method: str
    products: int = 0


def diagonal_without_products(op: Any, A: SymmetricOperator) -> Known | None:
    """The diagonal of `op`, which `A` is for the core, where it is free; else None."""
    if scipy.sparse.issparse(op):
        values = np.asarray(op.diagonal(), np.float64)
        if not np.isfinite(values).all():
            raise ValueError("the diagonal of op has NaN or infinite values; replace them")
        return Known(values, "entries of the matrix")
    if isinstance(A, matrices.Stored):
        return Known(A.lower.diagonal().astype(np.float64), "entries of the matrix")
    if isinstance(A, ConvDual):
        return Known(A.to_dense().diagonal().astype(np.float64), "entries of the matrix")
    if isinstance(A, Gram):
        return Known(A.diagonal(), "norms of the Jacobian's rows")
    if isinstance(A, LinearDual | KroneckerSum):
        P, R = (np.diagonal(factor, axis1=1, axis2=2).astype(np.float64) for factor in A.factors())
        return Known(np.einsum("la,lr->ar", P, R).ravel(), "diagonals of the factors P_l and R_l")
    if isinstance(A, GaussNewton | Block) and backward_rows_fit(A):
        return Known(A.diagonal(), "squares of the Jacobian, one product a layer")
    return None


def trace_space(op: Any) -> Any:
    """The operator with the same trace for which it costs least: of one that has a dual, such a one."""
    if not isinstance(op, GaussNewton | Block):
        return op.dual() if isinstance(op, SymmetricOperator) else op
    pruned = (op.owner if isinstance(op, Block) else op).net.kept is not None
    if pruned:  # whose own diagonal is free, and its Gram's is not
        return op
    if isinstance(op, Block):
        return op.gram()
    if op.plan().space == "linear map":
        return op.linear_dual()
    return op.gram(reduced=True) if backward_rows_fit(op) else op


def backward_rows_fit(op: GaussNewton | Block) -> bool:
    """Whether the derivatives of the outputs in all pre-activations are within `memory_limit`."""
    G = op.owner if isinstance(op, Block) else op
    if G.memory_limit is None:
        return True
    needed = gram_costs(G, G.loss_at.rank).kept
    return bool(needed + G.products.plan(1)["bytes_forward"] <= G.memory_limit)


def diagonal_by_all_products(A: SymmetricOperator, block: int) -> Known:
    """The diagonal from all N unit vectors."""
    size = A.shape[0]
    values = np.empty(size)
    for i in range(0, size, block):
        count = min(block, size - i)
        rows, out = A.device.unit_rows(i, count, size, A.dtype), A.device.empty((count, size), A.dtype)
        A.core.apply(rows, out)
        values[i : i + count] = _arrays.to_host(out.reshape(-1)[i :: size + 1])
    if not np.isfinite(values).all():
        raise ValueError("a product with the operator gave NaN or infinite values; check its entries")
    return Known(values, f"all {_checks.counted(size, 'product')}", size)
