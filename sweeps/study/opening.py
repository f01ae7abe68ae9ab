"""Opens the study of a sweep, and checks that it matches the plan."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError
from optuna.storages import BaseStorage, get_storage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from nntrain.core.names import RUN_UID
from nntrain.sweeps.errors import SweepError
from nntrain.sweeps.spec.plan import SweepPlan
from nntrain.sweeps.spec.space import Space, contains
from nntrain.sweeps.study.samplers import make_pruner, make_sampler
from nntrain.sweeps.study.storage import STUDY_FILE, open_storage
from nntrain.sweeps.study.trials import OUTCOME, WARM_START, SweepStudy, requeue

optuna.logging.set_verbosity(optuna.logging.WARNING)  # the table shows what happens

MADE_FROM = "nntrain.made_from"
"""The study attribute that holds what the study was made from: space, objective and overrides."""

REPORTS_SUFFIX = " (pruning)"
"""The suffix of the name of a reports study; see `open_reports_study`."""


def open_study(plan: SweepPlan, offset: int = 0) -> tuple[SweepStudy, BaseStorage]:
    """Opens the study of a plan, or creates it; returns it with its storage.

    Args:
        plan: the plan of the sweep.
        offset: added to the sampler's seed, so that workers draw different numbers.

    Raises:
        ConfigError: if the study has another search space or objective, or its sampler or pruner
            cannot be made.
    """
    # like `Study`, `get_storage` puts a cache in front of a database
    storage = get_storage(open_storage(plan.storage, plan.folder, requeue))
    _create(storage, plan.study_name, plan.directions)
    sampler, pruner = make_sampler(plan, offset), make_pruner(plan)
    study = SweepStudy(study_name=plan.study_name, storage=storage, sampler=sampler, pruner=pruner)
    study.folder = plan.folder
    _check_directions(study, plan)
    _check_made_from(study, plan)
    return study, storage


def open_reports_study(plan: SweepPlan, storage: BaseStorage) -> SweepStudy:
    """Opens the study that holds the reports of the pruning metric, if that is not the objective.

    Optuna's pruners compare in the direction of a study, and do not support several objectives.
    """
    assert plan.monitor_direction is not None
    name = plan.study_name + REPORTS_SUFFIX
    _create(storage, name, [plan.monitor_direction])
    return SweepStudy(name, storage, optuna.samplers.RandomSampler(), make_pruner(plan))


def _create(storage: BaseStorage, name: str, directions: Sequence[str]) -> None:
    try:
        storage.create_new_study(
            [StudyDirection[direction.upper()] for direction in directions], name
        )
    except DuplicatedStudyError:
        return


# --- the same study as before


def _check_directions(study: SweepStudy, plan: SweepPlan) -> None:
    found = [direction.name.lower() for direction in study.directions]
    if found != list(plan.directions):
        raise _changed(plan, f"direction was {_listed(found)} and is {_listed(plan.directions)}")


def _check_made_from(study: SweepStudy, plan: SweepPlan) -> None:
    """Compares the plan with what the study was made from; records it for a new study."""
    now: dict[str, Any] = {
        "space": plan.space.describe(),
        "custom_search_space": plan.custom_search_space,
        "objective": list(plan.objectives),
        "fixed": sorted(plan.space.fixed),
    }
    if MADE_FROM not in study.user_attrs:
        study.set_user_attr(RUN_UID, secrets.token_hex(8))
        study.set_user_attr(MADE_FROM, json.dumps(now))
        return
    before = json.loads(study.user_attrs[MADE_FROM])
    for what in now:
        if before[what] != now[what]:
            raise _changed(plan, _difference(what, before[what], now[what]))


def _difference(what: str, before: Any, now: Any) -> str:
    if isinstance(before, Mapping):
        name = min(name for name in {*before, *now} if before.get(name) != now.get(name))
        was, is_now = (space.get(name, "not swept over") for space in (before, now))
        return f"{name} was {was} and is {is_now}"
    if what == "fixed":
        removed, added = sorted(set(before) - set(now)), sorted(set(now) - set(before))
        return f"the overrides were {_listed(removed or before)} and are {_listed(added or now)}"
    return f"{what} was {_listed(before)} and is {_listed(now)}"


def _listed(value: Any) -> str:
    if isinstance(value, str) or value is None:
        return str(value)
    return ", ".join(map(str, value)) or "none"


def _changed(plan: SweepPlan, difference: str) -> SweepError:
    return SweepError(
        f"The study {plan.study_name} in {plan.folder} was started with other settings: "
        f"{difference}. Restore them, or choose another hydra.sweeper.study_name."
    )


# --- the first trials


def begin(study: SweepStudy, plan: SweepPlan) -> None:
    """Adds the trials of `warm_start` and `enqueue` to a new study.

    Raises:
        SweepError: if the folder contains trials that the study does not know, or `warm_start`
            is not the folder of a study with the same directions.
    """
    if study.get_trials(deepcopy=False):
        return
    if _has_trials(plan.folder):
        raise SweepError(
            f"{plan.folder} contains trials that the study {plan.study_name} does not know: choose "
            "another hydra.sweeper.study_name, or the hydra.sweeper.storage of these trials."
        )
    if plan.warm_start is not None:
        for trial in _trials_of(plan, Path(plan.warm_start)):
            study.add_trial(trial)
    for params in plan.enqueue:
        study.enqueue_trial(dict(params))


def _has_trials(folder: Path) -> bool:
    return any(path.name.isdigit() for path in folder.glob("*"))


def _trials_of(plan: SweepPlan, folder: Path) -> list[FrozenTrial]:
    """Returns the completed trials of another study that are inside this search space."""
    storage = open_storage(None, folder) if (folder / STUDY_FILE).is_file() else None
    studies = [] if storage is None else storage.get_all_studies()
    names = [one.study_name for one in studies if not one.study_name.endswith(REPORTS_SUFFIX)]
    if storage is None or not names:
        raise SweepError(
            f"hydra.sweeper.warm_start={folder} is not the folder of a study: it has no "
            f"{STUDY_FILE} with a study in it."
        )
    other = optuna.load_study(study_name=names[0], storage=storage)
    directions = [direction.name.lower() for direction in other.directions]
    if directions != list(plan.directions):
        raise SweepError(
            f"hydra.sweeper.warm_start={folder} has direction {_listed(directions)}, this study "
            f"has {_listed(plan.directions)}: choose a study with the same direction."
        )
    done = other.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return [_copied(trial, plan) for trial in done if _fits(trial, plan.space)]


def _fits(trial: FrozenTrial, space: Space) -> bool:
    return trial.params.keys() == space.distributions.keys() and all(
        contains(one, trial.params[name]) for name, one in space.distributions.items()
    )


def _copied(trial: FrozenTrial, plan: SweepPlan) -> FrozenTrial:
    attrs = {WARM_START: trial.number, OUTCOME: trial.user_attrs.get(OUTCOME, "completed")}
    return create_trial(
        params=trial.params,
        distributions=dict(plan.space.distributions),
        values=list(trial.values),
        intermediate_values=trial.intermediate_values,
        user_attrs=attrs,
    )
