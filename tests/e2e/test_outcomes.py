"""However a run ends, the exit code, MLflow's status and the outcome tag agree."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.common.cli import nntrain_run
from tests.common.mlflow_store import only_run

pytestmark = pytest.mark.slow

LONG = ["n_epoch=5000", "callbacks=[signals,checkpoint]"]
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


def started(folder: Path, *args: str) -> subprocess.Popen[str]:
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
    while not list(folder.glob("outputs/*/*/last.ckpt")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return process


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_interrupted_run_is_killed_and_goes_on_where_it_stopped(tmp_path: Path, signum: signal.Signals, code: int) -> None:
    process = started(tmp_path, *LONG)
    process.send_signal(signum)
    _, errors = process.communicate(timeout=60)
    client, run = only_run(tmp_path)
    assert (process.returncode, run.info.status, run.data.tags["nntrain.outcome"]) == (code, "KILLED", "interrupted"), errors
    n_batch = len(client.get_metric_history(run.info.run_id, "batch/loss"))
    (folder,) = tmp_path.glob("outputs/*/*")

    n_epoch = n_batch // 23 + 2
    done = nntrain_run(f"n_epoch={n_epoch}", "callbacks=[signals,checkpoint]", f"resume={folder}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
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
