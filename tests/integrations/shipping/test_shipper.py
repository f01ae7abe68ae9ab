"""Parts of the shipper: how long it waits, how many runs it delivers at once, how it closes a dead process's journal."""

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from nntrain.integrations.journal.records import JournalError, read_journal
from nntrain.integrations.journal.writer import JournalWriter
from nntrain.integrations.memory import MemoryTracker
from nntrain.integrations.shipping.delivery import Delivery
from nntrain.integrations.shipping.shipper import (
    AT_ONCE,
    FIRST_WAIT_S,
    LONGEST_WAIT_S,
    DeliveryThread,
    Parent,
    close_journal,
    wait_s,
)
from nntrain.integrations.tracker import MetricRow
from nntrain.result import StopReason
from tests.common.journals import END, START, append, batches


@pytest.mark.parametrize(
    ("n_tries", "longest"), [(1, 2 * FIRST_WAIT_S), (2, 4 * FIRST_WAIT_S), (99, LONGEST_WAIT_S)]
)
def test_the_wait_is_doubled_with_each_try_up_to_the_longest(n_tries: int, longest: float) -> None:
    waits = [wait_s(n_tries) for _ in range(200)]
    assert longest / 2 <= min(waits) < 0.6 * longest
    assert 0.9 * longest < max(waits) <= longest


@dataclass
class Crowded(MemoryTracker):
    """Lets go of those who deliver only when as many are there as may be; so it counts how many were there at once."""

    gate: ClassVar[threading.Barrier] = threading.Barrier(AT_ONCE)
    lock: ClassVar[threading.Lock] = threading.Lock()
    n_inside: ClassVar[int] = 0
    n_most: ClassVar[int] = 0

    def metrics(self, rows: Sequence[MetricRow]) -> None:
        with Crowded.lock:
            Crowded.n_inside += 1
            Crowded.n_most = max(Crowded.n_most, Crowded.n_inside)
        Crowded.gate.wait(60)
        with Crowded.lock:
            Crowded.n_inside -= 1


def test_so_many_runs_are_delivered_to_a_tracker_at_once_and_no_more(tmp_path: Path) -> None:
    journals = [append(tmp_path / str(i), [START, *batches(1, 7), END]) for i in range(5 * AT_ONCE)]
    threads = [
        DeliveryThread(Delivery(journal, "crowded", Crowded()), os.getpid()) for journal in journals
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(thread.delivery.is_current() for thread in threads)
    assert Crowded.n_most == AT_ONCE


def test_a_journal_without_an_end_is_closed_once(tmp_path: Path) -> None:
    journal = append(tmp_path, [START, *batches(1, 7)])
    assert close_journal(journal) is True
    assert close_journal(journal) is False
    record = read_journal(journal)
    message = "the process ended without a word after batch 7: killed, out of memory, or crashed"
    assert record.tags == {"nntrain.outcome": "interrupted", "nntrain.message": message}
    assert record.end is not None
    assert (record.end.reason, record.end.message, record.end.signum) == (
        StopReason.INTERRUPTED,
        message,
        9,
    )


@pytest.mark.parametrize("last", [END, {"kind": "continued", "by": "elsewhere"}])
def test_a_journal_that_is_whole_is_let_alone(tmp_path: Path, last: dict[str, object]) -> None:
    journal = append(tmp_path, [START, *batches(1, 7), last])
    before = journal.read_bytes()
    assert close_journal(journal) is False
    assert journal.read_bytes() == before


def test_a_journal_that_is_being_written_is_let_alone(tmp_path: Path) -> None:
    with JournalWriter(append(tmp_path, [START])) as writer:
        assert close_journal(writer.path) is False
        assert read_journal(writer.path).end is None


def test_a_journal_that_never_began_cannot_be_closed(tmp_path: Path) -> None:
    with pytest.raises(JournalError):
        close_journal(append(tmp_path, []))


@pytest.fixture
def pipe() -> tuple[int, int]:
    return os.pipe()


def test_what_the_parent_says_arrives_whole_and_in_order(pipe: tuple[int, int]) -> None:
    parent = Parent(pipe[0], os.getppid())
    os.write(pipe[1], b'{"a": 1}\n{"b"')
    assert list(parent.messages(1)) == [{"a": 1}]
    os.write(pipe[1], b': 2}\n{"bye": true}\n')
    assert not parent.is_silent
    assert list(parent.messages(1)) == [{"b": 2}, {"bye": True}]
    assert parent.is_silent


def test_a_parent_whose_pipe_is_closed_is_silent(pipe: tuple[int, int]) -> None:
    parent = Parent(pipe[0], os.getppid())
    assert list(parent.messages(0.01)) == []
    assert not parent.is_silent
    os.close(pipe[1])
    assert list(parent.messages(1)) == []
    assert parent.is_silent
    assert not parent.has_died


def test_of_a_parent_that_has_died_the_last_words_are_heard_though_a_worker_holds_the_pipe(
    pipe: tuple[int, int],
) -> None:
    parent = Parent(pipe[0], 2**22 + 1)  # no process has that number
    assert parent.has_died
    os.write(pipe[1], b'{"journal": "a"}\n')
    assert list(parent.messages(1)) == [{"journal": "a"}]
    assert not parent.is_silent
    assert list(parent.messages(0.01)) == []
    assert parent.is_silent
