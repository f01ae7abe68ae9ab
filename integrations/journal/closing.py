"""Closes the journals of processes that died before they could end their run."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from nntrain.integrations.journal.records import end_record, read_journal
from nntrain.integrations.journal.writer import append_if_free
from nntrain.integrations.tracker import OUTCOME_TAG, RunEnd
from nntrain.result import StopReason


def close_journal(journal: Path) -> bool:
    """Adds an end record if the run's process died; returns whether the record was added.

    After an end, only removes the incomplete last line of a process that was killed later.

    Raises:
        JournalError: if the journal has no start record or was written by a newer nntrain.
    """
    record = read_journal(journal)
    if record.end is not None or record.continued_by is not None:
        if not _ends_with_a_line(journal):
            append_if_free(journal, [])
        return False
    steps = [series.step[-1] for series in record.metrics.values() if len(series.step)]
    last = int(max(steps, default=0))
    message = (
        f"the process ended unexpectedly after batch {last}: killed, out of memory, or crashed"
    )
    end = RunEnd(StopReason.INTERRUPTED, message, signal.SIGKILL, time.time_ns() // 1_000_000)
    tags = {OUTCOME_TAG: str(end.reason), "nntrain.message": message}
    if record.tags.get("nntrain.traceback"):
        tags["nntrain.traceback"] = ""  # of an earlier end
    return append_if_free(journal, [{"kind": "tags", "tags": tags}, end_record(end)])


def _ends_with_a_line(journal: Path) -> bool:
    with open(journal, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"
