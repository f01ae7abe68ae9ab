"""Decides whether a sweep must end early, because of its time limit or failed trials."""

from __future__ import annotations

import time
from collections.abc import Iterable

from optuna.trial import FrozenTrial, TrialState

from nntrain.sweeps.spec.plan import SweepPlan
from nntrain.sweeps.study.outcome import FAILURES
from nntrain.sweeps.study.trials import OUTCOME, counted


def failures(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """Returns the trials that failed with one of the outcomes in `FAILURES`."""
    return [
        one
        for one in counted(trials)
        if one.state is TrialState.FAIL and one.user_attrs.get(OUTCOME) in FAILURES
    ]


def has_failed(plan: SweepPlan, trials: Iterable[FrozenTrial]) -> bool:
    """Returns whether more than `max_failure_rate * n_trials` trials have failed."""
    return len(failures(trials)) > plan.max_failure_rate * plan.n_trials


def is_over(plan: SweepPlan, trials: Iterable[FrozenTrial], began: float) -> bool:
    """Returns whether the sweep should stop starting trials.

    Args:
        plan: the plan of the sweep.
        trials: all trials of the study.
        began: the start of the sweep, in seconds since 1970.
    """
    is_out_of_time = plan.timeout_s is not None and time.time() - began > plan.timeout_s
    return is_out_of_time or has_failed(plan, trials)
