"""A training process for the tests to interrupt: `train_and_save.py OUT EPOCH ITERATION PART [RESUME]`.

At the given batch of "train" or "valid" it says so and waits a little, so that a signal falls there. It writes what it
recorded and trained to OUT, and leaves with the exit code of the signal that ended it.
"""

import sys
import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from nntrain import Callback, Learner, accuracy
from nntrain.callbacks import EMA, Checkpoint, GradientAccumulation, StopOnSignal
from nntrain.rng import seed_everything
from nntrain.schedule import OneCycle
from tests.common.runs import outcome
from tests.common.toys import Lists

N_EPOCH, BATCH_SIZE = 4, 32


class WaitAt(Callback):
    """Waits at one batch until a signal has come."""

    def __init__(self, epoch: int, iteration: int, part: str) -> None:
        self.place = (epoch, iteration, part == "train")

    def after_pred(self, learn: Learner) -> None:
        if (learn.epoch, learn.iter, learn.training) == self.place:
            print("here", flush=True)
            time.sleep(30)  # a handler that returns lets the sleep go on, so the test sees a signal that does not end it


def loaders() -> Lists:
    gen = torch.Generator().manual_seed(0)
    x = torch.randn(640, 8, generator=gen)
    data = TensorDataset(x, (x[:, 0] * x[:, 1] > 0).long())
    train, valid = torch.utils.data.random_split(data, [512, 128], generator=gen)
    return Lists(DataLoader(train, BATCH_SIZE, shuffle=True), DataLoader(valid, BATCH_SIZE))


def main(out: str, epoch: str, iteration: str, part: str, resume: str | None = None) -> int:
    seed_everything(7)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 2))
    cbs = [
        OneCycle(),
        EMA(0.9),
        GradientAccumulation(2 * BATCH_SIZE),
        StopOnSignal(),
        Checkpoint("checkpoints", resume=resume),
        WaitAt(int(epoch), int(iteration), part),
    ]
    learn = Learner(
        model,
        loaders(),
        nn.functional.cross_entropy,
        lr=0.01,
        opt_func=torch.optim.Adam,
        metrics=[accuracy],
        cbs=cbs,
        device="cpu",
    )
    result = learn.fit(N_EPOCH)
    torch.save(outcome(learn), Path(out))
    return 128 + result.signum if result.signum else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
