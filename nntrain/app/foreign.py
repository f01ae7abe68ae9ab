"""Limits what the config files and runs of somebody else may set.

A folder in `--config-dir`, and the overrides of a run that is resumed, are data. They may set the
keys of nntrain, whose `_target_` values pass the gate, but only a few keys of Hydra, which sets
environment variables, imports folders and configures logging before any check of nntrain.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nntrain.config.errors import ConfigError
from nntrain.config.redact import redact
from nntrain.config.targets import in_packages
from nntrain.config.trust import trust_file

_SWEEPER = (
    "params objective direction sampler pruner pruning_metric prune_every control_fraction "
    "study_name n_trials n_jobs timeout_s trial_timeout_s max_failure_rate gpus workers_per_gpu "
    "duplicates replicates replicate_key enqueue"
)

ALLOWED: tuple[str, ...] = (
    "hydra.help",
    "hydra.job.chdir",
    "hydra.job.config.override_dirname",
    "hydra.job.name",
    "hydra.mode",
    "hydra.run.dir",
    "hydra.sweep.dir",
    "hydra.sweep.subdir",
    "hydra.verbose",
    *(f"hydra.sweeper.{name}" for name in _SWEEPER.split()),
)
"""Keys of Hydra that data may set."""

_BY_HYDRA = (
    "hydra.job.config_name",
    "hydra.job.override_dirname",
    "hydra.overrides",
    "hydra.runtime",
)
"""Keys that Hydra itself sets while it composes."""

_LOCAL = ("", "localhost", "127.0.0.1", "::1")


def is_allowed(key: str) -> bool:
    """Returns whether data may set a key of Hydra."""
    return in_packages(key, (*ALLOWED, *_BY_HYDRA))


def hydra_key(override: Override) -> str | None:
    """Returns the key of Hydra that an override sets, with dots; `None` if it sets another key."""
    for name in (override.package, override.key_or_group):
        key = (name or "").lstrip("@").replace("/", ".")
        if in_packages(key, ["hydra"]):
            return key
    return None


def check_hydra(cfg: DictConfig, known: Sequence[DictConfig], sources: Sequence[str]) -> None:
    """Checks that the sources set none of Hydra's keys except the allowed ones.

    Args:
        cfg: the configuration with the sources.
        known: configurations without the sources, whose values are fine.
        sources: where the data comes from, for the error message.

    Raises:
        ConfigError: for the first key that is not allowed.
    """
    fine = [dict(_leaves(_raw(one))) for one in known]
    for key, value in _leaves(_raw(cfg)):
        if not is_allowed(key) and all(one.get(key, _leaves) != value for one in fine):
            raise refused(key, sources)


def refused(key: str, sources: Sequence[str]) -> ConfigError:
    """Returns the error for a key that data may not set."""
    return ConfigError(
        f"{key} is set by {' or '.join(sources)}, which is data and may not set it: type this key "
        f"in the command, or name the folder in trusted_folders of {trust_file()}."
    )


def _raw(cfg: DictConfig) -> Any:
    return OmegaConf.to_container(cfg.hydra, resolve=False, enum_to_str=True)


def _leaves(node: Any, key: str = "hydra") -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping) and node:
        for name, value in node.items():
            yield from _leaves(value, f"{key}.{name}")
    elif node not in ({}, [], None):
        yield key, node


# --- where results are sent


def check_destinations(
    cfg: DictConfig,
    typed: Sequence[Override],
    environ: Mapping[str, str],
    sources: Sequence[str],
) -> None:
    """Checks that the sources name no tracking server, because logins are sent to it.

    A server on this machine, and one that is typed or in the environment, is fine.

    Raises:
        ConfigError: for the first other server.
    """
    names = [key for override in typed if "." in (key := override.key_or_group)]
    hosts = {*_LOCAL, *(_host(value) for value in environ.values())}
    for key, value in _values(cfg.get("tracker"), "tracker"):
        if _host(value) not in hosts and not any(in_packages(key, [name]) for name in names):
            raise ConfigError(
                f"{key}={redact(value)} is set by {' or '.join(sources)}, which is data and may "
                f"not choose a server that gets your login: type this key in the command, or name "
                f"the folder in trusted_folders of {trust_file()}."
            )


def _host(value: str) -> str:
    """Returns the host of a URL; of a text that libraries may read differently, the whole text."""
    try:
        host = urlsplit(value).hostname or ""
    except ValueError:
        return value
    return value if host and re.search(r"[\\\s]", value) else host


def _values(node: Any, key: str) -> Iterator[tuple[str, str]]:
    """Yields the texts of a node, with interpolations resolved if possible."""
    if OmegaConf.is_config(node):
        for name in range(len(node)) if OmegaConf.is_list(node) else node:
            try:
                yield from _values(node[name], f"{key}.{name!s}")
            except OmegaConfBaseException:
                continue  # the folder of the run, which is unknown before the run
    elif isinstance(node, str):
        yield key, node
