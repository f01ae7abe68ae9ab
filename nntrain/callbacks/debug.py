"""Debugging callbacks: short epochs and a log of all events."""

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
    """Ends training and validation after `n_batch` batches of each epoch, to try the code quickly.

    Args:
        n_batch: number of batches in each part of an epoch.

    Raises:
        ValueError: if `n_batch` is less than 1.
    """

    order: ClassVar[int] = 100
    purposes: ClassVar[frozenset[Purpose]] = frozenset({Purpose.FIT})

    def __init__(self, n_batch: int) -> None:
        if n_batch < 1:
            raise ValueError(
                f"n_batch={n_batch} must be at least 1: it is the number of batches in each part "
                "of an epoch."
            )
        self.n_batch = n_batch

    def after_batch(self, learn: Learner) -> None:
        """Ends this part of the epoch after `n_batch` batches."""
        if learn.iter + 1 < self.n_batch:
            return
        if learn.training:
            raise CancelTrainException(f"The epoch is cut to {self.n_batch} training batches.")
        raise CancelValidException(f"The epoch is cut to {self.n_batch} validation batches.")


class SingleBatch(ShortEpoch):
    """Runs one training and one validation batch per epoch, to check that everything works."""

    def __init__(self) -> None:
        super().__init__(n_batch=1)


class EventTrace(Callback):
    """Logs every event at level DEBUG before other callbacks act on it.

    A line reads `epoch 3 train_iter 17 after_loss`. The logger is `nntrain.callbacks.debug`.
    """

    order: ClassVar[int] = -60


def _traced(event: Event) -> Callable[[EventTrace, Learner], None]:
    def log(self: EventTrace, learn: Learner) -> None:
        _log.debug("epoch %d train_iter %d %s", learn.epoch, learn.train_iter, event.value)

    log.__name__, log.__doc__ = event.value, f"Logs `{event.value}`."
    return log


for _event in Event:
    setattr(EventTrace, _event.value, _traced(_event))
