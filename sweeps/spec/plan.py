"""What a sweep is to do, as its workers get it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nntrain.sweeps.spec.space import Space

Node = Mapping[str, Any]
"""A `_target_` and its arguments."""


@dataclass(frozen=True)
class SweepPlan:
    """All that a worker needs to know; times are in seconds.

    `folder` is the study's, absolute; `storage` a URL or `None` for the file there. `objectives` are the names of what is
    optimised, none if the job returns it; `monitor` is the metric that the pruner sees, and `monitor_direction` its
    direction where it is not the objective itself.
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
