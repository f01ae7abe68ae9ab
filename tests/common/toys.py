"""Small learners and data that every test shares."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nntrain import Learner


@dataclass
class Lists:
    """Loaders that are plain lists of batches."""

    train: Iterable[Any]
    valid: Iterable[Any] | None


def batches(x: Tensor, y: Tensor, bs: int) -> list[tuple[Tensor, Tensor]]:
    """The tensors cut into batches, in order; the last one may be smaller."""
    return list(zip(x.split(bs), y.split(bs), strict=True))


def regression_lists(n_train: int = 40, n_valid: int = 20, bs: int = 8, seed: int = 0) -> Lists:
    """y = 2x + 1 with a little noise."""
    gen = torch.Generator().manual_seed(seed)
    x = torch.randn(n_train + n_valid, 1, generator=gen)
    y = 2 * x + 1 + 0.1 * torch.randn(n_train + n_valid, 1, generator=gen)
    return Lists(batches(x[:n_train], y[:n_train], bs), batches(x[n_train:], y[n_train:], bs))


def toy_learner(dls: Any = None, model: nn.Module | None = None, **kwargs: Any) -> Learner:
    """A linear regression on the CPU, the same weights each time."""
    if model is None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = nn.Linear(1, 1)
    options: dict[str, Any] = {"lr": 0.05, "device": "cpu"} | kwargs
    loss_func = options.pop("loss_func", nn.functional.mse_loss)
    return Learner(model, regression_lists() if dls is None else dls, loss_func, **options)


def digits_lists(bs: int = 64) -> Lists:
    """scikit-learn's 1797 real digits, scaled to 0..1, the first 1438 to train on."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = torch.tensor(digits.data, dtype=torch.float32) / 16
    y = torch.tensor(digits.target)
    return Lists(batches(x[:1438], y[:1438], bs), batches(x[1438:], y[1438:], bs))


def digits_mlp(seed: int = 0) -> nn.Module:
    """64-50-10 with a ReLU."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(64, 50), nn.ReLU(), nn.Linear(50, 10))
