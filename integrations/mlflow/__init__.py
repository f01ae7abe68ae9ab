"""Settings of the MLflow tracker. This module does not import mlflow."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import unquote, urlsplit

from nntrain.config.errors import ConfigError
from nntrain.config.redact import redact
from nntrain.integrations.tracker import Tracker

if TYPE_CHECKING:
    from nntrain.integrations.mlflow.client import MLflowTrackerClient

DEFAULT_URI = "sqlite:///mlflow.db"
DEFAULT_EXPERIMENT = "nntrain"

URI_VARIABLE = "MLFLOW_TRACKING_URI"
"""The environment variable with the URI of the store."""

EXPERIMENT_VARIABLE = "MLFLOW_EXPERIMENT_NAME"
"""The environment variable with the name of the experiment."""

EXPERIMENT_ID_VARIABLE = "MLFLOW_EXPERIMENT_ID"
"""The environment variable with the id of the experiment, for example set by `mlflow run`."""

RUN_ID_VARIABLE = "MLFLOW_RUN_ID"
"""The environment variable with the id of a run that was created for this process."""

MAX_NAME = 500
"""Maximum length of an experiment's name in MLflow."""

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
"""The databases that MLflow can use as a store."""

_SCHEMES = ("http", "https", "databricks", *DATABASES)

CLIENT_SETTINGS: Mapping[str, str] = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""Environment variables of a process that delivers to MLflow.

