"""Opening a study: its sampler and pruner, and the check that it is the one that was begun."""

from __future__ import annotations

import importlib
import importlib.util
import json
import secrets
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler, BruteForceSampler, CmaEsSampler, GridSampler, QMCSampler
from optuna.storages import BaseStorage, get_storage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from nntrain.sweeps.errors import SweepError
from nntrain.sweeps.spec.plan import Node, SweepPlan
from nntrain.sweeps.spec.space import Space, contains, grid_values
from nntrain.sweeps.study.storage import STUDY_FILE, open_storage
from nntrain.sweeps.study.trials import OUTCOME, WARM_START, SweepStudy, requeue

optuna.logging.set_verbosity(optuna.logging.WARNING)  # what happens is told by the table

MADE_FROM = "nntrain.made_from"
"""The attribute of a study that says what it was begun with: space, objective and what is fixed."""

RUN = "nntrain.run"
"""The attribute of a study by which machines know it, in a tracker too: 16 hexadecimal digits."""

SHADOW = " (pruning)"
"""Behind the name of a study: the study of the metric that its pruner sees, where that is not the objective itself."""


def open_study(plan: SweepPlan, offset: int = 0) -> tuple[SweepStudy, BaseStorage]:
    """Opens the study of a plan, and makes it if there is none.

    Args:
        plan: the plan.
        offset: added to the seed of the sampler, so that workers do not draw the same numbers.

    Raises:
        SweepError: if it was begun with another space or objective, or the sampler or pruner cannot be made.
    """
    storage = get_storage(
        open_storage(plan.storage, plan.folder, requeue)
    )  # as `Study` does: with a cache before a database
    _create(storage, plan.study_name, plan.directions)
    made, pruner = sampler(plan, offset), _pruner(plan.pruner)
    study = SweepStudy(study_name=plan.study_name, storage=storage, sampler=made, pruner=pruner)
    study.folder = plan.folder
    _check_directions(study, plan)
    _check_made_from(study, plan)
    return study, storage


def shadow_study(plan: SweepPlan, storage: BaseStorage) -> SweepStudy:
    """The study of the metric that the pruner sees, where that is not the objective itself."""
    assert plan.monitor_direction is not None
    name = plan.study_name + SHADOW
    _create(storage, name, [plan.monitor_direction])
    return SweepStudy(name, storage, optuna.samplers.RandomSampler(), _pruner(plan.pruner))


def _create(storage: BaseStorage, name: str, directions: Sequence[str]) -> None:
    try:
        storage.create_new_study(
            [StudyDirection[direction.upper()] for direction in directions], name
        )
    except DuplicatedStudyError:
        return


def sampler(plan: SweepPlan, offset: int = 0) -> BaseSampler:
    """Makes the sampler."""
    node = dict(plan.sampler)
    cls = _class(node.pop("_target_"), BaseSampler)
    if issubclass(cls, GridSampler):
        node["search_space"] = _grid(plan.space)
    elif issubclass(cls, BruteForceSampler):
        _grid(plan.space)
    elif issubclass(cls, CmaEsSampler) and len(plan.directions) > 1:
        raise SweepError(
            "CMA-ES takes one objective only: choose another hydra/sweeper/sampler, such as nsgaii or tpe."
        )
    elif node.get("seed") is not None and not issubclass(cls, QMCSampler):
        node["seed"] = _seed(node["seed"]) + offset
    if issubclass(cls, CmaEsSampler) and importlib.util.find_spec("cmaes") is None:
        raise SweepError("hydra/sweeper/sampler=cmaes needs the module cmaes: pip install it.")
    made: BaseSampler = _made(cls, node, "sampler")
    return made


