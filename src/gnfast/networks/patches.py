"""Linear convolutional networks as one convolution: its patches, and its Jacobian's Gram matrices layer by layer.

Convolutions composed are one convolution, with a kernel w_eff as large as what one output sees of the input, and G
depends on the data through the second moment of the patches of that size alone. So G is also that of the same layers on
a few made-up patches of the same second moment, each with a single output position, which is what is computed here:
free of the number of samples and of the positions of an image. A patch that has a last coordinate (x, 1) where a layer
has a bias takes biases along.

The formulas: docs/mathematics.md#one-convolution.

Strides and dilations cost nothing: a kernel after a stride is that kernel with holes. Layers after `Flatten` are
convolutions with kernels as large as the image.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gnfast import factors
from gnfast.networks.layers import Layer, Spec

FloatArray = npt.NDArray[np.float64]
Pair = tuple[int, int]

BLOCK_NUMBERS = 1 << 23  # of work space at a time: 64 MB
ALWAYS_FITS = 1 << 22  # a Gram of 32 MB is never too large to be worked with


class Group(NamedTuple):
    """One group of a step's channels at given patches, and where its parameters lie among the flat ones."""

    left: FloatArray
    """The derivative (k, m, positions) of the output in what the group gives."""
    met: FloatArray
    """The inputs of its kernel there, (positions, r, q)."""
    weights: slice
    biases: slice


@dataclass(frozen=True)
class Step:
    """y[i, u] = b_i + sum_{j,t} K[i, j, t] x[j, stride u + dilation t] over two axes of positions, u and t pairs.

    Args:
        kernel: (out, in / groups, kh, kw), skips included.
        bias: (out,) or None.
        offset: Where the kernel's parameters begin among the flat ones, the bias's follow; None for a fixed layer.
    """

    kernel: FloatArray
    bias: FloatArray | None = None
    stride: Pair = (1, 1)
    dilation: Pair = (1, 1)
    groups: int = 1
    offset: int | None = None

    @property
    def taps(self) -> Pair:
        """Height and width of the kernel."""
        return _pair(self.kernel.shape[2:])

    @property
    def span(self) -> Pair:
        """Positions from the first tap to the last."""
        return _pair(d * (k - 1) + 1 for d, k in zip(self.dilation, self.taps, strict=True))

    def seen(self, size: Pair) -> Pair:
        """Positions of the input that so many of the output see."""
        return _pair((m - 1) * q + span for m, q, span in zip(size, self.stride, self.span, strict=True))

    def at(self, taps: Pair, size: Pair) -> tuple[slice, slice]:
        """The places of one tap in the input, for all positions of an output of this size."""
        first = [d * t for d, t in zip(self.dilation, taps, strict=True)]
        rows, columns = (slice(f, f + (m - 1) * q + 1, q) for f, m, q in zip(first, size, self.stride, strict=True))
        return rows, columns


class Placed(NamedTuple):
    """A step with what it pads its input with before the first position, along both axes, and where it stands."""

    step: Step
    before: Pair
    positions: Pair  # that it gives
    circular: bool
    layer: int


class Patches(NamedTuple):
    """The patches that the outputs see, as positions in an image (c, h, w) flattened: (positions, c s_eff).

    `zeros` is what the image is padded with, before and after, along both axes.
    """

    pixels: npt.NDArray[np.intp]
    zeros: tuple[Pair, Pair]
    shape: tuple[int, int, int]  # of the padded image


