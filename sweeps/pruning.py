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
    """Reports a metric to the running trial, and cancels the fit if the trial should be pruned.

    After each report, the callback asks the pruner whether to stop. It does not ask after the last
    epoch, because the fit is already complete.

    A pruned fit ends like any other canceled fit: every callback cleans up. The reason in the
    `FitResult` is PRUNED, which determines the trial's state in Optuna and the run's status in the
    trackers. Outside a sweep, the callback does nothing.

    Args:
        monitor: name of the recorded metric; `None` uses the sweep's setting.
        every: training batches between two reports of a metric in `BATCH_METRICS`; `None` uses
            the sweep's setting. Other metrics are reported once per epoch.

    Raises:
        ValueError: if `every` is less than 1, or if `every` is set for a metric that is measured
            once per epoch.
        LookupError: if an epoch did not record the metric; the message lists the recorded
            metrics.
    """

    order: ClassVar[int] = 100
    purposes: ClassVar[frozenset[Purpose]] = frozenset({Purpose.FIT})
    only_watches: ClassVar[bool] = True

    def __init__(self, monitor: str | None = None, every: int | None = None) -> None:
        check_every(monitor, every)
        self.monitor, self.every = monitor, every
        self._context: TrialContext | None = None

    def before_fit(self, learn: Learner) -> None:
        """Looks up the running trial and the sweep's settings."""
        self._context = trial_context()
        if self._context is not None and (pruner := self._context.pruner) is not None:
            self._monitor = self.monitor or pruner.monitor
            self._every = self.every or pruner.every
        else:
            self._monitor, self._every = None, None
        self._smoother, self._n_seen = Smoother(), 0

    def after_batch(self, learn: Learner) -> None:
        """Reports a batch metric every `every` training batches."""
        if (
            self._monitor in BATCH_METRICS
            and learn.training
            and learn.train_iter % (self._every or 1) == 0
        ):
            self._pruner().report(self._loss(learn), learn.train_iter)
            self._stop_if_pruned()

    def _loss(self, learn: Learner) -> float:
        """Returns the latest training loss, raw or smoothed; synchronizes with the device."""
        losses, _ = learn.recorder.since(self._n_seen)
        self._n_seen = learn.recorder.n_batch
        smoothed = [self._smoother.add(loss) for loss in losses.tolist()]
        return smoothed[-1] if self._monitor == "batch/loss_smooth" else float(losses[-1])

    def after_epoch(self, learn: Learner) -> None:
        """Reports an epoch metric at the end of each epoch."""
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
        """Stores the result of the fit for the sweep."""
        if self._context is not None:
            self._context.fit = learn.result
            self._context = None
