"""A Hydra application of a few keys, and plans and studies of sweeps over them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode
from hydra_plugins.nntrain_sweeper import NntrainSweeper
from hydra_plugins.nntrain_sweeper.config import PRUNERS, SAMPLERS
from omegaconf import DictConfig

from nntrain.sweeps.configure import make_sweep
from nntrain.sweeps.spec.plan import SweepPlan
from nntrain.sweeps.spec.space import Space, make_space, suggest
from nntrain.sweeps.study.trials import SweepStudy
from nntrain.sweeps.sweep import Sweep

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


def job(cfg: DictConfig) -> float:
    """What is optimised: a parabola."""
    return float(cfg.x) ** 2


@dataclass
class App:
    """The application: what finds its configs."""

    loader: ConfigLoader

    def config(self, *overrides: str) -> DictConfig:
        """Its configuration as Hydra composes it for `-m`."""
        return self.loader.load_configuration("config", list(overrides), run_mode=RunMode.MULTIRUN)

    def sweep(self, *overrides: str) -> Sweep:
        """The sweep that the command line asks for, made by the sweeper as Hydra makes it."""
        config = self.config(*overrides)
        context = HydraContext(config_loader=self.loader, callbacks=Callbacks())
        sweeper = Plugins.instance().instantiate_sweeper(
            hydra_context=context, task_function=job, config=config
        )
        assert isinstance(sweeper, NntrainSweeper)
        return make_sweep(sweeper.settings, list(config.hydra.overrides.task), job, context, config)

    def plan(self, *overrides: str) -> SweepPlan:
        """The plan of that sweep."""
        return self.sweep(*overrides).plan

    def space(self, *arguments: str, params: Mapping[str, Any] | None = None) -> Space:
        """The space that overrides and `params` ask for."""
        return make_space(params or {}, arguments, self.loader)


@contextmanager
def small_app(folder: Path) -> Iterator[App]:
    """Writes the application into a folder and lets Hydra find it."""
    (folder / "model").mkdir(parents=True)
    for name in ("cnn", "mlp", "mlp_wide"):
        (folder / "model" / f"{name}.yaml").write_text(f"kind: {name}\nhidden: 8\n")
    (folder / "config.yaml").write_text(CONFIG)
    Plugins.instance().register(NntrainSweeper)
    with initialize_config_dir(str(folder), version_base="1.3"):
        yield App(GlobalHydra.instance().config_loader())


def make_plan(folder: Path, *arguments: str, **options: Any) -> SweepPlan:
    """A plan over a space, with a random sampler that is seeded and no pruner, unless the options say otherwise."""
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
    """Adds trials that ended with these values, each with parameters of the sampler's."""
    for value in values:
        trial = study.ask()
        suggest(trial, plan.space)
        study.tell(trial, value)
