"""Tests the MLflow tracker on real SQLite stores; test_trackers.py tests all trackers."""

import hashlib
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow.environment_variables
import mlflow.protos.databricks_pb2 as codes
import pytest
import torch
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from nntrain.config.errors import ConfigError
from nntrain.core.names import RUN_UID
from nntrain.integrations.mlflow import CLIENT_SETTINGS, MLflowTracker
from nntrain.integrations.mlflow.client import DRIFT_TAG, MLflowTrackerClient
from nntrain.integrations.mlflow.errors import refusals
from nntrain.integrations.tracker import (
    STUDY_TAG,
    MetricRow,
    ModelFile,
    Refused,
    RunEnd,
    RunInfo,
    Table,
)
from nntrain.models import mlp
from nntrain.result import StopReason

UID = "0123456789abcdef"
MLP = {"_target_": "nntrain.models.mlp", "n_in": 4, "hidden": 3, "n_out": 2}


def started(
    store_uri: str, run: RunInfo | None = None, **settings: Any
) -> tuple[MLflowTrackerClient, MlflowClient]:
    """Returns a client with a started run, and a store client to read it."""
    client = MLflowTracker(store_uri, **settings).connect()
    client.start(run or RunInfo(uid=UID))
    return client, MlflowClient(store_uri)


def params_of(store_uri: str, params: Mapping[Any, Any]) -> dict[str, str]:
    client, store = started(store_uri, RunInfo(uid=UID, params=params))
    return dict(store.get_run(client.run_id).data.params)


# --- settings


def test_the_module_is_imported_without_mlflow_or_torch() -> None:
    code = (
        "import sys; from nntrain.integrations.mlflow import MLflowTracker; "
        "MLflowTracker().resolved(); "
        "print([name for name in ('mlflow', 'sqlalchemy', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_environment_names_the_store_and_the_experiment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://from.the.environment:5000")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "from the environment")
    assert (MLflowTracker().uri, MLflowTracker().experiment) == (
        "http://from.the.environment:5000",
        "from the environment",
    )
    given = MLflowTracker("http://host", "mine")
    assert (given.uri, given.experiment) == ("http://host", "mine")


def test_resolved_settings_mean_the_same_in_another_folder_and_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "theirs")
    resolved = MLflowTracker(
        run_name="one", tags={"a": "b"}, parent_run_id="p", log_model=True
    ).resolved()
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    assert resolved == MLflowTracker(
        f"sqlite:///{tmp_path}/mlflow.db", "theirs", "one", {"a": "b"}, "p", log_model=True
    )
    assert resolved.resolved() == resolved


@pytest.mark.parametrize(
    ("uri", "resolved"),
    [
        ("sqlite:///runs/a b.db", "sqlite:///{cwd}/runs/a b.db"),
        ("sqlite:////abs/mlflow.db", "sqlite:////abs/mlflow.db"),
        ("sqlite://", "sqlite://"),
        ("https://host/path", "https://host/path"),
        ("postgresql+psycopg2://user@host/db", "postgresql+psycopg2://user@host/db"),
        ("databricks", "databricks"),
        ("databricks://profile", "databricks://profile"),
    ],
)
def test_only_the_path_of_an_sqlite_file_is_resolved(uri: str, resolved: str) -> None:
    assert MLflowTracker(uri).resolved().tracking_uri == resolved.format(cwd=Path.cwd())


@pytest.mark.parametrize(
    "uri",
    ["foo://somewhere", "./mlruns", "file:///tmp/mlruns", "mlruns", "localhost:5000", "http://"],
)
@pytest.mark.parametrize("key", ["tracker.mlflow.tracking_uri", "MLFLOW_TRACKING_URI"])
def test_an_invalid_uri_is_an_error_of_one_sentence(
    monkeypatch: pytest.MonkeyPatch, uri: str, key: str
) -> None:
    is_given = key.startswith("tracker")
    if not is_given:
        monkeypatch.setenv(key, uri)
    with pytest.raises(ConfigError) as caught:
        MLflowTracker(uri if is_given else None)
    message = str(caught.value)
    assert message.startswith(f"{key}={uri} ")
    assert "\n" not in message
    assert "set it to " in message


