"""Gradient accumulation gives the same gradients and steps as fastai, and as one large batch."""

from typing import Any

import pytest
import torch
from torch import nn

from nntrain import (
    Callback,
    CancelBackwardException,
    CancelStepException,
    Event,
    Learner,
)
from nntrain.callbacks import GradientAccumulation, GradientClip
from nntrain.testing import RaiseAt, SpyCallback
from tests.common.reference import reference
from tests.common.scripted import CourseSpy, flat
from tests.common.toys import digits_lists, digits_mlp, regression_lists, toy_learner

FASTAI = reference("callbacks")["accumulation"]


@pytest.mark.parametrize("name", FASTAI)
def test_every_batch_leaves_fastais_weights_and_losses(name: str) -> None:
    n_train, n_acc = map(int, name.split("/"))
    learn = toy_learner(
        regression_lists(n_train), cbs=[GradientAccumulation(n_acc), spy := CourseSpy()]
    )
    learn.fit(2)
    torch.testing.assert_close(
        torch.stack(spy.weights), torch.tensor(FASTAI[name]["weights"]), rtol=1e-5, atol=1e-6
    )
    torch.testing.assert_close(
        learn.recorder.losses, torch.tensor(FASTAI[name]["losses"]), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("bs", [16, 32, 64])
def test_the_steps_equal_those_of_one_large_batch(bs: int) -> None:
    def weights(bs: int, *cbs: Callback) -> list[Any]:
        dls = digits_lists(bs)
        dls.train = list(dls.train)[: 640 // bs]
        spy = CourseSpy()
        Learner(
            digits_mlp(), dls, nn.functional.cross_entropy, lr=0.1, device="cpu", cbs=[*cbs, spy]
        ).fit(2)
        return spy.weights

    small, big = weights(bs, GradientAccumulation(128)), weights(128)
    torch.testing.assert_close(
        torch.stack(small[128 // bs - 1 :: 128 // bs]), torch.stack(big), rtol=1e-4, atol=1e-6
    )


def test_a_batch_without_a_step_has_the_events_of_a_cancelled_batch() -> None:
    class Late(SpyCallback):
        order = 11

    toy_learner(regression_lists(16), cbs=[GradientAccumulation(16), spy := Late()]).fit(1)
    first, second = (
        spy.events[i:] for i, event in enumerate(spy.events) if event == Event.AFTER_BACKWARD
    )
    assert first[1:3] == [Event.AFTER_CANCEL_BATCH, Event.AFTER_BATCH]
    assert second[1:4] == [Event.BEFORE_STEP, Event.AFTER_STEP, Event.AFTER_BATCH]


def test_the_loss_that_others_see_is_weighted_for_the_backward_pass_alone() -> None:
    class Losses(Callback):
        order = 11

        def before_fit(self, learn: Learner) -> None:
            self.seen: list[float] = []

        def after_loss(self, learn: Learner) -> None:
            if learn.training:
                self.seen.append(learn.loss.item())

        before_backward = after_loss
        after_backward = after_loss
        after_batch = after_loss

    toy_learner(regression_lists(8), cbs=[GradientAccumulation(32), losses := Losses()]).fit(1)
    after_loss, weighted, after_backward, after_batch = losses.seen
    assert weighted == pytest.approx(after_loss / 4)
    assert after_loss == after_backward == after_batch


def test_the_accumulated_gradient_is_clipped() -> None:
    norms = []

    class Norms(Callback):
        order = 13

        def before_step(self, learn: Learner) -> None:
            grads = [param.grad for param in learn.model.parameters() if param.grad is not None]
            norms.append(float(torch.cat([grad.flatten() for grad in grads]).norm()))

    toy_learner(cbs=[GradientAccumulation(16), GradientClip(0.25), Norms()]).fit(2)
    assert norms == pytest.approx([0.25] * 5, rel=1e-4)


def test_the_last_unfinished_group_of_a_fit_does_not_reach_the_next_fit() -> None:
    learn = toy_learner(cbs=[GradientAccumulation(1000)])
    learn.fit(1)
    learn.cbs = [cb for cb in learn.cbs if not isinstance(cb, GradientAccumulation)]
    learn.fit(1)
    expected = toy_learner()
    expected.fit(1)
    assert torch.equal(flat(learn.model), flat(expected.model))


def test_a_step_cancelled_by_another_callback_starts_a_new_group() -> None:
    cancel = RaiseAt(Event.BEFORE_STEP, CancelStepException(), iteration=1)
    accumulate = GradientAccumulation(24)
    learn = toy_learner(cbs=[cancel, accumulate, spy := CourseSpy()])
    learn.fit(1)
    assert torch.equal(spy.weights[3], spy.weights[0])
    assert not torch.equal(spy.weights[4], spy.weights[3])
    assert accumulate.count == 0


def test_a_batch_with_a_cancelled_backward_pass_is_not_counted() -> None:
    cancel = RaiseAt(Event.BEFORE_BACKWARD, CancelBackwardException(), iteration=1)
    accumulate = GradientAccumulation(1000)
    toy_learner(cbs=[cancel, accumulate]).fit(1)
    assert accumulate.count == 4 * 8


def test_the_count_is_kept_in_the_state() -> None:
    accumulate = GradientAccumulation(1000)
    toy_learner(cbs=[accumulate]).fit(1)
    other = GradientAccumulation(1000)
    other.load_state_dict(accumulate.state_dict())
    assert (accumulate.state_dict(), other.count) == ({"count": 40}, 40)


def test_at_least_one_item_is_needed() -> None:
    with pytest.raises(ValueError, match="n_acc=0 must be at least 1"):
        GradientAccumulation(0)
