"""Runs the sweep with plain Optuna in threads.

The script prints the best value and the number of pruned trials.
"""

import argparse
import json

import optuna
from work import HIDDEN, LR, OPTIMIZERS, train

PRUNERS = {
    "median": lambda grace: optuna.pruners.MedianPruner(n_startup_trials=5),
    "successive_halving": lambda grace: optuna.pruners.SuccessiveHalvingPruner(
        min_resource=grace, reduction_factor=4
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n-trials", type=int)
    parser.add_argument("--n-epoch", type=int)
    parser.add_argument("--n-jobs", type=int)
    parser.add_argument("--pruner", choices=PRUNERS)
    parser.add_argument("--grace", type=int)
    args = parser.parse_args()

    def objective(trial: optuna.Trial) -> float:
        params = {
            "lr": trial.suggest_float("lr", *LR, log=True),
            "hidden": trial.suggest_categorical("hidden", HIDDEN),
            "optimizer": trial.suggest_categorical("optimizer", OPTIMIZERS),
        }

        def report(value: float, step: int) -> None:
            trial.report(value, step)
            if step < args.n_epoch and trial.should_prune():
                raise optuna.TrialPruned

        return train(params, args.n_epoch, report)

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=1)
    study = optuna.create_study(
        direction="maximize", sampler=sampler, pruner=PRUNERS[args.pruner](args.grace)
    )
    study.optimize(objective, n_trials=args.n_trials, n_jobs=args.n_jobs)
    n_pruned = sum(trial.state is optuna.trial.TrialState.PRUNED for trial in study.trials)
    print(
        json.dumps({"best": study.best_value, "n_trials": len(study.trials), "n_pruned": n_pruned})
    )


if __name__ == "__main__":
    main()
