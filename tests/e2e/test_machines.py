"""A run survives what its machine does: signals, consoles, locales, disks and odd folders."""

import os
import pty
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from signal import Signals

import pytest
from mlflow.tracking import MlflowClient

from tests.common.cli import nntrain_run, tree, warm_nntrain_run
from tests.common.mlflow_store import only_run
from tests.common.servers import wait_until
from tests.common.training import REPOSITORY, TrainingRun, assert_delivered, small

pytestmark = pytest.mark.slow

ODD = "a?b%20c#d (e) ,é'&lr=1"
"""The name of a folder whose characters have a meaning for shells, URIs, Hydra or SQLAlchemy."""


@pytest.fixture
def database(empty_store: Path, tmp_path: Path) -> Path:
    """MLflow's database in the folder of the test."""
    return Path(shutil.copy(empty_store, tmp_path / "mlflow.db"))


def shell(command: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs a command as a user does who types or pastes it."""
    here = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), **env}
    bin_folder = str(Path(sys.executable).parent)
    here["PATH"] = f"{bin_folder}:{here['PATH']}"
    return subprocess.run(
        ["bash", "-c", command],
        cwd=cwd,
        env=here,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


# --- folders that hold a run


@pytest.mark.parametrize("tracker", ["tracker=none", "tracker.offline=true"])
def test_a_refused_second_run_changes_nothing_in_the_folder_of_the_first(
    tmp_path: Path, logs: Path, tracker: str
) -> None:
    args = ("n_epoch=1", "hydra.run.dir=run", tracker)
    first = warm_nntrain_run("lr=0.5", *args, cwd=tmp_path, logs=logs)
    assert first.returncode == 0, first.stderr
    before = tree(tmp_path)
    second = warm_nntrain_run("lr=0.001", *args, cwd=tmp_path, logs=logs)
    assert (second.returncode, second.stdout) == (1, "")
    assert second.stderr == (
        f"nntrain: hydra.run.dir={tmp_path}/run already contains a run: choose another folder, or "
        f"continue that run with resume={tmp_path}/run.\n"
    )
    assert tree(tmp_path) == before


def test_a_run_that_is_still_running_is_neither_resumed_nor_overwritten(
    tmp_path: Path, logs: Path
) -> None:
    with TrainingRun(tmp_path, small(99999, "callbacks=default", "tracker.offline=true")) as run:
        wait_until(lambda: (run.folder / "journal.jsonl").exists(), "the journal")
        shutil.copy(run.folder / "journal.jsonl", tmp_path)
        args = ("resume=run/last.ckpt", "hydra.run.dir=next", "trusted_targets=[tests]")
        resumed = warm_nntrain_run(*args, cwd=tmp_path, logs=logs)
    assert resumed.returncode == 1
    assert "run/last.ckpt is still running: stop that run first" in resumed.stderr
    assert not (tmp_path / "next").exists()


def test_paths_are_relative_to_the_folder_of_the_command(tmp_path: Path, logs: Path) -> None:
    args = ("hydra.job.chdir=true", "tracker=[mlflow,wandb]", "tracker.wandb.mode=offline")
    for more in (("n_epoch=1", "hydra.run.dir=first"), ("n_epoch=2", "hydra.run.dir=second")):
        resume = ["resume=first"] if "second" in more[1] else []
        done = warm_nntrain_run(*args, *more, *resume, cwd=tmp_path, logs=logs, WANDB_DIR="w")
        assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {
        "first",
        "second",
        "mlflow.db",
        "mlruns",
        "w",
    }
    assert only_run(tmp_path)[1].data.metrics["epoch"] == 1


def test_files_land_where_they_belong_and_printed_commands_work_in_an_odd_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ODD
    folder.mkdir()
    with TrainingRun(
        folder,
        ["n_epoch=20000", "tracker.offline=true", """hydra.run.dir="r=1, (v2)\""""],
        "r=1, (v2)",
    ) as run:
        wait_until(lambda: run.lives() and (run.folder / "last.ckpt").exists(), "a checkpoint")
        run.process.send_signal(signal.SIGTERM)
        assert run.wait() == 143
    go_on, deliver = (
        next(line for line in run.output.splitlines() if line.startswith(start)).partition(":")[2]
        for start in ("go on:", "deliver it:")
    )
    done = shell(deliver, tmp_path / ".", MLFLOW_TRACKING_URI="")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {ODD}
    assert {path.name for path in folder.iterdir()} >= {"mlflow.db", "mlruns", "r=1, (v2)"}
    monkeypatch.chdir(folder)
    client = MlflowClient("sqlite:///mlflow.db")
    (stored,) = client.search_runs(["1"])
    assert "config.yaml" in {file.path for file in client.list_artifacts(stored.info.run_id)}
    done = shell(f"{go_on} n_epoch=1 tracker=none hydra.run.dir=next", folder)
    assert (done.returncode, "nothing to do" in done.stderr) == (0, True), done.stderr


