"""Gives a training job access to its Optuna trial and to the pruner.

Training jobs import only this module and `pruning`. Neither module imports Optuna or Hydra.
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
"""Metrics that can be reported during an epoch: the loss of a batch, and its running mean."""


class Pruner(Protocol):
    """Receives the intermediate values of one trial and decides whether the trial continues."""

    @property
    def monitor(self) -> str | None:
        """The metric to report; `None` if the job calls `Trial.report` itself."""

    @property
    def every(self) -> int | None:
        """The number of training batches between two reports; `None` reports once per epoch."""

    def report(self, value: float, step: int) -> None:
        """Records the value of the metric at a step."""

    def prune_reason(self) -> str | None:
        """Returns why the trial must stop, or `None` if the trial continues.

        Call this method once after each report.
        """


@dataclass
class TrialContext:
    """The running trial, and the information that the sweep passes to its job.

    Attributes:
        trial: the Optuna trial.
        pruner: decides whether the trial continues; `None` if the trial cannot be pruned.
        resume_from: the folder of the interrupted trial that this trial continues; `None` for a
            new trial.
        study_uid: the unique ID of the study's run in the trackers.
        study_name: the name of the study.
        fit: the result of the job's last fit, recorded by `PruningCallback`.
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

    A job can report intermediate values to the trial and raise `optuna.TrialPruned` to stop
    early.
    """
    return _ACTIVE[-1].trial if _ACTIVE else None


def trial_context() -> TrialContext | None:
    """Returns the context of the running trial; `None` outside a sweep."""
    return _ACTIVE[-1] if _ACTIVE else None


@contextmanager
def active_trial(context: TrialContext) -> Iterator[None]:
    """Sets the current trial for the duration of a `with` block."""
    _ACTIVE.append(context)
    try:
        yield
    finally:
        _ACTIVE.remove(context)


def check_every(monitor: str | None, every: int | None) -> None:
    """Checks that a metric can be reported every `every` training batches.

    Raises:
        ValueError: if `every` is less than 1, or if the metric is measured only once per epoch.
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
