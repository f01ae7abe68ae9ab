"""A fit stops on Ctrl-C, at the end of a job, and on the warning before it."""

import signal
import threading
from collections.abc import Callable, Iterator
from signal import Signals
from types import FrameType
from typing import Any

import pytest

from nntrain import Callback, CancelFitException, Event, FitResult, Learner, StopReason
from nntrain.callbacks import StopOnSignal
from nntrain.callbacks.signals import ignored_warnings
from nntrain.core.stop_signals import WARNINGS
from nntrain.testing import SpyCallback
from tests.common.toys import toy_learner

ALL = (signal.SIGINT, signal.SIGTERM, *WARNINGS)


@pytest.fixture(autouse=True)
def _handlers_are_put_back() -> Iterator[None]:
    before = {signum: signal.getsignal(signum) for signum in ALL}
    yield
    left = {signum: signal.getsignal(signum) for signum in before}
    for signum, handler in before.items():
        signal.signal(signum, handler)
    assert left == before


class SendAt(SpyCallback):
    """Sends signals to this process at one event of epoch 1, iteration 2."""

    def __init__(self, event: Event, *signums: Signals) -> None:
        super().__init__()
        self.event, self.signums = event, signums

    def on(self, event: Event, learn: Learner) -> None:
        if event is self.event and learn.epoch == 1 and learn.iter >= 2:
            signums, self.signums = self.signums, ()
            for signum in signums:
                signal.raise_signal(signum)


class LateSpy(SpyCallback):
    order = 99


@pytest.mark.parametrize("signum", ALL)
def test_signal_ends_the_fit_after_the_batch_when_every_callback_has_seen_it(
    signum: Signals,
) -> None:
    late = LateSpy()
    learn = toy_learner(cbs=[StopOnSignal(), SendAt(Event.AFTER_PRED, signum), late])
    result = learn.fit(3)
    assert (result.reason, result.signum) == (StopReason.INTERRUPTED, signum)
    assert result.message == f"{signum.name} was received"
    assert result.train_iter == 5 + 3
    last = [entry[0] for entry in late.entries if entry[1:] == (1, 2)]
    assert last[-5:] == [
        "after_step",
        "after_batch",
        "after_cancel_fit",
        "after_fit",
        "cleanup_fit",
    ]


def test_signal_in_validation_ends_it_after_the_batch() -> None:
    late = LateSpy()
    result = toy_learner(
        cbs=[StopOnSignal(), SendAt(Event.BEFORE_VALIDATE, signal.SIGTERM), late]
    ).fit(3)
    assert result.reason is StopReason.INTERRUPTED
    assert late.entries[-4:] == [
        ("after_batch", 1, 0),
        ("after_cancel_fit", 1, 0),
        ("after_fit", 1, 0),
        ("cleanup_fit", 1, 0),
    ]


def test_signal_after_the_last_batch_of_an_epoch_ends_the_fit_with_the_epoch() -> None:
    result = toy_learner(cbs=[StopOnSignal(), SendAt(Event.AFTER_VALIDATE, signal.SIGTERM)]).fit(3)
    assert (result.reason, result.n_epoch) == (StopReason.INTERRUPTED, 2)


def test_second_sigint_raises_at_once() -> None:
    spy = SendAt(Event.AFTER_PRED, signal.SIGINT, signal.SIGINT)
    learn = toy_learner(cbs=[StopOnSignal(), spy])
    with pytest.raises(KeyboardInterrupt):
        learn.fit(3)
    assert learn.result.reason is StopReason.INTERRUPTED
    assert spy.entries[-2:] == [("after_pred", 1, 2), ("cleanup_fit", 1, 2)]


def test_second_sigterm_changes_nothing() -> None:
    learn = toy_learner(
        cbs=[StopOnSignal(), SendAt(Event.AFTER_PRED, signal.SIGTERM, signal.SIGTERM)]
    )
    assert learn.fit(3).signum is signal.SIGTERM


def test_signal_that_is_too_late_to_cancel_is_raised_again_after_cleanup() -> None:
    spy = SendAt(Event.AFTER_FIT, signal.SIGTERM)
    with pytest.raises(SystemExit) as caught:
        toy_learner(cbs=[StopOnSignal(), spy]).fit(2)
    assert caught.value.code == 128 + signal.SIGTERM
    assert spy.events[-1] == "cleanup_fit"


