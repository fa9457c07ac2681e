"""The plan of a Gauss-Newton operator: which space, which product, what each costs, and why."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gnfast import _checks
from gnfast._arrays import FreeMemory
from gnfast.networks import Network
from gnfast.networks.patches import Chain

if TYPE_CHECKING:
    from gnfast.operators.gauss_newton import GaussNewton

# An extreme eigenvalue needs about this many products: what the spaces are compared by.
PRODUCTS = 200
METHODS = ("auto", "usual", "factored", "stored")
# The least block of vectors that shares one pass over the backward rows: what a plan is made for unless told otherwise.
BLOCK = 8


def megabytes(size: float) -> str:
    """A number of bytes for people, with two digits at least."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= 0.99995 * unit:
            return f"{size / unit:.1f} {name}"
    return f"{size:.0f} B"


def machine_bytes() -> float | None:
    """Of this machine's memory, None where the system does not tell."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):
        return None


def check_memory(needed: float, limit: float | None, what: str, instead: str) -> None:
    """Refuse what needs more bytes than `limit`, before anything is allocated."""
    if limit is None or needed <= limit:
        return
    if isinstance(limit, FreeMemory):
        raise MemoryError(f"{what} needs {megabytes(needed)} but {limit.device} has {megabytes(limit)} free; {instead}")
    raise MemoryError(
        f"{what} needs {megabytes(needed)} but memory_limit is {megabytes(limit)}; raise memory_limit or {instead}"
    )


def check_method(method: object, net: Network) -> str:
    """One of METHODS that the network has."""
    found = _checks.choice(method, "method", METHODS)
    if found == "factored" and not net.is_chain:
        raise ValueError("method is 'factored', which is for chains of dense layers; use 'stored', 'usual' or 'auto'")
    if found == "stored" and net.is_chain:
        raise ValueError("method is 'stored' but chains of dense layers have 'factored', which keeps less; use that")
    return found


@dataclass(frozen=True)
class GramCosts:
    """What the Gram dual costs, N = n rank."""

    kept: float  # bytes of backward rows, or, unless it is a chain, of one sample's rows of the Jacobian
    start: float  # flops before the first product
    forming: float  # flops of the matrix
    product: float  # flops of a product without it, a vector
    more: float  # bytes that such products keep besides
    room: float  # bytes that forming the matrix takes besides
    least: float  # bytes beside the matrix without which it cannot be formed


def gram_costs(G: GaussNewton, rank: int, parameters: int | None = None) -> GramCosts:
    """The costs of the Gram dual with `rank` rows a sample, in all parameters or so many of one layer."""
    net, n, item = G.net, len(G.X), G.dtype.itemsize
    if net.is_chain:
        widths, weights = sum(layer.out_features for layer in net.dense), sum(layer.weight.size for layer in net.dense)
        grams = [
            layer for layer in net.dense if 2 * layer.in_features >= n
        ]  # the others: through the inputs, in two steps
        through = weights - sum(layer.weight.size for layer in grams)
        return GramCosts(
            kept=n * rank * widths * item,
            start=2.0 * n * (rank + 1) * weights + 2.0 * n**2 * sum(sum(layer.weight.shape) for layer in net.dense),
            forming=float(n * rank) ** 2 * widths + 2.0 * n * (rank + 1) * weights,
            product=2.0 * n**2 * sum(layer.out_features for layer in grams) + 4.0 * n * (through + rank * widths),
            more=n**2 * (len(grams) + 2) * item,
            room=0.0,
            least=n * rank * widths * item + G.products.plan(BLOCK)["bytes_forward"],
        )
    p, core = parameters or G.shape[0], G.products.plan(BLOCK)
    each, rest = float(rank * p * item), core["bytes_rows"] + core["bytes_workspace"]  # bytes of a sample's rows
    rows = core["flops_rows"] * rank / G.loss_at.rank
    stored = core["method"] == "stored"
    product = core["flops_stored"] if stored else core["flops_usual"]
    at_least = 0.0 if stored else min(n, 2) * each
    return GramCosts(
        kept=each,
        start=rows if stored else 0.0,
        forming=float(n * rank) ** 2 * p + rows,
        product=product,
        more=0.0,
        room=max(each, 0.0 if stored else min(n * each, _left(G, n * rank, rest + core["bytes_forward"])) - each)
        + rest,
        least=at_least + rest + core["bytes_forward"],
    )


def _left(G: GaussNewton, size: int, taken: float) -> float:
    """Bytes that rows of the Jacobian may take while a Gram matrix (size, size) is formed, as the core has it."""
    if G.memory_limit is None:
        return (machine_bytes() or math.inf) / 4
    return float(G.memory_limit - taken - size**2 * G.dtype.itemsize) * (1 - 1e-9)


def linear_dual_bytes(net: Network, rank: int) -> int:
    """Bytes of the linear dual's factors P_l (k, k) and R_l (rank, rank), packed too, and of a solver's 60 vectors."""
    k = net.out_features
    return (net.depth * (k**2 + 2 * rank**2) + 60 * k * rank) * net.dtype.itemsize


def conv_dual_bytes(linear: Chain, itemsize: int) -> float:
    """Bytes of the stored dual of convolutions, of what it is formed in, and of the moment of the patches."""
    size = linear.channels * linear.columns
    return size**2 * (itemsize + 3 * 8.0) + 2 * 8.0 * linear.columns**2


def conv_dual_flops(linear: Chain, n: int) -> float:
    """Flops of forming it: the moment of the patches, a factor of that, and the Grams of the Jacobian."""
    D = linear.columns
    return linear.moment_flops(n) + D**3 / 3 + linear.gram_flops(D)


@dataclass(frozen=True)
class Space:
    """One of the three spaces in which the non-zero spectrum lives."""

    name: str
    size: int
    flops: float  # of a condition number: forming, factoring or products
    memory: float  # bytes, the network and its data not counted
    excluded: str = ""  # why it cannot be taken, empty if it can


@dataclass(frozen=True)
class Plan:
    """What `GaussNewton.dual()` takes and how a product is made.

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

    def _compared(self) -> str:
        flops = {"usual": self.flops_usual, "factored": self.flops_factored, "stored": self.flops_stored}
        return ", ".join(f"{name} {value:.3g}" for name, value in flops.items() if value)

    def _reason(self) -> str:
        possible = sum(not space.excluded for space in self.spaces)
        return ("products only: none fits in memory_limit", "the only one possible", "cheapest")[min(possible, 2)]


