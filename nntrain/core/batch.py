"""What is done to a batch of any shape: split it, move it, count it, describe it.

A batch is a tensor, or a tuple, list or mapping of batches.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

LABEL_KEYS = ("labels", "label", "targets", "target", "y")
"""The keys under which a mapping may hold its labels; the first one found is taken."""


def split_batch(batch: Any, n_inp: int | None = None) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The inputs and the labels of a batch, `(xb, yb)`; `yb` is empty where there are no labels.

    A tensor is one input without labels. Of a tuple or list the first `n_inp` items are inputs; by default all but the
    last one (fastai's rule). A mapping is one input, less the label, which stands under one of `LABEL_KEYS`.
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
    """The same nesting with `func` applied to each tensor; what is no tensor is kept as it is."""
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
    """Every tensor of a batch, in order."""
    found: list[Tensor] = []
    map_tensors(found.append, batch)
    return found


def to_device(batch: Any, device: torch.device) -> Any:
    """The batch on `device`; copies from pinned memory to an accelerator do not block."""
    # Else one to the CPU is read before it is done, and one to MPS reads freed memory (pytorch/pytorch#189690).
    non_blocking = device.type not in ("cpu", "mps")
    return map_tensors(lambda tensor: tensor.to(device, non_blocking=non_blocking), batch)


def batch_size(xb: Sequence[Any]) -> int:
    """The number of items in a batch: the length of its first tensor's first axis (1 for a scalar)."""
    first = xb[0]
    if not isinstance(first, Tensor):
        first = next(iter(tensors_in(xb)))
    return int(first.shape[0]) if first.dim() else 1


class EmptyLoaderError(ValueError):
    """A loader gave no batch."""


def n_batches(loader: Any) -> int | None:
    """The length of a loader; `None` where it has none, as torch's over an `IterableDataset` that cannot say."""
    try:
        return len(loader)
    except TypeError:
        return None


def describe(batch: Any) -> str:
    """The shapes and dtypes of a batch's tensors, for messages: `float32 (64, 10)`."""
    parts = [
        f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
        for tensor in tensors_in(batch)
    ]
    return ", ".join(parts) or "no tensor"
