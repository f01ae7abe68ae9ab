"""Each sampler and pruner has a config file, and users can add config files."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from hydra_plugins.nntrain_sweeper.config import CONF
from omegaconf import OmegaConf
from optuna import Study
from optuna.trial import FrozenTrial

from nntrain.config.errors import ConfigError
from nntrain.sweeps.study.opening import open_study
from tests.common.cli import nntrain_run
from tests.common.training import REPOSITORY
from tests.sweeps.small_app import App, completed

FILES = sorted(CONF.rglob("*.yaml"))
X = "x=interval(0,1)"


class WorstPruner(optuna.pruners.BasePruner):
    """A user-defined pruner that prunes every trial when it reaches a step."""

    def __init__(self, from_step: int) -> None:
        self.from_step = from_step

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Returns whether the trial has reached the step."""
        return trial.last_step is not None and trial.last_step >= self.from_step


class MiddleSampler(optuna.samplers.RandomSampler):
    """A user-defined sampler that always suggests the midpoint of an interval."""

    def sample_independent(self, *args: Any) -> float:
        """Returns the midpoint of a distribution."""
        return float(args[-1].low + args[-1].high) / 2


MINE = __name__


def write(folder: Path, group: str, text: str) -> None:
    """Writes a config named `mine` to a config group in a folder."""
    file = folder / "hydra/sweeper" / group / "mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(text)


def test_every_file_is_a_choice_of_its_group(app: App) -> None:
    for group in ("hydra/sweeper/sampler", "hydra/sweeper/pruner"):
        names = sorted(file.stem for file in (CONF / group).glob("*.yaml"))
        assert len(names) == 8
        assert app.loader.get_group_options(group) == names


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_omegaconf_and_yaml_read_the_same_from_every_file(file: Path) -> None:
    assert OmegaConf.to_container(OmegaConf.load(file)) == yaml.safe_load(file.read_text())


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_key_has_a_comment(file: Path) -> None:
    lines = file.read_text().splitlines()
    for before, line in pairwise(lines):
        assert line.strip().startswith("#") or before.strip().startswith("#"), line


def test_a_users_file_can_select_a_class_of_optuna(app: App, tmp_path: Path) -> None:
    write(tmp_path / "app", "sampler", "_target_: optuna.samplers.RandomSampler\nseed: 3\n")
    plan = app.plan("hydra/sweeper/sampler=mine", X)
    assert isinstance(open_study(plan)[0].sampler, optuna.samplers.RandomSampler)
    assert plan.sampler["seed"] == 3


def test_a_users_file_can_select_a_class_of_a_trusted_package(app: App, tmp_path: Path) -> None:
    write(tmp_path / "app", "sampler", f"_target_: {MINE}.MiddleSampler\n")
    write(tmp_path / "app", "pruner", f"_target_: {MINE}.WorstPruner\nfrom_step: 2\n")
    mine = ["hydra/sweeper/sampler=mine", "hydra/sweeper/pruner=mine"]
    plan = app.plan(*mine, f"+trusted_targets=[{MINE}]", X, f"hydra.sweep.dir={tmp_path}/study")
    study, _ = open_study(plan)
    completed(study, plan, [1.0])
    assert study.trials[0].params == {"x": 0.5}
    trial = study.ask()
    trial.report(0.1, 2)
    assert trial.should_prune()


@pytest.mark.parametrize(
    ("target", "key", "message"),
    [
        (f"{MINE}.MiddleSampler", "", f"_target_={MINE}.MiddleSampler is not trusted"),
        ("optuna.samplers._tpe.sampler.TPESampler", "", "is private"),
        ("optuna.samplers.TPESampler", "sed: 1\n", "hydra.sweeper.sampler.sed"),
        ("optuna.samplers.TPESampler", "seed: 1.5\n", "hydra.sweeper.sampler.seed=1.5"),
    ],
    ids=["not trusted", "private", "unknown key", "wrong type"],
)
def test_a_users_file_is_checked_like_any_other_config(
    target: str, key: str, message: str, app: App, tmp_path: Path
) -> None:
    write(tmp_path / "app", "sampler", f"_target_: {target}\n{key}")
    plan = app.plan("hydra/sweeper/sampler=mine", X, f"hydra.sweep.dir={tmp_path}/study")
    with pytest.raises(ConfigError) as caught:
        open_study(plan)
    assert message in str(caught.value)


@pytest.mark.slow
def test_the_command_line_accepts_samplers_and_pruners_from_a_users_folder(
    tmp_path: Path,
) -> None:
    write(tmp_path / "mine", "sampler", f"_target_: {MINE}.MiddleSampler\n")
    write(tmp_path / "mine", "pruner", f"_target_: {MINE}.WorstPruner\nfrom_step: 1\n")
    sweep = ["--config-dir", "mine", "-m", "n_epoch=2", "tracker=none", "lr=interval(0.01,0.03)"]
    mine = ["hydra/sweeper/sampler=mine", "hydra/sweeper/pruner=mine"]
    options = ["hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=2", "hydra.sweeper.study_name=s"]
    command = [*sweep, *mine, *options, "hydra.sweeper.duplicates=rerun"]
    refused = nntrain_run(*command, cwd=tmp_path, PYTHONPATH=str(REPOSITORY))
    assert refused.returncode == 1
    assert f"_target_={MINE}.MiddleSampler is not trusted" in refused.stderr
    assert not (tmp_path / "multirun").exists()
    done = nntrain_run(
        *command, f"trusted_targets=[{MINE}]", cwd=tmp_path, PYTHONPATH=str(REPOSITORY)
    )
    assert done.returncode == 0, done.stderr
    assert "0 completed, 2 pruned, 0 failed" in done.stdout
    rows = (tmp_path / "multirun/s/trials.csv").read_text().splitlines()[1:]
    assert [",0.02," in row for row in rows] == [True, True]
