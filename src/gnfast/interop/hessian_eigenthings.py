"""pytorch-hessian-eigenthings: our operators, and Gauss-Newton matrices of models, for its algorithms."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from gnfast import _checks
from gnfast.interop.curvlinops import GGNLinearOperator
from gnfast.spectrum.matrices import as_symmetric

torch: Any = _checks.optional_import("torch", "gnfast.interop.hessian_eigenthings", "hessian-eigenthings")
_theirs: Any = _checks.optional_import(
    "hessian_eigenthings", "gnfast.interop.hessian_eigenthings", "hessian-eigenthings"
)

# A class of a library that need not be there: to a type checker its subclasses have no base.
_Base: Any = _theirs.CurvatureOperator

__all__ = ["GaussNewtonOperator", "Operator"]

Tensor: TypeAlias = Any  # torch.Tensor


class _Adapter(_Base):  # type: ignore[misc]  # see _Base
    def __init__(self, operator: Any, dtype: Any, device: Any) -> None:
        self.operator, self._dtype, self._device = operator, dtype, device

    @property
    def size(self) -> int:
        """Rows, and columns."""
        return int(self.operator.shape[0])

    @property
    def device(self) -> Any:
        """The device of vectors and products."""
        return self._device

    @property
    def dtype(self) -> Any:
        """The dtype of vectors and products."""
        return self._dtype

    def matvec(self, v: Tensor) -> Tensor:
        """The product with a vector (size,)."""
        return self.operator @ v

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.operator!r})"


class Operator(_Adapter):
    """Any symmetric operator that gnfast takes as a `CurvatureOperator`, for `lanczos`, `trace`, `spectral_density`.

    Vectors are tensors on the CPU of the operator's dtype, shared with the engine, not copied.

    Args:
        op: `gnfast.GaussNewton`, one of its duals, `gnfast.operator(...)`, a SciPy LinearOperator, or an array (N, N).

    Raises:
        ImportError: PyTorch, curvlinops or hessian-eigenthings is not installed.
        TypeError, ValueError: No symmetric real matrix on the CPU.
    """

    def __init__(self, op: Any) -> None:
        operator = as_symmetric(op)
        if operator.device != "cpu":
            raise ValueError(f"op is on {operator.device} but must be on the CPU; make it with device='cpu'")
        dtype = torch.float32 if operator.dtype == np.float32 else torch.float64
        super().__init__(operator, dtype, torch.device("cpu"))

    def matvec(self, v: Tensor) -> Tensor:
        """The product with a vector (size,)."""
        return torch.from_numpy(self.operator @ v.detach().numpy())


class GaussNewtonOperator(_Adapter):
    """The Gauss-Newton matrix of a model and a loss over batches, in the place of their `GGNOperator`.

    Products are those of `gnfast.interop.curvlinops.GGNLinearOperator`: by our engine where it takes model and loss, by
    curvlinops' where not, and `repr` says which. Batches count by their samples, where theirs all count alike: the same
    for batches of one size.

    Args:
        model: A `torch.nn.Module`; its parameters that require gradients, in their order.
        dataloader: Batches (inputs, targets), the same at every pass.
        loss: A loss module of `torch.nn`, or a function of (outputs, targets) that is a mean or a sum over samples, as
            what their `supervised_loss_of_output` takes. `NLLLoss` of a model that ends with `LogSoftmax` is taken as
            the cross-entropy of its logits, which is the same function: at log-probabilities the matrix would be zero.

    Raises:
        ImportError: PyTorch, curvlinops or hessian-eigenthings is not installed.
        ValueError: A function that is neither a mean nor a sum, or a loss that is linear in the outputs, whose matrix
            is zero.
    """

    def __init__(self, model: Any, dataloader: Any, loss: Any) -> None:
        params = [parameter for parameter in model.parameters() if parameter.requires_grad]
        operator = GGNLinearOperator(model, loss, params, dataloader)
        super().__init__(operator, operator.dtype, operator.device)
