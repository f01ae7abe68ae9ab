"""Tests the MLflow tracker on real servers without retries, with and without injected faults."""

import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from nntrain.integrations.mlflow import MLflowTracker
from nntrain.integrations.mlflow.client import MLflowTrackerClient
from nntrain.integrations.tracker import MetricRow, ModelFile, RunEnd, RunInfo, Table
from nntrain.models import mlp
from nntrain.result import StopReason
from tests.common.servers import (
    PASSWORD,
    POSTGRES_BIN,
    USER,
    Fault,
    FaultyServer,
    MlflowServer,
    postgresql,
)

pytestmark = pytest.mark.slow

UID = "0123456789abcdef"
LIMIT_S = 15
"""The maximum duration of a call; MLflow's store gives up after 10 s."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    with MlflowServer(tmp_path_factory.mktemp("server")) as running:
        yield running


def rows_of(n: int) -> list[MetricRow]:
    return [MetricRow(1_000 + i, i, {"loss": i / 7}) for i in range(n)]


def track_a_run(client: MLflowTrackerClient, folder: Path, uid: str) -> str:
    """Tracks a run with every kind of record and returns its id."""
    params = {f"key_{i}": "é" * 5_000 for i in range(120)}  # too large for one request
    params["nul"] = "\0"  # PostgreSQL cannot store NUL characters
    run_id = client.start(RunInfo(uid=uid, params=params, texts={"config.yaml": "lr: 1\n"})).run_id
    client.metrics(rows_of(1_200))
    (folder / "file").write_text("a,b\n")
    client.artifact(folder / "file", "reports/confusion é.csv")
    client.table(Table("pairs", ["n"], [[1], [2]]), 1)
    client.finish(RunEnd(StopReason.PRUNED, time_ms=9_000))
    return run_id


def assert_stored(uri: str, run_id: str, n_row: int = 1_200) -> None:
    store = MlflowClient(uri)
    run = store.get_run(run_id)
    assert (run.info.status, len(run.data.params)) == ("KILLED", 121)
    assert [(p.step, p.value) for p in store.get_metric_history(run_id, "loss")] == [
        (i, i / 7) for i in range(n_row)
    ]
    assert sorted(file.path for file in store.list_artifacts(run_id)) == [
        "config.yaml",
        "pairs.json",
        "reports",
    ]
    assert Path(store.download_artifacts(run_id, "reports/confusion é.csv")).read_text() == "a,b\n"


def n_runs(uri: str, uid: str) -> int:
    store = MlflowClient(uri)
    experiment = store.get_experiment_by_name("nntrain").experiment_id
    return len(store.search_runs([experiment], f"tags.`nntrain.run` = '{uid}'"))


def test_a_server_stores_a_run(server: MlflowServer, tmp_path: Path) -> None:
    client = MLflowTracker(server.uri).connect()
    where = client.start(RunInfo(uid=UID)).where
    assert f"{server.uri}/#/experiments/1/runs/{client.run_id}/model-metrics" in where
    assert_stored(server.uri, track_a_run(client, tmp_path, UID))
    assert n_runs(server.uri, UID) == 1


# MLflow warns about a type hint in its own code: "Any type hint is inferred as AnyType".
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_server_registers_a_model_once(server: MlflowServer, tmp_path: Path) -> None:
    torch.save({"model": mlp(4, 3, 2).state_dict()}, tmp_path / "last.ckpt")
    node = {"_target_": "nntrain.models.mlp", "n_in": 4, "hidden": 3, "n_out": 2}
    client = MLflowTracker(server.uri, registered_model_name="digits").connect()
    run_id = client.start(RunInfo(uid="9" * 16)).run_id
    for _ in range(2):
        client.model(ModelFile(tmp_path / "last.ckpt", "model", ["best"], node))
    store = MlflowClient(server.uri)
    (version,) = store.search_model_versions("name = 'digits'")
    assert version.run_id == run_id
    assert store.get_model_version_by_alias("digits", "best").version == version.version
    (logged,) = store.search_logged_models(["1"], "name = 'model'")
    assert (str(logged.status), version.source) == ("READY", f"models:/{logged.model_id}")


@pytest.mark.skipif(
    POSTGRES_BIN is None and not os.environ.get("CI"),
    reason="needs PostgreSQL: apt install postgresql",
)
def test_postgresql_stores_a_run_with_a_server_and_directly(tmp_path: Path) -> None:
    with postgresql() as store:
        with MlflowServer(tmp_path / "server", store) as server:
            assert_stored(
                server.uri, track_a_run(MLflowTracker(server.uri).connect(), tmp_path, UID)
            )
        direct = MLflowTracker(store, "direct").connect()
        assert_stored(store, track_a_run(direct, tmp_path, "1" * 16))


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A server that requires `USER` and `PASSWORD`."""
    with MlflowServer(tmp_path_factory.mktemp("guarded"), has_logins=True) as running:
        yield running


