"""Small data that needs no download: digits, diabetes and a noisy sine."""

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
    """1797 real handwritten digits of 8x8 pixels, in 10 classes.

    Inputs are `(batch, 64)`, or `(batch, 1, 8, 8)` unless `flat`, from 0 to 1; labels `(batch,)`, from 0 to 9.
    Source: UCI's Optical Recognition of Handwritten Digits (Alpaydin and Kaynak, 1998), as scikit-learn ships it.

    Args:
        batch_size: items in a batch.
        valid_pct: share of each class that is held out for validation.
        seed: of the split, which does not depend on the global generators.
        flat: give each image as one row of pixels.
        drop_last: leave out the last training batch if it is smaller.
        device: where to hold the data; `None` holds it in main memory.
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
    """10 measurements of 442 patients, and how far their diabetes went in a year (regression).

    Inputs are `(batch, 10)`; targets `(batch, 1)`. Each column is in standard deviations from its mean, both of the
    training part, so that an error of 1 is one standard deviation of the score (about 77 points of 25 to 346).
    Source: Efron et al., 2004, Least Angle Regression, as scikit-learn ships it.

    Args:
        batch_size: items in a batch.
        valid_pct: share of the patients held out for validation.
        seed: of the split, which does not depend on the global generators.
        drop_last: leave out the last training batch if it is smaller.
        device: where to hold the data; `None` holds it in main memory.
    """
    from sklearn.datasets import load_diabetes

    bunch = load_diabetes(scaled=False)
    x, y = (
        torch.tensor(bunch.data, dtype=torch.float32),
        torch.tensor(bunch.target, dtype=torch.float32).unsqueeze(1),
    )
    train, valid = _split(x, y, valid_pct, seed)
    moments = [(part.mean(dim=0), part.std(dim=0)) for part in train]
    train, valid = _standardised(train, moments), _standardised(valid, moments)
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
    """Points of y = sin(x) + noise, with x even over one period, from -pi to pi (regression).

    Inputs and targets are `(batch, 1)`; the best possible mean squared error is `noise` squared.

    Args:
        batch_size: items in a batch.
        valid_pct: share of the points held out for validation.
        seed: of the points and the split, which do not depend on the global generators.
        n_item: points in all.
        noise: standard deviation of the normal noise, in units of y.
        drop_last: leave out the last training batch if it is smaller.
        device: where to hold the data; `None` holds it in main memory.
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
    """Inputs and labels to train and to validate on; with `stratify`, of each class alike."""
    from sklearn.model_selection import train_test_split

    check_valid_pct(valid_pct)
    index = train_test_split(
        range(len(x)), test_size=valid_pct, random_state=seed, stratify=stratify
    )
    train, valid = (torch.tensor(part) for part in index)
    return (x[train], y[train]), (x[valid], y[valid])


def _standardised(pair: Pair, moments: list[Pair]) -> Pair:
    (x, y), ((x_mean, x_std), (y_mean, y_std)) = pair, moments
    return (x - x_mean) / x_std, (y - y_mean) / y_std
