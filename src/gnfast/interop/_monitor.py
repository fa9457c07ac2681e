"""Curvature while a PyTorch model trains, measured as often as a share of the time allows."""

from __future__ import annotations

import contextlib
import csv
import math
import re
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

import gnfast as gn
from gnfast import _checks
from gnfast.interop._gauss_newton import GaussNewton
from gnfast.operators import SymmetricOperator

Tensor: TypeAlias = Any  # torch.Tensor, which a type checker sees only where PyTorch is installed
QUANTITIES = ("kappa", "lambda_max", "effective_rank")


@dataclass(frozen=True)
class Curvature:
    """One measurement of a `CurvatureMonitor`.

    Attributes:
        step: The training step after which it was taken, counted from 1.
        kappa: The condition number of the non-zero spectrum, as `gnfast.cond` gives it.
        lambda_max: The largest eigenvalue.
        effective_rank: tr G / lambda_max, from 1 to the rank: how many directions as curved as the first the trace is
            worth. It needs no damping and no cut, and small eigenvalues hardly move it.
        seconds: What the measurement took.
        note: Why values are NaN; empty where all is well.

    Values that were not asked for are NaN.
    """

    step: int
    kappa: float = math.nan
    lambda_max: float = math.nan
    effective_rank: float = math.nan
    seconds: float = 0.0
    note: str = ""


