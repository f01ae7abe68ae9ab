"""`python -m nntrain.sync` delivers a run later, exactly once, from its journal and files alone."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from nntrain.app import sync
from nntrain.integrations.journal.records import JOURNAL, read_journal
from nntrain.integrations.journal.writer import JournalWriter
from nntrain.integrations.mlflow import CLIENT_SETTINGS, MLflowTracker
from nntrain.integrations.shipping.lock import delivery_lock
from nntrain.integrations.tracker import Tracker
from nntrain.integrations.wandb import WandbTracker
from tests.common.cli import nntrain_run, tree
from tests.common.journals import END, START, append, batches, losses, start
from tests.common.mlflow_store import only_run
from tests.common.odd_journals import RECORDS, UNUSUAL, with_odd_values
from tests.common.servers import MlflowServer, free_port

pytestmark = pytest.mark.slow

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _client_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restores the environment after each test, because `connect` sets these variables."""
    for name, value in CLIENT_SETTINGS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def tracker(store_uri: str) -> MLflowTracker:
    return MLflowTracker(store_uri, system_metrics=False).resolved()


def nntrain_sync(*args: str, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "nntrain.sync", *args]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, text=True, timeout=120, check=False
    )


def points(client: MlflowClient, run: Run, key: str = "batch/loss") -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, key)]


def status(folder: Path) -> str:
    return str(only_run(folder)[1].info.status)


