"""A run that is a trial of a sweep: its tags, its parent run, and where it resumes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from omegaconf import DictConfig

from nntrain.core.callback import Callback, Purpose
from nntrain.core.names import RUN_UID
from nntrain.integrations.callback import TrackerCallback
from nntrain.integrations.tracker import STUDY_TAG
from nntrain.learner import Learner
from nntrain.sweeps.context import TrialContext

if TYPE_CHECKING:
    from optuna import Trial


def trial_info(context: TrialContext | None) -> dict[str, Any]:
    """Returns the fields of `RunInfo` that link a trial's run to its study."""
    if context is None:
        return {"tags": {}}
    number = str(context.trial.number)
    return {
        "name": f"trial {number}",
        "tags": {STUDY_TAG: context.study_name, "nntrain.trial": number},
        "parent": context.study_uid,
        "group": context.study_name,
    }


class TrialRun(Callback):
    """Stores the uid of a trial's run in the Optuna trial.

    It does so before the first batch, so that the uid is known even if the process dies later.
    """

    order: ClassVar[int] = 100
    purposes: ClassVar[frozenset[Purpose]] = frozenset({Purpose.FIT})
    only_watches: ClassVar[bool] = True

    def __init__(self, trial: Trial, tracked: TrackerCallback) -> None:
        self.trial, self.tracked = trial, tracked

    def before_fit(self, learn: Learner) -> None:
        """Stores the uid."""
        self.trial.set_user_attr(RUN_UID, self.tracked.uid)


def resume_trial(cfg: DictConfig, context: TrialContext) -> None:
    """Sets `resume` to the folder of the interrupted trial that this one runs again.

    It leaves `resume` alone if the configuration sets it, or the trial left no checkpoint.
    """
    folder = context.resume_from
    if cfg.resume is None and folder is not None and "checkpoint" in (cfg.callbacks or {}):
        cfg.resume = str(folder) if (folder / "last.ckpt").is_file() else None
