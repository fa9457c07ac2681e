"""Lightning: a callback that logs the curvature of a model in training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gnfast import _checks

_callbacks: Any = _checks.optional_import("lightning.pytorch.callbacks", "gnfast.interop.lightning", "lightning")

from gnfast.interop._monitor import CurvatureMonitor  # noqa: E402  (needs torch: see the error above)

# A class of a library that need not be there: to a type checker its subclasses have no base.
_Base: Any = _callbacks.Callback

__all__ = ["CurvatureCallback"]


class CurvatureCallback(_Base):  # type: ignore[misc]  # see _Base
    """Logs kappa, lambda_max and effective rank to the trainer's loggers, within a share of the time of training.

    It is a `gnfast.interop.torch.CurvatureMonitor` that counts training batches; names are "curvature/kappa" and so
    on. In training on several processes the first one measures.

    Args:
        X: Samples (n, ...), or None for the inputs of the first training batch.
        module: The name of the submodule that is differentiated, "net" or "net.body", or "" for the LightningModule.
        inputs: Takes X out of a batch; None for the batch itself where it is a tensor, else its first entry.
        samples: Of the first batch, so many at most.
        **options: Those of `CurvatureMonitor`: loss, every, share, quantities, log, path, tol, memory_limit.

    Attributes:
        monitor: The `CurvatureMonitor`, with its `history`, of the last model that was trained; None before training.

    Raises:
        ImportError: Lightning or PyTorch is not installed.
    """

    def __init__(
        self,
        X: Any = None,
        *,
        module: str = "",
        inputs: Callable[[Any], Any] | None = None,
        samples: int = 64,
        **options: Any,
    ) -> None:
        super().__init__()
        self.X, self.module, self.options = X, module, options
        self.inputs = _first if inputs is None else inputs
        self.samples = _checks.integer(samples, "samples")
        self.monitor: CurvatureMonitor | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Once the model is where it is trained."""
        module = pl_module.get_submodule(self.module)
        if trainer.is_global_zero and (self.monitor is None or self.monitor.module is not module):
            X = self.X.to(pl_module.device) if hasattr(self.X, "to") else self.X
            self.monitor = CurvatureMonitor(module, X, **self.options)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Measure if a measurement is due, and log it; called by the trainer."""
        if self.monitor is None:
            return
        found = self.monitor.step(self.inputs(batch)[: self.samples] if self.monitor.X is None else None)
        if found is not None:
            names = (*self.monitor.quantities, "seconds")
            metrics = {f"curvature/{name}": getattr(found, name) for name in names}
            for logger in trainer.loggers:
                logger.log_metrics(metrics, step=trainer.global_step)


def _first(batch: Any) -> Any:
    return batch[0] if isinstance(batch, list | tuple) else batch