def test_it_lists_and_delivers_and_afterward_changes_nothing(
    tmp_path: Path, tracker: MLflowTracker, capsys: Capture
) -> None:
    journal = append(tmp_path / "outputs/a", [start(tracker), *batches(1, 12), END])
    assert sync.main(["--list", "outputs"]) == 1
    assert (
        capsys.readouterr().out
        == f"mlflow has not received 12 metric rows of {journal.relative_to(tmp_path)}.\n"
    )
    assert MlflowClient(tracker.uri).search_runs([str(i) for i in range(3)]) == []
    assert sync.main(["outputs"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "outputs/a/journal.jsonl: delivered."
    assert out[1].startswith("MLflow run:      a run")
    client, run = only_run(tmp_path)
    assert points(client, run) == losses(1, 12)
    assert (run.info.status, run.info.end_time) == ("FINISHED", 9_000_000)
    before = tree(tmp_path)
    for args in (
        ["outputs"],
        ["--list", "outputs"],
        [],
        [str(journal)],
        ["outputs", "outputs/a", "."],
    ):
        assert sync.main(args) == 0
        folders = ", ".join(repr(name) for name in args if name != "--list") or "'.'"
        assert capsys.readouterr() == (f"All runs under {folders} are delivered.\n", "")
    assert tree(tmp_path) == before


def test_it_reports_records_that_the_tracker_does_not_keep(
    tmp_path: Path, tracker: MLflowTracker, capsys: Capture
) -> None:
    histograms = {"kind": "histograms", "time_ms": 1, "step": 4, "edges": [0.0, 1.0]}
    record = {**histograms, "counts": {"act/0": [3.0]}}
    append(tmp_path / "run", [start(tracker), *batches(1, 4), record, record, END])
    assert sync.main(["run"]) == 0
    said = capsys.readouterr()
    expected = "mlflow does not store histograms (2): they stay in the journal."
    assert expected in said.out.splitlines()
    assert said.err == ""
    assert sync.main(["--list", "run"]) == 0


def test_it_reports_once_what_another_tracker_does_not_keep_under_its_plain_name(
    tmp_path: Path, capsys: Capture
) -> None:
    artifact = {"kind": "artifact", "path": "file", "name": "file", "aliases": []}
    for name in ("a", "b"):
        uid = {"run": {**START["run"], "uid": name * 16}}
        journal = append(tmp_path / "runs" / name, [START | uid, *batches(1, 4), artifact, END])
        (journal.parent / "file").write_text("content")
    assert sync.main(["runs", "--to", "tensorboard", "--set", "log_dir=events"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[-2] == "tensorboard does not store files (2): they stay in the journal."
    assert sum("does not store" in line for line in out) == 1
    assert "tensorboard-" not in " ".join(out)


def test_an_offline_run_can_be_delivered_from_a_copy_of_its_journal_and_files(
    tmp_path: Path,
) -> None:
    done = nntrain_run("tracker.offline=true", "n_epoch=1", "hydra.run.dir=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "mlflow.db").exists()
    elsewhere = tmp_path / "elsewhere" / "run"
    elsewhere.mkdir(parents=True)
    shutil.copy(tmp_path / "run" / JOURNAL, elsewhere)
    shutil.copytree(tmp_path / "run" / "files", elsewhere / "files")
    with MlflowServer(tmp_path / "server") as server:
        command = [
            "--to",
            "mlflow",
            "--set",
            f"tracking_uri={server.uri}",
            "experiment_name=synced",
            "--",
            "elsewhere",
        ]
        done = nntrain_sync(*command, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        client = MlflowClient(server.uri)
        found = read_journal(elsewhere)
        experiment = client.get_experiment_by_name("synced")
        assert experiment is not None
        (run,) = client.search_runs([experiment.experiment_id])
        for key, series in found.metrics.items():
            expected = sorted(zip(series.step.tolist(), series.value.tolist(), strict=True))
            assert sorted(points(client, run, key)) == expected
        artifacts = {item.path for item in client.list_artifacts(run.info.run_id)}
        assert {"config.yaml", "best.pt"} <= artifacts
        assert run.info.status == "FINISHED"
        n_point = len(points(client, run))
        assert sync.main(command) == 0
        assert len(points(client, run)) == n_point


def test_a_journal_can_be_delivered_to_several_stores(
    tmp_path: Path, tracker: MLflowTracker, capsys: Capture
) -> None:
    append(tmp_path / "run", [start(tracker), *batches(1, 4), END])
    assert sync.main(["run"]) == 0
    for name in ("b", "c"):
        (tmp_path / name).mkdir()
        shutil.copy(tmp_path / "mlflow.db", tmp_path / name)
        empty(tmp_path / name)
        to = ["run", "--to", "mlflow", "--set", f"tracking_uri=sqlite:///{name}/mlflow.db"]
        assert sync.main(["--list", *to]) == 1
        assert sync.main(to) == 0
        assert sync.main(["--list", *to]) == 0
        client, run = only_run(tmp_path / name)
        assert points(client, run) == losses(1, 4)


def empty(folder: Path) -> None:
    client, run = only_run(folder)
    client.set_tag(run.info.run_id, "nntrain.run", "another")
    client.delete_run(run.info.run_id)


def test_the_same_setting_in_another_folder_is_another_store(
    tmp_path: Path, store_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(tmp_path / "run", [START, *batches(1, 4), END])
    command = [str(tmp_path / "run"), "--to", "mlflow", "--set", "tracking_uri=sqlite:///mlflow.db"]
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        shutil.copy(tmp_path / "mlflow.db", tmp_path / name)
        monkeypatch.chdir(tmp_path / name)
        assert sync.main(command) == 0
        assert points(*only_run(tmp_path / name)) == losses(1, 4)


def test_a_store_named_by_the_environment_is_another_store(
    tmp_path: Path, store_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(tmp_path / "run", [START, *batches(1, 4), END])
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        shutil.copy(tmp_path / "mlflow.db", tmp_path / name)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / name}/mlflow.db")
        assert sync.main(["run", "--to", "mlflow"]) == 0
        assert points(*only_run(tmp_path / name)) == losses(1, 4)


def test_a_run_whose_process_died_is_closed(tmp_path: Path, tracker: MLflowTracker) -> None:
    append(tmp_path / "run", [start(tracker), *batches(1, 4)])
    assert sync.main(["run"]) == 0
    client, run = only_run(tmp_path)
    assert run.info.status == "KILLED"
    assert run.data.tags["nntrain.outcome"] == "interrupted"
    assert run.data.tags["nntrain.message"].startswith(
        "the process ended unexpectedly after batch 4"
    )
    assert points(client, run) == losses(1, 4)


def test_a_running_run_is_delivered_up_to_now_and_stays_open(
    tmp_path: Path, tracker: MLflowTracker, capsys: Capture
) -> None:
    with JournalWriter(tmp_path / "run" / JOURNAL) as writer:
        writer.write(start(tracker), *batches(1, 4))
        assert writer.wait()
        assert sync.main(["--list", "run"]) == 1
        assert (
            capsys.readouterr().out
            == "mlflow has not received 4 metric rows of run/journal.jsonl, "
            "which is still running.\n"
        )
        assert sync.main(["run"]) == 0
        assert (points(*only_run(tmp_path)), status(tmp_path)) == (losses(1, 4), "RUNNING")
        assert read_journal("run").end is None
        writer.write(*batches(5, 8), END)
    assert sync.main(["run"]) == 0
    assert (points(*only_run(tmp_path)), status(tmp_path)) == (losses(1, 8), "FINISHED")


@pytest.mark.parametrize("number", [2, 3, 4])
def test_a_damaged_line_is_reported_and_the_rest_is_delivered(
    tmp_path: Path, tracker: MLflowTracker, capsys: Capture, number: int
) -> None:
    journal = append(tmp_path / "run", [start(tracker), *batches(1, 12), END])
    raw = journal.read_bytes().splitlines(keepends=True)
    raw[number - 1] = raw[number - 1].replace(b":", b";", 1)
    journal.write_bytes(b"".join(raw))
    assert sync.main(["run"]) == 0
    expected = f"line {number} of the journal cannot be read: its checksum is wrong\n"
    assert capsys.readouterr().err == f"run/journal.jsonl: mlflow: {expected}"
    lost = range(4 * number - 7, 4 * number - 3)
    assert points(*only_run(tmp_path)) == [point for point in losses(1, 12) if point[0] not in lost]
    assert status(tmp_path) == "FINISHED"


def test_a_torn_line_of_a_killed_process_is_cut_off(tmp_path: Path, tracker: MLflowTracker) -> None:
    journal = append(tmp_path / "run", [start(tracker), *batches(1, 8)])
    journal.write_bytes(journal.read_bytes()[:-7])
    assert sync.main(["run"]) == 0
    assert (points(*only_run(tmp_path)), status(tmp_path)) == (losses(1, 4), "KILLED")
    assert read_journal("run").damaged == {}


def test_a_journal_that_continues_elsewhere_is_skipped(
    tmp_path: Path, tracker: MLflowTracker
) -> None:
    append(
        tmp_path / "run", [start(tracker), *batches(1, 4), {"kind": "continued", "by": "elsewhere"}]
    )
    for args in (["run"], ["--list", "run"]):
        assert sync.main(args) == 0
    assert MlflowClient(tracker.uri).search_runs([str(i) for i in range(3)]) == []


def test_after_the_timeout_of_a_dead_server_the_next_journal_is_delivered(
    tmp_path: Path, tracker: MLflowTracker, capsys: Capture
) -> None:
    dead = MLflowTracker(f"http://127.0.0.1:{free_port()}", system_metrics=False)
    append(tmp_path / "a", [start(dead), *batches(1, 4), END])
    append(tmp_path / "b", [start(tracker), *batches(1, 4), END])
    assert sync.main([".", "--timeout-s", "1", "--to-recorded"]) == 1
    said = capsys.readouterr()
    assert "b/journal.jsonl: delivered." in said.out
    (line,) = said.err.splitlines()
    assert line.startswith(
        "mlflow has not received 4 metric rows of a/journal.jsonl because delivery fails ("
    )
    assert line.endswith(
        "): fix the cause and run this command again, or use another tracker with --to and --set."
    )


def test_a_journal_that_another_process_delivers_is_an_error(
    tmp_path: Path, tracker: MLflowTracker, capsys: Capture
) -> None:
    journal = append(tmp_path / "run", [start(tracker), *batches(1, 4), END])
    with delivery_lock(journal):
        assert sync.main(["run"]) == 1
    assert capsys.readouterr().err == (
        "nntrain.sync: run/journal.jsonl is being delivered by another process: "
        "wait until it has finished.\n"
    )


FUNCTION = "nntrain.integrations.shipping.continuation.continue_journal"

MISTAKES = {
    "missing": (
        ["nowhere"],
        "nowhere does not exist: pass the folder of a run, or a folder that contains runs.",
    ),
    "not a setting": (
        ["run", "--to", "mlflow", "--set", "tracking_uri"],
        "--set tracking_uri must have the form KEY=VALUE, for example tracking_uri=http",
    ),
    "unknown setting": (
        ["run", "--to", "mlflow", "--set", "uri=x"],
        "Unknown setting --set uri for mlflow: choose from ",
    ),
    "set without to": (
        ["run", "--set", "tracking_uri=x"],
        "--set requires --to: name the tracker that the settings are for.",
    ),
    "newer": (
        ["newer"],
        "newer/journal.jsonl has version 2, and this nntrain reads versions up to 1: update ",
    ),
    "empty": (
        ["empty"],
        "empty/journal.jsonl has no start record: expected a journal written by nntrain.",
    ),
    "untrusted": (
        ["untrusted"],
        "subprocess.Popen is not trusted: add '--trust subprocess' if you trust its code.",
    ),
    "function": (
        ["function"],
        f"tracker.a._target_={FUNCTION} is not trusted: ",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_reported_in_one_sentence(
    tmp_path: Path, capsys: Capture, mistake: str
) -> None:
    append(tmp_path / "run", [START, END])
    append(tmp_path / "newer", [{**START, "version": 2}])
    append(tmp_path / "empty", [])
    append(
        tmp_path / "untrusted",
        [{**START, "trackers": {"a": {"_target_": "subprocess.Popen", "args": "touch harm"}}}],
    )
    copy = {
        "_target_": FUNCTION,
        "old": "run/journal.jsonl",
        "new": "harm",
        "train_iter": 1,
    }
    append(tmp_path / "function", [{**START, "trackers": {"a": copy}}])
    args, expected = MISTAKES[mistake]
    assert sync.main(args) == 1
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert line.startswith(f"nntrain.sync: {expected}")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("bad", ["newer", "empty", "untrusted"])
def test_a_bad_journal_does_not_stop_the_delivery_of_others(
    tmp_path: Path, tracker: MLflowTracker, capsys: Capture, bad: str
) -> None:
    contents: dict[str, Sequence[dict[str, object]]] = {
        "newer": [{**START, "version": 2}],
        "empty": [],
        "untrusted": [{**START, "trackers": {"a": {"_target_": "os.system", "command": "x"}}}],
    }
    append(tmp_path / "a", contents[bad])
    append(tmp_path / "b", [start(tracker), *batches(1, 4), END])
    assert sync.main(["."]) == 1
    assert "b/journal.jsonl: delivered." in capsys.readouterr().out


def test_a_folder_without_journals_is_reported(capsys: Capture) -> None:
    assert sync.main(["."]) == 0
    assert capsys.readouterr().out == "No journal.jsonl found under '.'.\n"


# --- the store lost the run


def delete(folder: Path, before: Path, older: Path) -> None:
    (folder / "mlflow.db").unlink()


def begin_anew(folder: Path, before: Path, older: Path) -> None:
    shutil.copy(before, folder / "mlflow.db")


def restore_an_older_backup(folder: Path, before: Path, older: Path) -> None:
    shutil.copy(older, folder / "mlflow.db")


def trash(folder: Path, before: Path, older: Path) -> None:
    client, run = only_run(folder)
    client.delete_run(run.info.run_id)


def give_to_another_run(folder: Path, before: Path, older: Path) -> None:
    client, run = only_run(folder)
    client.set_tag(run.info.run_id, "nntrain.run", "another")
    client.set_tag(run.info.run_id, "mine", "untouched")


LOSSES: dict[str, tuple[Callable[[Path, Path, Path], None], str]] = {
    "the database is deleted": (delete, "its database {}/mlflow.db does not exist"),
    "the store is begun anew": (begin_anew, "has no run "),
    "a backup has fewer points": (restore_an_older_backup, "lacks its last points"),
    "the run is in the trash": (trash, "is in the trash"),
    "the id is that of another run": (give_to_another_run, "has another run with the id"),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_sync_says_that_the_store_lost_a_run_and_sends_it_again(
    tmp_path: Path, tracker: MLflowTracker, capsys: Capture, loss: str
) -> None:
    lose, why = LOSSES[loss]
    before, older = tmp_path / "before.db", tmp_path / "older.db"
    shutil.copy(tmp_path / "mlflow.db", before)
    journal = append(tmp_path / "run", [start(tracker), *batches(1, 4), END])
    assert sync.main(["run"]) == 0
    shutil.copy(tmp_path / "mlflow.db", older)
    append(tmp_path / "run", [start(tracker), *batches(5, 12), END])
    assert sync.main(["run"]) == 0
    _forget_stores()
    lose(tmp_path, before, older)
    capsys.readouterr()

    assert sync.main(["run"]) == 1
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith(f"mlflow no longer has the run of {journal.relative_to(tmp_path)} (")
    assert why.format(tmp_path) in told
    assert told.endswith("to send it again, run python -m nntrain.sync run --again")

    assert sync.main(["run", "--again"]) == 0
    _forget_stores()
    client = MlflowClient(tracker.uri)
    experiments = [one.experiment_id for one in client.search_experiments()]
    query = "tags.`nntrain.run` = '0123456789abcdef'"
    (run,) = client.search_runs(experiments, query)
    assert points(client, run) == losses(1, 12)
    assert run.info.status == "FINISHED"
    for other in client.search_runs(experiments, "tags.mine = 'untouched'"):
        assert points(client, other) == losses(1, 12)
        assert other.data.tags["nntrain.run"] == "another"
    assert sync.main(["run"]) == 0


def _forget_stores() -> None:
    """Closes MLflow's connections, as a new process would."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from mlflow.tracking._tracking_service.utils import _tracking_store_registry

    for engine in SqlAlchemyStore._engine_map.values():
        engine.dispose()
    SqlAlchemyStore._engine_map.clear()
    _tracking_store_registry._get_store_with_resolved_uri.cache_clear()


def test_a_deleted_experiment_is_named_at_once(
    tmp_path: Path, tracker: MLflowTracker, capsys: Capture
) -> None:
    append(tmp_path / "run", [start(tracker), *batches(1, 4), END])
    assert sync.main(["run"]) == 0
    client, run = only_run(tmp_path)
    client.delete_experiment(run.info.experiment_id)
    capsys.readouterr()
    assert sync.main(["run"]) == 1
    assert "mlflow no longer has the run" in capsys.readouterr().err
    began = time.monotonic()
    assert sync.main(["run", "--again"]) == 1
    assert time.monotonic() - began < 15
    assert "restore it with 'mlflow experiments restore" in capsys.readouterr().err


def test_a_server_that_does_not_answer_is_asked_once(tmp_path: Path, capsys: Capture) -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    for name in "abc":
        tracker = MLflowTracker(uri, system_metrics=False)
        append(tmp_path / name, [start(tracker, uid=name * 16), END])
        size = (tmp_path / name / JOURNAL).stat().st_size
        (tmp_path / name / "delivery").mkdir()
        state = {"run_id": "1" * 32, "offset": size, "line": 2, "done": True}
        (tmp_path / name / "delivery/mlflow.json").write_text(json.dumps(state))
    assert sync.main([".", "--to-recorded"]) == 0
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("mlflow does not answer whether it still has a/journal.jsonl (")


# --- models


def test_a_model_of_a_foreign_journal_grants_itself_no_trust(
    tmp_path: Path, store_uri: str, capsys: Capture
) -> None:
    tracker = MLflowTracker(store_uri, log_model=True, system_metrics=False).resolved()
    node = {"_target_": "subprocess.run", "args": ["touch", str(tmp_path / "harm")]}
    model = {"kind": "model", "path": "a.pt", "name": "a.pt", "aliases": [], "node": node}
    model |= {"trusted_targets": ["subprocess"]}
    append(tmp_path / "run", [start(tracker), model, *batches(1, 4), END])
    torch.save({"model": {}}, tmp_path / "run/a.pt")
    assert sync.main(["run"]) == 0
    assert not (tmp_path / "harm").exists()
    told = capsys.readouterr().err
    assert "subprocess.run is not trusted" in told
    assert "add '--again --trust subprocess' to this command" in told
    client, run = only_run(tmp_path)
    assert points(client, run) == losses(1, 4)
    assert [one.path for one in client.list_artifacts(run.info.run_id)] == ["a.pt"]


# --- journals of somebody else


TRACKERS: dict[str, Callable[[], Tracker]] = {
    "mlflow": lambda: MLflowTracker(system_metrics=False).resolved(),
    "wandb": lambda: WandbTracker(mode="offline").resolved(),
}


@pytest.mark.parametrize("name", TRACKERS)
def test_no_odd_record_stops_the_delivery(tmp_path: Path, capsys: Capture, name: str) -> None:
    odd = [one for record in RECORDS for one in with_odd_values(record)]
    first = start(TRACKERS[name](), name)
    append(tmp_path / "runs/records", [first, *odd, *batches(1, 4), END])
    for i, end in enumerate(with_odd_values(END)):
        uid = f"{i:016}"
        append(tmp_path / f"runs/{uid}", [start(TRACKERS[name](), name, uid), end])
    assert sync.main(["runs"]) == 1
    told = capsys.readouterr().err
    assert "Traceback" not in told
    assert "has not received" not in told
    assert json.loads((tmp_path / f"runs/records/delivery/{name}.json").read_text())["done"]


@pytest.mark.parametrize("name", TRACKERS)
@pytest.mark.parametrize("case", UNUSUAL)
def test_an_unusual_record_does_not_stop_the_delivery(
    tmp_path: Path, capsys: Capture, case: str, name: str
) -> None:
    spec = start(TRACKERS[name](), name)["trackers"]
    records = [
        one | ({"trackers": spec} if one["kind"] == "start" else {}) for one in UNUSUAL[case][0]
    ]
    first = start(TRACKERS[name](), name)
    append(tmp_path / "a", [first, *batches(1, 4), *records, *batches(5, 8), END])
    assert sync.main(["a", "--timeout-s", "1"]) == 0, capsys.readouterr().err
    assert sync.main(["a"]) == 0


def test_a_tag_that_names_the_run_differently_does_not_stop_the_delivery(tmp_path: Path) -> None:
    first = start(TRACKERS["mlflow"]())
    run = {**first["run"], "tags": {"mlflow.runName": "another"}}
    append(tmp_path / "a", [{**first, "run": run}, *batches(1, 4), END])
    assert sync.main(["a"]) == 0


def test_ctrl_c_ends_it_with_one_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        append(tmp_path / "a", [start(MLflowTracker(uri, system_metrics=False)), END])
        command = [sys.executable, "-m", "nntrain.sync", "a", "--to-recorded"]
        process = subprocess.Popen(
            command, cwd=tmp_path, env=os.environ, stderr=subprocess.PIPE, text=True
        )
        connection, _ = silent.accept()
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=30)
        connection.close()
    assert process.returncode == 130
    assert told == "nntrain.sync: interrupted: run the command again to go on.\n"
