"""Temporary files that become the final file in one step, and their removal after a crash."""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_PREFIX, _SUFFIX = ".nntrain-", ".part"
_OURS = re.compile(r"\.nntrain-[a-z0-9_]{8}(\.previous)?\.part")
_OURS_IN_0_1_0 = re.compile(r"\.(last\.ckpt|best\.pt)\.[a-z0-9_]{8}\.part|\.previous\.ckpt\.part")
_IDLE_S = 3600.0


@contextmanager
def partial_file(folder: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """Context manager that creates a temporary file, and removes it unless it was renamed.

    The process holds a lock on the file, which ends with the process. `remove_partial` therefore
    recognizes the files of killed processes.

    Args:
        folder: the folder of the final file.

    Yields:
        The open file, and its path.
    """
    fd, name = tempfile.mkstemp(dir=folder, prefix=_PREFIX, suffix=_SUFFIX)
    path = Path(name)
    try:
        with os.fdopen(fd, "wb") as file:
            with suppress(OSError):  # some file systems do not support locks
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield file, path
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def keep_previous(path: Path, previous: Path, partial: Path) -> None:
    """Keeps a file under a second name; does nothing without the file or without hard links.

    Args:
        path: the file. It always exists, because it is linked instead of renamed.
        previous: its second name; an older file of this name is replaced.
        partial: the temporary file that will replace `path`.
    """
    link = partial.with_suffix(f".previous{_SUFFIX}")
    try:
        with suppress(OSError):
            os.link(path, link)
            os.replace(link, previous)
    finally:
        link.unlink(missing_ok=True)  # `replace` keeps it if `previous` is already the same file


def sync_folder(folder: Path) -> None:
    """Flushes the names of the files in a folder to the disk, if the file system supports it."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(fd)
    finally:
        os.close(fd)


def remove_partial(folder: str | Path) -> None:
    """Removes the temporary files left behind in a folder by processes that no longer run.

    Files with other names, and files whose process is still writing, are not changed. Where the
    file system does not support locks, a file is removed once it has not changed for an hour.
    """
    for path in Path(folder).glob(f".*{_SUFFIX}"):
        if _is_abandoned(path):
            with suppress(OSError):
                path.unlink(missing_ok=True)


def _is_abandoned(path: Path) -> bool:
    if _OURS.fullmatch(path.name):
        return _is_unlocked(path)
    return bool(_OURS_IN_0_1_0.fullmatch(path.name)) and _is_idle(path)


def _is_unlocked(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return _is_idle(path)
    finally:
        os.close(fd)
    return True


def _is_idle(path: Path) -> bool:
    with suppress(OSError):
        return time.time() - path.lstat().st_mtime > _IDLE_S
    return False
