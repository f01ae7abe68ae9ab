"""MLflow, through its client and an explicit run id."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import math
import os
import random
import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from nntrain.config.errors import ConfigError
from nntrain.config.flatten import flatten
from nntrain.config.redact import redact
from nntrain.core.names import Keys, check_file_name, metric_key
from nntrain.integrations.standin import run_whole_package
from nntrain.integrations.tracker import (
    MetricRow,
    ModelFile,
    Refused,
    RunEnd,
    RunInfo,
    Started,
    Table,
)
from nntrain.result import StopReason

if TYPE_CHECKING:
    from torch import nn

DEFAULT_URI = "sqlite:///mlflow.db"
DEFAULT_EXPERIMENT = "nntrain"
CONNECT_TIMEOUT_S = 5

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

CLIENT_SETTINGS: Mapping[str, str] = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""The environment of a process that delivers: MLflow's client tries once, for at most 10 s (its own retries take 247 s and
cannot be stopped), prints nothing, and calls nobody but the server."""


def use_client_settings() -> None:
    """Puts `CLIENT_SETTINGS` into the environment of this process, less those that the user has set."""
    for name, value in CLIENT_SETTINGS.items():
        os.environ.setdefault(name, value)


URI_VARIABLE = "MLFLOW_TRACKING_URI"
"""The environment variable that names the store."""

RUN_TAG = "nntrain.run"
"""The tag by which a run is found again that a shipper made and did not live to note."""

PARENT_TAG = "nntrain.parent"
"""The tag that names, by its `RUN_TAG`, the run below which this one is to be shown."""

PARENT_RUN_TAG = "mlflow.parentRunId"
"""The tag by which MLflow's UI shows a run below another."""

MAX_CHILDREN = 10_000
"""Trials of one study that are looked through for those that began before the study's own run."""

DRIFT_TAG = "nntrain.param_drift"
"""The tag that names the params which a resumed run no longer has as it began; MLflow keeps the first value."""

