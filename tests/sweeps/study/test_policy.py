"""A sweep ends early after too many failures or too much time."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from nntrain.result import StopReason
from nntrain.sweeps.study.policy import failures, has_failed, is_over
from nntrain.sweeps.study.trials import DUPLICATE, OUTCOME, RETRY_OF
from tests.sweeps.small_app import make_plan


def ended(
    number: int,
    outcome: str | None,
    state: TrialState = TrialState.FAIL,
    retry_of: int | None = None,
) -> FrozenTrial:
    attrs = {} if outcome is None else {OUTCOME: outcome}
    attrs |= {} if retry_of is None else {RETRY_OF: retry_of}  # type: ignore[dict-item]
    trial = create_trial(
        state=state, value=1.0 if state is TrialState.COMPLETE else None, user_attrs=attrs
    )
    trial.number = number
    return trial


@pytest.mark.parametrize(
    ("outcome", "state", "expected"),
    [
        ("error", TrialState.FAIL, True),
        ("timeout", TrialState.FAIL, True),
        ("killed", TrialState.FAIL, True),
        ("out_of_memory", TrialState.FAIL, False),
        ("interrupted", TrialState.FAIL, False),
        (DUPLICATE, TrialState.FAIL, False),
        (None, TrialState.FAIL, False),
        ("diverged", TrialState.PRUNED, False),
        ("pruned", TrialState.PRUNED, False),
        ("completed", TrialState.COMPLETE, False),
    ],
)
def test_faults_are_failures_and_bad_configurations_are_not(
    outcome: str | None, state: TrialState, expected: bool
) -> None:
    assert bool(failures([ended(0, outcome, state)])) is expected


def test_a_failure_that_runs_again_does_not_count() -> None:
    assert (
        failures([ended(0, "killed"), ended(1, "completed", TrialState.COMPLETE, retry_of=0)]) == []
    )
    assert [
        one.number for one in failures([ended(0, "killed"), ended(1, "killed", retry_of=0)])
    ] == [1]


@pytest.mark.parametrize(
    ("n_failed", "rate", "n_trials", "expected"),
    [
        (0, 0.0, 10, False),
        (1, 0.0, 10, True),
        (2, 0.2, 10, False),
        (3, 0.2, 10, True),
        (10, 1.0, 10, False),
        (1, 0.2, 4, True),
        (1, 0.25, 4, False),
    ],
)
def test_a_sweep_stops_when_more_than_max_failure_rate_have_failed(
    n_failed: int, rate: float, n_trials: int, expected: bool, tmp_path: Path
) -> None:
    plan = make_plan(tmp_path, max_failure_rate=rate, n_trials=n_trials)
    trials = [ended(i, str(StopReason.ERROR)) for i in range(n_failed)]
    assert has_failed(plan, trials) is expected
    assert is_over(plan, trials, time.time()) is expected


@pytest.mark.parametrize(
    ("timeout_s", "ago_s", "expected"), [(None, 1e9, False), (1000, 1, False), (1000, 1001, True)]
)
def test_a_sweep_ends_at_its_time_limit(
    timeout_s: float | None, ago_s: float, expected: bool, tmp_path: Path
) -> None:
    assert is_over(make_plan(tmp_path, timeout_s=timeout_s), [], time.time() - ago_s) is expected
