"""The base class of callbacks: one declared method for each event, and a guard against misspelt ones."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar

from nntrain.core.events import Event

if TYPE_CHECKING:
    from nntrain.learner import Learner

_EVENT_PREFIXES = ("before_", "after_", "cleanup_")


class Purpose(StrEnum):
    """What the loop is run for; a callback takes part in those of its `purposes`."""

    FIT = "fit"
    VALIDATE = "validate"
    PREDICT = "predict"
    LR_FIND = "lr_find"
    CHECK = "check"


class Callback:
    """Acts at events of the training loop: override the method of that name, which takes the learner.

    `order` decides the sequence; equal orders keep the order of adding. The bands in use:

    ====  ==========================================================
    -60   the event trace
    -50   device placement, then casting
    -10   train/eval mode and counters
      0   your own
     10   the loss and its gradient: scaling, accumulation, clipping
     50   `Recorder`, which reads the metrics
     60   schedules
     70   what acts on a metric, and what saves the best
     80   checkpoints
     90   progress, then trackers, which see what all others recorded
    100   what stops, once all others have seen the batch or the epoch
    ====  ==========================================================

    `purposes` says in which runs of the loop the callback takes part: a callback that changes batches belongs in all, one
    that saves or reports only in `Purpose.FIT`.

    Raises:
        TypeError: at class creation, if a method is named `before_*`, `after_*` or `cleanup_*` and is no event.
    """

    order: ClassVar[int] = 0
    purposes: ClassVar[frozenset[Purpose]] = frozenset(Purpose)
    only_watches: ClassVar[bool] = False
    """Whether training does not depend on it, so that a fit may be resumed with it where it was not, or without it."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        events = [event.value for event in Event]
        for name in dir(cls):
            if name.startswith(_EVENT_PREFIXES) and name not in events:
                near = difflib.get_close_matches(name, events, n=1, cutoff=0.0)[0]
                raise TypeError(
                    f"{cls.__name__}.{name} is no event: did you mean {near!r}? "
                    f"(A helper method needs a name that does not start with {', '.join(_EVENT_PREFIXES)}.)"
                )

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of this callback: tensors, numbers, strings, and lists and dicts of them."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave."""

    def after_create(self, learn: Learner) -> None:
        """Called once, when the callback is added to `learn`."""

    def before_fit(self, learn: Learner) -> None:
        """Called before the first epoch."""

    def before_epoch(self, learn: Learner) -> None:
        """Called before each epoch."""

    def before_train(self, learn: Learner) -> None:
        """Called before the training part of an epoch."""

    def before_batch(self, learn: Learner) -> None:
        """Called when `learn.xb` and `learn.yb` hold a batch; change them here."""

    def after_pred(self, learn: Learner) -> None:
        """Called when `learn.pred` is computed."""

    def after_loss(self, learn: Learner) -> None:
        """Called when `learn.loss` is computed."""

    def before_backward(self, learn: Learner) -> None:
        """Called before the backward pass (training only)."""

    def after_cancel_backward(self, learn: Learner) -> None:
        """Called when the backward pass was cancelled."""

    def after_backward(self, learn: Learner) -> None:
        """Called when the gradients are computed."""

    def before_step(self, learn: Learner) -> None:
        """Called before the optimizer steps; the gradients may be changed here."""

    def after_cancel_step(self, learn: Learner) -> None:
        """Called when the optimizer step was cancelled."""

    def after_step(self, learn: Learner) -> None:
        """Called after the optimizer step, before the gradients are zeroed."""

    def after_cancel_batch(self, learn: Learner) -> None:
        """Called when a batch was cancelled."""

    def after_batch(self, learn: Learner) -> None:
        """Called after each batch."""

    def after_cancel_train(self, learn: Learner) -> None:
        """Called when the training part of an epoch was cancelled."""

    def after_train(self, learn: Learner) -> None:
        """Called after the training part of an epoch."""

    def before_validate(self, learn: Learner) -> None:
        """Called before the validation part of an epoch."""

    def after_cancel_validate(self, learn: Learner) -> None:
        """Called when the validation part of an epoch was cancelled."""

    def after_validate(self, learn: Learner) -> None:
        """Called after the validation part of an epoch."""

    def after_cancel_epoch(self, learn: Learner) -> None:
        """Called when an epoch was cancelled."""

    def after_epoch(self, learn: Learner) -> None:
        """Called after each epoch."""

    def after_cancel_fit(self, learn: Learner) -> None:
        """Called when the fit was cancelled; `learn.result` says why."""

    def after_fit(self, learn: Learner) -> None:
        """Called after the last epoch, or after the fit was cancelled."""

    def cleanup_fit(self, learn: Learner) -> None:
        """Called last, in reverse order, however the fit ended; `learn.result` says how."""


def handles(callback: Callback, event: Event) -> bool:
    """Whether the callback's class overrides the method of this event."""
    return getattr(type(callback), event.value) is not getattr(Callback, event.value)
