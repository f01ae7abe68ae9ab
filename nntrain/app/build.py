"""Checks a configuration and creates its objects, such as the Learner."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nntrain.config.errors import ConfigError
from nntrain.config.instantiate import check_nodes, instantiate
from nntrain.config.messages import sentence
from nntrain.core.callback import Callback
from nntrain.learner import Learner
from nntrain.metrics import Metric, as_metric


def resolve(cfg: DictConfig, trusted: Sequence[str] = ()) -> dict[str, Any]:
    """Checks a configuration and converts it to plain Python values.

    Args:
        cfg: the configuration. Its `trusted_targets` are data; the result has `trusted` instead.
        trusted: packages that the user trusts.

    Raises:
        ConfigError: if a value is missing, invalid or cannot be resolved, or if a target is not
            trusted or does not match its arguments.
    """
    try:
        plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as err:
        raise ConfigError(sentence(err)) from err
    assert isinstance(plain, dict)
    values = {str(key): value for key, value in plain.items()}
    _check_values(values)
    check_nodes(values, trusted=trusted)
    return {**values, "trusted_targets": list(trusted)}


_NEEDED = (
    "seed",
    "n_epoch",
    "lr",
    "device",
    "objective",
    "resume",
    "data",
    "model",
    "loss",
    "optimizer",
)


def _check_values(plain: Mapping[str, Any]) -> None:
    for key in _NEEDED:
        if key not in plain:
            raise ConfigError(
                f"{key} was removed from the configuration: drop the override '~{key}'."
            )
    if not 0 <= plain["seed"] < 2**32:
        raise ConfigError(f"seed={plain['seed']} must be an integer from 0 to {2**32 - 1}.")
    if "lr" in (plain["optimizer"] or {}):
        raise ConfigError(
            f"optimizer.lr={plain['optimizer']['lr']} would have no effect: set lr instead."
        )
    if not (math.isfinite(plain["lr"]) and plain["lr"] > 0):
        raise ConfigError(f"lr={plain['lr']} must be a finite number greater than 0.")
    if plain["n_epoch"] < 1:
        raise ConfigError(f"n_epoch={plain['n_epoch']} must be an integer of at least 1.")
    if (resume := plain.get("resume")) is not None:
        _check_resume(Path(resume), plain.get("callbacks") or {})


def _check_resume(path: Path, callbacks: Mapping[str, Any]) -> None:
    if "checkpoint" not in callbacks:
        raise ConfigError(
            "resume needs the checkpoint callback: use 'callbacks=default', "
            "or add checkpoint to your list of callbacks."
        )
    if not (path.is_file() or (path / "last.ckpt").is_file()):
        raise ConfigError(
            f"resume={path} must be a checkpoint, or a run folder that contains last.ckpt."
        )


def make_all(
    nodes: Mapping[str, Any] | None, key: str, trusted: Sequence[str] = ()
) -> dict[str, Any]:
    """Instantiates all nodes in a mapping, in order; skips null entries."""
    return {
        name: instantiate(node, f"{key}.{name}", trusted)
        for name, node in (nodes or {}).items()
        if node is not None
    }


def make_metrics(nodes: Mapping[str, Any] | None, trusted: Sequence[str] = ()) -> list[Metric]:
    """Creates the metrics; the name of each metric is its key in the mapping."""
    made = make_all(nodes, "metrics", trusted)
    metrics = {name: as_metric(metric) for name, metric in made.items()}
    for name, metric in metrics.items():
        metric.name = name
    return list(metrics.values())


def make_learner(cfg: Mapping[str, Any], cbs: Sequence[Callback] = ()) -> Learner:
    """Creates the Learner for a configuration.

    Args:
        cfg: the configuration, as returned by `resolve`; `trusted_targets` are those of the user.
        cbs: callbacks to use in addition to the configured callbacks.

    Raises:
        ConfigError: if an object cannot be created from its arguments.
    """
    trusted = cfg.get("trusted_targets") or ()
    make = functools.partial(instantiate, trusted=trusted)
    schedule = [make(cfg["schedule"], "schedule")] if cfg.get("schedule") else []
    callbacks = make_all(cfg.get("callbacks"), "callbacks", trusted)
    for name, callback in callbacks.items():
        if not isinstance(callback, Callback):
            raise ConfigError(
                f"callbacks.{name} must be an nntrain.Callback but is {type(callback).__name__}."
            )
    try:
        return Learner(
            make(cfg["model"], "model"),
            make(cfg["data"], "data"),
            make(cfg["loss"], "loss"),
            lr=cfg["lr"],
            opt_func=make(cfg["optimizer"], "optimizer"),
            metrics=make_metrics(cfg.get("metrics"), trusted),
            cbs=[*schedule, *callbacks.values(), *cbs],
            device=cfg["device"],
        )
    except ValueError as err:
        if isinstance(err, ConfigError):
            raise
        raise ConfigError(str(err)) from err
