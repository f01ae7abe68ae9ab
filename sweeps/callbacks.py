"""What may act at the beginning and the end of a sweep: the keys of `hydra.sweeper.callbacks`."""

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
    """Why a sweep ended, in a word and for people, and the signal if it was one."""

    reason: StopReason
    message: str = ""
    signum: int | None = None


@runtime_checkable
class StudyCallback(Protocol):
    """Acts round a sweep, in the process that was started; its methods are called in this order, each once."""

    def check(self, plan: SweepPlan, config: DictConfig) -> None:
        """Looks at one of the configurations that are to be tried, before anything is written.

        Raises:
            SweepError: if the sweep cannot be; the message says why.
        """

    def before_sweep(self, study: Study, plan: SweepPlan) -> None:
        """The study is open, and no trial has begun."""

    def after_sweep(
        self, study: Study, plan: SweepPlan, figures: Mapping[str, go.Figure], end: SweepEnd
    ) -> None:
        """The sweep is over, however it ended, and what it leaves in its folder is written."""
