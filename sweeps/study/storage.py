"""Where a study is kept: one file in its folder, a database, or a process that stands before one."""

from __future__ import annotations

import fcntl
import json
import os
import warnings
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, GrpcStorageProxy, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from nntrain.sweeps.errors import SweepError

if TYPE_CHECKING:
    from collections.abc import Callable

    from optuna import Study
    from optuna.trial import FrozenTrial


def _rpc_errors() -> tuple[type[Exception], ...]:
    try:
        import grpc
    except ImportError:  # it comes with Optuna's proxy only
        return ()
    return (grpc.RpcError,)


STUDY_FILE = "study.jsonl"
"""The file that a study is kept in, if nothing else is asked for: Optuna's own journal."""

HEARTBEAT_S = 10
"""Seconds between two signs of life of a trial, where the storage takes them."""

GRACE_S = 60
"""Seconds without such a sign after which a trial counts as lost."""

STORAGE_ERRORS: tuple[type[Exception], ...] = (StorageInternalError, *_rpc_errors())
"""What a storage raises that does not answer."""

_GRPC_PORT = 13000
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql", "oracle", "mariadb")


def open_storage(
    url: str | None, folder: Path, on_stale: Callable[[Study, FrozenTrial], None] | None = None
) -> BaseStorage:
    """Opens the storage of a study, and makes it if there is none.

    Args:
        url: of a database that SQLAlchemy knows, or `grpc://HOST:PORT` of Optuna's proxy; `None` means the file `STUDY_FILE`.
        folder: the study's folder.
        on_stale: called for a trial without a sign of life, after it has been set to FAIL, where the storage takes such signs.

    Raises:
        SweepError: if the URL is none, or nothing answers there.
    """
    if url is None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return _file_storage(folder / STUDY_FILE)
        except OSError as err:
            raise SweepError(
                f"the study's folder {folder} cannot be used ({err.strerror}): give another hydra.sweep.dir."
            ) from err
    scheme = urlsplit(url).scheme.split("+")[0]
    if scheme == "grpc":
        return _proxy(url)
    if scheme not in _DATABASES:
        known = ", ".join(f"{name}://" for name in ("grpc", *_DATABASES))
        shown = without_password(url)
        raise SweepError(
            f"hydra.sweeper.storage={shown} is no storage: give a URL that begins with one of {known}, or null."
        )
    return _database(url, on_stale)


def lost_storage(url: str | None, err: Exception) -> SweepError:
    """What is told of a storage that has stopped answering while a sweep ran."""
    what = "The study's file" if url is None else f"storage={without_password(url)}"
    return SweepError(
        f"{what} does not answer any more: {_first_line(err)}. Go on with the same command when it does."
    )


def without_password(url: str) -> str:
    """The URL without what must not be shown."""
    parts = urlsplit(url)
    return url if parts.password is None else url.replace(f":{parts.password}@", ":***@")


def _database(url: str, on_stale: Callable[[Study, FrozenTrial], None] | None) -> RDBStorage:
    try:
        if (path := _sqlite_path(url)) is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # of the heartbeats
            return RDBStorage(
                url,
                engine_kwargs=_engine(url),
                heartbeat_interval=HEARTBEAT_S,
                grace_period=GRACE_S,
                heartbeat_stale_trial_callback=on_stale,
            )
    except ImportError as err:
        module = getattr(err.__cause__, "name", None) or err.name
        raise SweepError(
            f"hydra.sweeper.storage={without_password(url)} needs the module {module}: pip install it."
        ) from err
    except Exception as err:
        raise SweepError(
            f"hydra.sweeper.storage={without_password(url)} cannot be reached: {_first_line(err)}"
        ) from err


def _engine(url: str) -> dict[str, object]:
    """A connection is looked at before it is used, since a database may have been restarted while a trial ran."""
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
        proxy = GrpcStorageProxy(host=parts.hostname or "localhost", port=parts.port or _GRPC_PORT)
    try:
        proxy.wait_server_ready(timeout=10)
    except (OSError, grpc.FutureTimeoutError) as err:  # Optuna 5 raises a ConnectionError
        raise SweepError(
            f"hydra.sweeper.storage={url} cannot be reached: start it with optuna.storages.run_grpc_proxy_server."
        ) from err
    return proxy


def _first_line(err: BaseException) -> str:
    cause = err.__cause__ or err
    return str(getattr(cause, "orig", None) or cause).strip().splitlines()[0]


def _file_storage(path: Path) -> JournalStorage:
    with (
        FileLock(path).held()
    ):  # a line that a dead process has left half-written would stop the study from being read
        pass
    return JournalStorage(StudyFile(path))


SET_TRIAL_STATE = 6
"""How Optuna's journal marks a line that changes a trial's state."""


class StudyFile(JournalFileBackend):
    """Optuna's journal in a file, which waits for the disk when a trial's state changes, and not at each report.

    The system keeps what a process has written before it was killed. Reports that go with the machine's power belong to a
    trial that runs again.
    """

    def __init__(self, path: Path) -> None:
        self._study_lock, self._path = FileLock(path), path
        super().__init__(
            str(path), lock_obj=cast(Any, self._study_lock)
        )  # Optuna does not export the lock's base class

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """Reads the lines from a number on.

        Raises:
            SweepError: if one of them is damaged.
        """
        try:
            yield from super().read_logs(log_number_from)
        except json.JSONDecodeError as err:
            raise SweepError(
                f"{self._path} is damaged: move it away, or give another hydra.sweeper.study_name."
            ) from err

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Appends a line for each entry."""
        lines = "".join(f"{json.dumps(log, separators=(',', ':'))}\n" for log in logs).encode()
        with self._study_lock.held(), open(self._path, "ab") as file:
            file.write(lines)
            file.flush()
            if any(log["op_code"] == SET_TRIAL_STATE for log in logs):
                os.fsync(file.fileno())


class FileLock:
    """Keeps others from writing a study's file, by a lock of the system's, which a process that dies lets go of.

    Optuna's own lock is a second file, which stays behind with a dead process and holds up all others for 30 s. Who gets
    this lock cuts off a line at the end that a dead process has not finished, since Optuna would append to it, and then
    never read the study again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None

    def acquire(self) -> bool:
        """Waits for the lock."""
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(fd, fcntl.LOCK_EX)
        self._fd = fd  # only now: until here it is that of another thread, which has the lock
        _cut_torn_line(fd)
        return True

    def release(self) -> None:
        """Lets go of it."""
        assert self._fd is not None
        fd, self._fd = self._fd, None
        os.close(fd)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Holds the lock."""
        self.acquire()
        try:
            yield
        finally:
            self.release()


_BLOCK = 1 << 16


def _cut_torn_line(fd: int) -> None:
    size = end = os.fstat(fd).st_size
    if size == 0 or os.pread(fd, 1, size - 1) == b"\n":
        return
    while end > 0:
        start = max(0, end - _BLOCK)
        at = os.pread(fd, end - start, start).rfind(b"\n")
        if at >= 0:
            end = start + at + 1
            break
        end = start
    os.ftruncate(fd, end)


@contextmanager
def claiming(folder: Path) -> Iterator[None]:
    """Lets one process of this machine at a time look how many trials there are and add one."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".claim", "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
