"""Writes a journal in a background thread so that training never waits for the disk."""

from __future__ import annotations

import errno
import logging
import os
import platform
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from nntrain.core.files import cut_torn_line, has_locks, lock
from nntrain.core.sinks import open_below
from nntrain.integrations.journal.records import Record, encode, lines
from nntrain.integrations.journal.safe import safe

_LOG = logging.getLogger("nntrain")

EVERY_S = 0.1
"""Seconds between two writes."""

RETRY_S = 1.0
"""Seconds between a failed write and the next attempt."""

LOCK_WAIT_S = 0.5
"""Seconds to wait for the lock; `is_being_written` in another process may hold it briefly."""

IDLE_S = 600.0
"""Seconds without a change after which a writer on another machine counts as dead."""

KEPT_BYTES = 64 * 2**20
"""Maximum number of bytes to buffer in memory while writes fail."""

Job = Callable[[], Iterable[Record]]


class JournalInUseError(RuntimeError):
    """Raised if another process is writing the journal."""


class JournalWriter:
    """Appends records to a journal in a background thread.

    The writer locks the file while it is open, so other processes can check whether this process is
    alive. When the writer opens the file, it removes an incomplete last line. If the disk is full,
    training continues: the writer logs one warning, buffers up to 64 MiB of records in memory, and
    retries.

    Args:
        path: the path of the journal; missing folders are created.

    Raises:
        JournalInUseError: if another process is writing the journal.
        OSError: if the path is a symbolic link, or the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.n_lost = 0
        """Number of lost records: the disk and the memory buffer were full, or a job failed."""
        self._file = _JournalFile(path)
        self._has_told = False
        self._jobs: deque[Job | threading.Event] = deque()
        self._wake, self._is_closing = threading.Event(), False
        self._thread = threading.Thread(target=self._work, name="nntrain journal", daemon=True)
        self._thread.start()

    def write(self, *records: Record) -> None:
        """Appends records, in order."""
        self._jobs.append(lambda: records)

    def write_later(self, *jobs: Job) -> None:
        """Appends the records that functions return. The writer's thread calls the functions."""
        self._jobs.extend(jobs)

    def flush(self) -> None:
        """Requests a flush of the file to disk and returns immediately."""
        self._jobs.append(threading.Event())

    def wait(self, timeout_s: float | None = None) -> bool:
        """Waits until all earlier records are on disk; returns False on failure or timeout."""
        flushed = threading.Event()
        self._jobs.append(flushed)
        self._wake.set()
        return flushed.wait(timeout_s) and not self._file.waiting

    def close(self) -> None:
        """Writes the remaining records and closes the file."""
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
            # Poll: waking this thread for each group would cost training a thread switch.
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
                self.n_lost += not self._file.add(encode(safe(record)))
        except Exception as err:  # noqa: BLE001 - a device error must not lose later records
            self.n_lost += 1
            self._tell(err)

    def _tell(self, err: Exception) -> None:
        if not self._has_told:
            self._has_told = True
            _LOG.warning(
                "%s: a record was lost because of an error (%s: %s).",
                self.path,
                type(err).__name__,
                err,
            )

    def _finish(self) -> None:
        self._file.flush()
        self.n_lost += self._file.close()
        if self.n_lost:
            _LOG.warning(
                "%s: %d records could not be written and were lost.", self.path, self.n_lost
            )


class _JournalFile:
    """The journal file, and the lines that are waiting to be written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = open_below(path.parent, path.name, os.O_RDWR | os.O_CREAT)
        self._lock()
        self._end = cut_torn_line(self._fd)
        self.waiting: list[bytes] = []
        self._n_waiting = 0
        self._said = False
        self._due_s = 0.0

    def _lock(self) -> None:
        if not lock(self._fd, timeout_s=LOCK_WAIT_S):
            os.close(self._fd)
            raise JournalInUseError(
                f"{self._path} is being written by another process: choose another folder."
            )

    def add(self, line: bytes) -> bool:
        """Adds a line to the buffer; returns False if the buffer is full."""
        if self._n_waiting + len(line) > KEPT_BYTES:
            return False
        self.waiting.append(line)
        self._n_waiting += len(line)
        return True

    def write(self) -> None:
        """Writes the waiting lines; if the disk is full, removes partially written lines."""
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
                "%s cannot be written (%s): training continues, and records stay in memory.",
                self._path,
                os.strerror(err.errno) if err.errno else err,
            )

    def flush(self) -> None:
        """Writes the waiting lines and flushes the file to disk."""
        self._due_s = 0.0
        self.write()
        try:
            os.fsync(self._fd)
        except OSError as err:
            if err.errno != errno.EINVAL:  # EINVAL: a file system without fsync
                self._say(err)

    def close(self) -> int:
        """Closes the file; returns the number of unwritten records."""
        os.close(self._fd)
        return len(self.waiting)


def _write_all(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        n = os.pwrite(fd, view, offset)
        view, offset = view[n:], offset + n


def is_being_written(path: Path) -> bool:
    """Returns whether a running process has the journal open for writing.

    On a file system without locks, the answer depends on the process that the journal names: it is
    alive, or it runs on another machine and the journal has changed in the last 10 minutes.
    """
    with open(path, "rb") as file:
        if not has_locks(file.fileno()):
            return _writer_is_alive(path)
        # a shared lock, so that concurrent calls do not block each other
        return not lock(file.fileno(), shared=True)


def _writer_is_alive(path: Path) -> bool:
    process: Mapping[str, Any] | None = None
    for line in lines(path):
        match line.record:
            case {"kind": "start", "run": {"process": dict(started)}}:
                process = started
            case {"kind": "end" | "continued"}:
                process = None
    if process is None:
        return False
    if process.get("host") != platform.node():
        return time.time() - path.stat().st_mtime < IDLE_S
    return _exists(process.get("pid"))


def _exists(pid: object) -> bool:
    if not isinstance(pid, int) or not 0 < pid < 2**31:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # a process of another user
        return True
    return True


def append_if_free(path: Path, records: Iterable[Record]) -> bool:
    """Appends records unless another process is writing the journal; returns True if appended."""
    try:
        with JournalWriter(path) as writer:
            writer.write(*records)
    except JournalInUseError:
        return False
    return True
