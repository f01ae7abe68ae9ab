"""The callback between the Learner and a tracker: what is recorded, when, and under which name."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from nntrain.callback import Callback, Purpose
from nntrain.integrations.base import MetricRow, RunInfo, Tracker
from nntrain.integrations.names import metric_key
from nntrain.optimizer import get_hyper, group_names, has_momentum, param_groups
from nntrain.recorder import Smoother
from nntrain.rng import kept_rng
from nntrain.statistics import Statistics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from nntrain.learner import Learner

OUTCOME_TAG = "nntrain.outcome"

Figures = Mapping[str, Callable[["Learner"], "Figure | None"]]
"""Figures to draw when a fit has ended, by file name; one that has nothing to draw gives `None`."""


class TrackerCallback(Callback):
    """Records a fit in a tracker, in batches, without reading the device for each batch.

    ==============================  ======================================================  ====================
    key                             meaning                                                 recorded
    ==============================  ======================================================  ====================
    `batch/loss`                    loss of the batch                                       each training batch
    `batch/loss_smooth`             its debiased exponentially weighted mean                each training batch
    `lr/GROUP`, `mom/GROUP`         learning rate and momentum of the parameter group       each training batch
    `act/LAYER/...` and the like    what the `Statistics` among the callbacks gathered      as often as they do
    `epoch`, `train/...`, ...       the recorder's row                                      each epoch
    ==============================  ======================================================  ====================

    The step is `train_iter`, the number of training batches seen; the first batch is step 1.

    Args:
        tracker: where to.
        info: what is known of the run before it starts.
        artifacts: files to keep when the fit has ended, of those that exist then.
        figures: figures to draw when the fit has ended.
        flush_every: batches after which rows are sent even within an epoch.
    """

    order: ClassVar[int] = 95
    purposes: ClassVar[frozenset[Purpose]] = frozenset({Purpose.FIT})

    def __init__(
        self,
        tracker: Tracker,
        info: RunInfo | None = None,
        *,
        artifacts: Sequence[Path] = (),
        figures: Figures | None = None,
        flush_every: int = 1000,
    ) -> None:
        self.tracker, self.info = tracker, info or RunInfo()
        self.artifacts, self.figures, self.flush_every = artifacts, figures or {}, flush_every
        self.run_id: str | None = None
        self._running = False
        self._losses: list[Tensor] = []
        self._rows: list[tuple[int, int, dict[str, float]]] = []
        self._smoother = Smoother()

    def before_fit(self, learn: Learner) -> None:
        """Begins the run, or goes on with the one that a checkpoint names."""
        self._losses, self._rows = [], []
        with kept_rng():
            self.run_id = self.tracker.start(self.info, self.run_id)
        self._running = True
        self._smoother = Smoother()
        for loss in learn.recorder.losses.tolist():  # those of a fit that is resumed
            self._smoother.add(loss)
        opt = learn.opt
        groups = [metric_key(name) for name in group_names(opt)] if opt else []
        self._lr_keys = [f"lr/{name}" for name in groups]
        self._mom_keys = [f"mom/{name}" for name in groups] if opt and has_momentum(opt) else []

    def after_loss(self, learn: Learner) -> None:
        """Notes a training batch; its loss stays on the device."""
        if not learn.training:
            return
        self._losses.append(learn.loss.detach())
        self._rows.append((time.time_ns() // 1_000_000, learn.train_iter + 1, self._hypers(learn)))
        if len(self._rows) >= self.flush_every:
            self._flush(learn)

    def _hypers(self, learn: Learner) -> dict[str, float]:
        groups = param_groups(learn.opt) if learn.opt else []
        values = {key: float(group["lr"]) for key, group in zip(self._lr_keys, groups, strict=True)}
        if self._mom_keys:
            values |= {key: get_hyper(group, "mom") for key, group in zip(self._mom_keys, groups, strict=True)}
        return values

    def after_epoch(self, learn: Learner) -> None:
        """Sends the batches and the row of the epoch."""
        row = {metric_key(name): value for name, value in learn.recorder.row.items()}
        self._flush(learn, MetricRow(time.time_ns() // 1_000_000, learn.train_iter, row))

    def _flush(self, learn: Learner, *more: MetricRow) -> None:
        rows = self._batch_rows() if self._rows else []
        now = time.time_ns() // 1_000_000
        for cb in learn.cbs:
            if isinstance(cb, Statistics):
                rows += [MetricRow(now, step, values) for step, values in cb.drain()]
        if rows or more:
            with kept_rng():
                self.tracker.metrics([*rows, *more])

    def _batch_rows(self) -> list[MetricRow]:
        losses: list[float] = torch.stack(self._losses).tolist()
        rows = [
            MetricRow(when, step, {"batch/loss": loss, "batch/loss_smooth": self._smoother.add(loss), **hypers})
            for (when, step, hypers), loss in zip(self._rows, losses, strict=True)
        ]
        self._losses, self._rows = [], []
        return rows

    def after_fit(self, learn: Learner) -> None:
        """Keeps the figures and files of the run."""
        for name, draw in self.figures.items():
            figure = draw(learn)
            if figure is not None:
                self.tracker.figure(figure, name)
        for path in self.artifacts:
            if path.is_file():
                self.tracker.artifact(path)

    def cleanup_fit(self, learn: Learner) -> None:
        """Sends what is left and ends the run with the reason for which the fit ended."""
        if not self._running:
            return
        self._running = False
        self._flush(learn)
        result = learn.result
        message = {"nntrain.message": result.message} if result.message else {}
        self.tracker.tags({OUTCOME_TAG: str(result.reason), **message})
        self.tracker.finish(result.reason)

    def state_dict(self) -> dict[str, Any]:
        """The id of the run."""
        return {"run_id": self.run_id}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave, so that a resumed fit goes on in the same run."""
        self.run_id = state["run_id"]
