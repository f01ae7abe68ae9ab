"""Runs the sweep with Ray Tune, which samples with Optuna's TPE and prunes with ASHA.

The script prints the best value and the number of trials that were stopped early.
"""

import argparse
import json
import sys
from pathlib import Path

import optuna
import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import ConcurrencyLimiter
from ray.tune.search.optuna import OptunaSearch

HERE = str(Path(__file__).parent)


def trial(config: dict) -> None:
    sys.path.insert(0, HERE)
    from work import train

    train(
        config,
        config["n_epoch"],
        lambda value, step: tune.report({"accuracy": value, "epoch": step}),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n-trials", type=int)
    parser.add_argument("--n-epoch", type=int)
    parser.add_argument("--n-jobs", type=int)
    parser.add_argument("--grace", type=int)
    args = parser.parse_args()
    sys.path.insert(0, HERE)
    from work import HIDDEN, LR, OPTIMIZERS

    ray.init(num_cpus=args.n_jobs, include_dashboard=False, log_to_driver=False)
    space = {
        "lr": tune.loguniform(*LR),
        "hidden": tune.choice(HIDDEN),
        "optimizer": tune.choice(OPTIMIZERS),
        "n_epoch": args.n_epoch,
    }
    search = OptunaSearch(metric="accuracy", mode="max", sampler=optuna.samplers.TPESampler(seed=1))
    tuner = tune.Tuner(
        tune.with_resources(trial, {"cpu": 1}),
        param_space=space,
        tune_config=tune.TuneConfig(
            metric="accuracy",
            mode="max",
            num_samples=args.n_trials,
            search_alg=ConcurrencyLimiter(search, args.n_jobs),
            scheduler=ASHAScheduler(
                time_attr="epoch", max_t=args.n_epoch, grace_period=args.grace, reduction_factor=4
            ),
        ),
        run_config=tune.RunConfig(storage_path=str(Path("ray").absolute()), verbose=0),
    )
    found = tuner.fit()
    reached = [one.metrics.get("epoch", 0) for one in found]
    best = max(
        one.metrics_dataframe["accuracy"].iloc[-1]
        for one in found
        if one.metrics.get("epoch") == args.n_epoch
    )
    print(
        json.dumps(
            {
                "best": float(best),
                "n_trials": len(found),
                "n_pruned": sum(n < args.n_epoch for n in reached),
            }
        )
    )


if __name__ == "__main__":
    main()