# --- signals


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_to_all_processes_of_a_job_ends_the_run_as_interrupted(
    tmp_path: Path, database: Path, signum: Signals
) -> None:
    with TrainingRun(tmp_path, small(99999, batch_ms=5, workers=1)) as run:
        wait_until(lambda: (run.folder / "delivery" / "mlflow.json").exists(), "the delivery")
        run.wait_for_batches(5)
        for process in (run.shipper(), run.process):
            process.send_signal(signum)
        assert run.wait() == 128 + signum
    stored = assert_delivered(run.record, database)
    assert (stored.status, stored.tags["nntrain.outcome"]) == ("KILLED", "interrupted")
    assert stored.tags["nntrain.message"] == f"{signum.name} was received"
    assert "the shipper died" not in run.output


# --- consoles


def test_closed_streams_change_nothing(tmp_path: Path) -> None:
    command = "python -m nntrain.run n_epoch=1 hydra.run.dir=run <&- >&- 2>&-; test $? = 0"
    assert shell(command, tmp_path).returncode == 0
    assert only_run(tmp_path)[1].info.status == "FINISHED"
    log = tmp_path / "run" / "run.log"
    assert "shipper died" not in log.read_text()
    assert "completed after 1 epoch" in (tmp_path / "run" / "console.log").read_text()


def test_training_goes_on_after_the_reader_of_its_output_has_ended(tmp_path: Path) -> None:
    run = "python -m nntrain.run n_epoch=4 tracker.offline=true hydra.run.dir=run"
    done = shell(f"{run} | head -n 1 > /dev/null; exit ${{PIPESTATUS[0]}}", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "completed after 4 epochs" in (tmp_path / "run" / "console.log").read_text()


def test_training_goes_on_after_its_terminal_was_closed(tmp_path: Path) -> None:
    controller, terminal = pty.openpty()
    args = ["n_epoch=60", "tracker.offline=true", "hydra.run.dir=run"]
    with subprocess.Popen(
        [sys.executable, "-m", "nntrain.run", *args],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    ) as process:
        os.close(terminal)
        wait_until(lambda: (tmp_path / "run" / "last.ckpt").exists(), "the first epoch")
        os.close(controller)
        assert process.wait(60) == 0
    assert "completed after 60 epochs" in (tmp_path / "run" / "console.log").read_text()


LOCALES = {
    "ascii streams": {"PYTHONIOENCODING": "ascii"},
    "ascii": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}


@pytest.mark.parametrize("env", LOCALES.values(), ids=LOCALES)
def test_names_survive_a_locale_that_cannot_show_them(tmp_path: Path, env: dict[str, str]) -> None:
    name = 'tracker.mlflow.experiment_name="é✓"'
    args = ["n_epoch=1", "tracker.offline=true", 'hydra.run.dir="é/✓"', name]
    done = nntrain_run(*args, cwd=tmp_path, **env)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "é" / "✓"
    for name in ("run.log", ".hydra/config.yaml", ".hydra/overrides.yaml"):
        assert "✓" in (folder / name).read_text(encoding="utf-8")


# --- disks


WITHOUT_LOCKS = """
import errno, fcntl, os
def flock(fd, kind):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
fcntl.flock = flock
"""


def test_a_disk_without_locks_costs_one_warning(tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(WITHOUT_LOCKS)
    work = tmp_path / "work"
    work.mkdir()
    done = nntrain_run("n_epoch=1", cwd=work, PYTHONPATH=f"{site}:{REPOSITORY}")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("files cannot be locked on this file system") == 1
    assert only_run(work)[1].info.status == "FINISHED"
    synced = shell("python -m nntrain.sync", work, PYTHONPATH=f"{site}:{REPOSITORY}")
    assert (synced.returncode, synced.stdout) == (0, "All runs under '.' are delivered.\n")
