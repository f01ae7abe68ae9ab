"""MLflow, through its client and an explicit run id."""

from __future__ import annotations

import hashlib
import logging
import os
import random
import shutil
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from filelock import FileLock

from nntrain.config.errors import ConfigError
from nntrain.config.redact import redact
from nntrain.events import StopReason
from nntrain.integrations.base import MetricRow, RunInfo

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEFAULT_URI = "sqlite:///mlflow.db"
DEFAULT_EXPERIMENT = "nntrain"
SERVER_TIMEOUT_S = 5

STATUS: Mapping[StopReason, str] = {
    StopReason.COMPLETED: "FINISHED",
    StopReason.EARLY_STOPPED: "FINISHED",
    StopReason.BUDGET: "FINISHED",
    StopReason.PRUNED: "KILLED",
    StopReason.DIVERGED: "FAILED",
    StopReason.INTERRUPTED: "KILLED",
    StopReason.ERROR: "FAILED",
    StopReason.OUT_OF_MEMORY: "FAILED",
}
"""MLflow's run status for each reason; the tag `nntrain.outcome` keeps the reason itself."""

_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""Makes the UI open on training runs and not on language models."""

_DATABASES = ("sqlite:", "postgresql", "mysql", "mssql")

_T = TypeVar("_T")


class MLflowTracker:
    """Keeps a run in MLflow: the embedded SQLite store by default, or a server.

    Args:
        tracking_uri: the store; `None` takes `MLFLOW_TRACKING_URI`, else `sqlite:///mlflow.db`.
        experiment_name: made if there is none; `None` takes `MLFLOW_EXPERIMENT_NAME`, else `nntrain`.
        run_name: `None` lets MLflow find one.
        tags: tags of your own.

    Raises:
        ImportError: if mlflow is not installed; the message names the command.
    """

    def __init__(
        self,
        tracking_uri: str | None = None,
        experiment_name: str | None = None,
        run_name: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        try:
            import mlflow.tracking
        except ImportError as err:
            raise ImportError("The MLflow tracker needs mlflow: pip install 'nntrain[mlflow]'.") from err
        self._mlflow = mlflow
        from_env = os.environ.get("MLFLOW_TRACKING_URI")
        self.uri = tracking_uri or from_env or DEFAULT_URI
        self._uri_key = "MLFLOW_TRACKING_URI" if from_env and not tracking_uri else "tracker.mlflow.tracking_uri"
        self.experiment_name = experiment_name or os.environ.get("MLFLOW_EXPERIMENT_NAME") or DEFAULT_EXPERIMENT
        self.run_name = run_name
        self._tags = dict(tags or {})
        self.run_id = ""
        self._client: Any = None
        self._experiment_id = ""

    def open(self) -> None:
        """Reaches the store, and makes the tables of a new database.

        Raises:
            ConfigError: if the store cannot be reached or read.
        """
        with self._alone():
            self._client = self._connect()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Lets one process at a time make the tables of an SQLite database, which MLflow does not guard."""
        if not self.uri.startswith("sqlite:"):
            yield
            return
        place = f"{os.environ.get('USER')}:{os.path.abspath(self.uri.removeprefix('sqlite:///'))}"
        name = hashlib.sha256(place.encode()).hexdigest()[:16]
        with FileLock(Path(tempfile.gettempdir()) / f"nntrain-{name}.lock"):
            yield

    def start(self, info: RunInfo, run_id: str | None = None) -> str:
        """Begins a run, or goes on with the one of that id, and returns its id; reseeds Python's random generator."""
        if self._client is None:
            self.open()
        if run_id is not None:
            run = self._client.get_run(run_id)
            self.run_id, self.run_name, self._experiment_id = run_id, run.info.run_name, run.info.experiment_id
            self._client.update_run(run_id, status="RUNNING")
            return run_id
        self._experiment_id = self._find_experiment()
        random.seed()  # MLflow draws the name of a run from this generator, which the user's seed has fixed
        run = self._client.create_run(self._experiment_id, tags={**self._tags, **info.tags}, run_name=self.run_name)
        self.run_id, self.run_name = run.info.run_id, run.info.run_name
        self._params(info.params)
        for name, text in info.texts.items():
            self._client.log_text(self.run_id, text, name)
        return self.run_id

    def _find_experiment(self) -> str:
        experiment = self._client.get_experiment_by_name(self.experiment_name)
        if experiment is not None:
            return str(experiment.experiment_id)
        return str(self._client.create_experiment(self.experiment_name, tags=_EXPERIMENT_TAGS))

    def _connect(self) -> Any:
        for name in ("alembic", "mlflow.store.db.utils", "mlflow.tracking.fluent"):
            logging.getLogger(name).setLevel(logging.WARNING)
        if self.uri.startswith(("http://", "https://")):
            self._check_server()
        from sqlalchemy.exc import SQLAlchemyError

        try:
            if self.uri.startswith(_DATABASES):
                self._check_database()
            client = self._mlflow.tracking.MlflowClient(self.uri)
            client.search_experiments(max_results=1)
        except (self._mlflow.MlflowException, SQLAlchemyError, OSError, ValueError, ImportError) as err:
            raise ConfigError(
                f"{self._uri_key}={redact(self.uri)} cannot be read ({redact(_gist(err))}): expected the URL of a "
                f"server or a database such as {DEFAULT_URI}; 'tracker=none' trains without."
            ) from err
        return client

    def _check_database(self) -> None:
        """Connects once, since MLflow's own retries take minutes to give up; a folder yet to be made is left to MLflow."""
        import sqlalchemy

        url = sqlalchemy.make_url(self.uri)
        sqlite = url.get_backend_name() == "sqlite"
        if sqlite and not Path(url.database or "").parent.is_dir():
            return
        engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text("PRAGMA schema_version" if sqlite else "SELECT 1"))

    def _check_server(self) -> None:
        """Asks the server for its health, since MLflow's own retries take minutes to give up."""
        try:
            with urllib.request.urlopen(f"{self.uri.rstrip('/')}/health", timeout=SERVER_TIMEOUT_S):
                return
        except urllib.error.HTTPError:
            return  # something answers; what it says of itself, MLflow's client judges
        except (OSError, ValueError) as err:
            raise ConfigError(
                f"{self._uri_key}={redact(self.uri)} does not answer ({redact(str(err))}): start the server, or "
                f"set 'tracker.mlflow.tracking_uri={DEFAULT_URI}' or 'tracker=none'."
            ) from err

    def _params(self, params: Mapping[str, Any]) -> None:
        from mlflow.entities import Param
        from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH, MAX_PARAMS_TAGS_PER_BATCH

        entities = [Param(key, str(value)[:MAX_PARAM_VAL_LENGTH]) for key, value in params.items()]
        for batch in _batches(entities, MAX_PARAMS_TAGS_PER_BATCH):
            self._client.log_batch(self.run_id, params=batch)

    def metrics(self, rows: Sequence[MetricRow]) -> None:
        """Records rows of metrics, as many at once as MLflow takes."""
        from mlflow.entities import Metric
        from mlflow.utils.validation import MAX_METRICS_PER_BATCH

        entities = [Metric(key, value, row.time_ms, row.step) for row in rows for key, value in row.values.items()]
        for batch in _batches(entities, MAX_METRICS_PER_BATCH):
            self._client.log_batch(self.run_id, metrics=batch)

    def tags(self, tags: Mapping[str, str]) -> None:
        """Sets tags."""
        from mlflow.entities import RunTag

        self._client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def artifact(self, path: Path, folder: str = "") -> None:
        """Keeps a file with the run."""
        self._client.log_artifact(self.run_id, str(path), folder or None)

    def figure(self, figure: Figure, name: str) -> None:
        """Keeps a figure with the run, as an image of that file name."""
        self._client.log_figure(self.run_id, figure, name)

    def finish(self, reason: StopReason) -> None:
        """Ends the run with the status that stands for the reason."""
        self._client.set_terminated(self.run_id, STATUS[reason])

    def where(self) -> str:
        """Where the run is, and the command that shows it."""
        run = f"MLflow run:      {self.run_name}, experiment {self.experiment_name}, {redact(self.uri)}"
        page = f"/#/experiments/{self._experiment_id}/runs/{self.run_id}/model-metrics"
        if self.uri.startswith("http"):
            return f"{run}\nlook at it:      {redact(self.uri).rstrip('/')}{page}"
        store = "" if self.uri == DEFAULT_URI else f" --backend-store-uri {redact(self.uri)}"
        return f"{run}\nlook at it:      {_command()} ui{store}\n                 then open http://127.0.0.1:5000{page}"


def _gist(err: Exception) -> str:
    """The beginning of a message that may be long."""
    text = " ".join(str(err).split()).split(". ")[0]
    return text if len(text) <= 200 else f"{text[:200]} ..."


def _command() -> str:
    """How to call `mlflow` from here: by name, or by its path where this environment is not the active one."""
    beside = Path(sys.executable).with_name("mlflow")
    if shutil.which("mlflow") or not beside.exists():
        return "mlflow"
    return str(beside.relative_to(Path.cwd())) if beside.is_relative_to(Path.cwd()) else str(beside)


def _batches(items: Sequence[_T], size: int) -> Iterator[list[_T]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch
