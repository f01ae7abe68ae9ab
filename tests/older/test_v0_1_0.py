"""Files of version 0.1.0 still work: a run resumes, a journal is delivered, a study continues.

The README in `v0.1.0` describes the files, and `make_v0_1_0.sh` creates them.
"""

import csv
import json
import os
import platform
import shutil
import subprocess
import sys
import zlib
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import mlflow.pytorch
import optuna
import pytest
import torch
import yaml
from mlflow.tracking import MlflowClient
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from tests.common.cli import nntrain_run, tree
from tests.common.mlflow_store import only_run
from tests.common.wandb_store import read_offline

pytestmark = pytest.mark.slow

MADE = Path(__file__).parent / "v0.1.0"

MADE_IN = "/home/me/work"
"""The working directory in which the files were made; they contain absolute paths below it."""

STUDY = [
    "-m",
    "data=digits",
    "model=mlp",
    "n_epoch=3",
    "tracker=none",
    "device=cpu",
    "lr=tag(log,interval(1e-3,1e-1))",
    "model.hidden=choice(4,8)",
    "hydra.sweeper.sampler.seed=9",
    "hydra.sweeper.pruner.n_startup_trials=1",
    "hydra.sweeper.study_name=older",
]
"""The arguments of the study, without `n_trials`."""

Points = dict[str, list[tuple[int, int, float]]]
"""The points of each key, sorted: step, Unix time in milliseconds, and value."""


# --- the files


def older(name: str, to: Path) -> Path:
    """Copies a folder of 0.1.0, and replaces its absolute paths as if it had been created here.

    A checkpoint contains the absolute paths of its run's journal and best model. A journal
    contains the absolute path of the store.
    """
    shutil.copytree(MADE / name, to)
    cwd = str(Path.cwd())
    for path in to.rglob("*.ckpt"):
        torch.save(_replaced(torch.load(path, weights_only=True), cwd), path)
    for path in to.rglob("journal.jsonl"):
        path.write_bytes(b"".join(_line(_replaced(record, cwd)) for record in records(path)))
    return to


def _replaced(value: Any, cwd: str) -> Any:
    if isinstance(value, str):
        return value.replace(MADE_IN, cwd)
    if isinstance(value, dict):
        return type(value)((key, _replaced(one, cwd)) for key, one in value.items())
    if isinstance(value, list | tuple):
        return type(value)(_replaced(one, cwd) for one in value)
    return value


def _line(record: dict[str, Any]) -> bytes:
    """Returns a record as a journal line; the last key is the CRC-32 of all preceding bytes."""
    plain = {key: value for key, value in record.items() if key != "crc"}
    head = json.dumps(plain, separators=(",", ":")).encode()[:-1]
    return b'%s,"crc":"%08x"}\n' % (head, zlib.crc32(head))


