"""How a fit ended: the reason, the result, and the exit code of the process. Imports nothing beyond the standard library."""

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class StopReason(StrEnum):
    """Why a fit ended, decided once where it was stopped and read by trackers, sweeps and the exit code."""

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
    """The exit code that stands for a reason: 0 for a result, 128 and the signal for an interruption, else 1."""
    if reason is StopReason.INTERRUPTED:
        return 128 + (signum or signal.SIGINT)
    return 1 if reason in _FAILED else 0


@dataclass(frozen=True, slots=True)
class FitResult:
    """How a fit ended: the reason, a message for people, and the last epoch's metrics.

    `n_epoch` counts the epochs that were finished, `train_iter` the training batches that were seen, `signum` is the
    signal that interrupted the fit, if one did, and `traceback` the text of that of an exception which ended it.
    """

    reason: StopReason
    message: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    n_epoch: int = 0
    train_iter: int = 0
    signum: signal.Signals | None = None
    traceback: str = field(default="", repr=False)
