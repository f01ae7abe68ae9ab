"""Compares a sweep with other libraries, and measures the overhead of the sweeper.

Comparison: the sweep tunes learning rate, width and optimizer of nntrain's default MLP on the
digits. It uses TPE with seed 1 and two workers with one CPU thread each, and no tracker. The other
libraries train with `peers/work.py`; nntrain runs
`python -m nntrain.run -m callbacks=none tracker=none`. The time is the wall time of the whole
command, including startup. The best value is the validation accuracy of the best trial that was not
stopped early. hydra-optuna-sweeper and Ray Tune need separate environments, because they require
different versions of some packages:

    python -m venv stock && stock/bin/pip install torch==2.13.0 scikit-learn \
        hydra-core==1.3.2 hydra-optuna-sweeper==1.3.0 hydra-joblib-launcher \
        'sqlalchemy<2' 'alembic<1.14'
    python -m venv ray && ray/bin/pip install torch==2.13.0 scikit-learn optuna 'ray[tune]'
    python benchmarks/sweeps.py --stock stock/bin/python --ray ray/bin/python --json out.json

Overhead (`--only empty`): a Hydra program that returns x**2 runs 500 trials, first with one worker
in the main process and then with two worker processes. The time is measured from the start of the
first trial to the end of the last trial.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

import nntrain

HERE = Path(__file__).parent
PEERS = HERE / "peers"
N_JOBS = 2
SEED = 1

SPACE = [
    "lr=tag(log, interval(1e-4, 1))",
    "model.hidden=choice(32,64,128,256)",
    "optimizer=choice(sgd,adam,adamw)",
]

EMPTY = """
import hydra
from hydra.core.config_store import ConfigStore
from nntrain.sweeps import register

register()
defaults = [{"override hydra/sweeper": "nntrain"}, "_self_"]
ConfigStore.instance().store(name="empty", node={"defaults": defaults, "x": 0.0})


@hydra.main(version_base="1.3", config_path=None, config_name="empty")
def main(cfg):
    return cfg.x**2


