"""The callback that stops unpromising trials early."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from nntrain.callbacks.monitor import MeasuredCallback
from nntrain.core.callback import Purpose
from nntrain.core.events import CancelFitException
from nntrain.core.smoothing import Smoother
from nntrain.result import StopReason
from nntrain.sweeps.context import (
    BATCH_METRICS,
    Pruner,
    TrialContext,
    check_every,
    trial_context,
)

if TYPE_CHECKING:
    from nntrain.learner import Learner


class PruningCallback(MeasuredCallback):
    """Reports a metric to the running trial, and cancels the fit when the study's pruner says so.

    The callback asks the pruner once after each report, except after the last epoch, when there is
    no time left to save. A pruned fit ends like any other cancelled fit: every callback cleans up,
    and its `FitResult` has the reason PRUNED, from which Optuna's state and the status in the
    trackers follow. Outside a sweep the callback does nothing.

    Args:
        monitor: name of the recorded metric; `None` uses the sweep's setting.
        every: training batches between two reports, for the metrics in `BATCH_METRICS`; `None`
            uses the sweep's setting. Other metrics are reported once per epoch.

    Raises:
        ValueError: if `every` is less than 1, or given for a metric measured once per epoch.
        LookupError: after an epoch in which the metric was not recorded; the message lists the
            recorded metrics.
    """

    order: ClassVar[int] = 100
    purposes: ClassVar[frozenset[Purpose]] = frozenset({Purpose.FIT})
    only_watches: ClassVar[bool] = True

    def __init__(self, monitor: str | None = None, every: int | None = None) -> None:
        check_every(monitor, every)
        self.monitor, self.every = monitor, every
        self._context: TrialContext | None = None

    def before_fit(self, learn: Learner) -> None:
        """Finds the running trial."""
        self._context = trial_context()
        if self._context is not None and (pruner := self._context.pruner) is not None:
            self._monitor = self.monitor or pruner.monitor
            self._every = self.every or pruner.every
        else:
            self._monitor, self._every = None, None
        self._smoother, self._n_seen = Smoother(), 0

    def after_batch(self, learn: Learner) -> None:
        """Reports the loss every `every` training batches, if the metric is a batch metric."""
        if (
            self._monitor in BATCH_METRICS
            and learn.training
            and learn.train_iter % (self._every or 1) == 0
        ):
            self._pruner().report(self._loss(learn), learn.train_iter)
            self._stop_if_pruned()

    def _loss(self, learn: Learner) -> float:
        """Returns the last training loss, raw or smoothed; this synchronizes with the device."""
        losses, _ = learn.recorder.since(self._n_seen)
        self._n_seen = learn.recorder.n_batch
        smoothed = [self._smoother.add(loss) for loss in losses.tolist()]
        return smoothed[-1] if self._monitor == "batch/loss_smooth" else float(losses[-1])

    def after_epoch(self, learn: Learner) -> None:
        """Reports the metric of the epoch."""
        if self._monitor is None or self._monitor in BATCH_METRICS:
            return
        if (value := self.measured(learn, self._monitor)) is None:
            return
        self._pruner().report(value, learn.epoch + 1)
        if learn.epoch + 1 < learn.n_epoch:
            self._stop_if_pruned()

    def _pruner(self) -> Pruner:
        assert self._context is not None
        assert self._context.pruner is not None
        return self._context.pruner

    def _stop_if_pruned(self) -> None:
        if (why := self._pruner().prune_reason()) is not None:
            raise CancelFitException(why, reason=StopReason.PRUNED)

    def cleanup_fit(self, learn: Learner) -> None:
        """Records how the fit ended, for the sweep."""
        if self._context is not None:
            self._context.fit = learn.result
            self._context = None
