"""The values of the averaged weights, and the events at which the model has these weights."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from nntrain import (
    Callback,
    CancelFitException,
    CancelStepException,
    Event,
    Learner,
)
from nntrain.callbacks import EMA, GradientAccumulation
from nntrain.testing import RaiseAt
from tests.common.scripted import flat
from tests.common.toys import toy_learner


class TorchAverage(Callback):
    """Averages the weights after the same steps with torch's `AveragedModel`."""

    order = 64

    def __init__(self, decay: float) -> None:
        self.decay = decay

    def before_fit(self, learn: Learner) -> None:
        average = get_ema_multi_avg_fn(self.decay)  # type: ignore[no-untyped-call]
        self.averaged = AveragedModel(learn.model, multi_avg_fn=average)

    def after_step(self, learn: Learner) -> None:
        self.averaged.update_parameters(learn.model)

    @property
    def weights(self) -> Tensor:
        return flat(self.averaged.module)


class Held(Callback):
    """Records the weights of the model at chosen events."""

    order = 66

    def __init__(self) -> None:
        self.at: dict[str, list[Tensor]] = {}

    def keep(self, event: Event, learn: Learner) -> None:
        self.at.setdefault(event, []).append(flat(learn.model))

    def after_train(self, learn: Learner) -> None:
        self.keep(Event.AFTER_TRAIN, learn)

    def before_validate(self, learn: Learner) -> None:
        self.keep(Event.BEFORE_VALIDATE, learn)

    def after_epoch(self, learn: Learner) -> None:
        self.keep(Event.AFTER_EPOCH, learn)

    def before_train(self, learn: Learner) -> None:
        self.keep(Event.BEFORE_TRAIN, learn)

    def after_cancel_fit(self, learn: Learner) -> None:
        self.keep(Event.AFTER_CANCEL_FIT, learn)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 0.999])
def test_the_average_equals_torchs(decay: float) -> None:
    torchs = TorchAverage(decay)
    learn = toy_learner(cbs=[EMA(decay), torchs])
    learn.fit(3)
    assert torch.equal(flat(learn.model), torchs.weights)


def test_the_average_equals_the_formula() -> None:
    class Weights(Callback):
        def before_fit(self, learn: Learner) -> None:
            self.seen: list[Tensor] = []

        def after_step(self, learn: Learner) -> None:
            self.seen.append(flat(learn.model))

    learn = toy_learner(cbs=[EMA(0.75), weights := Weights()])
    learn.fit(1)
    average = weights.seen[0]
    for seen in weights.seen[1:]:
        average = 0.75 * average + 0.25 * seen
    torch.testing.assert_close(flat(learn.model), average)


def test_training_is_not_changed() -> None:
    plain = toy_learner(cbs=[expected := Held()])
    plain.fit(3)
    learn = toy_learner(cbs=[EMA(0.9), held := Held()])
    learn.fit(3)
    for event in (Event.AFTER_TRAIN, Event.BEFORE_TRAIN):
        assert torch.equal(torch.stack(held.at[event]), torch.stack(expected.at[event]))
    assert torch.equal(learn.recorder.losses, plain.recorder.losses)


def test_the_model_holds_the_average_from_validation_to_the_end_of_the_epoch() -> None:
    torchs, held = TorchAverage(0.9), Held()
    learn = toy_learner(cbs=[EMA(0.9), torchs, held])
    learn.fit(1)
    assert torch.equal(held.at[Event.BEFORE_VALIDATE][0], torchs.weights)
    assert torch.equal(held.at[Event.AFTER_EPOCH][0], torchs.weights)
    assert not torch.equal(held.at[Event.AFTER_TRAIN][0], torchs.weights)


@pytest.mark.parametrize("event", [Event.AFTER_LOSS, Event.BEFORE_VALIDATE, Event.AFTER_EPOCH])
def test_a_cancelled_fit_shows_what_was_trained_and_then_keeps_the_average(event: Event) -> None:
    torchs, held = TorchAverage(0.9), Held()
    learn = toy_learner(cbs=[EMA(0.9), torchs, held, RaiseAt(event, CancelFitException(), epoch=1)])
    learn.fit(3)
    assert torch.equal(flat(learn.model), torchs.weights)
    assert not torch.equal(held.at[Event.AFTER_CANCEL_FIT][0], torchs.weights)


