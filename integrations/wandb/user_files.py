"""What the user has set with `wandb init`, `wandb offline` and the like. Does not import wandb."""

from __future__ import annotations

import configparser
import os
from collections.abc import Mapping
from pathlib import Path

from nntrain.config.errors import ConfigError

MODES = ("online", "offline", "disabled")

_ALIASES = {"dryrun": "offline", "run": "online"}
"""W&B's older names of the modes."""

_VARIABLE = "WANDB_MODE"

_DISABLED = "WANDB_DISABLED"
"""The variable with which Hugging Face's Trainer, and older versions of W&B, switch W&B off."""

_TRUE = ("1", "on", "true", "yes")


def user_settings() -> Mapping[str, str]:
    """Returns W&B's own settings: those of the current folder, then those of the home folder.

    Raises:
        ConfigError: if a file cannot be read.
    """
    return {name: value for path in _paths() for name, value in _read(path).items()}


def user_mode() -> str:
    """Returns the mode from `WANDB_MODE`, or else from W&B's own settings, or else `online`.

    If `WANDB_DISABLED` is true, the mode is `disabled`.

    Raises:
        ConfigError: if the mode is not valid, or a file cannot be read.
    """
    if os.environ.get(_DISABLED, "").lower() in _TRUE:
        return "disabled"
    if given := os.environ.get(_VARIABLE):
        return _checked(given, _VARIABLE)
    mode = "online"
    for path in _paths():
        if found := _read(path).get("mode"):
            mode = _checked(found, f"{path}: mode")
    return mode


def _checked(mode: str, key: str) -> str:
    mode = _ALIASES.get(mode, mode)
    if mode not in MODES:
        raise ConfigError(
            f"{key}={mode} is not a W&B mode that nntrain supports: set it to one of "
            f"{', '.join(MODES)}."
        )
    return mode


def _paths() -> list[Path]:
    """Returns the files that W&B reads, the most important one last."""
    folder = os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb"
    local = ".wandb" if Path(".wandb").exists() else "wandb"
    return [Path(os.path.expanduser(folder), "settings"), Path(local, "settings").absolute()]


def _read(path: Path) -> Mapping[str, str]:
    parser = configparser.ConfigParser()
    try:
        parser.read(path, encoding="utf-8")
        return dict(parser["default"]) if parser.has_section("default") else {}
    except (OSError, UnicodeDecodeError, configparser.Error) as err:
        reason = " ".join(str(err).split())
        raise ConfigError(
            f"W&B's settings {path} cannot be read ({reason}): correct or remove the file."
        ) from err
