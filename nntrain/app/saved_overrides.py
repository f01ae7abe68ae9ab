"""Loads the overrides of a resumed run and merges them with the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from nntrain.config.errors import ConfigError
from nntrain.config.redact import REDACTED


def with_saved_overrides(overrides: Sequence[str]) -> list[str]:
    """Returns the overrides of the run in `resume=`, followed by `overrides`.

    If both contain the same key, the saved override is dropped.

    Raises:
        ConfigError: if a saved override contained a secret, because secrets are not stored.
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
            raise ConfigError(
                f"The resumed run did not store the secret in {text}: pass this override again."
            )
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
