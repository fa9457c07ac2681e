"""The plan of a Gauss-Newton operator: which space, which product, what each costs, and why."""

from __future__ import annotations

from dataclasses import dataclass

from gnfast import _core
from gnfast._memory import megabytes
from gnfast._results import Shown
from gnfast.operators.costs import (
    BLOCK,
    conv_dual_bytes,
    conv_dual_flops,
    gram_costs,
    linear_dual_bytes,
    linear_dual_flops,
)
from gnfast.operators.problem import Problem


@dataclass(frozen=True)
class Space:
    """One of the three spaces in which the non-zero spectrum lives."""

    name: str
    size: int
    flops: float  # of a condition number: forming, factoring or products
    memory: float  # bytes, the network and its data not counted
    excluded: str = ""  # why it cannot be taken, empty if it can


@dataclass(frozen=True, repr=False)
class Plan(Shown):
    """The space that `GaussNewton.dual()` takes and how a product is made.

    Attributes:
        space: "parameters", "samples" or "linear map".
        spaces: All three, with size, flops of a condition number and memory.
        method: "usual", "factored" or "stored", the product of a block of vectors in parameter space.
        flops: Per vector of such a product.
        flops_usual, flops_factored, flops_stored: Those that were compared; 0 for one that the network does not have.
        why: Why this method.
        sample_block, vector_block: How much of the data and of a block of vectors is worked on at once.
        memory: Bytes that products keep: forward pass, backward rows, work space.
    """

    space: str
    spaces: tuple[Space, ...]
    method: str
    flops: float
    flops_usual: float
    flops_factored: float
    flops_stored: float
    why: str
    sample_block: int
    vector_block: int
    memory: float

    def __str__(self) -> str:
        lines = ["space            size     flops for kappa     memory"]
        for space in self.spaces:
            mark = f"<- {self._reason()}" if space.name == self.space else space.excluded
            lines.append(f"{space.name:12} {space.size:>8} {space.flops:>15.3g} {megabytes(space.memory):>14}  {mark}")
        lines.append(
            f"product with G: {self.method} ({self.why}), {self.flops:.3g} flops a vector ({self._compared()}), "
            f"{self.sample_block} samples x {self.vector_block} vectors at a time, {megabytes(self.memory)}"
        )
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<Plan {self.space}, product {self.method}, {megabytes(self.memory)}; print it for the comparison>"

    def _compared(self) -> str:
        flops = {"usual": self.flops_usual, "factored": self.flops_factored, "stored": self.flops_stored}
        return ", ".join(f"{name} {value:.3g}" for name, value in flops.items() if value)

    def _reason(self) -> str:
        possible = sum(not space.excluded for space in self.spaces)
        return ("products only: none fits in memory_limit", "the only one possible", "cheapest")[min(possible, 2)]


def make_plan(problem: Problem, vectors: int = BLOCK) -> Plan:
    """Compare the three spaces by the flops of a condition number, among those that fit in memory."""
    n = len(problem.X)
    core = problem.products.plan(vectors)
    flops = core.flops
    item, p = problem.dtype.itemsize, problem.parameters

    per_sample = problem.loss_at.rank
    size, costs = n * per_sample, gram_costs(problem, per_sample)
    spaces = [
        # The whole matrix by p products, then factored: its null space leaves nothing cheaper.
        Space("parameters", p, p * flops + p**3, p**2 * item + core.bytes_forward),
        Space(
            "samples",
            size,
            costs.forming + size**3 / 2,
            size**2 * item + costs.kept + costs.room + core.bytes_forward,
        ),
    ]
    spaces.append(_linear_map(problem))

    limit = problem.memory_limit
    if limit is not None:
        spaces = [
            s if s.excluded or s.memory <= limit else Space(s.name, s.size, s.flops, s.memory, "more than memory_limit")
            for s in spaces
        ]
    allowed = [s for s in spaces if not s.excluded] or [s for s in spaces if s.name == "samples"]
    return Plan(
        space=min(allowed, key=lambda s: s.flops).name,
        spaces=tuple(spaces),
        method=core.method,
        flops=flops,
        flops_usual=core.flops_usual,
        flops_factored=core.flops_factored,
        flops_stored=core.flops_stored,
        why=_why(problem, core),
        sample_block=core.sample_block,
        vector_block=core.vector_block,
        memory=core.bytes_forward + core.bytes_rows + core.bytes_workspace,
    )


def _linear_map(problem: Problem) -> Space:
    """The space of the linear map, stored for convolutions and by products for dense layers."""
    net, n, k = problem.net, len(problem.X), problem.outputs
    rank = min(n, problem.X[0].size + any(layer.bias is not None for layer in net.dense))
    why = "weights differ between outputs" if problem.loss_at.name == "mse" else f"the loss is {problem.loss_at.name}"
    why = "" if problem.loss_at.is_scalar else why
    if not net.is_linear:
        why = "the network is not linear"
    elif net.kept is not None:
        why = "the network is pruned"
    elif not net.is_feedforward_dense:
        linear = problem.convolution
        if isinstance(linear, str):
            why = why or linear
        elif not why:
            size = linear.channels * min(linear.columns, n * len(linear.patches.pixels))
            flops = conv_dual_flops(linear, n) + size**3 / 2
            return Space("linear map", size, flops, conv_dual_bytes(linear, problem.dtype.itemsize))
    if why:
        return Space("linear map", k * rank, float("inf"), 0.0, why)
    flops = linear_dual_flops([layer.weight.shape for layer in net.dense], rank)
    return Space("linear map", k * rank, flops, linear_dual_bytes(net.depth, k, rank, problem.dtype.itemsize))


def _why(problem: Problem, core: _core.ProductPlan) -> str:
    """Why products are made by the method that they are made by."""
    if problem.method != "auto":
        return "asked for"
    if core.method != "usual":
        return "cheapest"
    if core.flops_usual <= max(core.flops_factored, core.flops_stored):
        return "cheapest"
    if core.coupled:
        return "the samples depend on each other"
    return "what the others keep costs more to make and to read than it saves, or does not fit in memory"
