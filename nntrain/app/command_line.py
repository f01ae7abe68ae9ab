"""Checks the command line (overrides, configuration and targets) before Hydra starts."""

from __future__ import annotations

import argparse
import itertools
import math
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from nntrain.app.composing import (
    CONFIG_NAME,
    CONFIG_PATH,
    choices_of,
    compose,
    config_folder,
    override_of,
    parsed,
    search_path_of,
    without_data,
)
from nntrain.app.foreign import check_destinations, check_hydra, hydra_key, refused
from nntrain.app.saved_overrides import saved_file, saved_overrides, typed_resume
from nntrain.config.errors import ConfigError
from nntrain.config.log_config import check_logging
from nntrain.config.messages import sentence
from nntrain.config.redact import redact_override
from nntrain.config.targets import check_function, check_targets
from nntrain.config.trust import KEY, UserTrust, granted, trust_file, typed_targets, user_trust

STARTED = time.time()
"""Start time of the process, in seconds since the epoch."""

MAX_CHECKED = 100
"""Number of combinations of somebody else's config files that a sweep may choose from."""

_MISTAKES = (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError, OSError)
"""Exceptions for a command line that Hydra cannot compose, and for files that cannot be read."""


def check_command_line(argv: Sequence[str]) -> list[str]:
    """Composes and checks the configuration before Hydra starts.

    Overrides that a sweep varies are ignored. Of a command line that only asks for help, only the
    trust is checked.

    Returns:
        The command line for Hydra, with the overrides of a run that is resumed, and with the
        packages that a trusted config folder trusts.

    Raises:
        ConfigError: for the first mistake.
    """
    args = get_args_parser().parse_args(argv)
    if args.experimental_rerun is not None:
        raise ConfigError(
            "--experimental-rerun loads a pickle, which can run any code: start the run again with "
            "its overrides, or go on from its checkpoint with resume=FOLDER."
        )
    if args.shell_completion:
        return list(argv)
    only_help = args.help or args.hydra_help
    if only_help and not (args.overrides or args.config_dir or args.config_path):
        return list(argv)
    try:
        command = _Command(args)
    except ConfigError:  # the message is already a single sentence
        raise
    except _MISTAKES as err:
        if only_help:  # Hydra fails at the same place
            return list(argv)
        raise ConfigError(sentence(err)) from err
    try:
        command.check_trust()
        if not only_help:
            command.check_rest()
    except ConfigError:
        raise
    except _MISTAKES as err:
        raise ConfigError(sentence(err)) from err
    return command.argv(argv)


def trusted_in(argv: Sequence[str]) -> list[str]:
    """Returns the packages that the user trusts, given a checked command line."""
    args = get_args_parser().parse_args(argv)
    return [] if args.shell_completion else granted(args.overrides)


