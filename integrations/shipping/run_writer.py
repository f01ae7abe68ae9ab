"""A tracked run in the training process: writes the journal and has it delivered."""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nntrain.config.redact import Redactor
from nntrain.integrations.capture.provenance import process_info
from nntrain.integrations.journal.files import Files
from nntrain.integrations.journal.records import (
    JOURNAL,
    Record,
    end_record,
    metrics_record,
    read_journal,
    start_record,
)
from nntrain.integrations.journal.writer import (
    Job,
    JournalInUseError,
    JournalWriter,
    is_being_written,
)
from nntrain.integrations.shipping.client import (
    Shipment,
    Shipper,
    shared_shipper,
    tell_backlog,
)
from nntrain.integrations.shipping.continuation import continue_journal
from nntrain.integrations.shipping.spec import spec_of
from nntrain.integrations.shipping.state import whereabouts
from nntrain.integrations.tracker import OUTCOME_TAG, ModelFile, RunEnd, RunInfo, Tracker

if TYPE_CHECKING:
    from torch import Tensor

    from nntrain.core.run_log import Cell, Figure
    from nntrain.result import FitResult

START_WAIT_S = 1.0
"""Seconds to wait at most until the first record of a run is on the disk."""

RESUME_WAIT_S = 10.0
"""Seconds to wait until the processes of a killed run have closed its journal."""

TRACEBACK_LENGTH = 4000
"""Characters of a traceback that are kept, counted from its end; MLflow accepts tags of 5000."""


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def default_folder() -> Path:
    """A new folder for a run, `outputs/DATE/TIME` in the current folder."""
    return Path(datetime.now().strftime("outputs/%Y-%m-%d/%H-%M-%S-%f"))


