"""The MLflow client, which runs in the shipper."""

from __future__ import annotations

import json
import logging
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from mlflow.entities import Param, Run, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS, MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME
from mlflow.utils.validation import (
    MAX_METRICS_PER_BATCH,
    MAX_PARAM_VAL_LENGTH,
    MAX_PARAMS_TAGS_PER_BATCH,
)

from nntrain.config.flatten import flatten
from nntrain.config.redact import redact
from nntrain.core.names import RUN_UID, Keys, check_file_name
from nntrain.integrations.mlflow import RUN_ID_VARIABLE, MLflowTracker, sqlite_path
from nntrain.integrations.mlflow.confined import check_inside, files_folder
from nntrain.integrations.mlflow.entities import batches, fitting_tags, metric, shortened
from nntrain.integrations.mlflow.errors import refusals
from nntrain.integrations.mlflow.store import (
    find_experiment,
    find_given_run,
    open_store,
    restore,
    unseeded,
    where,
)
from nntrain.integrations.tracker import (
    Lost,
    MetricRow,
    ModelFile,
    Refused,
    RunEnd,
    RunInfo,
    Started,
    Table,
    TrackerClient,
)
from nntrain.result import StopReason

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
"""MLflow's run status for each reason; the tag `nntrain.outcome` stores the exact reason."""

PARENT_TAG = "nntrain.parent"
"""The tag with the `uid` of the parent run."""

MAX_CHILDREN = 10_000
"""Maximum number of trials to search for trials that started before their study's run."""

DRIFT_TAG = "nntrain.param_drift"
"""The tag that lists params that changed on a resume; MLflow keeps their original values."""


