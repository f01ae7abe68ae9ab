"""The pruning callback, with a real learner, study and pruner."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import optuna
import pytest
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial, TrialState

from nntrain import (
    Callback,
    CancelEpochException,
    CancelTrainException,
    CancelValidException,
    Event,
    Learner,
    StopReason,
)
from nntrain.core.smoothing import Smoother
from nntrain.sweeps import PruningCallback
from nntrain.sweeps.context import BATCH_METRICS, TrialContext, active_trial, check_every
from nntrain.sweeps.study.opening import open_study
from nntrain.sweeps.study.pruner import CONTROL, StudyPruner
from nntrain.testing import RaiseAt, SpyCallback
from tests.common.scripted import ScriptedMetric
from tests.common.toys import toy_learner
from tests.sweeps.small_app import make_plan

N_BATCH = 5
"""The number of training batches per epoch of the toy learner."""


class AskedPruner(BasePruner):
    """A pruner that prunes from step `at` on, or never, and records the steps of all calls."""

    def __init__(self, at: int | None = None) -> None:
        self.at = at
        self.asked: list[int | None] = []

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        self.asked.append(trial.last_step)
        return self.at is not None and trial.last_step is not None and trial.last_step >= self.at


class Small:
    """A small study and its pruner."""

    def __init__(self, folder: Path, pruner: BasePruner | None = None, **options: Any) -> None:
        self.plan = make_plan(folder, **options)
        self.study, storage = open_study(self.plan)
        self.study_pruner = StudyPruner(self.plan, self.study, storage)
        self.pruner = pruner or AskedPruner()
        (self.study_pruner._reports or self.study).pruner = self.pruner

    @contextmanager
    def trial(self) -> Iterator[TrialContext]:
        """Yields the context of a running trial."""
        trial = self.study.ask()
        one = TrialContext(trial, self.study_pruner.of(trial))
        with active_trial(one):
            yield one

    @property
    def asked(self) -> list[int | None]:
        """The steps at which the pruner was asked."""
        assert isinstance(self.pruner, AskedPruner)
        return self.pruner.asked

    def fit(
        self, values: Sequence[float], *cbs: Callback, n_epoch: int | None = None
    ) -> TrialContext:
        """Runs a trial with the given values of valid/loss, and ends the trial as a worker does."""
        with self.trial() as one:
            toy_learner(cbs=[ScriptedMetric(list(values)), PruningCallback(), *cbs]).fit(
                n_epoch or len(values)
            )
        assert one.fit is not None
        state = TrialState.COMPLETE if one.fit.reason is StopReason.COMPLETED else TrialState.PRUNED
        self.study_pruner.end(one.trial, state)
        n = len(self.plan.directions)
        self.study.tell(
            one.trial, [values[-1]] * n if state is TrialState.COMPLETE else None, state
        )
        return one

    def reported(self, number: int = -1) -> dict[int, float]:
        """Returns the values that a trial reported, by step."""
        return (self.study_pruner._reports or self.study).trials[number].intermediate_values


def test_each_epoch_is_reported_and_the_pruner_is_asked_after_all_but_the_last(
    tmp_path: Path,
) -> None:
    small = Small(tmp_path)
    one = small.fit([0.5, 0.4, 0.3])
    assert small.reported() == {1: 0.5, 2: 0.4, 3: 0.3}
    assert small.asked == [1, 2]
    assert one.fit is not None
    assert one.fit.reason is StopReason.COMPLETED


def test_a_pruned_fit_ends_like_a_cancelled_one_with_the_reason(tmp_path: Path) -> None:
    small = Small(tmp_path, AskedPruner(at=2))
    spy = SpyCallback()
    one = small.fit([0.5, 0.4, 0.3, 0.2], spy)
    assert one.fit is not None
    assert (one.fit.reason, one.fit.n_epoch, one.fit.train_iter) == (
        StopReason.PRUNED,
        2,
        2 * N_BATCH,
    )
    assert one.fit.metrics["valid/loss"] == 0.4
    assert (
        one.fit.message == "valid/loss=0.4 at step 2, AskedPruner; no other trial reached this step"
    )
    assert spy.events[-3:] == [Event.AFTER_CANCEL_FIT, Event.AFTER_FIT, Event.CLEANUP_FIT]
    assert [epoch for event, epoch, _ in spy.entries if event == Event.AFTER_EPOCH] == [0, 1]
    assert small.asked == [1, 2]
    assert (small.study.trials[0].state, small.reported()) == (TrialState.PRUNED, {1: 0.5, 2: 0.4})


def test_a_learner_can_be_used_again_after_it_was_pruned(tmp_path: Path) -> None:
    small = Small(tmp_path, AskedPruner(at=1))
    with small.trial() as one:
        learn = toy_learner(cbs=[PruningCallback()])
        assert learn.fit(3).reason is StopReason.PRUNED
    assert one.fit is not None
    assert learn.fit(2).reason is StopReason.COMPLETED
    assert one.fit.reason is StopReason.PRUNED


def test_the_median_pruner_stops_a_worse_trial_and_the_reason_has_the_values_of_others(
    tmp_path: Path,
) -> None:
    small = Small(tmp_path, optuna.pruners.MedianPruner(n_startup_trials=3))
    for value in (0.1, 0.2, 0.6):
        small.fit([value, value])
    one = small.fit([0.3, 0.3, 0.3])
    assert one.fit is not None
    assert (one.fit.reason, one.fit.n_epoch) == (StopReason.PRUNED, 1)
    assert one.fit.message == (
        "valid/loss=0.3 at step 1, MedianPruner; 3 other trials had values from 0.1 to 0.6, "
        "median 0.2"
    )
    good = small.fit([0.15, 0.15]).fit
    assert good is not None
    assert good.reason is StopReason.COMPLETED


def test_a_maximized_metric_is_pruned_for_low_values(tmp_path: Path) -> None:
    pruner = optuna.pruners.MedianPruner(n_startup_trials=1)
    small = Small(tmp_path, pruner, directions=["maximize"])
    small.fit([0.5, 0.5])
    ends = [small.fit([value, value]).fit for value in (0.4, 0.6)]
    assert [end.reason for end in ends if end is not None] == [
        StopReason.PRUNED,
        StopReason.COMPLETED,
    ]


def test_a_control_is_not_stopped(tmp_path: Path) -> None:
    small = Small(tmp_path, AskedPruner(at=2), control_fraction=1.0)
    one = small.fit([0.5, 0.4, 0.3, 0.2])
    assert one.fit is not None
    assert (one.fit.reason, one.fit.n_epoch) == (StopReason.COMPLETED, 4)
    trial = small.study.trials[0]
    assert (trial.state, trial.value, trial.user_attrs) == (TrialState.COMPLETE, 0.2, {CONTROL: 2})
    assert small.asked == [1, 2]
    assert small.reported() == {1: 0.5, 2: 0.4, 3: 0.3, 4: 0.2}


@pytest.mark.parametrize("directions", [["minimize"], ["minimize", "maximize"]])
def test_a_metric_that_is_not_the_objective_is_reported_to_its_own_study(
    directions: list[str], tmp_path: Path
) -> None:
    options = {"monitor": "valid/loss", "monitor_direction": "minimize", "directions": directions}
    small = Small(
        tmp_path,
        AskedPruner(at=2),
        objectives=["time/epoch_s", "valid/accuracy"][: len(directions)],
        **options,
    )
    one = small.fit([0.5, 0.4, 0.3])
    assert one.fit is not None
    assert one.fit.reason is StopReason.PRUNED
    assert small.reported() == {1: 0.5, 2: 0.4}
    assert small.study_pruner._reports is not None
    assert [trial.state for trial in small.study_pruner._reports.trials] == [TrialState.PRUNED]
    assert [(trial.state, trial.intermediate_values) for trial in small.study.trials] == [
        (TrialState.PRUNED, {})
    ]


# --- every few batches


@pytest.mark.parametrize("every", [1, 2, 3])
def test_the_batch_loss_is_reported_every_few_batches(every: int, tmp_path: Path) -> None:
    small = Small(
        tmp_path,
        monitor="batch/loss",
        monitor_direction="minimize",
        objectives=["valid/accuracy"],
        every=every,
    )
    with small.trial() as one:
        learn = toy_learner(cbs=[PruningCallback()])
        learn.fit(2)
    losses = learn.recorder.losses.tolist()
    assert len(losses) == 2 * N_BATCH
    assert small.reported() == {n: losses[n - 1] for n in range(every, 2 * N_BATCH + 1, every)}
    assert small.asked == list(range(every, 2 * N_BATCH + 1, every))
    assert one.fit is not None


@pytest.mark.parametrize("every", [1, 4])
def test_the_smoothed_loss_includes_all_earlier_batches(every: int, tmp_path: Path) -> None:
    small = Small(tmp_path, monitor="batch/loss_smooth", monitor_direction="minimize", every=every)
    with small.trial():
        learn = toy_learner(cbs=[PruningCallback()])
        learn.fit(2)
    smoother = Smoother()
    smoothed = [smoother.add(loss) for loss in learn.recorder.losses.tolist()]
    expected = {n: smoothed[n - 1] for n in range(every, 2 * N_BATCH + 1, every)}
    assert small.reported() == pytest.approx(expected)


def test_a_fit_is_pruned_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    pruner = AskedPruner(at=N_BATCH + 2)
    small = Small(tmp_path, pruner, monitor="batch/loss", monitor_direction="minimize", every=1)
    with small.trial() as one:
        toy_learner(cbs=[PruningCallback()]).fit(3)
    assert one.fit is not None
    assert (one.fit.reason, one.fit.n_epoch) == (StopReason.PRUNED, 1)
    assert one.fit.train_iter == N_BATCH + 2
    assert one.fit.message.startswith("batch/loss=")
    assert f"at step {N_BATCH + 2}" in one.fit.message


def test_the_metric_of_the_callback_replaces_that_of_the_sweep(tmp_path: Path) -> None:
    small = Small(tmp_path)
    with small.trial():
        learn = toy_learner(cbs=[PruningCallback("batch/loss", every=N_BATCH)])
        learn.fit(2)
    assert list(small.reported()) == [N_BATCH, 2 * N_BATCH]


@pytest.mark.parametrize(
    ("monitor", "every", "message"),
    [
        (
            None,
            0,
            "every=0 must be at least 1: it is the number of training batches between two reports.",
        ),
        ("batch/loss", -1, "every=-1 must be at least 1"),
        (
            "valid/loss",
            5,
            "valid/loss is measured once per epoch and cannot be reported every 5 batches",
        ),
    ],
)
def test_an_invalid_interval_of_reports_is_an_error(
    monitor: str | None, every: int, message: str
) -> None:
    with pytest.raises(ValueError, match="every") as caught:
        PruningCallback(monitor, every)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("monitor", "every"),
    [(None, None), (None, 3), ("valid/loss", None), *((name, 1) for name in BATCH_METRICS)],
)
def test_a_valid_interval_of_reports_is_accepted(monitor: str | None, every: int | None) -> None:
    check_every(monitor, every)


# --- outside a sweep, and missing metrics


def test_outside_a_sweep_it_does_nothing() -> None:
    for callback in (
        PruningCallback(),
        PruningCallback("valid/none"),
        PruningCallback("batch/loss", 1),
    ):
        plain, watched = toy_learner(), toy_learner(cbs=[callback])
        assert watched.fit(2).reason is StopReason.COMPLETED
        plain.fit(2)
        assert watched.recorder.losses.tolist() == plain.recorder.losses.tolist()


def test_a_missing_metric_is_an_error_that_lists_the_recorded_ones(tmp_path: Path) -> None:
    small = Small(tmp_path, monitor="valid/f1")
    learn = toy_learner(cbs=[PruningCallback()])
    with small.trial() as one, pytest.raises(LookupError) as caught:
        learn.fit(2)
    assert caught.value.args[0].startswith("'valid/f1' was not recorded; recorded metrics: ")
    assert {"train/loss", "valid/loss"} <= set(
        caught.value.args[0].rstrip(".").partition("metrics: ")[2].split(", ")
    )
    assert one.fit is not None
    assert one.fit.reason is StopReason.ERROR


@pytest.mark.parametrize(
    ("event", "cancel"),
    [
        (Event.BEFORE_VALIDATE, CancelValidException),
        (Event.BEFORE_TRAIN, CancelEpochException),
    ],
)
def test_an_epoch_whose_metric_was_cancelled_is_skipped(
    event: Event, cancel: type[Exception], tmp_path: Path
) -> None:
    small = Small(tmp_path)
    with small.trial():
        result = toy_learner(cbs=[RaiseAt(event, cancel(), epoch=1), PruningCallback()]).fit(3)
    assert result.reason is StopReason.COMPLETED
    assert list(small.reported()) == [1, 3]


def test_an_epoch_whose_training_was_cut_short_is_reported(tmp_path: Path) -> None:
    small = Small(tmp_path)
    with small.trial():
        toy_learner(
            cbs=[RaiseAt(Event.BEFORE_BATCH, CancelTrainException(), epoch=1), PruningCallback()]
        ).fit(3)
    assert list(small.reported()) == [1, 2, 3]


def test_without_a_metric_nothing_is_reported_but_the_result_is_recorded(tmp_path: Path) -> None:
    small = Small(tmp_path, AskedPruner(at=0), objectives=[], monitor=None)
    with small.trial() as one:
        toy_learner(cbs=[PruningCallback()]).fit(2)
    assert one.fit is not None
    assert one.fit.reason is StopReason.COMPLETED
    assert small.reported() == {}


def test_several_objectives_without_a_pruning_metric_are_not_pruned(tmp_path: Path) -> None:
    small = Small(
        tmp_path,
        directions=["minimize", "maximize"],
        objectives=["valid/loss", "valid/accuracy"],
        monitor=None,
    )
    one = small.fit([0.5, 0.4])
    assert one.pruner is None
    assert one.fit is not None
    assert one.fit.reason is StopReason.COMPLETED


def test_the_result_of_a_failed_fit_is_recorded_too(tmp_path: Path) -> None:
    small = Small(tmp_path)
    learn = toy_learner(cbs=[RaiseAt(Event.AFTER_LOSS, RuntimeError("broken")), PruningCallback()])
    with small.trial() as one, pytest.raises(RuntimeError, match="broken"):
        learn.fit(1)
    assert one.fit is not None
    assert one.fit.reason is StopReason.ERROR


def test_a_trial_that_another_process_marked_as_lost_stops(tmp_path: Path) -> None:
    small = Small(tmp_path)

    class Elsewhere(Callback):
        order: ClassVar[int] = 90

        def before_validate(self, learn: Learner) -> None:
            if learn.epoch == 1:
                small.study.tell(0, state=TrialState.FAIL)

    with small.trial() as one:
        toy_learner(cbs=[Elsewhere(), PruningCallback()]).fit(4)
    assert one.fit is not None
    assert (one.fit.reason, one.fit.n_epoch) == (StopReason.INTERRUPTED, 2)
    assert "marked the trial as lost" in one.fit.message
