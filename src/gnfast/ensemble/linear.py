"""Condition numbers of random linear networks of any width, at a cost that does not depend on the width."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gnfast import _checks
from gnfast._runtime import blas_threads
from gnfast.bounds.linear import GRAM_FORMS, gram_form
from gnfast.bounds.partial_products import PartialProducts
from gnfast.ensemble.law import MEMORY, LinearLaw
from gnfast.ensemble.results import Ensemble, LawWarning
from gnfast.ensemble.spectra import Ends, dual_of, ends


def linear(
    widths: int | Sequence[int],
    *,
    depth: int | None = None,
    d: int | None = None,
    k: int,
    Sigma: npt.ArrayLike | None = None,
    skip: float | Sequence[float] = 0.0,
    variances: str | Sequence[float] | None = None,
    init: str = "gaussian",
    samples: int = 100,
    seed: _checks.Seed = 0,
    bounds: bool | Sequence[str] = True,
    memory_limit: float = MEMORY,
) -> Ensemble:
    """Sample condition numbers of random linear networks of any width without storing weights; the law is exact.

    A weight is only ever seen through its products with a few vectors, so that these are drawn in its place: O(L (d^3 +
    k^3)) for each network whatever the widths, O(L^2 d^3) with skips.

    Args:
        widths: Units of the hidden layers: one number for all (with `depth`), or one for each; up to 2^53.
        depth: Layers with weights, two at least; not needed where `widths` has one number for each hidden layer.
        d: Inputs; not needed with Sigma.
        k: Outputs.
        Sigma: Second moment of the data X^T X / n, (d, d), symmetric positive semi-definite, of any rank; None for the
            identity. What is below 10 d eps of its largest entry, eps that of its dtype, counts as zero.
        skip: Strength of the residual connections, one number for all layers or one each.
        variances: The variance of the entries of each weight: "kaiming", "lecun" or "ntk" (1 / fan_in, the gain of a
            linear network being one),
            "xavier" (2 / (fan_in + fan_out)), "pytorch" (1 / (3 fan_in), `torch.nn.Linear`'s own, with init="uniform"),
            or a list with the variance itself for each layer: c_l / fan_in for the c_l of `gnfast.limits`. None means
            "kaiming", and orthonormal rows or columns for init="orthogonal".
        init: "gaussian"; "orthogonal", Haar-distributed with orthonormal rows or columns times what the variances ask
            for; or "uniform", whose weights are drawn and stored up to `memory_limit`.
        samples: Independent networks.
        seed: An integer from 0 to 2^64 - 1, or a `numpy.random.Generator`; sample i depends on (seed, i) alone.
        bounds: The forms of `gn.bounds.linear` to evaluate for each network: True for all that need no single weight
            ("equality", "convex", "loose", "matrix", "joint"), False for none, or their names. From some hundred inputs
            on they take longer than all else.
        memory_limit: Bytes of the weights that may be stored; beyond, Gaussian weights stand for uniform ones, with a
            warning, and `law` says what differs.

    Returns:
        An `Ensemble`. `spectrum` is there where the dual has 800 unknowns or fewer; bounds are named "linear.convex",
        and so on ("residual.convex" with skips).

    Raises:
        TypeError, ValueError: Bad arguments, variances at which products of weights leave the range of float64, or a
            draw whose Gauss-Newton matrix is zero.

    Warns:
        LawWarning: Gaussian weights stand for uniform ones.

    References: those of `gnfast.ensemble.random_weights`; Zhao, Singh & Lucchi (NeurIPS 2024) for dual and bounds.

    Examples:
        >>> import numpy as np
        >>> import gnfast as gn
        >>> drawn = gn.ensemble.linear(10**9, depth=4, k=3, Sigma=np.diag([1.0, 2.0]), samples=5, seed=0)
        >>> np.allclose(drawn.kappa, 2.0, rtol=1e-3)  # at this width that of the data
        True
    """
    law = LinearLaw(
        widths,
        depth=depth,
        d=d,
        k=k,
        Sigma=Sigma,
        skip=skip,
        variances=variances,
        init=init,
        memory_limit=memory_limit,
    )
    samples, seed = _checks.integer(samples, "samples"), _checks.seed(seed)
    forms, family = _forms(bounds, len(law.shapes)), "residual" if any(law.skips) else "linear"
    if not law.is_exact:
        warnings.warn(str(law), LawWarning, stacklevel=_checks.level_of_caller())
    own, hat = [], []
    limits: dict[str, list[float]] = {f"{family}.{form}": [] for form in forms}
    with blas_threads(law.inputs.rank), np.errstate(over="ignore", invalid="ignore"):  # `ends` says what overflows
        for sample in range(samples):
            grams = law.draw(seed, sample)
            hat.append(ends(dual_of(grams), seed))
            own.append(hat[-1] if Sigma is None else ends(dual_of(grams, law.inputs.scale), seed))
            partial = PartialProducts(*grams.matrices(), law.inputs, law.hidden)
            for form, values in zip(forms, limits.values(), strict=True):
                values.append(gram_form(partial, form, family).value)
    of_hat = _columns(hat)
    return Ensemble(
        widths=tuple(law.hidden),
        depth=len(law.shapes),
        samples=samples,
        seed=seed,
        law=str(law),
        rank=np.array([e.rank for e in own]),
        spectrum=None if own[0].values is None else np.stack([e.values for e in own if e.values is not None]),
        **_columns(own),
        **{f"{name}_hat": values for name, values in of_hat.items() if name != "kappa_minus_one"},
        kappa_hat_minus_one=of_hat["kappa_minus_one"],
        bounds={name: np.array(values) for name, values in limits.items()},
    )


def _columns(found: Sequence[Ends]) -> dict[str, Any]:
    """One array for each quantity."""
    minus_one = np.array([e.kappa_minus_one for e in found])
    return {
        "kappa": 1 + minus_one,
        "kappa_minus_one": minus_one,
        "lambda_max": np.array([e.largest for e in found]),
        "lambda_min": np.array([e.smallest for e in found]),
        "trace": np.array([e.trace for e in found]),
    }


def _forms(bounds: bool | Sequence[str], depth: int) -> list[str]:
    if isinstance(bounds, bool):
        return [form for form in GRAM_FORMS if bounds and (form != "equality" or depth == 2)]
    names = [bounds] if isinstance(bounds, str) else bounds
    return [_checks.choice(form, f"bounds[{i}]", GRAM_FORMS) for i, form in enumerate(names)]
