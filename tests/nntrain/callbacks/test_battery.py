"""What every callback must stand: run here for each one that is exported, and for those of other rooms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import optuna
import pytest
import torch
from torch import Tensor, nn

import nntrain.callbacks
from nntrain import (
    Callback,
    CancelBackwardException,
    CancelBatchException,
    CancelEpochException,
    CancelException,
    CancelFitException,
    CancelStepException,
    CancelTrainException,
    CancelValidException,
    Event,
    Learner,
    Recorder,
    StopReason,
)
from nntrain.callbacks import (
    EMA,
    CastToTensor,
    Checkpoint,
    DeviceCallback,
    EarlyStopping,
    EventTrace,
    GradientAccumulation,
    GradientClip,
    LRScheduler,
    MixUp,
    Progress,
    ReduceLROnPlateau,
    SaveModel,
    ShortEpoch,
    SingleBatch,
    StopOnNaN,
    StopOnSignal,
    TimeLimit,
    TrainEvalCallback,
)
from nntrain.schedule import SGDR, FlatCos, OneCycle
from nntrain.statistics import ActivationStats, GradientStats, UpdateStats, WeightStats
from nntrain.sweeps import PruningCallback
from nntrain.sweeps.context import Running, trial_runs
from nntrain.sweeps.study.pruner import TrialPruning
from tests.common.scripted import flat
from tests.common.spies import RaiseAt, counted_reads
from tests.common.toys import Lists, regression_lists
from tests.sweeps.small_app import make_plan

SETTINGS: dict[type[Callback], Callable[[], Callback]] = {
    CastToTensor: CastToTensor,
    Checkpoint: lambda: Checkpoint("other"),
    DeviceCallback: DeviceCallback,
    EMA: lambda: EMA(0.9),
    EarlyStopping: lambda: EarlyStopping(patience=10),
    EventTrace: EventTrace,
    GradientAccumulation: lambda: GradientAccumulation(16),
    GradientClip: lambda: GradientClip(0.1),
    LRScheduler: lambda: LRScheduler(partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=7)),
    MixUp: MixUp,
    Progress: Progress,
    ReduceLROnPlateau: lambda: ReduceLROnPlateau(min_delta=10),
    SaveModel: SaveModel,
    ShortEpoch: lambda: ShortEpoch(3),
    SingleBatch: SingleBatch,
    StopOnNaN: StopOnNaN,
    StopOnSignal: StopOnSignal,
    TimeLimit: lambda: TimeLimit(1e6),
    TrainEvalCallback: TrainEvalCallback,
}
"""How each exported callback is made; whoever exports one adds it here, and it is tested."""


class PruningInTrial(PruningCallback):
    """In each fit in a trial of its own, which is never pruned."""

    def before_fit(self, learn: Learner) -> None:
        study = optuna.create_study(pruner=optuna.pruners.NopPruner())
        trial = study.ask()
        pruning = TrialPruning(make_plan(Path("study")), study, trial, trial)
        with trial_runs(Running(trial, pruning)):
            super().before_fit(learn)


OTHERS: dict[type[Callback], Callable[[], Callback]] = {
    ActivationStats: ActivationStats,
    FlatCos: FlatCos,
    GradientStats: GradientStats,
    OneCycle: OneCycle,
    PruningCallback: PruningCallback,
    PruningInTrial: PruningInTrial,
    Recorder: Recorder,
    SGDR: lambda: SGDR(1),
    UpdateStats: UpdateStats,
    WeightStats: WeightStats,
}

READS_PER_BATCH: dict[type[Callback], int] = {StopOnNaN: 1}
"""How often a callback reads the device per training batch, where that is its purpose."""

EVERY = pytest.mark.parametrize("kind", [*SETTINGS, *OTHERS], ids=lambda kind: kind.__name__)

CANCELS: list[tuple[Event, type[CancelException]]] = [
    (Event.BEFORE_FIT, CancelFitException),
    (Event.BEFORE_BATCH, CancelFitException),
    (Event.AFTER_LOSS, CancelEpochException),
    (Event.BEFORE_TRAIN, CancelTrainException),
    (Event.BEFORE_VALIDATE, CancelValidException),
    (Event.AFTER_PRED, CancelBatchException),
    (Event.BEFORE_BACKWARD, CancelBackwardException),
    (Event.BEFORE_STEP, CancelStepException),
]

ERRORS: list[tuple[Event, BaseException]] = [
    (Event.BEFORE_FIT, RuntimeError("broken")),
    (Event.AFTER_LOSS, RuntimeError("broken")),
    (Event.BEFORE_VALIDATE, RuntimeError("broken")),
    (Event.AFTER_EPOCH, RuntimeError("broken")),
    (Event.AFTER_FIT, RuntimeError("broken")),
    (Event.BEFORE_STEP, KeyboardInterrupt()),
    (Event.AFTER_VALIDATE, KeyboardInterrupt()),
]


def model() -> nn.Module:
    """With a dropout, whose draws tell whether the random numbers are the same."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(1, 4), nn.ReLU(), nn.Dropout(0.2), nn.Linear(4, 1))


