"""The trial that this process runs, where a job finds it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from optuna import Trial

    from nntrain.result import FitResult

TRACKED_RUN = "nntrain.run"
"""The name by which machines know the run that a tracker keeps of a trial."""


class Pruning(Protocol):
    """Takes what a trial has reached, and says whether to go on."""

    @property
    def monitor(self) -> str | None:
        """The metric to report; `None` leaves it to the job, which says nothing."""

    @property
    def every(self) -> int | None:
        """Training batches between two reports; `None` reports each epoch."""

    def report(self, value: float, step: int) -> None:
        """Takes the value at a step."""

    def verdict(self) -> str | None:
        """Why the trial is to stop, asked once after each report; `None` if it is to go on."""


@dataclass
class Running:
    """The trial in progress: what it chooses from, what decides about it, and how its last fit ended.

    `resume_from` is the folder of the trial that was interrupted and that this one goes on with, `study` the name by which
    machines know the study.
    """

    trial: Trial
    pruning: Pruning | None = None
    resume_from: Path | None = None
    study: str = ""
    study_name: str = ""
    result: FitResult | None = None


_RUNNING: list[Running] = []


def current_trial() -> Trial | None:
    """The Optuna trial that this process runs, for a job to report to or to raise `optuna.TrialPruned` from; else `None`."""
    return _RUNNING[-1].trial if _RUNNING else None


def running() -> Running | None:
    """The same with what the sweep knows of it."""
    return _RUNNING[-1] if _RUNNING else None


@contextmanager
def trial_runs(one: Running) -> Iterator[None]:
    """Makes a trial the current one."""
    _RUNNING.append(one)
    try:
        yield
    finally:
        _RUNNING.remove(one)
