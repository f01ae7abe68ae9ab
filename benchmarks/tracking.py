"""Measures the cost of tracking: step times with and without a tracker, and the exit time.

The task is the same as in `loop.py`: a 64-50-10 MLP on the digits, batch size 64, one CPU thread.
The loss, learning rate and momentum of every batch and the metrics of every epoch are written to
the journal. During the fit, a real shipper process delivers them to MLflow on SQLite or to W&B in
offline mode. The step time is the mean over the second half of 500 epochs, after the tracker has
started the run. Fits with and without a tracker alternate, and the ratio is the median over the
rounds. The exit time is the time from the end of a fit to the exit of the process. Run the
benchmark with `make bench-tracking`, or with
`python benchmarks/tracking.py --rounds 5 --json out.json`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from loop import BATCH, LR, digits, mlp
from torch import nn
from torch.nn.functional import cross_entropy

import nntrain
from nntrain import Callback, Learner, accuracy
from nntrain.integrations.callback import TrackerCallback
from nntrain.integrations.mlflow import MLflowTracker
from nntrain.integrations.shipping.backlog import backlog
from nntrain.integrations.shipping.client import ShipperProcess
from nntrain.integrations.tracker import Tracker
from nntrain.integrations.wandb import WandbTracker
from nntrain.statistics import ActivationStats

N_BATCH = 10_000
N_EPOCH = 500
FOLDERS = (f"runs/{i}" for i in itertools.count())
FITTED_AT = re.compile(r"fitted at ([\d.]+)")

SHARES: Mapping[str, Callable[[list[float]], float]] = {
    "median": lambda seconds: 1e6 * statistics.median(seconds),
    "p99": lambda seconds: 1e6 * statistics.quantiles(seconds, n=100)[-1],
}
"""Statistics of the batch time in microseconds: the median and the 99th percentile."""

TIMES_ITS_END = """
import time
from nntrain import Callback, Purpose

class TimesItsEnd(Callback):
    order = 1000
    purposes = frozenset({Purpose.FIT})
    def after_fit(self, learn):
        print("fitted at", time.time(), flush=True)
"""


class LogsMuch(Callback):
    """Logs 20 numbers per batch, like a user's callback, and records the time of each batch."""

    order = 1000

    def __init__(self, n_value: int = 20) -> None:
        self.names = [f"mine/value_{i}" for i in range(n_value)]
        self.seconds: list[float] = []

    def before_batch(self, learn: Learner) -> None:
        self.start = time.perf_counter()

    def after_batch(self, learn: Learner) -> None:
        if learn.training:
            learn.tracker.log_metrics(dict.fromkeys(self.names, float(learn.iter)))
            self.seconds.append(time.perf_counter() - self.start)


class Clock(Callback):
    """Records the end time of each epoch."""

    order = 1000

    def __init__(self) -> None:
        self.ends: list[float] = []

    def after_epoch(self, learn: Learner) -> None:
        self.ends.append(time.perf_counter())

    def us_per_step(self, n_step: int) -> float:
        """Returns the mean step time in microseconds over the second half of the fit."""
        ends = self.ends[len(self.ends) // 2 :]
        return 1e6 * (ends[-1] - ends[0]) / ((len(ends) - 1) * n_step)


class Work:
    """Runs the fits to compare; each tracked fit uses a new folder."""

    def __init__(self, tracker: Tracker) -> None:
        self.dls, self.tracker, self.shipper = digits(), tracker, ShipperProcess()

    def us_per_step(self, *cbs: Callback) -> float:
        clock = Clock()
        self.fit(N_EPOCH, mlp(), *cbs, clock)
        return clock.us_per_step(len(self.dls.train))

    def fit(self, n_epoch: int, model: nn.Module, *cbs: Callback) -> None:
        learn = Learner(
            model, self.dls, cross_entropy, lr=LR, metrics=[accuracy], device="cpu", cbs=cbs
        )
        learn.fit(n_epoch)

    def tracked(self) -> TrackerCallback:
        return TrackerCallback({"tracker": self.tracker}, next(FOLDERS), shipper=self.shipper)

    def much(self, *cbs: Callback) -> list[float]:
        """Trains 2,000 batches with 20 logged numbers each; returns the batch times."""
        torch.manual_seed(0)
        layers = [nn.Linear(n, m) for n, m in itertools.pairwise([64, *[32] * 7, 10])]
        logs = LogsMuch()
        self.fit(
            2_000 // len(self.dls.train),
            nn.Sequential(*layers),
            *cbs,
            ActivationStats(every=10),
            logs,
        )
        return logs.seconds


def wait_for_delivery() -> None:
    """Waits until the shipper is idle, so that the shipper does not slow down the next fit."""
    while any(backlog(journal, "tracker") for journal in Path("runs").glob("*/journal.jsonl")):
        time.sleep(0.05)


def compare(work: Work, rounds: int) -> dict[str, float]:
    """Returns median step times in microseconds, and the median ratios.

    Four fits are compared: with and without a tracker, each with and without ActivationStats.
    """
    rows: list[dict[str, float]] = []
    for _ in range(rounds):
        row = {"plain": work.us_per_step(), "stats": work.us_per_step(ActivationStats(every=10))}
        row["tracked"] = work.us_per_step(work.tracked())
        wait_for_delivery()
        row["both"] = work.us_per_step(work.tracked(), ActivationStats(every=10))
        wait_for_delivery()
        rows.append(
            row
            | {"ratio": row["tracked"] / row["plain"], "stats_ratio": row["both"] / row["stats"]}
        )
        rows[-1]["both_ratio"] = row["both"] / row["plain"]
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}


