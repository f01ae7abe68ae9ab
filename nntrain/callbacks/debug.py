"""Callbacks for debugging: shortened epochs and an event log."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from nntrain.core.callback import Callback, Purpose
from nntrain.core.events import CancelTrainException, CancelValidException, Event

if TYPE_CHECKING:
    from nntrain.learner import Learner

_log = logging.getLogger(__name__)


class ShortEpoch(Callback):
    """Limits training and validation to `n_batch` batches per epoch, for a quick test.

    Args:
        n_batch: maximum number of training batches, and of validation batches, in an epoch.

    Raises:
        ValueError: if `n_batch` is less than 1.
    """

    order: ClassVar[int] = 100
    purposes: ClassVar[frozenset[Purpose]] = frozenset({Purpose.FIT})

    def __init__(self, n_batch: int) -> None:
        if n_batch < 1:
            raise ValueError(
                f"n_batch={n_batch} must be at least 1: it limits the number of training batches, "
                "and of validation batches, in an epoch."
            )
        self.n_batch = n_batch

    def after_batch(self, learn: Learner) -> None:
        """Ends training or validation after `n_batch` batches."""
        if learn.iter + 1 < self.n_batch:
            return
        if learn.training:
            raise CancelTrainException(f"ShortEpoch limits training to {self.n_batch} batches.")
        raise CancelValidException(f"ShortEpoch limits validation to {self.n_batch} batches.")


class SingleBatch(ShortEpoch):
    """Runs one training batch and one validation batch per epoch, as a smoke test."""

    def __init__(self) -> None:
        super().__init__(n_batch=1)


class EventTrace(Callback):
    """Logs every event at level DEBUG, before any other callback handles the event.

    Example of a log message: `epoch 3 train_iter 17 after_loss`. The name of the logger is
    `nntrain.callbacks.debug`.
    """

    order: ClassVar[int] = -60


def _traced(event: Event) -> Callable[[EventTrace, Learner], None]:
    def log(self: EventTrace, learn: Learner) -> None:
        _log.debug("epoch %d train_iter %d %s", learn.epoch, learn.train_iter, event.value)

    log.__name__, log.__doc__ = event.value, f"Logs `{event.value}`."
    return log


for _event in Event:
    setattr(EventTrace, _event.value, _traced(_event))
