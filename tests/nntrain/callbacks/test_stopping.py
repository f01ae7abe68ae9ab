"""Callbacks that stop training early: the last batch, the reason, and the state of the model."""

import math
from typing import Any

import pytest
import torch

from nntrain import Callback, Event, Learner, StopReason
from nntrain.callbacks import (
    EarlyStopping,
    GradientAccumulation,
    GradientClip,
    SaveModel,
    StopOnNaN,
    TimeLimit,
)
from nntrain.testing import RaiseAt, SpyCallback, counted_reads
from tests.common.reference import reference
from tests.common.scripted import ScriptedLoss, ScriptedMetric, flat
from tests.common.toys import toy_learner

PLATEAUS = reference("callbacks")["plateau"]


@pytest.mark.parametrize("name", PLATEAUS)
def test_early_stopping_stops_where_fastais_does(name: str) -> None:
    case = PLATEAUS[name]
    stop = EarlyStopping(patience=case["patience"], min_delta=case["min_delta"])
    result = toy_learner(cbs=[ScriptedMetric(case["values"]), stop]).fit(6)
    assert result.n_epoch == case["n_epoch"]


def test_early_stopping_says_why() -> None:
    result = toy_learner(cbs=[ScriptedMetric([1, 2, 3, 4]), EarlyStopping(patience=2)]).fit(4)
    assert result.reason is StopReason.EARLY_STOPPED
    assert result.message == "valid/loss has not improved for 2 epochs."
    assert result.metrics["valid/loss"] == 3


def test_every_other_callback_has_seen_the_epoch_that_is_the_last() -> None:
    class Late(SpyCallback):
        order = 99

    late = Late()
    toy_learner(cbs=[ScriptedMetric([1, 2, 3]), EarlyStopping(), late]).fit(3)
    assert [epoch for event, epoch, _ in late.entries if event == Event.AFTER_EPOCH] == [0, 1]
    assert late.events[-3:] == [Event.AFTER_CANCEL_FIT, Event.AFTER_FIT, Event.CLEANUP_FIT]


