"""What data must be before it is cut into batches; each check raises one sentence."""

from collections.abc import Sequence

from torch import Tensor


def check_batch_size(batch_size: int) -> None:
    """Raises `ValueError` unless batches hold at least one item."""
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1.")


def check_batches(n_item: int, batch_size: int, drop_last: bool, name: str) -> None:
    """Checks that `n_item` items give at least one batch.

    Raises:
        ValueError: if the set called `name` is empty, or `drop_last` would drop its only batch.
    """
    check_batch_size(batch_size)
    if n_item == 0:
        raise ValueError(f"The {name} is empty: give it at least one item.")
    if drop_last and batch_size > n_item:
        raise ValueError(
            f"batch_size={batch_size} is larger than the {name} of {n_item} items, so drop_last would drop its only batch: "
            f"use a batch_size of at most {n_item}, or drop_last=False."
        )


def check_tensors(tensors: Sequence[Tensor], name: str) -> None:
    """Checks that the tensors of the set called `name` have one length, and hold neither NaN nor infinity.

    Raises:
        ValueError: if not; the message names the tensor and counts the values.
    """
    if not tensors:
        raise ValueError(f"The {name} has no tensor: give it at least one.")
    lengths = [len(tensor) for tensor in tensors]
    if len(set(lengths)) > 1:
        raise ValueError(
            f"The tensors of the {name} have {', '.join(map(str, lengths))} items: give them equal lengths."
        )
    for i, tensor in enumerate(tensors):
        n_bad = tensor.numel() - int(tensor.isfinite().sum())
        if n_bad:
            raise ValueError(
                f"Tensor {i} of the {name} has {n_bad} of {tensor.numel()} values NaN or infinite: replace or remove them."
            )


def check_valid_pct(valid_pct: float) -> None:
    """Raises `ValueError` unless some items are left on either side of the split."""
    if not 0 < valid_pct < 1:
        raise ValueError(
            f"valid_pct={valid_pct} must be between 0 and 1, both excluded: it is the share held out."
        )
