"""Helpers for files that several processes share."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from pathlib import Path

POLL_S = 0.02
"""Time between two attempts to acquire a lock, in seconds."""

_BLOCK = 65536


def lock(fd: int, *, shared: bool = False, timeout_s: float | None = 0.0) -> bool:
    """Acquires a lock on an open file. Closing the file releases the lock.

    Args:
        fd: the file descriptor.
        shared: acquire a shared lock instead of an exclusive lock.
        timeout_s: maximum time to wait for the lock, in seconds; `None` waits indefinitely.

    Returns:
        Whether the lock was acquired.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    if timeout_s is None:
        fcntl.flock(fd, kind)
        return True
    deadline = time.monotonic() + timeout_s
    while not _try_lock(fd, kind):
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_S)
    return True


def _try_lock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def cut_torn_line(fd: int) -> int:
    """Removes an incomplete last line, which a killed process may have left behind.

    Returns:
        The size of the file in bytes.
    """
    size = os.fstat(fd).st_size
    end = size
    while end > 0:
        start = max(0, end - _BLOCK)
        found = os.pread(fd, end - start, start).rfind(b"\n")
        if found >= 0:
            end = start + found + 1
            break
        end = start
    if end < size:
        os.ftruncate(fd, end)
    return end


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """Creates a hard link to a file, or a copy if the file system does not support hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
