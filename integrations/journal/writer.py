"""Writing a journal from the training process, without letting it wait for the disk."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from nntrain.integrations.journal.records import Record, encode

_LOG = logging.getLogger("nntrain")

EVERY_S = 0.1
"""Seconds between two looks at what is to be written."""

RETRY_S = 1.0
"""Seconds after which a disk that took nothing is asked again; each time it is offered all that is kept."""

LOCK_WAIT_S = 0.5
"""Seconds to wait for one who only asks whether the journal is being written, which holds it for a moment."""

KEPT_BYTES = 64 * 2**20
"""How much is kept in memory while the disk takes nothing."""

Job = Callable[[], Iterable[Record]]


class JournalInUseError(RuntimeError):
    """Another process writes this journal."""


class JournalWriter:
    """Appends records to a journal in a thread of its own.

    As long as it is open it holds a lock on the file, by which others know that its process lives. A line that a process
    left half-written is cut off first. Where the disk takes nothing the training goes on: that is said once, what comes is
    kept in memory up to 64 MiB and written as soon as there is room.

    Args:
        path: the journal; its folder is made.

    Raises:
        JournalInUseError: if another process writes it.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.n_lost = 0
        """Records that found no room on the disk nor in memory, or that could not be made."""
        self._file = _JournalFile(path)
        self._has_told = False
        self._jobs: deque[Job | threading.Event] = deque()
        self._wake, self._is_closing = threading.Event(), False
        self._thread = threading.Thread(target=self._work, name="nntrain journal", daemon=True)
        self._thread.start()

    def write(self, *records: Record) -> None:
        """Hands over records, in order."""
        self._jobs.append(lambda: records)

    def write_later(self, *jobs: Job) -> None:
        """Hands over functions that give records, called in the thread, in order; so they may wait for the device."""
        self._jobs.extend(jobs)

    def flush(self) -> None:
        """Has the file flushed to the disk, and does not wait for it."""
        self._jobs.append(threading.Event())

    def wait(self, timeout_s: float | None = None) -> bool:
        """Waits until all that was handed over is on the disk; returns whether it is."""
        flushed = threading.Event()
        self._jobs.append(flushed)
        self._wake.set()
        return flushed.wait(timeout_s) and not self._file.waiting

    def close(self) -> None:
        """Writes what is left and lets go of the file."""
        self._is_closing = True
        self._wake.set()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _work(self) -> None:
        while not self._is_closing:
            # looks by itself now and then: being woken for each group would cost the training a switch of threads
            self._wake.wait(EVERY_S)
            self._wake.clear()
            self._write_waiting()
        self._write_waiting()
        self._finish()

    def _write_waiting(self) -> None:
        flushed: list[threading.Event] = []
        while self._jobs:
            job = self._jobs.popleft()
            if isinstance(job, threading.Event):
                flushed.append(job)
            else:
                self._add(job)
        self._file.write()
        if flushed:
            self._file.flush()
        for event in flushed:
            event.set()

    def _add(self, job: Job) -> None:
        try:
            for record in job():
                self.n_lost += not self._file.add(encode(record))
        except Exception as err:  # noqa: BLE001 - a value that cannot be read from its device must not lose what comes after it
            self.n_lost += 1
            self._tell(err)

    def _tell(self, err: Exception) -> None:
        if not self._has_told:
            self._has_told = True
            _LOG.warning(
                "%s: a record cannot be made (%s: %s) and is lost.",
                self.path,
                type(err).__name__,
                err,
            )

    def _finish(self) -> None:
        self._file.flush()
        self.n_lost += self._file.close()
        if self.n_lost:
            _LOG.warning(
                "%s: %d records could not be written and are lost.", self.path, self.n_lost
            )


class _JournalFile:
    """The file, and what is waiting for room in it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        self._lock()
        self._end = cut_torn_line(self._fd)
        self.waiting: list[bytes] = []
        self._n_waiting = 0
        self._said = False
        self._due_s = 0.0

    def _lock(self) -> None:
        deadline = time.monotonic() + LOCK_WAIT_S
        while not _locked(self._fd, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                os.close(self._fd)
                raise JournalInUseError(
                    f"{self._path} is being written by another process: name another folder."
                )
            time.sleep(0.005)

    def add(self, line: bytes) -> bool:
        """Takes a line if there is room in memory."""
        if self._n_waiting + len(line) > KEPT_BYTES:
            return False
        self.waiting.append(line)
        self._n_waiting += len(line)
        return True

    def write(self) -> None:
        """Writes what is waiting; where the disk is full, takes back the part of a line that found room."""
        if not self.waiting or time.monotonic() < self._due_s:
            return
        data = b"".join(self.waiting)
        try:
            _write_all(self._fd, data, self._end)
        except OSError as err:
            os.ftruncate(self._fd, self._end)
            self._due_s = time.monotonic() + RETRY_S
            self._say(err)
            return
        self._end += len(data)
        self.waiting, self._n_waiting, self._said = [], 0, False

    def _say(self, err: OSError) -> None:
        if not self._said:
            self._said = True
            _LOG.warning(
                "%s cannot be written (%s): training goes on, and what is recorded is kept in memory until there is room.",
                self._path,
                os.strerror(err.errno) if err.errno else err,
            )

    def flush(self) -> None:
        """Writes what is waiting and flushes it to the disk."""
        self._due_s = 0.0
        self.write()
        try:
            os.fsync(self._fd)
        except OSError as err:
            if err.errno != errno.EINVAL:  # a file system that cannot
                self._say(err)

    def close(self) -> int:
        """Lets go of the file; returns how many records found no room."""
        os.close(self._fd)
        return len(self.waiting)


def _write_all(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        n = os.pwrite(fd, view, offset)
        view, offset = view[n:], offset + n


def cut_torn_line(fd: int) -> int:
    """Cuts off a last line without an end, and returns where the file ends then."""
    size = os.fstat(fd).st_size
    end, block = size, 65536
    while end > 0:
        start = max(0, end - block)
        found = os.pread(fd, end - start, start).rfind(b"\n")
        if found >= 0:
            end = start + found + 1
            break
        end = start
    if end < size:
        os.ftruncate(fd, end)
    return end


def is_being_written(path: Path) -> bool:
    """Whether a process that lives holds the journal open for writing."""
    with open(path, "rb") as file:
        return not _locked(
            file.fileno(), fcntl.LOCK_SH
        )  # shared, so that two who ask do not see each other


def _locked(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def append_if_free(path: Path, records: Iterable[Record]) -> bool:
    """Appends records to a journal that nobody writes any more; returns whether nobody does."""
    try:
        with JournalWriter(path) as writer:
            writer.write(*records)
    except JournalInUseError:
        return False
    return True
