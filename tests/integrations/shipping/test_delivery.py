"""A journal is delivered once and in order, even if the tracker fails."""

import json
import logging
import math
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from nntrain.integrations.journal.records import JOURNAL, Record, encode, metrics_record
from nntrain.integrations.memory import MemoryClient, MemoryTracker
from nntrain.integrations.shipping.backlog import backlog
from nntrain.integrations.shipping.delivery import NOTES, STUCK_TRIES, Delivery
from nntrain.integrations.shipping.lock import DeliveredByAnotherError, delivery_lock
from nntrain.integrations.shipping.state import FOLDER, read_state, state_path, whereabouts
from nntrain.integrations.tracker import MetricRow, Refused
from nntrain.result import StopReason
from tests.common.journals import (
    END,
    START,
    UID,
    FailingTracker,
    PlainTracker,
    append,
    batches,
    deliver,
    every,
    losses,
)

HISTOGRAMS = {
    "kind": "histograms",
    "time_ms": 1,
    "step": 4,
    "edges": [0.0, 1.0],
    "counts": {"act/0": [3.0]},
}
TABLE = {"kind": "table", "name": "t", "columns": ["a"], "rows": [[1]], "step": 4}
TAGS = {"kind": "tags", "tags": {"nntrain.outcome": "completed"}}


def file_record(path: str, kind: str = "artifact") -> Record:
    record = {"kind": kind, "path": path, "name": "a.txt", "aliases": ["best"], "step": 4}
    return record | {"node": None, "trusted_targets": []}


def until_delivered(delivery: Delivery) -> int:
    """Delivers with retries, as the shipper does, and returns the number of failures."""
    n_failed = 0
    while not delivery.is_current():
        assert n_failed < 1000
        try:
            delivery.advance()
        except RuntimeError as err:
            delivery.failed(err)
            n_failed += 1
    return n_failed


