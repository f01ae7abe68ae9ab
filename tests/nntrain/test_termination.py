"""How a fit may end: every cell of the termination table in docs/architecture.md."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from nntrain import (
    Callback,
    CancelBatchException,
    CancelEpochException,
    CancelException,
    CancelFitException,
    Event,
    FitResult,
    Learner,
    StopReason,
)
from nntrain.core.events import BACKWARD, BATCH, EPOCH, FIT, STEP, TRAIN, VALIDATE, Level
from nntrain.testing import RaiseAt, SpyCallback
from tests.common.toys import Lists, regression_lists, toy_learner

LEVELS = [FIT, EPOCH, TRAIN, VALIDATE, BATCH, BACKWARD, STEP]
OUTER = {BACKWARD: BATCH, STEP: BATCH, BATCH: TRAIN, TRAIN: EPOCH, VALIDATE: EPOCH, EPOCH: FIT}


def name_of(value: object) -> str:
    return value.cancel.__name__ if isinstance(value, Level) else type(value).__name__


@dataclass
class Ended:
    """The events and the result of a fit with two epochs of two batches each."""

    events: list[str]
    result: FitResult | None
    err: BaseException | None
    learn: Learner

    def count(self, event: Event) -> int:
        return self.events.count(event)


def ended(
    err: BaseException | None, event: Event = Event.BEFORE_FIT, *cbs: Callback, **kwargs: Any
) -> Ended:
    spy = SpyCallback() if err is None else RaiseAt(event, err)
    learn = toy_learner(regression_lists(16, 8), cbs=[*cbs, spy], **kwargs)
    try:
        result = learn.fit(2)
    except BaseException as raised:  # noqa: BLE001 - KeyboardInterrupt is a row of the table
        return Ended(spy.events, None, raised, learn)
    return Ended(spy.events, result, None, learn)


PLAIN = {FIT: 1, EPOCH: 2, TRAIN: 2, VALIDATE: 2, BATCH: 6, BACKWARD: 4, STEP: 4}
"""How often each level runs in a fit that is not cancelled."""

# --- the normal end


@pytest.mark.parametrize("level", LEVELS, ids=name_of)
def test_a_normal_end_has_no_after_cancel(level: Level) -> None:
    assert ended(None).count(level.after_cancel) == 0


@pytest.mark.parametrize("level", LEVELS, ids=name_of)
def test_a_normal_end_has_after_x_each_time(level: Level) -> None:
    assert ended(None).count(level.after) == PLAIN[level]


def test_a_normal_end_cleans_up_once_and_last() -> None:
    end = ended(None)
    assert (end.count(Event.CLEANUP_FIT), end.events[-1]) == (1, "cleanup_fit")


def test_a_normal_end_returns_completed() -> None:
    end = ended(None)
    assert end.result is not None
    assert (end.result.reason, end.result.message) == (StopReason.COMPLETED, "")
    assert (end.result.n_epoch, end.result.train_iter, end.result.signum) == (2, 4, None)
    assert end.result.metrics == end.learn.recorder.row
    assert end.result is end.learn.result


# --- the cancel exception of level X, raised at level X


@pytest.mark.parametrize("level", LEVELS, ids=name_of)
def test_a_cancel_of_x_runs_after_cancel_x_once_and_no_other(level: Level) -> None:
    end = ended(level.cancel(), level.before)
    assert [event for event in end.events if event.startswith("after_cancel_")] == [
        level.after_cancel
    ]


@pytest.mark.parametrize("level", LEVELS, ids=name_of)
def test_a_cancel_of_x_runs_after_x_right_after_after_cancel_x(level: Level) -> None:
    events = ended(level.cancel(), level.before).events
    at = events.index(level.before)
    assert events[at : at + 3] == [level.before, level.after_cancel, level.after]


@pytest.mark.parametrize("level", LEVELS, ids=name_of)
def test_a_cancel_cleans_up_once_and_last(level: Level) -> None:
    end = ended(level.cancel(), level.before)
    assert (end.count(Event.CLEANUP_FIT), end.events[-1]) == (1, "cleanup_fit")


@pytest.mark.parametrize("level", LEVELS[1:], ids=name_of)
def test_after_a_cancel_the_fit_continues_and_completes(level: Level) -> None:
    end = ended(level.cancel(reason=StopReason.PRUNED), level.before)
    assert end.count(level.before) == PLAIN[level]
    assert end.result is not None
    assert end.result.reason is StopReason.COMPLETED


@pytest.mark.parametrize(
    "reason", [reason for reason in StopReason if reason is not StopReason.COMPLETED]
)
def test_a_cancelled_fit_returns_its_reason(reason: StopReason) -> None:
    end = ended(CancelFitException("enough", reason=reason), Event.BEFORE_BATCH)
    assert end.result is not None
    assert (end.result.reason, end.result.message) == (reason, "enough")


# --- the cancel exception of level X, raised at an inner level, skips the levels between


@pytest.mark.parametrize("level", [FIT, EPOCH, TRAIN, BATCH, STEP], ids=name_of)
def test_a_cancel_from_an_inner_level_skips_the_after_events_of_the_levels_between(
    level: Level,
) -> None:
    events = ended(level.cancel(), Event.BEFORE_STEP).events
    at = events.index(Event.BEFORE_STEP)
    assert events[at + 1 : at + 3] == [level.after_cancel, level.after]


@pytest.mark.parametrize("level", [FIT, EPOCH, VALIDATE, BATCH], ids=name_of)
def test_a_cancel_from_a_validation_batch_skips_the_after_events_of_the_levels_between(
    level: Level,
) -> None:
    class InValidation(RaiseAt):
        def on(self, event: Event, learn: Learner) -> None:
            if not learn.training:
                super().on(event, learn)

    spy = InValidation(Event.AFTER_PRED, level.cancel())
    toy_learner(regression_lists(16, 8), cbs=[spy]).fit(2)
    at = spy.events.index(level.after_cancel)
    assert spy.events[at - 1 : at + 2] == [Event.AFTER_PRED, level.after_cancel, level.after]


@pytest.mark.parametrize(("level", "outer"), OUTER.items(), ids=name_of)
def test_a_cancel_raised_outside_its_level_is_an_error_that_says_where(
    level: Level, outer: Level
) -> None:
    end = ended(level.cancel(), outer.before)
    assert isinstance(end.err, level.cancel)
    assert end.events[-2:] == [outer.before, "cleanup_fit"]
    assert end.err.__notes__[0].startswith("nntrain: raised in the loop, epoch 0, iteration 0, ")
    assert end.learn.result.reason is StopReason.ERROR


# --- any other exception, and Ctrl-C


class Special(Exception):
    """Takes two arguments, so it cannot be created again from its message."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first}{second}")
        self.pair = first, second


