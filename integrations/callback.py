"""The callback that records the metrics, figures and files of a fit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from torch import Tensor

from nntrain.config.errors import ConfigError
from nntrain.config.redact import Redactor
from nntrain.core.callback import Callback, Purpose
from nntrain.core.names import Keys
from nntrain.core.optimizer import has_momentum
from nntrain.core.run_log import RunLog
from nntrain.core.smoothing import Smoother
from nntrain.integrations.journal.checks import is_uid
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
"""Functions that plot a figure at the end of a fit (or return `None`), by file name."""

GROUP_BATCHES = 64
"""Number of batches to write together; a group is written earlier if `GROUP_NS` has passed."""

GROUP_NS = 1_000_000_000
"""Maximum time in nanoseconds between two writes of batches."""

STATISTICS_NS = 10 * GROUP_NS
"""Time in nanoseconds between two reads of statistics from the device during an epoch."""


class TrackerCallback(Callback):
    """Records a fit in a journal that a shipper process delivers to the trackers.

    The callback records these metrics:

    - for each training batch: `batch/loss`; `batch/loss_smooth`, its debiased exponentially
      weighted mean; and the learning rate `lr/GROUP` and momentum `mom/GROUP` of each parameter
      group;
    - for each epoch: the recorder's row, which contains `epoch`, `train/...`, `valid/...` and
      `time/...`;
    - for each `Statistics` callback: the values that the callback gathers, for example
      `act/LAYER/...`.

    The step of a metric is `train_iter`, the number of training batches so far; the first batch is
    step 1. Training does not wait for the device or the disk: batch values stay on the device until
    a thread writes them, every 64 batches or every second, whichever comes first. The journal is
    flushed to disk at the end of each epoch. Later fits of the same Learner continue the same run,
    and so does a fit that resumes from a checkpoint.

    Args:
        trackers: the trackers that receive the run, by name.
        folder: the folder of the journal; `None` creates `outputs/DATE/TIME`.
        info: name, params, tags and other information about the run.
        models: weight files to record at the end of the fit; missing files are skipped.
        artifacts: other files to record at the end of the fit; missing files are skipped.
        logs: log files to record at the end of the fit, even if the fit fails.
        figures: functions that plot figures at the end of the fit, by file name.
        shipper: the shipper that delivers the journal; `None` uses the one shared by all runs of
            this process.
        trusted: packages, in addition to nntrain, whose tracker classes the shipper may
            instantiate.
        redactor: removes secrets from all records, but not from the content of files.
        late_tags: function that returns more tags when the fit starts, such as `GitTags`.

    Raises:
        FileExistsError: if the folder contains the journal of another run when a fit starts.
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
        late_tags: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        self._run = RunWriter(
            trackers,
            folder,
            info,
            shipper=shipper,
            trusted=trusted,
            redactor=redactor,
            late_tags=late_tags,
        )
        self.models, self.artifacts, self.logs = models, artifacts, logs
        self.figures = figures or {}
        self._resumed: Mapping[str, Any] | None = None
        self._begin_group(0)

    @property
    def uid(self) -> str | None:
        """The id of the run; `None` until the first fit starts."""
        return self._run.uid

    @property
    def journal(self) -> Path:
        """The path of the run's journal."""
        return self._run.journal

    # --- the run

    def before_fit(self, learn: Learner) -> None:
        """Starts the run, or resumes the run that was saved in a checkpoint."""
        resumed, self._resumed = self._resumed, None
        if self.uid is None and resumed is not None:
            self._resume(resumed["uid"], Path(resumed["journal"]), learn.train_iter)
        self._run.begin()
        learn.tracker = RunLog(learn, self._run)
        self._begin_columns(learn)

    def _resume(self, uid: str, journal: Path, step: int) -> None:
        try:
            self._run.resume(uid, journal, step)
        except FileExistsError:
            raise
        except OSError as err:
            raise ConfigError(f"The run of {journal} cannot be resumed: {err}") from err

    def _begin_columns(self, learn: Learner) -> None:
        recorder, keys = learn.recorder, Keys()
        names = [f"lr/{name}" for name in recorder.group_names]
        if learn.opt is not None and has_momentum(learn.opt):
            names += [f"mom/{name}" for name in recorder.group_names]
        self._hyper_keys, self._keys = [keys[name] for name in names], keys
        self._smoother = Smoother()
        for loss in recorder.losses.tolist():  # a resumed fit already has losses
            self._smoother.add(loss)
        self._begin_group(recorder.n_batch)
        self._statistics_due_ns = time.monotonic_ns() + STATISTICS_NS

    # --- batches

    def _begin_group(self, n_written: int) -> None:
        self._n_written = n_written
        self._times: list[int] = []
        self._steps: list[int] = []
        self._last_ns = time.monotonic_ns()
        self._due_ns = self._last_ns + GROUP_NS

    def after_loss(self, learn: Learner) -> None:
        """Stores the time of a training batch; the recorder stores the values of the batch."""
        now = time.monotonic_ns()
        if learn.training:
            self._times.append(time.time_ns())
            self._steps.append(learn.train_iter + 1)
        # Write now if waiting for another batch of the same duration would exceed the time limit.
        if len(self._steps) >= GROUP_BATCHES or 2 * now - self._last_ns >= self._due_ns:
            self._run.write_later(*self._group(learn))
        self._last_ns = now

    def _group(self, learn: Learner) -> list[Job]:
        """Returns jobs that write the new values; the journal's thread runs these jobs."""
        jobs: list[Job] = []
        if self._steps:
            losses, hypers = learn.recorder.since(self._n_written)
            jobs.append(partial(self._batch_records, self._times, self._steps, losses, hypers))
        if time.monotonic_ns() >= self._statistics_due_ns:
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
        """Returns a job that reads and writes the statistics gathered since the last call."""
        self._statistics_due_ns = time.monotonic_ns() + STATISTICS_NS
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
        """Writes the epoch's row and the statistics, then flushes the journal to disk."""
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
        """Records figures, models and artifacts."""
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
        """Writes the remaining values and the reason why the fit ended."""
        if not self._run.is_open:
            return
        try:
            self._run.write_later(*self._group(learn), self._statistics(learn))
        finally:  # end the run even if the values cannot be read from a failed device
            self._keep_logs()
            self._run.end(learn.result)

    def _keep_logs(self) -> None:
        for path in self.logs:
            if path.is_file():
                with warning_if_unwritable(path):
                    self._run.placed_artifact(self._run.files.inside(path), path.name)

    def finish(self, timeout_s: float | None = None) -> list[str]:
        """Waits for the shipper to deliver all its runs, then prints what was not delivered.

        Args:
            timeout_s: maximum time to wait, in seconds; `None` uses the shipper's limit.

        Returns one message per tracker that says where to find the run.

        Raises:
            RuntimeError: if called during a fit.
        """
        if self._run.is_open:
            raise RuntimeError("finish() was called before the fit ended: call it after learn.fit.")
        return self._run.finish(timeout_s)

    def state_dict(self) -> dict[str, Any]:
        """Returns the id of the run and the path of its journal."""
        return {"uid": self.uid, "journal": str(self.journal)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the run from a `state_dict`; the next fit continues that run.

        Raises:
            ValueError: if the state is not one that `state_dict` returns.
        """
        uid, journal = state.get("uid"), state.get("journal")
        if not (uid is None or is_uid(uid)):
            raise ValueError(f"uid={uid!a} is not the id of a run")
        if not isinstance(journal, str) or "\0" in journal:
            raise ValueError(f"journal={journal!a} is not the path of a journal")
        self._resumed = {"uid": uid, "journal": journal}
