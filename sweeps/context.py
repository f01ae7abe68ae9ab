"""The trial that this process is running: how a job finds it, and how it reports to the pruner.

This module and `pruning` are what a training job imports; they load neither Optuna nor Hydra.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from optuna import Trial

    from nntrain.result import FitResult

BATCH_METRICS = ("batch/loss", "batch/loss_smooth")
"""The metrics that can be reported between epochs: the last batch's loss, and its running mean."""


class Pruner(Protocol):
    """Receives the intermediate values of one trial and decides whether the trial continues."""

    @property
    def monitor(self) -> str | None:
        """The metric to report; `None` if the job reports by itself."""

    @property
    def every(self) -> int | None:
        """The number of training batches between two reports; `None` means one per epoch."""

    def report(self, value: float, step: int) -> None:
        """Records the value of the metric at a step."""

    def prune_reason(self) -> str | None:
        """Returns why the trial must stop, or `None` if it continues; call it once per report."""


@dataclass
class TrialContext:
    """The running trial and what the sweep knows about it.

    Attributes:
        trial: the Optuna trial.
        pruner: decides whether the trial continues; `None` if nothing can prune it.
        resume_from: the folder of the interrupted trial that this one continues.
        study_uid: the uid of the study's run in the trackers.
        study_name: the name of the study.
        fit: how the last fit of the job ended, recorded by `PruningCallback`.
    """

    trial: Trial
    pruner: Pruner | None = None
    resume_from: Path | None = None
    study_uid: str = ""
    study_name: str = ""
    fit: FitResult | None = None


_ACTIVE: list[TrialContext] = []


def current_trial() -> Trial | None:
    """Returns the Optuna trial that this process is running; `None` outside a sweep.

    A job reports intermediate values to it, and may raise `optuna.TrialPruned`.
    """
    return _ACTIVE[-1].trial if _ACTIVE else None


def trial_context() -> TrialContext | None:
    """Returns the running trial with what the sweep knows about it; `None` outside a sweep."""
    return _ACTIVE[-1] if _ACTIVE else None


@contextmanager
def active_trial(context: TrialContext) -> Iterator[None]:
    """Makes a trial the current one for the duration of a `with` block."""
    _ACTIVE.append(context)
    try:
        yield
    finally:
        _ACTIVE.remove(context)


def check_every(monitor: str | None, every: int | None) -> None:
    """Checks that a metric can be reported every `every` batches.

    Raises:
        ValueError: if `every` is less than 1, or the metric is measured once per epoch.
    """
    if every is not None and every < 1:
        raise ValueError(
            f"every={every} must be at least 1: it is the number of training batches between two "
            "reports."
        )
    if every is not None and monitor is not None and monitor not in BATCH_METRICS:
        raise ValueError(
            f"{monitor} is measured once per epoch and cannot be reported every {every} batches: "
            f"remove this setting, or report one of {', '.join(BATCH_METRICS)}."
        )
