"""Checks of a search: nothing is missed beyond the pairs found, and their residuals are true.

A search from a random block of b vectors sees b copies of each eigenvalue, and a start that was given sees what it has
a part of. So where a cluster among the values is as wide as the block, or the start was given, a look follows: a search
from one random vector in the complement of what was found for one eigenvalue beyond the innermost of them. If it meets
one, a search from a wider random block takes the place of the first; if there is none, the values are the ones that
were asked for, by the interlacing of a matrix with its compressions (Parlett, "The symmetric eigenvalue problem",
chapter 10). Residuals come from recurrences, which the products with one symmetric matrix obey: a product with the
pairs themselves tells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from gnfast import _arrays, _checks, _core, thresholds
from gnfast._arrays import Array
from gnfast.spectrum.checkpoints import Checkpoint
from gnfast.spectrum.outcome import Outcome
from gnfast.spectrum.task import Task

LOOK = 6  # steps of a look at least; it goes on until it is answered
ROUNDS = 4  # searches, each wider than the one before
CHECK = 0.05  # of the products, for the check of the residuals
STAGES = {"LA": "largest eigenvalues", "SA": "smallest eigenvalues", "BE": "eigenvalues of both ends"}

Engine: TypeAlias = Callable[[_core.Operator, Array, _core.SearchOptions], _core.SearchResult]


@dataclass
class Found:
    """The result of a search of the core.

    Attributes:
        raw: As the core says it, until a check corrects it.
        rows: (k, N) the vectors.
        core: The operator that was searched.
        engine: The solver.
        random: Columns of its first block that were drawn; 0 where a start was given.
        copies: Of an eigenvalue among the innermost that the search is sure to meet; `random` if None.
        steps: Of a look with the same solver.
        checkpoint: Where its state is kept.
    """

    raw: Outcome
    rows: Array
    core: _core.Operator
    engine: Engine
    random: int
    steps: int = LOOK
    checkpoint: Checkpoint | None = None
    copies: int | None = None
    look: int = 0  # steps that were made
    inexact: bool = False  # it ended by residuals that products do not confirm, which another search from it mends

    @property
    def whole(self) -> bool:
        """Whether there are all pairs, within tolerance."""
        return self.raw.converged and len(self.raw.values) == len(self.rows)

    def fail(self, reason: str) -> Found:
        """The same, not converged, with the reason."""
        self.raw.converged, self.raw.reason = False, reason
        return self

    def interrupt(self) -> Found:
        """The same, ended by the caller."""
        self.raw.interrupted = True
        return self.fail("interrupted")


def complete(task: Task, run: Callable[[Task], Found]) -> Found:
    """The pairs that `run` finds, searched on until nothing is missed and their residuals are true."""
    found = _searched(task, run)
    for round in range(1, ROUNDS + 1):
        if not found.whole or not _doubtful(task, found) or not _is_missed(task, found):
            break
        if round == ROUNDS:
            found.fail("eigenvalues beyond those found were met")
            break
        block = min(task.size, max(task.k, 2 * found.random))
        left = task.limit - found.raw.products
        if left < 2 * block:
            found.fail("max_products reached, and eigenvalues beyond those found were met")
            break
        wider = replace(task, start=None, block=block, seed=_checks.other_seed(task.seed, round), path=None, limit=left)
        found = _after(found, _searched(wider, run))
    if found.checkpoint is not None and found.raw.converged:
        found.checkpoint.remove()
    return found


def _searched(task: Task, run: Callable[[Task], Found]) -> Found:
    """The pairs that `run` finds, with true residuals: once more from them where these exceed the tolerance."""
    found = _true(task, run(task))
    left = task.limit - found.raw.products
    if not found.inexact or left <= len(found.rows):
        return found
    again = replace(task, start=_arrays.as_c_contiguous(found.rows), path=None, limit=left)
    return _after(found, _true(again, replace(run(again), random=found.random)))


def _after(before: Found, now: Found) -> Found:
    """The later of two searches, with the products of both."""
    now.checkpoint = before.checkpoint
    now.raw.products += before.raw.products
    now.raw.passes += before.raw.passes
    return now


# ------------------------------------------------------------------------------------------------------- nothing missed
def _sides(task: Task, found: Found) -> Iterator[tuple[int, list[int]]]:
    """Which values are of the upper (1) and of the lower (-1) end, from the end inwards; "BE" has them by turns."""
    indices = list(range(len(found.rows)))
    if task.which == "BE":
        yield 1, indices[::2]
        if len(indices) > 1:
            yield -1, indices[1::2]
    else:
        yield (1 if task.which == "LA" else -1), indices


def _doubtful(task: Task, found: Found) -> bool:
    """Whether the search may have missed copies of an eigenvalue, or others that its start had no part of."""
    if len(found.rows) == task.size:
        return False
    if found.random == 0:
        return True
    values, residuals, others = found.raw.values, found.raw.residuals, found.raw.others
    rounding = thresholds.rounding_error(found.raw.norm, task.A.dtype)
    copies = found.random if found.copies is None else found.copies
    for sign, side in _sides(task, found):
        # What a search does not tell apart it has as one value with a residual of about the width.
        near = 10 * residuals[side] + task.tol * np.abs(values[side]) + rounding
        seen = np.concatenate([values[side], -sign * np.sort(-sign * others)])[: len(side) + copies - 1]
        last = len(seen) - copies + 1
        if last > 0 and (np.abs(seen[:last] - seen[copies - 1 :]) <= near[:last]).any():
            return True
    return False


def _bar(task: Task, found: Found, sign: int, side: list[int]) -> float:
    """The bar that no other eigenvalue of this side may exceed: that none is missed, and that the pairs' errors hold.

    The error of a pair with residual r is r^2 over the distance to what is left of the matrix in the complement of all
    pairs (Parlett, section 11.7). That distance is known from the search only as far as the search met everything.
    """
    values, residuals = found.raw.values[side], found.raw.residuals[side]
    norm, dtype = found.raw.norm, task.A.dtype
    room = task.tol * np.abs(values) + thresholds.rounding_error(norm, dtype)
    by_distance = residuals > np.maximum(room, thresholds.zero_threshold(norm, task.size, dtype))
    room[by_distance] = -residuals[by_distance] * (residuals[by_distance] / room[by_distance])
    return float(sign * (sign * values + room).min())


def _is_missed(task: Task, found: Found) -> bool:
    """Whether there are eigenvalues beyond the pairs found; where that remains open, `found` is no longer converged."""
    norm, sides = found.raw.norm, list(_sides(task, found))
    bars = [_bar(task, found, sign, side) for sign, side in sides]
    left = task.limit - found.raw.products
    if left < found.steps:
        found.fail("max_products reached before a look for missed eigenvalues")
        return False
    rows = task.device.zeros((len(sides), task.size), task.op.dtype)
    far = sum(bars) / 2 if len(sides) == 2 else -2 * sides[0][0] * norm
    options = task.device.core.SearchOptions(
        max_basis=100,
        max_products=left,
        tol=task.tol,
        norm=norm,
        seed=_checks.other_seed(task.seed),
        progress=task.report,
        largest=sides[0][0] > 0,
        both=len(sides) == 2,
        min_steps=found.steps,
        bars=bars,
        keep=True,
    )
    try:
        raw = found.engine(_deflated(task, found, far), rows, options)
    except KeyboardInterrupt:
        found.interrupt()
        return False
    found.raw.products += raw.products
    found.raw.passes += raw.passes
    if not raw.converged:
        found.fail(raw.reason)
        found.raw.interrupted = raw.ended is _core.Ended.INTERRUPTED
        return False
    found.look = raw.passes
    beyond = [sign * (value - bar) for (sign, _), value, bar in zip(sides, raw.values, bars, strict=False)]
    return bool(max(beyond) > 0)


def _deflated(task: Task, found: Found, shift: float) -> _core.Operator:
    """(I - V V^T) A (I - V V^T) + shift V V^T, V what was found: what is missed is at its end."""
    V, home = found.rows, task.device

    def product(block: Array) -> Array:
        inside = block @ V.T
        rest = _arrays.as_c_contiguous(block - inside @ V)
        out = home.empty(rest.shape, rest.dtype)
        found.core.apply(rest, out)
        out += (shift * inside - out @ V.T) @ V
        return out

    deflated: _core.Operator = home.core.callback(product, task.size, V.dtype.name)
    return deflated


# ------------------------------------------------------------------------------------------------------ true residuals
def _true(task: Task, found: Found) -> Found:
    """`found`, its residuals compared with products, and its end judged by what is then stated.

    All pairs are multiplied where that is a twentieth of what was; else random combinations of them, each pair in one,
    and all where one of these has a longer residual than those of its pairs allow.
    """
    raw, count = found.raw, len(found.raw.values)
    left = task.limit - raw.products
    if count == 0 or left < 1 or raw.interrupted:
        return found
    try:
        few = int(min(count, left, max(1, CHECK * raw.products)))
        if few < count and (_combined(task, found, few) or task.limit - raw.products < count):
            return found
        stated = raw.residuals
        raw.residuals = residuals = _residuals(task, found, np.eye(count))
    except KeyboardInterrupt:
        return found.interrupt()
    if (residuals <= 1.1 * stated + thresholds.rounding_error(raw.norm, task.A.dtype)).all():
        return found  # as the search judged them
    beyond = 10 * thresholds.zero_threshold(raw.norm, task.size, task.A.dtype)
    if (residuals > 10 * stated + beyond).any():
        worst = int(np.argmax(residuals - 10 * stated))
        return found.fail(
            f"a residual is {residuals[worst]:.1e} where the search had {stated[worst]:.1e}: the products are not "
            "those of one symmetric matrix, or have larger rounding errors than their dtype"
        )
    if raw.converged and not is_within(task, raw).all():
        found.inexact = True
        return found.fail("the residuals, computed anew, exceed the tolerance")
    return found


def is_within(task: Task, raw: Outcome) -> Array:
    """Which of the values are within tolerance by the residuals that are stated, or known to rounding."""
    values, residuals = raw.values, raw.residuals
    errors = np.array(_core.ritz_errors([*raw.values, *raw.others], [*residuals]))
    floor = thresholds.zero_threshold(raw.norm, task.size, task.A.dtype)
    within: Array = (errors <= task.tol * np.abs(values)) | (residuals <= floor)
    return within


def _combined(task: Task, found: Found, few: int) -> bool:
    """Whether random combinations of the pairs have no longer residuals than the pairs' own allow."""
    residuals = found.raw.residuals
    rng = np.random.default_rng(task.seed)
    count = len(residuals)
    size = rng.choice([-1.0, 1.0], count) * rng.uniform(1, 2, count)
    weights = np.zeros((few, count))
    weights[np.arange(count) * few // count, np.arange(count)] = size
    rounding = thresholds.rounding_error(found.raw.norm, task.A.dtype)
    made = _residuals(task, found, weights)
    return bool((made <= np.abs(weights) @ (1.1 * residuals + rounding)).all())


def _residuals(task: Task, found: Found, weights: Array) -> Array:
    """|sum_j w_ij (A y_j - theta_j y_j)| for each row of weights, by a product that is counted and told."""
    raw, home = found.raw, task.device
    rows = found.rows[: weights.shape[1]]
    dtype = rows.dtype
    mixed = _arrays.as_c_contiguous(home.upload(weights.astype(dtype)) @ rows)
    image = home.empty(mixed.shape, dtype)
    found.core.apply(mixed, image)
    image -= home.upload((weights * raw.values).astype(dtype)) @ rows
    made: Array = _arrays.to_host(np.linalg.norm(image, axis=1)).astype(float)
    if not np.isfinite(made).all():
        raise _core.NonFiniteError("a product with the operator gave NaN or infinite values; check its entries")
    raw.products += len(mixed)
    raw.passes += 1
    if task.report:
        stated = max(float(made.max()), 0.0) if len(made) == len(rows) else max(raw.residuals)
        task.report(STAGES[task.which], raw.products, 0, stated)
    return made
