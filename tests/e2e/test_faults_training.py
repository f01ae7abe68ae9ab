"""However training ends, the journal is complete, the run has ended, and no process remains."""

import random
import resource
import shutil
import signal
import time
from base64 import b64encode
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest

from nntrain.checkpoint import read_checkpoint
from tests.common.cli import nntrain_run
from tests.common.repeats import full
from tests.common.servers import MlflowServer, wait_until
from tests.common.training import (
    REPOSITORY,
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
def test_the_shipper_closes_a_killed_run(
    tmp_path: Path,
    database: Path,
    workers: int,
    repeat: int,
    measured: Callable[[str, float], None],
) -> None:
    rng = random.Random(workers + repeat)
    pauses_s = full([0.5, 1.5, 3.0, 15.0], [rng.uniform(0, 1.5) for _ in range(3)])
    folders, killed_s = [f"run{i}" for i in range(len(pauses_s))], list[float]()
    with ExitStack() as stack:
        runs = [
            stack.enter_context(
                TrainingRun(tmp_path, small(9999, batch_ms=10, folder=name, workers=workers), name)
            )
            for name in folders
        ]
        for run in runs:
            run.wait_for_batches(1)
        for run, pause_s in zip(runs, pauses_s, strict=True):
            time.sleep(pause_s)
            run.process.kill()
            run.process.wait()
            killed_s.append(time.time())
            early = [batch for batch in run.seen if batch[0] < killed_s[-1] * 1000 - LATE_MS]
            assert len(_in_journal(run)) >= len(early)
            measured("lost batches", len(run.seen) - len(_in_journal(run)))
    for run, end_s in zip(runs, killed_s, strict=True):
        stored = wait_until_ended(database, run, full(120, 15))
        assert (stored.status, stored.tags["nntrain.outcome"]) == ("KILLED", "interrupted")
        assert "killed, out of memory, or crashed" in stored.tags["nntrain.message"]
        assert stored.end_time is not None
        measured("s from the kill to the end of the run", stored.end_time / 1000 - end_s)
        assert stored.end_time / 1000 - end_s < full(60, 15)
        losses = [loss for _, loss in run.seen]
        assert _in_journal(run) == losses[: len(_in_journal(run))]


def _in_journal(run: TrainingRun) -> list[float]:
    """Returns the losses in the journal; there are none in the first second."""
    losses = run.record.metrics.get("batch/loss")
    return [] if losses is None else losses.value.tolist()


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


@pytest.mark.parametrize(("on_error", "code"), [("warn", 0), ("stop", 1)])
def test_with_a_full_disk_each_file_is_reported_once_and_training_follows_the_policy(
    tmp_path: Path, on_error: str, code: int
) -> None:
    args = [
        "tracker=none",
        "callbacks=[signals,checkpoint]",
        f"callbacks.checkpoint.on_error={on_error}",
        "+callbacks.full={_target_: tests.common.disk.FullDisk, epochs: [1, 2]}",
    ]
    done = nntrain_run(*small(20, *args, n_epoch=3), cwd=tmp_path, PYTHONPATH=str(REPOSITORY))
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    text = "run/last.ckpt could not be written (the previous file is unchanged): File too large"
    assert done.stderr.count(text) == 1
    assert done.stderr.count("run.log cannot be written") <= 1
    assert ("2 of 3 saves of" in done.stderr) is (on_error == "warn")
    assert read_checkpoint(tmp_path / "run/last.ckpt")["epoch"] == 1


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


_SLOW = [
    "+callbacks.logs._target_=tests.e2e.user.LogsSix",
    "+tracker.slow={_target_: tests.e2e.user.Slow, system_metrics: false}",
    "tracker=none",
]
"""Ten numbers per batch instead of four, and a tracker that needs 50 ms more for each call."""


def test_100_000_batches_are_delivered_in_order_in_constant_memory(
    tmp_path: Path, database: Path, measured: Callable[[str, float], None]
) -> None:
    memory = "+callbacks.memory={_target_: tests.e2e.user.Memory, every: 10000}"
    args = small(10_000, *full(_SLOW, []), "tracker.finish_timeout_s=120", memory, n_epoch=10)
    shipper = []
    with TrainingRun(tmp_path, args) as run:
        run.wait_for_batches(10_000)
        process = run.shipper()
        while run.process.poll() is None:
            with suppress(psutil.Error):
                shipper.append(process.memory_info().rss / 2**20)
            time.sleep(0.5)
        assert run.wait() == 0, run.output
        measured("s to the end", time.time() - run.started_s)
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
    measured("MiB more in training", training[-1] - training[1])
    measured("MiB more in the shipper", max(shipper) - shipper[len(shipper) // 5])
    assert training[-1] - training[1] < 20  # the recorder keeps about 100 bytes per batch
    assert max(shipper) - shipper[len(shipper) // 5] < 50
