"""A place that only a journal names keeps its files inside, even if somebody else prepared it."""

import os
import sqlite3
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from nntrain.app import sync
from nntrain.integrations import MLflowTracker, WandbTracker
from nntrain.integrations.mlflow import absolute
from nntrain.integrations.mlflow.confined import files_folder
from nntrain.integrations.mlflow.store import restore
from nntrain.integrations.shipping.state import FOLDER
from nntrain.integrations.tracker import Refused
from tests.common.journals import END, UID, append, batches, start

Capture = pytest.CaptureFixture[str]

PAYLOAD = {"kind": "artifact", "path": "payload", "name": ".bashrc", "aliases": []}


def foreign(tmp_path: Path, name: str = ".bashrc") -> Path:
    """Creates a folder of somebody else: a run, and a database that the run names."""
    folder = tmp_path / "foreign"
    tracker = MLflowTracker("sqlite:///foreign/x.db", system_metrics=False)
    append(folder / "run", [start(tracker), {**PAYLOAD, "name": name}, *batches(1, 3), END])
    (folder / "run/payload").write_text("evil")
    return folder


def run_in(folder: Path, location: Path) -> str:
    """Creates the run of the journal in the database, with its files elsewhere."""
    store = MlflowClient(f"sqlite:///{folder}/x.db")
    experiment = store.create_experiment("nntrain", artifact_location=f"file://{location}")
    run_id = str(store.create_run(experiment, tags={"nntrain.run": UID}).info.run_id)
    with sqlite3.connect(folder / "x.db") as connection:
        connection.execute("UPDATE runs SET artifact_uri = ?", [f"file://{location}"])
    connection.close()
    return run_id


def test_a_database_of_somebody_else_writes_no_file_elsewhere(
    tmp_path: Path, capsys: Capture
) -> None:
    folder = foreign(tmp_path)
    (tmp_path / "victim").mkdir()
    run_in(folder, tmp_path / "victim")
    for args in ([], ["--to-recorded"], ["--again"]):
        assert sync.main(["foreign", *args, "--timeout-s", "0"]) == 1
    assert sync.main(["foreign", "--to", "mlflow"]) == 0  # to the user's own
    assert os.listdir(tmp_path / "victim") == []
    told = capsys.readouterr().err
    assert f"x.db would store files in file://{tmp_path}/victim" in told
    assert "Traceback" not in told


def test_a_link_beside_a_database_of_somebody_else_is_not_followed(
    tmp_path: Path, capsys: Capture
) -> None:
    folder = foreign(tmp_path, "out/.bashrc")
    (tmp_path / "victim").mkdir()
    (folder / "files").mkdir()
    (folder / "files/out").symlink_to(tmp_path / "victim")
    run_in(folder, folder / "files")
    assert sync.main(["foreign"]) == 0
    assert os.listdir(tmp_path / "victim") == []
    assert "out/.bashrc leads out of" in capsys.readouterr().err


def test_a_database_inside_the_current_folder_keeps_its_files_beside_it(tmp_path: Path) -> None:
    foreign(tmp_path, "a.txt")
    assert sync.main(["foreign"]) == 0
    (file,) = (tmp_path / "foreign/mlruns").rglob("a.txt")
    assert file.read_text() == "evil"


def test_the_database_that_the_user_names_may_keep_its_files_anywhere(tmp_path: Path) -> None:
    folder = foreign(tmp_path, "a.txt")
    (tmp_path / "disk").mkdir()
    run_in(folder, tmp_path / "disk")
    named = ["--to", "mlflow", "--set", f"tracking_uri=sqlite:///{folder}/x.db"]
    assert sync.main(["foreign", *named]) == 0
    assert (tmp_path / "disk/a.txt").is_file()


@pytest.mark.parametrize(
    ("uri", "location"),
    [
        ("http://host:5000", "file:///home/me"),
        ("http://host:5000", "/home/me"),
        ("http://host:5000", "s3://bucket/me"),
        ("http://host:5000", "mlflow-artifacts://other/1"),
        ("http://host:5000", "http://host:5000/1"),
        ("postgresql://host/d", "./mlruns"),
        ("sqlite:////a/b.db", "/home/me"),
        ("sqlite:////a/b.db", "/a/../home/me"),
        ("sqlite:////a/b.db", "http://evil/1"),
        ("sqlite:////a/b.db", "mlflow-artifacts:/1"),
        ("sqlite:////a/b.db", "s3://bucket"),
    ],
)
def test_files_stay_in_the_store(uri: str, location: str) -> None:
    with pytest.raises(Refused, match="if you trust this store, name it with --to mlflow"):
        files_folder(uri, location)


@pytest.mark.parametrize("location", ["mlflow-artifacts:/1", "mlflow-artifacts://host/1"])
def test_a_server_may_receive_the_files_itself(location: str) -> None:
    assert files_folder("http://host:5000", location) is None


def test_a_state_of_somebody_else_does_not_replace_another_offline_run(
    tmp_path: Path, capsys: Capture
) -> None:
    tracker = WandbTracker(mode="offline")
    append(tmp_path / "mine", [start(tracker, "wandb", "m" * 16), *batches(1, 4), END])
    assert sync.main(["mine"]) == 0
    (mine,) = (tmp_path / "wandb").glob("offline-run-*")
    journal = append(tmp_path / "foreign", [start(tracker, "wandb"), *batches(1, 4), END])
    (journal.parent / FOLDER).mkdir()
    (journal.parent / FOLDER / "wandb.json").write_text('{"run_id": "mmmmmmmmmmmmmmmm"}')
    assert sync.main(["foreign"]) == 1
    assert "(run mmmmmmmmmmmmmmmm is another run): to send it again" in capsys.readouterr().err
    assert sync.main(["foreign", "--again"]) == 0
    assert mine.is_dir()
    assert len([*(tmp_path / "wandb").glob("offline-run-*")]) == 2


def test_the_folder_of_wandb_that_is_a_link_is_not_written(tmp_path: Path, capsys: Capture) -> None:
    tracker = WandbTracker(mode="offline", dir="foreign")
    append(tmp_path / "foreign/run", [start(tracker.resolved(), "wandb"), *batches(1, 4), END])
    (tmp_path / "victim").mkdir()
    (tmp_path / "foreign/wandb").symlink_to(tmp_path / "victim")
    assert sync.main(["foreign", "--timeout-s", "0"]) == 1
    assert "by a symbolic link" in capsys.readouterr().err
    assert os.listdir(tmp_path / "victim") == []


@pytest.mark.parametrize(
    ("uri", "command"),
    [
        ("sqlite:///mlflow.db", "mlflow runs restore --run-id 1"),
        (
            "sqlite:////my disk/b.db",
            "MLFLOW_TRACKING_URI='sqlite:////my disk/b.db' mlflow runs restore --run-id 1",
        ),
        ("http://host:5000", "MLFLOW_TRACKING_URI=http://host:5000 mlflow runs restore --run-id 1"),
    ],
)
def test_the_command_that_restores_a_run_names_its_store(uri: str, command: str) -> None:
    assert restore(absolute(uri), "runs", "run-id", "1") == command
