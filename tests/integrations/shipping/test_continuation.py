"""After a resume the tracker has each point once, as if the run had not been interrupted."""

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from nntrain.integrations.journal.records import (
    JOURNAL,
    JournalError,
    Record,
    lines,
    read_journal,
)
from nntrain.integrations.journal.writer import JournalWriter
from nntrain.integrations.memory import MemoryTracker
from nntrain.integrations.shipping.continuation import continue_journal
from nntrain.integrations.shipping.delivery import Delivery
from nntrain.integrations.shipping.lock import DeliveredByAnotherError, delivery_lock
from nntrain.integrations.shipping.state import read_state
from tests.common.journals import (
    END,
    START,
    FailingTracker,
    PlainTracker,
    append,
    batches,
    deliver,
    losses,
)

LAST = 24


def histogram(step: int, time_ms: int) -> Record:
    return {
        "kind": "histograms",
        "time_ms": time_ms + step,
        "step": step,
        "edges": [0.0, 1.0],
        "counts": {"act/0": [step]},
    }


def table(step: int) -> Record:
    return {
        "kind": "table",
        "name": f"table-{step}",
        "columns": ["a"],
        "rows": [[step]],
        "step": step,
    }


def training(first: int, last: int, time_ms: int = 1_000) -> Iterator[Record]:
    """Yields records of batches in groups of 3, and a histogram and a table every 4 batches."""
    yield START
    for i in range(first, last + 1):
        if i % 3 == 0 or i == last:
            yield from batches(
                max(first, i - 2 if i % 3 == 0 else i - i % 3 + 1), i, time_ms=time_ms
            )
        if i % 4 == 0:
            yield histogram(i, time_ms)
            yield table(i)


def deliver_lines(journal: Path, tracker: MemoryTracker, n_line: int) -> None:
    """Delivers only the first `n_line` lines of a journal."""
    whole = journal.read_bytes()
    journal.write_bytes(b"".join(whole.splitlines(keepends=True)[:n_line]))
    if n_line:
        deliver(journal, tracker)
    journal.write_bytes(whole)


def assert_as_if_uninterrupted(tracker: MemoryTracker, last: int = LAST) -> None:
    points = Counter((row.step, key) for row in tracker.run.rows for key in row.values)
    assert points == {(step, key): 1 for step in range(1, last + 1) for key in ("batch/loss", "lr")}
    assert tracker.series("batch/loss") == losses(1, last)
    expected = [(step, {"act/0": [step]}) for step in range(4, last + 1, 4)]
    assert [(row.step, counts) for row, _, counts in tracker.run.histograms] == expected
    assert list(tracker.run.tables) == [f"table-{step}" for step in range(4, last + 1, 4)]
    assert tracker.run.end is not None
    assert len(tracker.runs) == 1


N_LINE = len(list(training(1, 17)))


@pytest.mark.parametrize("is_same_folder", [False, True])
@pytest.mark.parametrize("cut", [0, 1, 8, 10, 16, 17])
@pytest.mark.parametrize("n_delivered", [0, 1, 2, 5, 9, N_LINE])
def test_a_resumed_run_equals_an_uninterrupted_one(
    tmp_path: Path, n_delivered: int, cut: int, is_same_folder: bool
) -> None:
    tracker = MemoryTracker()
    old = append(tmp_path / "old", training(1, 17))
    deliver_lines(old, tracker, n_delivered)
    new = old if is_same_folder else tmp_path / "new" / JOURNAL
    continue_journal(old, new, cut)
    assert all(step <= cut for series in read_journal(new).metrics.values() for step in series.step)
    append(new.parent, [*training(cut + 1, LAST, time_ms=5_000), END])
    deliver(new, tracker)
    assert_as_if_uninterrupted(tracker)


@pytest.mark.parametrize(("first_cut", "second_cut"), [(6, 12), (12, 6), (10, 10), (7, 11)])
@pytest.mark.parametrize(
    ("n_first", "n_second"), list(itertools.product([0, 5, N_LINE], [0, 4, 100]))
)
def test_a_run_that_is_resumed_twice_equals_an_uninterrupted_one(
    tmp_path: Path, first_cut: int, second_cut: int, n_first: int, n_second: int
) -> None:
    tracker = MemoryTracker()
    first, second, third = (tmp_path / name / JOURNAL for name in ("first", "second", "third"))
    append(first.parent, training(1, 17))
    deliver_lines(first, tracker, n_first)
    continue_journal(first, second, first_cut)
    append(second.parent, training(first_cut + 1, 15, time_ms=5_000))
    n_done = read_state(second, "memory").line
    deliver_lines(second, tracker, n_done + n_second if n_second else 0)
    # the checkpoint refers to the first journal, but the run continues in the second folder
    continue_journal(first, third, second_cut)
    assert read_journal(second).continued_by == str(third)
    append(third.parent, [*training(second_cut + 1, LAST, time_ms=9_000), END])
    deliver(third, tracker)
    assert_as_if_uninterrupted(tracker)