def learner(*cbs: Callback, bs: int = 8, made: nn.Module | None = None) -> Learner:
    """A regression with momentum; a callback that every Learner has by itself is not added again."""
    opt_func = partial(torch.optim.SGD, momentum=0.9)
    learn = Learner(
        made or model(),
        regression_lists(bs=bs),
        nn.functional.mse_loss,
        lr=0.02,
        opt_func=opt_func,
        device="cpu",
    )
    default = {type(cb) for cb in learn.cbs}
    return learn.add_cbs(cb for cb in cbs if type(cb) not in default)


def make(kind: type[Callback]) -> Callback:
    return (SETTINGS | OTHERS)[kind]()


def course(learn: Learner) -> tuple[Tensor, Tensor, list[dict[str, float]]]:
    """All that a fit led to, but the times."""
    rows = [
        {name: value for name, value in row.items() if not name.startswith("time/")}
        for row in learn.recorder.rows
    ]
    return flat(learn.model), learn.recorder.losses, rows


def assert_same(learn: Learner, other: Learner) -> None:
    (weights, losses, rows), (other_weights, other_losses, other_rows) = (
        course(learn),
        course(other),
    )
    assert torch.equal(losses, other_losses)
    assert rows == other_rows
    assert torch.equal(weights, other_weights)


def hooks_of(module: nn.Module) -> Iterator[Any]:
    for part in module.modules():
        for name, value in vars(part).items():
            if name.endswith("_hooks") and value:
                yield part, name
    for param in module.parameters():
        if param._backward_hooks:
            yield param


class Unchanged:
    """What a fit must leave as it was, however it ended."""

    def __init__(self, learn: Learner) -> None:
        learn.model[2].eval()  # type: ignore[index]
        self.learn, self.before = learn, self._now(learn)

    @staticmethod
    def _now(learn: Learner) -> dict[str, Any]:
        return {
            "modes": [module.training for module in learn.model.modules()],
            "hooks": list(hooks_of(learn.model)),
            "loss_func": learn.loss_func,
            "batch": (learn.dls.train, learn.dls.valid),
            "cbs": list(learn.cbs),
            "requires_grad": [param.requires_grad for param in learn.model.parameters()],
            "grad_enabled": torch.is_grad_enabled(),
        }

    def check(self) -> None:
        assert self._now(self.learn) == self.before


def test_every_exported_callback_has_settings() -> None:
    exported = {getattr(nntrain.callbacks, name) for name in nntrain.callbacks.__all__}
    callbacks = {
        thing for thing in exported if isinstance(thing, type) and issubclass(thing, Callback)
    }
    assert callbacks == set(SETTINGS)


@EVERY
def test_it_says_when_it_acts_and_for_what(kind: type[Callback]) -> None:
    assert -60 <= kind.order <= 100
    assert kind.purposes
    assert kind.__doc__


@EVERY
def test_it_stands_two_fits_and_trains(kind: type[Callback]) -> None:
    learn = learner(make(kind))
    unchanged = Unchanged(learn)
    start = flat(learn.model)
    results = [learn.fit(2), learn.fit(2)]
    unchanged.check()
    assert [result.reason for result in results] == [StopReason.COMPLETED] * 2
    assert [result.n_epoch for result in results] == [2, 2]
    assert torch.isfinite(flat(learn.model)).all()
    assert not torch.equal(flat(learn.model), start)


@EVERY
@pytest.mark.parametrize(
    ("event", "cancel"), CANCELS, ids=lambda value: str(getattr(value, "__name__", value))
)
def test_it_stands_a_cancel_by_another(
    kind: type[Callback], event: Event, cancel: type[CancelException]
) -> None:
    learn = learner(RaiseAt(event, cancel()), make(kind))
    unchanged = Unchanged(learn)
    result = learn.fit(2)
    unchanged.check()
    assert result.reason is (
        StopReason.EARLY_STOPPED if cancel is CancelFitException else StopReason.COMPLETED
    )
    assert learn.fit(1).reason is StopReason.COMPLETED
    assert torch.isfinite(flat(learn.model)).all()


@EVERY
@pytest.mark.parametrize(
    ("event", "err"),
    ERRORS,
    ids=lambda value: value if isinstance(value, Event) else type(value).__name__,
)
def test_it_stands_an_error_of_another(
    kind: type[Callback], event: Event, err: BaseException
) -> None:
    learn = learner(RaiseAt(event, err), make(kind))
    unchanged = Unchanged(learn)
    with pytest.raises(type(err)):
        learn.fit(2)
    unchanged.check()
    assert learn.fit(1).reason is StopReason.COMPLETED
    assert torch.isfinite(flat(learn.model)).all()


