"""The journal is written completely and in order, without torn lines and without blocking."""

import errno
import fcntl
import logging
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nntrain.integrations.journal import writer
from nntrain.integrations.journal.records import (
    JOURNAL,
    Record,
    lines,
    metrics_record,
    read_journal,
)
from nntrain.integrations.journal.writer import (
    JournalInUseError,
    JournalWriter,
    append_if_free,
    is_being_written,
)
from tests.common.journals import END, START, append, batches
from tests.common.servers import wait_until


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system with 1 MiB of space."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, check=False
    )
    if mount.returncode:
        pytest.skip("needs permission to mount a file system")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def row(step: int) -> Record:
    return metrics_record([step], [step], {"a": [step / 2]})


def steps(path: Path) -> list[int]:
    return read_journal(path).metrics["a"].step.tolist()


def test_ten_thousand_records_are_written_in_order(tmp_path: Path) -> None:
    with JournalWriter(tmp_path / JOURNAL) as journal:
        journal.write(START)
        for step in range(0, 10_000, 2):
            journal.write(row(step))
            journal.write_later(lambda step=step: [row(step + 1)])
        journal.write(END)
    assert steps(tmp_path) == list(range(10_000))
    assert read_journal(tmp_path).end is not None
    assert journal.n_lost == 0


def test_wait_returns_once_all_records_are_written(tmp_path: Path) -> None:
    with JournalWriter(tmp_path / JOURNAL) as journal:
        for step in range(100):
            journal.write(*([START] if step == 0 else []), row(step))
            assert journal.wait()
            assert steps(tmp_path)[-1] == step


def test_a_job_that_waits_for_the_device_does_not_block_other_calls(tmp_path: Path) -> None:
    device = threading.Event()

    def job() -> list[Record]:
        device.wait()
        return [row(1)]

    journal = JournalWriter(tmp_path / JOURNAL)
    journal.write(START)
    assert journal.wait()
    began = time.monotonic()
    journal.write_later(job)
    for step in range(2, 1000):
        journal.write(row(step))
    journal.flush()
    assert time.monotonic() - began < 0.5
    assert not journal.wait(0.05)
    assert "a" not in read_journal(tmp_path).metrics
    device.set()
    journal.close()
    assert steps(tmp_path) == list(range(1, 1000))


def test_a_job_that_fails_loses_only_its_record_and_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def job() -> Iterator[Record]:
        yield row(2)
        raise RuntimeError("CUDA error: device-side assert triggered")

    with JournalWriter(tmp_path / JOURNAL) as journal:
        journal.write(START, row(1))
        journal.write_later(job)
        journal.write({"kind": "tags", "tags": {("no", "name"): 1}})
        journal.write(row(3), END)
    assert steps(tmp_path) == [1, 2, 3]
    assert journal.n_lost == 2
    first, last = [record.getMessage() for record in caplog.records]
    assert "a record was lost because of an error (RuntimeError: CUDA error" in first
    assert last == f"{tmp_path / JOURNAL}: 2 records could not be written and were lost."


@pytest.mark.parametrize("torn", [b"{", b'{"kind":"metrics"', b"x" * 200_000])
def test_opening_a_journal_again_cuts_off_a_torn_line_and_continues(
    tmp_path: Path, torn: bytes
) -> None:
    path = append(tmp_path, [START, row(1)])
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    with JournalWriter(path) as journal:
        assert path.read_bytes() == whole
        journal.write(row(2))
    assert steps(path) == [1, 2]
    assert read_journal(path).damaged == {}


def test_a_file_that_is_one_torn_line_is_emptied(tmp_path: Path) -> None:
    (tmp_path / JOURNAL).write_bytes(b'{"kind":"start"')
    JournalWriter(tmp_path / JOURNAL).close()
    assert (tmp_path / JOURNAL).read_bytes() == b""


def test_only_one_writer_at_a_time_is_possible(tmp_path: Path) -> None:
    path = tmp_path / "below" / JOURNAL
    with JournalWriter(path) as journal:
        journal.write(START)
        assert is_being_written(path)
        with pytest.raises(
            JournalInUseError,
            match=r"journal\.jsonl is being written by another process: choose another folder",
        ):
            JournalWriter(path)
        assert append_if_free(path, [END]) is False
    assert not is_being_written(path)
    assert append_if_free(path, [END]) is True
    assert [line.record and line.record["kind"] for line in lines(path)] == ["start", "end"]


def test_a_process_that_checks_for_a_writer_is_not_mistaken_for_one(
    tmp_path: Path,
) -> None:
    path = append(tmp_path, [START])
    with open(path, "rb") as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        assert not is_being_written(path)


def test_a_writer_can_open_while_another_thread_checks_for_a_writer(tmp_path: Path) -> None:
    path = append(tmp_path, [START])
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            is_being_written(path)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        for _ in range(200):
            JournalWriter(path).close()
    finally:
        stop.set()
        thread.join()


