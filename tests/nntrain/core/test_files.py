"""Locks between processes, also on a file system that has none."""

import errno
import fcntl
import logging
import os
from pathlib import Path

import pytest

from nntrain.core import files
from nntrain.core.files import has_locks, lock

WITHOUT_LOCKS = [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP]


@pytest.fixture
def fd(tmp_path: Path) -> int:
    return os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)


def test_a_second_lock_is_not_acquired(tmp_path: Path, fd: int) -> None:
    other = os.open(tmp_path / "lock", os.O_RDWR)
    assert lock(fd)
    assert not lock(other)
    assert has_locks(other)
    os.close(fd)
    assert lock(other)


@pytest.mark.parametrize("code", WITHOUT_LOCKS, ids=errno.errorcode.__getitem__)
@pytest.mark.parametrize("timeout_s", [0.0, None])
def test_without_locks_the_program_goes_on_with_one_warning(
    fd: int,
    code: int,
    timeout_s: float | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(fd: int, kind: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    files._warn_of_missing_locks.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert [lock(fd, timeout_s=timeout_s), lock(fd, shared=True)] == [True, True]
    assert not has_locks(fd)
    assert len(caplog.records) == 1
    assert "files cannot be locked on this file system" in caplog.text


def test_other_errors_of_a_lock_are_raised(fd: int) -> None:
    os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        lock(fd)