def test_a_server_with_logins_stores_a_run_only_with_the_right_password(
    guarded: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
    # not `Refused`, because the user may correct the password
    with pytest.raises(MlflowException, match="401"):
        MLflowTracker(guarded.uri).connect().start(RunInfo(uid=UID))
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    assert_stored(guarded.uri, track_a_run(MLflowTracker(guarded.uri).connect(), tmp_path, UID))


def test_the_password_in_the_uri_is_not_shown(guarded: MlflowServer) -> None:
    login = f"{USER}:{PASSWORD.replace(' ', '%20')}"
    tracker = MLflowTracker(guarded.uri.replace("//", f"//{login}@"))
    started = tracker.connect().start(RunInfo(uid="1" * 16))
    assert started.run_id
    assert PASSWORD.split()[0] not in started.where


@pytest.mark.parametrize("fault", [Fault.ERROR, Fault.TOO_MANY, Fault.HANG])
def test_a_faulty_server_is_an_error_within_the_limit_and_works_once_it_has_recovered(
    server: MlflowServer, fault: Fault
) -> None:
    uid = f"{list(Fault).index(fault):016x}"
    with FaultyServer(server.uri) as faulty:
        client = MLflowTracker(faulty.uri).connect()
        run_id = client.start(RunInfo(uid=uid)).run_id
        faulty.fault = fault
        began = time.monotonic()
        with pytest.raises(MlflowException):
            client.metrics(rows_of(10))
        assert time.monotonic() - began < LIMIT_S
        assert faulty.n_faults == 1
        faulty.fault = Fault.NONE
        client.metrics(rows_of(10))
    assert len(MlflowClient(server.uri).get_metric_history(run_id, "loss")) == 10


def retried(client: MLflowTrackerClient, uid: str, batches: Sequence[Sequence[MetricRow]]) -> int:
    """Sends all batches, restarts the run after each error, and returns the number of errors."""
    n_error = 0
    pending = list(batches)
    is_started = False
    while pending:
        try:
            if not is_started:
                client.start(RunInfo(uid=uid, params={"lr": 0.1}))
                is_started = True
            client.metrics(pending[0])
            pending.pop(0)
        except MlflowException:
            n_error, is_started = n_error + 1, False
    return n_error


def test_lost_replies_do_not_duplicate_points_or_runs(server: MlflowServer) -> None:
    uid = "7" * 16
    batches = [[row] for row in rows_of(40)]
    with FaultyServer(server.uri, Fault.LOST_REPLY, every=7) as faulty:
        n_error = retried(MLflowTracker(faulty.uri).connect(), uid, batches)
        assert n_error == faulty.n_faults > 5
    store = MlflowClient(server.uri)
    assert n_runs(server.uri, uid) == 1
    run = store.search_runs(["1"], f"tags.`nntrain.run` = '{uid}'")[0]
    history = store.get_metric_history(run.info.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(i, i / 7) for i in range(40)]


def test_a_lost_reply_when_a_run_is_created_does_not_create_a_second_run(
    server: MlflowServer,
) -> None:
    uid = "8" * 16
    with FaultyServer(server.uri) as faulty:
        for every in range(1, 12):  # each time, a different request of `start` gets no reply
            faulty.fault, faulty.every, faulty.n_requests = Fault.LOST_REPLY, every, 0
            try:
                MLflowTracker(faulty.uri).connect().start(
                    RunInfo(uid=uid, params={"lr": 0.1}, texts={"config.yaml": "lr: 0.1"})
                )
            except MlflowException:
                continue
        assert faulty.n_faults > 3
    assert n_runs(server.uri, uid) == 1


def test_after_a_restart_of_a_killed_server_the_run_continues(tmp_path: Path) -> None:
    server = MlflowServer(tmp_path / "server")
    with server:
        client = MLflowTracker(server.uri).connect()
        run_id = client.start(RunInfo(uid=UID)).run_id
        client.metrics(rows_of(10))
        server.kill()
        began = time.monotonic()
        with pytest.raises(MlflowException):
            client.metrics(rows_of(20)[10:])
        assert time.monotonic() - began < LIMIT_S
        server.start()
        client.metrics(rows_of(20)[10:])
        history = MlflowClient(server.uri).get_metric_history(run_id, "loss")
        assert [point.step for point in history] == list(range(20))


def test_an_unreachable_server_is_an_error_within_the_limit() -> None:
    began = time.monotonic()
    with pytest.raises(MlflowException, match=r"127\.0\.0\.1"):
        MLflowTracker("http://127.0.0.1:9").connect().start(RunInfo(uid=UID))
    assert time.monotonic() - began < LIMIT_S


def test_a_database_that_never_answers_is_an_error_within_the_limit() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with pytest.raises(Exception, match="timeout expired"):
            MLflowTracker(
                f"postgresql+psycopg2://ann@127.0.0.1:{silent.getsockname()[1]}/db"
            ).connect().start(RunInfo(uid=UID))
    assert time.monotonic() - began < LIMIT_S


def test_simultaneous_runs_on_one_server_do_not_mix(server: MlflowServer) -> None:
    def keep(i: int) -> None:
        client = MLflowTracker(server.uri).connect()
        client.start(RunInfo(uid=f"{i:x}" * 16, tags={"i": str(i)}))
        for row in rows_of(20):
            client.metrics([MetricRow(row.time_ms, row.step, {"loss": row.values["loss"] + i})])
        client.finish(RunEnd(StopReason.COMPLETED))

    threads = [threading.Thread(target=keep, args=(i,)) for i in range(10, 16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store = MlflowClient(server.uri)
    for i in range(10, 16):
        (run,) = store.search_runs(["1"], f"tags.i = '{i}'")
        history = store.get_metric_history(run.info.run_id, "loss")
        assert [point.value for point in history] == [step / 7 + i for step in range(20)]
        assert run.info.status == "FINISHED"
