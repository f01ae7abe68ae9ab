"""Sweeps on the command line: Optuna, trackers and folders agree, and a study can continue."""

import csv
import os
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

import optuna
import psutil
import pytest
import yaml
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from nntrain.integrations.journal.records import read_journal
from nntrain.integrations.wandb.names import artifact_name
from nntrain.sweeps.study.opening import REPORTS_SUFFIX
from nntrain.sweeps.study.trials import owner_of
from tests.common.cli import nntrain_run, tree, warm_nntrain_run
from tests.common.servers import wait_until
from tests.common.training import REPOSITORY, TrainingRun, processes_in, small
from tests.common.wandb_store import WandbRun, read_offline

pytestmark = pytest.mark.slow

N_TRIAL = 40
STUDY = "acceptance"
BOTH = ("tracker=[mlflow,wandb]", "tracker.wandb.mode=offline")
SPACE = "lr=tag(log,interval(1e-3,1e-1))"
RANDOM = (
    "hydra/sweeper/sampler=random",
    "hydra.sweeper.sampler.seed=1",
    "hydra/sweeper/pruner=none",
)


def sweep(*args: str, name: str = STUDY) -> list[str]:
    """Returns the command line of a very short sweep."""
    return ["-m", *small(2, n_epoch=2), *RANDOM, f"hydra.sweeper.study_name={name}", *args]


@dataclass(frozen=True)
class Swept:
    """A finished sweep: the folder and arguments of the command, its exit code and its output."""

    cwd: Path
    args: list[str]
    code: int
    output: str
    errors: str

    @property
    def folder(self) -> Path:
        """The study's folder."""
        return self.cwd / "multirun" / STUDY

    @property
    def study(self) -> optuna.Study:
        """The study, loaded by Optuna from `study.jsonl`."""
        storage = JournalStorage(JournalFileBackend(str(self.folder / "study.jsonl")))
        return optuna.load_study(study_name=STUDY, storage=storage)

    @property
    def table(self) -> list[dict[str, str]]:
        """The rows of `trials.csv`."""
        with open(self.folder / "trials.csv", newline="") as file:
            return list(csv.DictReader(file))

    @property
    def stored(self) -> dict[str, Run]:
        """The runs in MLflow by uid, which is the value of the tag `nntrain.run`."""
        return stored(self.cwd)

    def wandb(self, uid: str) -> WandbRun:
        """Returns the offline W&B run with the given uid."""
        return read_offline(self.cwd, uid)


def stored(cwd: Path) -> dict[str, Run]:
    client = MlflowClient(f"sqlite:///{cwd / 'mlflow.db'}")
    found = client.search_runs([one.experiment_id for one in client.search_experiments()])
    by_uid = {run.data.tags["nntrain.run"]: run for run in found}
    assert len(by_uid) == len(found)
    return by_uid


