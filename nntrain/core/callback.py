"""The base class of callbacks, with one method per event."""

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
    """Why the loop is running. A callback is only called if the purpose is in its `purposes`."""

    FIT = "fit"
    VALIDATE = "validate"
    PREDICT = "predict"
    LR_FIND = "lr_find"
    CHECK = "check"


class Callback:
    """Base class for callbacks. Override the methods of the events that you want to handle.

    Each method receives the learner. At each event, callbacks are called in ascending `order`;
    callbacks with the same `order` are called in the order in which they were added. nntrain
    uses these values:

    ====  =================================================================
    -60   the event trace
    -50   device placement, then casting
    -10   train/eval mode and counters
      0   the default, for your callbacks
     10   changes to the loss and gradients: scaling, accumulation, clipping
     50   `Recorder`, which computes the metrics
     60   hyper-parameter schedules
     70   actions that depend on a metric, such as saving the best model
     80   checkpoints
     90   progress display, then trackers
    100   early stopping, after all other callbacks have been called
    ====  =================================================================

    A loop calls only the callbacks that have the purpose of the loop in their `purposes`. Callbacks
    that change batches should have all purposes. Callbacks that save or report something should
    have only `Purpose.FIT`.

    Raises:
        TypeError: when a subclass is defined, if the name of a method starts with `before_`,
            `after_` or `cleanup_` but is not an event.
    """

    order: ClassVar[int] = 0
    purposes: ClassVar[frozenset[Purpose]] = frozenset(Purpose)
    only_watches: ClassVar[bool] = False
    """Whether the callback does not affect training. If set, a resumed run may add or remove it."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        events = [event.value for event in Event]
        for name in dir(cls):
            if name.startswith(_EVENT_PREFIXES) and name not in events:
                prefixes = ", ".join(_EVENT_PREFIXES)
                raise TypeError(
                    f"{cls.__name__}.{name} is not an event: {nearest(name, events)} "
                    f"(The name of a helper method must not start with {prefixes}.)"
                )

    def state_dict(self) -> dict[str, Any]:
        """Returns the state to save in a checkpoint: tensors, numbers, strings, lists and dicts."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the state returned by `state_dict`."""

    def after_create(self, learn: Learner) -> None:
        """Called once, when the callback is added to `learn`."""

    def before_fit(self, learn: Learner) -> None:
        """Called before the first epoch."""

    def before_epoch(self, learn: Learner) -> None:
        """Called before each epoch."""

    def before_train(self, learn: Learner) -> None:
        """Called before the training part of an epoch."""

    def before_batch(self, learn: Learner) -> None:
        """Called before each forward pass; may change the batch in `learn.xb` and `learn.yb`."""

    def after_pred(self, learn: Learner) -> None:
        """Called after the forward pass has set `learn.pred`."""

    def after_loss(self, learn: Learner) -> None:
        """Called after the loss function has set `learn.loss`."""

    def before_backward(self, learn: Learner) -> None:
        """Called before the backward pass (training only)."""

    def after_cancel_backward(self, learn: Learner) -> None:
        """Called after the backward pass was cancelled."""

    def after_backward(self, learn: Learner) -> None:
        """Called after the backward pass."""

    def before_step(self, learn: Learner) -> None:
        """Called before the optimizer step; may change the gradients."""

    def after_cancel_step(self, learn: Learner) -> None:
        """Called after the optimizer step was cancelled."""

    def after_step(self, learn: Learner) -> None:
        """Called after the optimizer step, before the gradients are zeroed."""

    def after_cancel_batch(self, learn: Learner) -> None:
        """Called after a batch was cancelled."""

    def after_batch(self, learn: Learner) -> None:
        """Called after each batch."""

    def after_cancel_train(self, learn: Learner) -> None:
        """Called after the training part of an epoch was cancelled."""

    def after_train(self, learn: Learner) -> None:
        """Called after the training part of an epoch."""

    def before_validate(self, learn: Learner) -> None:
        """Called before the validation part of an epoch."""

    def after_cancel_validate(self, learn: Learner) -> None:
        """Called after the validation part of an epoch was cancelled."""

    def after_validate(self, learn: Learner) -> None:
        """Called after the validation part of an epoch."""

    def after_cancel_epoch(self, learn: Learner) -> None:
        """Called after an epoch was cancelled."""

    def after_epoch(self, learn: Learner) -> None:
        """Called after each epoch."""

    def after_cancel_fit(self, learn: Learner) -> None:
        """Called after the fit was cancelled; `learn.result.reason` says why."""

    def after_fit(self, learn: Learner) -> None:
        """Called after the last epoch, or after `after_cancel_fit`."""

    def cleanup_fit(self, learn: Learner) -> None:
        """Called at the end of every fit, even after an error, in reverse callback order."""


def handles(callback: Callback, event: Event) -> bool:
    """Returns whether the callback overrides the method of an event."""
    return getattr(type(callback), event.value) is not getattr(Callback, event.value)
