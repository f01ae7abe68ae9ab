"""Checks the command line (overrides, configuration and targets) before Hydra starts."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path

import yaml
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_automatic_config_search_path, get_args_parser
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from nntrain.app.saved_overrides import with_saved_overrides
from nntrain.config.errors import ConfigError
from nntrain.config.hints import nearest
from nntrain.config.messages import sentence
from nntrain.config.redact import redact
from nntrain.config.targets import TRUSTED_TARGETS, check_targets, in_packages

STARTED = time.time()
"""Start time of the process, in seconds since the epoch."""

CONFIG_PATH = "pkg://nntrain.conf"
CONFIG_NAME = "config"


def check_command_line(argv: Sequence[str]) -> list[str]:
    """Composes and checks the configuration before Hydra starts.

    Overrides that a sweep varies are ignored. Command lines that only ask for help or shell
    completion are not checked.

    Returns:
        The command line. If it contains `resume=`, the overrides of the resumed run are added.

    Raises:
        ConfigError: for the first mistake.
    """
    args = get_args_parser().parse_args(argv)
    if args.help or args.hydra_help or args.shell_completion or args.experimental_rerun:
        return list(argv)
    try:
        overrides = with_saved_overrides(args.overrides)
        cfg = _compose(args, overrides)
        if not args.multirun and cfg.hydra.mode is not RunMode.MULTIRUN:
            _check_no_sweep(overrides)
        check_targets(cfg, list(cfg.trusted_targets))
        _check_function(cfg)
    except ConfigError:  # the message is already a single sentence
        raise
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError) as err:
        raise ConfigError(sentence(err)) from err
    if args.cfg is None and args.info is None:
        _check_folder(cfg)
    first = argv.index(args.overrides[0]) if args.overrides else len(argv)
    return [*argv[:first], *overrides, *argv[first + len(args.overrides) :]]


def _check_no_sweep(overrides: Sequence[str]) -> None:
    for override in _parsed(overrides):
        if override.is_sweep_override():
            key = override.key_or_group
            raise ConfigError(
                f"{redact(str(override.input_line))!r} varies {key}: "
                f"add -m to sweep, or set {key} to a single value."
            )


def _check_function(cfg: DictConfig) -> None:
    """Checks that the custom search space function is trusted, before it is imported."""
    path = cfg.hydra.sweeper.get("custom_search_space")
    if path is not None and not in_packages(str(path), [*TRUSTED_TARGETS, *cfg.trusted_targets]):
        raise ConfigError(
            f"hydra.sweeper.custom_search_space={path} is not trusted: "
            f"add 'trusted_targets=[{str(path).split('.')[0]}]' if you trust its code."
        )


def _check_folder(cfg: DictConfig) -> None:
    """Checks that Hydra will be able to create the run folder."""
    try:
        folder = Path(cfg.hydra.run.dir).absolute()
    except InterpolationResolutionError:
        return
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not (there.is_dir() and os.access(there, os.W_OK)):
        raise ConfigError(
            f"hydra.run.dir={folder} cannot be created because {there} is not writable: "
            "choose another folder."
        )


def _compose(args: argparse.Namespace, overrides: Sequence[str]) -> DictConfig:
    search_path = create_automatic_config_search_path(None, None, CONFIG_PATH)
    if args.config_dir is not None:
        folder = os.path.abspath(args.config_dir)
        if not os.path.isdir(folder):
            raise ConfigError(f"--config-dir {args.config_dir} must be an existing folder.")
        search_path.prepend("command-line", f"file://{folder}", SearchPathQuery(provider="schema"))
    fixed = [override for override in _parsed(overrides) if not override.is_sweep_override()]
    hydra = Hydra.create_main_hydra2(task_name="run", config_search_path=search_path)
    name = args.config_name or CONFIG_NAME
    try:
        _check_removals(hydra, name, fixed)
        return _composed(hydra, name, fixed)
    except MissingConfigException as err:
        group = (err.missing_cfg_file or "").rpartition("/")[0]
        if group and err.options is None:  # a choice in a list of choices
            err.options = hydra.config_loader.get_group_options(group)
        raise
    finally:
        GlobalHydra.instance().clear()


def _composed(hydra: Hydra, name: str, overrides: Sequence[Override]) -> DictConfig:
    return hydra.compose_config(
        config_name=name,
        overrides=[str(override.input_line) for override in overrides],
        run_mode=RunMode.RUN,
        with_log_configuration=False,
    )


def _parsed(overrides: Sequence[str]) -> list[Override]:
    return OverridesParser.create().parse_overrides(overrides=list(overrides))


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
