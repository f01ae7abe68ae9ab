"""Ending a fit before its last epoch: no more improvement, a loss that is not finite, or no time left."""

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
    """Stops (EARLY_STOPPED) once a metric has not improved for `patience` epochs.

    Args:
        monitor: name of the metric, as it is recorded.
        patience: epochs without an improvement.
        min_delta: an improvement must be larger than this, in the unit of the metric.
        mode: `"min"` or `"max"`; `None` tells it from the name.

    Raises:
        LookupError: after an epoch in which the metric was not recorded; the message lists what was.
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
        """Stops at once where a fit is resumed that had stopped already."""
        self.act(learn, self.wait(learn))

    def act(self, learn: Learner, wait: int) -> None:
        """Stops when the patience is spent."""
        if wait >= self.patience:
            epochs = "epoch" if wait == 1 else "epochs"
            raise CancelFitException(
                f"{self.monitor} has not improved for {wait} {epochs}.",
                reason=StopReason.EARLY_STOPPED,
            )


class _LossCopy:
    """A copy of the loss that is on its way to the host while the device goes on."""

    def __init__(self, loss: Tensor) -> None:
        self._host = torch.empty(loss.shape, dtype=loss.dtype, pin_memory=True)
        self._host.copy_(loss, non_blocking=True)
        self._done = torch.Event(device=loss.device)
        self._done.record()

    def item(self) -> float:
        """The loss; waits for the copy alone, not for the backward pass that was queued after it."""
        self._done.synchronize()
        return float(self._host)


class StopOnNaN(Callback):
    """Stops (DIVERGED) when a loss is NaN or infinite: in training before the optimizer steps on it.

    The loss that stopped the fit is recorded, and the weights are those of the last good step. This costs one read of
    the loss per training batch. On an accelerator the read waits for the forward pass only: the copy starts right after
    the loss, the backward pass is queued behind it and keeps the device busy. The mean loss of the validation set is
    looked at when its epoch ends.
    """

    order: ClassVar[int] = 100
    purposes: ClassVar[frozenset[Purpose]] = frozenset({Purpose.FIT})

    def __init__(self) -> None:
        self._loss: Tensor | _LossCopy | None = None

    def after_loss(self, learn: Learner) -> None:
        """Starts to copy the loss of a training batch to the host."""
        if learn.training:
            loss = learn.loss.detach()
            self._loss = loss if loss.device.type == "cpu" else _LossCopy(loss)

    def after_backward(self, learn: Learner) -> None:
        """Looks at the copy."""
        loss, self._loss = self._loss, None
        if loss is not None:
            _check_finite(loss.item(), f"The loss of epoch {learn.epoch}, batch {learn.iter}")

    def after_epoch(self, learn: Learner) -> None:
        """Looks at the mean losses of the epoch."""
        row = learn.recorder.row
        for name in ("train/loss", "valid/loss"):
            if name in row:
                _check_finite(row[name], f"The {name} of epoch {learn.epoch}")

    def cleanup_fit(self, learn: Learner) -> None:
        """Lets go of the loss."""
        self._loss = None


def _check_finite(loss: float, what: str) -> None:
    if not math.isfinite(loss):
        advice = "look for NaN in the data, lower the learning rate or clip the gradients"
        raise CancelFitException(f"{what} is {loss}: {advice}.", reason=StopReason.DIVERGED)


class TimeLimit(Callback):
    """Stops (BUDGET) after the first batch, of training or validation, that ends later than `max_time_s` after the start.

    Args:
        max_time_s: wall-clock seconds for the fit; the time before a resume counts.

    Raises:
        ValueError: if it is not positive.
    """

    order: ClassVar[int] = 100
    purposes: ClassVar[frozenset[Purpose]] = frozenset({Purpose.FIT})

    def __init__(self, max_time_s: float) -> None:
        if not max_time_s > 0:
            raise ValueError(
                f"max_time_s={max_time_s} must be positive: the seconds after which the fit stops."
            )
        self.max_time_s = max_time_s
        self._earlier_s = 0.0
        self._start: float | None = None

    @property
    def elapsed_s(self) -> float:
        """Seconds since the fit began, with those before a resume; 0 when none is running."""
        return self._earlier_s + (0.0 if self._start is None else perf_counter() - self._start)

    def before_fit(self, learn: Learner) -> None:
        """Starts the clock."""
        self._start = perf_counter()

    def after_batch(self, learn: Learner) -> None:
        """Looks at the clock."""
        if self.elapsed_s >= self.max_time_s:
            raise CancelFitException(
                f"The time limit of {self.max_time_s:g} s is reached.", reason=StopReason.BUDGET
            )

    def cleanup_fit(self, learn: Learner) -> None:
        """Stops the clock."""
        self._earlier_s, self._start = 0.0, None

    def state_dict(self) -> dict[str, Any]:
        """The seconds used so far."""
        return {"elapsed_s": self.elapsed_s}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from the seconds used before; those since the start of this fit are forgotten."""
        self._earlier_s = float(state["elapsed_s"])
        self._start = None if self._start is None else perf_counter()
