"""Stopping a trial that does not look promising: decided once, in training, by the study's pruner."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from nntrain.callbacks.monitor import MeasuredCallback
from nntrain.core.callback import Purpose
from nntrain.core.events import CancelFitException
from nntrain.recorder import Smoother
from nntrain.result import StopReason
from nntrain.sweeps.context import Pruning, Running, running

if TYPE_CHECKING:
    from nntrain.learner import Learner

BATCH_METRICS = ("batch/loss", "batch/loss_smooth")
"""What can be reported between epochs: the loss of the last batch, and its exponentially weighted mean."""


class PruningCallback(MeasuredCallback):
    """Reports a metric to the trial that runs, and stops the fit (PRUNED) when the study's pruner says so.

    The pruner is asked once after each report, but not after the last epoch, when there is nothing left to save. The answer
    ends the fit as any other cancel does, so that all callbacks clean up, and the reason is that of the `FitResult`, from
    which Optuna's state and the trackers' status follow. Outside a sweep it does nothing.

    Args:
        monitor: name of the metric, as it is recorded; `None` takes the sweep's own.
        every: training batches between two reports of the metrics in `BATCH_METRICS`; `None` takes the sweep's own, which
            for all other metrics is each epoch.

    Raises:
        ValueError: if `every` is less than 1, or given for a metric that is measured once an epoch.
        LookupError: after an epoch in which the metric was not recorded; the message lists what was.
    """

    order: ClassVar[int] = 100
    purposes: ClassVar[frozenset[Purpose]] = frozenset({Purpose.FIT})
    only_watches: ClassVar[bool] = True

    def __init__(self, monitor: str | None = None, every: int | None = None) -> None:
        check_every(monitor, every)
        self.monitor, self.every = monitor, every
        self._running: Running | None = None

    def before_fit(self, learn: Learner) -> None:
        """Finds the trial."""
        self._running = running()
        if self._running is not None and (pruning := self._running.pruning) is not None:
            self._monitor, self._every = (
                self.monitor or pruning.monitor,
                self.every or pruning.every,
            )
        else:
            self._monitor, self._every = None, None
        self._smoother, self._n_seen = Smoother(), 0

    def after_batch(self, learn: Learner) -> None:
        """Reports the loss, where that is what is reported, every so many training batches."""
        if (
            self._monitor in BATCH_METRICS
            and learn.training
            and learn.train_iter % (self._every or 1) == 0
        ):
            self._pruning().report(self._loss(learn), learn.train_iter)
            self._ask()

    def _loss(self, learn: Learner) -> float:
        """The loss of the last training batch, or the smoothed one; this reads the device."""
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
        self._pruning().report(value, learn.epoch + 1)
        if learn.epoch + 1 < learn.n_epoch:
            self._ask()

    def _pruning(self) -> Pruning:
        assert self._running is not None
        assert self._running.pruning is not None
        return self._running.pruning

    def _ask(self) -> None:
        if (why := self._pruning().verdict()) is not None:
            raise CancelFitException(why, reason=StopReason.PRUNED)

    def cleanup_fit(self, learn: Learner) -> None:
        """Tells the sweep how the fit ended."""
        if self._running is not None:
            self._running.result = learn.result
            self._running = None


def check_every(monitor: str | None, every: int | None) -> None:
    """Checks that a metric can be reported every so many batches.

    Raises:
        ValueError: if it cannot.
    """
    if every is not None and every < 1:
        raise ValueError(
            f"every={every} must be at least 1: the training batches between two reports."
        )
    if every is not None and monitor is not None and monitor not in BATCH_METRICS:
        raise ValueError(
            f"{monitor} is measured once an epoch and cannot be reported every {every} batches: "
            f"leave that out, or report one of {', '.join(BATCH_METRICS)}."
        )
