"""Loads the overrides of the run that is resumed.

They are data: they grant no trust, and may set only those keys of Hydra that any data may set.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from nntrain.app.foreign import hydra_key, is_allowed, refused
from nntrain.config.errors import ConfigError
from nntrain.config.redact import REDACTED
from nntrain.config.trust import KEY


def typed_resume(typed: Sequence[Override]) -> str | None:
    """Returns the value of `resume=` in a command line, if it needs no other key of the config."""
    found = None
    for override in typed:
        if override.key_or_group == "resume" and not override.is_sweep_override():
            found = None if override.is_delete() else override.value()
    return found if isinstance(found, str) and "${" not in found else None


def saved_file(resume: str | Path) -> Path:
    """Returns the file with the overrides of a run, given its folder or its checkpoint.

    A relative path starts at the folder in which the command was started.
    """
    path = Path(resume).absolute()
    return (path if path.is_dir() else path.parent) / ".hydra" / "overrides.yaml"


def saved_overrides(
    resume: str | Path, typed: Sequence[Override], *, trusted: bool = False
) -> list[str]:
    """Returns the overrides of a run, without those that are typed again.

    Args:
        resume: the folder of the run, or its checkpoint.
        typed: the overrides in the command line.
        trusted: whether the user named the folder as trusted, so that the overrides count as if
            they were typed.

    Raises:
        ConfigError: if an override contained a secret, because secrets are not stored, or sets a
            key of Hydra that data may not set.
    """
    path = saved_file(resume)
    given = {override.key_or_group for override in typed} | {"resume"}
    found = [
        override
        for override in OverridesParser.create().parse_overrides(_read(path))
        if override.key_or_group not in given and (trusted or override.key_or_group != KEY)
    ]
    for override in found:
        if not trusted:
            _check_hydra_key(override, path)
        if REDACTED in str(override.input_line):
            raise ConfigError(
                "The resumed run did not store the secret in "
                f"{override.input_line}: pass this override again."
            )
    return [str(override.input_line) for override in found]


def _read(path: Path) -> list[str]:
    if not path.is_file():
        return []
    content = yaml.safe_load(path.read_text(encoding="utf-8")) or []
    if not (isinstance(content, list) and all(isinstance(one, str) for one in content)):
        raise ConfigError(f"{path} must contain a list of overrides, such as '- lr=0.1'.")
    return content


def _check_hydra_key(override: Override, path: Path) -> None:
    key = hydra_key(override)
    if key is not None and not is_allowed(key):
        raise refused(key, [str(path)])
