"""The time that pruning saved equals values computed by hand, for trials of known duration."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from nntrain.sweeps.report.savings import Controls, controls, saved_s, seconds
from nntrain.sweeps.study.pruner import CONTROL

DONE, PRUNED, FAILED, RUNNING = (
    TrialState.COMPLETE,
    TrialState.PRUNED,
    TrialState.FAIL,
    TrialState.RUNNING,
)


def took(state: TrialState, duration_s: float) -> FrozenTrial:
    """Returns a trial with the given duration."""
    trial = create_trial(state=state, value=0.5 if state is DONE else None)
    trial.datetime_start = datetime(2026, 1, 1)
    trial.datetime_complete = (
        trial.datetime_start + timedelta(seconds=duration_s) if state is not RUNNING else None
    )
    return trial


@pytest.mark.parametrize(
    ("trials", "expected"),
    [
        ([], 0),
        ([took(PRUNED, 4)], 0),  # no completed trial to compare with
        ([took(DONE, 20)], 0),
        ([took(DONE, 20), took(PRUNED, 4)], 16),
        ([took(DONE, 20), took(PRUNED, 4), took(PRUNED, 5)], 16 + 15),
        ([took(DONE, 20), took(DONE, 8), took(PRUNED, 1)], 13),  # the median of 20 and 8 is 14
        ([took(DONE, 20), took(PRUNED, 30)], 0),  # never negative
        ([took(DONE, 20), took(FAILED, 4), took(RUNNING, 0)], 0),
    ],
)
def test_a_pruned_trial_saves_the_rest_of_the_median_duration(
    trials: list[FrozenTrial], expected: float
) -> None:
    assert saved_s(trials) == pytest.approx(expected)


def test_a_trial_that_has_not_ended_has_no_duration() -> None:
    assert seconds(took(DONE, 2.5)) == 2.5
    assert seconds(took(RUNNING, 2.5)) == 0


def ended(value: float, *, control: bool = False, state: TrialState = DONE) -> FrozenTrial:
    attrs = {CONTROL: 3} if control else {}
    return create_trial(state=state, value=value if state is DONE else None, user_attrs=attrs)


ORDINARY = [ended(value) for value in (2, 3, 4, 5, 6, 7)]


@pytest.mark.parametrize(
    ("trials", "direction", "expected"),
    [
        ([], "minimize", Controls(0, 0, 0)),
        (ORDINARY, "minimize", Controls(0, 0, 0)),
        # the control trial is the best of 8 trials, so it is in the best quarter
        ([*ORDINARY, ended(1, control=True), ended(8)], "minimize", Controls(1, 1, 1)),
        # second of 8
        ([*ORDINARY, ended(2.5, control=True), ended(8)], "minimize", Controls(1, 1, 0)),
        # third of 8
        ([*ORDINARY, ended(3.5, control=True), ended(8)], "minimize", Controls(1, 0, 0)),
        ([*ORDINARY, ended(1, control=True), ended(8)], "maximize", Controls(1, 0, 0)),
        (
            [*ORDINARY, ended(9, control=True), ended(8, control=True)],
            "maximize",
            Controls(2, 2, 1),
        ),
        (
            [*ORDINARY, ended(1, control=True), ended(8, control=True)],
            "minimize",
            Controls(2, 1, 1),
        ),
        ([*ORDINARY, ended(0, control=True, state=FAILED)], "minimize", Controls(0, 0, 0)),
        ([*ORDINARY, ended(0, control=True, state=PRUNED)], "minimize", Controls(0, 0, 0)),
        ([ended(1, control=True)], "minimize", Controls(1, 1, 1)),
    ],
)
def test_a_control_shows_whether_pruning_was_wrong(
    trials: list[FrozenTrial], direction: str, expected: Controls
) -> None:
    assert controls(trials, direction) == expected
