"""Computes the results of fastai's learning-rate finder for a comparison; writes lr_find.json.

Run this script in an environment without nntrain:
`pip install torch==2.13.0 "fastai==2.8.*" scikit-learn`. Data, models and seeds are the same as in
tests/common/toys.py. Scripted runs train a model whose losses are a given list of numbers.
"""

import json
import math
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import fastai
import torch
from fastai.callback.schedule import minimum, slide, steep, valley
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.optimizer import OptimWrapper
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

RULES = (valley, slide, minimum, steep)


def curves() -> dict[str, list[float]]:
    """Returns loss curves over 85 rates from 1e-6 to 3, and a few short curves."""
    at = [i / 84 for i in range(85)]
    dip = [2.3 - 1.8 / (1 + math.exp(-30 * (p - 0.7))) + 40 * max(p - 0.9, 0) ** 2 for p in at]
    return {
        "dip": dip,
        "noisy dip": [loss + 0.05 * math.sin(37 * i) for i, loss in enumerate(dip)],
        "two valleys": [1 + 0.5 * math.cos(12 * p) + 0.3 * p for p in at],
        "flat": [2.5] * 85,
        "falling": [3 - p * p for p in at],
        "rising": [1 + p * p for p in at],
        "steps": [3 - 0.03 * (i // 10) ** 2 for i in range(85)],
        "16 losses": dip[40:56],
        "17 losses": dip[60:77],
        "negative": [-loss for loss in dip],
    }


def rounded_curves() -> dict[str, list[float]]:
    # Six digits, so that single precision (fastai) has the same ties as double precision.
    return {name: [float(f"{loss:.6g}") for loss in losses] for name, losses in curves().items()}


def rounded(value: float) -> float:
    return float(f"{value:.8g}")


def suggest_all(lrs: list[float], losses: list[float]) -> dict[str, float]:
    rates, values = torch.tensor(lrs), torch.tensor(losses)
    return {rule.__name__: rule(rates, values, len(lrs))[0] for rule in RULES}


def short_valleys() -> dict[str, Any]:
    """Returns short curves for the valley rule, which needs fewer losses than the other rules."""
    cases = {
        "one": [1.0],
        "two": [2.0, 1.0],
        "three": [3.0, 2.0, 1.0],
        "four": [3.0, 2.0, 2.5, 1.0],
        "rising": [1.0, 2.0],
    }
    rates = [10.0**i for i in range(4)]
    return {
        name: {
            "lrs": rates[: len(losses)],
            "losses": losses,
            "valley": valley(rates[: len(losses)], losses, 0)[0],
        }
        for name, losses in cases.items()
    }


def scripts() -> dict[str, dict[str, Any]]:
    """Returns the raw losses of each batch and the arguments of lr_find."""
    falling = [2.5 - 0.015 * i + 0.02 * math.sin(11 * i) for i in range(100)]
    nan, inf = math.nan, math.inf
    return {
        "falling": {"raw": falling},
        "diverges": {"raw": falling[:60] + [2.0**i for i in range(40)]},
        "diverges, told to go on": {
            "raw": falling[:60] + [2.0**i for i in range(40)],
            "stop_div": False,
        },
        "NaN tail": {"raw": falling[:70] + [nan] * 30},
        "NaN within the last five": {"raw": falling[:97] + [nan] * 3},
        "infinite tail": {"raw": falling[:70] + [inf] * 30},
        "infinite tail, told to go on": {"raw": falling[:70] + [inf] * 30, "stop_div": False},
        "one infinite loss, told to go on": {
            "raw": [*falling[:70], inf, *falling[71:]],
            "stop_div": False,
        },
        "60 batches": {"raw": falling[:60], "num_it": 60, "start_lr": 1e-5, "end_lr": 1},
    }


def learner(
    dls: DataLoaders, model: nn.Module, loss_func: Callable[..., Tensor], opt: type, **kwargs: Any
) -> Learner:
    opt_func = partial(OptimWrapper, opt=partial(opt, **kwargs))
    return Learner(
        dls, model, loss_func=loss_func, opt_func=opt_func, lr=0.05, path=tempfile.mkdtemp()
    )


def found(learn: Learner, **kwargs: Any) -> dict[str, Any]:
    with learn.no_bar():
        suggested = learn.lr_find(show_plot=False, suggest_funcs=RULES, **kwargs)
    losses = [rounded(float(loss)) for loss in learn.recorder.losses]
    n = next((i for i, loss in enumerate(losses) if math.isnan(loss)), len(losses))
    lrs = [rounded(lr) for lr in learn.recorder.lrs]
    return {
        "kwargs": kwargs,
        "lrs": lrs[:n],
        "losses": losses[:n],
        "suggestions": suggested._asdict(),
    }


def scripted(raw: list[float], **kwargs: Any) -> dict[str, Any]:
    values: Iterator[float] = iter(raw)
    x = torch.ones(40, 1)
    train = DataLoader(TensorDataset(x, x), 8)
    learn = learner(
        DataLoaders(train, train),
        nn.Linear(1, 1),
        lambda pred, target: 0 * pred.sum() + next(values),
        torch.optim.SGD,
    )
    return {"raw": raw, **found(learn, **kwargs)}


def digits() -> DataLoaders:
    data = load_digits()
    x, y = torch.tensor(data.data, dtype=torch.float32) / 16, torch.tensor(data.target)
    train, valid = TensorDataset(x[:1438], y[:1438]), TensorDataset(x[1438:], y[1438:])
    return DataLoaders(DataLoader(train, 64), DataLoader(valid, 64))


def digits_mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 50), nn.ReLU(), nn.Linear(50, 10))


def digits_run(opt: type, opt_kwargs: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
    learn = learner(digits(), digits_mlp(), nn.functional.cross_entropy, opt, **opt_kwargs)
    return {"opt": opt.__name__, "opt_kwargs": opt_kwargs, **found(learn, **kwargs)}


def reference() -> dict[str, Any]:
    rates = [rounded(1e-6 * (3 / 1e-6) ** (i / 84)) for i in range(85)]
    return {
        "versions": {"fastai": fastai.__version__, "torch": torch.__version__},
        "curves": {
            name: {
                "lrs": rates[: len(losses)],
                "losses": losses,
                "suggestions": suggest_all(rates[: len(losses)], losses),
            }
            for name, losses in rounded_curves().items()
        },
        "short valleys": short_valleys(),
        "scripts": {name: scripted(**case) for name, case in scripts().items()},
        "runs": {
            "SGD": digits_run(torch.optim.SGD, {}),
            "SGD with momentum, diverging": digits_run(
                torch.optim.SGD, {"momentum": 0.9}, end_lr=1000
            ),
            "Adam": digits_run(torch.optim.Adam, {}),
            "Adam, 40 batches": digits_run(
                torch.optim.Adam, {}, num_it=40, start_lr=1e-5, end_lr=1
            ),
        },
    }


if __name__ == "__main__":
    path = Path(__file__).with_name("lr_find.json")
    path.write_text(json.dumps(reference(), indent=None, separators=(",", ":")) + "\n")
