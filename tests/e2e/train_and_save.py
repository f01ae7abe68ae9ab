"""A training process for the tests to interrupt."""

import sys
from multiprocessing.connection import Connection
from pathlib import Path

import torch
import torch._dynamo  # imported here once, because importing it in each process is slow
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from nntrain import Callback, Learner, accuracy
from nntrain.callbacks import EMA, Checkpoint, GradientAccumulation, StopOnSignal
from nntrain.core.rng import seed_everything
from nntrain.schedule import OneCycle
from tests.common.runs import outcome
from tests.common.toys import Lists

N_EPOCH, BATCH_SIZE = 4, 32


Place = tuple[int, int, bool]
"""Epoch, iteration, and whether the batch is a training batch."""


class WaitAt(Callback):
    """Sends a message to the test within the given batch, and waits for the reply."""

    def __init__(self, place: Place | None, tests: Connection) -> None:
        self.place, self.tests = place, tests

    def after_pred(self, learn: Learner) -> None:
        if (learn.epoch, learn.iter, learn.training) == self.place:
            self.tests.send("here")
            self.tests.recv()


def loaders() -> Lists:
    gen = torch.Generator().manual_seed(0)
    x = torch.randn(640, 8, generator=gen)
    data = TensorDataset(x, (x[:, 0] * x[:, 1] > 0).long())
    train, valid = torch.utils.data.random_split(data, [512, 128], generator=gen)
    return Lists(DataLoader(train, BATCH_SIZE, shuffle=True), DataLoader(valid, BATCH_SIZE))


def train(place: Place | None, tests: Connection, resume: str | None) -> None:
    """Trains, writes records and weights to out.pt, and exits with 0 or 128 + the signal number."""
    torch.set_num_threads(1)
    seed_everything(7)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 2))
    cbs = [
        OneCycle(),
        EMA(0.9),
        GradientAccumulation(2 * BATCH_SIZE),
        StopOnSignal(),
        Checkpoint("checkpoints", resume=resume),
        WaitAt(place, tests),
    ]
    options = {"lr": 0.01, "opt_func": torch.optim.Adam, "metrics": [accuracy], "device": "cpu"}
    learn = Learner(model, loaders(), nn.functional.cross_entropy, cbs=cbs, **options)
    result = learn.fit(N_EPOCH)
    torch.save(outcome(learn), Path("out.pt"))
    sys.exit(128 + result.signum if result.signum else 0)
