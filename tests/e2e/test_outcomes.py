"""However a run ends, its exit code, its status in both trackers, and its outcome tag agree."""

import math
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.common.servers import wait_until
from tests.common.training import (
    StoredRun,
    TrainingRun,
    assert_delivered,
    assert_journal_is_whole,
    n_runs,
    processes_in,
    small,
    stored_run,
    wandb_points,
)
from tests.common.wandb_store import read_offline

pytestmark = pytest.mark.slow

BOTH = ("tracker=[mlflow,wandb]", "tracker.wandb.mode=offline")


@pytest.fixture
def database(empty_store: Path, tmp_path: Path) -> Path:
    """MLflow's database in the folder of the test."""
    return Path(shutil.copy(empty_store, tmp_path / "mlflow.db"))


def assert_outcome(
    run: TrainingRun, database: Path, status: str, outcome: str, code: int
) -> StoredRun:
    """Checks that both trackers have the complete run and its outcome."""
    stored = assert_delivered(run.record, database)
    assert (stored.status, stored.tags["nntrain.outcome"]) == (status, outcome)
    assert stored.end_time is not None
    kept = read_offline(run.cwd, run.record.run.uid)
    assert (kept.exit_code, kept.tags["nntrain.outcome"], outcome in kept.run.tags) == (
        code,
        outcome,
        True,
    )
    assert {key: len(series) for key, series in wandb_points(kept).items()} == {
        key: len(series) for key, series in stored.points.items()
    }
    wait_until(
        lambda: processes_in(run.cwd) == [],
        "the end of wandb-core, which follows that of the shipper",
        15,
    )
    return stored


def own(name: str) -> str:
    return f"+callbacks.own._target_=tests.e2e.user.{name}"


def test_a_completed_run_is_finished_and_exits_with_0(tmp_path: Path, database: Path) -> None:
    with TrainingRun(tmp_path, small(40, *BOTH, n_epoch=2)) as run:
        assert run.wait() == 0, run.output
    stored = assert_outcome(run, database, "FINISHED", "completed", 0)
    assert len(stored.points["batch/loss"]) == 80


def test_a_pruned_run_is_killed_and_exits_with_0(tmp_path: Path, database: Path) -> None:
    with TrainingRun(tmp_path, small(40, *BOTH, own("Prunes"), n_epoch=3)) as run:
        assert run.wait() == 0, run.output
    assert "not promising" in run.output
    stored = assert_outcome(run, database, "KILLED", "pruned", 0)
    assert [(step, value) for step, _, value in stored.points["epoch"]] == [(40, "0.0")]


def test_a_diverged_run_failed_and_keeps_finite_weights(tmp_path: Path, database: Path) -> None:
    callbacks = ["callbacks=[signals,stop_on_nan,save_model]", "~callbacks.witness", own("Poisons")]
    with TrainingRun(tmp_path, small(20, *BOTH, *callbacks, n_epoch=3)) as run:
        assert run.wait() == 1, run.output
    stored = assert_outcome(run, database, "FAILED", "diverged", 1)
    losses = [float(value) for _, _, value in stored.points["batch/loss"]]
    assert [math.isnan(loss) for loss in losses] == [False] * 30 + [True]
    weights = torch.load(run.folder / "best.pt", weights_only=True)["model"]
    assert all(torch.isfinite(value).all() for value in weights.values())


def test_a_run_whose_callback_raises_failed_and_shows_the_place(
    tmp_path: Path, database: Path
) -> None:
    with TrainingRun(tmp_path, small(20, *BOTH, own("Raises"), n_epoch=3)) as run:
        assert run.wait() == 1, run.output
    stored = assert_outcome(run, database, "FAILED", "error", 1)
    assert stored.tags["nntrain.message"] == "RuntimeError: a bug of the user"
    assert "Raises.after_step (order=0), epoch 1" in run.output
    assert run.output.count("Traceback") == 1
    assert_journal_is_whole(run)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_interrupted_run_is_killed_and_continues_where_it_stopped(
    tmp_path: Path,
    database: Path,
    signum: signal.Signals,
    code: int,
    repeat: int,
    measured: Callable[[str, float], None],
) -> None:
    both = [*BOTH, "callbacks=[signals,checkpoint]"]
    with TrainingRun(tmp_path, small(100, *both, n_epoch=5000, batch_ms=5)) as first:
        first.wait_for_batches(130 + 37 * repeat % 150)
        first.process.send_signal(signum)
        sent_s = time.monotonic()
        assert first.wait() == code, first.output
        measured("s from the signal to the exit", time.monotonic() - sent_s)
        assert time.monotonic() - sent_s < 10
    assert "resume=" in first.output
    assert_journal_is_whole(first)
    assert_outcome(first, database, "KILLED", "interrupted", code)

    with TrainingRun(
        tmp_path, small(100, *both, "resume=run", n_epoch=3, folder="run2"), "run2"
    ) as second:
        assert second.wait() == 0, second.output
    assert [
        line
        for line in second.output.splitlines()
        if "another setting" in line and "witness" not in line
    ] == []
    assert n_runs(database) == 1
    stored = stored_run(database, second.record.run.uid)
    assert stored is not None
    assert (stored.status, stored.tags["nntrain.outcome"]) == ("FINISHED", "completed")
    assert [step for step, _, _ in stored.points["batch/loss"]] == list(range(1, 301))
    kept = read_offline(tmp_path, second.record.run.uid)
    assert (kept.exit_code, [step for step, _ in kept.series("batch/loss")]) == (
        0,
        list(range(1, 301)),
    )


def test_two_runs_that_start_together_in_a_new_folder_are_both_recorded(tmp_path: Path) -> None:
    both = [TrainingRun(tmp_path, small(20, folder=name), name) for name in ("run", "other")]
    for run in both:
        with run:
            assert run.wait() == 0, run.output
    assert [assert_delivered(run.record, tmp_path / "mlflow.db").status for run in both] == [
        "FINISHED",
        "FINISHED",
    ]


def test_an_interrupted_sweep_stops(tmp_path: Path) -> None:
    sweep = [
        "lr=0.1,0.01",
        "tracker=none",
        "callbacks=[signals,checkpoint]",
        "hydra.sweep.dir=sweep",
    ]
    with TrainingRun(tmp_path, ["-m", *small(100, *sweep, n_epoch=5000)]) as run:
        wait_until(
            lambda: run.lives() and (tmp_path / "sweep/0/last.ckpt").exists(),
            "the first checkpoint",
        )
        run.process.send_signal(signal.SIGINT)
        assert run.wait() == 130, run.output
    assert not (tmp_path / "sweep/1").exists()


def test_an_interrupt_before_the_fit_prints_one_line(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import time\n\ndef slow():\n    print('waiting', flush=True)\n    time.sleep(60)\n"
    )
    command = [
        sys.executable,
        "-m",
        "nntrain.run",
        "trusted_targets=[mine]",
        "~data",
        "+data._target_=mine.slow",
    ]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == "nntrain: interrupted\n"
    wait_until(lambda: processes_in(tmp_path) == [], "the end of the shipper", 15)
