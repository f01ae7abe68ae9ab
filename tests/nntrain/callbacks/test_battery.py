"""Every callback of nntrain, in all packages, passes the callback contract."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import optuna
import pytest
import torch

import nntrain.callbacks
from nntrain import Callback, Learner, Recorder
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
from nntrain.sweeps.context import TrialContext, active_trial
from nntrain.sweeps.study.pruner import TrialPruner
from nntrain.testing import CallbackContract
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
"""Functions that create each exported callback; add new exports here to test them."""


class PruningInTrial(PruningCallback):
    """Starts a trial for each fit, with a pruner that never prunes."""

    def before_fit(self, learn: Learner) -> None:
        study = optuna.create_study(pruner=optuna.pruners.NopPruner())
        trial = study.ask()
        pruner = TrialPruner(make_plan(Path("study")), study, trial, trial)
        with active_trial(TrialContext(trial, pruner)):
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
"""Device reads per training batch, for callbacks that cannot work without such reads."""


def test_every_exported_callback_has_settings() -> None:
    exported = {getattr(nntrain.callbacks, name) for name in nntrain.callbacks.__all__}
    callbacks = {
        thing for thing in exported if isinstance(thing, type) and issubclass(thing, Callback)
    }
    assert callbacks == set(SETTINGS)


class TestEveryCallback(CallbackContract):
    @pytest.fixture(autouse=True, params=[*SETTINGS, *OTHERS], ids=lambda kind: kind.__name__)
    def _kind(self, request: pytest.FixtureRequest) -> None:
        self.kind: type[Callback] = request.param

    def make(self) -> Callback:
        return (SETTINGS | OTHERS)[self.kind]()

    def reads_per_batch(self) -> int:
        return READS_PER_BATCH.get(self.kind, 0)

    def test_it_has_a_docstring(self) -> None:
        assert self.kind.__doc__
