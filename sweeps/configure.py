"""From the keys of `hydra.sweeper` and the command line to a sweep, all of it checked before a trial begins."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.errors import HydraException
from hydra.types import HydraContext, TaskFunction
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from nntrain.callbacks.monitor import mode_of
from nntrain.config.hints import nearest
from nntrain.config.messages import sentence
from nntrain.sweeps.callbacks import StudyCallback
from nntrain.sweeps.errors import SweepError
from nntrain.sweeps.pruning import check_every
from nntrain.sweeps.spec.plan import Node, SweepPlan
from nntrain.sweeps.spec.space import (
    Space,
    contains,
    custom_function,
    first_params,
    make_space,
    one_by_one,
)
from nntrain.sweeps.sweep import Sweep
from nntrain.sweeps.workers.devices import n_cores, slots, threads

DUPLICATES = ("rerun", "reuse", "resample")

_GRID = "optuna.samplers.GridSampler"


def make_sweep(
    settings: Mapping[str, Any],
    arguments: Sequence[str],
    task_function: TaskFunction,
    hydra_context: HydraContext,
    config: DictConfig,
) -> Sweep:
    """Makes the sweep that was asked for.

    Raises:
        SweepError: for the first mistake.
    """
    loader = hydra_context.config_loader
    space = make_space(settings["params"] or {}, arguments, loader)
    first = _check_space(space, settings, config, loader)
    plan = make_plan(settings, space, config)
    for one in (config, first):
        with open_dict(one):
            one.hydra.sweep.dir = str(plan.folder)
    callbacks = _callbacks(settings["callbacks"] or {})
    for callback in callbacks:
        callback.check(plan, first)
    places = slots(settings["gpus"], settings["workers_per_gpu"], settings["n_jobs"])
    share = threads(len(places), n_cores(), os.environ)
    workers = [share | place for place in places]
    return Sweep(
        plan, task_function, hydra_context, config, workers, settings["trial_timeout_s"], callbacks
    )


def make_plan(settings: Mapping[str, Any], space: Space, config: DictConfig) -> SweepPlan:
    """The plan of a sweep over a space."""
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
    )
    return _with_grid(_with_monitor(plan, settings["pruning_metric"]))


# --- the study


def study_name(space: Space, objectives: Sequence[str], directions: Sequence[str]) -> str:
    """A name that the same sweep has each time: what is swept over, and six digits for all that makes it this sweep."""
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
    """`multirun/STUDY_NAME`, or what `hydra.sweep.dir` says, if that is the same each time."""
    given = OmegaConf.to_container(config.hydra.sweep, resolve=False)
    assert isinstance(given, dict)
    raw = str(given["dir"])
    if "${now:" in raw or "${hydra.sweeper.study_name}" in raw:
        raw = f"multirun/{re.sub(r'[^-.=+ A-Za-z0-9_]+', '_', name)}"
        return Path(raw).absolute()
    return Path(str(config.hydra.sweep.dir)).absolute()


def _node(node: Any, what: str) -> Node:
    plain = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    if not isinstance(plain, Mapping) or "_target_" not in plain:
        raise SweepError(
            f"hydra.sweeper.{what} has no _target_: choose one of the group, as hydra/sweeper/{what}=NAME."
        )
    return {str(key): value for key, value in plain.items()}


def _callbacks(nodes: Mapping[str, Any]) -> list[StudyCallback]:
    made = {
        f"hydra.sweeper.callbacks.{name}": node for name, node in nodes.items() if node is not None
    }
    return [_callback(key, node) for key, node in made.items()]


def _callback(key: str, node: Any) -> StudyCallback:
    try:
        found = instantiate(node)
    except HydraException as err:
        raise SweepError(f"{key}: {' '.join(str(err.__cause__ or err).split())}") from err
    if not isinstance(found, StudyCallback):
        raise SweepError(
            f"{key} makes {type(found).__name__}, which is no nntrain.sweeps.StudyCallback."
        )
    return found


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
            raise SweepError(
                f"hydra.sweeper.direction={one} is no direction: choose minimize or maximize."
            )
    if objectives and len(found) != len(objectives):
        raise SweepError(
            f"hydra.sweeper.direction has {len(found)} directions for {len(objectives)} objectives: give one for each."
        )
    return found


def _with_monitor(plan: SweepPlan, metric: str | None) -> SweepPlan:
    """Settles what the pruner sees."""
    prunes = plan.pruner["_target_"] != "optuna.pruners.NopPruner"
    if (
        metric is None and len(plan.objectives) > 1 and prunes
    ):  # a job that names none reports nothing to prune by
        raise SweepError(
            "With several objectives a pruner does not know what to compare: set hydra.sweeper.pruning_metric to a metric, "
            "or hydra/sweeper/pruner=none."
        )
    monitor = metric or (plan.objectives[0] if len(plan.objectives) == 1 else None)
    try:
        check_every(monitor, plan.every)
    except ValueError as err:
        raise SweepError(f"hydra.sweeper.prune_every: {err}") from err
    if metric is None or [metric] == list(plan.objectives):
        return replace(plan, monitor=monitor)
    return replace(plan, monitor=metric, monitor_direction=f"{mode_of(metric)}imize")


# --- checks


def _with_grid(plan: SweepPlan) -> SweepPlan:
    """A sampler that tries everything has no more trials than there are configurations."""
    if plan.sampler["_target_"] != _GRID or plan.space.size is None:
        return plan
    return replace(plan, n_trials=min(plan.n_trials, plan.space.size))


def _check_numbers(settings: Mapping[str, Any]) -> None:
    for key in ("n_trials", "replicates"):
        if settings[key] < 1:
            raise SweepError(f"hydra.sweeper.{key}={settings[key]} must be at least 1.")
    for key in ("max_failure_rate", "control_fraction"):
        if not 0 <= settings[key] <= 1:
            raise SweepError(
                f"hydra.sweeper.{key}={settings[key]} is no share: give a number from 0 to 1."
            )
    for key in ("timeout_s", "trial_timeout_s"):
        if settings[key] is not None and not settings[key] > 0:
            raise SweepError(
                f"hydra.sweeper.{key}={settings[key]} must be more than 0 seconds, or null."
            )
    if settings["duplicates"] not in DUPLICATES:
        raise SweepError(
            f"hydra.sweeper.duplicates={settings['duplicates']} is no choice: one of {', '.join(DUPLICATES)}."
        )


def _check_space(
    space: Space, settings: Mapping[str, Any], config: DictConfig, loader: ConfigLoader
) -> DictConfig:
    """Returns one of the configurations."""
    if not space.distributions and settings["custom_search_space"] is None:
        raise SweepError(
            "There is nothing to sweep over: add an override such as 'lr=tag(log, interval(1e-4, 1))', or hydra.sweeper.params."
        )
    custom_function(settings["custom_search_space"])
    first = _check_composes(space, first_params(space), config, loader)
    for params in one_by_one(space):
        _check_composes(space, params, config, loader)
    for one in settings["enqueue"] or ():
        _check_enqueued(space, one, has_more=settings["custom_search_space"] is not None)
    if settings["replicates"] > 1 and not isinstance(
        OmegaConf.select(config, settings["replicate_key"]), int
    ):
        raise SweepError(
            f"hydra.sweeper.replicates needs a seed: {settings['replicate_key']} is no whole number of the configuration, "
            "name the key of yours in hydra.sweeper.replicate_key."
        )
    return first


def _check_enqueued(space: Space, one: Mapping[str, Any], *, has_more: bool) -> None:
    """Checks the keys and values; what a user's own function is going to choose cannot be known before."""
    for key, value in one.items():
        if key not in space.distributions:
            if has_more:
                continue
            raise SweepError(
                f"hydra.sweeper.enqueue: {key} is not swept over: {nearest(key, list(space.distributions))}"
            )
        if not contains(space.distributions[key], value):
            raise SweepError(
                f"hydra.sweeper.enqueue: {key}={value} is none of what is swept over, {space.describe()[key]}."
            )


def _check_composes(
    space: Space, params: Mapping[str, Any], config: DictConfig, loader: ConfigLoader
) -> DictConfig:
    """Composes one configuration; a key that there is none of is told with the nearest one."""
    overrides = space.overrides(params)
    try:
        return loader.load_sweep_config(config, [*space.fixed, *overrides])
    except (HydraException, OmegaConfBaseException) as err:
        for name in space.distributions:
            key = name.lstrip("+")
            if (
                not name.startswith("+")
                and not _exists(config, key)
                and not loader.get_group_options(key)
            ):
                raise SweepError(
                    f"{key} is no key of the configuration: {nearest(key, _keys(config))}"
                ) from err
        reason = sentence(
            err.__cause__ if isinstance(err.__cause__, OmegaConfBaseException) else err
        )
        raise SweepError(f"{' '.join(overrides)} is no configuration: {reason}") from err


def _exists(config: DictConfig, key: str) -> bool:
    missing = object()
    try:
        return OmegaConf.select(config, key, default=missing, throw_on_missing=False) is not missing
    except OmegaConfBaseException:
        return False


def _keys(config: DictConfig, prefix: str = "") -> list[str]:
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