_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""Makes the UI open on training runs and not on language models."""

_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_SCHEMES = ("http", "https", "databricks", *_DATABASES)

_TIMEOUT_SETTING = {"postgresql": "connect_timeout", "mysql": "connect_timeout", "mssql": "timeout"}
"""What the usual driver of a database calls the seconds that it takes to connect."""


@dataclass
class MLflowTracker:
    """Keeps a run in MLflow: the embedded SQLite store by default, or a server.

    Args:
        tracking_uri: the store; `None` takes `MLFLOW_TRACKING_URI`, else `sqlite:///mlflow.db`.
        experiment_name: made if there is none; `None` takes `MLFLOW_EXPERIMENT_NAME`, else `nntrain`.
        run_name: `None` takes the name of the run itself, else lets MLflow find one.
        tags: tags of your own.
        parent_run_id: the run below which this one is shown.
        system_metrics: whether the use of processor, memory and GPU is recorded.
        log_model: whether models are kept as MLflow models too, which `mlflow.pytorch.load_model` loads.
        registered_model_name: the name in MLflow's registry under which each such model becomes a version.

    Raises:
        ImportError: if mlflow is not installed; the message names the command.
        ConfigError: if the URI is none that MLflow knows.
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
        given = self.tracking_uri or os.environ.get(URI_VARIABLE) or DEFAULT_URI
        _check_uri(given, "tracker.mlflow.tracking_uri" if self.tracking_uri else URI_VARIABLE)
        self.uri = _absolute(given)
        """The store, with the environment and the default looked up and the path of an SQLite database made absolute."""
        self.experiment = (
            self.experiment_name or os.environ.get("MLFLOW_EXPERIMENT_NAME") or DEFAULT_EXPERIMENT
        )
        """The experiment's name, likewise."""
        self.run_id = ""
        """The id of the run, once it is begun."""
        self._client: Any = None
        self._experiment_id = ""
        self._uid, self._is_study = "", False

    def settled(self) -> MLflowTracker:
        """The same settings with the store and the experiment as they are found here and now."""
        return replace(self, tracking_uri=self.uri, experiment_name=self.experiment)

    def load(self) -> None:
        """Imports MLflow's client, which takes seconds, and has it say no more than warnings."""
        import mlflow.tracking  # noqa: F401

        for name in ("alembic", "mlflow.store.db.utils", "mlflow.tracking.fluent"):
            logging.getLogger(name).setLevel(logging.WARNING)

    # --- the run

    def start(self, run: RunInfo, run_id: str | None = None) -> Started:
        """Begins the run, or goes on with the one of that id or with the tag `nntrain.run` of its `uid`.

        Raises:
            LookupError: if the experiment or the run was deleted; the message says how to get it back.
        """
        self._connect()
        self._uid, self._is_study = run.uid, run.is_study
        with _refusals():
            found = self._client.get_run(run_id) if run_id else self._find(run)
            entity = found or self._create(run)
            self._take(entity)
            self._params(run.params, entity.data.params)
            if found:
                self.set_tags(run.tags)
            for name, text in run.texts.items():
                self._client.log_text(self.run_id, text, name)
        return Started(self.run_id, self._where(entity.info.run_name))

    def _find(self, run: RunInfo) -> Any:
        """The run of that `uid`, deleted or not; `None` if there is none yet."""
        self._experiment_id = self._find_experiment()
        found = self._tagged(RUN_TAG, run.uid, 1) if run.uid else []
        return found[0] if found else None

    def _create(self, run: RunInfo) -> Any:
        tags = {**run.tags, **self.tags} | ({RUN_TAG: run.uid} if run.uid else {})
        tags |= self._parent_tags(run)
        with (
            _unseeded()
        ):  # MLflow draws the name of a run from a generator that the user may have seeded
            return self._client.create_run(
                self._experiment_id,
                start_time=run.time_ms or None,
                tags=_fitting_tags(tags),
                run_name=self.run_name or run.name,
            )

    def _parent_tags(self, run: RunInfo) -> dict[str, str]:
        """What shows a run below another: that of the settings, or that of the study, if it has begun already."""
        if self.parent_run_id:
            return {PARENT_RUN_TAG: self.parent_run_id}
        if not run.parent:
            return {}
        found = self._tagged(RUN_TAG, run.parent, 1)
        return {PARENT_TAG: run.parent} | ({PARENT_RUN_TAG: found[0].info.run_id} if found else {})

    def _adopt(self, uid: str) -> None:
        """Shows those runs below this one that say so, and began when this one was not there yet."""
        for child in self._tagged(PARENT_TAG, uid, MAX_CHILDREN):
            if PARENT_RUN_TAG not in child.data.tags:
                self._client.set_tag(child.info.run_id, PARENT_RUN_TAG, self.run_id)

    def _tagged(self, tag: str, value: str, n: int) -> Any:
        from mlflow.entities import ViewType

        where = f"tags.`{tag}` = '{value}'"
        return self._client.search_runs(
            [self._experiment_id], where, run_view_type=ViewType.ALL, max_results=n
        )

    def _take(self, entity: Any) -> None:
        """Makes a run the one that all else goes to, and opens it if it has ended."""
        self.run_id, self._experiment_id = entity.info.run_id, entity.info.experiment_id
        if entity.info.lifecycle_stage == "deleted":
            raise LookupError(
                f"the MLflow run {self.run_id} was deleted: restore it with 'mlflow runs restore --run-id {self.run_id}'."
            )
        if entity.info.status != "RUNNING":
            self._client.update_run(self.run_id, status="RUNNING")

    def _find_experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(self.experiment)
        if found is None:
            try:
                return str(
                    self._client.create_experiment(
                        self.experiment, self._artifact_location(), _EXPERIMENT_TAGS
                    )
                )
            except MlflowException as err:
                if err.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            found = self._client.get_experiment_by_name(
                self.experiment
            )  # another process was faster
        if found.lifecycle_stage == "deleted":
            raise LookupError(
                f"the MLflow experiment {self.experiment!r} was deleted: restore it with 'mlflow experiments restore "
                f"--experiment-id {found.experiment_id}', or choose another by tracker.mlflow.experiment_name."
            )
        return str(found.experiment_id)

    def _artifact_location(self) -> str | None:
        """Where a new experiment keeps files: `mlruns` beside an SQLite database, even if this process runs elsewhere."""
        path = _sqlite_path(self.uri)
        if path is None or path.parent == Path.cwd():
            return None
        return str(
            path.parent / "mlruns" / hashlib.sha256(self.experiment.encode()).hexdigest()[:8]
        )

    def _where(self, run_name: str) -> str:
        """Where the run is, and the command that shows it."""
        uri = redact(self.uri)
        run = f"MLflow run:      {run_name}, experiment {self.experiment}, {uri}"
        page = f"/#/experiments/{self._experiment_id}/runs/{self.run_id}/model-metrics"
        if self.uri.startswith("http"):
            return f"{run}\nlook at it:      {uri.rstrip('/')}{page}"
        store = "" if self.uri == _absolute(DEFAULT_URI) else f" --backend-store-uri {uri}"
        return f"{run}\nlook at it:      {_command()} ui{store}\n                 then open http://127.0.0.1:5000{page}"

    # --- the store

    def _connect(self) -> None:
        """Makes the client, and with it the tables of a new database, once."""
        if self._client is not None:
            return
        self.load()
        from mlflow.tracking import MlflowClient

        with _alone(_sqlite_path(self.uri)):
            if urlsplit(self.uri).scheme.split("+")[0] in _DATABASES:
                _check_database(self.uri)
            self._client = MlflowClient(self.uri)

    # --- records

    def _params(self, params: Mapping[str, Any], existing: Mapping[str, str]) -> None:
        """Records the params that are new; those that changed are named by a tag, since MLflow never changes one."""
        from mlflow.entities import Param
        from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH, MAX_PARAMS_TAGS_PER_BATCH

        keys = Keys()
        values = {
            keys[name]: _shortened(str(value), MAX_PARAM_VAL_LENGTH)
            for name, value in flatten(params).items()
        }
        changed = sorted(key for key, value in values.items() if existing.get(key, value) != value)
        new = [Param(key, value) for key, value in values.items() if key not in existing]
        for batch in _batches(new, MAX_PARAMS_TAGS_PER_BATCH):
            self._client.log_batch(self.run_id, params=batch)
        if changed:
            self.set_tags({DRIFT_TAG: ", ".join(changed)})

    def metrics(self, rows: Sequence[MetricRow]) -> None:
        """Records rows of metrics, as many at once as MLflow takes; the same row twice changes nothing."""
        from mlflow.utils.validation import MAX_METRICS_PER_BATCH

        entities = [_metric(key, value, row) for row in rows for key, value in row.values.items()]
        for batch in _batches(entities, MAX_METRICS_PER_BATCH):
            with _refusals():
                self._client.log_batch(self.run_id, metrics=batch)

    def histograms(
        self, row: MetricRow, edges: Sequence[float], counts: Mapping[str, Sequence[float]]
    ) -> None:
        """Does nothing: MLflow has no histograms."""

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Sets tags."""
        from mlflow.entities import RunTag
        from mlflow.utils.validation import MAX_PARAMS_TAGS_PER_BATCH

        entities = [RunTag(key, value) for key, value in _fitting_tags(tags).items()]
        for batch in _batches(entities, MAX_PARAMS_TAGS_PER_BATCH):
            with _refusals():
                self._client.log_batch(self.run_id, tags=batch)

    def figure(self, path: Path, name: str, step: int) -> None:
        """Keeps a figure under that name; a later one of the same name takes its place."""
        self.artifact(path, name)

    def table(self, table: Table, step: int) -> None:
        """Keeps a table as MLflow's `log_table` does, but a later one of the same name takes its place."""
        name = table.name if table.name.endswith(".json") else f"{table.name}.json"
        rows = [
            [None if isinstance(cell, float) and not math.isfinite(cell) else cell for cell in row]
            for row in table.rows
        ]
        _check_name(name)
        with _refusals():
            self._client.log_text(
                self.run_id, json.dumps({"columns": list(table.columns), "data": rows}), name
            )
            self._show_table(name)

    def _show_table(self, name: str) -> None:
        """Enters a table into the tag by which the UI shows it as one."""
        from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS

        known = json.loads(
            self._client.get_run(self.run_id).data.tags.get(MLFLOW_LOGGED_ARTIFACTS, "[]")
        )
        entry = {"path": name, "type": "table"}
        if entry not in known:
            self._client.set_tag(self.run_id, MLFLOW_LOGGED_ARTIFACTS, json.dumps([*known, entry]))

    def artifact(self, path: Path, name: str, aliases: Sequence[str] = ()) -> None:
        """Keeps a file under that name; MLflow has no aliases for files."""
        _check_name(name)
        if not path.is_file():
            raise Refused(f"{path} is no file")
        place = PurePosixPath(name)
        folder = str(place.parent) if len(place.parts) > 1 else None
        with _under_the_name(path, place.name) as named, _refusals():
            self._client.log_artifact(self.run_id, str(named), folder)

    def finish(self, end: RunEnd) -> None:
        """Ends the run with the status that stands for the reason."""
        with _refusals():
            if self._is_study:
                self._adopt(self._uid)
            self._client.set_terminated(self.run_id, STATUS[end.reason], end.time_ms or None)

    # --- models

    def model(self, model: ModelFile) -> None:
        """Keeps the file of a model's weights and, if the settings ask for it, the model itself, as a version in the registry.

        Raises:
            Refused: if the model itself is asked for and cannot be made from its configuration and its weights.
        """
        name = (
            model.name if PurePosixPath(model.name).suffix else f"{model.name}{model.path.suffix}"
        )
        self.artifact(model.path, name)
        if self.log_model or self.registered_model_name:
            module = _module(model)
            with _refusals():
                model_id = self._log_model(model, module)
                if self.registered_model_name:
                    self._register(model_id, self.registered_model_name, model.aliases)

    def _log_model(self, model: ModelFile, module: nn.Module) -> str:
        """Keeps a module as MLflow model of this run, unless these very weights are kept already; returns the model's id."""
        digest = hashlib.sha256(model.path.read_bytes()).hexdigest()
        known = f"source_run_id = '{self.run_id}' AND tags.`nntrain.sha256` = '{digest}'"
        found = self._client.search_logged_models([self._experiment_id], filter_string=known)
        logged = found[0] if found else self._create_model(model, digest)
        if logged.status != "READY":
            self._upload_model(logged.model_id, module)
        return str(logged.model_id)

    def _create_model(self, model: ModelFile, digest: str) -> Any:
        name = re.sub(r"[^\w\-]+", "_", PurePosixPath(model.name).stem)
        return self._client.create_logged_model(
            self._experiment_id,
            name,
            source_run_id=self.run_id,
            tags={"nntrain.sha256": digest},
            model_type="pytorch",
        )

    def _upload_model(self, model_id: str, module: nn.Module) -> None:
        import mlflow.pytorch
        from mlflow.entities import LoggedModelOutput
        from mlflow.models import Model

        needs = [
            *mlflow.pytorch.get_default_pip_requirements(),
            f"nntrain=={importlib.metadata.version('nntrain')}",
        ]
        described = Model(run_id=self.run_id, model_id=model_id)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model"
            mlflow.pytorch.save_model(
                module,
                path,
                mlflow_model=described,
                pip_requirements=needs,
                serialization_format="pickle",
            )
            self._client.log_model_artifacts(model_id, str(path))
        self._client.log_outputs(self.run_id, [LoggedModelOutput(model_id, 0)])
        self._client.finalize_logged_model(model_id, "READY")

    def _register(self, model_id: str, name: str, aliases: Sequence[str]) -> None:
        """Makes a model a version in the registry, unless it is one already, and gives it the aliases."""
        versions = self._client.search_model_versions(f"run_id = '{self.run_id}'")
        found = [
            version
            for version in versions
            if (version.name, version.source) == (name, f"models:/{model_id}")
        ]
        version = found[0] if found else self._create_version(model_id, name)
        for alias in aliases:
            if alias != "latest":  # which MLflow gives by itself
                self._client.set_registered_model_alias(name, alias, version.version)

    def _create_version(self, model_id: str, name: str) -> Any:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(name)
        except MlflowException as err:
            if err.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        with _for_the_process(self.uri):
            return self._client.create_model_version(
                name, f"models:/{model_id}", self.run_id, model_id=model_id, await_creation_for=0
            )


