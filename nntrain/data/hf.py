"""Datasets from Hugging Face's `datasets` library."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from nntrain.data.images import ImageCollate
from nntrain.data.loaders import DataLoaders

_ROWS = 1000
"""The number of rows to decode in one group."""


def fashion_mnist(
    path: str = "zalando-datasets/fashion_mnist",
    batch_size: int = 64,
    *,
    flat: bool = False,
    mean: float = 0.2860,
    std: float = 0.3530,
    drop_last: bool = False,
    device: str | None = None,
) -> DataLoaders:
    """Returns loaders of Fashion-MNIST: 70000 images of 28x28 pixels, in 10 classes.

    The `test` split (10000 images) is used for validation. Inputs are standardized and have the
    shape `(batch, 1, 28, 28)`, or `(batch, 784)` if `flat` is true. Labels have the shape
    `(batch,)`, with values from 0 to 9. The images are decoded once and stored in memory (220 MB).
    Source: Xiao et al., 2017, https://arxiv.org/abs/1708.07747.

    Args:
        path: name of the dataset on the Hugging Face Hub, or a folder written by
            `DatasetDict.save_to_disk`. The dataset must have the splits `train` and `test` and the
            columns `image` and `label`.
        batch_size: number of items in a batch.
        flat: whether to flatten each image to one row of pixels.
        mean: mean of the training pixels after scaling to [0, 1]; used to normalize images.
        std: standard deviation of the training pixels after scaling to [0, 1]; used to normalize
            images.
        drop_last: whether to drop the last training batch if it is incomplete.
        device: device that stores the data; `None` stores it in CPU memory.

    Raises:
        ImportError: if the `datasets` library is not installed.
        ValueError: if the dataset cannot be loaded, or if a split or column is missing.
    """
    dataset_dict = load_dataset_dict(path)
    missing = [split for split in ("train", "test") if split not in dataset_dict]
    if missing:
        raise ValueError(
            f"The dataset {path!r} has no split {missing[0]!r}: "
            f"its splits are {', '.join(dataset_dict)}."
        )
    collate = ImageCollate(mean=mean, std=std)
    train, valid = (_decoded(dataset_dict[split], collate, flat) for split in ("train", "test"))
    return DataLoaders.from_tensors(
        train, valid, batch_size=batch_size, drop_last=drop_last, device=device
    )


def load_dataset_dict(path: str) -> Mapping[str, Any]:
    """Loads a dataset and returns its splits by name.

    `path` is a folder written by `DatasetDict.save_to_disk`, or a name on the Hugging Face Hub.

    Raises:
        ImportError: if the `datasets` library is not installed.
        ValueError: if the dataset cannot be loaded.
    """
    datasets = _import_datasets()
    try:
        if (Path(path) / "dataset_dict.json").is_file():
            return dict(datasets.load_from_disk(path))
        return dict(datasets.load_dataset(path))
    except (OSError, ValueError) as err:  # unreachable Hub, unreadable files or invalid name
        reason = str(err).partition("\n")[0].rstrip(".")
        raise ValueError(
            f"The dataset {path!r} could not be loaded ({reason}): "
            "pass a folder written by DatasetDict.save_to_disk, "
            "or a name on the Hugging Face Hub, and check your connection to the Hub."
        ) from err


def _import_datasets() -> ModuleType:
    try:
        import datasets
    except ImportError as err:
        raise ImportError(
            "fashion_mnist needs the datasets library: pip install 'nntrain[hf]'."
        ) from err
    module: ModuleType = datasets
    return module


def _decoded(dataset: Any, collate: ImageCollate, flat: bool) -> list[Tensor]:
    """Returns all images and labels of a split; decodes images in groups to limit memory use."""
    groups = [
        collate([dataset[i] for i in range(start, min(start + _ROWS, len(dataset)))])
        for start in range(0, len(dataset), _ROWS)
    ]
    images, labels = (torch.cat(parts) for parts in zip(*groups, strict=True))
    return [images.flatten(1) if flat else images, labels]
