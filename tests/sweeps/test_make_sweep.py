"""Creating a sweep from a command line: plan, study, workers, and messages for each mistake."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig
from optuna import Study

from nntrain.config.errors import ConfigError
from nntrain.sweeps import SweepEnd
from nntrain.sweeps.errors import SweepError
from nntrain.sweeps.spec.checks import check_same_hydra
from nntrain.sweeps.spec.plan import SweepPlan
from nntrain.sweeps.spec.settings import folder_name, study_name
from nntrain.sweeps.spec.space import make_space
from nntrain.sweeps.workers.devices import THREADS, VISIBLE
from tests.common.cli import nntrain_run
from tests.sweeps.small_app import App

X = "x=interval(0,1)"
TWO = ["hydra.sweeper.objective=[valid/loss,valid/accuracy]", X]

MISTAKES: list[tuple[list[str], str]] = [
    (
        [],
        "The search space is empty: add an override such as 'lr=tag(log, interval(1e-4, 1))', or "
        "set hydra.sweeper.params.",
    ),
    (["size=3"], "The search space is empty"),
    (["opt.lrr=interval(0,1)"], "Unknown key opt.lrr: did you mean 'opt.lr'?"),
    (["modle=cnn,mlp"], "Unknown key modle: did you mean 'model'?"),
    (["model.hiden=1,2"], "Unknown key model.hiden: did you mean 'model.hidden'?"),
    (["zzzzzz=1,2"], "Unknown key zzzzzz: expected one of model, "),
    (
        ["+x=1,2"],
        "Hydra rejected +x=1: Could not append to config. An item is already at 'x'.",
    ),
    (
        ["model=cnn,cnnn"],
        "Hydra rejected model=cnnn: ",
    ),
    (["=interval(0,1)"], "=interval(0,1) has no key: write KEY=VALUE."),
    (
        [X, "hydra.sweeper.direction=minimise"],
        "hydra.sweeper.direction=minimise must be minimize or maximize.",
    ),
    (
        [X, "hydra.sweeper.direction=[maximize,min]"],
        "hydra.sweeper.direction=min must be minimize or maximize",
    ),
    (
        [X, "hydra.sweeper.objective=loss", "hydra.sweeper.direction=[minimize,maximize]"],
        "hydra.sweeper.direction has 2 directions for 1 objectives: set one direction",
    ),
    ([X, "hydra.sweeper.n_trials=0"], "hydra.sweeper.n_trials=0 must be at least 1."),
    ([X, "hydra.sweeper.replicates=0"], "hydra.sweeper.replicates=0 must be at least 1."),
    ([X, "hydra.sweeper.n_jobs=0"], "hydra.sweeper.n_jobs=0 must be at least 1"),
    (
        [X, "hydra.sweeper.max_failure_rate=1.5"],
        "hydra.sweeper.max_failure_rate=1.5 must be from 0 to 1.",
    ),
    (
        [X, "hydra.sweeper.control_fraction=-0.1"],
        "hydra.sweeper.control_fraction=-0.1 must be from 0 to 1.",
    ),
    (
        [X, "hydra.sweeper.max_failure_rate=nan"],
        "hydra.sweeper.max_failure_rate=nan must be from 0 to 1.",
    ),
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
        "hydra.sweeper.duplicates=skip must be one of rerun, reuse, resample.",
    ),
    (
        [X, "hydra.sweeper.replicates=2", "hydra.sweeper.replicate_key=none"],
        "hydra.sweeper.replicates needs an integer seed, but none is not an integer",
    ),
    (
        [X, "hydra.sweeper.replicates=2", "hydra.sweeper.replicate_key=opt"],
        "hydra.sweeper.replicates needs an integer seed, but opt is not an integer",
    ),
    (
        [X, "hydra.sweeper.gpus=99"],
        "hydra.sweeper.gpus=99 must be from 1 to 2: this machine has the GPUs 0, 1.",
    ),
    (
        [X, "hydra.sweeper.gpus=[0,7]"],
        "hydra.sweeper.gpus: this machine has no GPU 7, choose from 0, 1.",
    ),
    (
        ["x=interval(1,0)"],
        "x=interval(1,0) cannot be sampled: the upper bound 0 is less than the lower bound 1.",
    ),
    (
        ["x=tag(exp,interval(1,2))"],
        "x=tag(exp,interval(1,2)) cannot be sampled: the only supported tag is log, found exp",
    ),
    (
        ["+hydra.sweeper.params.x='interval(1,0)'"],
        "x=interval(1,0) cannot be sampled: the upper bound 0 is less than the lower bound 1.",
    ),
    (["+hydra.sweeper.params.x='interval(1'"], "x=interval(1 is not a valid override: "),
    (
        [X, "hydra.sweeper.objective=valid/accuracy", "hydra.sweeper.prune_every=5"],
        "hydra.sweeper.prune_every: valid/accuracy is measured once per epoch",
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
        "With several objectives the pruner needs a metric to compare: set ",
    ),
    (
        [X, "hydra.sweeper.sampler=null"],
        "hydra.sweeper.sampler has no _target_: choose a config with",
    ),
    (
        [X, "~hydra.sweeper.pruner._target_"],
        "hydra.sweeper.pruner has no _target_: choose a config with",
    ),
    (
        [X, "hydra.sweeper.custom_search_space=a.b", "+trusted_targets=[a]"],
        "hydra.sweeper.custom_search_space=a.b cannot be imported",
    ),
    (
        [X, "hydra.sweeper.enqueue=[{y:1}]"],
        "hydra.sweeper.enqueue: y is not in the search space: expected one of x.",
    ),
    (
        [X, "hydra.sweeper.enqueue=[{x:2}]"],
        "hydra.sweeper.enqueue: x=2 is outside the search space: expected float from 0 to 1.",
    ),
    (
        ["name=sgd,adam", "hydra.sweeper.enqueue=[{name:adagrad}]"],
        "hydra.sweeper.enqueue: name=adagrad is outside the search space: "
        "expected choice(sgd, adam).",
    ),
]


@pytest.mark.parametrize(
    ("arguments", "message"), MISTAKES, ids=[" ".join(arguments) for arguments, _ in MISTAKES]
)
def test_a_mistake_is_an_error_of_one_sentence(
    arguments: list[str], message: str, app: App, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(VISIBLE, "0,1")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ConfigError) as caught:
        app.sweep(*arguments)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.slow
def test_a_misspelled_key_of_the_sweeper_is_reported_in_one_line(tmp_path: Path) -> None:
    done = nntrain_run("-m", "hydra.sweeper.n_trial=3", "lr=interval(0,1)", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("nntrain: ")
    assert "n_trial" in line
    assert list(tmp_path.iterdir()) == []


# --- callbacks

CALLBACK = "hydra.sweeper.callbacks.mine"


class CheckingCallback:
    """A user-defined callback that rejects every sweep."""

    def check(self, plan: SweepPlan, config: DictConfig) -> None:
        """Raises for every configuration."""
        raise SweepError(f"{plan.study_name} has x={config.x}")

    def before_sweep(self, study: Study, plan: SweepPlan) -> None:
        """Does nothing."""

    def after_sweep(
        self, study: Study, plan: SweepPlan, figures: Mapping[str, Any], end: SweepEnd
    ) -> None:
        """Does nothing."""


def with_callback(target: str) -> list[str]:
    """Returns the command line of a sweep with one study callback."""
    return [X, "hydra.sweeper.study_name=s", f"+{CALLBACK}={{_target_: {target}}}"]


def test_a_callback_of_a_trusted_package_is_instantiated_and_called(app: App) -> None:
    command = with_callback(f"{__name__}.CheckingCallback")
    with pytest.raises(SweepError, match=r"s has x=0\.0"):
        app.sweep(*command, f"+trusted_targets=[{__name__}]")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("os.system", f"{CALLBACK}._target_=os.system is not trusted"),
        (f"{__name__}.CheckingCallback", "CheckingCallback is not trusted"),
        (
            "optuna.samplers.RandomSampler",
            f"{CALLBACK} creates an object of type RandomSampler, which does not implement "
            "nntrain.sweeps.StudyCallback.",
        ),
        (
            "nntrain.study_run.StudyRun",
            f"{CALLBACK}._target_=nntrain.study_run.StudyRun has moved: use "
            "nntrain.app.study_run.StudyRun instead.",
        ),
    ],
    ids=["no callback", "not trusted", "another class", "the path of version 0.1.0"],
)
def test_a_callback_that_cannot_be_instantiated_is_an_error(
    target: str, message: str, app: App
) -> None:
    with pytest.raises(ConfigError) as caught:
        app.sweep(*with_callback(target))
    assert message in str(caught.value)


# --- the plan


def test_the_keys_become_the_plan(app: App) -> None:
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


def test_params_and_overrides_make_one_search_space(app: App) -> None:
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
def test_direction_and_pruning_metric_follow_from_the_names(
    arguments: list[str],
    directions: list[str],
    monitor: str | None,
    monitor_direction: str | None,
    app: App,
) -> None:
    plan = app.plan(*arguments, *([] if X in arguments else [X]))
    assert list(plan.directions) == directions
    assert (plan.monitor, plan.monitor_direction) == (monitor, monitor_direction)


def test_a_batch_metric_can_be_reported_every_few_batches(app: App) -> None:
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


NAMES = ["a", "実験", "結果", "a/b", "a_b", "a?b", "..", ".", "a.b", "x" * 300, "x" * 301, "é" * 99]


def test_each_study_name_has_a_folder_of_its_own(tmp_path: Path) -> None:
    folders = [tmp_path / folder_name(name) for name in NAMES]
    for folder in folders:
        folder.mkdir()
    assert len(set(folders)) == len(NAMES)
    assert {folder.parent for folder in folders} == {tmp_path}
    assert [folder.name for folder in folders[:3]] == NAMES[:3]


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("multirun/${now:%Y}/${now:%H}", f"multirun/{folder_name('my/study/1')}"),
        ("multirun/${hydra.sweeper.study_name}", f"multirun/{folder_name('my/study/1')}"),
        ("somewhere/else", "somewhere/else"),
        ("runs/${name}", "runs/plain"),
    ],
)
def test_the_folder_of_a_study_does_not_depend_on_the_time(
    folder: str, expected: str, app: App
) -> None:
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
    """A user-defined function that adds parameters to a trial."""
    trial.suggest_float("x", 0, config.size)


def test_a_users_function_alone_is_a_search_space(app: App) -> None:
    path = f"{free_choice.__module__}.{free_choice.__name__}"
    mine = f"hydra.sweeper.custom_search_space={path}"
    with pytest.raises(ConfigError, match=r"is not trusted: add 'trusted_targets=\[tests\]'"):
        app.plan(mine)
    plan = app.plan(mine, "hydra.sweeper.enqueue=[{x:0.5}]", "+trusted_targets=[tests]")
    assert plan.custom_search_space == path
    assert not plan.space.distributions
    assert plan.enqueue == [{"x": 0.5}]


@pytest.mark.parametrize(
    "override",
    [
        "+hydra.job.env_set.PYTHONPATH=evil",
        "hydra.job.env_copy=[HOME]",
        "+hydra.job_logging.formatters.x={class: evil.Formatter}",
        "hydra.output_subdir=elsewhere",
    ],
)
def test_a_trial_cannot_change_what_hydra_does_before_it(override: str, app: App) -> None:
    config = app.config(X)
    check_same_hydra(app.loader.load_sweep_config(config, ["x=0.5"]), config)
    with pytest.raises(SweepError, match=r"changes hydra\..*: set it for the whole sweep"):
        check_same_hydra(app.loader.load_sweep_config(config, [override]), config)


def test_the_trust_of_a_sweep_is_what_was_typed_and_the_program(app: App) -> None:
    assert app.plan(X).trusted == ["tests.sweeps.small_app"]
    typed = app.plan(X, "+trusted_targets=[mine]")
    assert typed.trusted == ["mine", "tests.sweeps.small_app"]
