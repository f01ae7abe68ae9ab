"""Loader for tensors that are already in CPU or accelerator memory."""

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor

from nntrain.core.batch import to_device
from nntrain.data.checks import check_batches, check_tensors

_BLOCK = 32
"""The number of batches to gather in one indexing call.

A larger block reduces the indexing cost per batch but uses more memory.
"""


class TensorLoader:
    """Loader that indexes tensors on their device, without workers or a collate function.

    A batch is a tuple with one tensor `(batch_size, ...)` per input tensor. Batches are copies, so
    a callback can modify a batch in place without changing the data.

    Args:
        tensors: tensors `(items, ...)`, such as inputs and labels, all on one device.
        batch_size: number of items in a batch; the last batch may be smaller.
        shuffle: whether to shuffle the items at the start of each epoch.
        drop_last: whether to drop the last batch if it is incomplete.
        generator: random number generator for the order. `None` uses torch's global CPU generator,
            which yields the same order on all devices.
        name: name of the data to use in error messages.

    Raises:
        ValueError: if the tensors differ in length, contain NaN or infinity, or yield no batches.
    """

    def __init__(
        self,
        *tensors: Tensor,
        batch_size: int = 64,
        shuffle: bool = False,
        drop_last: bool = False,
        generator: torch.Generator | None = None,
        name: str = "dataset",
    ) -> None:
        check_tensors(tensors, name)
        check_batches(len(tensors[0]), batch_size, drop_last, name)
        self.tensors, self.batch_size = tensors, batch_size
        self.shuffle, self.drop_last, self.generator = shuffle, drop_last, generator

    def __len__(self) -> int:
        n_full, rest = divmod(len(self.tensors[0]), self.batch_size)
        return n_full if self.drop_last or not rest else n_full + 1

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        n_item = min(len(self) * self.batch_size, len(self.tensors[0]))
        order, step = self._order(), self.batch_size * _BLOCK
        for start in range(0, n_item, step):
            stop = min(start + step, n_item)
            yield from zip(
                *(self._gather(tensor, order, start, stop) for tensor in self.tensors), strict=True
            )

    def _order(self) -> Tensor | None:
        if not self.shuffle:
            return None
        device = "cpu" if self.generator is None else self.generator.device
        order = torch.randperm(len(self.tensors[0]), generator=self.generator, device=device)
        return cast(Tensor, to_device(order, self.tensors[0].device))

    def _gather(
        self, tensor: Tensor, order: Tensor | None, start: int, stop: int
    ) -> tuple[Tensor, ...]:
        block = (
            tensor[start:stop].clone()
            if order is None
            else tensor.index_select(0, order[start:stop])
        )
        return torch.split(block, self.batch_size)
