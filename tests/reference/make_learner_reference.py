"""Computes fastai's results for a comparison with nntrain's Learner; writes learner.json.

Run this script in an environment without nntrain: `pip install torch==2.13.0 "fastai==2.8.*"`.
fastai is not patched. The fits use fastai's default callbacks. The traces of cancel exceptions use
only fastai's train/eval callback, because fastai's Recorder fails after some cancel exceptions.
Data, models and seeds are the same as in tests/common/toys.py, and torch's optimizers run behind
fastai's `OptimWrapper`, so the weights can be compared.
"""

import json
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import fastai
import torch
from fastai.callback import schedule
from fastai.callback.core import Callback, TrainEvalCallback, event
from fastai.data.core import DataLoaders
from fastai.learner import (
    AvgLoss,
    CancelBackwardException,
    CancelBatchException,
    CancelEpochException,
    CancelFitException,
    CancelStepException,
    CancelTrainException,
    CancelValidException,
    Learner,
    Recorder,
)
from fastai.metrics import accuracy
from fastai.optimizer import OptimWrapper
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

CANCELS = {
    "fit": CancelFitException,
    "epoch": CancelEpochException,
    "train": CancelTrainException,
    "validate": CancelValidException,
    "batch": CancelBatchException,
    "backward": CancelBackwardException,
    "step": CancelStepException,
}
EVENTS = [
    name
    for name in vars(event)
    if name.startswith(("before_", "after_")) and name != "after_create"
]
PARTS = {"train": True, "valid": False, "any": None}


def loaders(x: Tensor, y: Tensor, n_train: int, bs: int) -> DataLoaders:
    train, valid = TensorDataset(x[:n_train], y[:n_train]), TensorDataset(x[n_train:], y[n_train:])
    return DataLoaders(DataLoader(train, bs), DataLoader(valid, bs))


def regression(n_train: int = 40, n_valid: int = 20, bs: int = 8) -> DataLoaders:
    gen = torch.Generator().manual_seed(0)
    x = torch.randn(n_train + n_valid, 1, generator=gen)
    y = 2 * x + 1 + 0.1 * torch.randn(n_train + n_valid, 1, generator=gen)
    return loaders(x, y, n_train, bs)


def digits() -> DataLoaders:
    data = load_digits()
    x = torch.tensor(data.data, dtype=torch.float32)[:440] / 16
    return loaders(x, torch.tensor(data.target)[:440], 340, 64)


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(1, 1)


def three_layers() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(1, 4), nn.Linear(4, 4), nn.Linear(4, 1))


def digits_mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 50), nn.ReLU(), nn.Linear(50, 10))


def by_children(model: nn.Module) -> list[list[nn.Parameter]]:
    return [list(child.parameters()) for child in model]


class BatchLog(Callback):
    """Records the loss and hyperparameters of each training batch."""

    order = 100

    def before_fit(self) -> None:
        self.raw_losses, self.hypers = [], []

    def after_batch(self) -> None:
        if self.training:
            self.raw_losses.append(self.learn.loss.item())
            self.hypers.append([dict(group) for group in self.opt.hypers])


def column(log: BatchLog, name: str) -> list[list[float]]:
    return [[group[name] for group in groups] for groups in log.hypers]


def fitted(learn: Learner, fit: Callable[[Learner], None]) -> dict[str, Any]:
    log = BatchLog()
    learn.add_cb(log)
    with learn.no_logging():
        fit(learn)
    names = [name for name in learn.recorder.metric_names if name not in ("epoch", "time")]
    return {
        "losses": log.raw_losses,
        "smooth_losses": [loss.item() for loss in learn.recorder.losses],
        "lr": column(log, "lr"),
        "mom": column(log, "mom"),
        "rows": [dict(zip(names, row, strict=True)) for row in learn.recorder.values],
        "weights": {name: weights(value) for name, value in learn.model.state_dict().items()},
    }


def weights(value: Tensor) -> dict[str, Any]:
    return {"norm": value.double().norm().item(), "first": value.flatten()[:32].tolist()}


def regression_fit(fit: Callable[[Learner], None], **kwargs: Any) -> dict[str, Any]:
    options = {
        "model": linear(),
        "lr": 0.05,
        "opt_func": partial(OptimWrapper, opt=torch.optim.SGD),
    } | kwargs
    recorder = Recorder(train_metrics=True)
    learn = Learner(
        regression(),
        loss_func=nn.functional.mse_loss,
        metrics=[AvgLoss()],
        default_cbs=False,
        **options,
    )
    return fitted(learn.add_cbs([TrainEvalCallback(), recorder]), fit)


def digits_fit(fit: Callable[[Learner], None]) -> dict[str, Any]:
    opt_func = partial(OptimWrapper, opt=torch.optim.Adam)
    learn = Learner(
        digits(),
        digits_mlp(),
        nn.functional.cross_entropy,
        opt_func,
        lr=1e-2,
        metrics=[AvgLoss(), accuracy],
        default_cbs=False,
        cbs=[TrainEvalCallback(), Recorder(train_metrics=True)],
    )
    return fitted(learn, fit)


