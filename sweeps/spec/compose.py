"""Composes trial configurations as Hydra does; ten times faster if overrides only set values."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Sequence
from functools import partial

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

_MAX_BASES = 32


class Composer:
    """Composes configurations from overrides.

    Hydra spends most of its time on selecting and merging the files of config groups. The merged
    configuration depends only on the overrides that select files or that add or remove keys. The
    composer caches the merged configuration and applies the other overrides to a copy of it. The
    result is the same, because Hydra also applies these overrides last.

    Args:
        loader: Hydra's config loader.
        config: the configuration of the sweep.
        fixed: overrides that are the same in all trials.
    """

    def __init__(self, loader: ConfigLoader, config: DictConfig, fixed: Sequence[str]) -> None:
        self._loader, self._config, self._fixed = loader, config, list(fixed)
        self._parser = OverridesParser.create(config_loader=loader)
        self._bases: dict[tuple[str, ...], Callable[[], DictConfig]] = {}
        self._groups: dict[str, bool] = {}

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """Returns the configuration for a trial's own overrides and the fixed overrides."""
        parsed = self._parser.parse_overrides(list(overrides))
        values = [one for one in parsed if self._is_value(one)]
        others = tuple(str(one.input_line) for one in parsed if not self._is_value(one))
        if self._uses_dirname():
            return self._load(overrides)
        try:
            config = self._base(others)
            for one in values:
                OmegaConf.update(config, one.key_or_group, one.value(), merge=True)
        except OmegaConfBaseException:
            return self._load(overrides)  # let Hydra raise its own error
        OmegaConf.copy_cache(from_config=self._config, to_config=config)
        with open_dict(config.hydra):
            config.hydra.overrides.task = [*self._fixed, *overrides]
        return config

    def _load(self, overrides: Sequence[str]) -> DictConfig:
        return self._loader.load_sweep_config(self._config, [*self._fixed, *overrides])

    def _base(self, others: tuple[str, ...]) -> DictConfig:
        if others not in self._bases:
            if len(self._bases) >= _MAX_BASES:
                self._bases.clear()
            self._bases[others] = _copies(self._load(others))
        return self._bases[others]()

    def _is_value(self, one: Override) -> bool:
        """Returns whether an override only changes the value of an existing key."""
        if one.type is not OverrideType.CHANGE or one.package is not None:
            return False
        key = one.key_or_group
        if key not in self._groups:
            self._groups[key] = "." not in key and bool(self._loader.get_group_options(key))
        return not self._groups[key]

    def _uses_dirname(self) -> bool:
        """Returns whether a folder name contains `override_dirname`, which only Hydra can set."""
        return "override_dirname" in str(self._config.hydra.sweep) + str(self._config.hydra.run)


def _copies(config: DictConfig) -> Callable[[], DictConfig]:
    """Returns a function that copies a configuration.

    The function unpickles the configuration, which is five times faster than `deepcopy`. If the
    configuration cannot be pickled, the function uses `deepcopy`.
    """
    try:
        data = pickle.dumps(config)
    except (pickle.PicklingError, AttributeError):  # e.g. because of a schema in the user's script
        return partial(copy.deepcopy, config)
    return partial(pickle.loads, data)  # safe: this function created the pickle
