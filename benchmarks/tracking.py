"""What tracking costs: the step of a tracked fit against that of the same fit untracked, and the time to leave at the end.

The work is that of `loop.py`: the digits MLP 64-50-10, batch 64, one CPU thread. Loss, learning rate and momentum of every
batch and the row of every epoch are written to the journal and delivered by a real shipper, to MLflow on SQLite or to W&B
offline, while the fit goes on. A figure is the slope between a short and a long fit, so that what a run costs once is left
out; the ratio is the median over neighbouring measurements. Run it with `make bench-tracking`, or
`python benchmarks/tracking.py --rounds 9 --json out.json`.
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
from loop import BATCH, LR, digits, mlp, us_per_step
from torch import nn
from torch.nn.functional import cross_entropy

import nntrain
from nntrain import Callback, Learner, accuracy
from nntrain.integrations.adapter import TrackerCallback
from nntrain.integrations.base import Tracker
from nntrain.integrations.launch import ShipperProcess
from nntrain.integrations.mlflow import MLflowTracker
from nntrain.integrations.wandb import WandbTracker
from nntrain.statistics import ActivationStats

N_BATCH = 10_000
FITTED_AT = re.compile(r"fitted at ([\d.]+)")

SHARES: Mapping[str, Callable[[list[float]], float]] = {
    "median": lambda seconds: 1e6 * statistics.median(seconds),
    "p99": lambda seconds: 1e6 * statistics.quantiles(seconds, n=100)[-1],
}
"""Microseconds of a batch: the median, and what one in a hundred exceeds."""

TIMES_ITS_END = """
import time
from nntrain import Callback, Purpose

class TimesItsEnd(Callback):
    order = 1000
    purposes = frozenset({Purpose.FIT})
    def after_fit(self, learn):
        print("fitted at", time.time(), flush=True)
"""

Fit = Callable[[int], nn.Module]


class LogsMuch(Callback):
    """Logs twenty numbers each batch, as a user's own callback would, and notes how long each batch took."""

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


class Work:
    """The fits to compare: the digits MLP, tracked in a folder of its own each time."""

    def __init__(self, dls: Any, shipper: ShipperProcess) -> None:
        self.dls, self.shipper = dls, shipper
        self._folders = (f"runs/{i}" for i in itertools.count())

    def fit(self, n_epoch: int, *cbs: Callback, model: nn.Module | None = None) -> nn.Module:
        learn = Learner(model or mlp(), self.dls, cross_entropy, lr=LR, metrics=[accuracy], device="cpu", cbs=cbs)
        learn.fit(n_epoch)
        return learn.model

    def tracked(self, tracker: Tracker) -> TrackerCallback:
        return TrackerCallback({"tracker": tracker}, next(self._folders), shipper=self.shipper)

    def lines(self, name: str, tracker: Tracker) -> dict[str, tuple[Fit, Fit]]:
        """For each line of the table: the untracked fit and the tracked one."""
        plain: Fit = lambda n: self.fit(n)  # noqa: E731
        watched: Fit = lambda n: self.fit(n, ActivationStats(every=10))  # noqa: E731
        both: Fit = lambda n: self.fit(n, self.tracked(tracker), ActivationStats(every=10))  # noqa: E731
        return {
            name: (plain, lambda n: self.fit(n, self.tracked(tracker))),
            f"{name}, ActivationStats in both": (watched, both),
            f"{name}, ActivationStats in the tracked one only": (plain, both),
        }

    def much(self, *cbs: Callback) -> list[float]:
        """Seconds of each of 2,000 batches with 20 numbers a batch and ActivationStats on 8 layers."""
        widths = [64, *[32] * 7, 10]
        torch.manual_seed(0)
        layers = [nn.Linear(n, m) for n, m in itertools.pairwise(widths)]
        logs, stats = LogsMuch(), ActivationStats(modules=nn.Linear, every=10)
        self.fit(2_000 // len(self.dls.train), *cbs, stats, logs, model=nn.Sequential(*layers))
        return logs.seconds


def compare(untracked: Fit, tracked: Fit, steps: int, rounds: int) -> dict[str, float]:
    """Medians of the step in microseconds, and of the ratio to the untracked fits before and after it."""
    tracked(2)
    floors, times, ratios = [us_per_step(untracked, steps)], [], []
    for _ in range(rounds):
        times.append(us_per_step(tracked, steps))
        floors.append(us_per_step(untracked, steps))
        ratios.append(times[-1] / statistics.mean(floors[-2:]))
    ratio = {"ratio": statistics.median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios)}
    return {"us": statistics.median(times), "untracked_us": statistics.median(floors), **ratio}