def test_logins_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    uri = "ftp://ann:hunter2@host"
    with pytest.raises(ConfigError) as caught:
        MLflowTracker(uri)
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in repr(MLflowTracker("http://ann:hunter2@host"))


def test_mlflow_knows_all_client_settings() -> None:
    for name, value in CLIENT_SETTINGS.items():
        known = getattr(mlflow.environment_variables, name)
        assert known.name == name
        assert str(known.type(value) if known.type is not bool else value) == value


def test_connect_adds_the_client_settings_that_the_user_has_not_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in CLIENT_SETTINGS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "120")
    MLflowTracker("sqlite:///a.db").connect()
    found = {name: os.environ[name] for name in CLIENT_SETTINGS}
    assert found == {**CLIENT_SETTINGS, "MLFLOW_HTTP_REQUEST_TIMEOUT": "120"}
    assert not Path("a.db").exists()


# --- runs


def test_the_run_follows_the_settings(store_uri: str) -> None:
    run = RunInfo(
        uid=UID, name="not this", tags={"a": "b"}, texts={"config.yaml": "lr: 1\n"}, time_ms=123_456
    )
    settings = {
        "experiment_name": "mine",
        "run_name": "this",
        "tags": {"team": "c"},
        "parent_run_id": "f" * 32,
    }
    client, store = started(store_uri, run, **settings)
    entity = store.get_run(client.run_id)
    assert (entity.info.run_name, entity.info.status, entity.info.start_time) == (
        "this",
        "RUNNING",
        123_456,
    )
    assert store.get_experiment(entity.info.experiment_id).name == "mine"
    expected = {"a": "b", "team": "c", "mlflow.parentRunId": "f" * 32, RUN_UID: UID}
    assert expected.items() <= entity.data.tags.items()
    assert Path(store.download_artifacts(client.run_id, "config.yaml")).read_text() == "lr: 1\n"
    client.finish(RunEnd(StopReason.COMPLETED, time_ms=234_567))
    assert store.get_run(client.run_id).info.end_time == 234_567


def test_runs_without_a_name_get_different_names_whatever_the_seed(store_uri: str) -> None:
    names, draws = set(), set()
    for i in range(3):
        random.seed(0)
        client, store = started(store_uri, RunInfo(uid=f"{i:016x}"))
        names.add(store.get_run(client.run_id).info.run_name)
        draws.add(random.random())
    assert len(names) == 3
    assert len(draws) == 1


