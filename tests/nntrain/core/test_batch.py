"""Batches of every shape: tensors, tuples, lists, mappings, nested."""

from collections import namedtuple
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from nntrain.core.batch import (
    batch_size,
    describe,
    map_tensors,
    n_batches,
    split_batch,
    tensors_in,
    to_device,
)
from tests.common.spies import Transfers

A, B, C = torch.zeros(3, 2), torch.ones(3), torch.full((3, 1), 2.0)
Pair = namedtuple("Pair", "left right")


@pytest.mark.parametrize(
    ("batch", "n_inp", "xb", "yb"),
    [
        (A, None, (A,), ()),
        ((A,), None, (A,), ()),
        ((A, B), None, (A,), (B,)),
        ([A, B], None, (A,), (B,)),
        ((A, B, C), None, (A, B), (C,)),
        ((A, B, C), 1, (A,), (B, C)),
        ((A, B), 2, (A, B), ()),
        (((A, B), C), None, ((A, B),), (C,)),
        ({"x": A, "labels": B}, None, ({"x": A},), (B,)),
        ({"x": A, "y": B}, None, ({"x": A},), (B,)),
        ({"x": A, "labels": B, "y": C}, None, ({"x": A, "y": C},), (B,)),
        ({"a": A, "b": B}, None, ({"a": A, "b": B},), ()),
    ],
)
def test_split_batch(batch: Any, n_inp: int | None, xb: Any, yb: Any) -> None:
    assert repr(split_batch(batch, n_inp)) == repr((xb, yb))


def test_split_batch_leaves_a_mapping_as_it_is() -> None:
    batch = {"x": A, "labels": B}
    split_batch(batch)
    assert list(batch) == ["x", "labels"]


def plus_one(tensor: Tensor) -> Tensor:
    return tensor + 1


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        (B, B + 1),
        ((B, "text", 3), (B + 1, "text", 3)),
        ([B, [B]], [B + 1, [B + 1]]),
        ({"a": {"b": B}}, {"a": {"b": B + 1}}),
        (Pair(B, None), Pair(B + 1, None)),
    ],
)
def test_map_tensors_keeps_the_nesting(batch: Any, expected: Any) -> None:
    mapped = map_tensors(plus_one, batch)
    assert type(mapped) is type(expected)
    assert repr(mapped) == repr(expected)


def test_tensors_in_are_in_order() -> None:
    assert [id(tensor) for tensor in tensors_in(({"a": A, "b": [B]}, 1, C))] == [
        id(A),
        id(B),
        id(C),
    ]


def test_to_device_moves_every_tensor() -> None:
    moved = to_device({"a": (A, [B])}, torch.device("meta"))
    assert [tensor.device.type for tensor in tensors_in(moved)] == ["meta", "meta"]


@pytest.mark.parametrize(
    ("start", "end", "blocks"),
    [("cpu", "cuda:0", False), ("cpu", "mps:0", True), ("cuda:0", "cpu", True)],
)
def test_to_device_blocks_if_the_copy_could_be_read_before_it_is_complete(
    start: str, end: str, blocks: bool
) -> None:
    with FakeTensorMode():
        tensor = torch.zeros(3, device=start)
        with Transfers() as transfers:
            to_device(tensor, torch.device(end))
    assert transfers.blocking == {end: blocks}


@pytest.mark.parametrize(
    ("xb", "size"),
    [
        ((A,), 3),
        (({"a": torch.zeros(5, 1)},), 5),
        (((torch.zeros(4), A),), 4),
        ((torch.tensor(1.0),), 1),
        ((torch.zeros(0, 2),), 0),
    ],
)
def test_batch_size_is_the_length_of_the_first_tensor(xb: Any, size: int) -> None:
    assert batch_size(xb) == size


class Unsure(torch.utils.data.IterableDataset[Tensor]):
    def __iter__(self) -> Iterator[Tensor]:
        yield A


@pytest.mark.parametrize(
    ("loader", "length"),
    [([A, B], 2), ([], 0), (iter([A]), None), (torch.utils.data.DataLoader(Unsure()), None)],
    ids=["list", "empty", "iterator", "IterableDataset"],
)
def test_n_batches_is_none_without_a_length(loader: Any, length: int | None) -> None:
    assert n_batches(loader) == length


@pytest.mark.parametrize(
    ("batch", "text"),
    [
        (A, "float32 (3, 2)"),
        ((A, B.long()), "float32 (3, 2), int64 (3,)"),
        ({"a": torch.tensor(True)}, "bool ()"),
        ("text", "no tensors"),
    ],
)
def test_describe(batch: Any, text: str) -> None:
    assert describe(batch) == text
