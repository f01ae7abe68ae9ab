"""Small datasets that need no download: digits, diabetes and a noisy sine."""

import math
from typing import Any, TypeAlias

import torch
from torch import Tensor

from nntrain.data.checks import check_valid_pct
from nntrain.data.loaders import DataLoaders

Pair: TypeAlias = tuple[Tensor, Tensor]
"""Inputs and labels."""


def digits(
    batch_size: int = 64,
    valid_pct: float = 0.2,
    seed: int = 42,
    *,
    flat: bool = True,
    drop_last: bool = False,
    device: str | None = None,
) -> DataLoaders:
    """Returns loaders of 1797 real handwritten digits of 8x8 pixels, in 10 classes.

    Inputs have the shape `(batch, 64)` if `flat` is true and `(batch, 1, 8, 8)` if it is false,
    with values from 0 to 1. Labels have the shape `(batch,)`, with values from 0 to 9. Source:
    UCI's Optical Recognition of Handwritten Digits (Alpaydin and Kaynak, 1998), as shipped with
    scikit-learn.

    Args:
        batch_size: number of items in a batch.
        valid_pct: fraction of each class held out for validation.
        seed: seed of the split, independent of the global random number generators.
        flat: whether to flatten each image to one row of pixels.
        drop_last: whether to drop the last training batch if it is incomplete.
        device: device that stores the data; `None` stores it in CPU memory.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x, y = (
        torch.tensor(bunch.images, dtype=torch.float32).unsqueeze(1) / 16,
        torch.tensor(bunch.target),
    )
    train, valid = _split(x.flatten(1) if flat else x, y, valid_pct, seed, stratify=bunch.target)
    return DataLoaders.from_tensors(
        train, valid, batch_size=batch_size, drop_last=drop_last, device=device
    )


def diabetes(
    batch_size: int = 64,
    valid_pct: float = 0.2,
    seed: int = 42,
    *,
    drop_last: bool = False,
    device: str | None = None,
) -> DataLoaders:
    """Returns loaders of the diabetes dataset: 10 measurements of each of 442 patients.

    The regression target is a score of the disease progression after one year. Inputs have the
    shape `(batch, 10)`, targets `(batch, 1)`. Inputs and targets are standardized with the mean and
    standard deviation of the training set, so an error of 1 is one standard deviation of the score
    (about 77 points; scores range from 25 to 346). Source: Efron et al., 2004, Least Angle
    Regression, as shipped with scikit-learn.

    Args:
        batch_size: number of items in a batch.
        valid_pct: fraction of the patients held out for validation.
        seed: seed of the split, independent of the global random number generators.
        drop_last: whether to drop the last training batch if it is incomplete.
        device: device that stores the data; `None` stores it in CPU memory.
    """
    from sklearn.datasets import load_diabetes

    bunch = load_diabetes(scaled=False)
    x, y = (
        torch.tensor(bunch.data, dtype=torch.float32),
        torch.tensor(bunch.target, dtype=torch.float32).unsqueeze(1),
    )
    train, valid = _split(x, y, valid_pct, seed)
    moments = [(part.mean(dim=0), part.std(dim=0)) for part in train]
    train, valid = _standardized(train, moments), _standardized(valid, moments)
    return DataLoaders.from_tensors(
        train, valid, batch_size=batch_size, drop_last=drop_last, device=device
    )


def sine(
    batch_size: int = 64,
    valid_pct: float = 0.2,
    seed: int = 42,
    *,
    n_item: int = 1000,
    noise: float = 0.1,
    drop_last: bool = False,
    device: str | None = None,
) -> DataLoaders:
    """Returns loaders of points of y = sin(x) + noise, with x uniform from -pi to pi.

    Inputs and regression targets have the shape `(batch, 1)`. The lowest possible mean squared
    error is `noise` squared.

    Args:
        batch_size: number of items in a batch.
        valid_pct: fraction of the points held out for validation.
        seed: seed of the points and the split, independent of the global random number generators.
        n_item: total number of points.
        noise: standard deviation of the Gaussian noise, in units of y.
        drop_last: whether to drop the last training batch if it is incomplete.
        device: device that stores the data; `None` stores it in CPU memory.
    """
    generator = torch.Generator().manual_seed(seed)
    x = (torch.rand(n_item, 1, generator=generator) * 2 - 1) * math.pi
    y = x.sin() + noise * torch.randn(n_item, 1, generator=generator)
    train, valid = _split(x, y, valid_pct, seed)
    return DataLoaders.from_tensors(
        train, valid, batch_size=batch_size, drop_last=drop_last, device=device
    )


def _split(
    x: Tensor, y: Tensor, valid_pct: float, seed: int, stratify: Any = None
) -> tuple[Pair, Pair]:
    """Splits inputs and labels into training and validation sets, stratified by `stratify`."""
    from sklearn.model_selection import train_test_split

    check_valid_pct(valid_pct)
    index = train_test_split(
        range(len(x)), test_size=valid_pct, random_state=seed, stratify=stratify
    )
    train, valid = (torch.tensor(part) for part in index)
    return (x[train], y[train]), (x[valid], y[valid])


def _standardized(pair: Pair, moments: list[Pair]) -> Pair:
    (x, y), ((x_mean, x_std), (y_mean, y_std)) = pair, moments
    return (x - x_mean) / x_std, (y - y_mean) / y_std
