"""The `hydra.sweeper` settings, and the folder with the configs of samplers and pruners."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore

PROVIDER = "nntrain_sweeper"

CONF = Path(__file__).with_name("conf")
"""The folder with the config groups `hydra/sweeper/sampler` and `hydra/sweeper/pruner`."""


@dataclass
class SweeperConfig:
    """The keys of `hydra.sweeper`; times are in seconds."""

    defaults: list[Any] = field(
        default_factory=lambda: ["_self_", {"sampler": "tpe"}, {"pruner": "median"}]
    )

    _target_: str = "hydra_plugins.nntrain_sweeper.sweeper.NntrainSweeper"
    _recursive_: bool = False

    # search space: a mapping from keys to choice(a,b), range(a,b), interval(a,b),
    # tag(log, interval(a,b)), or a fixed value
    params: dict[str, Any] = field(default_factory=dict)
    # dotted path of a function f(config, trial) that adds parameters to a trial
    custom_search_space: str | None = None

    # metric to optimize, or a list of metrics; null optimizes the value that the job returns
    objective: Any = None
    # minimize or maximize, one for each objective; null infers it from the metric's name
    direction: Any = None
    # Optuna sampler, which chooses the configurations to try
    sampler: Any = None
    # Optuna pruner, which stops unpromising trials early
    pruner: Any = None
    # metric that the pruner compares; null uses the objective
    pruning_metric: str | None = None
    # training batches between two pruning decisions, for batch metrics only; null decides once
    # per epoch
    prune_every: int | None = None
    # fraction of trials that continue even if the pruner would stop them, to measure how often the
    # pruner is wrong
    control_fraction: float = 0.0

    # name of the study; null derives a name from the search space
    study_name: str | None = None
    # database URL, or grpc://HOST:PORT; null uses a file in the study's folder
    storage: str | None = None
    # total number of trials in the study, including those of earlier commands
    n_trials: int = 20
    # number of trials to run in parallel; null runs one trial at a time, or, if gpus is set,
    # workers_per_gpu trials on each GPU
    n_jobs: int | None = None
    # seconds after which no new trial starts
    timeout_s: float | None = None
    # seconds after which a running trial is killed
    trial_timeout_s: float | None = None
    # the sweep stops when more than this fraction of n_trials has failed
    max_failure_rate: float = 0.2

    # GPUs to use: auto for all, a number, or a list; null lets the job choose its devices
    gpus: Any = None
    # number of workers that share a GPU
    workers_per_gpu: int = 1

    # what to do with a configuration that has already run: rerun, reuse (its result), or resample
    duplicates: str = "rerun"
    # number of runs per trial, each with a different seed; the trial's value is the mean of the
    # runs. If the first run is pruned, the others are skipped
    replicates: int = 1
    # configuration key of the seed
    replicate_key: str = "seed"
    # configurations to try first, as a list of mappings from key to value
    enqueue: list[dict[str, Any]] = field(default_factory=list)
    # folder of another study; the sampler also learns from the completed trials of that study
    warm_start: str | None = None
    # callbacks to run before and after the sweep: a mapping from names to nodes whose _target_
    # creates a StudyCallback
    callbacks: dict[str, Any] = field(default_factory=dict)


ConfigStore.instance().store(
    group="hydra/sweeper", name="nntrain", node=SweeperConfig, provider=PROVIDER
)
