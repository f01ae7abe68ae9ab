"""Opens the study of a sweep, and checks that the study matches the plan."""

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

from nntrain.config.redact import redact_override
from nntrain.core.names import RUN_UID
from nntrain.sweeps.errors import SweepError
from nntrain.sweeps.spec.plan import SweepPlan
from nntrain.sweeps.spec.space import Space, contains
from nntrain.sweeps.study.cmaes import Cmaes
from nntrain.sweeps.study.samplers import make_pruner, make_sampler
from nntrain.sweeps.study.storage import STUDY_FILE, open_storage
from nntrain.sweeps.study.trials import OUTCOME, WARM_START, SweepStudy

optuna.logging.set_verbosity(optuna.logging.WARNING)  # the live table reports each trial instead

MADE_FROM = "nntrain.made_from"
"""The study attribute that stores the search space, the objective, and the fixed overrides."""

REPORTS_SUFFIX = " (pruning)"
"""The suffix that is added to the name of a reports study; see `open_reports_study`."""


def open_study(plan: SweepPlan, offset: int = 0) -> tuple[SweepStudy, BaseStorage]:
    """Opens or creates the study of a plan; returns the study and its storage.

    Args:
        plan: the plan of the sweep.
        offset: added to the sampler's seed, so that each worker samples different values.

    Raises:
        ConfigError: if an existing study has a different search space or objective, or if the
            sampler or the pruner cannot be created, or if the study contains a state of the
            sampler that is not trusted.
    """
    # like `Study`, add a cache to a database
    storage = get_storage(open_storage(plan.storage, plan.folder))
    _create(storage, plan.study_name, plan.directions)
    sampler, pruner = make_sampler(plan, offset), make_pruner(plan)
    study = SweepStudy(study_name=plan.study_name, storage=storage, sampler=sampler, pruner=pruner)
    study.folder = plan.folder
    _check_directions(study, plan)
    _check_made_from(study, plan)
    if isinstance(sampler, Cmaes):
        sampler.check(study)
    return study, storage


def is_deleted(plan: SweepPlan) -> bool:
    """Returns whether the storage of a plan no longer contains its study."""
    storage = open_storage(plan.storage, plan.folder)
    return plan.study_name not in optuna.get_all_study_names(storage)


def open_reports_study(plan: SweepPlan, storage: BaseStorage) -> SweepStudy:
    """Opens or creates the reports study, which stores the values of the pruning metric.

    A separate study is needed if the pruning metric is not the only objective: Optuna's pruners
    use the direction of their study, and do not support several objectives.
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


# --- checking an existing study


def _check_directions(study: SweepStudy, plan: SweepPlan) -> None:
    found = [direction.name.lower() for direction in study.directions]
    if found != list(plan.directions):
        difference = f"direction was {_listed(found)} and is now {_listed(plan.directions)}"
        raise _changed(plan, difference)


def _check_made_from(study: SweepStudy, plan: SweepPlan) -> None:
    """Compares the plan with the settings in the study; a new study stores the plan's settings."""
    now: dict[str, Any] = {
        "space": plan.space.describe(),
        "custom_search_space": plan.custom_search_space,
        "objective": list(plan.objectives),
        "fixed": sorted(map(redact_override, plan.space.fixed)),
    }
    if MADE_FROM not in study.user_attrs:
        study.set_user_attr(RUN_UID, secrets.token_hex(8))
        study.set_user_attr(MADE_FROM, json.dumps(now))
        return
    before = json.loads(study.user_attrs[MADE_FROM])
    before["fixed"] = sorted(map(redact_override, before["fixed"]))
    for what in now:
        if before[what] != now[what]:
            raise _changed(plan, _difference(what, before[what], now[what]))


def _difference(what: str, before: Any, now: Any) -> str:
    if isinstance(before, Mapping):
        name = min(name for name in {*before, *now} if before.get(name) != now.get(name))
        was, is_now = (space.get(name, "not swept over") for space in (before, now))
        return f"{name} was {was} and is now {is_now}"
    if what == "fixed":
        removed, added = sorted(set(before) - set(now)), sorted(set(now) - set(before))
        was, is_now = _listed(removed or before), _listed(added or now)
        return f"the overrides were {was} and are now {is_now}"
    return f"{what} was {_listed(before)} and is now {_listed(now)}"


def _listed(value: Any) -> str:
    if isinstance(value, str) or value is None:
        return str(value)
    return ", ".join(map(str, value)) or "none"


def _changed(plan: SweepPlan, difference: str) -> SweepError:
    return SweepError(
        f"The study {plan.study_name} in {plan.folder} was created with different settings: "
        f"{difference}. Restore these settings, or choose another hydra.sweeper.study_name."
    )


# --- the first trials


def begin(study: SweepStudy, plan: SweepPlan) -> None:
    """Adds the trials of `warm_start` and `enqueue` to a new study.

    Raises:
        SweepError: if the folder contains trials of another study, or if `warm_start` is not the
            folder of a study with the same directions.
    """
    if study.get_trials(deepcopy=False):
        return
    if _has_trials(plan.folder):
        raise SweepError(
            f"{plan.folder} contains trials that are not in the study {plan.study_name}: choose "
            "another hydra.sweeper.study_name, or set hydra.sweeper.storage to the storage of "
            "these trials."
        )
    if plan.warm_start is not None:
        for trial in _trials_of(plan, Path(plan.warm_start)):
            study.add_trial(trial)
    for params in plan.enqueue:
        study.enqueue_trial(plan.space.stored(params))


def _has_trials(folder: Path) -> bool:
    return any(path.name.isdigit() for path in folder.glob("*"))


def _trials_of(plan: SweepPlan, folder: Path) -> list[FrozenTrial]:
    """Returns copies of another study's completed trials that fit this search space."""
    storage = open_storage(None, folder) if (folder / STUDY_FILE).is_file() else None
    studies = [] if storage is None else storage.get_all_studies()
    names = [one.study_name for one in studies if not one.study_name.endswith(REPORTS_SUFFIX)]
    if storage is None or not names:
        raise SweepError(
            f"hydra.sweeper.warm_start={folder} is not the folder of a study: expected a folder "
            f"with a file {STUDY_FILE} that contains a study."
        )
    other = optuna.load_study(study_name=names[0], storage=storage)
    directions = [direction.name.lower() for direction in other.directions]
    if directions != list(plan.directions):
        raise SweepError(
            f"hydra.sweeper.warm_start={folder} has direction {_listed(directions)}, but this "
            f"sweep has {_listed(plan.directions)}: choose a study with the same direction."
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
