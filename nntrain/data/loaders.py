"""The pair of loaders that a Learner trains and validates on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from nntrain.core.device import resolve_device
from nntrain.data.checks import check_batch_size, check_batches
from nntrain.data.images import ImageCollate
from nntrain.data.tensors import TensorLoader

Collate: TypeAlias = Callable[[list[Any]], Any]
"""A function that makes a batch from a list of items."""

_VALID_SPLITS = ("validation", "valid", "val", "test")


class DataLoaders:
    """The training batches and, unless `valid` is `None`, the validation batches.

    Each may be any iterable of batches; the class methods make them. By default the training data
    is shuffled and no batch is dropped; validation data is never shuffled or dropped. The order
    comes from torch's global generator, or with `seed` from a separate generator of the training
    loader.

    Args:
        train: batches to train on.
        valid: batches to validate on.
        n_inp: number of inputs in a tuple batch; `None` means all items but the last.
    """

    def __init__(
        self, train: Iterable[Any], valid: Iterable[Any] | None = None, n_inp: int | None = None
    ) -> None:
        self.train, self.valid, self.n_inp = train, valid, n_inp

    @classmethod
    def from_datasets(
        cls,
        train: Any,
        valid: Any = None,
        *,
        batch_size: int = 64,
        shuffle: bool = True,
        drop_last: bool = False,
        num_workers: int = 0,
        pin_memory: bool | None = None,
        collate_fn: Collate | None = None,
        seed: int | None = None,
        n_inp: int | None = None,
    ) -> DataLoaders:
        """Makes torch `DataLoader`s.

        Args:
            train: a torch `Dataset`, or any object with `__len__` and `__getitem__`; an
                `IterableDataset` keeps its own order.
            valid: the same for validation, or `None`.
            batch_size: number of items in a batch.
            shuffle: whether to reshuffle the training data in each epoch.
            drop_last: whether to drop the last training batch if it is smaller.
            num_workers: number of processes that load data; 0 loads it in the current process.
            pin_memory: whether to use pinned memory; `None` uses it if an accelerator benefits.
            collate_fn: makes a batch from a list of items; `None` uses torch's default.
            seed: seed of the training order, which then does not depend on the global generator.
            n_inp: number of inputs in a tuple batch; `None` means all items but the last.

        Raises:
            ValueError: if a dataset is empty or yields no batch.
        """
        _check_dataset(train, batch_size, drop_last, "training set")
        pin = _gains_by_pinning() if pin_memory is None else pin_memory
        shared: dict[str, Any] = {
            "batch_size": batch_size,
            "num_workers": num_workers,
            "collate_fn": collate_fn,
        }
        shared["pin_memory"] = pin
        shuffled = shuffle and not isinstance(train, IterableDataset)
        train_dl = DataLoader(
            train, shuffle=shuffled, drop_last=drop_last, generator=_generator(seed), **shared
        )
        if valid is None:
            return cls(train_dl, None, n_inp)
        _check_dataset(valid, batch_size, False, "validation set")
        return cls(train_dl, DataLoader(valid, **shared), n_inp)

    @classmethod
    def from_tensors(
        cls,
        train: Sequence[Tensor],
        valid: Sequence[Tensor] | None = None,
        *,
        batch_size: int = 64,
        shuffle: bool = True,
        drop_last: bool = False,
        device: torch.device | str | None = None,
        seed: int | None = None,
        n_inp: int | None = None,
    ) -> DataLoaders:
        """Makes `TensorLoader`s from tensors `(items, ...)`.

        Args:
            train: the tensors to train on, such as `(x, y)`, or `(x,)` without labels.
            valid: the same for validation, or `None`.
            batch_size: number of items in a batch.
            shuffle: whether to reshuffle the training data in each epoch.
            drop_last: whether to drop the last training batch if it is smaller.
            device: device that holds the tensors; `None` does not move them, and the Learner moves
                each batch.
            seed: seed of the training order, which then does not depend on the global generator.
            n_inp: number of tensors that are inputs; `None` means all but the last.

        Raises:
            ValueError: if tensors differ in length, hold NaN or infinity, or yield no batch.
        """
        train_dl = TensorLoader(
            *_held_on(train, device),
            batch_size=batch_size,
            shuffle=shuffle,
            drop_last=drop_last,
            generator=_generator(seed),
            name="training set",
        )
        if valid is None:
            return cls(train_dl, None, n_inp)
        return cls(
            train_dl,
            TensorLoader(*_held_on(valid, device), batch_size=batch_size, name="validation set"),
            n_inp,
        )

    @classmethod
    def from_dataset_dict(
        cls,
        dataset_dict: Mapping[str, Any],
        *,
        batch_size: int = 64,
        image_key: str = "image",
        label_key: str | None = "label",
        train_split: str = "train",
        valid_split: str | None = None,
        collate_fn: Collate | None = None,
        **kwargs: Any,
    ) -> DataLoaders:
        """Makes loaders of images and labels from a Hugging Face `DatasetDict`.

        Args:
            dataset_dict: datasets by split name.
            batch_size: number of items in a batch.
            image_key: column of the images: PIL images, arrays `(height, width[, channels])` or
                tensors `(channels, height, width)`.
            label_key: column of the labels; `None` makes batches without labels.
            train_split: split to train on.
            valid_split: split to validate on; `None` uses the first that exists of validation,
                valid, val and test.
            collate_fn: makes a batch from a list of items; `None` uses
                `ImageCollate(image_key, label_key)`.
            kwargs: arguments of `from_datasets`.

        Raises:
            ValueError: if a split or column is missing; the message lists the existing ones.
        """
        train = _split_of(dataset_dict, train_split)
        if valid_split is None:
            valid_split = next((name for name in _VALID_SPLITS if name in dataset_dict), None)
        valid = None if valid_split is None else _split_of(dataset_dict, valid_split)
        collate = collate_fn or ImageCollate(image_key, label_key)
        return cls.from_datasets(train, valid, batch_size=batch_size, collate_fn=collate, **kwargs)


def _check_dataset(dataset: Any, batch_size: int, drop_last: bool, name: str) -> None:
    if isinstance(dataset, Sized):
        check_batches(len(dataset), batch_size, drop_last, name)
    else:
        check_batch_size(batch_size)


def _generator(seed: int | None) -> torch.Generator | None:
    return None if seed is None else torch.Generator().manual_seed(seed)


def _gains_by_pinning() -> bool:
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return accelerator is not None and accelerator.type != "mps"


def _held_on(tensors: Sequence[Tensor], device: torch.device | str | None) -> list[Tensor]:
    if device is None:
        return list(tensors)
    resolved = resolve_device(device)
    return [tensor.to(resolved) for tensor in tensors]


def _split_of(dataset_dict: Mapping[str, Any], split: str) -> Any:
    if split not in dataset_dict:
        raise ValueError(f"There is no split {split!r}: the dataset has {', '.join(dataset_dict)}.")
    return dataset_dict[split]
