"""The callback between the Learner and the trackers: what is recorded, when, and under which name."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from torch import Tensor

from nntrain.config.redact import Redactor
from nntrain.core.callback import Callback, Purpose
from nntrain.core.names import Keys
from nntrain.core.optimizer import has_momentum
from nntrain.integrations.capture.provenance import process_info
from nntrain.integrations.journal.records import (
    JOURNAL,
    Record,
    end_record,
    metrics_record,
    metrics_records,
    start_record,
)
from nntrain.integrations.journal.writer import Job, JournalWriter
from nntrain.integrations.log import Files, JournalLog, warned_of
from nntrain.integrations.shipping.client import Shipment, Shipper, shared_shipper, tell_backlog
from nntrain.integrations.shipping.continuation import continue_journal
from nntrain.integrations.shipping.delivery import whereabouts
from nntrain.integrations.shipping.spec import node_of
from nntrain.integrations.tracker import OUTCOME_TAG, MetricRow, ModelFile, RunEnd, RunInfo, Tracker
from nntrain.recorder import Smoother
from nntrain.statistics import ActivationStats, Statistics
from nntrain.statistics.histograms import histogram_edges

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from nntrain.learner import Learner
    from nntrain.result import FitResult

_Value = TypeVar("_Value")

Figures = Mapping[str, Callable[["Learner"], "Figure | None"]]
"""Figures to draw when a fit has ended, by file name; one that has nothing to draw gives `None`."""

GROUP_BATCHES = 64
"""Batches that are written in one group, if they do not take longer than `GROUP_NS`."""

GROUP_NS = 1_000_000_000
"""Nanoseconds after which a group is written, however small it is."""

START_WAIT_S = 1.0
"""Seconds that the beginning of a fit waits at most for its first record to be on the disk."""

TRACEBACK_LENGTH = 4000
"""Characters of a traceback that are kept, its end; MLflow takes tags of 5000."""

STATISTICS_NS = 10 * GROUP_NS
"""Nanoseconds after which statistics are read from the device, however long the epoch takes."""


def now_ms() -> int:
    """Milliseconds since the epoch of the clock."""
    return time.time_ns() // 1_000_000


def default_folder() -> Path:
    """A folder of its own for a run: `outputs/DATE/TIME` in the current one."""
    return Path(datetime.now().strftime("outputs/%Y-%m-%d/%H-%M-%S-%f"))


class TrackerCallback(Callback):
    """Writes a fit into a journal, from which the shipper delivers it to the trackers.

    ==============================  ======================================================  ====================
    key                             meaning                                                 recorded
    ==============================  ======================================================  ====================
    `batch/loss`                    loss of the batch                                       each training batch
    `batch/loss_smooth`             its debiased exponentially weighted mean                each training batch
    `lr/GROUP`, `mom/GROUP`         learning rate and momentum of the parameter group       each training batch
    `act/LAYER/...` and the like    what the `Statistics` among the callbacks gathered      as often as they do
    `epoch`, `train/...`, ...       the recorder's row                                      each epoch
    ==============================  ======================================================  ====================

    The step is `train_iter`, the number of training batches seen; the first batch is step 1. What a batch records stays on
    the device, and is handed to a thread in groups of 64 batches or at least once a second, so that no batch waits for the
    device or the disk; at the end of an epoch the journal is flushed to the disk. Later fits of the same learner go on
    in the same run, and so does a fit that is resumed from a checkpoint.

    Args:
        trackers: where to, by name.
        folder: where the journal is written; `None` makes `outputs/DATE/TIME`.
        info: what is known of the run before it starts.
        models: weights to keep when the fit has ended, of those files that exist then.
        artifacts: other files to keep then, likewise.
        logs: files that are still written to, to keep however the fit ends.
        figures: figures to draw and keep then.
        shipper: what delivers; `None` stands for a process that all runs of this process share.
        trusted: packages, beside nntrain's own, whose trackers the shipper may make.
        redactor: what takes secrets out of all that is written.

    Raises:
        FileExistsError: when a fit begins and the folder holds the journal of another run.
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
        settled = {name: tracker.settled() for name, tracker in trackers.items()}
        self.journal = (
            Path(folder) if folder is not None else default_folder()
        ).absolute() / JOURNAL
        self.info, self.figures = info or RunInfo(), figures or {}
        self.models, self.artifacts, self.logs = models, artifacts, logs
        self.shipper = shared_shipper() if shipper is None else shipper
        self.shipment = Shipment(self.journal, settled, trusted)
        self.redactor = redactor or Redactor(environ=os.environ)
        self.uid: str | None = None
        """The run's own name for machines, from the beginning of the first fit on."""
        self._resumed: Mapping[str, Any] | None = None
        self._writer: JournalWriter | None = None
        self._files = Files(self.journal.parent)
        self._log: JournalLog | None = None
        self._begin_group(0)

    # --- the run

    def before_fit(self, learn: Learner) -> None:
        """Begins the run, or goes on with the one that a checkpoint names."""
        self._writer = self._open(learn)
        self._write(start_record(self._run_info(), self._nodes()))
        self._writer.wait(
            START_WAIT_S
        )  # else a shipper that has seen the end of an earlier fit may miss this beginning
        self.shipper.add(self.shipment)
        self._log = learn.tracker = JournalLog(learn, self._write, self._write_later, self._files)
        self._begin_columns(learn)

    def _open(self, learn: Learner) -> JournalWriter:
        resumed, self._resumed = self._resumed, None
        if self.uid is None and resumed is not None:
            self.uid = resumed["uid"]
            if (before := Path(resumed["journal"])).is_file():
                self.shipper.release(before)
                continue_journal(before, self.journal, learn.train_iter)
        elif self.uid is None and self.journal.exists():
            raise FileExistsError(
                f"{self.journal} is the journal of another run: name another folder, or resume that run."
            )
        self.uid = self.uid or secrets.token_hex(8)
        return JournalWriter(self.journal)

    def _run_info(self) -> RunInfo:
        info = replace(
            self.info,
            uid=self.uid or "",
            time_ms=self.info.time_ms or now_ms(),
            process=process_info(self.redactor),
        )
        return replace(
            info, params=self.redactor.value(info.params), tags=self.redactor.value(info.tags)
        )

    def _nodes(self) -> dict[str, Any]:
        return {
            name: self.redactor.value(node_of(tracker))
            for name, tracker in self.shipment.trackers.items()
        }

    def _write(self, *records: Record) -> None:
        assert self._writer is not None
        self._writer.write(*records)

    def _write_later(self, *jobs: Job) -> None:
        assert self._writer is not None
        self._writer.write_later(*jobs)

    def _begin_columns(self, learn: Learner) -> None:
        recorder, keys = learn.recorder, Keys()
        names = [f"lr/{name}" for name in recorder.group_names]
        if learn.opt is not None and has_momentum(learn.opt):
            names += [f"mom/{name}" for name in recorder.group_names]
        self._hyper_keys, self._keys = [keys[name] for name in names], keys
        self._smoother = Smoother()
        for loss in recorder.losses.tolist():  # those of a fit that is resumed
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
        """Notes a training batch; what it records lies with the recorder."""
        now = time.time_ns()
        if learn.training:
            self._times.append(now)
            self._steps.append(learn.train_iter + 1)
        # a group is due also if the next batch, taking as long as this one, would come too late
        if len(self._steps) >= GROUP_BATCHES or 2 * now - self._last_ns >= self._due_ns:
            self._write_later(*self._group(learn))
        self._last_ns = now

    def _group(self, learn: Learner) -> list[Job]:
        """What was recorded since the last group, for the thread, which may wait for the device."""
        jobs: list[Job] = []
        if self._steps:
            losses, hypers = learn.recorder.since(self._n_written)
            jobs.append(partial(self._batch_records, self._times, self._steps, losses, hypers))
        if time.time_ns() >= self._statistics_due_ns:
            jobs.append(self._statistics(learn))
        self._begin_group(self._n_written + len(self._steps))
        self.shipper.check()
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
        """What the statistics gathered; this reads the device."""
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

    def after_epoch(self, learn: Learner) -> None:
        """Writes the row of the epoch and what the statistics gathered, and has the journal flushed to the disk."""
        row = partial(
            self._epoch_records,
            now_ms(),
            learn.train_iter,
            learn.recorder.row,
            self._histograms(learn),
        )
        self._write_later(*self._group(learn), self._statistics(learn), row)
        assert self._writer is not None
        self._writer.flush()

    def _histograms(self, learn: Learner) -> list[dict[str, list[float]]]:
        return [
            counts
            for cb in learn.cbs
            if isinstance(cb, ActivationStats) and (counts := cb.last_histograms())
        ]

    def _epoch_records(
        self,
        time_ms: int,
        step: int,
        row: Mapping[str, float],
        histograms: list[dict[str, list[float]]],
    ) -> Iterator[Record]:
        yield from metrics_records([MetricRow(time_ms, step, self._named(row))])
        for counts in histograms:
            record = {
                "kind": "histograms",
                "time_ms": time_ms,
                "step": step,
                "edges": histogram_edges().tolist(),
            }
            yield record | {"counts": self._named(counts)}

    # --- the end

    def after_fit(self, learn: Learner) -> None:
        """Keeps the figures and files of the run."""
        for name, draw in self.figures.items():
            if (figure := draw(learn)) is not None:
                learn.tracker.log_figure(figure, name)
        for model in self.models:
            if model.path.is_file():
                with warned_of(model.path):
                    self._write(self._model_record(model))
        for path in self.artifacts:
            if path.is_file():
                learn.tracker.log_artifact(path)

    def _model_record(self, model: ModelFile) -> Record:
        node = self.redactor.value(model.node) if model.node is not None else None
        record = {
            "kind": "model",
            "path": self._files.link(model.path),
            "name": model.name,
            "aliases": list(model.aliases),
        }
        return record | {"node": node, "trusted_targets": list(model.trusted_targets)}

    def cleanup_fit(self, learn: Learner) -> None:
        """Writes what is left and why the fit ended."""
        if self._writer is None:
            return
        if self._log is not None:
            self._log.end()
        try:
            self._write_later(*self._group(learn), self._statistics(learn))
        finally:  # a device in error can be read no more, and the run must end nevertheless
            self._end(learn.result)

    def _end(self, result: FitResult) -> None:
        assert self._writer is not None
        message, trace = (
            self.redactor.text(result.message),
            self.redactor.text(result.traceback)[-TRACEBACK_LENGTH:],
        )
        tags = {
            OUTCOME_TAG: str(result.reason),
            "nntrain.message": message,
            "nntrain.traceback": trace,
        }
        self._write_logs()
        self._write({"kind": "tags", "tags": {name: text for name, text in tags.items() if text}})
        self._write(end_record(RunEnd(result.reason, message, result.signum, now_ms())))
        writer, self._writer = self._writer, None
        writer.close()
        self.shipper.ended(self.shipment)

    def finish(self, timeout_s: float | None = None) -> list[str]:
        """Waits until the trackers have everything, tells what they lack, and returns where each of them keeps the run.

        Args:
            timeout_s: seconds to wait at most; `None` stands for the shipper's own limit.
        """
        tell_backlog(self.shipper.finish(timeout_s))
        return whereabouts(self.journal)

    def _write_logs(self) -> None:
        folder = self.journal.parent
        for path in self.logs:
            if path.is_file():
                with warned_of(path):
                    place = (
                        str(path.relative_to(folder))
                        if path.is_relative_to(folder)
                        else self._files.link(path)
                    )
                    self._write(
                        {"kind": "artifact", "path": place, "name": path.name, "aliases": []}
                    )

    def state_dict(self) -> dict[str, Any]:
        """The run, and where its journal is."""
        return {"uid": self.uid, "journal": str(self.journal)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave, so that a resumed fit goes on in the same run."""
        self._resumed = state