def records(journal: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """Returns the records of a journal; with `kind`, only the records of this kind."""
    found = [json.loads(line) for line in journal.read_bytes().splitlines()]
    return [record for record in found if kind in (None, record["kind"])]


def journal_points(journal: Path) -> Points:
    """Returns all points of a journal."""
    points: Points = defaultdict(list)
    for record in records(journal, "metrics"):
        for key, values in record["values"].items():
            points[key] += zip(record["step"], record["time_ms"], values, strict=True)
    return {key: sorted(series) for key, series in points.items()}


# --- the commands


def run_as_made(*args: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """Runs `python -m nntrain.run` with the torch kernels that produced the files.

    The last bits of a loss depend on the kernels. These kernels give the same bits on every x86-64.
    """
    return nntrain_run(*args, cwd=cwd, ATEN_CPU_CAPABILITY="default", MKL_CBWR="COMPATIBLE")


def nntrain_sync(*args: str) -> "subprocess.CompletedProcess[str]":
    """Runs `python -m nntrain.sync` and returns the finished process."""
    command = [sys.executable, "-m", "nntrain.sync", *args]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=120, check=False
    )


# --- the stores


def stored_points(client: MlflowClient, run_id: str) -> Points:
    """Returns all points of a run in MLflow."""
    return {
        key: sorted(
            (point.step, point.timestamp, point.value)
            for point in client.get_metric_history(run_id, key)
        )
        for key in client.get_run(run_id).data.metrics
    }


def stored_files(client: MlflowClient, run_id: str, folder: str | None = None) -> set[str]:
    """Returns the names of all files of a run in MLflow."""
    found = client.list_artifacts(run_id, folder)
    below = [stored_files(client, run_id, item.path) for item in found if item.is_dir]
    return {item.path for item in found if not item.is_dir}.union(*below)


# --- an interrupted run


def test_an_interrupted_run_that_resumes_equals_the_uninterrupted_run(
    tmp_path: Path, store_uri: str
) -> None:
    old = older("run", tmp_path / "run") / "journal.jsonl"
    before = journal_points(old)
    (start,) = records(old, "start")
    done = run_as_made("resume=run", "hydra.run.dir=resumed", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    synced = nntrain_sync(".")
    assert synced.returncode == 0, synced.stderr

    client, run = only_run(tmp_path)
    assert run.info.status == "FINISHED"
    assert run.data.tags["nntrain.run"] == start["run"]["uid"]
    points = stored_points(client, run.info.run_id)
    for key, series in before.items():
        assert points[key][: len(series)] == series, key
    assert_like_uninterrupted(points, expected_of(old.parent))
    for name in ("train/loss", "valid/loss", "train/accuracy", "valid/accuracy"):
        assert f"{name}:".ljust(17) + f"{points[name][-1][2]:.6g}\n" in done.stdout


def expected_of(folder: Path) -> dict[str, Any]:
    """Returns the results of the uninterrupted run with 0.1.0, and its version of torch."""
    found: dict[str, Any] = json.loads((folder / "expected.json").read_text())
    return found


def assert_like_uninterrupted(points: Points, expected: dict[str, Any]) -> None:
    """Compares all points; with another torch or machine, only the losses, roughly.

    The last digit of a mean may differ because a CPU sums in the order of the memory's alignment.
    """
    kept = {
        key: [[step, value] for step, _, value in series]
        for key, series in points.items()
        if not key.startswith("time/")
    }
    wanted = {key: sorted(series) for key, series in expected["points"].items()}
    assert kept.keys() == wanted.keys()
    for key, series in wanted.items():
        if same_torch(expected):
            torch.testing.assert_close(kept[key], series, rtol=1e-6, atol=0.0)
        elif key.endswith("loss"):
            torch.testing.assert_close(kept[key], series, rtol=1e-3, atol=0.0)


def same_torch(expected: dict[str, Any]) -> bool:
    """Returns whether torch and the machine type are the same as when the files were made."""
    version = torch.__version__.split("+")[0]
    return (version, platform.machine()) == (expected["torch"], expected["machine"])


def tolerance(expected: dict[str, Any]) -> float:
    """Returns the tolerance for accuracies: 0 with the same torch and machine, or else 0.02."""
    return 0.0 if same_torch(expected) else 0.02


# --- a journal that was never delivered


@pytest.fixture(scope="module")
def synced(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """Delivers the journal with the settings in the journal; returns the folder of the stores."""
    folder = tmp_path_factory.mktemp("synced")
    shutil.copy(empty_store, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("WANDB_MODE", "offline")
        older("journal", folder / "journal")
        done = nntrain_sync("journal")
        assert done.returncode == 0, done.stderr
    for name in ("mlflow", "wandb"):
        state = json.loads((folder / f"journal/delivery/{name}.json").read_text())
        assert (state["notes"], state["n_refused"]) == ([], 0)
    return folder


JOURNAL = MADE / "journal/journal.jsonl"

START = records(JOURNAL, "start")[0]["run"]


def test_mlflow_gets_each_point_param_and_tag_of_an_old_journal(synced: Path) -> None:
    client, run = only_run(synced)
    assert stored_points(client, run.info.run_id) == journal_points(JOURNAL)
    for key, value in START["params"].items():
        assert run.data.params[key] == str(value).replace(MADE_IN, str(synced)), key
    for key, value in tags(JOURNAL).items():
        assert run.data.tags[key] == value.replace(MADE_IN, str(synced)), key
    assert (run.data.tags["nntrain.run"], run.data.tags["team"]) == (START["uid"], "ours")
    (end,) = records(JOURNAL, "end")
    assert (run.info.status, run.info.start_time) == ("FINISHED", START["time_ms"])
    assert run.info.end_time == end["time_ms"]


def tags(journal: Path) -> dict[str, str]:
    """Returns all tags of a journal."""
    found = dict(START["tags"])
    for record in records(journal, "tags"):
        found |= record["tags"]
    return found


def files_of(kinds: Iterable[str]) -> dict[str, Path]:
    """Returns the files of the journal by their names in the trackers."""
    return {
        record["name"]: JOURNAL.parent / record["path"]
        for record in records(JOURNAL)
        if record["kind"] in kinds
    }


def test_mlflow_gets_each_file_and_table_of_an_old_journal(synced: Path, tmp_path: Path) -> None:
    client, run = only_run(synced)
    files = files_of(("figure", "artifact", "model"))
    assert {"plots/mine.png", "reports/report.txt", "best.pt", "console.log"} <= files.keys()
    (table,) = records(JOURNAL, "table")
    names = {*files, *START["texts"], table["name"]}
    assert stored_files(client, run.info.run_id) == names

    def stored(name: str) -> bytes:
        return Path(client.download_artifacts(run.info.run_id, name, str(tmp_path))).read_bytes()

    for name, path in files.items():
        assert stored(name) == path.read_bytes(), name
    assert json.loads(stored(table["name"])) == {"columns": table["columns"], "data": table["rows"]}


@pytest.mark.filterwarnings("ignore")  # from MLflow
def test_the_model_of_an_old_journal_is_instantiated(synced: Path) -> None:
    client, run = only_run(synced)
    (model,) = client.search_logged_models([run.info.experiment_id])
    assert model.source_run_id == run.info.run_id
    loaded = mlflow.pytorch.load_model(str(Path(model.artifact_location)))
    weights = torch.load(JOURNAL.parent / "files/0008-best.pt", weights_only=True)["model"]
    torch.testing.assert_close(dict(loaded.state_dict()), dict(weights), rtol=0, atol=0)


def test_wandb_gets_each_point_and_histogram_of_an_old_journal(synced: Path) -> None:
    run = read_offline(synced, START["uid"])
    for key, series in journal_points(JOURNAL).items():
        assert sorted(run.series(key)) == [(step, value) for step, _, value in series], key
    counts = {
        (record["step"], name): series
        for record in records(JOURNAL, "histograms")
        for name, series in record["counts"].items()
    }
    assert counts == {
        (row["train_iter"], key.removesuffix(".bins")): row[f"{key.removesuffix('.bins')}.values"]
        for row in run.history
        for key in row
        if key.endswith(".bins")
    }
    assert run.exit_code == 0
    assert run.tags["nntrain.outcome"] == "completed"


def test_an_old_journal_is_delivered_to_another_store_once(tmp_path: Path, store_uri: str) -> None:
    folder = Path(shutil.copytree(MADE / "journal", tmp_path / "journal"))
    before = (folder / "journal.jsonl").read_bytes()
    to = ["journal", "--to", "mlflow", "--set", f"tracking_uri={store_uri}"]
    for _ in range(2):
        done = nntrain_sync(*to)
        assert done.returncode == 0, done.stderr
        client, run = only_run(tmp_path)
        assert stored_points(client, run.info.run_id) == journal_points(JOURNAL)
    assert (folder / "journal.jsonl").read_bytes() == before


def test_a_journal_delivered_by_an_older_version_counts_as_delivered(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(MADE / "journal", tmp_path / "journal"))
    assert nntrain_sync("--list", "journal").returncode == 1
    shutil.copytree(folder / "delivered", folder / "delivery", dirs_exist_ok=True)
    done = nntrain_sync("--list", "journal")
    assert done.returncode == 0, done.stdout


# --- a study


def trials(folder: Path) -> list[FrozenTrial]:
    """Returns the trials of a study, loaded with Optuna."""
    storage = JournalStorage(JournalFileBackend(str(folder / "study.jsonl")))
    return optuna.load_study(study_name=folder.name, storage=storage).trials


def test_a_study_continues_with_its_trials_and_runs_the_interrupted_one_again(
    tmp_path: Path,
) -> None:
    folder = older("study", tmp_path / "multirun/older")
    before, kept = trials(folder), tree_of_trials(folder, range(5))
    states = [trial.state.name for trial in before]
    assert states == ["COMPLETE", "COMPLETE", "PRUNED", "COMPLETE", "FAIL", "WAITING"]
    assert [trial.values for trial in before[:4]] == values_in_table(folder)[:4]
    done = run_as_made(*STUDY, "hydra.sweeper.n_trials=6", cwd=tmp_path)
    assert done.returncode == 0, done.stderr

    after = trials(folder)
    assert after[:5] == before[:5]
    assert tree_of_trials(folder, range(5)) == kept
    ended = [trial for trial in after if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    assert (len(ended), len(after)) == (6, 7)

    again, uninterrupted = after[5], expected_of(folder)
    assert again.user_attrs["nntrain.retry_of"] == 4
    assert again.params == uninterrupted["params"]
    assert again.values == pytest.approx(
        uninterrupted["values"], rel=0, abs=tolerance(uninterrupted)
    )
    assert sorted(again.intermediate_values) == [2, 3]  # resumed after the second epoch

    found = yaml.safe_load((folder / "optimization_results.yaml").read_text())
    best = max(value for trial in after if trial.values for value in trial.values)
    assert found["best_value"] == best


def values_in_table(folder: Path) -> list[list[float]]:
    """Returns the values of each trial in `trials.csv`; for a pruned trial, the last report."""
    with open(folder / "trials.csv", newline="") as file:
        texts = [row["valid/accuracy"] for row in csv.DictReader(file)]
    return [[float(text)] if text else [] for text in texts]


def tree_of_trials(folder: Path, numbers: Iterable[int]) -> dict[str, dict[str, bytes]]:
    """Returns the contents of the folders of trials, by trial number."""
    return {str(number): tree(folder / str(number)) for number in numbers}


def test_the_best_configuration_of_an_old_study_gives_the_same_value(tmp_path: Path) -> None:
    folder = older("study", tmp_path / "multirun/older")
    found = yaml.safe_load((folder / "optimization_results.yaml").read_text())
    args = ["--config-dir", "multirun/older", "--config-name", "best", "hydra.run.dir=best"]
    done = run_as_made(*args, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (shown,) = [
        line.split()[1] for line in done.stdout.splitlines() if line.startswith("valid/accuracy:")
    ]
    best = float(f"{found['best_value']:.6g}")
    assert float(shown) == pytest.approx(best, rel=0, abs=tolerance(expected_of(folder)))


def test_a_new_study_can_warm_start_from_an_old_one(tmp_path: Path) -> None:
    old = trials(older("study", tmp_path / "multirun/older"))
    args = [
        *STUDY[:-1],
        "hydra.sweeper.study_name=new",
        "hydra.sweeper.warm_start=multirun/older",
        "hydra.sweeper.n_trials=1",
    ]
    done = run_as_made(*args, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    *taken, _ = trials(tmp_path / "multirun/new")
    complete = [trial for trial in old if trial.state is TrialState.COMPLETE]
    assert [(trial.params, trial.values) for trial in taken] == [
        (trial.params, trial.values) for trial in complete
    ]
