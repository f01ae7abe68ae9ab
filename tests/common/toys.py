"""Small learners and data shared by all tests."""

from typing import Any

import torch
from torch import nn

from nntrain import Learner
from nntrain.testing.toys import Lists, batches, regression_lists


def toy_learner(dls: Any = None, model: nn.Module | None = None, **kwargs: Any) -> Learner:
    """Returns a linear regression learner on the CPU with the same initial weights each time."""
    if model is None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = nn.Linear(1, 1)
    options: dict[str, Any] = {"lr": 0.05, "device": "cpu"} | kwargs
    loss_func = options.pop("loss_func", nn.functional.mse_loss)
    return Learner(model, regression_lists() if dls is None else dls, loss_func, **options)


def digits_lists(bs: int = 64) -> Lists:
    """Returns loaders of scikit-learn's digits: 1438 for training and 359 for validation."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = torch.tensor(digits.data, dtype=torch.float32) / 16
    y = torch.tensor(digits.target)
    return Lists(batches(x[:1438], y[:1438], bs), batches(x[1438:], y[1438:], bs))


def digits_mlp(seed: int = 0) -> nn.Module:
    """Returns a 64-50-10 network with a ReLU."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(64, 50), nn.ReLU(), nn.Linear(50, 10))
