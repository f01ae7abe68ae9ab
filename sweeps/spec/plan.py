"""The plan of a sweep: the settings that are passed to its workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nntrain.config.instantiate import Node
from nntrain.sweeps.spec.space import Space


@dataclass(frozen=True)
class SweepPlan:
    """The settings that each worker receives; times are in seconds.

    Most fields are keys of `hydra.sweeper`. The other fields are:

    Attributes:
        folder: the absolute path of the study's folder.
        storage: the URL of the storage; `None` uses a file in the folder.
        objectives: the metrics to optimize; empty if the job returns the value itself.
        directions: `minimize` or `maximize`, one for each value of a trial.
        monitor: the metric that the pruner compares.
        monitor_direction: `minimize` or `maximize` for the monitored metric; `None` if that metric
            is the objective.
        every: training batches between two reports; `None` reports once per epoch.
        trusted: packages that the user trusts.
    """

    study_name: str
    folder: Path
    space: Space
    directions: Sequence[str]
    sampler: Node
    pruner: Node
    storage: str | None = None
    n_trials: int = 20
    objectives: Sequence[str] = ()
    monitor: str | None = None
    monitor_direction: str | None = None
    every: int | None = None
    custom_search_space: str | None = None
    timeout_s: float | None = None
    max_failure_rate: float = 0.2
    duplicates: str = "rerun"
    replicates: int = 1
    replicate_key: str = "seed"
    control_fraction: float = 0.0
    enqueue: Sequence[Mapping[str, Any]] = field(default_factory=list)
    warm_start: str | None = None
    trusted: Sequence[str] = ()

    def secrets(self) -> dict[str, Any]:
        """Returns settings that may contain secrets, by name."""
        return {"storage": self.storage, **self.space.secrets()}
