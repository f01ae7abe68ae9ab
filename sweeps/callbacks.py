"""The interface of `hydra.sweeper.callbacks`: code that runs before and after a sweep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from nntrain.result import StopReason

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from omegaconf import DictConfig
    from optuna import Study

    from nntrain.sweeps.spec.plan import SweepPlan


@dataclass(frozen=True)
class SweepEnd:
    """Why a sweep ended: the reason, a message, and the signal if one interrupted it."""

    reason: StopReason
    message: str = ""
    signum: int | None = None


@runtime_checkable
class StudyCallback(Protocol):
    """Runs code before and after a sweep, in the process that the user started.

    Each method is called once, in the order below.
    """

    def check(self, plan: SweepPlan, config: DictConfig) -> None:
        """Checks one configuration of the search space, before anything is written.

        Raises:
            ConfigError: if the sweep must not start; the message says why.
        """

    def before_sweep(self, study: Study, plan: SweepPlan) -> None:
        """Runs when the study is open and before the first trial starts."""

    def after_sweep(
        self, study: Study, plan: SweepPlan, figures: Mapping[str, go.Figure], end: SweepEnd
    ) -> None:
        """Runs after the sweep, however it ended, when the files in its folder are written."""
