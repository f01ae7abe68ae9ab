"""Runs the fits of make_learner_reference.py with nntrain, and loads fastai's results."""

import json
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nntrain import Learner, accuracy
from nntrain.core.optimizer import split_by_children
from tests.common.toys import (
    Lists,
    batches,
    digits_lists,
    digits_mlp,
    regression_lists,
    toy_learner,
)

FOLDER = Path(__file__).parent.parent / "reference"


@cache
def reference(name: str) -> Any:
    """Returns the content of `tests/reference/NAME.json`."""
    return json.loads((FOLDER / f"{name}.json").read_text())


def small_digits_lists() -> Lists:
    """Returns the first 440 digits in batches of 64: 340 for training and 100 for validation."""
    whole = digits_lists(bs=1438)
    x, y = whole.train[0]  # type: ignore[index]
    return Lists(batches(x[:340], y[:340], 64), batches(x[340:440], y[340:440], 64))


def three_layers() -> nn.Module:
    """Returns a 1-4-4-1 network without activations."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(1, 4), nn.Linear(4, 4), nn.Linear(4, 1))


def three_groups_learner() -> Learner:
    """Returns a regression learner with one parameter group per layer."""
    return toy_learner(regression_lists(), three_layers(), splitter=split_by_children)


def digits_learner(**kwargs: Any) -> Learner:
    """Returns a learner for the digits with Adam."""
    options: dict[str, Any] = {
        "lr": 1e-2,
        "opt_func": torch.optim.Adam,
        "metrics": [accuracy],
        "device": "cpu",
    } | kwargs
    return Learner(digits_mlp(), small_digits_lists(), nn.functional.cross_entropy, **options)


def _momentum_learner() -> Learner:
    return toy_learner(opt_func=partial(torch.optim.SGD, momentum=0.9))


FITS: dict[str, tuple[Callable[[], Learner], Callable[[Learner], object]]] = {
    "regression_sgd": (toy_learner, lambda learn: learn.fit(3)),
    "regression_momentum_wd": (_momentum_learner, lambda learn: learn.fit(2, lr=0.02, wd=0.1)),
    "slice_first_last": (three_groups_learner, lambda learn: learn.fit(2, lr=slice(1e-3, 1e-1))),
    "slice_last": (three_groups_learner, lambda learn: learn.fit(2, lr=slice(1e-1))),
    "slice_one_cycle": (
        three_groups_learner,
        lambda learn: learn.fit_one_cycle(2, slice(1e-3, 1e-1)),
    ),
    "digits_adam": (digits_learner, lambda learn: learn.fit(2)),
    "digits_one_cycle": (digits_learner, lambda learn: learn.fit_one_cycle(3)),
    "digits_one_cycle_options": (
        digits_learner,
        lambda learn: learn.fit_one_cycle(
            2, 5e-3, div=10, div_final=100, pct_start=0.4, moms=(0.9, 0.8, 0.7)
        ),
    ),
    "digits_flat_cos": (digits_learner, lambda learn: learn.fit_flat_cos(3)),
    "digits_flat_cos_options": (
        digits_learner,
        lambda learn: learn.fit_flat_cos(2, 5e-3, div_final=10, pct_start=0.5),
    ),
    "digits_sgdr": (digits_learner, lambda learn: learn.fit_sgdr(2, 1)),
    "digits_sgdr_options": (digits_learner, lambda learn: learn.fit_sgdr(2, 1, 5e-3, cycle_mult=3)),
}
"""Functions that create and fit each learner, by its name in learner.json."""


@cache
def fitted(name: str) -> Learner:
    """Returns the learner `name` after its fit. Tests share the learner, so do not change it."""
    make, fit = FITS[name]
    learn = make()
    fit(learn)
    return learn
