"""Top eigenpairs of a Gauss-Newton matrix from the cheapest space that has them, lifted back to parameters.

With S = R^T J / sqrt(n): G = S^T S and the Gram dual is K = S S^T. From K y = lambda y, |y| = 1, follows z = S^T y
with G z = lambda z and |z|^2 = lambda; a residual r of y becomes S^T r, at most sqrt(lambda_max / lambda) |r| for
z / |z|. The linear dual is another factorisation of the same kind.
"""

from __future__ import annotations

import numpy as np

from gnfast import _arrays, thresholds
from gnfast._arrays import Array
from gnfast.operators.symmetric import Lifting
from gnfast.spectrum.certificates import intervals
from gnfast.spectrum.methods import Pairs


def lifted(dual: Lifting, pairs: Pairs, with_vectors: bool = True) -> Pairs | None:
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