def _seed(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise SweepError(
            f"hydra.sweeper.sampler.seed={value} is no seed: give a whole number, or null."
        )
    return value


def _pruner(node: Node) -> BasePruner:
    arguments = dict(node)
    cls = _class(arguments.pop("_target_"), BasePruner)
    if isinstance(inner := arguments.get("wrapped_pruner"), Mapping):
        arguments["wrapped_pruner"] = _pruner(inner)
    made: BasePruner = _made(cls, arguments, "pruner")
    return made


def _class(target: str, base: type) -> Any:
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except (ImportError, ValueError):
        found = None
    if not (isinstance(found, type) and issubclass(found, base)):
        raise SweepError(
            f"{target} is no {base.__name__} of Optuna's: choose one of its config group."
        )
    return found


def _made(cls: Any, arguments: Mapping[str, Any], what: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", ExperimentalWarning
            )  # many of Optuna's are called so for years
            return cls(**arguments)
    except (TypeError, ValueError) as err:
        raise SweepError(f"hydra.sweeper.{what}: {err}") from err
    except ImportError as err:
        raise SweepError(
            f"hydra.sweeper.{what}={cls.__name__} needs the module {err.name}: pip install it."
        ) from err


def _grid(space: Space) -> dict[str, list[Any]]:
    values = {name: grid_values(one) for name, one in space.distributions.items()}
    for name, found in values.items():
        if found is None:
            raise SweepError(
                f"{name} has no end of values, which a grid must try all: write choice(...) or range(...)."
            )
    return {name: found for name, found in values.items() if found is not None}


def _check_directions(study: SweepStudy, plan: SweepPlan) -> None:
    found = [direction.name.lower() for direction in study.directions]
    if found != list(plan.directions):
        raise _changed(plan, f"direction was {_listed(found)} and is {_listed(plan.directions)}")


def _check_made_from(study: SweepStudy, plan: SweepPlan) -> None:
    """Compares what the study was begun with; writes it down for a new one."""
    now: dict[str, Any] = {
        "space": plan.space.describe(),
        "custom_search_space": plan.custom_search_space,
        "objective": list(plan.objectives),
        "fixed": sorted(plan.space.fixed),
    }
    if MADE_FROM not in study.user_attrs:
        study.set_user_attr(RUN, secrets.token_hex(8))
        study.set_user_attr(MADE_FROM, json.dumps(now))
        return
    before = json.loads(study.user_attrs[MADE_FROM])
    for what in now:
        if before[what] != now[what]:
            raise _changed(plan, _difference(what, before[what], now[what]))


def _difference(what: str, before: Any, now: Any) -> str:
    if isinstance(before, Mapping):
        names = {name for name in {*before, *now} if before.get(name) != now.get(name)}
        name = min(names)
        return f"{name} was {before.get(name, 'not swept over')} and is {now.get(name, 'not swept over')}"
    if what == "fixed":
        gone, come = sorted(set(before) - set(now)), sorted(set(now) - set(before))
        return f"the overrides were {_listed(gone or before)} and are {_listed(come or now)}"
    return f"{what} was {_listed(before)} and is {_listed(now)}"


def _listed(value: Any) -> str:
    if isinstance(value, str) or value is None:
        return str(value)
    return ", ".join(map(str, value)) or "none"


def _changed(plan: SweepPlan, difference: str) -> SweepError:
    return SweepError(
        f"The study {plan.study_name} in {plan.folder} was begun otherwise: {difference}. "
        "Go on with it as it was, or give another hydra.sweeper.study_name."
    )


def study_folder_is_free(folder: Path) -> bool:
    """Whether no trial of another study lies in a folder."""
    return not any(path.name.isdigit() for path in folder.glob("*")) if folder.is_dir() else True


def begin(study: SweepStudy, plan: SweepPlan) -> None:
    """Puts into a new study what it is to begin with: what another one has found, and configurations to try first.

    Raises:
        SweepError: if the folder holds trials of a study that the storage does not know.
    """
    if study.get_trials(deepcopy=False):
        return
    if not study_folder_is_free(plan.folder):
        raise SweepError(
            f"{plan.folder} holds trials that the study {plan.study_name} does not know: give another "
            "hydra.sweeper.study_name, or the hydra.sweeper.storage that it was begun with."
        )
    if plan.warm_start is not None:
        for trial in _known_elsewhere(plan, Path(plan.warm_start)):
            study.add_trial(trial)
    for params in plan.enqueue:
        study.enqueue_trial(dict(params))


def _known_elsewhere(plan: SweepPlan, folder: Path) -> list[FrozenTrial]:
    """The completed trials of another study whose parameters lie in the space of this one."""
    storage = open_storage(None, folder) if (folder / STUDY_FILE).is_file() else None
    studies = [] if storage is None else storage.get_all_studies()
    names = [one.study_name for one in studies if not one.study_name.endswith(SHADOW)]
    if storage is None or not names:
        raise SweepError(
            f"hydra.sweeper.warm_start={folder} is no folder of a study: it has no {STUDY_FILE} with one."
        )
    other = optuna.load_study(study_name=names[0], storage=storage)
    if [direction.name.lower() for direction in other.directions] != list(plan.directions):
        raise SweepError(
            f"hydra.sweeper.warm_start={folder} was optimised in another direction: its values say nothing here."
        )
    done = other.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return [_taken_over(trial, plan) for trial in done if _fits(trial, plan.space)]


def _fits(trial: FrozenTrial, space: Space) -> bool:
    return trial.params.keys() == space.distributions.keys() and all(
        contains(one, trial.params[name]) for name, one in space.distributions.items()
    )


def _taken_over(trial: FrozenTrial, plan: SweepPlan) -> FrozenTrial:
    attrs = {WARM_START: trial.number, OUTCOME: trial.user_attrs.get(OUTCOME, "completed")}
    return create_trial(
        params=trial.params,
        distributions=dict(plan.space.distributions),
        values=list(trial.values),
        intermediate_values=trial.intermediate_values,
        user_attrs=attrs,
    )
