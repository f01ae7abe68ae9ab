"""Composes configurations like `python -m nntrain.run`, without starting a run."""

from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

import nntrain.conf
from nntrain.sweeps import register

CONF = Path(nntrain.conf.__file__).parent

register()  # an editable install hides the sweeper from Hydra


def composed(*overrides: str, folder: Path | None = None) -> DictConfig:
    """Composes a configuration with `folder` (or the current folder) as the output folder."""
    with initialize_config_module("nntrain.conf", version_base="1.3"):
        cfg = compose("config", overrides=list(overrides), return_hydra_config=True)
    with open_dict(cfg):
        cfg.hydra.runtime.output_dir = str(folder or Path.cwd())
        HydraConfig.instance().set_config(cfg)
        del cfg["hydra"]
    return cfg


def minimal(nodes: dict[str, Any]) -> DictConfig:
    """Returns a configuration with every key that a run needs, and the given nodes."""
    empty = dict.fromkeys(("data", "model", "loss", "optimizer", "objective", "resume"))
    return OmegaConf.create({"seed": 0, "n_epoch": 1, "lr": 1.0, "device": "cpu", **empty, **nodes})


def choices(group: str) -> list[str]:
    """Returns the options of a config group."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def groups() -> list[str]:
    """Returns the config groups of the application."""
    return sorted(
        path.name
        for path in CONF.iterdir()
        if path.is_dir() and path.name not in ("hydra", "__pycache__")
    )
