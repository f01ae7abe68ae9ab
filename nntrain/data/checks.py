"""Checks data before it is divided into batches."""

from collections.abc import Sequence

from torch import Tensor


def check_batch_size(batch_size: int) -> None:
    """Raises `ValueError` if `batch_size` is less than 1."""
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1.")


def check_batches(n_item: int, batch_size: int, drop_last: bool, name: str) -> None:
    """Checks that `n_item` items yield at least one batch.

    Raises:
        ValueError: if the dataset `name` is empty, or if `drop_last` would drop its only batch.
    """
    check_batch_size(batch_size)
    if n_item == 0:
        raise ValueError(f"The {name} is empty: pass at least one item.")
    if drop_last and batch_size > n_item:
        raise ValueError(
            f"batch_size={batch_size} is larger than the {name} of {n_item} items, "
            "so drop_last would drop its only batch: "
            f"set batch_size to at most {n_item}, or set drop_last=False."
        )


def check_tensors(tensors: Sequence[Tensor], name: str) -> None:
    """Checks that the tensors of the dataset `name` have the same length and only finite values.

    Raises:
        ValueError: if the lengths differ, or if a tensor contains NaN or infinity.
    """
    if not tensors:
        raise ValueError(f"The {name} has no tensors: pass at least one tensor.")
    lengths = [len(tensor) for tensor in tensors]
    if len(set(lengths)) > 1:
        raise ValueError(
            f"The tensors of the {name} must have the same length, "
            f"but they have {', '.join(map(str, lengths))} items."
        )
    for i, tensor in enumerate(tensors):
        n_bad = tensor.numel() - int(tensor.isfinite().sum())
        if n_bad:
            raise ValueError(
                f"Tensor {i} of the {name} must be finite, but {n_bad} of {tensor.numel()} values "
                "are NaN or infinite: replace or remove them."
            )


def check_valid_pct(valid_pct: float) -> None:
    """Raises `ValueError` unless `valid_pct` is greater than 0 and less than 1."""
    if not 0 < valid_pct < 1:
        raise ValueError(
            f"valid_pct={valid_pct} must be greater than 0 and less than 1: "
            "it is the fraction of the data held out for validation."
        )