FAILURES: list[tuple[Callable[[], BaseException], StopReason]] = [
    (ValueError, StopReason.ERROR),
    (lambda: Special(1, 2), StopReason.ERROR),
    (StopIteration, StopReason.ERROR),
    (MemoryError, StopReason.OUT_OF_MEMORY),
    (KeyboardInterrupt, StopReason.INTERRUPTED),
    (lambda: SystemExit(3), StopReason.ERROR),
]
failing = pytest.mark.parametrize(
    ("make", "reason"),
    FAILURES,
    ids=[type(make()).__name__ for make, _ in FAILURES],
)
EVENTS = [
    event
    for event in Event
    if event not in (Event.AFTER_CREATE, Event.CLEANUP_FIT)
    and not event.startswith("after_cancel_")
]
at_every_event = pytest.mark.parametrize("event", EVENTS)


@failing
@at_every_event
def test_after_a_failure_the_only_event_is_cleanup_fit(
    event: Event, make: Callable[[], BaseException], reason: StopReason
) -> None:
    end = ended(make(), event)
    plain = ended(None).events
    assert end.events == [*plain[: plain.index(event) + 1], "cleanup_fit"]


@failing
@at_every_event
def test_a_failure_is_raised_unchanged(
    event: Event, make: Callable[[], BaseException], reason: StopReason
) -> None:
    err = make()
    assert ended(err, event).err is err


