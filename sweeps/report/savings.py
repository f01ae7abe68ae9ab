"""Estimates how much time pruning saved, and how often pruning was wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nntrain.sweeps.study.pruner import CONTROL


def seconds(trial: FrozenTrial) -> float:
    """Returns the duration of a trial in seconds; 0 if it has not ended."""
    return 0.0 if trial.duration is None else trial.duration.total_seconds()


def saved_s(trials: Sequence[FrozenTrial]) -> float:
    """Estimates the time that pruning saved, in seconds.

    The estimate assumes that, without pruning, each pruned trial would have run for the median
    duration of the completed trials.
    """
    whole = [seconds(trial) for trial in trials if trial.state is TrialState.COMPLETE]
    pruned = [seconds(trial) for trial in trials if trial.state is TrialState.PRUNED]
    return sum(max(median(whole) - one, 0.0) for one in pruned) if whole else 0.0


@dataclass(frozen=True)
class Controls:
    """The results of control trials: trials that continued against the pruner's decision.

    Attributes:
        n: the number of control trials that completed.
        n_wrong: the number of control trials in the best quarter of all completed trials.
        n_best: 1 if the best trial is a control trial, and 0 if not.
    """

    n: int
    n_wrong: int
    n_best: int


def controls(trials: Sequence[FrozenTrial], direction: str) -> Controls:
    """Counts how often pruning would have been wrong, according to the control trials."""
    sign = 1 if StudyDirection[direction.upper()] is StudyDirection.MINIMIZE else -1
    done = sorted(
        (one for one in trials if one.state is TrialState.COMPLETE and one.values),
        key=lambda one: sign * one.values[0],
    )
    ranks = [rank for rank, one in enumerate(done) if CONTROL in one.user_attrs]
    return Controls(len(ranks), sum(rank < len(done) / 4 for rank in ranks), ranks.count(0))
