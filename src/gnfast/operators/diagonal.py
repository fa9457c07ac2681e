"""The diagonal of a Gauss-Newton matrix, exactly."""

from __future__ import annotations

import numpy as np

from gnfast._arrays import Array
from gnfast._memory import check_memory
from gnfast.operators.costs import gram_costs
from gnfast.operators.problem import Problem


def diagonal_of(problem: Problem) -> Array:
    """diag G, (p,), in float64 and where products are.

    Raises:
        MemoryError: What it is made of exceeds the memory limit.
    """
    problem.check_unchanged()
    check_memory(_needed(problem), problem.memory_limit, "the exact diagonal", "use gnfast.diagonal")
    out = problem.device.empty((1, problem.parameters), problem.dtype)
    problem.products.diagonal(out)
    values: Array = out[0].astype(np.float64)
    return values


def rows_fit(problem: Problem) -> bool:
    """Whether the derivatives of the outputs in all pre-activations are within the memory limit."""
    return problem.memory_limit is None or _needed(problem) <= problem.memory_limit


def _needed(problem: Problem) -> float:
    kept: float = gram_costs(problem, problem.loss_at.rank).kept + problem.products.plan(1).bytes_forward
    return kept
