"""How a fit ended: the reason, the result, and the exit code of the process.

This module imports only the standard library.
"""

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class StopReason(StrEnum):
    """Why a fit ended; trackers, sweeps and the exit code all follow it."""

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
    """Returns the exit code for a reason: 0 for success, 128 + signal for an interrupt, else 1."""
    if reason is StopReason.INTERRUPTED:
        return 128 + (signum or signal.SIGINT)
    return 1 if reason in _FAILED else 0


@dataclass(frozen=True, slots=True)
class FitResult:
    """How a fit ended: the reason, a message for people, and the metrics of the last epoch.

    `n_epoch` counts finished epochs, `train_iter` the training batches of the learner. `signum` is
    the signal that interrupted the fit, `traceback` the text of the exception that ended it.
    """

    reason: StopReason
    message: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    n_epoch: int = 0
    train_iter: int = 0
    signum: signal.Signals | None = None
    traceback: str = field(default="", repr=False)
