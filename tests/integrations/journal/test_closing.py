"""The journal of a process that died is closed."""

from pathlib import Path

import pytest

from nntrain.integrations.journal.closing import close_journal
from nntrain.integrations.journal.records import JournalError, read_journal
from nntrain.integrations.journal.writer import JournalWriter
from nntrain.result import StopReason
from tests.common.journals import END, START, append, batches


def test_a_journal_without_an_end_is_closed_once(tmp_path: Path) -> None:
    journal = append(tmp_path, [START, *batches(1, 7)])
    assert close_journal(journal) is True
    assert close_journal(journal) is False
    record = read_journal(journal)
    message = "the process ended unexpectedly after batch 7: killed, out of memory, or crashed"
    assert record.tags == {"nntrain.outcome": "interrupted", "nntrain.message": message}
    assert record.end is not None
    assert (record.end.reason, record.end.message, record.end.signum) == (
        StopReason.INTERRUPTED,
        message,
        9,
    )


@pytest.mark.parametrize("last", [END, {"kind": "continued", "by": "elsewhere"}])
def test_a_complete_journal_is_not_changed(tmp_path: Path, last: dict[str, object]) -> None:
    journal = append(tmp_path, [START, *batches(1, 7), last])
    before = journal.read_bytes()
    assert close_journal(journal) is False
    assert journal.read_bytes() == before


def test_a_journal_that_is_being_written_is_not_changed(tmp_path: Path) -> None:
    with JournalWriter(append(tmp_path, [START])) as writer:
        assert close_journal(writer.path) is False
        assert read_journal(writer.path).end is None


def test_a_journal_without_a_start_cannot_be_closed(tmp_path: Path) -> None:
    with pytest.raises(JournalError):
        close_journal(append(tmp_path, []))


def test_a_journal_with_an_empty_group_of_batches_is_closed(tmp_path: Path) -> None:
    empty = {"kind": "metrics", "time_ms": [], "step": [], "values": {"a": []}}
    journal = append(tmp_path, [START, empty])
    assert close_journal(journal) is True
    end = read_journal(journal).end
    assert end is not None
    assert "after batch 0" in end.message


def test_an_incomplete_line_after_the_end_is_removed(tmp_path: Path) -> None:
    journal = append(tmp_path, [START, *batches(1, 7), END])
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"kind":"sta')
    assert close_journal(journal) is False
    assert journal.read_bytes() == whole
