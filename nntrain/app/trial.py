"""Functions for runs that are trials of a sweep."""

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
    """Returns the `RunInfo` fields that link the run of a trial to its study."""
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
    """Stores the uid of the run in the Optuna trial.

    The uid is stored before the first batch, so that it is available even if the process dies.
    """

    order: ClassVar[int] = 100
    purposes: ClassVar[frozenset[Purpose]] = frozenset({Purpose.FIT})
    only_watches: ClassVar[bool] = True

    def __init__(self, trial: Trial, tracked: TrackerCallback) -> None:
        self.trial, self.tracked = trial, tracked

    def before_fit(self, learn: Learner) -> None:
        """Stores the uid in the trial."""
        self.trial.set_user_attr(RUN_UID, self.tracked.uid)


def resume_trial(cfg: DictConfig, context: TrialContext) -> None:
    """If the trial repeats an interrupted trial, sets `resume` to the folder of that trial.

    Leaves `resume` unchanged if the configuration sets it, or if the folder has no checkpoint.
    """
    folder = context.resume_from
    if cfg.resume is None and folder is not None and "checkpoint" in (cfg.callbacks or {}):
        cfg.resume = str(folder) if (folder / "last.ckpt").is_file() else None