@dataclass(frozen=True)
class ComposedConvolution:
    """A linear convolutional network on images of one shape.

    Attributes:
        steps: The layers, none of which pads: that is in `patches`.
        patches: What each output position sees.
        sizes: Positions before each step and after the last, for one output position.
    """

    steps: tuple[Step, ...]
    patches: Patches
    sizes: tuple[Pair, ...]

    @property
    def channels(self) -> int:
        """Channels of the output."""
        return int(self.steps[-1].kernel.shape[0])

    @property
    def affine(self) -> bool:
        """Whether any step has a bias."""
        return any(step.bias is not None for step in self.steps)

    @property
    def columns(self) -> int:
        """c_in s_eff, and one more where a layer has a bias."""
        return int(self.patches.pixels.shape[1]) + self.affine

    @property
    def trained(self) -> list[int]:
        """The steps that have parameters."""
        return [index for index, step in enumerate(self.steps) if step.offset is not None]

    @property
    def terms(self) -> int:
        """The number of terms of the longest sum behind an entry of a Gram, for estimates of rounding."""
        return max(int(step.kernel.size) for step in self.steps)

    def ranks(self, r: int) -> list[int]:
        """The largest rank that every U_l may have at r patches, by the sizes alone."""
        found = []
        for index in self.trained:
            step, A = self.steps[index], math.prod(self.sizes[index + 1])
            left = min(len(step.kernel) // step.groups, self.channels * A)
            found.append(step.groups * left * min(step.kernel[0].size, A * r) + (0 if step.bias is None else left))
        return found

    def gram_flops(self, r: int) -> float:
        """Flops of all U_l U_l^T at r patches."""
        steps = [(self.steps[index], math.prod(self.sizes[index + 1])) for index in self.trained]
        return sum(
            step.groups * min(_costs(self.channels, len(step.kernel) // step.groups, A, r, step.kernel[0].size))
            for step, A in steps
        )

    # ------------------------------------------------------------------------------------------------------ data
    def range_factor(self, X: npt.NDArray[Any], scale: float, weights: npt.NDArray[Any] | None = None) -> FloatArray:
        """C^T (r, columns) with C C^T the sum over samples and positions of patch patch^T, times `scale`, weights (n,).

        Of full rank, see `factors.factor_of_rows`. The sum is either that of whole images first, 2 n d^2 flops, of
        which patches are entries, or patch by patch, 2 n D^2 flops a position.
        """
        images = self.padded(X)
        index = self.patches.pixels
        if self.affine:
            images = np.hstack([images, np.ones((len(images), 1))])
            index = np.hstack([index, np.full((len(index), 1), images.shape[1] - 1)])
        if weights is not None:
            images = images * np.sqrt(weights, dtype=np.float64)[:, None]
        unit = factors.unit_of(float(np.abs(images).max()))
        images = images if unit == 1 else images / unit
        n, (positions, D) = len(images), index.shape
        whole, by_patches = self._moment_costs(n)

        def rows() -> Iterator[FloatArray]:
            # Triangular images have the same moment, and no more rows than pixels.
            few = np.asarray(np.linalg.qr(images, mode="r")) if whole <= by_patches and n > images.shape[1] else images
            step = max(1, BLOCK_NUMBERS // (len(few) * D))
            for start in range(0, positions, step):
                yield few[:, index[start : start + step]].reshape(-1, D)

        out = np.zeros((D, D))
        if whole <= by_patches:
            moment = images.T @ images
            for pixels in index:
                out += moment[np.ix_(pixels, pixels)]
        else:
            for block in rows():
                out += block.T @ block
        return factors.factor_of_rows(out, rows, n * positions) * (unit * math.sqrt(scale))

    def moment_flops(self, n: int) -> float:
        """Flops of the second moment of n samples."""
        return min(self._moment_costs(n))

    def _moment_costs(self, n: int) -> tuple[float, float]:
        """Flops from whole images, where their moment is no larger than they are or small, and patch by patch."""
        d, D, positions = math.prod(self.patches.shape) + self.affine, self.columns, len(self.patches.pixels)
        whole = n * d**2 + positions * D**2 if d**2 <= max(ALWAYS_FITS, n * d) else math.inf
        return whole, float(n * positions * D**2)

    def padded(self, X: npt.NDArray[Any]) -> FloatArray:
        """Images (n, c h w), padded with the zeros of `patches`."""
        images = np.asarray(X, np.float64)
        images = images.reshape(*images.shape[:2], -1, images.shape[-1]) if images.ndim == 3 else images
        if np.any(self.patches.zeros):
            images = np.pad(images, ((0, 0), (0, 0), *self.patches.zeros))
        return images.reshape(len(images), -1)

    # ------------------------------------------------------------------------------------------------- forward, back
    def inputs(self, Z: FloatArray) -> list[FloatArray]:
        """The input (m, r, h, w) of every step at patches Z (r, columns)."""
        found, ones = [], Z[:, -1]
        value = Z[:, : Z.shape[1] - self.affine].T.reshape(-1, *self.sizes[0], len(Z)).transpose(0, 3, 1, 2)
        for step, size in zip(self.steps, self.sizes[1:], strict=True):
            found.append(value)
            value = _convolve(step, value, size)
            if step.bias is not None:
                value += step.bias[:, None, None, None] * ones[:, None, None]
        return found

    def outputs(self) -> list[FloatArray]:
        """The derivative (k, m, h, w) of the output in what every step gives."""
        rows = [np.eye(self.channels)[:, :, None, None]]
        for step, size in zip(self.steps[:0:-1], self.sizes[-2:0:-1], strict=True):
            rows.append(_spread(step, rows[-1], size))
        return rows[::-1]

    # ---------------------------------------------------------------------------------------------------- Jacobian
    def grams(self, Z: FloatArray) -> Iterator[FloatArray]:
        """U_l U_l^T (k r, k r) at patches Z (r, columns) for every step that has parameters.

        U_l (k r, p_l) is the derivative of the k outputs at each patch in the step's parameters, rows ordered (output,
        patch).
        """
        k, r = self.channels, len(Z)
        for step, groups in self._trained(Z):
            total = np.zeros((k * r, k * r))
            for left, Y, _, _ in groups:
                _add_gram(total, left, Y, None if step.bias is None else Z[:, -1])
            yield total

    def restrict(self, V: npt.NDArray[Any], Z: FloatArray, out: npt.NDArray[Any]) -> None:
        """Row j of out (s, k r) <- U V_j for V_j (p,) in row j of V: the adjoint of `lift`."""
        moved = np.zeros((len(V), self.channels, len(Z)))
        for step, groups in self._trained(Z):
            for left, Y, weights, biases in groups:
                m, q = left.shape[1], Y.shape[2]
                met = np.tensordot(V[:, weights].reshape(-1, m, q), Y, (2, 2))  # (s, m, positions, r)
                if step.bias is not None:
                    met += V[:, biases, None, None] * Z[:, -1]
                moved += np.tensordot(met, left, ((1, 2), (1, 2))).transpose(0, 2, 1)
        out[:] = moved.reshape(len(V), -1)

    def lift(self, V: FloatArray, Z: FloatArray, out: npt.NDArray[Any]) -> None:
        """Row j of out (s, p) <- U^T V_j for V_j (k, r) in row j of V: the parameters of fixed places stay zero."""
        out[:] = 0
        k, r = self.channels, len(Z)
        for step, groups in self._trained(Z):
            for left, Y, weights, biases in groups:
                m, positions = left.shape[1:]
                for v, row in zip(V.reshape(-1, k, r), out, strict=True):
                    moved = np.tensordot(left, v, (0, 0))  # (m, positions, r)
                    row[weights] = (moved.reshape(m, -1) @ Y.reshape(positions * r, -1)).ravel()
                    if step.bias is not None:
                        row[biases] = moved.sum(1) @ Z[:, -1]

    def _trained(self, Z: FloatArray) -> Iterator[tuple[Step, Iterator[Group]]]:
        """The steps that have parameters, with what their groups meet at the patches Z."""
        inputs, outputs = self.inputs(Z), self.outputs()
        for index in self.trained:
            yield self.steps[index], self._groups(index, inputs[index], outputs[index])

    def _groups(self, index: int, inputs: FloatArray, outputs: FloatArray) -> Iterator[Group]:
        step = self.steps[index]
        at, biases = step.offset or 0, (step.offset or 0) + step.kernel.size
        for group in range(step.groups):
            left, Y = _share(step, outputs, group), _unfold(step, inputs, group, self.sizes[index + 1])
            m, count = left.shape[1], left.shape[1] * Y.shape[2]
            yield Group(left, Y, slice(at, at + count), slice(biases + group * m, biases + (group + 1) * m))
            at += count


def _convolve(step: Step, value: FloatArray, size: Pair) -> FloatArray:
    """The convolution of values (m, r, h, w) without padding: one product a tap, (out, in) times (in, r positions)."""
    g, r = step.groups, value.shape[1]
    kernel = step.kernel.reshape(g, -1, *step.kernel.shape[1:])
    out = np.zeros((g, kernel.shape[1], r * math.prod(size)))
    for taps in np.ndindex(*step.taps):
        part = value[:, :, *step.at(taps, size)].reshape(g, -1, r * math.prod(size))
        out += kernel[:, :, :, *taps] @ part
    return out.reshape(-1, r, *size)


def _spread(step: Step, rows: FloatArray, size: Pair) -> FloatArray:
    """The transpose of `_convolve` applied to rows (k, m, h, w), to an input of this size."""
    g, k, positions = step.groups, len(rows), rows.shape[2:]
    kernel = step.kernel.reshape(g, -1, *step.kernel.shape[1:])
    grouped = rows.reshape(k, g, -1, math.prod(positions))
    out = np.zeros((k, g * kernel.shape[2], *size))
    for taps in np.ndindex(*step.taps):
        part = kernel[:, :, :, *taps].transpose(0, 2, 1) @ grouped
        out[:, :, *step.at(taps, positions)] += part.reshape(k, -1, *positions)
    return out


def _share(step: Step, values: FloatArray, group: int) -> FloatArray:
    """One group's share of rows (k, m, h, w): (k, m / groups, positions)."""
    k, m = values.shape[:2]
    share = m // step.groups
    return values[:, group * share : (group + 1) * share].reshape(k, share, -1)


def _unfold(step: Step, values: FloatArray, group: int, size: Pair) -> FloatArray:
    """The inputs of a group's kernel at every output position: (positions, r, m / groups * taps)."""
    share = step.kernel.shape[1]
    part = values[group * share : (group + 1) * share]
    met = np.stack([part[:, :, *step.at(taps, size)] for taps in np.ndindex(*step.taps)], 1)  # (m, taps, r, h, w)
    return np.ascontiguousarray(met.transpose(3, 4, 2, 0, 1)).reshape(math.prod(size), values.shape[1], -1)


def _add_gram(total: FloatArray, left: FloatArray, Y: FloatArray, ones: FloatArray | None) -> None:
    """total (k r, k r) += U U^T, U[(o, z), (i, q)] = sum_a left[o, i, a] Y[a, z, q], left (k, m, A), Y (A, r, q).

    Either from P (k A, k A) and the Gram of all rows of Y (A r, A r), free of the widths,
    total[(o, z), (o', z')] += sum_{a,a'} P[(o, a), (o', a')] K[(a, z), (a', z')], or by columns of U: the cheaper one.
    """
    k, m, A = left.shape
    r, q = Y.shape[1:]
    if m > k * A:  # only inner products over i count, and a triangular factor has the same
        left = np.linalg.qr(left.transpose(1, 0, 2).reshape(m, k * A))[1].reshape(k * A, k, A).transpose(1, 0, 2)
        m = k * A
    pairs, columns = _costs(k, m, A, r, q)
    if pairs <= columns:
        rows = left.transpose(0, 2, 1).reshape(k * A, m)
        P = (rows @ rows.T).reshape(k, A, k, A).transpose(0, 2, 1, 3).reshape(k * k, A * A)
        flat = Y.reshape(A * r, q)
        gram = (flat @ flat.T).reshape(A, r, A, r)
        if ones is not None:
            gram += np.outer(ones, ones)[None, :, None, :]
        K = gram.transpose(0, 2, 1, 3).reshape(A * A, r * r)
        square = total.reshape(k, r, k, r)
        for o in range(k):  # a block row of outputs at a time: work space of k r^2
            square[o] += (P[o * k : (o + 1) * k] @ K).reshape(k, r, r).transpose(1, 0, 2)
        return
    step = max(1, BLOCK_NUMBERS // (k * r * q))
    for start in range(0, m, step):
        part = left[:, start : start + step]
        U = np.tensordot(part, Y, (2, 0)).transpose(0, 2, 1, 3).reshape(k * r, -1)
        total += U @ U.T
    if ones is not None:
        sums = left.sum(2)
        total += np.kron(sums @ sums.T, np.outer(ones, ones))


def _costs(k: int, m: int, A: int, r: int, q: int) -> tuple[float, float]:
    """Flops of the two ways of `_add_gram`; the first takes no more memory than the result, unless that is small."""
    m = min(m, k * A)
    pairs: float = (A * r) ** 2 * q + 2 * (k * A * r) ** 2
    if (A * r) ** 2 > max(ALWAYS_FITS, (2 * k * r) ** 2):
        pairs = math.inf
    return pairs, 2 * k * r * m * q * A + (k * r) ** 2 * m * q


def composed_convolution(layers: Sequence[Layer], shape: Sequence[int]) -> ComposedConvolution | str:
    """The layers of a network on samples of a shape, (c, l) or (c, h, w), as one convolution, or why they are none."""
    if len(shape) not in (2, 3):
        return f"a sample has the shape {tuple(shape)}, which is no image (c, h, w) and no series (c, l)"
    image: tuple[int, int, int] = (shape[0], shape[1] if len(shape) == 3 else 1, shape[-1])
    found: list[Placed] = []
    offset, size, sample = 0, image, tuple(shape)
    for index, layer in enumerate(layers):
        try:
            after, specs = layer.output_shape(sample), layer.spec(sample)
        except ValueError as error:
            return f"layers[{index}], {type(layer).__name__}, {error}"
        for spec in specs:
            placed = _placed(spec, size, offset, index)
            if placed is None:
                return f"layers[{index}] is {layer!r}, which is no convolution and no constant factor"
            found.append(placed)
            size = (len(placed.step.kernel), *placed.positions)
        offset += sum(array.size for array in layer.parameters())
        sample = after
    if all(placed.step.offset is None for placed in found):
        return "no layer has parameters"
    return compose(found, image)


def _placed(spec: Spec, size: tuple[int, int, int], offset: int, index: int) -> Placed | None:
    """A layer on images (c, h, w) as a convolution, from what the core is told of it; None if it is none.

    A dense layer is one with a kernel as large as the image.
    """
    fixed = np.ones((size[0], 1, 1, 1))
    match spec:
        case ("dense", weight, bias, skip):
            kernel = np.asarray(weight, np.float64) + skip * np.eye(*weight.shape)
            return Placed(Step(kernel.reshape(-1, *size), _float64(bias), offset=offset), (0, 0), (1, 1), False, index)
        case ("convolution", weight, bias, (_, rows, columns, circular), groups):
            taps = rows[1], columns[1]
            kernel = np.asarray(weight, np.float64).reshape(len(weight), -1, *taps)
            step = Step(kernel, _float64(bias), (rows[2], columns[2]), (rows[3], columns[3]), groups, offset)
            return Placed(step, (rows[4], columns[4]), (rows[5], columns[5]), circular, index)
        case ("pool", False, (_, rows, columns, _)):
            kernel = np.tile(fixed / (rows[1] * columns[1]), (1, 1, rows[1], columns[1]))
            step = Step(kernel, stride=(rows[2], columns[2]), groups=size[0])
            return Placed(step, (rows[4], columns[4]), (rows[5], columns[5]), False, index)
        case ("scale", factor):
            return Placed(Step(fixed * factor, groups=size[0]), (0, 0), (size[1], size[2]), False, index)
    return None


def _float64(bias: npt.NDArray[Any] | None) -> FloatArray | None:
    return None if bias is None else np.asarray(bias, np.float64)


def compose(steps: Sequence[Placed], shape: tuple[int, int, int]) -> ComposedConvolution | str:
    """One convolution of several on images (c, h, w) in which they fit, or why they are none.

    A padding with zeros is that of the data as long as nothing but factors and other zeros come before it: one tap with
    circular padding repeats pixels already. A circular padding needs one whole period: what comes before must not have
    made the image smaller but by its strides.
    """
    size, start, stride = np.array(shape[1:]), np.zeros(2, int), np.ones(2, int)
    zeros, whole, plain = np.zeros((2, 2), int), np.ones(2, bool), True
    for step, first, positions, circular, layer in steps:
        before, count, by = np.array(first), np.array(positions), np.array(step.stride)
        after = np.maximum((count - 1) * by + step.span - size - before, 0)
        padded = (before > 0) | (after > 0)
        if padded.any() and not circular:
            if not plain:
                return (
                    f"layers[{layer}] pads with zeros what is no longer the data, so that all layers together are no "
                    "convolution"
                )
            zeros += np.stack([before, after], 1)
            size = size + before + after
            before = np.zeros(2, int)
        elif (padded & ~whole).any():
            return f"layers[{layer}] has circular padding, but what it pads is not a whole period of the image"
        start -= before * stride
        whole &= count * by == size
        stride *= by
        plain &= step.span == (1, 1) and step.stride == (1, 1) and step.bias is None and not (circular and padded.any())
        size = count
    sizes: list[Pair] = [(1, 1)]
    for placed in reversed(steps):
        sizes.append(placed.step.seen(sizes[-1]))
    seen = sizes[-1]
    image = (shape[0], shape[1] + int(zeros[0].sum()), shape[2] + int(zeros[1].sum()))
    rows, columns = (
        (start[a] + stride[a] * np.arange(size[a])[:, None] + np.arange(seen[a])) % image[1 + a] for a in (0, 1)
    )
    pixels = (rows[:, None, :, None] * image[2] + columns[None, :, None, :]).reshape(-1, 1, math.prod(seen))
    index = np.arange(image[0])[:, None] * (image[1] * image[2]) + pixels
    patches = Patches(index.reshape(len(index), -1), (_pair(zeros[0]), _pair(zeros[1])), image)
    return ComposedConvolution(tuple(placed.step for placed in steps), patches, tuple(sizes[::-1]))


def _pair(values: Iterable[int]) -> Pair:
    first, second = values
    return int(first), int(second)
