"""A small dataset and a small learner for fast tests."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nntrain.core.callback import Callback
from nntrain.learner import Learner


@dataclass
class Lists:
    """Data loaders in the form of plain lists of batches."""

    train: Iterable[Any]
    valid: Iterable[Any] | None


def batches(x: Tensor, y: Tensor, bs: int) -> list[tuple[Tensor, Tensor]]:
    """Splits tensors into batches of `bs` items, in order; the last batch may be smaller."""
    return list(zip(torch.split(x, bs), torch.split(y, bs), strict=True))


def regression_lists(n_train: int = 40, n_valid: int = 20, bs: int = 8, seed: int = 0) -> Lists:
    """Returns batches of x `(bs, 1)` and y = 2x + 1 plus noise `(bs, 1)`."""
    gen = torch.Generator().manual_seed(seed)
    x = torch.randn(n_train + n_valid, 1, generator=gen)
    y = 2 * x + 1 + 0.1 * torch.randn(n_train + n_valid, 1, generator=gen)
    return Lists(batches(x[:n_train], y[:n_train], bs), batches(x[n_train:], y[n_train:], bs))


def small_learner(*cbs: Callback, bs: int = 8, **options: Any) -> Learner:
    """Returns a Learner on the CPU for `regression_lists`; the initial weights are always the same.

    The model has a dropout layer and the optimizer uses momentum, so that tests can detect changes
    in the random numbers and in the optimizer state.

    Args:
        cbs: callbacks to add.
        bs: the batch size.
        options: other arguments of `Learner`, for example `metrics=[...]`.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(1, 4), nn.ReLU(), nn.Dropout(0.2), nn.Linear(4, 1))
    opt_func = partial(torch.optim.SGD, momentum=0.9)
    settings = {"lr": 0.02, "opt_func": opt_func, "device": "cpu", "cbs": cbs, **options}
    return Learner(model, regression_lists(bs=bs), nn.functional.mse_loss, **settings)


def flat_weights(model: nn.Module) -> Tensor:
    """Returns a copy of all model parameters as a vector `(n,)`."""
    return torch.cat([param.detach().flatten() for param in model.parameters()]).clone()
