"""curvlinops: its Gauss-Newton operator on our engine, so that changing one import is enough."""

from __future__ import annotations

from typing import Any, TypeAlias

from gnfast import _checks

torch: Any = _checks.optional_import("torch", "gnfast.interop.curvlinops", "curvlinops")
_theirs: Any = _checks.optional_import("curvlinops", "gnfast.interop.curvlinops", "curvlinops")

from gnfast.interop._risk import Risk, UnsupportedError, network_of, state_of  # noqa: E402  (needs torch: see the error above)

# A class of a library that need not be there: to a type checker its subclasses have no base.
_Base: Any = _theirs.GGNLinearOperator

__all__ = ["GGNLinearOperator"]

Tensor: TypeAlias = Any  # torch.Tensor


class GGNLinearOperator(_Base):  # type: ignore[misc]  # see _Base
    """The generalized Gauss-Newton matrix of an empirical risk, with the constructor of `curvlinops.GGNLinearOperator`.

    Products are made by gnfast's engine where it takes the model (`gnfast.from_torch`: on the CPU, all parameters of
    the module) and the loss (`MSELoss`, `CrossEntropyLoss` with class indices, `BCEWithLogitsLoss`); else by
    curvlinops' own, which is the base class. `repr` says which and why. Everything of curvlinops that takes one of its
    operators takes this one.

    The data are read once more than theirs' constructor reads them, at the first product, and kept: they must be the
    same at every pass, which `check_deterministic` tests. After a training step or a change of mode the engine reads
    the module again.

    Args:
        *args, **kwargs: Those of `curvlinops.GGNLinearOperator`.

    Raises:
        ImportError: PyTorch or curvlinops is not installed.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._risk: Risk | None = None
        self._reason = ""
        self._state: object = None
        super().__init__(*args, **kwargs)

    def __matmul__(self, X: Any) -> Any:
        risk = self._current() if isinstance(X, torch.Tensor) else None
        if risk is None or not risk.is_in_order:
            return super().__matmul__(X)
        self._check_input_and_preprocess(X)
        with torch.no_grad():  # a flat block need not be taken to pieces
            return risk.multiplied(X.reshape(len(X), -1).T.contiguous().T).reshape(X.shape)

    def _matmat(self, M: list[Tensor]) -> list[Tensor]:
        risk = self._current()
        found: list[Tensor] = super()._matmat(M) if risk is None else risk.product(M)
        return found

    def _current(self) -> Risk | None:
        """The engine for the module as it is now, or None where theirs is used."""
        module = self._model_func
        state = state_of(module)
        if self._state is None or state != self._state:
            self._risk, self._reason = None, ""
            try:
                read = network_of(module, self._params)
                data, share = self._loop_over_data(), self._get_normalization_factor
                self._risk = Risk(read, self._loss_func, self._params, data, share)
            except UnsupportedError as reason:
                self._reason = str(reason)
            self._state = state
        return self._risk

    def __repr__(self) -> str:
        risk = self._current()
        how = f"curvlinops' own products: {self._reason}" if risk is None else risk.describe()
        return f"GGNLinearOperator({self.shape[0]} x {self.shape[1]}, {how})"
