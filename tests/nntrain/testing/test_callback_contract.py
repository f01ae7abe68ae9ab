"""A correct callback passes the contract, and each faulty callback fails the matching test."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch

from nntrain import Callback, CancelFitException, Event, Learner, Purpose
from nntrain.testing import CallbackContract, SpyCallback, small_learner


class LeavesAHook(Callback):
    def before_fit(self, learn: Learner) -> None:
        learn.model.register_forward_hook(lambda *_: None)


class ThawsOnlyAfterAFullFit(Callback):
    """Freezes a layer, and unfreezes it only after a complete fit."""

    def before_fit(self, learn: Learner) -> None:
        next(learn.model.parameters()).requires_grad_(False)

    def after_fit(self, learn: Learner) -> None:
        next(learn.model.parameters()).requires_grad_(True)


class ReadsTheLoss(Callback):
    def after_loss(self, learn: Learner) -> None:
        if learn.training:
            learn.loss.detach().item()  # type: ignore[union-attr]


class ForgetsItsState(Callback):
    """Divides the gradients by the number of steps in all fits so far, but saves no state."""

    purposes: ClassVar[frozenset[Purpose]] = frozenset({Purpose.FIT})

    def __init__(self) -> None:
        self.n_step = 0

    def before_step(self, learn: Learner) -> None:
        self.n_step += 1
        for param in learn.model.parameters():
            if param.grad is not None:
                param.grad.div_(self.n_step)


class KeepsItsState(ForgetsItsState):
    def state_dict(self) -> dict[str, Any]:
        return {"n_step": self.n_step}

    def load_state_dict(self, state: Any) -> None:
        self.n_step = state["n_step"]


class RemembersLrFind(KeepsItsState):
    """Counts calls of `lr_find` in a class attribute, which `lr_find` cannot restore."""

    purposes: ClassVar[frozenset[Purpose]] = frozenset(Purpose)
    n_find: ClassVar[list[int]] = []

    def before_fit(self, learn: Learner) -> None:
        if learn.purpose is Purpose.LR_FIND:
            self.n_find.append(1)
        self.n_step += 5 * len(self.n_find)


class ChangesTheData(Callback):
    def before_batch(self, learn: Learner) -> None:
        learn.xb[0].mul_(1.01)


class ShiftsPredictions(Callback):
    def after_pred(self, learn: Learner) -> None:
        learn.pred = learn.pred + 1


class CleansUpTooMuch(Callback):
    def cleanup_fit(self, learn: Learner) -> None:
        with torch.no_grad():
            for param in learn.model.parameters():
                param.mul_(0.5)


class DrawsItsOwnSeed(Callback):
    def before_batch(self, learn: Learner) -> None:
        learn.xb = (learn.xb[0] + torch.randn(1, generator=GENERATOR),)


class StopsTheFit(Callback):
    def after_epoch(self, learn: Learner) -> None:
        raise CancelFitException


class HasNoBand(Callback):
    order: ClassVar[int] = 101


GENERATOR = torch.Generator()


def contract(make: Callable[[], Callback]) -> CallbackContract:
    class Contract(CallbackContract):
        def make(self) -> Callback:
            return make()

    return Contract()


FAULTS: list[tuple[type[Callback], Callable[[CallbackContract], None]]] = [
    (LeavesAHook, lambda suite: suite.test_it_withstands_two_fits_and_trains()),
    (StopsTheFit, lambda suite: suite.test_it_withstands_two_fits_and_trains()),
    (
        ThawsOnlyAfterAFullFit,
        lambda suite: suite.test_it_withstands_an_error_of_another_callback(
            Event.AFTER_LOSS, RuntimeError
        ),
    ),
    (
        LeavesAHook,
        lambda suite: suite.test_it_withstands_a_cancel_by_another_callback(
            Event.AFTER_LOSS, CancelFitException
        ),
    ),
    (RemembersLrFind, lambda suite: suite.test_it_withstands_lr_find_between_fits()),
    (ShiftsPredictions, lambda suite: suite.test_it_withstands_validation_and_predictions()),
    (CleansUpTooMuch, lambda suite: suite.test_its_clean_up_may_run_twice_or_without_a_fit()),
    (ChangesTheData, lambda suite: suite.test_it_does_not_change_the_callers_batches()),
    (
        ForgetsItsState,
        lambda suite: suite.test_its_state_continues_in_a_resumed_fit("in training"),
    ),
    (ReadsTheLoss, lambda suite: suite.test_it_reads_the_device_no_more_than_it_says()),
    (DrawsItsOwnSeed, lambda suite: suite.test_the_same_seed_gives_the_same_fit()),
    (StopsTheFit, lambda suite: suite.test_a_model_of_one_module_and_one_batch_is_enough()),
    (HasNoBand, lambda suite: suite.test_its_order_is_in_the_bands_and_it_has_a_purpose()),
]


class TestKeepsItsState(CallbackContract):
    def make(self) -> Callback:
        return KeepsItsState()


@pytest.mark.parametrize(("kind", "test"), FAULTS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_bad_callback_fails(
    kind: type[Callback], test: Callable[[CallbackContract], None]
) -> None:
    test(contract(KeepsItsState))
    with pytest.raises(AssertionError):
        test(contract(kind))


def test_make_must_be_overridden() -> None:
    with pytest.raises(NotImplementedError, match=r"CallbackContract must override make\(\)\."):
        CallbackContract().make()


def test_a_spy_may_override_on() -> None:
    class Counter(SpyCallback):
        n = 0

        def on(self, event: Event, learn: Learner) -> None:
            self.n += event is Event.AFTER_BATCH

    counter = Counter()
    small_learner(counter).fit(2)
    assert counter.n == 2 * (5 + 3)
    assert counter.entries[:2] == [("before_fit", 0, 0), ("before_epoch", 0, 0)]
    assert counter.events[-1] == "cleanup_fit"


def test_a_small_learner_is_always_the_same_and_uses_no_global_random_numbers() -> None:
    torch.manual_seed(3)
    first = [param.clone() for param in small_learner().model.parameters()]
    after = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(1))
    second = list(small_learner().model.parameters())
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.slow
def test_only_the_contracts_need_pytest() -> None:
    code = (
        "import sys\n"
        "class WithoutPytest:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'pytest':\n"
        "            raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, WithoutPytest())\n"
        "from nntrain.testing import MemoryTracker, RaiseAt, SpyCallback, counted_reads\n"
        "from nntrain.testing import InProcess, small_learner\n"
        "small_learner(SpyCallback()).fit(1)\n"
        "try:\n"
        "    from nntrain.testing import CallbackContract\n"
        "except ImportError as err:\n"
        "    print(err.name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "pytest\n"
