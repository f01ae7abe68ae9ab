"""From the keys of `hydra.sweeper` and the command line to a plan, and one sentence for each mistake."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from nntrain.sweeps.configure import study_name
from nntrain.sweeps.errors import SweepError
from nntrain.sweeps.spec.space import make_space
from nntrain.sweeps.workers.devices import THREADS, VISIBLE
from tests.common.cli import nntrain_run
from tests.sweeps.small_app import App

X = "x=interval(0,1)"
TWO = ["hydra.sweeper.objective=[valid/loss,valid/accuracy]", X]

MISTAKES: list[tuple[list[str], str]] = [
    (
        [],
        "There is nothing to sweep over: add an override such as 'lr=tag(log, interval(1e-4, 1))', or hydra.sweeper.params.",
    ),
    (["size=3"], "There is nothing to sweep over"),
    (["opt.lrr=interval(0,1)"], "opt.lrr is no key of the configuration: did you mean opt.lr?"),
    (["modle=cnn,mlp"], "modle is no key of the configuration: did you mean model?"),
    (["model.hiden=1,2"], "model.hiden is no key of the configuration: did you mean model.hidden?"),
    (["zzzzzz=1,2"], "zzzzzz is no key of the configuration: expected one of model, "),
    (
        ["+x=1,2"],
        "+x=1 is no configuration: Could not append to config. An item is already at 'x'.",
    ),
    (
        ["model=cnn,cnnn"],
        "model=cnnn is no configuration: model=cnnn is no choice of model: expected one of cnn, ",
    ),
    (["=interval(0,1)"], "=interval(0,1) has no key: write KEY=VALUE."),
    (
        [X, "hydra.sweeper.direction=minimise"],
        "hydra.sweeper.direction=minimise is no direction: choose minimize or maximize.",
    ),
    ([X, "hydra.sweeper.direction=[maximize,min]"], "hydra.sweeper.direction=min is no direction"),
    (
        [X, "hydra.sweeper.objective=loss", "hydra.sweeper.direction=[minimize,maximize]"],
        "hydra.sweeper.direction has 2 directions for 1 objectives: give one for each.",
    ),
    ([X, "hydra.sweeper.n_trials=0"], "hydra.sweeper.n_trials=0 must be at least 1."),
    ([X, "hydra.sweeper.replicates=0"], "hydra.sweeper.replicates=0 must be at least 1."),
    ([X, "hydra.sweeper.n_jobs=0"], "hydra.sweeper.n_jobs=0 must be at least 1"),
    (
        [X, "hydra.sweeper.max_failure_rate=1.5"],
        "hydra.sweeper.max_failure_rate=1.5 is no share: give a number from 0 to 1.",
    ),
    ([X, "hydra.sweeper.control_fraction=-0.1"], "hydra.sweeper.control_fraction=-0.1 is no share"),
    ([X, "hydra.sweeper.max_failure_rate=nan"], "hydra.sweeper.max_failure_rate=nan is no share"),
    (
        [X, "hydra.sweeper.timeout_s=0"],
        "hydra.sweeper.timeout_s=0.0 must be more than 0 seconds, or null.",
    ),
    (
        [X, "hydra.sweeper.trial_timeout_s=-1"],
        "hydra.sweeper.trial_timeout_s=-1.0 must be more than 0 seconds, or null.",
    ),
    (
        [X, "hydra.sweeper.duplicates=skip"],
        "hydra.sweeper.duplicates=skip is no choice: one of rerun, reuse, resample.",
    ),
    (
        [X, "hydra.sweeper.replicates=2", "hydra.sweeper.replicate_key=none"],
        "hydra.sweeper.replicates needs a seed: none is no",
    ),
    (
        [X, "hydra.sweeper.replicates=2", "hydra.sweeper.replicate_key=opt"],
        "hydra.sweeper.replicates needs a seed: opt is no",
    ),
    (
        [X, "hydra.sweeper.gpus=99"],
        "hydra.sweeper.gpus=99 asks for other than 1 to 2, the GPUs that are there: 0, 1.",
    ),
    (
        [X, "hydra.sweeper.gpus=[0,7]"],
        "hydra.sweeper.gpus names 7, which is not there: there are 0, 1.",
    ),
    (["x=interval(1,0)"], "x=interval(1,0) cannot be sampled: its end 0 is below its start 1."),
    (
        ["x=tag(exp,interval(1,2))"],
        "x=tag(exp,interval(1,2)) cannot be sampled: the tag exp says nothing here",
    ),
    (
        ["+hydra.sweeper.params.x='interval(1,0)'"],
        "x=interval(1,0) cannot be sampled: its end 0 is below its start 1.",
    ),
    (["+hydra.sweeper.params.x='interval(1'"], "x=interval(1 cannot be read: "),
    (
        [X, "hydra.sweeper.objective=valid/accuracy", "hydra.sweeper.prune_every=5"],
        "hydra.sweeper.prune_every: valid/accuracy is measured once an epoch and cannot be reported every 5 batches",
    ),
    (
        [
            X,
            "hydra.sweeper.objective=valid/loss",
            "hydra.sweeper.pruning_metric=batch/loss",
            "hydra.sweeper.prune_every=0",
        ],
        "hydra.sweeper.prune_every: every=0 must be at least 1",
    ),
    (
        TWO,
        "With several objectives a pruner does not know what to compare: set hydra.sweeper.pruning_metric to a metric, or",
    ),
    (
        [X, "hydra.sweeper.sampler=null"],
        "hydra.sweeper.sampler has no _target_: choose one of the group",
    ),
    (
        [X, "~hydra.sweeper.pruner._target_"],
        "hydra.sweeper.pruner has no _target_: choose one of the group",
    ),
    (
        [X, "hydra.sweeper.custom_search_space=a.b"],
        "hydra.sweeper.custom_search_space=a.b cannot be imported",
    ),
    (
        [X, "hydra.sweeper.enqueue=[{y:1}]"],
        "hydra.sweeper.enqueue: y is not swept over: expected one of x.",
    ),
    (
        [X, "hydra.sweeper.enqueue=[{x:2}]"],
        "hydra.sweeper.enqueue: x=2 is none of what is swept over, float from 0 to 1.",
    ),
    (
        ["name=sgd,adam", "hydra.sweeper.enqueue=[{name:adagrad}]"],
        "hydra.sweeper.enqueue: name=adagrad is none of what is swept over, choice(sgd, adam).",
    ),
]


@pytest.mark.parametrize(
    ("arguments", "message"), MISTAKES, ids=[" ".join(arguments) for arguments, _ in MISTAKES]
)
def test_a_mistake_is_told_in_one_sentence(
    arguments: list[str], message: str, app: App, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(VISIBLE, "0,1")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(SweepError) as caught:
        app.sweep(*arguments)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.slow
def test_a_misspelt_key_of_the_sweeper_is_told_in_one_line(tmp_path: Path) -> None:
    done = nntrain_run("-m", "hydra.sweeper.n_trial=3", "lr=interval(0,1)", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("nntrain: ")
    assert "n_trial" in line
    assert list(tmp_path.iterdir()) == []


# --- the plan


def test_a_plan_has_what_the_keys_say(app: App) -> None:
    plan = app.plan(
        X,
        "size=4",
        "hydra/sweeper/sampler=random",
        "hydra/sweeper/pruner=percentile",
        "hydra.sweeper.pruner.percentile=10.0",
        "hydra.sweeper.study_name=mine",
        "hydra.sweeper.n_trials=7",
        "hydra.sweeper.enqueue=[{x:0.5}]",
        "hydra.sweeper.storage=sqlite:///s.db",
    )
    assert (plan.study_name, plan.n_trials, plan.storage) == ("mine", 7, "sqlite:///s.db")
    assert plan.folder == Path("multirun/mine").absolute()
    assert plan.sampler == {"_target_": "optuna.samplers.RandomSampler", "seed": None}
    assert plan.pruner["percentile"] == 10.0
    assert plan.enqueue == [{"x": 0.5}]
    assert plan.space.fixed == ["size=4"]
    assert list(plan.space.distributions) == ["x"]


def test_params_and_overrides_make_one_space(app: App) -> None:
    plan = app.plan("+hydra.sweeper.params={x:'choice(1,2)',size:'range(1,4)',name:other}", X)
    assert plan.space.describe() == {"x": "float from 0 to 1", "size": "int from 1 to 3"}
    assert plan.space.fixed == ["name=other"]


@pytest.mark.parametrize(
    ("arguments", "directions", "monitor", "monitor_direction"),
    [
        ([], ["minimize"], None, None),
        (["hydra.sweeper.direction=maximize"], ["maximize"], None, None),
        (["hydra.sweeper.direction=MAXIMIZE"], ["maximize"], None, None),
        (["hydra.sweeper.objective=valid/loss"], ["minimize"], "valid/loss", None),
        (["hydra.sweeper.objective=valid/accuracy"], ["maximize"], "valid/accuracy", None),
        (["hydra.sweeper.objective=[valid/accuracy]"], ["maximize"], "valid/accuracy", None),
        (
            ["hydra.sweeper.objective=valid/accuracy", "hydra.sweeper.direction=minimize"],
            ["minimize"],
            "valid/accuracy",
            None,
        ),
        (
            ["hydra.sweeper.objective=a_loss", "hydra.sweeper.pruning_metric=a_loss"],
            ["minimize"],
            "a_loss",
            None,
        ),
        (
            ["hydra.sweeper.objective=acc", "hydra.sweeper.pruning_metric=batch/loss"],
            ["maximize"],
            "batch/loss",
            "minimize",
        ),
        (
            ["hydra.sweeper.pruning_metric=valid/accuracy"],
            ["minimize"],
            "valid/accuracy",
            "maximize",
        ),
        (
            [*TWO, "hydra.sweeper.pruning_metric=valid/loss"],
            ["minimize", "maximize"],
            "valid/loss",
            "minimize",
        ),
        ([*TWO, "hydra/sweeper/pruner=none"], ["minimize", "maximize"], None, None),
        (["hydra.sweeper.direction=[minimize,maximize]"], ["minimize", "maximize"], None, None),
    ],
)
def test_direction_and_what_the_pruner_sees_follow_from_the_names(
    arguments: list[str],
    directions: list[str],
    monitor: str | None,
    monitor_direction: str | None,
    app: App,
) -> None:
    plan = app.plan(*arguments, *([] if X in arguments else [X]))
    assert list(plan.directions) == directions
    assert (plan.monitor, plan.monitor_direction) == (monitor, monitor_direction)


def test_a_metric_of_batches_may_be_reported_every_few(app: App) -> None:
    plan = app.plan(
        X,
        "hydra.sweeper.objective=acc",
        "hydra.sweeper.pruning_metric=batch/loss",
        "hydra.sweeper.prune_every=5",
    )
    assert plan.every == 5


@pytest.mark.parametrize(("n_trials", "expected"), [(100, 6), (4, 4)])
def test_a_grid_has_no_more_trials_than_configurations(
    n_trials: int, expected: int, app: App
) -> None:
    grid = ["hydra/sweeper/sampler=grid", "size=range(1,4)", "name=plain,other"]
    assert app.plan(*grid, f"hydra.sweeper.n_trials={n_trials}").n_trials == expected


@pytest.mark.parametrize(
    ("arguments", "is_there"),
    [
        (["model=glob(*)", "model.hidden=4,8"], True),
        (["+new=1,2"], True),
        (["++x=1,2"], True),
        (["++new.deeper=1,2"], True),
        (["opt={lr:1},{lr:2}"], True),
        (["~opt.momentum", X], True),
        (["name='a, b','null'"], True),
    ],
)
def test_every_kind_of_override_can_be_swept_over(
    arguments: list[str], is_there: bool, app: App
) -> None:
    assert (app.plan(*arguments).n_trials == 20) is is_there


# --- the study's name and folder

SAME = ["x=interval(0,1)", "size=1,2", "name=other"]


def name_of(
    *arguments: str,
    objectives: tuple[str, ...] = ("a",),
    directions: tuple[str, ...] = ("minimize",),
) -> str:
    return study_name(make_space({}, arguments), objectives, directions)


def test_the_same_sweep_has_the_same_name() -> None:
    assert name_of(*SAME) == name_of(*SAME)
    assert name_of(*SAME).rpartition("-")[0] == "x-size"
    assert name_of("model.hidden=1,2", "+opt/sgd@net=1,2").rpartition("-")[0] == "hidden-optsgdnet"


@pytest.mark.parametrize(
    "other",
    [
        name_of("x=interval(0,2)", "size=1,2", "name=other"),
        name_of("x=interval(0,1)", "size=1,2", "name=plain"),
        name_of("x=interval(0,1)", "size=1,2"),
        name_of(*SAME, objectives=("b",)),
        name_of(*SAME, directions=("maximize",)),
    ],
)
def test_another_sweep_has_another_name(other: str) -> None:
    assert other.startswith("x-size-")
    assert other != name_of(*SAME)


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("multirun/${now:%Y}/${now:%H}", "multirun/my_study_1"),
        ("multirun/${hydra.sweeper.study_name}", "multirun/my_study_1"),
        ("somewhere/else", "somewhere/else"),
        ("runs/${name}", "runs/plain"),
    ],
)
def test_a_study_has_a_folder_that_stays_the_same(folder: str, expected: str, app: App) -> None:
    sweep = app.sweep(
        X, "hydra.sweeper.study_name='my study/1'".replace(" ", "/"), f"hydra.sweep.dir='{folder}'"
    )
    assert sweep.plan.folder == Path(expected).absolute()
    assert sweep.config.hydra.sweep.dir == str(Path(expected).absolute())


# --- the workers


def test_the_workers_share_gpus_and_cores(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE, "0,1")
    monkeypatch.delenv(THREADS, raising=False)
    cores = len(os.sched_getaffinity(0))
    slots = app.sweep(
        X, "hydra.sweeper.gpus=auto", "hydra.sweeper.workers_per_gpu=2", "hydra.sweeper.n_jobs=3"
    ).slots
    assert [dict(slot) for slot in slots] == [
        {VISIBLE: gpu, THREADS: str(max(1, cores // 3))} for gpu in "010"
    ]
    assert list(app.sweep(X).slots) == [{}]


def free_choice(config: DictConfig, trial: Any) -> None:
    """A space of a user's own."""
    trial.suggest_float("x", 0, config.size)


def test_a_users_function_alone_is_a_space(app: App) -> None:
    path = f"{free_choice.__module__}.{free_choice.__name__}"
    plan = app.plan(f"hydra.sweeper.custom_search_space={path}", "hydra.sweeper.enqueue=[{x:0.5}]")
    assert plan.custom_search_space == path
    assert not plan.space.distributions
    assert plan.enqueue == [{"x": 0.5}]
