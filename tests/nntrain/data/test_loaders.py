from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
)

from nntrain.data import DataLoaders, TensorLoader


def dataset(n: int) -> TensorDataset:
    return TensorDataset(torch.arange(n).float().unsqueeze(1), torch.arange(n))


def tensors(n: int) -> tuple[Tensor, Tensor]:
    return dataset(n).tensors


def labels(loader: Any) -> list[int]:
    return [int(label) for _, yb in loader for label in yb]


def make(kind: str, n_train: int, n_valid: int | None, **options: Any) -> DataLoaders:
    if kind == "datasets":
        return DataLoaders.from_datasets(
            dataset(n_train), None if n_valid is None else dataset(n_valid), **options
        )
    return DataLoaders.from_tensors(
        tensors(n_train), None if n_valid is None else tensors(n_valid), **options
    )


KINDS = pytest.mark.parametrize("kind", ["datasets", "tensors"])


@KINDS
def test_training_data_is_shuffled_and_whole_and_validation_data_in_order(kind: str) -> None:
    dls = make(kind, 100, 10, batch_size=7)
    order = labels(dls.train)
    assert order != sorted(order)
    assert sorted(order) == list(range(100))
    assert labels(dls.valid) == list(range(10))


@KINDS
def test_drop_last_applies_to_training_data_only(kind: str) -> None:
    dls = make(kind, 10, 10, batch_size=4, drop_last=True)
    assert [len(yb) for _, yb in dls.train] == [4, 4]
    assert dls.valid is not None
    assert [len(yb) for _, yb in dls.valid] == [4, 4, 2]


@KINDS
def test_shuffle_can_be_turned_off(kind: str) -> None:
    assert labels(make(kind, 10, None, shuffle=False).train) == list(range(10))


@KINDS
def test_validation_data_is_optional(kind: str) -> None:
    assert make(kind, 10, None).valid is None


@KINDS
def test_orders_follow_the_global_seed(kind: str) -> None:
    dls = make(kind, 100, None)
    torch.manual_seed(1)
    order = labels(dls.train)
    torch.manual_seed(1)
    assert labels(dls.train) == order
    torch.manual_seed(2)
    assert labels(dls.train) != order


@KINDS
def test_with_their_own_seed_orders_do_not_follow_the_global_seed(kind: str) -> None:
    torch.manual_seed(1)
    order = labels(make(kind, 100, None, seed=5).train)
    torch.manual_seed(2)
    assert labels(make(kind, 100, None, seed=5).train) == order
    assert labels(make(kind, 100, None, seed=6).train) != order


@KINDS
@pytest.mark.parametrize(
    ("n_train", "n_valid", "options", "message"),
    [
        (0, 5, {}, "The training set is empty: pass at least one item."),
        (5, 0, {}, "The validation set is empty: pass at least one item."),
        (5, 5, {"batch_size": 0}, "batch_size=0 must be at least 1."),
        (
            5,
            5,
            {"batch_size": 6, "drop_last": True},
            "batch_size=6 is larger than the training set of 5 items, "
            "so drop_last would drop its only batch: "
            "set batch_size to at most 5, or set drop_last=False.",
        ),
    ],
)
def test_bad_data_is_an_error_of_one_sentence(
    kind: str, n_train: int, n_valid: int, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        make(kind, n_train, n_valid, **options)
    assert str(caught.value) == message


@KINDS
def test_a_batch_may_be_larger_than_the_data_if_nothing_is_dropped(kind: str) -> None:
    assert len(labels(make(kind, 5, 5, batch_size=6).train)) == 5


def test_nan_names_the_set_and_the_tensor() -> None:
    x, y = tensors(4)
    x[2] = float("nan")
    with pytest.raises(
        ValueError, match=r"Tensor 0 of the validation set must be finite, but 1 of 4 values"
    ):
        DataLoaders.from_tensors((y,), (x, y))


def test_tensors_are_held_on_the_given_device() -> None:
    dls = DataLoaders.from_tensors(tensors(4), tensors(4), device="cpu")
    assert isinstance(dls.train, TensorLoader)
    assert isinstance(dls.valid, TensorLoader)
    assert {
        tensor.device.type for loader in (dls.train, dls.valid) for tensor in loader.tensors
    } == {"cpu"}


def test_a_missing_device_is_named() -> None:
    with pytest.raises(ValueError, match="device=cuda:99 is not available on this machine"):
        DataLoaders.from_tensors(tensors(4), device="cuda:99")


def test_datasets_go_to_torch_loaders_as_asked() -> None:
    dls = DataLoaders.from_datasets(
        dataset(8), dataset(8), batch_size=4, collate_fn=len, pin_memory=False, n_inp=1
    )
    assert isinstance(dls.train, DataLoader)
    assert isinstance(dls.valid, DataLoader)
    assert (list(dls.train), list(dls.valid)) == ([4, 4], [4, 4])
    assert isinstance(dls.train.sampler, RandomSampler)
    assert isinstance(dls.valid.sampler, SequentialSampler)
    assert dls.n_inp == 1


def test_memory_is_pinned_if_an_accelerator_benefits() -> None:
    dls = DataLoaders.from_datasets(dataset(8))
    assert isinstance(dls.train, DataLoader)
    assert dls.train.pin_memory == torch.cuda.is_available()


def test_workers_load_the_same_batches() -> None:
    alone, helped = (
        DataLoaders.from_datasets(dataset(20), batch_size=4, num_workers=n, seed=1) for n in (0, 2)
    )
    assert labels(helped.train) == labels(alone.train)


class Squares(Dataset[int]):
    """A minimal dataset with only `__len__` and `__getitem__`."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        return index * index


class Stream(IterableDataset[tuple[int, int]]):
    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter([(i, i) for i in range(5)])


def test_a_dataset_needs_only_length_and_items() -> None:
    dls = DataLoaders.from_datasets(Squares(), shuffle=False)
    assert [batch.tolist() for batch in dls.train] == [[0, 1, 4, 9]]


def test_a_stream_keeps_its_own_order() -> None:
    assert labels(DataLoaders.from_datasets(Stream(), batch_size=2).train) == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="batch_size=0 must be at least 1"):
        DataLoaders.from_datasets(Stream(), batch_size=0)
