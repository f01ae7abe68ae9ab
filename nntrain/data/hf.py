"""Data through Hugging Face's `datasets` library."""

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
"""Rows that are decoded at once."""


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
    """70000 pictures of clothes of 28x28 pixels, in 10 classes; the `test` split of 10000 is what to validate on.

    Inputs are `(batch, 1, 28, 28)`, or `(batch, 784)` if `flat`, standardised; labels `(batch,)`, from 0 to 9. All is
    decoded once and held in memory (220 MB). Source: Xiao et al., 2017, https://arxiv.org/abs/1708.07747.

    Args:
        path: name of the dataset on the Hugging Face Hub, or a folder written by `DatasetDict.save_to_disk`, with the
            splits `train` and `test` and the columns `image` and `label`.
        batch_size: items in a batch.
        flat: give each image as one row of pixels.
        mean: of the training pixels, where they go from 0 to 1; it is subtracted.
        std: standard deviation of the training pixels; they are divided by it.
        drop_last: leave out the last training batch if it is smaller.
        device: where to hold the data; `None` holds it in main memory.

    Raises:
        ImportError: if the `datasets` library is missing.
        ValueError: if the dataset cannot be loaded, or has not these splits and columns.
    """
    dataset_dict = load_dataset_dict(path)
    missing = [split for split in ("train", "test") if split not in dataset_dict]
    if missing:
        raise ValueError(f"{path} has no split {missing[0]!r}: it has {', '.join(dataset_dict)}.")
    collate = ImageCollate(mean=mean, std=std)
    train, valid = (_decoded(dataset_dict[split], collate, flat) for split in ("train", "test"))
    return DataLoaders.from_tensors(
        train, valid, batch_size=batch_size, drop_last=drop_last, device=device
    )


def load_dataset_dict(path: str) -> Mapping[str, Any]:
    """The splits of a dataset: from a folder written by `DatasetDict.save_to_disk`, else from the Hugging Face Hub.

    Raises:
        ImportError: if the `datasets` library is missing.
        ValueError: if it can be loaded from neither.
    """
    datasets = _import_datasets()
    try:
        if (Path(path) / "dataset_dict.json").is_file():
            return dict(datasets.load_from_disk(path))
        return dict(datasets.load_dataset(path))
    except (OSError, ValueError) as err:  # of the hub, of the disk, or of a name that is none
        reason = str(err).partition("\n")[0].rstrip(".")
        raise ValueError(
            f"The dataset {path!r} could not be loaded ({reason}): "
            "give a folder written by DatasetDict.save_to_disk, or a name on the Hugging Face Hub while it can be reached."
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
    """All images and labels of a split; decoded in groups, so that PIL images do not pile up."""
    groups = [
        collate([dataset[i] for i in range(start, min(start + _ROWS, len(dataset)))])
        for start in range(0, len(dataset), _ROWS)
    ]
    images, labels = (torch.cat(parts) for parts in zip(*groups, strict=True))
    return [images.flatten(1) if flat else images, labels]