def test_signal_that_is_too_late_to_cancel_reaches_the_previous_handler() -> None:
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda signum, frame: received.append(signum))
    try:
        result = toy_learner(cbs=[StopOnSignal(), SendAt(Event.AFTER_FIT, signal.SIGTERM)]).fit(2)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (result.reason, received) == (StopReason.COMPLETED, [signal.SIGTERM])


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGHUP])
def test_ignored_signal_stays_ignored(signum: Signals) -> None:  # SIGHUP: under nohup
    before = signal.signal(signum, signal.SIG_IGN)
    try:
        result = toy_learner(cbs=[StopOnSignal(), SendAt(Event.AFTER_PRED, signum)]).fit(2)
    finally:
        signal.signal(signum, before)
    assert result.reason is StopReason.COMPLETED


@pytest.mark.parametrize("signum", WARNINGS)
def test_a_warning_goes_to_the_handler_of_the_program(signum: Signals) -> None:
    received: list[int] = []
    before = signal.signal(signum, lambda signum, frame: received.append(signum))
    try:
        result = toy_learner(cbs=[StopOnSignal(), SendAt(Event.AFTER_PRED, signum)]).fit(2)
        with ignored_warnings():
            signal.raise_signal(signum)
    finally:
        signal.signal(signum, before)
    assert (result.reason, received) == (StopReason.COMPLETED, [signum, signum])


def test_a_warning_after_training_is_ignored() -> None:
    with ignored_warnings():
        for signum in WARNINGS:
            signal.raise_signal(signum)


def _handlers_during(run: Callable[[Learner], object]) -> set[Any]:
    seen: set[Any] = set()

    class Look(Callback):
        def after_pred(self, learn: Learner) -> None:
            seen.add(signal.getsignal(signal.SIGTERM))

    run(toy_learner(cbs=[StopOnSignal(), Look()]))
    return seen


def _in_a_thread(learn: Learner) -> None:
    results = list[FitResult]()
    thread = threading.Thread(target=lambda: results.append(learn.fit(1)))
    thread.start()
    thread.join()
    assert results[0].reason is StopReason.COMPLETED


@pytest.mark.parametrize(
    "run",
    [
        _in_a_thread,
        lambda learn: learn.validate(),
        lambda learn: learn.get_preds(),
        lambda learn: learn.lr_find(num_it=16),
    ],
    ids=["thread", "validate", "get_preds", "lr_find"],
)
def test_signals_are_left_alone_outside_a_fit_in_the_main_thread(
    run: Callable[[Learner], object],
) -> None:
    assert _handlers_during(run) == {signal.getsignal(signal.SIGTERM)}


def test_handlers_are_in_place_during_a_fit() -> None:
    assert signal.getsignal(signal.SIGTERM) not in _handlers_during(lambda learn: learn.fit(1))


class FailAtStart(Callback):
    order = 5

    def __init__(self, err: Exception) -> None:
        self.err = err

    def before_fit(self, learn: Learner) -> None:
        raise self.err


def test_fit_that_failed_before_its_start_is_cleaned_up() -> None:
    with pytest.raises(ValueError, match="bad"):
        toy_learner(cbs=[StopOnSignal(), FailAtStart(ValueError("bad"))]).fit(1)


def test_fit_cancelled_before_its_start_is_cleaned_up() -> None:
    cancel = CancelFitException("no", reason=StopReason.BUDGET)
    assert toy_learner(cbs=[StopOnSignal(), FailAtStart(cancel)]).fit(1).reason is StopReason.BUDGET


def test_handlers_are_restored_after_an_error_and_a_changed_handler_is_kept() -> None:
    def mine(signum: int, frame: FrameType | None) -> None: ...

    class Fail(Callback):
        def after_loss(self, learn: Learner) -> None:
            raise ValueError("boom")

    before = signal.signal(signal.SIGTERM, mine)
    try:
        with pytest.raises(ValueError, match="boom"):
            toy_learner(cbs=[StopOnSignal(), Fail()]).fit(1)
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)
