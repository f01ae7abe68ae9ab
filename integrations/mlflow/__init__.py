"""MLflow: the settings, which the training process can make without importing mlflow."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

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
"""The environment of a process that delivers.

MLflow's client then tries once, for at most 10 s (its own retries take 247 s and cannot be
stopped), prints nothing, and contacts only the tracking server.
"""


def use_client_settings() -> None:
    """Adds `CLIENT_SETTINGS` to the environment; values that the user has set stay."""
    for name, value in CLIENT_SETTINGS.items():
        os.environ.setdefault(name, value)


@dataclass(frozen=True)
class MLflowTracker(Tracker):
    """Records runs in MLflow: in the embedded SQLite store by default, or on a server.

    Args:
        tracking_uri: the store; `None` uses `MLFLOW_TRACKING_URI`, else `sqlite:///mlflow.db`.
        experiment_name: the experiment, created if it does not exist; `None` uses
            `MLFLOW_EXPERIMENT_NAME`, else `nntrain`.
        run_name: the name of the run; `None` uses the name in `RunInfo`, else MLflow chooses one.
        tags: additional tags by name.
        parent_run_id: the id of the parent run, under which the UI displays this one.
        system_metrics: whether to record the use of processor, memory and GPU.
        log_model: whether to store models as MLflow models too, for `mlflow.pytorch.load_model`.
        registered_model_name: the registered model to which each such model adds a version.

    Raises:
        ImportError: if mlflow is not installed; the message contains the command to install it.
        ConfigError: if MLflow has no store for the URI.
    """

    tracking_uri: str | None = field(default=None, repr=False)
    experiment_name: str | None = None
    run_name: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    parent_run_id: str | None = None
    system_metrics: bool = True
    log_model: bool = False
    registered_model_name: str | None = None

    def __post_init__(self) -> None:
        if importlib.util.find_spec("mlflow") is None:
            raise ImportError("The MLflow tracker needs mlflow: pip install 'nntrain[mlflow]'.")
        key = "tracker.mlflow.tracking_uri" if self.tracking_uri else URI_VARIABLE
        _check_uri(self._given_uri, key)

    @property
    def _given_uri(self) -> str:
        return self.tracking_uri or os.environ.get(URI_VARIABLE) or DEFAULT_URI

    @property
    def uri(self) -> str:
        """The URI of the store, with the path of an SQLite database made absolute."""
        return absolute(self._given_uri)

    @property
    def experiment(self) -> str:
        """The name of the experiment."""
        return self.experiment_name or os.environ.get(EXPERIMENT_VARIABLE) or DEFAULT_EXPERIMENT

    def resolved(self) -> Self:
        """Returns the settings with the URI and the name of the experiment filled in."""
        return replace(self, tracking_uri=self.uri, experiment_name=self.experiment)

    def connect(self) -> MLflowTrackerClient:
        """Imports mlflow, which takes seconds, and returns a client; `start` opens the store.

        Adds `CLIENT_SETTINGS` to the environment of the process, which mlflow reads.
        """
        use_client_settings()
        from nntrain.integrations.mlflow.client import MLflowTrackerClient

        return MLflowTrackerClient(self)


def sqlite_path(uri: str) -> Path | None:
    """The file of an SQLite database; `None` for another store or a database in memory."""
    path = uri.removeprefix("sqlite:///")
    return Path(path) if path not in (uri, "", ":memory:") else None


def absolute(uri: str) -> str:
    """The URI with the path of an SQLite database made absolute."""
    path = sqlite_path(uri)
    return f"sqlite:///{path.absolute()}" if path else uri


def _check_uri(uri: str, key: str) -> None:
    scheme = uri if uri == "databricks" else urlsplit(uri).scheme.split("+")[0]
    if scheme not in _SCHEMES and scheme not in _plugins():
        raise ConfigError(
            f"{key}={redact(uri)} is not a store of MLflow, which no longer writes plain files: "
            f"give the URL of a server (http, https) or of a database ({', '.join(DATABASES)}), "
            f"for example {DEFAULT_URI}."
        )
    if scheme in ("http", "https") and not urlsplit(uri).hostname:
        raise ConfigError(
            f"{key}={redact(uri)} names no server: give its URL, for example http://127.0.0.1:5000."
        )


def _plugins() -> set[str]:
    """The schemes of the stores that installed plugins of MLflow provide."""
    import importlib.metadata  # takes 20 ms and is needed for unusual stores only

    return {entry.name for entry in importlib.metadata.entry_points(group="mlflow.tracking_store")}
