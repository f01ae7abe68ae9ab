"""The `Recorder` callback: stores losses and learning rates per batch, and metrics per epoch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from nntrain import plots
from nntrain.core.batch import batch_size
from nntrain.core.batch_log import number_log, scalar_log
from nntrain.core.callback import Callback, Purpose
from nntrain.core.optimizer import get_hyper, group_names, has_momentum, param_groups
from nntrain.core.smoothing import smooth
from nntrain.metrics import AvgLoss, Metric, WeightedMean, as_number, check_loss_part

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from nntrain.learner import Learner


class Recorder(Callback):
    """Stores the losses, learning rates and metrics of a fit.

    The recorder adds one entry per training batch to `losses`, `smooth_losses`, `lrs` and `moms`,
    and one dict per epoch to `rows`. If training never started in an epoch, the row has no training
    values; the same applies to validation. The recorder does not read from the device before an
    epoch ends.

    =====================  ==================================================  ====
    key in a row           meaning                                             unit
    =====================  ==================================================  ====
    `epoch`                index of the epoch
    `train/loss`           mean training loss, weighted by batch size
    `valid/loss`           mean validation loss, weighted by batch size
    `train/NAME`           metric NAME or loss part NAME on the training set
    `valid/NAME`           metric NAME or loss part NAME on the validation set
    `time/epoch_s`         duration of the epoch                               s
    `time/batch_ms`        mean time per training batch, without data loading  ms
    `time/data_wait_ms`    mean time spent waiting for a training batch        ms
    =====================  ==================================================  ====

    `epoch_ends` contains, for each row, the number of training batches at the end of its epoch.

    Args:
        beta: smoothing factor of `smooth_losses`; a larger value gives a smoother curve.
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

    # --- reading the records

    @property
    def losses(self) -> Tensor:
        """The loss of each training batch `(batches,)`, copied to the CPU."""
        return self._loss_log.tensor()

    @property
    def n_batch(self) -> int:
        """The number of training batches recorded in this fit."""
        return len(self._loss_log)

    def since(self, start: int) -> tuple[Tensor, Tensor]:
        """Returns the records of all batches from index `start`, without waiting for the device.

        Returns:
            The losses `(batches,)` on their device, and the learning rates and momenta
            `(batches, values)` as float64. The learning rates of all groups come first.
        """
        return self._loss_log.since(start), self._hypers.since(start)

    @property
    def smooth_losses(self) -> Tensor:
        """The exponentially smoothed losses `(batches,)`."""
        return smooth(self.losses, self.beta)

    @property
    def lrs(self) -> dict[str, list[float]]:
        """The learning rate of each training batch, keyed by parameter group."""
        return self._columns(0)

    @property
    def moms(self) -> dict[str, list[float]]:
        """The momentum of each training batch, keyed by parameter group; empty without momentum."""
        return self._columns(len(self.group_names)) if self._with_mom else {}

    def _columns(self, first: int) -> dict[str, list[float]]:
        table = self._hypers.tensor()
        return {
            name: table[:, first + i].tolist() if len(table) else []
            for i, name in enumerate(self.group_names)
        }

    @property
    def metric_names(self) -> list[str]:
        """The keys of all rows, in the order in which they first appeared."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def last(self, name: str) -> float:
        """Returns the latest value of a metric.

        Raises:
            LookupError: if the metric was not recorded.
        """
        if name not in self.row:
            recorded = ", ".join(self.row) or "none"
            raise LookupError(f"{name!r} was not recorded; recorded metrics: {recorded}.")
        return self.row[name]

    def plot_loss(self) -> Figure:
        """Plots the loss per training batch; see `nntrain.plots.plot_loss`."""
        return plots.plot_loss(self)

    def plot_lrs(self) -> Figure:
        """Plots learning rates and momenta per training batch; see `nntrain.plots.plot_lrs`."""
        return plots.plot_lrs(self)

    # --- recording

    def clear(self) -> None:
        """Deletes all records.

        `Learner.fit` calls this method because `before_fit` may not run if the fit is cancelled.
        """
        self.rows, self.row, self.epoch_ends = [], {}, []
        self._loss_log, self._hypers = scalar_log(), number_log()
        self._begin_row()

    def _begin_row(self) -> None:
        self._pending, self._measuring, self._epoch_start = {}, False, perf_counter()

    def before_fit(self, learn: Learner) -> None:
        """Stores the names of the parameter groups."""
        if learn.purpose is not Purpose.FIT:
            self.row = {}
        elif learn.opt is not None:
            self.group_names, self._with_mom = group_names(learn.opt), has_momentum(learn.opt)

    def before_epoch(self, learn: Learner) -> None:
        """Starts a new row; `row` is still the row of the last finished epoch."""
        self._begin_row()

    def before_train(self, learn: Learner) -> None:
        """Resets the training metrics and starts the timer."""
        self._begin(learn)
        self._train_start = perf_counter()

    def before_validate(self, learn: Learner) -> None:
        """Resets the validation metrics."""
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
        """Records the loss, hyper-parameters and metrics of the batch."""
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
        """Collects the training metrics and times, unless training never started."""
        if not self._measuring:
            return
        self._collect("train")
        n_batch = max(learn.iter + 1 - learn.first_iter, 1)
        busy_s = perf_counter() - self._train_start - learn.data_wait_s
        self._pending["time/batch_ms"] = 1e3 * busy_s / n_batch
        self._pending["time/data_wait_ms"] = 1e3 * learn.data_wait_s / n_batch

    def after_validate(self, learn: Learner) -> None:
        """Collects the validation metrics, unless validation never started."""
        if self._measuring:
            self._collect("valid")
        if learn.purpose is not Purpose.FIT:
            self.row = _as_floats(self._pending)

    def _collect(self, part: str) -> None:
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
        # frees the memory of metrics that store predictions
        for metric in self._active:
            metric.reset()
        self._active = []

    def after_epoch(self, learn: Learner) -> None:
        """Reads the metrics from the device and adds a row."""
        times = {name: value for name, value in self._pending.items() if name.startswith("time/")}
        values = {name: value for name, value in self._pending.items() if name not in times}
        self.row = {"epoch": float(learn.epoch), **_as_floats(values)}
        self.row |= {"time/epoch_s": perf_counter() - self._epoch_start, **times}
        self.rows.append(self.row)
        self.epoch_ends.append(len(self._loss_log))
        self._begin_row()

    # --- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Returns all records, including the metrics of the unfinished epoch."""
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
        """Restores the records returned by `state_dict`."""
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


def find_recorder(cbs: Iterable[Callback]) -> Recorder | None:
    """Returns the first `Recorder` in a list of callbacks, or `None`."""
    return next((cb for cb in cbs if isinstance(cb, Recorder)), None)


def _as_floats(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}