class RunWriter:
    """Writes a run to its journal, and has a shipper deliver the journal.

    A run may begin again after its end: the later fits of a Learner continue their run.

    Args:
        trackers: where to record the run, by name.
        folder: the folder of the journal; `None` makes `outputs/DATE/TIME`.
        info: what is known about the run before it begins.
        shipper: delivers the journal; `None` takes the process that all runs here share.
        trusted: packages, in addition to nntrain, whose trackers the shipper may make.
        redactor: removes secrets from everything but metrics, tables and files.

    Raises:
        ValueError: if the name of a tracker cannot name a file.
    """

    def __init__(
        self,
        trackers: Mapping[str, Tracker],
        folder: str | Path | None = None,
        info: RunInfo | None = None,
        *,
        shipper: Shipper | None = None,
        trusted: Sequence[str] = (),
        redactor: Redactor | None = None,
    ) -> None:
        _check_names(trackers)
        resolved = {name: tracker.resolved() for name, tracker in trackers.items()}
        folder = Path(folder) if folder is not None else default_folder()
        self.journal = folder.absolute() / JOURNAL
        self.info = info or RunInfo()
        self.uid: str | None = None
        """The machine-readable name of the run; `None` until the run begins."""
        self.files = Files(self.journal.parent)
        self.shipper = shared_shipper() if shipper is None else shipper
        self.redactor = redactor or Redactor(environ=os.environ)
        self._shipment = Shipment(self.journal, resolved, trusted)
        self._writer: JournalWriter | None = None

    @property
    def is_open(self) -> bool:
        """Whether the run has begun and not ended."""
        return self._writer is not None

    # --- the beginning

    def resume(self, uid: str, journal: Path, step: int) -> None:
        """Takes over a run with what its journal holds up to `step`; call `begin` next.

        A journal that does not exist here, for example after a move to another machine, is left
        out: the trackers continue the run, and this journal starts with what comes now.

        Raises:
            FileExistsError: if this folder holds the journal of a different run.
            JournalInUseError: if a process still writes the journal.
            DeliveredByAnotherError: if a process still delivers the journal after a minute.
        """
        if journal.is_file():
            self._check_free(uid)
            self.shipper.release(journal)
            _wait_until_closed(journal)
            continue_journal(journal, self.journal, step)
        self.uid = uid

    def _check_free(self, uid: str) -> None:
        if self.journal.is_file() and read_journal(self.journal).run.uid != uid:
            raise self._other_run()

    def _other_run(self) -> FileExistsError:
        return FileExistsError(
            f"{self.journal} is the journal of another run: "
            "name another folder, or resume that run."
        )

    def begin(self) -> None:
        """Begins the run, or continues it after a resume or its end.

        Raises:
            FileExistsError: if the folder holds the journal of another run.
            JournalInUseError: if another process writes the journal.
        """
        if self.uid is None and self.journal.exists():
            raise self._other_run()
        self.uid = self.uid or secrets.token_hex(8)
        self._writer = JournalWriter(self.journal)
        self.write(start_record(self._run_info(self.uid), self._specs()))
        # A shipper that has seen the end of an earlier fit must not miss this start.
        self._writer.wait(START_WAIT_S)
        self.shipper.add(self._shipment)

    def _run_info(self, uid: str) -> RunInfo:
        return replace(
            self.info,
            uid=uid,
            time_ms=self.info.time_ms or now_ms(),
            name=self.info.name and self.redactor.text(self.info.name),
            process=process_info(self.redactor),
            params=self.redactor.value(self.info.params),
            tags=self.redactor.value(self.info.tags),
        )

    def _specs(self) -> dict[str, Any]:
        trackers = self._shipment.trackers.items()
        return {name: self.redactor.value(spec_of(tracker)) for name, tracker in trackers}

    # --- records

    def write(self, *records: Record) -> None:
        """Writes records, in order."""
        assert self._writer is not None
        self._writer.write(*records)

    def write_later(self, *jobs: Job) -> None:
        """Writes what the functions return; they run in the journal's thread and may wait there."""
        assert self._writer is not None
        self._writer.write_later(*jobs)

    def flush(self) -> None:
        """Starts to flush the journal to the disk."""
        assert self._writer is not None
        self._writer.flush()

    def metrics(self, values: Mapping[str, float | Tensor], step: int) -> None:
        """Writes a row of metrics; the journal's thread reads tensors from their device."""
        self.write_later(partial(_row, now_ms(), step, values))

    def figure(self, figure: Figure, name: str, step: int) -> None:
        """Saves a figure as an image, and writes its record."""
        place = self.files.draw(figure, name)
        self.write({"kind": "figure", "path": place, "name": name, "step": step})

    def table(
        self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]], step: int
    ) -> None:
        """Writes a table."""
        table = {"name": name, "columns": list(columns), "rows": list(rows)}
        self.write({"kind": "table", **table, "step": step})

    def artifact(self, path: Path, name: str, aliases: Sequence[str]) -> None:
        """Copies a file, and writes its record."""
        self.placed_artifact(self.files.copy(path), name, aliases)

    def placed_artifact(self, place: str, name: str, aliases: Sequence[str] = ()) -> None:
        """Writes the record of a file that is in the folder of the journal."""
        self.write({"kind": "artifact", "path": place, "name": name, "aliases": list(aliases)})

    def placed_model(self, place: str, model: ModelFile) -> None:
        """Writes the record of a model whose file is in the folder of the journal."""
        node = self.redactor.value(model.node) if model.node is not None else None
        record = {"kind": "model", "path": place, "name": model.name, "aliases": [*model.aliases]}
        self.write(record | {"node": node, "trusted_targets": [*model.trusted_targets]})

    def tags(self, tags: Mapping[str, str]) -> None:
        """Writes tags, without secrets."""
        self.write({"kind": "tags", "tags": self.redactor.value(tags)})

    # --- the end

    def end(self, result: FitResult) -> None:
        """Writes why the run ended and closes the journal; the shipper finishes its delivery."""
        message = self.redactor.text(result.message)
        trace = self.redactor.text(result.traceback)[-TRACEBACK_LENGTH:]
        texts = {
            OUTCOME_TAG: str(result.reason),
            "nntrain.message": message,
            "nntrain.traceback": trace,
        }
        self.write({"kind": "tags", "tags": {name: text for name, text in texts.items() if text}})
        self.write(end_record(RunEnd(result.reason, message, result.signum, now_ms())))
        writer, self._writer = self._writer, None
        assert writer is not None
        writer.close()
        self.shipper.ended(self._shipment)

    def finish(self, timeout_s: float | None = None) -> list[str]:
        """Waits until the trackers have all runs of the shipper, and prints what they lack.

        Args:
            timeout_s: seconds to wait at most; `None` takes the shipper's own limit.

        Returns where each tracker keeps this run, in a text for people.
        """
        tell_backlog(self.shipper.finish(timeout_s))
        return whereabouts(self.journal)


def _check_names(trackers: Mapping[str, Tracker]) -> None:
    for name in trackers:
        if not re.fullmatch(r"[\w\-][\w\-.]*", name):
            raise ValueError(
                f"Tracker name {name!r} must consist of letters, digits, underscores, dashes and "
                "periods, since it names a file: rename it, for example to 'mlflow'."
            )


def _wait_until_closed(journal: Path) -> None:
    """Waits until no process writes a journal: workers may outlive a killed run for seconds."""
    deadline = time.monotonic() + RESUME_WAIT_S
    while is_being_written(journal):
        if time.monotonic() >= deadline:
            raise JournalInUseError(
                f"{journal} is still written by another process: end that process, then resume."
            )
        time.sleep(0.1)


def _row(time_ms: int, step: int, values: Mapping[str, float | Tensor]) -> Iterator[Record]:
    columns = {name: [float(value)] for name, value in values.items()}
    yield metrics_record([time_ms], [step], columns)
