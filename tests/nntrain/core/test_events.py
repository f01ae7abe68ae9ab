"""A fit has the same events as fastai, in the same order, also after every cancel exception."""

import dataclasses
import signal
from typing import Any

import optuna
import pytest
import torch

from nntrain import CancelException, CancelFitException, Event, FitResult, Learner, StopReason
from nntrain.core.events import BACKWARD, BATCH, EPOCH, FIT, STEP, TRAIN, VALIDATE, reason_of
from nntrain.result import exit_code
from nntrain.testing import SpyCallback
from tests.common.reference import reference
from tests.common.toys import regression_lists, toy_learner

LEVELS = {
    level.before.value.removeprefix("before_"): level
    for level in (FIT, EPOCH, TRAIN, VALIDATE, BATCH, BACKWARD, STEP)
}
PARTS = {"train": True, "valid": False, "any": None}
REFERENCE = reference("learner")


class CountingSGD(torch.optim.SGD):
    n_step, n_zero_grad = 0, 0

    def step(self, closure: Any = None) -> None:
        self.n_step += 1
        super().step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.n_zero_grad += 1
        super().zero_grad(set_to_none)


class Cancelling(SpyCallback):
    """Raises each planned exception once, at its event in training, validation, or either."""

    def __init__(self, plan: list[tuple[str, bool | None, CancelException]]) -> None:
        super().__init__()
        self.plan = list(plan)

    def on(self, event: Event, learn: Learner) -> None:
        for step in self.plan:
            if step[0] == event and step[1] in (None, learn.training):
                self.plan.remove(step)
                raise step[2]


def plan_of(case: dict[str, Any]) -> list[tuple[str, bool | None, CancelException]]:
    event, part = case["event"], PARTS[case["part"]]
    plan = [(event, part, LEVELS[case["level"]].cancel())]
    if event.startswith("after_cancel_"):
        inner = event.removeprefix("after_cancel_")
        plan.insert(0, (f"before_{inner}", part, LEVELS[inner].cancel()))
    return plan


def traced(plan: list[tuple[str, bool | None, CancelException]]) -> dict[str, Any]:
    spy = Cancelling(plan)
    learn = toy_learner(regression_lists(16, 8), opt_func=CountingSGD, cbs=[spy])
    escaped = None
    try:
        learn.fit(2)
    except CancelException as err:
        escaped = type(err).__name__
    opt = learn.opt
    assert isinstance(opt, CountingSGD)
    *events, last = spy.events
    assert last == "cleanup_fit"
    counts = {"n_step": opt.n_step, "n_zero_grad": opt.n_zero_grad, "train_iter": learn.train_iter}
    return {"escaped": escaped, **counts, "events": " ".join(events)}


def test_the_event_names_are_fastais_plus_after_create_and_cleanup_fit() -> None:
    assert {event.value for event in Event} == {
        *REFERENCE["event_names"],
        "after_create",
        "cleanup_fit",
    }


def test_the_trace_of_a_fit_equals_fastais() -> None:
    assert traced([]) == REFERENCE["uncancelled"]


@pytest.mark.parametrize(
    "case",
    REFERENCE["cancels"],
    ids=lambda case: f"{case['level']}-at-{case['event']}-{case['part']}",
)
def test_every_cancel_at_every_event_behaves_as_in_fastai(case: dict[str, Any]) -> None:
    expected = {
        name: case[name] for name in ("escaped", "n_step", "n_zero_grad", "train_iter", "events")
    }
    assert traced(plan_of(case)) == expected


def test_every_level_is_cancelled_at_every_event() -> None:
    cancelled = {(case["level"], case["event"]) for case in REFERENCE["cancels"]}
    assert cancelled == {(level, event) for level in LEVELS for event in REFERENCE["event_names"]}


@pytest.mark.parametrize("part", [Event, StopReason])
def test_names_are_plain_strings(part: type[Event] | type[StopReason]) -> None:
    assert [str(member) for member in part] == [member.name.lower() for member in part]


@pytest.mark.parametrize(
    ("err", "reason"),
    [
        (ValueError("x"), StopReason.ERROR),
        (KeyboardInterrupt(), StopReason.INTERRUPTED),
        (MemoryError(), StopReason.OUT_OF_MEMORY),
        (optuna.TrialPruned("no promise"), StopReason.PRUNED),
        (torch.OutOfMemoryError("x"), StopReason.OUT_OF_MEMORY),
        (RuntimeError("x"), StopReason.ERROR),
    ],
)
def test_each_exception_has_a_reason(err: BaseException, reason: StopReason) -> None:
    assert reason_of(err) is reason


def test_a_cancel_has_a_message_and_a_reason() -> None:
    cancel = CancelFitException("no time", reason=StopReason.BUDGET, signum=signal.SIGTERM)
    assert (str(cancel), cancel.message, cancel.reason, cancel.signum) == (
        "no time",
        "no time",
        "budget",
        15,
    )


def test_the_default_reason_of_a_cancel_is_early_stopping() -> None:
    cancel = CancelFitException()
    assert (cancel.message, cancel.reason, cancel.signum) == ("", StopReason.EARLY_STOPPED, None)


def test_a_result_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        FitResult(StopReason.COMPLETED).reason = StopReason.ERROR  # type: ignore[misc]


@pytest.mark.parametrize(
    ("reason", "signum", "expected"),
    [
        (StopReason.COMPLETED, None, 0),
        (StopReason.EARLY_STOPPED, None, 0),
        (StopReason.BUDGET, None, 0),
        (StopReason.PRUNED, None, 0),
        (StopReason.DIVERGED, None, 1),
        (StopReason.ERROR, None, 1),
        (StopReason.OUT_OF_MEMORY, None, 1),
        (StopReason.INTERRUPTED, signal.SIGTERM, 143),
        (StopReason.INTERRUPTED, signal.SIGINT, 130),
        (StopReason.INTERRUPTED, None, 130),
    ],
)
def test_the_exit_code_is_that_of_the_outcome_table(
    reason: StopReason, signum: signal.Signals | None, expected: int
) -> None:
    assert exit_code(reason, signum) == expected


def test_every_reason_has_an_exit_code() -> None:
    assert {exit_code(reason) for reason in StopReason} == {0, 1, 130}