@pytest.mark.parametrize("cut", [0, 4, 10, 17])
@pytest.mark.parametrize("n_delivered", [0, 5, 9, N_LINE])
def test_a_tracker_that_counts_rows_gets_each_row_once(
    tmp_path: Path, cut: int, n_delivered: int
) -> None:
    tracker = FailingTracker(counts_rows=True)
    old, new = append(tmp_path / "old", training(1, 17)), tmp_path / "new" / JOURNAL
    deliver_lines(old, tracker, n_delivered)
    continue_journal(old, new, cut)
    append(new.parent, training(cut + 1, 20, time_ms=5_000))
    deliver(new, tracker)
    last = tmp_path / "last" / JOURNAL
    continue_journal(new, last, max(cut, 14))
    append(last.parent, training(max(cut, 14) + 1, LAST, time_ms=9_000))
    deliver(last, tracker)
    append(last.parent, [END])
    deliver(last, tracker)
    points = Counter((step, key) for step, values in tracker.taken for key in values)
    scalars = {(step, key): 1 for step in range(1, LAST + 1) for key in ("batch/loss", "lr")}
    assert points == scalars | {(step, "act/0"): 1 for step in range(4, LAST + 1, 4)}


@pytest.mark.parametrize("n_row", [0, 7, 12, 16])
def test_a_tracker_that_lost_rows_gets_all_missing_rows(tmp_path: Path, n_row: int) -> None:
    """The process of an online tracker may die before it has uploaded all rows."""
    tracker = FailingTracker(counts_rows=True)
    old, new = append(tmp_path / "old", [START, *batches(1, 17)]), tmp_path / "new" / JOURNAL
    deliver(old, tracker)
    del tracker.taken[n_row:]
    continue_journal(old, new, 10)
    append(new.parent, [START, *batches(11, LAST, time_ms=5_000), END])
    deliver(new, tracker)
    steps = Counter(step for step, _ in tracker.taken)
    assert set(steps) == set(range(1, LAST + 1))
    assert all(n == 1 for step, n in steps.items() if not 10 < step <= n_row)


def test_records_without_a_step_are_kept_except_the_end(tmp_path: Path) -> None:
    tags = {"kind": "tags", "tags": {"a": "b"}}
    artifact = {"kind": "artifact", "path": "files/0001-a", "name": "a", "aliases": []}
    (tmp_path / "old/files").mkdir(parents=True)
    (tmp_path / "old/files/0001-a").write_bytes(b"content")
    old, new = (
        append(tmp_path / "old", [*training(1, 8), tags, artifact, END]),
        tmp_path / "new" / JOURNAL,
    )
    continue_journal(old, new, 4)
    found = read_journal(new)
    assert (found.tags, found.end, found.continued_by) == ({"a": "b"}, None, None)
    assert [file.path.read_bytes() for file in found.files] == [b"content"]
    assert (tmp_path / "new/files/0001-a").samefile(tmp_path / "old/files/0001-a")
    assert [line.record and line.record["kind"] for line in lines(new)].count("start") == 1


def test_a_group_of_batches_can_be_cut_in_the_middle(tmp_path: Path) -> None:
    old, new = (
        append(tmp_path / "old", [START, *batches(1, 64, n_group=64)]),
        tmp_path / "new" / JOURNAL,
    )
    continue_journal(old, new, 41)
    assert read_journal(new).metrics["batch/loss"].step.tolist() == list(range(1, 42))


def test_damaged_and_torn_lines_are_dropped(tmp_path: Path) -> None:
    old, new = append(tmp_path / "old", [START, *batches(1, 12)]), tmp_path / "new" / JOURNAL
    raw = old.read_bytes().splitlines(keepends=True)
    old.write_bytes(raw[0] + raw[1] + raw[2].replace(b"2.5", b"2.6") + raw[3][:-4])
    continue_journal(old, new, 12)
    found = read_journal(new)
    assert (found.metrics["batch/loss"].step.tolist(), found.damaged) == ([1, 2, 3, 4], {})
    assert read_journal(old).continued_by == str(new)


def test_delivery_continues_the_same_run_of_the_tracker(tmp_path: Path) -> None:
    old, new = append(tmp_path / "old", training(1, 8)), tmp_path / "new" / JOURNAL
    tracker = MemoryTracker()
    deliver(old, tracker)
    state = read_state(old, "memory")
    state.run_id = "the tracker's own"
    delivery = Delivery(old, "memory", tracker)
    delivery.state = state
    delivery.save()
    continue_journal(old, new, 8)
    assert read_state(new, "memory").run_id == "the tracker's own"
    assert read_state(new, "memory").done is False
    assert read_state(new, "memory").offset == new.stat().st_size


