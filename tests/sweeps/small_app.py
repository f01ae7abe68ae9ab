"""A small Hydra application for tests of sweeps, with plans and studies for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode
from hydra_plugins.nntrain_sweeper import NntrainSweeper
from hydra_plugins.nntrain_sweeper.config import CONF
from omegaconf import DictConfig

from nntrain.sweeps import register
from nntrain.sweeps.spec.plan import SweepPlan
from nntrain.sweeps.spec.space import Space, make_space, suggest
from nntrain.sweeps.study.trials import SweepStudy
from nntrain.sweeps.sweep import Sweep, make_sweep

CONFIG = """
defaults:
  - model: cnn
  - override hydra/sweeper: nntrain
  - _self_
x: 1.0
size: 3
name: plain
seed: 7
opt: {lr: 0.1, momentum: 0.9}
"""


def _configs(group: str) -> dict[str, dict[str, Any]]:
    files = (CONF / "hydra/sweeper" / group).glob("*.yaml")
    return {file.stem: yaml.safe_load(file.read_text()) for file in files}


SAMPLERS, PRUNERS = _configs("sampler"), _configs("pruner")
"""The arguments of Optuna's samplers and pruners, by the name of their config."""


def job(cfg: DictConfig) -> float:
    """Returns the value to minimize, which is `x` squared."""
    return float(cfg.x) ** 2


@dataclass
class App:
    """The application and its config loader."""

    loader: ConfigLoader

    def config(self, *overrides: str) -> DictConfig:
        """Returns the configuration that Hydra composes for a sweep."""
        return self.loader.load_configuration("config", list(overrides), run_mode=RunMode.MULTIRUN)

    def sweep(self, *overrides: str) -> Sweep:
        """Returns the sweep for a command line, with the settings that Hydra passes to sweepers."""
        config = self.config(*overrides)
        context = HydraContext(config_loader=self.loader, callbacks=Callbacks())
        sweeper = Plugins.instance().instantiate_sweeper(
            hydra_context=context, task_function=job, config=config
        )
        assert isinstance(sweeper, NntrainSweeper)
        return make_sweep(sweeper.settings, list(config.hydra.overrides.task), job, context, config)

    def plan(self, *overrides: str) -> SweepPlan:
        """Returns the plan of the sweep for a command line."""
        return self.sweep(*overrides).plan

    def space(self, *arguments: str, params: Mapping[str, Any] | None = None) -> Space:
        """Returns the search space that overrides and `params` define."""
        return make_space(params or {}, arguments, self.loader)


@contextmanager
def small_app(folder: Path) -> Iterator[App]:
    """Writes the application's configs to a folder and initializes Hydra with that folder."""
    (folder / "model").mkdir(parents=True)
    for name in ("cnn", "mlp", "mlp_wide"):
        (folder / "model" / f"{name}.yaml").write_text(f"kind: {name}\nhidden: 8\n")
    (folder / "config.yaml").write_text(CONFIG)
    register()
    with initialize_config_dir(str(folder), version_base="1.3"):
        yield App(GlobalHydra.instance().config_loader())


def make_plan(folder: Path, *arguments: str, **options: Any) -> SweepPlan:
    """Returns a plan with a seeded random sampler and no pruner; `options` override its fields."""
    chosen: dict[str, Any] = {
        "study_name": "small",
        "folder": folder,
        "space": make_space({}, arguments or ("x=interval(0,1)",)),
        "directions": ["minimize"],
        "sampler": {**SAMPLERS["random"], "seed": 0},
        "pruner": PRUNERS["none"],
        "objectives": ["valid/loss"],
        "monitor": "valid/loss",
    }
    return SweepPlan(**(chosen | options))


def completed(study: SweepStudy, plan: SweepPlan, values: Sequence[float]) -> None:
    """Adds one completed trial per value, with sampled parameters."""
    for value in values:
        trial = study.ask()
        suggest(trial, plan.space)
        study.tell(trial, value)
