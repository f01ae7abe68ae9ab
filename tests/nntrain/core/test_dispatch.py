"""Collecting the handlers of callbacks, cleaning up, and printing the training loop."""

import pytest

from nntrain import Callback, Event, Learner, Purpose
from nntrain.callbacks.device import DeviceCallback
from nntrain.core.dispatch import cleanup, gather, training_loop_text
from tests.common.toys import toy_learner


class Noting(Callback):
    def __init__(
        self, name: str = "", log: list[str] | None = None, err: BaseException | None = None
    ) -> None:
        self.name, self.log, self.err = name, [] if log is None else log, err

    def before_epoch(self, learn: Learner) -> None:
        self.log.append(self.name)

    def cleanup_fit(self, learn: Learner) -> None:
        self.log.append(self.name)
        if self.err is not None:
            raise self.err


class FitOnly(Noting):
    purposes = frozenset({Purpose.FIT})


def test_gather_finds_only_what_is_overridden() -> None:
    assert set(gather([Noting(), Callback()], Purpose.FIT)) == {
        Event.BEFORE_EPOCH,
        Event.CLEANUP_FIT,
    }


def test_gather_keeps_the_given_order() -> None:
    first, second = Noting(), Noting()
    assert [cb for cb, _ in gather([first, second], Purpose.FIT)[Event.BEFORE_EPOCH]] == [
        first,
        second,
    ]


def test_gather_skips_callbacks_with_another_purpose() -> None:
    everywhere, fit_only = Noting(), FitOnly()
    assert [
        cb for cb, _ in gather([fit_only, everywhere], Purpose.VALIDATE)[Event.BEFORE_EPOCH]
    ] == [everywhere]


def test_gather_binds_the_handler_to_its_callback() -> None:
    callback = Noting("a")
    ((_, handler),) = gather([callback], Purpose.FIT)[Event.BEFORE_EPOCH]
    handler(toy_learner())
    assert callback.log == ["a"]


def clean_up(
    errors: list[BaseException | None], failure: BaseException | None = None
) -> tuple[list[str], BaseException | None]:
    log: list[str] = []
    cbs = [Noting(str(i), log, err) for i, err in enumerate(errors)]
    return log, cleanup(toy_learner(), gather(cbs, Purpose.FIT), failure)


def test_cleanup_runs_in_reverse_order() -> None:
    assert clean_up([None, None, None]) == (["2", "1", "0"], None)


def test_cleanup_continues_after_a_failure_and_returns_it() -> None:
    err = OSError("disk full")
    assert clean_up([None, err, None]) == (["2", "1", "0"], err)
    assert err.__notes__ == ["nntrain: raised in Noting.cleanup_fit"]


def test_cleanup_returns_several_failures_as_a_group() -> None:
    errors = [OSError("a"), None, ValueError("b")]
    log, group = clean_up(list(errors))
    assert log == ["2", "1", "0"]
    assert isinstance(group, ExceptionGroup)
    assert group.exceptions == (errors[2], errors[0])


def test_cleanup_adds_its_failures_as_notes_to_the_error_of_the_fit() -> None:
    failure = RuntimeError("the fit")
    assert clean_up([OSError("a"), ValueError("b")], failure) == (["1", "0"], None)
    assert failure.__notes__ == [
        "nntrain: then ValueError('b') nntrain: raised in Noting.cleanup_fit",
        "nntrain: then OSError('a') nntrain: raised in Noting.cleanup_fit",
    ]


LOOP = """\
fit
  before_fit: DeviceCallback
  each epoch
    before_epoch: Noting
    train
      before_train
      each batch
        before_batch: DeviceCallback
        after_pred
        after_loss
        before_backward
        after_cancel_backward
        after_backward
        before_step
        after_cancel_step
        after_step
        after_cancel_batch
        after_batch
      after_cancel_train
      after_train
    validate
      before_validate
      each batch
        before_batch: DeviceCallback
        after_pred
        after_loss
        after_cancel_batch
        after_batch
      after_cancel_validate
      after_validate
    after_cancel_epoch
    after_epoch
  after_cancel_fit
  after_fit
  cleanup_fit: Noting"""


def test_training_loop_text_names_the_callbacks_at_each_event() -> None:
    assert training_loop_text([DeviceCallback(), Noting()]) == LOOP


def test_training_loop_text_lists_cleanup_in_reverse_order() -> None:
    assert training_loop_text([Noting(), FitOnly()]).endswith("cleanup_fit: FitOnly, Noting")


def test_training_loop_text_names_every_event_of_a_fit() -> None:
    words = training_loop_text([]).split()
    assert [event for event in Event if event not in words] == [Event.AFTER_CREATE]


def test_show_training_loop_prints_what_it_returns(capsys: pytest.CaptureFixture[str]) -> None:
    text = toy_learner().show_training_loop()
    assert capsys.readouterr().out == text + "\n"
    assert "before_batch: DeviceCallback, CastToTensor\n" in text