def run_sweep(cwd: Path, *args: str) -> Swept:
    done = nntrain_run(*args, cwd=cwd, timeout_s=180, PYTHONPATH=str(REPOSITORY))
    return Swept(cwd, list(args), done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module", params=[1, 2], ids=["one worker", "two workers"])
def swept(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, empty_store: Path
) -> Swept:
    """Runs a sweep in which a cancel exception stops every second trial."""
    folder = tmp_path_factory.mktemp("swept")
    shutil.copy(empty_store, folder / "mlflow.db")
    odd = "+callbacks.odd._target_=tests.e2e.user.PrunesOddTrials"
    numbers = [f"hydra.sweeper.n_trials={N_TRIAL}", f"hydra.sweeper.n_jobs={request.param}"]
    return run_sweep(folder, *sweep(*BOTH, SPACE, odd, "objective=valid/loss"), *numbers)


# --- pruning by a cancel exception


def expected(trial: FrozenTrial) -> tuple[TrialState, str, str, int]:
    """Returns a trial's expected Optuna state, outcome, MLflow status, and number of epochs."""
    if trial.number % 2:
        return TrialState.PRUNED, "pruned", "KILLED", 1
    return TrialState.COMPLETE, "completed", "FINISHED", 2


def test_the_command_succeeds_and_leaves_no_process(swept: Swept) -> None:
    assert swept.code == 0, swept.errors
    assert "20 completed, 20 pruned, 0 failed" in swept.output
    assert "not received" not in swept.errors
    assert "not fully delivered" not in swept.errors
    wait_until(
        lambda: processes_in(swept.cwd) == [],
        "the end of wandb-core, which follows that of the shippers",
        15,
    )


def test_optuna_trackers_and_folders_agree_on_each_trial(swept: Swept) -> None:
    study, runs, table = swept.study, swept.stored, swept.table
    assert [trial.number for trial in study.trials] == list(range(N_TRIAL))
    assert [int(row["number"]) for row in table] == list(range(N_TRIAL))
    parent = runs[study.user_attrs["nntrain.run"]]
    for trial, row in zip(study.trials, table, strict=True):
        state, outcome, status, n_epoch = expected(trial)
        uid = read_journal(swept.folder / str(trial.number)).run.uid
        run, kept = runs[uid], swept.wandb(uid)
        assert trial.state is state
        assert trial.user_attrs["nntrain.run"] == uid
        assert (row["state"], row["outcome"], row["run"]) == (state.name, outcome, uid)
        assert Path(row["folder"]) == swept.folder / str(trial.number)
        assert (run.info.status, run.data.tags["nntrain.outcome"]) == (status, outcome)
        assert (kept.exit_code, kept.tags["nntrain.outcome"], outcome in kept.run.tags) == (
            0,
            outcome,
            True,
        )
        for tags in (run.data.tags, kept.tags):
            assert (tags["nntrain.study"], tags["nntrain.trial"]) == (STUDY, str(trial.number))
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert kept.run.run_group == STUDY
        assert float(run.data.params["lr"]) == trial.params["lr"] == float(row["lr"])
        assert len(kept.series("epoch")) == n_epoch
        last = run.data.metrics["valid/loss"]
        assert kept.series("valid/loss")[-1][1] == pytest.approx(last)
        assert trial.intermediate_values[n_epoch] == last
        assert trial.values == [last]
    assert len(runs) == N_TRIAL + 1


def test_the_study_has_its_own_run_with_the_results(swept: Swept) -> None:
    uid = swept.study.user_attrs["nntrain.run"]
    run, kept = swept.stored[uid], swept.wandb(uid)
    assert (run.info.run_name, run.info.status) == (STUDY, "FINISHED")
    assert run.data.tags["nntrain.study"] == STUDY
    assert run.data.tags["nntrain.outcome"] == "completed"
    assert "nntrain.trial" not in run.data.tags
    assert "mlflow.parentRunId" not in run.data.tags
    client = MlflowClient(f"sqlite:///{swept.cwd / 'mlflow.db'}")
    files = {
        item.path
        for folder in (None, "figures")
        for item in client.list_artifacts(run.info.run_id, folder)
    }
    found = {"report.html", "trials.csv", "optimization_results.yaml", "best.yaml"}
    figures = {
        f"figures/{name}.html"
        for name in ("history", "intermediate_values", "importances", "parallel_coordinates")
    }
    assert files == {*found, "figures", *figures, "trials.json"}
    assert (kept.exit_code, kept.run.run_group, kept.run.job_type, kept.run.display_name) == (
        0,
        STUDY,
        "study",
        STUDY,
    )
    names = {one.name for one in kept.artifacts if one.type == "file"}
    assert names == {artifact_name(uid, name) for name in found | figures}
    assert f"runs/{run.info.run_id}" in swept.output


# --- continuing a study


@pytest.fixture(scope="module")
def small_study(tmp_path_factory: pytest.TempPathFactory) -> Swept:
    """Runs a study of two trials without a tracker."""
    done = run_sweep(
        tmp_path_factory.mktemp("small_study"),
        *sweep(SPACE, "tracker=none", "objective=valid/loss"),
        "hydra.sweeper.n_trials=2",
    )
    assert done.code == 0, done.errors
    return done


def test_the_best_configuration_runs_again_with_the_same_result(small_study: Swept) -> None:
    best = small_study.study.best_trial
    assert (
        yaml.safe_load((small_study.folder / "optimization_results.yaml").read_text())["best_value"]
        == best.value
    )
    args = ["--config-dir", str(small_study.folder), "--config-name", "best", "hydra.run.dir=best"]
    done = nntrain_run(*args, cwd=small_study.cwd, PYTHONPATH=str(REPOSITORY))
    assert done.returncode == 1  # the file lists what it needs, but grants nothing
    assert "add 'trusted_targets=[tests]' to the command" in done.stderr
    args.append("trusted_targets=[tests]")
    done = nntrain_run(*args, cwd=small_study.cwd, PYTHONPATH=str(REPOSITORY))
    assert done.returncode == 0, done.stderr
    assert f"valid/loss:      {best.value:.6g}\n" in done.stdout


def test_the_same_command_runs_no_trial_and_a_larger_n_trials_only_the_difference(
    small_study: Swept,
) -> None:
    first = small_study.study.trials
    again = run_sweep(small_study.cwd, *small_study.args)
    assert again.code == 0, again.errors
    assert "nothing to do:   n_trials=2 includes the trials of earlier" in again.output
    assert small_study.study.trials == first
    more = run_sweep(small_study.cwd, *small_study.args[:-1], "hydra.sweeper.n_trials=3")
    assert more.code == 0, more.errors
    trials = small_study.study.trials
    assert trials[:2] == first
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 3


def test_an_interrupted_study_is_killed_and_finished_by_the_same_command(
    tmp_path: Path, empty_store: Path
) -> None:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    args = [
        "-m",
        *small(25, n_epoch=2, batch_ms=40),
        *RANDOM,
        *BOTH,
        "hydra.sweeper.study_name=stopped",
        SPACE,
    ]
    args.append("hydra.sweeper.n_trials=2")
    with TrainingRun(tmp_path, args) as run:
        run.wait_for_batches(55)  # the second trial has trained five batches
        run.process.send_signal(signal.SIGINT)
        assert run.wait() == 130, run.output
    assert "the same command again" in run.output

    def of_study() -> tuple[str, str, int | None]:
        found, uid = parent(tmp_path)
        return (
            found.info.status,
            found.data.tags["nntrain.outcome"],
            read_offline(tmp_path, uid).exit_code,
        )

    assert of_study() == ("KILLED", "interrupted", 130)
    wait_until(lambda: processes_in(tmp_path) == [], "the end of all processes")
    with TrainingRun(tmp_path, args, "again") as again:
        assert again.wait() == 0, again.output
    assert of_study() == ("FINISHED", "completed", 0)
    study, _ = parent(tmp_path)
    trials = [
        run
        for run in stored(tmp_path).values()
        if run.data.tags.get("mlflow.parentRunId") == study.info.run_id
    ]
    statuses = {run.data.tags["nntrain.trial"]: run.info.status for run in trials}
    assert statuses == {"0": "FINISHED", "1": "KILLED", "2": "FINISHED"}
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    table = Path(client.download_artifacts(study.info.run_id, "trials.csv", str(tmp_path)))
    assert [line.split(",")[1] for line in table.read_text().splitlines()] == [
        "state",
        "COMPLETE",
        "FAIL",
        "COMPLETE",
    ]


def test_the_trial_of_a_killed_worker_runs_again_and_no_run_stays_open(
    tmp_path: Path, empty_store: Path
) -> None:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    args = [
        "-m",
        *small(20, n_epoch=2, batch_ms=40),
        *RANDOM,
        SPACE,
        f"hydra.sweeper.study_name={STUDY}",
    ]
    # with a pruning metric, each trial is stored in two studies
    args += ["objective=valid/loss", "hydra.sweeper.pruning_metric=valid/accuracy"]
    args += ["hydra.sweeper.n_trials=4", "hydra.sweeper.n_jobs=2"]
    with TrainingRun(tmp_path, args) as run:
        run.wait_for_batches(1)
        swept = Swept(tmp_path, args, 0, "", "")
        wait_until(lambda: run.lives() and trains(swept.study), "a trial that trains")
        psutil.Process(owner_of(trains(swept.study)[-1])["pid"]).kill()
        assert run.wait() == 0, run.output
    study = swept.study
    trials = study.trials
    (dead,) = (trial for trial in trials if trial.state is TrialState.FAIL)
    (again,) = (
        trial for trial in trials if trial.user_attrs.get("nntrain.retry_of") == dead.number
    )
    assert again.params == dead.params
    assert sorted(trial.state.name for trial in trials) == ["COMPLETE"] * 4 + ["FAIL"]
    reports = optuna.load_study(study_name=STUDY + REPORTS_SUFFIX, storage=study._storage)
    assert sorted(trial.state.name for trial in reports.trials) == ["COMPLETE"] * 4 + ["FAIL"]
    outcomes = {
        trial.user_attrs["nntrain.run"]: "KILLED" if trial == dead else "FINISHED"
        for trial in trials
    }
    outcomes |= {study.user_attrs["nntrain.run"]: "FINISHED"}
    assert {uid: one.info.status for uid, one in stored(tmp_path).items()} == outcomes
    wait_until(lambda: processes_in(tmp_path) == [], "the end of all processes")


def trains(study: optuna.Study) -> list[FrozenTrial]:
    """Returns the running trials that have a run in the tracker."""
    return [
        trial
        for trial in study.get_trials(states=(TrialState.RUNNING,))
        if "nntrain.run" in trial.user_attrs
    ]


def parent(cwd: Path) -> tuple[Run, str]:
    """Returns the run of the only study, and the uid of this run."""
    ((uid, run),) = [
        (uid, run) for uid, run in stored(cwd).items() if "nntrain.trial" not in run.data.tags
    ]
    return run, uid


def test_a_changed_space_is_an_error_that_says_what_changed(small_study: Swept) -> None:
    before, trials = list(tree(small_study.folder)), small_study.study.trials
    args = [arg.replace("1e-1", "1e-2") for arg in small_study.args]
    changed = run_sweep(small_study.cwd, *args)
    assert changed.code == 1
    assert changed.errors.count("\n") == 1
    assert (
        "lr was float from 0.001 to 0.1, log and is now float from 0.001 to 0.01, log"
        in changed.errors
    )
    assert (list(tree(small_study.folder)), small_study.study.trials) == (before, trials)


# --- the report

CHROMEDRIVER = shutil.which("chromedriver")

FIGURES = [
    "Optimization History Plot",
    "Intermediate Values Plot",
    "Hyperparameter Importances",
    "Parallel Coordinate Plot",
]

DRAWN = """
return [...document.querySelectorAll('.js-plotly-plot')].map(plot => plot.layout.title.text)
  .filter((_, i) => document.querySelectorAll('.js-plotly-plot')[i].querySelector('.main-svg'));
"""


@pytest.mark.browser
@pytest.mark.skipif(
    CHROMEDRIVER is None and not os.environ.get("CI"),
    reason="needs Chromium: apt install chromium chromium-driver",
)
# selenium may leave sockets to ChromeDriver open
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_report_opens_offline(small_study: Swept) -> None:
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=Service(CHROMEDRIVER))
    try:
        driver.get((small_study.folder / "report.html").as_uri())
        wait_until(lambda: driver.execute_script(DRAWN) == FIGURES, "all figures")
        assert STUDY in driver.execute_script("return document.body.innerText")
        assert (
            driver.execute_script(
                "return performance.getEntriesByType('resource').map(entry => entry.name)"
            )
            == []
        )
        assert driver.get_log("browser") == []
    finally:
        driver.quit()


