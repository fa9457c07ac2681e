"""Laplace (laplace-torch): its Gauss-Newton curvature by our engine, as a class for its argument `backend`."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

import gnfast as gn
from gnfast import _checks
from gnfast.networks import Network

torch: Any = _checks.optional_import("torch", "gnfast.interop.laplace", "laplace")
_theirs: Any = _checks.optional_import("laplace", "gnfast.interop.laplace", "laplace")

from gnfast.interop._models import coupling_layers  # noqa: E402  (needs torch: see the error above)
from gnfast.interop._risk import Risk, UnsupportedError, network_of, operator_at, samples_of, unwrapped  # noqa: E402
from gnfast.interop._watch import Watch  # noqa: E402

# Classes of a library that need not be there: to a type checker their subclasses have no base.
_Backend: Any = _theirs.curvature.CurvlinopsGGN
_Functional: Any = _theirs.FunctionalLaplace

__all__ = ["FunctionalLaplace", "GnfastGGN"]

Tensor: TypeAlias = Any  # torch.Tensor
# Samples whose Jacobians are made at once: each row costs products of all of them, and each block its forward pass and
# checks, so that small networks want many and large ones few. Of 1 to 64, 8 was on none of four models (150 to 100,000
# parameters, dense and convolutional) slower than Laplace's own.
SAMPLES = 8


class GnfastGGN(_Backend):  # type: ignore[misc]  # see _Backend
    """The generalized Gauss-Newton matrix for `Laplace(..., backend=GnfastGGN)`, with the interface of `CurvlinopsGGN`.

    The full matrix, its diagonal and the Jacobians (which make the functional kernel, and the predictive variance of
    every posterior) are those of gnfast's engine where it takes the model (`gnfast.from_torch`: on the CPU, float32 or
    float64, all parameters requiring gradients). The rest is computed by Laplace's own code, the base class: Kronecker
    factors, Monte-Carlo Fisher matrices (`stochastic=True`), last layers, the matrix of a subnetwork from Jacobians of
    ours, Jacobians that are differentiated further. `repr` says which and why.

    `hessian_structure="gp"` takes none but Laplace's own backends: use `FunctionalLaplace` of this module.

    Args:
        *args, **kwargs: Those of `laplace.curvature.CurvlinopsGGN`; Laplace passes them.

    Raises:
        ImportError: PyTorch or Laplace is not installed.

    References:
        Daxberger et al., "Laplace redux: effortless Bayesian deep learning", NeurIPS 2021.
    """

    # What was read of the model, or why nothing was, and whether it still is so.
    _read: tuple[Network, list[int]] | str = ""
    _watch: Watch | None = None

    def __init__(self, model: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(unwrapped(model), *args, **kwargs)

    def full(self, x: Any, y: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """The loss of a batch, and its matrix (p, p)."""
        try:
            factor, operator = self._operator(x, y)
        except UnsupportedError:
            loss, H = super().full(x, y, **kwargs)
            return loss, H
        matrix = operator.to_dense()
        matrix *= factor
        return self._loss(x, y), torch.from_numpy(matrix)

    def diag(self, x: Any, y: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """The loss of a batch, and its matrix's diagonal (p,)."""
        try:
            factor, operator = self._operator(x, y)
        except UnsupportedError:
            loss, H = super().diag(x, y, **kwargs)
            return loss, H
        return self._loss(x, y), torch.from_numpy(factor * gn.diagonal(operator).values)

    def jacobians(self, x: Any, enable_backprop: bool = False) -> tuple[Tensor, Tensor]:
        """The derivatives of all outputs (n, k, p) and the outputs (n, k) at a batch."""
        try:
            J, f = self._jacobians(x, None, enable_backprop)
        except UnsupportedError:
            J, f = super().jacobians(x, enable_backprop)
        return J, f

    def selected_output_jacobians(
        self, x: Any, outputs: Tensor, enable_backprop: bool = False
    ) -> tuple[Tensor, Tensor]:
        """The derivatives of some outputs (n, s, p), chosen by `outputs` (n,) or (n, s), and all outputs (n, k)."""
        try:
            J, f = self._jacobians(x, outputs, enable_backprop)
        except UnsupportedError:
            J, f = super().selected_output_jacobians(x, outputs, enable_backprop)
        return J, f

    def _network(self) -> tuple[Network, list[int]]:
        """The model in our engine, and the places of its parameters, read again when it has changed."""
        if self.last_layer:
            raise UnsupportedError("only the last layer is asked for")
        if self._watch is None or self._watch.changed():
            self._watch = Watch([("params", self.params)], self.model)
            try:
                self._read = network_of(self.model, self.params)
            except UnsupportedError as reason:
                self._read = str(reason)
        if isinstance(self._read, str):
            raise UnsupportedError(self._read)
        return self._read

    def _operator(self, x: Any, y: Tensor) -> tuple[float, gn.GaussNewton]:
        """A factor and an operator of our engine, whose product is the matrix of a batch."""
        if self.stochastic:
            raise UnsupportedError("a Monte-Carlo Fisher matrix is asked for")
        if self.last_layer or self.subnetwork_indices is not None:
            raise UnsupportedError("only some parameters are asked for")
        risk = Risk(self._network(), self.lossfunc, self.params, [(x, y)], lambda *_: 1.0)
        [(factor, operator)] = risk.terms()
        return self.factor * factor, operator

    def _jacobians(self, x: Any, chosen: Tensor | None, enable_backprop: bool) -> tuple[Tensor, Tensor]:
        """dF_j / dtheta (n, s, p) for the outputs j in `chosen`, (n,) or (n, s), or for all; and F (n, k)."""
        if enable_backprop:
            raise UnsupportedError("the Jacobians are differentiated further")
        (net, _), X = self._network(), samples_of(x, self.params[0])
        if coupling_layers(self.model):
            raise UnsupportedError("batch norm couples the samples")
        outputs = self._outputs(x)
        if outputs.ndim != 2:
            raise UnsupportedError(f"the outputs have shape {tuple(outputs.shape)}")
        n, k = outputs.shape
        places = np.tile(np.arange(k), (n, 1)) if chosen is None else chosen.numpy(force=True)
        if len(places) != n:
            raise ValueError(f"outputs has {len(places)} rows but must have one for each of the {n} inputs")
        places = places.reshape(n, -1)
        s = places.shape[1]
        rows = np.empty((n * s, net.num_parameters), X.dtype)
        for first in range(0, n, SAMPLES):
            J = operator_at(net, X[first : first + SAMPLES]).jacobian()
            part = places[first : first + SAMPLES] + k * np.arange(J.shape[0] // k)[:, None]
            unit = np.zeros((part.size, J.shape[0]), X.dtype)
            unit[np.arange(part.size), part.ravel()] = 1
            J.T.matmat(unit.T, out=rows[first * s : first * s + part.size].T)
        found = torch.from_numpy(rows).reshape(n, s, -1)
        return found if self.subnetwork_indices is None else found[:, :, self.subnetwork_indices], outputs

    def _outputs(self, x: Any) -> Tensor:
        with torch.no_grad():
            return self.model(x)

    def _loss(self, x: Any, y: Tensor) -> Tensor:
        return self.factor * self.lossfunc(self._outputs(x), y)

    def __repr__(self) -> str:
        try:
            self._network()
        except UnsupportedError as reason:
            return f"GnfastGGN({self.likelihood}, Laplace's own products: {reason})"
        return f"GnfastGGN({self.likelihood}, gnfast's engine)"


class FunctionalLaplace(_Functional):  # type: ignore[misc]  # see _Functional
    """Laplace's `FunctionalLaplace`, the Gaussian process with the network's kernel, with Jacobians of our engine.

    Theirs takes none but its own backends, which is why this class is there; all its code is theirs.

    Args:
        *args, **options: Those of `laplace.FunctionalLaplace`.
        backend: A curvature backend.

    Raises:
        ImportError: PyTorch or Laplace is not installed.
    """

    # `laplace.Laplace` finds classes by this key: under theirs one of the two would be taken, by chance.
    _key = ("all", "gp with gnfast")

    def __init__(self, *args: Any, backend: Any = GnfastGGN, **options: Any) -> None:
        super().__init__(*args, backend=_Backend, **options)
        self._backend_cls = backend
