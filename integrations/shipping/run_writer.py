"""Writes a tracked run to its journal and hands the journal to a shipper."""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nntrain.config.redact import Redactor, learn
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
from nntrain.integrations.shipping.spec import resolved, spec_of
from nntrain.integrations.shipping.state import whereabouts
from nntrain.integrations.tracker import OUTCOME_TAG, ModelFile, RunEnd, RunInfo, Tracker

if TYPE_CHECKING:
    from torch import Tensor

    from nntrain.core.run_log import Cell, Figure
    from nntrain.result import FitResult

START_WAIT_S = 1.0
"""Maximum seconds to wait until the start record of a run is on disk."""

RESUME_WAIT_S = 10.0
"""Maximum seconds to wait until the processes of a killed run have closed its journal."""

TRACEBACK_LENGTH = 4000
"""Number of characters to record from the end of a traceback; MLflow limits tags to 5000."""


def now_ms() -> int:
    """Returns the current time in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def default_folder() -> Path:
    """Returns a new folder for a run: `outputs/DATE/TIME` in the current folder."""
    return Path(datetime.now().strftime("outputs/%Y-%m-%d/%H-%M-%S-%f"))


class RunWriter:
    """Writes a run to its journal and hands the journal to a shipper.

    A run can be started again after it has ended: later fits of a Learner continue the same run.

    Args:
        trackers: the trackers that receive the run, by name.
        folder: the folder of the journal; `None` creates `outputs/DATE/TIME`.
        info: name, params, tags and other information about the run.
        shipper: the shipper that delivers the journal; `None` uses the one shared by all runs of
            this process.
        trusted: packages, in addition to nntrain, whose tracker classes the shipper may
            instantiate.
        redactor: removes secrets from all records, but not from the content of files.
        late_tags: function that returns more tags when the run starts.

    Raises:
        ValueError: if the name of a tracker cannot be used as a file name.
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
        late_tags: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        _check_names(trackers)
        folder = Path(folder) if folder is not None else default_folder()
        self.journal = folder.absolute() / JOURNAL
        self.info = info or RunInfo()
        self.uid: str | None = None
        """The id of the run; `None` until the run starts."""
        self.files = Files(self.journal.parent)
        self.shipper = shared_shipper() if shipper is None else shipper
        self.redactor = learn(redactor or Redactor(environ=os.environ))
        sent = {name: resolved(tracker) for name, tracker in trackers.items()}
        self._late_tags = late_tags
        self._shipment = Shipment(self.journal, sent, trusted)
        self._writer: JournalWriter | None = None
        self._pid = os.getpid()
        self._is_continued = False

    @property
    def is_open(self) -> bool:
        """Whether the run has started and has not ended yet."""
        return self._writer is not None

    # --- start

    def resume(self, uid: str, journal: Path, step: int) -> None:
        """Continues a run from the records of its journal up to `step`; call `begin` next.

        If the journal does not exist, for example on another machine, the new journal starts empty;
        the trackers still continue the run.

        Raises:
            FileExistsError: if the folder contains the journal of another run.
            JournalError: if `journal` cannot be read, or records another run.
            JournalInUseError: if another process is still writing the journal after 10 s.
            DeliveredByAnotherError: if another process is still delivering the journal after a
                minute.
            OSError: if the folder cannot be created.
        """
        if journal.is_file():
            self._check_free(uid)
            _make_folder(self.journal.parent)
            self.shipper.release(journal)
            _wait_until_closed(journal)
            continue_journal(journal, self.journal, step, self._shipment.trusted, uid)
        self.uid = uid

    def _check_free(self, uid: str) -> None:
        if self.journal.is_file() and read_journal(self.journal).run.uid != uid:
            raise self._other_run()

    def _other_run(self) -> FileExistsError:
        return FileExistsError(
            f"{self.journal} is the journal of another run: "
            "choose another folder, or resume that run."
        )

    def begin(self) -> None:
        """Starts the run, or continues it after a resume or after its end.

        Raises:
            FileExistsError: if the folder contains the journal of another run.
            JournalInUseError: if another process is writing the journal.
            OSError: if the folder cannot be created.
        """
        _make_folder(self.journal.parent)
        if self.uid is None and self.journal.exists():
            raise self._other_run()
        uid = self.uid or secrets.token_hex(8)
        start = start_record(self._run_info(uid), self._specs())
        self._writer, self._pid = JournalWriter(self.journal), os.getpid()
        self.uid, self._is_continued = uid, self.uid is not None
        self.write(start)
        # Wait until the start is on disk: the shipper may already have read an earlier fit's end.
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
            tags=self.redactor.value({**self.info.tags, **self._late_tags()}),
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
        """Writes the records that functions return. The functions run in the journal's thread."""
        assert self._writer is not None
        self._writer.write_later(*jobs)

    def flush(self) -> None:
        """Requests a flush of the journal to disk and returns immediately."""
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
        """Writes the record of a file that is already in the journal's folder."""
        self.write({"kind": "artifact", "path": place, "name": name, "aliases": list(aliases)})

    def placed_model(self, place: str, model: ModelFile) -> None:
        """Writes the record of a model whose file is already in the journal's folder."""
        node = self.redactor.value(model.node) if model.node is not None else None
        record = {"kind": "model", "path": place, "name": model.name, "aliases": [*model.aliases]}
        self.write(record | {"node": node, "trusted_targets": [*model.trusted_targets]})

    def tags(self, tags: Mapping[str, str]) -> None:
        """Writes tags, without secrets."""
        self.write({"kind": "tags", "tags": self.redactor.value(tags)})

    # --- the end

    def end(self, result: FitResult) -> None:
        """Writes the reason why the run ended and closes the journal; delivery continues.

        A process that was forked during the run leaves the run to its parent.
        """
        if self._pid != os.getpid():
            self._writer = None
            return
        message = self.redactor.text(result.message)
        trace = self.redactor.text(result.traceback)[-TRACEBACK_LENGTH:]
        texts = {
            OUTCOME_TAG: str(result.reason),
            "nntrain.message": message,
            "nntrain.traceback": trace,
        }
        # an empty text replaces the one of an earlier end
        tags = {name: text for name, text in texts.items() if text or self._is_continued}
        self.write({"kind": "tags", "tags": tags})
        self.write(end_record(RunEnd(result.reason, message, result.signum, now_ms())))
        writer, self._writer = self._writer, None
        assert writer is not None
        writer.close()
        self.shipper.ended(self._shipment)

    def finish(self, timeout_s: float | None = None) -> list[str]:
        """Waits for the shipper to deliver all its runs, then prints what was not delivered.

        Args:
            timeout_s: maximum time to wait, in seconds; `None` uses the shipper's limit.

        Returns one message per tracker that says where to find the run.
        """
        tell_backlog(self.shipper.finish(timeout_s))
        return whereabouts(self.journal)


def _check_names(trackers: Mapping[str, Tracker]) -> None:
    for name in trackers:
        if not re.fullmatch(r"[\w\-][\w\-.]*", name):
            raise ValueError(
                f"Tracker name {name!r} must consist of letters, digits, underscores, dashes and "
                "periods, because it is used as a file name: rename it, for example to 'mlflow'."
            )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise OSError(
            f"folder={folder} cannot be created ({err.strerror}): choose another folder."
        ) from err


def _wait_until_closed(journal: Path) -> None:
    """Waits until the journal is closed; workers may outlive a killed run by a few seconds."""
    deadline = time.monotonic() + RESUME_WAIT_S
    while is_being_written(journal):
        if time.monotonic() >= deadline:
            raise JournalInUseError(
                f"{journal} is still being written by another process: stop that process, "
                "then resume."
            )
        time.sleep(0.1)


def _row(time_ms: int, step: int, values: Mapping[str, float | Tensor]) -> Iterator[Record]:
    columns = {name: [float(value)] for name, value in values.items()}
    yield metrics_record([time_ms], [step], columns)
