"""Creates the SQLite databases of MLflow whole or not at all.

MLflow creates a database in about 50 steps, which take seconds. A process that is killed between
two steps leaves a database that MLflow can neither use nor repair.
"""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

import sqlalchemy
from mlflow.store.db import utils
from mlflow.store.db.base_sql_model import Base
from mlflow.store.tracking.dbmodels.initial_models import Base as InitialBase

BUSY_TIMEOUT_S = 20.0
"""Seconds to wait for another process that is writing to the database."""

SETTLE_S = 5.0
"""Seconds without a change after which an incomplete database counts as abandoned."""

_POLL_S = 0.5
_CREATING = threading.Lock()  # MLflow's migrations run in one thread at a time


class DamagedDatabaseError(RuntimeError):
    """Raised for a database that MLflow cannot use; the message says what to do."""


class _State(Enum):
    EMPTY = auto()
    WHOLE = auto()
    TORN = auto()
    FOREIGN = auto()
    """Contains only tables of another program."""


@dataclass(frozen=True)
class _Content:
    """What was found in a database."""

    tables: frozenset[str]
    revision: str | None
    n_experiment: int
    n_run: int

    @property
    def missing(self) -> frozenset[str]:
        """MLflow's tables that are missing."""
        return frozenset(Base.metadata.tables) - self.tables


def prepare_database(path: Path) -> Path | None:
    """Creates the tables of a database that has none.

    A database that was left incomplete, and therefore contains no runs, is moved aside.

    Args:
        path: the file of the database; missing folders are created.

    Returns:
        The file to which an incomplete database was moved; `None` if there was none.

    Raises:
        DamagedDatabaseError: if the database contains data that this MLflow cannot use.
        OSError: if the file cannot be created, read or written.
    """
    path = Path(os.path.realpath(path))
    if not path.exists():
        _create(path)
        return None
    if not os.access(path, os.R_OK | os.W_OK):  # SQLite's own error does not name the file
        raise PermissionError(errno.EACCES, "no permission to read and write", str(path))
    content, state = _look(path)
    if state is _State.TORN:
        state = _settled(path, content)
    if state is _State.EMPTY:
        _fill(path)
    if state is not _State.TORN:
        return None
    aside = _move_aside(path)
    _create(path)
    return aside


# --- creating


def _create(path: Path) -> None:
    """Creates the database under another name, and links it to its own name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _folder_beside(path) as folder:
        _fill(new := folder / path.name)
        _sync(new)
        _place(new, path)
    _sync(path.parent)


@contextmanager
def _folder_beside(path: Path) -> Iterator[Path]:
    """Yields a temporary folder; removes those that killed processes have left behind."""
    prefix = f".{path.name}.new-"
    for old in path.parent.glob(f"{_literal(prefix)}*"):
        if old.lstat().st_uid == os.getuid():
            shutil.rmtree(old, ignore_errors=True)
    with tempfile.TemporaryDirectory(
        prefix=prefix, dir=path.parent, ignore_cleanup_errors=True
    ) as folder:
        yield Path(folder)


def _literal(name: str) -> str:
    return "".join(f"[{char}]" if char in "*?[" else char for char in name)


def _place(new: Path, path: Path) -> None:
    """Gives the new database its name, unless another process was faster."""
    try:
        os.link(new, path)
    except FileExistsError:
        return
    except OSError:  # the file system has no hard links
        if not path.exists():
            os.rename(new, path)


def _fill(path: Path) -> None:
    """Writes MLflow's tables to a database in one transaction."""
    engine = sqlalchemy.create_engine(
        "sqlite://",
        poolclass=sqlalchemy.StaticPool,
        connect_args={"check_same_thread": False},
    )
    with _CREATING:
        utils._initialize_tables(engine)  # type: ignore[no-untyped-call]
    connection = engine.raw_connection()
    with closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_S)) as target:
        source: sqlite3.Connection = connection.driver_connection  # type: ignore[assignment]
        source.backup(target)
    connection.close()
    engine.dispose()


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# --- looking


def _look(path: Path) -> tuple[_Content, _State]:
    try:
        content = _read(path)
    except sqlite3.DatabaseError as err:
        if isinstance(err, sqlite3.OperationalError):
            raise  # locked, or not accessible: may work later
        raise DamagedDatabaseError(
            f"the MLflow database {path} is damaged ({err}): {_remedy(path)}."
        ) from err
    return content, _state(path, content)


def _read(path: Path) -> _Content:
    uri = f"{path.as_uri()}?mode=rw"
    with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S)) as database:
        query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        tables = frozenset(name for (name,) in database.execute(query))

        def first(query: str, table: str) -> object:
            row = database.execute(query).fetchone() if table in tables else None
            return row[0] if row else None

        revision = first("SELECT version_num FROM alembic_version", "alembic_version")
        n_experiment = first("SELECT count(*) FROM experiments", "experiments")
        n_run = first("SELECT count(*) FROM runs", "runs")
        return _Content(
            tables,
            None if revision is None else str(revision),
            int(str(n_experiment or 0)),
            int(str(n_run or 0)),
        )


def _state(path: Path, content: _Content) -> _State:
    """Returns the state of a database.

    MLflow creates the first experiment as soon as all tables exist. A database without experiments
    has therefore never been used.
    """
    is_current = content.revision == utils._get_latest_schema_revision()  # type: ignore[no-untyped-call]
    if is_current and not content.missing:
        return _State.WHOLE
    if all(map(_is_of_alembic, content.tables)):
        return _State.EMPTY
    if not any(map(_is_of_mlflow, content.tables)):
        return _State.FOREIGN
    if content.n_experiment or content.n_run or not all(map(_is_known, content.tables)):
        raise DamagedDatabaseError(_unusable(path, content, is_current=is_current))
    return _State.TORN


def _is_of_alembic(table: str) -> bool:
    return table.startswith(("alembic_", "_alembic_"))


def _is_of_mlflow(table: str) -> bool:
    return table in Base.metadata.tables or table in InitialBase.metadata.tables


def _is_known(table: str) -> bool:
    return _is_of_alembic(table) or _is_of_mlflow(table)


def _unusable(path: Path, content: _Content, *, is_current: bool) -> str:
    if content.revision is None or is_current:
        what = f"MLflow's table {min(content.missing)}" if content.missing else "MLflow's version"
        return f"the MLflow database {path} is damaged ({what} is missing): {_remedy(path)}."
    return (
        f"the MLflow database {path} was created by another version of MLflow (its schema is "
        f"{content.revision}): make a copy of it and run 'mlflow db upgrade "
        f"{shlex.quote(f'sqlite:///{path}')}', or use the newer MLflow that created it."
    )


def _remedy(path: Path) -> str:
    move = f"mv {shlex.quote(str(path))} {shlex.quote(f'{path}.damaged')}"
    return f"restore a backup, or move it away with '{move}', then run python -m nntrain.sync"


# --- moving aside


def _settled(path: Path, content: _Content) -> _State:
    """Waits while another process, such as `mlflow ui`, is creating the tables."""
    state = _State.TORN
    deadline = time.monotonic() + SETTLE_S
    while state is _State.TORN and time.monotonic() < deadline:
        time.sleep(_POLL_S)
        before, (content, state) = content, _look(path)
        if content != before:
            deadline = time.monotonic() + SETTLE_S
    return state


def _move_aside(path: Path) -> Path:
    """Renames an incomplete database; the files in which SQLite keeps changes go with it."""
    aside = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}")
    os.rename(path, aside)
    for suffix in ("-journal", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            os.rename(f"{path}{suffix}", f"{aside}{suffix}")
    return aside
