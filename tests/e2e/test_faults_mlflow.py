"""Whatever becomes of MLflow or of the shipper, training is unhurt, and every point is delivered in the end, once."""

import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.common.cli import tree
from tests.common.servers import Fault, FaultyServer, MlflowServer, wait_until
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
    """The losses of the run that is not tracked."""
    with TrainingRun(
        tmp_path_factory.mktemp("untracked"), small(N_BATCH, "tracker=none", n_epoch=N_EPOCH)
    ) as run:
        assert run.wait() == 0, run.output
        return [loss for _, loss in run.seen]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A server that lives."""
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
    """How many batches of a run MLflow has."""
    found = stored_run(database, run.record.run.uid) if run.folder.exists() else None
    return len(found.points.get("batch/loss", [])) if found else 0


def wait_until_stored(n: int, database: Path, run: TrainingRun) -> None:
    run.wait_for_batches(n)
    wait_until(lambda: run.lives() and n_stored(database, run) >= n, f"{n} batches in {database}")


def test_a_server_that_is_never_there_costs_a_warning_and_sync_delivers_later(
    tmp_path: Path, expected: list[float]
) -> None:
    server = MlflowServer(tmp_path / "server")
    with TrainingRun(
        tmp_path, tracked_by(server.uri, "tracker.finish_timeout_s=2", batch_ms=3)
    ) as run:
        assert run.wait() == 0, run.output
    assert run.seen[0][0] / 1000 - run.started_s < 10
    assert run.output.count("WARNING") == 1
    assert "delivery to mlflow fails" in run.output
    assert f"of {run.folder}/journal.jsonl" in run.output
    assert f"python -m nntrain.sync {run.folder}" in run.output
    assert_unhurt(run, expected, 3)
    assert_journal_is_whole(run)

    with server:
        assert nntrain_sync(tmp_path, "run").returncode == 0
        stored = assert_delivered(run.record, server.folder / "server.db")
        assert (stored.status, stored.tags["nntrain.outcome"]) == ("FINISHED", "completed")
        before = tree(run.folder)
        again = nntrain_sync(tmp_path, "run")
        assert (again.returncode, again.stdout, again.stderr) == (
            0,
            "Everything under 'run' is delivered.\n",
            "",
        )
        assert tree(run.folder) == before
        assert assert_delivered(run.record, server.folder / "server.db") == stored
        assert n_runs(server.folder / "server.db") == 1


def test_a_server_that_is_killed_and_back_after_10_s_gets_everything(
    tmp_path: Path, expected: list[float]
) -> None:
    with (
        MlflowServer(tmp_path / "server") as server,
        TrainingRun(tmp_path, tracked_by(server.uri, batch_ms=15)) as run,
    ):
        database = server.folder / "server.db"
        wait_until_stored(N_STEP // 8, database, run)
        server.kill()
        time.sleep(10)
        n_before = n_stored(database, run)
        server.start()
        back_s = time.monotonic()
        assert run.wait() == 0, run.output
        assert time.monotonic() - back_s < 35
        assert n_before < len(run.seen)
        assert assert_delivered(run.record, database).status == "FINISHED"
    assert_unhurt(run, expected, 15)
    assert_journal_is_whole(run)


def test_a_server_that_never_comes_back_is_left_after_the_time_set(
    tmp_path: Path, expected: list[float]
) -> None:
    with MlflowServer(tmp_path / "server") as server:
        database = server.folder / "server.db"
        with TrainingRun(
            tmp_path, tracked_by(server.uri, "tracker.finish_timeout_s=2", batch_ms=6)
        ) as run:
            wait_until_stored(N_STEP // 8, database, run)
            server.kill()
            assert run.wait() == 0, run.output
        assert time.time() - run.seen[-1][0] / 1000 < 10
        assert "python -m nntrain.sync" in run.output
        assert_unhurt(run, expected, 6)
        assert_journal_is_whole(run)
        server.start()
        assert nntrain_sync(tmp_path).returncode == 0
        assert assert_delivered(run.record, database).status == "FINISHED"
        assert n_runs(database) == 1


@pytest.fixture(scope="module")
def ill(
    server: MlflowServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[Fault, tuple[TrainingRun, FaultyServer]]]:
    """A run against each ill server, all at once: ill from the 100th batch on, for 5 requests at least, then well."""
    with ExitStack() as stack:
        runs = {
            fault: _ill_run(stack, server, fault, tmp_path_factory.mktemp(fault.name))
            for fault in ILL
        }
        for run, _ in runs.values():
            wait_until_stored(N_STEP // 8, server.folder / "server.db", run)
        for fault, (_, faulty) in runs.items():
            faulty.every, faulty.fault = (4 if fault is Fault.LOST_REPLY else 1), fault
        for fault, (_, faulty) in runs.items():
            wait_until(lambda faulty=faulty, n=ILL[fault]: faulty.n_faults >= n, fault.name)
            faulty.fault = Fault.NONE
        yield runs


ILL = {Fault.ERROR: 5, Fault.TOO_MANY: 5, Fault.HANG: 1, Fault.LOST_REPLY: 5}
"""How many requests fail."""


def _ill_run(
    stack: ExitStack, server: MlflowServer, fault: Fault, cwd: Path
) -> tuple[TrainingRun, FaultyServer]:
    faulty = stack.enter_context(FaultyServer(server.uri))
    return stack.enter_context(TrainingRun(cwd, tracked_by(faulty.uri, batch_ms=15))), faulty


@pytest.mark.parametrize("fault", ILL)
def test_an_ill_server_gets_everything_once_when_it_is_well(
    fault: Fault,
    ill: dict[Fault, tuple[TrainingRun, FaultyServer]],
    server: MlflowServer,
    expected: list[float],
) -> None:
    run, faulty = ill[fault]
    assert run.wait() == 0, run.output
    assert faulty.n_faults >= ILL[fault]
    assert_unhurt(run, expected, 15)
    assert_journal_is_whole(run)
    assert assert_delivered(run.record, server.folder / "server.db").status == "FINISHED"


def test_a_database_that_another_locks_for_10_s_gets_everything(
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


def test_a_shipper_that_is_killed_is_followed_by_another_one(
    tmp_path: Path, empty_store: Path, expected: list[float]
) -> None:
    database = shutil.copy(empty_store, tmp_path / "mlflow.db")
    with TrainingRun(tmp_path, small(N_BATCH, n_epoch=N_EPOCH, batch_ms=10)) as run:
        wait_until_stored(N_STEP // 8, database, run)
        run.shipper().kill()
        assert run.wait() == 0, run.output
    assert run.output.count("the shipper died (exit code -9): it is restarted and continues.") == 1
    assert_unhurt(run, expected, 10)
    assert_journal_is_whole(run)
    assert assert_delivered(run.record, database).status == "FINISHED"
    assert n_runs(database) == 1


def test_a_tracker_that_raises_now_and_then_gets_everything(
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


def test_eight_runs_at_once_on_one_server_are_all_kept(
    server: MlflowServer, tmp_path: Path
) -> None:
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