@EVERY
def test_it_stands_lr_find_between_fits(kind: type[Callback]) -> None:
    def fitted(*, with_lr_find: bool) -> Learner:
        learn = learner(make(kind))
        torch.manual_seed(1)
        learn.fit(1)
        if with_lr_find:
            learn.lr_find(num_it=20)
        learn.fit(1)
        return learn

    assert_same(fitted(with_lr_find=True), fitted(with_lr_find=False))


@EVERY
def test_it_stands_validation_and_predictions(kind: type[Callback]) -> None:
    learn, plain = learner(make(kind)), learner()
    unchanged = Unchanged(learn)
    assert learn.validate() == plain.validate()
    assert torch.equal(learn.get_preds()[0], plain.get_preds()[0])
    unchanged.check()


@EVERY
def test_its_clean_up_may_come_twice_or_without_a_fit(kind: type[Callback]) -> None:
    callback = make(kind)
    learn = learner(callback)
    unchanged = Unchanged(learn)
    callback.cleanup_fit(learn)
    unchanged.check()
    learn.fit(1)
    weights = flat(learn.model)
    callback.cleanup_fit(learn)
    unchanged.check()
    assert torch.equal(flat(learn.model), weights)
    assert learn.fit(1).reason is StopReason.COMPLETED


@EVERY
def test_the_callers_lists_are_left_alone(kind: type[Callback]) -> None:
    cbs: list[Callback] = [make(kind)]
    kept = list(cbs)
    learn = Learner(model(), regression_lists(), nn.functional.mse_loss, lr=0.02, device="cpu")
    learn.fit(1, cbs=cbs)
    assert cbs == kept
    assert cbs[0] not in learn.cbs


@EVERY
def test_the_callers_batches_are_left_alone(kind: type[Callback]) -> None:
    learn = learner(make(kind))
    learn.fit(1)
    for part, original in zip(
        (learn.dls.train, learn.dls.valid or ()), vars(regression_lists()).values(), strict=True
    ):
        for batch, expected in zip(part, original, strict=True):
            assert all(
                torch.equal(item, other) for item, other in zip(batch, expected, strict=True)
            )


class Interrupt(RaiseAt):
    """Ends the fit as a signal does, when all others have seen the batch."""

    order: ClassVar[int] = 99


INTERRUPTIONS = {
    "in training": (Event.AFTER_BATCH, 1, 1),
    "in validation": (Event.BEFORE_VALIDATE, 1, None),
    "after an epoch": (Event.AFTER_EPOCH, 0, None),
}


@EVERY
@pytest.mark.parametrize("place", INTERRUPTIONS)
def test_its_state_goes_on_in_a_resumed_fit(kind: type[Callback], place: str) -> None:
    event, epoch, iteration = INTERRUPTIONS[place]
    whole = learner(make(kind), Checkpoint("whole"))
    torch.manual_seed(1)
    whole.fit(3)
    stop = Interrupt(event, CancelFitException(reason=StopReason.INTERRUPTED), epoch, iteration)
    first = learner(make(kind), Checkpoint("part"), stop)
    torch.manual_seed(1)
    first.fit(3)
    resumed = learner(make(kind), Checkpoint("part", resume="part/last.ckpt"))
    resumed.fit(3)
    assert_same(resumed, whole)


@EVERY
def test_it_reads_nothing_back_per_batch(kind: type[Callback]) -> None:
    def reads(bs: int, *cbs: Callback) -> int:
        learn = learner(*cbs, bs=bs)
        with counted_reads() as counter:
            learn.fit(1)
        return counter.n

    n_more = 0 if kind in (ShortEpoch, SingleBatch) else 5
    plain = reads(4) - reads(8)
    assert reads(4, make(kind)) - reads(8, make(kind)) == plain + n_more * READS_PER_BATCH.get(
        kind, 0
    )


@EVERY
def test_the_same_seed_gives_the_same_fit(kind: type[Callback]) -> None:
    def fitted(seed: int) -> Learner:
        learn = learner(make(kind))
        torch.manual_seed(seed)
        learn.fit(2)
        return learn

    first, again, other = fitted(1), fitted(1), fitted(2)
    assert_same(first, again)
    assert not torch.equal(flat(first.model), flat(other.model))


@EVERY
def test_a_model_of_one_module_and_one_batch_is_enough(kind: type[Callback]) -> None:
    dls = Lists(regression_lists().train[:1], regression_lists().valid[:1])  # type: ignore[index]
    learn = Learner(nn.Linear(1, 1), dls, nn.functional.mse_loss, device="cpu")
    learn.add_cbs([make(kind)])
    assert learn.fit(1).reason is StopReason.COMPLETED
