"""Whom the user trusts: what they typed, and their own file `~/.config/nntrain/trust.yaml`.

A configuration may list `trusted_targets` too, but that is data: only the command line and the
user's own file grant trust.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from nntrain.config.errors import ConfigError
from nntrain.config.hints import nearest
from nntrain.config.targets import check_trusted_targets

KEY = "trusted_targets"
"""The configuration key, which counts only where the user typed it."""

_KEYS = (KEY, "trusted_folders")


@dataclass(frozen=True)
class UserTrust:
    """The content of the user's own file.

    Attributes:
        targets: packages that any configuration may name.
        folders: absolute folders whose config files and runs count as if the user typed them.
    """

    targets: tuple[str, ...] = ()
    folders: tuple[Path, ...] = ()

    def covers(self, path: str | os.PathLike[str]) -> bool:
        """Returns whether a file or folder is one of the trusted folders, or is inside one."""
        real = Path(path).resolve()
        return any(real.is_relative_to(folder.resolve()) for folder in self.folders)


def trust_file(environ: Mapping[str, str] = os.environ) -> Path:
    """Returns the path of the user's own file, which need not exist."""
    base = environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(os.path.expanduser(base)) / "nntrain" / "trust.yaml"


def user_trust(environ: Mapping[str, str] = os.environ) -> UserTrust:
    """Reads the user's own file.

    Raises:
        ConfigError: if the file belongs to somebody else, others may write to it, or its content is
            invalid.
    """
    path = trust_file(environ)
    if not path.is_absolute() or not os.path.exists(path):
        return UserTrust()  # also if there is no home folder, or if it belongs to another user
    try:
        with open(path, encoding="utf-8") as file:
            _check_owner(path, os.fstat(file.fileno()))
            content = yaml.safe_load(file) or {}
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as err:
        raise ConfigError(f"{path} cannot be read: {' '.join(str(err).split())}.") from err
    return _parsed(content, path)


def _check_owner(path: Path, found: os.stat_result) -> None:
    if found.st_uid != os.geteuid():
        raise ConfigError(
            f"{path} belongs to another user, so it grants no trust: replace it with your own file."
        )
    if found.st_mode & 0o022:
        raise ConfigError(
            f"{path} can be changed by other users, so it grants no trust: run 'chmod 600 {path}'."
        )


def _parsed(content: Any, path: Path) -> UserTrust:
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must contain the keys {' and '.join(_KEYS)}.")
    for key, value in content.items():
        if key not in _KEYS:
            raise ConfigError(f"{path}: unknown key {key}: {nearest(str(key), _KEYS)}")
        if not (isinstance(value, list) and all(isinstance(one, str) for one in value)):
            raise ConfigError(f"{path}: {key} must be a list of texts, such as {key}: [mine].")
    targets, folders = content.get(KEY, []), content.get("trusted_folders", [])
    check_trusted_targets(targets)
    return UserTrust(tuple(targets), tuple(_folder(text, path) for text in folders))


def _folder(text: str, path: Path) -> Path:
    folder = Path(os.path.expanduser(text))
    if not folder.is_absolute():
        raise ConfigError(f"{path}: {text} in trusted_folders must be an absolute path.")
    return folder


def typed_targets(overrides: Iterable[str]) -> list[str]:
    """Returns the packages that the user named with `trusted_targets=[...]` in a command line.

    Raises:
        ConfigError: if the value is not a plain list of package names.
    """
    found: list[str] = []
    for override in OverridesParser.create().parse_overrides(overrides=list(overrides)):
        if override.key_or_group == KEY and not override.is_delete():
            found = _names(override)
    return found


def _names(override: Override) -> list[str]:
    value = None if override.is_sweep_override() else override.value()
    if value is None or value == "":
        raise ConfigError(f"{override.input_line} must be a list: write {KEY}=[my_package].")
    if not isinstance(value, list):
        raise ConfigError(f"{override.input_line} must be a list: write {KEY}=[{value}].")
    names = [str(name) for name in value]
    check_trusted_targets(names)
    return names


def granted(overrides: Sequence[str]) -> list[str]:
    """Returns the packages that the user trusts: in the command line, and in their own file.

    Raises:
        ConfigError: if either is invalid.
    """
    return list(dict.fromkeys([*typed_targets(overrides), *user_trust().targets]))
