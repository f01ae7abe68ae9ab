"""Delivering one journal to one tracker: where it stands, what was refused, and what to do when it fails."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TypeVar

from nntrain.config.redact import redact
from nntrain.integrations.journal.records import Line, Record, end_of, lines, rows_of, run_of
from nntrain.integrations.tracker import MetricRow, ModelFile, Refused, RunInfo, Table, Tracker

_Value = TypeVar("_Value")

FOLDER = "delivery"
"""The folder beside the journal that says what was delivered, a file for each tracker."""

ROWS_AT_ONCE = 1000
"""Rows that are handed to a tracker at once, if as many are there."""

STUCK_TRIES = 8
"""Tries after which a file, table or histogram is left out that a tracker fails to take though it takes the others."""

NOTES = 20
"""So many refusals are told in words; all are counted."""


@dataclass(frozen=True)
class Held:
    """What a tracker got of batches after the one from which the run was resumed, and cannot be taken back.

    The values after batch `step`, and up to the one that `keys` gives for each key, are not sent.
    """

    step: int
    keys: dict[str, int]


@dataclass
class DeliveryState:
    """How far a journal is delivered to a tracker; kept in `delivery/NAME.json` and read by whoever wants to know."""

    run_id: str | None = None
    where: str = ""
    offset: int = 0
    """Bytes of the journal that are delivered."""
    line: int = 0
    """Lines of the journal that are delivered."""
    n_refused: int = 0
    """Records, or values of rows, that the tracker will never take."""
    notes: list[str] = field(default_factory=list)
    """What was refused or could not be read, in words."""
    error: str | None = None
    """Why the last try failed; `None` after one that did not."""
    n_tries: int = 0
    """Tries that failed since the last one that did not."""
    done: bool = False
    """Whether the run has ended and all of it is delivered."""
    held: list[Held] = field(default_factory=list)
    """What the tracker has already of what stands in the journal, for each time that the run was resumed."""
    held_rows: int = 0
    kept_rows: int = 0
    """After a resume: rows that the tracker has and the journal no longer, and rows that the journal began with."""

    def is_new(self, step: int, key: str) -> bool:
        """Whether a value did not reach the tracker before the run was resumed."""
        return not any(held.step < step <= held.keys.get(key, -1) for held in self.held)

    def n_rows(self, record: Record) -> int:
        """How many rows a record is for a tracker that counts them: see `Started.rows`."""
        match record["kind"]:
            case "metrics":
                return sum(
                    any(self.is_new(row.step, key) for key in row.values) for row in rows_of(record)
                )
            case "histograms":
                return int(any(self.is_new(record["step"], key) for key in record["counts"]))
            case "figure" | "table":
                return 1
            case _:
                return 0


def state_path(journal: Path, name: str) -> Path:
    """Where the state of the delivery to the tracker of that name lies."""
    return journal.parent / FOLDER / f"{name}.json"


def read_state(journal: Path, name: str) -> DeliveryState:
    """The state of a delivery; one that has not begun if nothing is written."""
    path = state_path(journal, name)
    if not path.is_file():
        return DeliveryState()
    known = {item.name for item in fields(DeliveryState)}
    values = {key: value for key, value in json.loads(path.read_text()).items() if key in known}
    return DeliveryState(**{**values, "held": [Held(**held) for held in values.get("held", ())]})


def write_state(journal: Path, name: str, state: DeliveryState) -> None:
    """Writes the state so that a reader finds the old or the new one, whole."""
    path = state_path(journal, name)
    path.parent.mkdir(exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(asdict(state)))
    os.replace(part, path)


def error_text(err: Exception) -> str:
    """An error in one line, without the secrets in it."""
    return str(redact(f"{type(err).__name__}: {' '.join(str(err).split())[:500]}"))


class DeliveredByAnotherError(RuntimeError):
    """Another process is delivering this journal."""


@contextmanager
def delivery_lock(journal: Path, timeout_s: float = 0.0) -> Iterator[None]:
    """Lets one process at a time deliver a journal.

    Raises:
        DeliveredByAnotherError: if another one still does after `timeout_s`.
    """
    folder = journal.parent / FOLDER
    folder.mkdir(exist_ok=True)
    deadline = time.monotonic() + timeout_s
    with open(folder / "lock", "w") as file:
        while not _locked(file.fileno()):
            if time.monotonic() >= deadline:
                raise DeliveredByAnotherError(
                    f"{journal} is being delivered by another process: wait until it is done."
                )
            time.sleep(0.1)
        yield


def _locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class Delivery:
    """Hands the records of one journal to one tracker, in order, each of them once.

    A record counts as delivered when the tracker has taken it and the state is written. If the process dies between the
    two, the record is sent again: a tracker either takes the same row twice without a change, or says by `Started.rows`
    which rows it holds.
    """

    def __init__(self, journal: Path, name: str, tracker: Tracker) -> None:
        self.journal, self.name, self.tracker = journal, name, tracker
        self.state = read_state(journal, name)
        self.run: RunInfo | None = None
        """The run, once the tracker has begun it."""
        self.last_step = 0
        """The latest training batch that was delivered."""
        self._started_at = -1
        self._n_stuck = 0
        self._n_skip = 0
        self._is_less_held = True

    def advance(self) -> bool:
        """Delivers what the journal holds and the tracker does not; returns whether there was anything.

        Raises:
            Exception: whatever the tracker raises for what may work later; nothing is lost, call it again.
        """
        before = self.state.offset
        if self.is_current():
            return False
        if self.run is not None or self._begin():
            for batch in self._batches():
                self._deliver(batch)
            if self.state.error is not None:
                self._succeeded()
        return self.state.offset != before

    def is_current(self) -> bool:
        """Whether the run has ended, all of it is delivered, and nothing came after; or the journal is gone."""
        return not self.journal.exists() or (
            self.state.done and self.state.offset == self.journal.stat().st_size
        )

    def failed(self, err: Exception) -> None:
        """Notes a try that failed; the tracker is asked anew for its run at the next one."""
        self._n_stuck += (
            self.run is not None
        )  # it began the run, so it is there, and what it failed at is the record
        self.run = None
        self.state.error = error_text(err)
        self.state.n_tries += 1
        with suppress(OSError):  # where the disk is full, this state is as good as the next one
            self.save()

    def save(self) -> None:
        """Writes the state."""
        write_state(self.journal, self.name, self.state)

    # --- the run

    def _begin(self) -> bool:
        """Lets the tracker begin the run, or go on with it; returns whether the journal says yet which run it is."""
        start = self._last_start()
        if start is None or start.record is None:
            return False
        run = run_of(start.record, self.journal.parent)
        started = self.tracker.start(run, self.state.run_id)
        self.state.run_id, self.state.where = started.run_id, started.where
        self._started_at, self._is_less_held, self._n_skip = start.end, True, 0
        if started.rows is not None:
            self._rewind(started.rows)
        self.run, self.state.done = run, False
        self.save()
        return True

    def _rewind(self, n_row: int) -> None:
        """Sends the journal from its beginning, less the rows that the tracker has."""
        self.state.offset, self.state.line = 0, 0
        n_row_of_this = n_row - self.state.held_rows
        self._is_less_held = (
            n_row_of_this >= self.state.kept_rows
        )  # else it lost some of what it had: send all that came later
        self._n_skip = n_row_of_this if self._is_less_held else min(n_row, self.state.kept_rows)

    def _last_start(self) -> Line | None:
        found = None
        for line in lines(self.journal):
            if line.record is not None and line.record["kind"] == "start":
                found = line
        return found

    # --- records

    def _batches(self) -> Iterator[list[Line]]:
        """Neighbouring lines that are delivered together: many of metrics, or one of anything else."""
        batch: list[Line] = []
        n_row = 0
        for line in lines(self.journal, self.state.offset, self.state.line):
            is_metrics = line.record is not None and line.record["kind"] == "metrics"
            if batch and (not is_metrics or n_row >= ROWS_AT_ONCE):
                yield batch
                batch, n_row = [], 0
            if not is_metrics:
                yield [line]
                if self.run is None or self.state.done:
                    return
            else:
                batch.append(line)
                n_row += len(line.record["step"]) if line.record else 0
        if batch:
            yield batch

    def _deliver(self, batch: Sequence[Line]) -> None:
        first = batch[0]
        if first.record is None:
            self._note(f"line {first.number} of the journal cannot be read: {first.damage}", 0)
        elif first.record["kind"] == "metrics":
            self._metrics([row for line in batch if line.record for row in self._rows(line.record)])
        else:
            self._record(first, first.record)
        self.state.offset, self.state.line = batch[-1].end, batch[-1].number
        if self._n_skip:
            self.save()
        else:
            self._succeeded()

    def _succeeded(self) -> None:
        self._n_stuck = 0
        self.state.error, self.state.n_tries = None, 0
        self.save()

    def _rows(self, record: Record) -> list[MetricRow]:
        return [
            MetricRow(row.time_ms, row.step, self._new(row.step, row.values))
            for row in rows_of(record)
        ]

    def _new(self, step: int, values: Mapping[str, _Value]) -> Mapping[str, _Value]:
        """What the tracker did not get before the run was resumed from an earlier step."""
        if not (self._is_less_held and self.state.held):
            return values
        return {key: value for key, value in values.items() if self.state.is_new(step, key)}

    def _metrics(self, rows: list[MetricRow]) -> None:
        self.last_step = max([self.last_step, *(row.step for row in rows)])
        new = [row for row in rows if row.values]
        n = min(self._n_skip, len(new))
        self._n_skip -= n
        if new[n:]:
            self._send_rows(new[n:])

    def _send_rows(self, rows: list[MetricRow]) -> None:
        """Sends rows; where the tracker refuses some, finds out which values they are, and sends the others."""
        try:
            self.tracker.metrics(rows)
        except Refused as err:
            if len(rows) > 1:
                self._send_rows(rows[: len(rows) // 2])
                self._send_rows(rows[len(rows) // 2 :])
            elif len(rows[0].values) > 1:
                row = rows[0]
                for key, value in row.values.items():
                    self._send_rows([MetricRow(row.time_ms, row.step, {key: value})])
            else:
                self._note(f"step {rows[0].step}, {next(iter(rows[0].values))}: {err}", 1)

    def _record(self, line: Line, record: Record) -> None:
        try:
            self._send(line, record)
        except Refused as err:
            self._note(f"{record['kind']} {record.get('name', '')}: {err}", 1)
        except Exception as err:
            if self._n_stuck < STUCK_TRIES or record["kind"] in ("tags", "end"):
                raise
            self._note(
                f"{record['kind']} {record.get('name', '')}: left out after {STUCK_TRIES} tries: {error_text(err)}",
                1,
            )

    def _send(self, line: Line, record: Record) -> None:
        match record["kind"]:
            case "start":
                if line.end > self._started_at:
                    self.run = None  # it goes on once more: ask the tracker anew
            case "tags":
                self.tracker.set_tags(record["tags"])
            case "histograms":
                self._histograms(record)
            case "figure" | "table":
                self._unless_held(lambda: self._figure_or_table(record))
            case "artifact":
                self.tracker.artifact(self._file(record), record["name"], record["aliases"])
            case "model":
                self.tracker.model(self._model(record))
            case "continued":
                self.state.done = True
            case "end":
                self._end(line, record)

    def _unless_held(self, send: Callable[[], None]) -> None:
        if self._n_skip:
            self._n_skip -= 1
        else:
            send()

    def _figure_or_table(self, record: Record) -> None:
        if record["kind"] == "figure":
            self.tracker.figure(self._file(record), record["name"], record["step"])
        else:
            self.tracker.table(
                Table(record["name"], record["columns"], record["rows"]), record["step"]
            )

    def _histograms(self, record: Record) -> None:
        row = MetricRow(record["time_ms"], record["step"], {})
        if counts := self._new(row.step, record["counts"]):
            self._unless_held(lambda: self.tracker.histograms(row, record["edges"], counts))

    def _model(self, record: Record) -> ModelFile:
        aliases, trusted = tuple(record["aliases"]), tuple(record["trusted_targets"])
        return ModelFile(self._file(record), record["name"], aliases, record["node"], trusted)

    def _file(self, record: Record) -> Path:
        """The file of a record: below the folder of the journal, for a journal may come from somebody else.

        Raises:
            Refused: if it lies elsewhere or is gone.
        """
        folder = self.journal.parent.resolve()
        try:
            path = Path(folder, record["path"]).resolve()
        except (RuntimeError, ValueError) as err:  # a link to itself; a NUL
            raise Refused(f"{record['path']!r} is no path: {err}") from err
        if not path.is_relative_to(folder):
            raise Refused(f"{record['path']} is not below the folder of the run")
        if not path.is_file():
            raise Refused(f"{record['path']} is gone")
        return path

    def _end(self, line: Line, record: Record) -> None:
        if line.end > self._started_at:  # else the run was begun once more after this end
            self.tracker.finish(end_of(record))
            self.state.done = True
            self.run = None

    def _note(self, text: str, n_refused: int) -> None:
        self.state.n_refused += n_refused
        if len(self.state.notes) < NOTES:
            self.state.notes.append(redact(text)[:500])


@dataclass(frozen=True)
class Backlog:
    """What a tracker has not got of a journal; `n_row` counts the rows of metrics."""

    journal: Path
    name: str
    n_row: int
    error: str | None

    def __str__(self) -> str:
        rows = f"{self.n_row} rows of metrics" if self.n_row else "the end"
        why = f", for it takes nothing ({self.error})" if self.error else ""
        return f"{self.name} lacks {rows} of {self.journal}{why}"

    @property
    def remedy(self) -> str:
        """The command that delivers it."""
        return f"python -m nntrain.sync {shlex.quote(str(self.journal.parent))}"


def backlog(journal: Path, name: str) -> Backlog | None:
    """What a tracker has not got of a journal; `None` if it has everything, or the journal is gone."""
    state = read_state(journal, name)
    if not journal.exists() or (state.done and state.offset == journal.stat().st_size):
        return None
    left = (line.record for line in lines(journal, state.offset) if line.record is not None)
    n_row = sum(len(record["step"]) for record in left if record["kind"] == "metrics")
    return Backlog(journal, name, n_row, state.error)


def whereabouts(journal: Path) -> list[str]:
    """Where each tracker keeps the run of a journal, in a line or two for people."""
    states = (
        read_state(journal, path.stem) for path in sorted((journal.parent / FOLDER).glob("*.json"))
    )
    return [state.where for state in states if state.where]
