"""Computes fastai's results for the callbacks that it shares with nntrain; writes callbacks.json.

Run this script in an environment without nntrain: `pip install torch==2.13.0 "fastai==2.8.*"`.
Data, models and seeds are the same as in tests/common/toys.py, and torch's optimizers run behind
fastai's `OptimWrapper`, so the weights can be compared.
"""

import contextlib
import io
import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from fastai.callback.core import Callback, TrainEvalCallback
from fastai.callback.mixup import MixUp
from fastai.callback.tracker import (
    EarlyStoppingCallback,
    ReduceLROnPlateau,
    SaveModelCallback,
    TrackerCallback,
)
from fastai.callback.training import GradientAccumulation, GradientClip
from fastai.data.core import DataLoaders
from fastai.learner import Learner, Recorder
from fastai.optimizer import SGD, OptimWrapper
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def regression(n_train: int, bs: int) -> DataLoaders:
    gen = torch.Generator().manual_seed(0)
    n_valid = 20
    x = torch.randn(n_train + n_valid, 1, generator=gen)
    y = 2 * x + 1 + 0.1 * torch.randn(n_train + n_valid, 1, generator=gen)
    train, valid = TensorDataset(x[:n_train], y[:n_train]), TensorDataset(x[n_train:], y[n_train:])
    return DataLoaders(DataLoader(train, bs), DataLoader(valid, bs))


def classification() -> DataLoaders:
    gen = torch.Generator().manual_seed(0)
    x, y = torch.randn(24, 4, generator=gen), torch.randint(0, 3, (24,), generator=gen)
    return DataLoaders(
        DataLoader(TensorDataset(x[:16], y[:16]), 8), DataLoader(TensorDataset(x[16:], y[16:]), 8)
    )


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make()


class Trace(Callback):
    """Records loss and weights per training batch; validation loss and learning rate per epoch."""

    order = 90

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.weights: list[list[float]] = []
        self.valid_losses: list[float] = []
        self.lrs: list[float] = []

    def after_batch(self) -> None:
        if self.training:
            self.losses.append(self.loss.item())
            self.weights.append(flat(self.model))

    def after_epoch(self) -> None:
        self.valid_losses.append(float(self.recorder.values[-1][1]))
        self.lrs.append(float(self.opt.hypers[-1]["lr"]))


def flat(model: nn.Module) -> list[float]:
    return torch.cat([param.detach().flatten() for param in model.parameters()]).tolist()


torch_sgd = partial(OptimWrapper, opt=torch.optim.SGD)


def learner(
    dls: DataLoaders,
    model: nn.Module,
    loss_func: Any,
    lr: float,
    folder: str = ".",
    opt_func: Any = torch_sgd,
) -> Learner:
    return Learner(
        dls,
        model,
        loss_func,
        opt_func=opt_func,
        lr=lr,
        path=folder,
        default_cbs=False,
        cbs=[TrainEvalCallback, Recorder],
    )


def fitted(learn: Learner, n_epoch: int, *cbs: Callback) -> dict[str, Any]:
    trace = Trace()
    with learn.no_logging(), contextlib.redirect_stdout(io.StringIO()):
        learn.fit(n_epoch, cbs=[*cbs, trace])
    return {
        "losses": trace.losses,
        "weights": trace.weights,
        "valid_losses": trace.valid_losses,
        "lrs": trace.lrs,
        "final": flat(learn.model),
    }


def toy(
    n_train: int = 40, bs: int = 8, lr: float = 0.05, folder: str = ".", opt_func: Any = torch_sgd
) -> Learner:
    return learner(
        regression(n_train, bs),
        seeded(lambda: nn.Linear(1, 1)),
        nn.functional.mse_loss,
        lr,
        folder,
        opt_func,
    )


class Scripted(Callback):
    """Replaces the recorded validation loss of each epoch with a given value."""

    order = TrackerCallback.order - 1

    def __init__(self, values: list[float]) -> None:
        self.values = values

    def after_epoch(self) -> None:
        self.recorder.values[-1][1] = self.values[self.epoch]


PLATEAUS = {
    "falling": [5.0, 4.0, 3.0, 2.0, 1.0, 0.5],
    "flat": [1.0, 1.0, 1.0, 1.0, 1.0, 1.0],
    "up_and_down": [3.0, 4.0, 2.0, 2.5, 2.4, 1.9],
    "small_gains": [1.0, 0.95, 0.9, 0.85, 0.8, 0.75],
    "nan": [1.0, float("nan"), 0.5, float("nan"), float("nan"), 0.4],
}


def plateaus() -> dict[str, Any]:
    """Returns the results of ReduceLROnPlateau with fastai's own SGD.

    With `OptimWrapper`, fastai's callback would change only a copy of the learning rates.
    """
    made: dict[str, Any] = {}
    for name, values in PLATEAUS.items():
        for patience in (1, 2, 3):
            for min_delta in (0.0, 0.07):
                options = {"patience": patience, "min_delta": min_delta}
                reduced = fitted(
                    toy(opt_func=SGD),
                    6,
                    Scripted(values),
                    ReduceLROnPlateau(**options, min_lr=1e-4),
                )
                stopped = fitted(toy(), 6, Scripted(values), EarlyStoppingCallback(**options))
                made[f"{name}/{patience}/{min_delta}"] = {
                    "values": values,
                    **options,
                    "lrs": reduced["lrs"],
                    "n_epoch": len(stopped["losses"]) // 5,
                }
    return made


def saved() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        learn = toy(lr=0.9, folder=folder)
        values = [3.0, 2.0, 2.5, 1.0, 4.0]
        record = fitted(learn, 5, Scripted(values), SaveModelCallback(fname="best"))
        return {"values": values, "final": record["final"], "weights": record["weights"]}


def mixed() -> dict[str, Any]:
    def one(learn: Learner) -> dict[str, Any]:
        torch.manual_seed(1)
        return fitted(learn, 2, MixUp(0.4))

    model = partial(nn.Linear, 4, 3)
    labels = nn.CrossEntropyLoss()
    labels.y_int = True
    smooth = nn.CrossEntropyLoss(label_smoothing=0.1)
    smooth.y_int = True
    total = nn.CrossEntropyLoss(reduction="sum")
    total.y_int = True
    return {
        "labels": one(learner(classification(), seeded(model), labels, 0.1)),
        "label_smoothing": one(learner(classification(), seeded(model), smooth, 0.1)),
        "sum": one(learner(classification(), seeded(model), total, 0.01)),
        "floats": one(toy()),
    }


def main() -> None:
    reference: dict[str, Any] = {
        "accumulation": {
            f"{n_train}/{n_acc}": fitted(toy(n_train), 2, GradientAccumulation(n_acc))
            for n_train, n_acc in [(40, 16), (40, 24), (40, 8), (40, 20), (36, 16), (40, 1000)]
        },
        "clipping": {
            f"{max_norm}/{norm_type}": fitted(toy(), 2, GradientClip(max_norm, norm_type))
            for max_norm, norm_type in [(0.5, 2.0), (100.0, 2.0), (0.5, 1.0), (0.5, float("inf"))]
        },
        "plateau": plateaus(),
        "save_model": saved(),
        "mixup": mixed(),
    }
    Path(__file__).with_name("callbacks.json").write_text(json.dumps(reference) + "\n")


if __name__ == "__main__":
    main()
