"""Faults of MLflow or the shipper do not affect training; every point is delivered once."""

import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from signal import Signals

import pytest

from tests.common.cli import tree
from tests.common.repeats import full
from tests.common.servers import Fault, FaultyServer, MlflowServer, free_port, wait_until
from tests.common.training import (
    TrainingRun,
    assert_delivered,
    assert_journal_is_whole,
    assert_unhurt,
    n_runs,
    nntrain_sync,
    small,
    stored_run,
)

pytestmark = pytest.mark.slow

N_BATCH, N_EPOCH = 100, 8
N_STEP = N_BATCH * N_EPOCH


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The losses of an untracked run."""
    with TrainingRun(
        tmp_path_factory.mktemp("untracked"), small(N_BATCH, "tracker=none", n_epoch=N_EPOCH)
    ) as run:
        assert run.wait() == 0, run.output
        return [loss for _, loss in run.seen]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A server without faults."""
    with MlflowServer(tmp_path_factory.mktemp("server")) as server:
        yield server


def tracked_by(uri: str, *args: str, batch_ms: float = 0.0, folder: str = "run") -> list[str]:
    return small(
        N_BATCH,
        f"tracker.mlflow.tracking_uri={uri}",
        *args,
        n_epoch=N_EPOCH,
        batch_ms=batch_ms,
        folder=folder,
    )


def n_stored(database: Path, run: TrainingRun) -> int:
    """Returns the number of batches of a run in MLflow."""
    found = stored_run(database, run.record.run.uid) if run.folder.exists() else None
    return len(found.points.get("batch/loss", [])) if found else 0


def wait_until_stored(n: int, database: Path, run: TrainingRun) -> None:
    run.wait_for_batches(n)
    wait_until(lambda: run.lives() and n_stored(database, run) >= n, f"{n} batches in {database}")


def test_an_unreachable_server_causes_one_warning_and_sync_delivers_later(
    tmp_path: Path, expected: list[float], measured: Callable[[str, float], None]
) -> None:
    server = MlflowServer(tmp_path / "server")
    with TrainingRun(
        tmp_path, tracked_by(server.uri, "tracker.finish_timeout_s=2", batch_ms=3)
    ) as run:
        assert run.wait() == 0, run.output
    measured("s to the first batch", run.seen[0][0] / 1000 - run.started_s)
    assert run.seen[0][0] / 1000 - run.started_s < 10
    assert run.output.count("WARNING") == 1
    assert "delivery to mlflow failed" in run.output
    assert f"of {run.folder}/journal.jsonl" in run.output
    assert f"python -m nntrain.sync {run.folder}" in run.output
    assert_unhurt(run, expected, 3)
    assert_journal_is_whole(run)

    with server:
        assert nntrain_sync(tmp_path, "run", "--to-recorded").returncode == 0
        stored = assert_delivered(run.record, server.folder / "server.db")
        assert (stored.status, stored.tags["nntrain.outcome"]) == ("FINISHED", "completed")
        before = tree(run.folder)
        again = nntrain_sync(tmp_path, "run", "--to-recorded")
        assert (again.returncode, again.stdout, again.stderr) == (
            0,
            "All runs under 'run' are delivered.\n",
            "",
        )
        assert tree(run.folder) == before
        assert assert_delivered(run.record, server.folder / "server.db") == stored
        assert n_runs(server.folder / "server.db") == 1


