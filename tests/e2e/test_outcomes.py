"""However a run ends, the exit code, MLflow's status and the outcome tag agree."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from tests.common.cli import nntrain_run
from tests.common.mlflow_store import only_run

pytestmark = pytest.mark.slow

LONG = ["n_epoch=5000", "callbacks=[signals,checkpoint]", "data.batch_size=64", "lr=3e-3"]
USER_CALLBACKS = """
from nntrain import Callback, CancelFitException, StopReason

class Raises(Callback):
    def after_step(self, learn):
        if learn.train_iter == 30:
            raise RuntimeError("the user's own mistake")

class Prunes(Callback):
    order = 100
    def after_epoch(self, learn):
        raise CancelFitException("not promising", reason=StopReason.PRUNED)

class Poisons(Callback):
    def before_batch(self, learn):
        if learn.train_iter == 30:
            learn.xb = (learn.xb[0] * float("nan"),)
"""


def with_callback(name: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "mine.py").write_text(USER_CALLBACKS)
    return nntrain_run("trusted_targets=[mine]", f"+callbacks.mine._target_=mine.{name}", "n_epoch=3", cwd=folder)


def test_a_pruned_run_is_killed_and_exits_with_0(tmp_path: Path) -> None:
    done = with_callback("Prunes", tmp_path)
    _, run = only_run(tmp_path)
    assert (done.returncode, run.info.status, run.data.tags["nntrain.outcome"]) == (0, "KILLED", "pruned"), done.stderr
    assert "not promising" in done.stdout
    assert run.data.metrics["epoch"] == 0


def test_a_diverged_run_failed_and_keeps_finite_weights(tmp_path: Path) -> None:
    import torch

    done = with_callback("Poisons", tmp_path)
    client, run = only_run(tmp_path)
    assert (done.returncode, run.info.status, run.data.tags["nntrain.outcome"]) == (1, "FAILED", "diverged"), done.stderr
    losses = [point.value for point in client.get_metric_history(run.info.run_id, "batch/loss")]
    assert len(losses) == 31
    assert [loss != loss for loss in losses] == [False] * 30 + [True]
    (best,) = tmp_path.glob("outputs/*/*/best.pt")
    assert all(torch.isfinite(value).all() for value in torch.load(best, weights_only=True)["model"].values())


def test_a_run_whose_callback_raises_failed_and_shows_where(tmp_path: Path) -> None:
    done = with_callback("Raises", tmp_path)
    client, run = only_run(tmp_path)
    assert (done.returncode, run.info.status, run.data.tags["nntrain.outcome"]) == (1, "FAILED", "error")
    assert run.data.tags["nntrain.message"] == "RuntimeError: the user's own mistake"
    assert "Raises.after_step (order=0), epoch 1" in done.stderr
    assert len(client.get_metric_history(run.info.run_id, "batch/loss")) == 31


def started(folder: Path, *args: str, pattern: str = "outputs/*/*/last.ckpt") -> subprocess.Popen[str]:
    """A run in progress: its first checkpoint is written, so it is between epochs or in one."""
    process = subprocess.Popen(
        [sys.executable, "-m", "nntrain.run", *args],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 90
    while not list(folder.glob(pattern)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return process


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_interrupted_run_is_killed_and_goes_on_where_it_stopped(tmp_path: Path, signum: signal.Signals, code: int) -> None:
    process = started(tmp_path, *LONG)
    process.send_signal(signum)
    output, errors = process.communicate(timeout=60)
    client, run = only_run(tmp_path)
    assert (process.returncode, run.info.status, run.data.tags["nntrain.outcome"]) == (code, "KILLED", "interrupted"), errors
    n_batch = len(client.get_metric_history(run.info.run_id, "batch/loss"))
    (folder,) = tmp_path.glob("outputs/*/*")

    n_epoch = n_batch // 23 + 2
    done = nntrain_run(f"n_epoch={n_epoch}", f"resume={folder}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "another setting" not in done.stderr
    assert f"resume={folder}" in output
    client, run = only_run(tmp_path)
    assert (run.info.status, run.data.tags["nntrain.outcome"]) == ("FINISHED", "completed")
    steps = [point.step for point in client.get_metric_history(run.info.run_id, "batch/loss")]
    assert steps == list(range(1, n_epoch * 23 + 1))


def test_a_killed_process_leaves_a_store_that_can_be_read(tmp_path: Path) -> None:
    process = started(tmp_path, *LONG)
    process.kill()
    process.communicate()
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
    assert nntrain_run("n_epoch=1", cwd=tmp_path).returncode == 0


def test_two_runs_that_start_together_in_a_new_folder_are_both_recorded(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "nntrain.run", "n_epoch=1", "callbacks=none"]
    both = [
        subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for process in both:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    assert [run.info.status for run in client.search_runs(experiments)] == ["FINISHED", "FINISHED"]


def test_an_interrupted_sweep_stops(tmp_path: Path) -> None:
    overrides = ["-m", "lr=0.1,0.01", "n_epoch=5000", "tracker=none", "callbacks=[signals,checkpoint]"]
    process = started(tmp_path, *overrides, pattern="multirun/*/*/0/last.ckpt")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert list(tmp_path.glob("multirun/*/*/1")) == []


def test_an_interrupt_before_the_fit_is_one_word(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import time\n\ndef slow():\n    print('waiting', flush=True)\n    time.sleep(60)\n")
    command = [sys.executable, "-m", "nntrain.run", "trusted_targets=[mine]", "~data", "+data._target_=mine.slow"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == "nntrain: interrupted\n"
