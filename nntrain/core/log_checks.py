"""Validation of logged values, steps, tables and files."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

_MAX_STEP = 2**63 - 1


def number(value: object) -> float | Tensor | None:
    """Converts a value to a float or a scalar tensor; returns `None` if that is not possible.

    A tensor must have one element. It is copied on its device, without waiting for the device.
    """
    if isinstance(value, float | int):
        return _float(value)
    if is_tensor(value):
        return value.detach().reshape(()).clone() if _is_scalar(value) else None
    if isinstance(value, np.ndarray | np.generic):
        value = value.item() if value.size == 1 and value.dtype.kind in "biuf" else None
    return _float(value) if isinstance(value, Real) else None


def _float(value: Real | float) -> float | None:
    try:
        return float(value)
    except OverflowError:
        return None


def is_tensor(value: object) -> TypeGuard[Tensor]:
    """Returns whether a value is a tensor, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _is_scalar(value: Tensor) -> bool:
    is_dense = value.layout is sys.modules["torch"].strided
    return is_dense and value.numel() == 1 and not (value.is_complex() or value.is_meta)


def whole_step(step: object) -> int | None:
    """Converts a step to `int`; returns `None` if it is not an integer from 0 to 2**63 - 1."""
    if isinstance(step, Integral) and not isinstance(step, bool) and 0 <= int(step) <= _MAX_STEP:
        return int(step)
    return None


def described(value: object) -> str:
    """Formats the type and shape of a value for warnings about rejected values."""
    has_shape = isinstance(value, np.ndarray) or is_tensor(value)
    shape = f" of shape {tuple(value.shape)}" if has_shape else ""  # type: ignore[attr-defined]
    return f"of type {type(value).__name__}{shape}"


def cell(value: Any) -> Any:
    """Converts a NumPy scalar to a Python scalar; returns other table cells unchanged."""
    return value.item() if isinstance(value, np.generic) else value


def check_columns(name: str, columns: Sequence[str]) -> None:
    """Checks the column names of the table `name`.

    Raises:
        ValueError: if `columns` is not a list of unique strings.
    """
    are_strings = not isinstance(columns, str) and all(isinstance(one, str) for one in columns)
    if not are_strings or len(set(columns)) != len(columns):
        raise ValueError(
            f"The columns {columns!r} of table {name!r} must be a list of unique strings: "
            "give each column its own name."
        )


def table_fault(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str | None:
    """Describes the first error in the rows of a table; returns `None` if the rows are valid."""
    for i, row in enumerate(rows):
        if len(row) != len(columns):
            return f"row {i} has {len(row)} cells instead of {len(columns)}"
        for column, one in zip(columns, row, strict=True):
            if not isinstance(one, str | int | float | None):
                return (
                    f"column {column!r} of row {i} contains a value {described(one)} instead of "
                    "a number or a string"
                )
    return None


def check_aliases(aliases: Sequence[str]) -> None:
    """Checks the aliases of a file.

    Raises:
        ValueError: if `aliases` is not a list, or a tracker would reject one of the names.
    """
    if isinstance(aliases, str) or not all(
        isinstance(alias, str) and re.fullmatch(r"[\w\-.]+", alias) for alias in aliases
    ):
        raise ValueError(
            f"aliases={aliases!r} must be a list of names that contain only letters, digits, "
            "underscores, dashes and periods, for example ['best']."
        )


def file_fault(file: Path) -> str | None:
    """Explains why a path cannot be logged as a file; returns `None` if it can."""
    if file.is_dir():
        return f"{file} is a folder: log its files one by one, or pack them into an archive"
    return None if file.is_file() else f"the file {file} does not exist: write it first"
