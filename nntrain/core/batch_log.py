"""Compact storage for one record per batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor

_BLOCK = 1024

_Item = TypeVar("_Item")


class BatchLog(Generic[_Item]):
    """A list with one record per batch.

    Every 1024 records are joined into one tensor, so that a long fit stores a few thousand tensors
    instead of millions of objects.

    Args:
        join: joins a list of records into a tensor `(batches, ...)`.
    """

    def __init__(self, join: Callable[[list[_Item]], Tensor]) -> None:
        self._join = join
        self._blocks: list[Tensor] = []
        self._recent: list[_Item] = []

    def __len__(self) -> int:
        return sum(len(block) for block in self._blocks) + len(self._recent)

    def append(self, item: _Item) -> None:
        """Adds a record without waiting for the device."""
        self._recent.append(item)
        if len(self._recent) == _BLOCK:
            self._fold()

    def _fold(self) -> None:
        if self._recent:
            self._blocks.append(self._join(self._recent))
            self._recent = []

    def tensor(self) -> Tensor:
        """Returns all records `(batches, ...)`, copied to the CPU."""
        self._fold()
        return torch.cat(self._blocks).cpu() if self._blocks else torch.empty(0)

    def since(self, start: int) -> Tensor:
        """Returns records `(batches, ...)` from index `start`, without waiting for the device."""
        end = len(self) - len(self._recent)
        recent = self._recent[max(0, start - end) :]
        parts = [self._join(recent)] if recent else []
        for block in reversed(self._blocks):
            if end <= start:
                break
            end -= len(block)
            parts.insert(0, block[max(0, start - end) :])
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def load(self, records: Tensor) -> None:
        """Replaces all records with `records` `(batches, ...)`."""
        self._blocks, self._recent = ([records] if len(records) else []), []


def scalar_log() -> BatchLog[Tensor]:
    """Creates a log for one scalar tensor per batch, stored as float32 on the tensor's device."""
    return BatchLog(lambda scalars: torch.stack(scalars).float())


def number_log() -> BatchLog[list[float]]:
    """Creates a log for one list of numbers per batch, stored as float64."""
    return BatchLog(lambda rows: torch.tensor(rows, dtype=torch.float64))
