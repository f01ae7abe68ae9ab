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
from nntrain.integrations.launch import shared_shipper
from nntrain.integrations.mlflow import MLflowTracker
from nntrain.integrations.wandb import WandbTracker
from nntrain.statistics import ActivationStats

N_BATCH = 10_000
FITTED_AT = re.compile(r"fitted at ([\d.]+)")

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


def fits(dls: Any, trackers: Mapping[str, Tracker]) -> dict[str, tuple[Fit, Fit]]:
    """For each line of the table: the untracked fit and the tracked one."""
    folders = (f"runs/{i}" for i in itertools.count())

    def fit(n_epoch: int, *cbs: Callback) -> nn.Module:
        learn = Learner(mlp(), dls, cross_entropy, lr=LR, metrics=[accuracy], device="cpu", cbs=cbs)
        learn.fit(n_epoch)
        return learn.model

    def tracked(name: str) -> TrackerCallback:
        return TrackerCallback({name: trackers[name]}, next(folders))

    plain: Fit = lambda n: fit(n)  # noqa: E731
    watched: Fit = lambda n: fit(n, ActivationStats(every=10))  # noqa: E731
    lines: dict[str, tuple[Fit, Fit]] = {}
    for name in trackers:
        lines[name] = plain, lambda n, name=name: fit(n, tracked(name))
        both: Fit = lambda n, name=name: fit(n, tracked(name), ActivationStats(every=10))  # noqa: E731
        lines[f"{name}, ActivationStats in both"] = watched, both
        lines[f"{name}, ActivationStats in the tracked one only"] = plain, both
    return lines


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="pairs of measurements for each variant")
    parser.add_argument("--json", type=os.path.abspath, help="where to write the figures")
    args = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["WANDB_MODE"] = "offline"
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        print(f"nntrain {nntrain.__version__}, torch {torch.__version__}, Python {platform.python_version()}, one thread")
        print(f"{'tracked':46} {'us/step':>8} {'plain':>8} {'ratio':>7} {'min':>6} {'max':>6}")
        dls = digits()
        for name, (untracked, tracked) in fits(dls, {"mlflow": MLflowTracker(), "wandb": WandbTracker()}).items():
            row = figures[name] = compare(untracked, tracked, len(dls.train), args.rounds)
            print(f"{name:46} {row['us']:8.0f} {row['untracked_us']:8.0f}", end="")
            print(f" {row['ratio']:7.2f} {row['ratio_min']:6.2f} {row['ratio_max']:6.2f}", flush=True)
        shared_shipper().finish(600)
        for name in ("mlflow", "wandb"):
            times = [seconds_to_leave(name) for _ in range(3)]
            figures[f"{name}, seconds to leave"] = statistics.median(times)
            print(f"{name}: {statistics.median(times):.2f} s from the end of {N_BATCH} batches to the end of the process")
        os.chdir("/")
    if args.json:
        Path(args.json).write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
