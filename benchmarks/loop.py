"""Compares the step time of a Learner with the step time of a plain PyTorch loop.

Both train a 64-50-10 MLP on the digits with SGD, batch size 64, in one process on one CPU thread.
Both compute loss and accuracy on the training and validation sets. The plain loop sums loss and
accuracy as tensors and reads the sums once per epoch. The step time is the difference
between the durations of a long and a short fit, divided by the difference in steps. Fixed costs
cancel out. The reported ratio is the median over all rounds. Run the benchmark with `make bench`,
or with `python benchmarks/loop.py --json out.json`.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

import nntrain
from nntrain import Callback, Learner, accuracy
from nntrain.callbacks import StopOnNaN
from nntrain.schedule import FlatCos
from nntrain.statistics import ActivationStats

LR = 0.05
BATCH = 64
SHORT, LONG = 4, 24

Fit = Callable[[int], nn.Module]


def digits() -> SimpleNamespace:
    data = load_digits()
    x, y = torch.tensor(data.data, dtype=torch.float32) / 16, torch.tensor(data.target)
    cut = lambda a, b: list(zip(x[a:b].split(BATCH), y[a:b].split(BATCH), strict=True))  # noqa: E731
    return SimpleNamespace(train=cut(0, 1438), valid=cut(1438, 1797))


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 50), nn.ReLU(), nn.Linear(50, 10))


def plain_loop(dls: SimpleNamespace, n_epoch: int) -> nn.Module:
    """Trains with an efficient handwritten PyTorch loop."""
    model = mlp()
    opt = torch.optim.SGD(model.parameters(), lr=LR)
    for _ in range(n_epoch):
        model.train()
        total, right, count = torch.zeros(()), torch.zeros((), dtype=torch.int64), 0
        for xb, yb in dls.train:
            pred = model(xb)
            loss = cross_entropy(pred, yb)
            loss.backward()
            opt.step()
            opt.zero_grad()
            total += loss.detach() * len(xb)
            right += (pred.detach().argmax(1) == yb).sum()
            count += len(xb)
        _ = total.item() / count, right.item() / count
        model.eval()
        total, right, count = torch.zeros(()), torch.zeros((), dtype=torch.int64), 0
        with torch.no_grad():
            for xb, yb in dls.valid:
                pred = model(xb)
                total += cross_entropy(pred, yb) * len(xb)
                right += (pred.argmax(1) == yb).sum()
                count += len(xb)
        _ = total.item() / count, right.item() / count
    return model


def learner(dls: SimpleNamespace, n_epoch: int, *cbs: Callback) -> nn.Module:
    """Trains the same model with a Learner."""
    learn = Learner(mlp(), dls, cross_entropy, lr=LR, metrics=[accuracy], cbs=cbs, device="cpu")
    learn.fit(n_epoch)
    return learn.model


def variants(dls: SimpleNamespace) -> dict[str, Fit]:
    return {
        "Learner": lambda n: learner(dls, n),
        "Learner, FlatCos": lambda n: learner(dls, n, FlatCos()),
        "Learner, FlatCos, StopOnNaN": lambda n: learner(dls, n, FlatCos(), StopOnNaN()),
        "Learner, ActivationStats every 10": lambda n: learner(dls, n, ActivationStats(every=10)),
    }


def seconds(fit: Fit, n_epoch: int) -> float:
    start = time.perf_counter()
    fit(n_epoch)
    return time.perf_counter() - start


def us_per_step(fit: Fit, steps: int) -> float:
    return 1e6 * (seconds(fit, LONG) - seconds(fit, SHORT)) / ((LONG - SHORT) * steps)


def compare(plain: Fit, fit: Fit, steps: int, rounds: int) -> dict[str, float]:
    """Returns median step times in microseconds, and the ratios of `fit` to `plain`.

    Each measurement of `fit` is divided by the mean of the measurements of `plain` before and after
    it.
    """
    plain(2), fit(2)
    floors, times, ratios = [us_per_step(plain, steps)], [], []
    for _ in range(rounds):
        times.append(us_per_step(fit, steps))
        floors.append(us_per_step(plain, steps))
        ratios.append(times[-1] / statistics.mean(floors[-2:]))
    return {
        "us": statistics.median(times),
        "plain_us": statistics.median(floors),
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
    }


def same_weights(plain: Fit, fit: Fit) -> bool:
    pairs = zip(plain(3).parameters(), fit(3).parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15, help="number of measurements per variant")
    parser.add_argument("--json", help="path of the JSON file with the results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    dls = digits()
    plain: Fit = lambda n: plain_loop(dls, n)  # noqa: E731
    made = variants(dls)
    if not same_weights(plain, made["Learner"]):
        raise SystemExit(
            "The Learner and the plain loop trained different weights, so their times are not "
            "comparable."
        )
    figures: dict[str, Any] = {}
    print(
        f"nntrain {nntrain.__version__}, torch {torch.__version__}, "
        f"Python {platform.python_version()}, one thread"
    )
    print(f"{'variant':36} {'us/step':>8} {'plain':>8} {'ratio':>7} {'min':>6} {'max':>6}")
    for name, fit in made.items():
        row = figures[name] = compare(plain, fit, len(dls.train), args.rounds)
        print(f"{name:36} {row['us']:8.0f} {row['plain_us']:8.0f}", end="")
        print(f" {row['ratio']:7.2f} {row['ratio_min']:6.2f} {row['ratio_max']:6.2f}")
    if args.json:
        with open(args.json, "w") as file:
            json.dump(figures, file, indent=1)


if __name__ == "__main__":
    main()
