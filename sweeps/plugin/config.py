"""The keys of `hydra.sweeper`, and the config groups of samplers and pruners."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore

PROVIDER = "nntrain_sweeper"

CONF = Path(__file__).with_name("conf")
"""The folder with a file for each sampler and pruner, in the folder of its config group."""


@dataclass
class SweeperConfig:
    """The keys of `hydra.sweeper`; times are in seconds."""

    defaults: list[Any] = field(
        default_factory=lambda: ["_self_", {"sampler": "tpe"}, {"pruner": "median"}]
    )

    _target_: str = "hydra_plugins.nntrain_sweeper.sweeper.NntrainSweeper"
    _recursive_: bool = False

    # the search space: KEY: choice(a,b), range(a,b), interval(a,b), tag(log, interval(a,b)), or a
    # value for all trials
    params: dict[str, Any] = field(default_factory=dict)
    # dotted path of a function (configuration, trial) that adds parameters to a trial
    custom_search_space: str | None = None

    # recorded metric to optimise, or a list of several; null: the value that the job returns
    objective: Any = None
    # minimize or maximize, one for each objective; null: inferred from the metric's name
    direction: Any = None
    # how Optuna chooses configurations
    sampler: Any = None
    # which trials are stopped early
    pruner: Any = None
    # metric that the pruner compares; null: the objective
    pruning_metric: str | None = None
    # training batches between two decisions, for a batch metric; null: one decision per epoch
    prune_every: int | None = None
    # fraction of trials that run on when the pruner would stop them, to see how often it is wrong
    control_fraction: float = 0.0

    # name of the study; null: made from the search space
    study_name: str | None = None
    # URL of a database, or grpc://HOST:PORT; null: a file in the study's folder
    storage: str | None = None
    # total number of trials, those of earlier commands included
    n_trials: int = 20
    # number of parallel trials; null: one, or with gpus as many as fit on them
    n_jobs: int | None = None
    # seconds after which no new trial starts
    timeout_s: float | None = None
    # seconds after which a running trial is killed
    trial_timeout_s: float | None = None
    # the sweep stops when more than this fraction of n_trials has failed
    max_failure_rate: float = 0.2

    # auto, a number, a list, or null, which leaves the choice of devices to the job
    gpus: Any = None
    # workers that share a GPU
    workers_per_gpu: int = 1

    # what to do with a configuration that was run before: rerun, reuse its result, or resample
    duplicates: str = "rerun"
    # number of seeds for each configuration that is not pruned; the trial's value is their mean
    replicates: int = 1
    # key of the seed
    replicate_key: str = "seed"
    # configurations to try first: a list of mappings from key to value
    enqueue: list[dict[str, Any]] = field(default_factory=list)
    # folder of another study, whose completed trials the sampler learns from
    warm_start: str | None = None
    # code that runs before and after the sweep, by name: a _target_ that makes a StudyCallback
    callbacks: dict[str, Any] = field(default_factory=dict)


ConfigStore.instance().store(
    group="hydra/sweeper", name="nntrain", node=SweeperConfig, provider=PROVIDER
)
