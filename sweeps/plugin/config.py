"""The keys of `hydra.sweeper`, and the groups of samplers and pruners."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore

PROVIDER = "nntrain_sweeper"


@dataclass
class SweeperConfig:
    """What stands under `hydra.sweeper`; times are in seconds."""

    defaults: list[Any] = field(
        default_factory=lambda: ["_self_", {"sampler": "tpe"}, {"pruner": "median"}]
    )

    _target_: str = "hydra_plugins.nntrain_sweeper.sweeper.NntrainSweeper"
    _recursive_: bool = False

    # what is swept over: key: choice(a,b), range(a,b), interval(a,b), tag(log, interval(a,b)); or a value for all trials
    params: dict[str, Any] = field(default_factory=dict)
    # a function of yours (configuration, trial) that chooses more, by its dotted path
    custom_search_space: str | None = None

    # metric, or metrics, that the job records; null: what the job returns
    objective: Any = None
    # minimize or maximize, one for each objective; null tells it from the name of the metric
    direction: Any = None
    # how Optuna chooses configurations
    sampler: Any = None
    # which trials are stopped early
    pruner: Any = None
    # metric that the pruner sees; null: the objective
    pruning_metric: str | None = None
    # training batches between two looks of the pruner, for a loss of the batches; null: each epoch
    prune_every: int | None = None
    # share of the trials that run on although the pruner would stop them, to see how often it is wrong
    control_fraction: float = 0.0

    # name of the study; null makes one from what is swept over
    study_name: str | None = None
    # URL of a database or grpc://HOST:PORT; null: a file in the study's folder
    storage: str | None = None
    # trials in all, those of earlier commands included
    n_trials: int = 20
    # trials at a time; null: one, or with gpus as many as have room there
    n_jobs: int | None = None
    # after so many seconds no further trial begins
    timeout_s: float | None = None
    # a trial that takes longer is killed
    trial_timeout_s: float | None = None
    # the sweep stops when more than this share of n_trials has failed
    max_failure_rate: float = 0.2

    # auto, a number, a list, or null, which leaves the devices to the job
    gpus: Any = None
    workers_per_gpu: int = 1

    # a configuration that has been run before: rerun, reuse its result, or resample
    duplicates: str = "rerun"
    # seeds for each configuration that is not pruned; the trial's value is their mean
    replicates: int = 1
    # key of the seed
    replicate_key: str = "seed"
    # configurations to try first: a list of mappings from key to value
    enqueue: list[dict[str, Any]] = field(default_factory=list)
    # folder of another study, whose completed trials the sampler learns from
    warm_start: str | None = None
    # what acts round the sweep, by name: a _target_ that makes an nntrain.sweeps.StudyCallback
    callbacks: dict[str, Any] = field(default_factory=dict)


SAMPLERS: Mapping[str, Mapping[str, Any]] = {
    "tpe": {
        "_target_": "optuna.samplers.TPESampler",
        "seed": None,
        "n_startup_trials": 10,
        "multivariate": False,
    },
    "random": {"_target_": "optuna.samplers.RandomSampler", "seed": None},
    "grid": {"_target_": "optuna.samplers.GridSampler", "seed": None},
    "brute_force": {"_target_": "optuna.samplers.BruteForceSampler", "seed": None},
    "cmaes": {"_target_": "optuna.samplers.CmaEsSampler", "seed": None, "n_startup_trials": 1},
    "gp": {"_target_": "optuna.samplers.GPSampler", "seed": None, "n_startup_trials": 10},
    "qmc": {
        "_target_": "optuna.samplers.QMCSampler",
        "seed": 0,
        "qmc_type": "sobol",
        "scramble": False,
    },
    "nsgaii": {"_target_": "optuna.samplers.NSGAIISampler", "seed": None, "population_size": 50},
}
"""Arguments of Optuna's samplers, by the name of their config."""

PRUNERS: Mapping[str, Mapping[str, Any]] = {
    "none": {"_target_": "optuna.pruners.NopPruner"},
    "median": {
        "_target_": "optuna.pruners.MedianPruner",
        "n_startup_trials": 5,
        "n_warmup_steps": 0,
        "interval_steps": 1,
        "n_min_trials": 1,
    },
    "percentile": {
        "_target_": "optuna.pruners.PercentilePruner",
        "percentile": 25.0,
        "n_startup_trials": 5,
        "n_warmup_steps": 0,
        "interval_steps": 1,
        "n_min_trials": 1,
    },
    "successive_halving": {
        "_target_": "optuna.pruners.SuccessiveHalvingPruner",
        "min_resource": "auto",
        "reduction_factor": 4,
        "min_early_stopping_rate": 0,
        "bootstrap_count": 0,
    },
    "hyperband": {
        "_target_": "optuna.pruners.HyperbandPruner",
        "min_resource": 1,
        "max_resource": "auto",
        "reduction_factor": 3,
        "bootstrap_count": 0,
    },
    "patient": {
        "_target_": "optuna.pruners.PatientPruner",
        "wrapped_pruner": {"_target_": "optuna.pruners.MedianPruner"},
        "patience": 3,
        "min_delta": 0.0,
    },
    "threshold": {
        "_target_": "optuna.pruners.ThresholdPruner",
        "lower": None,
        "upper": None,
        "n_warmup_steps": 0,
        "interval_steps": 1,
    },
    "wilcoxon": {
        "_target_": "optuna.pruners.WilcoxonPruner",
        "p_threshold": 0.1,
        "n_startup_steps": 2,
    },
}
"""Arguments of Optuna's pruners, by the name of their config."""


def store() -> None:
    """Puts the configs where Hydra finds them."""
    known = ConfigStore.instance()
    known.store(group="hydra/sweeper", name="nntrain", node=SweeperConfig, provider=PROVIDER)
    for group, nodes in (("sampler", SAMPLERS), ("pruner", PRUNERS)):
        for name, node in nodes.items():
            known.store(
                group=f"hydra/sweeper/{group}", name=name, node=dict(node), provider=PROVIDER
            )


store()
