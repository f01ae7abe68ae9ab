"""The worker: replicates, duplicates, retries, and errors before the job starts."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig
from optuna import Trial
from optuna.trial import TrialState

from nntrain.sweeps.context import current_trial, trial_context
from nntrain.sweeps.study.trials import (
    DUPLICATE,
    MESSAGE,
    OUTCOME,
    counted,
    interrupt,
    requeue,
)
from nntrain.sweeps.workers.worker import REPLICATES, Worker
from tests.sweeps.small_app import App


class Seen:
    """A job that records its arguments and returns a value that depends on `x` and the seed."""

    def __init__(self) -> None:
        self.jobs: list[tuple[float, int, Path | None]] = []

    def __call__(self, cfg: DictConfig) -> float:
        one = trial_context()
        assert one is not None
        self.jobs.append((cfg.x, cfg.seed, one.resume_from))
        return float(cfg.x + cfg.seed)


def worker_of(
    app: App, folder: Path, job: Callable[[DictConfig], Any], *overrides: str, **plan: Any
) -> Worker:
    sweep = app.sweep(
        f"hydra.sweep.dir={folder}/study", "hydra.sweeper.study_name=small", *overrides
    )
    return Worker(replace(sweep.plan, **plan), job, sweep.hydra_context, sweep.config)


def test_a_trial_with_replicates_is_the_mean_over_their_seeds(app: App, tmp_path: Path) -> None:
    job = Seen()
    worker = worker_of(
        app,
        tmp_path,
        job,
        "x=choice(1.5)",
        "hydra.sweeper.n_trials=1",
        "hydra.sweeper.replicates=3",
    )
    worker.run()
    (trial,) = worker.study.get_trials()
    assert job.jobs == [(1.5, seed, None) for seed in (7, 8, 9)]
    assert trial.user_attrs[REPLICATES] == [[8.5], [9.5], [10.5]]
    assert trial.value == pytest.approx(9.5)
    assert {path.name for path in (tmp_path / "study" / "0").glob("replicate-*")} == {
        "replicate-1",
        "replicate-2",
    }


def test_a_trial_that_fails_has_no_more_replicates(app: App, tmp_path: Path) -> None:
    def fails(cfg: DictConfig) -> float:
        seeds.append(cfg.seed)
        raise RuntimeError("no")

    seeds: list[int] = []
    worker = worker_of(
        app,
        tmp_path,
        fails,
        "x=choice(1.5)",
        "hydra.sweeper.n_trials=1",
        "hydra.sweeper.replicates=3",
    )
    worker.run()
    assert seeds == [7]


def test_only_the_first_replicate_of_a_second_try_resumes(app: App, tmp_path: Path) -> None:
    job = Seen()
    options = "x=choice(1.5)", "hydra.sweeper.n_trials=1", "hydra.sweeper.replicates=2"
    worker = worker_of(app, tmp_path, job, *options)
    interrupted = worker.study.ask()
    interrupted.suggest_categorical("x", [1.5])
    worker.study.tell(interrupted, state=TrialState.FAIL)
    requeue(worker.study, worker.study.get_trials()[0])
    worker.run()
    assert job.jobs == [(1.5, 7, tmp_path / "study" / "0"), (1.5, 8, None)]


@pytest.mark.parametrize(
    ("duplicates", "n_run", "n_trials"),
    [("rerun", 4, 4), ("reuse", 1, 4), ("resample", 2, 2)],
    ids=["rerun", "reuse", "resample: runs after ten tries"],
)
def test_each_way_to_treat_a_duplicate(
    duplicates: str, n_run: int, n_trials: int, app: App, tmp_path: Path
) -> None:
    job = Seen()
    overrides = (
        "x=choice(1.5)",
        f"hydra.sweeper.n_trials={n_trials}",
        f"hydra.sweeper.duplicates={duplicates}",
    )
    worker = worker_of(app, tmp_path, job, *overrides)
    worker.run()
    trials = worker.study.get_trials()
    assert len(job.jobs) == n_run
    assert len(counted(trials)) == n_trials
    values = [trial.value for trial in trials if trial.user_attrs[OUTCOME] != DUPLICATE]
    assert values == [8.5] * n_trials
    if duplicates == "reuse":
        assert all(
            trial.user_attrs[MESSAGE] == "the same configuration as trial 0, not run again"
            for trial in trials[1:]
        )
    if duplicates == "resample":
        assert sum(trial.user_attrs[OUTCOME] == DUPLICATE for trial in trials) == 10


def raises_at_1(config: DictConfig, trial: Trial) -> None:
    """A user-defined search space function with a bug."""
    if trial.number == 1:
        raise ZeroDivisionError("in the space")


def test_a_bug_in_a_users_search_space_fails_only_its_trial(app: App, tmp_path: Path) -> None:
    space = f"{__name__}.raises_at_1"
    worker = worker_of(
        app,
        tmp_path,
        Seen(),
        "x=interval(0,1)",
        "hydra.sweeper.n_trials=3",
        custom_search_space=space,
        max_failure_rate=1.0,
    )
    worker.run()
    states: Mapping[int, str] = {
        trial.number: trial.state.name for trial in worker.study.get_trials()
    }
    assert states == {0: "COMPLETE", 1: "FAIL", 2: "COMPLETE"}
    assert worker.study.get_trials()[1].user_attrs[MESSAGE] == "ZeroDivisionError: in the space"


def test_an_error_after_a_signal_counts_as_the_interruption(app: App, tmp_path: Path) -> None:
    def swallows(cfg: DictConfig) -> float:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            # numpy raises this error if its import is interrupted
            raise AttributeError("half imported") from None
        return 0.0

    worker = worker_of(app, tmp_path, swallows, "x=interval(0,1)", "hydra.sweeper.n_trials=3")
    worker.run()
    first, second = worker.study.get_trials()
    assert (first.state, first.user_attrs[OUTCOME], second.state) == (
        TrialState.FAIL,
        "interrupted",
        TrialState.WAITING,
    )
    assert worker.signum == signal.SIGINT


# --- a process that stood still, whose trial another process has ended


def reports(cfg: DictConfig) -> float:
    one = current_trial()
    assert one is not None
    one.report(0.5, 1)
    return 1.0


def sets_an_attribute(cfg: DictConfig) -> float:
    one = current_trial()
    assert one is not None
    one.set_user_attr("mine", 1)
    return 1.0


def reports_to_the_pruner(cfg: DictConfig) -> float:
    one = trial_context()
    assert one is not None
    assert one.pruner is not None
    one.pruner.report(0.5, 1)
    return 1.0


def only_returns(cfg: DictConfig) -> float:
    return 1.0


@pytest.mark.parametrize(
    "job",
    [only_returns, reports, sets_an_attribute, reports_to_the_pruner],
    ids=lambda f: f.__name__,
)
def test_a_late_end_of_a_trial_is_dropped_and_the_worker_continues(
    job: Callable[[DictConfig], float],
    app: App,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def ended_by_another_process(cfg: DictConfig) -> float:
        one = current_trial()
        assert one is not None
        if one.number == 0:
            interrupt(worker.study, worker.storage, worker.study.get_trials()[0], "no heartbeat")
        return job(cfg)

    worker = worker_of(
        app, tmp_path, ended_by_another_process, "x=interval(0,1)", "hydra.sweeper.n_trials=3"
    )
    worker.run()
    first, *others = worker.study.get_trials()
    assert (first.state, first.user_attrs[MESSAGE]) == (TrialState.FAIL, "no heartbeat")
    assert [trial.state for trial in others] == [TrialState.COMPLETE] * 3
    assert others[0].params == first.params
    # Hydra has configured logging for the job
    assert capsys.readouterr().out.count("Another process has ended trial 0, because") == 1