class _Command:
    """A command line, its configuration, and whom the user trusts."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.folder = config_folder(args)
        self.name = args.config_name or CONFIG_NAME
        self.trust: UserTrust = user_trust()
        self.typed: list[Override] = parsed(args.overrides)
        self.sources: list[str] = []
        self.trusted = granted(args.overrides)
        self._check_search_path()
        self.saved = self._saved()
        self.overrides = [*self.saved, *args.overrides]
        self.cfg: DictConfig = compose(self.folder, self.name, self.overrides)
        self._collect()

    # --- where data comes from

    def _check_search_path(self) -> None:
        """Refuses `hydra.searchpath` of a foreign primary config, because Hydra imports from it."""
        is_typed = any(
            override.get_key_element() == "hydra.searchpath" and override.value() is not None
            for override in self.typed
        )
        if self.folder is None or self.trust.covers(self.folder) or is_typed:
            return
        if search_path_of(self.folder, self.name) is not None:
            raise refused("hydra.searchpath", [self.folder])

    def _saved(self) -> list[str]:
        """Returns the overrides of the run that is resumed."""
        resume = typed_resume(self.typed) or self._resume_of_config()
        if resume is None or not saved_file(resume).is_file():
            return []
        is_trusted = self.trust.covers(saved_file(resume))
        saved = saved_overrides(resume, self.typed, trusted=is_trusted)
        if is_trusted:
            self.typed = [*parsed(saved), *self.typed]
            self._trust(typed_targets(saved))
        elif saved:
            self.sources.append(str(saved_file(resume)))
        return saved

    def _resume_of_config(self) -> str | None:
        """Returns the key `resume` if a config file sets it, or if it contains an interpolation."""
        is_typed = any(override.key_or_group == "resume" for override in self.typed)
        if self.folder is None and not is_typed:
            return None
        found = compose(self.folder, self.name, self.args.overrides).get("resume")
        return None if found is None else str(found)

    def _collect(self) -> None:
        """Adds the config folders to the sources of data, or to what the user trusts."""
        paths = [str(path) for path in self.cfg.hydra.searchpath]
        folders = [*paths, *([self.folder] if self.folder else [])]
        foreign = [one for one in folders if not self.trust.covers(one.removeprefix("file://"))]
        self.sources += foreign
        if folders and not foreign:
            self._trust([str(name) for name in self.cfg.get(KEY) or ()])

    def _trust(self, names: Sequence[str]) -> None:
        self.trusted = list(dict.fromkeys([*self.trusted, *names]))

    # --- checks

    @property
    def is_sweep(self) -> bool:
        return self.args.multirun or self.cfg.hydra.mode is RunMode.MULTIRUN

    def check_trust(self) -> None:
        """Checks everything that could run code, or send logins somewhere, before Hydra starts."""
        if self.sources:
            known = self._known()
            for cfg in (self.cfg, *self._swept()):
                check_hydra(cfg, known, self.sources)
                check_destinations(cfg, self.typed, os.environ, self.sources)
        check_targets(self.cfg, self.trusted)
        check_logging(self.cfg, self.trusted)
        function = self.cfg.hydra.sweeper.get("custom_search_space")
        if function is not None:
            key = "hydra.sweeper.custom_search_space"
            check_function(str(function), self.trusted, key)

    def _known(self) -> list[DictConfig]:
        """Returns Hydra's settings as typed, without the data."""
        try:
            return without_data(self.typed)
        except HydraException as err:  # a choice that only the data has
            typed = [key for override in self.typed if (key := hydra_key(override)) is not None]
            raise refused(" or ".join(typed), self.sources) from err

    def _swept(self) -> Iterator[DictConfig]:
        """Yields the configuration of each combination of files that a sweep may choose."""
        if not self.is_sweep:
            return
        params = self.cfg.hydra.sweeper.get("params") or {}
        in_config = [override_of(str(key), value) for key, value in params.items()]
        swept = [str(one.input_line) for one in parsed(self.overrides) if one.is_sweep_override()]
        choices = choices_of(self.folder, [*in_config, *swept])
        if math.prod(map(len, choices)) > MAX_CHECKED:
            raise ConfigError(
                f"The sweep chooses among more than {MAX_CHECKED} combinations of config files of "
                f"{' or '.join(self.sources)}, too many to check: sweep over fewer config groups, "
                f"or name the folder in trusted_folders of {trust_file()}."
            )
        for chosen in itertools.product(*choices):
            yield compose(self.folder, self.name, [*self.overrides, *chosen])

    def check_rest(self) -> None:
        """Checks that no sweep is meant, and that the folder can be written."""
        if not self.is_sweep:
            _check_no_sweep(self.overrides)
            if self.args.cfg is None and self.args.info is None:
                _check_folder(self.cfg)

    # --- the command line for Hydra

    def argv(self, argv: Sequence[str]) -> list[str]:
        """Returns the command line with everything that Hydra must know."""
        own = self.args.overrides
        first = argv.index(own[0]) if own else len(argv)
        overrides = [*self.saved, *own, *self._granting()]
        found = [*argv[:first], *overrides, *argv[first + len(own) :]]
        if self.args.config_path is not None:  # Hydra would look for it beside nntrain's modules
            found += ["--config-path", CONFIG_PATH, "--config-dir", str(self.folder)]
        return found

    def _granting(self) -> list[str]:
        """Returns an override with all trusted packages, if the command line lacks some of them."""
        if set(self.trusted) <= set(granted(self.args.overrides)):
            return []
        return [f"++{KEY}=[{','.join(self.trusted)}]"]


def _check_no_sweep(overrides: Sequence[str]) -> None:
    for override in parsed(overrides):
        if override.is_sweep_override():
            key = override.key_or_group
            raise ConfigError(
                f"{redact_override(str(override.input_line))!r} varies {key}: "
                f"add -m to sweep, or set {key} to a single value."
            )


def _check_folder(cfg: DictConfig) -> None:
    """Checks that a run can be written to its folder, and that the run to resume from has ended."""
    try:
        folder = Path(cfg.hydra.run.dir).absolute()
        resume = None if cfg.get("resume") is None else Path(str(cfg.resume)).absolute()
    except InterpolationResolutionError:
        return
    # imported here because this module loads numpy, which --help does not need
    from nntrain.app.run_folder import check_resumable, check_run_folder

    check_run_folder(folder, resume)
    if resume is not None:
        tracked = any(isinstance(node, DictConfig) for node in cfg.tracker.values())
        check_resumable(resume, tracked=tracked)