_URI_OF_THE_PROCESS = threading.Lock()


@contextmanager
def _for_the_process(uri: str) -> Iterator[None]:
    """Sets the store for the whole process: there, not in the client's own, MLflow's registry looks for a logged model."""
    import mlflow

    with _URI_OF_THE_PROCESS:
        before, in_environment = mlflow.get_tracking_uri(), os.environ.get(URI_VARIABLE)
        mlflow.set_tracking_uri(uri)
        try:
            yield
        finally:
            mlflow.set_tracking_uri(
                before
            )  # which leaves it in the environment, for all that come after
            os.environ.pop(URI_VARIABLE, None)
            if in_environment is not None:
                os.environ[URI_VARIABLE] = in_environment


def _check_uri(uri: str, key: str) -> None:
    scheme = uri if uri == "databricks" else urlsplit(uri).scheme.split("+")[0]
    plugins = {
        entry.name for entry in importlib.metadata.entry_points(group="mlflow.tracking_store")
    }
    if scheme not in _SCHEMES and scheme not in plugins:
        raise ConfigError(
            f"{key}={redact(uri)} is no store of MLflow's, which no longer keeps runs in plain files: give the URL of a "
            f"server (http, https), or a database ({', '.join(_DATABASES)}) such as {DEFAULT_URI}."
        )
    if scheme in ("http", "https") and not urlsplit(uri).hostname:
        raise ConfigError(
            f"{key}={redact(uri)} names no server: give one such as http://127.0.0.1:5000."
        )


