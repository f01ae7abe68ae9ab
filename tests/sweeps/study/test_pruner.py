"""The pruner of a trial: decisions, a separate pruning metric, control trials, and messages."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna import Trial
from optuna.trial import TrialState

from nntrain.core.events import CancelFitException
from nntrain.result import StopReason
from nntrain.sweeps.spec.plan import SweepPlan
from nntrain.sweeps.study.opening import REPORTS_SUFFIX, open_study
from nntrain.sweeps.study.pruner import CONTROL, StudyPruner, end_reports
from nntrain.sweeps.study.trials import SweepStudy
from tests.sweeps.small_app import PRUNERS, make_plan

THRESHOLD = {**PRUNERS["threshold"], "upper": 1.0}
"""Prunes values above 1."""


def study_pruner(folder: Path, **options: Any) -> tuple[StudyPruner, SweepStudy, SweepPlan]:
    plan = make_plan(folder, **({"pruner": THRESHOLD} | options))
    study, storage = open_study(plan)
    return StudyPruner(plan, study, storage), study, plan


def reasons(made: StudyPruner, trial: Trial, *values: float) -> list[str | None]:
    """Reports the values to the pruner; returns the reason to prune after each report."""
    pruner = made.of(trial)
    assert pruner is not None
    found = []
    for step, value in enumerate(values, 1):
        pruner.report(value, step)
        found.append(pruner.prune_reason())
    return found


def test_the_reason_to_prune_is_given_once(tmp_path: Path) -> None:
    made, study, _ = study_pruner(tmp_path)
    good, bad, again = reasons(made, study.ask(), 0.5, 2.0, 3.0)
    assert good is None
    assert bad == "valid/loss=2 at step 2, ThresholdPruner; no other trial reached this step"
    assert again is None


def test_the_reason_has_the_values_of_other_trials(tmp_path: Path) -> None:
    made, study, _ = study_pruner(tmp_path)
    for values in ((0.5, 0.25), (0.75, 0.5), (0.5,), (0.125, 0.125)):
        trial = study.ask()
        reasons(made, trial, *values)
        study.tell(trial, values[-1])
    found = reasons(made, study.ask(), 0.5, 2.0)
    assert found == [
        None,
        "valid/loss=2 at step 2, ThresholdPruner; "
        "3 other trials had values from 0.125 to 0.5, median 0.25",
    ]


def is_control(name: str, number: int, fraction: float) -> bool:
    return random.Random(f"{name}/{number}").random() < fraction


@pytest.mark.parametrize(("fraction", "n"), [(0.0, 0), (0.25, None), (1.0, 40)])
def test_a_fraction_of_the_trials_are_controls_that_are_not_stopped(
    fraction: float, n: int | None, tmp_path: Path
) -> None:
    made, study, plan = study_pruner(tmp_path, control_fraction=fraction)
    found = []
    for number in range(40):
        trial = study.ask()
        continues = reasons(made, trial, 0.5, 2.0, 3.0) == [None] * 3
        assert continues is is_control(plan.study_name, number, fraction)
        assert trial.user_attrs == ({CONTROL: 2} if continues else {})
        study.tell(trial, 3.0)
        found.append(continues)
    assert n is None or sum(found) == n
    assert n is not None or 4 <= sum(found) <= 16  # about a quarter of 40


def test_a_promising_trial_is_not_marked_as_a_control(tmp_path: Path) -> None:
    made, study, _ = study_pruner(tmp_path, control_fraction=1.0)
    trial = study.ask()
    assert reasons(made, trial, 0.5, 0.25) == [None, None]
    assert trial.user_attrs == {}


# --- a metric that is not the objective

OTHER = {"monitor": "valid/accuracy", "monitor_direction": "maximize"}
BELOW = {**PRUNERS["threshold"], "lower": 0.5}
SEVERAL = {"directions": ["minimize", "maximize"], "objectives": ["valid/loss", "valid/accuracy"]}


@pytest.mark.parametrize(
    "options", [OTHER, OTHER | SEVERAL], ids=["one objective", "several objectives"]
)
@pytest.mark.parametrize("url", [None, "sqlite:///study.db"])
def test_another_metric_is_compared_in_its_own_study(
    options: dict[str, Any], url: str | None, tmp_path: Path
) -> None:
    made, study, plan = study_pruner(
        tmp_path, pruner={**PRUNERS["median"], "n_startup_trials": 2}, storage=url, **options
    )
    storage = study._storage
    n = len(plan.directions)
    found_reasons = []
    for accuracy in (0.8, 0.9, 0.7, 0.95):
        trial = Trial(study, storage.create_new_trial(study._study_id))
        found = reasons(made, trial, accuracy, accuracy)
        state = TrialState.COMPLETE if found == [None, None] else TrialState.PRUNED
        made.end(trial, state)
        study.tell(trial, [0.1] * n if state is TrialState.COMPLETE else None, state)
        found_reasons.append(found[0])
    assert found_reasons == [
        None,
        None,
        "valid/accuracy=0.7 at step 1, MedianPruner; "
        "2 other trials had values from 0.8 to 0.9, median 0.85",
        None,
    ]
    reports = optuna.load_study(study_name=plan.study_name + REPORTS_SUFFIX, storage=storage)
    assert [trial.state.name for trial in reports.trials] == [
        "COMPLETE",
        "COMPLETE",
        "PRUNED",
        "COMPLETE",
    ]
    assert [trial.value for trial in reports.trials] == [0.8, 0.9, 0.7, 0.95]
    assert all(trial.intermediate_values == {} for trial in study.trials)
    assert [trial.state.name for trial in study.trials] == [
        "COMPLETE",
        "COMPLETE",
        "PRUNED",
        "COMPLETE",
    ]


@pytest.mark.parametrize(
    ("state", "values", "expected"),
    [
        (TrialState.COMPLETE, (0.5, 0.75), (TrialState.COMPLETE, 0.75)),
        (TrialState.COMPLETE, (), (TrialState.FAIL, None)),
        (TrialState.PRUNED, (0.5,), (TrialState.PRUNED, 0.5)),
        (TrialState.FAIL, (0.5,), (TrialState.FAIL, None)),
    ],
)
def test_the_trial_of_the_other_study_ends_in_the_same_state(
    state: TrialState,
    values: tuple[float, ...],
    expected: tuple[TrialState, float | None],
    tmp_path: Path,
) -> None:
    made, study, plan = study_pruner(tmp_path, pruner=PRUNERS["none"], **OTHER)
    trial = study.ask()
    reasons(made, trial, *values)
    made.end(trial, state)
    made.end(trial, state)  # the second call does nothing
    reports = optuna.load_study(study_name=plan.study_name + REPORTS_SUFFIX, storage=study._storage)
    assert [(one.state, one.value) for one in reports.trials] == [expected]


def test_several_objectives_without_a_pruning_metric_have_no_pruner(tmp_path: Path) -> None:
    made, study, _ = study_pruner(tmp_path, pruner=PRUNERS["none"], monitor=None, **SEVERAL)
    trial = study.ask()
    assert made.of(trial) is None
    made.end(trial, TrialState.COMPLETE)


@pytest.mark.parametrize(
    ("options", "monitor"),
    [
        ({}, "valid/loss"),
        ({"monitor": None}, "valid/loss"),
        ({"monitor": None, "objectives": []}, None),
        (OTHER, "valid/accuracy"),
    ],
)
def test_the_metric_to_report_is_the_pruners_or_the_objective(
    options: dict[str, Any], monitor: str | None, tmp_path: Path
) -> None:
    made, study, _ = study_pruner(tmp_path, every=3, **options)
    pruner = made.of(study.ask())
    assert pruner is not None
    assert (pruner.monitor, pruner.every) == (monitor, 3)


def test_a_trial_that_was_ended_by_another_process_is_interrupted(tmp_path: Path) -> None:
    made, study, _ = study_pruner(tmp_path)
    trial = study.ask()
    pruner = made.of(trial)
    assert pruner is not None
    study.tell(0, state=TrialState.FAIL)
    with pytest.raises(CancelFitException) as caught:
        pruner.report(0.5, 1)
    assert caught.value.reason is StopReason.INTERRUPTED


def test_reports_of_a_dead_trial_are_ended_and_those_of_a_running_one_are_not(
    tmp_path: Path,
) -> None:
    made, study, plan = study_pruner(tmp_path, pruner=PRUNERS["none"], **OTHER)
    ended, running = study.ask(), study.ask()
    for trial in (ended, running):
        reasons(made, trial, 0.5)
    study.tell(ended, state=TrialState.FAIL)  # as the supervisor does after a worker was killed
    for _ in range(2):
        end_reports(plan, study, study._storage)
    reports = optuna.load_study(study_name=plan.study_name + REPORTS_SUFFIX, storage=study._storage)
    assert [trial.state for trial in reports.trials] == [TrialState.FAIL, TrialState.RUNNING]


def test_without_another_metric_there_are_no_reports_to_end(tmp_path: Path) -> None:
    _, study, plan = study_pruner(tmp_path)
    end_reports(plan, study, study._storage)
    assert [summary.study_name for summary in optuna.get_all_study_summaries(study._storage)] == [
        plan.study_name
    ]
