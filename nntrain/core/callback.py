"""The base class of callbacks: one method for each event, and a check for misspelt ones."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar

from nntrain.config.hints import nearest
from nntrain.core.events import Event

if TYPE_CHECKING:
    from nntrain.learner import Learner

_EVENT_PREFIXES = ("before_", "after_", "cleanup_")


class Purpose(StrEnum):
    """What the loop runs for; a callback takes part in the runs of its `purposes`."""

    FIT = "fit"
    VALIDATE = "validate"
    PREDICT = "predict"
    LR_FIND = "lr_find"
    CHECK = "check"


class Callback:
    """Acts at events of the training loop: override the methods of these events.

    Each method receives the learner. Callbacks act by rising `order`, then in the order in which
    they were added. The orders in use:

    ====  =================================================================
    -60   the event trace
    -50   device placement, then casting
    -10   train/eval mode and counters
      0   your own
     10   changes of the loss and its gradient: scaling, accumulation, clipping
     50   `Recorder`, which reads the metrics
     60   schedules
     70   actions on a metric, such as saving the best model
     80   checkpoints
     90   progress, then trackers, after everything is recorded
    100   stopping, after all others have seen the batch or epoch
    ====  =================================================================

    `purposes` lists the runs of the loop in which the callback takes part: all of them for one that
    changes batches, only `Purpose.FIT` for one that saves or reports.

    Raises:
        TypeError: when a class is defined, if a method is called `before_*`, `after_*` or
            `cleanup_*` but is not an event.
    """

    order: ClassVar[int] = 0
    purposes: ClassVar[frozenset[Purpose]] = frozenset(Purpose)
    only_watches: ClassVar[bool] = False
    """Whether training is the same without it; it may then be added or removed on resume."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        events = [event.value for event in Event]
        for name in dir(cls):
            if name.startswith(_EVENT_PREFIXES) and name not in events:
                prefixes = ", ".join(_EVENT_PREFIXES)
                raise TypeError(
                    f"{cls.__name__}.{name} is not an event: {nearest(name, events)} "
                    f"(A helper method needs a name that does not start with {prefixes}.)"
                )

    def state_dict(self) -> dict[str, Any]:
        """Returns the state for a checkpoint: tensors, numbers, strings, lists and dicts."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what `state_dict` returned."""

    def after_create(self, learn: Learner) -> None:
        """Called once, when the callback is added to `learn`."""

    def before_fit(self, learn: Learner) -> None:
        """Called before the first epoch."""

    def before_epoch(self, learn: Learner) -> None:
        """Called before each epoch."""

    def before_train(self, learn: Learner) -> None:
        """Called before the training part of an epoch."""

    def before_batch(self, learn: Learner) -> None:
        """Called when `learn.xb` and `learn.yb` hold a batch; a callback may change them here."""

    def after_pred(self, learn: Learner) -> None:
        """Called when `learn.pred` has been computed."""

    def after_loss(self, learn: Learner) -> None:
        """Called when `learn.loss` has been computed."""

    def before_backward(self, learn: Learner) -> None:
        """Called before the backward pass (training only)."""

    def after_cancel_backward(self, learn: Learner) -> None:
        """Called when the backward pass was cancelled."""

    def after_backward(self, learn: Learner) -> None:
        """Called when the gradients have been computed."""

    def before_step(self, learn: Learner) -> None:
        """Called before the optimizer step; a callback may change the gradients here."""

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
        """Called when the fit was cancelled; `learn.result` has the reason."""

    def after_fit(self, learn: Learner) -> None:
        """Called after the last epoch, or after the fit was cancelled."""

    def cleanup_fit(self, learn: Learner) -> None:
        """Called last and always, in reverse order; `learn.result` has the reason of the end."""


def handles(callback: Callback, event: Event) -> bool:
    """Returns whether the callback's class overrides the method of an event."""
    return getattr(type(callback), event.value) is not getattr(Callback, event.value)