main()
"""


@dataclass(frozen=True)
class Task:
    """Settings of the sweep, the same for all contenders."""

    n_trials: int
    n_epoch: int
    pruner: str
    grace: int


Result = dict[str, Any]
Contender = Callable[[Task], Result]


def run(command: Sequence[str], **env: str) -> tuple[float, str]:
    """Runs a command and returns its duration in seconds and its output."""
    start = time.perf_counter()
    done = subprocess.run(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1", **env},
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(
            f"{' '.join(command)} exited with {done.returncode}:\n"
            f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        )
    return seconds, done.stdout


def ours(task: Task) -> Result:
    keys = {
        "hydra/sweeper/pruner": task.pruner,
        "hydra.sweeper.sampler.seed": SEED,
        "hydra.sweeper.n_trials": task.n_trials,
        "hydra.sweeper.n_jobs": N_JOBS,
        "hydra.sweeper.study_name": "side-by-side",
        "n_epoch": task.n_epoch,
        "callbacks": "none",
        "tracker": "none",
    }
    if task.pruner == "successive_halving":
        keys["hydra.sweeper.pruner.min_resource"] = task.grace
    overrides = [f"{key}={value}" for key, value in keys.items()]
    seconds, _ = run([sys.executable, "-m", "nntrain.run", "-m", *SPACE, *overrides])
    folder = Path("multirun/side-by-side")
    best = yaml.safe_load((folder / "optimization_results.yaml").read_text())["best_value"]
    with open(folder / "trials.csv") as file:
        rows = list(csv.DictReader(file))
    n_pruned = sum(row["state"] == "PRUNED" for row in rows)
    return {"seconds": seconds, "best": best, "n_trials": len(rows), "n_pruned": n_pruned}


def stock(python: str) -> Contender:
    """Returns a function that sweeps with hydra-optuna-sweeper in the environment of `python`."""

    def sweep(task: Task) -> Result:
        keys = {
            "n_epoch": task.n_epoch,
            "hydra.sweeper.direction": "maximize",
            "hydra.sweeper.sampler.seed": SEED,
            "hydra.sweeper.n_trials": task.n_trials,
            "hydra.sweeper.n_jobs": N_JOBS,
            "hydra.launcher.n_jobs": N_JOBS,
            "hydra.sweep.dir": "stock",
        }
        overrides = [f"{key}={value}" for key, value in keys.items()]
        seconds, _ = run(
            [python, str(PEERS / "stock_sweep.py"), "-m", *overrides], PYTHONPATH=str(HERE.parent)
        )
        best = yaml.safe_load(Path("stock/optimization_results.yaml").read_text())["best_value"]
        return {"seconds": seconds, "best": best, "n_trials": task.n_trials, "n_pruned": 0}

    return sweep


def plain_optuna(task: Task) -> Result:
    """Runs the sweep with plain Optuna in threads."""
    return script(
        sys.executable,
        "optuna_threads.py",
        task,
        "--pruner",
        task.pruner,
        "--grace",
        str(task.grace),
    )


def ray_tune(python: str) -> Contender:
    """Returns a function that sweeps with Ray Tune and ASHA in the environment of `python`."""
    return lambda task: script(python, "ray_asha.py", task, "--grace", str(task.grace))


def script(python: str, name: str, task: Task, *more: str) -> Result:
    """Runs a script in `peers` and parses the JSON result from the last line of its output."""
    numbers = {"--n-trials": task.n_trials, "--n-epoch": task.n_epoch, "--n-jobs": N_JOBS}
    options = [text for name, number in numbers.items() for text in (name, str(number))]
    seconds, out = run([python, str(PEERS / name), *options, *more], PYTHONPATH=str(HERE.parent))
    return {"seconds": seconds, **json.loads(out.strip().splitlines()[-1])}


def side_by_side(
    contenders: dict[str, Contender], task: Task, rounds: int
) -> dict[str, list[Result]]:
    """Runs the contenders alternately, so that a temporary slowdown affects all of them."""
    found: dict[str, list[Result]] = {name: [] for name in contenders}
    print(f"{'contender':40} {'seconds':>8} {'best':>8} {'trials':>7} {'pruned':>7}")
    for _ in range(rounds):
        for name, contender in contenders.items():
            with tempfile.TemporaryDirectory() as folder:
                os.chdir(folder)
                row = contender(task)
                os.chdir("/")
            found[name].append(row)
            print(
                f"{name:40} {row['seconds']:8.1f} {row['best']:8.4f} "
                f"{row['n_trials']:7} {row['n_pruned']:7}",
                flush=True,
            )
    return found


def ms_of_empty_trial(n_jobs: int, n_trials: int) -> float:
    """Runs a sweep of empty trials; returns its duration in milliseconds divided by `n_trials`."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("empty.py").write_text(EMPTY)
        keys = [
            f"hydra.sweeper.n_trials={n_trials}",
            f"hydra.sweeper.n_jobs={n_jobs}",
            "hydra.sweeper.study_name=empty",
        ]
        keys += ["hydra/sweeper/sampler=random", "hydra.sweeper.sampler.seed=1"]
        run([sys.executable, "empty.py", "-m", "x=interval(-1,1)", *keys])
        study = optuna.load_study(
            study_name="empty",
            storage=JournalStorage(JournalFileBackend("multirun/empty/study.jsonl")),
        )
        trials = study.get_trials(states=(TrialState.COMPLETE,))
        os.chdir("/")
    if len(trials) != n_trials:
        raise SystemExit(f"Only {len(trials)} of {n_trials} trials completed.")
    begins = [trial.datetime_start for trial in trials if trial.datetime_start]
    ends = [trial.datetime_complete for trial in trials if trial.datetime_complete]
    return 1e3 * (max(ends) - min(begins)).total_seconds() / n_trials


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--stock",
        type=os.path.abspath,
        help="path of the Python interpreter in the environment with hydra-optuna-sweeper 1.3",
    )
    parser.add_argument(
        "--ray",
        type=os.path.abspath,
        help="path of the Python interpreter in the environment with Ray Tune",
    )
    parser.add_argument("--n-trials", type=int, default=60)
    parser.add_argument(
        "--n-epoch",
        type=int,
        default=300,
        help="number of epochs of a trial that is not stopped early (300 epochs take 3 to 6 s)",
    )
    parser.add_argument(
        "--pruner",
        choices=["median", "successive_halving"],
        default="successive_halving",
        help="pruner to use in nntrain and in plain Optuna",
    )
    parser.add_argument(
        "--grace",
        type=int,
        default=20,
        help="minimum number of epochs before successive halving or ASHA stops a trial",
    )
    parser.add_argument(
        "--rounds", type=int, default=1, help="number of measurements per contender"
    )
    parser.add_argument(
        "--empty-trials",
        type=int,
        default=500,
        help="number of trials in the measurement of the overhead",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=["ours", "stock", "optuna", "ray", "empty"],
        help="what to measure",
    )
    parser.add_argument(
        "--json", type=os.path.abspath, help="path of the JSON file with the results"
    )
    args = parser.parse_args()
    task = Task(args.n_trials, args.n_epoch, args.pruner, args.grace)
    available: dict[str, Contender] = {"ours": ours, "optuna": plain_optuna}
    available |= {"stock": stock(args.stock)} if args.stock else {}
    available |= {"ray": ray_tune(args.ray)} if args.ray else {}
    asked = args.only or [*available, "empty"]
    figures: dict[str, Any] = {"task": vars(task)}
    print(
        f"nntrain {nntrain.__version__}, optuna {optuna.__version__}, "
        f"Python {platform.python_version()}, {task}"
    )
    if contenders := {name: contender for name, contender in available.items() if name in asked}:
        figures["side by side"] = side_by_side(contenders, task, args.rounds)
    if "empty" in asked:
        figures["ms of an empty trial"] = empty = {
            n: ms_of_empty_trial(n, args.empty_trials) for n in (1, N_JOBS)
        }
        for n, ms in empty.items():
            print(f"overhead: {ms:.1f} ms per trial with {n} worker{'s' * (n > 1)}", flush=True)
    if args.json:
        Path(args.json).write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
