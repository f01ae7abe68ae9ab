"""Callbacks that stop training early."""

from __future__ import annotations

import math
from collections.abc import Mapping
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from nntrain.callbacks.monitor import Mode, MonitorCallback, checked_patience
from nntrain.core.callback import Callback, Purpose
from nntrain.core.events import CancelFitException
from nntrain.result import StopReason

if TYPE_CHECKING:
    from nntrain.learner import Learner


class EarlyStopping(MonitorCallback):
    """Stops the fit (EARLY_STOPPED) when a metric has not improved for `patience` epochs.

    Args:
        monitor: name of the recorded metric.
        patience: number of epochs without improvement before the fit stops.
        min_delta: minimum change that counts as an improvement, in units of the metric.
        mode: `"min"` or `"max"`; `None` infers it from the name.

    Raises:
        LookupError: if the metric was not recorded in an epoch; the message lists the recorded
            metrics.
    """

    order: ClassVar[int] = 100

    def __init__(
        self,
        monitor: str = "valid/loss",
        *,
        patience: int = 1,
        min_delta: float = 0.0,
        mode: Mode | None = None,
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        self.patience = checked_patience(patience)

    def before_fit(self, learn: Learner) -> None:
        """Stops immediately if a resumed fit had already stopped early."""
        self.act(learn, self.wait(learn))

    def act(self, learn: Learner, wait: int) -> None:
        """Stops after `patience` epochs without improvement."""
        if wait >= self.patience:
            epochs = "epoch" if wait == 1 else "epochs"
            raise CancelFitException(
                f"{self.monitor} has not improved for {wait} {epochs}.",
                reason=StopReason.EARLY_STOPPED,
            )


class _LossCopy:
    """Asynchronous copy of the loss from the device to the CPU."""

    def __init__(self, loss: Tensor) -> None:
        self._host = torch.empty(loss.shape, dtype=loss.dtype, pin_memory=True)
        self._host.copy_(loss, non_blocking=True)
        self._done = torch.Event(device=loss.device)
        self._done.record()

    def item(self) -> float:
        """Returns the loss. Waits for the copy but not for the backward pass queued after it."""
        self._done.synchronize()
        return float(self._host)


class StopOnNaN(Callback):
    """Stops the fit (DIVERGED) before the optimizer step if the loss is NaN or infinite.

    The loss that stopped the fit is recorded. The model has the weights after the last valid step.
    The loss is copied to the CPU once per training batch. On an accelerator, the copy is queued
    before the backward pass. The check therefore waits only for the forward pass, while the device
    runs the backward pass. The mean training and validation losses are checked at the end of each
    epoch.
    """

    order: ClassVar[int] = 100
    purposes: ClassVar[frozenset[Purpose]] = frozenset({Purpose.FIT})

    def __init__(self) -> None:
        self._loss: Tensor | _LossCopy | None = None

    def after_loss(self, learn: Learner) -> None:
        """Starts copying the loss of a training batch to the CPU."""
        if learn.training:
            loss = learn.loss.detach()
            self._loss = loss if loss.device.type == "cpu" else _LossCopy(loss)

    def after_backward(self, learn: Learner) -> None:
        """Checks the copied loss."""
        loss, self._loss = self._loss, None
        if loss is not None:
            _check_finite(loss.item(), f"The loss of epoch {learn.epoch}, batch {learn.iter}")

    def after_epoch(self, learn: Learner) -> None:
        """Checks the mean losses of the epoch."""
        row = learn.recorder.row
        for name in ("train/loss", "valid/loss"):
            if name in row:
                _check_finite(row[name], f"The {name} of epoch {learn.epoch}")

    def cleanup_fit(self, learn: Learner) -> None:
        """Releases the loss tensor."""
        self._loss = None


def _check_finite(loss: float, what: str) -> None:
    if not math.isfinite(loss):
        advice = "look for NaN in the data, lower the learning rate or clip the gradients"
        raise CancelFitException(f"{what} is {loss}: {advice}.", reason=StopReason.DIVERGED)


class TimeLimit(Callback):
    """Stops the fit (BUDGET) when the time limit is reached.

    The elapsed time is checked after every training batch and every validation batch.

    Args:
        max_time_s: wall-clock limit of the fit in seconds, including the time before a resume.

    Raises:
        ValueError: if `max_time_s` is not positive.
    """

    order: ClassVar[int] = 100
    purposes: ClassVar[frozenset[Purpose]] = frozenset({Purpose.FIT})

    def __init__(self, max_time_s: float) -> None:
        if not max_time_s > 0:
            raise ValueError(
                f"max_time_s={max_time_s} must be positive: it is the limit of the fit in seconds."
            )
        self.max_time_s = max_time_s
        self._earlier_s = 0.0
        self._start: float | None = None

    @property
    def elapsed_s(self) -> float:
        """Seconds since the fit started, including the time before a resume; 0 outside a fit."""
        return self._earlier_s + (0.0 if self._start is None else perf_counter() - self._start)

    def before_fit(self, learn: Learner) -> None:
        """Starts the clock."""
        self._start = perf_counter()

    def after_batch(self, learn: Learner) -> None:
        """Stops the fit if the time limit is reached."""
        if self.elapsed_s >= self.max_time_s:
            raise CancelFitException(
                f"The time limit of {self.max_time_s:g} s was reached.", reason=StopReason.BUDGET
            )

    def cleanup_fit(self, learn: Learner) -> None:
        """Stops the clock."""
        self._earlier_s, self._start = 0.0, None

    def state_dict(self) -> dict[str, Any]:
        """Returns the elapsed seconds."""
        return {"elapsed_s": self.elapsed_s}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the elapsed seconds and restarts the clock."""
        self._earlier_s = float(state["elapsed_s"])
        self._start = None if self._start is None else perf_counter()
