"""Base classes for callbacks that monitor a metric."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

from nntrain.core.callback import Callback, Purpose

if TYPE_CHECKING:
    from nntrain.learner import Learner

Mode: TypeAlias = Literal["min", "max"]
"""The direction of improvement: `"min"` if smaller values are better, `"max"` if larger."""

_SMALLER_IS_BETTER = frozenset({"loss", "error", "err", "mse", "rmse", "mae", "perplexity", "time"})


def mode_of(monitor: str) -> Mode:
    """Infers the mode of a metric from its name.

    The mode is `"min"` if the name contains the word loss, error, err, mse, rmse, mae, perplexity
    or time, and `"max"` for all other names.
    """
    return "min" if _SMALLER_IS_BETTER & set(re.split(r"[^a-z]+", monitor.lower())) else "max"


def epochs_since_best(values: Iterable[float], mode: Mode, min_delta: float = 0.0) -> int:
    """Returns the number of values after the best value; 0 if the last value is the best.

    As in fastai's `TrackerCallback`, a value is a new best if it improves on the best value so far
    by more than `min_delta`. The first finite value is always a new best. NaN and infinity are
    never a new best.
    """
    sign = 1.0 if mode == "min" else -1.0
    best, wait = math.inf, 0
    for value in values:
        if math.isfinite(value) and sign * value + min_delta < best:
            best, wait = sign * value, 0
        else:
            wait += 1
    return wait


class MeasuredCallback(Callback):
    """Base class for callbacks that use a metric after each epoch.

    If an epoch is cancelled before the metric is measured, the callback skips that epoch.
    """

    _cancelled = False

    def after_cancel_train(self, learn: Learner) -> None:
        """Records that the metric of this epoch may be missing."""
        self._cancelled = True

    def after_cancel_validate(self, learn: Learner) -> None:
        """Records that the metric of this epoch may be missing."""
        self._cancelled = True

    def after_cancel_epoch(self, learn: Learner) -> None:
        """Records that the metric of this epoch may be missing."""
        self._cancelled = True

    def measured(self, learn: Learner, monitor: str) -> float | None:
        """Returns the metric of the last epoch, or `None` if the metric is missing.

        The metric may be missing only if the epoch was cancelled.

        Raises:
            LookupError: if the epoch was not cancelled but the metric was not recorded; the message
                lists the recorded metrics.
        """
        cancelled, self._cancelled = self._cancelled, False
        return (
            None
            if cancelled and monitor not in learn.recorder.row
            else learn.recorder.last(monitor)
        )


class MonitorCallback(MeasuredCallback):
    """Base class for callbacks that monitor one recorded metric; subclasses override `act`.

    Decisions depend only on the rows of the `Recorder`. The callback therefore needs no state in a
    checkpoint and works the same after a resume. If an epoch is cancelled before the metric is
    measured, the callback skips that epoch.

    Args:
        monitor: name of the recorded metric.
        mode: `"min"` or `"max"`; `None` infers it from the name (see `mode_of`).
        min_delta: minimum change that counts as an improvement, in units of the metric.

    Raises:
        ValueError: if `mode` is unknown or `min_delta` is negative.
        LookupError: if the metric was not recorded in an epoch; the message lists the recorded
            metrics.
    """

    order: ClassVar[int] = 70
    purposes: ClassVar[frozenset[Purpose]] = frozenset({Purpose.FIT})

    def __init__(self, monitor: str, mode: Mode | None, min_delta: float) -> None:
        if mode not in (None, "min", "max"):
            raise ValueError(
                f"mode={mode!r} of {type(self).__name__} must be 'min', 'max', or None to infer it "
                "from the name of the metric."
            )
        if not min_delta >= 0:
            raise ValueError(
                f"min_delta={min_delta} of {type(self).__name__} must be at least 0 in both modes."
            )
        self.monitor, self.min_delta = monitor, min_delta
        self.mode: Mode = mode or mode_of(monitor)

    def act(self, learn: Learner, wait: int) -> None:
        """Called after each epoch in which the metric was measured; override it in a subclass.

        `wait` is the number of epochs since the best epoch; it is 0 if this epoch is the best so
        far.
        """

    def after_epoch(self, learn: Learner) -> None:
        """Calls `act` if the metric was measured."""
        if self.measured(learn, self.monitor) is not None:
            self.act(learn, self.wait(learn))

    def wait(self, learn: Learner) -> int:
        """Returns the number of epochs since the best epoch; 0 if there are no epochs yet."""
        values = [
            row[self.monitor]
            for row in learn.recorder.rows
            if self.monitor in row and not self.is_ignored(row)
        ]
        return epochs_since_best(values, self.mode, self.min_delta)

    def is_ignored(self, row: Mapping[str, float]) -> bool:
        """Returns whether the epoch of a row cannot be the best; override it in a subclass."""
        return False


def checked_patience(patience: int) -> int:
    """Returns `patience`, the number of epochs to wait for an improvement.

    Raises:
        ValueError: if `patience` is less than 1.
    """
    if patience < 1:
        raise ValueError(
            f"patience={patience} must be at least 1: it is the number of epochs to wait for an "
            "improvement."
        )
    return patience
