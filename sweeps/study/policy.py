"""When a sweep is over before it has all its trials: its time is up, or too much has failed."""

from __future__ import annotations

import time
from collections.abc import Iterable

from optuna.trial import FrozenTrial, TrialState

from nntrain.sweeps.spec.plan import SweepPlan
from nntrain.sweeps.study.outcome import FAILURES
from nntrain.sweeps.study.trials import OUTCOME, counted


def failures(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that failed for no reason of their configuration's: an error, a death, no end."""
    return [
        one
        for one in counted(trials)
        if one.state is TrialState.FAIL and one.user_attrs.get(OUTCOME) in FAILURES
    ]


def has_failed(plan: SweepPlan, trials: Iterable[FrozenTrial]) -> bool:
    """Whether more trials have failed than `max_failure_rate` of `n_trials`."""
    return len(failures(trials)) > plan.max_failure_rate * plan.n_trials


def is_over(plan: SweepPlan, trials: Iterable[FrozenTrial], began: float) -> bool:
    """Whether no further trial is to begin."""
    return (plan.timeout_s is not None and time.time() - began > plan.timeout_s) or has_failed(
        plan, trials
    )
