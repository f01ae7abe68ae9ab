"""The callback that records a fit: which values it records, when, and under which names."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from torch import Tensor

from nntrain.config.redact import Redactor
from nntrain.core.callback import Callback, Purpose
from nntrain.core.names import Keys
from nntrain.core.optimizer import has_momentum
from nntrain.core.run_log import RunLog
from nntrain.core.smoothing import Smoother
from nntrain.integrations.journal.files import warning_if_unwritable
from nntrain.integrations.journal.records import Record, metrics_record, metrics_records
from nntrain.integrations.journal.writer import Job
from nntrain.integrations.shipping.client import Shipper
from nntrain.integrations.shipping.run_writer import RunWriter, now_ms
from nntrain.integrations.tracker import MetricRow, ModelFile, RunInfo, Tracker
from nntrain.statistics import ActivationStats, Statistics
from nntrain.statistics.histograms import histogram_edges

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from nntrain.learner import Learner

_Value = TypeVar("_Value")

Figures = Mapping[str, Callable[["Learner"], "Figure | None"]]
"""Functions that draw a figure at the end of a fit, by file name; `None` means no figure."""

GROUP_BATCHES = 64
"""The number of batches in a group, which is written at once, unless `GROUP_NS` passes earlier."""

GROUP_NS = 1_000_000_000
"""Nanoseconds after which a group is written, however small it is."""

STATISTICS_NS = 10 * GROUP_NS
"""Nanoseconds after which statistics are read from the device within an epoch."""


class TrackerCallback(Callback):
    """Writes a fit to a journal, which the shipper delivers to the trackers.

    It records these metrics:

    - each training batch: `batch/loss`, its debiased exponentially weighted mean
      `batch/loss_smooth`, and learning rate and momentum of each parameter group, `lr/GROUP` and
      `mom/GROUP`;
    - each epoch: the recorder's row, `epoch`, `train/...`, `valid/...` and `time/...`;
    - as often as they are gathered: the values of the `Statistics` among the callbacks, such as
      `act/LAYER/...`.

    The step is `train_iter`, the number of training batches so far; the first batch is step 1. The
    values of a batch stay on the device. A thread writes them in groups of 64 batches, or at least
    once a second, so that no batch waits for the device or the disk. The end of an epoch flushes
    the journal to the disk. Later fits of the same Learner, and a fit that is resumed from a
    checkpoint, continue the same run.

    Args:
        trackers: where to record the run, by name.
        folder: the folder of the journal; `None` makes `outputs/DATE/TIME`.
        info: what is known about the run before it starts.
        models: weights to keep at the end of the fit, if the files exist then.
        artifacts: other files to keep at the end of the fit, if they exist then.
        logs: files that are still being written, to keep however the fit ends.
        figures: figures to draw at the end of the fit.
        shipper: delivers the journal; `None` takes the process that all runs here share.
        trusted: packages, in addition to nntrain, whose trackers the shipper may make.
        redactor: removes secrets from everything that is written.

    Raises:
        FileExistsError: when a fit starts and the folder holds the journal of another run.
    """

    order: ClassVar[int] = 95
    purposes: ClassVar[frozenset[Purpose]] = frozenset({Purpose.FIT})
    only_watches: ClassVar[bool] = True

    def __init__(
        self,
        trackers: Mapping[str, Tracker],
        folder: str | Path | None = None,
        info: RunInfo | None = None,
        *,
        models: Sequence[ModelFile] = (),
        artifacts: Sequence[Path] = (),
        logs: Sequence[Path] = (),
        figures: Figures | None = None,
        shipper: Shipper | None = None,
        trusted: Sequence[str] = (),
        redactor: Redactor | None = None,
    ) -> None:
        self._run = RunWriter(
            trackers, folder, info, shipper=shipper, trusted=trusted, redactor=redactor
        )
        self.models, self.artifacts, self.logs = models, artifacts, logs
        self.figures = figures or {}
        self._resumed: Mapping[str, Any] | None = None
        self._begin_group(0)

    @property
    def uid(self) -> str | None:
        """The machine-readable name of the run; `None` until the first fit begins."""
        return self._run.uid

    @property
    def journal(self) -> Path:
        """The journal of the run."""
        return self._run.journal

    # --- the run

    def before_fit(self, learn: Learner) -> None:
        """Begins the run, or resumes the one that a checkpoint names."""
        resumed, self._resumed = self._resumed, None
        if self.uid is None and resumed is not None:
            self._run.resume(resumed["uid"], Path(resumed["journal"]), learn.train_iter)
        self._run.begin()
        learn.tracker = RunLog(learn, self._run)
        self._begin_columns(learn)

    def _begin_columns(self, learn: Learner) -> None:
        recorder, keys = learn.recorder, Keys()
        names = [f"lr/{name}" for name in recorder.group_names]
        if learn.opt is not None and has_momentum(learn.opt):
            names += [f"mom/{name}" for name in recorder.group_names]
        self._hyper_keys, self._keys = [keys[name] for name in names], keys
        self._smoother = Smoother()
        for loss in recorder.losses.tolist():  # the losses of a resumed fit
            self._smoother.add(loss)
        self._begin_group(recorder.n_batch)
        self._statistics_due_ns = time.time_ns() + STATISTICS_NS

    # --- batches

    def _begin_group(self, n_written: int) -> None:
        self._n_written = n_written
        self._times: list[int] = []
        self._steps: list[int] = []
        self._last_ns = time.time_ns()
        self._due_ns = self._last_ns + GROUP_NS

    def after_loss(self, learn: Learner) -> None:
        """Notes the time of a training batch; the recorder holds its values."""
        now = time.time_ns()
        if learn.training:
            self._times.append(now)
            self._steps.append(learn.train_iter + 1)
        # A group is also due if the next batch, taking as long as this one, would be late.
        if len(self._steps) >= GROUP_BATCHES or 2 * now - self._last_ns >= self._due_ns:
            self._run.write_later(*self._group(learn))
        self._last_ns = now

    def _group(self, learn: Learner) -> list[Job]:
        """The values since the last group, as jobs for the thread that may wait for the device."""
        jobs: list[Job] = []
        if self._steps:
            losses, hypers = learn.recorder.since(self._n_written)
            jobs.append(partial(self._batch_records, self._times, self._steps, losses, hypers))
        if time.time_ns() >= self._statistics_due_ns:
            jobs.append(self._statistics(learn))
        self._begin_group(self._n_written + len(self._steps))
        self._run.shipper.check()
        return jobs

    def _batch_records(
        self, times: list[int], steps: list[int], losses: Tensor, hypers: Tensor
    ) -> Iterator[Record]:
        values: list[float] = losses.tolist()
        columns = {
            "batch/loss": values,
            "batch/loss_smooth": [self._smoother.add(value) for value in values],
        }
        columns |= zip(self._hyper_keys, hypers.T.tolist(), strict=True)
        yield metrics_record([now // 1_000_000 for now in times], steps, columns)

    def _statistics(self, learn: Learner) -> Job:
        """Reads the new values of the statistics from the device."""
        self._statistics_due_ns = time.time_ns() + STATISTICS_NS
        drained = [cb.drain() for cb in learn.cbs if isinstance(cb, Statistics)]
        return partial(self._statistics_records, now_ms(), drained)

    def _statistics_records(
        self, time_ms: int, drained: list[list[tuple[int, dict[str, float]]]]
    ) -> Iterator[Record]:
        for rows in drained:
            yield from metrics_records(
                MetricRow(time_ms, step, self._named(values)) for step, values in rows
            )

    def _named(self, values: Mapping[str, _Value]) -> dict[str, _Value]:
        return {self._keys[name]: value for name, value in values.items()}

    # --- epochs

    def after_epoch(self, learn: Learner) -> None:
        """Writes the row of the epoch and the statistics, and flushes the journal to the disk."""
        at, row = (now_ms(), learn.train_iter), learn.recorder.row
        records = partial(self._epoch_records, *at, row, self._histograms(learn))
        self._run.write_later(*self._group(learn), self._statistics(learn), records)
        self._run.flush()

    def _histograms(self, learn: Learner) -> list[dict[str, list[float]]]:
        all_stats = (cb for cb in learn.cbs if isinstance(cb, ActivationStats))
        return [counts for stats in all_stats if (counts := stats.last_histograms())]

    def _epoch_records(
        self,
        time_ms: int,
        step: int,
        row: Mapping[str, float],
        histograms: list[dict[str, list[float]]],
    ) -> Iterator[Record]:
        yield from metrics_records([MetricRow(time_ms, step, self._named(row))])
        head = {"kind": "histograms", "time_ms": time_ms, "step": step}
        for counts in histograms:
            yield head | {"edges": histogram_edges().tolist(), "counts": self._named(counts)}

    # --- the end

    def after_fit(self, learn: Learner) -> None:
        """Keeps the figures and files of the run."""
        for name, draw in self.figures.items():
            if (figure := draw(learn)) is not None:
                learn.tracker.log_figure(figure, name)
        for model in self.models:
            if model.path.is_file():
                self._keep_model(model)
        for path in self.artifacts:
            if path.is_file():
                learn.tracker.log_artifact(path)

    def _keep_model(self, model: ModelFile) -> None:
        with warning_if_unwritable(model.path):
            self._run.placed_model(self._run.files.link(model.path), model)

    def cleanup_fit(self, learn: Learner) -> None:
        """Writes the remaining values and why the fit ended."""
        if not self._run.is_open:
            return
        try:
            self._run.write_later(*self._group(learn), self._statistics(learn))
        finally:  # a device in an error state cannot be read, but the run must end
            self._keep_logs()
            self._run.end(learn.result)

    def _keep_logs(self) -> None:
        for path in self.logs:
            if path.is_file():
                with warning_if_unwritable(path):
                    self._run.placed_artifact(self._run.files.inside(path), path.name)

    def finish(self, timeout_s: float | None = None) -> list[str]:
        """Waits until the trackers have all runs of the shipper, and prints what they lack.

        Args:
            timeout_s: seconds to wait at most; `None` takes the shipper's own limit.

        Returns where each tracker keeps the run, in a text for people.
        """
        return self._run.finish(timeout_s)

    def state_dict(self) -> dict[str, Any]:
        """The name of the run and the path of its journal."""
        return {"uid": self.uid, "journal": str(self.journal)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the run of `state_dict`, so that the next fit continues it."""
        self._resumed = state
