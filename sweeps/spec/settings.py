"""Creates the plan of a sweep from the `hydra.sweeper` settings."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from nntrain.callbacks.monitor import mode_of
from nntrain.config.instantiate import Node
from nntrain.sweeps.context import check_every
from nntrain.sweeps.errors import SweepError
from nntrain.sweeps.spec.plan import SweepPlan
from nntrain.sweeps.spec.space import Space

DUPLICATES = ("rerun", "reuse", "resample")

_GRID = "optuna.samplers.GridSampler"
_NO_PRUNER = "optuna.pruners.NopPruner"


def make_plan(
    settings: Mapping[str, Any], space: Space, config: DictConfig, trusted: Sequence[str] = ()
) -> SweepPlan:
    """Creates the plan of a sweep.

    Args:
        settings: the keys of `hydra.sweeper`.
        space: the search space.
        config: the configuration of the sweep. Its `trusted_targets` are data and grant nothing.
        trusted: packages that the user trusts.

    Raises:
        SweepError: for the first invalid setting.
    """
    _check_numbers(settings)
    objectives = _names(settings["objective"])
    directions = _directions(settings["direction"], objectives)
    name = settings["study_name"] or study_name(space, objectives, directions)
    plan = SweepPlan(
        study_name=name,
        folder=study_folder(config, name),
        space=space,
        directions=directions,
        sampler=_node(settings["sampler"], "sampler"),
        pruner=_node(settings["pruner"], "pruner"),
        storage=settings["storage"],
        n_trials=settings["n_trials"],
        objectives=objectives,
        every=settings["prune_every"],
        custom_search_space=settings["custom_search_space"],
        timeout_s=settings["timeout_s"],
        max_failure_rate=settings["max_failure_rate"],
        duplicates=settings["duplicates"],
        replicates=settings["replicates"],
        replicate_key=settings["replicate_key"],
        control_fraction=settings["control_fraction"],
        enqueue=[dict(one) for one in settings["enqueue"] or ()],
        warm_start=settings["warm_start"],
        trusted=list(trusted),
    )
    return _with_grid(_with_monitor(plan, settings["pruning_metric"]))


def _node(node: Any, what: str) -> Node:
    plain = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    if not isinstance(plain, Mapping) or "_target_" not in plain:
        raise SweepError(
            f"hydra.sweeper.{what} has no _target_: choose a config with hydra/sweeper/{what}=NAME."
        )
    return {str(key): value for key, value in plain.items()}


def _with_grid(plan: SweepPlan) -> SweepPlan:
    """Limits `n_trials` of a grid search to the number of configurations in the grid."""
    if plan.sampler["_target_"] != _GRID or plan.space.size is None:
        return plan
    return replace(plan, n_trials=min(plan.n_trials, plan.space.size))


def _check_numbers(settings: Mapping[str, Any]) -> None:
    for key in ("n_trials", "replicates"):
        if settings[key] < 1:
            raise SweepError(f"hydra.sweeper.{key}={settings[key]} must be at least 1.")
    for key in ("max_failure_rate", "control_fraction"):
        if not 0 <= settings[key] <= 1:
            raise SweepError(f"hydra.sweeper.{key}={settings[key]} must be from 0 to 1.")
    for key in ("timeout_s", "trial_timeout_s"):
        if settings[key] is not None and not settings[key] > 0:
            raise SweepError(
                f"hydra.sweeper.{key}={settings[key]} must be more than 0 seconds, or null."
            )
    if settings["duplicates"] not in DUPLICATES:
        raise SweepError(
            f"hydra.sweeper.duplicates={settings['duplicates']} must be one of "
            f"{', '.join(DUPLICATES)}."
        )


# --- the study


def study_name(space: Space, objectives: Sequence[str], directions: Sequence[str]) -> str:
    """Returns the default name of a study: the swept keys and six digits of a hash.

    Two sweeps with the same search space, objectives, and directions have the same name.
    """
    swept = (
        "-".join(re.sub(r"[^\w.]+", "", name).rpartition(".")[2] for name in space.distributions)
        or "sweep"
    )
    made_from = [
        sorted(space.describe().items()),
        sorted(space.fixed),
        list(objectives),
        list(directions),
    ]
    return f"{swept[:60]}-{hashlib.sha256(str(made_from).encode()).hexdigest()[:6]}"


def study_folder(config: DictConfig, name: str) -> Path:
    """Returns the absolute path of the study's folder.

    The folder is `hydra.sweep.dir`. If that setting contains the current time or the study's name,
    the folder is `multirun/STUDY_NAME` instead, so that the same sweep finds its study again.
    """
    given = OmegaConf.to_container(config.hydra.sweep, resolve=False)
    assert isinstance(given, dict)
    raw = str(given["dir"])
    if "${now:" in raw or "${hydra.sweeper.study_name}" in raw:
        return Path("multirun", folder_name(name)).absolute()
    return Path(str(config.hydra.sweep.dir)).absolute()


_OTHERS = re.compile(r"[^-.=+ \w]+")
_MAX_BYTES = 120


def folder_name(name: str) -> str:
    """Returns a folder name for a study; different names have different folders.

    A name that cannot be a folder, such as `a/b`, is shortened or changed, and gets a hash.
    """
    safe = _OTHERS.sub("_", name).strip()
    cut = safe.encode()[:_MAX_BYTES].decode(errors="ignore")
    if cut == name and cut.strip("."):
        return cut
    return f"{cut.strip('.')}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


# --- the objective


def _names(objective: Any) -> list[str]:
    if objective is None:
        return []
    if isinstance(objective, str):
        return [objective]
    return [str(name) for name in objective]


def _directions(direction: Any, objectives: Sequence[str]) -> list[str]:
    if direction is None:
        return [f"{mode_of(name)}imize" for name in objectives] or ["minimize"]
    found = [str(one).lower() for one in _names(direction)]
    for one in found:
        if one not in ("minimize", "maximize"):
            raise SweepError(f"hydra.sweeper.direction={one} must be minimize or maximize.")
    if objectives and len(found) != len(objectives):
        raise SweepError(
            f"hydra.sweeper.direction has {len(found)} directions for {len(objectives)} objectives:"
            " set one direction for each objective."
        )
    return found


def _with_monitor(plan: SweepPlan, metric: str | None) -> SweepPlan:
    """Returns the plan with the metric that the pruner compares."""
    prunes = plan.pruner["_target_"] != _NO_PRUNER
    if metric is None and len(plan.objectives) > 1 and prunes:
        raise SweepError(
            "With several objectives the pruner needs a metric to compare: set "
            "hydra.sweeper.pruning_metric, or choose hydra/sweeper/pruner=none."
        )
    monitor = metric or (plan.objectives[0] if len(plan.objectives) == 1 else None)
    try:
        check_every(monitor, plan.every)
    except ValueError as err:
        raise SweepError(f"hydra.sweeper.prune_every: {err}") from err
    if metric is None or [metric] == list(plan.objectives):
        return replace(plan, monitor=monitor)
    return replace(plan, monitor=metric, monitor_direction=f"{mode_of(metric)}imize")
