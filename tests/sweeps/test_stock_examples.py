"""The examples in hydra-optuna-sweeper's documentation work with this sweeper."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from omegaconf import OmegaConf

pytestmark = pytest.mark.slow

REGISTER = """
import hydra

from nntrain.sweeps import register

register()  # Hydra does not find the sweeper in an editable install
"""

BOWL = """
@hydra.main(version_base="1.3", config_path=".", config_name="bowl")
def bowl(cfg):
    if cfg.broken:
        raise RuntimeError("this job always fails")
    return cfg.x**2 + cfg.y**2

bowl()
"""

BOWL_CONFIG = """
defaults:
  - override hydra/sweeper: nntrain
  - override hydra/sweeper/sampler: grid
hydra:
  sweeper:
    direction: minimize
    study_name: bowl
    storage: null
    n_trials: 20
    n_jobs: 1
    max_failure_rate: 0.0
    params:
      x: choice(-1, 2)
      y: range(-1.0, 1.0, step=0.5)
x: 1
y: 1
unused: 1
broken: false
"""

TRADE_OFF = """
@hydra.main(version_base="1.3", config_path=".", config_name="trade_off")
def trade_off(cfg):
    return cfg.x + cfg.y, (cfg.x - 4) ** 2 + (cfg.y - 4) ** 2

trade_off()
"""

TRADE_OFF_CONFIG = """
defaults:
  - override hydra/sweeper: nntrain
  - override hydra/sweeper/sampler: nsgaii
hydra:
  sweeper:
    sampler:
      seed: 3
      population_size: 4
    direction: [minimize, minimize]
    study_name: trade-off
    n_trials: 12
    n_jobs: 1
    params:
      x: range(0, 5, step=0.5)
      y: range(0, 3, step=0.5)
x: 1
y: 1
"""

NEIGHBORS = """
def choose(cfg, trial):
    x = trial.params["x"]
    trial.suggest_float("z", x - cfg.reach, x + cfg.reach)
    trial.suggest_float("+extra", 0.0, 1.0)

@hydra.main(version_base="1.3", config_path=".", config_name="neighbors")
def neighbors(cfg):
    return cfg.x**2 + cfg.z**2 + cfg.extra

if __name__ == "__main__":
    neighbors()
"""

NEIGHBORS_CONFIG = """
defaults:
  - override hydra/sweeper: nntrain
  - override hydra/sweeper/sampler: random
hydra:
  sweeper:
    sampler:
      seed: 3
    study_name: neighbors
    n_trials: 5
    n_jobs: 1
    params:
      x: range(-5.5, 5.5, 0.5)
    custom_search_space: neighbors.choose
x: 1
z: 100
reach: 0.5
"""

APPS = {
    "bowl": (BOWL, BOWL_CONFIG),
    "trade_off": (TRADE_OFF, TRADE_OFF_CONFIG),
    "neighbors": (NEIGHBORS, NEIGHBORS_CONFIG),
}


def run(app: str, *overrides: str) -> subprocess.CompletedProcess[str]:
    """Runs `python APP.py --multirun` in the test's folder; returns the finished process."""
    source, config = APPS[app]
    Path(f"{app}.py").write_text(REGISTER + source)
    Path(f"{app}.yaml").write_text(config)
    return subprocess.run(
        [sys.executable, f"{app}.py", "--multirun", *overrides],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def results(folder: str | Path) -> Any:
    """Returns the content of `optimization_results.yaml`."""
    return OmegaConf.to_container(OmegaConf.load(Path(folder, "optimization_results.yaml")))


def configured(folder: str | Path) -> list[Any]:
    """Returns the configuration of each trial, from the file that Hydra wrote."""
    files = sorted(Path(folder).glob("*/.hydra/config.yaml"), key=lambda path: int(path.parts[-3]))
    return [OmegaConf.to_container(OmegaConf.load(file)) for file in files]


def test_each_configuration_of_a_grid_is_tried_once_and_the_best_is_written() -> None:
    done = run("bowl")
    assert done.returncode == 0, done.stderr
    tried = sorted((one["x"], one["y"]) for one in configured("multirun/bowl"))
    assert tried == [(x, y) for x in (-1, 2) for y in (-1.0, -0.5, 0.0, 0.5)]
    assert results("multirun/bowl")["best_params"] == {"x": -1, "y": 0.0}
    assert results("multirun/bowl")["best_value"] == 1


def test_the_command_line_changes_the_space_fixes_a_value_and_names_the_storage() -> None:
    overrides = ["x=int(interval(-5.0, 5.0))", "y=2", "~unused", "+scale=tag(log, interval(1, 10))"]
    keys = [
        "hydra.sweep.dir=out",
        "hydra.job.chdir=True",
        "hydra.sweeper.n_trials=4",
        "hydra.sweeper.study_name=mine",
    ]
    done = run(
        "bowl",
        *overrides,
        *keys,
        "hydra/sweeper/sampler=tpe",
        "hydra.sweeper.storage=sqlite:///kept.db",
    )
    assert done.returncode == 0, done.stderr
    study = optuna.load_study(study_name="mine", storage="sqlite:///kept.db")
    assert len(study.trials) == 4
    assert results("out")["best_value"] == study.best_value
    assert results("out")["best_params"] == study.best_params
    tried = configured("out")
    assert [one["x"] for one in tried] == [trial.params["x"] for trial in study.trials]
    assert all(isinstance(one["x"], int) and 1 <= one["scale"] <= 10 for one in tried)
    assert {(one["y"], "unused" in one) for one in tried} == {(2, False)}


def test_several_objectives_give_the_pareto_front() -> None:
    done = run("trade_off")
    assert done.returncode == 0, done.stderr
    tried = [
        (one["x"] + one["y"], (one["x"] - 4) ** 2 + (one["y"] - 4) ** 2)
        for one in configured("multirun/trade-off")
    ]
    assert len(tried) == 12
    front = {
        one
        for one in tried
        if not any(o != one and o[0] <= one[0] and o[1] <= one[1] for o in tried)
    }
    solutions = results("multirun/trade-off")["solutions"]
    assert {tuple(one["values"]) for one in solutions} == front
    assert {one["params"]["x"] + one["params"]["y"] for one in solutions} == {
        first for first, _ in front
    }


def test_a_function_of_the_user_adds_parameters_and_sees_the_configuration() -> None:
    done = run("neighbors", "reach=0.01")
    assert done.returncode == 0, done.stderr
    tried = configured("multirun/neighbors")
    assert len(tried) == 5
    assert all(abs(one["x"] - one["z"]) <= 0.01 and 0 <= one["extra"] <= 1 for one in tried)
    assert results("multirun/neighbors")["best_params"].keys() == {"x", "z", "+extra"}


@pytest.mark.parametrize(("rate", "n_run", "code"), [(0.5, 3, 1), (1.0, 4, 0)])
def test_too_many_failures_end_the_sweep(rate: float, n_run: int, code: int) -> None:
    done = run(
        "bowl", "broken=true", "hydra.sweeper.n_trials=4", f"hydra.sweeper.max_failure_rate={rate}"
    )
    assert done.returncode == code, done.stderr
    assert len(configured("multirun/bowl")) == n_run
    assert done.stderr.count("failed (error): RuntimeError: this job always fails") == n_run
    assert (f"more than max_failure_rate={rate:g} of n_trials=4" in done.stderr) == bool(code)