def test_it_waits_for_a_shipper_that_is_still_delivering(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nntrain.integrations.shipping.continuation.WAIT_S", 0.2)
    old = append(tmp_path / "old", training(1, 8))
    with delivery_lock(old), pytest.raises(DeliveredByAnotherError):
        continue_journal(old, tmp_path / "new" / JOURNAL, 4)
    assert not (tmp_path / "new").exists()


def test_the_writer_continues_after_the_cut(tmp_path: Path) -> None:
    old = append(tmp_path, [*training(1, 8), END])
    continue_journal(old, old, 4)
    with JournalWriter(old) as writer:
        writer.write(*training(5, 8), END)
    assert read_journal(old).metrics["batch/loss"].step.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("cut", [0, 4, 10, 17])
@pytest.mark.parametrize("counts_rows", [False, True])
def test_a_tracker_that_keeps_only_metrics_has_each_point_of_a_resumed_run_once(
    tmp_path: Path, cut: int, counts_rows: bool
) -> None:
    tracker = PlainTracker(counts_rows)
    old, new = append(tmp_path / "old", training(1, 17)), tmp_path / "new" / JOURNAL
    deliver(old, tracker)
    continue_journal(old, new, cut)
    append(new.parent, [*training(cut + 1, LAST, time_ms=5_000), END])
    state = deliver(new, tracker).state
    assert sorted(row.step for row in tracker.rows) == list(range(1, LAST + 1))
    assert set(state.unsupported) == {"histograms", "table"}


# --- a run of somebody else


def test_links_in_the_folder_of_a_run_are_not_copied(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    old = append(tmp_path / "old", training(1, 4))
    (tmp_path / "old/files/deep").mkdir(parents=True)
    (tmp_path / "old/files/deep/0001-a").write_text("content")
    (tmp_path / "old/files/0002-b").symlink_to(tmp_path / "secret")
    (tmp_path / "old/files/0003-c").symlink_to(tmp_path)
    new = tmp_path / "new" / JOURNAL
    continue_journal(old, new, 4)
    assert (new.parent / "files/deep/0001-a").read_text() == "content"
    assert [path.name for path in sorted((new.parent / "files").rglob("*"))] == ["deep", "0001-a"]


def test_files_are_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    old = append(tmp_path / "old", training(1, 4))
    (tmp_path / "old/files").mkdir()
    (tmp_path / "old/files/a").write_text("content")
    (tmp_path / "new").mkdir()
    (tmp_path / "new/files").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="files is a symbolic link"):
        continue_journal(old, tmp_path / "new" / JOURNAL, 4)
    assert list((tmp_path / "victim").iterdir()) == []


def test_a_journal_that_names_another_run_as_its_continuation_does_not_change_that_run(
    tmp_path: Path,
) -> None:
    run = {**START, "run": {**START["run"], "uid": "b" * 16}}
    other = append(tmp_path / "other", [run, END])
    before = other.read_bytes()
    old = append(tmp_path / "old", [*training(1, 4), {"kind": "continued", "by": str(other)}])
    continue_journal(old, tmp_path / "new" / JOURNAL, 4)
    assert other.read_bytes() == before
    assert [path.name for path in other.parent.iterdir()] == [JOURNAL]


def test_journals_that_continue_each_other_end_the_search(tmp_path: Path) -> None:
    a, b = (tmp_path / name / JOURNAL for name in "ab")
    append(a.parent, [*training(1, 4), {"kind": "continued", "by": str(b)}])
    append(b.parent, [*training(1, 4), {"kind": "continued", "by": str(a)}])
    continue_journal(a, tmp_path / "new" / JOURNAL, 4)
    assert read_journal(tmp_path / "new").metrics["batch/loss"].step.tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("trusted", "kept"), [((), []), (("mine",), ["mine.models"]), (("other",), [])]
)
def test_a_model_of_the_earlier_run_may_use_only_what_the_user_trusts(
    tmp_path: Path, trusted: tuple[str, ...], kept: list[str]
) -> None:
    model = {"kind": "model", "path": "a", "name": "a", "aliases": [], "node": None}
    model |= {"trusted_targets": ["mine.models", "subprocess"]}
    old = append(tmp_path / "old", [*training(1, 4), model])
    new = tmp_path / "new" / JOURNAL
    continue_journal(old, new, 4, trusted)
    (found,) = [
        one.record for one in lines(new) if one.record is not None and one.record["kind"] == "model"
    ]
    assert found["trusted_targets"] == kept


def test_a_checkpoint_does_not_take_over_another_run(tmp_path: Path) -> None:
    old = append(tmp_path / "old", [START, *batches(1, 8), END])
    before = old.read_bytes()
    with pytest.raises(JournalError, match="records another run than the checkpoint"):
        continue_journal(old, tmp_path / "new" / JOURNAL, 4, uid="f" * 16)
    assert old.read_bytes() == before
    continue_journal(old, tmp_path / "new" / JOURNAL, 4, uid=START["run"]["uid"])
    assert read_journal(tmp_path / "new").metrics["lr"].step.tolist() == [1, 2, 3, 4]