@failing
def test_cleanup_fit_sees_the_failure_in_the_result(
    make: Callable[[], BaseException], reason: StopReason
) -> None:
    seen: list[FitResult] = []

    class Reading(Callback):
        def cleanup_fit(self, learn: Learner) -> None:
            seen.append(learn.result)

    err = make()
    ended(err, Event.AFTER_LOSS, Reading())
    assert [(result.reason, result.message) for result in seen] == [
        (reason, f"{type(err).__name__}: {err}")
    ]


@pytest.mark.parametrize("level", LEVELS, ids=name_of)
def test_a_failure_after_a_cancel_is_raised(level: Level) -> None:
    class Both(RaiseAt):
        def on(self, event: Event, learn: Learner) -> None:
            super().on(event, learn)
            if event is level.after_cancel:
                raise ValueError("lost")

    spy = Both(level.before, level.cancel())
    with pytest.raises(ValueError, match="lost"):
        toy_learner(cbs=[spy]).fit(1)
    assert spy.events[-2:] == [level.after_cancel, "cleanup_fit"]


# --- the note that says where an error was raised


def notes_of(learn: Learner, n_epoch: int = 3) -> list[str]:
    with pytest.raises(ArithmeticError) as info:
        learn.fit(n_epoch)
    return info.value.__notes__


def test_the_note_has_callback_event_epoch_iteration_and_part() -> None:
    class Late(RaiseAt):
        order: ClassVar[int] = 7

    cb = Late(Event.AFTER_LOSS, ArithmeticError(), epoch=2, iteration=3)
    assert notes_of(toy_learner(cbs=[cb])) == [
        "nntrain: raised in Late.after_loss (order=7), epoch 2, iteration 3, train"
    ]


def test_the_note_of_an_error_in_validation_says_so() -> None:
    cb = RaiseAt(Event.AFTER_VALIDATE, ArithmeticError(), epoch=1)
    assert notes_of(toy_learner(cbs=[cb])) == [
        "nntrain: raised in RaiseAt.after_validate (order=0), epoch 1, iteration 2, valid"
    ]


