"""Learners for the digits, and helpers to inspect statistics."""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from nntrain import Callback, Event, Learner
from nntrain.statistics import (
    ActivationStats,
    GradientStats,
    History,
    Statistics,
    UpdateStats,
    WeightStats,
)
from nntrain.testing import SpyCallback
from tests.common.toys import Lists, digits_lists, digits_mlp, toy_learner

cross_entropy = nn.functional.cross_entropy
EVERY_KIND: list[type[Statistics]] = [ActivationStats, GradientStats, WeightStats, UpdateStats]


@cache
def digits() -> Lists:
    return digits_lists()


def digits_learner(
    *cbs: Callback, n_batch: int = 10, model: nn.Module | None = None, **kwargs: Any
) -> Learner:
    data = digits()
    dls = Lists(list(data.train)[:n_batch], list(data.valid or [])[:2])
    return toy_learner(
        dls, model or digits_mlp(), loss_func=cross_entropy, lr=0.1, cbs=cbs, **kwargs
    )


def first_row(
    stats: Statistics, model: nn.Module, x: Tensor, y: Tensor, **kwargs: Any
) -> dict[str, float]:
    toy_learner(Lists([(x, y)], None), model, cbs=[stats], **kwargs).fit(1)
    [(step, row)] = stats.drain()
    assert step == 1
    return row


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        return torch.arange(3), [x, x * 2]


class Parts(nn.Module):
    """A model with a reused layer, an unused layer, and a layer that also outputs integers."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.unused, self.pair = nn.Linear(2, 2), nn.Linear(2, 2), Pair()

    def forward(self, x: Tensor) -> Tensor:
        values: Tensor = self.pair(self.twice(self.twice(x)))[1][0]
        return values


def n_hooks(model: nn.Module) -> int:
    return sum(
        len(module._forward_hooks) + len(module._backward_hooks) for module in model.modules()
    )


def assert_same_history(one: History, other: History) -> None:
    assert (one.steps, one.layers, list(one.values)) == (
        other.steps,
        other.layers,
        list(other.values),
    )
    for name, values in one.values.items():
        assert torch.equal(values, other.values[name])


class DrainAt(SpyCallback):
    """Drains statistics at one event, as a tracker does."""

    def __init__(self, stats: Statistics, event: Event) -> None:
        super().__init__()
        self.stats, self.event, self.chunks = (
            stats,
            event,
            list[list[tuple[int, dict[str, float]]]](),
        )

    def on(self, event: Event, learn: Learner) -> None:
        if event is self.event:
            self.chunks.append(self.stats.drain())
