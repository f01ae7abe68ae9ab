"""Callbacks that replace the metrics or losses of a fit, or record its weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from nntrain import Callback, Learner
from nntrain.core.optimizer import param_groups
from nntrain.testing.toys import flat_weights as flat


class ScriptedMetric(Callback):
    """Replaces a metric of each epoch with a given value before other callbacks read it."""

    order: ClassVar[int] = 51

    def __init__(self, values: Sequence[float], name: str = "valid/loss") -> None:
        self.values, self.name = values, name

    def after_epoch(self, learn: Learner) -> None:
        learn.recorder.row[self.name] = self.values[learn.epoch]


class ScriptedLoss(Callback):
    """Multiplies the loss of some training batches, or of every validation batch, by a value.

    Training batches are counted from 0 over the whole fit.
    """

    def __init__(self, train: dict[int, float] | None = None, valid: float | None = None) -> None:
        self.train, self.valid, self.n_seen = train or {}, valid, 0

    def after_loss(self, learn: Learner) -> None:
        value = self.train.get(self.n_seen) if learn.training else self.valid
        self.n_seen += learn.training
        if value is not None:
            learn.loss = learn.loss * value


class CourseSpy(Callback):
    """Records the weights and learning rate per training batch, and the learning rate per epoch."""

    order: ClassVar[int] = 95

    def __init__(self) -> None:
        self.weights: list[Tensor] = []
        self.batch_lrs: list[float] = []
        self.epoch_lrs: list[float] = []

    def after_batch(self, learn: Learner) -> None:
        if learn.training:
            self.weights.append(flat(learn.model))
            self.batch_lrs.append(_lr(learn))

    def after_epoch(self, learn: Learner) -> None:
        self.epoch_lrs.append(_lr(learn))


def _lr(learn: Learner) -> float:
    assert learn.opt is not None
    return float(param_groups(learn.opt)[-1]["lr"])