def test_runs_that_start_together_on_a_new_database_share_the_experiment(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/new folder/mlflow.db"
    clients = [MLflowTracker(uri).connect() for _ in range(4)]
    threads = [
        threading.Thread(target=client.start, args=(RunInfo(uid=f"{i:016x}"),))
        for i, client in enumerate(clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store = MlflowClient(uri)
    runs = store.search_runs([store.get_experiment_by_name("nntrain").experiment_id])
    assert {run.data.tags[RUN_UID] for run in runs} == {f"{i:016x}" for i in range(4)}


def test_files_are_stored_beside_the_database_wherever_the_process_runs(
    store_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    resolved = MLflowTracker(store_uri).resolved()
    monkeypatch.chdir(elsewhere)
    resolved.connect().start(RunInfo(uid=UID, texts={"config.yaml": "lr: 1\n"}))
    (kept,) = (tmp_path / "mlruns").rglob("config.yaml")
    assert kept.read_text() == "lr: 1\n"
    assert list(elsewhere.iterdir()) == []


def test_a_deleted_run_is_an_error_until_it_is_restored(store_uri: str) -> None:
    client, store = started(store_uri)
    store.delete_run(client.run_id)
    for run_id in (None, client.run_id):
        with pytest.raises(LookupError, match=f"mlflow runs restore --run-id {client.run_id}"):
            MLflowTracker(store_uri).connect().start(RunInfo(uid=UID), run_id)
    store.restore_run(client.run_id)
    assert MLflowTracker(store_uri).connect().start(RunInfo(uid=UID)).run_id == client.run_id


def test_a_deleted_experiment_is_an_error(store_uri: str) -> None:
    _, store = started(store_uri)
    experiment = store.get_experiment_by_name("nntrain").experiment_id
    store.delete_experiment(experiment)
    with pytest.raises(LookupError, match=f"'nntrain' was deleted.*--experiment-id {experiment}"):
        MLflowTracker(store_uri).connect().start(RunInfo(uid=UID))


def test_an_experiment_that_another_process_creates_meanwhile_is_used(
    store_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = MlflowClient.get_experiment_by_name

    def too_early(store: MlflowClient, name: str) -> Any:
        monkeypatch.setattr(MlflowClient, "get_experiment_by_name", find)
        store.create_experiment(name)

    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", too_early)
    client, store = started(store_uri)
    made = store.get_experiment_by_name("nntrain").experiment_id
    assert store.get_run(client.run_id).info.experiment_id == made


def test_a_run_that_starts_again_is_running(store_uri: str) -> None:
    client, store = started(store_uri)
    client.finish(RunEnd(StopReason.INTERRUPTED))
    MLflowTracker(store_uri).connect().start(RunInfo(uid=UID), client.run_id)
    assert store.get_run(client.run_id).info.status == "RUNNING"


@pytest.mark.parametrize(
    ("uri", "command"),
    [
        ("sqlite:///mlflow.db", "mlflow ui\n"),
        ("sqlite:///{folder}/mlflow.db", "mlflow ui\n"),
        (
            "sqlite:///{folder}/other.db",
            "mlflow ui --backend-store-uri sqlite:///{folder}/other.db\n",
        ),
    ],
)
def test_the_command_that_opens_the_run_is_shown(
    store_uri: str, tmp_path: Path, uri: str, command: str
) -> None:
    (tmp_path / "other.db").write_bytes((tmp_path / "mlflow.db").read_bytes())
    client = MLflowTracker(uri.format(folder=tmp_path), run_name="mine").connect()
    where = client.start(RunInfo(uid=UID)).where
    assert where.startswith("MLflow run:      mine, experiment nntrain, ")
    assert command.format(folder=tmp_path) in where
    assert where.endswith(f"/#/experiments/1/runs/{client.run_id}/model-metrics")


def test_a_store_that_cannot_be_read_is_an_error_and_is_not_changed(tmp_path: Path) -> None:
    (tmp_path / "no database.db").write_text("not a database " * 100)
    with pytest.raises(Exception, match=r"not a database"):
        MLflowTracker("sqlite:///no database.db").connect().start(RunInfo(uid=UID))
    assert (tmp_path / "no database.db").read_text() == "not a database " * 100


# --- what `mlflow run` and users have set in the environment


def parent_of(store: MlflowClient, run_id: str) -> str | None:
    parent: str | None = store.get_run(run_id).data.tags.get("mlflow.parentRunId")
    return parent


@pytest.fixture
def given(store_uri: str, monkeypatch: pytest.MonkeyPatch) -> tuple[MlflowClient, Run]:
    """A run that was created for this process."""
    store = MlflowClient(store_uri)
    run = store.create_run(store.create_experiment("vision"), run_name="theirs")
    store.log_param(run.info.run_id, "alpha", "1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store_uri)
    monkeypatch.setenv("MLFLOW_RUN_ID", run.info.run_id)
    return store, run


@pytest.mark.parametrize("has_experiment", [True, False])
def test_the_run_that_was_created_for_this_process_is_used(
    given: tuple[MlflowClient, Run], monkeypatch: pytest.MonkeyPatch, has_experiment: bool
) -> None:
    store, run = given
    if has_experiment:
        monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", run.info.experiment_id)
    tracker = MLflowTracker(tags={"mine": "1"}).resolved()
    began = tracker.connect().start(RunInfo(uid=UID, params={"lr": 1}))
    assert began.run_id == run.info.run_id
    assert began.where.startswith("MLflow run:      theirs, experiment vision, ")
    kept = store.get_run(run.info.run_id)
    assert kept.data.params == {"alpha": "1", "lr": "1"}
    assert kept.data.tags["mine"] == "1"
    assert tracker.connect().start(RunInfo(uid=UID), began.run_id).run_id == began.run_id
    assert tracker.connect().start(RunInfo(uid=UID)).run_id == began.run_id


def test_later_runs_of_the_process_lie_below_the_run_that_was_created_for_it(
    given: tuple[MlflowClient, Run],
) -> None:
    store, run = given
    start = MLflowTracker().resolved().connect().start
    start(RunInfo(uid=UID))
    second = start(RunInfo(uid=UID.replace("0", "f"))).run_id
    assert second != run.info.run_id
    assert parent_of(store, second) == run.info.run_id
    assert store.get_run(second).info.experiment_id == run.info.experiment_id


def test_the_run_that_was_created_is_the_studys_and_trials_lie_below_it(
    given: tuple[MlflowClient, Run],
) -> None:
    store, run = given
    connect = MLflowTracker().resolved().connect
    study = RunInfo(uid=UID, group="s", tags={STUDY_TAG: "s"})
    first = connect().start(RunInfo(uid="1" * 16, parent=UID, group="s")).run_id
    client = connect()
    assert client.start(study).run_id == run.info.run_id
    second = connect().start(RunInfo(uid="2" * 16, parent=UID, group="s")).run_id
    client.finish(RunEnd(StopReason.COMPLETED))
    assert [parent_of(store, trial) for trial in (first, second)] == [run.info.run_id] * 2


def test_the_id_of_the_experiment_may_come_from_the_environment(
    store_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MlflowClient(store_uri)
    experiment = store.create_experiment("vision")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment)
    tracker = MLflowTracker(store_uri).resolved()
    monkeypatch.delenv("MLFLOW_EXPERIMENT_ID")
    run_id = tracker.connect().start(RunInfo(uid=UID)).run_id
    assert store.get_run(run_id).info.experiment_id == experiment


def test_a_name_in_the_configuration_or_another_store_comes_before_the_environment(
    given: tuple[MlflowClient, Run], tmp_path: Path, empty_store: Path
) -> None:
    store, run = given
    run_id = MLflowTracker(experiment_name="mine").connect().start(RunInfo(uid=UID)).run_id
    named = store.get_experiment_by_name("mine").experiment_id
    assert store.get_run(run_id).info.experiment_id == named
    shutil.copy(empty_store, tmp_path / "other.db")
    other = f"sqlite:///{tmp_path}/other.db"
    assert started(other)[0].run_id != run.info.run_id


def test_a_given_run_of_another_experiment_is_named_and_not_used(
    given: tuple[MlflowClient, Run],
) -> None:
    store, run = given
    began = MLflowTracker(experiment_name="mine").connect().start(RunInfo(uid=UID))
    assert began.run_id != run.info.run_id
    assert parent_of(store, began.run_id) is None
    told = f"not used:        MLFLOW_RUN_ID={run.info.run_id}, in another experiment"
    assert began.where.splitlines()[-1] == told


def test_a_given_run_that_has_ended_is_opened_again(given: tuple[MlflowClient, Run]) -> None:
    store, run = given
    store.set_terminated(run.info.run_id)
    client = MLflowTracker().connect()
    assert client.start(RunInfo(uid=UID)).run_id == run.info.run_id
    assert store.get_run(run.info.run_id).info.status == "RUNNING"
    client.finish(RunEnd(StopReason.COMPLETED))
    assert store.get_run(run.info.run_id).info.status == "FINISHED"


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("MLFLOW_TRACKING_URI", "http://host:abc", "does not name a server"),
        ("MLFLOW_TRACKING_URI", "http://[::1", "does not name a server"),
        ("MLFLOW_TRACKING_URI", "postgresql://host:abc/d", "does not name a server"),
        ("MLFLOW_TRACKING_URI", "sqlite://mlflow.db", "write three slashes"),
        ("MLFLOW_TRACKING_URI", "sqlite:////", "names a folder"),
        ("MLFLOW_TRACKING_URI", "mlruns", "is not a valid MLflow store"),
        ("MLFLOW_EXPERIMENT_NAME", "x" * 501, "has 501 characters"),
        ("MLFLOW_EXPERIMENT_ID", "a/b", "is not an id of MLflow"),
        ("MLFLOW_RUN_ID", "a b", "is not an id of MLflow"),
    ],
)
def test_a_value_that_mlflow_does_not_accept_is_one_sentence_before_training(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, told: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=told) as caught:
        MLflowTracker()
    assert str(caught.value).startswith(f"{variable}={value[:50]}")
    assert "\n" not in str(caught.value)


def test_a_database_that_may_not_be_written_is_named(
    store_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everything
    with pytest.raises(PermissionError, match=r"no permission to read and write.*mlflow\.db"):
        MLflowTracker(store_uri).connect().start(RunInfo(uid=UID))


@pytest.mark.parametrize("variable", ["MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID"])
def test_an_unknown_id_in_the_environment_is_one_sentence(
    store_uri: str, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store_uri)
    monkeypatch.setenv(variable, "77")
    told = rf"77 does not exist: correct .*{variable}|{variable}=77 does not exist"
    with pytest.raises(LookupError, match=told):
        MLflowTracker().connect().start(RunInfo(uid=UID))


# --- params


def test_a_long_value_ends_in_its_hash(store_uri: str) -> None:
    one, other = "x" * 7_000, "x" * 6_999 + "y"
    kept = params_of(store_uri, {"one": one, "other": other, "fits": "x" * 6_000})
    assert (len(kept["one"]), len(kept["other"])) == (6_000, 6_000)
    assert (
        kept["one"]
        == "x" * (6_000 - 23) + "... sha256:" + hashlib.sha256(one.encode()).hexdigest()[:12]
    )
    assert kept["one"] != kept["other"]
    assert kept["fits"] == "x" * 6_000


def test_names_are_made_valid_and_stay_different(store_uri: str) -> None:
    kept = params_of(store_uri, {"a=b": 1, "a#b": 2, 3: 4, "deep": {"er": {"x": 5}}, "k" * 300: 6})
    assert {"a_b": "1", "a_b_2": "2", "3": "4", "deep.er.x": "5"}.items() <= kept.items()
    assert len(kept) == 5


def test_a_resume_with_other_params_keeps_the_first_values_and_names_them(store_uri: str) -> None:
    client, store = started(
        store_uri, RunInfo(uid=UID, params={"lr": 0.1, "n_epoch": 2, "seed": 0})
    )
    MLflowTracker(store_uri).connect().start(
        RunInfo(uid=UID, params={"lr": 0.2, "n_epoch": 4, "seed": 0, "new": 1}), client.run_id
    )
    data = store.get_run(client.run_id).data
    assert data.params == {"lr": "0.1", "n_epoch": "2", "seed": "0", "new": "1"}
    assert data.tags[DRIFT_TAG] == "lr, n_epoch"


# --- records


def test_a_table_is_stored_as_mlflows_and_once_if_repeated(store_uri: str) -> None:
    client, store = started(store_uri)
    table = Table("pairs", ["digit", "share"], [[3, 0.5], [8, float("nan")]])
    for _ in range(2):
        client.table(table, 1)
    loaded = store.load_table("1", "pairs.json", [client.run_id])
    text = Path(store.download_artifacts(client.run_id, "pairs.json")).read_text()
    assert "NaN" not in text  # browsers cannot parse NaN in JSON
    assert loaded["digit"].tolist() == [3, 8]
    assert loaded["share"].isna().tolist() == [False, True]
    tag = store.get_run(client.run_id).data.tags["mlflow.loggedArtifacts"]
    assert json.loads(tag) == [{"path": "pairs.json", "type": "table"}]


@pytest.mark.parametrize(
    "name",
    [
        "../up.txt",
        "/absolute.txt",
        "a/../../up.txt",
        "nul\0.txt",
        "",
        ".",
        "a\\b",
        "n" * 300,
        "a#b",
        "a%2e",
    ],
)
def test_an_artifact_cannot_be_stored_outside_the_run(
    store_uri: str, tmp_path: Path, name: str
) -> None:
    (tmp_path / "file.txt").write_text("text")
    client, store = started(store_uri)
    with pytest.raises(Refused, match="Artifact name"):
        client.artifact(tmp_path / "file.txt", name)
    assert store.list_artifacts(client.run_id) == []
    assert not (tmp_path.parent / "up.txt").exists()


def test_a_file_below_a_file_is_refused(store_uri: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    client, _ = started(store_uri)
    client.artifact(tmp_path / "file", "report")
    with pytest.raises(Refused, match="report"):
        client.artifact(tmp_path / "file", "report/part")


@pytest.mark.parametrize(
    "row",
    [
        MetricRow(1, 2**63, {"a": 1.0}),
        MetricRow(-1, 1, {"a": 1.0}),
        MetricRow(2**63, 1, {"a": 1.0}),
        MetricRow(1, 1, {"a(b)": 1.0}),
        MetricRow(1, 1, {"../a": 1.0}),
        MetricRow(1, 1, {"": 1.0}),
        MetricRow(1, 1, {"k" * 251: 1.0}),
        MetricRow(1, 1, {"a": None}),  # type: ignore[dict-item]
        MetricRow(1, 1, {"a": "much"}),  # type: ignore[dict-item]
        MetricRow(1, 1, {"a": 10**400}),
    ],
)
def test_a_row_that_mlflow_never_accepts_is_refused(store_uri: str, row: MetricRow) -> None:
    client, store = started(store_uri)
    with pytest.raises(Refused):
        client.metrics([row])
    assert store.get_run(client.run_id).data.metrics == {}


@pytest.mark.parametrize(
    ("code", "message", "is_refused"),
    [
        ("INVALID_PARAMETER_VALUE", "bad name", True),
        ("BAD_REQUEST", "bad request", True),
        (
            "BAD_REQUEST",
            "QueuePool limit (Background on this error at: https://sqlalche.me/e/20/3o7r)",
            False,
        ),
        ("TEMPORARILY_UNAVAILABLE", "database is locked", False),
        ("INTERNAL_ERROR", "API request failed", False),
        ("REQUEST_LIMIT_EXCEEDED", "429", False),
        ("RESOURCE_DOES_NOT_EXIST", "no such run", False),
        ("ENDPOINT_NOT_FOUND", "404", False),
        ("PERMISSION_DENIED", "403", False),
        ("UNAUTHENTICATED", "401", False),
    ],
)
def test_only_bad_requests_are_refused(code: str, message: str, is_refused: bool) -> None:
    expected = Refused if is_refused else MlflowException
    with pytest.raises(expected, match=message[:10]), refusals():
        raise MlflowException(message, error_code=codes.ErrorCode.Value(code))


@pytest.mark.slow
def test_a_locked_database_can_be_tried_again(store_uri: str, tmp_path: Path) -> None:
    client, store = started(store_uri)
    rows = [MetricRow(1, 1, {"loss": 1.0})]
    writer = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    with pytest.raises(MlflowException, match="locked"):  # after MLflow has waited 20 s
        client.metrics(rows)
    writer.rollback()
    writer.close()
    client.metrics(rows)
    assert len(store.get_metric_history(client.run_id, "loss")) == 1


# --- models


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Returns the path of a checkpoint with weights for the model that `MLP` configures."""
    torch.manual_seed(0)
    torch.save({"model": mlp(4, 3, 2).state_dict()}, tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


def test_by_default_only_the_weights_of_a_model_are_stored(store_uri: str, weights: Path) -> None:
    client, store = started(store_uri)
    client.model(ModelFile(weights, "model", ["best"], MLP))
    assert (
        Path(store.download_artifacts(client.run_id, "model.ckpt")).read_bytes()
        == weights.read_bytes()
    )
    assert store.search_logged_models(["1"]) == []


@pytest.fixture
def registered(store_uri: str, weights: Path) -> tuple[MlflowClient, str]:
    """Logs the same model twice; returns the client of the store and the ID of the run."""
    client, store = started(store_uri, registered_model_name="digits")
    for _ in range(2):
        client.model(ModelFile(weights, "checkpoints/best.ckpt", ["best", "latest"], MLP))
    return store, client.run_id


# MLflow warns about a type hint in its own code: "Any type hint is inferred as AnyType".
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_model_is_registered_in_the_given_store_and_not_in_the_default_one(
    empty_store: Path, weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(empty_store, tmp_path / "elsewhere" / "mlflow.db")
    client, store = started(
        f"sqlite:///{tmp_path}/elsewhere/mlflow.db", registered_model_name="digits"
    )
    client.model(ModelFile(weights, "best.pt", ["best"], MLP))
    assert store.get_model_version_by_alias("digits", "best").run_id == client.run_id
    assert not (tmp_path / "mlflow.db").exists()
    assert "MLFLOW_TRACKING_URI" not in os.environ


# MLflow warns about a type hint in its own code: "Any type hint is inferred as AnyType".
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_mlflow_can_load_a_registered_model(
    registered: tuple[MlflowClient, str], weights: Path, store_uri: str
) -> None:
    mlflow.set_tracking_uri(store_uri)
    try:
        loaded = mlflow.pytorch.load_model("models:/digits@best")
    finally:
        mlflow.set_tracking_uri(None)
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    model, x = mlp(4, 3, 2), torch.randn(5, 4)
    model.load_state_dict(torch.load(weights, weights_only=True)["model"])
    assert torch.equal(loaded(x), model(x))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_logging_the_same_model_twice_creates_one_version(
    registered: tuple[MlflowClient, str],
) -> None:
    store, run_id = registered
    (logged,) = store.search_logged_models(["1"])
    assert (logged.name, str(logged.status), logged.source_run_id) == ("best", "READY", run_id)
    (version,) = store.search_model_versions("name = 'digits'")
    assert (version.version, version.run_id, version.source) == (
        1,
        run_id,
        f"models:/{logged.model_id}",
    )
    assert store.get_registered_model("digits").aliases == {"best": version.version}
    outputs = store.get_run(run_id).outputs.model_outputs
    assert [output.model_id for output in outputs] == [logged.model_id]


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (None, "has no configuration"),
        ({"_target_": "os.system", "command": "touch hacked"}, "is not trusted"),
        ({**MLP, "n_in": 5}, "size mismatch"),
        ({**MLP, "nin": 5}, "did you mean 'n_in'"),
        ({"_target_": "nntrain.models.gone"}, "gone"),
    ],
)
def test_a_model_that_cannot_be_instantiated_is_refused_after_its_weights_are_stored(
    store_uri: str, weights: Path, node: Mapping[str, Any] | None, message: str
) -> None:
    client, store = started(store_uri, log_model=True)
    with pytest.raises(Refused, match=message):
        client.model(ModelFile(weights, "model", [], node))
    assert [file.path for file in store.list_artifacts(client.run_id)] == ["model.ckpt"]
    assert not Path("hacked").exists()
