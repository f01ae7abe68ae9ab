"""Helpers for files that several processes share."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import time
from functools import cache
from pathlib import Path

POLL_S = 0.02
"""Time between two attempts to acquire a lock, in seconds."""

_WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)
"""The errors of `flock` on a file system without locks."""

_BLOCK = 65536

_LOG = logging.getLogger("nntrain")


def lock(fd: int, *, shared: bool = False, timeout_s: float | None = 0.0) -> bool:
    """Acquires a lock on an open file. Closing the file releases the lock.

    Some network file systems have no locks. There, the lock counts as acquired, and one warning is
    logged: the user must not let two processes write to the same folder.

    Args:
        fd: the file descriptor.
        shared: acquire a shared lock instead of an exclusive lock.
        timeout_s: maximum time to wait for the lock, in seconds; `None` waits indefinitely.

    Returns:
        Whether the lock was acquired.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    if timeout_s is None:
        return _try_lock(fd, kind)
    deadline = time.monotonic() + timeout_s
    while not _try_lock(fd, kind | fcntl.LOCK_NB):
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_S)
    return True


def _try_lock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind)
    except BlockingIOError:
        return False
    except OSError as err:
        if err.errno not in _WITHOUT_LOCKS:
            raise
        _warn_of_missing_locks(os.strerror(err.errno))
    return True


def has_locks(fd: int) -> bool:
    """Returns whether the file system of an open file has locks; may acquire a shared lock."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as err:
        return err.errno not in _WITHOUT_LOCKS
    return True


@cache
def _warn_of_missing_locks(reason: str) -> None:
    _LOG.warning(
        "files cannot be locked on this file system (%s): do not let two processes write to the "
        "same folder.",
        reason,
    )


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
