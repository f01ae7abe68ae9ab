"""Faults in W&B or in one of two trackers do not affect training; every point is delivered once."""

import random
import shutil
import signal
from pathlib import Path

import pytest

from nntrain.integrations.journal.records import RunRecord
from tests.common.cli import tree
from tests.common.servers import MlflowServer, wait_until
from tests.common.training import (
    TrainingRun,
    assert_delivered,
    assert_journal_is_whole,
    assert_unhurt,
    journal_points,
    n_runs,
    nntrain_sync,
    processes_in,
    small,
    stored_run,
    wandb_points,
    without_time,
)
from tests.common.wandb_store import WandbRun, read_offline

pytestmark = pytest.mark.slow

N_BATCH, N_EPOCH = 100, 4
BOTH = ("tracker=[mlflow,wandb]", "tracker.wandb.mode=offline")


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The losses of an untracked run."""
    with TrainingRun(
        tmp_path_factory.mktemp("untracked"), small(N_BATCH, "tracker=none", n_epoch=N_EPOCH)
    ) as run:
        assert run.wait() == 0, run.output
        return [loss for _, loss in run.seen]


@pytest.fixture
def database(empty_store: Path, tmp_path: Path) -> Path:
    """MLflow's database in the folder of the test."""
    return Path(shutil.copy(empty_store, tmp_path / "mlflow.db"))


def assert_in_wandb(record: RunRecord, folder: Path) -> WandbRun:
    """Checks that the only offline run has exactly the points of the journal in order."""
    run = read_offline(folder, record.run.uid)
    assert wandb_points(run) == without_time(journal_points(record))
    return run


def test_both_trackers_get_everything(
    tmp_path: Path, database: Path, expected: list[float]
) -> None:
    with TrainingRun(tmp_path, small(N_BATCH, *BOTH, n_epoch=N_EPOCH)) as run:
        assert run.wait() == 0, run.output
    assert_unhurt(run, expected)
    assert_journal_is_whole(run)
    assert assert_delivered(run.record, database).status == "FINISHED"
    assert assert_in_wandb(run.record, tmp_path).exit_code == 0


def test_a_killed_wandb_core_is_replaced(tmp_path: Path, expected: list[float]) -> None:
    args = small(
        N_BATCH, "tracker=wandb", "tracker.wandb.mode=offline", n_epoch=N_EPOCH, batch_ms=20
    )
    with TrainingRun(tmp_path, args) as run:
        run.wait_for_batches(10)
        wait_until(
            lambda: run.lives() and list(tmp_path.glob("wandb/offline-run-*/*.wandb")) != [],
            "W&B's file",
        )
        cores = [
            child
            for child in run.shipper().children(recursive=True)
            if child.name().startswith("wandb-core")
        ]
        assert cores
        for core in cores:
            core.kill()
        assert run.wait() == 0, run.output
    assert run.output.count("WARNING") <= 1
    assert_unhurt(run, expected, 20)
    assert_journal_is_whole(run)
    assert assert_in_wandb(run.record, tmp_path).exit_code == 0


def test_a_dead_mlflow_server_does_not_delay_wandb(tmp_path: Path, expected: list[float]) -> None:
    server = MlflowServer(tmp_path / "server")
    args = small(
        N_BATCH,
        *BOTH,
        f"tracker.mlflow.tracking_uri={server.uri}",
        "tracker.finish_timeout_s=5",
        n_epoch=N_EPOCH,
    )
    with TrainingRun(tmp_path, args) as run:
        assert run.wait() == 0, run.output
    assert "mlflow has not received" in run.output
    assert "wandb has not received" not in run.output
    assert_unhurt(run, expected)
    assert assert_in_wandb(run.record, tmp_path).exit_code == 0
    wait_until(lambda: processes_in(tmp_path) == [], "the end of wandb-core", 20)
    before = tree(tmp_path / "wandb")
    with server:
        assert nntrain_sync(tmp_path, "run", "--to-recorded").returncode == 0
    assert assert_delivered(run.record, server.folder / "server.db").status == "FINISHED"
    assert tree(tmp_path / "wandb") == before


def test_a_dead_wandb_server_does_not_delay_mlflow(
    tmp_path: Path, database: Path, expected: list[float]
) -> None:
    online = [
        "tracker=[mlflow,wandb]",
        "tracker.wandb.mode=online",
        "tracker.wandb.base_url=http://127.0.0.1:9",
    ]
    args = small(N_BATCH, *online, "tracker.finish_timeout_s=5", n_epoch=N_EPOCH)
    with TrainingRun(tmp_path, args, WANDB_API_KEY="k" * 40) as run:
        assert run.wait() == 0, run.output
    assert "wandb has not received" in run.output
    assert "mlflow has not received" not in run.output
    assert_unhurt(run, expected)
    assert assert_delivered(run.record, database).status == "FINISHED"
    assert nntrain_sync(tmp_path, "run", "--to", "wandb", "--set", "mode=offline").returncode == 0
    assert assert_in_wandb(run.record, tmp_path).exit_code == 0


@pytest.mark.parametrize("at_once", [True, False])
def test_a_killed_run_that_is_resumed_is_one_run_with_one_curve(
    tmp_path: Path, database: Path, expected: list[float], at_once: bool
) -> None:
    both = [*BOTH, "callbacks=[signals,checkpoint]"]
    with TrainingRun(tmp_path, small(N_BATCH, *both, n_epoch=N_EPOCH, batch_ms=10)) as first:
        wait_until(lambda: first.lives() and (first.folder / "last.ckpt").exists(), "a checkpoint")
        first.wait_for_batches(N_BATCH + random.Random(at_once).randrange(20, N_BATCH))
        uid = first.record.run.uid
        first.process.kill()
        first.wait()
    if not at_once:
        wait_until(lambda: processes_in(tmp_path) == [], "the end of the shipper", 20)
        stored = stored_run(database, uid)
        assert stored is not None
        assert stored.status == "KILLED"
        assert read_offline(tmp_path, uid).exit_code == 128 + signal.SIGKILL
        assert_in_wandb(first.record, tmp_path)
    with TrainingRun(
        tmp_path, small(N_BATCH, *both, "resume=run", n_epoch=N_EPOCH, folder="run2"), "run2"
    ) as second:
        assert second.wait() == 0, second.output
    record = second.record
    assert record.run.uid == uid
    assert record.metrics["batch/loss"].step.tolist() == list(range(1, N_BATCH * N_EPOCH + 1))
    assert record.metrics["batch/loss"].value.tolist() == expected
    assert assert_in_wandb(record, tmp_path).exit_code == 0
    stored = stored_run(database, uid)
    assert stored is not None
    assert (stored.status, n_runs(database)) == ("FINISHED", 1)
    untimed = {
        key: series
        for key, series in without_time(stored.points).items()
        if not key.startswith("time/")
    }
    assert untimed == {
        key: series
        for key, series in without_time(journal_points(record)).items()
        if key in untimed
    }
