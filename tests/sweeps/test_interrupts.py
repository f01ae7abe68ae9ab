"""A signal that arrives outside a job stops the worker immediately and loses no trial."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.callbacks import Callbacks
from hydra.types import HydraContext
from omegaconf import DictConfig
from optuna import Trial

from nntrain.sweeps.study.trials import OUTCOME, OWNER, is_of, this_process
from nntrain.sweeps.workers.worker import Worker
from tests.sweeps.small_app import App

OVERRIDES = ["x=interval(0,1)", "hydra.sweeper.n_trials=3", "hydra.sweeper.study_name=parabola"]


def interrupt(*args: Any, **kwargs: Any) -> None:
    os.kill(os.getpid(), signal.SIGINT)


def never(config: DictConfig) -> float:
    raise AssertionError("the job ran")


def interrupting_space(config: DictConfig, trial: Trial) -> None:
    interrupt()


def worker_of(app: App, tmp_path: Path, **options: Any) -> Worker:
    sweep = app.sweep(*OVERRIDES, f"hydra.sweep.dir={tmp_path}/study")
    plan = replace(sweep.plan, custom_search_space=options.pop("custom_search_space", None))
    callbacks = Callbacks()
    for name, function in options.pop("callbacks", {}).items():
        callbacks.callbacks.append(
            type(
                "OfTheUser", (), {"__getattr__": lambda self, _: lambda **_: None, name: function}
            )()
        )
    context = HydraContext(config_loader=sweep.hydra_context.config_loader, callbacks=callbacks)
    return Worker(plan, options.pop("job", sweep.task_function), context, sweep.config)


@pytest.mark.parametrize(
    ("options", "outcomes"),
    [
        (
            {"custom_search_space": f"{__name__}.interrupting_space", "job": never},
            ["interrupted", None],
        ),
        ({"callbacks": {"on_job_start": interrupt}, "job": never}, ["interrupted", None]),
        ({"callbacks": {"on_job_end": interrupt}}, ["completed"]),
    ],
    ids=["before the job", "just before the job", "just after the job"],
)
def test_a_signal_outside_the_job_ends_the_worker(
    options: dict[str, Any], outcomes: list[str | None], app: App, tmp_path: Path
) -> None:
    worker = worker_of(app, tmp_path, **options)
    worker.run()
    assert worker.signum == signal.SIGINT
    assert [trial.user_attrs.get(OUTCOME) for trial in worker.study.get_trials()] == outcomes


def test_a_worker_owns_only_trials_of_its_own_machine(app: App, tmp_path: Path) -> None:
    study = worker_of(app, tmp_path).study
    owner = json.loads(this_process())
    study.enqueue_trial({"x": 0.5}, user_attrs={OWNER: json.dumps(owner)})
    study.enqueue_trial({"x": 0.5}, user_attrs={OWNER: json.dumps({**owner, "host": "elsewhere"})})
    assert [is_of(trial, os.getpid()) for trial in study.get_trials()] == [True, False]
