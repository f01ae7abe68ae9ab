"""MLflow, on a real SQLite store."""

from pathlib import Path

import pytest
import torch
from mlflow.tracking import MlflowClient

from nntrain import StopReason
from nntrain.config.errors import ConfigError
from nntrain.integrations.adapter import TrackerCallback
from nntrain.integrations.base import MetricRow, RunInfo, Tracker
from nntrain.integrations.mlflow import STATUS, MLflowTracker
from tests.common.toys import toy_learner


def started(store_uri: str, info: RunInfo | None = None) -> tuple[MLflowTracker, MlflowClient]:
    """A tracker whose run has begun, and a client to look at it."""
    tracker = MLflowTracker(store_uri)
    tracker.start(info or RunInfo())
    return tracker, MlflowClient(store_uri)


def test_it_is_a_tracker(store_uri: str) -> None:
    assert isinstance(MLflowTracker(store_uri), Tracker)


def test_params_tags_and_texts_are_kept(store_uri: str, tmp_path: Path) -> None:
    params = {f"group.key_{i}": i for i in range(250)} | {"long": "x" * 7000, "list": [1, 2], "none": None}
    tracker, client = started(store_uri, RunInfo(params, {"a": "b"}, {"config.yaml": "lr: 1\n"}))
    run = client.get_run(tracker.run_id)
    assert len(run.data.params) == 253
    assert run.data.params["group.key_249"] == "249"
    assert run.data.params["list"] == "[1, 2]"
    assert run.data.params["long"] == "x" * 6000
    assert run.data.tags["a"] == "b"
    path = client.download_artifacts(tracker.run_id, "config.yaml", str(tmp_path))
    assert Path(path).read_text() == "lr: 1\n"


def test_rows_beyond_mlflows_batch_limit_are_all_kept_in_order(store_uri: str) -> None:
    tracker, client = started(store_uri)
    tracker.metrics([MetricRow(1_000 + i, i, {"loss": i / 7, "lr": 1.0}) for i in range(1_200)])
    history = client.get_metric_history(tracker.run_id, "loss")
    assert [(point.step, point.value, point.timestamp) for point in history] == [(i, i / 7, 1_000 + i) for i in range(1_200)]


def test_the_same_rows_twice_change_nothing(store_uri: str) -> None:
    tracker, client = started(store_uri)
    rows = [MetricRow(1_000 + i, i, {"loss": float(i)}) for i in range(10)]
    tracker.metrics(rows)
    tracker.metrics(rows)
    assert len(client.get_metric_history(tracker.run_id, "loss")) == 10


def test_nan_stays_nan(store_uri: str) -> None:
    tracker, client = started(store_uri)
    tracker.metrics([MetricRow(1, 1, {"loss": float("nan")})])
    value = client.get_metric_history(tracker.run_id, "loss")[0].value
    assert value != value


@pytest.mark.parametrize("reason", list(StopReason))
def test_the_status_is_that_of_the_outcome_table(store_uri: str, reason: StopReason) -> None:
    expected = {
        "completed": "FINISHED",
        "early_stopped": "FINISHED",
        "budget": "FINISHED",
        "pruned": "KILLED",
        "diverged": "FAILED",
        "interrupted": "KILLED",
        "error": "FAILED",
        "out_of_memory": "FAILED",
    }
    tracker, client = started(store_uri)
    tracker.finish(reason)
    run = client.get_run(tracker.run_id)
    assert run.info.status == STATUS[reason] == expected[reason.value]
    assert run.info.end_time is not None


def test_a_run_can_be_gone_on_with(store_uri: str) -> None:
    tracker, client = started(store_uri)
    tracker.finish(StopReason.INTERRUPTED)
    again = MLflowTracker(store_uri)
    assert again.start(RunInfo(), tracker.run_id) == tracker.run_id
    assert client.get_run(tracker.run_id).info.status == "RUNNING"
    assert again.where() == tracker.where()


def test_two_runs_with_the_same_seed_have_different_names(store_uri: str) -> None:
    names = set()
    for _ in range(3):
        torch.manual_seed(0)
        tracker, _client = started(store_uri)
        names.add(tracker.run_name)
    assert len(names) == 3


def test_a_fit_is_read_back_whole(store_uri: str) -> None:
    tracker = MLflowTracker(store_uri, "my experiment", "my run", {"team": "a"})
    learn = toy_learner(cbs=[TrackerCallback(tracker)])
    learn.fit(2)
    client = MlflowClient(store_uri)
    run = client.get_run(tracker.run_id)
    assert run.info.run_name == "my run"
    assert client.get_experiment(run.info.experiment_id).name == "my experiment"
    assert run.info.status == "FINISHED"
    assert run.data.tags["nntrain.outcome"] == "completed"
    assert run.data.tags["team"] == "a"
    losses = [point.value for point in client.get_metric_history(tracker.run_id, "batch/loss")]
    assert losses == learn.recorder.losses.tolist()


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("foo://somewhere", "cannot be read"),
        ("sqlite:///.", "cannot be read"),
        ("http://127.0.0.1:9", "does not answer"),
        ("http://", "does not answer"),
    ],
)
def test_an_unreadable_store_is_told_in_one_sentence(uri: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        MLflowTracker(uri).start(RunInfo())
    assert "\n" not in str(caught.value)
    assert uri in str(caught.value)


def test_a_file_that_is_no_database_is_told_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.db").write_text("not a database " * 100)
    with pytest.raises(ConfigError, match="cannot be read"):
        MLflowTracker("sqlite:///notes.db").start(RunInfo())
    assert (tmp_path / "notes.db").read_text() == "not a database " * 100


def test_the_environment_names_the_store(monkeypatch: pytest.MonkeyPatch, store_uri: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store_uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "from the environment")
    tracker = MLflowTracker()
    assert (tracker.uri, tracker.experiment_name) == (store_uri, "from the environment")
    assert MLflowTracker("http://host").uri == "http://host"
