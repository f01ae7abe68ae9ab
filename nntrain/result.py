"""The result of a fit: why it ended, its metrics, and the exit code of the process.

This module imports only the standard library.
"""

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class StopReason(StrEnum):
    """Why a fit ended; determines the exit code, the trial state and the run status in trackers."""

    COMPLETED = "completed"
    EARLY_STOPPED = "early_stopped"
    BUDGET = "budget"
    PRUNED = "pruned"
    DIVERGED = "diverged"
    INTERRUPTED = "interrupted"
    ERROR = "error"
    OUT_OF_MEMORY = "out_of_memory"


_FAILED = (StopReason.DIVERGED, StopReason.ERROR, StopReason.OUT_OF_MEMORY)


def exit_code(reason: StopReason, signum: int | None = None) -> int:
    """Returns the exit code: 0 for success, 1 for failure, 128 + `signum` for an interrupt."""
    if reason is StopReason.INTERRUPTED:
        return 128 + (signum or signal.SIGINT)
    return 1 if reason in _FAILED else 0


@dataclass(frozen=True, slots=True)
class FitResult:
    """The result of a fit.

    Attributes:
        reason: why the fit ended.
        message: explanation for the user; may be empty.
        metrics: the metrics of the last epoch.
        n_epoch: number of finished epochs.
        train_iter: number of training batches of the learner, over all fits.
        signum: the signal that interrupted the fit, if any.
        traceback: the formatted traceback of the exception that ended the fit; may be empty.
    """

    reason: StopReason
    message: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    n_epoch: int = 0
    train_iter: int = 0
    signum: signal.Signals | None = None
    traceback: str = field(default="", repr=False)