def test_a_resumed_fit_that_had_stopped_stops_at_once() -> None:
    class Resumed(Callback):
        order = 80

        def before_fit(self, learn: Learner) -> None:
            learn.recorder.rows = [{"valid/loss": 1.0}, {"valid/loss": 2.0}]

    result = toy_learner(cbs=[Resumed(), EarlyStopping(patience=1)]).fit(5)
    assert (result.reason, result.train_iter) == (StopReason.EARLY_STOPPED, 0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("batch", [0, 3, 7])
@pytest.mark.parametrize(
    "others",
    [
        [],
        [GradientClip(1.0)],
        [GradientAccumulation(16)],
        [GradientAccumulation(24), GradientClip(1.0)],
    ],
)
def test_a_loss_that_is_not_finite_stops_before_the_optimizer_steps_on_it(
    bad: float, batch: int, others: list[Callback]
) -> None:
    good = toy_learner(cbs=others)
    good.add_cb(RaiseAt(Event.BEFORE_BATCH, KeyboardInterrupt(), batch // 5, batch % 5))
    with pytest.raises(KeyboardInterrupt):
        good.fit(2)
    learn = toy_learner(cbs=[ScriptedLoss({batch: bad}), StopOnNaN(), *others])
    result = learn.fit(2)
    assert result.reason is StopReason.DIVERGED
    assert torch.equal(flat(learn.model), flat(good.model))
    assert len(learn.recorder.losses) == batch + 1
    assert not math.isfinite(learn.recorder.losses[-1])
    assert result.message.startswith(
        f"The loss of epoch {batch // 5}, batch {batch % 5} is {learn.recorder.losses[-1]}:"
    )


def test_gradients_of_a_diverged_fit_do_not_reach_the_next_fit() -> None:
    learn = toy_learner(cbs=[ScriptedLoss({0: math.nan}), StopOnNaN()])
    assert learn.fit(1).reason is StopReason.DIVERGED
    assert learn.fit(1).reason is StopReason.COMPLETED
    expected = toy_learner()
    expected.fit(1)
    assert torch.equal(flat(learn.model), flat(expected.model))


def test_a_validation_loss_that_is_not_finite_stops_at_the_end_of_its_epoch() -> None:
    learn = toy_learner(cbs=[ScriptedLoss(valid=math.nan), StopOnNaN()])
    result = learn.fit(3)
    assert (result.reason, result.n_epoch, result.train_iter) == (StopReason.DIVERGED, 1, 5)
    assert result.message.startswith("The valid/loss of epoch 0 is nan:")
    assert math.isnan(learn.recorder.rows[0]["valid/loss"])


def test_stop_on_nan_reads_one_number_a_training_batch() -> None:
    def reads(*cbs: Callback, n_epoch: int) -> int:
        with counted_reads() as counter:
            toy_learner(cbs=cbs).fit(n_epoch)
        return counter.n

    per_epoch = reads(StopOnNaN(), n_epoch=2) - reads(StopOnNaN(), n_epoch=1)
    assert per_epoch - (reads(n_epoch=2) - reads(n_epoch=1)) == 5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_loss_is_copied_while_the_device_goes_on() -> None:
    learn = toy_learner(cbs=[ScriptedLoss({3: math.nan}), StopOnNaN()], device="cuda")
    result = learn.fit(1)
    assert (result.reason, result.train_iter) == (StopReason.DIVERGED, 3)
    assert torch.isfinite(flat(learn.model)).all()


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("nntrain.callbacks.stopping.perf_counter", lambda: self.now)


class Slow(Callback):
    """Advances the clock by one second per batch."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def before_batch(self, learn: Learner) -> None:
        self.clock.now += 1


@pytest.mark.parametrize(
    ("max_time_s", "train_iter", "n_epoch"),
    [(1, 1, 0), (2.5, 3, 0), (6, 5, 0), (8, 5, 0), (9, 6, 1), (1000, 10, 2)],
)
def test_the_time_limit_is_checked_after_every_batch(
    max_time_s: float, train_iter: int, n_epoch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # an epoch is 5 batches of training and 3 of validation
    result = toy_learner(cbs=[Slow(Clock(monkeypatch)), TimeLimit(max_time_s)]).fit(2)
    assert (result.train_iter, result.n_epoch) == (train_iter, n_epoch)
    assert result.reason is (StopReason.COMPLETED if max_time_s == 1000 else StopReason.BUDGET)


def test_each_fit_has_the_full_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    learn = toy_learner(cbs=[Slow(Clock(monkeypatch)), TimeLimit(10)])
    assert [learn.fit(1).reason, learn.fit(1).reason] == [StopReason.COMPLETED] * 2


@pytest.mark.parametrize("order", [80, 101])
def test_the_time_before_a_resume_counts_once(order: int, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    first = TimeLimit(10)
    states: list[Any] = []

    class Keep(Callback):
        def after_epoch(self, learn: Learner) -> None:
            states.append(first.state_dict())

    toy_learner(cbs=[Slow(clock), first, Keep()]).fit(1)
    second = TimeLimit(10)

    class Resume(Callback):
        def before_fit(self, learn: Learner) -> None:
            clock.now += 100  # the time that resuming takes, which does not count
            if states:
                second.load_state_dict(states.pop())

    Resume.order = order
    learn = toy_learner(cbs=[Slow(clock), second, Resume()])
    assert states == [{"elapsed_s": 8.0}]
    assert learn.fit(1).train_iter == 2
    learn.remove_cb(Resume)
    assert learn.fit(1).reason is StopReason.COMPLETED


@pytest.mark.parametrize("max_time_s", [0, -1, math.nan])
def test_a_time_limit_must_be_positive(max_time_s: float) -> None:
    with pytest.raises(ValueError, match=r"max_time_s=.* must be positive"):
        TimeLimit(max_time_s)


def test_a_diverged_fit_ends_with_its_best_model() -> None:
    learn = toy_learner(cbs=[ScriptedLoss({7: math.nan}), StopOnNaN(), SaveModel()])
    learn.fit(2)
    expected = toy_learner()
    expected.fit(1)
    assert torch.equal(flat(learn.model), flat(expected.model))
