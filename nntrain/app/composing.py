"""Composes the configuration as Hydra does, without configuring logging or running anything."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_automatic_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from nntrain.app.foreign import hydra_key, is_allowed
from nntrain.config.errors import ConfigError
from nntrain.config.hints import nearest

CONFIG_PATH = "pkg://nntrain.conf"
CONFIG_NAME = "config"


def parsed(overrides: Sequence[str]) -> list[Override]:
    """Parses overrides."""
    return OverridesParser.create().parse_overrides(overrides=list(overrides))


def config_folder(args: argparse.Namespace) -> str | None:
    """Returns the absolute path of the folder in `--config-dir` or `--config-path`.

    Raises:
        ConfigError: if both are given, or the folder does not exist.
    """
    if args.config_dir is not None and args.config_path is not None:
        raise ConfigError("--config-dir and --config-path name the same folder: drop one of them.")
    option = "--config-dir" if args.config_path is None else "--config-path"
    text = args.config_dir if args.config_path is None else args.config_path
    if text is None:
        return None
    if not os.path.isdir(text):
        raise ConfigError(f"{option} {text} must be an existing folder.")
    return os.path.abspath(str(text))


def override_of(key: str, value: Any) -> str:
    """Returns an override; a text is the right-hand side of one, such as `choice(a,b)`."""
    plain: Any = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    text = plain if isinstance(plain, str) else Override._get_value_element_as_str(plain)
    return f"{key}={text}"


@contextmanager
def _hydra(folder: str | None) -> Iterator[Hydra]:
    search_path = create_automatic_config_search_path(None, None, CONFIG_PATH)
    if folder is not None:
        search_path.prepend("command-line", f"file://{folder}", SearchPathQuery(provider="schema"))
    try:
        yield Hydra.create_main_hydra2(task_name="run", config_search_path=search_path)
    finally:
        GlobalHydra.instance().clear()


def compose(folder: str | None, name: str, overrides: Sequence[str]) -> DictConfig:
    """Composes a configuration; overrides that a sweep varies are ignored.

    Args:
        folder: an additional folder with config files.
        name: the name of the primary config.
        overrides: the overrides.
    """
    fixed = [override for override in parsed(overrides) if not override.is_sweep_override()]
    with _hydra(folder) as hydra:
        try:
            _check_removals(hydra, name, fixed)
            return _composed(hydra, name, fixed)
        except MissingConfigException as err:
            group = (err.missing_cfg_file or "").rpartition("/")[0]
            if group and err.options is None:  # a choice in a list of choices
                err.options = hydra.config_loader.get_group_options(group)
            raise


def without_data(typed: Sequence[Override]) -> list[DictConfig]:
    """Returns Hydra's settings as typed, without any config folder: nntrain's and Hydra's own."""
    hydras = [
        override
        for override in typed
        if (key := hydra_key(override)) is not None and not is_allowed(key)
    ]
    with _hydra(None) as hydra:
        return [_composed(hydra, CONFIG_NAME, hydras), _composed(hydra, None, [])]


def search_path_of(folder: str, name: str) -> object:
    """Returns the key `hydra.searchpath` of a primary config, which Hydra would import."""
    with _hydra(folder) as hydra:
        assert isinstance(hydra.config_loader, ConfigLoaderImpl)
        found = hydra.config_loader.repository.load_config(name)
        return None if found is None else OmegaConf.select(found.config, "hydra.searchpath")


def choices_of(folder: str | None, texts: Sequence[str]) -> list[list[str]]:
    """Returns the choices of each override that a sweep makes, if they may select other files.

    These are the overrides of config groups, and of the trackers. Each choice is an override.

    Args:
        folder: an additional folder with config files.
        texts: the overrides, with or without a sweep.
    """
    with _hydra(folder) as hydra:
        parser = OverridesParser.create(config_loader=hydra.config_loader)
        found = []
        for one in parser.parse_overrides(list(texts)):
            is_group = bool(hydra.config_loader.get_group_options(one.key_or_group))
            if not one.is_sweep_override():
                found.append([str(one.input_line)])
            elif one.is_discrete_sweep() and (is_group or one.key_or_group.startswith("tracker.")):
                key = one.get_key_element()
                found.append([f"{key}={value}" for value in one.sweep_string_iterator()])
        return found


def _composed(hydra: Hydra, name: str | None, overrides: Sequence[Override]) -> DictConfig:
    return hydra.compose_config(
        config_name=name,
        overrides=[str(override.input_line) for override in overrides],
        run_mode=RunMode.RUN,
        with_log_configuration=False,
    )


def _check_removals(hydra: Hydra, name: str, overrides: Sequence[Override]) -> None:
    """Checks that the keys of overrides such as `~callbacks.progress` exist.

    Raises:
        ConfigError: for the first unknown key; the message suggests the closest match.
    """
    removed = [override.key_or_group for override in overrides if override.is_delete()]
    if not removed:
        return
    kept = [one for one in overrides if not (one.is_delete() or one.is_add())]
    added = {one.key_or_group for one in overrides if one.is_add()}
    cfg = _composed(hydra, name, kept)
    for key in removed:
        if key in added:
            continue
        parent, _, last = key.rpartition(".")
        node = OmegaConf.select(cfg, parent) if parent else cfg
        if isinstance(node, DictConfig) and "/" not in key and last not in node:
            raise ConfigError(f"Unknown key {key}: {nearest(last, [str(one) for one in node])}")
