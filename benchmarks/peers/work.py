"""Defines the trial that the other libraries run: it trains nntrain's default MLP on the digits.

The trial reports the validation accuracy after each epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from nntrain import Callback, Learner, accuracy
from nntrain.core.rng import seed_everything
from nntrain.data import digits
from nntrain.models import mlp
from nntrain.schedule import OneCycle

LR, HIDDEN, OPTIMIZERS = (1e-4, 1.0), (32, 64, 128, 256), ("sgd", "adam", "adamw")
"""The search space: range of the learning rate, choices of hidden units and optimizers."""

OPT_FUNCS: Mapping[str, Callable[..., Any]] = {
    "sgd": lambda params, lr: torch.optim.SGD(params, lr=lr, momentum=0.9),
    "adam": lambda params, lr: torch.optim.Adam(params, lr=lr, betas=(0.9, 0.99)),
    "adamw": lambda params, lr: torch.optim.AdamW(params, lr=lr, betas=(0.9, 0.99)),
}


class Reports(Callback):
    """Passes the accuracy of each epoch to a function, which stops the trial if it raises."""

    order = 100

    def __init__(self, report: Callable[[float, int], None]) -> None:
        self.report = report

    def after_epoch(self, learn: Learner) -> None:
        self.report(learn.recorder.last("valid/accuracy"), learn.epoch + 1)


def train(
    params: Mapping[str, Any], n_epoch: int, report: Callable[[float, int], None] | None = None
) -> float:
    """Trains like `python -m nntrain.run callbacks=none tracker=none`; returns the accuracy."""
    torch.set_num_threads(1)
    seed_everything(42)
    learn = Learner(
        mlp(n_in=64, hidden=params["hidden"], n_out=10),
        digits(),
        cross_entropy,
        lr=params["lr"],
        opt_func=OPT_FUNCS[params["optimizer"]],
        metrics=[accuracy],
        cbs=[OneCycle(), *([] if report is None else [Reports(report)])],
        device="cpu",
    )
    return learn.fit(n_epoch).metrics["valid/accuracy"]
