"""Grid search and exhaustive search, for studies whose trials are interrupted or enqueued."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from optuna import Study
from optuna.samplers import BruteForceSampler, GridSampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

RETRY_OF = "nntrain.retry_of"
"""The trial attribute with the number of the earlier trial that this trial repeats."""

_GRID_ID, _SPACE, _FIXED = "grid_id", "search_space", "fixed_params"


class Grid(GridSampler):
    """Optuna's `GridSampler`, which also assigns points of the grid to enqueued trials.

    Optuna does not assign a point to a trial that was enqueued or queued again: its `after_trial`
    then raises a `KeyError` at the last point, and the point of an enqueued trial is tried twice.
    """

    def assign(self, study: Study, storage: BaseStorage, trial: FrozenTrial) -> None:
        """Assigns a point of the grid to a trial that this process has claimed.

        Call this within the lock of `claim`, so that two workers do not choose the same point.
        """
        if _GRID_ID in trial.system_attrs:
            return
        before = trial.user_attrs.get(RETRY_OF)
        attrs = {} if before is None else study.get_trials(deepcopy=False)[before].system_attrs
        point = attrs.get(_GRID_ID)
        if point is None:
            point = self._point(study, trial.number, trial.system_attrs.get(_FIXED, {}))
        trial_id = storage.get_trial_id_from_study_id_trial_number(
            storage.get_study_id_from_name(study.study_name), trial.number
        )
        storage.set_trial_system_attr(trial_id, _SPACE, self._search_space)
        storage.set_trial_system_attr(trial_id, _GRID_ID, point)

    def _point(self, study: Study, number: int, fixed: Mapping[str, Any]) -> int:
        """Returns a point with the fixed parameters, if possible one that has not been tried.

        Returns -1, which is not a point of the grid, if there is none.
        """
        possible = [i for i in range(len(self._all_grids)) if self._has(i, fixed)]
        untried = set(self._get_unvisited_grid_ids(study))
        points = [i for i in possible if i in untried] or possible or [-1]
        return number if number in points else points[0]

    def _has(self, point: int, fixed: Mapping[str, Any]) -> bool:
        values = dict(zip(self._param_names, self._all_grids[point], strict=True))
        return all(name in values and _same(values[name], value) for name, value in fixed.items())


def _same(one: Any, other: Any) -> bool:
    """Compares two choices; in Python, `True == 1`."""
    return isinstance(one, bool) == isinstance(other, bool) and one == other


class BruteForce(BruteForceSampler):
    """Optuna's `BruteForceSampler`, which also accepts trials that died without all parameters.

    Optuna raises a `ValueError` for such a trial, or ends the search.

    Args:
        names: the parameters that each complete trial has.
        seed: see Optuna.
        avoid_premature_stop: see Optuna.
    """

    def __init__(
        self, names: Iterable[str], seed: int | None = None, avoid_premature_stop: bool = False
    ) -> None:
        super().__init__(seed, avoid_premature_stop)
        self._names = frozenset(names)

    def _populate_tree(  # type: ignore[override]  # a static method, which needs the names
        self, tree: Any, trials: list[FrozenTrial], params: dict[str, Any]
    ) -> None:
        super()._populate_tree(tree, [one for one in trials if not self._has_died(one)], params)

    def _has_died(self, trial: FrozenTrial) -> bool:
        return trial.state is TrialState.FAIL and not self._names <= trial.params.keys()

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Stops the study if no combination is left."""
        if self._names <= trial.params.keys():
            super().after_trial(study, trial, state, values)