def test_a_full_disk_is_logged_once_and_all_records_are_written_when_space_is_free(
    small_disk: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "RETRY_S", 0.05)
    path, ballast = small_disk / JOURNAL, small_disk / "ballast"
    ballast.write_bytes(b"x" * 900_000)
    with JournalWriter(path) as journal:
        journal.write(START)
        for step in range(5000):
            journal.write(row(step))
        assert not journal.wait()
        assert path.read_bytes() == b"" or path.read_bytes().endswith(b"\n")
        time.sleep(0.2)
        (message,) = [
            record.getMessage() for record in caplog.records if record.levelno == logging.WARNING
        ]
        assert message == (
            f"{path} cannot be written (No space left on device): training continues, "
            "and records stay in memory."
        )
        ballast.unlink()
        wait_until(lambda: path.stat().st_size > 100_000, "the journal is written", 10)
        journal.write(END)
    assert steps(path) == list(range(5000))
    assert read_journal(path).damaged == {}
    assert journal.n_lost == 0
    assert len(caplog.records) == 1


def test_a_full_disk_is_not_retried_all_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_try = 0

    def full(fd: int, data: bytes, offset: int) -> None:
        nonlocal n_try
        n_try += 1
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writer, "RETRY_S", 60.0)
    with JournalWriter(tmp_path / JOURNAL) as journal, monkeypatch.context() as patched:
        patched.setattr(writer, "_write_all", full)
        journal.write(START)
        wait_until(lambda: n_try == 1, "the first try", 5)
        time.sleep(3 * writer.EVERY_S)
        assert n_try == 1
        assert not journal.wait()  # `wait` retries immediately
        assert n_try >= 2


def test_with_a_disk_that_stays_full_memory_is_bounded_and_lost_records_are_counted(
    small_disk: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "KEPT_BYTES", 100_000)
    path = append(small_disk, [START])
    (small_disk / "ballast").write_bytes(b"x" * (2**20 - 3 * 4096))
    with JournalWriter(path) as journal:
        journal.wait()
        for step in range(10_000):
            journal.write(row(step))
        journal.wait()
        kept = sum(map(len, journal._file.waiting))
        assert kept <= 100_000
    found = read_journal(path)
    n_written = len(found.metrics["a"].step) if found.metrics else 0
    assert journal.n_lost == 10_000 - n_written > 0
    assert found.damaged == {}
    assert (
        f"{journal.n_lost} records could not be written and were lost"
        in caplog.records[-1].getMessage()
    )
    assert len(caplog.records) == 2


CHILD = """
import sys, time
from pathlib import Path
from nntrain.integrations.journal.records import metrics_record
from nntrain.integrations.journal.writer import JournalWriter
from tests.common.journals import START

def row(step):
    return metrics_record([step], [step], {"a": [step / 2]})

journal = JournalWriter(Path(sys.argv[1]))
journal.write(START, row(1))
journal.wait()
step = 1
while True:
    print(step, time.monotonic(), flush=True)
    step += 1
    journal.write(row(step))
    time.sleep(0.001)
"""


def start_writing(folder: Path) -> "subprocess.Popen[bytes]":
    folder.mkdir()
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    with open(folder / "progress", "wb") as out:
        return subprocess.Popen(
            [sys.executable, "-c", CHILD, str(folder / JOURNAL)], stdout=out, env=env
        )


def check_killed(folder: Path, killed_at: float) -> None:
    words = [line.split() for line in (folder / "progress").read_text().split("\n")[:-1]]
    n_old = sum(float(time_s) < killed_at - 1 for _, time_s in words)
    found = read_journal(folder)
    n = len(found.metrics["a"].step)
    assert steps(folder) == list(range(1, n + 1))
    assert n_old <= n <= len(words) + 1
    assert found.damaged == {}
    with JournalWriter(folder / JOURNAL) as journal:
        journal.write(END)
    assert read_journal(folder).end is not None


@pytest.mark.slow
def test_after_sigkill_the_journal_is_readable_with_all_records_older_than_a_second(
    tmp_path: Path,
) -> None:
    rng = random.Random(0)
    for i in range(4):
        folders = [tmp_path / f"{i}-{k}" for k in range(5)]
        children = [start_writing(folder) for folder in folders]
        wait_until(
            lambda folders=folders: all((f / "progress").stat().st_size for f in folders),
            "all write",
            60,
        )
        for child, folder in zip(children, folders, strict=True):
            time.sleep(rng.uniform(0.0, 0.6))
            child.kill()
            killed_at = time.monotonic()
            child.wait()
            check_killed(folder, killed_at)


def test_groups_of_batches_are_written(tmp_path: Path) -> None:
    with JournalWriter(tmp_path / JOURNAL) as journal:
        journal.write(START, *batches(1, 10))
    assert read_journal(tmp_path).metrics["batch/loss"].value.tolist() == [
        step / 2 for step in range(1, 11)
    ]
