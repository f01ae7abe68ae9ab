"""Checks that a run can resume from a checkpoint, and reports changed settings."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from nntrain.checkpoint import CheckpointError, read_checkpoint
from nntrain.config.errors import ConfigError
from nntrain.config.flatten import flatten
from nntrain.config.hints import first_line
from nntrain.config.redact import Redactor
from nntrain.learner import Learner
from nntrain.learner_state import check_learner_state

FREE_TO_CHANGE = ("n_epoch", "resume", "device", "objective", "callbacks.progress")
"""Keys that can change on resume without a message."""


def check_resume(resume: Path, cfg: DictConfig, learn: Learner, redactor: Redactor) -> None:
    """Checks that a checkpoint matches the learner, and prints the settings that have changed.

    Args:
        resume: a checkpoint file, or the folder of a run.
        cfg: the configuration.
        learn: the learner.
        redactor: removes secrets from the printed settings.

    Raises:
        ConfigError: if the checkpoint cannot be loaded or does not match the learner.
    """
    path = resume / "last.ckpt" if resume.is_dir() else resume
    try:
        state = read_checkpoint(path)
        check_learner_state(learn, state, path)
    except CheckpointError as err:
        raise ConfigError(f"resume={resume}: {err}") from err
    if state["epoch"] >= cfg.n_epoch:
        _say(
            f"nothing to do because all {state['epoch']} epochs are finished: "
            "increase n_epoch to continue training."
        )
    before = _saved_config(path.parent / ".hydra" / "config.yaml")
    if before is not None:
        now = redactor.value(OmegaConf.to_container(cfg, resolve=False))
        for change in changed_keys(flatten(before), flatten(now)):
            _say(f"changed setting: {change}")


def _saved_config(path: Path) -> dict[str, Any] | None:
    """Returns the configuration of the earlier run, or `None` if it is missing or cannot be read.

    It only shows what has changed, so its loss does not prevent the run from resuming.
    """
    if not path.is_file():
        return None
    try:
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as err:
        _say(f"{path} cannot be read ({first_line(err)}), so changed settings are not shown.")
        return None
    if not isinstance(content, dict):
        _say(f"{path} is not a configuration, so changed settings are not shown.")
        return None
    return {str(key): value for key, value in content.items()}


def _say(text: str) -> None:
    print(f"nntrain: resume: {text}", file=sys.stderr)


def changed_keys(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns the changed keys, such as `lr: 0.1 -> 0.01`, except the keys in `FREE_TO_CHANGE`."""
    keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    return [
        f"{key}: {before.get(key)} -> {now.get(key)}"
        for key in keys
        if not any(key == free or key.startswith(f"{free}.") for free in FREE_TO_CHANGE)
    ]
