"""The storage of a study: a file in the study's folder, a database, or Optuna's gRPC proxy."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, GrpcStorageProxy, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from nntrain.config.hints import first_line
from nntrain.config.redact import REDACTED, Redactor, learn, redact_text
from nntrain.core.files import cut_torn_line, lock
from nntrain.sweeps.errors import SweepError
from nntrain.sweeps.study.attributes import SafeAttributes, check_choices
from nntrain.sweeps.study.replay import TolerantReplay, entries


def _rpc_errors() -> tuple[type[Exception], ...]:
    try:
        import grpc
    except ImportError:  # only Optuna's gRPC proxy needs this module
        return ()
    return (grpc.RpcError,)


STUDY_FILE = "study.jsonl"
"""The default name of the study file, which is an Optuna journal."""

STORAGE_ERRORS: tuple[type[Exception], ...] = (StorageInternalError, *_rpc_errors())
"""The exceptions that are raised if a storage does not respond."""

_GRPC_PORT = 13000
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql", "oracle", "mariadb")


class _Database(SafeAttributes, RDBStorage):
    """A database, which contains no secrets."""

    def _set_trial_param(self, *args: Any, **kwargs: Any) -> None:
        check_choices(*args, **kwargs)
        super()._set_trial_param(*args, **kwargs)


class _Proxy(SafeAttributes, GrpcStorageProxy):
    """A proxy, to which no secrets are sent."""


class _File(SafeAttributes, JournalStorage):
    """A study file, which contains no secrets; damaged lines are ignored.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        super().__init__(StudyFile(path))

    def _sync_with_backend(self) -> None:
        if not isinstance(self._replay_result, TolerantReplay):
            self._replay_result = TolerantReplay(self._worker_id_prefix, self._path)
        super()._sync_with_backend()


def open_storage(url: str | None, folder: Path) -> BaseStorage:
    """Opens or creates the storage of a study.

    Args:
        url: an SQLAlchemy database URL, or `grpc://HOST:PORT` for Optuna's proxy; `None` uses the
            file `STUDY_FILE` in the folder.
        folder: the study's folder.

    Raises:
        SweepError: if the URL is invalid or the storage does not respond.
    """
    if url is None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return _file_storage(folder / STUDY_FILE)
        except OSError as err:
            raise SweepError(
                f"cannot use {folder} as the study's folder ({err.strerror}): choose another "
                "hydra.sweep.dir."
            ) from err
    learn(Redactor(config={"storage": url}))
    scheme = urlsplit(url).scheme.split("+")[0]
    if scheme == "grpc":
        return _proxy(url)
    if scheme not in _DATABASES:
        known = ", ".join(f"{name}://" for name in ("grpc", *_DATABASES))
        raise SweepError(
            f"hydra.sweeper.storage={without_password(url)} must be null or a URL that begins with "
            f"one of {known}."
        )
    return _database(url)


def lost_storage(url: str | None, err: Exception) -> SweepError:
    """Returns the error for a storage that stopped responding during a sweep."""
    what = "The study file" if url is None else f"hydra.sweeper.storage={without_password(url)}"
    return SweepError(
        f"{what} stopped responding: {_reason(err)}. Run the same command again when the storage "
        "responds."
    )


def without_password(url: str) -> str:
    """Returns a URL with the password replaced by `***`."""
    scheme, sign, rest = url.partition("://")
    login, at, place = rest.rpartition("@")
    user, colon, _ = login.partition(":")
    if not at or not colon or "/" in user:
        return redact_text(url)
    return f"{scheme}{sign}{user}:{REDACTED}@{redact_text(place)}"


def _reason(err: Exception) -> str:
    """Returns the first line of the database driver's error message."""
    cause = err.__cause__ or err
    return redact_text(first_line(getattr(cause, "orig", None) or cause))


# --- a database