def test_a_server_that_restarts_gets_everything(
    tmp_path: Path, expected: list[float], measured: Callable[[str, float], None]
) -> None:
    with (
        MlflowServer(tmp_path / "server") as server,
        TrainingRun(tmp_path, tracked_by(server.uri, batch_ms=15)) as run,
    ):
        database = server.folder / "server.db"
        wait_until_stored(N_STEP // 8, database, run)
        server.kill()
        time.sleep(full(15, 10))
        n_before = n_stored(database, run)
        server.start()
        back_s = time.monotonic()
        assert run.wait() == 0, run.output
        measured("s from the restart to the end", time.monotonic() - back_s)
        assert time.monotonic() - back_s < 35
        assert n_before < len(run.seen)
        assert assert_delivered(run.record, database).status == "FINISHED"
    measured("longest stall in ms", assert_unhurt(run, expected, 15))
    assert_journal_is_whole(run)


def test_a_server_that_stays_dead_delays_the_end_only_up_to_the_timeout(
    tmp_path: Path, expected: list[float], measured: Callable[[str, float], None]
) -> None:
    with MlflowServer(tmp_path / "server") as server:
        database = server.folder / "server.db"
        with TrainingRun(
            tmp_path, tracked_by(server.uri, "tracker.finish_timeout_s=2", batch_ms=6)
        ) as run:
            wait_until_stored(N_STEP // 8, database, run)
            server.kill()
            assert run.wait() == 0, run.output
        measured("s from the last batch to the end", time.time() - run.seen[-1][0] / 1000)
        assert time.time() - run.seen[-1][0] / 1000 < 10
        assert "python -m nntrain.sync" in run.output
        assert_unhurt(run, expected, 6)
        assert_journal_is_whole(run)
        server.start()
        assert nntrain_sync(tmp_path, "--to-recorded").returncode == 0
        assert assert_delivered(run.record, database).status == "FINISHED"
        assert n_runs(database) == 1


def test_after_a_signal_the_process_waits_for_delivery_as_long_as_it_is_told(
    tmp_path: Path, measured: Callable[[str, float], None]
) -> None:
    args = tracked_by(f"http://127.0.0.1:{free_port()}", "tracker.interrupt_timeout_s=8")
    with TrainingRun(tmp_path, [*args, "n_epoch=10000"]) as run:
        run.wait_for_batches(N_BATCH)
        run.process.terminate()
        began = time.monotonic()
        assert run.wait() == 143, run.output
    measured("s from the signal to the end", time.monotonic() - began)
    assert 8 < time.monotonic() - began < 16
    assert "python -m nntrain.sync" in run.output
    assert_journal_is_whole(run)


def test_ctrl_c_and_kills_while_the_database_is_created_leave_one_that_works(
    tmp_path: Path,
) -> None:
    plan = [(signum, after_s) for signum in ("SIGINT", "SIGKILL") for after_s in (0.5, 2.0)]
    args = [*small(N_BATCH, n_epoch=10_000, batch_ms=3), "tracker.interrupt_timeout_s=0.1"]
    with ExitStack() as stack:
        runs = []
        for i, _ in enumerate(plan):
            (folder := tmp_path / str(i)).mkdir()
            runs.append(stack.enter_context(TrainingRun(folder, args)))
        for run, (signum, after_s) in zip(runs, plan, strict=True):
            wait_until((run.folder / "shipper.log").exists, "the shipper", 60)
            time.sleep(after_s)
            ended = [run.process, *(run.process.children() if signum == "SIGKILL" else [])]
            for process in ended:
                process.send_signal(Signals[signum])
        for run in runs:
            run.wait()
    for run in runs:
        synced = nntrain_sync(run.cwd)
        assert synced.returncode == 0, synced.stdout + synced.stderr
        stored = assert_delivered(run.record, run.cwd / "mlflow.db")
        assert stored.tags["nntrain.outcome"] == "interrupted"


@pytest.fixture(scope="module")
def faulty_runs(
    server: MlflowServer, tmp_path_factory: pytest.TempPathFactory, repeat: int
) -> Iterator[dict[Fault, tuple[TrainingRun, FaultyServer]]]:
    """Simultaneous runs on faulty servers. After 100 batches, each server fails some requests."""
    with ExitStack() as stack:
        runs = {
            fault: _run_on_faulty(stack, server, fault, tmp_path_factory.mktemp(fault.name))
            for fault in N_FAULTS
        }
        for run, _ in runs.values():
            wait_until_stored(N_STEP // 8, server.folder / "server.db", run)
        for fault, (_, faulty) in runs.items():
            faulty.every, faulty.fault = (4 if fault is Fault.LOST_REPLY else 1), fault
        for fault, (_, faulty) in runs.items():
            wait_until(lambda faulty=faulty, n=N_FAULTS[fault]: faulty.n_faults >= n, fault.name)
            faulty.fault = Fault.NONE
        yield runs


N_FAULTS = {Fault.ERROR: 5, Fault.TOO_MANY: 5, Fault.HANG: 1, Fault.LOST_REPLY: 5}
"""The minimum number of requests that fail."""


def _run_on_faulty(
    stack: ExitStack, server: MlflowServer, fault: Fault, cwd: Path
) -> tuple[TrainingRun, FaultyServer]:
    faulty = stack.enter_context(FaultyServer(server.uri))
    return stack.enter_context(TrainingRun(cwd, tracked_by(faulty.uri, batch_ms=15))), faulty


@pytest.mark.parametrize("fault", N_FAULTS)
def test_a_faulty_server_gets_everything_once_after_it_has_recovered(
    fault: Fault,
    faulty_runs: dict[Fault, tuple[TrainingRun, FaultyServer]],
    server: MlflowServer,
    expected: list[float],
) -> None:
    run, faulty = faulty_runs[fault]
    assert run.wait() == 0, run.output
    assert faulty.n_faults >= N_FAULTS[fault]
    assert_unhurt(run, expected, 15)
    assert_journal_is_whole(run)
    assert assert_delivered(run.record, server.folder / "server.db").status == "FINISHED"


def test_a_database_that_is_locked_for_10_s_gets_everything(
    tmp_path: Path, empty_store: Path, expected: list[float]
) -> None:
    database = shutil.copy(empty_store, tmp_path / "mlflow.db")
    with TrainingRun(tmp_path, small(N_BATCH, n_epoch=N_EPOCH, batch_ms=15)) as run:
        wait_until_stored(N_STEP // 8, database, run)
        with sqlite3.connect(database, isolation_level=None, timeout=30) as other:
            other.execute("BEGIN EXCLUSIVE")
            n_batch = len(run.seen)
            time.sleep(10)
            assert len(run.seen) > n_batch + 100
            other.execute("ROLLBACK")
        other.close()
        assert run.wait() == 0, run.output
    assert_unhurt(run, expected, 15)
    assert_journal_is_whole(run)
    assert assert_delivered(run.record, database).status == "FINISHED"


def test_a_killed_shipper_is_replaced(
    tmp_path: Path, empty_store: Path, expected: list[float]
) -> None:
    database = shutil.copy(empty_store, tmp_path / "mlflow.db")
    with TrainingRun(tmp_path, small(N_BATCH, n_epoch=N_EPOCH, batch_ms=10)) as run:
        wait_until_stored(N_STEP // 8, database, run)
        run.shipper().kill()
        assert run.wait() == 0, run.output
    assert run.output.count("the shipper died (exit code -9): restarting it.") == 1
    assert_unhurt(run, expected, 10)
    assert_journal_is_whole(run)
    assert assert_delivered(run.record, database).status == "FINISHED"
    assert n_runs(database) == 1


def test_a_tracker_that_sometimes_raises_gets_everything(
    tmp_path: Path, empty_store: Path, expected: list[float]
) -> None:
    database = shutil.copy(empty_store, tmp_path / "mlflow.db")
    flaky = "+tracker.flaky={_target_: tests.e2e.user.Flaky, system_metrics: false}"
    with TrainingRun(
        tmp_path, small(N_BATCH, flaky, "tracker=none", n_epoch=N_EPOCH, batch_ms=6)
    ) as run:
        assert run.wait() == 0, run.output
    assert "attempt 1 failed: ValueError: first" in (run.folder / "shipper.log").read_text()
    assert_unhurt(run, expected, 6)
    assert_journal_is_whole(run)
    assert assert_delivered(run.record, database).status == "FINISHED"


def test_one_server_stores_eight_simultaneous_runs(server: MlflowServer, tmp_path: Path) -> None:
    names = [f"run{i}" for i in range(8)]
    with ExitStack() as stack:
        runs = [
            stack.enter_context(TrainingRun(tmp_path, tracked_by(server.uri, folder=name), name))
            for name in names
        ]
        for run in runs:
            assert run.wait(180) == 0, run.output
    for run in runs:
        assert assert_delivered(run.record, server.folder / "server.db").status == "FINISHED"
    assert len({run.record.run.uid for run in runs}) == 8
