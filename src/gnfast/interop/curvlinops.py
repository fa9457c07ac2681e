"""curvlinops: its Gauss-Newton operator on our engine, so that changing one import is enough."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any, TypeAlias

from gnfast import _checks

torch: Any = _checks.optional_import("torch", "gnfast.interop.curvlinops", "curvlinops")
curvlinops: Any = _checks.optional_import("curvlinops", "gnfast.interop.curvlinops", "curvlinops")

from gnfast.interop._named import Called, Values, block_product, forms, functional  # noqa: E402  (needs torch: see above)
from gnfast.interop._risk import Risk, UnsupportedError, network_of  # noqa: E402
from gnfast.interop._targets import ALWAYS_CURVED, LossFunction, curved, loss_module, reduction_of, source_of  # noqa: E402
from gnfast.interop._watch import Watch, fingerprint  # noqa: E402

# A class of a library that need not be there: to a type checker its subclasses have no base.
_Base: Any = curvlinops.GGNLinearOperator
# Up to 3.0 it takes a module and a list of its parameters; later a module or a function, and a dict of named values.
NAMED = hasattr(_Base, "_matvec_batch")
# Its arguments that the engine knows: with others, products are theirs.
KNOWN = {"self", "model_func", "loss_func", "params", "data", "progressbar", "check_deterministic", "num_data"}
KNOWN |= {"batch_size_fn", "seed"}  # the latter of samples of the curvature, which mc_samples asks for

__all__ = ["GGNLinearOperator"]

Tensor: TypeAlias = Any  # torch.Tensor


class GGNLinearOperator(_Base):  # type: ignore[misc]  # see _Base
    """The generalized Gauss-Newton matrix of an empirical risk, with the constructor of `curvlinops.GGNLinearOperator`.

    Products are made by gnfast's engine where it takes the model (`gnfast.from_torch`: on the CPU, all parameters of
    the module) and the loss (`MSELoss`, `CrossEntropyLoss` with class indices, `BCEWithLogitsLoss`); else by
    curvlinops' own, which is the base class. `repr` says which and why. Everything of curvlinops that takes one of its
    operators takes this one.

    Both forms of curvlinops are taken, whichever is installed: a module with the list of its parameters, as its
    releases up to 3.0 have it, and a module or a function (values by name, inputs) -> outputs with a dict of values by
    name, as later ones. Functions, and values that are not the module's own, have curvlinops' products.

    The engine keeps what it has read, and each product first looks whether it still is so: parameters and buffers by
    their values, the module by its structure, modes, hooks and numbers, the loss by its options, the data by their
    values. Once something has changed all is read again, so that products are of the matrix as it is now, as
    curvlinops' are. Data that are no list of tensors and no `DataLoader` of a `TensorDataset` are gone through at each
    product, as curvlinops does, and compared. What forward takes from files, or from globals by way of other functions,
    is not seen.

    Beyond curvlinops: the loss may be a function, as `torch.nn.functional.cross_entropy`, a mean or a sum over samples;
    parameters that the outputs do not depend on have rows of zeros; `torch.nn.DataParallel` around the model is taken
    off; `NLLLoss` of a model that ends with `LogSoftmax` is taken as the cross-entropy of its logits, which is the same
    function: at log-probabilities, in which it is linear, the matrix would be zero.

    Args:
        *args, **kwargs: Those of `curvlinops.GGNLinearOperator`.

    Raises:
        ImportError: PyTorch or curvlinops is not installed.
        TypeError: A function as the model without the names of its parameters.
        ValueError: A tensor that is no parameter of the module, a loss function of which it is not clear whether it is
            a mean or a sum over samples, or a loss that is linear in the outputs, whose matrix is zero.
    """

    def __init__(
        self, model_func: Any, loss_func: Any, params: list[Tensor] | Values, data: Any, *args: Any, **kwargs: Any
    ) -> None:
        self._risk: Risk | None = None
        self._reason = ""
        self._watch: Watch | None = None
        self._all_used: bool | None = None  # whether the outputs at the first batch depend on all parameters
        self._prints: list[object] = []  # of the batches that the engine has, where each pass makes them anew
        self._module, self._values, (given_model, values) = forms(model_func, params)
        self._named = functional(given_model), values
        model, loss = self._module, loss_module(loss_func)
        if callable(loss) and type(loss) not in ALWAYS_CURVED:
            X, y = next(iter(data))
            home = self._values[0].device
            first = X.to(home) if isinstance(X, torch.Tensor) else X, y.to(home)
            if not isinstance(loss, torch.nn.Module) or not hasattr(loss, "reduction"):
                loss = LossFunction(loss, getattr(loss, "reduction", None) or reduction_of(loss, model, first))
            loss = curved(loss, model, first)
        model, params = (given_model, values) if NAMED else (model, self._values)
        given = inspect.signature(_Base.__init__).bind(self, model, loss, params, data, *args, **kwargs)
        self._options = {name: value for name, value in given.arguments.items() if name not in KNOWN and value}
        super().__init__(model, loss, params, data, *args, **kwargs)

    def __matmul__(self, X: Any) -> Any:
        like = self._values[0]
        is_block = isinstance(X, torch.Tensor) and X.ndim in (1, 2) and len(X) == self.shape[1]
        risk = self._current() if is_block and (X.dtype, X.device) == (like.dtype, like.device) else None
        if risk is None or not risk.is_in_order:
            return super().__matmul__(X)  # which also refuses what is no vector or matrix of this size
        with torch.no_grad():  # a flat block need not be taken to pieces
            return risk.multiplied(X.reshape(len(X), -1).T.contiguous().T).reshape(X.shape)

    def _matmat(self, M: list[Tensor]) -> list[Tensor]:
        risk = self._current()
        found: list[Tensor] = super()._matmat(M) if risk is None else risk.product(M)
        return found

    def _current(self) -> Risk | None:
        """The engine for all as it is now, or None where theirs is used."""
        batches = None
        if self._watch is not None and not self._watch.changed():
            if self._risk is None or source_of(self._data) is not None:
                return self._risk
            batches = list(self._loop_over_data())
            if fingerprint(batches) == self._prints:
                return self._risk
        self._read(batches)
        return self._risk

    def _read(self, batches: list[Any] | None) -> None:
        module, source = self._module, source_of(self._data)
        if not NAMED:
            self.__dict__.pop("_mp", None)  # theirs keeps the buffers, and of the parameters the names
        self._watch = Watch([("loss", self._loss_func), ("params", self._values), ("data", source)], module)
        self._risk, self._reason, self._all_used = None, "", None
        try:
            if isinstance(module, Called):
                raise UnsupportedError(module.why)
            if self._options:
                raise UnsupportedError(", ".join(f"{name}={value!r}" for name, value in self._options.items()))
            read = network_of(module, self._values, self._loss_func)
            if source is None:
                batches = list(self._loop_over_data()) if batches is None else batches
                self._prints = fingerprint(batches)
            data, share = self._loop_over_data() if batches is None else batches, self._get_normalization_factor
            self._risk = Risk(read, self._loss_func, self._values, data, share)
        except UnsupportedError as reason:
            self._reason = str(reason)

    def _matmat_batch(self, X: Any, y: Tensor, M: list[Tensor]) -> list[Tensor]:
        """Theirs, where the outputs depend on all parameters: for others its vmap has no result."""
        if self._options:
            sampled: list[Tensor] = super()._matmat_batch(X, y, M)
            return sampled
        if self._all_used is None or NAMED:  # there, no result need be no error
            self._all_used = len(self._used(X)) == len(M)
        if self._all_used:
            with contextlib.suppress(RuntimeError):  # not at this batch, or an error that comes again
                whole: list[Tensor] = super()._matmat_batch(X, y, M)
                return whole
        places = self._used(X)
        found = [torch.zeros_like(part) for part in M]
        if places:
            function, values = self._named
            names = [list(values)[i] for i in places]

            def outputs(*used: Tensor) -> Tensor:
                return function({**values, **dict(zip(names, used, strict=True))}, X)

            at = [values[name] for name in names]
            parts = block_product(outputs, lambda out: self._loss_func(out, y), at, [M[i] for i in places])
            for i, part in zip(places, parts, strict=True):
                found[i] = part
        return found

    def _used(self, X: Any) -> list[int]:
        """The places of the parameters that the outputs at a batch depend on."""
        asked = [i for i, parameter in enumerate(self._values) if parameter.requires_grad]
        with torch.enable_grad():
            outputs = self._module(X)
            if not outputs.requires_grad:
                return [i for i in range(len(self._values)) if i not in asked]
            found = torch.autograd.grad(outputs.sum(), [self._values[i] for i in asked], allow_unused=True)
        unused = {i for i, part in zip(asked, found, strict=True) if part is None}
        return [i for i in range(len(self._values)) if i not in unused]

    def data_prediction_loss_gradient(self, desc: str = "batch_prediction_loss_gradient") -> Iterator[Any]:
        """Theirs, where parameters that do not take part have gradients of zero."""
        for X, y in self._loop_over_data(desc=desc):
            prediction = self._model_func(X)
            loss = self._loss_func(prediction, y) * self._get_normalization_factor(X, y)
            gradient = torch.autograd.grad(loss, self._params, allow_unused=True, materialize_grads=True)
            yield (X, y), prediction, loss.detach(), list(gradient)

    def __repr__(self) -> str:
        risk = self._current()
        how = f"curvlinops' own products: {self._reason}" if risk is None else risk.describe()
        return f"GGNLinearOperator({self.shape[0]} x {self.shape[1]}, {how})"
