"""Checks the configurations of a search space before any trial starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nntrain.config.hints import nearest
from nntrain.config.messages import sentence
from nntrain.config.redact import redact_override
from nntrain.sweeps.errors import SweepError
from nntrain.sweeps.spec.space import Space, contains, custom_function, first_params, one_by_one


def check_space(
    space: Space, settings: Mapping[str, Any], config: DictConfig, loader: ConfigLoader
) -> DictConfig:
    """Checks that Hydra can compose a configuration for each choice of a search space.

    Args:
        space: the search space.
        settings: the keys of `hydra.sweeper`.
        config: the configuration of the sweep.
        loader: Hydra's config loader.

    Returns:
        The configuration with the first choice or the lower bound of each parameter.

    Raises:
        SweepError: for the first mistake; for an unknown key, the message suggests the closest
            match.
    """
    if not space.distributions and settings["custom_search_space"] is None:
        raise SweepError(
            "The search space is empty: add an override such as 'lr=tag(log, interval(1e-4, 1))', "
            "or set hydra.sweeper.params."
        )
    custom_function(settings["custom_search_space"])
    first = _check_composes(space, first_params(space), config, loader)
    for params in one_by_one(space):
        _check_composes(space, params, config, loader)
    for one in settings["enqueue"] or ():
        _check_enqueued(space, one, is_open=settings["custom_search_space"] is not None)
    key = settings["replicate_key"]
    if settings["replicates"] > 1 and not isinstance(OmegaConf.select(config, key), int):
        raise SweepError(
            f"hydra.sweeper.replicates needs an integer seed, but {key} is not an integer in the "
            "configuration: set hydra.sweeper.replicate_key to the key of the seed."
        )
    return first


def _check_enqueued(space: Space, one: Mapping[str, Any], *, is_open: bool) -> None:
    """Checks the keys and values of one configuration in `hydra.sweeper.enqueue`.

    If `is_open`, unknown keys are allowed because a user's function may add parameters.
    """
    for key, value in space.stored(one).items():
        if key not in space.distributions:
            if is_open:
                continue
            raise SweepError(
                f"hydra.sweeper.enqueue: {key} is not in the search space: "
                f"{nearest(key, list(space.distributions))}"
            )
        if not contains(space.distributions[key], value):
            shown = redact_override(f"{key}={value}")
            raise SweepError(
                f"hydra.sweeper.enqueue: {shown} is outside the search space: "
                f"expected {space.describe()[key]}."
            )


def _check_composes(
    space: Space, params: Mapping[str, Any], config: DictConfig, loader: ConfigLoader
) -> DictConfig:
    overrides = space.overrides(params)
    try:
        found = loader.load_sweep_config(config, [*space.fixed, *overrides])
        check_same_hydra(found, config)
        return found
    except (HydraException, OmegaConfBaseException) as err:
        for key in _plain_keys(space):
            if not _exists(config, key) and not loader.get_group_options(key):
                raise SweepError(f"Unknown key {key}: {nearest(key, _keys(config))}") from err
        cause = err.__cause__ if isinstance(err.__cause__, OmegaConfBaseException) else err
        raise SweepError(f"Hydra rejected {' '.join(overrides)}: {sentence(cause)}") from err


_FIXED = ("job_logging", "job.env_set", "job.env_copy", "output_subdir")
"""Settings that Hydra applies to a job before the job can check its configuration."""


def check_same_hydra(config: DictConfig, of_sweep: DictConfig) -> None:
    """Checks that a trial's config files do not change what Hydra does before the trial.

    Raises:
        SweepError: for the first setting that differs from that of the sweep, which was checked.
    """
    for key in _FIXED:
        if _setting(config, key) != _setting(of_sweep, key):
            raise SweepError(
                f"A config file of this trial changes hydra.{key}: set it for the whole sweep, "
                "in the command."
            )


def _setting(config: DictConfig, key: str) -> Any:
    node = OmegaConf.select(config.hydra, key)
    return OmegaConf.to_container(node, resolve=False) if OmegaConf.is_config(node) else node


def _plain_keys(space: Space) -> list[str]:
    return [name for name in space.distributions if not name.startswith("+")]


def _exists(config: DictConfig, key: str) -> bool:
    missing = object()
    try:
        return OmegaConf.select(config, key, default=missing, throw_on_missing=False) is not missing
    except OmegaConfBaseException:
        return False


def _keys(config: DictConfig, prefix: str = "") -> list[str]:
    """Returns all keys of the configuration except those under `hydra`."""
    found = []
    for key in map(str, config):
        if prefix == "" and key == "hydra":
            continue
        path = f"{prefix}{key}"
        found.append(path)
        node = config._get_node(key)
        if (
            isinstance(node, DictConfig)
            and not node._is_none()
            and not node._is_missing()
            and not node._is_interpolation()
        ):
            found += _keys(node, f"{path}.")
    return found
