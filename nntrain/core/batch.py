"""Functions for batches: split into inputs and labels, move to a device, count items, describe.

A batch is a tensor, or a tuple, list or mapping of batches.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

LABEL_KEYS = ("labels", "label", "targets", "target", "y")
"""Keys for the labels in a mapping. If several are present, the first in this list is used."""


class Loaders(Protocol):
    """The data loaders: any object with an iterable `train` and an iterable `valid` (or `None`)."""

    @property
    def train(self) -> Iterable[Any]:
        """The training batches."""

    @property
    def valid(self) -> Iterable[Any] | None:
        """The validation batches."""


class EmptyLoaderError(ValueError):
    """Raised when a data loader yields no batches."""


def n_batches(loader: Any) -> int | None:
    """Returns the number of batches in a loader, or `None` if the loader has no length."""
    try:
        return len(loader)
    except TypeError:
        return None


def split_batch(batch: Any, n_inp: int | None = None) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Splits a batch into inputs and labels, `(xb, yb)`; `yb` is empty if there are no labels.

    - A tensor is a single input.
    - In a tuple or list, the first `n_inp` items are inputs. The default is all but the last item,
      as in fastai.
    - In a mapping, the value under one of `LABEL_KEYS` is the label. The rest of the mapping is a
      single input.
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
    """Applies `func` to each tensor in a batch; the structure and other values do not change."""
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
    """Returns all tensors in a batch, in order."""
    found: list[Tensor] = []
    map_tensors(found.append, batch)
    return found


def to_device(batch: Any, device: torch.device) -> Any:
    """Moves a batch to `device`; copies from pinned memory to an accelerator are asynchronous."""
    # After a non-blocking copy to the CPU, the data could be read before it has arrived.
    # A non-blocking copy to MPS reads freed memory (pytorch/pytorch#189690).
    non_blocking = device.type not in ("cpu", "mps")
    return map_tensors(lambda tensor: tensor.to(device, non_blocking=non_blocking), batch)


def batch_size(xb: Sequence[Any]) -> int:
    """Returns the size of the first axis of the first tensor, or 1 if that tensor is a scalar."""
    first = xb[0]
    if not isinstance(first, Tensor):
        first = next(iter(tensors_in(xb)))
    return int(first.shape[0]) if first.dim() else 1


def describe(batch: Any) -> str:
    """Formats the dtypes and shapes of a batch for error messages, such as `float32 (64, 10)`."""
    parts = [
        f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
        for tensor in tensors_in(batch)
    ]
    return ", ".join(parts) or "no tensors"
