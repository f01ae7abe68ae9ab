"""The debugging callbacks: short epochs, and the log of events."""

import logging

import pytest

from nntrain import Event, StopReason
from nntrain.callbacks import EventTrace, ShortEpoch, SingleBatch
from nntrain.testing import SpyCallback
from tests.common.toys import toy_learner


@pytest.mark.parametrize(
    ("n_batch", "n_train", "n_valid"), [(1, 1, 1), (2, 2, 2), (3, 3, 3), (4, 4, 3), (9, 5, 3)]
)
def test_each_part_of_an_epoch_is_cut_short(n_batch: int, n_train: int, n_valid: int) -> None:
    learn = toy_learner(cbs=[ShortEpoch(n_batch), spy := SpyCallback()])
    result = learn.fit(2)
    assert spy.events.count(Event.AFTER_BACKWARD) == 2 * n_train
    assert spy.events.count(Event.AFTER_BATCH) == 2 * (n_train + n_valid)
    assert (result.reason, result.n_epoch) == (StopReason.COMPLETED, 2)
    assert {"train/loss", "valid/loss"} <= set(result.metrics)


def test_a_single_batch_of_each_part() -> None:
    learn = toy_learner(cbs=[SingleBatch(), spy := SpyCallback()])
    assert learn.fit(2).train_iter == 2
    assert spy.events.count(Event.AFTER_BATCH) == 4


def test_validation_outside_a_fit_is_not_cut() -> None:
    learn = toy_learner(cbs=[SingleBatch()])
    expected = toy_learner()
    assert learn.validate() == expected.validate()


def test_at_least_one_batch_is_needed() -> None:
    with pytest.raises(ValueError, match="n_batch=0 must be at least 1"):
        ShortEpoch(0)


def test_every_event_is_logged_with_its_place(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="nntrain.callbacks.debug")
    learn = toy_learner(cbs=[spy := SpyCallback(), EventTrace()])
    learn.fit(2)
    assert [message.split()[-1] for message in caplog.messages] == [Event.AFTER_CREATE, *spy.events]
    assert "epoch 1 train_iter 7 after_loss" in caplog.messages
    assert {record.levelno for record in caplog.records} == {logging.DEBUG}


def test_nothing_is_logged_by_default(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    toy_learner(cbs=[EventTrace()]).fit(1)
    assert caplog.messages == []
