"""With torch's schedulers, the rate of every batch equals that of a handwritten loop."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import pytest
import torch
from torch.optim import lr_scheduler

from nntrain import (
    Callback,
    CancelStepException,
    CancelTrainException,
    Event,
    Learner,
)
from nntrain.callbacks import GradientAccumulation, LRScheduler
from nntrain.schedule import SGDR, FlatCos, OneCycle, ParamScheduler, sched_lin
from nntrain.testing import RaiseAt
from tests.common.scripted import CourseSpy
from tests.common.toys import toy_learner

Per = Literal["batch", "epoch"]


def sequential(opt: Any) -> lr_scheduler.SequentialLR:
    warm_up = lr_scheduler.LinearLR(opt, 0.1, total_iters=2)
    return lr_scheduler.SequentialLR(
        opt, [warm_up, lr_scheduler.ExponentialLR(opt, 0.9)], milestones=[2]
    )


FACTORIES: dict[str, Callable[..., Any]] = {
    "StepLR": partial(lr_scheduler.StepLR, step_size=2),
    "MultiStepLR": partial(lr_scheduler.MultiStepLR, milestones=[1, 3]),
    "LambdaLR": partial(lr_scheduler.LambdaLR, lr_lambda=lambda n: 1 / (1 + n)),
    "CosineAnnealingLR": partial(lr_scheduler.CosineAnnealingLR, T_max=7),
    "CosineAnnealingWarmRestarts": partial(lr_scheduler.CosineAnnealingWarmRestarts, T_0=3),
    "OneCycleLR": partial(lr_scheduler.OneCycleLR, max_lr=0.2, total_steps=20),
    "CyclicLR": partial(lr_scheduler.CyclicLR, base_lr=0.01, max_lr=0.1, step_size_up=3),
    "SequentialLR": sequential,
}


def momentum_sgd(params: Any, lr: float) -> torch.optim.SGD:
    return torch.optim.SGD(params, lr=lr, momentum=0.9)


def by_hand(factory: Callable[..., Any], per: Per, n_epoch: int, n_batch: int = 5) -> list[float]:
    """Returns the learning rate of each batch in a handwritten loop."""
    opt = momentum_sgd([torch.zeros(1, requires_grad=True)], 0.05)
    sched, rates = factory(opt), []
    for _ in range(n_epoch):
        for _ in range(n_batch):
            rates.append(opt.param_groups[0]["lr"])
            opt.step()
            if per == "batch":
                sched.step()
        if per == "epoch":
            sched.step()
    return rates


def learner(*cbs: Callback) -> Learner:
    return toy_learner(opt_func=momentum_sgd, cbs=cbs)


@pytest.mark.parametrize("per", ["batch", "epoch"])
@pytest.mark.parametrize("name", FACTORIES)
def test_the_rates_equal_those_of_a_handwritten_loop(name: str, per: Per) -> None:
    learn = learner(LRScheduler(FACTORIES[name], per=per))
    learn.fit(3)
    assert learn.recorder.lrs["0"] == pytest.approx(by_hand(FACTORIES[name], per, 3), rel=1e-12)


@pytest.mark.parametrize("name", ["StepLR", "LambdaLR"])
def test_a_second_fit_restarts_the_schedule_with_its_own_rate(name: str) -> None:
    learn = learner(LRScheduler(FACTORIES[name], per="epoch"))
    learn.fit(3)
    learn.fit(3, lr=1.0)
    assert learn.recorder.lrs["0"] == pytest.approx(
        [20 * rate for rate in by_hand(FACTORIES[name], "epoch", 3)]
    )


def test_steps_that_the_optimizer_does_not_take_are_not_counted() -> None:
    learn = learner(LRScheduler(FACTORIES["LambdaLR"]), GradientAccumulation(16))
    learn.fit(2)
    # the optimizer steps after batches 2, 4, 6, 8 and 10
    assert learn.recorder.lrs["0"] == pytest.approx([0.05 / (1 + n // 2) for n in range(10)])


def test_a_cancelled_step_is_not_counted() -> None:
    cancel = RaiseAt(Event.BEFORE_STEP, CancelStepException(), iteration=1)
    learn = learner(LRScheduler(FACTORIES["LambdaLR"]), cancel)
    learn.fit(1)
    assert learn.recorder.lrs["0"] == pytest.approx([0.05 / n for n in (1, 2, 2, 3, 4)])


@pytest.mark.parametrize("per", ["batch", "epoch"])
def test_a_fit_without_a_step_leaves_the_rate_alone(per: Per) -> None:
    spy = CourseSpy()
    learner(LRScheduler(FACTORIES["LambdaLR"], per=per), GradientAccumulation(1000), spy).fit(2)
    assert spy.epoch_lrs == [0.05, 0.05]


def test_an_epoch_without_training_is_not_counted() -> None:
    cancel = RaiseAt(Event.BEFORE_TRAIN, CancelTrainException(), epoch=1)
    spy = CourseSpy()
    learner(LRScheduler(FACTORIES["LambdaLR"], per="epoch"), cancel, spy).fit(3)
    assert spy.epoch_lrs == pytest.approx([0.05 / 2, 0.05 / 2, 0.05 / 3])


@pytest.mark.parametrize("per", ["batch", "epoch"])
@pytest.mark.parametrize("name", FACTORIES)
def test_the_state_continues_in_another_fit(name: str, per: Per) -> None:
    first, second = LRScheduler(FACTORIES[name], per=per), LRScheduler(FACTORIES[name], per=per)

    class Keep(Callback):
        order = 80

        def after_epoch(self, learn: Learner) -> None:
            assert learn.opt is not None
            opt_state = learn.opt.state_dict()  # type: ignore[attr-defined]
            torch.save([opt_state, first.state_dict()], f"{learn.epoch}.pt")

    class Resume(Callback):
        order = 80

        def before_fit(self, learn: Learner) -> None:
            opt_state, state = torch.load("1.pt", weights_only=True)
            learn.opt.load_state_dict(opt_state)  # type: ignore[union-attr]
            second.load_state_dict(state)

    learner(first, Keep()).fit(4)
    learn = learner(second, Resume())
    learn.fit(4, start_epoch=2)
    assert learn.recorder.lrs["0"] == pytest.approx(
        by_hand(FACTORIES[name], per, 4)[10:], rel=1e-12
    )


def test_torchs_reduce_lr_on_plateau_is_refused_with_a_remedy() -> None:
    with pytest.raises(ValueError, match=r"use nntrain\.callbacks\.ReduceLROnPlateau"):
        learner(LRScheduler(lr_scheduler.ReduceLROnPlateau)).fit(1)


def test_a_factory_that_makes_no_scheduler_is_refused() -> None:
    with pytest.raises(TypeError, match="but it returned an object of type int"):
        learner(LRScheduler(lambda opt: 3)).fit(1)


def test_per_is_batch_or_epoch() -> None:
    with pytest.raises(ValueError, match="per='step' of LRScheduler must be 'batch' or 'epoch'"):
        LRScheduler(FACTORIES["StepLR"], per="step")  # type: ignore[arg-type]


SCHEDULES: dict[str, Callable[[], ParamScheduler]] = {
    "OneCycle": OneCycle,
    "FlatCos": FlatCos,
    "SGDR": lambda: SGDR(1),
    "ParamScheduler": lambda: ParamScheduler({"lr": sched_lin(0.1, 0)}),
}


@pytest.mark.parametrize("first", [True, False], ids=["before the schedule", "after it"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_of_the_same_rate_is_refused(name: str, first: bool) -> None:
    cbs: list[Callback] = [LRScheduler(FACTORIES["StepLR"]), SCHEDULES[name]()]
    with pytest.raises(
        ValueError,
        match=f"LRScheduler and {name} would both set the learning rate: set schedule=none or",
    ):
        toy_learner(cbs=cbs if first else cbs[::-1]).fit(1)


def test_a_schedule_of_something_else_is_allowed() -> None:
    momentum = ParamScheduler({"mom": sched_lin(0.9, 0.5)})
    assert learner(LRScheduler(FACTORIES["StepLR"]), momentum).fit(1).n_epoch == 1
