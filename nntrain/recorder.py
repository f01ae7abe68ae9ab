"""Recording a fit: losses and learning rates of each batch, metrics of each epoch; and gathering predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from nntrain import plots
from nntrain.core.batch import batch_size
from nntrain.core.callback import Callback, Purpose
from nntrain.core.optimizer import get_hyper, group_names, has_momentum, param_groups
from nntrain.metrics import AvgLoss, Metric, WeightedMean, as_number, check_loss_part

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from nntrain.learner import Learner

_FOLD = 1024


_Item = TypeVar("_Item")


class BatchLog(Generic[_Item]):
    """What was recorded of each batch, in blocks of 1024: a long fit keeps tensors, not millions of objects."""

    def __init__(self, join: Callable[[list[_Item]], Tensor]) -> None:
        self._join = join
        self._blocks: list[Tensor] = []
        self._recent: list[_Item] = []

    def __len__(self) -> int:
        return sum(len(block) for block in self._blocks) + len(self._recent)

    def append(self, item: _Item) -> None:
        """Adds the record of a batch; a tensor is not read."""
        self._recent.append(item)
        if len(self._recent) == _FOLD:
            self._fold()

    def _fold(self) -> None:
        if self._recent:
            self._blocks.append(self._join(self._recent))
            self._recent = []

    def tensor(self) -> Tensor:
        """All records `(batches, ...)` on the CPU; this reads the device."""
        self._fold()
        return torch.cat(self._blocks).cpu() if self._blocks else torch.empty(0)

    def since(self, start: int) -> Tensor:
        """The records after the first `start` ones `(batches, ...)`, where they are; this reads nothing."""
        end = len(self) - len(self._recent)
        recent = self._recent[max(0, start - end) :]
        parts = [self._join(recent)] if recent else []
        for block in reversed(self._blocks):
            if end <= start:
                break
            end -= len(block)
            parts.insert(0, block[max(0, start - end) :])
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def load(self, records: Tensor) -> None:
        """Replaces all records."""
        self._blocks, self._recent = ([records] if len(records) else []), []


def scalar_log() -> BatchLog[Tensor]:
    """For one scalar tensor a batch, kept on its device, as float32."""
    return BatchLog(lambda scalars: torch.stack(scalars).float())


def number_log() -> BatchLog[list[float]]:
    """For a row of numbers a batch, as float64."""
    return BatchLog(lambda rows: torch.tensor(rows, dtype=torch.float64))


class Smoother:
    """The debiased exponentially weighted mean of numbers, as fastai's `AvgSmoothLoss` gives it."""

    def __init__(self, beta: float = 0.98) -> None:
        self.beta = beta
        self._mean, self._count = 0.0, 0

    def add(self, value: float) -> float:
        """Takes a number and returns the mean so far."""
        self._mean += (value - self._mean) * (
            1 - self.beta
        )  # as torch.lerp: from an infinity on it is NaN
        self._count += 1
        return self._mean / (1 - self.beta**self._count)


def smooth(values: Tensor, beta: float = 0.98) -> Tensor:
    """The debiased exponentially weighted mean after each of the values `(n,)`."""
    smoother = Smoother(beta)
    return torch.tensor([smoother.add(value) for value in values.tolist()])


