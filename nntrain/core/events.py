"""Events of the training loop, and exceptions that cancel parts of the loop."""

import signal
import sys
from dataclasses import dataclass
from enum import StrEnum

from nntrain.result import StopReason


class Event(StrEnum):
    """A point in the training loop; its value is the name of the `Callback` method called there.

    ::

        after_create                                  once, when the callback is added to a Learner
        fit
          before_fit
            for each epoch
              before_epoch
                before_train
                  for each training batch
                    before_batch
                      pred = predict();               after_pred
                      loss = get_loss();              after_loss
                      before_backward; backward();    after_backward
                      before_step;     step();        after_step
                      zero_grad()
                    after_batch
                after_train
                before_validate
                  for each validation batch
                    before_batch
                      pred = predict();               after_pred
                      loss = get_loss();              after_loss
                    after_batch
                after_validate
              after_epoch
          after_fit
          cleanup_fit                                 always, in reverse order

    A `CancelXException` ends X immediately. The loop then calls `after_cancel_X` and `after_X`.

    The names come from fastai (Howard and Gugger, 2020, https://arxiv.org/abs/2002.04688), except
    `cleanup_fit`, which comes from miniai.
    """

    AFTER_CREATE = "after_create"
    BEFORE_FIT = "before_fit"
    BEFORE_EPOCH = "before_epoch"
    BEFORE_TRAIN = "before_train"
    BEFORE_BATCH = "before_batch"
    AFTER_PRED = "after_pred"
    AFTER_LOSS = "after_loss"
    BEFORE_BACKWARD = "before_backward"
    AFTER_CANCEL_BACKWARD = "after_cancel_backward"
    AFTER_BACKWARD = "after_backward"
    BEFORE_STEP = "before_step"
    AFTER_CANCEL_STEP = "after_cancel_step"
    AFTER_STEP = "after_step"
    AFTER_CANCEL_BATCH = "after_cancel_batch"
    AFTER_BATCH = "after_batch"
    AFTER_CANCEL_TRAIN = "after_cancel_train"
    AFTER_TRAIN = "after_train"
    BEFORE_VALIDATE = "before_validate"
    AFTER_CANCEL_VALIDATE = "after_cancel_validate"
    AFTER_VALIDATE = "after_validate"
    AFTER_CANCEL_EPOCH = "after_cancel_epoch"
    AFTER_EPOCH = "after_epoch"
    AFTER_CANCEL_FIT = "after_cancel_fit"
    AFTER_FIT = "after_fit"
    CLEANUP_FIT = "cleanup_fit"


def reason_of(err: BaseException) -> StopReason:
    """Returns the stop reason for an exception that is not a cancel exception."""
    if isinstance(err, KeyboardInterrupt):
        return StopReason.INTERRUPTED
    # looks the modules up in sys.modules to avoid importing them
    torch, optuna = sys.modules.get("torch"), sys.modules.get("optuna")
    if isinstance(err, MemoryError) or (
        torch is not None and isinstance(err, torch.OutOfMemoryError)
    ):
        return StopReason.OUT_OF_MEMORY
    if optuna is not None and isinstance(err, optuna.TrialPruned):
        return StopReason.PRUNED
    return StopReason.ERROR


class CancelException(Exception):
    """Base class of exceptions that cancel a part of the loop. Raise a subclass in a callback."""

    def __init__(
        self,
        message: str = "",
        *,
        reason: StopReason = StopReason.EARLY_STOPPED,
        signum: signal.Signals | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.signum = signum


class CancelFitException(CancelException):
    """Ends the fit. The loop continues with `after_fit`; `reason` becomes `FitResult.reason`."""


class CancelEpochException(CancelException):
    """Ends this epoch, including validation. The loop continues with `after_epoch`."""


class CancelTrainException(CancelException):
    """Ends training in this epoch. The loop continues with `after_train` and validation."""


class CancelValidException(CancelException):
    """Ends validation in this epoch. The loop continues with `after_validate`."""


class CancelBatchException(CancelException):
    """Skips the rest of this batch. The loop continues with `after_batch`."""


class CancelBackwardException(CancelException):
    """Skips the backward pass. The loop continues with `after_backward`."""


class CancelStepException(CancelException):
    """Skips the optimizer step. The loop continues with `after_step` and zeroes the gradients."""


@dataclass(frozen=True, slots=True)
class Level:
    """A part of the loop that can be cancelled, with its events and its cancel exception."""

    before: Event
    after_cancel: Event
    after: Event
    cancel: type[CancelException]


FIT = Level(Event.BEFORE_FIT, Event.AFTER_CANCEL_FIT, Event.AFTER_FIT, CancelFitException)
EPOCH = Level(Event.BEFORE_EPOCH, Event.AFTER_CANCEL_EPOCH, Event.AFTER_EPOCH, CancelEpochException)
TRAIN = Level(Event.BEFORE_TRAIN, Event.AFTER_CANCEL_TRAIN, Event.AFTER_TRAIN, CancelTrainException)
VALIDATE = Level(
    Event.BEFORE_VALIDATE, Event.AFTER_CANCEL_VALIDATE, Event.AFTER_VALIDATE, CancelValidException
)
BATCH = Level(Event.BEFORE_BATCH, Event.AFTER_CANCEL_BATCH, Event.AFTER_BATCH, CancelBatchException)
BACKWARD = Level(
    Event.BEFORE_BACKWARD,
    Event.AFTER_CANCEL_BACKWARD,
    Event.AFTER_BACKWARD,
    CancelBackwardException,
)
STEP = Level(Event.BEFORE_STEP, Event.AFTER_CANCEL_STEP, Event.AFTER_STEP, CancelStepException)
