"""Going on with a run: its own overrides come first, so that it goes on with the settings with which it began."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from nntrain.checkpoint import CheckpointError, check_learner_state, read_checkpoint
from nntrain.config.errors import ConfigError
from nntrain.config.flatten import flatten
from nntrain.config.redact import REDACTED, Redactor
from nntrain.learner import Learner

FREE_TO_CHANGE = ("n_epoch", "resume", "device", "objective", "callbacks.progress")
"""Keys that may differ between a run and what goes on with it without a word."""


def with_saved_overrides(overrides: Sequence[str]) -> list[str]:
    """The overrides of the run that `resume=` names, less those that are given again, and then the given ones.

    Raises:
        ConfigError: if a saved override was a secret, which is not kept.
    """
    folder = _resumed_folder(overrides)
    path = folder / ".hydra" / "overrides.yaml" if folder else None
    if path is None or not path.is_file():
        return list(overrides)
    given = _keys(overrides)
    saved = [str(text) for text in OmegaConf.to_container(OmegaConf.load(path)) or []]
    kept = [text for text, key in zip(saved, _keys(saved), strict=True) if key not in given]
    for text in kept:
        if REDACTED in text:
            raise ConfigError(f"{text} was a secret of the run and is not kept: give it again.")
    return [*kept, *overrides]


def _resumed_folder(overrides: Sequence[str]) -> Path | None:
    for text in overrides:
        key, _, value = text.partition("=")
        if key.lstrip("+") == "resume" and value:
            path = Path(value.strip("'\""))
            return path if path.is_dir() else path.parent
    return None


def _keys(overrides: Sequence[str]) -> list[str]:
    parsed = OverridesParser.create().parse_overrides(overrides=list(overrides))
    return [override.key_or_group for override in parsed]


def check_resume(resume: Path, cfg: DictConfig, learn: Learner, redactor: Redactor) -> None:
    """Checks that the checkpoint to go on from can be read and fits, and says which settings are not those of its run.

    Raises:
        ConfigError: if it cannot be read, or does not fit the model, the optimizer or the callbacks.
    """
    path = resume / "last.ckpt" if resume.is_dir() else resume
    try:
        state = read_checkpoint(path)
        check_learner_state(learn, state, path)
    except CheckpointError as err:
        raise ConfigError(f"resume={resume}: {err}") from err
    if state["epoch"] >= cfg.n_epoch:
        _say(f"the run is complete with {state['epoch']} epochs: raise n_epoch to train on.")
    saved = path.parent / ".hydra" / "config.yaml"
    if saved.is_file():
        before = OmegaConf.to_container(OmegaConf.load(saved), resolve=False)
        now = redactor.value(OmegaConf.to_container(cfg, resolve=False))
        assert isinstance(before, dict)
        for change in changed_keys(flatten(before), flatten(now)):
            _say(f"goes on with another setting than it began with, {change}")


def _say(text: str) -> None:
    print(f"nntrain: resume {text}", file=sys.stderr)


def changed_keys(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The keys of two flattened configurations that differ, less those that may: `lr: 0.1 -> 0.01`."""
    keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    return [
        f"{key}: {before.get(key)} -> {now.get(key)}"
        for key in keys
        if not any(key == free or key.startswith(f"{free}.") for free in FREE_TO_CHANGE)
    ]
