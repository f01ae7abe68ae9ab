"""Delivers one journal to one tracker: each record once and in order, despite failures."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from nntrain.config.redact import redact
from nntrain.integrations.journal.records import Line, Record, end_of, lines, rows_of, run_of
from nntrain.integrations.shipping.fitting import fitting_record, fitting_run
from nntrain.integrations.shipping.send import Trust, send, trust_nobody
from nntrain.integrations.shipping.state import (
    error_text,
    is_delivered,
    read_state,
    write_state,
)
from nntrain.integrations.tracker import (
    MetricRow,
    Refused,
    Tracker,
    TrackerClient,
    Unsupported,
)

_LOG = logging.getLogger("nntrain.shipper")

_Value = TypeVar("_Value")

ROWS_AT_ONCE = 1000
"""Target number of rows to send in one call."""

STUCK_TRIES = 8
"""Number of attempts after which delivery skips a file, table or histogram that always fails."""

NOTES = 20
"""Maximum number of refused records to describe; all refused records are counted."""

COUNTED = ("histograms", "figure", "table")
"""The kinds of records that `Started.rows` counts in addition to metrics."""

PLURALS: Mapping[str, str] = {
    "tags": "tags",
    "histograms": "histograms",
    "figure": "figures",
    "table": "tables",
    "artifact": "files",
    "model": "models",
}
"""Plural names, for messages, of the kinds of records that a client may not support."""


def damage_note(number: int, damage: str) -> str:
    """Returns the note about a line that cannot be read."""
    return f"line {number} of the journal cannot be read: {damage}"


class Delivery:
    """Sends the records of one journal to one tracker, each record once and in order.

    A record is delivered when the client has accepted it and the delivery state is on disk. If the
    process dies between these two steps, the next process sends the record again. This causes no
    duplicates: the tracker ignores repeated rows, or the client reports in `Started.rows` how many
    rows the tracker has stored.

    Args:
        journal: the journal.
        name: the name of the tracker; the state is stored in `delivery/NAME.json`.
        tracker: the settings of the tracker; the first attempt connects to the tracker.
        trust: which packages the models of the journal may use.
        confined: whether only the journal names the place, so that it may be somebody else's.
    """

    def __init__(
        self,
        journal: Path,
        name: str,
        tracker: Tracker,
        trust: Trust = trust_nobody,
        *,
        confined: bool = False,
    ) -> None:
        self.journal, self.name, self.tracker = journal, name, tracker
        self.trust, self.confined = trust, confined
        self.state = read_state(journal, name)
        self.last_step = 0
        """The last delivered step, in training batches."""
        self._is_running = False
        self._started_at = -1
        self._old_end: Record | None = None
        self._n_stuck = 0
        self._n_skip = 0
        self._n_checked = self.state.line
        self._is_less_held = True

    @cached_property
    def client(self) -> TrackerClient:
        """The tracker's client, created on first use.

        Raises:
            TypeError: if the tracker returns anything else.
        """
        client: object = self.tracker.connect()
        if not isinstance(client, TrackerClient):
            kind = type(self.tracker)
            raise TypeError(
                f"{kind.__module__}.{kind.__qualname__}.connect() returned {client!r} instead of "
                "a TrackerClient: fix it"
            )
        if self.confined:
            client.confine()
        return client

    def advance(self) -> bool:
        """Delivers all new records of the journal; returns whether anything was delivered.

        Raises:
            Exception: any temporary error of the tracker. Nothing is lost; call `advance` again.
        """
        before = self.state.offset
        if self.is_current():
            return False
        if self._is_running or self._start():
            for batch in self._batches():
                self._deliver(batch)
            self._end_again()
            if self.state.error is not None:
                self._succeeded()
        return self.state.offset != before

    def is_current(self) -> bool:
        """Returns True if the run has ended and is delivered, or if the journal does not exist."""
        return is_delivered(self.journal, self.state)

    @property
    def has_started(self) -> bool:
        """Whether this process has started or resumed the run in the tracker."""
        return self._started_at >= 0

    def failed(self, err: Exception) -> None:
        """Records a failed attempt; the next attempt restarts the run in the tracker."""
        # If the run has started, the tracker is reachable, so the record must be the problem.
        self._n_stuck += self._is_running
        self._is_running = False
        self.state.error = error_text(err)
        self.state.n_tries += 1
        with suppress(OSError):  # if the disk is full, a later attempt saves the state
            self.save()

    def save(self) -> None:
        """Saves the delivery state."""
        write_state(self.journal, self.name, self.state)

    # --- the run

    def _start(self) -> bool:
        """Starts or resumes the run; returns False if the journal has no start record yet."""
        start = self._last_start()
        if start is None or start.record is None:
            return False
        run, _ = fitting_run(run_of(start.record, self.journal.parent))
        started = self.client.start(run, self.state.run_id)
        self.state.run_id, self.state.where = started.run_id, started.where
        self._started_at, self._is_less_held, self._n_skip = start.end, True, 0
        self._old_end = None
        if self.state.done:  # records follow an end
            self._started_at = max(start.end, self.state.offset)
        if started.rows is not None:
            self._rewind(started.rows)
        self._is_running, self.state.done = True, False
        self.save()
        return True

    def _rewind(self, n_row: int) -> None:
        """Goes back to the start of the journal, and skips the rows that the tracker has stored."""
        self.state.offset, self.state.line = 0, 0
        self.state.unsupported = dict.fromkeys(self.state.unsupported, 0)
        n_row_of_this = n_row - self.state.held_rows
        # If the tracker has fewer rows than expected, it has lost some: skip at most the rows that
        # were kept at the resume, and send all later rows.
        self._is_less_held = n_row_of_this >= self.state.kept_rows
        self._n_skip = n_row_of_this if self._is_less_held else min(n_row, self.state.kept_rows)

    def _last_start(self) -> Line | None:
        found = None
        for line in lines(self.journal):
            if line.record is not None and line.record["kind"] == "start":
                found = line
        return found

    # --- records

    def _batches(self) -> Iterator[list[Line]]:
        """Groups lines for delivery: several lines of metrics, or one line of another kind."""
        batch: list[Line] = []
        n_row = 0
        for line in lines(self.journal, self.state.offset, self.state.line):
            is_metrics = line.record is not None and line.record["kind"] == "metrics"
            if batch and (not is_metrics or n_row >= ROWS_AT_ONCE):
                yield batch
                batch, n_row = [], 0
            if not is_metrics:
                yield [line]
                if not self._is_running or self.state.done:
                    return
            else:
                batch.append(line)
                n_row += len(line.record["step"]) if line.record else 0
        if batch:
            yield batch

    def _deliver(self, batch: Sequence[Line]) -> None:
        first = batch[0]
        if first.record is None:
            self._note(damage_note(first.number, first.damage), 0)
        elif first.record["kind"] == "metrics":
            self._metrics([row for line in batch if line.record for row in self._rows(line)])
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

    def _rows(self, line: Line) -> list[MetricRow]:
        fitting = self._fitting(line)
        return [
            MetricRow(row.time_ms, row.step, self._new(row.step, row.values))
            for row in (rows_of(fitting) if fitting else ())
        ]

    def _fitting(self, line: Line) -> Record | None:
        """Returns the part of a record that can be stored; counts the names that cannot, once."""
        assert line.record is not None
        fitting, notes = fitting_record(line.record)
        if line.record["kind"] == "start":
            notes = fitting_run(run_of(line.record, self.journal.parent))[1]
        if line.number > self._n_checked:
            self._n_checked = line.number
            for note in notes:
                self._note(note, 1)
        return fitting

    def _new(self, step: int, values: Mapping[str, _Value]) -> Mapping[str, _Value]:
        """Returns the values that the tracker did not receive before the run was resumed."""
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
        """Sends rows; if the tracker refuses them, finds the refused values and sends the rest."""
        try:
            self.client.metrics(rows)
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
        kind, what = record["kind"], f"{record['kind']} {record.get('name', '')}"
        try:
            if (fitting := self._fitting(line)) is not None:
                self._take(line, fitting)
        except Unsupported:
            self._count_unsupported(kind)
        except (Refused, UnicodeError) as err:
            self._note(f"{what}: {err}", 1)
        except Exception as err:
            if self._n_stuck < STUCK_TRIES or kind in ("tags", "end"):
                raise
            self._note(f"{what}: skipped after {STUCK_TRIES} attempts: {error_text(err)}", 1)

    def _take(self, line: Line, record: Record) -> None:
        match record["kind"]:
            case "start":
                # a later start record means that the run was resumed: restart it in the tracker
                self._is_running = self._is_running and line.end <= self._started_at
                self._old_end = None
            case "continued":
                self.state.done = True
            case "end":
                self._end(line, record)
            case _:
                self._send(self._without_held(record))

    def _without_held(self, record: Record) -> Record:
        """Removes the histograms that the tracker received before the run was resumed."""
        if record["kind"] != "histograms":
            return record
        return {**record, "counts": self._new(record["step"], record["counts"])}

    def _send(self, record: Record) -> None:
        """Sends a record unless it is empty or the tracker has already stored it."""
        if record["kind"] == "histograms" and not record["counts"]:
            return
        if self._n_skip and self._is_counted(record["kind"]):
            self._n_skip -= 1
        else:
            send(self.client, record, self.journal.parent, self.trust)

    def _is_counted(self, kind: str) -> bool:
        return kind in COUNTED and kind not in self.state.unsupported

    def _end(self, line: Line, record: Record) -> None:
        if line.end > self._started_at:
            self._finish(record)
        else:  # the run was resumed after this end, or other records follow it
            self._old_end = record

    def _finish(self, record: Record) -> None:
        self.client.finish(end_of(record))
        self.state.done = True
        self._is_running = False

    def _end_again(self) -> None:
        """Ends the run again if only records follow its end that nntrain does not write there."""
        if self._is_running and not self.state.done and self._old_end is not None:
            self._finish(self._old_end)
            self._succeeded()

    def _count_unsupported(self, kind: str) -> None:
        if kind not in self.state.unsupported:
            _LOG.info("%s does not store %s: they stay in the journal.", self.name, PLURALS[kind])
        self.state.unsupported[kind] = self.state.unsupported.get(kind, 0) + 1

    def _note(self, text: str, n_refused: int) -> None:
        self.state.n_refused += n_refused
        if len(self.state.notes) < NOTES:
            self.state.notes.append(redact(text)[:500])
