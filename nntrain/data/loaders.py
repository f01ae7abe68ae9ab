"""Pairs of training and validation loaders."""

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
"""A function that builds a batch from a list of items."""

_VALID_SPLITS = ("validation", "valid", "val", "test")


class DataLoaders:
    """The training loader and the optional validation loader of a Learner.

    A loader can be any iterable of batches. The class methods create loaders from datasets or
    tensors. By default they shuffle the training data and do not drop batches. They never shuffle
    or drop validation data. The training order is drawn from torch's global generator or, if `seed`
    is set, from a separate generator.

    Args:
        train: iterable of training batches.
        valid: iterable of validation batches, or `None` to train without validation.
        n_inp: number of inputs in a tuple batch; `None` treats all items except the last as inputs.
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
        """Creates torch `DataLoader`s from datasets.

        Args:
            train: training data: a torch `Dataset`, or any object with `__len__` and `__getitem__`.
                An `IterableDataset` is not shuffled.
            valid: validation data of the same kind, or `None`.
            batch_size: number of items in a batch.
            shuffle: whether to shuffle the training data at the start of each epoch.
            drop_last: whether to drop the last training batch if it is incomplete.
            num_workers: number of worker processes that load data; 0 loads data in the main
                process.
            pin_memory: whether to use pinned memory; `None` uses it if the accelerator benefits
                from it.
            collate_fn: function that builds a batch from a list of items; `None` uses torch's
                default.
            seed: seed of a separate generator for the training order; `None` uses the global
                generator.
            n_inp: number of inputs in a tuple batch; `None` treats all items except the last as
                inputs.

        Raises:
            ValueError: if a dataset is empty or yields no batches.
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
        """Creates `TensorLoader`s from tensors of shape `(items, ...)`.

        Args:
            train: training tensors, such as `(x, y)`, or `(x,)` without labels.
            valid: validation data of the same kind, or `None`.
            batch_size: number of items in a batch.
            shuffle: whether to shuffle the training data at the start of each epoch.
            drop_last: whether to drop the last training batch if it is incomplete.
            device: device that stores the tensors. `None` leaves the tensors where they are, and
                the Learner moves each batch.
            seed: seed of a separate generator for the training order; `None` uses the global
                generator.
            n_inp: number of tensors that are inputs; `None` treats all tensors except the last as
                inputs.

        Raises:
            ValueError: if tensors differ in length, contain NaN or infinity, or yield no batches.
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
        """Creates loaders of images and labels from a Hugging Face `DatasetDict`.

        Args:
            dataset_dict: datasets by split name.
            batch_size: number of items in a batch.
            image_key: column that contains the images: PIL images, arrays
                `(height, width[, channels])` or tensors `(channels, height, width)`.
            label_key: column that contains the labels; `None` creates batches without labels.
            train_split: name of the training split.
            valid_split: name of the validation split; `None` uses the first existing split among
                validation, valid, val and test.
            collate_fn: function that builds a batch from a list of items; `None` uses
                `ImageCollate(image_key, label_key)`.
            kwargs: further arguments of `from_datasets`.

        Raises:
            ValueError: if a split or column is missing; the message lists the existing names.
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
        raise ValueError(
            f"The dataset has no split {split!r}: its splits are {', '.join(dataset_dict)}."
        )
    return dataset_dict[split]
