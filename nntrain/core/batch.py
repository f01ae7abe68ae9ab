"""Batches of any shape: splitting, moving, counting and describing them.

A batch is a tensor, or a tuple, list or mapping of batches.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

LABEL_KEYS = ("labels", "label", "targets", "target", "y")
"""The keys under which a mapping may hold its labels; the first one present is used."""


class Loaders(Protocol):
    """The data: any object with an iterable `train` and an iterable `valid` (or `None`)."""

    @property
    def train(self) -> Iterable[Any]:
        """The training batches."""

    @property
    def valid(self) -> Iterable[Any] | None:
        """The validation batches."""


class EmptyLoaderError(ValueError):
    """A loader yielded no batch."""


def n_batches(loader: Any) -> int | None:
    """Returns the length of a loader, or `None` if it has none."""
    try:
        return len(loader)
    except TypeError:
        return None


def split_batch(batch: Any, n_inp: int | None = None) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Returns the inputs and the labels of a batch, `(xb, yb)`; `yb` is empty without labels.

    A tensor is one input. Of a tuple or list, the first `n_inp` items are inputs, by default all
    but the last (fastai's rule). A mapping is one input without its label, the value under one of
    `LABEL_KEYS`.
    """
    if isinstance(batch, tuple | list):
        n = n_inp if n_inp is not None else max(len(batch) - 1, 1)
        return tuple(batch[:n]), tuple(batch[n:])
    if isinstance(batch, Mapping):
        key = next((key for key in LABEL_KEYS if key in batch), None)
        if key is None:
            return (dict(batch),), ()
        return ({name: value for name, value in batch.items() if name != key},), (batch[key],)
    return (batch,), ()


def map_tensors(func: Callable[[Tensor], Any], batch: Any) -> Any:
    """Applies `func` to each tensor of a batch; keeps its nesting and all other values."""
    if isinstance(batch, Tensor):
        return func(batch)
    if isinstance(batch, Mapping):
        return {name: map_tensors(func, value) for name, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(map_tensors(func, item) for item in batch))
    if isinstance(batch, tuple | list):
        return type(batch)(map_tensors(func, item) for item in batch)
    return batch


def tensors_in(batch: Any) -> list[Tensor]:
    """Returns every tensor of a batch, in order."""
    found: list[Tensor] = []
    map_tensors(found.append, batch)
    return found


def to_device(batch: Any, device: torch.device) -> Any:
    """Returns the batch on `device`; a copy from pinned memory to an accelerator does not block."""
    # A non-blocking copy to the CPU could be read too early; one to MPS reads freed memory
    # (pytorch/pytorch#189690).
    non_blocking = device.type not in ("cpu", "mps")
    return map_tensors(lambda tensor: tensor.to(device, non_blocking=non_blocking), batch)


def batch_size(xb: Sequence[Any]) -> int:
    """Returns the number of items: the length of the first tensor's first axis, 1 for a scalar."""
    first = xb[0]
    if not isinstance(first, Tensor):
        first = next(iter(tensors_in(xb)))
    return int(first.shape[0]) if first.dim() else 1


def describe(batch: Any) -> str:
    """Describes the dtypes and shapes of a batch for messages: `float32 (64, 10)`."""
    parts = [
        f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
        for tensor in tensors_in(batch)
    ]
    return ", ".join(parts) or "no tensor"
