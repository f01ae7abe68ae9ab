"""However training ends, the journal is complete, the run has ended, and no process remains."""

import random
import resource
import shutil
import signal
import time
from base64 import b64encode
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest

from tests.common.servers import MlflowServer, wait_until
from tests.common.training import (
    StoredRun,
    TrainingRun,
    assert_delivered,
    assert_journal_is_whole,
    nntrain_sync,
    processes_in,
    small,
    stored_run,
)

pytestmark = pytest.mark.slow

LATE_MS = 1500
"""Milliseconds after which a batch must be in the journal, which is written every second."""


@pytest.fixture
def database(empty_store: Path, tmp_path: Path) -> Path:
    """MLflow's database in the folder of the test."""
    return Path(shutil.copy(empty_store, tmp_path / "mlflow.db"))


def wait_until_ended(database: Path, run: TrainingRun, timeout_s: float = 15) -> StoredRun:
    """Waits until MLflow shows the end of the run and all processes exit; checks the delivery."""

    def has_ended() -> bool:
        stored = stored_run(database, run.record.run.uid)
        return stored is not None and stored.status != "RUNNING"

    wait_until(has_ended, f"the end of {run.folder}", timeout_s)
    wait_until(
        lambda: processes_in(run.cwd) == [], f"the end of {processes_in(run.cwd)}", timeout_s
    )
    return assert_delivered(run.record, database)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_shipper_closes_a_killed_run(tmp_path: Path, database: Path, workers: int) -> None:
    rng = random.Random(workers)
    folders = [f"run{i}" for i in range(3)]
    with ExitStack() as stack:
        runs = [
            stack.enter_context(
                TrainingRun(tmp_path, small(9999, batch_ms=10, folder=name, workers=workers), name)
            )
            for name in folders
        ]
        for run in runs:
            run.wait_for_batches(1)
        for run in runs:
            time.sleep(rng.uniform(0, 1.5))
            run.process.kill()
            run.process.wait()
            killed_ms = time.time() * 1000
            early = [batch for batch in run.seen if batch[0] < killed_ms - LATE_MS]
            assert _n_journal(run) >= len(early)
    for run in runs:
        stored = wait_until_ended(database, run)
        assert (stored.status, stored.tags["nntrain.outcome"]) == ("KILLED", "interrupted")
        assert "killed, out of memory, or crashed" in stored.tags["nntrain.message"]
        assert stored.end_time is not None
        assert stored.end_time / 1000 - run.started_s < 60
        assert (
            run.record.metrics["batch/loss"].value.tolist()
            == [loss for _, loss in run.seen][: _n_journal(run)]
        )


def _n_journal(run: TrainingRun) -> int:
    losses = run.record.metrics.get("batch/loss")
    return 0 if losses is None else len(losses.value)


@pytest.mark.parametrize(
    ("uri", "pause_s", "workers"),
    [
        ("sqlite:///mlflow.db", 0.05, 0),
        ("sqlite:///mlflow.db", 0.5, 1),
        ("http://127.0.0.1:9", 0.5, 0),
    ],
    ids=["after 50 ms", "with a loader process", "dead server"],
)
def test_a_second_ctrl_c_ends_training_at_once_with_a_complete_journal(
    tmp_path: Path, database: Path, uri: str, pause_s: float, workers: int
) -> None:
    args = small(9999, f"tracker.mlflow.tracking_uri={uri}", batch_ms=1500, workers=workers)
    with TrainingRun(tmp_path, args) as run:
        run.wait_for_batches(2)
        run.process.send_signal(signal.SIGINT)
        time.sleep(pause_s)
        run.process.send_signal(signal.SIGINT)
        second_s = time.monotonic()
        assert run.wait() == 130, run.output
        assert time.monotonic() - second_s < 2
    assert_journal_is_whole(run)
    assert run.output.endswith("nntrain: interrupted\n")
    wait_until(lambda: processes_in(tmp_path) == [], "the end of all processes", 60)
    nntrain_sync(tmp_path, "run", "--to", "mlflow", "--set", f"tracking_uri=sqlite:///{database}")
    stored = assert_delivered(run.record, database)
    assert (stored.status, stored.tags["nntrain.outcome"]) == ("KILLED", "interrupted")


