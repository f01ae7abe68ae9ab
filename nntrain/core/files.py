"""Files that several processes share: locks, torn lines, and links."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from pathlib import Path

POLL_S = 0.02
"""Seconds between two attempts to take a lock."""

_BLOCK = 65536


def lock(fd: int, *, shared: bool = False, timeout_s: float | None = 0.0) -> bool:
    """Locks an open file for this process, until the file is closed or the process dies.

    Args:
        fd: the file descriptor.
        shared: whether others may hold a shared lock at the same time.
        timeout_s: seconds to wait for the lock; `None` waits until it is free.

    Returns whether the lock was taken.
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
    """Removes a last line without a line end, left by a process that died.

    Returns the size of the file in bytes.
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
    """Links a file to a second name, or copies it if the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