With these variables, MLflow's client tries each request once, for at most 10 s (its retries take
247 s and cannot be interrupted). The client prints nothing and contacts only the tracking server.
"""


def use_client_settings() -> None:
    """Adds `CLIENT_SETTINGS` to the environment, except variables that the user has set."""
    for name, value in CLIENT_SETTINGS.items():
        os.environ.setdefault(name, value)


@dataclass(frozen=True)
class MLflowTracker(Tracker):
    """Records runs in MLflow, by default in a local SQLite file.

    Args:
        tracking_uri: the URI of the store; defaults to `MLFLOW_TRACKING_URI`, then to
            `sqlite:///mlflow.db`.
        experiment_name: the experiment, created if it does not exist; defaults to
            `MLFLOW_EXPERIMENT_NAME`, then to the experiment of `experiment_id` or of the run
            `MLFLOW_RUN_ID`, then to `nntrain`.
        experiment_id: the id of an existing experiment, used if there is no name; defaults to
            `MLFLOW_EXPERIMENT_ID`.
        run_name: the name of the run; defaults to the name in `RunInfo`, then to a name chosen by
            MLflow.
        tags: additional tags by name.
        parent_run_id: the id of the parent run; MLflow's UI displays this run below its parent.
        system_metrics: whether to record CPU, memory and GPU usage.
        log_model: whether to also store models as MLflow models, for `mlflow.pytorch.load_model`.
        registered_model_name: the registered model to which each model is added as a new version;
            implies `log_model`.

    Raises:
        ImportError: if mlflow is not installed; the message contains the command to install it.
        ConfigError: if MLflow does not support the URI, or a name or id.
    """

    tracking_uri: str | None = field(default=None, repr=False)
    experiment_name: str | None = None
    run_name: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    parent_run_id: str | None = None
    system_metrics: bool = True
    log_model: bool = False
    registered_model_name: str | None = None
    experiment_id: str | None = None

    def __post_init__(self) -> None:
        if importlib.util.find_spec("mlflow") is None:
            raise ImportError("The MLflow tracker needs mlflow: pip install 'nntrain[mlflow]'.")
        key = "tracker.mlflow.tracking_uri" if self.tracking_uri else URI_VARIABLE
        _check_uri(self._given_uri, key)
        self._check_experiment()
        if self.given_run_id:
            _check_id(self.given_run_id, RUN_ID_VARIABLE)

    def _check_experiment(self) -> None:
        if len(self.experiment) > MAX_NAME:
            key = "tracker.mlflow.experiment_name" if self.experiment_name else EXPERIMENT_VARIABLE
            raise ConfigError(
                f"{key}={self.experiment[:50]}... has {len(self.experiment)} characters, but "
                f"MLflow allows {MAX_NAME} in the name of an experiment: shorten it."
            )
        is_named = self.experiment_name or os.environ.get(EXPERIMENT_VARIABLE)
        number = self.experiment_id or os.environ.get(EXPERIMENT_ID_VARIABLE)
        if number and not is_named:
            key = "tracker.mlflow.experiment_id" if self.experiment_id else EXPERIMENT_ID_VARIABLE
            _check_id(str(number), key)

    @property
    def _given_uri(self) -> str:
        return self.tracking_uri or os.environ.get(URI_VARIABLE) or DEFAULT_URI

    @property
    def uri(self) -> str:
        """The URI of the store, with the path of an SQLite database made absolute."""
        return absolute(self._given_uri)

    @property
    def experiment(self) -> str:
        """The name of the experiment, unless an id selects it."""
        return self.experiment_name or os.environ.get(EXPERIMENT_VARIABLE) or DEFAULT_EXPERIMENT

    def resolved(self) -> Self:
        """Returns the settings with the URI and the experiment filled in.

        The name of the experiment stays `None` if an id selects the experiment.
        """
        name = self.experiment_name or os.environ.get(EXPERIMENT_VARIABLE)
        number = None if name else self.experiment_id or os.environ.get(EXPERIMENT_ID_VARIABLE)
        if not (name or number or self.given_run_id):
            name = DEFAULT_EXPERIMENT
        return replace(self, tracking_uri=self.uri, experiment_name=name, experiment_id=number)

    @property
    def given_run_id(self) -> str | None:
        """The run in this store that was created for this process, from `MLFLOW_RUN_ID`."""
        store = absolute(os.environ.get(URI_VARIABLE) or DEFAULT_URI)
        return (os.environ.get(RUN_ID_VARIABLE) or None) if self.uri == store else None

    def destination(self) -> Mapping[str, object]:
        """Returns the store: the path of an SQLite database, or a URI."""
        return {"tracking_uri": sqlite_path(self.uri) or self.uri}

    def connect(self) -> MLflowTrackerClient:
        """Imports mlflow (this takes seconds) and returns a client whose `start` opens the store.

        Adds `CLIENT_SETTINGS` to the environment of the process.
        """
        use_client_settings()
        from nntrain.integrations.mlflow.client import MLflowTrackerClient

        return MLflowTrackerClient(self)


def sqlite_path(uri: str) -> Path | None:
    """Returns the path of an SQLite file, or `None` if the URI names any other store."""
    path = uri.removeprefix("sqlite:///").partition("?")[0]
    if not uri.startswith("sqlite:///") or path in ("", ":memory:"):
        return None
    return Path(unquote(path) if "%" in path and _decodes() else path)


def absolute(uri: str) -> str:
    """Returns the URI with the path of an SQLite database made absolute."""
    path = sqlite_path(uri)
    if path is None or path.is_absolute():
        return uri
    return f"sqlite:///{_encoded(str(Path.cwd()))}/{uri.removeprefix('sqlite:///')}"


def _encoded(folder: str) -> str:
    """Encodes the characters of a folder that have a meaning in the URI of a database.

    Raises:
        ConfigError: if the installed SQLAlchemy cannot open a database in this folder.
    """
    if not re.search("[%?#]", folder):
        return folder
    if _decodes():
        return re.sub("[%?#]", lambda found: f"%{ord(found[0]):02X}", folder)
    if "?" in folder:
        raise ConfigError(
            f"MLflow's database cannot be in the folder {folder} because its name contains '?': "
            f"set {URI_VARIABLE}, or update with pip install 'sqlalchemy>=2.1'."
        )
    return folder


def _decodes() -> bool:
    """Returns whether SQLAlchemy decodes `%3F` in the path of a database, as of version 2.1."""
    import importlib.metadata  # this import takes 20 ms and is rarely needed

    major, minor = importlib.metadata.version("sqlalchemy").split(".")[:2]
    return (int(major), int(minor)) >= (2, 1)


def _check_uri(uri: str, key: str) -> None:
    scheme = uri if uri == "databricks" else uri.partition(":")[0].split("+")[0].lower()
    if scheme not in _SCHEMES and scheme not in _plugins():
        raise ConfigError(
            f"{key}={redact(uri)} is not a valid MLflow store (MLflow no longer supports plain "
            f"files): set it to the URL of a server (http, https) or a database "
            f"({', '.join(DATABASES)}), for example {DEFAULT_URI}."
        )
    if not _has_valid_server(uri, needs_host=scheme in ("http", "https")):
        raise ConfigError(
            f"{key}={redact(uri)} does not name a server: set it to a URL with a host, for example "
            "http://127.0.0.1:5000."
        )
    if scheme == "sqlite":
        _check_file(uri, key)


def _has_valid_server(uri: str, *, needs_host: bool) -> bool:
    """Returns whether the port of a URL is a number, and whether the URL names a host."""
    try:
        found = urlsplit(uri)
        return found.port != 0 and (bool(found.hostname) or not needs_host)
    except ValueError:
        return False


def _check_file(uri: str, key: str) -> None:
    if not re.match(r"sqlite(\+\w+)?://(/|$)", uri):
        raise ConfigError(
            f"{key}={uri} does not name a file: write three slashes, for example {DEFAULT_URI}, or "
            "four before an absolute path."
        )
    if (path := sqlite_path(uri)) is not None and path.is_dir():
        raise ConfigError(f"{key}={uri} names a folder: set it to a file, such as {DEFAULT_URI}.")


def _check_id(value: str, key: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][\w-]{0,255}", value, re.ASCII):
        raise ConfigError(
            f"{key}={value[:100]} is not an id of MLflow: copy the id from MLflow's UI, or remove "
            "the setting."
        )


def _plugins() -> set[str]:
    """Returns the URI schemes that installed MLflow plugins support."""
    import importlib.metadata  # this import takes 20 ms and is rarely needed

    return {entry.name for entry in importlib.metadata.entry_points(group="mlflow.tracking_store")}