def test_everything_is_delivered_in_order(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files/a").write_bytes(b"content")
    files = [file_record("files/a", kind) for kind in ("artifact", "figure", "model")]
    journal = append(
        tmp_path, [START, *batches(1, 6), HISTOGRAMS, TABLE, *batches(7, 9), *files, TAGS, END]
    )
    tracker = FailingTracker()
    deliver(journal, tracker)
    assert [step for step, _ in tracker.taken] == [1, 2, 3, 4, 5, 6, 4, 4, 7, 8, 9, 4]
    assert tracker.series("batch/loss") == losses(1, 9)
    assert tracker.run.tables["t"].rows == [[1]]
    assert (tracker.run.artifacts, tracker.run.figures) == (
        {"a.txt": b"content"},
        {"a.txt": b"content"},
    )
    assert tracker.run.models["a.txt"].path == tmp_path / "files/a"
    assert tracker.run.tags == {"who": "me", "nntrain.outcome": "completed"}
    assert (tracker.run.info.uid, tracker.run.info.params) == (UID, {"lr": 0.1})
    assert tracker.run.end is not None
    assert tracker.run.end.reason is StopReason.COMPLETED


def test_a_new_process_continues_after_the_last_delivered_record(
    tmp_path: Path,
) -> None:
    journal = append(tmp_path, [START, *batches(1, 4)])
    tracker = FailingTracker()
    deliver(journal, tracker)
    state = read_state(journal, "memory")
    assert (state.offset, state.line, state.done, state.run_id) == (
        journal.stat().st_size,
        2,
        False,
        UID,
    )
    append(tmp_path, [*batches(5, 8), END])
    deliver(journal, tracker)
    assert [step for step, _ in tracker.taken] == list(range(1, 9))
    assert read_state(journal, "memory").done
    n_starts = tracker.run.n_starts
    assert deliver(journal, tracker).is_current()
    assert tracker.run.n_starts == n_starts


def test_rows_are_delivered_in_large_groups(tmp_path: Path) -> None:
    journal = append(tmp_path, [START, *batches(1, 3500, n_group=64), END])
    sizes: list[int] = []

    class CountingClient(MemoryClient):
        def metrics(self, rows: Sequence[MetricRow]) -> None:
            sizes.append(len(rows))
            super().metrics(rows)

    class Counting(MemoryTracker):
        def connect(self) -> MemoryClient:
            return CountingClient(self)

    tracker = Counting()
    deliver(journal, tracker)
    assert sizes == [1024, 1024, 1024, 428]
    assert tracker.series("batch/loss") == losses(1, 3500)


@pytest.mark.parametrize("n_calls", range(1, 9))
def test_a_kill_before_the_state_is_saved_does_not_duplicate_anything(
    tmp_path: Path, n_calls: int
) -> None:
    class Killed(BaseException):
        """An exception that delivery does not catch; simulates SIGKILL."""

    calls: list[str] = []

    def kill(name: str) -> None:
        calls.append(name)
        if len(calls) == n_calls:
            raise Killed

    (tmp_path / "a").write_bytes(b"")
    records = [
        START,
        *batches(1, 4),
        HISTOGRAMS,
        *batches(5, 8),
        file_record("a"),
        TAGS,
        *batches(9, 12),
        END,
    ]
    journal = append(tmp_path, records)
    tracker = FailingTracker(after=kill)
    with pytest.raises(Killed):
        deliver(journal, tracker)
    deliver(journal, tracker)
    assert tracker.series("batch/loss") == losses(1, 12)
    assert len(tracker.run.histograms) == 1
    assert len(tracker.runs) == 1
    assert tracker.run.end is not None


@pytest.mark.parametrize("n", [3, 7])
@pytest.mark.parametrize("counts_rows", [False, True])
def test_a_tracker_that_fails_at_each_nth_call_gets_everything_in_order(
    tmp_path: Path, n: int, counts_rows: bool
) -> None:
    journal = append(
        tmp_path,
        [
            START,
            *(one for i in range(12) for one in (*batches(4 * i + 1, 4 * i + 4), HISTOGRAMS)),
            END,
        ],
    )
    tracker = FailingTracker(before=every(n, lambda: RuntimeError("boom")), counts_rows=counts_rows)
    delivery = Delivery(journal, "memory", tracker)
    assert until_delivered(delivery) >= 3
    expected = [step for i in range(12) for step in (*range(4 * i + 1, 4 * i + 5), 4)]
    assert [step for step, _ in tracker.taken] == expected
    assert tracker.series("batch/loss") == losses(1, 48)
    assert (delivery.state.error, delivery.state.n_tries) == (None, 0)


def test_the_state_has_the_last_error_without_secrets_until_delivery_succeeds(
    tmp_path: Path,
) -> None:
    journal = append(tmp_path, [START, *batches(1, 4)])

    def refuse(_: str) -> None:
        raise ConnectionError("no answer from\n http://me:hunter2@host:5000")

    delivery = Delivery(journal, "memory", FailingTracker(before=refuse))
    for n in (1, 2):
        with pytest.raises(ConnectionError) as caught:
            delivery.advance()
        delivery.failed(caught.value)
        state = read_state(journal, "memory")
        assert (state.error, state.n_tries) == (
            "ConnectionError: no answer from http://***@host:5000",
            n,
        )
    missing = backlog(journal, "memory")
    assert missing is not None
    assert (
        str(missing) == f"memory has not received 4 metric rows of {journal} "
        f"because delivery fails ({state.error})"
    )
    deliver(journal, MemoryTracker())
    assert (read_state(journal, "memory").error, read_state(journal, "memory").n_tries) == (None, 0)


def test_delivery_continues_if_the_state_cannot_be_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = append(tmp_path, [START, *batches(1, 4), END])
    delivery = Delivery(journal, "memory", MemoryTracker())

    def full(source: object, target: object, **folders: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        for _ in range(3):
            with pytest.raises(OSError, match="No space") as caught:
                delivery.advance()
            delivery.failed(caught.value)
    until_delivered(delivery)
    assert isinstance(delivery.tracker, MemoryTracker)
    assert delivery.tracker.series("batch/loss") == losses(1, 4)


class Picky(MemoryTracker):
    def connect(self) -> MemoryClient:
        return PickyClient(self)


class PickyClient(MemoryClient):
    """A client that refuses a whole call if any of its values is not finite."""

    n_calls = 0

    def metrics(self, rows: Sequence[MetricRow]) -> None:
        PickyClient.n_calls += 1
        if not all(math.isfinite(value) for row in rows for value in row.values.values()):
            raise Refused("not finite")
        super().metrics(rows)


def test_of_a_refused_call_the_bad_values_are_found_and_the_rest_is_delivered(
    tmp_path: Path,
) -> None:
    bad = {(1, "a"), (250, "b"), (251, "b"), (500, "a"), (777, "b"), (999, "a"), (1000, "b")}
    rows = [
        {key: math.nan if (step, key) in bad else float(step) for key in "ab"}
        for step in range(1, 1001)
    ]
    record = metrics_record(
        list(range(1, 1001)),
        list(range(1, 1001)),
        {key: [row[key] for row in rows] for key in "ab"},
    )
    journal = append(tmp_path, [START, record, END])
    tracker = Picky()
    delivery = deliver(journal, tracker)
    assert delivery.state.n_refused == 7
    assert sorted(delivery.state.notes) == sorted(
        f"step {step}, {key}: not finite" for step, key in bad
    )
    for key in "ab":
        expected = [(step, float(step)) for step in range(1, 1001) if (step, key) not in bad]
        assert tracker.series(key) == expected
    assert PickyClient.n_calls < 200
    assert delivery.is_current()


def test_all_refusals_are_counted_and_some_are_noted(tmp_path: Path) -> None:
    journal = append(tmp_path, [START, *(file_record(f"gone-{i}") for i in range(50)), END])
    state = deliver(journal, MemoryTracker()).state
    assert (state.n_refused, len(state.notes)) == (50, NOTES)


def test_a_damaged_line_is_noted_and_the_rest_is_delivered(tmp_path: Path) -> None:
    journal = append(tmp_path, [START, *batches(1, 12), END])
    raw = journal.read_bytes().splitlines(keepends=True)
    raw[2] = raw[2].replace(b"2.5", b"2.6")
    journal.write_bytes(b"".join(raw))
    tracker = MemoryTracker()
    delivery = deliver(journal, tracker)
    assert tracker.series("batch/loss") == losses(1, 4) + losses(9, 12)
    assert delivery.state.notes == ["line 3 of the journal cannot be read: its checksum is wrong"]
    assert delivery.is_current()


@pytest.mark.parametrize("counts_rows", [False, True])
@pytest.mark.parametrize("n_taken", range(8))
def test_a_tracker_that_counts_rows_gets_only_the_missing_rows(
    tmp_path: Path, n_taken: int, counts_rows: bool
) -> None:
    (tmp_path / "a").write_bytes(b"")
    records = [START, *batches(1, 4), HISTOGRAMS, TAGS, *batches(5, 7), END]
    tracker = FailingTracker(counts_rows=counts_rows)
    journal = append(tmp_path / "whole", records)
    deliver(journal, tracker)
    expected = tracker.taken
    again = FailingTracker(counts_rows=True)
    again.taken.extend(expected[:n_taken])
    fresh = append(tmp_path / "again", records)
    deliver(fresh, again)
    assert [step for step, _ in again.taken] == [1, 2, 3, 4, 4, 5, 6, 7]
    assert again.taken == expected


def test_a_tracker_that_counts_rows_gets_each_row_once_despite_a_crash(
    tmp_path: Path,
) -> None:
    journal = append(tmp_path, [START, *batches(1, 8), HISTOGRAMS, *batches(9, 12), END])
    tracker = FailingTracker(after=every(3, lambda: RuntimeError("boom")), counts_rows=True)
    until_delivered(Delivery(journal, "memory", tracker))
    assert [step for step, _ in tracker.taken] == [*range(1, 9), 4, *range(9, 13)]


@pytest.mark.parametrize("counts_rows", [False, True])
def test_a_run_that_starts_again_after_its_end_is_started_and_ended_again_in_the_tracker(
    tmp_path: Path, counts_rows: bool
) -> None:
    tracker = FailingTracker(counts_rows=counts_rows)
    journal = append(tmp_path, [START, *batches(1, 4), END])
    delivery = deliver(journal, tracker)
    assert delivery.is_current()
    append(tmp_path, [START, *batches(5, 8)])
    assert not delivery.is_current()
    while delivery.advance():
        pass
    assert tracker.run.end is None
    append(tmp_path, [END])
    while delivery.advance():
        pass
    assert tracker.run.end is not None
    assert [step for step, _ in tracker.taken] == list(range(1, 9))
    assert len(tracker.runs) == 1


@pytest.mark.parametrize("counts_rows", [False, True])
def test_several_fits_delivered_together_are_one_run_that_ends_once(
    tmp_path: Path, counts_rows: bool
) -> None:
    ends: list[str] = []
    records = [START, *batches(1, 4), END, START, *batches(5, 8), END, START, *batches(9, 12), END]
    tracker = FailingTracker(before=ends.append, counts_rows=counts_rows)
    deliver(append(tmp_path, records), tracker)
    assert [step for step, _ in tracker.taken] == list(range(1, 13))
    assert ends.count("finish") == 1
    assert tracker.run.n_starts == 1


def test_a_run_that_starts_again_without_an_end_is_started_again_in_the_tracker(
    tmp_path: Path,
) -> None:
    tracker = MemoryTracker()
    journal = append(tmp_path, [START, *batches(1, 4)])
    delivery = deliver(journal, tracker)
    append(
        tmp_path, [{**START, "run": {**START["run"], "params": {"lr": 0.2}}}, *batches(5, 8), END]
    )
    while delivery.advance():
        pass
    assert (tracker.run.n_starts, tracker.run.params) == (2, {"lr": 0.2})
    assert tracker.series("batch/loss") == losses(1, 8)


def test_a_journal_that_continues_elsewhere_is_delivered_without_ending_the_run(
    tmp_path: Path,
) -> None:
    journal = append(tmp_path, [START, *batches(1, 4), {"kind": "continued", "by": "elsewhere"}])
    tracker = MemoryTracker()
    assert deliver(journal, tracker).is_current()
    assert tracker.series("batch/loss") == losses(1, 4)
    assert tracker.run.end is None


def symlink(folder: Path) -> str:
    (folder / "link").symlink_to(folder.parent / "secret")
    return "link"


def linked_folder(folder: Path) -> str:
    (folder / "link").symlink_to(folder.parent)
    return "link/secret"


def loop(folder: Path) -> str:
    (folder / "loop").symlink_to(folder / "loop")
    return "loop"


PLACES: dict[str, Callable[[Path], str]] = {
    "above": lambda folder: "../secret",
    "absolute": lambda folder: str(folder.parent / "secret"),
    "NUL": lambda folder: "files/\0a",
    "link to a file outside": symlink,
    "folder that is a link": linked_folder,
    "link to itself": loop,
    "gone": lambda folder: "files/gone",
    "folder": lambda folder: ".",
    "sibling with the same prefix": lambda folder: f"../{folder.name}-other/a",
}


@pytest.mark.parametrize("kind", ["artifact", "figure", "model"])
@pytest.mark.parametrize("place", PLACES)
def test_a_file_outside_the_folder_is_refused_and_the_rest_is_delivered(
    tmp_path: Path, place: str, kind: str
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "run-other").mkdir()
    (tmp_path / "run-other/a").write_text("secret")
    journal = append(folder, [START, file_record(PLACES[place](folder), kind), *batches(1, 4), END])
    tracker = MemoryTracker()
    delivery = deliver(journal, tracker)
    assert delivery.state.n_refused == 1
    assert delivery.is_current()
    assert tracker.series("batch/loss") == losses(1, 4)
    assert (tracker.run.artifacts, tracker.run.figures, tracker.run.models) == ({}, {}, {})


def test_a_link_within_the_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("content")
    (tmp_path / "b").symlink_to("a")
    tracker = MemoryTracker()
    deliver(append(tmp_path, [START, file_record("b"), END]), tracker)
    assert tracker.run.artifacts == {"a.txt": b"content"}


def test_delivery_starts_only_after_the_start_record_is_complete(tmp_path: Path) -> None:
    (tmp_path / JOURNAL).write_bytes(encode(START)[:-5])
    tracker = MemoryTracker()
    delivery = Delivery(tmp_path / JOURNAL, "memory", tracker)
    assert delivery.advance() is False
    assert not delivery.is_current()
    assert tracker.runs == {}
    (tmp_path / JOURNAL).write_bytes(encode(START) + encode(END))
    assert delivery.advance() is True
    assert delivery.is_current()


def test_a_deleted_journal_leaves_nothing_to_deliver(tmp_path: Path) -> None:
    journal = append(tmp_path, [START])
    delivery = deliver(journal, MemoryTracker())
    journal.unlink()
    assert delivery.is_current()
    assert backlog(journal, "memory") is None


def test_unknown_kinds_of_records_and_unknown_keys_of_the_state_are_ignored(tmp_path: Path) -> None:
    journal = append(tmp_path, [START, {"kind": "of the future", "a": 1}, *batches(1, 4), END])
    (tmp_path / FOLDER).mkdir()
    state_path(journal, "memory").write_text(json.dumps({"run_id": "id", "of the future": 1}))
    tracker = MemoryTracker()
    deliver(journal, tracker)
    assert tracker.runs["id"].series("batch/loss") == losses(1, 4)


def test_the_state_can_be_read_at_any_time(tmp_path: Path) -> None:
    journal = append(tmp_path, [START, *batches(1, 4000), END])
    delivery = Delivery(journal, "memory", MemoryTracker())
    offsets: list[int] = []
    thread = threading.Thread(target=until_delivered, args=[delivery])
    thread.start()
    while thread.is_alive():
        offsets.append(read_state(journal, "memory").offset)
    assert offsets == sorted(offsets)
    assert read_state(journal, "memory").done
    assert [path.name for path in (tmp_path / FOLDER).iterdir()] == ["memory.json"]


def test_one_process_at_a_time_delivers_a_journal(tmp_path: Path) -> None:
    journal = append(tmp_path, [START])
    with (
        delivery_lock(journal),
        pytest.raises(DeliveredByAnotherError, match="is being delivered by another process"),
        delivery_lock(journal, 0.15),
    ):
        pytest.fail("two processes have the lock")
    with delivery_lock(journal):
        pass


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([], None),
        ([*batches(9, 11), END], "memory has not received 3 metric rows of {}"),
        ([END], "memory has not received the end of {}"),
    ],
)
def test_the_backlog_says_what_is_missing_and_what_to_do(
    tmp_path: Path, records: list[Record], expected: Any
) -> None:
    journal = append(tmp_path / "a folder", [START, *batches(1, 8), END])
    deliver(journal, MemoryTracker())
    if records:
        append(tmp_path / "a folder", [START, *records])
        deliver(append(tmp_path / "other", [START]), MemoryTracker())
    missing = backlog(journal, "memory")
    assert (missing and str(missing)) == (expected and expected.format(journal))
    assert missing is None or missing.remedy == f"python -m nntrain.sync '{journal.parent}'"


