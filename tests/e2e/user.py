"""A user's data, callbacks and failing tracker, for tests of faults."""

from __future__ import annotations

import os
import struct
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from torch.utils.data import TensorDataset

from nntrain import Callback, CancelFitException, Learner, StopReason
from nntrain.core.callback import Purpose
from nntrain.data import DataLoaders
from nntrain.integrations.mlflow import MLflowTracker
from nntrain.sweeps import current_trial

if TYPE_CHECKING:
    from nntrain.integrations.mlflow.client import MLflowTrackerClient


def loaders(n_batch: int, num_workers: int = 0) -> DataLoaders:
    """Returns batches of 8 items in two separable classes: `n_batch` to train, one to validate."""
    x = torch.randn((n_batch + 1) * 8, 8, generator=torch.Generator().manual_seed(0))
    data = (x, (x.sum(1) > 0).long())
    train, valid = [part[:-8] for part in data], [part[-8:] for part in data]
    if num_workers:
        sets = TensorDataset(*train), TensorDataset(*valid)
        return DataLoaders.from_datasets(*sets, batch_size=8, num_workers=num_workers, seed=1)
    return DataLoaders.from_tensors(train, valid, batch_size=8, seed=1)


class Witness(Callback):
    """Writes the time and loss of each training batch to a file, and sleeps after the batch.

    Args:
        path: the file; each batch adds two doubles, milliseconds since 1970 and the loss.
        batch_ms: the sleep after each training batch, in milliseconds.
    """

    purposes: ClassVar[frozenset[Purpose]] = frozenset({Purpose.FIT})

    def __init__(self, path: str, batch_ms: float = 0.0) -> None:
        self.path, self.batch_ms = Path(path), batch_ms

    def before_fit(self, learn: Learner) -> None:
        self.fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def after_loss(self, learn: Learner) -> None:
        if learn.training:
            assert learn.loss is not None
            os.write(self.fd, struct.pack("dd", time.time() * 1000, learn.loss.item()))

    def after_batch(self, learn: Learner) -> None:
        if learn.training and self.batch_ms:
            time.sleep(self.batch_ms / 1000)

    def cleanup_fit(self, learn: Learner) -> None:
        os.close(self.fd)


class Raises(Callback):
    """Fails after 30 batches.

    Args:
        variable: the name of an environment variable whose value is appended to the message.
    """

    def __init__(self, variable: str = "") -> None:
        self.variable = variable

    def after_step(self, learn: Learner) -> None:
        if learn.train_iter == 30:
            raise RuntimeError(f"a bug of the user{os.environ.get(self.variable, '')}")


class Prunes(Callback):
    """Ends the fit after the first epoch."""

    order: ClassVar[int] = 100

    def after_epoch(self, learn: Learner) -> None:
        raise CancelFitException("not promising", reason=StopReason.PRUNED)


class PrunesOddTrials(Callback):
    """Ends the fit after the first epoch in every second trial of a sweep."""

    order: ClassVar[int] = 101  # runs after the callback that reports the trial's metric

    def after_epoch(self, learn: Learner) -> None:
        trial = current_trial()
        if trial is not None and trial.number % 2:
            raise CancelFitException(f"trial {trial.number} is odd", reason=StopReason.PRUNED)


class Poisons(Callback):
    """Makes the loss NaN after 30 batches."""

    def before_batch(self, learn: Learner) -> None:
        if learn.train_iter == 30:
            learn.xb = (learn.xb[0] * float("nan"),)


class Modules(Callback):
    """Prints at the end of the fit which tracker libraries the process has imported."""

    order: ClassVar[int] = 100

    def cleanup_fit(self, learn: Learner) -> None:
        print("imported:", [name for name in ("mlflow", "wandb") if name in sys.modules])


class Memory(Callback):
    """Prints the resident memory of this process in MiB after every `every` training batches."""

    def __init__(self, every: int) -> None:
        self.every = every

    def after_batch(self, learn: Learner) -> None:
        if learn.training and learn.train_iter % self.every == 0:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            print(f"memory: {pages * os.sysconf('SC_PAGE_SIZE') / 2**20:.1f}")


@dataclass(frozen=True)
class Flaky(MLflowTracker):
    """A tracker whose client sometimes fails."""

    def connect(self) -> MLflowTrackerClient:
        from tests.e2e.flaky_client import FlakyClient

        return FlakyClient(self)


@dataclass(frozen=True)
class Slow(MLflowTracker):
    """A tracker whose client needs 50 ms more for each call."""

    def connect(self) -> MLflowTrackerClient:
        from tests.e2e.flaky_client import SlowClient

        return SlowClient(self)


class LogsSix(Callback):
    """Logs six more numbers for each training batch."""

    def after_batch(self, learn: Learner) -> None:
        if learn.training:
            learn.tracker.log_metrics({f"own/{i}": i for i in range(6)})
