"""Top eigenpairs of a Gauss-Newton matrix from the cheapest space that has them, lifted back to parameters.

With S = R^T J / sqrt(n): G = S^T S and the Gram dual is K = S S^T. From K y = lambda y, |y| = 1, follows z = S^T y
with G z = lambda z and |z|^2 = lambda; a residual r of y becomes S^T r, at most sqrt(lambda_max / lambda) |r| for
z / |z|. The linear dual is another factorisation of the same kind.
"""

from __future__ import annotations

import numpy as np

from gnfast import _arrays, thresholds
from gnfast._arrays import Array
from gnfast.operators import Dual, GaussNewton, SymmetricOperator
from gnfast.operators.costs import gram_costs
from gnfast.operators.layer_blocks import Block
from gnfast.spectrum import matrices
from gnfast.spectrum.certificates import intervals
from gnfast.spectrum.methods import Pairs

# A pass over stored memory against a matrix product: bytes are dear to a single-precision multiply-add. Measured on two
# cores: 130 GF/s in products, 10 GB/s from memory, which is 4 flops (float32) a number read once for a narrow block.
MEMORY_BOUND = 10.0


def cheapest(G: GaussNewton | Block, k: int) -> SymmetricOperator:
    """The operator that gives the k largest eigenvalues of G for the fewest flops, setting up included."""
    if isinstance(G, Block):
        return G.dual() if k < G.gram().shape[0] else G
    n, plan = len(G.X), G.plan(1)
    spaces = {space.name: space for space in plan.spaces}
    vectors = 2 * k + 10
    cost: dict[str, float] = {"parameters": vectors * plan.flops}
    linear, samples = spaces["linear map"], spaces["samples"]
    if not linear.excluded and k < linear.size:
        chain = linear.flops  # dominated by forming the small matrices
        cost["linear map"] = chain
    gram = None
    rank = samples.size // n
    costs = gram_costs(G.problem, rank)
    limit = G.memory_limit
    if k < samples.size and (limit is None or costs.kept + costs.more <= limit):
        size = samples.size
        loose = costs.start + vectors * costs.product
        stored = costs.forming + vectors * MEMORY_BOUND * size**2
        cost["samples"] = min(loose, stored)
        gram = (stored < loose and not samples.excluded) or size <= matrices.DENSE_SIZE
    best = min(cost, key=lambda name: cost[name])
    if best == "linear map":
        return G.linear_dual()
    if best == "samples":
        dual = G.gram(reduced=True)
        if gram and not dual.stored and dual.shape[0] > matrices.DENSE_SIZE:
            dual.to_dense()
        return dual
    return G


def lifted(dual: Dual, pairs: Pairs, with_vectors: bool = True) -> Pairs | None:
    """The dual's pairs as those of G, or None if one belongs to the null space, which has no unique image.

    Without vectors they stay as they are: lifting costs as much as some products with G.
    """
    values, info = pairs.values.astype(float), pairs.info
    if len(values) == 0 or values.min() <= thresholds.zero_threshold(info.norm, dual.shape[0], dual.dtype):
        return None
    vectors = pairs.vectors
    if with_vectors:
        wanted = vectors.dtype
        vectors = dual.lift(_arrays.as_f_contiguous(vectors.astype(dual.dtype, copy=False)))
        vectors = vectors.astype(wanted, copy=False)
        vectors *= dual.device.upload((1 / np.sqrt(values)).astype(wanted))
        _orthonormalize(vectors)
    residuals = info.residuals * np.sqrt(max(info.norm, float(values.max())) / values)
    # The eigenvalues themselves are the dual's, and so are their intervals.
    bounds = intervals(values, info.residuals, info.norm, dual.dtype)
    return Pairs(pairs.values, vectors, info._replace(residuals=residuals, intervals=bounds))


def _orthonormalize(Z: Array) -> None:
    """Z <- Z (Z^T Z)^(-1/2), where rounding has left Z (p, k) nearly orthonormal: the nearest orthonormal block."""
    gram = _arrays.to_host(Z.T @ Z).astype(float)
    if np.abs(gram - np.eye(len(gram))).max() <= 10 * np.finfo(Z.dtype).eps:
        return
    w, V = np.linalg.eigh(gram)
    if w[0] < 0.5:  # far from orthonormal: residuals say so, and no rotation repairs it
        return
    Z[:] = Z @ _arrays.device_of(Z).upload(((V / np.sqrt(w)) @ V.T).astype(Z.dtype))