def limit_file_size(process: psutil.Process, limit: int) -> None:
    """Simulates a full disk: limits the size of the files that a process writes, in bytes."""
    _, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, hard))


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="Linux only")
def test_a_disk_that_is_full_for_a_while_loses_nothing(tmp_path: Path, database: Path) -> None:
    with TrainingRun(tmp_path, small(100, n_epoch=8, batch_ms=8)) as run:
        run.wait_for_batches(100)
        shipper = run.shipper()
        limit_file_size(shipper, 0)
        limit_file_size(run.process, (run.folder / "journal.jsonl").stat().st_size + 1000)
        wait_until(
            lambda: "cannot be written (File too large): training continues" in run.output,
            "the warning",
        )
        run.wait_for_batches(len(run.seen) + 100)
        for process in (run.process, shipper):
            limit_file_size(process, resource.RLIM_INFINITY)
        assert run.wait() == 0, run.output
    assert run.output.count("journal.jsonl cannot be written") == 1
    assert_journal_is_whole(run)
    assert assert_delivered(run.record, database).status == "FINISHED"


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="Linux only")
def test_with_a_disk_that_stays_full_training_completes_and_reports_lost_records(
    tmp_path: Path, database: Path
) -> None:
    with TrainingRun(
        tmp_path, small(100, "tracker.finish_timeout_s=5", n_epoch=4, batch_ms=5)
    ) as run:
        run.wait_for_batches(100)
        limit_file_size(run.process, (run.folder / "journal.jsonl").stat().st_size + 1000)
        assert run.wait() == 0, run.output
    assert "outcome:         completed after 4 epochs" in run.output
    assert "records could not be written and were lost" in run.output
    assert len(run.seen) == 400
    assert nntrain_sync(tmp_path, "run").returncode == 0
    assert assert_delivered(run.record, database).status != "RUNNING"


def test_a_tracked_run_does_not_import_the_libraries_of_the_trackers(
    tmp_path: Path, database: Path
) -> None:
    both = [
        "tracker=[mlflow,wandb]",
        "tracker.wandb.mode=offline",
        "+callbacks.modules._target_=tests.e2e.user.Modules",
    ]
    with TrainingRun(tmp_path, small(50, *both)) as run:
        assert run.wait() == 0, run.output
    assert "imported: []" in run.output
    assert assert_delivered(run.record, database).status == "FINISHED"


SECRETS = {
    "key": "s3ntinel-of-a-key",
    "url": "s3ntinel-of-a-url",
    "environment": "s3ntinel-of-the-environment",
    "pattern": "sk-s3ntinel0of0a0pattern",
}


def test_no_file_of_a_run_contains_a_secret(tmp_path: Path) -> None:
    with MlflowServer(tmp_path / "server") as server:
        uri = server.uri.replace("http://", f"http://user:{SECRETS['url']}@")
        args = [
            "tracker=[mlflow,wandb]",
            "tracker.wandb.mode=offline",
            f"tracker.mlflow.tracking_uri={uri}",
            f"+api_key={SECRETS['key']}",
            "+my.token=${oc.env:MY_SECRET}",
            f"+my.note={SECRETS['pattern']}",
            "redact=['sk-[a-z0-9]+']",
            "+callbacks.raises={_target_: tests.e2e.user.Raises, variable: MY_SECRET}",
        ]
        with TrainingRun(tmp_path, small(100, *args), MY_SECRET=SECRETS["environment"]) as run:
            assert run.wait() == 1, run.output
        stored = assert_delivered(run.record, server.folder / "server.db")
    assert stored.tags["nntrain.message"] == "RuntimeError: a bug of the user***"
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    found = [
        (name, path.relative_to(tmp_path))
        for name, secret in SECRETS.items()
        for path in files
        if _holds(path, secret)
    ]
    assert found == []


def _holds(path: Path, secret: str) -> bool:
    data = path.read_bytes()
    return secret.encode() in data or b64encode(f"user:{secret}".encode()) in data


def test_100_000_batches_are_delivered_in_order_in_constant_memory(
    tmp_path: Path, database: Path
) -> None:
    memory = "+callbacks.memory={_target_: tests.e2e.user.Memory, every: 10000}"
    args = small(10_000, "tracker.finish_timeout_s=120", memory, n_epoch=10)
    shipper = []
    with TrainingRun(tmp_path, args) as run:
        run.wait_for_batches(10_000)
        process = run.shipper()
        while run.process.poll() is None:
            with suppress(psutil.Error):
                shipper.append(process.memory_info().rss / 2**20)
            time.sleep(0.5)
        assert run.wait() == 0, run.output
    stored = assert_delivered(run.record, database)
    assert all(
        len(stored.points[key]) == 100_000
        for key in ("batch/loss", "batch/loss_smooth", "lr/0", "mom/0")
    )
    assert_journal_is_whole(run)
    training = [
        float(line.split()[1]) for line in run.output.splitlines() if line.startswith("memory: ")
    ]
    assert len(training) == 10
    assert training[-1] - training[1] < 20  # the recorder keeps about 100 bytes per batch
    assert max(shipper) - shipper[len(shipper) // 5] < 50
