"""Bounds for linear convolutional networks, from the patches of the data and the Jacobian of w_eff."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from gnfast import _checks, thresholds
from gnfast.bounds import fourier
from gnfast.bounds.bound import Bound, FloatArray, Parts, product, quotient, silent
from gnfast.bounds.inputs import as_data
from gnfast.bounds.spectra import Ends, eigen_ends
from gnfast.networks import Network
from gnfast.networks.patches import ComposedConvolution, composed_convolution

STATEMENTS = {
    "joint": "kappa(G) <= sum_l lambda_max(S U_l U_l^T S) / sum_l lambda_min(S U_l U_l^T S)",
    "jacobian": "kappa(G) <= kappa(Sigma) kappa(U U^T), U = [U_1 ... U_L] the derivative of w_eff in the kernels",
    "convex": "kappa(G) <= kappa(Sigma) sum_l s_max^2(U_l) / sum_l s_min^2(U_l), U_l the derivative of w_eff in the "
    "kernel of layer l",
    "sylvester": "kappa(G) <= kappa(Sigma) kappa(U)^2, U the Sylvester matrix of the polynomials of two kernels: it "
    "loses its rank where they have a common root",
    "fourier": fourier.STATEMENT,
}
FORMS = tuple(STATEMENTS)


def conv(net: Network, X: npt.ArrayLike, form: str = "jacobian") -> Bound:
    """An upper bound on kappa(G) for a linear convolutional network and the squared error.

    The network is one convolution with a kernel w_eff (c_out, c_in, s_eff), U its derivative in the parameters and
    Sigma the second moment of the patches of size s_eff of the data, summed over positions, mean over samples:
    G = U^T (I (x) Sigma) U. With S^2 = I (x) Sigma. Where Sigma is singular, all is restricted to its range; with
    biases a patch is (x, 1), and w_eff has one more entry per output.

    Args:
        net: Convolutions in one or two dimensions of any strides, dilations and groups, valid or with circular padding
            (or with zeros before everything else), biases, average pools, factors, and after a Flatten dense layers,
            which are convolutions with kernels as large as the image.
        X: Data (n, c, l) or (n, c, h, w), of the network's dtype; the bound is computed in float64.
        form: "jacobian": U as a whole, one eigenproblem of size c_out c_in s_eff.
            "convex": layer by layer; for one hidden layer the analogue of the dense one's equality, and equal to
            kappa(U U^T) where kernels are single taps.
            "joint": layer by layer with the data inside.
            "sylvester": "jacobian" for two kernels of one channel, with the roots of their polynomials.
            "fourier": frequency by frequency, for circular convolutions without biases of which at least one kernel is
            as large as the image; equal to kappa(G) where all are.

    Returns:
        A Bound; its value is inf, with the reason, where the form does not apply or its lower end is zero. Parts:
        "kappa_sigma", "kappa_ghat" (that of U U^T, or its bound), "rank" of Sigma, "rank_cut" (singular values of
        the data below it, relative to the largest, count as zero), "jacobian_max" and "jacobian_min" (squared ones of
        every U_l, for "joint" of S U_l), "lambda_max_upper" and "lambda_min_lower". "sylvester" has also "roots_1",
        "roots_2" and "distance": the smallest chordal distance of two roots on the Riemann sphere, at most 2.

    Raises:
        ValueError: An unknown form, or data that do not fit the network.
        TypeError: Data of another dtype than the network's.

    Reference: Zhao, Singh & Lucchi (NeurIPS 2024); "joint", "sylvester" and "fourier" go beyond it.

    Examples:
        >>> import numpy as np
        >>> import gnfast as gn
        >>> rng = np.random.default_rng(0)
        >>> first, second = (gn.Conv1d(rng.standard_normal(shape)) for shape in ((6, 2, 3), (2, 6, 3)))
        >>> net = gn.Network([first, second, gn.Flatten()])
        >>> X = rng.standard_normal((50, 2, 12))
        >>> gn.bounds.conv(net, X).value >= gn.cond(gn.GaussNewton(net, X)).lower
        True
    """
    return conv_forms(net, X, (_checks.choice(form, "form", FORMS),))[0]


def conv_forms(net: Network, X: npt.ArrayLike, forms: Sequence[str], largest: float = np.inf) -> list[Bound]:
    """Several forms from one computation of the patches and of the U_l, none where w_eff has more entries than that."""
    data = as_data(net, X)
    linear = composed_convolution(net.layers, data.shape[1:])
    if isinstance(linear, str):
        return [silent(f"conv.{form}", STATEMENTS[form], linear) for form in forms]
    if linear.channels * linear.columns > largest:
        return []
    problem = ConvolutionGrams(linear, data)
    if not problem.rank:
        return [silent(f"conv.{form}", STATEMENTS[form], "X is zero, and so is G") for form in forms]
    return [_FORMS[form](f"conv.{form}", problem) for form in forms]


@dataclass(frozen=True)
class ConvolutionGrams:
    """The network as one convolution, its data, and what the forms share."""

    convolution: ComposedConvolution
    data: FloatArray

    @cached_property
    def _spectrum(self) -> tuple[FloatArray, FloatArray]:
        """Roots of the eigenvalues of Sigma above the cut, descending, and their vectors in rows.

        They are singular values of the data, whose squares would lose the small ones.
        """
        if not self.data.any():
            return np.empty(0), np.empty((0, self.convolution.columns))
        _, s, V = np.linalg.svd(self.convolution.range_factor(self.data, 1 / len(self.data)), full_matrices=False)
        kept = s > self.cut * s[0]
        return s[kept], V[kept]

    @property
    def terms(self) -> int:
        """The number of products whose sum is an entry of Sigma."""
        return len(self.data) * len(self.convolution.patches.pixels)

    @property
    def cut(self) -> float:
        """Relative size up to which a singular value counts as zero."""
        return thresholds.data_threshold(1.0, (self.terms, self.convolution.columns))

    @property
    def rank(self) -> int:
        """Singular values of the data above the cut."""
        return len(self._spectrum[0])

    @property
    def sigma(self) -> Ends:
        """Ends of the data's spectrum, moved outwards by rounding."""
        s = self._spectrum[0]
        margin = thresholds.decomposition_error(self.convolution.columns, self.terms) * s[0]
        return Ends(float((s[0] + margin) ** 2), float(max(s[-1] - margin, 0.0)) ** 2)

    @cached_property
    def grams(self) -> list[FloatArray]:
        """U_l U_l^T on the range of Sigma."""
        return list(self.convolution.grams(self._spectrum[1]))

    @cached_property
    def ends(self) -> list[Ends]:
        """Ends of the spectrum of each layer's Gram matrix."""
        return [eigen_ends(gram, self.convolution.terms) for gram in self.grams]

    @property
    def weighted(self) -> list[FloatArray]:
        """S U_l U_l^T S on the range of Sigma."""
        s, V = self._spectrum
        return list(self.convolution.grams(s[:, None] * V))

    def parts(self, ends: Sequence[Ends]) -> Parts:
        """The factors of a bound by name, from the ends of each layer."""
        largest, smallest = self.sigma
        columns = np.array(ends)
        return {
            "kappa_sigma": largest / smallest if smallest > 0 else np.inf,
            "rank": self.rank,
            "rank_cut": self.cut,
            "jacobian_max": columns[:, 0],
            "jacobian_min": columns[:, 1],
        }

    def narrowness(self, single: bool) -> str:
        """Why U has not full row rank, or no U_l if `single`, judged by the sizes alone; empty if it may have."""
        rows = self.convolution.channels * self.rank
        counts = self.convolution.ranks(self.rank)
        if single and max(counts) < rows:
            return (
                f"no layer alone reaches all {rows} directions of w_eff: at most {max(counts)}; use the form 'jacobian'"
            )
        if sum(counts) < rows:
            return f"U has not full row rank: the layers reach {sum(counts)} of the {rows} directions of w_eff at most"
        return ""