# --- bad input


CASES = {
    "unknown sampler": (
        ["hydra/sweeper/sampler=nosuch", SPACE],
        ["sampler=nosuch", "gp, grid", "tpe"],
    ),
    "a misspelled key": (
        ["lrr=interval(1e-3,1e-1)"],
        ["Unknown key lrr: did you mean 'lr'?"],
    ),
    "an objective that is not recorded": (
        ["objective=valid/acc", SPACE],
        ["objective=valid/acc will not be recorded", "valid/loss, valid/accuracy"],
    ),
    "zero trials": (
        ["hydra.sweeper.n_trials=0", SPACE],
        ["hydra.sweeper.n_trials=0 must be at least 1"],
    ),
    "a storage that does not respond": (
        ["hydra.sweeper.storage=postgresql+psycopg2://u:hidden@127.0.0.1:9/x", SPACE],
        ["storage=postgresql+psycopg2://***@127.0.0.1:9/x cannot be reached", "refused"],
    ),
    "an invalid setting of the trackers": (
        ["tracker.finish_timeout_s=-1", SPACE],
        ["tracker.finish_timeout_s=-1 must be"],
    ),
    "an untrusted callback": (
        ["hydra.sweeper.callbacks.tracker._target_=os.system", SPACE],
        ["hydra.sweeper.callbacks.tracker._target_=os.system is not trusted"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_reported_in_one_sentence_and_writes_nothing(
    name: str, tmp_path: Path, logs: Path
) -> None:
    args, parts = CASES[name]
    done = warm_nntrain_run("-m", *args, cwd=tmp_path, logs=logs)
    assert done.returncode == 1, done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("nntrain: ")
    for part in parts:
        assert part in lines[0]
    assert "hidden" not in lines[0]
    assert tree(tmp_path) == {}