@pytest.mark.parametrize(
    "event", [Event.BEFORE_FIT, Event.AFTER_LOSS, Event.AFTER_VALIDATE, Event.AFTER_EPOCH]
)
@pytest.mark.parametrize("err", [KeyboardInterrupt(), RuntimeError("broken")])
def test_after_an_error_the_model_holds_what_was_trained(event: Event, err: BaseException) -> None:
    def weights(*cbs: Callback) -> Tensor:
        learn = toy_learner(cbs=[*cbs, RaiseAt(event, err)])
        with pytest.raises(type(err)):
            learn.fit(2)
        return flat(learn.model)

    assert torch.equal(weights(EMA(0.9)), weights())


def test_a_fit_without_a_step_leaves_the_weights_alone() -> None:
    learn = toy_learner(cbs=[EMA(0.9), GradientAccumulation(1000)])
    before = flat(learn.model)
    learn.fit(2)
    assert torch.equal(flat(learn.model), before)


def test_a_step_that_was_cancelled_is_not_averaged() -> None:
    class Steps(TorchAverage):
        def after_step(self, learn: Learner) -> None:
            if learn.iter != 2:
                super().after_step(learn)

    torchs = Steps(0.9)
    cancel = RaiseAt(Event.BEFORE_STEP, CancelStepException(), iteration=2)
    learn = toy_learner(cbs=[cancel, EMA(0.9), torchs])
    learn.fit(1)
    assert torch.equal(flat(learn.model), torchs.weights)


def test_buffers_stay_the_models_own_and_tied_weights_are_averaged_once() -> None:
    def model() -> nn.Sequential:
        torch.manual_seed(0)
        tied = nn.Linear(1, 1)
        return nn.Sequential(tied, nn.BatchNorm1d(1), tied)

    torchs = TorchAverage(0.9)
    learn = toy_learner(model=model(), cbs=[EMA(0.9), torchs])
    learn.fit(2)
    plain = toy_learner(model=model())
    plain.fit(2)
    assert torch.equal(flat(learn.model), torchs.weights)
    for name, buffer in learn.model.named_buffers():
        assert torch.equal(buffer, plain.model.get_buffer(name))


@pytest.mark.parametrize("event", [Event.AFTER_TRAIN, Event.AFTER_EPOCH])
def test_the_state_continues_in_another_fit(event: Event) -> None:
    kept: list[Any] = []

    class Keep(Callback):
        order = 80

        def keep(self, learn: Learner, here: Event) -> None:
            if here is event and learn.epoch == 0:
                kept.extend([learn.model.state_dict(), ema.state_dict()])
                kept[:] = torch.load(_saved(kept), weights_only=True)

        def after_train(self, learn: Learner) -> None:
            self.keep(learn, Event.AFTER_TRAIN)

        def after_epoch(self, learn: Learner) -> None:
            self.keep(learn, Event.AFTER_EPOCH)

    ema = EMA(0.9)
    whole = toy_learner(cbs=[ema, Keep()])
    whole.fit(2)

    class Resume(Callback):
        order = 80

        def before_fit(self, learn: Learner) -> None:
            learn.model.load_state_dict(kept[0])
            resumed.load_state_dict(kept[1])

    resumed = EMA(0.9)
    part = toy_learner(cbs=[resumed, Resume()])
    part.fit(2, start_epoch=1)
    assert torch.equal(flat(part.model), flat(whole.model))


def _saved(state: Any) -> str:
    torch.save(state, "state.pt")
    return "state.pt"


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_the_decay_must_be_below_one(decay: float) -> None:
    with pytest.raises(ValueError, match=r"decay=.* must be at least 0 and less than 1"):
        EMA(decay)
