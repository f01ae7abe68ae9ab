"""What pruning has saved, and how often it was wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nntrain.sweeps.study.pruner import CONTROL


def seconds(trial: FrozenTrial) -> float:
    """How long a trial has taken, in seconds; 0 if it has not ended."""
    return 0.0 if trial.duration is None else trial.duration.total_seconds()


def saved_s(trials: Sequence[FrozenTrial]) -> float:
    """An estimate of the trial-seconds that pruning has saved.

    A pruned trial would have taken as long as the median of those that completed. What a trial takes to begin is in both.
    """
    whole = [seconds(trial) for trial in trials if trial.state is TrialState.COMPLETE]
    pruned = [seconds(trial) for trial in trials if trial.state is TrialState.PRUNED]
    return sum(max(median(whole) - one, 0.0) for one in pruned) if whole else 0.0


@dataclass(frozen=True)
class Controls:
    """Trials that the pruner would have stopped and that were let run on.

    `n` is how many completed, `n_wrong` how many of them came out among the best quarter of all trials that completed,
    `n_best` how many came out best of all.
    """

    n: int
    n_wrong: int
    n_best: int


def controls(trials: Sequence[FrozenTrial], direction: str) -> Controls:
    """How often pruning was wrong, as far as the controls tell."""
    sign = 1 if StudyDirection[direction.upper()] is StudyDirection.MINIMIZE else -1
    done = sorted(
        (one for one in trials if one.state is TrialState.COMPLETE and one.values),
        key=lambda one: sign * one.values[0],
    )
    ranks = [rank for rank, one in enumerate(done) if CONTROL in one.user_attrs]
    return Controls(len(ranks), sum(rank < len(done) / 4 for rank in ranks), ranks.count(0))