class Recorder(Callback):
    """Keeps what a fit produced, without reading the device before an epoch ends.

    Per training batch: `losses`, `smooth_losses`, `lrs` and `moms`. Per epoch: a row of `rows`, a mapping by name, so a
    cancelled part leaves its names out and shifts nothing.

    =====================  ======================================================  ========
    key of a row           meaning                                                 unit
    =====================  ======================================================  ========
    `epoch`                index of the epoch
    `train/loss`           mean loss over the training batches, weighted by size
    `valid/loss`           the same over the validation set
    `train/NAME`           metric NAME, or part NAME of the loss, in training
    `valid/NAME`           the same over the validation set
    `time/epoch_s`         the whole epoch                                         s
    `time/batch_ms`        mean time of a training batch, less the wait for it     ms
    `time/data_wait_ms`    mean wait for a training batch                          ms
    =====================  ======================================================  ========

    `epoch_ends` has for each row the number of training batches recorded by its end.
    """

    order: ClassVar[int] = 50
    purposes: ClassVar[frozenset[Purpose]] = frozenset({Purpose.FIT, Purpose.VALIDATE})

    def __init__(self, beta: float = 0.98) -> None:
        self.beta = beta
        self.rows: list[dict[str, float]] = []
        self.epoch_ends: list[int] = []
        self.row: dict[str, float] = {}
        self.group_names: list[str] = []
        self._pending: dict[str, Any] = {}
        self._active: list[Metric] = []
        self._loss = AvgLoss()
        self._parts: dict[str, WeightedMean] = {}
        self._loss_log, self._hypers = scalar_log(), number_log()
        self._with_mom = False
        self._measuring = False
        self._epoch_start = self._train_start = 0.0

    @property
    def losses(self) -> Tensor:
        """The loss of each training batch of the fit `(batches,)`, on the CPU; this reads the device."""
        return self._loss_log.tensor()

    @property
    def n_batch(self) -> int:
        """How many training batches of the fit are recorded."""
        return len(self._loss_log)

    def since(self, start: int) -> tuple[Tensor, Tensor]:
        """Of the batches after the first `start` ones: the losses `(batches,)`, on their device, and the learning rates and
        momenta `(batches, values)`, float64; this reads nothing.
        """
        return self._loss_log.since(start), self._hypers.since(start)

    @property
    def smooth_losses(self) -> Tensor:
        """The exponentially weighted mean of `losses` after each batch `(batches,)`."""
        return smooth(self.losses, self.beta)

    @property
    def lrs(self) -> dict[str, list[float]]:
        """The learning rate of each training batch, by parameter group."""
        return self._columns(0)

    @property
    def moms(self) -> dict[str, list[float]]:
        """The momentum of each training batch, by parameter group; empty if the optimizer has none."""
        return self._columns(len(self.group_names)) if self._with_mom else {}

    def _columns(self, first: int) -> dict[str, list[float]]:
        table = self._hypers.tensor()
        return {
            name: table[:, first + i].tolist() if len(table) else []
            for i, name in enumerate(self.group_names)
        }

    @property
    def metric_names(self) -> list[str]:
        """The names of all that was recorded per epoch, in order of appearance."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def last(self, name: str) -> float:
        """The latest value of a metric.

        Raises:
            LookupError: if it was not recorded; the message lists what was.
        """
        if name not in self.row:
            raise LookupError(
                f"{name!r} was not recorded; recorded were {', '.join(self.row) or 'no metrics'}."
            )
        return self.row[name]

    def plot_loss(self) -> Figure:
        """The losses by training batch; see `nntrain.plots.plot_loss`."""
        return plots.plot_loss(self)

    def plot_lrs(self) -> Figure:
        """The learning rates and momenta by training batch; see `nntrain.plots.plot_lrs`."""
        return plots.plot_lrs(self)

    def clear(self) -> None:
        """Forgets all that was recorded; `Learner.fit` does so first, for a fit may be cancelled before `before_fit`."""
        self.rows, self.row, self.epoch_ends = [], {}, []
        self._loss_log, self._hypers = scalar_log(), number_log()
        self._begin_row()

    def _begin_row(self) -> None:
        self._pending, self._measuring, self._epoch_start = {}, False, perf_counter()

    def before_fit(self, learn: Learner) -> None:
        """Notes the names of the parameter groups."""
        if learn.purpose is not Purpose.FIT:
            self.row = {}
        elif learn.opt is not None:
            self.group_names, self._with_mom = group_names(learn.opt), has_momentum(learn.opt)

    def before_epoch(self, learn: Learner) -> None:
        """Begins a row; `row` stays that of the last finished epoch."""
        self._begin_row()

    def before_train(self, learn: Learner) -> None:
        """Begins the training part."""
        self._begin(learn)
        self._train_start = perf_counter()

    def before_validate(self, learn: Learner) -> None:
        """Begins the validation part."""
        if learn.purpose is not Purpose.FIT:
            self._pending = {}
        self._begin(learn)

    def _begin(self, learn: Learner) -> None:
        self._measuring = True
        self._active = [metric for metric in learn.metrics if metric.active(learn.training)]
        self._parts = {}
        for metric in (self._loss, *self._active):
            metric.reset()

    def after_loss(self, learn: Learner) -> None:
        """Takes a batch; one that is cancelled before its loss leaves nothing to take."""
        if learn.training:
            self._loss_log.append(learn.loss.detach())
            self._hypers.append(self._hypers_of(learn))
        self._loss.accumulate(learn)
        for metric in self._active:
            metric.accumulate(learn)
        if learn.loss_parts:
            self._accumulate_parts(learn)

    def _hypers_of(self, learn: Learner) -> list[float]:
        if learn.opt is None:
            return []
        groups = param_groups(learn.opt)
        hypers = [group["lr"] for group in groups]
        return hypers + [get_hyper(group, "mom") for group in groups] if self._with_mom else hypers

    def _accumulate_parts(self, learn: Learner) -> None:
        size = batch_size(learn.yb or learn.xb)
        for name, part in learn.loss_parts.items():
            if name not in self._parts:
                check_loss_part(name, part, learn.metrics)
                self._parts[name] = WeightedMean()
            self._parts[name].add(part, size)

    def after_train(self, learn: Learner) -> None:
        """Ends the training part; one that was cancelled before it began leaves its names out."""
        if not self._measuring:
            return
        self._read("train")
        n_batch = max(learn.iter + 1 - learn.first_iter, 1)
        busy_s = perf_counter() - self._train_start - learn.data_wait_s
        self._pending["time/batch_ms"] = 1e3 * busy_s / n_batch
        self._pending["time/data_wait_ms"] = 1e3 * learn.data_wait_s / n_batch

    def after_validate(self, learn: Learner) -> None:
        """Ends the validation part; one that was cancelled before it began leaves its names out."""
        if self._measuring:
            self._read("valid")
        if learn.purpose is not Purpose.FIT:
            self.row = _as_floats(self._pending)

    def _read(self, part: str) -> None:
        self._measuring = False
        values = [
            ("loss", self._loss.value),
            *((name, mean.value) for name, mean in self._parts.items()),
        ]
        values += [(metric.name, metric.value) for metric in self._active]
        self._pending |= {
            f"{part}/{name}": as_number(name, value) for name, value in values if value is not None
        }
        self._forget_batches()

    def _forget_batches(self) -> None:
        # What a metric kept of this part must not lie in memory through the next one.
        for metric in self._active:
            metric.reset()
        self._active = []

    def after_epoch(self, learn: Learner) -> None:
        """Ends the row: the one place where metrics are read from the device."""
        times = {name: value for name, value in self._pending.items() if name.startswith("time/")}
        values = {name: value for name, value in self._pending.items() if name not in times}
        self.row = {"epoch": float(learn.epoch), **_as_floats(values)}
        self.row |= {"time/epoch_s": perf_counter() - self._epoch_start, **times}
        self.rows.append(self.row)
        self.epoch_ends.append(len(self._loss_log))
        self._begin_row()

    def state_dict(self) -> dict[str, Any]:
        """The record so far, and the metrics of the part of the epoch in progress."""
        return {
            "rows": [dict(row) for row in self.rows],
            "epoch_ends": list(self.epoch_ends),
            "losses": self._loss_log.tensor(),
            "hypers": self._hypers.tensor(),
            "pending": dict(self._pending),
            "loss": self._loss.state_dict(),
            "parts": {name: mean.state_dict() for name, mean in self._parts.items()},
            "metrics": {metric.name: metric.state_dict() for metric in self._active},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        self.rows = [dict(row) for row in state["rows"]]
        self.row = self.rows[-1] if self.rows else {}
        self.epoch_ends = list(state["epoch_ends"])
        self._loss_log.load(state["losses"])
        self._hypers.load(state["hypers"])
        self._pending = dict(state["pending"])
        self._loss.load_state_dict(state["loss"])
        self._parts = {name: WeightedMean() for name in state["parts"]}
        for name, mean in self._parts.items():
            mean.load_state_dict(state["parts"][name])
        for metric in self._active:
            metric.load_state_dict(state["metrics"][metric.name])


class GatherPreds(Callback):
    """Keeps the predictions and labels of every batch, on the CPU."""

    order: ClassVar[int] = 50

    def __init__(self) -> None:
        self._preds: list[Tensor] = []
        self._targets: list[Tensor] = []

    def after_pred(self, learn: Learner) -> None:
        """Takes a batch."""
        if not isinstance(learn.pred, Tensor):
            raise TypeError(
                f"get_preds needs a model that returns a tensor but got {type(learn.pred).__name__}."
            )
        self._preds.append(learn.pred.detach().cpu())
        if learn.yb:
            self._targets.append(learn.yb[0].cpu())

    def collected(self) -> tuple[Tensor, Tensor | None]:
        """Predictions and labels of all batches, in order; no labels give `None`."""
        return torch.cat(self._preds), torch.cat(self._targets) if self._targets else None


def _as_floats(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}