def _sqlite_path(uri: str) -> Path | None:
    """The file of an SQLite database; `None` for another store, or one in memory."""
    path = uri.removeprefix("sqlite:///")
    return Path(path) if path not in (uri, "", ":memory:") else None


def _absolute(uri: str) -> str:
    path = _sqlite_path(uri)
    return f"sqlite:///{path.absolute()}" if path else uri


@contextmanager
def _alone(path: Path | None) -> Iterator[None]:
    """Lets one process at a time make the tables of an SQLite database, which not every version of MLflow guards."""
    if path is None:
        yield
        return
    from filelock import FileLock

    name = hashlib.sha256(f"{os.environ.get('USER')}:{path}".encode()).hexdigest()[:16]
    with FileLock(Path(tempfile.gettempdir()) / f"nntrain-{name}.lock", timeout=60):
        yield


def _check_database(uri: str) -> None:
    """Connects once, since MLflow's own retries take minutes to give up; a folder yet to be made is left to MLflow."""
    import sqlalchemy

    url = sqlalchemy.make_url(uri)
    backend = url.get_backend_name()
    if backend == "sqlite" and not Path(url.database or "").parent.is_dir():
        return
    settings = {_TIMEOUT_SETTING[backend]: CONNECT_TIMEOUT_S} if backend in _TIMEOUT_SETTING else {}
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool, connect_args=settings)
    with engine.connect() as connection:
        connection.execute(
            sqlalchemy.text("PRAGMA schema_version" if backend == "sqlite" else "SELECT 1")
        )


