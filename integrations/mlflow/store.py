"""Opens MLflow stores and experiments, and tells the user where to find a run."""

from __future__ import annotations

import hashlib
import os
import random
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import sqlalchemy
from mlflow.entities import Run, RunInfo
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from nntrain.config.redact import redact
from nntrain.core.files import lock
from nntrain.core.uninterrupted import uninterrupted
from nntrain.integrations.mlflow import (
    DATABASES,
    DEFAULT_URI,
    EXPERIMENT_ID_VARIABLE,
    RUN_ID_VARIABLE,
    URI_VARIABLE,
    MLflowTracker,
    absolute,
    sqlite_path,
)
from nntrain.integrations.mlflow.database import prepare_database

CONNECT_TIMEOUT_S = 5
LOCK_TIMEOUT_S = 60.0

_TIMEOUT_SETTING = {"postgresql": "connect_timeout", "mysql": "connect_timeout", "mssql": "timeout"}
"""The name of the connection timeout (in seconds) in each database's usual driver."""

_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""Makes MLflow's UI open the experiment with its training runs instead of traces."""


def open_store(uri: str) -> tuple[MlflowClient, Path | None]:
    """Returns a client for a store; creates the tables of a new database.

    Returns:
        The client, and the file to which an incomplete SQLite database was moved, if there was one.

    Raises:
        DamagedDatabaseError: if the tables of an SQLite database cannot be used.
    """
    path = sqlite_path(uri)
    with _alone(path):
        aside = prepare_database(path) if path is not None else None
        if urlsplit(uri).scheme.split("+")[0] in DATABASES:
            _check_database(uri)
        # MLflow may create the tables of a database on a server
        with uninterrupted(), _no_encoded_folders(uri):
            return MlflowClient(_beside(uri)), aside


def _beside(uri: str) -> str:
    """Returns a relative URI for a database in the current folder whose path is encoded."""
    path = sqlite_path(uri)
    is_here = path is not None and "%" in uri and path.parent == Path.cwd()
    return f"sqlite:///{uri.rpartition('/')[2]}" if is_here else uri


@contextmanager
def _no_encoded_folders(uri: str) -> Iterator[None]:
    """Removes the empty folders that MLflow creates because it does not decode a URI's path."""
    literal = Path(uri.removeprefix("sqlite:///").partition("?")[0]).parent
    is_encoded = uri.startswith("sqlite:///") and "%" in str(literal)
    missing = [path for path in (literal, *literal.parents) if is_encoded and not path.exists()]
    yield
    for path in missing:
        with suppress(OSError):
            path.rmdir()


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
    """Connects to the database once, because MLflow's own retries take minutes to fail."""
    url = sqlalchemy.make_url(uri)
    backend = url.get_backend_name()
    settings = {_TIMEOUT_SETTING[backend]: CONNECT_TIMEOUT_S} if backend in _TIMEOUT_SETTING else {}
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool, connect_args=settings)
    query = "PRAGMA schema_version" if backend == "sqlite" else "SELECT 1"
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text(query))


def find_experiment(store: MlflowClient, settings: MLflowTracker) -> str:
    """Returns the id of the experiment; creates the experiment if it does not exist.

    Raises:
        LookupError: if the experiment was deleted, or if its id is unknown; the message says what
            to do.
    """
    if settings.experiment_id is not None:
        return _checked_experiment(store, settings.uri, settings.experiment_id)
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
        command = restore(settings.uri, "experiments", "experiment-id", found.experiment_id)
        raise LookupError(
            f"the MLflow experiment {name!r} was deleted: restore it with '{command}', or set "
            "tracker.mlflow.experiment_name to another name."
        )
    return str(found.experiment_id)


def restore(uri: str, what: str, option: str, number: str) -> str:
    """Returns the command that takes an experiment or a run out of MLflow's trash.

    Args:
        uri: the URI of the store; MLflow's commands read it from the environment.
        what: `experiments` or `runs`.
        option: the option that names it.
        number: its id.
    """
    store = ""
    if uri != absolute(DEFAULT_URI):
        store = f"{URI_VARIABLE}={shlex.quote(str(redact(uri)))} "
    return f"{store}mlflow {what} restore --{option} {number}"


def _checked_experiment(store: MlflowClient, uri: str, experiment_id: str) -> str:
    try:
        found = store.get_experiment(experiment_id)
    except MlflowException as err:
        if err.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        raise LookupError(
            f"the MLflow experiment with the id {experiment_id} does not exist: correct "
            f"{EXPERIMENT_ID_VARIABLE} or tracker.mlflow.experiment_id."
        ) from err
    if found.lifecycle_stage == "deleted":
        raise LookupError(
            f"the MLflow experiment {found.name!r} was deleted: restore it with "
            f"'{restore(uri, 'experiments', 'experiment-id', experiment_id)}'."
        )
    return str(found.experiment_id)


def find_given_run(store: MlflowClient, run_id: str) -> Run:
    """Returns the run that was created for this process.

    Raises:
        LookupError: if the run does not exist.
    """
    try:
        return store.get_run(run_id)
    except MlflowException as err:
        if err.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        raise LookupError(
            f"the MLflow run {RUN_ID_VARIABLE}={run_id} does not exist: correct or unset the "
            "variable."
        ) from err


def _artifact_location(settings: MLflowTracker) -> str | None:
    """Returns the artifact folder of a new experiment, below `mlruns` next to the SQLite database.

    Returns `None`, which selects MLflow's default, for other stores and for a database in the
    current folder. MLflow decodes a path, so a folder with a `%` needs a URI.
    """
    path = sqlite_path(settings.uri)
    is_plain = path is None or not re.search("[%?#]", str(path))
    if path is None or (is_plain and path.parent == Path.cwd()):
        return None
    digest = hashlib.sha256(settings.experiment.encode()).hexdigest()[:8]
    folder = path.parent / "mlruns" / digest
    return str(folder) if is_plain else folder.as_uri()


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


def where(settings: MLflowTracker, experiment: str, run: RunInfo) -> str:
    """Returns a message with the location of a run and the command or URL that shows it.

    Args:
        settings: the settings of the tracker.
        experiment: the name of the experiment.
        run: MLflow's information about the run.
    """
    uri = redact(settings.uri)
    place = f"MLflow run:      {run.run_name}, experiment {experiment}, {uri}"
    page = f"/#/experiments/{run.experiment_id}/runs/{run.run_id}/model-metrics"
    if settings.uri.startswith("http"):
        return f"{place}\nlook at it:      {uri.rstrip('/')}{page}"
    store = ""
    if settings.uri != absolute(DEFAULT_URI):
        store = f" --backend-store-uri {shlex.quote(str(uri))}"
    look = f"look at it:      {_command()} ui{store}"
    return f"{place}\n{look}\n                 then open http://127.0.0.1:5000{page}"


def _command() -> str:
    """Returns the `mlflow` command, as a path if `mlflow` is not on `PATH`."""
    beside = Path(sys.executable).with_name("mlflow")
    if shutil.which("mlflow") or not beside.exists():
        return "mlflow"
    here = Path.cwd()
    return shlex.quote(str(beside.relative_to(here) if beside.is_relative_to(here) else beside))