def fits() -> dict[str, Any]:
    momentum = partial(OptimWrapper, opt=partial(torch.optim.SGD, momentum=0.9))
    three = partial(dict, splitter=by_children)
    return {
        "regression_sgd": regression_fit(lambda learn: learn.fit(3)),
        "regression_momentum_wd": regression_fit(
            lambda learn: learn.fit(2, lr=0.02, wd=0.1), opt_func=momentum
        ),
        "slice_first_last": regression_fit(
            lambda learn: learn.fit(2, lr=slice(1e-3, 1e-1)), **three(model=three_layers())
        ),
        "slice_last": regression_fit(
            lambda learn: learn.fit(2, lr=slice(1e-1)), **three(model=three_layers())
        ),
        "slice_one_cycle": regression_fit(
            lambda learn: learn.fit_one_cycle(2, slice(1e-3, 1e-1)), **three(model=three_layers())
        ),
        "digits_adam": digits_fit(lambda learn: learn.fit(2)),
        "digits_one_cycle": digits_fit(lambda learn: learn.fit_one_cycle(3)),
        "digits_one_cycle_options": digits_fit(
            lambda learn: learn.fit_one_cycle(
                2, 5e-3, div=10, div_final=100, pct_start=0.4, moms=(0.9, 0.8, 0.7)
            )
        ),
        "digits_flat_cos": digits_fit(lambda learn: learn.fit_flat_cos(3)),
        "digits_flat_cos_options": digits_fit(
            lambda learn: learn.fit_flat_cos(2, 5e-3, div_final=10, pct_start=0.5)
        ),
        "digits_sgdr": digits_fit(lambda learn: learn.fit_sgdr(2, 1)),
        "digits_sgdr_options": digits_fit(lambda learn: learn.fit_sgdr(2, 1, 5e-3, cycle_mult=3)),
    }


def schedules() -> dict[str, list[float]]:
    one = {
        "sched_no": schedule.SchedNo(2, 5),
        "sched_lin": schedule.SchedLin(2, 5),
        "sched_cos": schedule.SchedCos(2, 5),
        "sched_exp": schedule.SchedExp(2, 5),
        "sched_poly": schedule.SchedPoly(2, 5, 3),
        "combine_scheds": schedule.combine_scheds(
            [0.25, 0.5, 0.25],
            [schedule.SchedLin(1, 3), schedule.SchedCos(3, 2), schedule.SchedExp(2, 4)],
        ),
        "combined_cos": schedule.combined_cos(0.3, 1, 4, 0.5),
    }
    return {name: [float(sched(i / 16)) for i in range(17)] for name, sched in one.items()}


class CountingSGD(torch.optim.SGD):
    """SGD that counts its calls."""

    n_step, n_zero_grad = 0, 0

    def step(self, closure: Any = None) -> None:
        self.n_step += 1
        super().step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.n_zero_grad += 1
        super().zero_grad(set_to_none)


class Cancelling(Callback):
    """Records every event, and raises each planned exception once."""

    def __init__(self, plan: list[tuple[str, bool | None, type[Exception]]]) -> None:
        self.plan, self.events = list(plan), []

    def _seen(self, name: str) -> None:
        self.events.append(name)
        for step in self.plan:
            if step[0] == name and step[1] in (None, self.learn.training):
                self.plan.remove(step)
                raise step[2]


def _at(name: str) -> Callable[[Cancelling], None]:
    return lambda self: self._seen(name)


for _name in EVENTS:
    setattr(Cancelling, _name, _at(_name))


def plans() -> Iterator[tuple[str, str, str]]:
    """Yields plans `(level, event, part)`: every level is cancelled at every event.

    The part is "any"; batch events get additional plans, one for each part of the epoch.
    """
    for level in CANCELS:
        for name in EVENTS:
            yield level, name, "any"
            if name in (
                "before_batch",
                "after_pred",
                "after_loss",
                "after_batch",
                "after_cancel_batch",
            ):
                yield level, name, "valid"


def cancelled(level: str, name: str, part: str) -> dict[str, Any]:
    plan = [(name, PARTS[part], CANCELS[level])]
    if name.startswith("after_cancel_"):
        inner = name.removeprefix("after_cancel_")
        plan.insert(0, (f"before_{inner}", PARTS[part], CANCELS[inner]))
    return {"level": level, "event": name, "part": part} | traced(plan)


def traced(plan: list[tuple[str, bool | None, type[Exception]]]) -> dict[str, Any]:
    spy = Cancelling(plan)
    learn = Learner(
        regression(16, 8),
        linear(),
        nn.functional.mse_loss,
        partial(OptimWrapper, opt=CountingSGD),
        lr=0.05,
        default_cbs=False,
        cbs=[TrainEvalCallback(), spy],
    )
    escaped = None
    try:
        learn.fit(2)
    except tuple(CANCELS.values()) as err:
        escaped = type(err).__name__
    opt = learn.opt.opt
    return {
        "escaped": escaped,
        "n_step": opt.n_step,
        "n_zero_grad": opt.n_zero_grad,
        "train_iter": learn.train_iter,
        "events": " ".join(spy.events),
    }


def rounded(value: Any) -> Any:
    """Rounds floats to 9 digits, which keeps a float32 exactly and halves the size of the file."""
    if isinstance(value, float):
        return float(f"{value:.9g}")
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value


def main() -> None:
    torch.set_num_threads(1)
    reference = {
        "versions": {"fastai": fastai.__version__, "torch": torch.__version__.split("+")[0]},
        "event_names": EVENTS,
        "uncancelled": traced([]),
        "schedules": rounded(schedules()),
        "fits": rounded(fits()),
    }
    lines = [
        f"{json.dumps(name)}: {json.dumps(value)}"
        for name, value in reference.items()
        if name != "fits"
    ]
    lines += [
        '"fits": {\n'
        + ",\n".join(
            f"{json.dumps(name)}: {json.dumps(fit)}" for name, fit in reference["fits"].items()
        )
        + "}"
    ]
    lines += ['"cancels": [\n' + ",\n".join(json.dumps(cancelled(*plan)) for plan in plans()) + "]"]
    Path(__file__).with_name("learner.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
