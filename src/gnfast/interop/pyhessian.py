"""PyHessian: its eigenvalues, trace and density of the Gauss-Newton matrix, by our engine."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from gnfast import _checks

torch: Any = _checks.optional_import("torch", "gnfast.interop.pyhessian", "pyhessian")
_theirs: Any = _checks.optional_import("pyhessian", "gnfast.interop.pyhessian", "pyhessian")

from gnfast.interop._targets import LossFunction, loss_module  # noqa: E402  (needs torch: see the error above)
from gnfast.interop.curvlinops import GGNLinearOperator  # noqa: E402

# A class of a library that need not be there: to a type checker its subclasses have no base.
_Base: Any = _theirs.hessian
_Loss: Any = torch.nn.modules.loss._Loss

__all__ = ["hessian"]

Tensor: TypeAlias = Any  # torch.Tensor


class hessian(_Base):  # type: ignore[misc]  # noqa: N801  (see _Base; the name is theirs)
    """`pyhessian.hessian` of the GAUSS-NEWTON matrix, NOT of the Hessian: another matrix, on purpose.

    G = sum_i J_i^T H_i J_i leaves out the curvature of the network itself, sum_i sum_j (dloss/dF_j) d^2 F_j. Both are
    the same for models that are linear in their parameters, and close where the residuals are small; G has no negative
    eigenvalue. Where the whole Hessian is wanted, as for negative curvature or saddles, take PyHessian.

    `eigenvalues`, `trace` and `density` are PyHessian's own code; only the product with the matrix is ours:
    `gnfast.interop.curvlinops.GGNLinearOperator`, by our engine where it takes model and criterion, by curvlinops'
    where not, and `repr` says which. The data are read at each product by curvlinops' way, once by ours: they must be
    the same at every pass, but for their order. The model is put into evaluation mode, as PyHessian does.

    Args:
        model: A `torch.nn.Module`.
        criterion: A loss module of `torch.nn` with the mean over a batch, or, for one batch, the sum; or any function
            of (outputs, targets), as there, each batch of which counts by its samples. `NLLLoss` of a model that ends
            with `LogSoftmax` is taken as the cross-entropy of its logits, which is the same function: at
            log-probabilities its Gauss-Newton matrix would be zero.
        data: One batch, (inputs, targets).
        dataloader: Batches, instead of `data`; their matrices are weighted with their numbers of samples.
        cuda: Whether all is on the GPU, where curvlinops' products are used; True unless told otherwise, as there.

    Raises:
        ImportError: PyTorch, PyHessian or curvlinops is not installed.
        ValueError: Both or neither of data and dataloader, a criterion that is a sum over several batches, or one that
            is linear in the outputs, whose Gauss-Newton matrix is zero.

    References:
        Yao, Gholami, Keutzer & Mahoney, "PyHessian: neural networks through the lens of the Hessian", 2020.
    """

    def __init__(self, model: Any, criterion: Any, data: Any = None, dataloader: Any = None, cuda: bool = True) -> None:
        if (data is None) == (dataloader is None):
            got = "neither" if data is None else "both"
            raise ValueError(f"data and dataloader are {got} given; pass one batch as data, or batches as dataloader")
        loss = loss_module(criterion)
        if isinstance(loss, _Loss):
            if loss.reduction not in (("mean",) if data is None else ("mean", "sum")):
                raise ValueError(
                    f"criterion is {criterion} but must have reduction='mean'"
                    f"{'' if data is None else ' or reduction=' + repr('sum')}; for its sum over several batches scale "
                    "the results by the number of samples"
                )
        else:
            loss = LossFunction(loss, "mean")
        # Of a data loader theirs makes every product by dataloader_hv_product, and nothing beforehand.
        batches = dataloader if data is None else [tuple(data)]
        super().__init__(model, criterion, dataloader=batches, cuda=cuda)
        if data is not None:
            self.data = data
            self.inputs, self.targets = (part.cuda() if cuda else part for part in data)
        self.operator = GGNLinearOperator(model, loss, self.params, batches, check_deterministic=False)

    def dataloader_hv_product(self, v: list[Tensor]) -> tuple[float, list[Tensor]]:
        """(v^T G v, G v), for a vector given as one tensor a parameter."""
        v = [part.to(p.dtype) for part, p in zip(v, self.params, strict=True)]
        product = self.operator @ v
        return float(sum((a * b).sum() for a, b in zip(product, v, strict=True))), product

    def density(self, iter: int = 100, n_v: int = 1) -> tuple[list[Any], list[Any]]:
        """Eigenvalues and weights of `n_v` Lanczos runs of `iter` steps each."""
        with _eig():
            found: tuple[list[Any], list[Any]] = super().density(iter, n_v)
        return found

    def __repr__(self) -> str:
        return f"pyhessian.hessian of the Gauss-Newton matrix, {self.operator!r}"


class _TorchWithEig:
    """PyTorch with a `torch.eig` of symmetric matrices, which PyHessian 0.1 calls and PyTorch has no more."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    @staticmethod
    def eig(T: Tensor, eigenvectors: bool) -> tuple[Tensor, Tensor]:
        """Eigenvalues as (real, imaginary) rows, and eigenvectors as columns."""
        values, vectors = torch.linalg.eigh(T)
        return torch.stack([values, torch.zeros_like(values)], dim=1), vectors


_swapping = threading.Lock()


@contextmanager
def _eig() -> Iterator[None]:
    """`torch.eig` for the module of PyHessian alone, and only for as long as it is needed."""
    module: Any = importlib.import_module("pyhessian.hessian")
    with _swapping:
        theirs = module.torch
        module.torch = _TorchWithEig()
        try:
            yield
        finally:
            module.torch = theirs
