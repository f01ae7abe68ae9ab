"""What a tracker is: a place that keeps runs. Trackers know nothing of the Learner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from nntrain.events import StopReason

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class MetricRow:
    """Values that belong to one step: `time_ms` since the epoch of the clock, `step` in training batches."""

    time_ms: int
    step: int
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What is known of a run before it starts.

    `params` are the flattened configuration, `texts` files to keep with the run, by name.
    """

    params: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)


@runtime_checkable
class Tracker(Protocol):
    """Keeps one run; steps and times are the caller's, and are never made up."""

    def open(self) -> None:
        """Reaches the store, so that one that cannot be reached is told before anything is recorded."""

    def start(self, info: RunInfo, run_id: str | None = None) -> str:
        """Begins a run, or goes on with the one of that id, and returns its id."""

    def metrics(self, rows: Sequence[MetricRow]) -> None:
        """Records rows of metrics, in as few calls as the store takes."""

    def tags(self, tags: Mapping[str, str]) -> None:
        """Sets tags."""

    def artifact(self, path: Path, folder: str = "") -> None:
        """Keeps a file with the run."""

    def figure(self, figure: Figure, name: str) -> None:
        """Keeps a figure with the run, as an image of that file name."""

    def finish(self, reason: StopReason) -> None:
        """Ends the run with the status that stands for the reason."""

    def where(self) -> str:
        """Where the run is and how to look at it, in a line or two for people."""
