"""Opens MLflow stores and experiments, and tells the user where to find a run."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import sqlalchemy
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from nntrain.config.redact import redact
from nntrain.core.files import lock
from nntrain.integrations.mlflow import (
    DATABASES,
    DEFAULT_URI,
    MLflowTracker,
    absolute,
    sqlite_path,
)

CONNECT_TIMEOUT_S = 5
LOCK_TIMEOUT_S = 60.0

_TIMEOUT_SETTING = {"postgresql": "connect_timeout", "mysql": "connect_timeout", "mssql": "timeout"}
"""The name of the connection timeout (in seconds) in each database's usual driver."""

_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""Makes MLflow's UI open the experiment with its training runs instead of traces."""


def open_store(uri: str) -> MlflowClient:
    """Returns a client for a store; creates the tables of a new database."""
    with _alone(sqlite_path(uri)):
        if urlsplit(uri).scheme.split("+")[0] in DATABASES:
            _check_database(uri)
        return MlflowClient(uri)


@contextmanager
def _alone(path: Path | None) -> Iterator[None]:
    """Allows only one process at a time to create the tables of an SQLite database.

    Some MLflow versions do not lock the database while they create tables.

    Raises:
        TimeoutError: if another process holds the lock for a minute.
    """
    if path is None:
        yield
        return
    name = hashlib.sha256(f"{os.environ.get('USER')}:{path}".encode()).hexdigest()[:16]
    file = Path(tempfile.gettempdir()) / f"nntrain-{name}.lock"
    fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        if not lock(fd, timeout_s=LOCK_TIMEOUT_S):
            raise TimeoutError(
                f"another process has locked {file} for more than {LOCK_TIMEOUT_S:.0f} s."
            )
        yield
    finally:
        os.close(fd)


def _check_database(uri: str) -> None:
    """Connects to the database once, because MLflow's own retries take minutes to fail.

    An SQLite database in a missing folder is not checked, because MLflow creates the folder.
    """
    url = sqlalchemy.make_url(uri)
    backend = url.get_backend_name()
    if backend == "sqlite" and not Path(url.database or "").parent.is_dir():
        return
    settings = {_TIMEOUT_SETTING[backend]: CONNECT_TIMEOUT_S} if backend in _TIMEOUT_SETTING else {}
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool, connect_args=settings)
    query = "PRAGMA schema_version" if backend == "sqlite" else "SELECT 1"
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text(query))


def find_experiment(store: MlflowClient, settings: MLflowTracker) -> str:
    """Returns the id of the experiment; creates the experiment if it does not exist.

    Raises:
        LookupError: if the experiment was deleted; the message says how to restore it.
    """
    name = settings.experiment
    found = store.get_experiment_by_name(name)
    if found is None:
        try:
            location = _artifact_location(settings)
            return str(store.create_experiment(name, location, _EXPERIMENT_TAGS))
        except MlflowException as err:
            if err.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        found = store.get_experiment_by_name(name)  # another process just created the experiment
    if found is None:
        raise LookupError(f"the MLflow experiment {name!r} was created and then removed.")
    if found.lifecycle_stage == "deleted":
        raise LookupError(
            f"the MLflow experiment {name!r} was deleted: restore it with 'mlflow experiments "
            f"restore --experiment-id {found.experiment_id}', or set "
            "tracker.mlflow.experiment_name to another name."
        )
    return str(found.experiment_id)


def _artifact_location(settings: MLflowTracker) -> str | None:
    """Returns the artifact folder of a new experiment, below `mlruns` next to the SQLite database.

    Returns `None`, which selects MLflow's default, for other stores and for a database in the
    current folder.
    """
    path = sqlite_path(settings.uri)
    if path is None or path.parent == Path.cwd():
        return None
    return str(
        path.parent / "mlruns" / hashlib.sha256(settings.experiment.encode()).hexdigest()[:8]
    )


@contextmanager
def unseeded() -> Iterator[None]:
    """Temporarily seeds Python's random generator with system entropy.

    MLflow uses this generator to choose run names. Without this function, all runs of a program
    that seeds the generator would get the same name.
    """
    state = random.getstate()
    random.seed()
    try:
        yield
    finally:
        random.setstate(state)


def where(settings: MLflowTracker, run_name: str, experiment_id: str, run_id: str) -> str:
    """Returns a message with the location of a run and the command or URL that shows it."""
    uri = redact(settings.uri)
    run = f"MLflow run:      {run_name}, experiment {settings.experiment}, {uri}"
    page = f"/#/experiments/{experiment_id}/runs/{run_id}/model-metrics"
    if settings.uri.startswith("http"):
        return f"{run}\nlook at it:      {uri.rstrip('/')}{page}"
    store = "" if settings.uri == absolute(DEFAULT_URI) else f" --backend-store-uri {uri}"
    look = f"look at it:      {_command()} ui{store}"
    return f"{run}\n{look}\n                 then open http://127.0.0.1:5000{page}"


def _command() -> str:
    """Returns the `mlflow` command, as a path if `mlflow` is not on `PATH`."""
    beside = Path(sys.executable).with_name("mlflow")
    if shutil.which("mlflow") or not beside.exists():
        return "mlflow"
    return str(beside.relative_to(Path.cwd())) if beside.is_relative_to(Path.cwd()) else str(beside)