@contextmanager
def _unseeded() -> Iterator[None]:
    """Has Python's random generator seeded afresh for a while, and then as it was."""
    state = random.getstate()
    random.seed()
    try:
        yield
    finally:
        random.setstate(state)


@contextmanager
def _refusals() -> Iterator[None]:
    """Turns what MLflow raises for a request that it will never take into `Refused`."""
    from mlflow.exceptions import MlflowException
    from requests import HTTPError

    try:
        yield
    except MlflowException as err:
        if not _is_final(err):
            raise
        raise Refused(_gist(err)) from err
    except HTTPError as err:  # what a server says to an upload
        if err.response is None or err.response.status_code not in (400, 413):
            raise
        raise Refused(_gist(err)) from err
    except (FileExistsError, IsADirectoryError, NotADirectoryError) as err:
        raise Refused(f"a file has the name of a folder: {err}") from err


def _is_final(err: Any) -> bool:
    """Whether a request was bad in itself; the store says that of a lost connection to its database, too."""
    is_of_database = "sqlalche.me" in str(err)  # SQLAlchemy's messages end in a link
    return err.error_code == "INVALID_PARAMETER_VALUE" or (
        err.error_code == "BAD_REQUEST" and not is_of_database
    )


def _gist(err: Exception) -> str:
    """The beginning of a message that may be long."""
    text = " ".join(str(err).split())
    return text if len(text) <= 300 else f"{text[:300]} ..."


