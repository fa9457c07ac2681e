"""Condition numbers of random networks with any activation and of any width, without their weights."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.linalg

from gnfast import _arrays, _checks, _core, thresholds
from gnfast._memory import check_memory
from gnfast._runtime import blas_threads, get_num_threads
from gnfast.ensemble.law import INITS, MEMORY, VARIANCES, entry_variances, hidden_widths
from gnfast.ensemble.memory import REPORT, check_draw, draw_bytes
from gnfast.ensemble.results import Ensemble, FloatArray, LawWarning
from gnfast.ensemble.stored import stored_bytes, uniform_weights
from gnfast.losses import LOSSES, check_loss
from gnfast.networks import Network
from gnfast.networks.initializers import family_name, gain
from gnfast.networks.layers import SLOPE, Activation, Dense
from gnfast.operators import GaussNewton

WIDEST = 2**34  # a draw's place in its row is counted by 32 bits, in fours
LAST = 2**48  # of samples, which take two of 2^64 streams for each layer


class Drawn(NamedTuple):
    """One network at the samples."""

    gram: FloatArray
    """The Gram dual K, (n r, n r) ordered (sample, row of the loss), as `GaussNewton.gram(reduced=True)` has it."""
    outputs: FloatArray
    """(n, k)"""


class NetworkLaw:
    """The law of the Gram dual and of the outputs of random networks at given samples.

    Args:
        widths, activation, X, k, depth, skip, slope, loss, bias, variances, init, reduction, device, memory_limit: See
            `gnfast.ensemble.network`.

    Attributes:
        widths: The widths of all layers, the outputs last.
        skips, variances: One for each layer.
        rows: Rows of the loss for each sample, r: k, or k - 1 for "cross_entropy".
    """

    def __init__(
        self,
        widths: int | Sequence[int],
        *,
        activation: str,
        X: npt.ArrayLike,
        k: int,
        depth: int | None = None,
        skip: float | Sequence[float] = 0.0,
        slope: float = SLOPE,
        loss: str = "mse",
        bias: bool = False,
        variances: str | Sequence[float] = "kaiming",
        init: str = "gaussian",
        reduction: str = "mean",
        device: str = "cpu",
        memory_limit: float | None = None,
    ) -> None:
        self.device = _arrays.device(device)
        self.activation = Activation(activation, slope)
        self.X = np.ascontiguousarray(_checks.array(X, "X", ("n", "d")), np.float64)
        outputs = _checks.integer(k, "k")
        self.widths = [*hidden_widths(widths, depth, WIDEST), outputs]
        self.loss = check_loss(loss, outputs)
        self.rows = LOSSES[self.loss].rank(outputs)
        self.skips = _checks.reals(skip, "skip", len(self.widths), each="layer")
        self.bias = _checks.boolean(bias, "bias")
        self.shapes = list(zip(self.widths, [self.X.shape[1], *self.widths[:-1]], strict=True))
        family = family_name(variances, "variances", VARIANCES) if isinstance(variances, str) else ""
        factor = gain(self.activation.name, self.activation.slope) if family == "kaiming" else 1.0
        self.variances = entry_variances(variances, self.shapes, factor)
        self.init = _checks.choice(init, "init", INITS)
        self.memory_limit = None if memory_limit is None else _checks.positive(memory_limit, "memory_limit")
        self._reduction = reduction
        mean = _checks.choice(reduction, "reduction", ("mean", "sum")) == "mean"
        self._scale = 1 / len(self.X) if mean else 1.0

    @cached_property
    def _inputs_gram(self) -> FloatArray:
        with blas_threads(len(self.X)):  # whose threads would spin on the cores that the first draw is made on
            return self.X @ self.X.T

    @property
    def is_stored(self) -> bool:
        """Whether whole weights are drawn."""
        limit = MEMORY if self.memory_limit is None else self.memory_limit
        return self.init == "uniform" and stored_bytes(self.shapes) <= limit

    @property
    def is_exact(self) -> bool:
        """Whether samples have the law that was asked for."""
        return self.init != "uniform" or self.is_stored

    def draw(self, seed: _checks.Seed, sample: int = 0, *, progress: _core.Progress = None, tile: int = 0) -> Drawn:
        """One network from (seed, sample) alone: the same on any number of threads, other samples are independent.

        On a GPU it is the same network, up to the last digits of the draws in float32.

        Args:
            seed: An integer from 0 to 2^64 - 1, or a `numpy.random.Generator`.
            sample: From 0 to 2^48.
            progress: Called with (stage, neurons done, all neurons).
            tile: Neurons at a time at most, a multiple of 4 up to 2^15; 0 for what fits the cache. Another order of
                sums, nothing else.

        Raises:
            MemoryError: More than `memory_limit`, or than this machine or the GPU has.
        """
        seed, sample = _checks.seed(seed), _checks.integer(sample, "sample", 0, LAST)
        if _checks.integer(tile, "tile", 0, REPORT) % 4:
            raise ValueError(f"tile is {tile} but must be a multiple of 4; pass 0 for what fits the cache")
        self._check_memory()
        if self.is_stored:
            return self._draw_weights(seed, sample)
        size = len(self.X) * self.rows
        gram, outputs = np.empty((size, size)), np.empty((len(self.X), self.widths[-1]))
        self.device.core.sample_network(
            self.X,
            self._inputs_gram,
            self.activation.name,
            self.activation.slope,
            self.widths,
            self.variances,
            self.skips,
            self.init == "orthogonal",
            self.bias,
            self.loss,
            self._scale,
            seed,
            sample,
            tile,
            gram,
            outputs,
            progress,
        )
        if not np.isfinite(gram).all():
            raise ValueError(
                f"sample {sample} overflows: its outputs reach {np.abs(outputs).max():.3g} with loss {self.loss!r}; "
                "pass smaller variances, skips or X"
            )
        _arrays.mirror_lower(gram)
        return Drawn(gram, outputs)

    def _check_memory(self) -> None:
        size, on_gpu = len(self.X) * self.rows, self.device != _arrays.CPU
        if self.is_stored:
            needed, there = stored_bytes(self.shapes) + 16.0 * size**2, 0.0
        else:
            threads = 1 if on_gpu else get_num_threads()
            needed, there = draw_bytes(self.shapes, self.skips, len(self.X), self.rows, threads)
        check_draw(needed, self.memory_limit, size)
        if on_gpu:
            check_memory(there, self.device.free_memory, f"a draw of K, {size:,} x {size:,},", "pass fewer samples")

    def _draw_weights(self, seed: int, sample: int) -> Drawn:
        weights = uniform_weights(self.shapes, self.variances, seed, sample)
        dense = [
            Dense(W, np.zeros(len(W)) if self.bias else None, skip) for W, skip in zip(weights, self.skips, strict=True)
        ]
        net = Network([layer for each in dense for layer in (self.activation, each)][1:])
        gram = GaussNewton(net, self.X, self.loss, reduction=self._reduction, device=self.device).gram(reduced=True)
        return Drawn(np.array(_arrays.to_host(gram.to_dense())), net(self.X))

    def __str__(self) -> str:
        if self.is_stored:
            return f"{INITS[self.init]} weights, drawn whole and multiplied: exact in law."
        if not self.is_exact:
            return (
                "Gaussian weights in place of uniform ones of the same variance, which would take "
                f"{stored_bytes(self.shapes) / 1e9:.3g} GB: exact in law for Gaussian weights, and of the others to "
                "leading order in the width; fluctuations, of relative order 1/sqrt(width), are not theirs."
            )
        return (
            f"{INITS[self.init]} weights, seen through their products with the inputs and derivatives of every layer "
            "instead of being drawn: exact in law at every width, up to the rounding of draws to float32."
        )


def network(
    widths: int | Sequence[int],
    *,
    activation: str,
    X: npt.ArrayLike,
    k: int,
    depth: int | None = None,
    skip: float | Sequence[float] = 0.0,
    slope: float = SLOPE,
    loss: str = "mse",
    bias: bool = False,
    variances: str | Sequence[float] = "kaiming",
    init: str = "gaussian",
    reduction: str = "mean",
    samples: int = 100,
    seed: _checks.Seed = 0,
    device: str = "cpu",
    memory_limit: float | None = None,
    progress: _core.Progress = None,
) -> Ensemble:
    """Sample condition numbers of random networks of any width without storing weights; the law is exact.

    A weight is only ever seen through its products with n inputs and n r derivatives, so that these are drawn in its
    place, a tile of neurons at a time, and drawn again on the way back: time linear in the widths, memory of a
    few matrices (n r, n r) whatever the widths are.

    Args:
        widths: Units of the hidden layers: one number for all (with `depth`), or one for each; up to 2^34.
        activation: A name of `gnfast.Activation`, between any two layers and not after the last.
        slope: Of leaky_relu, 0.01 by default; given for no other.
        X: Data (n, d), float32 or float64, of any rank: samples may be repeated.
        k: Outputs.
        depth: Layers with weights; not needed where `widths` has one number for each hidden layer.
        skip: Strength of the residual connections, one number for all layers or one each, as in `gnfast.mlp`; each run
            of layers with skips costs as many times more as it is long.
        loss: "mse", "cross_entropy", "binary_cross_entropy", "poisson" or "gaussian_nll", as in `gnfast.GaussNewton`.
        bias: Whether biases are among the parameters; their values are zero.
        variances: The variance of the entries of each weight: "kaiming" (gain^2 / fan_in,
            `gnfast.networks.initializers` has the gains), "lecun" or "ntk" (1 / fan_in),
            "xavier" (2 / (fan_in + fan_out)), "pytorch" (1 / (3 fan_in), `torch.nn.Linear`'s own, with init="uniform"),
            or a list with the variance itself for each layer: c_l / fan_in for the c_l of `gnfast.limits`.
        init: "gaussian"; "orthogonal", Haar-distributed with orthonormal rows or columns times what the variances ask
            for, sqrt(max(shape) variance); or "uniform", whose weights are drawn and stored up to `memory_limit`.
        reduction: "mean" over the samples, or "sum".
        samples: Independent networks.
        seed: An integer from 0 to 2^64 - 1, or a `numpy.random.Generator`; sample i depends on (seed, i) alone.
        device: "cpu", or "cuda" for neurons that are drawn on a GPU; X is NumPy's and eigenvalues are LAPACK's on both.
        memory_limit: Bytes that a draw may take, by default what the machine has: the widths do not matter, but it
            keeps some matrices of K's size for each layer and one or two for each thread. And bytes of uniform weights
            that may be stored, by default 1 GiB; beyond, Gaussian weights stand for them, with a warning, and `law`
            says what differs.
        progress: Called with (stage, neurons done, all neurons) during each network that is drawn without weights.

    Returns:
        An `Ensemble`, with the whole spectrum (samples, n r) of K. Eigenvalues below 10 n r eps of the largest count as
        zero. `NetworkLaw(...).draw(seed, i)` has K itself and the outputs.

    Raises:
        TypeError, ValueError: Bad arguments, or derivatives that overflow.
        MemoryError: A draw takes more than `memory_limit`, or than this machine or the GPU has.

    Warns:
        LawWarning: Gaussian weights stand for uniform ones.

    References: Hu & Lu, arXiv 2101.07464 ("Householder dice"), for the frames; Salmon et al. (SC 2011) for Philox.

    Examples:
        >>> import gnfast as gn
        >>> X = gn.datasets.digits()[0][:10]
        >>> drawn = gn.ensemble.network(1000, activation="relu", X=X, k=2, depth=3, samples=2, seed=0)
        >>> drawn.kappa.shape
        (2,)
    """
    law = NetworkLaw(
        widths,
        activation=activation,
        X=X,
        k=k,
        depth=depth,
        skip=skip,
        slope=slope,
        loss=loss,
        bias=bias,
        variances=variances,
        init=init,
        reduction=reduction,
        device=device,
        memory_limit=memory_limit,
    )
    samples, seed = _checks.integer(samples, "samples"), _checks.seed(seed)
    if not law.is_exact:
        warnings.warn(str(law), LawWarning, stacklevel=_checks.level_of_caller())
    spectra = np.empty((samples, len(law.X) * law.rows))
    for sample in range(samples):
        gram = law.draw(seed, sample, progress=progress).gram
        with blas_threads(len(gram)):
            spectra[sample] = scipy.linalg.eigvalsh(gram, overwrite_a=True, check_finite=False)
    return Ensemble(
        widths=tuple(law.widths[:-1]),
        depth=len(law.widths),
        samples=samples,
        seed=seed,
        law=str(law),
        spectrum=spectra,
        **_ends(spectra),
    )


def _ends(spectra: FloatArray) -> dict[str, Any]:
    """The quantities of an Ensemble for each sample, from its ascending eigenvalues (samples, N)."""
    largest, size = spectra[:, -1], spectra.shape[1]
    cut = thresholds.pivot_threshold(1.0, size) * largest
    rank = np.count_nonzero(spectra > cut[:, None], axis=1)
    smallest = np.take_along_axis(spectra, np.minimum(size - rank, size - 1)[:, None], axis=1)[:, 0]
    with np.errstate(invalid="ignore"):  # 0 / 0 where no derivative is left
        minus_one = (largest - smallest) / smallest
    return {
        "kappa": 1 + minus_one,
        "kappa_minus_one": minus_one,
        "lambda_max": largest.copy(),
        "lambda_min": smallest,
        "trace": spectra.sum(axis=1),
        "rank": rank,
    }
