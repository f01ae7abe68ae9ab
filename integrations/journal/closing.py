"""Closing the journal of a process that died before it could write the end of its run."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from nntrain.integrations.journal.records import end_record, read_journal
from nntrain.integrations.journal.writer import append_if_free
from nntrain.integrations.tracker import OUTCOME_TAG, RunEnd
from nntrain.result import StopReason


def close_journal(journal: Path) -> bool:
    """Writes the end of a run whose process died; returns whether the journal needed it.

    Raises:
        JournalError: if the journal has no start record, or a newer version.
    """
    record = read_journal(journal)
    if record.end is not None or record.continued_by is not None:
        return False
    last = max((int(series.step[-1]) for series in record.metrics.values()), default=0)
    message = (
        f"the process ended without a word after batch {last}: killed, out of memory, or crashed"
    )
    end = RunEnd(StopReason.INTERRUPTED, message, signal.SIGKILL, time.time_ns() // 1_000_000)
    tags = {OUTCOME_TAG: str(end.reason), "nntrain.message": message}
    return append_if_free(journal, [{"kind": "tags", "tags": tags}, end_record(end)])
