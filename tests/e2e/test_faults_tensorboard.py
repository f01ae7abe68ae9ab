"""TensorBoard event files are complete after kills, resumes and late delivery."""

import csv
import random
import time
from pathlib import Path

import numpy as np
import pytest
from tensorboard.plugins.hparams import api_pb2

from nntrain.integrations.journal.records import RunRecord, read_journal
from tests.common.cli import nntrain_run
from tests.common.servers import wait_until
from tests.common.tensorboard_store import cells, read, sessions, shown, text
from tests.common.training import TrainingRun, assert_unhurt, nntrain_sync, processes_in, small

pytestmark = pytest.mark.slow

N_BATCH, N_EPOCH = 100, 4
TENSORBOARD = ["tracker=tensorboard", "callbacks=[signals,checkpoint]"]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The losses of an untracked run."""
    folder = tmp_path_factory.mktemp("untracked")
    with TrainingRun(folder, small(N_BATCH, "tracker=none", n_epoch=N_EPOCH)) as run:
        assert run.wait() == 0, run.output
        return [loss for _, loss in run.seen]


def assert_in_tensorboard(record: RunRecord, folder: Path) -> None:
    """Checks that the event files have exactly the points of the journal in single precision.

    Time metrics are not compared, because a resumed epoch has two durations.
    """
    events = read(folder)
    keys = {key for key in record.metrics if not key.startswith("time/")}
    own = [key for key in events.Tags()["scalars"] if not key.startswith(("system/", "time/"))]
    assert set(own) == keys
    for key in keys:
        series, found = record.metrics[key], events.Scalars(key)
        assert [event.step for event in found] == series.step.tolist()
        values = np.array([event.value for event in found], np.float32)
        np.testing.assert_array_equal(values, series.value.astype(np.float32))


def outcome(folder: Path) -> str:
    [_, [reason, _]] = cells(text(folder, "nntrain/outcome"))
    return reason


def only_run(log_dir: Path) -> Path:
    [folder] = log_dir.iterdir()
    return folder


def test_a_killed_shipper_is_replaced_without_lost_or_duplicate_rows(
    tmp_path: Path, expected: list[float]
) -> None:
    command = small(N_BATCH, *TENSORBOARD, n_epoch=N_EPOCH, batch_ms=10)
    with TrainingRun(tmp_path, command) as run:
        run.wait_for_batches(N_BATCH)
        wait_until(lambda: list((tmp_path / "runs").glob("*/*.rows")), "the event files")
        time.sleep(random.Random(0).random())
        run.shipper().kill()
        assert run.wait() == 0, run.output
    assert_unhurt(run, expected, batch_ms=10)
    assert_in_tensorboard(run.record, only_run(tmp_path / "runs"))
    assert outcome(only_run(tmp_path / "runs")) == "completed"


def test_a_killed_run_that_is_resumed_is_one_run_with_one_curve(
    tmp_path: Path, expected: list[float]
) -> None:
    with TrainingRun(tmp_path, small(N_BATCH, *TENSORBOARD, n_epoch=N_EPOCH, batch_ms=10)) as first:
        wait_until(lambda: first.lives() and (first.folder / "last.ckpt").exists(), "a checkpoint")
        first.wait_for_batches(N_BATCH + 50)
        first.process.kill()
        first.wait()
    wait_until(lambda: processes_in(tmp_path) == [], "the end of the shipper", 20)
    assert outcome(only_run(tmp_path / "runs")) == "interrupted"
    assert_in_tensorboard(first.record, only_run(tmp_path / "runs"))
    resume = small(N_BATCH, *TENSORBOARD, "resume=run", n_epoch=N_EPOCH, folder="run2")
    with TrainingRun(tmp_path, resume, "run2") as second:
        assert second.wait() == 0, second.output
    assert second.record.metrics["batch/loss"].value.tolist() == expected
    assert_in_tensorboard(second.record, only_run(tmp_path / "runs"))
    assert outcome(only_run(tmp_path / "runs")) == "completed"
    [group] = sessions(tmp_path / "runs").values()
    assert group.sessions[0].status == api_pb2.STATUS_SUCCESS


def test_sync_delivers_a_journal_to_tensorboard_once(tmp_path: Path) -> None:
    offline = small(20, "tracker=mlflow", "tracker.offline=true")
    with TrainingRun(tmp_path, offline) as run:
        assert run.wait() == 0, run.output
    for _ in range(2):
        done = nntrain_sync(tmp_path, "run", "--to", "tensorboard", "--set", "log_dir=logs")
        assert done.returncode == 0, done.stdout + done.stderr
        assert_in_tensorboard(run.record, only_run(tmp_path / "logs"))
    assert outcome(only_run(tmp_path / "logs")) == "completed"


def test_the_trials_of_a_study_are_compared_by_their_params(tmp_path: Path) -> None:
    done = nntrain_run(
        "-m",
        "tracker=tensorboard",
        "model.hidden=choice(8,16)",
        "n_epoch=1",
        "hydra/sweeper/sampler=grid",
        "hydra.sweeper.study_name=s",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    study = only_run(tmp_path / "runs")
    with open(tmp_path / "multirun/s/trials.csv") as file:
        trials = {row["run"]: row for row in csv.DictReader(file)}
    found = {name.rpartition("-")[2]: group for name, group in sessions(tmp_path / "runs").items()}
    assert len(found) == 2
    assert found.keys() == trials.keys()
    for uid, group in found.items():
        [folder] = study.glob(f"*{uid}")
        assert_in_tensorboard(read_journal(tmp_path / "multirun/s" / trials[uid]["number"]), folder)
        assert shown(group)["model.hidden"] == float(trials[uid]["model.hidden"])
        [last] = [one for one in group.metric_values if one.name.tag == "valid/accuracy"]
        assert last.value == pytest.approx(float(trials[uid]["valid/accuracy"]))
    assert outcome(study) == "completed"