def seconds_to_leave(tracker: str) -> float:
    """From the end of a fit of 10,000 batches to the end of its process, through the command line; all delivered by then."""
    n_epoch = -(-N_BATCH * BATCH // 1438)
    Path("timing.py").write_text(TIMES_ITS_END)
    overrides = [f"tracker={tracker}", f"n_epoch={n_epoch}", "callbacks=[signals]", "trusted_targets=[timing]"]
    command = [sys.executable, "-m", "nntrain.run", *overrides, "+callbacks.timing._target_=timing.TimesItsEnd"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    left = time.time()
    if "lacks" in done.stderr:
        raise SystemExit(f"Not everything was delivered: {done.stderr}")
    return left - float(FITTED_AT.findall(done.stdout)[-1])


def print_line(name: str, row: Mapping[str, float]) -> None:
    print(f"{name:46} {row['us']:8.0f} {row['untracked_us']:8.0f}", end="")
    print(f" {row['ratio']:7.2f} {row['ratio_min']:6.2f} {row['ratio_max']:6.2f}", flush=True)


def steps(dls: Any, rounds: int) -> dict[str, Any]:
    """The ratios, with trackers that work and with servers that do not."""
    figures: dict[str, Any] = {}
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        dead, silent = "http://127.0.0.1:9", f"http://127.0.0.1:{hanging.getsockname()[1]}"
        trackers = {"mlflow": MLflowTracker(), "wandb": WandbTracker()}
        broken = {"mlflow, server dead": MLflowTracker(dead), "mlflow, server hangs": MLflowTracker(silent)}
        for name, tracker in (trackers | broken).items():
            shipper = ShipperProcess()
            lines = Work(dls, shipper).lines(name, tracker)
            for line, (untracked, tracked) in list(lines.items())[: 3 if name in trackers else 1]:
                figures[line] = compare(untracked, tracked, len(dls.train), rounds)
                print_line(line, figures[line])
            left = shipper.finish(600 if name in trackers else 0)
            if bool(left) == (name in trackers):
                raise SystemExit(f"{name}: undelivered is {left}")
    return figures


def much(dls: Any) -> dict[str, float]:
    """What 20 numbers a batch cost: the median batch and the slowest hundredth, tracked less untracked, in microseconds."""
    shipper = ShipperProcess()
    work = Work(dls, shipper)
    runs = [(work.much(), work.much(work.tracked(MLflowTracker()))) for _ in range(5)]
    shipper.finish(600)
    return {name: statistics.median(at(tracked) - at(plain) for plain, tracked in runs) for name, at in SHARES.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="pairs of measurements for each variant")
    parser.add_argument("--json", type=os.path.abspath, help="where to write the figures")
    args = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["WANDB_MODE"] = "offline"
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        print(f"nntrain {nntrain.__version__}, torch {torch.__version__}, Python {platform.python_version()}, one thread")
        print(f"{'tracked':46} {'us/step':>8} {'plain':>8} {'ratio':>7} {'min':>6} {'max':>6}")
        figures = steps(digits(), args.rounds)
        figures["20 numbers a batch, added us"] = added = much(digits())
        print(f"20 numbers a batch: {added['median']:.0f} us more in the median, {added['p99']:.0f} us at the 99th percentile")
        for name in ("mlflow", "wandb"):
            figures[f"{name}, seconds to leave"] = left = statistics.median(seconds_to_leave(name) for _ in range(3))
            print(f"{name}: {left:.2f} s from the end of {N_BATCH} batches to the end of the process", flush=True)
        os.chdir("/")
    if args.json:
        Path(args.json).write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