def _check_name(name: str) -> None:
    try:
        check_file_name(name, "Artifact")
    except ValueError as err:
        raise Refused(str(err)) from err


@contextmanager
def _under_the_name(path: Path, name: str) -> Iterator[Path]:
    """The file under that name: MLflow keeps a file under the name that it has."""
    if path.name == name:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / name
        link.symlink_to(path.absolute())
        yield link


def _metric(key: str, value: float, row: MetricRow) -> Any:
    from mlflow.entities import Metric

    if not (-(2**63) <= row.step < 2**63 and 0 <= row.time_ms < 2**63):
        raise Refused(
            f"step {row.step} or time {row.time_ms} is out of the range of 64-bit integers"
        )
    try:
        return Metric(key, float(value), row.time_ms, row.step)
    except (TypeError, ValueError, OverflowError) as err:
        raise Refused(f"{key}={value!r} is no number") from err


def _fitting_tags(tags: Mapping[str, Any]) -> dict[str, str]:
    from mlflow.utils.validation import MAX_TAG_VAL_LENGTH

    return {
        metric_key(key): _shortened(str(value), MAX_TAG_VAL_LENGTH) for key, value in tags.items()
    }


def _shortened(text: str, limit: int) -> str:
    """A text that MLflow takes: one that is too long ends in the beginning of its hash, and no database keeps NUL."""
    text = text.replace("\0", "\\0")
    if len(text) <= limit:
        return text
    tail = f"... sha256:{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    return text[: limit - len(tail)] + tail


def _batches(entities: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """At most so many entities at once, and no more than fit into a request to a server."""
    from mlflow.utils.validation import MAX_BATCH_LOG_REQUEST_SIZE

    batch: list[Any] = []
    n_bytes = 0
    for entity in entities:
        n = 200 + 12 * (
            len(entity.key) + len(str(entity.value))
        )  # JSON writes a character in at most 12 bytes
        if batch and (len(batch) == size or n_bytes + n > MAX_BATCH_LOG_REQUEST_SIZE):
            yield batch
            batch, n_bytes = [], 0
        batch.append(entity)
        n_bytes += n
    if batch:
        yield batch


def _module(model: ModelFile) -> nn.Module:
    """The module that the model's configuration describes, with its weights.

    Raises:
        Refused: if there is no configuration, or it may not or cannot be called, or the weights are of another model.
    """
    if model.node is None:
        raise Refused(
            f"model {model.name} was not made from a configuration, so that only its weights are kept"
        )
    run_whole_package()
    import torch

    from nntrain.config.instantiate import instantiate

    try:
        module: nn.Module = instantiate(model.node, "model", model.trusted_targets)
        module.load_state_dict(
            torch.load(model.path, map_location="cpu", weights_only=True)["model"]
        )
    except Exception as err:
        raise Refused(
            f"model {model.name} cannot be made from its configuration: {_gist(err)}"
        ) from err
    return module


def _command() -> str:
    """How to call `mlflow` from here: by name, or by its path where this environment is not the active one."""
    beside = Path(sys.executable).with_name("mlflow")
    if shutil.which("mlflow") or not beside.exists():
        return "mlflow"
    return str(beside.relative_to(Path.cwd())) if beside.is_relative_to(Path.cwd()) else str(beside)