def _database(url: str) -> RDBStorage:
    try:
        if (path := _sqlite_path(url)) is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        return _Database(url, engine_kwargs=_engine(url))
    except ImportError as err:
        module = getattr(err.__cause__, "name", None) or err.name
        raise SweepError(
            f"hydra.sweeper.storage={without_password(url)} needs the module {module}: install it "
            "with pip."
        ) from err
    except Exception as err:
        raise SweepError(
            f"hydra.sweeper.storage={without_password(url)} cannot be reached: {_reason(err)}"
        ) from err


def _engine(url: str) -> dict[str, object]:
    """Returns engine settings that let a trial survive a restart of the database."""
    waits = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
    return {"pool_pre_ping": True, **waits}


def _sqlite_path(url: str) -> Path | None:
    return Path(url.partition(":///")[2]) if url.startswith("sqlite") and ":///" in url else None


def _proxy(url: str) -> GrpcStorageProxy:
    try:
        import grpc
    except ImportError as err:
        raise SweepError(
            f"hydra.sweeper.storage={url} needs the module grpc: pip install grpcio protobuf."
        ) from err
    parts = urlsplit(url)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        proxy = _Proxy(host=parts.hostname or "localhost", port=parts.port or _GRPC_PORT)
    try:
        proxy.wait_server_ready(timeout=10)
    except (OSError, grpc.FutureTimeoutError) as err:  # OSError: Optuna 5 raises a ConnectionError
        raise SweepError(
            f"hydra.sweeper.storage={url} cannot be reached: start the proxy with "
            "optuna.storages.run_grpc_proxy_server."
        ) from err
    return proxy


# --- the file


def _file_storage(path: Path) -> JournalStorage:
    with FileLock(path).held():  # locking removes an incomplete last line
        pass
    return _File(path)


SET_TRIAL_STATE = 6
"""The operation code in Optuna's journal for a change of a trial's state."""


class StudyFile(JournalFileBackend):
    """An Optuna journal file that calls `fsync` only when the state of a trial changes.

    If a process is killed, no data is lost, because the operating system still writes the buffered
    data to disk. A power failure loses at most the reports of running trials. These trials must run
    again in any case.
    """

    def __init__(self, path: Path) -> None:
        self._study_lock, self._path = FileLock(path), path
        # cast, because Optuna does not export the base class of locks
        super().__init__(str(path), lock_obj=cast(Any, self._study_lock))

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """Yields the log entries, starting with the given line number."""
        offsets, number = (
            self._log_number_offset,
            max(known for known in self._log_number_offset if known <= log_number_from),
        )
        with open(self._path, "rb") as file:
            size = os.fstat(file.fileno()).st_size - file.seek(offsets[number])
            for entry, length in entries(file, size):
                offsets[number + 1] = offsets[number] + length
                number += 1
                if number > log_number_from:
                    yield entry

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Appends one line for each log entry."""
        lines = "".join(f"{json.dumps(log, separators=(',', ':'))}\n" for log in logs).encode()
        with self._study_lock.held(), open(self._path, "ab") as file:
            file.write(lines)
            file.flush()
            if any(log["op_code"] == SET_TRIAL_STATE for log in logs):
                os.fsync(file.fileno())


class FileLock:
    """A write lock on a study file; the operating system releases the lock if the process dies.

    Optuna's own lock is a separate lock file. If a process dies, its lock file remains and blocks
    all other processes for 30 s.

    `acquire` also removes an incomplete last line. Otherwise Optuna would append to that line and
    could never read the study again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None

    def acquire(self) -> bool:
        """Waits for the lock, then removes an incomplete last line from the file."""
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        lock(fd, timeout_s=None)
        # assign `_fd` after locking: the thread that holds the lock needs the old value to unlock
        self._fd = fd
        cut_torn_line(fd)
        return True

    def release(self) -> None:
        """Releases the lock."""
        assert self._fd is not None
        fd, self._fd = self._fd, None
        os.close(fd)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Holds the lock for the duration of a `with` block."""
        self.acquire()
        try:
            yield
        finally:
            self.release()


@contextmanager
def claiming(folder: Path) -> Iterator[None]:
    """Locks the study's folder, so that only one process on this machine adds a trial at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".claim", "ab") as file:
        lock(file.fileno(), timeout_s=None)
        yield