def compare_broken(work: Work, rounds: int) -> dict[str, float]:
    """Returns median step times without a tracker and with a tracker whose server is broken."""
    rows = [(work.us_per_step(), work.us_per_step(work.tracked())) for _ in range(rounds)]
    ratio = statistics.median(tracked / plain for plain, tracked in rows)
    return {
        "plain": statistics.median(row[0] for row in rows),
        "tracked": statistics.median(row[1] for row in rows),
        "ratio": ratio,
    }


def seconds_to_leave(tracker: str) -> float:
    """Returns the time from the end of a fit of 10,000 batches to the exit of its process.

    The fit is started from the command line. All data is delivered before the process exits.
    """
    n_epoch = -(-N_BATCH * BATCH // 1438)
    Path("timing.py").write_text(TIMES_ITS_END)
    overrides = [
        f"tracker={tracker}",
        f"n_epoch={n_epoch}",
        "callbacks=[signals]",
        "trusted_targets=[timing]",
    ]
    command = [
        sys.executable,
        "-m",
        "nntrain.run",
        *overrides,
        "+callbacks.timing._target_=timing.TimesItsEnd",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    left = time.time()
    if "has not received" in done.stderr:
        raise SystemExit(f"Not everything was delivered: {done.stderr}")
    return left - float(FITTED_AT.findall(done.stdout)[-1])


def steps(rounds: int) -> dict[str, Any]:
    """Measures step times with working trackers and with broken tracking servers."""
    figures: dict[str, Any] = {}
    for name, tracker in {"mlflow": MLflowTracker(), "wandb": WandbTracker()}.items():
        work = Work(tracker)
        row = figures[name] = compare(work, rounds)
        print(f"{name:24} {row['tracked']:8.0f} {row['plain']:10.0f} {row['ratio']:7.2f}")
        print(
            f"{name + ', statistics':24} {row['both']:8.0f} {row['stats']:10.0f} "
            f"{row['stats_ratio']:7.2f}",
            end="",
        )
        print(
            f"   {row['both_ratio']:.2f} times the step time without tracker and statistics",
            flush=True,
        )
        if left := work.shipper.finish(600):
            raise SystemExit(f"{name}: some data was not delivered: {left}")
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        for name, port in {
            "mlflow, server dead": 9,
            "mlflow, server hangs": hanging.getsockname()[1],
        }.items():
            work = Work(MLflowTracker(f"http://127.0.0.1:{port}"))
            row = figures[name] = compare_broken(work, rounds)
            print(
                f"{name:24} {row['tracked']:8.0f} {row['plain']:10.0f} {row['ratio']:7.2f}",
                flush=True,
            )
            if not work.shipper.finish(0):
                raise SystemExit(f"{name}: the broken server should not have received all data.")
    return figures


def much() -> dict[str, float]:
    """Returns the time in microseconds that tracking 20 numbers adds to a batch."""
    work = Work(MLflowTracker())
    runs = [(work.much(), work.much(work.tracked())) for _ in range(5)]
    work.shipper.finish(600)
    return {
        name: statistics.median(at(tracked) - at(plain) for plain, tracked in runs)
        for name, at in SHARES.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="number of measurements of each fit")
    parser.add_argument(
        "--json", type=os.path.abspath, help="path of the JSON file with the results"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["WANDB_MODE"] = "offline"
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        print(
            f"nntrain {nntrain.__version__}, torch {torch.__version__}, "
            f"Python {platform.python_version()}, one thread"
        )
        print(f"{'tracked in':24} {'us/step':>8} {'untracked':>10} {'ratio':>7}")
        figures = steps(args.rounds)
        figures["20 numbers a batch, added us"] = added = much()
        print(
            f"logging 20 numbers per batch adds {added['median']:.0f} us (median) or "
            f"{added['p99']:.0f} us (99th percentile)"
        )
        for name in ("mlflow", "wandb"):
            figures[f"{name}, seconds to leave"] = left = statistics.median(
                seconds_to_leave(name) for _ in range(3)
            )
            print(
                f"{name}: the process exits {left:.2f} s after a fit of {N_BATCH} batches",
                flush=True,
            )
        os.chdir("/")
    if args.json:
        Path(args.json).write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
