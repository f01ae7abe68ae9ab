"""A run that is a trial of a sweep: what its tracked run says of the study, and where it resumes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, cast

from nntrain.core.callback import Callback, Purpose
from nntrain.integrations.callback import TrackerCallback
from nntrain.learner import Learner
from nntrain.sweeps.context import TRACKED_RUN, Running

if TYPE_CHECKING:
    from optuna import Trial


def trial_info(trial: Running | None) -> dict[str, Any]:
    """What a trial's run says of its study: the tags, and the run below which it is shown."""
    if trial is None:
        return {"tags": {}}
    tags = {"nntrain.study": trial.study_name, "nntrain.trial": str(trial.trial.number)}
    return {
        "name": f"trial {trial.trial.number}",
        "tags": tags,
        "parent": trial.study,
        "group": trial.study_name,
    }


class TrialRun(Callback):
    """Tells a trial which run it is tracked as, once that has begun, so that a trial whose process dies has told it."""

    order: ClassVar[int] = 100
    purposes: ClassVar[frozenset[Purpose]] = frozenset({Purpose.FIT})
    only_watches: ClassVar[bool] = True

    def __init__(self, trial: Trial, tracked: TrackerCallback) -> None:
        self.trial, self.tracked = trial, tracked

    def before_fit(self, learn: Learner) -> None:
        """Notes the run's name for machines."""
        self.trial.set_user_attr(TRACKED_RUN, self.tracked.uid)


def resumed_from(plain: Mapping[str, Any], trial: Running | None) -> str | None:
    """Where the run goes on from: what the configuration says, or the checkpoint of the trial that was interrupted."""
    if plain["resume"] is not None or trial is None or trial.resume_from is None:
        return cast("str | None", plain["resume"])
    has_checkpoint = (
        "checkpoint" in (plain["callbacks"] or {}) and (trial.resume_from / "last.ckpt").is_file()
    )
    return str(trial.resume_from) if has_checkpoint else None
