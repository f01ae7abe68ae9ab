"""Base classes for callbacks that monitor a metric."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

from nntrain.core.callback import Callback, Purpose

if TYPE_CHECKING:
    from nntrain.learner import Learner

Mode: TypeAlias = Literal["min", "max"]
"""Whether a smaller or a larger value is better."""

_SMALLER_IS_BETTER = frozenset({"loss", "error", "err", "mse", "rmse", "mae", "perplexity", "time"})


def mode_of(monitor: str) -> Mode:
    """Returns the mode of a metric, guessed from its name.

    The mode is `"min"` if the name contains the word loss, error, err, mse, rmse, mae, perplexity
    or time, otherwise `"max"`.
    """
    return "min" if _SMALLER_IS_BETTER & set(re.split(r"[^a-z]+", monitor.lower())) else "max"


def epochs_since_best(values: Iterable[float], mode: Mode, min_delta: float = 0.0) -> int:
    """Returns the number of values after the best one; 0 if the last value is the best.

    A value is a new best if it improves on the best so far by more than `min_delta`, as in fastai's
    `TrackerCallback`. The first finite value is always a new best; NaN and infinity never are.
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
    """Base class of callbacks that act on a metric after each epoch.

    Epochs that were cancelled before the metric was measured are skipped.
    """

    _cancelled = False

    def after_cancel_train(self, learn: Learner) -> None:
        """Allows the metric to be missing."""
        self._cancelled = True

    def after_cancel_validate(self, learn: Learner) -> None:
        """Allows the metric to be missing."""
        self._cancelled = True

    def after_cancel_epoch(self, learn: Learner) -> None:
        """Allows the metric to be missing."""
        self._cancelled = True

    def measured(self, learn: Learner, monitor: str) -> float | None:
        """Returns the metric of the last epoch; `None` if a cancel prevented its measurement.

        Raises:
            LookupError: if the epoch was complete but the metric was not recorded; the message
                lists the recorded metrics.
        """
        cancelled, self._cancelled = self._cancelled, False
        return (
            None
            if cancelled and monitor not in learn.recorder.row
            else learn.recorder.last(monitor)
        )


class MonitorCallback(MeasuredCallback):
    """Base class of callbacks that monitor one recorded metric; subclasses override `act`.

    Decisions depend only on the rows of the `Recorder`. The callback therefore has no state of its
    own and is correct after a resume. Epochs that were cancelled before the metric was measured are
    skipped.

    Args:
        monitor: name of the recorded metric.
        mode: `"min"` or `"max"`; `None` infers it from the name (see `mode_of`).
        min_delta: minimum change that counts as an improvement, in units of the metric.

    Raises:
        ValueError: if `mode` is unknown or `min_delta` is negative.
        LookupError: after an epoch without the metric; the message lists the recorded metrics.
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
        """Acts after an epoch, `wait` epochs after the best one (0: this epoch is the best so far).

        Override it in a subclass.
        """

    def after_epoch(self, learn: Learner) -> None:
        """Acts on the metric, if it was measured."""
        if self.measured(learn, self.monitor) is not None:
            self.act(learn, self.wait(learn))

    def wait(self, learn: Learner) -> int:
        """Returns the number of epochs of this fit since the best one; 0 before the first epoch."""
        values = [row[self.monitor] for row in learn.recorder.rows if self.monitor in row]
        return epochs_since_best(values, self.mode, self.min_delta)


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
