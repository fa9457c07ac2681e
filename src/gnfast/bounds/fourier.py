"""Circular convolutions frequency by frequency, where the Jacobian is that of a dense network a frequency."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gnfast import thresholds
from gnfast.bounds.bound import Bound, FloatArray, Parts, quotient, silent
from gnfast.networks.patches import ComposedConvolution, Step

STATEMENT = (
    "kappa(G) <= max_f lambda_max(sum_l P_lf (x) S_f Q_lf S_f) / min_f lambda_min(sum over kernels as large as the "
    "image), P_lf, Q_lf Grams of the partial products of the kernels' transforms at frequency f, S_f^2 the data's power"
)
ComplexArray = npt.NDArray[np.complexfloating]


def by_frequency(name: str, convolution: ComposedConvolution, data: FloatArray) -> Bound:
    """The transform of w_eff is a product of those of the kernels, a dense linear network at every frequency.

    A kernel as large as the image has all its frequencies to itself, so that its term is block diagonal: with all
    kernels of that size G is, and the bound is an equality. A smaller kernel only sees a projection of its frequencies:
    its term is between zero and that of a kernel as large as the image.
    """
    if reason := _other(convolution):
        return silent(name, STATEMENT, reason)
    transfers = [_transfer(step, convolution.patches.shape[1:]) for step in convolution.steps]
    vectors, roots, _ = np.linalg.svd(_transforms(convolution, data), full_matrices=False)
    top = roots.max()
    if not top > 0:
        return silent(name, STATEMENT, "X is zero, and so is G")
    large = [step.taps == convolution.patches.shape[1:] for step in convolution.steps]
    highest, lowest = 0.0, math.inf
    for f in range(len(roots)):
        kept = roots[f] > thresholds.data_threshold(top, (len(data), roots.shape[-1]))
        if not kept.any():
            continue
        terms = _terms([transfer[f] for transfer in transfers], vectors[f][:, kept] * roots[f][kept])
        size = len(terms[0])
        above = np.linalg.eigvalsh(np.sum(terms, axis=0))
        below = np.linalg.eigvalsh(np.sum([term for term, whole in zip(terms, large, strict=True) if whole], axis=0))
        margin = thresholds.decomposition_error(size, len(data)) * above[-1]
        highest, lowest = max(highest, above[-1] + margin), min(lowest, below[0] - margin)
    lowest = max(lowest, 0.0)
    parts: Parts = {"large": np.array(large), "lambda_max_upper": float(highest), "lambda_min_lower": float(lowest)}
    return quotient(name, STATEMENT, float(highest), float(lowest), parts)


def _other(convolution: ComposedConvolution) -> str:
    """Why the network does not fall apart into frequencies; empty if it does."""
    image = convolution.patches.shape[1:]
    if len(convolution.patches.pixels) != math.prod(image) or any(step.stride != (1, 1) for step in convolution.steps):
        return "only circular convolutions with outputs at all positions of the image have frequencies of their own"
    if convolution.affine or any(step.offset is None or step.groups > 1 for step in convolution.steps):
        return "this form is for convolutions without biases, groups and fixed layers; use another form"
    if any(taps > size for step in convolution.steps for taps, size in zip(step.span, image, strict=True)):
        return "a kernel is larger than the image; use another form"
    if not any(step.taps == image for step in convolution.steps):
        return "no kernel is as large as the image, so that no frequency is trained by itself; use another form"
    return ""


def _transforms(convolution: ComposedConvolution, data: FloatArray) -> ComplexArray:
    """The data's transforms, (frequencies, c, n), whose second moment is their product with their adjoint."""
    n, image = len(data), convolution.patches.shape
    padded = convolution.padded(data).reshape(n, *image)
    found: ComplexArray = np.fft.fft2(padded).reshape(n, image[0], -1).transpose(2, 1, 0)
    return found / math.sqrt(n)


def _transfer(step: Step, image: Sequence[int]) -> ComplexArray:
    """(frequencies, out, in): sum over taps t of K[:, :, t] exp(2 pi i f t)."""
    out, into = step.kernel.shape[:2]
    spread = np.zeros((out, into, *image))
    spread[:, :, *(slice(0, span, d) for span, d in zip(step.span, step.dilation, strict=True))] = step.kernel
    found: ComplexArray = np.fft.fft2(spread).conj().reshape(out, into, -1).transpose(2, 0, 1)
    return found


def _terms(transfers: Sequence[ComplexArray], root: ComplexArray) -> list[ComplexArray]:
    """P_l (x) (S Q_l S)^T of every layer at one frequency; root (c, r), root root^H the data's second moment."""
    rights: list[ComplexArray] = [root]
    lefts: list[ComplexArray] = [np.eye(len(transfers[-1]), dtype=complex)]
    for transfer in transfers[:-1]:
        rights.append(transfer @ rights[-1])
    for transfer in transfers[:0:-1]:
        lefts.append(lefts[-1] @ transfer)
    return [
        np.kron(left @ left.conj().T, (right.conj().T @ right).T)
        for left, right in zip(lefts[::-1], rights, strict=True)
    ]