class MLflowTrackerClient(TrackerClient):
    """Records runs in an MLflow store.

    Args:
        settings: the settings of the tracker.
    """

    def __init__(self, settings: MLflowTracker) -> None:
        self.settings = settings.resolved()
        self.run_id = ""
        """The id of the run; empty before `start`."""
        self._store: MlflowClient | None = None
        self._aside: Path | None = None
        self._experiment_id = ""
        self._run = RunInfo()
        self._view = ViewType.ALL
        self._is_anew = False
        self._given: str | None = None
        self._is_confined = False
        self._folder: Path | None = None
        self._unused: str | None = None
        for name in ("alembic", "mlflow.store.db.utils", "mlflow.tracking.fluent"):
            logging.getLogger(name).setLevel(logging.WARNING)

    @property
    def store(self) -> MlflowClient:
        """MLflow's own client; the first use creates the tables of a new database."""
        if self._store is None:
            self._store, self._aside = open_store(self.settings.uri)
        return self._store

    # --- the run

    def start(self, run: RunInfo, run_id: str | None = None) -> Started:
        """Starts a run, or resumes the run with the same id or `uid` (tag `nntrain.run`).

        Raises:
            LookupError: if the experiment or the run was deleted; the message says how to restore
                it.
        """
        self._run = run
        store = self.store
        with refusals():
            found = self._known(run, run_id) if run_id else self._find(run)
            entity = found or self._create(run)
            self._open(entity)
            self._params(run.params, entity.data.params)
            if found:
                self.set_tags(run.tags)
            for name, text in run.texts.items():
                self._check_name(name)
                store.log_text(self.run_id, text, name)
        place = where(self.settings, self._experiment_name(), entity.info)
        if self._aside:
            place += f"\nmoved aside:     {self._aside}, an incomplete database without runs"
        if self._unused:
            place += f"\nnot used:        {RUN_ID_VARIABLE}={self._unused}, in another experiment"
        return Started(self.run_id, place)

    def _experiment_name(self) -> str:
        settings = self.settings
        is_named = settings.experiment_name is not None
        return (
            settings.experiment
            if is_named
            else str(self.store.get_experiment(self._experiment_id).name)
        )

    def _known(self, run: RunInfo, run_id: str) -> Run:
        """Returns the run with an id, which may come from the folder of somebody else.

        Raises:
            LookupError: if the run with this id is another run.
        """
        found = self.store.get_run(run_id)
        if not _is_same(found, run):
            raise LookupError(
                f"the MLflow run {run_id} is another run: add --again to nntrain.sync to send the "
                "run anew."
            )
        return found

    def lost(self, run: RunInfo, run_id: str, last: Mapping[str, float]) -> Lost | None:
        """Returns a reason if the run was deleted, or if its database or its points are gone."""
        path = sqlite_path(self.settings.uri)
        if path is not None and not path.is_file():
            return Lost(f"its database {path} does not exist")
        try:
            found = self.store.get_run(run_id)
        except MlflowException as err:
            if err.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return Lost(f"{redact(self.settings.uri)} has no run {run_id}")
        if found.info.lifecycle_stage == "deleted":
            return Lost(f"run {run_id} is in the trash", is_trashed=True)
        if not _is_same(found, run):
            return Lost(f"{redact(self.settings.uri)} has another run with the id {run_id}")
        is_older = _lacks(found.data.metrics, last)
        return Lost(f"run {run_id} lacks its last points") if is_older else None

    def confine(self) -> None:
        """Lets the client write files only beside the database, or send them to the server."""
        self._is_confined = True

    def send_anew(self) -> None:
        """Lets the next `start` create a new run, even if one is in the trash."""
        self._view, self._is_anew = ViewType.ACTIVE_ONLY, True

    def _find(self, run: RunInfo) -> Run | None:
        """Returns the run with the same `uid`, even if it was deleted, or the run that was created.

        The first run that is recorded is the one that was created for this process.
        """
        settings = self.settings
        given = find_given_run(self.store, settings.given_run_id) if settings.given_run_id else None
        self._given = None
        if given and settings.experiment_name is None and settings.experiment_id is None:
            self._experiment_id = given.info.experiment_id
        else:
            self._experiment_id = find_experiment(self.store, settings)
        if found := self._tagged(RUN_UID, run.uid, 1) if run.uid else []:
            return found[0]
        if given is None:
            return None
        if given.info.experiment_id != self._experiment_id:
            self._unused = given.info.run_id
            return None
        self._given = given.info.run_id
        return self._adopted(given, run)

    def _adopted(self, given: Run, run: RunInfo) -> Run | None:
        """Returns the run that was created for this process, unless it records another run."""
        run_id = given.info.run_id
        if run.parent or not run.uid or self._is_anew or RUN_UID in given.data.tags:
            return None
        self._open(given)
        self.set_tags({RUN_UID: run.uid, **self.settings.tags})
        if name := self.settings.run_name or run.name:
            self.store.update_run(run_id, name=name)
        found = self.store.get_run(run_id)
        return found if _is_same(found, run) else None  # another process was faster

    def _create(self, run: RunInfo) -> Run:
        tags = {**run.tags, **self.settings.tags} | ({RUN_UID: run.uid} if run.uid else {})
        tags |= self._parent_tags(run)
        if name := self.settings.run_name or run.name:
            tags.pop(MLFLOW_RUN_NAME, None)  # MLflow refuses a run with two names
        with unseeded():
            return self.store.create_run(
                self._experiment_id,
                start_time=run.time_ms or None,
                tags=fitting_tags(tags),
                run_name=name,
            )

    def _parent_tags(self, run: RunInfo) -> dict[str, str]:
        """Returns tags that name the parent: the run in the settings, or the study's run."""
        if self.settings.parent_run_id:
            return {MLFLOW_PARENT_RUN_ID: self.settings.parent_run_id}
        if not run.parent:
            return {MLFLOW_PARENT_RUN_ID: self._given} if self._given else {}
        found = self._tagged(RUN_UID, run.parent, 1)
        known = {MLFLOW_PARENT_RUN_ID: found[0].info.run_id} if found else {}
        return {PARENT_TAG: run.parent} | known

    def _adopt_children(self) -> None:
        """Sets this run as the parent of trials that started before this run existed."""
        for child in self._tagged(PARENT_TAG, self._run.uid, MAX_CHILDREN):
            if MLFLOW_PARENT_RUN_ID not in child.data.tags:
                self.store.set_tag(child.info.run_id, MLFLOW_PARENT_RUN_ID, self.run_id)

    def _tagged(self, tag: str, value: str, n: int) -> list[Run]:
        """Returns up to `n` runs of the experiment in which the tag has this value."""
        query = f"tags.`{tag}` = '{value}'"
        return list(
            self.store.search_runs(
                [self._experiment_id], query, run_view_type=self._view, max_results=n
            )
        )

    def _open(self, entity: Run) -> None:
        """Selects the run for all later records, and reopens it if it has ended."""
        self.run_id, self._experiment_id = entity.info.run_id, entity.info.experiment_id
        if entity.info.lifecycle_stage == "deleted":
            raise LookupError(
                f"the MLflow run {self.run_id} was deleted: "
                f"restore it with '{restore(self.settings.uri, 'runs', 'run-id', self.run_id)}'."
            )
        if self._is_confined:
            self._folder = files_folder(self.settings.uri, entity.info.artifact_uri)
        if entity.info.status != "RUNNING":
            self.store.update_run(self.run_id, status="RUNNING")

    def finish(self, end: RunEnd) -> None:
        """Ends the run with the status for its reason."""
        with refusals():
            if self._run.is_study:
                self._adopt_children()
            self.store.set_terminated(self.run_id, STATUS[end.reason], end.time_ms or None)

    # --- records

    def _params(self, params: Mapping[str, Any], existing: Mapping[str, str]) -> None:
        """Records new params; lists changed params in a tag, because MLflow cannot change them."""
        keys = Keys()
        values = {
            keys[name]: shortened(str(value), MAX_PARAM_VAL_LENGTH)
            for name, value in flatten(params).items()
        }
        changed = sorted(key for key, value in values.items() if existing.get(key, value) != value)
        new = [Param(key, value) for key, value in values.items() if key not in existing]
        for batch in batches(new, MAX_PARAMS_TAGS_PER_BATCH):
            self.store.log_batch(self.run_id, params=batch)
        if changed:
            self.set_tags({DRIFT_TAG: ", ".join(changed)})

    def metrics(self, rows: Sequence[MetricRow]) -> None:
        """Records rows of metrics in batches; repeating a row changes nothing."""
        entities = [metric(key, value, row) for row in rows for key, value in row.values.items()]
        for batch in batches(entities, MAX_METRICS_PER_BATCH):
            with refusals():
                self.store.log_batch(self.run_id, metrics=batch)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Sets tags."""
        entities = [RunTag(key, value) for key, value in fitting_tags(tags).items()]
        for batch in batches(entities, MAX_PARAMS_TAGS_PER_BATCH):
            with refusals():
                self.store.log_batch(self.run_id, tags=batch)

    def figure(self, path: Path, name: str, step: int) -> None:
        """Stores a figure under its name; a later figure with the same name replaces it."""
        self.artifact(path, name)

    def table(self, table: Table, step: int) -> None:
        """Stores a table like MLflow's `log_table`; a later table of the same name replaces it."""
        name = table.name if table.name.endswith(".json") else f"{table.name}.json"
        rows = [
            [None if isinstance(cell, float) and not math.isfinite(cell) else cell for cell in row]
            for row in table.rows
        ]
        text = json.dumps({"columns": list(table.columns), "data": rows})
        self._check_name(name)
        with refusals():
            self.store.log_text(self.run_id, text, name)
            self._show_table(name)

    def _show_table(self, name: str) -> None:
        """Adds a file to the tag that tells MLflow's UI which files to display as tables."""
        tags = self.store.get_run(self.run_id).data.tags
        known = json.loads(tags.get(MLFLOW_LOGGED_ARTIFACTS, "[]"))
        entry = {"path": name, "type": "table"}
        if entry not in known:
            self.store.set_tag(self.run_id, MLFLOW_LOGGED_ARTIFACTS, json.dumps([*known, entry]))

    def artifact(self, path: Path, name: str, aliases: Sequence[str] = ()) -> None:
        """Stores a file under `name`; ignores `aliases`, because MLflow has none for files."""
        self._check_name(name)
        if not path.is_file():
            raise Refused(f"{path} is not a file")
        place = PurePosixPath(name)
        folder = str(place.parent) if len(place.parts) > 1 else None
        with _renamed(path, place.name) as named, refusals():
            self.store.log_artifact(self.run_id, str(named), folder)

    def model(self, model: ModelFile) -> None:
        """Stores a model's weight file and, if the settings request it, an MLflow model.

        Raises:
            Refused: if the MLflow model cannot be built from its configuration and weights.
        """
        suffix = "" if PurePosixPath(model.name).suffix else model.path.suffix
        self.artifact(model.path, f"{model.name}{suffix}")
        if self.settings.log_model or self.settings.registered_model_name:
            from nntrain.integrations.mlflow.registry import log_model  # imports torch

            self._check_models()
            log_model(self.store, self._experiment_id, self.run_id, model, self.settings)

    def _check_name(self, name: str) -> None:
        try:
            check_file_name(name, "Artifact")
        except ValueError as err:
            raise Refused(str(err)) from err
        if self._folder is not None:
            check_inside(self._folder, name)

    def _check_models(self) -> None:
        """Checks where the store keeps MLflow models, if it is not the user's own."""
        if self._is_confined:
            location = self.store.get_experiment(self._experiment_id).artifact_location
            if (folder := files_folder(self.settings.uri, location)) is not None:
                check_inside(folder, "models")


def _is_same(found: Run, run: RunInfo) -> bool:
    """Returns whether a run in the store has the `uid` of a run, or none."""
    return not run.uid or found.data.tags.get(RUN_UID, run.uid) == run.uid


def _lacks(stored: Mapping[str, float], last: Mapping[str, float]) -> bool:
    """Returns whether the store lacks a metric, or has an earlier value as its last one."""
    return any(
        key not in stored or (math.isfinite(value) and stored[key] != value)
        for key, value in last.items()
    )


@contextmanager
def _renamed(path: Path, name: str) -> Iterator[Path]:
    """Yields a path that ends in `name`, because MLflow stores a file under its file name."""
    if path.name == name:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / name
        link.symlink_to(path.absolute())
        yield link
