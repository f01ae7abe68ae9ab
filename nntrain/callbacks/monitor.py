"""What callbacks that follow a metric share: which way it improves, and for how long it has not."""

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
    """`"min"` for a metric that has loss, error, mse, rmse, mae, perplexity or time as a word of its name, else `"max"`."""
    return "min" if _SMALLER_IS_BETTER & set(re.split(r"[^a-z]+", monitor.lower())) else "max"


def epochs_since_best(values: Iterable[float], mode: Mode, min_delta: float = 0.0) -> int:
    """How many values follow the best one; 0 where the last value is a new best.

    A value is a new best if it improves on the best so far by more than `min_delta`. NaN and infinities never do, and
    the first finite value always does. The comparison is that of fastai's `TrackerCallback`.
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
    """Acts on a metric of each epoch; one in which something was cancelled before it was measured counts as no epoch."""

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
        """The metric of the epoch that has ended; `None` where it was cut short before it was measured.

        Raises:
            LookupError: if it was not recorded otherwise; the message lists what was.
        """
        cancelled, self._cancelled = self._cancelled, False
        return (
            None
            if cancelled and monitor not in learn.recorder.row
            else learn.recorder.last(monitor)
        )


class MonitorCallback(MeasuredCallback):
    """Follows one recorded metric over the epochs of a fit; subclasses say what to do in `act`.

    What it decides follows from the rows of the `Recorder` alone, so it has no state of its own and is right after a
    resume. An epoch in which something was cancelled before the metric was measured counts as no epoch.

    Args:
        monitor: name of the metric, as it is recorded.
        mode: `"min"` or `"max"`; `None` tells it from the name (see `mode_of`).
        min_delta: an improvement must be larger than this, in the unit of the metric.

    Raises:
        ValueError: if the mode is another, or `min_delta` is negative.
        LookupError: after an epoch in which the metric was not recorded; the message lists what was.
    """

    order: ClassVar[int] = 70
    purposes: ClassVar[frozenset[Purpose]] = frozenset({Purpose.FIT})

    def __init__(self, monitor: str, mode: Mode | None, min_delta: float) -> None:
        if mode not in (None, "min", "max"):
            raise ValueError(
                f"{type(self).__name__} got mode={mode!r}: choose min or max, or None to tell it from the name."
            )
        if not min_delta >= 0:
            raise ValueError(
                f"{type(self).__name__} got min_delta={min_delta}: it must be at least 0, in either mode."
            )
        self.monitor, self.min_delta = monitor, min_delta
        self.mode: Mode = mode or mode_of(monitor)

    def act(self, learn: Learner, wait: int) -> None:
        """For subclasses: what to do after an epoch, `wait` epochs after the best one (0: this is the best so far)."""

    def after_epoch(self, learn: Learner) -> None:
        """Acts on the metric, if it was measured."""
        if self.measured(learn, self.monitor) is not None:
            self.act(learn, self.wait(learn))

    def wait(self, learn: Learner) -> int:
        """How many epochs of this fit followed the best one; 0 before the first."""
        values = [row[self.monitor] for row in learn.recorder.rows if self.monitor in row]
        return epochs_since_best(values, self.mode, self.min_delta)


def checked_patience(patience: int) -> int:
    """The number of epochs to wait for an improvement.

    Raises:
        ValueError: if it is less than 1.
    """
    if patience < 1:
        raise ValueError(
            f"patience={patience} must be at least 1: the number of epochs to wait for an improvement."
        )
    return patience