def test_whereabouts_lists_all_trackers_by_name(tmp_path: Path) -> None:
    journal = append(tmp_path, [START, END])
    for name in ("b", "a"):
        deliver(journal, MemoryTracker(), name)
    assert whereabouts(journal) == ["memory run:      a run"] * 2
    assert whereabouts(append(tmp_path / "new", [START])) == []


@pytest.mark.parametrize("kind", ["artifact", "figure", "table", "model", "histograms"])
def test_a_record_that_always_fails_is_skipped_after_enough_tries_and_the_run_ends(
    tmp_path: Path, kind: str
) -> None:
    def fail(name: str) -> None:
        if name == kind:
            raise RuntimeError("507 Insufficient Storage")

    (tmp_path / "a.txt").write_bytes(b"a")
    record = {"table": TABLE, "histograms": HISTOGRAMS}.get(kind, file_record("a.txt", kind))
    tracker = FailingTracker(before=fail)
    delivery = Delivery(append(tmp_path, [START, *batches(1, 8), record, END]), "memory", tracker)
    assert until_delivered(delivery) == STUCK_TRIES
    assert tracker.run.end is not None
    assert tracker.series("batch/loss") == losses(1, 8)
    assert delivery.state.n_refused == 1
    assert (
        f"skipped after {STUCK_TRIES} attempts: RuntimeError: 507 Insufficient Storage"
        in delivery.state.notes[0]
    )


