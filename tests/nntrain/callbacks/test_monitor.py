"""The direction of improvement of a metric, epochs since the best value, and missing metrics."""

import math

import pytest

from nntrain import CancelEpochException, CancelTrainException, CancelValidException, Event, Learner
from nntrain.callbacks import EarlyStopping
from nntrain.callbacks.monitor import Mode, MonitorCallback, epochs_since_best, mode_of
from nntrain.testing import RaiseAt
from tests.common.scripted import ScriptedMetric
from tests.common.toys import Lists, regression_lists, toy_learner

NAN, INF = math.nan, math.inf


class WaitSpy(MonitorCallback):
    def __init__(self, monitor: str = "valid/loss") -> None:
        super().__init__(monitor, None, 0.0)
        self.waits: list[tuple[int, int]] = []

    def act(self, learn: Learner, wait: int) -> None:
        self.waits.append((learn.epoch, wait))


@pytest.mark.parametrize(
    ("monitor", "mode"),
    [
        ("valid/loss", "min"),
        ("train/loss_smooth", "min"),
        ("valid/error_rate", "min"),
        ("valid/mae", "min"),
        ("time/epoch_s", "min"),
        ("valid/accuracy", "max"),
        ("valid/f1_score", "max"),
        ("valid/lossless", "max"),
    ],
)
def test_the_mode_is_inferred_from_the_words_of_the_name(monitor: str, mode: Mode) -> None:
    assert mode_of(monitor) == mode


@pytest.mark.parametrize(
    ("values", "mode", "min_delta", "wait"),
    [
        ([], "min", 0.0, 0),
        ([1.0], "min", 0.0, 0),
        ([1.0, 2.0], "min", 0.0, 1),
        ([1.0, 2.0], "max", 0.0, 0),
        ([1.0, 1.0, 1.0], "min", 0.0, 2),
        ([3.0, 1.0, 2.0, 2.0], "min", 0.0, 2),
        ([3.0, 1.0, 2.0, 0.5], "min", 0.0, 0),
        ([1.0, 0.9, 0.8], "min", 0.15, 0),
        ([1.0, 0.9, 0.8], "min", 0.25, 2),
        ([1.0, 1.25], "max", 0.25, 1),
        ([1.0, 1.25], "max", 0.24, 0),
        ([NAN], "min", 0.0, 1),
        ([NAN, 5.0], "min", 0.0, 0),
        ([1.0, NAN], "min", 0.0, 1),
        ([1.0, -INF], "min", 0.0, 1),
        ([1.0, INF], "max", 0.0, 1),
        ([INF, 1.0, NAN, 0.5], "min", 0.0, 0),
    ],
)
def test_epochs_since_best(values: list[float], mode: Mode, min_delta: float, wait: int) -> None:
    assert epochs_since_best(values, mode, min_delta) == wait


def test_act_gets_the_wait_of_every_epoch() -> None:
    spy = WaitSpy()
    toy_learner(cbs=[ScriptedMetric([3, 4, 2, 2]), spy]).fit(4)
    assert spy.waits == [(0, 0), (1, 1), (2, 0), (3, 1)]


def test_a_second_fit_starts_without_a_best_value() -> None:
    spy = WaitSpy()
    learn = toy_learner(cbs=[ScriptedMetric([1, 2]), spy])
    learn.fit(2)
    scripted = next(cb for cb in learn.cbs if isinstance(cb, ScriptedMetric))
    scripted.values = [9, 8]
    learn.fit(2)
    assert spy.waits == [(0, 0), (1, 1), (0, 0), (1, 0)]


def test_a_metric_that_is_not_recorded_is_an_error_that_lists_the_recorded_ones() -> None:
    learn = toy_learner(cbs=[WaitSpy("valid/accuracy")])
    with pytest.raises(
        LookupError,
        match=r"'valid/accuracy' was not recorded; recorded metrics: .*train/loss, valid/loss",
    ):
        learn.fit(1)


def test_without_validation_a_metric_of_validation_is_an_error() -> None:
    dls = Lists(regression_lists().train, None)
    with pytest.raises(LookupError, match="'valid/loss' was not recorded"):
        toy_learner(dls, cbs=[WaitSpy()]).fit(1)


@pytest.mark.parametrize(
    ("event", "cancel"),
    [
        (Event.BEFORE_EPOCH, CancelEpochException()),
        (Event.BEFORE_TRAIN, CancelEpochException()),
        (Event.BEFORE_VALIDATE, CancelValidException()),
    ],
)
def test_an_epoch_cancelled_before_the_metric_was_measured_is_skipped(
    event: Event, cancel: Exception
) -> None:
    spy = WaitSpy()
    toy_learner(cbs=[RaiseAt(event, cancel, epoch=1), spy]).fit(3)
    assert [epoch for epoch, _ in spy.waits] == [0, 2]


def test_an_epoch_whose_training_was_cancelled_is_still_judged_by_its_validation() -> None:
    spy = WaitSpy()
    toy_learner(cbs=[RaiseAt(Event.BEFORE_TRAIN, CancelTrainException(), epoch=1), spy]).fit(3)
    assert [epoch for epoch, _ in spy.waits] == [0, 1, 2]


def test_a_cancelled_epoch_allows_a_missing_metric_only_in_that_epoch() -> None:
    cancel = RaiseAt(Event.BEFORE_VALIDATE, CancelValidException(), epoch=0)
    with pytest.raises(LookupError, match="valid/accuracy"):
        toy_learner(cbs=[cancel, WaitSpy("valid/accuracy")]).fit(2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "least"}, "mode='least' of EarlyStopping must be 'min', 'max', or None"),
        ({"min_delta": -0.1}, r"min_delta=-0.1 of EarlyStopping must be at least 0"),
        ({"min_delta": NAN}, "min_delta=nan"),
        ({"patience": 0}, "patience=0 must be at least 1"),
    ],
)
def test_wrong_settings_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EarlyStopping(**options)  # type: ignore[arg-type]