def _jacobian(name: str, p: ConvolutionGrams, form: str = "jacobian", more: Parts | None = None) -> Bound:
    whole = eigen_ends(np.sum(p.grams, axis=0), p.convolution.terms)
    return product(name, STATEMENTS[form], p.sigma, whole, p.parts(p.ends) | (more or {}), p.narrowness(single=False))


def _convex(name: str, p: ConvolutionGrams) -> Bound:
    upper, lower = (sum(values) for values in zip(*p.ends, strict=True))
    return product(name, STATEMENTS["convex"], p.sigma, (upper, lower), p.parts(p.ends), p.narrowness(single=True))


def _joint(name: str, p: ConvolutionGrams) -> Bound:
    # The data's own rounding is that of Sigma, whose errors a term has along with those of U_l.
    eps = max(thresholds.decomposition_error(p.convolution.columns, p.terms), thresholds.EPS)
    ends = [eigen_ends(gram, p.convolution.terms, eps) for gram in p.weighted]
    upper, lower = (sum(values) for values in zip(*ends, strict=True))
    parts = p.parts(ends) | {"lambda_max_upper": upper, "lambda_min_lower": lower}
    return quotient(name, STATEMENTS["joint"], upper, lower, parts, p.narrowness(single=True) if lower <= 0 else "")


def _sylvester(name: str, p: ConvolutionGrams) -> Bound:
    kernels = [step.kernel for step in p.convolution.steps]
    steps = p.convolution.steps
    alone = len(steps) == 2 and p.convolution.trained == [0, 1] and not p.convolution.affine
    line = [axis for axis in (0, 1) if any(step.taps[axis] > 1 for step in steps)]
    plain = alone and steps[0].stride == (1, 1) and all(step.dilation == (1, 1) for step in steps)
    if not plain or len(line) > 1 or any(kernel.shape[:2] != (1, 1) for kernel in kernels):
        reason = "this form is for two convolutions of one channel in one dimension, without biases; use another form"
        return silent(name, STATEMENTS["sylvester"], reason)
    roots = [_roots(kernel.ravel()) for kernel in kernels]
    gaps = [_chordal(a, b) for a in roots[0] for b in roots[1]]
    more: Parts = {"roots_1": roots[0], "roots_2": roots[1], "distance": min(gaps, default=2.0)}
    return _jacobian(name, p, "sylvester", more)


def _roots(coefficients: FloatArray) -> npt.NDArray[np.complexfloating]:
    """Roots of a polynomial with these coefficients, the leading ones that vanish as roots at infinity."""
    found = np.roots(coefficients).astype(complex)
    at_infinity = len(coefficients) - 1 - len(found) if coefficients.any() else 0
    return np.concatenate([found, np.full(at_infinity, np.inf, complex)])


def _chordal(a: complex, b: complex) -> float:
    """The distance of two points of the Riemann sphere, 2 for antipodes."""
    if np.isinf(a) or np.isinf(b):
        finite = b if np.isinf(a) else a
        return 0.0 if np.isinf(finite) else float(2 / np.hypot(1, abs(finite)))
    return float(2 * abs(a - b) / (np.hypot(1, abs(a)) * np.hypot(1, abs(b))))


def _fourier(name: str, p: ConvolutionGrams) -> Bound:
    return fourier.by_frequency(name, p.convolution, p.data)


_FORMS: dict[str, Callable[[str, ConvolutionGrams], Bound]] = {
    "joint": _joint,
    "jacobian": _jacobian,
    "convex": _convex,
    "sylvester": _sylvester,
    "fourier": _fourier,
}