def test_no_record_is_skipped_while_the_tracker_is_unreachable(tmp_path: Path) -> None:
    n_away = 3 * STUCK_TRIES

    def fail(name: str) -> None:
        nonlocal n_away
        if n_away:
            n_away -= 1
            raise RuntimeError("refused")

    (tmp_path / "a.txt").write_bytes(b"a")
    tracker = FailingTracker(before=fail)
    delivery = Delivery(append(tmp_path, [START, file_record("a.txt"), END]), "memory", tracker)
    assert until_delivered(delivery) == 3 * STUCK_TRIES
    assert tracker.run.artifacts == {"a.txt": b"a"}
    assert delivery.state.n_refused == 0


EVERY_KIND = [
    START,
    *batches(1, 4),
    TAGS,
    HISTOGRAMS,
    TABLE,
    *(file_record("a", kind) for kind in ("figure", "artifact", "model")),
    HISTOGRAMS,
]


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_unsupported_records_are_counted_and_logged_once_and_are_not_refusals(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "nntrain.shipper")
    (tmp_path / "a").write_bytes(b"")
    tracker = PlainTracker()
    journal = append(tmp_path, EVERY_KIND)
    before = journal.read_bytes()
    deliver(journal, tracker)
    assert said(caplog) == [
        f"memory does not store {kind}: they stay in the journal."
        for kind in ("tags", "histograms", "tables", "figures", "files", "models")
    ]
    append(tmp_path, [*batches(5, 8), HISTOGRAMS, END])
    state = deliver(journal, tracker).state
    assert len(said(caplog)) == 6
    assert state.unsupported == {
        **{"tags": 1, "histograms": 3, "table": 1, "figure": 1, "artifact": 1, "model": 1}
    }
    assert (state.n_refused, state.notes, state.error, state.done) == (0, [], None, True)
    assert [row.step for row in tracker.rows] == list(range(1, 9))
    assert journal.read_bytes().startswith(before)


def test_unsupported_records_do_not_count_as_rows(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    tracker = PlainTracker(counts_rows=True)
    journal = append(tmp_path, [*EVERY_KIND, *batches(5, 8)])
    deliver(journal, tracker)
    append(tmp_path, [HISTOGRAMS, *batches(9, 12), END])
    state = deliver(journal, tracker).state
    assert [row.step for row in tracker.rows] == list(range(1, 13))
    assert state.unsupported["histograms"] == 3


def test_a_tracker_that_cannot_be_connected_is_tried_again(tmp_path: Path) -> None:
    failures = [ImportError("no library"), OSError("no service")]
    tracker = MemoryTracker()

    class Flaky(MemoryTracker):
        def connect(self) -> MemoryClient:
            if failures:
                raise failures.pop(0)
            return MemoryClient(tracker)

    delivery = Delivery(append(tmp_path, [START, *batches(1, 4), END]), "memory", Flaky())
    for error in ("ImportError: no library", "OSError: no service"):
        with pytest.raises(Exception, match="no ") as caught:
            delivery.advance()
        delivery.failed(caught.value)
        assert read_state(delivery.journal, "memory").error == error
    while delivery.advance():
        pass
    assert tracker.series("batch/loss") == losses(1, 4)