class FailingModel(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        raise ArithmeticError


def test_the_note_of_an_error_in_the_model_names_the_loop() -> None:
    assert notes_of(toy_learner(model=FailingModel(1, 1))) == [
        "nntrain: raised in the loop, epoch 0, iteration 0, train"
    ]


def failing_loss(pred: Tensor, target: Tensor) -> Tensor:
    raise ArithmeticError


def test_the_notes_of_an_error_in_the_loss_have_its_arguments() -> None:
    assert notes_of(toy_learner(loss_func=failing_loss)) == [
        "nntrain: the loss was called with pred float32 (8, 1) and target float32 (8, 1)",
        "nntrain: raised in the loop, epoch 0, iteration 0, train",
    ]


def test_the_note_of_an_error_in_a_second_fit_has_its_own_place() -> None:
    learn = toy_learner(cbs=[RaiseAt(Event.AFTER_BATCH, ArithmeticError(), epoch=2)])
    learn.fit(2)
    learn.add_cb(RaiseAt(Event.BEFORE_FIT, ArithmeticError()))
    assert notes_of(learn)[0].startswith(
        "nntrain: raised in RaiseAt.before_fit (order=0), epoch 0, iteration 0"
    )


def test_a_bare_error_in_a_callback_keeps_its_type() -> None:
    """fastai reads `args[0]` of the error, and raises an IndexError instead."""
    end = ended(ValueError(), Event.AFTER_BATCH)
    assert type(end.err) is ValueError
    assert end.err.args == ()


def test_an_error_raised_again_in_another_fit_gets_another_note() -> None:
    err = ArithmeticError()
    for _ in range(2):
        assert ended(err, Event.BEFORE_FIT).err is err
    assert len(err.__notes__) == 2


# --- cleanup


class Cleaning(Callback):
    def __init__(self, name: str, log: list[str], err: BaseException | None = None) -> None:
        self.name, self.log, self.err = name, log, err

    def cleanup_fit(self, learn: Learner) -> None:
        self.log.append(self.name)
        if self.err is not None:
            raise self.err


ENDS = [
    None,
    CancelFitException(),
    CancelEpochException(),
    CancelBatchException(),
    ValueError("lost"),
    KeyboardInterrupt(),
]


@pytest.mark.parametrize("err", ENDS, ids=name_of)
def test_cleanup_runs_in_reverse_order_however_the_fit_ended(err: BaseException | None) -> None:
    log: list[str] = []
    ended(err, Event.BEFORE_BATCH, Cleaning("a", log), Cleaning("b", log), Cleaning("c", log))
    assert log == ["c", "b", "a"]


@pytest.mark.parametrize("err", ENDS, ids=name_of)
def test_cleanup_reaches_every_callback_even_if_one_fails(err: BaseException | None) -> None:
    log: list[str] = []
    trouble = OSError("disk full")
    end = ended(
        err, Event.BEFORE_BATCH, Cleaning("a", log), Cleaning("b", log, trouble), Cleaning("c", log)
    )
    assert log == ["c", "b", "a"]
    failed = err is not None and not isinstance(err, CancelException)
    assert end.err is (err if failed else trouble)
    if failed and end.err is not None:
        assert (
            "nntrain: then OSError('disk full') nntrain: raised in Cleaning.cleanup_fit"
            in end.err.__notes__
        )


def test_a_failed_cleanup_makes_the_result_an_error() -> None:
    end = ended(None, Event.BEFORE_FIT, Cleaning("a", [], OSError("disk full")))
    assert (end.learn.result.reason, end.learn.result.message) == (
        StopReason.ERROR,
        "OSError: disk full",
    )


def test_several_failed_cleanups_are_raised_together() -> None:
    end = ended(
        None, Event.BEFORE_FIT, Cleaning("a", [], OSError()), Cleaning("b", [], ValueError())
    )
    assert isinstance(end.err, ExceptionGroup)
    assert [type(err) for err in end.err.exceptions] == [ValueError, OSError]


# --- what a fit must restore


class Hooking(Callback):
    """Adds a hook, as statistics do."""

    handle: RemovableHandle | None = None

    def before_fit(self, learn: Learner) -> None:
        self.handle = learn.model.register_forward_hook(lambda module, args, output: None)

    def cleanup_fit(self, learn: Learner) -> None:
        if self.handle is not None:
            self.handle.remove()


def mixed_model() -> nn.Sequential:
    """Returns a model with one part in eval mode, like a frozen backbone."""
    model = nn.Sequential(nn.Linear(1, 2), nn.Dropout(0.1), nn.Linear(2, 1))
    model[1].eval()
    return model


@pytest.mark.parametrize("err", ENDS, ids=name_of)
@pytest.mark.parametrize("event", [Event.BEFORE_FIT, Event.BEFORE_VALIDATE, Event.AFTER_STEP])
@pytest.mark.parametrize("cleans_up_well", [True, False])
def test_hooks_grad_mode_and_training_flags_are_restored(
    event: Event, err: BaseException | None, cleans_up_well: bool
) -> None:
    model = mixed_model()
    modes = [module.training for module in model.modules()]
    trouble = None if cleans_up_well else OSError()
    end = ended(err, event, Hooking(), Cleaning("a", [], trouble), model=model)
    assert len(model._forward_hooks) == 0
    assert torch.is_grad_enabled()
    assert [module.training for module in model.modules()] == modes
    assert end.learn.loop is None


def test_gradients_that_a_callback_disabled_are_enabled_again() -> None:
    class Off(Callback):
        def before_validate(self, learn: Learner) -> None:
            torch.set_grad_enabled(False)

        def after_fit(self, learn: Learner) -> None:
            torch.set_grad_enabled(False)

    ended(None, Event.BEFORE_FIT, Off())
    assert torch.is_grad_enabled()


def test_a_fit_within_no_grad_trains_and_restores_no_grad() -> None:
    plain, within = toy_learner(), toy_learner()
    plain.fit(2)
    with torch.no_grad():
        within.fit(2)
        assert not torch.is_grad_enabled()
    assert torch.equal(plain.recorder.losses, within.recorder.losses)
    assert torch.equal(plain.model.weight, within.model.weight)


def test_validation_computes_no_gradients() -> None:
    seen: list[tuple[bool, bool]] = []

    class Watching(Callback):
        def after_pred(self, learn: Learner) -> None:
            seen.append((learn.training, learn.pred.requires_grad))

    toy_learner(regression_lists(8, 8), cbs=[Watching()]).fit(1)
    assert seen == [(True, True), (False, False)]


@pytest.mark.parametrize("err", ENDS, ids=name_of)
def test_another_fit_works_however_the_last_one_ended(err: BaseException | None) -> None:
    end = ended(err, Event.AFTER_STEP)
    assert end.learn.fit(1).reason is StopReason.COMPLETED


@pytest.mark.parametrize("err", ENDS, ids=name_of)
def test_callbacks_of_a_fit_are_removed_and_the_callers_list_is_not_changed(
    err: BaseException | None,
) -> None:
    given = [SpyCallback() if err is None else RaiseAt(Event.BEFORE_BATCH, err)]
    learn = toy_learner(regression_lists(16, 8))
    own = list(learn.cbs)
    with suppress(ValueError, KeyboardInterrupt):
        learn.fit(1, cbs=given)
    assert learn.cbs == own
    assert len(given) == 1


def test_an_error_in_after_create_leaves_no_callback_behind() -> None:
    class Failing(Callback):
        def after_create(self, learn: Learner) -> None:
            raise ValueError("no such layer")

    learn, given = toy_learner(), [SpyCallback(), Failing()]
    own = list(learn.cbs)
    with pytest.raises(ValueError, match="no such layer"):
        learn.fit(1, cbs=given)
    assert (learn.cbs, len(given)) == (own, 2)


def test_the_failure_does_not_keep_the_batch_alive() -> None:
    """The user may keep the traceback, but the learner keeps no exception after the fit."""
    learn = toy_learner(cbs=[RaiseAt(Event.AFTER_BATCH, ValueError("lost"))])
    with pytest.raises(ValueError, match="lost"):
        learn.fit(1)
    assert learn.loop is None


# --- loaders that end the fit


def test_an_empty_training_loader_is_an_error_that_says_why() -> None:
    with pytest.raises(
        ValueError, match="yielded no batches: the dataset is empty, or drop_last dropped"
    ):
        toy_learner(Lists([], regression_lists().valid)).fit(1)


def test_an_empty_validation_loader_is_an_error_that_says_why() -> None:
    with pytest.raises(ValueError, match="The validation loader yielded no batch"):
        toy_learner(Lists(regression_lists().train, [])).fit(1)


class Failing:
    """Yields some batches and then fails."""

    def __init__(self, batches: Any, err: BaseException) -> None:
        self.batches, self.err = batches, err

    def __iter__(self) -> Any:
        yield from self.batches
        raise self.err


@pytest.mark.parametrize("n_batch", [0, 1, 3])
def test_an_error_in_a_loader_ends_the_fit_as_any_other_error(n_batch: int) -> None:
    spy, err = SpyCallback(), OSError("file gone")
    lists = regression_lists()
    learn = toy_learner(Lists(Failing(list(lists.train)[:n_batch], err), lists.valid), cbs=[spy])
    with pytest.raises(OSError, match="file gone") as info:
        learn.fit(1)
    assert info.value is err
    assert spy.events.count("after_batch") == learn.train_iter == n_batch
    assert spy.events[-1] == "cleanup_fit"
    assert "after_train" not in spy.events
