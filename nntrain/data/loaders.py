"""The pair of loaders that a Learner trains and validates on, and how to make it."""

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
"""Makes a batch of a list of items."""

_VALID_SPLITS = ("validation", "valid", "val", "test")


class DataLoaders:
    """Batches to train on and, unless `valid` is `None`, to validate on.

    Any iterable of batches will do for either; the constructors make them. Training data is shuffled and none of it
    dropped, unless asked; validation data is never shuffled and never dropped. Orders come from torch's global generator,
    or with `seed` from one of the training loader's own.

    Args:
        train: batches to train on.
        valid: batches to validate on.
        n_inp: how many items of a tuple batch are inputs; `None` takes all but the last.
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
            train: a torch `Dataset`, or anything with `__len__` and `__getitem__`; an `IterableDataset` keeps its own order.
            valid: the same, or `None`.
            batch_size: items in a batch.
            shuffle: draw a new order of the training data for each epoch.
            drop_last: leave out the last training batch if it is smaller.
            num_workers: processes that load data; 0 loads it in this one.
            pin_memory: load into pinned memory; `None` does so if there is an accelerator that gains by it.
            collate_fn: makes a batch of a list of items; `None` takes torch's.
            seed: of the training order, which then does not depend on the global generator.
            n_inp: how many items of a tuple batch are inputs; `None` takes all but the last.

        Raises:
            ValueError: if a dataset is empty, or gives no batch.
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
        """Makes `TensorLoader`s of tensors `(items, ...)`, held on `device`.

        Args:
            train: the tensors to train on, such as `(x, y)`; `(x,)` has no labels.
            valid: the same, or `None`.
            batch_size: items in a batch.
            shuffle: draw a new order of the training data for each epoch.
            drop_last: leave out the last training batch if it is smaller.
            device: where to hold the tensors; `None` leaves them where they are, and the Learner moves each batch.
            seed: of the training order, which then does not depend on the global generator.
            n_inp: how many of the tensors are inputs; `None` takes all but the last.

        Raises:
            ValueError: if tensors differ in length, hold NaN or infinity, or give no batch.
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
            dataset_dict: datasets by the name of their split.
            batch_size: items in a batch.
            image_key: the column of images: PIL, arrays `(height, width[, channels])` or tensors `(channels, height, width)`.
            label_key: the column of labels; `None` for batches without labels.
            train_split: the split to train on.
            valid_split: the split to validate on; `None` takes the first there is of validation, valid, val and test.
            collate_fn: makes a batch of a list of items; `None` takes `ImageCollate(image_key, label_key)`.
            kwargs: go to `from_datasets`.

        Raises:
            ValueError: if there is no such split or column; the message names those there are.
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
