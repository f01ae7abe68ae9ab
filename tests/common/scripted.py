"""Callbacks that make a fit take a given course, or write down the course that it took."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from nntrain import Callback, Learner
from nntrain.core.optimizer import param_groups


def flat(model: nn.Module) -> Tensor:
    """A copy of all parameters of a model, in one row."""
    return torch.cat([param.detach().flatten() for param in model.parameters()]).clone()


class ScriptedMetric(Callback):
    """Replaces a recorded metric of each epoch by a given value, after the Recorder and before those who look at it."""

    order: ClassVar[int] = 51

    def __init__(self, values: Sequence[float], name: str = "valid/loss") -> None:
        self.values, self.name = values, name

    def after_epoch(self, learn: Learner) -> None:
        learn.recorder.row[self.name] = self.values[learn.epoch]


class ScriptedLoss(Callback):
    """Replaces the loss of some training batches, counted from 0 over the whole fit, or of every validation batch."""

    def __init__(self, train: dict[int, float] | None = None, valid: float | None = None) -> None:
        self.train, self.valid, self.n_seen = train or {}, valid, 0

    def after_loss(self, learn: Learner) -> None:
        value = self.train.get(self.n_seen) if learn.training else self.valid
        self.n_seen += learn.training
        if value is not None:
            learn.loss = learn.loss * value


class CourseSpy(Callback):
    """Keeps the weights and the learning rate after each training batch, and the learning rate after each epoch."""

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
