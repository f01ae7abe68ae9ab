"""Finds the best trials of a study."""

from __future__ import annotations

from collections.abc import Sequence

from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nntrain.sweeps.spec.plan import SweepPlan


def best_trials(plan: SweepPlan, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Returns the best completed trial, or the Pareto front if there are several objectives."""
    done = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    signs = [
        1 if StudyDirection[direction.upper()] is StudyDirection.MINIMIZE else -1
        for direction in plan.directions
    ]
    costs = {
        trial.number: [sign * value for sign, value in zip(signs, trial.values, strict=True)]
        for trial in done
    }
    if len(signs) == 1:
        return [min(done, key=lambda trial: (costs[trial.number], trial.number))] if done else []
    return [
        one
        for one in done
        if not any(_dominates(costs[other.number], costs[one.number]) for other in done)
    ]


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    return list(one) != list(other) and all(
        mine <= theirs for mine, theirs in zip(one, other, strict=True)
    )


def best_text(plan: SweepPlan, trials: Sequence[FrozenTrial]) -> str:
    """Describes the best trial or the Pareto front; empty if no trial has completed."""
    best = best_trials(plan, trials)
    if not best:
        return ""
    if len(plan.directions) > 1:
        return f"{len(best)} trial{'s' * (len(best) != 1)} on the Pareto front"
    return f"{best[0].values[0]:.6g} (trial {best[0].number})"
