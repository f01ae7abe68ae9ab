"""The interface of sweep callbacks, which run before and after a sweep."""

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
    """The reason a sweep ended, a message, and the signal number if a signal ended the sweep."""

    reason: StopReason
    message: str = ""
    signum: int | None = None


@runtime_checkable
class StudyCallback(Protocol):
    """A callback that runs before and after a sweep, in the process that the user started.

    Each method is called once per sweep, in the order listed here.
    """

    def check(self, plan: SweepPlan, config: DictConfig) -> None:
        """Checks one configuration of the search space before the sweep writes any file.

        Raises:
            ConfigError: if the sweep must not start; the message says why.
        """

    def before_sweep(self, study: Study, plan: SweepPlan) -> None:
        """Called after the study is opened and before the first trial starts."""

    def after_sweep(
        self, study: Study, plan: SweepPlan, figures: Mapping[str, go.Figure], end: SweepEnd
    ) -> None:
        """Called at the end of a sweep, even if it failed, after the result files are written."""