def make_plan(G: GaussNewton, vectors: int = BLOCK) -> Plan:
    """Compare the three spaces by the flops of a condition number, among those that fit in memory."""
    n = len(G.X)
    core = G.products.plan(vectors)
    flops = core[f"flops_{core['method']}"]
    item, p = G.dtype.itemsize, G.shape[0]

    per_sample = G.loss_at.rank
    size, costs = n * per_sample, gram_costs(G, per_sample)
    spaces = [
        # The whole matrix by p products, then factored: its null space leaves nothing cheaper.
        Space("parameters", p, p * flops + p**3, p**2 * item + core["bytes_forward"]),
        Space(
            "samples",
            size,
            costs.forming + size**3 / 2,
            size**2 * item + costs.kept + costs.room + core["bytes_forward"],
        ),
    ]
    spaces.append(_linear_map(G))

    limit = G.memory_limit
    if limit is not None:
        spaces = [
            s if s.excluded or s.memory <= limit else Space(s.name, s.size, s.flops, s.memory, "more than memory_limit")
            for s in spaces
        ]
    allowed = [s for s in spaces if not s.excluded] or [s for s in spaces if s.name == "samples"]
    return Plan(
        space=min(allowed, key=lambda s: s.flops).name,
        spaces=tuple(spaces),
        method=core["method"],
        flops=flops,
        flops_usual=core["flops_usual"],
        flops_factored=core["flops_factored"],
        flops_stored=core["flops_stored"],
        why=_why(G, core),
        sample_block=core["sample_block"],
        vector_block=core["vector_block"],
        memory=core["bytes_forward"] + core["bytes_rows"] + core["bytes_workspace"],
    )


def _linear_map(G: GaussNewton) -> Space:
    """The space of the linear map, stored for convolutions and by products for dense layers."""
    net, n, k = G.net, len(G.X), G.outputs
    rank = min(n, G.X[0].size + any(layer.bias is not None for layer in net.dense))
    why = "weights differ between outputs" if G.loss == "mse" else f"the loss is {G.loss}"
    why = "" if G.loss_at.is_scalar else why
    if not net.is_linear:
        why = "the network is not linear"
    elif net.kept is not None:
        why = "the network is pruned"
    elif not net.is_chain:
        linear = G.convolution
        if isinstance(linear, str):
            why = why or linear
        elif not why:
            size = linear.channels * min(linear.columns, n * len(linear.patches.pixels))
            flops = conv_dual_flops(linear, n) + size**3 / 2
            return Space("linear map", size, flops, conv_dual_bytes(linear, G.dtype.itemsize))
    if why:
        return Space("linear map", k * rank, float("inf"), 0.0, why)
    chain = 2.0 * (rank + k) * sum(layer.weight.size for layer in net.dense)
    small = PRODUCTS * 2.0 * net.depth * k * rank * (k + rank)
    return Space("linear map", k * rank, chain + small, linear_dual_bytes(net, rank))


def _why(G: GaussNewton, core: dict[str, Any]) -> str:
    """Why products are made by the method that they are made by."""
    if G.method != "auto":
        return "asked for"
    if core["method"] != "usual":
        return "cheapest"
    if core["flops_usual"] <= max(core["flops_factored"], core["flops_stored"]):
        return "cheapest"
    if core["coupled"]:
        return "the samples depend on each other"
    return "what the others keep costs more to make and to read than it saves, or does not fit in memory"