class CurvatureMonitor:
    """Measures the Gauss-Newton matrix of a model in training: condition number, lambda_max and effective rank.

    Call `step()` after each step of the optimizer. At every `every`-th call a measurement is due; it is taken if with
    it all measurements together stay within `share` of the time since the first call, should it cost what the last one
    did, and is left out otherwise: where measuring is dear, measurements move apart. The first one, whose cost nobody
    knows, is always taken. So the share is exceeded by the first measurement at most, and later by what one costs more
    than the one before.

    The module is put in evaluation mode for the measurement, whose matrix is then a function of the parameters alone
    (no dropout, batch norm with its running averages); its modes, gradients, buffers and PyTorch's random numbers are
    as before afterwards. The matrix is that in all parameters that require a gradient; gnfast's own engine serves where
    these are all and it takes the module, else PyTorch's autograd.

    Args:
        module: A `torch.nn.Module`.
        X: The samples (n, ...) at which the matrix is taken, the same throughout, so that numbers can be compared; None
            for the first `step(X)`'s. n k of 1,000 or so, k the outputs, is cheap; cost grows like (n k)^2 to (n k)^3.
        loss: As in `gnfast.GaussNewton`.
        every: Steps from one measurement to the next, at least.
        share: Of the time, above 0 and below 1; 1 measures every time.
        quantities: Which of "kappa", "lambda_max", "effective_rank". Without "kappa", which needs the lower end of the
            spectrum, lambda_max is followed by a `gnfast.Tracker` from one measurement to the next.
        log: Called with a dict of step, the quantities and seconds: `print`, `wandb.log`.
        path: A CSV file; measurements are added to it as they come.
        tol: Relative accuracy of the eigenvalues.
        memory_limit: As in `gnfast.GaussNewton`.
        clock: Seconds, growing; for tests.

    Attributes:
        history: A `Curvature` for each measurement.
        steps: Calls of `step` so far.

    Raises:
        TypeError, ValueError, MemoryError: Bad arguments; those of the operator at construction, or at the first step
            where X comes with it. Once one operator has been made, a failure is no error of the training: it is
            recorded with its `note` (parameters that are NaN, a matrix that is zero).

    Warns:
        RuntimeWarning: A measurement is NaN, with the reason; once for each kind of reason.

    Examples:
        >>> import torch
        >>> import gnfast as gn
        >>> module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
        >>> monitor = gn.interop.torch.CurvatureMonitor(module, torch.randn(5, 4), "cross_entropy", every=1)
        >>> found = monitor.step()  # after each step of the optimizer
        >>> found.step, found.kappa >= 1
        (1, True)
    """

    def __init__(
        self,
        module: Any,
        X: Any = None,
        loss: Any = "mse",
        *,
        every: int = 100,
        share: float = 0.05,
        quantities: Iterable[str] = QUANTITIES,
        log: Callable[[dict[str, float]], object] | None = None,
        path: Any = None,
        tol: float = 1e-3,
        memory_limit: float | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if not isinstance(module, torch.nn.Module):
            raise TypeError(f"module is of type {type(module).__name__} but must be a torch.nn.Module")
        self.module, self.loss, self.memory_limit = module, loss, memory_limit
        self.every = _checks.integer(every, "every")
        self.share = _checks.positive(share, "share")
        if self.share > 1:
            raise ValueError(f"share is {share} but must be at most 1, a part of the time")
        self.quantities = tuple(_checks.choice(name, "quantities", QUANTITIES) for name in quantities)
        self.log, self._clock = log, clock
        self.tol = _checks.positive(tol, "tol")
        self.path = None if path is None else _checks.path(path)
        self._columns = ["step", *self.quantities, "seconds", "note"]
        if self.path is not None:
            self._start_file()
        self.history: list[Curvature] = []
        self.steps = 0
        self._began: float | None = None
        self._spent = self._last = 0.0
        self._told: set[str] = set()  # kinds of failures
        self._tracker = gn.Tracker(top=1, tol=self.tol)
        self.X: Tensor | None = None
        if X is not None:
            self._take(X)

    def step(self, X: Any = None) -> Curvature | None:
        """Count a training step, and measure if that is due and within the share.

        Args:
            X: Samples; used where the monitor has none yet, and kept.

        Returns:
            The measurement, or None.
        """
        if self.X is None and X is not None:
            self._take(X)
        self.steps += 1
        if self._began is None:
            self._began = self._clock()
        if self.steps % self.every or not self._is_affordable():
            return None
        return self.measure()

    def measure(self) -> Curvature:
        """Measure now, whatever the share; the time counts."""
        if self.X is None:
            raise ValueError("the monitor has no samples; pass X to it, or to step(X)")
        start = self._clock()
        if self._began is None:
            self._began = start
        found = self._measured()
        values = {name: getattr(found, name) for name in self.quantities}
        record = Curvature(self.steps, seconds=self._clock() - start, note=found.note, **values)
        self.history.append(record)
        self._tell(record)
        self._warn(record)
        self._last = self._clock() - start
        self._spent += self._last
        return record

    @property
    def used(self) -> float:
        """The share of the time since the first step that measurements have taken so far."""
        if self._began is None or self._spent == 0:
            return 0.0
        return self._spent / (self._clock() - self._began)

    def _is_affordable(self) -> bool:
        if not self.history or self.share == 1:
            return True
        assert self._began is not None
        return self._spent + self._last <= self.share * (self._clock() - self._began + self._last)

    def _take(self, X: Any) -> None:
        """Keep a copy of the samples, which a loader may write over, and see that an operator can be made."""
        self.X = torch.as_tensor(X).detach().clone()
        with _evaluation(self.module):
            self._operator()

    def _operator(self) -> SymmetricOperator:
        assert self.X is not None
        if all(parameter.requires_grad for parameter in self.module.parameters()):
            with contextlib.suppress(TypeError, ValueError):  # the module is none that the core takes, or see below
                return gn.GaussNewton(gn.from_torch(self.module), self.X, self.loss, memory_limit=self.memory_limit)
        return GaussNewton(self.module, None, self.X, self.loss, memory_limit=self.memory_limit)

    def _measured(self) -> Curvature:
        try:
            with _evaluation(self.module):
                return self._of(self._operator())
        except Exception as error:  # PyTorch's want of memory is a RuntimeError: none may end the training
            return Curvature(self.steps, note=str(error) or type(error).__name__)

    def _of(self, G: SymmetricOperator) -> Curvature:
        kappa = effective_rank = math.nan
        if "kappa" in self.quantities:
            found = gn.cond(G, tol=self.tol)
            kappa, top = found.value, found.lambda_max
        else:
            top = float(self._tracker.update(G)[-1])
            if top <= 0:
                raise ValueError("the Gauss-Newton matrix is zero: " + (G.why_zero() or "no output moves"))
        if "effective_rank" in self.quantities:
            effective_rank = gn.trace(G, tol=self.tol).value / top
        return Curvature(self.steps, kappa, top, effective_rank)

    # ------------------------------------------------------------------------------------------------------ records
    def _tell(self, record: Curvature) -> None:
        row = {name: getattr(record, name) for name in self._columns}
        if self.path is not None:
            with self.path.open("a", newline="") as file:
                csv.writer(file).writerow(row.values())
        if self.log is not None:
            del row["note"]
            self.log(row)

    def _warn(self, record: Curvature) -> None:
        """Tell each kind of failure once: another value in its sentence makes no other kind."""
        kind = re.sub(r"[\d.]+", "", record.note)
        if kind and kind not in self._told:
            self._told.add(kind)
            warnings.warn(
                f"the curvature after step {record.step} is NaN: {record.note}; training goes on, and the notes of "
                "further ones are in the monitor's history",
                RuntimeWarning,
                stacklevel=_checks.level_of_caller(),
            )

    def _start_file(self) -> None:
        assert self.path is not None
        header = ",".join(self._columns)
        if self.path.exists() and self.path.stat().st_size:
            with self.path.open() as file:
                if (first := file.readline().strip()) != header:
                    raise ValueError(
                        f"path is {str(self.path)!r}, which begins with {first!r}, not with {header!r}; pass a new file"
                    )
        else:
            self.path.write_text(header + "\n")

    def __repr__(self) -> str:
        taken = _checks.counted(len(self.history), "measurement")
        return (
            f"CurvatureMonitor({', '.join(self.quantities)}; {self.steps} steps, {taken}, {self.used:.1%} of the time)"
        )


@contextlib.contextmanager
def _evaluation(module: Any) -> Iterator[None]:
    """The module and all in it in evaluation mode, and each as it was afterwards."""
    modes = [(child, child.training) for child in module.modules()]
    try:
        for child, _ in modes:
            child.training = False
        yield
    finally:
        for child, training in modes:
            child.training = training
