"""Writes files below a folder whose content may come from somebody else.

No symbolic link below the folder is followed, so nothing outside the folder changes. The folder
itself, which the user has named, may be a link.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MAX_BYTES = 255
"""Maximum bytes in the name of a file; the limit of most file systems."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def check_part(name: str) -> None:
    """Checks that a name can be used for a file or folder inside another folder.

    Raises:
        ValueError: if the name would lead elsewhere, or cannot be the name of a file.
    """
    if name in ("", ".", "..") or "/" in name or "\0" in name or not _fits(name):
        raise ValueError(
            f"{name!r} cannot be the name of a file: expected a name without slashes of at most "
            f"{MAX_BYTES} bytes."
        )


def _fits(name: str) -> bool:
    try:
        return len(name.encode()) <= MAX_BYTES
    except UnicodeEncodeError:
        return False


def open_below(folder: Path, place: str, flags: int) -> int:
    """Opens a regular file below a folder, and returns its descriptor.

    Args:
        folder: the folder.
        place: the path of the file below the folder, such as `delivery/lock`; with `os.O_CREAT`,
            missing folders are created.
        flags: flags of `os.open`.

    Raises:
        ValueError: if a part of `place` cannot be the name of a file.
        OSError: if the file, or a folder above it, is a symbolic link, or if the path names
            anything other than a regular file.
    """
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    make = bool(flags & os.O_CREAT)
    with _parent(folder, place, make=make) as (above, name), _saying(folder / place):
        fd = os.open(name, flags, 0o666, dir_fd=above)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(f"{folder / place} is not a regular file: remove it.")
    return fd


def create_below(folder: Path, place: str) -> int:
    """Creates a new file below a folder for writing, and returns its descriptor.

    Raises:
        FileExistsError: if the file, or a link with this name, exists.
        ValueError: if a part of `place` cannot be the name of a file.
        OSError: if a folder above the file is a symbolic link, or the file cannot be created.
    """
    return open_below(folder, place, os.O_WRONLY | os.O_CREAT | os.O_EXCL)


def replace_below(folder: Path, place: str, data: Iterable[bytes], *, sync: bool = False) -> None:
    """Writes a file below a folder atomically; a reader finds the old or the new file.

    Args:
        folder: the folder.
        place: the path of the file below the folder; missing folders are created.
        data: the parts of the new content.
        sync: whether to wait until the content is on the disk.

    Raises:
        ValueError: if a part of `place` cannot be the name of a file.
        OSError: if a folder above the file is a symbolic link, or the file cannot be written.
    """
    with _parent(folder, place, make=True) as (above, name):
        part = f"{Path(name).stem}.part"
        with _saying((folder / place).with_name(part)):
            with suppress(FileNotFoundError):
                os.unlink(part, dir_fd=above)  # of a killed process
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(part, flags, 0o666, dir_fd=above)
        with open(fd, "wb") as file:
            file.writelines(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        with _saying(folder / place):
            os.replace(part, name, src_dir_fd=above, dst_dir_fd=above)


def link_below(source: Path, folder: Path, place: str) -> bool:
    """Creates a hard link to a file below a folder; returns whether the file system could."""
    with _parent(folder, place, make=True) as (above, name):
        try:
            os.link(source, name, dst_dir_fd=above)
        except OSError:
            return False
    return True


def make_below(folder: Path, place: str) -> None:
    """Creates a folder below a folder, unless it exists.

    Raises:
        ValueError: if a part of `place` cannot be the name of a folder.
        OSError: if the folder, or one above it, is a symbolic link, or cannot be created.
    """
    with _parent(folder, f"{place}/.keep", make=True):
        pass


@contextmanager
def _parent(folder: Path, place: str, *, make: bool) -> Iterator[tuple[int, str]]:
    """Yields the descriptor of the folder that contains a file, and the file's name."""
    parts = place.split("/")
    for part in parts:
        check_part(part)
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for i, part in enumerate(parts[:-1], start=1):
            if make:
                with suppress(FileExistsError):
                    os.mkdir(part, dir_fd=fd)
            with _saying(Path(folder, *parts[:i])):
                below = os.open(part, _FOLDER, dir_fd=fd)
            os.close(fd)
            fd = below
        yield fd, parts[-1]
    finally:
        os.close(fd)


@contextmanager
def _saying(path: Path) -> Iterator[None]:
    """Explains the error of a symbolic link or a folder in one sentence, and adds the path."""
    try:
        yield
    except OSError as err:
        if err.errno in (errno.ELOOP, errno.ENOTDIR) and path.is_symlink():
            raise OSError(
                f"{path} is a symbolic link, which nntrain does not follow when it writes: "
                "remove the link."
            ) from err
        if err.errno in (errno.ENXIO, errno.EISDIR):
            raise OSError(f"{path} is not a regular file: remove it.") from err
        if err.errno == errno.ENOTDIR:
            raise OSError(f"{path} is not a folder: remove it.") from err
        raise OSError(err.errno, err.strerror, str(path)) from err
