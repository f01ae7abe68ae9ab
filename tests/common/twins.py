"""Checks that an action does not change training by comparing two identical learners."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from nntrain import Callback, Learner, accuracy
from nntrain.core.rng import seed_everything
from tests.common.toys import Lists


class Noise(Callback):
    """Adds noise from every global random generator to the batches, and counts the batches."""

    def __init__(self) -> None:
        self.n = 0

    def before_batch(self, learn: Learner) -> None:
        self.n += 1
        learn.xb = (
            learn.xb[0]
            + 0.01 * random.random()
            + 0.01 * np.random.rand()
            + 0.01 * torch.rand(()) * self.n,
        )


class SeenBatches(Callback):
    """Records each batch as the model sees it."""

    order = 40

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def before_batch(self, learn: Learner) -> None:
        self.seen.append(learn.xb[0].clone())


class StatefulNet(nn.Module):
    """A model with dropout, batch norm, and plain attributes that each training batch changes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3))
        self.head = nn.Linear(8, 3)
        self.n_calls = 0
        self.memory: list[Tensor] = [torch.zeros(8)]
        self.register_buffer("seen", torch.zeros(()), persistent=False)
        self.seen: Tensor

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.body(x) + 0.01 * self.memory[0]
        if self.training:
            self.n_calls += 1
            self.memory[0] = hidden.detach().mean(dim=0)
            self.seen = self.seen + 1
        out: Tensor = self.head(hidden) * (1 + 0.01 * self.n_calls) + 0.001 * self.seen
        return out


def shuffled_learner(
    own_generator: bool = False, opt_func: Any = torch.optim.SGD, **loader_kwargs: Any
) -> Learner:
    """Returns a reproducible learner that uses many kinds of randomness and state.

    The learner classifies three classes from shuffled batches.
    """
    seed_everything(3)
    x = torch.randn(96, 4)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    generator = torch.Generator().manual_seed(5) if own_generator else None
    train = DataLoader(
        TensorDataset(x[:64], y[:64]), 8, shuffle=True, generator=generator, **loader_kwargs
    )
    valid = DataLoader(TensorDataset(x[64:], y[64:]), 16)
    loss_func = nn.functional.cross_entropy
    cbs = [Noise(), SeenBatches()]
    return Learner(
        StatefulNet(),
        Lists(train, valid),
        loss_func,
        lr=0.05,
        opt_func=opt_func,
        metrics=[accuracy],
        cbs=cbs,
        device="cpu",
    )


def training_record(learn: Learner) -> dict[str, Any]:
    """Returns all results of training, to be compared bit for bit."""
    values = {
        name: value for name, value in learn.recorder.row.items() if not name.startswith("time/")
    }
    seen = next(cb for cb in learn.cbs if isinstance(cb, SeenBatches)).seen
    assert isinstance(learn.opt, torch.optim.Optimizer)
    return {
        "losses": learn.recorder.losses,
        "batches": list(seen),
        "weights": {name: value.clone() for name, value in learn.model.state_dict().items()},
        "attributes": (learn.model.n_calls, learn.model.memory, learn.model.seen),
        "opt": learn.opt.state_dict(),
        "values": values,
        "train_iter": learn.train_iter,
        "random": (random.random(), np.random.rand(), torch.rand(1)),
    }


def assert_same(one: Any, other: Any) -> None:
    """Compares nested tensors and plain values bit for bit; NaN equals NaN."""
    torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def assert_same_training(
    make: Callable[[], Learner], act: Callable[[Learner], Any], *, n_epoch_before: int
) -> None:
    """Checks that `act`, called after `n_epoch_before` epochs, does not change later training."""
    records = []
    for acting in (False, True):
        learn = make()
        if n_epoch_before:
            learn.fit(n_epoch_before)
        if acting:
            act(learn)
        learn.fit(2)
        records.append(training_record(learn))
    assert_same(records[0], records[1])
